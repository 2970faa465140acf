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

**Receding horizon.** Solve, apply the first control, shift the plan, and start from it:

    plan = None
    for _ in range(steps):
        solution = mpc(x, cost, dynamics, 20, u_lower=-2, u_upper=2, u_init=plan)
        x = system(x, solution.u[..., 0, :])
        plan = torch.cat([solution.u[..., 1:, :], solution.u[..., -1:, :]], dim=-2)

**References and terminal costs** come in through the third argument t = 0, …, T − 1, an integer tensor:

    def cost(x, u, t):
        stage = (x - reference[..., t, :]).square().sum(-1) + 0.01 * u.square().sum(-1)
        return torch.where(t == 19, 10 * stage, stage)

**A price on changing the control** needs the last control in the state: with x̃ = (x, u₋):

    def dynamics(x, u):
        return torch.cat([system(x[..., :n], u), u], dim=-1)

    def cost(x, u):
        return stage(x[..., :n], u) + rate * (u - x[..., n:]).square().sum(-1)

**Tensors of mpc.pytorch** have the time in front of the batch:

    mpc(x_init, (C.transpose(0, 1), c.transpose(0, 1)), F.transpose(0, 1), T, u_lower=u_lower.transpose(0, 1))

Its derivative is ``gradient="gauss_newton"``, its ``exit_unconverged=False`` is ``on_failure="return"``.

Chapter: book/2_differentiable/10_control. Source: Amos et al., Differentiable MPC, 2018; the exact curvature as in
Frey et al., Differentiable nonlinear MPC, 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.shapes import align_batch, broadcast_batch
from ...gradient import check_gradient, solve_differentiably
from ...solution import SOLVED, STUCK, mark_failures, raise_failed
from ...validate import check_limits, check_option, check_vectors
from ..envelope import optimal_value
from .arguments import check_problem, count_controls, probe, read_bounds, read_start
from .derivative import conditions, lagrangian, make_solve, split_parameters, total_cost
from .layout import Layout, load, solve_for
from .linear import as_function, solve_linear
from .smoothing import Path, inside, least_slack, outside
from .solver import solve
from .stage import Model, make_model, with_time

Cost = Callable[..., Tensor] | nn.Module | tuple[Tensor, Tensor]
Dynamics = Callable[..., Tensor] | nn.Module | Tensor | tuple[Tensor, Tensor]
MPCOnFailure = Literal["raise", "nan", "closest", "return"]
MPCGradient = Literal["implicit", "gauss_newton", "unroll", "one_step"]

NO_PATH = "smoothing needs a trajectory on which all bounds and constraints hold strictly, and found none."
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
            conditions, relative to the terms that were added up in its coordinate (at whatever time that was most).
        status: ``(*batch,)``, int64: 1 solved, 2 infeasible, 4 not converged, 5 without a strict minimum, or where a
            function is not finite.
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
    status: Tensor


