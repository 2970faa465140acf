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
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest
from ...batch.rows import iterate, scatter, select, where
from .confirm import improve
from .kkt import factorise
from .path import inside, mehrotra_direction
from .program import CONFIRMED, QP, Attempt, Point, Residual, Step, residual

WORTH_GUESSING = 1e-4  # error from which on the active set is guessed, and after a wrong guess a hundredth of that
PATIENCE = 8  # iterations without progress after which an element gets no further


class Iterate(NamedTuple):
    """Where the elements that are still running are; all rows ``(k, …)``."""

    qp: QP
    point: Point
    residual: Residual
    best: Point
    error: Tensor  # of the best
    threshold: Tensor  # below which the active set is guessed next
    since: Tensor  # how many iterations ago the complementary products were last much smaller than before
    least: Tensor  # of the complementary products so far
    stalled: Tensor


def interior_point(qp: QP, size: int, max_iterations: int) -> Attempt:
    """Solve a batch of ``size`` QPs.

    An element that is not confirmed is returned as accurate as it became, with a KKT error that says so.
    """
    limit = max_iterations if qp.G.shape[-2] else 0  # without inequalities the first point is the solution

    def look(at: Iterate, k: int) -> tuple[Iterate, Tensor, Attempt]:
        last = at.stalled | (at.since >= PATIENCE) | (k == limit)
        ready = last | (path_error(at.qp, at.point, at.residual) <= at.threshold)
        if last.any() or 2 * ready.sum() >= len(ready):
            at = at._replace(threshold=torch.where(ready, at.threshold / 100, at.threshold))
            at = _guess(at, ready)
        stop = last | (at.error <= CONFIRMED)
        return at, stop, Attempt(at.best, at.error, torch.full_like(stop, k, dtype=torch.int64))

    def step(at: Iterate) -> Iterate:
        moved = mehrotra_step(at.qp, at.point, at.residual)
        stalled = ~moved.is_finite()  # the factorisation broke down: what there is, is what there will be
        point = where(stalled, at.point, moved)
        products = largest(point.s * point.lam, (1, 2))
        since = torch.where(products < 0.5 * at.least, 0, at.since + 1)
        least = torch.minimum(products, at.least)
        return at._replace(point=point, residual=residual(at.qp, point), since=since, least=least, stalled=stalled)

    start = initial_point(qp, size)
    products = largest(start.s * start.lam, (1, 2))
    error = torch.full_like(products, torch.inf)
    since = torch.zeros_like(products, dtype=torch.int64)
    threshold = torch.full_like(products, WORTH_GUESSING)
    r = residual(qp, start)
    return iterate(
        Iterate(qp, start, r, start, error, threshold, since, products, ~start.is_finite()), look, step, limit
    )


def path_error(qp: QP, point: Point, r: Residual) -> Tensor:
    """How far a point of the path is from its end, ``(N,)``: the largest violation of the conditions, relative to 1 +
    the largest entry of p, and of b and h. It is a measure of progress only."""
    p, b, h = (largest(v, (1, 2)) for v in (qp.p, qp.b, qp.h))
    dual = largest(r.dual, (1, 2)) / (1 + p)
    primal = torch.maximum(largest(r.equality, (1, 2)), largest(r.inequality, (1, 2))) / (1 + torch.maximum(b, h))
    complementarity = largest(point.s * point.lam, (1, 2)) / (1 + torch.maximum(p, h))
    return torch.maximum(torch.maximum(dual, primal), complementarity)


def _guess(at: Iterate, ready: Tensor) -> Iterate:
    """The best points of the ready elements replaced by what their active sets make of them, where that is better."""
    qp, point, best, error = select((at.qp, at.point, at.best, at.error), ready)
    found = improve(qp, point)
    best, error = where(found[1] < error, found, (best, error))
    best, error = scatter((at.best, at.error), ready, (best, error))
    return at._replace(best=best, error=error)


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
