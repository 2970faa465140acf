"""Cone programs as a differentiable layer.

    min ½ xᵀPx + cᵀx  s.t.  Ax + s = b, s ∈ K;      max −½ xᵀPx − bᵀy  s.t.  Px + Aᵀy + c = 0, y ∈ K*         (1)

The solver (:mod:`.solver`) is an interior point method. Its result is refined on the residual map (:mod:`.derivative`),

    R(x, v) = (Px + Aᵀy + c,  Ax + s − b) = 0,      y = Π_{K*}(v),  s = y − v                               (2)

to which the implicit function theorem then applies: D_θ(x, v) = −(D R)⁻¹ D_θ R, and y and s follow by differentiating
the projection. That is the derivative of Agrawal et al. (2019), with the homogeneous variable τ held at 1.

Where the solution is on a kink of the projection (a constraint that is active with multiplier zero), there is no
derivative; (2) then gives that of one side, as ReLU does at 0.

Chapter: book/2_differentiable/05_cone_programs. Source: Agrawal, Barratt, Boyd, Busseti & Moursi, Differentiating
through a cone program, 2019; Amos, thesis, 2019, §7; Goulart & Chen, Clarabel, 2024, for quadratic objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.products import contract, dot
from ...batch.shapes import align
from ...implicit import attach
from ...solution import SOLVED, mark_failures
from ...validate import (
    check_finite,
    check_floating,
    check_limits,
    check_option,
    check_same_kind,
    parts_of_guess,
    values_visible,
)
from ..cones.product import Cones
from .derivative import residual_map, solve_derivative, with_projection_derivative
from .program import Triple
from .scaling import Scaling
from .solver import Settings, solve


@dataclass(frozen=True)
class ConeSolution:
    """The solution of a batch of cone programs, eq. (1).

    Attributes:
        x: minimiser, ``(*batch, n)``.
        y: dual variables in K*, ``(*batch, m)``.
        s: slack b − Ax in K, ``(*batch, m)``.
        value: ½ xᵀPx + cᵀx, ``(*batch,)``. These four carry gradients.
        converged, iterations, residual: ``(*batch,)``; the residual is the largest violation of the optimality
            conditions, that of each row relative to the sum of its own terms.
        status: ``(*batch,)``, int64: 1 solved, 2 infeasible, 3 unbounded, 4 not converged.
        confirmed: whether refinement brought the residual to rounding level, ``(*batch,)``. Where it did not, and
            ``converged`` is True all the same, the solution is right to the tolerance, which a warning says.
        infeasible_because: y in K* with Aᵀy = 0 and bᵀy = −1 where the status is 2, ``(*batch, m)``, NaN elsewhere.
        unbounded_because: x with −Ax in K, Px = 0 and cᵀx = −1 where the status is 3, ``(*batch, n)``, NaN elsewhere.
    """

    x: Tensor
    y: Tensor
    s: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor
    confirmed: Tensor
    infeasible_because: Tensor
    unbounded_because: Tensor


@full_precision
def solve_cone(
    c: Tensor,
    A: Tensor,
    b: Tensor,
    cones: Cones,
    P: Tensor | None = None,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
    on_failure: Literal["raise", "nan"] = "raise",
    singular: Literal["raise", "least_norm"] = "raise",
    init: ConeSolution | None = None,
) -> ConeSolution:
    """Solve (1) for every element of a batch; differentiable in c, A, b and P, twice where the projection is.

    The arithmetic is in float64 whatever the dtype of the arguments, which is the dtype of the result.

    Args:
        c: ``(*batch, n)``.
        A: ``(*batch, m, n)``.
        b: ``(*batch, m)``. Batch dimensions broadcast against each other; a shared A is not copied. In a nonnegative
            row, 1e20 and more (∞, too) is no bound.
        cones: what the m rows of b − Ax have to lie in.
        P: ``(*batch, n, n)``, positive semidefinite; only its symmetric part matters. None is 0.
        tolerance: on ``residual``, where refinement does not reach rounding level, as it usually does.
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
    check_limits(tolerance, max_iterations)
    _check(c, A, b, P, cones)
    dtype, (m, n) = c.dtype, A.shape[-2:]
    named = [("c", c, 1), ("A", A, 2), ("b", b, 1), *([] if P is None else [("P", 0.5 * (P + P.mT), 2)])]
    batch, data = align(*((name, t.double(), dims) for name, t, dims in named))
    start = torch.zeros(*batch, n + m, dtype=torch.float64, device=A.device)
    if init is not None:
        x, y, s = parts_of_guess(init, ConeSolution, batch, {"x": n, "y": m, "s": m}, "c", c)
        start = torch.cat([x, y - s], dim=-1).double()
    settings = Settings(tolerance, max_iterations, on_failure, init is not None)

    z, s, *scales, status, confirmed, iterations, residual, infeasible, unbounded = opaque(
        partial(solve, cones, settings), start, *data
    )
    converged = status == SOLVED
    c, A, b, *quadratic = data
    z = attach(
        partial(residual_map, cones=cones),
        partial(solve_derivative, cones=cones, singular=singular),
        z, c, A, b, s, *scales, *quadratic,
    )  # fmt: skip
    x, v = z.split((n, m), dim=-1)
    y = v + with_projection_derivative(s, v, cones)
    scaling = Scaling(*scales)
    x, y, s = scaling.unscale(Triple(x, y, y - v))
    if not values_visible(scaling.E) or (scaling.E == 0).any():
        s = torch.where(scaling.E == 0, b - contract(A, x), s)
    x, y, s = (mark_failures(t, converged, on_failure) for t in (x, y, s))
    value = sum((0.5 * dot(x, contract(P, x)) for P in quadratic), dot(c, x))
    x, y, s, value = (t.to(dtype) for t in (x, y, s, value))
    return ConeSolution(
        x,
        y,
        s,
        value,
        converged,
        iterations,
        residual.to(dtype),
        status,
        confirmed,
        infeasible.to(dtype),
        unbounded.to(dtype),
    )


def _check(c: Tensor, A: Tensor, b: Tensor, P: Tensor | None, cones: Cones) -> None:
    named = [("c", c, 1), ("A", A, 2), ("b", b, 1), *([] if P is None else [("P", P, 2)])]
    for name, t, dims in named:
        check_floating(name, t)
        if t.ndim < dims:
            raise ValueError(f"{name} must have at least {dims} dimensions, got shape {tuple(t.shape)}")
    check_same_kind("c", c, [(name, t) for name, t, _ in named[1:]])
    if not isinstance(cones, Cones):
        raise ValueError(f"cones must be a Cones, got {type(cones).__name__}")
    m, n = A.shape[-2:]
    if c.shape[-1] != n or n == 0:
        raise ValueError(f"c must have one entry for each column of A, {n} ≥ 1, got shape {tuple(c.shape)}")
    if P is not None and P.shape[-2:] != (n, n):
        raise ValueError(f"P must be {n} × {n} as A has {n} columns, got shape {tuple(P.shape)}")
    if m != cones.rows or b.shape[-1] != m:
        raise ValueError(
            f"A and b must have {cones.rows} rows for these cones, got shapes {tuple(A.shape)} and {tuple(b.shape)}"
        )
    for name, t, _ in named:
        if name != "b":
            check_finite(name, t)
        elif values_visible(t):
            check_finite(name, torch.where(cones.without_bound(t), 0, t))
