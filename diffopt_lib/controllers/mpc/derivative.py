"""The optimality conditions of model-predictive control, whose root the solution is, and solves with their Jacobian.

With H_t = (1, λ_{t+1}, μ_t)ᵀ s_t(τ_t) the Hamiltonian of the stage s_t = (cost, dynamics, constraints),

    R = ( ∇H_t(τ_t) − (λ_t, 0) + (0, ν_t),   x_init − x_1,   φ(τ_t) − x_{t+1},
          u_ti − bound_ti at active bounds, −ν_ti at others,   g_ti(τ_t) at active rows, −μ_ti at others )      (1)

or g_ti(τ_t) − ε μ_ti for rows that are elastic. Active bounds and rows are held while differentiating. The Jacobian of
(1) in z = (τ, λ, ν, μ) is symmetric. Its curvature ∇²H_t includes the second derivatives of the dynamics, weighted by
the costates, without which the derivative is that of another problem (``"gauss_newton"``). The parameters of cost,
dynamics and constraints get their gradient by one pull-back through R; no Jacobian in them is formed.

Chapter: book/2_differentiable/10_control.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp, vmap

from ...linear import LinearOperator, LinearSolve
from .layout import STORED, Layout, load, solve_for
from .stage import TIME


class Active(NamedTuple):
    """The bounds that are active, ``(*batch, T, m)``: −1, 0 or 1; the rows that are, ``(*batch, T, k)``: 0 or 1; and
    the elasticities ε of rows, 0 for those that are hard. All floating point."""

    side: Tensor
    rows: Tensor
    elastic: Tensor


def split_parameters(parameters: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Active, list[Tensor]]:
    """(x_init, lower, upper, t, *hidden), what is active, and the stored system."""
    rest, stored = parameters[:-STORED], list(parameters[-STORED:])
    return rest[:-3], Active(*rest[-3:]), stored


def conditions(f: Callable[..., Tensor], layout: Layout, z: Tensor, *parameters: Tensor) -> Tensor:
    """Eq. (1) for z = (τ, λ, ν, μ) ``(*batch, ·)``."""
    theta, (side, active, elastic), _ = split_parameters(parameters)
    x_init, lower, upper = theta[:TIME]
    tau, costate, nu, mu = layout.split(z)
    n = layout.n
    x, u = tau[..., :n], tau[..., n:]
    values, pull = vjp(partial(stage_values, f, theta), tau)
    (gradient,) = pull(weights(layout, costate, active * mu))
    stationarity = gradient - torch.nn.functional.pad(costate, (0, layout.m))
    stationarity = stationarity + torch.nn.functional.pad(torch.where(side != 0, nu, 0), (n, 0))
    first = (x_init.unsqueeze(-2) - x[..., :1, :]).expand(x[..., :1, :].shape)
    motion = torch.cat([first, layout.next_state(values)[..., :-1, :] - x[..., 1:, :]], dim=-2)
    bounds = torch.where(side != 0, u - active_bound(side, lower, upper), -nu)
    rows = torch.where(active != 0, layout.rows(values) - elastic * mu, -mu)
    return layout.join(stationarity, motion, bounds, rows)


def active_bound(side: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The bound that is active, 0 where none is."""
    return torch.where(side < 0, lower, torch.where(side > 0, upper, 0))


def stage_values(f: Callable[..., Tensor], theta: tuple[Tensor, ...], tau: Tensor) -> Tensor:
    """s_t at all times, ``(*batch, T, 1 + n + k)``."""

    def at(tau: Tensor, t: Tensor) -> Tensor:
        return f(tau, *theta[:TIME], t, *theta[TIME + 1 :])

    times = torch.arange(tau.shape[-2], device=tau.device)
    return vmap(at)(tau.movedim(-2, 0), times).movedim(0, -2)


def weights(layout: Layout, costate: Tensor, mu: Tensor) -> Tensor:
    """(1, λ_{t+1}, μ_t), ``(*batch, T, 1 + n + k)``, with λ_{T+1} = 0."""
    future = torch.nn.functional.pad(costate[..., 1:, :], (0, 0, 0, 1))
    return torch.cat([torch.ones_like(future[..., :1]), future, mu], dim=-1)


def lagrangian(f: Callable[..., Tensor], layout: Layout, z: Tensor, *parameters: Tensor) -> Tensor:
    """The cost, and the multipliers times what they belong to, ``(*batch,)``."""
    theta, (side, active, elastic), _ = split_parameters(parameters)
    x_init, lower, upper = theta[:TIME]
    tau, costate, nu, mu = layout.split(z)
    x, u = tau[..., : layout.n], tau[..., layout.n :]
    values = stage_values(f, theta, tau)
    first = (costate[..., 0, :] * (x_init - x[..., 0, :])).sum(-1)
    motion = (costate[..., 1:, :] * (layout.next_state(values)[..., :-1, :] - x[..., 1:, :])).sum((-2, -1))
    bounds = torch.where(side != 0, nu * (u - active_bound(side, lower, upper)), 0).sum((-2, -1))
    rows = (active * mu * (layout.rows(values) - elastic * mu / 2)).sum((-2, -1))
    return values[..., 0].sum(-1) + first + motion + bounds + rows


def total_cost(f: Callable[..., Tensor], layout: Layout, z: Tensor, *parameters: Tensor) -> Tensor:
    """Σ cost(x_t, u_t), ``(*batch,)``."""
    theta, _, _ = split_parameters(parameters)
    return stage_values(f, theta, layout.split(z)[0])[..., 0].sum(-1)


def make_solve(layout: Layout) -> LinearSolve:
    """D_z R w = rhs, and the same for the transpose. Nothing makes nothing, even of an element without a system: one
    that did not converge, say, and that its user leaves out."""

    def solve(operator: LinearOperator, rhs: Tensor) -> Tensor:
        _, active, stored = split_parameters(operator.parameters)
        w = solve_for(layout, load(stored, active.side.shape[:-2]), rhs, active)
        return torch.where((rhs == 0).all(-1, keepdim=True), 0, w)

    return solve
