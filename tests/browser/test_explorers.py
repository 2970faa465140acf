"""Every explorer of the built pages, without a kernel: moved by hand, and compared with what the library computed."""

import json
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup
from explorers import set_context, state, wait_until_mounted
from notebooks import Recorder, explorers_of
from pages import HTML, chapters, pages
from playwright.sync_api import Browser, Locator
from visit import PHONE, visit

from diffopt_lib.widgets.controls import plain, random_context
from diffopt_lib.widgets.solver import Solver, entries

MOVES = 20
SHARES = np.linspace(0, 1, 8)
SLOW = ("book/arm.html", "book/2_differentiable/13_least_squares.html")
"""Where the library takes a tenth of a second for a solution, and fewer contexts must do for a drag."""
FRESH = 2026
"""The seed of the contexts at which pages are compared with the library; the bake draws its own."""
SOLVE = """(root, contexts) => JSON.stringify(contexts.map(context => [
  root.explorer.solve(context), root.explorer.isNearJump(context)
]))"""


@cache
def made_on(page: str) -> list[Recorder]:
    return explorers_of(page.replace(".html", ".ipynb"))


def explorer_of(page: str, number: int) -> Recorder:
    return made_on(page)[number]


def flat_solution(made: Recorder, context: dict[str, Any]) -> dict[str, list]:
    """What the library computes at a context, as flat lists."""
    solution = Solver(made.solve, entries(made.marks, made.controls))(context)
    return {mark.name: solution[mark.name].ravel().tolist() for mark in made.marks}


