"""Refinement of a solution to rounding level: a semismooth Newton method on the residual map of :mod:`.derivative`.

Source: Busseti, Moursi & Boyd, Solution refinement at regular points of conic problems, 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, times
from ...batch.rows import iterate
from ...batch.rows import where as choose
from ..cones.product import Cones
from ..cones.slope import Slope, linearise
from .kkt import factorise
from .program import Program, Triple


class State(NamedTuple):
    """x, y and v of the residual map R, which is ``left`` there, the slope of y, the steps taken, and whether the last
    one was in vain, ``(B,)`` both."""

    program: Program
    x: Tensor
    y: Tensor
    v: Tensor
    left: Tensor
    slope: Slope
    steps: Tensor
    ended: Tensor


def refine(program: Program, start: Triple, cones: Cones, limit: int = 10) -> tuple[Triple, Tensor]:
    """Newton steps from x and v = y − s, each element as long as its residual shrinks.

    The little that :mod:`.kkt` adds to the matrix makes the step a definite one where the solution is not unique.

    Returns:
        x, and y and s, the projections of v and −v; and the number of steps taken ``(B,)``.
    """

    def look(at: State, k: int) -> tuple[State, Tensor, tuple[Triple, Tensor]]:
        size = largest(at.left)
        terms = largest(at.program.c) + largest(at.program.b) + largest(at.x) + largest(at.v)
        rounding = 4 * torch.finfo(size.dtype).eps * terms
        stop = at.ended | ~(size > rounding) | ~torch.isfinite(size)
        return at, stop, (Triple(at.x, at.y, at.y - at.v), at.steps)

    def step(at: State) -> State:
        n = at.x.shape[-1]
        kkt = factorise(at.program.A, at.slope)
        dx, dv = kkt.solve(-at.left[:, :n, None], at.left[:, n:, None])
        x, v = at.x + dx.squeeze(-1), at.v + dv.squeeze(-1)
        finite = torch.isfinite(x).all(-1) & torch.isfinite(v).all(-1)
        v = torch.where(finite[:, None], v, 0)
        y, slope = linearise(v, cones, at.y - at.v)
        left = _residual(at.program, x, y, v)
        better = finite & (largest(left) < 0.5 * largest(at.left))
        x, y, v, left = choose(better, (x, y, v, left), (at.x, at.y, at.v, at.left))
        return State(at.program, x, y, v, left, slope, at.steps + better.long(), ~better)

    v = start.y - start.s
    y, slope = linearise(v, cones, start.s)
    steps = torch.zeros(len(v), dtype=torch.int64, device=v.device)
    left = _residual(program, start.x, y, v)
    return iterate(State(program, start.x, y, v, left, slope, steps, steps > 0), look, step, limit)


def _residual(program: Program, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    c, A, b = program
    return torch.cat([times(A.mT, y) + c, times(A, x) + y - v - b], dim=-1)
