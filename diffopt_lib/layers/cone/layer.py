"""Cone programs as a differentiable layer.

    min cᵀx  s.t.  Ax + s = b, s ∈ K;      dual:  max −bᵀy  s.t.  Aᵀy + c = 0, y ∈ K*                     (1)

The solver (:mod:`.solver`) is an interior point method. Its result is polished on the residual map
(:mod:`.derivative`),

    R(x, v) = (Aᵀy + c,  Ax + s − b) = 0,      y = Π_{K*}(v),  s = y − v                               (2)

to which the implicit function theorem then applies: D_θ(x, v) = −(D R)⁻¹ D_θ R, and y and s follow by differentiating
the projection. That is the derivative of Agrawal et al. (2019), with the homogeneous variable τ held at 1.

Where the solution is on a kink of the projection (a constraint that is active with multiplier zero), there is no
derivative; (2) then gives that of one side, as ReLU does at 0.

Chapter: book/2_differentiable/05_cone_programs. Source: Agrawal, Barratt, Boyd, Busseti & Moursi, Differentiating
through a cone program, 2019; Amos, thesis, 2019, §7.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.products import dot
from ...batch.shapes import align
from ...implicit import attach
from ...solution import SOLVED, mark_failures
from ...validate import check_finite, check_floating, check_option, check_same_kind
from ..cones.product import Cones, project_rows
from .derivative import residual_map, solve_derivative
from .solver import solve


@dataclass(frozen=True)
class ConeSolution:
    """The solution of a batch of cone programs, eq. (1).

    Attributes:
        x: minimiser, ``(*batch, n)``.
        y: dual variables in K*, ``(*batch, m)``.
        s: slack b − Ax in K, ``(*batch, m)``.
        value: cᵀx, ``(*batch,)``. These four carry gradients.
        converged, iterations, residual: ``(*batch,)``; the residual is the largest violation of the optimality
            conditions, each relative to 1 + the size of its data.
        status: ``(*batch,)``, int64: 1 solved, 2 infeasible, 3 unbounded, 4 not converged.
        infeasible_because: y in K* with Aᵀy = 0 and bᵀy = −1 where the status is 2, ``(*batch, m)``, NaN elsewhere.
        unbounded_because: x with −Ax in K and cᵀx = −1 where the status is 3, ``(*batch, n)``, NaN elsewhere.
    """

    x: Tensor
    y: Tensor
    s: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor
    infeasible_because: Tensor
    unbounded_because: Tensor


@full_precision
def solve_cone(
    c: Tensor,
    A: Tensor,
    b: Tensor,
    cones: Cones,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
    on_failure: Literal["raise", "nan"] = "raise",
    singular: Literal["raise", "least_norm"] = "raise",
    init: ConeSolution | None = None,
) -> ConeSolution:
    """Solve (1) for every element of a batch; differentiable in c, A and b, twice where the projection is.

    The arithmetic is in float64 whatever the dtype of the arguments, which is the dtype of the result.

    Args:
        c: ``(*batch, n)``.
        A: ``(*batch, m, n)``.
        b: ``(*batch, m)``. Batch dimensions broadcast against each other; a shared A is not copied.
        cones: what the m rows of b − Ax have to lie in.
        tolerance: on ``residual``. The solution is usually polished to some 1e-14.
        max_iterations: of the path; 5 to 12 are usual.
        on_failure: ``"raise"``, or ``"nan"`` to mark elements that failed, and their gradients, NaN.
        singular: what the backward pass does where the derivative is not determined: ``"raise"``, or ``"least_norm"``
            for the least-norm solution of its linear system, with a warning. That one is right in the directions that
            keep all active constraints active, which are all there are if only some multipliers fail to be unique.
        init: a solution of a similar program. At the solution it costs at most one iteration; where it does not lead to
            one in a few Newton steps, the path is followed from its beginning.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input.
        SolverError: elements that are infeasible, unbounded, or did not converge, told apart; in the backward pass, a
            solution that is not unique or is degenerate.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    check_option("singular", singular, ("raise", "least_norm"))
    _check(c, A, b, cones)
    dtype, (m, n) = c.dtype, A.shape[-2:]
    batch, (c, A, b) = align(("c", c.double(), 1), ("A", A.double(), 2), ("b", b.double(), 1))
    start = torch.zeros(*batch, n + m, dtype=torch.float64, device=A.device)
    if init is not None:
        start = torch.cat([init.x, init.y - init.s], dim=-1).detach().double().expand(*batch, n + m)

    def algorithm(start: Tensor, c: Tensor, A: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return solve(start, c, A, b, cones, init is not None, tolerance, max_iterations, on_failure)

    z, near, gap, status, iterations, residual, infeasible_because, unbounded_because = opaque(
        algorithm, start, c, A, b
    )
    converged = status == SOLVED
    adjoint = partial(solve_derivative, cones=cones, singular=singular)
    x, v = attach(partial(residual_map, cones=cones), adjoint, z, c, A, b).split((n, m), dim=-1)
    y = v + project_rows(-v, cones, near) + gap
    x, y, s = (mark_failures(t, converged, on_failure).to(dtype) for t in (x, y, y - v))
    return ConeSolution(
        x,
        y,
        s,
        dot(c.to(dtype), x),
        converged,
        iterations,
        residual.to(dtype),
        status,
        infeasible_because.to(dtype),
        unbounded_because.to(dtype),
    )


def _check(c: Tensor, A: Tensor, b: Tensor, cones: Cones) -> None:
    named = [("c", c, 1), ("A", A, 2), ("b", b, 1)]
    for name, t, dims in named:
        check_floating(name, t)
        if t.ndim < dims:
            raise ValueError(f"{name} must have at least {dims} dimensions, got shape {tuple(t.shape)}")
        check_finite(name, t)
    check_same_kind("c", c, [("A", A), ("b", b)])
    if not isinstance(cones, Cones):
        raise ValueError(f"cones must be a Cones, got {type(cones).__name__}")
    m, n = A.shape[-2:]
    if c.shape[-1] != n or n == 0:
        raise ValueError(f"c must have one entry for each column of A, {n} ≥ 1, got shape {tuple(c.shape)}")
    if m != cones.rows or b.shape[-1] != m:
        raise ValueError(
            f"A and b must have {cones.rows} rows for these cones, got shapes {tuple(A.shape)} and {tuple(b.shape)}"
        )