def fresh_contexts(made: Recorder, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(FRESH)
    return [random_context(made.controls, rng) for _ in range(count)]


def fresh_solutions(made: Recorder, count: int) -> tuple[list[dict], list[dict]]:
    contexts = fresh_contexts(made, count)
    return contexts, [flat_solution(made, context) for context in contexts]


def solve_in_page(explorer: Locator, contexts: list[dict]) -> tuple[list[dict], list[bool]]:
    """What the page would show at the contexts, and where it says that a jump is near."""
    answers = json.loads(explorer.evaluate(SOLVE, [plain(context) for context in contexts]))
    shown = [{n: [np.nan if v is None else v for v in values] for n, values in marks.items()} for marks, _ in answers]
    return shown, [near for _, near in answers]


def between(made: Recorder, start: dict, end: dict, share: float) -> dict:
    """A point of a drag: what moves continuously moves, the choices stay."""
    moving = {axis.control for control in made.controls for axis in control.grid() if not axis.discrete}
    return {n: value + share * (end[n] - value) if n in moving else value for n, value in start.items()}


def explorers() -> list[tuple[str, int]]:
    """Each page with the number of each explorer on it."""
    found = []
    for page in pages():
        soup = BeautifulSoup((HTML / page).read_text(encoding="utf-8"), "html.parser")
        found += [(page, number) for number in range(len(soup.select(".diffopt-explorer")))]
    return found


each_explorer = pytest.mark.parametrize(("page", "number"), explorers())


each_of_its_own_notebook = pytest.mark.parametrize(
    ("page", "number"), [found for found in explorers() if (HTML.parents[1] / found[0]).with_suffix(".ipynb").exists()]
)


def test_every_chapter_has_an_explorer() -> None:
    assert {page for page, _ in explorers()} >= {page for page in chapters() if "/appendix/" not in page}


@each_of_its_own_notebook
def test_shows_what_the_library_computes(
    chromium: Browser, html: Path, page: str, number: int, record_property: Callable[[str, object], None]
) -> None:
    """At 1,000 fresh contexts, 300 of slow ones, the page is off by no more than it prints, and hardly ever visibly."""
    made = explorer_of(page, number)
    contexts, truths = fresh_solutions(made, 300 if page in SLOW else 1000)
    with visit(chromium, html / page) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        assert explorer.evaluate("root => root.explorer.live") is False
        printed = explorer.evaluate("root => root.explorer.error")
        shown, near = solve_in_page(explorer, contexts)
    away = ~np.array(near)
    assert away.mean() > 0.8
    for mark in made.marks:
        page_says, truth = [solution[mark.name] for solution in shown], [solution[mark.name] for solution in truths]
        if mark.name not in printed:  # words
            assert all(list(map(str, a)) == list(map(str, b)) for a, b in zip(page_says, truth, strict=True))
            continue
        a, b = np.array(page_says, dtype=float)[away], np.array(truth, dtype=float)[away]
        assert np.array_equal(np.isnan(a), np.isnan(b)), mark.name
        error = np.nan_to_num(np.abs(a - b)).max(1)
        span = np.nanmax(b, initial=0.0) - np.nanmin(b, initial=0.0)
        line = (
            f"{page} #{number} {mark.name}: worst {error.max():.1e}, 95th percentile {np.quantile(error, 0.95):.1e}, "
        )
        line += f"printed {printed[mark.name]:.1e}, beyond it {(error > printed[mark.name]).mean():.1%}"
        record_property("measured", f"{line}, near a jump {1 - away.mean():.1%}")
        assert (error <= printed[mark.name]).all(), (mark.name, contexts[int(error.argmax())])
        assert np.quantile(error, 0.95) <= 0.01 * span and error.max() <= 0.03 * span, mark.name
    assert visited.errors == []
    assert visited.external == []


@each_of_its_own_notebook
def test_nothing_leaps_on_a_drag(chromium: Browser, html: Path, page: str, number: int) -> None:
    """Along straight drags no mark moves further from one step to the next than the library's, and what it prints."""
    made = explorer_of(page, number)
    rng = np.random.default_rng(FRESH + 1)
    drags = 5 if page in SLOW else 50
    ends = [[random_context(made.controls, rng) for _ in range(2)] for _ in range(drags)]
    contexts = [between(made, *pair, share) for pair in ends for share in SHARES]
    truths = [flat_solution(made, context) for context in contexts]
    with visit(chromium, html / page) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        printed = explorer.evaluate("root => root.explorer.error")
        shown, near = solve_in_page(explorer, contexts)
    jump = np.array(near).reshape(drags, -1)
    calm = ~(jump[:, 1:] | jump[:, :-1])
    for mark in made.marks:
        if mark.name not in printed:
            continue
        a = np.array([solution[mark.name] for solution in shown], dtype=float)
        b = np.array([solution[mark.name] for solution in truths], dtype=float)
        moved, should = (
            np.nan_to_num(np.abs(np.diff(v.reshape(drags, len(SHARES), -1), axis=1))).max(-1) for v in (a, b)
        )
        assert (moved - should <= 2 * printed[mark.name])[calm].all(), mark.name


SUMS: dict[str, Callable[[dict, dict], float]] = {
    # Forces balance. An arrow shorter than a millionth is not drawn.
    "book/2_differentiable/04_quadratic_programs.html": lambda at, m: max(
        0, np.abs(np.nansum(np.r_[m["pull"], m["push"]].reshape(-1, 4)[:, 2:], 0)).max() - 6e-6
    ),
    "book/2_differentiable/06_top_k.html": lambda at, m: m["shares"].sum() - at["k"],
    "book/2_differentiable/07_permutations.html": lambda at, m: np.abs(
        np.r_[m["matrix"].reshape(3, 3).sum(0), m["matrix"].reshape(3, 3).sum(1)] - 1
    ).max(),
    "book/2_differentiable/08_svms.html": lambda at, m: m["forces"][:5].sum() - m["forces"][5:].sum(),
    "book/2_differentiable/11_cem.html": lambda at, m: m["weights"].sum() - 8,
}


@pytest.mark.parametrize("page", SUMS)
def test_sums_that_the_text_speaks_of_hold(chromium: Browser, html: Path, page: str) -> None:
    """Forces to zero, shares to k, rows and columns to one."""
    contexts = fresh_contexts(explorer_of(page, 0), 200)
    with visit(chromium, html / page) as visited:
        explorer = visited.page.locator(".diffopt-explorer").first
        wait_until_mounted(explorer)
        shown, _ = solve_in_page(explorer, contexts)
    for context, marks in zip(contexts, shown, strict=True):
        arrays = {name: np.array(values, dtype=float) for name, values in marks.items()}
        assert abs(SUMS[page](context, arrays)) < 1e-9, context


@each_explorer
def test_on_a_phone_the_figure_stays_in_view_of_every_control(
    chromium: Browser, html: Path, page: str, number: int
) -> None:
    with visit(chromium, html / page, viewport=PHONE, has_touch=True, is_mobile=True) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        controls = explorer.locator("input[type=range], .explorer-options label, .explorer-presets button")
        for i in range(controls.count()):
            controls.nth(i).evaluate("node => node.scrollIntoView({block: 'end'})")
            box = controls.nth(i).bounding_box()
            figure = explorer.locator(".explorer-figure").bounding_box()
            assert box and figure
            assert figure["y"] >= -1 and figure["y"] + figure["height"] <= box["y"] + 1, "the figure covers the control"
            assert box["y"] + box["height"] <= PHONE["height"] + 1
            assert box["height"] >= 43.5
        reach = explorer.locator(".explorer-reach")
        for i in range(reach.count()):
            assert reach.nth(i).bounding_box()["width"] >= 43.5
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert visited.errors == []


@each_explorer
def test_moves_by_keyboard(chromium: Browser, html: Path, page: str, number: int) -> None:
    """Arrow keys on each slider and each handle move the context, as they would on any form."""
    with visit(chromium, html / page) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        movable = explorer.locator("input[type=range], [role=slider]:not(input)")
        assert movable.count() + explorer.locator("input[type=radio]").count() >= 1
        for i in range(movable.count()):
            before = state(explorer)["context"]
            movable.nth(i).focus()
            # From either end of its range, one of the two directions is free.
            for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
                visited.page.keyboard.press(key)
            assert state(explorer)["context"] != before
    assert visited.errors == []


@pytest.mark.parametrize("options", [{}, {"viewport": PHONE, "has_touch": True}], ids=["desktop", "phone"])
@each_explorer
def test_is_dragged_by_pointer(
    chromium: Browser, html: Path, page: str, number: int, options: dict[str, object]
) -> None:
    """A handle or slider follows the pointer, and what it then shows is what the same context shows when set."""
    with visit(chromium, html / page, **options) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        draggable = explorer.locator(".explorer-handle, input[type=range]")
        if draggable.count() == 0:
            return  # only choices: the keyboard test has pressed them
        before = state(explorer)
        drag(draggable.first)
        after = state(explorer)
        assert after["context"] != before["context"]
        assert set_context(explorer, after["context"]) == after
    assert visited.errors == []


def drag(control: Locator) -> None:
    """Press on a handle, or on the knob of a slider, and drag it a little, to the side where there is room."""
    control.scroll_into_view_if_needed()
    box = control.bounding_box()
    mouse = control.page.mouse
    is_slider = control.evaluate("control => control.matches('input')")
    share = 0.5
    if is_slider:
        share = control.evaluate("input => (input.value - input.min) / (input.max - input.min)")
    x, y = box["x"] + share * box["width"], box["y"] + box["height"] / 2
    step = (0.2 * box["width"] if is_slider else 20) * (-1 if share > 0.5 else 1)
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + step, y - 7, steps=5)
    mouse.up()


