"""Every explorer of the built pages, without a kernel: moved by hand, and compared with what the library computed."""

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from explorers import distance, flat, set_context, state, wait_until_mounted
from pages import HTML, chapters, pages
from playwright.sync_api import Browser, Locator
from visit import PHONE, visit

MOVES = 20


def explorers() -> list[tuple[str, int]]:
    """Each page with the number of each explorer on it."""
    found = []
    for page in pages():
        soup = BeautifulSoup((HTML / page).read_text(encoding="utf-8"), "html.parser")
        found += [(page, number) for number in range(len(soup.select(".diffopt-explorer")))]
    return found


each_explorer = pytest.mark.parametrize(("page", "number"), explorers())


def test_every_chapter_has_an_explorer() -> None:
    assert {page for page, _ in explorers()} >= {page for page in chapters() if "/appendix/" not in page}


@each_explorer
def test_shows_what_the_library_computes(chromium: Browser, html: Path, page: str, number: int) -> None:
    """At contexts off the grid the page is as close to the library's solution as it says it is."""
    with visit(chromium, html / page) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        checks = explorer.evaluate("root => root.explorer.checks")
        stated = explorer.evaluate("root => root.explorer.error")
        assert explorer.evaluate("root => root.explorer.live") is False
        assert len(checks) >= 3
        shown = []
        for check in checks:
            marks = set_context(explorer, check["context"])["marks"]
            shown.append(marks)
            for name, truth in check["marks"].items():
                # The stated error was measured in float64 from the same table; the page computes the same sums, and the
                # truth is written to nine digits.
                size = max((abs(v) for v in flat(truth) if isinstance(v, float | int)), default=0.0)
                tolerance = stated.get(name, 0.0) * (1 + 1e-6) + 1e-8 * (1 + size)
                assert distance(marks[name], truth) <= tolerance, (name, check["context"])
        assert any(marks != shown[0] for marks in shown), "nothing moves"
    assert visited.errors == []
    assert visited.external == []


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
