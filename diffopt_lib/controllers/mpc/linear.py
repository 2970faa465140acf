"""Linear–quadratic problems with bounded controls, given as tensors: one minimum, found to machine precision.

    min Σ ½ τ_tᵀ C_t τ_t + c_tᵀ τ_t   s.t.  x_{t+1} = F_t τ_t + f_t,  x_1 = x_init,  u_lower ≤ u_t ≤ u_upper     (1)

With the active bounds known (:mod:`..boxed`) the optimality conditions are those of :mod:`..lqr` with a multiplier ν_t
in the rows of u_t and, for each control, one more equation: u_ti is at its bound, or ν_ti = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...batch.products import or_one
from ...batch.shapes import align_batch, broadcast_batch, flatten, flatten_whole
from ...implicit import attach
from ...linear import LinearOperator
from ...solution import SOLVED, STUCK, UNDEFINED, mark_failures, raise_failed, warn_unconfirmed
from ..arguments import check_problem
from ..boxed import Boxed, find_active
from ..envelope import optimal_value
from ..lqr import indefinite, latest, motion, product, stationarity
from ..riccati import Sweep, refine
from .derivative import active_bound
from .kkt import KKT
from .layout import STORED, Layout, load, solve_for, store

MAX_ITERATIONS = 100  # of the interior point method

UNCONFIRMED = (
    "control problems are solved within the tolerance, but which of their bounds and constraints are active could not "
    "be confirmed: the derivative is that of an unconfirmed active set."
)


def as_function(cost, dynamics, n: int, horizon: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Cost and dynamics as functions, where they are tensors; those of a time."""
    if isinstance(cost, tuple):
        C, c = cost
        C = C.unsqueeze(0) if C.ndim == 2 else C
        c = c.unsqueeze(0) if c.ndim == 1 else c

        def quadratic(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
            tau = torch.cat([x, u], -1)
            return (0.5 * tau * product(at_time(C, t, -3), tau) + at_time(c, t, -2) * tau).sum(-1)

        cost = quadratic
    if isinstance(dynamics, (tuple, Tensor)):
        F, f = dynamics if isinstance(dynamics, tuple) else (dynamics, dynamics.new_zeros(n))
        F = F.unsqueeze(0) if F.ndim == 2 else F
        f = f.unsqueeze(0) if f.ndim == 1 else f

        def affine(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
            return product(at_time(F, t, -3), torch.cat([x, u], -1)) + at_time(f, t, -2)

        dynamics = affine
    return cost, dynamics


def at_time(M: Tensor, t: Tensor, time: int) -> Tensor:
    """The matrices of time t; the only ones if they do not depend on it."""
    index = torch.zeros_like(t) if M.shape[time] == 1 else t
    return M.index_select(time, index.reshape(1)).squeeze(time)


def solve_linear(
    x_init: Tensor,
    cost: tuple[Tensor, Tensor],
    dynamics: Tensor | tuple[Tensor, Tensor],
    lower: Tensor,
    upper: Tensor,
    start: Tensor,
    horizon: int,
    on_failure: str,
    tolerance: float,
) -> tuple[Tensor, ...]:
    """The fields of :class:`.MPCSolution` for problem (1)."""
    F, f = dynamics if isinstance(dynamics, tuple) else (dynamics, None)
    data, batch = check_problem(x_init, *cost, F, f, horizon)
    batch = broadcast_batch(
        [("the problem", x_init.new_empty(*batch, 0), 1)]
        + [("u_lower", lower, 2), ("u_upper", upper, 2), ("u_init", start, 2)]
    )
    events = (1, 3, 2, 3, 2)
    data = [align_batch(t, dims, len(batch)) for t, dims in zip(data, events, strict=True)]
    lower, upper = (align_batch(b, 2, len(batch)) for b in (lower, upper))
    n, k = F.shape[-2:]
    layout = Layout(horizon, n, k - n, 0)
    theta = (*data, lower, upper)
    start = start.expand(*batch, horizon, k - n)

    z, residual, status, iterations, side, *stored = opaque(
        partial(_solve, layout, on_failure, tolerance), start, *theta
    )
    z = attach(partial(conditions, layout), partial(_solve_conditions, layout), z, *theta, side, *stored)
    converged = status == SOLVED
    z = mark_failures(z, converged, "nan" if on_failure == "nan" else "raise")
    tau, costate, nu, mu = layout.split(z)
    value = optimal_value(partial(lagrangian, layout), z, *theta, side)
    duals = torch.where(side < 0, -nu, 0), torch.where(side > 0, nu, 0), mu
    return tau[..., :n], tau[..., n:], value, costate, *duals, converged, iterations, residual, status


def conditions(layout: Layout, z: Tensor, *parameters: Tensor) -> Tensor:
    """The optimality conditions of (1) with its active bounds held, for z = (τ, λ, ν)."""
    x_init, C, c, F, f, lower, upper, side = parameters[:8]
    tau, costate, nu, mu = layout.split(z)
    of_tau = stationarity(tau, costate, C, c, F)
    of_tau = of_tau + torch.nn.functional.pad(torch.where(side != 0, nu, 0), (layout.n, 0))
    at_bound = tau[..., layout.n :] - active_bound(side, lower, upper)
    return layout.join(of_tau, motion(tau, x_init, F, f), torch.where(side != 0, at_bound, -nu), mu)


def lagrangian(layout: Layout, z: Tensor, *parameters: Tensor) -> Tensor:
    """The cost, and the multipliers times what they belong to, ``(*batch,)``."""
    x_init, C, c, F, f, lower, upper, side = parameters
    tau, costate, nu, _ = layout.split(z)
    at_bound = torch.where(side != 0, nu * (tau[..., layout.n :] - active_bound(side, lower, upper)), 0)
    cost = 0.5 * tau * product(C, tau) + c * tau
    return cost.sum((-2, -1)) + (costate * motion(tau, x_init, F, f)).sum((-2, -1)) + at_bound.sum((-2, -1))


def _solve_conditions(layout: Layout, operator: LinearOperator, rhs: Tensor) -> Tensor:
    """D_z R w = rhs; the transpose is the same. Nothing makes nothing, as in :func:`.derivative.make_solve`."""
    side, *stored = operator.parameters[-STORED - 1 :]
    w = solve_for(layout, load(stored, side.shape[:-2]), rhs, (side, side[..., :0]))
    return torch.where((rhs == 0).all(-1, keepdim=True), 0, w)


def _solve(layout: Layout, on_failure: str, tolerance: float, start: Tensor, *theta: Tensor) -> tuple[Tensor, ...]:
    """z, residual, status, iterations, the active bounds and the factorised conditions."""
    batch, T, n = start.shape[:-2], layout.T, layout.n
    problem = _flat(layout, batch, theta)
    guess = torch.zeros(batch.numel(), T, layout.m, dtype=torch.int64, device=start.device)
    u = start.reshape(guess.shape).double()
    lower, upper = (b.squeeze(-1).movedim(1, 0) for b in (problem.lower, problem.upper))
    guess = torch.where(u >= upper, 1, torch.where(u <= lower, -1, guess))
    found = find_active(problem, guess, MAX_ITERATIONS)
    side = found.side.movedim(1, 0).unsqueeze(-1)
    affine = (problem.c, problem.f, problem.x1)
    factor, solution = problem.held(side)
    solution, left = refine(factor, solution, *affine)
    late = latest(factor.sound).reshape(batch)
    residual = torch.maximum(left.relative, _wrongly_held(problem, solution, side)).reshape(batch)
    status = torch.where(late > 0, UNDEFINED, torch.where(residual <= tolerance, SOLVED, STUCK))
    if on_failure in ("raise", "closest"):
        _raise_failed(status, late, residual)
    warn_unconfirmed((status == SOLVED) & ~found.confirmed.reshape(batch), UNCONFIRMED)

    def batch_first(v: Tensor) -> Tensor:
        return v.squeeze(-1).movedim(0, 1).reshape(*batch, *v.shape[:1], *v.shape[2:-1])

    tau, costate, nu = (batch_first(v) for v in solution)
    side = batch_first(side).to(start.dtype)
    if on_failure == "nan":
        side = torch.where((status == SOLVED)[..., None, None], side, 1)
    empty = problem.c.new_zeros(T, problem.c.shape[1], 0, n + layout.m)
    stored = store(KKT(factor, factor.C, empty, empty[..., :1], empty[..., :1]), batch)
    z = layout.join(tau, costate, nu, tau[..., :0])
    iterations = found.iterations.reshape(batch)
    return z.to(start.dtype), residual.to(start.dtype), status, iterations, side, *stored


def _wrongly_held(problem: Boxed, solution: Sweep, side: Tensor) -> Tensor:
    """How far free controls are outside of their bounds, and held ones pushed away from theirs, relative to what was
    added up in their coordinate, ``(N, 1)``."""
    n = problem.x1.shape[-2]
    u, lower, upper = solution.tau[..., n:, :], problem.lower, problem.upper
    near = torch.maximum(*(torch.where(bound.isfinite(), bound, 0).abs() for bound in (lower, upper))) + u.abs()
    outside = torch.maximum(lower - u, u - upper)
    pushed = torch.where(lower < upper, -side * solution.nu, 0)
    slope = torch.matmul(problem.C[..., n:, :], solution.tau).abs() + problem.c[..., n:, :].abs() + solution.nu.abs()
    parts = [v.amax(0).clamp_min(0) / or_one(size.amax(0)) for v, size in ((outside, near), (pushed, slope))]
    return torch.maximum(*parts).amax(-2)


def _flat(layout: Layout, batch: torch.Size, theta: tuple[Tensor, ...]) -> Boxed:
    """The problem with one batch dimension behind the time, in float64."""
    x_init, C, c, F, f, lower, upper = theta
    T, n, m, _ = layout
    C = flatten(torch.lerp(C, C.mT, 0.5), 3, batch).double().movedim(1, 0).contiguous()
    F = flatten(F, 3, batch).double().movedim(1, 0).contiguous()
    vectors = []
    for v, width, times in ((c, n + m, T), (f, n, T - 1), (lower, m, T), (upper, m, T)):
        v = v.expand(*v.shape[:-2], times, width)
        vectors.append(flatten_whole(v, 2, batch).double().movedim(1, 0).unsqueeze(-1))
    c, f, lower, upper = vectors
    x1 = flatten_whole(x_init, 1, batch).double().unsqueeze(-1)
    F = F.expand(T - 1, -1, -1, -1) if T > 1 else F[:0]
    return Boxed(C.expand(T, -1, -1, -1), c, F, f, x1, lower, upper)


def _raise_failed(status: Tensor, late: Tensor, residual: Tensor) -> None:
    raise_failed(
        status,
        {
            UNDEFINED: lambda failed: indefinite(late[failed]),
            STUCK: lambda failed: (
                f"the active bounds were not found in {MAX_ITERATIONS} iterations "
                f"(residual {residual[failed].max().item():.1e})."
            ),
        },
    )
