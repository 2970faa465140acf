"""The residual map of a cone program at its solution: refinement by a semismooth Newton method, and linear systems with
its derivative.

With y = Π_{K*}(v) and s = y − v, which are in their cones and orthogonal for any v, the optimality conditions of
min cᵀx s.t. Ax + s = b, s ∈ K are the equations

    R(x, v) = (Aᵀy + c,   Ax + s − b) = 0                                                            (1)

This is the residual map of the homogeneous embedding with τ = 1, where the map has lost its one-dimensional kernel.
With D = DΠ_{K*}(v) its derivative is

    D R = [ 0    AᵀD   ]
          [ A   D − I ]                                                                             (2)

Source: Busseti, Moursi & Boyd 2019, §3; Agrawal et al., Differentiating through a cone program, 2019, §3.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..linear import LinearOperator, condition_estimate
from ..solution import SolverError, failed_indices
from .cone_scaling import Program
from .cones import Cones, dual_projection_jacobian, project_rows

EQUALITY_REGULARISATION = 1e-9


def residual_map(x: Tensor, v: Tensor, c: Tensor, A: Tensor, b: Tensor, cones: Cones) -> Tensor:
    """R of eq. (1), ``(*batch, n + m)``; differentiable."""
    y = v + project_rows(-v, cones)
    dual = (A.mT @ y.unsqueeze(-1)).squeeze(-1) + c
    primal = (A @ x.unsqueeze(-1)).squeeze(-1) + y - v - b
    return torch.cat([dual, primal], dim=-1)


def residual_jacobian(v: Tensor, A: Tensor, cones: Cones) -> Tensor:
    """Eq. (2), ``(*batch, n + m, n + m)``, for v ``(*batch, m)``."""
    m, n = A.shape[-2:]
    D = dual_projection_jacobian(v, cones)
    batch = torch.broadcast_shapes(v.shape[:-1], A.shape[:-2])
    J = A.new_zeros(*batch, n + m, n + m)
    J[..., :n, n:] = A.mT @ D
    J[..., n:, :n] = A
    J[..., n:, n:] = D - torch.eye(m, dtype=A.dtype, device=A.device)
    return J


def refine(program: Program, x: Tensor, v: Tensor, cones: Cones, steps: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Newton steps on (1) from (x, v), each element as long as its residual shrinks.

    Where D R is singular, because the solution is not unique, the step is the least-norm one.

    Returns:
        x ``(B, n)``, v ``(B, m)`` and the number of steps taken ``(B,)``.
    """
    x, v = x.clone(), v.clone()
    n = x.shape[-1]
    index = torch.arange(len(x), device=x.device)
    taken = torch.zeros_like(index)
    for _ in range(steps):
        part = program.select(index)
        R = residual_map(x[index], v[index], part.c, part.A, part.b, cones)
        size = _size(R)
        rounding = 4 * torch.finfo(x.dtype).eps * (_size(part.c) + _size(part.b) + _size(x[index]) + _size(v[index]))
        running = (size > rounding) & torch.isfinite(size)
        index, R, size = index[running], R[running], size[running]
        if not len(index):
            break
        part = program.select(index)
        J = residual_jacobian(v[index], part.A, cones)
        z = torch.cat([x[index], v[index]], dim=-1)
        improved = torch.zeros_like(size, dtype=torch.bool)
        for solve in (_newton_step, _least_norm_step):
            rows = (~improved).nonzero().squeeze(-1)
            if not len(rows):
                break
            trial = z[rows] + solve(J[rows], -R[rows])
            trial = torch.where(torch.isfinite(trial).all(-1, keepdim=True), trial, z[rows])
            local = part.select(rows)
            new = _size(residual_map(trial[:, :n], trial[:, n:], local.c, local.A, local.b, cones))
            better = new < 0.5 * size[rows]
            improved[rows[better]] = True
            z[rows[better]] = trial[better]
        index, z = index[improved], z[improved]
        x[index], v[index] = z[:, :n], z[:, n:]
        taken[index] += 1
    return x, v, taken


def _newton_step(J: Tensor, rhs: Tensor) -> Tensor:
    step, _ = torch.linalg.solve_ex(J, rhs)
    return step


def _least_norm_step(J: Tensor, rhs: Tensor) -> Tensor:
    return (torch.linalg.pinv(J, rtol=1e-10) @ rhs.unsqueeze(-1)).squeeze(-1)


def _size(R: Tensor) -> Tensor:
    return R.abs().amax(-1) if R.shape[-1] else R.new_zeros(R.shape[:-1])


def solve_derivative(operator: LinearOperator, rhs: Tensor, cones: Cones, singular: str = "raise") -> Tensor:
    """D R w = rhs, or its transpose, for the residual (1) at ``operator.parameters`` = (z, c, A, b).

    Equalities may be redundant: their multipliers are not unique then, but x is. A little on the diagonal of their rows
    makes the matrix regular, and iterative refinement takes its effect out again, if the right-hand side allows it.

    Raises:
        SolverError: the derivative is not determined, and ``singular`` is ``"raise"``.
    """
    z, _, A, _ = operator.parameters
    n = A.shape[-1]
    J = residual_jacobian(z[..., n:], A, cones)
    J = J.mT if operator.transposed else J
    rows = _inverse(J.abs().amax(-1)).unsqueeze(-1)
    columns = _inverse((rows * J).abs().amax(-2)).unsqueeze(-1)
    J, b = rows * J * columns.mT, rows * rhs.unsqueeze(-1)
    regular = J.clone()
    regular.diagonal(dim1=-2, dim2=-1)[..., n : n + cones.zero] += EQUALITY_REGULARISATION
    LU, pivots, _ = torch.linalg.lu_factor_ex(regular)
    w = torch.zeros_like(b)
    for _ in range(4 if cones.zero else 2):
        w = w + torch.linalg.lu_solve(LU, pivots, b - J @ w)
    size, left = _size(b.squeeze(-1)), _size((b - J @ w).squeeze(-1))
    ill = ~(condition_estimate(regular, LU, pivots) < 0.1 / torch.finfo(J.dtype).eps)
    # An element already marked NaN stays NaN and is nobody's error, and without a right-hand side there is no question.
    failed = torch.isfinite(size) & (size > 0) & (ill | ~(left <= 1e-7 * size))
    if failed.any() and singular == "raise":
        raise SolverError(
            "the solution of the cone program is not unique, or it is degenerate: the derivative is not determined. "
            'singular="least_norm" gives the least-norm one, with a warning.',
            failed_indices(failed),
        )
    if failed.any():
        warnings.warn("degenerate cone program: returning the least-norm derivative", stacklevel=2)
        least_norm = torch.linalg.pinv(J, rtol=1e-10) @ b
        w = torch.where(failed[..., None, None], least_norm, w)
    return (columns * w).squeeze(-1)


def _inverse(size: Tensor) -> Tensor:
    return 1 / torch.where(size > 0, size, 1)
