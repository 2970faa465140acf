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
from ...batch.rows import only_on
from ...validate import NO_BOUND

# A point is confirmed where one of sᵢ and λᵢ is exactly 0 and no violation is larger than this relative to what was
# added up to get it: its active set is right, as far as float64 can tell.
CONFIRMED = 1e-12
CLEAR = 1e-13  # error below which a lower bound on what was added up settles the question
NOISE = 1e-3  # times CONFIRMED: what rounding may leave of an entry of y that should be 0
FAINT = 1e-4  # times NOISE times CONFIRMED, below the rounding of the largest number: what has no size of its own
SMALLEST = 1e-300  # what is added to nothing

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
    """One batch dimension, 1 for what is shared by all; symmetric Q; rows with h ≥ 10²⁰ become 0ᵀy ≤ 1."""
    flat = (shapes.flatten(t, dims, batch) for t, dims in zip(data, EVENT_DIMS, strict=True))
    Q, p, A, b, G, h = (
        (t if dims == 2 else t.unsqueeze(-1)).double() for t, dims in zip(flat, EVENT_DIMS, strict=True)
    )
    p = p.expand(batch.numel(), -1, -1)
    free = h >= NO_BOUND
    if free.any():
        G, h = torch.where(free, 0, G), torch.where(free, 1, h)
    elastic = elastic.expand(*batch, 1).reshape(batch.numel(), 1, 1) if elastic.any() else p.new_zeros(1, 1, 1)
    return QP((Q + Q.mT).mul_(0.5), p, A, b, G, h, elastic.double())


def with_violations(qp: QP) -> QP:
    """An elastic program as one that is not: with variables v and w for the violations over √ε,

    min ½ yᵀQy + pᵀy + ½‖v‖² + ½‖w‖²   s.t.   Ay − √ε v = b,   Gy − √ε w ≤ h.
    """
    N, n, k, m = len(qp.p), qp.p.shape[1], qp.b.shape[1], qp.h.shape[1]
    one = torch.eye(n + k + m, dtype=qp.p.dtype, device=qp.p.device)
    Q = one.repeat(N, 1, 1)
    Q[:, :n, :n] = qp.Q
    give = -qp.elastic.sqrt() * one[n:, n:]
    A = torch.cat([qp.A.expand(N, -1, -1), give[:, :k].expand(N, -1, -1)], dim=-1)
    G = torch.cat([qp.G.expand(N, -1, -1), give[:, k:].expand(N, -1, -1)], dim=-1)
    p = torch.cat([qp.p, qp.p.new_zeros(N, k + m, 1)], dim=1)
    return QP(Q, p, A, qp.b, G, qp.h, qp.p.new_zeros(1, 1, 1))


class Products(NamedTuple):
    """What the conditions (1) add up at a point: Qy, Aᵀν and Gᵀλ ``(N, n, 1)``, Ay and Gy."""

    Qy: Tensor
    Anu: Tensor
    Glam: Tensor
    Ay: Tensor
    Gy: Tensor

    @classmethod
    def at(cls, qp: QP, point: Point) -> Products:
        y, nu, lam = point.y, point.nu, point.lam
        of_rows = times_columns(qp.A.mT, nu), times_columns(qp.G.mT, lam)
        return cls(times_columns(qp.Q, y), *of_rows, times_columns(qp.A, y), times_columns(qp.G, y))


def residual(qp: QP, point: Point, products: Products | None = None) -> Residual:
    """The left-hand sides of (1) minus the right-hand sides, complementarity aside."""
    Qy, Anu, Glam, Ay, Gy = Products.at(qp, point) if products is None else products
    return Residual(
        dual=Qy + qp.p + Anu + Glam,
        equality=Ay - qp.b - qp.elastic * point.nu,
        inequality=Gy + point.s - qp.h - qp.elastic * point.lam,
    )


