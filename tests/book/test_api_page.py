"""The API page lists every public object, and its docstrings become clean reStructuredText."""

import importlib
import re
import sys

import pytest
from chapters import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from api_docstrings import convert, on_signature

PUBLIC = ["", ".layers", ".controllers", ".widgets", ".data", ".experiments"]


def modules_on_the_page() -> list[str]:
    return re.findall(r"automodule:: (\S+)", (ROOT / "book" / "appendix" / "api.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_object_is_on_the_page(package: str) -> None:
    module = importlib.import_module(f"diffopt_lib{package}")
    defined_in = {getattr(module, name).__module__ for name in module.__all__ if callable(getattr(module, name))}
    assert defined_in <= set(modules_on_the_page())


def test_the_modules_exist() -> None:
    for name in modules_on_the_page():
        assert importlib.import_module(name).__doc__


def test_equations_become_literal_blocks() -> None:
    lines = ["Solve", "", "    y* = argmin |r|   (1)", "", "    (2) too", "", "where y* is ``y*`` and |r| a norm."]
    assert convert(lines) == [
        *["Solve", "", "::", "", "    y* = argmin |r|   (1)", "", "    (2) too", ""],
        r"where y\* is ``y*`` and \|r\| a norm.",
    ]


def test_sections_stay_sections() -> None:
    lines = ["Args:", "    x: the *context*,", "        continued.", "", "    y: z_ and :func:`f_`."]
    assert convert(lines) == [
        *["Args:", r"    x: the \*context\*,", "        continued.", "", r"    y: z\_ and :func:`f_`."],
    ]


def test_signatures_are_short() -> None:
    signature = "(seed: int, folder: ~pathlib._local.Path = ROOT, found: dict[str, ~a.b.Record] = <factory>)"
    shown = on_signature(None, "class", "Run", None, None, signature, "~torch.Tensor")
    assert shown == ("(seed: int, folder: Path = ROOT, found: dict[str, Record] = ...)", "Tensor")
    assert on_signature(None, "module", "m", None, None, None, None) == (None, None)