@full_precision
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
    smoothing: float = 0.0,
    controls: int | None = None,
    tolerance: float | None = None,
    max_iterations: int = 200,
    on_failure: MPCOnFailure = "raise",
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
            ``"one_step"`` through the last Newton step. See :mod:`diffopt_lib.gradient`. Where cost and dynamics are
            tensors, and nothing else is constrained, the derivative is the exact one whatever this says.
        smoothing: μ > 0 gives x, u, costates and duals the derivative of the point on the central path for μ, in the
            units of the cost, instead of their own: smooth across changes of the active bounds, but biased. The
            solution and its cost stay exact. See :mod:`.mpc.smoothing`.
        controls: m, needed where neither bounds nor u_init nor tensors say it: a dynamics module may have it as ``m``.
        tolerance: on the residual, by default 1e-8 in float64 and 1e-3 in float32. Linear–quadratic problems and models
            are solved in float64 in any case.
        max_iterations: of the nonlinear solver.
        on_failure: ``"raise"``; ``"nan"`` marks failed elements and their gradients NaN; ``"closest"`` lets the
            constraints of infeasible elements give way, g ≤ s, by the least Σ s² (up to a factor of about 1e-7 between
            the two prices), and raises for the rest; ``"return"`` gives the last iterate with ``converged`` False.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input, unknown options, a lower bound above the upper one.
        SolverError: elements that are infeasible (an x_init that violates a constraint by itself among them), that did
            not converge, or that ended where there is no strict minimum, told apart; with smoothing, elements whose
            constraints can't all be met strictly, so that there is no central path.
    """
    check_gradient(gradient, "gauss_newton")
    check_option("on_failure", on_failure, get_args(MPCOnFailure))
    check_limits(tolerance, max_iterations)
    check_vectors(x_init, "x_init")
    check_problem(horizon, constraints, smoothing, on_failure)
    m = count_controls(cost, dynamics, u_lower, u_upper, u_init, controls, x_init.shape[-1])
    lower, upper = read_bounds(u_lower, u_upper, horizon, m, x_init)
    start = read_start(u_init, horizon, m, x_init)
    tolerance = TOLERANCE[x_init.dtype] if tolerance is None else tolerance
    if smoothing:
        again = partial(
            mpc,
            x_init,
            horizon=horizon,
            gradient=gradient,
            controls=m,
            tolerance=tolerance,
            max_iterations=max_iterations,
            on_failure=on_failure,
        )
        bounded = partial(again, u_lower=lower, u_upper=upper)
        exact = bounded(cost=cost, dynamics=dynamics, u_init=u_init, constraints=constraints)
        cost, dynamics = as_function(cost, dynamics, x_init.shape[-1], horizon)
        path = Path(with_time(cost), None if constraints is None else with_time(constraints), lower, upper, smoothing)
        return _smoothed(exact, partial(again, dynamics=dynamics), path, on_failure)
    if isinstance(cost, tuple) and isinstance(dynamics, (tuple, Tensor)) and constraints is None:
        return MPCSolution(*solve_linear(x_init, cost, dynamics, lower, upper, start, horizon, on_failure, tolerance))
    model = make_model(
        *as_function(cost, dynamics, x_init.shape[-1], horizon),
        constraints,
        *probe(x_init, lower, upper, start),
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
    on_failure: MPCOnFailure,
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

    z, residual, status, iterations, *known = solve_differentiably(
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
    converged = status == SOLVED
    z = mark_failures(z, converged, "nan" if on_failure == "nan" else "raise")
    tau, costate, nu, mu = layout.split(z)
    if on_failure == "closest":  # what elastic constraints cost is part of the Lagrangian, and not of the cost
        value = total_cost(f, layout, z, *parameters)
    else:
        value = optimal_value(partial(lagrangian, f, layout), z, *parameters)
    side = known[0]
    duals = torch.where(side < 0, -nu, 0), torch.where(side > 0, nu, 0), mu
    x, u = tau[..., : layout.n], tau[..., layout.n :]
    return MPCSolution(x, u, value, costate, *duals, converged, iterations, residual.detach(), status)


def _smoothed(exact: MPCSolution, solve_again: Callable[..., MPCSolution], path: Path, on_failure: str) -> MPCSolution:
    """The solution with the derivative of the point of the central path for μ, found from it."""
    mu = path.mu
    start = inside(exact.u, exact.lower_dual, exact.upper_dual, path.lower, path.upper, mu)
    duals = exact.lower_dual, exact.upper_dual, exact.constraint_dual
    delta = least_slack(path.slacks(exact.x, exact.u), duals, mu)
    lower, upper = path.bounds()
    point = solve_again(cost=path.with_barrier(delta), u_init=start, u_lower=lower, u_upper=upper)
    slacks = path.slacks(point.x, point.u)
    missed = outside(slacks, delta)
    if on_failure == "raise":
        opaque(_refuse_smoothing, missed)
    below, above, rows = (mu / s for s in slacks)
    of_point = dict(
        x=point.x, u=point.u, costate=point.costate, lower_dual=below, upper_dual=above, constraint_dual=rows
    )
    smooth = {}
    for name, v in of_point.items():
        moving = mark_failures((v - v.detach()).flatten(-2), ~missed, "nan" if on_failure == "nan" else "raise")
        smooth[name] = getattr(exact, name).detach() + moving.reshape(v.shape)
    return replace(exact, **smooth)


def _refuse_smoothing(missed: Tensor) -> tuple[Tensor]:
    raise_failed(torch.where(missed, STUCK, SOLVED), {STUCK: NO_PATH})
    return (missed,)


def _last_update(
    f: Callable[..., Tensor], layout: Layout, z: Tensor, theta: tuple[Tensor, ...], rest: tuple[Tensor, ...]
) -> Tensor:
    """Newton's step −K⁻¹ R(z, θ), in which z and K are held."""
    parameters = (*theta, *(t.detach() for t in rest[3:]))
    _, active, stored = split_parameters(parameters)
    left = conditions(f, layout, z, *parameters)
    return solve_for(layout, load(stored, active.side.shape[:-2]), -left, active)
