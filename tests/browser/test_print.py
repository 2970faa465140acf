"""Every page on A4 paper: nothing is cut off, nothing is folded, and what may break across pages can."""

from pathlib import Path

import pytest
from pages import book_pages, chapters
from playwright.sync_api import Browser, Page
from visit import DESKTOP, visit

PAPER = {"width": 672, "height": 993}  # A4 less the margins of print.css, in CSS pixels

# What a page does when it is about to be printed; in the test the paper stays.
BEGIN = "() => { dispatchEvent(new Event('beforeprint')); }"
END = "() => { dispatchEvent(new Event('afterprint')); }"

CUT = """width => {
  const hidden = "mjx-assistive-mml, mjx-assistive-mml *," +
    " .explorer-spoken, .explorer-pixels *, svg *, .visually-hidden";
  const seen = [...document.querySelectorAll("article *")].filter(e => !e.matches(hidden));
  return seen.filter(e => e.getClientRects().length && e.getBoundingClientRect().right > width + 1)
    .map(e => `${e.outerHTML.slice(0, 100)}: ${Math.round(e.getBoundingClientRect().right)}`);
}"""
FOLDED = """() => [...document.querySelectorAll("article details pre, article .dropdown > *")]
  .filter(e => !e.matches("button") && (e.getBoundingClientRect().height === 0
    || !e.checkVisibility({opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true})))
  .map(e => e.outerHTML.slice(0, 100))"""
# A printer does not break what scrolls, nor what asks for it; code, theorems and proofs can be longer than a page.
ONE_PIECE = """() => [...document.querySelectorAll("article :is(section, .admonition, .cell, .cell *, div, pre)")]
  .filter(e => !e.closest("figure, table, .diffopt-explorer, .cell_output, div.math"))
  .filter(e => getComputedStyle(e).overflowY !== "visible" || getComputedStyle(e).breakInside !== "auto"
    || /flex|grid/.test(getComputedStyle(e).display))
  .map(e => e.outerHTML.slice(0, 100))"""
APART = """() => [
  ...[...document.querySelectorAll("article :is(h2, h3, h4)")].filter(e => getComputedStyle(e).breakAfter !== "avoid"),
  ...[...document.querySelectorAll("article :is(figure, .explorer-body, .explorer-snapshot)")]
    .filter(e => getComputedStyle(e).breakInside !== "avoid"),
].map(e => e.outerHTML.slice(0, 100))"""

STATES = """() => JSON.stringify([...document.querySelectorAll(".diffopt-explorer")]
  .map(({explorer}) => [explorer.context(), explorer.anchor(), explorer.marks()]))"""
# What a picture shows, with its pixels.
PICTURES = """pictures => pictures.map(picture => picture.querySelector(".explorer-figure").outerHTML
  + [...picture.querySelectorAll("canvas")].map(canvas => canvas.toDataURL()).join(""))"""


def to_paper(page: Page) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size(PAPER)


@pytest.mark.parametrize("path", book_pages())
def test_fits_on_paper_whole(chromium: Browser, html: Path, path: str) -> None:
    with visit(chromium, html / path, DESKTOP, color_scheme="dark", reduced_motion="reduce") as visited:
        page = visited.page
        to_paper(page)
        page.evaluate(BEGIN)
        assert page.locator("html").get_attribute("data-theme") == "light"
        assert page.evaluate(CUT, PAPER["width"]) == []
        assert page.evaluate(FOLDED) == []
        assert page.evaluate(ONE_PIECE) == []
        assert page.evaluate(APART) == []


def test_the_screen_is_as_before_afterwards(chromium: Browser, html: Path) -> None:
    with visit(chromium, html / chapters()[0], DESKTOP, color_scheme="dark") as visited:
        page = visited.page
        count = "document.querySelectorAll('details[open]').length"
        before = page.evaluate(count)
        page.evaluate(BEGIN)
        assert page.evaluate(count) > before
        page.evaluate(END)
        assert page.evaluate(count) == before
        assert page.locator("html").get_attribute("data-theme") == "dark"


def test_paper_has_a_picture_of_every_preset(chromium: Browser, html: Path) -> None:
    """What the text names as a button is a picture there, with its numbers; afterwards the explorer is as before."""
    number = 0
    for path in book_pages():
        with visit(chromium, html / path, DESKTOP) as visited:
            page = visited.page
            page.wait_for_function("[...document.querySelectorAll('.diffopt-explorer')].every(root => root.explorer)")
            before = page.evaluate(STATES)
            to_paper(page)
            page.evaluate(BEGIN)
            for explorer in page.locator(".diffopt-explorer").all():
                presets = explorer.evaluate("root => Object.keys(root.explorer.presets)")
                assert explorer.locator(".explorer-snapshot strong").all_inner_texts() == presets
                drawn = explorer.locator(".explorer-snapshot").evaluate_all(PICTURES)
                assert len(set(drawn)) == len(presets), path
                number += len(presets)
            page.evaluate(END)
            assert page.locator(".explorer-snapshot").count() == 0
            assert page.evaluate(STATES) == before
    assert number > 30
