"""Handling explorers in a page: reach them, set their context, and compare what they show with the library."""

import math
from typing import Any

from playwright.sync_api import Locator

# What has changed is drawn in the next frame. Contexts and marks travel as JSON, where NaN is null.
STATE = """async root => {
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const marks = Object.entries(root.explorer.marks()).map(([name, mark]) => [name, Array.from(mark.data)]);
  return JSON.parse(JSON.stringify({context: root.explorer.context(), marks: Object.fromEntries(marks)}));
}"""
SET = "async (root, context) => { await root.explorer.set(context); }"


def wait_until_mounted(explorer: Locator) -> None:
    """Wait until the module has put its interface on the element."""
    explorer.scroll_into_view_if_needed()
    explorer.page.wait_for_function("root => root.explorer !== undefined", arg=explorer.element_handle())


def state(explorer: Locator) -> dict[str, Any]:
    """The context an explorer is at and the marks that it shows there, as flat lists."""
    return explorer.evaluate(STATE)


def set_context(explorer: Locator, context: dict[str, Any]) -> dict[str, Any]:
    """Move an explorer to a context as a script would, and give its state there."""
    explorer.evaluate(SET, context)
    return state(explorer)


def flat(values: Any) -> list[Any]:
    """The numbers (or strings) of nested lists, in order."""
    if isinstance(values, list):
        return [number for part in values for number in flat(part)]
    return [values]


def distance(shown: list[Any], truth: Any) -> float:
    """The largest difference of two arrays; infinite where one has a hole, or a text, that the other has not."""
    expected = flat(truth)
    assert len(shown) == len(expected)
    worst = 0.0
    for a, b in zip(shown, expected, strict=True):
        if isinstance(a, float | int) and isinstance(b, float | int):
            worst = max(worst, abs(a - b))
        elif a != b:
            worst = math.inf
    return worst
