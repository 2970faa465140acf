"""All integer points of small boxes, all elements of a batch at once.

The points are pairs of a point of the first half of the coordinates and one of the others. What is linear in y is the
sum of what the two halves contribute, so that a table over P points takes P additions, and the points are never made.
Elements that share their constraints share the table of those.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from ...batch.products import or_one
from .program import Program, holds

NUMBERS_AT_ONCE = 2**17  # in a table: what a processor's cache holds
Halves = tuple[Tensor, Tensor]


def sizes(program: Program) -> Tensor:
    """How many values each coordinate of y may take, in the widest box of the batch, at least 1, ``(n,)``."""
    widths = (program.upper - program.lower + 1).clamp_min(1)
    return widths.reshape(-1, widths.shape[-1]).amax(0)


def enumerate_points(program: Program, tolerance: float, closest: bool) -> tuple[Tensor, Tensor]:
    """The best feasible point of every element, ``(*batch, n)``, NaN if there is none, and whether there is one.

    Args:
        program: with boxes of few points, at least one element, and all batch dimensions in c.
        tolerance: on the relative violation of a row.
        closest: where nothing is feasible, give the point with the least sum of distances to the violated constraints.
    """
    value, y = _least(partial(_cost, tolerance=tolerance), program)
    feasible = known = ~value.isinf()
    if closest and not feasible.all():
        nearest, other = _least(_distance, program)
        y, known = torch.where(feasible.unsqueeze(-1), y, other), feasible | ~nearest.isinf()
    return torch.where(known.unsqueeze(-1), y, torch.nan), feasible


def _least(merit: Callable[[Program, Halves], Tensor], program: Program) -> tuple[Tensor, Tensor]:
    """The least merit ``(*batch,)`` and where it is, ``(*batch, n)``."""
    values = tuple(sizes(program).long().tolist())
    whole, device = max(program.c[..., 0].numel(), program.b.numel()), program.c.device
    middle = len(values) // 2
    while math.prod(values[middle:]) * whole > NUMBERS_AT_ONCE and middle < len(values):
        middle += 1  # a first half can be taken in parts, a second one not
    first, second = _grid(values[:middle], device), _grid(values[middle:], device)
    parts = iter(first.split(max(1, NUMBERS_AT_ONCE // max(1, whole * len(second)))))

    def best_of(part: Tensor) -> tuple[Tensor, Tensor]:
        value, index = merit(program, (part, second)).min(-1)
        return value, torch.cat([part[index // len(second)], second[index % len(second)]], -1)

    least, steps = best_of(next(parts))
    for part in parts:  # the best so far is kept, not the best of each: a large batch has thousands of parts
        value, other = best_of(part)
        better = value < least
        least, steps = torch.where(better, value, least), torch.where(better.unsqueeze(-1), other, steps)
    return least, program.lower + steps


def _cost(program: Program, grids: Halves, tolerance: float) -> Tensor:
    """cᵀ(y − lower) where y is feasible, ∞ elsewhere, ``(*batch, P)``."""
    cost = _on_pairs(program.c.unsqueeze(-2), grids).squeeze(-2)
    first, second = points = _points(program, grids)
    terms = _on_pairs(program.A.abs(), (first.abs(), second.abs()))
    feasible = holds(_on_pairs(program.A, points), terms, program.b, tolerance)
    return cost + _never(~(feasible & _inside(program, grids)))


def _distance(program: Program, grids: Halves) -> Tensor:
    """The sum of distances to violated constraints, ∞ outside of the box, ``(*batch, P)``."""
    over = (_on_pairs(program.A, _points(program, grids)) - program.b.unsqueeze(-1)).clamp_min(0)
    distance = (over / or_one(program.A.norm(dim=-1)).unsqueeze(-1)).sum(-2)
    return (distance + _never(~_inside(program, grids))).expand(*program.c.shape[:-1], -1)


def _never(mask: Tensor) -> Tensor:
    """∞ where the mask is True, to be added: that is quicker than to choose where the mask is shared by a batch."""
    return torch.zeros_like(mask, dtype=torch.float64).masked_fill_(mask, torch.inf)


def _inside(program: Program, grids: Halves) -> Tensor:
    """Whether a pair lies in the box of each element, ``(..., P)``."""
    upper = _split(program.upper, grids)
    left, right = ((p <= u.unsqueeze(-2)).all(-1) for p, u in zip(_points(program, grids), upper, strict=True))
    return (left.unsqueeze(-1) & right.unsqueeze(-2)).flatten(-2)


def _points(program: Program, grids: Halves) -> Halves:
    """The halves of the points lower + grid."""
    first, second = _split(program.lower, grids)
    return first.unsqueeze(-2) + grids[0], second.unsqueeze(-2) + grids[1]


def _on_pairs(M: Tensor, halves: Halves) -> Tensor:
    """M y at all pairs, ``(..., m, P)``, for M ``(..., m, n)``."""
    left, right = (part @ half.mT for part, half in zip(_split(M, halves), halves, strict=True))
    return (left.unsqueeze(-1) + right.unsqueeze(-2)).flatten(-2)


def _split(t: Tensor, halves: Halves) -> Halves:
    middle = halves[0].shape[-1]
    return t[..., :middle], t[..., middle:]


@lru_cache(maxsize=8)
def _grid(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The points 0 ≤ y < sizes, in lexicographic order, ``(P, n)``."""
    if not sizes:
        return torch.zeros(1, 0, dtype=torch.float64, device=device)
    values = [torch.arange(size, dtype=torch.float64, device=device) for size in sizes]
    return torch.stack(torch.meshgrid(*values, indexing="ij"), -1).reshape(-1, len(sizes))
