"""The homogeneous embedding of a cone program, and what its points prove.

The optimality conditions of the program (:mod:`.program`) are

    Px + Aᵀy + c = 0,     Ax + s = b,     sᵀy = 0,      s ∈ K, y ∈ K*                                     (1)

The homogeneous embedding multiplies the data by a new variable τ ≥ 0 and gives the duality gap a slack κ ≥ 0:

    Px + Aᵀy + cτ = 0,    Ax + s − bτ = 0,    xᵀPx/τ + cᵀx + bᵀy + κ = 0,     sᵀy = 0, τκ = 0                (2)

It always has a solution. One with τ > 0 is, divided by τ, a solution of (1). One with κ > 0 proves that there is none:
bᵀy < 0 with Aᵀy = 0 that the program is infeasible, cᵀx < 0 with −Ax ∈ K and Px = 0 that it is unbounded.

Source: Ye, Todd & Mizuno 1994; with a quadratic objective, Goulart & Chen, Clarabel, 2024, §2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import dot, largest, times
from ...solution import INFEASIBLE, RUNNING, SOLVED, UNBOUNDED
from ..cones.product import Cones, centre
from .program import Program, Triple, equations, violation


class Point(NamedTuple):
    """The variables of (2): x ``(B, n)``, y and s ``(B, m)``, τ and κ ``(B, 1)``; or a step of theirs."""

    x: Tensor
    y: Tensor
    s: Tensor
    tau: Tensor
    kappa: Tensor

    def moved(self, step: Point, length: Tensor) -> Point:
        """The point plus length ``(B, 1)`` times the step; the point itself, whatever the step, where that is 0."""
        pairs = zip(self, step, strict=True)
        return Point(*(torch.where(length > 0, here + length * there, here) for here, there in pairs))

    def gap(self) -> Tensor:
        """sᵀy + τκ, ``(B, 1)``."""
        return dot(self.s, self.y)[:, None] + self.tau * self.kappa


class Residual(NamedTuple):
    """The left-hand sides of the three equations of (2): ``(B, n)``, ``(B, m)`` and ``(B, 1)``."""

    dual: Tensor
    primal: Tensor
    gap: Tensor

    def times(self, factor: float | Tensor) -> Residual:
        return Residual(*(factor * part for part in self))


def residual(program: Program, point: Point) -> Residual:
    (c, A, b, P), (x, y, s, tau, kappa) = program, point
    of_x = times(A.mT, y) + c * tau
    gap = dot(c, x)[:, None] + dot(b, y)[:, None] + kappa
    if P is not None:
        curvature = times(P, x)
        of_x, gap = of_x + curvature, gap + dot(x, curvature)[:, None] / tau
    return Residual(of_x, times(A, x) + s - b * tau, gap)


def begin(program: Program, cones: Cones) -> Point:
    """The start: x = 0, and s and y in the centres of their cones, with τ = κ = 1."""
    s, one = centre(program.b, cones), torch.ones_like(program.c[:, :1])
    return Point(torch.zeros_like(program.c), s, s, one, one)


def degree(cones: Cones) -> int:
    """(sᵀy + τκ) / μ where all complementary pairs have the product μ."""
    return cones.degree + 1


def examine(program: Program, size: Program, point: Point, target: float) -> Tensor:
    """What a point seems to prove, up to ``target``, ``(B,)``: that (x, y, s)/τ solves the program (SOLVED), or that y
    or x is a certificate (INFEASIBLE, UNBOUNDED); else RUNNING."""
    x, y, s, tau, kappa = point
    at = Triple(x / tau, y / tau, s / tau)
    solved = violation(equations(program, at), size, at) <= target
    cost, dual_cost = dot(program.c, x), dot(program.b, y)
    hopeless = (kappa > tau).squeeze(-1)
    infeasible = hopeless & (dual_cost < 0) & (largest(times(program.A.mT, y)) <= -target * dual_cost)
    ray = torch.maximum(largest(times(program.A, x) + s), largest(program.curvature(x)))
    unbounded = hopeless & (cost < 0) & (ray <= -target * cost)
    status = torch.full_like(cost, RUNNING, dtype=torch.int64)
    status[unbounded], status[infeasible], status[solved] = UNBOUNDED, INFEASIBLE, SOLVED
    return status
