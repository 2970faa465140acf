"""A reference shows what it leads to, in place, from disk: to a mouse, to the keyboard and to a finger."""

import re
from pathlib import Path

import pytest
from pages import book_pages, chapters
from playwright.sync_api import Browser, Page
from test_accessibility import AXE, INSTALL, violations
from visit import DESKTOP, PHONE, visit

# Every reference that has something to show, with what it shows: asked of the page's own functions.
ALL = """async () => {
  const links = [...document.querySelectorAll(REFERENCES)];
  const shown = [];
  for (const link of links) {
    const content = await contentOf(link);
    const images = [...content.querySelectorAll("img")];
    shown.push({
      link: link.getAttribute("href"), text: content.textContent.trim(),
      raw: /\\\\\\(|\\\\\\[/.test(content.textContent) || Boolean(content.querySelector("mjx-merror")),
      broken: images.some(image => !image.complete || image.naturalWidth === 0),
      loose: content.querySelectorAll("a, [id], [tabindex], button").length,
    });
  }
  return shown;
}"""
KINDS = {
    "equation": "a.reference.internal[href^='#equation-']",
    "theorem": "a.reference.internal[href^='#thm-']",
    "figure": "a.reference.internal[href^='#fig-']",
    "term": "a.reference.internal[href*='notation.html#term-']",
    "work": "a.reference.internal[href*='references.html#']",
}
PAGE = "book/2_differentiable/05_cone_programs.html"
CUT_EQUATIONS = """async () => {
  const cut = [];
  for (const link of document.querySelectorAll("article a.reference.internal[href^='#equation-']")) {
    await show(link);
    for (const formula of box.querySelectorAll("mjx-container")) {
      if (formula.scrollWidth > formula.clientWidth + 1) cut.push(link.hash);
    }
  }
  return cut;
}"""
WITHIN = """() => {
  const {left, right, top, bottom} = document.querySelector("#preview").getBoundingClientRect();
  return left >= -1 && right <= innerWidth + 1 && top >= -1 && bottom <= innerHeight + 1;
}"""


@pytest.mark.parametrize("path", book_pages())
def test_every_reference_shows_its_target(chromium: Browser, html: Path, path: str) -> None:
    """Typeset, with its images, and with nothing in it that the Tab key could reach or that has an id of its own."""
    with visit(chromium, html / path) as visited:
        shown = visited.page.evaluate(ALL)
    assert [entry for entry in shown if not entry["text"] or entry["raw"] or entry["broken"] or entry["loose"]] == []
    assert len(shown) >= 10 or path not in chapters() or "arm" in path or "scoreboard" in path
    assert visited.errors == []
    assert visited.external == []


@pytest.mark.parametrize("path", chapters())
def test_no_reference_of_these_kinds_is_left_out(chromium: Browser, html: Path, path: str) -> None:
    with visit(chromium, html / path) as visited:
        for selector in KINDS.values():
            every = f"[...document.querySelectorAll(`article {selector}`)].every(link => link.matches(REFERENCES))"
            assert visited.page.evaluate(every)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("kind", KINDS)
def test_focus_shows_and_escape_closes(chromium: Browser, html: Path, kind: str, viewport: dict[str, int]) -> None:
    """In view, described to a screen reader, and gone with the focus or with Escape, which moves nothing."""
    with visit(chromium, html / PAGE, viewport) as visited:
        page, link, preview = visited.page, visited.page.locator(f"article {KINDS[kind]}").first, "#preview"
        page.keyboard.press("Tab")
        link.focus()
        page.locator(preview).wait_for()
        assert page.evaluate(WITHIN)
        assert link.get_attribute("aria-describedby") == "preview"
        page.keyboard.press("Escape")
        assert not page.locator(preview).is_visible()
        assert link.evaluate("link => link === document.activeElement")
        link.blur()
        link.focus()
        page.locator(preview).wait_for()
        page.keyboard.press("Tab")
        page.wait_for_function("link => !link.hasAttribute('aria-describedby')", arg=link.element_handle())


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("path", ["book/2_differentiable/04_quadratic_programs.html", PAGE])
def test_equations_are_whole(chromium: Browser, html: Path, path: str, viewport: dict[str, int]) -> None:
    """However wide on the page, an equation is drawn small enough for its preview, beside its number."""
    with visit(chromium, html / path, viewport) as visited:
        cut = visited.page.evaluate(CUT_EQUATIONS)
    assert cut == []
    assert visited.errors == []


def rest_on_reference(page: Page, kind: str = "theorem") -> None:
    link = page.locator(f"article {KINDS[kind]}").first
    link.scroll_into_view_if_needed()
    link.hover()
    page.locator("#preview").wait_for()


def test_the_pointer_can_go_to_the_preview_and_stay(chromium: Browser, html: Path) -> None:
    with visit(chromium, html / PAGE) as visited:
        page = visited.page
        rest_on_reference(page)
        page.locator("#preview").hover(position={"x": 40, "y": 20})
        page.wait_for_timeout(1200)
        assert page.locator("#preview").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#preview").is_visible()
        page.mouse.move(5, 5)
        rest_on_reference(page)
        page.mouse.move(5, 5)
        page.locator("#preview").wait_for(state="hidden")


def test_the_first_tap_shows_and_the_second_goes_there(chromium: Browser, html: Path) -> None:
    with visit(chromium, html / PAGE, PHONE, has_touch=True, is_mobile=True) as visited:
        page = visited.page
        link = page.locator(f"article {KINDS['term']}").first
        address = page.url
        link.tap()
        page.locator("#preview").wait_for()
        assert page.url == address and page.evaluate(WITHIN)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("article h1").first.tap()
        assert not page.locator("#preview").is_visible()
        link.tap()
        page.locator("#preview").wait_for()
        link.tap()
        page.wait_for_url(re.compile(r"notation\.html#term-"))


@pytest.mark.skipif(not AXE.exists(), reason=INSTALL)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing_in_a_preview(chromium: Browser, html: Path, kind: str, scheme: str) -> None:
    """The page without its other parts, which have their own test."""
    with visit(chromium, html / PAGE, color_scheme=scheme, reduced_motion="reduce") as visited:
        page = visited.page
        rest_on_reference(page, kind)
        page.add_style_tag(content="article > :not(#preview) { display: none; }")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = violations(page)
    assert [line for line in found if "page-has-heading-one" not in line] == []
