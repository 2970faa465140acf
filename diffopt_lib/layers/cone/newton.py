"""The linear equations of a step of :mod:`.interior`, by one Cholesky factorisation.

In the frames of :mod:`..cones.frames`, where d̃s = G ds, d̃y = G⁻ᵀdy, Ã = GA, b̃ = Gb, and with ξ = x/τ, a step
(dx, dy, ds, dτ, dκ) solves

    P dx + Ãᵀd̃y + c dτ = r₁,     Ãdx + d̃s − b̃dτ = r₂,     (c + 2Pξ)ᵀdx + b̃ᵀd̃y − ξᵀPξ dτ + dκ = r₃,
    d̃s + d̃y = r_s,        κ dτ + τ dκ = r_τ.                                                       (1)

Eliminating d̃s, d̃y and dκ leaves S = P + ÃᵀÃ with a border for dτ. With p = S⁻¹Ãᵀb̃, e = b̃ − Ãp, q = S⁻¹c and
h = p + q + 2S⁻¹Pξ:

    (κ/τ + ‖e + Ãq‖² + (p − q − ξ)ᵀP(p − q − ξ)) dτ = hᵀr₁ + (b̃ − Ãh)ᵀ(r_s − r₂) + r_τ/τ − r₃                     (2)

Near a solution all of (2) is small, because (x, y, s, τ) times a number is a solution, too. Written with e, it does not
come as a difference of large numbers. The entries of S range over many orders of magnitude there, and iterative
refinement of (1), which does not, takes out the rounding errors.

Source: Wright, Primal-Dual Interior-Point Methods, 1997, chapter 11, for normal equations and their condition; Goulart
& Chen 2024, §3.3, for the border with a quadratic objective.
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
        d, f: how dx and d̃y depend on dτ, p − q ``(B, n)`` and e + Ãq ``(B, m)``, the latter with a minus.
        h, g: what r₁ and r_s − r₂ are multiplied with in (2): h ``(B, n)`` and b̃ − Ãh ``(B, m)``.
        slope: c + 2Pξ ``(B, n)``, and ξᵀPξ ``(B, 1)``, of the third equation.
        pivot: the factor on the left of (2), ``(B, 1)``.
    """

    program: Program
    point: Point
    frames: Frames
    residual: Residual
    A: Tensor
    L: Tensor
    d: Tensor
    f: Tensor
    h: Tensor
    g: Tensor
    slope: tuple[Tensor, Tensor]
    pivot: Tensor

    @classmethod
    def at(cls, program: Program, point: Point, frames: Frames, residual: Residual) -> Newton:
        (c, _, _, P), A = program, frames.matrix.times(program.A)
        b, primal = frames.matrix.times_vector(torch.stack([program.b, residual.primal]))
        S = A.mT @ A if P is None else A.mT @ A + P
        L, right = _cholesky(S), [times(A.mT, b), c]
        if P is not None:
            xi = point.x / point.tau
            curvature = times(P, xi)
            right.append(curvature)
        p, q, *rest = torch.cholesky_solve(torch.stack(right, dim=-1), L).unbind(-1)
        e = b - times(A, p)
        more = _solve(L, times(A.mT, e) - program.curvature(p))
        p, e, Aq = p + more, e - times(A, more), times(A, q)
        d, f, h, g = p - q, e + Aq, p + q, e - Aq
        # cᵀq = ‖Ãq‖² + qᵀPq, and a little for what the factorisation adds to S, without which S may be singular
        pivot = point.kappa / point.tau + (dot(e, e) + dot(c, q))[:, None]
        slope = (c, torch.zeros_like(point.tau))
        if P is not None:
            h, g = h + 2 * rest[0], g - 2 * times(A, rest[0])
            more = dot(d - xi, times(P, d - xi)) + 2 * dot(e, Aq) - dot(q, times(P, q))
            pivot = pivot + more[:, None]
            slope = (c + 2 * curvature, dot(xi, curvature, keepdim=True))
        residual = Residual(residual.dual, primal, residual.gap)
        return cls(program, point, frames, residual, A, L, d, f, h, g, slope, pivot)

    def step(self, part: float | Tensor, r_s: Tensor, r_tau: Tensor) -> Step:
        """The step that removes this part of the residual, for r_s ``(B, m)`` and r_τ ``(B, 1)``."""
        return self._solve(self.residual.times(-part), r_s, r_tau)

    def refined_step(self, part: Tensor, r_s: Tensor, r_tau: Tensor, primal: Tensor) -> tuple[Step, Point]:
        """The same after a round of iterative refinement, and the step of the variables that it is.

        ds comes from the second equation, for its part of the residual out of the frames, which then holds exactly.
        """
        (c, A, b, _), rows = self.program, self.frames.cones.equalities
        right, leave = self.residual.times(-part), self.frames.matrix.mT.times_vector
        step = self._solve(right, r_s, r_tau)
        y = leave(step.y)
        unmet = torch.zeros_like(b)  # of the second equation: only in equalities, which have no s to make up for it
        equalities = times(A[:, rows], step.x) - b[:, rows] * step.tau
        unmet[:, rows] = right.primal[:, rows] - EQUALITY_SCALE * equalities
        slope, curvature = self.slope
        of_gap = (dot(slope, step.x) + dot(b, y))[:, None] - curvature * step.tau + step.kappa
        left = Residual(
            right.dual - times(A.mT, y) - self.program.curvature(step.x) - c * step.tau, unmet, right.gap - of_gap
        )
        more = self._solve(left, torch.zeros_like(r_s), torch.zeros_like(r_tau))
        step = Step(*(a + b for a, b in zip(step, more, strict=True)))
        s = b * step.tau - times(A, step.x) - part * primal
        s[:, rows] = 0
        return step, Point(step.x, y + leave(more.y), s, step.tau, step.kappa)

    def _solve(self, right: Residual, r_s: Tensor, r_tau: Tensor) -> Step:
        tau, kappa = self.point.tau, self.point.kappa
        r = r_s - right.primal
        numerator = dot(self.h, right.dual) + dot(self.g, r)
        d_tau = (numerator[:, None] + r_tau / tau - right.gap) / self.pivot
        x = _solve(self.L, right.dual - times(self.A.mT, r))
        y = r + times(self.A, x) - d_tau * self.f
        s = r_s - y
        s[:, self.frames.cones.equalities] = 0
        return Step(x + d_tau * self.d, s, y, d_tau, (r_tau - kappa * d_tau) / tau)


def _cholesky(S: Tensor) -> Tensor:
    """The factor of S, made positive definite where it is not; NaN if it is not finite."""
    diagonal = S.diagonal(dim1=-2, dim2=-1)
    for regularisation in REGULARISATION:
        diagonal.add_(regularisation * (diagonal + LEAST))
        L, info = torch.linalg.cholesky_ex(S)
        if not info.any():
            return L
    return torch.where((info > 0)[:, None, None], torch.nan, L)


def _solve(L: Tensor, r: Tensor) -> Tensor:
    return torch.cholesky_solve(r.unsqueeze(-1), L).squeeze(-1)
