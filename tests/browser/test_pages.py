"""Every page as a reader without a network sees it: opened from disk, on a desk and on a phone."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from bs4 import BeautifulSoup
from pages import book_pages, chapters, pages
from playwright.sync_api import Browser
from visit import DESKTOP, PHONE, visit

MEGABYTE = 1_000_000

# Formulas that MathJax left alone, or turned into an error, and TeX that stands in the text. Code may contain dollars.
UNRENDERED_MATH = r"""() => {
  const raw = [...document.querySelectorAll("article .math")].filter(e => !e.querySelector("mjx-container"));
  const broken = [...document.querySelectorAll("mjx-merror, [data-mjx-error]")];
  const prose = document.querySelector("#main-content").cloneNode(true);
  prose.querySelectorAll("pre, code, script, style, mjx-container, .diffopt-explorer").forEach(e => e.remove());
  const markup = /\$\$|\\\(|\\\[|\\begin\{|\$[^$\n]{1,80}\$|:::|\{(eq|ref|cite|doc|term|numref)\}/g;
  return [...raw, ...broken].map(e => e.textContent).concat(prose.textContent.match(markup) ?? []);
}"""
BAD_IMAGES = """() => [...document.querySelectorAll("img")]
  .filter(image => !image.closest(".diffopt-explorer") && (!image.alt.trim() || /\\.(svg|png|jpg)$/.test(image.alt)
    || !image.complete || image.naturalWidth === 0))
  .map(image => image.outerHTML)"""
TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 120)).concat([`page: ${document.documentElement.scrollWidth} > ${innerWidth}`])"""
# Of each formula, whether it is a stop of the Tab key, and how far it can be scrolled: tried, not measured.
FORMULAS = """async () => {
  await document.fonts.ready;
  await new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 100));
  return [...document.querySelectorAll("mjx-container")].map(formula => {
    formula.scrollLeft = 1000;
    const scrolled = formula.scrollLeft;
    formula.scrollLeft = 0;
    const stops = [formula, ...formula.querySelectorAll("[tabindex]")].filter(e => e.tabIndex === 0).length;
    return {stops, scrolled, text: formula.textContent.slice(0, 60)};
  });
}"""
HAIR = 4
"""Pixels: by so little a formula may scroll without being a stop."""


def test_every_page_of_the_contents_is_built(html: Path) -> None:
    assert set(book_pages()) <= set(pages())


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", pages())
def test_page(chromium: Browser, html: Path, page: str, viewport: dict[str, int]) -> None:
    """Nothing is fetched from elsewhere, no error is logged, and formulas, images and layout are whole."""
    with visit(chromium, html / page, viewport) as visited:
        assert visited.page.evaluate(UNRENDERED_MATH) == []
        assert visited.page.evaluate(BAD_IMAGES) == []
        assert visited.page.evaluate(TOO_WIDE) == []
        assert visited.page.locator("h1").count() >= 1
    assert visited.external == []
    assert visited.errors == []


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", book_pages())
def test_the_tab_key_stops_at_formulas_that_scroll_and_at_no_other(
    chromium: Browser, html: Path, page: str, viewport: dict[str, int]
) -> None:
    """Hundreds of stops would stand between the keyboard and the explorers; what scrolls needs one to be read."""
    with visit(chromium, html / page, viewport) as visited:
        formulas = visited.page.evaluate(FORMULAS)
    assert len(formulas) > 300 or "/04_" not in page
    assert [f for f in formulas if f["stops"] != (f["scrolled"] > HAIR)] == []
    # A formula that is cut is an exception, on a phone as well, and so is one that is cut within a line of text.
    assert sum(f["stops"] for f in formulas) <= (0.01 if viewport == DESKTOP else 0.1) * len(formulas) + 1


@pytest.mark.parametrize("page", chapters())
def test_chapter_weighs_little(chromium: Browser, html: Path, page: str) -> None:
    """Everything that a chapter loads, MathJax aside, is at most 1.5 MB."""
    with visit(chromium, html / page) as visited:
        # Images below the fold load late; the whole page counts.
        visited.page.evaluate("() => document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        visited.page.wait_for_load_state("networkidle")
    assert visited.weight() <= 1.5 * MEGABYTE, sorted((path.stat().st_size, path.name) for path in visited.files)[-8:]


@pytest.fixture(scope="module")
def soups(html: Path) -> dict[str, BeautifulSoup]:
    """The parsed pages."""
    return {page: BeautifulSoup((html / page).read_text(encoding="utf-8"), "html.parser") for page in pages()}


def internal_links(html: Path, page: str, soup: BeautifulSoup) -> Iterator[tuple[str, Path, str]]:
    """Each link of a page that stays in the book: as written, the file it means, and the anchor."""
    for link in soup.find_all("a", href=True):
        address, anchor = urldefrag(link["href"])
        if not urlparse(address).scheme:
            target = (html / page).parent / unquote(urlparse(address).path) if address else html / page
            yield link["href"], target.resolve(), unquote(anchor)


def test_internal_links_lead_somewhere(html: Path, soups: dict[str, BeautifulSoup]) -> None:
    """Every link to a file of the book finds the file, and every anchor an element with that id."""
    ids = {(html / page).resolve(): {tag["id"] for tag in soup.find_all(id=True)} for page, soup in soups.items()}
    ids |= {(html / "index.html").resolve(): set()}
    links = [(page, *link) for page, soup in soups.items() for link in internal_links(html, page, soup)]
    assert len(links) > 10 * len(soups)
    assert [(page, href) for page, href, target, _ in links if not target.exists()] == []
    anchored = [link for link in links if link[3]]
    assert [(page, href) for page, href, target, anchor in anchored if anchor not in ids.get(target, {anchor})] == []


def test_search_works_from_disk(chromium: Browser, html: Path) -> None:
    """The form of a chapter leads to the search page, which finds a word of the front page without a server."""
    with visit(chromium, html / chapters()[0]) as visited:
        assert not visited.page.locator("script[src*='searchindex']").count()
        visited.page.keyboard.press("Control+k")
        visited.page.locator("input[name=q]:visible").first.fill("optimization")
        visited.page.keyboard.press("Enter")
        visited.page.wait_for_url("**/search.html?q=optimization*")
        # Results come one after the other.
        visited.page.locator("#search-results li a[href*='intro.html']").first.wait_for(timeout=30_000)
    assert visited.external == []
    assert visited.errors == []


def test_front_page_is_one_click_away(chromium: Browser, html: Path) -> None:
    """`_build/html/index.html` leads to the front page."""
    page = chromium.new_page()
    page.goto((html / "index.html").as_uri())
    page.wait_for_url("**/book/intro.html", timeout=10_000)
    page.close()


def test_dark_mode_can_be_chosen(chromium: Browser, html: Path) -> None:
    """The button cycles through the modes; in dark mode the page is dark and stays so on the next page."""
    with visit(chromium, html / book_pages()[0], color_scheme="light") as visited:
        button = visited.page.locator("button.theme-switch-button:visible").first
        for _ in range(3):
            if visited.page.locator("html").get_attribute("data-theme") != "dark":
                button.click()
        visited.page.goto((html / book_pages()[1]).as_uri())
        assert visited.page.locator("html").get_attribute("data-theme") == "dark"
        background = visited.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(background[:3]) < 80
    assert visited.errors == []
