"""Refinement of a solution to rounding level: a semismooth Newton method on the residual map of :mod:`.derivative`.

Source: Busseti, Moursi & Boyd, Solution refinement at regular points of conic problems, 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.rows import iterate
from ...batch.rows import where as choose
from ..cones.product import Cones
from ..cones.slope import Parts, slope_of, split
from .kkt import factorise
from .program import Program, Triple, equations, violation

ROUNDING = 16 * torch.finfo(torch.float64).eps
CONFIRMED = 1e-13  # a violation at which Newton's method has converged
# Before that, some steps may make it worse, because they lead to another piece of the map: few of them at first, more
# where it is NEAR, and goes to and fro between pieces that differ by little.
NEAR = 1e-7
PATIENCE, PATIENCE_NEAR = 2, 8


class Iterate(NamedTuple):
    """A point with y = Π_{K*}(v) and s = y − v, what the :func:`.equations` leave there and how much that is ``(B,)``,
    and what the slope of y follows from."""

    at: Triple
    left: Tensor
    error: Tensor
    parts: Parts

    @classmethod
    def of(cls, program: Program, size: Program, x: Tensor, v: Tensor, cones: Cones, near: Tensor) -> Iterate:
        y, parts = split(v, cones, near)
        at = Triple(x, y, y - v)
        left = equations(program, at)
        return cls(at, left, violation(left, size, at), parts)


class State(NamedTuple):
    """The iterate, the best so far and its error, the steps taken ``(B,)``, and how many of them since the best."""

    program: Program
    size: Program
    now: Iterate
    best: Triple
    error: Tensor
    steps: Tensor
    vain: Tensor


def refine(
    program: Program, size: Program, start: Triple, cones: Cones, limit: int = 15
) -> tuple[Triple, Tensor, Tensor]:
    """Newton steps from x and v = y − s, for each element as long as they bring its residual down.

    The little that :mod:`.kkt` adds to the matrix makes the step a definite one where the solution is not unique.

    Returns:
        x, and y and s, the projections of v and −v; their :func:`.violation` and the number of steps, ``(B,)``.
    """

    def look(state: State, k: int) -> tuple[State, Tensor, tuple[Triple, Tensor, Tensor]]:
        patience = torch.where(state.error <= NEAR, PATIENCE_NEAR, PATIENCE)
        in_vain = state.vain > torch.where(state.error <= CONFIRMED, 0, patience)
        stop = in_vain | ~(state.error > ROUNDING) | ~torch.isfinite(state.now.error)
        return state, stop, (state.best, state.error, state.steps - state.vain)

    def step(state: State) -> State:
        program, size, (at, left, _, parts), best, error, steps, vain = state
        n, m = at.x.shape[-1], at.s.shape[-1]
        kkt = factorise(program.A, program.P, slope_of(parts, cones))
        right = (-left[:, :n, None], left[:, n : n + m, None])
        # The next step corrects the errors of this one, as long as there are steps forward.
        dx, dv = kkt.refined(right, transposed=False)[0] if vain.any() else kkt.solve(*right)
        x, v = at.x + dx.squeeze(-1), at.y - at.s + dv.squeeze(-1)
        finite = torch.isfinite(x).all(-1) & torch.isfinite(v).all(-1)
        now = Iterate.of(program, size, x, torch.where(finite[:, None], v, 0), cones, at.s)
        now = now._replace(error=torch.where(finite, now.error, torch.nan))
        better = now.error < 0.5 * error
        best, error = choose(better, (now.at, now.error), (best, error))
        return State(program, size, now, best, error, steps + 1, torch.where(better, 0, vain + 1))

    first = Iterate.of(program, size, start.x, start.y - start.s, cones, start.s)
    nothing = torch.zeros_like(first.error, dtype=torch.int64)
    return iterate(State(program, size, first, first.at, first.error, nothing, nothing), look, step, limit)
