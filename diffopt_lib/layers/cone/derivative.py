"""The residual map of a cone program, whose root is its solution, and linear systems with the derivative of that map.

With y = Π_{K*}(v) and s = y − v, which are in their cones and orthogonal for any v, the optimality conditions are the
equations

    R(x, v) = (Px + Aᵀy + c,   Ax + s − b) = 0                                                       (1)

This is the residual map of the homogeneous embedding with τ = 1, where the map has lost its one-dimensional kernel.
With D = DΠ_{K*}(v) its derivative is

    D R = [ P    AᵀD   ]
          [ A   D − I ]                                                                             (2)

It is that of the scaled program (:mod:`.scaling`): there y and s are of one size, so that v does not round one of them
away, and the rows of (2) are, too. The scaling counts as constant. Any scaling gives the same solution, so none has an
influence on the derivative.

Source: Busseti, Moursi & Boyd 2019, §3; Agrawal et al., Differentiating through a cone program, 2019, §3.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ...batch.products import contract, largest, or_one
from ...linear import LinearOperator, condition_estimate, lu_factor
from ...solution import SolverError, failed_indices
from ..cones.product import Cones, dual_projection_jacobian, project_rows
from ..cones.slope import linearise
from .kkt import factorise
from .program import Program
from .scaling import Scaling, shared

REGULARISATION = 1e-9
ROUNDING = 1e-14


def residual_map(
    z: Tensor,
    c: Tensor,
    A: Tensor,
    b: Tensor,
    s: Tensor,
    E: Tensor,
    F: Tensor,
    of_b: Tensor,
    of_c: Tensor,
    *P: Tensor,
    cones: Cones,
) -> Tensor:
    """R of eq. (1) for the scaled program, at its z = (x, v) ``(*batch, n + m)`` with the slack s; differentiable."""
    m, n = A.shape[-2:]
    x, v = z.split((n, m), dim=-1)
    y = v + with_projection_derivative(s, v, cones)
    dual = F * contract(A.mT, E * y) + of_c * F * c
    for matrix in P:
        dual = dual + of_c / of_b * F * contract(matrix, F * x)
    return torch.cat([dual, E * contract(A, F * x) + y - v - Scaling(E, F, of_b, of_c).of_bounds(b)], dim=-1)


def with_projection_derivative(s: Tensor, v: Tensor, cones: Cones) -> Tensor:
    """s, which is known to be Π_K(−v), with the derivative that this gives it.

    Not by :func:`diffopt_lib.implicit.attach`: the derivative of s − Π_K(−v) in s is constant, and torch.func fails on
    gradients that are missing for that reason, in forward mode over another mode.
    """
    projected = project_rows(-v, cones, s.detach())
    return s.detach() + (projected - projected.detach())


def residual_jacobian(v: Tensor, A: Tensor, P: Tensor | None, cones: Cones) -> Tensor:
    """Eq. (2), ``(*batch, n + m, n + m)``, for v ``(*batch, m)``."""
    m, n = A.shape[-2:]
    D = dual_projection_jacobian(v, cones)
    batch = torch.broadcast_shapes(v.shape[:-1], A.shape[:-2])
    J = A.new_zeros(*batch, n + m, n + m)
    if P is not None:
        J[..., :n, :n] = P
    AD = A.mT @ D
    # D is I minus another matrix. What rounding leaves of a 0 there must not be scaled up to a regular row.
    J[..., :n, n:] = torch.where(AD.abs() > ROUNDING * A.abs().sum(-2).unsqueeze(-1), AD, 0)
    J[..., n:, :n] = A
    J[..., n:, n:] = D - torch.eye(m, dtype=A.dtype, device=A.device)
    return J


def solve_derivative(operator: LinearOperator, rhs: Tensor, cones: Cones, singular: str = "raise") -> Tensor:
    """D R w = rhs, or its transpose, for the residual (1) at ``operator.parameters``, which are those of
    :func:`residual_map`.

    Often D R is singular and the derivative that was asked for exists all the same: with redundant equalities the
    multipliers are not unique but x is; an epigraph variable of an inactive constraint is not unique but the others
    are. Then the right-hand side is in the range of the matrix, which is all that the solvers here need.

    Raises:
        SolverError: the derivative is not determined, and ``singular`` is ``"raise"``.
    """
    v, A, P, near = _scaled(operator)
    n, sign = A.shape[-1], 1 if operator.transposed else -1
    kkt = factorise(A, P, linearise(v, cones, near)[1])
    # The second row of (2) has the sign of the residual, that of :mod:`.kkt` the opposite one.
    right = (rhs[..., :n, None], sign * rhs[..., n:, None])
    (p, q), error = kkt.refined(right, operator.transposed)
    if _unsolved(error, largest(rhs)).any():
        return _solve_dense(operator, rhs, cones, singular)
    return torch.cat([p, -sign * q], dim=-2).squeeze(-1)


def _scaled(operator: LinearOperator) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """v, the scaled A and P, and s; where all of a batch share one scaling, matrices stay shared."""
    z, c, A, b, near, E, F, of_b, of_c, *rest = operator.parameters
    P = rest[0] if rest else None
    scaling = Scaling(shared(E), shared(F), of_b, of_c)
    program = scaling.of(Program(c, A, b, P))
    return z[..., A.shape[-1] :], program.A, program.P, near


def _solve_dense(operator: LinearOperator, rhs: Tensor, cones: Cones, singular: str) -> Tensor:
    """The same with the whole matrix, equilibrated, where Cholesky's factorisation was not good enough.

    Turning the sign of the second row of (2) makes the matrix monotone, so that its kernel is complementary to its
    range and a little on the diagonal makes it regular. Iterative refinement takes the effect of that out again, unless
    the right-hand side is not in the range.
    """
    v, A, P, _ = _scaled(operator)
    n = A.shape[-1]
    J, b = residual_jacobian(v, A, P, cones), rhs.unsqueeze(-1)
    sign = torch.ones_like(J[..., :1])
    sign[..., n:, :] = -1
    J = sign * J
    J = J.mT if operator.transposed else J
    E = 1 / or_one(J.abs().amax(-1)).unsqueeze(-1)
    F = 1 / or_one((E * J).abs().amax(-2)).unsqueeze(-1)
    J = E * J * F.mT
    if operator.transposed:
        w = sign * F * _solve_in_range(J, E * b, singular)
    else:
        w = F * _solve_in_range(J, E * sign * b, singular)
    return w.squeeze(-1)


def _solve_in_range(J: Tensor, b: Tensor, singular: str) -> Tensor:
    size = largest(b.squeeze(-1))
    w, left = _solve_refined(J, J, b)
    failed = _unsolved(left, size)
    if failed.any():
        regular = J.clone()
        regular.diagonal(dim1=-2, dim2=-1).add_(REGULARISATION)
        in_range, left = _solve_refined(regular, J, b)
        w = torch.where(failed[..., None, None], in_range, w)
        failed = failed & _unsolved(left, size)
    if failed.any() and singular == "raise":
        raise SolverError(
            "the solution of the cone program is not unique, or it is degenerate: the derivative is not determined. "
            'singular="least_norm" gives the least-norm one, with a warning.',
            failed_indices(failed),
        )
    if failed.any():
        warnings.warn("degenerate cone program: returning the least-norm derivative", stacklevel=2)
        w = torch.where(failed[..., None, None], torch.linalg.pinv(J, rtol=1e-10) @ b, w)
    return w


def _solve_refined(factored: Tensor, J: Tensor, b: Tensor, rounds: int = 4) -> tuple[Tensor, Tensor]:
    """J w = b by iterative refinement with the factors of a matrix near J; and the size of what is left of b."""
    LU, pivots, _ = lu_factor(factored)
    well = condition_estimate(factored, LU, pivots) < 0.1 / torch.finfo(J.dtype).eps
    w = torch.zeros_like(b)
    left = b
    for _ in range(rounds):
        w = w + torch.linalg.lu_solve(LU, pivots, left)
        left = b - J @ w
        if not (largest(left.squeeze(-1)) > 1e-12 * largest(b.squeeze(-1))).any():
            break
    return w, torch.where(well, largest(left.squeeze(-1)), torch.inf)


def _unsolved(left: Tensor, size: Tensor) -> Tensor:
    """Where a right-hand side of that size has not been solved for. One that is marked NaN stays NaN and is nobody's
    error, and without one there is no question."""
    return torch.isfinite(size) & (size > 0) & ~(left <= 1e-8 * size)
