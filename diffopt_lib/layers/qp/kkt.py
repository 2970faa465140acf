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
from ...linear import cholesky_
from .program import QP, Step

EQUALITY_WEIGHT = 1e7  # E of (3), large enough to need few rounds of refinement
DIAGONAL = 1e-9  # ρ of (3), enough to make a singular Q definite
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


def solve_exactly(qp: QP, compliance: Tensor, included: Tensor, r: Step, rounds: int = 4) -> tuple[Step, Tensor]:
    """The solution of (2) with E = ∞, 1/w = compliance ≥ 0 for the included inequalities, and dλ = 0 for the others.

    Every round takes out most of what the regularisation left. The second result tells where that succeeded, ``(N,)``.
    """
    kkt = factorise(qp, included / compliance.clamp_min(1 / EQUALITY_WEIGHT))
    step, left, size = Step(*(torch.zeros_like(v) for v in r)), r, _size(r)
    for _ in range(rounds):
        step = Step(*(a + d for a, d in zip(step, kkt.solve(left), strict=True)))
        left = Step(
            y=r.y
            - times_columns(qp.Q, step.y)
            - times_columns(qp.A.mT, step.equality)
            - times_columns(qp.G.mT, step.inequality),
            equality=r.equality - times_columns(qp.A, step.y) + qp.elastic * step.equality,
            inequality=included * (r.inequality - times_columns(qp.G, step.y) + compliance * step.inequality),
        )
        if (_size(left) <= 1e4 * torch.finfo(size.dtype).eps * size).all():
            break
    return step, _size(left) <= 1e-6 * size


def _size(r: Step) -> Tensor:
    return largest(torch.cat(r, dim=1), (1, 2))
