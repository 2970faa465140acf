"""The linear equations of a step of :mod:`.cone_interior`, by one Cholesky factorisation.

In the frames of :mod:`.cone_frames`, where d̃s = G ds, d̃y = G⁻ᵀdy, Ã = GA, b̃ = Gb, a step (dx, dy, ds, dτ, dκ) solves

    Ãᵀd̃y + c dτ = r₁,     Ãdx + d̃s − b̃dτ = Gr₂,     cᵀdx + b̃ᵀd̃y + dκ = r₃,
    d̃s + d̃y = r_s,        κ dτ + τ dκ = r_τ.                                                       (1)

Eliminating d̃s, d̃y and dκ leaves S = ÃᵀÃ with a border for dτ. With p = S⁻¹Ãᵀb̃, the least-squares solution of
Ãp = b̃, with e = b̃ − Ãp, and with q = S⁻¹c:

    (κ/τ + ‖e‖² + cᵀq) dτ = (p + q)ᵀr₁ + (e − Ãq)ᵀ(r_s − Gr₂) + r_τ/τ − r₃                                    (2)

Near a solution all of (2) is small, because (x, y, s, τ) times a number is a solution, too. Written with e, it does not
come as a difference of large numbers. The entries of S range over many orders of magnitude there, and iterative
refinement of (1), which does not, takes out the rounding errors.

Source: Wright, Primal-Dual Interior-Point Methods, 1997, chapter 11, for normal equations and their condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cone_embedding import Point, Residual, residual
from .cone_frames import Frames
from .cone_program import Program, dot, times

# On the diagonal of S, relative to its entries: next to nothing, and what helps where that does not.
REGULARISATION = (2e-16, 1e-12)
LEAST = 1e-6


@dataclass(frozen=True)
class Step:
    """A step of all variables, and (d̃s, d̃y), the same in the frames."""

    of: Point
    s: Tensor
    y: Tensor

    def plus(self, other: Step) -> Step:
        both = zip(vars(self.of).values(), vars(other.of).values(), strict=True)
        return Step(Point(*(a + b for a, b in both)), self.s + other.s, self.y + other.y)


@dataclass(frozen=True)
class Newton:
    """(1) at a point, factorised.

    Attributes:
        A, L: Ã ``(B, m, n)`` and the Cholesky factor of S.
        p, q: as in (2), ``(B, n)``.
        e, Aq: e and Ãq, ``(B, m)``.
        pivot: the factor on the left of (2), ``(B, 1)``.
    """

    program: Program
    point: Point
    frames: Frames
    A: Tensor
    L: Tensor
    p: Tensor
    q: Tensor
    e: Tensor
    Aq: Tensor
    pivot: Tensor

    @classmethod
    def at(cls, program: Program, point: Point, frames: Frames) -> Newton:
        A, b = frames.matrix.times(program.A), frames.matrix.times_vector(program.b)
        L = _cholesky(A.mT @ A)
        p, q = torch.cholesky_solve(torch.stack([times(A.mT, b), program.c], dim=-1), L).unbind(-1)
        e = b - times(A, p)
        more = _solve(L, times(A.mT, e))
        p, e, Aq = p + more, e - times(A, more), times(A, q)
        pivot = point.kappa / point.tau + (e.square().sum(-1) + dot(program.c, q))[:, None]
        return cls(program, point, frames, A, L, p, q, e, Aq, pivot)

    def solve(self, right: Residual, r_s: Tensor, r_tau: Tensor) -> Step:
        """The step for r₁, r₂, r₃ in ``right``, r_s ``(B, m)`` and r_τ ``(B, 1)``."""
        tau, kappa = self.point.tau, self.point.kappa
        scaled = r_s - self.frames.matrix.times_vector(right.primal)
        numerator = dot(self.p + self.q, right.dual) + dot(self.e - self.Aq, scaled)
        d_tau = (numerator[:, None] + r_tau / tau - right.gap) / self.pivot
        x = _solve(self.L, right.dual - times(self.A.mT, scaled))
        y = scaled + times(self.A, x) - d_tau * (self.e + self.Aq)
        x = x + d_tau * (self.p - self.q)
        # The slack from the second equation, which then holds exactly; equalities have none.
        s = right.primal - times(self.program.A, x) + self.program.b * d_tau
        s[:, : self.frames.cones.zero] = 0
        step = Point(x, self.frames.matrix.mT.times_vector(y), s, d_tau, (r_tau - kappa * d_tau) / tau)
        return Step(step, r_s - y, y)

    def solve_refined(self, right: Residual, r_s: Tensor, r_tau: Tensor) -> Step:
        """The same, and once more for what that leaves of the first three equations."""
        step = self.solve(right, r_s, r_tau)
        done = residual(self.program, step.of)
        equalities = slice(self.frames.cones.zero)
        primal = torch.zeros_like(done.primal)
        primal[:, equalities] = (right.primal - done.primal)[:, equalities]
        left = Residual(right.dual - done.dual, primal, right.gap - done.gap)
        return step.plus(self.solve(left, torch.zeros_like(r_s), torch.zeros_like(r_tau)))


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
