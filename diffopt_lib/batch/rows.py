"""Rows of a batch that are done leave it, and the others go on without them.

A *state* is whatever an algorithm keeps for each element: a tensor whose first dimension is the batch, or a tuple or
dataclass of such. A tensor of one row, where the batch has more, is shared by all. Everything else in a state (numbers,
options) belongs to the whole batch. An object that knows better how to be narrowed has a method ``select(keep)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")
Result = TypeVar("Result")


def map_rows(f: Callable[..., Any], *states: Any) -> Any:
    """f on the tensors of equally built states."""
    first = states[0]
    if isinstance(first, Tensor):
        return f(*states)
    if isinstance(first, tuple):
        parts = [map_rows(f, *part) for part in zip(*states, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return replace(first, **{name: map_rows(f, *(getattr(s, name) for s in states)) for name in names})
    return first


def select(state: State, keep: Tensor) -> State:
    """The elements of a state where the mask ``keep`` ``(N,)`` is True."""
    return _select(state, keep, keep.nonzero().squeeze(-1))


def _select(state: State, keep: Tensor, index: Tensor) -> State:
    """With the mask's positions, which are found once for the whole state: that takes longer than the copy does."""
    if isinstance(state, Tensor):
        return state if len(state) == 1 != len(keep) else state.index_select(0, index)  # type: ignore[return-value]
    if hasattr(state, "select"):
        return state.select(keep)
    if isinstance(state, tuple):
        parts = [_select(part, keep, index) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)  # type: ignore[return-value]
    if is_dataclass(state) and not isinstance(state, type):
        return replace(state, **{f.name: _select(getattr(state, f.name), keep, index) for f in fields(state)})
    return state


def where(condition: Tensor, these: State, those: State) -> State:
    """``these`` for the elements where the condition ``(N,)`` holds, ``those`` for the others."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(_like(condition, a), a, b)

    return map_rows(choose, these, those)


def scatter(state: State, where: Tensor, part: State) -> State:
    """The state with the elements where the mask ``(N,)`` is True replaced by those of the part, in turn."""

    def put(x: Tensor, new: Tensor) -> Tensor:
        return x.masked_scatter(_like(where, x), new)

    return map_rows(put, state, part)


def only_on(mask: Tensor, f: Callable[[State], Result], state: State, otherwise: Result) -> Result:
    """``otherwise``, but for the elements where the mask ``(N,)`` is True: there f of what the state has of them."""
    return scatter(otherwise, mask, f(select(state, mask))) if mask.any() else otherwise


def iterate(
    state: State,
    look: Callable[[State, int], tuple[State, Tensor, Result]],
    step: Callable[[State], State],
    limit: int,
) -> Result:
    """Repeat ``state = step(state)``, at most ``limit`` times, on whoever is not finished.

    Args:
        state: of the N elements at the start.
        look: ``look(state, k)`` after k steps: the state, to which it may add what the next step needs; a mask of those
            that stop here, which after ``limit`` steps are all, whatever it says; and their result, a state, too.
        step: one step of all elements in a state.
        limit: of steps.

    Returns:
        The results of all N elements, each as it was when the element stopped.
    """
    index: Tensor | None = None
    finished: list[tuple[Tensor, Result]] = []
    for k in range(limit + 1):
        state, stop, result = look(state, k)
        if index is None:
            index = torch.arange(len(stop), device=stop.device)
        if k == limit or not len(stop) or stop.all():
            finished.append((index, result))
            break
        if stop.any():
            finished.append(select((index, result), stop))
            index, state = select((index, state), ~stop)
        state = step(state)
    if len(finished) == 1:
        return finished[0][1]
    order = torch.cat([index for index, _ in finished]).argsort()
    return map_rows(lambda *pieces: torch.cat(pieces)[order], *(result for _, result in finished))


def relay(
    problem: State,
    attempts: Sequence[Callable[..., Result]],
    solved: Callable[[Result], Tensor],
) -> Result:
    """Each attempt in turn, on whoever those before it have not solved.

    Args:
        problem: the state that the attempts start from.
        attempts: the first is called as ``attempt(problem)``, the others as ``attempt(problem, result)`` with what
            there is so far; each returns a result, which replaces it.
        solved: a mask of the elements of a result that need no further attempt.
    """
    return go_on(problem, attempts[0](problem), attempts[1:], solved)


def go_on(
    problem: State, result: Result, attempts: Sequence[Callable[..., Result]], solved: Callable[[Result], Tensor]
) -> Result:
    """A :func:`relay` that has a result already."""
    for attempt in attempts:
        left = ~solved(result)
        if not left.any():
            break
        if left.all():
            result = attempt(problem, result)
        else:
            result = scatter(result, left, attempt(select(problem, left), select(result, left)))
    return result


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (x.ndim - 1))
