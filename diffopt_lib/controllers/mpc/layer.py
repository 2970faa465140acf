"""Model-predictive control as a differentiable layer.

    min Σ_{t=1..T} cost(x_t, u_t)   s.t.  x_{t+1} = dynamics(x_t, u_t) (t < T),   x_1 = x_init,              (1)
                                          u_lower ≤ u_t ≤ u_upper,    constraints(x_t, u_t) ≤ 0

The solvers are :mod:`.linear`, where cost and dynamics are the tensors of a linear–quadratic problem, which is solved
to its only minimum, and :mod:`.solver`, which finds a local one of any smooth problem. Either ends on the exact
optimality conditions, :mod:`.derivative`, with its active bounds and constraints known; the implicit function theorem
does the rest.

**Where there is no derivative.** At a control that is about to leave its bound u* has a kink, and the derivative is
that of one side. A control at its bound depends on nothing but the bound: where all are (a torque limit too low for the
task, say) every gradient but the bound's is exactly zero.

**Receding horizon.** Solve, apply the first control, shift the plan, and start from it::

    plan = None
    for _ in range(steps):
        solution = mpc(x, cost, dynamics, 20, u_lower=-2, u_upper=2, u_init=plan)
        x = system(x, solution.u[..., 0, :])
        plan = torch.cat([solution.u[..., 1:, :], solution.u[..., -1:, :]], dim=-2)

**References and terminal costs** come in through the third argument t = 0, …, T − 1, an integer tensor::

    def cost(x, u, t):
        stage = (x - reference[..., t, :]).square().sum(-1) + 0.01 * u.square().sum(-1)
        return torch.where(t == 19, 10 * stage, stage)

**A price on changing the control** needs the last control in the state: with x̃ = (x, u₋) ::

    def dynamics(x, u):
        return torch.cat([system(x[..., :n], u), u], dim=-1)

    def cost(x, u):
        return stage(x[..., :n], u) + rate * (u - x[..., n:]).square().sum(-1)

Chapter: book/2_differentiable/10_control. Source: Amos et al., Differentiable MPC, 2018; the exact curvature as in
Frey et al., Differentiable nonlinear MPC, 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ...batch.shapes import align_batch, broadcast_batch
from ...gradient import check_gradient, solve_differentiably
from ...solution import (
    INFEASIBLE,
    SOLVED,
    STUCK,
    UNDEFINED,
    OnFailure,
    mark_failures,
    raise_failed,
)
from ...validate import check_finite, check_floating, check_option, check_same_kind, values_visible
from ..envelope import optimal_value
from .derivative import conditions, lagrangian, make_solve, split_parameters
from .finish import polish
from .layout import Layout, load, solve_for
from .linear import as_function, solve_linear
from .solver import begin, minimise
from .stage import Model, Stage, make_model

Cost = Callable[..., Tensor] | nn.Module | tuple[Tensor, Tensor]
Dynamics = Callable[..., Tensor] | nn.Module | Tensor | tuple[Tensor, Tensor]
MPCGradient = Literal["implicit", "gauss_newton", "unroll", "one_step"]

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass(frozen=True)
class MPCSolution:
    """A local minimum of (1) for every element of a batch.

    Attributes:
        x: states, ``(*batch, T, n)``, the first of which is x_init.
        u: controls, ``(*batch, T, m)``.
        cost: the optimal value, ``(*batch,)``. Its gradient alone costs no linear solve (envelope theorem).
        costate: the slope of the cost-to-go in x_t, ``(*batch, T, n)``.
        lower_dual, upper_dual: multipliers ≥ 0 of the bounds, ``(*batch, T, m)``.
        constraint_dual: those of the constraints, ``(*batch, T, k)``. All of these carry gradients.
        converged, iterations, residual: ``(*batch,)``. The residual is the largest violation of the optimality
            conditions, relative to 1 + the largest costate and state.
    """

    x: Tensor
    u: Tensor
    cost: Tensor
    costate: Tensor
    lower_dual: Tensor
    upper_dual: Tensor
    constraint_dual: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor


def mpc(
    x_init: Tensor,
    cost: Cost,
    dynamics: Dynamics,
    horizon: int,
    *,
    u_lower: float | Tensor | None = None,
    u_upper: float | Tensor | None = None,
    u_init: Tensor | None = None,
    constraints: Callable[..., Tensor] | None = None,
    gradient: MPCGradient = "implicit",
    controls: int | None = None,
    tolerance: float | None = None,
    max_iterations: int = 200,
    on_failure: OnFailure = "raise",
) -> MPCSolution:
    """Solve eq. (1) of this module for every element of a batch.

    Differentiable at any order with respect to x_init, the bounds, and whatever cost, dynamics and constraints close
    over: parameters of modules, tensors of shape ``(*batch, ·)``, ``t``-dependent references.

    Args:
        x_init: the first state, ``(*batch, n)``.
        cost: ``cost(x, u)`` of shape ``(*batch,)`` for x ``(*batch, n)`` and u ``(*batch, m)``, twice differentiable;
            or the tensors ``(C, c)`` of :func:`lqr`. A third argument without a default is the time t = 0, …, T − 1.
        dynamics: ``dynamics(x, u)`` of shape ``(*batch, n)``; or the tensors ``F`` or ``(F, f)`` of :func:`lqr`. A
            third argument is the time t = 0, …, T − 2.
        horizon: T, the number of states and of controls.
        u_lower, u_upper: bounds, a number, ``(m,)``, ``(T, m)`` or ``(*batch, T, m)``. Infinite or ±1e20 is no bound.
        u_init: controls to start from, ``(T, m)`` or ``(*batch, T, m)``. Started at its solution it takes at most one
            iteration, and has the same gradient. It gets a gradient itself only from ``"unroll"``.
        constraints: ``constraints(x, u)`` ≤ 0, of shape ``(*batch, k)``; also of t.
        gradient: ``"implicit"``, the exact derivative; ``"gauss_newton"`` without the second derivatives of dynamics
            and constraints, which is biased wherever costates are not zero; ``"unroll"`` through the iterations,
            ``"one_step"`` through the last Newton step. See :mod:`diffopt_lib.gradient`.
        controls: m, needed where neither bounds nor u_init nor tensors say it: a dynamics module may have it as ``m``.
        tolerance: on the residual, by default 1e-8 in float64 and 1e-3 in float32. Linear–quadratic problems and models
            are solved in float64 in any case.
        max_iterations: of the nonlinear solver.
        on_failure: ``"raise"``; ``"nan"`` marks failed elements and their gradients NaN; ``"return"`` gives the last
            iterate with ``converged`` False.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input, unknown options, a lower bound above the upper one.
        SolverError: elements that are infeasible (an x_init that violates a constraint by itself among them), that did
            not converge, or that ended where there is no strict minimum, told apart.
    """
    check_gradient(gradient, "gauss_newton")
    check_option("on_failure", on_failure, get_args(OnFailure))
    check_floating("x_init", x_init)
    if x_init.ndim == 0 or x_init.shape[-1] == 0:
        raise ValueError(f"x_init must have shape (*batch, n) with n ≥ 1, got {tuple(x_init.shape)}")
    check_finite("x_init", x_init)
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    m = _count_controls(cost, dynamics, u_lower, u_upper, u_init, controls, x_init.shape[-1])
    lower = _bound("u_lower", u_lower, -torch.inf, horizon, m, x_init)
    upper = _bound("u_upper", u_upper, torch.inf, horizon, m, x_init)
    _check_bounds(lower, upper)
    start = _start(u_init, horizon, m, x_init)
    tolerance = TOLERANCE[x_init.dtype] if tolerance is None else tolerance
    if isinstance(cost, tuple) and isinstance(dynamics, (tuple, Tensor)) and constraints is None:
        options = (horizon, on_failure, tolerance)
        return MPCSolution(*solve_linear(x_init, cost, dynamics, lower, upper, start, *options))
    model = make_model(
        *as_function(cost, dynamics, x_init.shape[-1], horizon),
        constraints,
        *_probe(x_init, lower, upper, start),
        horizon,
    )
    return _solve_model(
        model, x_init, lower, upper, start, u_init is not None, gradient, tolerance, max_iterations, on_failure
    )


def _solve_model(
    model: Model,
    x_init: Tensor,
    lower: Tensor,
    upper: Tensor,
    start: Tensor,
    warm: bool,
    gradient: str,
    tolerance: float,
    max_iterations: int,
    on_failure: OnFailure,
) -> MPCSolution:
    """The nonlinear problem."""
    layout, f = model.layout, model.f
    arguments = [("x_init", x_init, 1), ("u_lower", lower, 2), ("u_upper", upper, 2), ("u_init", start, 2)]
    batch = broadcast_batch([*arguments, ("the model", x_init.new_empty(*model.batch, 0), 1)])
    x_init = x_init.expand(*batch, layout.n)
    lower, upper = (align_batch(b, 2, len(batch)) for b in (lower, upper))
    t = torch.zeros((), dtype=torch.int64, device=x_init.device)
    start = start.expand(*batch, layout.T, layout.m).flatten(-2)

    def algorithm(f: Callable[..., Tensor], start: Tensor, *theta: Tensor) -> tuple[Tensor, ...]:
        return solve(f, layout, start, theta, warm, gradient, tolerance, max_iterations, on_failure)

    z, residual, converged, iterations, *known = solve_differentiably(
        gradient if gradient != "gauss_newton" else "implicit",
        algorithm,
        f,
        start,
        (x_init, lower, upper, t, *model.hidden),
        residual=partial(conditions, f, layout),
        solve=make_solve(layout),
        update=partial(_last_update, f, layout),
        known=lambda rest: rest[3:],
    )
    parameters = (x_init, lower, upper, t, *model.hidden, *known)
    z = mark_failures(z, converged, on_failure)
    return _solution(z, layout, partial(lagrangian, f, layout), parameters, known[0], converged, iterations, residual)


def solve(
    f: Callable[..., Tensor],
    layout: Layout,
    start: Tensor,
    theta: tuple[Tensor, ...],
    warm: bool,
    gradient: str,
    tolerance: float,
    max_iterations: int,
    on_failure: OnFailure,
) -> tuple[Tensor, ...]:
    """z, residual, converged, iterations, and what the derivative needs: active bounds, active rows, the system."""
    batch, N = start.shape[:-1], start.shape[:-1].numel()
    x_init, lower, upper = theta[:3]
    u = start.reshape(N, layout.T, layout.m)
    lower, upper = (b.expand(*batch, layout.T, layout.m).reshape(u.shape) for b in (lower, upper))
    x1 = x_init.reshape(N, layout.n)
    stage = Stage.of(f, layout, theta, torch.cat([x1, u[:, 0]], -1).reshape(*batch, layout.n + layout.m))
    found = minimise(begin(stage, x1, u, lower, upper, warm), tolerance, max_iterations)
    parts = (t.reshape((*batch, *t.shape[1:])) for t in found)
    tau, costate, nu, mu, side, status, iterations, _ = parts
    active = mu > 0
    z, side, active = layout.join(tau, costate, nu, mu), side.to(tau.dtype), active.to(tau.dtype)
    polished = polish(f, layout, z, theta, side, active, status, tolerance, gradient == "gauss_newton")
    if on_failure == "raise":
        _raise_failed(polished.status, iterations, polished.residual, tolerance)
    converged = polished.status == SOLVED
    if on_failure == "nan":  # everything counts as active, so that NaN reaches the gradient of every argument
        side = torch.where(converged[..., None, None], side, 1)
        active = torch.where(converged[..., None, None], active, 1)
    return polished.z, polished.residual, converged, iterations, side, active, *polished.stored


def _last_update(
    f: Callable[..., Tensor], layout: Layout, z: Tensor, theta: tuple[Tensor, ...], rest: tuple[Tensor, ...]
) -> Tensor:
    """Newton's step −K⁻¹ R(z, θ), in which z and K are held."""
    parameters = (*theta, *(t.detach() for t in rest[3:]))
    _, side, active, stored = split_parameters(parameters)
    left = conditions(f, layout, z, *parameters)
    return solve_for(layout, load(stored, side.shape[:-2]), -left, side, active)


