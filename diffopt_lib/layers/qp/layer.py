"""Quadratic programs as a differentiable layer (OptNet, Amos & Kolter 2017).

    y* = argmin_y  ½ yᵀQy + pᵀy   s.t.   Ay = b,  Gy ≤ h                                            (1)

How it is solved is in :mod:`.qp.solver`, its derivative in :mod:`.qp.derivative`. At the solution the active
inequalities a = {i: λᵢ > sᵢ} are known, and (y, ν, λ) is the root of

    R = ( Qy + p + Aᵀν + Gᵀλ,   Ay − b,   Gᵢy − hᵢ for i ∈ a,   −λᵢ for i ∉ a )                       (2)

which is linear, so the implicit function theorem gives derivatives of every order with respect to all six arguments
as long as the active set does not change: the Hessian is positive definite along the active constraints, their
gradients are linearly independent, and none of them is weakly active (λᵢ = sᵢ = 0). Where that fails,

- several y are optimal: the backward pass raises;
- active gradients are dependent (more walls than dimensions meet in y*): y* has a kink in h. The backward pass then
  shares the effect among the dependent walls that push (λᵢ > 0) with the least sum of squares, which need not be the
  derivative of any side; that of the duals, which are not unique, and forward mode raise;
- a constraint is weakly active: y* has a kink, and (2) gives the derivative of one of its sides, the one where the
  constraint is inactive. ``smoothing`` gives the slope of a smooth function near y* instead.

Chapter: book/2_differentiable/04_quadratic_programs. Source: OptNet, eqs. 6–8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.products import contract
from ...batch.shapes import align
from ...implicit import attach
from ...solution import SOLVED, mark_failures
from ...validate import (
    check_count,
    check_finite,
    check_floating,
    check_option,
    check_same_kind,
    check_size,
    parts_of_guess,
    values_visible,
)
from . import solver
from .derivative import Kept, kkt_residual, solve_kkt
from .program import EVENT_DIMS
from .smoothing import with_central_path_derivative

NAMES = ("Q", "p", "A", "b", "G", "h")


@dataclass(frozen=True)
class QPSolution:
    """The solution of a batch of quadratic programs.

    Attributes:
        y: minimiser, ``(*batch, n)``.
        equality_dual: ν, ``(*batch, k)``.
        inequality_dual: λ ≥ 0, ``(*batch, m)``.
        slack: h − Gy ≥ 0, ``(*batch, m)``.
        value: ½ yᵀQy + pᵀy, ``(*batch,)``. These five carry gradients.
        converged, iterations, residual: ``(*batch,)``; the residual is the largest violation of the KKT conditions,
            each relative to what was added up to get it: |hᵢ| + Σ|Gᵢⱼ yⱼ| for an inequality, and so on.
        status: ``(*batch,)``, int64: 1 solved, 2 infeasible, 3 unbounded, 4 not converged.
        infeasible_because: (ν, λ) with λ ≥ 0, Aᵀν + Gᵀλ = 0 and bᵀν + hᵀλ = −1 where the program was found to be
            infeasible, ``(*batch, k + m)``, NaN elsewhere.
        unbounded_because: d with Qd = 0, Ad = 0, Gd ≤ 0 and pᵀd = −1 where the status is 3, ``(*batch, n)``, NaN
            elsewhere.
    """

    y: Tensor
    equality_dual: Tensor
    inequality_dual: Tensor
    slack: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor
    infeasible_because: Tensor
    unbounded_because: Tensor


@full_precision
def solve_qp(
    Q: Tensor,
    p: Tensor,
    A: Tensor | None = None,
    b: Tensor | None = None,
    G: Tensor | None = None,
    h: Tensor | None = None,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 60,
    on_failure: Literal["raise", "nan", "closest"] = "raise",
    init: QPSolution | None = None,
    smoothing: float = 0.0,
) -> QPSolution:
    """Solve eq. (1) for every element of a batch; differentiable in all six arguments, at any order.

    The arithmetic is in float64 whatever the dtype of the arguments, which is the dtype of the result: single precision
    can't tell which of the nearly active inequalities are active, and the derivative depends on that. Arguments in
    float32 may be indefinite or contradict each other by their rounding; what they then stand for is in
    :mod:`.qp.rounding`.

    Args:
        Q: ``(*batch, n, n)``, positive semidefinite on the directions the constraints leave free; only its symmetric
            part counts. Zero for a linear program. If several y are optimal one of them is returned, and its
            derivative, which does not exist, raises in the backward pass.
        p: ``(*batch, n)``.
        A, b: equalities, ``(*batch, k, n)`` and ``(*batch, k)``; may be absent, have no rows, or redundant ones.
        G, h: inequalities, ``(*batch, m, n)`` and ``(*batch, m)``; likewise. An h of 10²⁰ or more is no constraint.
            Batch dimensions broadcast against each other; a shared Q, A or G is not copied.
        tolerance: on the residual, where the active set can't be confirmed. Solutions are polished to the last digits,
            and an element counts as solved when the signs of its multipliers and slacks confirm its active set. One
            for which arithmetic does not reach that, but the tolerance, is returned with a warning.
        max_iterations: of each of the paths; 5 to 15 are usual.
        on_failure: ``"raise"``; ``"nan"`` marks failed elements and their gradients NaN; ``"closest"`` replaces b and h
            of infeasible elements by the nearest ones (least squares) that are feasible, and raises for the rest.
        init: a solution of a similar problem. If its active set is right one iteration is enough.
        smoothing: μ > 0 gives the solution the derivative of the point on the central path with λᵢ sᵢ = μ, in the units
            of the objective, instead of its own: smooth across changes of the active set, and not zero for linear
            programs, but biased. The solution itself stays exact. See :mod:`.qp.smoothing`.

    Raises:
        ValueError: bad shapes, dtypes, options, NaN or infinite input, a Q that is not convex where it matters.
        SolverError: elements that are infeasible, unbounded, or did not converge, told apart; in the backward pass, a
            solution that is not unique.
    """
    check_option("on_failure", on_failure, ("raise", "nan", "closest"))
    check_count("max_iterations", max_iterations, 1)
    _check_number("tolerance", tolerance, positive=True)
    _check_number("smoothing", smoothing)
    arguments = _complete(Q, p, A, b, G, h)
    _check(arguments)
    batch, data = align(*zip(NAMES, arguments, EVENT_DIMS, strict=True))
    n, k, m = (t.shape[-1] for t in (arguments[1], arguments[3], arguments[5]))
    start = torch.zeros(*batch, n + k + 2 * m, dtype=p.dtype, device=p.device)
    if init is not None:
        sizes = {"y": n, "equality_dual": k, "inequality_dual": m, "slack": m}
        start = torch.cat(parts_of_guess(init, QPSolution, batch, sizes, "p", p), dim=-1)

    kept = Kept()
    algorithm = partial(
        solver.solve,
        kept=kept,
        warm=init is not None,
        tolerance=tolerance,
        max_iterations=max_iterations,
        on_failure=on_failure,
    )
    z, active, elastic, status, iterations, residual, *certificates = opaque(algorithm, start, *data)
    z = attach(kkt_residual, partial(solve_kkt, kept=kept), z, *data, active, elastic)
    if smoothing > 0:
        z = with_central_path_derivative(z, data, elastic, smoothing, kept)
    converged = status == SOLVED
    z = mark_failures(z, converged, "nan" if on_failure == "nan" else "raise")
    y, nu, lam = z.split((n, k, m), dim=-1)
    Q, p, _, _, G, h = data
    slack = h + elastic * lam - contract(G, y)
    value = 0.5 * (y * contract(Q, y)).sum(-1) + (p * y).sum(-1)
    return QPSolution(y, nu, lam, slack, value, converged, iterations, residual, status, *certificates)


def _complete(Q, p, A, b, G, h) -> tuple[Tensor, ...]:
    """The six arguments, with empty blocks for those that are absent."""
    check_floating("Q", Q)
    check_floating("p", p)
    if (A is None) != (b is None) or (G is None) != (h is None):
        raise ValueError("A and b, and G and h, must be given together")
    A = p.new_zeros(0, p.shape[-1]) if A is None else A
    b = p.new_zeros(0) if b is None else b
    G = p.new_zeros(0, p.shape[-1]) if G is None else G
    h = p.new_zeros(0) if h is None else h
    return Q, p, A, b, G, h


def _check_number(name: str, value: object, positive: bool = False) -> None:
    check_size(name, value)
    if value == math.inf or (positive and value == 0):
        raise ValueError(f"{name} must be {'positive' if positive else 'at least 0'} and finite, got {value}")


def _check(arguments: tuple[Tensor, ...]) -> None:
    Q, p, A, b, G, h = arguments
    for name, t, dims in zip(NAMES, arguments, EVENT_DIMS, strict=True):
        check_floating(name, t)
        if t.ndim < dims:
            raise ValueError(f"{name} must have at least {dims} dimensions, got shape {tuple(t.shape)}")
    check_same_kind("p", p, zip(NAMES, arguments, strict=True))
    n = p.shape[-1]
    if n == 0:
        raise ValueError(f"p must have shape (*batch, n) with n ≥ 1, got {tuple(p.shape)}")
    expected = {"Q": (n, n), "A": (b.shape[-1], n), "G": (h.shape[-1], n)}
    for name, t in (("Q", Q), ("A", A), ("G", G)):
        if tuple(t.shape[-2:]) != expected[name]:
            raise ValueError(f"{name} must end in the shape {expected[name]}, got {tuple(t.shape)}")
    for name, t in zip(NAMES[:5], arguments[:5], strict=True):
        check_finite(name, t)
    if values_visible(h) and (torch.isnan(h) | (h == -torch.inf)).any():
        raise ValueError("h must be finite or +inf, got NaN or -inf")
