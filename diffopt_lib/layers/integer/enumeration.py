"""All integer points of small boxes, all elements of a batch at once.

The points are pairs of a point of the first half of the coordinates and one of the others. What is linear in y is the
sum of what the two halves contribute, so that a table over P points takes P additions, and the points are never made.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...batch.products import or_one
from .program import Program, relative

NUMBERS_AT_ONCE = 2**24  # in the largest tensor
Halves = tuple[Tensor, Tensor]


def sizes(program: Program) -> Tensor:
    """How many values each coordinate of y may take, in the widest box of the batch, at least 1, ``(n,)``."""
    return (program.upper - program.lower + 1).clamp_min(1).amax(0)


def enumerate_points(program: Program, count: int, tolerance: float, closest: bool) -> tuple[Tensor, Tensor]:
    """The best feasible point of every element, ``(N, n)``, and whether there is one, ``(N,)``.

    Args:
        program: with boxes of few points.
        count: N.
        tolerance: on the relative violation of a row.
        closest: where nothing is feasible, give the point with the least sum of distances to the violated constraints.
    """
    values = tuple(sizes(program).long().tolist())
    middle, device = len(values) // 2, program.c.device
    grids = _grid(values[:middle], device), _grid(values[middle:], device)
    at_once = max(1, NUMBERS_AT_ONCE // max(1, len(grids[0]) * len(grids[1]) * program.A.shape[-2]))
    best, feasible = [], []
    for first in range(0, count, at_once):
        part = Program(*(t if len(t) == 1 else t[first : first + at_once] for t in program))
        y, found = _best(part, grids, tolerance, closest)
        best.append(y)
        feasible.append(found)
    return torch.cat(best), torch.cat(feasible)


def _best(program: Program, grids: Halves, tolerance: float, closest: bool) -> tuple[Tensor, Tensor]:
    c, A, b, lower, upper = program
    middle = grids[0].shape[-1]
    first, second = _split(lower, middle)
    halves = first.unsqueeze(-2) + grids[0], second.unsqueeze(-2) + grids[1]
    cost = _on_pairs(c.unsqueeze(-2), grids).squeeze(-1)  # that of lower is the same for all points
    inside = _both(
        *((half <= up.unsqueeze(-2)).all(-1) for half, up in zip(halves, _split(upper, middle), strict=True))
    )
    Ay = _on_pairs(A, halves)
    terms = _on_pairs(A.abs(), (halves[0].abs(), halves[1].abs()))
    holds = inside & (relative(Ay, terms, b) <= tolerance).all(-1)
    feasible = holds.any(-1).expand(len(cost))
    merit = torch.where(holds, cost, torch.inf)
    if closest and not feasible.all():
        distance = ((Ay - b.unsqueeze(-2)).clamp_min(0) / or_one(A.norm(dim=-1)).unsqueeze(-2)).sum(-1)
        merit = torch.where(feasible.unsqueeze(-1), merit, torch.where(inside, distance, torch.inf))
    index = merit.argmin(-1)
    width = len(grids[1])
    y = lower + torch.cat([grids[0][index // width], grids[1][index % width]], -1)
    known = ~merit.amin(-1).isinf().unsqueeze(-1)
    return torch.where(known, y, torch.nan), feasible


def _on_pairs(M: Tensor, halves: Halves) -> Tensor:
    """M y at all pairs, ``(N, P, m)``, for M ``(N or 1, m, n)``."""
    left, right = (half @ part.mT for half, part in zip(halves, _split(M, halves[0].shape[-1]), strict=True))
    return (left.unsqueeze(-2) + right.unsqueeze(-3)).flatten(-3, -2)


def _both(left: Tensor, right: Tensor) -> Tensor:
    """Whether what is asked of both halves holds of a pair, ``(N or 1, P)``."""
    return (left.unsqueeze(-1) & right.unsqueeze(-2)).flatten(-2)


def _split(t: Tensor, middle: int) -> Halves:
    return t[..., :middle], t[..., middle:]


@lru_cache(maxsize=8)
def _grid(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The points 0 ≤ y < sizes, in lexicographic order, ``(P, n)``."""
    if not sizes:
        return torch.zeros(1, 0, dtype=torch.float64, device=device)
    values = [torch.arange(size, dtype=torch.float64, device=device) for size in sizes]
    return torch.stack(torch.meshgrid(*values, indexing="ij"), -1).reshape(-1, len(sizes))
