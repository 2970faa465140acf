"""The linear equations of a step of :mod:`.interior`, by one Cholesky factorisation.

In the frames of :mod:`..cones.frames`, where d̃s = G ds, d̃y = G⁻ᵀdy, Ã = GA, b̃ = Gb, a step (dx, dy, ds, dτ, dκ) solves

    Ãᵀd̃y + c dτ = r₁,     Ãdx + d̃s − b̃dτ = r₂,     cᵀdx + b̃ᵀd̃y + dκ = r₃,
    d̃s + d̃y = r_s,        κ dτ + τ dκ = r_τ.                                                       (1)

Eliminating d̃s, d̃y and dκ leaves S = ÃᵀÃ with a border for dτ. With p = S⁻¹Ãᵀb̃, the least-squares solution of
Ãp = b̃, with e = b̃ − Ãp, and with q = S⁻¹c:

    (κ/τ + ‖e‖² + cᵀq) dτ = (p + q)ᵀr₁ + (e − Ãq)ᵀ(r_s − r₂) + r_τ/τ − r₃                                     (2)

Near a solution all of (2) is small, because (x, y, s, τ) times a number is a solution, too. Written with e, it does not
come as a difference of large numbers. The entries of S range over many orders of magnitude there, and iterative
refinement of (1), which does not, takes out the rounding errors.

Source: Wright, Primal-Dual Interior-Point Methods, 1997, chapter 11, for normal equations and their condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import dot, times
from ..cones.frames import EQUALITY_SCALE, Frames
from .embedding import Point, Residual
from .program import Program

# On the diagonal of S: next to nothing, and what helps where that does not; relative to its entries or to LEAST.
REGULARISATION = (2e-16, 1e-12)
LEAST = 1e-6


class Step(NamedTuple):
    """dx ``(B, n)``, d̃s and d̃y ``(B, m)``, dτ and dκ ``(B, 1)``."""

    x: Tensor
    s: Tensor
    y: Tensor
    tau: Tensor
    kappa: Tensor


@dataclass(frozen=True)
class Newton:
    """(1) at a point, factorised.

    Attributes:
        residual: of the embedding at the point; its second part is in the frames.
        A, L: Ã ``(B, m, n)`` and the Cholesky factor of S.
        p, q: as in (2), ``(B, n)``.
        e, Aq: e and Ãq, ``(B, m)``.
        pivot: the factor on the left of (2), ``(B, 1)``.
    """

    program: Program
    point: Point
    frames: Frames
    residual: Residual
    A: Tensor
    L: Tensor
    p: Tensor
    q: Tensor
    e: Tensor
    Aq: Tensor
    pivot: Tensor

    @classmethod
    def at(cls, program: Program, point: Point, frames: Frames, residual: Residual) -> Newton:
        c, A = program.c, frames.matrix.times(program.A)
        b, primal = frames.matrix.times_vector(torch.stack([program.b, residual.primal]))
        L = _cholesky(A.mT @ A)
        p, q = torch.cholesky_solve(torch.stack([times(A.mT, b), c], dim=-1), L).unbind(-1)
        e = b - times(A, p)
        more = _solve(L, times(A.mT, e))
        p, e, Aq = p + more, e - times(A, more), times(A, q)
        pivot = point.kappa / point.tau + (e.square().sum(-1) + dot(c, q))[:, None]
        residual = Residual(residual.dual, primal, residual.gap)
        return cls(program, point, frames, residual, A, L, p, q, e, Aq, pivot)

    def step(self, part: float | Tensor, r_s: Tensor, r_tau: Tensor) -> Step:
        """The step that removes this part of the residual, for r_s ``(B, m)`` and r_τ ``(B, 1)``."""
        return self._solve(self.residual.times(-part), r_s, r_tau)

    def refined_step(self, part: Tensor, r_s: Tensor, r_tau: Tensor, primal: Tensor) -> tuple[Step, Point]:
        """The same after a round of iterative refinement, and the step of the variables that it is.

        ds comes from the second equation, for its part of the residual out of the frames, which then holds exactly.
        """
        (c, A, b), rows = self.program, self.frames.cones.equalities
        right, leave = self.residual.times(-part), self.frames.matrix.mT.times_vector
        step = self._solve(right, r_s, r_tau)
        y = leave(step.y)
        unmet = torch.zeros_like(b)  # of the second equation: only in equalities, which have no s to make up for it
        equalities = times(A[:, rows], step.x) - b[:, rows] * step.tau
        unmet[:, rows] = right.primal[:, rows] - EQUALITY_SCALE * equalities
        left = Residual(
            right.dual - times(A.mT, y) - c * step.tau,
            unmet,
            right.gap - (dot(c, step.x) + dot(b, y))[:, None] - step.kappa,
        )
        more = self._solve(left, torch.zeros_like(r_s), torch.zeros_like(r_tau))
        step = Step(*(a + b for a, b in zip(step, more, strict=True)))
        s = b * step.tau - times(A, step.x) - part * primal
        s[:, rows] = 0
        return step, Point(step.x, y + leave(more.y), s, step.tau, step.kappa)

    def _solve(self, right: Residual, r_s: Tensor, r_tau: Tensor) -> Step:
        tau, kappa = self.point.tau, self.point.kappa
        r = r_s - right.primal
        numerator = dot(self.p + self.q, right.dual) + dot(self.e - self.Aq, r)
        d_tau = (numerator[:, None] + r_tau / tau - right.gap) / self.pivot
        x = _solve(self.L, right.dual - times(self.A.mT, r))
        y = r + times(self.A, x) - d_tau * (self.e + self.Aq)
        s = r_s - y
        s[:, self.frames.cones.equalities] = 0
        return Step(x + d_tau * (self.p - self.q), s, y, d_tau, (r_tau - kappa * d_tau) / tau)


def _cholesky(S: Tensor) -> Tensor:
    """The factor of S, made positive definite where it is not; NaN if it is not finite."""
    diagonal = S.diagonal(dim1=-2, dim2=-1)
    for regularisation in REGULARISATION:
        diagonal.add_(regularisation * (diagonal + diagonal.amax(-1, keepdim=True) + LEAST))
        L, info = torch.linalg.cholesky_ex(S)
        if not info.any():
            return L
    return torch.where((info > 0)[:, None, None], torch.nan, L)


def _solve(L: Tensor, r: Tensor) -> Tensor:
    return torch.cholesky_solve(r.unsqueeze(-1), L).squeeze(-1)
