"""The linear algebra of cone programs: Newton's equations of the residual map, by one Cholesky factorisation.

With D = ∂y/∂v, every step of polishing and every derivative of a cone program solves

     P dx + AᵀD dv      = r₁
    −A dx + (I − D) dv  = r₂                                                                           (1)

Write W = D (I − D)⁻¹, which is block-diagonal like D and positive semidefinite. Eliminating dv leaves the n × n system

    (P + AᵀWA) dx = r₁ − AᵀW r₂,       dv = (I + W)(r₂ + A dx)                                                (2)

instead of one of size n + m. W is infinite on the rows of equalities and, at the solution, of active constraints; with
I − D + εI in the place of I − D it is merely large, and iterative refinement on (1) takes out what ε gets wrong.

Source: the reduction to normal equations of interior point methods, e.g. Wright, Primal-Dual Interior-Point Methods,
1997, chapter 11, where it is also shown why the bad condition of AᵀWA does little harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...batch.products import largest
from ...linear import cholesky_
from ..cones.product import BlockDiagonal
from ..cones.slope import LEAST, Slope

REGULARISATION = 1e-11
ROUNDING = 1e-14
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class KKT:
    """The system (1), factorised: A ``(B or 1, m, n)``, perhaps P ``(B or 1, n, n)``, D and W, and the Cholesky factor
    of P + AᵀWA ``(B, n, n)``."""

    A: Tensor
    P: Tensor | None
    D: BlockDiagonal
    W: BlockDiagonal
    L: Tensor

    def solve(self, r1: Tensor, r2: Tensor) -> Pair:
        """Nearly (dx, dv) ``(B, n, k)`` and ``(B, m, k)`` for k right-hand sides."""
        dx = torch.cholesky_solve(r1 - self.A.mT @ self.W.times(r2), self.L)
        return dx, self._inverse(r2 + self.A @ dx)

    def multiply(self, dx: Tensor, dv: Tensor) -> Pair:
        """The left-hand sides of (1)."""
        dy = self.D.times(dv)
        return self._with_curvature(self.A.mT @ dy, dx), dv - dy - self.A @ dx

    def solve_transposed(self, r1: Tensor, r2: Tensor) -> Pair:
        """Nearly (p, q) with Pp − Aᵀq = r₁ and D A p + (I − D) q = r₂, the transpose of (1)."""
        right = self._inverse(r2)
        p = torch.cholesky_solve(r1 + self.A.mT @ right, self.L)
        return p, right - self.W.times(self.A @ p)

    def multiply_transposed(self, p: Tensor, q: Tensor) -> Pair:
        return self._with_curvature(-self.A.mT @ q, p), q + self.D.times(self.A @ p - q)

    def refined(self, right: Pair, transposed: bool, rounds: int = 2) -> tuple[Pair, Tensor]:
        """The solution of (1) or its transpose for one right-hand side by iterative refinement, of so many rounds or
        until nothing is left, and the largest entry of what is left ``(B,)``."""
        solve, multiply = (
            (self.solve_transposed, self.multiply_transposed) if transposed else (self.solve, self.multiply)
        )
        u, w = solve(*right)
        for k in range(rounds + 1):
            of_u, of_w = multiply(u, w)
            left = right[0] - of_u, right[1] - of_w
            error = _largest(*left)
            if k == rounds or not (error > ROUNDING * _largest(*right)).any():
                break
            more_u, more_w = solve(*left)
            u, w = u + more_u, w + more_w
        return (u, w), error

    def _with_curvature(self, r: Tensor, dx: Tensor) -> Tensor:
        return r if self.P is None else r + self.P @ dx

    def _inverse(self, r: Tensor) -> Tensor:
        """(I − D + εI)⁻¹ r."""
        return (r + self.W.times(r)) / (1 + LEAST)


def factorise(A: Tensor, P: Tensor | None, slope: Slope) -> KKT:
    """The factorisation for A ``(B or 1, m, n)`` and P; an element whose matrix is not positive definite gets NaN.
    (Here B may stand for several batch dimensions.)"""
    S = A.mT @ slope.W.times(A)
    S = S if P is None else S + P
    S.diagonal(dim1=-2, dim2=-1).add_(REGULARISATION)
    return KKT(A, P, slope.D, slope.W, cholesky_(S))


def _largest(first: Tensor, second: Tensor) -> Tensor:
    return largest(torch.cat([first, second], dim=-2).squeeze(-1))
