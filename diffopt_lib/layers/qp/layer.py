"""Quadratic programs as a differentiable layer (OptNet, Amos & Kolter 2017).

    y* = argmin_y  ½ yᵀQy + pᵀy   s.t.   Ay = b,  Gy ≤ h                                            (1)

The solvers are :mod:`.qp.dual`, for well conditioned Q, and :mod:`.qp.interior`, for all. At the solution the active
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
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.shapes import align_batch
from ...implicit import attach
from ...linear import LinearOperator
from ...solution import mark_failures
from ...validate import check_finite, check_floating, check_option, check_same_kind, values_visible
from .derivative import EVENT_DIMS, KKTSystem, batched_product, flatten, linear_equations
from .dual import solve_dual
from .feasibility import ELASTIC, diagnose
from .interior import Point, interior_point, kkt_error, polish
from .kkt import QP, mul
from .scaling import equilibrate
from .smoothing import with_central_path_derivative

# Where both should be 0 a solver leaves λ and s small, with a ratio between this and its inverse.
WEAKLY_ACTIVE = 1e-4


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
            relative to 1 + the largest entries of p, b and h.
    """

    y: Tensor
    equality_dual: Tensor
    inequality_dual: Tensor
    slack: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor


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
    can't tell which of the nearly active inequalities are active, and the derivative depends on that.

    Args:
        Q: ``(*batch, n, n)``, positive semidefinite on the directions the constraints leave free; only its symmetric
            part counts. Zero for a linear program. If several y are optimal one of them is returned, and its
            derivative, which does not exist, raises in the backward pass.
        p: ``(*batch, n)``.
        A, b: equalities, ``(*batch, k, n)`` and ``(*batch, k)``; may be absent, have no rows, or redundant ones.
        G, h: inequalities, ``(*batch, m, n)`` and ``(*batch, m)``; likewise. An infinite h is no constraint.
            Batch dimensions broadcast against each other; a shared Q, A or G is not copied.
        tolerance: on the KKT residual, before a float32 result is rounded.
        max_iterations: of the interior point method; 5 to 15 are usual.
        on_failure: ``"raise"``; ``"nan"`` marks failed elements and their gradients NaN; ``"closest"`` replaces b and h
            of infeasible elements by the nearest ones (least squares) that are feasible, and raises for the rest.
        init: a solution of a similar problem. If its active set is right one iteration is enough.
        smoothing: μ > 0 gives the solution the derivative of the point on the central path with λᵢ sᵢ = μ, in the units
            of the objective, instead of its own: smooth across changes of the active set, and not zero for linear
            programs, but biased. The solution itself stays exact. See :mod:`.qp.smoothing`.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input.
        SolverError: elements that are infeasible, unbounded, or did not converge, told apart; in the backward pass, a
            solution that is not unique.
    """
    check_option("on_failure", on_failure, ("raise", "nan", "closest"))
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing must be at least 0 and finite, got {smoothing}")
    arguments = _complete(Q, p, A, b, G, h)
    _check(arguments)
    batch = torch.broadcast_shapes(*(t.shape[:-dims] for t, dims in zip(arguments, EVENT_DIMS, strict=True)))
    data = tuple(align_batch(t, dims, len(batch)) for t, dims in zip(arguments, EVENT_DIMS, strict=True))
    n, k, m = (t.shape[-1] for t in (arguments[1], arguments[3], arguments[5]))
    start = torch.zeros(*batch, n + k + 2 * m, dtype=p.dtype, device=p.device)
    if init is not None:
        parts = (init.y, init.equality_dual, init.inequality_dual, init.slack)
        start = torch.cat([v.detach().expand(*batch, -1) for v in parts], dim=-1)

    def algorithm(start, *data):
        return _solve(start, data, init is not None, tolerance, max_iterations, on_failure)

    z, active, elastic, converged, iterations, residual = opaque(algorithm, start, *data)
    z = attach(kkt_residual, solve_kkt, z, *data, active, elastic)
    if smoothing > 0:
        z = with_central_path_derivative(z, data, elastic, smoothing)
    z = mark_failures(z, converged, "nan" if on_failure == "nan" else "raise")
    y, nu, lam = z.split((n, k, m), dim=-1)
    Q, p, _, _, G, h = data
    value = 0.5 * (y * batched_product(Q, y)).sum(-1) + (p * y).sum(-1)
    return QPSolution(y, nu, lam, h + elastic * lam - batched_product(G, y), value, converged, iterations, residual)


def kkt_residual(
    z: Tensor,
    Q: Tensor,
    p: Tensor,
    A: Tensor,
    b: Tensor,
    G: Tensor,
    h: Tensor,
    active: Tensor,
    elastic: Tensor,
) -> Tensor:
    """Eq. (2) for z = (y, ν, λ), all with the same number of batch dimensions; elastic ``(*batch, 1)``."""
    y, nu, lam = z.split((p.shape[-1], b.shape[-1], h.shape[-1]), dim=-1)
    stationarity, equality = linear_equations(y, nu, lam, Q, p, A, b, G, elastic)
    inequality = torch.where(active, batched_product(G, y) - torch.where(active, h, 0) - elastic * lam, -lam)
    return torch.cat([stationarity, equality, inequality], dim=-1)


def solve_kkt(operator: LinearOperator, rhs: Tensor) -> Tensor:
    """D_z R w = rhs, or its transpose, for the residual (2).

    With the rows of inactive inequalities eliminated both are the symmetric system (2) of :mod:`.qp.kkt`.
    """
    _, *data, active, elastic = operator.parameters
    system = KKTSystem(data, elastic, active.shape[:-1])
    active = system.column(active)
    r = system.columns(rhs)
    inactive = torch.where(active, 0, -r.inequality)
    if not operator.transposed:
        r = r._replace(y=r.y - mul(system.qp.G.mT, inactive))
    step = system.solve(system.qp.elastic, active, r._replace(inequality=active * r.inequality))
    lam = inactive if not operator.transposed else torch.where(active, 0, mul(system.qp.G, step.y) + inactive)
    return system.restore(step._replace(inequality=torch.where(active, step.inequality, lam)), rhs)


def _solve(
    start: Tensor, data: tuple[Tensor, ...], warm: bool, tolerance: float, max_iterations: int, on_failure: str
) -> tuple[Tensor, ...]:
    """Everything that happens outside the graph, on tensors with any number of batch dimensions, in float64."""
    batch = start.shape[:-1]
    N = batch.numel()
    qp = flatten(data, batch, start.new_zeros(*batch, 1))
    n, k, m = qp.Q.shape[-1], qp.A.shape[-2], qp.G.shape[-2]
    guess = Point(*start.double().reshape(N, n + k + 2 * m, 1).split((n, k, m, m), dim=1)) if warm else None
    point, error, iterations = _solve_flat(qp, N, guess, tolerance, max_iterations)
    failed = ~(error <= tolerance)
    if failed.any() and on_failure != "nan":
        diagnosis = diagnose(qp.select(failed), int(failed.sum()), max_iterations)
        if on_failure == "closest" and diagnosis.infeasible.any():
            infeasible = failed.masked_scatter(failed, diagnosis.infeasible)
            qp = replace(qp, elastic=torch.where(infeasible[:, None, None], ELASTIC, qp.elastic))
            part, error_part, _ = interior_point(
                qp.select(infeasible), int(infeasible.sum()), tolerance, max_iterations
            )
            point = point.scatter(infeasible, part)
            error = error.masked_scatter(infeasible, error_part)
            failed = ~(error <= tolerance)
            diagnosis = replace(diagnosis, infeasible=torch.zeros_like(diagnosis.infeasible))
        if failed.any():
            diagnosis.raise_for(failed, batch, error, tolerance)

    z = torch.cat([point.y, point.nu, point.lam], dim=1).reshape(*batch, n + k + m)
    # All rows of a failed element count as active, so that its NaN reaches the gradient of every argument.
    active = ((point.lam > point.s) | failed[:, None, None]).reshape(*batch, m)
    elastic = qp.elastic.expand(N, 1, 1).reshape(*batch, 1)
    z, elastic, error = (t.to(start.dtype) for t in (z, elastic, error))
    return z, active, elastic, *(v.reshape(batch) for v in (~failed, iterations, error))


def _solve_flat(
    qp: QP, size: int, guess: Point | None, tolerance: float, max_iterations: int
) -> tuple[Point, Tensor, Tensor]:
    """Whoever's guess has the right active set is done; all others are solved."""
    if guess is None:
        return _solve_afresh(qp, size, tolerance, max_iterations)
    point = polish(qp, guess)
    point, error = _hold_weakly_active(qp, guess, point, kkt_error(qp, point), tolerance)
    iterations = torch.ones(size, dtype=torch.int64, device=qp.p.device)
    left = ~(error <= tolerance)
    if left.any():
        part, error_part, more = _solve_afresh(qp.select(left), int(left.sum()), tolerance, max_iterations)
        point, error = point.scatter(left, part), error.masked_scatter(left, error_part)
        iterations = iterations.masked_scatter(left, more)
    return point, error, iterations


