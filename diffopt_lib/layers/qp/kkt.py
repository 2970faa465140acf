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

from dataclasses import dataclass

import torch
from torch import Tensor

from ...batch.products import largest, solve_lower, times_columns
from ...linear import cholesky_, lu_factor
from .program import QP, Step

EQUALITY_WEIGHT = 1e7  # E of (3), large enough to need few rounds of refinement
DIAGONAL = 1e-9  # ρ of (3), enough to make a singular Q definite
SMALL_DIAGONAL = 1e-10  # ρ where the whole matrix of (2) is factorised
ENOUGH = 1e4 * torch.finfo(torch.float64).eps  # of the right-hand sides: more refinement does not help a derivative
ELIMINATED = 1e-10  # of the right-hand sides, that may be left of them; else the whole matrix is needed
SOLVED = 1e-6  # likewise; else the system is singular
DIAGONAL_SHARE = 8 * torch.finfo(torch.float64).eps  # ρ relative to the entries of (3): what a sum of them loses


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
        rhs = r.y + times_columns(self.G.mT, self.w * r.inequality)
        if self.A.shape[-2]:
            rhs = rhs + times_columns(self.A.mT, self.E * r.equality)
        y = solve_lower(self.L, solve_lower(self.L, rhs), transpose=True)
        return Step(
            y, self.E * (times_columns(self.A, y) - r.equality), self.w * (times_columns(self.G, y) - r.inequality)
        )


def factorise(qp: QP, w: Tensor) -> KKT:
    """The factorisation for weights w ``(N, m, 1)``; an element whose matrix is not positive definite gets NaN."""
    E = 1 / qp.elastic.clamp_min(1 / EQUALITY_WEIGHT)
    K = torch.matmul(qp.G.mT, w * qp.G).add_(qp.Q)
    if qp.A.shape[-2]:
        K.add_(torch.matmul(qp.A.mT, E * qp.A))
    diagonal = K.diagonal(dim1=-2, dim2=-1)
    diagonal.add_((DIAGONAL_SHARE * diagonal.amax(-1, keepdim=True)).clamp_min(DIAGONAL))
    return KKT(cholesky_(K), qp.A, qp.G, E, w)


@dataclass(frozen=True)
class FullKKT:
    """The factorisation of the whole matrix of (2), for systems that are too badly conditioned to be eliminated.

    Attributes:
        LU, pivots: of [Q + ρI, Aᵀ, (wG)ᵀ; A, −ρI, 0; wG, 0, −w² compliance − ρI], with the identity for rows that are
            not included.
        w: the units of dλ, ``(N, m, 1)``, in which a large compliance is 1; 0 for rows that are not included.
        compliance: 1 / the weights of the inequalities, ``(N, m, 1)``.
    """

    qp: QP
    LU: Tensor
    pivots: Tensor
    w: Tensor
    compliance: Tensor

    @classmethod
    def at(cls, qp: QP, compliance: Tensor, included: Tensor) -> FullKKT:
        n, k, m = qp.Q.shape[-1], qp.A.shape[-2], qp.G.shape[-2]
        N = len(compliance)
        w = included / (1 + compliance).sqrt()
        G = w * qp.G
        K = G.new_zeros(N, n + k + m, n + k + m)
        K[:, :n, :n] = qp.Q
        K[:, n : n + k, :n], K[:, :n, n : n + k] = qp.A, qp.A.mT
        K[:, n + k :, :n], K[:, :n, n + k :] = G, G.mT
        diagonal = K.diagonal(dim1=-2, dim2=-1)
        diagonal[:, :n] += SMALL_DIAGONAL
        diagonal[:, n : n + k] -= qp.elastic.squeeze(-1) + SMALL_DIAGONAL
        diagonal[:, n + k :] -= torch.where(included > 0, w.square() * compliance + SMALL_DIAGONAL, 1).squeeze(-1)
        LU, pivots, _ = lu_factor(K)
        return cls(qp, LU, pivots, w, compliance)

    def solve(self, r: Step, rounds: int = 4) -> tuple[Step, Step]:
        """The solution of (2), and what is left of the right-hand sides after so many rounds of refinement."""
        step, left = Step(*(torch.zeros_like(v) for v in r)), r
        for _ in range(rounds):
            more = torch.linalg.lu_solve(self.LU, self.pivots, torch.cat([*left[:2], self.w * left.inequality], dim=1))
            more = Step(*more.split([v.shape[1] for v in r], dim=1))
            step = Step(*(a + d for a, d in zip(step, more._replace(inequality=self.w * more.inequality), strict=True)))
            left = remainder(self.qp, self.compliance, self.w > 0, r, step)
        return step, left


def solve_exactly(
    qp: QP, compliance: Tensor, included: Tensor, r: Step, rounds: int = 4, enough: float = ENOUGH
) -> tuple[Step, Tensor]:
    """The solution of (2) with E = ∞, 1/w = compliance ≥ 0 for the included inequalities, and dλ = 0 for the others.

    Every round takes out most of what the regularisation left, until that is ``enough`` of the largest right-hand side.
    The second result tells where that succeeded, ``(N,)``.
    """
    kkt = factorise(qp, included / compliance.clamp_min(1 / EQUALITY_WEIGHT))
    step, left, size = Step(*(torch.zeros_like(v) for v in r)), r, _size(r)
    for _ in range(rounds):
        step = Step(*(a + d for a, d in zip(step, kkt.solve(left), strict=True)))
        left = remainder(qp, compliance, included, r, step)
        if (_size(left) <= enough * size).all():
            break
    return step, _size(left) <= ELIMINATED * size


def solve_sturdily(qp: QP, compliance: Tensor, included: Tensor, r: Step) -> tuple[Step, Tensor]:
    """:func:`solve_exactly` with the whole matrix: dearer, and good for worse conditioned systems."""
    compliance = compliance.expand(included.shape)
    step, left = FullKKT.at(qp, compliance, included.to(r.y.dtype)).solve(r)
    return step, _size(left) <= SOLVED * _size(r)


def remainder(qp: QP, compliance: Tensor, included: Tensor, r: Step, step: Step) -> Step:
    """What a step leaves of the right-hand sides of (2), as :func:`solve_exactly` has them."""
    return Step(
        y=r.y
        - times_columns(qp.Q, step.y)
        - times_columns(qp.A.mT, step.equality)
        - times_columns(qp.G.mT, step.inequality),
        equality=r.equality - times_columns(qp.A, step.y) + qp.elastic * step.equality,
        inequality=included * (r.inequality - times_columns(qp.G, step.y) + compliance * step.inequality),
    )


def _size(r: Step) -> Tensor:
    return largest(torch.cat(r, dim=1), (1, 2))
