"""Where nobody sits before the kernel: nbconvert's page shows an explorer, alone or in a box, as its static self."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
MAKE = """%matplotlib inline
import ipywidgets
import matplotlib.pyplot as plt
from diffopt_lib.widgets import Explorer, Points, Slider

def make():
    figure, ax = plt.subplots(figsize=(4, 3))
    return Explorer(figure, [Slider("x", 0, 1, steps=5)], [Points("y")], lambda c: {"y": [c["x"], 0.5]}, title="T")

"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nbconvert")
    cells = ["make()", "ipywidgets.VBox([make(), ipywidgets.HBox([make()])])", "ipywidgets.IntSlider()"]
    cells = [nbformat.v4.new_code_cell(source) for source in (MAKE + cells[0], *cells[1:])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "t.ipynb")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", "t.ipynb"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "t.html"


def test_explorers_move_without_a_kernel(page: Path, chromium: Browser) -> None:
    context = chromium.new_context()
    opened = context.new_page()
    opened.route("http*://**", lambda route: route.abort())
    opened.goto(page.as_uri())
    opened.wait_for_function(
        "() => [...document.querySelectorAll('.diffopt-explorer')].filter(r => r.explorer).length === 3"
    )
    shown = opened.evaluate(
        "async () => { const e = document.querySelectorAll('.diffopt-explorer')[1].explorer;"
        "await e.set({x: 0.25}); return e.marks().y.data; }"
    )
    assert shown == pytest.approx([0.25, 0.5], abs=1e-4)
    context.close()


def test_other_widgets_are_left_alone(page: Path) -> None:
    """One view of a widget is left in the page: the slider's."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    assert len(soup.select('script[type="application/vnd.jupyter.widget-view+json"]')) == 1
