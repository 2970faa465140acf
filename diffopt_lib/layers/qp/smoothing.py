"""A smooth derivative for quadratic programs: that of a point on the central path.

Where an inequality becomes active y* has a kink, and in a linear program the derivative with respect to p is zero until
the solution jumps to another vertex. The points of the central path,

    Qy + p + Aᵀν + Gᵀλ = 0,   Ay = b,   λᵢ (h − Gy)ᵢ = μ,   λ > 0                                     (1)

are smooth functions of all the data for every μ > 0, and y_μ → y* as μ → 0. Their derivative averages over the kinks:
near one it interpolates between the derivatives of the two sides, over a range of λᵢ and sᵢ of about √μ. It is not the
derivative of y*, and away from kinks it is off by O(μ).

Chapter: book/2_differentiable/04_quadratic_programs. Source: Jittorntrum 1984 for the path's derivative; used as a
gradient by Tracy & Manchester, On the differentiability of the primal-dual interior-point method, 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...batch.products import contract, times_columns
from ...implicit import attach
from ...linear import LinearOperator
from ...solution import SolverError, failed_indices
from ...validate import NO_BOUND
from .derivative import Kept, KKTSystem, linear_equations
from .interior import newton
from .path import STEP_BACK, step_length
from .program import QP, SMALLEST, Point, added_up, residual


def with_central_path_derivative(
    z: Tensor, data: Sequence[Tensor], elastic: Tensor, smoothing: float, kept: Kept
) -> Tensor:
    """The solution z = (y, ν, λ) ``(*batch, n + k + m)`` with the derivative of the point of the path for μ."""
    mu = torch.full_like(elastic, smoothing)
    (point,) = opaque(partial(_central_point, kept=kept), z.detach(), *data, elastic, mu)
    point = attach(central_path_residual, partial(solve_central_path, kept=kept), point, *data, elastic, mu)
    return z.detach() + (point - point.detach())


def central_path_residual(
    z: Tensor, Q: Tensor, p: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor, elastic: Tensor, mu: Tensor
) -> Tensor:
    """Eq. (1) for z = (y, ν, λ), all with the same number of batch dimensions; elastic and μ ``(*batch, 1)``."""
    y, nu, lam = z.split((p.shape[-1], b.shape[-1], h.shape[-1]), dim=-1)
    free = h >= NO_BOUND
    G, h = torch.where(free.unsqueeze(-1), 0, G), torch.where(free, 1, h)
    stationarity, equality = linear_equations(y, nu, lam, Q, p, A, b, G, elastic)
    slack = h + elastic * lam - contract(G, y)
    return torch.cat([stationarity, equality, lam * slack - mu], dim=-1)


def solve_central_path(operator: LinearOperator, rhs: Tensor, kept: Kept) -> Tensor:
    """D_z R w = rhs, or its transpose, for the residual (1): a system (2) of :mod:`.qp.kkt` with weights λ/s."""
    z, *data, elastic, _mu = operator.parameters
    system = KKTSystem(kept, data, elastic, z.shape[:-1])
    point, (r, restore) = _point(system, z), system.columns(rhs)
    lam = point.lam
    if not operator.transposed:
        r = r._replace(inequality=-r.inequality / lam)
    step = system.solve(point.s / lam + system.qp.elastic, torch.ones_like(lam), r)
    if operator.transposed:
        step = step._replace(inequality=-step.inequality / lam)
    return restore(step)


def _central_point(z: Tensor, *parameters: Tensor, kept: Kept) -> tuple[Tensor]:
    """The point of the path for μ, from the solution z ``(*batch, n + k + m)``."""
    *data, elastic, mu = parameters
    system = KKTSystem(kept, data, elastic, z.shape[:-1])
    qp, solution, mu = system.qp, _point(system, z), system.column(mu).double()
    solution = replace(solution, s=solution.s.clamp_min(0))
    scaling = system.scaling
    if scaling is None:
        point = _walk(qp, solution, mu, system.batch)
    else:
        point = scaling.undo(_walk(scaling.apply(qp), scaling.scale(solution), scaling.c * mu, system.batch))
    return (torch.cat([point.y, point.nu, point.lam], dim=1).reshape(z.shape).to(z.dtype),)


def _point(system: KKTSystem, z: Tensor) -> Point:
    """z = (y, ν, λ) with the slack that belongs to it."""
    y, nu, lam = system.column(z).double().split(system.sizes, dim=1)
    return Point(y, nu, lam, system.qp.h + system.qp.elastic * lam - times_columns(system.qp.G, y))


def _walk(qp: QP, solution: Point, mu: Tensor, batch: torch.Size, max_iterations: int = 50) -> Point:
    """Damped Newton steps on (1) from a solution; an element that is NaN stays so."""
    d = solution.s - solution.lam
    root = (d.square() + 4 * mu).sqrt()
    point = Point(solution.y, solution.nu, (root - d) / 2, (root + d) / 2)  # sᵢ λᵢ = μ; the linear equations are off
    for _ in range(max_iterations):
        r = residual(qp, point)
        gap = point.s * point.lam - mu
        parts = [a.abs() / b.clamp_min(SMALLEST) for a, b in zip(r, added_up(qp, point), strict=True)]
        error = torch.cat([*parts, (gap / mu).abs()], dim=1).amax((1, 2))
        if (~(error > 1e-9)).all():
            return point
        dlam, ds, step = newton(qp, point, r)(gap)
        point = point.moved(step, ds, step_length(point.lam, point.s, dlam, ds, STEP_BACK))
    raise SolverError(
        "the central path was not found: no y satisfies the inequalities strictly. Solve with smoothing=0.",
        failed_indices((error > 1e-9).reshape(batch)),
    )