def _hold_weakly_active(qp: QP, near: Point, point: Point, error: Tensor, tolerance: float) -> tuple[Point, Tensor]:
    """Points that are not accurate yet may owe it to inequalities with λᵢ = sᵢ = 0: if no other holds what they do,
    it must not be left free. They are polished once more from ``near``, with these in the active set."""
    left = ~(error <= tolerance)
    if not left.any():
        return point, error
    part = qp.select(left)
    polished = polish(part, near.select(left), WEAKLY_ACTIVE)
    of_polished = kkt_error(part, polished)
    better = of_polished < error[left]
    polished = polished.where(better, point.select(left))
    return point.scatter(left, polished), error.masked_scatter(left, torch.where(better, of_polished, error[left]))


def _solve_afresh(qp: QP, size: int, tolerance: float, max_iterations: int) -> tuple[Point, Tensor, Tensor]:
    """Equilibrate, solve, and measure the error in the units of the caller."""
    scaling = equilibrate(qp)
    scaled = qp if scaling is None else scaling.apply(qp)
    point, error, iterations = _solve_scaled(scaled, size, tolerance, max_iterations)
    if scaling is None:
        return point, error, iterations
    point = scaling.undo(point)
    return point, kkt_error(qp, point), iterations


def _solve_scaled(qp: QP, size: int, tolerance: float, max_iterations: int) -> tuple[Point, Tensor, Tensor]:
    """Through the dual if that is not larger; whoever does not solve it that way, and all others, directly."""
    if not 0 < qp.G.shape[-2] <= 2 * qp.Q.shape[-1]:
        return interior_point(qp, size, tolerance, max_iterations)
    point, iterations = solve_dual(qp, max_iterations)
    error = kkt_error(qp, point)
    left = ~(error <= tolerance)
    if left.any():
        part, error_part, more = interior_point(qp.select(left), int(left.sum()), tolerance, max_iterations)
        point, error = point.scatter(left, part), error.masked_scatter(left, error_part)
        iterations = iterations.masked_scatter(left, more)
    return point, error, iterations


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


