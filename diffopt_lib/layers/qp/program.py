"""A batch of quadratic programs, points of theirs, and how far a point is from being a solution.

With slacks s = h − Gy, the optimality conditions of min ½ yᵀQy + pᵀy s.t. Ay = b, Gy ≤ h are

    Qy + p + Aᵀν + Gᵀλ = 0,   Ay = b,   Gy + s = h,   s, λ ≥ 0,   sᵢ λᵢ = 0                        (1)

(with b + ε ν and h + ε λ on the right where the constraints are elastic).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch import shapes
from ...batch.products import largest, times_columns

EVENT_DIMS = (2, 1, 2, 1, 2, 1)  # of Q, p, A, b, G, h


@dataclass(frozen=True)
class QP:
    """A batch of N programs: Q ``(N, n, n)``, A ``(N, k, n)``, G ``(N, m, n)``, and the columns p ``(N, n, 1)``,
    b ``(N, k, 1)``, h ``(N, m, 1)``. A shared tensor has 1 in the place of N; k and m may be 0.

    Where ``elastic`` ε ``(N, 1, 1)`` is positive, the constraints may be violated at a price: the objective gains
    ‖violation‖² / 2ε, so Ay − b = ε ν and Gy − h ≤ ε λ. As ε → 0 that gives the solution on the nearest constraints
    (in the least-squares sense) that are feasible."""

    Q: Tensor
    p: Tensor
    A: Tensor
    b: Tensor
    G: Tensor
    h: Tensor
    elastic: Tensor


class Step(NamedTuple):
    """(dy, dν, dλ), or the right-hand sides of a linear system for them, in columns: ``(N, n, c)`` and so on."""

    y: Tensor
    equality: Tensor
    inequality: Tensor


@dataclass(frozen=True)
class Point:
    """An iterate: y ``(N, n, 1)``, ν ``(N, k, 1)``, λ and s ``(N, m, 1)``."""

    y: Tensor
    nu: Tensor
    lam: Tensor
    s: Tensor

    def moved(self, step: Step, ds: Tensor, alpha: Tensor) -> Point:
        """The point plus α ``(N, 1, 1)`` times a step."""
        return Point(
            self.y + alpha * step.y,
            self.nu + alpha * step.equality,
            self.lam + alpha * step.inequality,
            self.s + alpha * ds,
        )

    def is_finite(self) -> Tensor:
        return torch.isfinite(torch.cat([self.y, self.nu, self.lam, self.s], dim=1)).all(1).squeeze(-1)


class Residual(NamedTuple):
    """What is left of (1) at a point: stationarity ``(N, n, 1)``, equalities, inequalities."""

    dual: Tensor
    equality: Tensor
    inequality: Tensor


class Attempt(NamedTuple):
    """What a solver found: the points, their errors as :func:`kkt_error` has them, and the iterations, ``(N,)``."""

    point: Point
    error: Tensor
    iterations: Tensor


def flatten(data: Sequence[Tensor], batch: torch.Size, elastic: Tensor) -> QP:
    """One batch dimension, 1 for what is shared by all; symmetric Q; rows with infinite h become 0ᵀy ≤ 1."""
    flat = (shapes.flatten(t, dims, batch) for t, dims in zip(data, EVENT_DIMS, strict=True))
    Q, p, A, b, G, h = (
        (t if dims == 2 else t.unsqueeze(-1)).double() for t, dims in zip(flat, EVENT_DIMS, strict=True)
    )
    p = p.expand(batch.numel(), -1, -1)
    free = torch.isinf(h)
    if free.any():
        G, h = torch.where(free, 0, G), torch.where(free, 1, h)
    elastic = elastic.expand(*batch, 1).reshape(batch.numel(), 1, 1) if elastic.any() else p.new_zeros(1, 1, 1)
    return QP((Q + Q.mT).mul_(0.5), p, A, b, G, h, elastic.double())


def residual(qp: QP, point: Point) -> Residual:
    """The left-hand sides of (1) minus the right-hand sides, complementarity aside."""
    y, nu, lam = point.y, point.nu, point.lam
    return Residual(
        dual=times_columns(qp.Q, y) + qp.p + times_columns(qp.A.mT, nu) + times_columns(qp.G.mT, lam),
        equality=times_columns(qp.A, y) - qp.b - qp.elastic * nu,
        inequality=times_columns(qp.G, y) + point.s - qp.h - qp.elastic * lam,
    )


def kkt_error(qp: QP, point: Point, r: Residual | None = None) -> Tensor:
    """The largest violation of (1), ``(N,)``, relative to 1 + the largest entry of p, and of b and h."""
    r = residual(qp, point) if r is None else r
    p, b, h = (largest(v, (1, 2)) for v in (qp.p, qp.b, qp.h))
    dual = largest(r.dual, (1, 2)) / (1 + p)
    primal = torch.maximum(largest(r.equality, (1, 2)), largest(r.inequality, (1, 2))) / (1 + torch.maximum(b, h))
    complementarity = largest(point.s * point.lam, (1, 2)) / (1 + torch.maximum(p, h))
    return torch.maximum(torch.maximum(dual, primal), complementarity)