@each_explorer
def test_draws_within_a_frame(
    chromium: Browser, html: Path, page: str, number: int, record_property: Callable[[str, object], None]
) -> None:
    """A move is drawn in one frame of 16 ms: the quickest tenth, because a busy machine delays the others."""
    with visit(chromium, html / page) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        checks = explorer.evaluate("root => root.explorer.checks")
        times = []
        for i in range(MOVES):
            set_context(explorer, checks[i % len(checks)]["context"])
            times.append(explorer.evaluate("root => root.explorer.lastDrawMs"))
    median = statistics.median(times)
    record_property("measured", f"{page} #{number}: draws in {median:.1f} ms (worst of {MOVES}: {max(times):.1f} ms)")
    assert np.percentile(times, 10) <= 16


@each_explorer
def test_is_labelled_and_has_a_fallback(chromium: Browser, html: Path, page: str, number: int) -> None:
    """Screen readers get a name for every control and the solution in words; without scripts there is a picture."""
    soup = BeautifulSoup((html / page).read_text(encoding="utf-8"), "html.parser")
    assert soup.select(".diffopt-explorer")[number].find("img")["alt"].strip()
    with visit(chromium, html / page) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        nameless = explorer.evaluate(
            """root => [...root.querySelectorAll("input, [role=slider]")].filter(
              e => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.labels?.length)
            ).map(e => e.outerHTML)"""
        )
        assert nameless == []
        assert explorer.locator("[aria-live]").count() >= 1
        # The legend and the readouts, without scripts and styles.
        assert any(character.isdigit() for character in explorer.inner_text())
