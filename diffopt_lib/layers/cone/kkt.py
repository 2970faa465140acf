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

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...linear import cholesky_
from ..cones.product import BlockDiagonal
from ..cones.slope import LEAST, Slope

REGULARISATION = 1e-11
Map = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class KKT:
    """The system (1), factorised: A ``(B or 1, m, n)``, perhaps P ``(B or 1, n, n)``, D and W, and the Cholesky factor
    of P + AᵀWA ``(B, n, n)``."""

    A: Tensor
    P: Tensor | None
    D: BlockDiagonal
    W: BlockDiagonal
    L: Tensor

    def solve(self, r1: Tensor, r2: Tensor, refinements: int = 1) -> tuple[Tensor, Tensor]:
        """(dx, dv) ``(B, n, k)`` and ``(B, m, k)`` for k right-hand sides."""
        return _refined(self._solve, self.multiply, r1, r2, refinements)

    def multiply(self, dx: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
        """The left-hand sides of (1)."""
        dy = self.D.times(dv)
        return self._with_curvature(self.A.mT @ dy, dx), dv - dy - self.A @ dx

    def _solve(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor]:
        dx = torch.cholesky_solve(r1 - self.A.mT @ self.W.times(r2), self.L)
        return dx, self._inverse(r2 + self.A @ dx)

    def solve_transposed(self, r1: Tensor, r2: Tensor, refinements: int = 1) -> tuple[Tensor, Tensor]:
        """(p, q) with Pp − Aᵀq = r₁ and D A p + (I − D) q = r₂, the transpose of (1)."""
        return _refined(self._solve_transposed, self.multiply_transposed, r1, r2, refinements)

    def multiply_transposed(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        return self._with_curvature(-self.A.mT @ q, p), q + self.D.times(self.A @ p - q)

    def _solve_transposed(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor]:
        right = self._inverse(r2)
        p = torch.cholesky_solve(r1 + self.A.mT @ right, self.L)
        return p, right - self.W.times(self.A @ p)

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


def _refined(solve: Map, multiply: Map, r1: Tensor, r2: Tensor, refinements: int) -> tuple[Tensor, Tensor]:
    """The solution of multiply(u, w) = (r₁, r₂), given a ``solve`` that is nearly its inverse."""
    u, w = solve(r1, r2)
    for _ in range(refinements):
        of_u, of_w = multiply(u, w)
        more_u, more_w = solve(r1 - of_u, r2 - of_w)
        u, w = u + more_u, w + more_w
    return u, w