def kkt_error(qp: QP, point: Point) -> Tensor:
    """The largest violation of (1), ``(N,)``, each relative to what was added up to get it.

    A row's is relative to |hᵢ| + Σ|Gᵢⱼ yⱼ|, a coordinate's of stationarity to |pⱼ| + Σ|Qⱼₖ yₖ| + Σ|Aᵢⱼ νᵢ| + Σ|Gᵢⱼ λᵢ|.
    For complementarity either sᵢ or λᵢ would have to be 0: the violation is the smaller of what that would change.
    What is not a number is infinitely wrong.
    """
    products = Products.at(qp, point)
    r = residual(qp, point, products)
    error = _relative(qp, point, r, _quick_sizes(qp, products))

    def exactly(of: tuple[QP, Point, Residual]) -> Tensor:
        qp, point, r = of
        return _relative(qp, point, r, _sizes(qp, point))

    error = only_on(~(error <= CLEAR), exactly, (qp, point, r), error)
    return torch.where(torch.isnan(error), torch.inf, error)


def _relative(qp: QP, point: Point, r: Residual, size: Residual) -> Tensor:
    """The largest of the residuals and complementary products relative to the sizes."""
    error = largest(_ratio(torch.cat(r, dim=1), torch.cat(size, dim=1)), (1, 2))
    if not (point.s * point.lam).any():
        return error
    drop_wall = _ratio(point.s, size.inequality)
    drop_force = _ratio(qp.G * point.lam, size.dual.mT).abs().amax(-1, keepdim=True)
    return torch.maximum(error, largest(torch.minimum(drop_wall, drop_force), (1, 2)))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp_min(SMALLEST)


def _quick_sizes(qp: QP, products: Products) -> Residual:
    """Less than what was added up, from the sums alone: what is small relative to this is small."""
    Qy, Anu, Glam, Ay, Gy = (t.abs() for t in products)
    return Residual(qp.p.abs() + Qy + Anu + Glam, qp.b.abs() + Ay, qp.h.abs() + Gy)


def added_up(qp: QP, point: Point) -> Residual:
    """The sums of magnitudes of which the residuals are what is left, slacks aside."""
    Q, A, G, y, nu, lam = (t.abs() for t in (qp.Q, qp.A, qp.G, point.y, point.nu, point.lam))
    return Residual(
        dual=qp.p.abs() + times_columns(Q, y) + times_columns(A.mT, nu) + times_columns(G.mT, lam),
        equality=qp.b.abs() + times_columns(A, y) + qp.elastic * nu,
        inequality=qp.h.abs() + times_columns(G, y) + qp.elastic * lam,
    )


def _sizes(qp: QP, point: Point) -> Residual:
    """What was added up to get the residuals, and NOISE times what rounding may leave of terms that should be 0."""
    Q, A, G = qp.Q.abs(), qp.A.abs(), qp.G.abs()
    dual, equality, inequality = added_up(qp, point)
    noise = NOISE * _unit(qp, point.y, dual)
    return Residual(
        dual=dual + times_columns(Q, noise) + NOISE * _neighbours(A, G, dual),
        equality=equality + times_columns(A, noise),
        inequality=inequality + times_columns(G, noise),
    )


def _neighbours(A: Tensor, G: Tensor, dual: Tensor, hops: int = 2) -> Tensor:
    """The sizes of stationarity in coordinates that share a row, in the units of that: multipliers that should be 0 are
    as exact as the larger of their equations lets them be. Where no neighbour has a size, a little of the largest."""
    rows = torch.cat([t.expand(len(dual), -1, -1) for t in (A, G)], dim=1)
    if not rows.shape[1]:
        return dual
    dual = torch.maximum(dual, FAINT * dual.amax(-2, keepdim=True))
    rows = rows / rows.amax(-1, keepdim=True).clamp_min(SMALLEST)
    for _ in range(hops):
        of_rows = (torch.where(rows > 0, dual.mT, 0)).amax(-1, keepdim=True)
        dual = torch.maximum(dual, (rows * of_rows).amax(-2).unsqueeze(-1))
    return dual


def _unit(qp: QP, y: Tensor, dual: Tensor) -> Tensor:
    """How large a change of yⱼ is that matters to its own stationarity, or the largest entry of y if that is less: an
    entry that should be 0 is as exact as can be when it is 0 relative to this. How far away the walls are does not
    count: they may be out of reach."""
    curvature = qp.Q.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    most = y.abs().amax(-2, keepdim=True)
    return torch.where(curvature > 0, torch.minimum(dual / curvature.clamp_min(SMALLEST), most), most)
