"""Inline code that names a file or an object of the library leads to its source."""

import re
import sys
from pathlib import Path

import pytest
from chapters import ROOT, chapters, markdown_pages, page_text

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from source_links import INLINE_CODE, page_of, source_of

PAGES = [*chapters(), *markdown_pages(), "book/appendix/scoreboard.ipynb", "book/arm.ipynb"]


@pytest.mark.parametrize("page", PAGES)
def test_every_reference_resolves(page: str) -> None:
    assert [name for name in INLINE_CODE.findall(page_text(page)) if source_of(name) is None] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_are_named_from_the_root(page: str) -> None:
    """A bare file name would be no link, and would not be missed when the file moves."""
    named = re.findall(r"`([\w/]+\.py)`", page_text(page))
    assert [name for name in named if not name.startswith("diffopt_lib/")] == []


def test_the_chapters_do_link() -> None:
    linked = {chapter for chapter in chapters() if INLINE_CODE.search(page_text(chapter))}
    assert len(linked) >= len(chapters()) - 1


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("diffopt_lib/implicit.py", "diffopt_lib/implicit.py", ""),
        ("diffopt_lib.implicit", "diffopt_lib/implicit.py", ""),
        ("diffopt_lib.implicit.implicit", "diffopt_lib/implicit.py", "def implicit("),
        ("diffopt_lib.argmin", "diffopt_lib/minimize.py", "def argmin("),
        ("diffopt_lib.layers.solve_qp", "diffopt_lib/layers/qp/layer.py", "def solve_qp("),
        (
            "diffopt_lib.experiments.Run.generator",
            "diffopt_lib/experiments/harness/experiment.py",
            "    def generator(",
        ),
    ],
)
def test_objects_are_found_where_they_are_defined(name: str, file: str, line: str) -> None:
    source = source_of(name)
    assert source is not None and source[0] == Path(file)
    assert (ROOT / file).read_text(encoding="utf-8").splitlines()[source[1] - 1].startswith(line)
    assert page_of(source[0]) == "_modules/" + file.removesuffix(".py")


@pytest.mark.parametrize("name", ["diffopt_lib/layers/qp.py", "diffopt_lib.nothing", "diffopt_lib.implicit.nothing"])
def test_what_is_not_there_is_not_found(name: str) -> None:
    assert source_of(name) is None
