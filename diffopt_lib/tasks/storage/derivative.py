"""The optimality conditions of a battery's plan with its active bounds held, and solves with their Jacobian.

With τ_t = (x_{t−1}, a_t, b_t), e = (1, η, −1) and the level x_t = eᵀτ_t, costates λ_t of the state before hour t,
multipliers ν_t of the bounds on a and b, and μ_t of those on the level, signed: positive where an upper bound pushes,

    R = ( p_t (0, 1, −1) + 2ε (0, a_t, b_t) + (2λ (x_t − ½B) + μ_t + λ_{t+1}) e + (0, ν_t) − (λ_t, 0),
          x_0 − first state,   x_t − next state,
          control − its bound, or −ν, where that bound is active or not,   the same for the level and μ )      (1)

The Jacobian in z = (τ, λ, ν, μ) is the symmetric matrix of :mod:`diffopt_lib.controllers.mpc.kkt`.

Chapter: book/2_differentiable/12_task_losses.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...controllers.mpc.layout import STORED, Layout, load, solve_for
from ...linear import LinearOperator


def conditions(layout: Layout, z: Tensor, *parameters: Tensor) -> Tensor:
    """R of eq. (1) for z ``(*batch, ·)``."""
    prices, flexibility, health, capacity, efficiency, *rates_and_start = parameters[:8]
    side, active = parameters[8:10]
    *rates, start = rates_and_start
    tau, costate, nu, mu = layout.split(z)
    before, a, b = tau.unbind(-1)
    costate, mu = costate.squeeze(-1), mu.squeeze(-1)
    on = active.squeeze(-1)
    level = before + efficiency * a - b
    push = 2 * flexibility * (level - capacity / 2) + torch.where(on != 0, mu, 0) + pad(costate[..., 1:], (0, 1))
    pushed = torch.where(side != 0, nu, 0)
    of_before = push - costate
    of_a = prices + 2 * health * a + efficiency * push + pushed[..., 0]
    of_b = -prices + 2 * health * b - push + pushed[..., 1]
    motion = torch.cat([start - before[..., :1], level[..., :-1] - before[..., 1:]], -1)
    at_bound = torch.stack([a, b], -1) - torch.where(side > 0, torch.stack(rates, -1), 0)
    full = level - torch.where(on > 0, capacity, 0)
    return layout.join(
        torch.stack([of_before, of_a, of_b], -1),
        motion.unsqueeze(-1),
        torch.where(side != 0, at_bound, -nu),
        torch.where(active != 0, full.unsqueeze(-1), -mu.unsqueeze(-1)),
    )


def solve_conditions(layout: Layout, operator: LinearOperator, rhs: Tensor) -> Tensor:
    """D_z R w = rhs; the transpose is the same."""
    side, active, *stored = operator.parameters[-STORED - 2 :]
    return solve_for(layout, load(stored, side.shape[:-2]), rhs, (side, active))
