"""Quadratic programs as a differentiable layer (OptNet, Amos & Kolter 2017).

    y* = argmin_y  ½ yᵀQy + pᵀy   s.t.   Ay = b,  Gy ≤ h                                            (1)

The solver is :mod:`.qp_interior`. At its solution the active inequalities a = {i: λᵢ > sᵢ} are known, and (y, ν, λ) is
the root of

    R = ( Qy + p + Aᵀν + Gᵀλ,   Ay − b,   Gᵢy − hᵢ for i ∈ a,   −λᵢ for i ∉ a )                       (2)

which is linear, so the implicit function theorem gives derivatives of every order with respect to all six arguments
as long as the active set does not change: the gradients of the active constraints are linearly independent, the
Hessian is positive definite along them, and no active constraint is weakly active (λᵢ = sᵢ = 0). There y* has a kink,
and (2) gives the derivative of one of its sides: the one where the constraint is inactive.

Chapter: book/2_differentiable/04_quadratic_programs. Source: OptNet, eqs. 6–8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..implicit import _attach
from ..linear import LinearOperator
from ..opaque import opaque
from ..solution import SolverError, failed_indices, mark_failures
from ..validate import check_finite, check_floating, check_option, check_same_kind, values_visible
from .qp_feasibility import ELASTIC, diagnose
from .qp_interior import Point, interior_point, kkt_error, polish
from .qp_kkt import QP, Step, factorise_active, mul
from .qp_scaling import equilibrate


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


def solve_qp(
    Q: Tensor,
    p: Tensor,
    A: Tensor | None = None,
    b: Tensor | None = None,
    G: Tensor | None = None,
    h: Tensor | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int = 60,
    on_failure: Literal["raise", "nan", "closest"] = "raise",
    init: QPSolution | None = None,
) -> QPSolution:
    """Solve eq. (1) for every element of a batch; differentiable in all six arguments, at any order.

    Args:
        Q: ``(*batch, n, n)``, positive semidefinite on the directions the constraints leave free; only its symmetric
            part counts. Zero for a linear program. If several y are optimal one of them is returned, and its
            derivative, which does not exist, raises in the backward pass.
        p: ``(*batch, n)``.
        A, b: equalities, ``(*batch, k, n)`` and ``(*batch, k)``; may be absent, have no rows, or redundant ones.
        G, h: inequalities, ``(*batch, m, n)`` and ``(*batch, m)``; likewise. An infinite h is no constraint.
            Batch dimensions broadcast against each other; a shared Q, A or G is not copied.
        tolerance: on the KKT residual, default 1e-9 in float64 and 1e-4 in float32.
        max_iterations: of the interior point method; 10 to 20 are usual.
        on_failure: ``"raise"``; ``"nan"`` marks failed elements and their gradients NaN; ``"closest"`` replaces b and h
            of infeasible elements by the nearest ones (least squares) that are feasible, and raises for the rest.
        init: a solution of a similar problem. If its active set is right one iteration is enough.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input.
        SolverError: elements that are infeasible, unbounded, or did not converge, told apart; in the backward pass, a
            solution that is not unique.
    """
    check_option("on_failure", on_failure, ("raise", "nan", "closest"))
    arguments = _complete(Q, p, A, b, G, h)
    _check(arguments)
    batch = torch.broadcast_shapes(*(t.shape[:-dims] for t, dims in zip(arguments, EVENT_DIMS, strict=True)))
    data = tuple(_align(t, dims, len(batch)) for t, dims in zip(arguments, EVENT_DIMS, strict=True))
    if tolerance is None:
        tolerance = 1e-9 if p.dtype == torch.float64 else 1e-4
    n, k, m = (t.shape[-1] for t in (arguments[1], arguments[3], arguments[5]))
    start = torch.zeros(*batch, n + k + 2 * m, dtype=p.dtype, device=p.device)
    if init is not None:
        parts = (init.y, init.equality_dual, init.inequality_dual, init.slack)
        start = torch.cat([v.detach().expand(*batch, -1) for v in parts], dim=-1)

    def algorithm(_f, start, *data):
        return _solve(start, data, init is not None, tolerance, max_iterations, on_failure)

    z, active, elastic, converged, iterations, residual = opaque(algorithm, kkt_residual, start, *data)
    z = mark_failures(_attach(kkt_residual, solve_kkt, z, *data, active, elastic), converged, on_failure)
    y, nu, lam = z.split((n, k, m), dim=-1)
    Q, p, _, _, G, h = data
    value = 0.5 * (y * _mv(Q, y)).sum(-1) + (p * y).sum(-1)
    return QPSolution(y, nu, lam, h + elastic * lam - _mv(G, y), value, converged, iterations, residual)


EVENT_DIMS = (2, 1, 2, 1, 2, 1)


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
    stationarity = 0.5 * (_mv(Q, y) + _mv(Q.mT, y)) + p + _mv(A.mT, nu) + _mv(G.mT, lam)
    inequality = torch.where(active, _mv(G, y) - torch.where(active, h, 0) - elastic * lam, -lam)
    return torch.cat([stationarity, _mv(A, y) - b - elastic * nu, inequality], dim=-1)


def solve_kkt(operator: LinearOperator, rhs: Tensor) -> Tensor:
    """D_z R w = rhs, or its transpose, for the residual (2), through :func:`.qp_kkt.factorise_active`.

    With the rows of inactive inequalities eliminated both are the symmetric system (2) of :mod:`.qp_kkt`.
    """
    _, *data, active, elastic = operator.parameters
    batch = torch.broadcast_shapes(active.shape[:-1], *(t.shape[:-d] for t, d in zip(data, EVENT_DIMS, strict=True)))
    qp = _flatten(data, batch, elastic)
    N = batch.numel()
    active = active.expand(*batch, -1).reshape(N, active.shape[-1], 1)
    # Dimensions that only the right-hand side has (a vmapped cotangent) become columns that share the factorisation.
    own = [i for i, size in enumerate(batch) if not (size == 1 and rhs.shape[i] > 1)]
    extra = [i for i in range(len(batch)) if i not in own]
    permuted = rhs.permute(*own, rhs.ndim - 1, *extra)
    columns = permuted.reshape(N, rhs.shape[-1], math.prod(rhs.shape[i] for i in extra))
    n, k, m = qp.Q.shape[-1], qp.A.shape[-2], qp.G.shape[-2]
    r = Step(*columns.split((n, k, m), dim=1))

    inactive_lam = torch.where(active, 0, -r.inequality)
    if not operator.transposed:
        r = r._replace(y=r.y - mul(qp.G.mT, inactive_lam))
    r = r._replace(inequality=torch.where(active, r.inequality, 0))
    w = _solve_refined(qp, active, r, batch)
    lam = inactive_lam if not operator.transposed else torch.where(active, 0, mul(qp.G, w.y) + inactive_lam)
    w = torch.cat([w.y, w.equality, torch.where(active, w.inequality, lam)], dim=1)
    order = [*own, rhs.ndim - 1, *extra]
    return w.reshape(permuted.shape).permute(*(order.index(i) for i in range(rhs.ndim)))


def _solve_refined(qp: QP, active: Tensor, r: Step, batch: torch.Size, rounds: int = 4) -> Step:
    """The exact solution of the symmetric system: each round takes out most of what the regularisation left."""
    kkt = factorise_active(qp, active)
    w = Step(*(torch.zeros_like(v) for v in r))
    left = r
    size = _size(r)
    # An element already marked NaN stays NaN and is nobody's error.
    target = 1e3 * torch.finfo(r.y.dtype).eps * size
    for _ in range(rounds):
        w = Step(*(a + d for a, d in zip(w, kkt.solve(left), strict=True)))
        left = Step(
            y=r.y - mul(qp.Q, w.y) - mul(qp.A.mT, w.equality) - mul(qp.G.mT, w.inequality),
            equality=r.equality - mul(qp.A, w.y) + qp.elastic * w.equality,
            inequality=torch.where(active, r.inequality - mul(qp.G, w.y) + qp.elastic * w.inequality, 0),
        )
        if (_size(left) <= target).all():
            break
    failed = torch.isfinite(size) & ~(_size(left) <= torch.finfo(r.y.dtype).eps ** 0.4 * size)
    if failed.any():
        raise SolverError(
            "the solution of the quadratic program is not unique, or its active constraints are degenerate: the "
            "derivative is not determined.",
            failed_indices(failed.reshape(batch)),
        )
    return w


def _size(r: Step) -> Tensor:
    return torch.cat(r, dim=1).abs().amax((1, 2)) if r.y.numel() else r.y.new_zeros(r.y.shape[0])


def _solve(
    start: Tensor, data: tuple[Tensor, ...], warm: bool, tolerance: float, max_iterations: int, on_failure: str
) -> tuple[Tensor, ...]:
    """Everything that happens outside the graph, on tensors with any number of batch dimensions."""
    batch = start.shape[:-1]
    N = batch.numel()
    qp = _flatten(data, batch, start.new_zeros(*batch, 1))
    n, k, m = qp.Q.shape[-1], qp.A.shape[-2], qp.G.shape[-2]
    guess = Point(*start.reshape(N, n + k + 2 * m, 1).split((n, k, m, m), dim=1)) if warm else None
    point, error, iterations = _solve_flat(qp, N, guess, tolerance, max_iterations)
    failed = ~(error <= tolerance)
    if failed.any() and start.dtype == torch.float32:
        point, error, iterations = _retry_in_float64(qp, failed, point, error, iterations, tolerance, max_iterations)
        failed = ~(error <= tolerance)
    if failed.any() and on_failure != "nan":
        diagnosis = diagnose(qp.select(failed), int(failed.sum()), max_iterations)
        if on_failure == "closest" and diagnosis.infeasible.any():
            infeasible = failed.masked_scatter(failed, diagnosis.infeasible)
            qp = replace(qp, elastic=torch.where(infeasible[:, None, None], ELASTIC[qp.p.dtype], qp.elastic))
            part, error_part, _ = _solve_flat(
                qp.select(infeasible), int(infeasible.sum()), None, tolerance, max_iterations
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
    return z, active, elastic, *(v.reshape(batch) for v in (~failed, iterations, error))


def _retry_in_float64(
    qp: QP, failed: Tensor, point: Point, error: Tensor, iterations: Tensor, tolerance: float, max_iterations: int
) -> tuple[Point, Tensor, Tensor]:
    """What single precision could not solve, solved in double precision and rounded."""
    part, error_part, iterations_part = _solve_flat(
        qp.select(failed).to(torch.float64), int(failed.sum()), None, tolerance, max_iterations
    )
    return (
        point.scatter(failed, part.to(torch.float32)),
        error.masked_scatter(failed, error_part.to(torch.float32)),
        iterations.masked_scatter(failed, iterations_part),
    )


def _solve_flat(
    qp: QP, size: int, guess: Point | None, tolerance: float, max_iterations: int
) -> tuple[Point, Tensor, Tensor]:
    """Equilibrate, solve, and measure the error in the units of the caller."""
    if guess is not None:
        polished = polish(qp, guess)
        error = kkt_error(qp, polished)
        if (error <= tolerance).all():
            return polished, error, torch.ones(size, dtype=torch.int64, device=error.device)
    scaling = equilibrate(qp)
    if scaling is None:
        return interior_point(qp, size, tolerance, max_iterations)
    point, _, iterations = interior_point(scaling.apply(qp), size, tolerance, max_iterations)
    point = scaling.undo(point)
    return point, kkt_error(qp, point), iterations


def _flatten(data: Sequence[Tensor], batch: torch.Size, elastic: Tensor) -> QP:
    """One batch dimension, 1 for what is shared by all; symmetric Q; rows with infinite h become 0ᵀy ≤ 1."""
    flat = []
    for t, dims in zip(data, EVENT_DIMS, strict=True):
        event = t.shape[t.ndim - dims :]
        shared = t.shape[: t.ndim - dims].numel() == 1
        t = t.reshape(1, *event) if shared else t.expand(*batch, *event).reshape(batch.numel(), *event)
        flat.append(t if dims == 2 else t.unsqueeze(-1))
    Q, p, A, b, G, h = flat
    free = torch.isinf(h)
    if free.any():
        G, h = torch.where(free, 0, G), torch.where(free, 1, h)
    elastic = elastic.expand(*batch, 1).reshape(batch.numel(), 1, 1) if elastic.any() else elastic.new_zeros(1, 1, 1)
    return QP(0.5 * (Q + Q.mT), p, A, b, G, h, elastic)


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


def _align(t: Tensor, event_dims: int, batch_dims: int) -> Tensor:
    """All batch dimensions made explicit, with 1 where t is shared."""
    missing = batch_dims - (t.ndim - event_dims)
    return t.reshape(*(1,) * missing, *t.shape)


def _mv(M: Tensor, v: Tensor) -> Tensor:
    return (M @ v.unsqueeze(-1)).squeeze(-1)
