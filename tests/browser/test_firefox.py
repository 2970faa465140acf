"""The explorers of the built pages in a stock Firefox: solved as in Chromium, moved by mouse and keyboard."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from firefox import Firefox, find_firefox, start_firefox
from pages import chapters
from test_explorers import explorer_of, fresh_solutions

from diffopt_lib.widgets.controls import plain

pytestmark = pytest.mark.xdist_group("firefox")

READY = """async () => {
  for (let i = 0; i < 200; i++) {
    const roots = [...document.querySelectorAll('.diffopt-explorer')];
    if (roots.length && roots.every(root => root.explorer)) return roots.length;
    await new Promise(done => setTimeout(done, 50));
  }
  return 0;
}"""
SOLVE = """(number, contexts) => {
  const { explorer } = document.querySelectorAll('.diffopt-explorer')[number];
  return JSON.stringify([contexts.map(context => explorer.solve(context)), explorer.error]);
}"""
FIRST_HANDLE = """() => {
  const handle = document.querySelector('.explorer-handle');
  handle.scrollIntoView({ block: 'center' });
  handle.focus();
  const box = handle.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
POSITION = """async () => {
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const { explorer } = document.querySelector('.explorer-handle').closest('.diffopt-explorer');
  return Object.values(explorer.context()).find(Array.isArray);
}"""

REFERENCE = """address => {
  const link = document.querySelector(`article a.reference.internal[href*='${address}']`);
  link.scrollIntoView({ block: 'center' });
  const box = link.getClientRects()[0];
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
PREVIEW = """async () => {
  const preview = document.querySelector('#preview');
  for (let i = 0; i < 100 && preview.hidden; i++) await new Promise(done => setTimeout(done, 50));
  return preview.hidden ? '' : preview.textContent;
}"""


@pytest.fixture(scope="module")
def firefox() -> Iterator[Firefox]:
    path = find_firefox()
    if path is None:
        pytest.skip("no Firefox: apt-get install firefox-esr")
    with start_firefox(path) as started:
        yield started


@pytest.mark.parametrize("page", [page for page in chapters() if "/appendix/" not in page and "arm" not in page])
def test_solves_as_the_library_does(firefox: Firefox, html: Path, page: str) -> None:
    firefox.resize(1280, 900)
    firefox.open(html / page)
    for number in range(firefox.evaluate(READY)):
        made = explorer_of(page, number)
        contexts, truths = fresh_solutions(made, 100)
        answer = firefox.evaluate(SOLVE, number, [plain(context) for context in contexts])
        shown, printed = json.loads(answer)
        for name in printed.keys() & truths[0].keys():
            a, b = (np.array([solution[name] for solution in said], dtype=float) for said in (shown, truths))
            assert (np.nan_to_num(np.abs(a - b)).max(1) <= printed[name]).all(), name


PAGE = "book/2_differentiable/04_quadratic_programs.html"


def test_a_handle_follows_mouse_and_keys(firefox: Firefox, html: Path) -> None:
    firefox.resize(1280, 900)
    firefox.open(html / PAGE)
    assert firefox.evaluate(READY)
    x, y = firefox.evaluate(FIRST_HANDLE)
    before = firefox.evaluate(POSITION)
    firefox.drag([(x, y), (x + 20, y - 10), (x + 40, y - 20)])
    after = firefox.evaluate(POSITION)
    assert after[0] > before[0] + 0.1 and after[1] > before[1] + 0.05
    firefox.press("\ue011")  # Home
    assert firefox.evaluate(POSITION) == [-1.4, after[1]]
    firefox.press("\ue010", "\ue00f")  # End, PageDown
    moved = firefox.evaluate(POSITION)
    assert moved[0] == 2.4 and abs(after[1] - moved[1] - 0.32) < 1e-9


def test_on_a_narrow_page_the_figure_stays_in_view(firefox: Firefox, html: Path) -> None:
    firefox.resize(390, 844)
    firefox.open(html / PAGE)
    assert firefox.evaluate(READY)
    figure, control = firefox.evaluate(
        """() => {
          const buttons = document.querySelectorAll('.explorer-presets button');
          const last = buttons[buttons.length - 1];
          last.scrollIntoView({ block: 'end' });
          return [document.querySelector('.explorer-figure'), last].map(node => node.getBoundingClientRect().toJSON());
        }"""
    )
    assert figure["top"] >= -1 and figure["bottom"] <= control["top"] + 1 and control["bottom"] <= 845


def test_a_link_restores_the_state(firefox: Firefox, html: Path) -> None:
    firefox.resize(1280, 900)
    firefox.open(html / PAGE)
    assert firefox.evaluate(READY)
    shown, address = firefox.evaluate(
        """async () => {
          const root = document.querySelector('.diffopt-explorer');
          await root.explorer.set({ ring: [0.25, -0.5], h1: 1.75 });
          root.querySelector('.copy-link').click();
          await new Promise(done => setTimeout(done, 300));
          return [root.explorer.context(), location.href];
        }"""
    )
    assert shown["ring"] == [0.25, -0.5] and "#explorer=1&ring=0.25,-0.5&h1=1.75" in address
    firefox.call("browsingContext.navigate", context=firefox.context, url="about:blank", wait="complete")
    firefox.call("browsingContext.navigate", context=firefox.context, url=address, wait="complete")
    assert firefox.evaluate(READY)
    assert firefox.evaluate("() => document.querySelector('.diffopt-explorer').explorer.context()") == shown


def test_references_show_their_targets(firefox: Firefox, html: Path) -> None:
    """Of this page and of another one, which a page opened from disk may not fetch; Escape puts them away."""
    firefox.resize(1280, 900)
    firefox.open(html / PAGE)
    firefox.evaluate("async () => { await MathJax.startup.promise; }")
    for reference in ("#equation-", "notation.html#term-", "references.html#"):
        x, y = firefox.evaluate(REFERENCE, reference)
        firefox.hover(x, y)
        assert firefox.evaluate(PREVIEW).strip()
        firefox.press("\ue00c")  # Escape
        assert firefox.evaluate("() => document.querySelector('#preview').hidden")
