"""Newton's equations for the homogeneous embedding of a cone program: those of :mod:`.cone_kkt` with a border.

    K (dx, dv) + (c, b) dτ = (r₁, r₂),      −cᵀdx − bᵀD dv + (κ/τ) dτ = r₃,      dτ = τ/(τ + κ) dv_τ              (1)

Two ways to solve them, with the same methods: by elimination of the border, and as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cone_central import Slope
from .cone_kkt import KKT, factorise
from .cone_program import Program, times

REGULARISATION = 1e-12


@dataclass(frozen=True)
class Newton:
    """By elimination: K is factorised, and what is left for dτ is one equation.

    Attributes:
        border: K⁻¹ (c, b), ``(B, n, 1)`` and ``(B, m, 1)``.
        pivot: what is left of κ/τ after elimination, ``(B, 1, 1)``; positive, because K is monotone.
    """

    program: Program
    kkt: KKT
    tau: Tensor
    kappa: Tensor
    border: tuple[Tensor, Tensor]
    pivot: Tensor

    @classmethod
    def at(cls, program: Program, of_v: Slope, tau: Tensor, kappa: Tensor) -> Newton:
        c, b = program.c.unsqueeze(-1), program.b.unsqueeze(-1)
        tau, kappa = tau[:, None, None], kappa[:, None, None]
        kkt = factorise(program.A, of_v)
        border = kkt.solve(c, b)
        pivot = kappa / tau + c.mT @ border[0] + b.mT @ kkt.D.times(border[1])
        return cls(program, kkt, tau, kappa, border, pivot)

    def solve(self, r: Tensor, refinements: int = 1) -> Tensor:
        """The step ``(B, n + m + 1, k)`` for right-hand sides of that shape."""
        c, b = self.program.c.unsqueeze(-1), self.program.b.unsqueeze(-1)
        n = c.shape[-2]
        x, v = self.kkt.solve(r[:, :n], r[:, n:-1], refinements)
        tau = (r[:, -1:] + c.mT @ x + b.mT @ self.kkt.D.times(v)) / self.pivot
        return torch.cat([x - self.border[0] * tau, v - self.border[1] * tau, tau * (1 + self.kappa / self.tau)], dim=1)

    def select(self, rows: Tensor) -> Newton:
        border = (self.border[0][rows], self.border[1][rows])
        kkt, tau, kappa = self.kkt.select(rows), self.tau[rows], self.kappa[rows]
        return Newton(self.program.select(rows), kkt, tau, kappa, border, self.pivot[rows])


@dataclass(frozen=True)
class DenseNewton:
    """By an LU factorisation of the whole matrix, ``(B, n + m + 1, n + m + 1)``: slower, and right
    where K is nearly singular and only its border is not, as at the end of a path that proves a program unbounded."""

    LU: Tensor
    pivots: Tensor

    @classmethod
    def at(cls, program: Program, of_v: Slope, tau: Tensor, kappa: Tensor) -> DenseNewton:
        c, A, b = program.c, program.A, program.b
        B, n, m = len(c), c.shape[-1], b.shape[-1]
        D, d = of_v.D.dense(b), tau / (tau + kappa)
        J = c.new_zeros(B, n + m + 1, n + m + 1)
        J[:, :n, n:-1] = A.mT @ D
        J[:, :n, -1] = c * d[:, None]
        J[:, n:-1, :n] = -A
        J[:, n:-1, n:-1] = -D
        J[:, n:-1, -1] = b * d[:, None]
        J[:, -1, :n] = -c
        J[:, -1, n:-1] = -times(D, b)
        J[:, -1, -1] = -d
        J.diagonal(dim1=-2, dim2=-1)[:, n:] += 1
        J.diagonal(dim1=-2, dim2=-1).add_(REGULARISATION)
        LU, pivots, _ = torch.linalg.lu_factor_ex(J)
        return cls(LU, pivots)

    def solve(self, r: Tensor, refinements: int = 0) -> Tensor:
        """The step ``(B, n + m + 1, k)`` for right-hand sides of that shape."""
        return torch.linalg.lu_solve(self.LU, self.pivots, r)

    def select(self, rows: Tensor) -> DenseNewton:
        return DenseNewton(self.LU[rows], self.pivots[rows])