def _solution(
    z: Tensor,
    layout: Layout,
    lagrangian: Callable[..., Tensor],
    parameters: tuple[Tensor, ...],
    side: Tensor,
    converged: Tensor,
    iterations: Tensor,
    residual: Tensor,
) -> MPCSolution:
    tau, costate, nu, mu = layout.split(z)
    cost = optimal_value(lagrangian, z, *parameters)
    lower_dual, upper_dual = torch.where(side < 0, -nu, 0), torch.where(side > 0, nu, 0)
    x, u = tau[..., : layout.n], tau[..., layout.n :]
    return MPCSolution(x, u, cost, costate, lower_dual, upper_dual, mu, converged, iterations, residual.detach())


def _raise_failed(status: Tensor, iterations: Tensor, residual: Tensor, tolerance: float) -> None:
    raise_failed(
        status,
        {
            INFEASIBLE: "the constraints can't be satisfied from x_init.",
            UNDEFINED: "the solver ended where there is no strict minimum, or where cost or dynamics are not finite.",
            STUCK: lambda failed: (
                f"no convergence to a residual of {tolerance:.0e} in {iterations[failed].max().item()} iterations "
                f"(it is {residual[failed].max().item():.1e})."
            ),
        },
    )


# The arguments


def _count_controls(cost, dynamics, u_lower, u_upper, u_init, controls: int | None, n: int) -> int:
    """m, from whatever knows it."""
    if isinstance(dynamics, Tensor):
        return dynamics.shape[-1] - n
    if isinstance(dynamics, tuple):
        return dynamics[0].shape[-1] - n
    if isinstance(cost, tuple):
        return cost[1].shape[-1] - n
    for known in (u_init, u_lower, u_upper):
        if isinstance(known, Tensor) and known.ndim:
            return known.shape[-1]
    m = controls if controls is not None else getattr(dynamics, "m", None)
    if m is None:
        raise ValueError("nothing says how many controls there are: give controls=m, u_init, or bounds of shape (m,)")
    return int(m)