def _check(arguments: tuple[Tensor, ...]) -> None:
    names = ("Q", "p", "A", "b", "G", "h")
    Q, p, A, b, G, h = arguments
    for name, t, dims in zip(names, arguments, EVENT_DIMS, strict=True):
        check_floating(name, t)
        if t.ndim < dims:
            raise ValueError(f"{name} must have at least {dims} dimensions, got shape {tuple(t.shape)}")
    check_same_kind("p", p, zip(names, arguments, strict=True))
    n = p.shape[-1]
    if n == 0:
        raise ValueError(f"p must have shape (*batch, n) with n ≥ 1, got {tuple(p.shape)}")
    expected = {"Q": (n, n), "A": (b.shape[-1], n), "G": (h.shape[-1], n)}
    for name, t in (("Q", Q), ("A", A), ("G", G)):
        if tuple(t.shape[-2:]) != expected[name]:
            raise ValueError(f"{name} must end in the shape {expected[name]}, got {tuple(t.shape)}")
    for name, t in zip(names[:5], arguments[:5], strict=True):
        check_finite(name, t)
    if values_visible(h) and (torch.isnan(h) | (h == -torch.inf)).any():
        raise ValueError("h must be finite or +inf, got NaN or -inf")
    try:
        torch.broadcast_shapes(*(t.shape[:-dims] for t, dims in zip(arguments, EVENT_DIMS, strict=True)))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in zip(names, arguments, strict=True))
        raise ValueError(f"the batch dimensions must broadcast against each other, got {shapes}") from None
