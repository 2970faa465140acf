"""An explorer's solve in JavaScript, for the page without a kernel, and its comparison with the library.

The page then shows solutions where a table would show interpolations. At the bake both are asked at random contexts;
they must agree to a millionth of each mark's range, and what they differ by is what the page prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffopt_lib.widgets.bake import SAFETY
from diffopt_lib.widgets.controls import Control, plain, random_context
from diffopt_lib.widgets.javascript import module
from diffopt_lib.widgets.table import Entry, log_columns, to_drawing

CONTEXTS = 1000
FLOOR = 1e-9
"""Differences below that share of a mark's range are not told apart from rounding."""
AGREEMENT = 1e-6


@dataclass(frozen=True)
class PageSolved:
    """What is stored of an explorer that is solved in the page."""

    source: str
    data: Mapping[str, Any]
    shapes: dict[str, tuple[int, ...]]
    low: dict[str, np.ndarray]
    span: dict[str, np.ndarray]
    log: dict[str, np.ndarray]
    texts: set[str]
    error: dict[str, float]
    checks: list[tuple[dict, dict]]
    start: dict[str, np.ndarray]


class Engine:
    """V8 with the page's numerical pieces, asked for the solutions of many contexts at a time."""

    def __init__(self, source: str, data: Mapping[str, Any]):
        try:
            from py_mini_racer import MiniRacer
        except ImportError as error:
            raise ImportError("page_solve is checked in a JavaScript engine: pip install mini-racer") from error
        self.engine = MiniRacer()
        self.engine.eval(module("numerics"))
        self.engine.eval(f"const solve = ({source});\nconst data = {json.dumps(data, allow_nan=False)};")
        self.engine.eval(
            "const answer = (texts) => JSON.stringify(JSON.parse(texts).map((context) => Object.fromEntries("
            "Object.entries(solve(context, data, numerics)).map(([k, v]) => [k, [v].flat(Infinity)]))));"
        )

    def __call__(self, contexts: Sequence[Mapping]) -> list[dict[str, list]]:
        return json.loads(self.engine.call("answer", json.dumps([plain(context) for context in contexts])))


def solve_in_page(
    solver: Callable[[Mapping], dict[str, np.ndarray]],
    listed: Sequence[Entry],
    controls: Sequence[Control],
    axes: Sequence[Mapping],
    start: Mapping,
    source: str,
    data: Mapping[str, Any],
) -> PageSolved:
    """Compare the page's solve with the library's at random contexts.

    Raises:
        ValueError: they differ, in which entry and where; or the page's solve leaves one out.
    """
    generator = np.random.default_rng(0)
    contexts = [random_context(controls, generator) for _ in range(CONTEXTS)]
    ours, theirs = Engine(source, data)(contexts), [solver(context) for context in contexts]
    # Presets are put on kinks, where a derivative has a choice; there the two need not choose alike.
    solved = PageSolved(source, data, {}, {}, {}, {}, set(), {}, [], solver(start))
    for entry in listed:
        solved.shapes[entry.name] = theirs[0][entry.name].shape
        solved.log[entry.name] = log_columns(entry, theirs[0][entry.name].shape, axes)
        error = compare(entry.name, contexts, ours, theirs, solved)
        if entry.scalars is None and error is not None:
            solved.error[entry.name] = error
    marks = [entry.name for entry in listed if entry.scalars is None and entry.mark.kind != "readout"]
    for context, truth in zip(contexts[:8], theirs[:8], strict=True):
        solved.checks.append((context, {name: truth[name] for name in marks if truth[name].size <= 64}))
    return solved


def compare(name: str, contexts: Sequence[dict], ours: Sequence, theirs: Sequence, solved: PageSolved) -> float | None:
    """The worst difference in an entry, in data units, for the page to print; None for words."""
    for mine in ours:
        if name not in mine:
            raise ValueError(f"page_solve returned no {name!r}; it returned {sorted(mine)}")
        if len(mine[name]) != int(np.prod(solved.shapes[name])):
            raise ValueError(f"page_solve: {name!r} has {len(mine[name])} numbers, solve has {solved.shapes[name]}")
        if any(isinstance(value, str) for value in mine[name]):
            solved.texts.add(name)
    truth = [solution[name].ravel() for solution in theirs]
    if name in solved.texts:
        for context, mine, expected in zip(contexts, ours, truth, strict=True):
            if list(map(str, mine[name])) != list(map(str, expected)):
                raise ValueError(f"page_solve says {mine[name]} and solve {list(expected)} in {name!r} at {context}")
        solved.low[name], solved.span[name] = np.zeros(1), np.zeros(1)
        return None
    log = solved.log[name]
    a = np.array([mine[name] for mine in ours], dtype=float)
    b = np.array(truth, dtype=float)
    drawn = to_drawing(b, log).reshape(-1, len(log))
    finite = np.isfinite(drawn)
    low, high = np.where(finite, drawn, np.inf).min(0), np.where(finite, drawn, -np.inf).max(0)
    solved.low[name], solved.span[name] = np.where(low <= high, low, 0.0), np.where(low <= high, high - low, 0.0)
    size = max(float(np.nanmax(b, initial=0.0) - np.nanmin(b, initial=0.0)), 1e-12)
    gap = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
    worst = np.where(np.isnan(gap), np.inf, gap).max(1)
    at = int(worst.argmax())
    if worst[at] > AGREEMENT * size:
        raise ValueError(
            f"page_solve and solve differ by {worst[at]:.3g} in {name!r} at {contexts[at]}:\n"
            f"{ours[at][name]}\n{theirs[at][name].tolist()}"
        )
    return float(max(SAFETY * worst[at], FLOOR * size))
