"""A link to an explorer carries its state: copied on one page, opened on another."""

import json
from pathlib import Path
from urllib.parse import urlparse

import pytest
from explorers import state, wait_until_mounted
from playwright.sync_api import Browser, Locator
from test_explorers import each_explorer, explorers
from visit import DESKTOP, PHONE, visit

RANDOM_STATE = """async root => {
  const {explorer} = root;
  const {context} = explorer.checks[explorer.checks.length - 1];
  await explorer.set(explorer.checks[0].context);
  explorer.pin();
  await explorer.set(context);
}"""
IN_VIEW = """root => {
  const {top, bottom} = root.getBoundingClientRect();
  return top < innerHeight && bottom > 0;
}"""
SHOWN = "root => JSON.stringify([root.explorer.context(), root.explorer.anchor(), root.explorer.marks()])"


def button(explorer: Locator) -> Locator:
    return explorer.get_by_role("button", name="Copy link")


@each_explorer
def test_link_restores_what_was_shown(chromium: Browser, html: Path, page: str, number: int) -> None:
    """Controls and x0, to the last digit; nothing is logged, and the reader is at the explorer."""
    with visit(chromium, html / page) as visited:
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        opened = json.loads(explorer.evaluate(SHOWN))
        explorer.evaluate(RANDOM_STATE)
        shown = json.loads(explorer.evaluate(SHOWN))
        assert shown[0] != opened[0]
        button(explorer).click()
        explorer.get_by_text("Link copied").or_(explorer.get_by_text("Link in the address bar")).wait_for()
        address = visited.page.url
        assert urlparse(address).fragment.startswith(f"explorer={number + 1}&")
        assert visited.errors == []
        visited.page.goto("about:blank")
        visited.page.goto(address)
        explorer = visited.page.locator(".diffopt-explorer").nth(number)
        wait_until_mounted(explorer)
        state(explorer)  # waits for a frame
        assert json.loads(explorer.evaluate(SHOWN)) == shown
    assert visited.errors == []
    assert visited.external == []


def open_with(chromium: Browser, html: Path, page: str, fragment: str, **options: object) -> tuple[dict, bool, list]:
    """The first explorer's context for a fragment, whether it is in view, and what was logged."""
    with visit(chromium, html / page, **options) as visited:
        visited.page.goto("about:blank")
        visited.page.goto(f"{(html / page).as_uri()}#{fragment}")
        explorer = visited.page.locator(".diffopt-explorer").first
        visited.page.wait_for_function("root => root.explorer !== undefined", arg=explorer.element_handle())
        visited.page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
        context = state(explorer)["context"]
        return context, explorer.evaluate(IN_VIEW), visited.errors


PAGE = "book/2_differentiable/04_quadratic_programs.html"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_link_leads_to_the_explorer(chromium: Browser, html: Path, viewport: dict[str, int]) -> None:
    context, inside, errors = open_with(chromium, html, PAGE, "explorer=1&h1=1.7", viewport=viewport)
    assert context["h1"] == 1.7 and inside and errors == []


@pytest.mark.parametrize(
    "fragment",
    ["explorer=1&h1=high&Q=square&ring=1", "explorer=9&h1=1.7", "explorer=", "explorer=1&no=2", "equation-nowhere"],
)
def test_a_damaged_link_opens_the_page_as_it_is(chromium: Browser, html: Path, fragment: str) -> None:
    usual, _, _ = open_with(chromium, html, PAGE, "")
    context, _, errors = open_with(chromium, html, PAGE, fragment)
    assert context == usual and errors == []


def test_values_beyond_a_control_are_held_at_its_end(chromium: Browser, html: Path) -> None:
    context, _, _ = open_with(chromium, html, PAGE, "explorer=1&ring=100,-100")
    assert context["ring"] == [2.4, -1.2]


def test_every_explorer_has_the_button_once(chromium: Browser, html: Path) -> None:
    for page in sorted({page for page, _ in explorers()}):
        with visit(chromium, html / page) as visited:
            for explorer in visited.page.locator(".diffopt-explorer").all():
                wait_until_mounted(explorer)
                assert button(explorer).count() == 1
