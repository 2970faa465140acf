"""The linear algebra of quadratic programs: one factorisation serves every step of the solver and the backward pass.

Every Newton step, every polishing step and every derivative of

    min ½ yᵀQy + pᵀy   s.t.   Ay = b,  Gy ≤ h                                                      (1)

solves a symmetric system with the same pattern, in which w ≥ 0 weighs the inequality rows:

    Q dy + Aᵀ dν + Gᵀ dλ = r₁
    A dy − dν / E        = r₂                                                                      (2)
    G dy − dλ / w        = r₃       (dλ = 0 where w = 0)

The weight E of the equalities ought to be ∞. With a large finite one everything but dy can be eliminated, and one
Cholesky factorisation of an n × n matrix is left of the (n + k + m)² system:

    (Q + ρ I + E AᵀA + Gᵀ diag(w) G) dy = r₁ + E Aᵀ r₂ + Gᵀ (w r₃)                                (3)

The matrix is positive definite for singular Q and redundant rows of A, too. What E < ∞ and ρ > 0 get wrong is taken out
again by iterative refinement, which makes each round a step of the proximal method of multipliers (Rockafellar 1976).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from ...linear import cholesky_

EQUALITY_WEIGHT = 1e7
REGULARISATION = 1e-9
ROUNDING = 8 * torch.finfo(torch.float64).eps  # what a sum of large weights may lose, relative to its size


@dataclass(frozen=True)
class QP:
    """The data of (1) for a batch of N: Q ``(N, n, n)``, A ``(N, k, n)``, G ``(N, m, n)``, and the columns p
    ``(N, n, 1)``, b ``(N, k, 1)``, h ``(N, m, 1)``. A shared tensor has 1 in the place of N; k and m may be 0.

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

    def select(self, keep: Tensor) -> QP:
        """The batch elements where ``keep`` is True."""
        return QP(*(take(getattr(self, field.name), keep) for field in fields(self)))


class Step(NamedTuple):
    """(dy, dν, dλ), or the right-hand sides (r₁, r₂, r₃), one or more columns each: ``(N, n, c)`` and so on."""

    y: Tensor
    equality: Tensor
    inequality: Tensor


def take(x: Tensor, keep: Tensor) -> Tensor:
    """Rows of x, unless it is shared by the whole batch."""
    return x if x.shape[0] == 1 and keep.shape[0] != 1 else x[keep]


def mul(M: Tensor, v: Tensor) -> Tensor:
    """M v for ``(N or 1, k, n)`` and ``(N, n, c)``; a shared matrix times single columns is one matrix product."""
    if M.shape[0] == 1 and v.shape[-1] == 1:
        return (v.squeeze(-1) @ M[0].mT).unsqueeze(-1)
    if v.shape[-1] == 1:
        return (v.mT @ M.mT).mT  # batched BLAS takes a row several times faster than a column
    return torch.matmul(M, v)


def largest(v: Tensor) -> Tensor:
    """The largest entry of each element ``(N, k, c)``, ``(N,)``; 0 if there is none."""
    return v.abs().amax((1, 2)) if v.shape[1] and v.shape[2] else v.new_zeros(len(v))


def solve_lower(L: Tensor, v: Tensor, transpose: bool = False) -> Tensor:
    """L⁻¹ v, or L⁻ᵀ v, for a lower triangular L ``(N or 1, n, n)``; a shared L is not copied."""
    if L.shape[0] == 1 and v.shape[0] > 1 and v.shape[-1] == 1:
        return solve_lower(L, v.squeeze(-1).mT.unsqueeze(0), transpose).squeeze(0).mT.unsqueeze(-1)
    return torch.linalg.solve_triangular(L.mT if transpose else L, v, upper=transpose)


@dataclass(frozen=True)
class KKT:
    """The factorisation of (3) for given weights.

    Attributes:
        L: Cholesky factor, ``(N, n, n)``.
        A, G: the rows, as in :class:`QP`.
        E: the weight of the equalities, ``(N or 1, 1, 1)``.
        w: the weights of the inequalities, ``(N, m, 1)``.
    """

    L: Tensor
    A: Tensor
    G: Tensor
    E: Tensor
    w: Tensor

    def solve(self, r: Step) -> Step:
        """The solution of (2), up to what E and ρ get wrong."""
        rhs = r.y + mul(self.G.mT, self.w * r.inequality)
        if self.A.shape[-2]:
            rhs = rhs + mul(self.A.mT, self.E * r.equality)
        y = solve_lower(self.L, solve_lower(self.L, rhs), transpose=True)
        return Step(y, self.E * (mul(self.A, y) - r.equality), self.w * (mul(self.G, y) - r.inequality))


def factorise(qp: QP, w: Tensor) -> KKT:
    """The factorisation for weights w ``(N, m, 1)``; an element whose matrix is not positive definite gets NaN."""
    E = 1 / qp.elastic.clamp_min(1 / EQUALITY_WEIGHT)
    K = torch.matmul(qp.G.mT, w * qp.G).add_(qp.Q)
    if qp.A.shape[-2]:
        K.add_(torch.matmul(qp.A.mT, E * qp.A))
    diagonal = K.diagonal(dim1=-2, dim2=-1)
    diagonal.add_((ROUNDING * diagonal.amax(-1, keepdim=True)).clamp_min(REGULARISATION))
    return KKT(cholesky_(K), qp.A, qp.G, E, w)


def solve_exactly(qp: QP, compliance: Tensor, included: Tensor, r: Step, rounds: int = 4) -> tuple[Step, Tensor]:
    """The solution of (2) with E = ∞, 1/w = compliance ≥ 0 for the included inequalities, and dλ = 0 for the others.

    Every round takes out most of what the regularisation left. The second result tells where that succeeded, ``(N,)``.
    """
    kkt = factorise(qp, included / compliance.clamp_min(1 / EQUALITY_WEIGHT))
    step, left, size = Step(*(torch.zeros_like(v) for v in r)), r, _size(r)
    for _ in range(rounds):
        step = Step(*(a + d for a, d in zip(step, kkt.solve(left), strict=True)))
        left = Step(
            y=r.y - mul(qp.Q, step.y) - mul(qp.A.mT, step.equality) - mul(qp.G.mT, step.inequality),
            equality=r.equality - mul(qp.A, step.y) + qp.elastic * step.equality,
            inequality=included * (r.inequality - mul(qp.G, step.y) + compliance * step.inequality),
        )
        if (_size(left) <= 1e4 * torch.finfo(size.dtype).eps * size).all():
            break
    return step, _size(left) <= 1e-6 * size


def _size(r: Step) -> Tensor:
    return largest(torch.cat(r, dim=1))
