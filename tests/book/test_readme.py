"""What README.md promises: its examples run and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from diffopt_lib.experiments import __main__ as experiments

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PRINTED = [
    # A⁻¹x and the first row of A⁻¹, for A = [[2, ½], [½, 1]] and x = (1, −1).
    [0.8571, -1.4286, 0.5714, -0.2857],
    # The simplex: (0.8, 0.6) − 0.2 and 0; (0.3, 0.2, 0.1) + 0.4/3. The derivative is that of subtracting a mean.
    [0.6, 0.4, 0.0, 0.4333, 0.3333, 0.2333, 0.5, -0.5, 0.0, 0.6667, -0.3333, -0.3333],
    # The disk: x/|x| with the derivative (I − uuᵀ)/|x|, u = (0.6, 0.8), |x| = 5; a point inside it stays.
    [0.6, 0.8, 0.3, 0.4, 0.128, -0.096, 1.0, 0.0],
    # Controls as printed; central differences of the first in the mass give −1.1286.
    [-1.7525, -3.0, -1.1286],
]


@pytest.mark.parametrize("which", range(len(PRINTED)), ids=["argmin", "qp", "cvxpy", "mpc"])
def test_examples_run(which: int) -> None:
    assert len(EXAMPLES) == len(PRINTED)
    result = subprocess.run([sys.executable, "-c", EXAMPLES[which]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d*(?:e[-+]\d+)?", result.stdout)]
    assert numbers == pytest.approx(PRINTED[which], abs=6e-5)


def test_programs_exist() -> None:
    """Every `python -m` command of README.md and CONTRIBUTING.md is understood, with the arguments shown."""
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"-m (diffopt_lib\.experiments|benchmarks) ([a-z][a-zA-Z -]*)", text)
    parsers = {"benchmarks": benchmarks.parser(), "diffopt_lib.experiments": experiments.parser()}
    assert len(shown) >= 5
    for module, arguments in shown:
        parsers[module].parse_args(arguments.replace("NAME", "sudoku" if "experiments" in module else "qp").split())


def test_commands_exist() -> None:
    """Every `make` target that README.md and CONTRIBUTING.md name is one of the Makefile's."""
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"\bmake ((?:[a-z]+ ?)+?)(?=[^a-z ]|  |PIP)", text)
    named = {target for line in lines for target in line.split()}
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^make (\w+)", help_text, re.MULTILINE))
    assert {"book", "test", "lab"} <= known
    assert {"book", "test", "lab", "help"} <= named
    assert named <= known


def test_times_are_filled_in() -> None:
    assert re.findall(r"@[A-Z]+@", README) == []


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
