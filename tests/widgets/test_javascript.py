"""The explorer's JavaScript: its types, its style, and that the modules make one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from diffopt_lib.widgets.javascript import ALONE, FOLDER, MODULES, bundle

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "install node 20 and npm, then `npm ci` in the project's folder"


@pytest.mark.parametrize("command", [["tsc", "--checkJs", "--noEmit"], ["eslint", "."]], ids=lambda command: command[0])
def test_passes_its_checks(command: list[str]) -> None:
    tool = ROOT / "node_modules" / ".bin" / command[0]
    if not (tool.exists() and shutil.which("node")):
        pytest.skip(f"no {command[0]}: {INSTALL}")
    ran = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_module_is_in_the_bundle_after_those_it_imports() -> None:
    assert sorted(MODULES + ALONE) == sorted(path.stem for path in FOLDER.glob("*.js"))
    for number, name in enumerate(MODULES):
        source = re.sub(r"/\*.*?\*/", "", (FOLDER / f"{name}.js").read_text(encoding="utf-8"), flags=re.DOTALL)
        assert set(re.findall(r'from "\./(\w+)\.js"', source)) <= set(MODULES[:number]), name
    assert not re.search(r"^(import|export) ", bundle(), flags=re.MULTILINE)


def test_no_name_is_declared_by_two_modules() -> None:
    declared = re.findall(r"^(?:async )?(?:class|const|function|let) (\w+)", bundle(), flags=re.MULTILINE)
    assert len(declared) > 40
    assert sorted(set(declared)) == sorted(declared)
