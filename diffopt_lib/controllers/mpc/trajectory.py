"""A trajectory that obeys the dynamics and the bounds, and everything to first order that is known at it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, or_one
from .kkt import assemble, compliance, sizes, solve_system
from .layout import time_first
from .stage import Stage

NEAR = 1e-6  # relative optimality at which the loop leaves an element to the polish
FIRST_PENALTY = 1e-1  # ρ, relative to its unit
ELASTIC = 1e-7  # ε of rows that can't be satisfied, in the unit of 1/ρ


class Expansion(NamedTuple):
    """What is known at a trajectory: values and Jacobians of the stages, multipliers, and distance from optimality."""

    values: Tensor
    jacobian: Tensor
    mu: Tensor  # max(0, μ + ρ g)
    gradient: Tensor  # of cost + μᵀg in τ
    costate: Tensor
    slope: Tensor  # in the controls, the future included
    residual: Tensor
    violation: Tensor


class Iterate(NamedTuple):
    """A trajectory ``(N, T, ·)`` that obeys the dynamics and the bounds, and what the method remembers of it."""

    stage: Stage
    tau: Tensor
    lower: Tensor
    upper: Tensor
    mu: Tensor
    unit: Tensor  # of ρ ``(N,)``: what makes the penalty of a row as curved as the cost
    rho: Tensor
    elastic: Tensor  # ε ``(N,)`` of rows that may be violated at a price, with μ = g / ε; else 0
    side: Tensor  # the bounds that were active in the last model: −1, 0 or 1
    damping: Tensor
    length: Tensor  # of the last step
    steps: Tensor  # so far
    promised: Tensor  # the decrease of the merit that the last model without damping promised
    last_violation: Tensor
    at: Expansion


class Start(NamedTuple):
    """Stages, first states ``(N, n)``, controls to start from and their bounds ``(N, T, m)``, and for whom the rows are
    elastic ``(N,)``."""

    stage: Stage
    x_init: Tensor
    u: Tensor
    lower: Tensor
    upper: Tensor
    soft: Tensor


def begin(start: Start, warm: bool) -> Iterate:
    """The trajectory of the controls, moved between the bounds. If they come from an earlier solution, the multipliers
    of rows that are active there are estimated, and not begun at 0."""
    stage, x_init, u, lower, upper, soft = start
    layout, N = stage.layout, len(u)
    tau = roll_out_controls(stage, x_init, torch.maximum(torch.minimum(u, upper), lower))
    mu, one = tau.new_zeros(N, layout.T, layout.k), tau.new_ones(N)
    at = expand(stage, tau, lower, upper, mu, one, 0 * one)
    side = touching(tau[..., layout.n :], lower, upper)
    zero, huge = 0 * one, torch.inf * one
    it = Iterate(stage, tau, lower, upper, mu, one, one, zero, side, zero, 0.25 * one, zero, huge, huge, at)
    if not layout.k:
        return it
    G = at.jacobian[:, :, 1 + layout.n :]
    unit = 1 / or_one(largest(compliance(G.movedim(1, 0), sizes(cost_hessian(it).movedim(1, 0))), (0, 2, 3)))
    mu = torch.where(soft[:, None, None], 0, estimate_multipliers(it)) if warm else mu
    rho, elastic = FIRST_PENALTY * unit, torch.where(soft, ELASTIC / unit, 0)
    return it._replace(
        unit=unit, rho=rho, mu=mu, elastic=elastic, at=expand(stage, tau, lower, upper, mu, rho, elastic)
    )


def expand(
    stage: Stage, tau: Tensor, lower: Tensor, upper: Tensor, mu: Tensor, rho: Tensor, elastic: Tensor
) -> Expansion:
    """Everything to first order."""
    layout, n = stage.layout, stage.layout.n
    values, J = (v.movedim(1, 0) for v in stage.expand(tau.movedim(1, 0)))
    g, G = layout.rows(values), J[:, :, 1 + n :]
    mu = (mu + rho[:, None, None] * g).clamp_min(0)
    gradient = J[:, :, 0] + torch.einsum("btki,btk->bti", G, mu)
    costate, slope = adjoint(gradient, J[:, :, 1 : 1 + n], n)
    u = tau[..., n:]
    resting = ((u <= lower) & (slope >= 0)) | ((u >= upper) & (slope <= 0))
    of_stage = gradient[..., n:]
    terms = torch.maximum(largest(gradient, (1, 2)), largest(costate, (1, 2)))
    added_up = (of_stage.abs() + (slope - of_stage).abs()).amax(1) + 1e-6 * terms.unsqueeze(-1)
    residual = largest(torch.where(resting, 0, slope).abs().amax(1) / or_one(added_up))
    # A cost that vanishes with all its derivatives is at its minimum, and nothing is left to be relative to.
    residual = torch.where(terms <= 1e-14 * (1 + largest(tau, (1, 2))), 0, residual)
    off = unmet(g, mu, elastic) / row_scale(tau, G)
    return Expansion(values, J, mu, gradient, costate, slope, residual, largest(off, (1, 2)))


def unmet(g: Tensor, mu: Tensor, elastic: Tensor) -> Tensor:
    """How far rows g ``(N, T, k)`` are from what they ought to be with multipliers μ: g = εμ, or g ≤ 0 where μ = 0."""
    return torch.where(mu > 0, (g - elastic[:, None, None] * mu).abs(), g.clamp_min(0))


def row_scale(tau: Tensor, G: Tensor) -> Tensor:
    """What a row's value is relative to: the terms of its linear model, ``(N, 1, k)``."""
    return (G.abs() * (1 + tau.abs()).unsqueeze(-2)).sum(-1).amax(1, keepdim=True).clamp_min(1e-12)


