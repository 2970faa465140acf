"""A batched primal–dual interior point method for quadratic programs (Mehrotra 1992), polished on the active set.

With slacks s = h − Gy, the optimality conditions of eq. (1) of :mod:`.qp.kkt` are

    Qy + p + Aᵀν + Gᵀλ = 0,   Ay = b,   Gy + s = h,   s, λ ≥ 0,   sᵢ λᵢ = 0                        (1)

(with b + ε ν and h + ε λ on the right where the constraints are elastic).

The method follows the points where sᵢ λᵢ = σμ > 0 as μ = sᵀλ/m → 0, as :mod:`.qp.path` says. The weights of its Newton
systems are w = λ/s. It takes every convex QP; where Q is well conditioned :mod:`.qp.dual` is faster.

Near the solution the sets {λᵢ > sᵢ} and {λᵢ < sᵢ} stop changing: the active set is known, and (1) is a linear system.
Solving it exactly gives the solution to machine precision and the factorisation that the derivative needs.

Source: Mattingley & Boyd 2012 (small QPs); the proximal regularisation is Pougkakiotis & Gondzio 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .kkt import QP, Step, factorise, largest, mul, solve_exactly
from .path import inside, mehrotra_direction


@dataclass(frozen=True)
class Point:
    """An iterate: y ``(N, n, 1)``, ν ``(N, k, 1)``, λ and s ``(N, m, 1)``."""

    y: Tensor
    nu: Tensor
    lam: Tensor
    s: Tensor

    def select(self, keep: Tensor) -> Point:
        return Point(*(getattr(self, field.name)[keep] for field in fields(self)))

    def scatter(self, where: Tensor, part: Point) -> Point:
        """self with the elements ``where`` is True replaced by those of the part."""
        mask = where[:, None, None]
        return Point(*(getattr(self, f.name).masked_scatter(mask, getattr(part, f.name)) for f in fields(self)))

    def where(self, condition: Tensor, other: Point) -> Point:
        """self where the condition ``(N,)`` holds, other elsewhere."""
        mask = condition[:, None, None]
        return Point(
            *(torch.where(mask, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        )

    def moved(self, step: Step, ds: Tensor, alpha: Tensor) -> Point:
        """The point plus α ``(N, 1, 1)`` times a step."""
        return Point(
            self.y + alpha * step.y,
            self.nu + alpha * step.equality,
            self.lam + alpha * step.inequality,
            self.s + alpha * ds,
        )


class Residual(NamedTuple):
    """What is left of (1) at a point: stationarity ``(N, n, 1)``, equalities, inequalities."""

    dual: Tensor
    equality: Tensor
    inequality: Tensor


def residual(qp: QP, point: Point) -> Residual:
    """The left-hand sides of (1) minus the right-hand sides, complementarity aside."""
    return Residual(
        dual=mul(qp.Q, point.y) + qp.p + mul(qp.A.mT, point.nu) + mul(qp.G.mT, point.lam),
        equality=mul(qp.A, point.y) - qp.b - qp.elastic * point.nu,
        inequality=mul(qp.G, point.y) + point.s - qp.h - qp.elastic * point.lam,
    )


def kkt_error(qp: QP, point: Point, r: Residual | None = None) -> Tensor:
    """The largest violation of (1), ``(N,)``, relative to 1 + the largest entry of p, and of b and h."""
    r = residual(qp, point) if r is None else r
    dual = largest(r.dual) / (1 + largest(qp.p))
    primal = torch.maximum(largest(r.equality), largest(r.inequality)) / (
        1 + torch.maximum(largest(qp.b), largest(qp.h))
    )
    complementarity = largest(point.s * point.lam) / (1 + torch.maximum(largest(qp.p), largest(qp.h)))
    return torch.maximum(torch.maximum(dual, primal), complementarity)


def interior_point(qp: QP, size: int, tolerance: float, max_iterations: int) -> tuple[Point, Tensor, Tensor]:
    """Solve a batch of ``size`` QPs. Returns the points, their KKT errors and the iterations, ``(N,)``.

    An element that did not reach the tolerance is returned as it is, with a KKT error that says so.
    """
    point = initial_point(qp, size)
    max_iterations = max_iterations if qp.G.shape[-2] else 0  # without inequalities the first point is the solution
    index = torch.arange(size, device=point.y.device)
    finished: list[tuple[Tensor, Point, Tensor, Tensor]] = []
    threshold = point.y.new_full((size,), 1e-4)  # below it, polishing is tried
    stalled = ~_is_finite(point)

    for k in range(max_iterations + 1):
        r = residual(qp, point)
        error = kkt_error(qp, point, r)
        stop = (error <= tolerance) | stalled | (k == max_iterations)
        ready = stop | (error <= threshold)
        if stop.any() or 2 * ready.sum() >= len(ready):
            point, error = _polish_where_that_solves(qp, point, error, ready, tolerance)
            threshold = torch.where(ready, threshold / 100, threshold)
            stop = stop | (error <= tolerance)
            finished.append((index[stop], point.select(stop), error[stop], torch.full_like(index[stop], k)))
            keep = ~stop
            if not keep.any():
                break
            qp, point, index, threshold = qp.select(keep), point.select(keep), index[keep], threshold[keep]
            r = Residual(*(t[keep] for t in r))
        moved = mehrotra_step(qp, point, r)
        stalled = ~_is_finite(moved)  # the factorisation broke down: what there is, is what there will be
        point = point.where(stalled, moved)

    order = torch.cat([part[0] for part in finished]).argsort()
    points = (torch.cat([getattr(part[1], field.name) for part in finished])[order] for field in fields(Point))
    return (
        Point(*points),
        torch.cat([part[2] for part in finished])[order],
        torch.cat([part[3] for part in finished])[order],
    )


def _polish_where_that_solves(
    qp: QP, point: Point, error: Tensor, ready: Tensor, tolerance: float
) -> tuple[Point, Tensor]:
    """The ready elements replaced by the solution for their active set, where that is more accurate than they are."""
    part, of_part = qp.select(ready), point.select(ready)
    polished = polish(part, of_part)
    better = kkt_error(part, polished)
    accept = (better <= error[ready]) & (better <= tolerance)
    error = error.masked_scatter(ready, torch.where(accept, better, error[ready]))
    return point.scatter(ready, polished.where(accept, of_part)), error


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
    """(1) linearised at a point and factorised: a function from c to the step with λ ds + s dλ = −c, as dλ, ds, and
    (dy, dν, dλ)."""
    s, lam = point.s, point.lam
    kkt = factorise(qp, 1 / (s / lam + qp.elastic))

    def direction(complementarity: Tensor) -> tuple[Tensor, Tensor, Step]:
        step = kkt.solve(Step(-r.dual, -r.equality, complementarity / lam - r.inequality))
        return step.inequality, -(complementarity + s * step.inequality) / lam, step

    return direction


def polish(qp: QP, near: Point, ratio: float = 1.0) -> Point:
    """The solution of (1) for the active set {λᵢ > ratio · sᵢ} of a point near it: equalities on it, λ = 0 off it."""
    active = near.lam > ratio * near.s
    start = replace(near, lam=active * near.lam, s=torch.zeros_like(near.s))
    r = residual(qp, start)
    rhs = Step(-r.dual, -r.equality, -r.inequality * active)
    step, _ = solve_exactly(qp, qp.elastic.expand(len(active), 1, 1), active, rhs)
    y, nu, lam = start.y + step.y, start.nu + step.equality, start.lam + step.inequality
    slack = qp.h + qp.elastic * lam - mul(qp.G, y)
    return Point(y, nu, lam.clamp_min(0), torch.where(active, 0, slack.clamp_min(0)))


def _is_finite(point: Point) -> Tensor:
    return torch.isfinite(torch.cat([point.y, point.nu, point.lam, point.s], dim=1)).all(1).squeeze(-1)