def _bound(name: str, value: float | Tensor | None, default: float, T: int, m: int, like: Tensor) -> Tensor:
    """A bound as ``(*batch, T or 1, m)``."""
    value = default if value is None else value
    if isinstance(value, Tensor):
        check_same_kind("x_init", like, [(name, value)])
    bound = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if values_visible(bound) and bound.isnan().any():
        raise ValueError(f"{name} must not be NaN")
    bound = bound.reshape((1,) * max(0, 2 - bound.ndim) + bound.shape)
    if bound.shape[-1] not in (1, m) or bound.shape[-2] not in (1, T):
        expected = f"a number, (m,), (T, m) or (*batch, T, m) with T = {T} and m = {m}"
        raise ValueError(f"{name} must be {expected}, got {tuple(bound.shape)}")
    bound = torch.where(bound.detach().abs() >= 1e20, bound.detach().sign() * torch.inf, bound)
    return bound.expand(*bound.shape[:-1], m)


def _check_bounds(lower: Tensor, upper: Tensor) -> None:
    broadcast_batch([("u_lower", lower, 2), ("u_upper", upper, 2)])
    if values_visible(lower) and values_visible(upper) and (lower > upper).any():
        raise ValueError("u_lower must not be above u_upper")


def _start(u_init: Tensor | None, T: int, m: int, like: Tensor) -> Tensor:
    """u_init or zeros, ``(*batch, T, m)``."""
    if u_init is None:
        return like.new_zeros(T, m)
    check_floating("u_init", u_init)
    check_same_kind("x_init", like, [("u_init", u_init)])
    check_finite("u_init", u_init)
    if u_init.ndim < 2 or tuple(u_init.shape[-2:]) != (T, m):
        raise ValueError(f"u_init must have shape (*batch, {T}, {m}), got {tuple(u_init.shape)}")
    return u_init


def _probe(x_init: Tensor, lower: Tensor, upper: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """A first state and control of the batch of all tensors."""
    first = torch.maximum(torch.minimum(start[..., 0, :], upper[..., 0, :]), lower[..., 0, :]).detach()
    batch = torch.broadcast_shapes(x_init.shape[:-1], first.shape[:-1])
    return x_init.detach().expand(*batch, x_init.shape[-1]), first.expand(*batch, first.shape[-1])