def adjoint(gradient: Tensor, F: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The costates and the slope in the controls: λ_t = ∇_x + F_xᵀ λ_{t+1}."""
    total = gradient[:, -1]
    costates, slopes = [total[:, :n]], [total[:, n:]]
    for t in range(gradient.shape[1] - 2, -1, -1):
        total = gradient[:, t] + (costates[-1].unsqueeze(-2) @ F[:, t]).squeeze(-2)
        costates.append(total[:, :n])
        slopes.append(total[:, n:])
    return torch.stack(costates[::-1], 1), torch.stack(slopes[::-1], 1)


def active_side(it: Iterate) -> Tensor:
    """The bounds that hold a control back, ``(N, T, m)``: −1, 0 or 1."""
    side = touching(it.tau[..., it.stage.layout.n :], it.lower, it.upper)
    return torch.where((it.lower == it.upper) | (side * it.at.slope < 0), side, 0)


def touching(u: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return (u >= upper).long() - ((u <= lower) & ~(u >= upper)).long()


def cost_hessian(it: Iterate) -> Tensor:
    tau = it.tau.movedim(1, 0)
    return it.stage.only("cost").hessian(tau, torch.ones_like(tau[..., :1])).movedim(0, 1)


def convex(H: Tensor) -> Tensor:
    """H ``(N, T, ·, ·)`` with its negative eigenvalues made positive: of the whole stage, cross terms included."""
    H = torch.lerp(H, H.mT, 0.5)
    unit = sizes(H.detach().movedim(1, 0)).sqrt()[:, None, :, None]  # in which all coordinates are alike
    scaled = H / (unit * unit.mT)
    ridge = 1e-9 * torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    _, info = torch.linalg.cholesky_ex((scaled + 1e-7 * ridge).detach())
    bad = info > 0
    if bad.any():
        eigenvalues, V = torch.linalg.eigh(scaled[bad].detach().nan_to_num())
        raised = eigenvalues.abs().clamp_min(1e-6) - eigenvalues
        scaled = scaled.index_put((bad,), scaled[bad] + V @ (raised.unsqueeze(-1) * V.mT))
    return (scaled + ridge) * (unit * unit.mT)


def estimate_multipliers(it: Iterate) -> Tensor:
    """μ of the rows that are active at the trajectory, from the linear–quadratic model in which they stay so."""
    at, layout, n = it.at, it.stage.layout, it.stage.layout.n
    g, G = layout.rows(at.values), at.jacobian[:, :, 1 + n :]
    active = g >= -NEAR * row_scale(it.tau, G)
    H = convex(cost_hessian(it)).movedim(1, 0).double()
    F, rows = (M.movedim(1, 0).double() for M in (at.jacobian[:, :-1, 1 : 1 + n], G))
    on = time_first(active)
    kkt = assemble(H, F, time_first(it.side) != 0, rows, on, torch.zeros_like(rows[..., :1]))
    f, x1 = torch.zeros_like(F[..., :1]), torch.zeros_like(kkt.factor.V[0, :, :, :1])
    c = at.jacobian[:, :, 0].movedim(1, 0).unsqueeze(-1).double()
    _, mu = solve_system(kkt, c, f, x1, None, -time_first(g).double() * on)
    mu = torch.where(active, mu.squeeze(-1).movedim(0, 1).to(g.dtype), 0)
    return torch.where(mu > 0, mu, 0)


def roll_out_controls(stage: Stage, x: Tensor, u: Tensor) -> Tensor:
    """τ ``(N, T, n + m)`` of the controls u."""
    dynamics, taus = stage.only("dynamics"), []
    for t in range(u.shape[1]):
        taus.append(torch.cat([x, u[:, t]], -1))
        x = dynamics.at(taus[-1], torch.tensor(t, device=u.device))
    return torch.stack(taus, 1)
