"""A batched primal–dual interior point method for quadratic programs (Mehrotra 1992), polished on the active set.

The method follows the points that satisfy the optimality conditions (1) of :mod:`.qp.program` but for sᵢ λᵢ = σμ > 0,
as μ = sᵀλ/m → 0, in the way of :mod:`.qp.path`. The weights of its Newton systems are w = λ/s. It takes every convex
QP; where Q is well conditioned :mod:`.qp.dual` is faster.

Near the solution the sets {λᵢ > sᵢ} and {λᵢ < sᵢ} stop changing: the active set is known, and (1) is a linear system.
Solving it exactly gives the solution to machine precision and the factorisation that the derivative needs.

Source: Mattingley & Boyd 2012 (small QPs); the proximal regularisation is Pougkakiotis & Gondzio 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import times_columns
from ...batch.rows import iterate, scatter, select, where
from .kkt import factorise, solve_exactly
from .path import inside, mehrotra_direction
from .program import QP, Attempt, Point, Residual, Step, kkt_error, residual

WORTH_POLISHING = 1e-4  # error from which on the active set is guessed, and after a wrong guess a hundredth of that


class Iterate(NamedTuple):
    """Where the elements that are still running are; all rows ``(k, …)``."""

    qp: QP
    point: Point
    residual: Residual
    threshold: Tensor  # below which polishing is tried next
    stalled: Tensor


def interior_point(qp: QP, size: int, tolerance: float, max_iterations: int) -> Attempt:
    """Solve a batch of ``size`` QPs.

    An element that did not reach the tolerance is returned as it is, with a KKT error that says so.
    """
    limit = max_iterations if qp.G.shape[-2] else 0  # without inequalities the first point is the solution

    def look(at: Iterate, k: int) -> tuple[Iterate, Tensor, Attempt]:
        error = kkt_error(at.qp, at.point, at.residual)
        stop = (error <= tolerance) | at.stalled | (k == limit)
        ready = stop | (error <= at.threshold)
        if stop.any() or 2 * ready.sum() >= len(ready):
            point, error = _polish_where_that_solves(at.qp, at.point, error, ready, tolerance)
            at = at._replace(point=point, threshold=torch.where(ready, at.threshold / 100, at.threshold))
            stop = stop | (error <= tolerance)
        return at, stop, Attempt(at.point, error, torch.full_like(stop, k, dtype=torch.int64))

    def step(at: Iterate) -> Iterate:
        moved = mehrotra_step(at.qp, at.point, at.residual)
        stalled = ~moved.is_finite()  # the factorisation broke down: what there is, is what there will be
        return _iterate_at(at.qp, where(stalled, at.point, moved), at.threshold, stalled)

    start = initial_point(qp, size)
    threshold = start.y.new_full((size,), WORTH_POLISHING)
    return iterate(_iterate_at(qp, start, threshold, ~start.is_finite()), look, step, limit)


def _iterate_at(qp: QP, point: Point, threshold: Tensor, stalled: Tensor) -> Iterate:
    return Iterate(qp, point, residual(qp, point), threshold, stalled)


def _polish_where_that_solves(
    qp: QP, point: Point, error: Tensor, ready: Tensor, tolerance: float
) -> tuple[Point, Tensor]:
    """The ready elements replaced by the solution for their active set, where that is more accurate than they are."""
    part, here = select((qp, point), ready)
    polished = polish(part, here)
    better = kkt_error(part, polished)
    accept = (better <= error[ready]) & (better <= tolerance)
    found = where(accept, (polished, better), (here, error[ready]))
    return scatter((point, error), ready, found)


def initial_point(qp: QP, size: int) -> Point:
    """min ½ yᵀQy + pᵀy + ½‖s‖² s.t. Ay = b, Gy + s = h; then s and λ = −s moved inside (Vandenberghe 2010, §5.3)."""
    shape = (size, qp.G.shape[-2], 1)
    kkt = factorise(qp, qp.h.new_ones(shape))
    step = kkt.solve(Step(*(v.expand(size, -1, -1) for v in (-qp.p, qp.b, qp.h))))
    return Point(step.y, step.equality, inside(step.inequality), inside(-step.inequality))


def mehrotra_step(qp: QP, point: Point, r: Residual) -> Point:
    """One predictor and corrector with one factorisation."""
    (_, ds, step), alpha = mehrotra_direction(point.lam, point.s, newton(qp, point, r))
    return point.moved(step, ds, alpha)


def newton(qp: QP, point: Point, r: Residual) -> Callable[[Tensor], tuple[Tensor, Tensor, Step]]:
    """The conditions linearised at a point and factorised: a function from c to the step with λ ds + s dλ = −c, as dλ,
    ds, and (dy, dν, dλ)."""
    s, lam = point.s, point.lam
    kkt = factorise(qp, 1 / (s / lam + qp.elastic))

    def direction(complementarity: Tensor) -> tuple[Tensor, Tensor, Step]:
        step = kkt.solve(Step(-r.dual, -r.equality, complementarity / lam - r.inequality))
        return step.inequality, -(complementarity + s * step.inequality) / lam, step

    return direction


def polish(qp: QP, near: Point, ratio: float = 1.0) -> Point:
    """The solution for the active set {λᵢ > ratio · sᵢ} of a point near it: equalities on it, λ = 0 off it."""
    active = near.lam > ratio * near.s
    start = replace(near, lam=active * near.lam, s=torch.zeros_like(near.s))
    r = residual(qp, start)
    rhs = Step(-r.dual, -r.equality, -r.inequality * active)
    step, _ = solve_exactly(qp, qp.elastic.expand(len(active), 1, 1), active, rhs)
    y, nu, lam = start.y + step.y, start.nu + step.equality, start.lam + step.inequality
    slack = qp.h + qp.elastic * lam - times_columns(qp.G, y)
    return Point(y, nu, lam.clamp_min(0), torch.where(active, 0, slack.clamp_min(0)))
