"""What README.md promises: its example runs and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_runs() -> None:
    """It prints A⁻¹x and the first row of A⁻¹, for A = [[2, ½], [½, 1]] and x = (1, −1)."""
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    result = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", result.stdout)]
    assert numbers == [0.8571, -1.4286, 0.5714, -0.2857]


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
