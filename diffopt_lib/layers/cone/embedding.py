"""The homogeneous embedding of a cone program, and what its points prove.

The program, its dual, and their optimality conditions are

    min cᵀx  s.t.  Ax + s = b, s ∈ K;      max −bᵀy  s.t.  Aᵀy + c = 0, y ∈ K*;      sᵀy = 0.            (1)

The homogeneous self-dual embedding multiplies the data by a new variable τ ≥ 0 and gives the duality gap a slack κ ≥ 0:

    Aᵀy + cτ = 0,     Ax + s − bτ = 0,     cᵀx + bᵀy + κ = 0,      sᵀy = 0, τκ = 0                       (2)

It always has a solution. One with τ > 0 is, divided by τ, a solution of (1). One with κ > 0 proves that there is none:
bᵀy < 0 with Aᵀy = 0 that the program is infeasible, cᵀx < 0 with −Ax ∈ K that it is unbounded.

Source: Ye, Todd & Mizuno 1994.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import dot, largest, times
from ...solution import INFEASIBLE, RUNNING, SOLVED, UNBOUNDED
from ..cones.product import Cones, centre
from .program import Program, Triple, kkt_residual
from .scaling import Scaling


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
    c, A, b = program
    return Residual(
        times(A.mT, point.y) + c * point.tau,
        times(A, point.x) + point.s - b * point.tau,
        dot(c, point.x)[:, None] + dot(b, point.y)[:, None] + point.kappa,
    )


def begin(program: Program, cones: Cones) -> Point:
    """The start: x = 0, and s and y in the centres of their cones, with τ = κ = 1."""
    s, one = centre(program.b, cones), torch.ones_like(program.c[:, :1])
    return Point(torch.zeros_like(program.c), s, s, one, one)


def degree(cones: Cones) -> int:
    """(sᵀy + τκ) / μ where all complementary pairs have the product μ."""
    return cones.degree + 1


def examine(program: Program, point: Point, scaling: Scaling, target: float, tolerance: float) -> tuple[Tensor, Triple]:
    """What a point of the scaled embedding proves about the program as it was given: that (x, y, s)/τ solves it up to a
    residual of ``target``, or up to ``tolerance`` that it has no solution.

    Returns:
        The status ``(B,)``, and (x, y, s) of that program: near a solution where it says SOLVED, and certificates with
        bᵀy = −1 or cᵀx = −1 where it says INFEASIBLE or UNBOUNDED.
    """
    x, y, s = scaling.unscale(Triple(point.x, point.y, point.s))
    solved = kkt_residual(program, Triple(x / point.tau, y / point.tau, s / point.tau)) <= target
    cost, dual_cost = dot(program.c, x), dot(program.b, y)
    hopeless = (point.kappa > point.tau).squeeze(-1)
    infeasible = hopeless & (dual_cost < 0) & (largest(times(program.A.mT, y)) <= -tolerance * dual_cost)
    unbounded = hopeless & (cost < 0) & (largest(times(program.A, x) + s) <= -tolerance * cost)
    status = torch.full_like(cost, RUNNING, dtype=torch.int64)
    status[unbounded], status[infeasible], status[solved] = UNBOUNDED, INFEASIBLE, SOLVED
    of_x = torch.where(unbounded & ~infeasible & ~solved, -cost, point.tau.squeeze(-1))[:, None]
    of_y = torch.where(infeasible & ~solved, -dual_cost, point.tau.squeeze(-1))[:, None]
    return status, Triple(x / of_x, y / of_y, s / of_x)
