"""An interior point method for a battery's plan, with one Riccati recursion per step, and its active bounds.

    min Σ_t ½ τ_tᵀ C τ_t + c_tᵀ τ_t   s.t.  x_{t+1} = eᵀ τ_t,   0 ≤ E τ_t ≤ U                       (1)

for τ_t = (x_{t−1}, a_t, b_t); the rows of E are those of a, of b, and e = (1, η, −1), the level after the hour. Slacks
and multipliers of (1) enter C as EᵀWE, so that a bound on the state costs nothing more than one on a control. At the
end the bounds with a multiplier larger than their slack are held, and one more solve puts the plan on them exactly.

Sources: Mehrotra 1992; Rao, Wright & Rawlings 1998 for the recursion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest
from ...batch.rows import iterate
from ...controllers.boxed import TimeFirst
from ...controllers.mpc.kkt import KKT, assemble, solve_system
from ...controllers.mpc.layout import Layout, store
from ...controllers.riccati import factorise, find_policy, follow
from ...solution import SOLVED, STUCK, raise_failed
from ...validate import NO_BOUND

MAX_ITERATIONS = 60
TOLERANCE = 1e-8  # of the residual
NEAR = 1e-11  # complementarity and violation at which the path ends, relative to slope and capacity
STEP_BACK = 0.99  # how much of the way to a bound a step may go
INSIDE = 0.1  # how far inside of their bounds slacks begin, at least, relative to the capacity


@dataclass(frozen=True)
class Battery(TimeFirst):
    """Problem (1), time first: C ``(1, N, 3, 3)``, c ``(T, N, 3, 1)``, E and U ``(1, N, 3, ·)``; x_0, the capacity and
    the size of the objective's slopes, ``(1, N, 1, 1)``."""

    C: Tensor
    c: Tensor
    E: Tensor
    upper: Tensor
    start: Tensor
    capacity: Tensor
    size: Tensor

    @property
    def to_level(self) -> Tensor:
        """e, a row."""
        return self.E[..., 2:, :]


@dataclass(frozen=True)
class Point(TimeFirst):
    """τ ``(T, N, 3, 1)``, and slacks and multipliers ``(T, N, 3, 2)`` of lower and upper bounds. Infinite ones have
    multiplier 0."""

    tau: Tensor
    slack: Tensor
    dual: Tensor


class Interior(NamedTuple):
    """A point of the path, and whether rounding lets it go no further, ``(N,)``."""

    battery: Battery
    at: Point
    exhausted: Tensor


class Candidate(NamedTuple):
    """τ, λ and the multipliers of both bounds together, positive where the upper one pushes, ``(T, N, ·, 1)``."""

    tau: Tensor
    costate: Tensor
    push: Tensor


class Arrived(NamedTuple):
    """τ ``(N, T, 3)``, multipliers, the active bounds −1, 0 or 1, and the iterations ``(N,)``."""

    tau: Tensor
    push: Tensor
    side: Tensor
    iterations: Tensor


def solve(layout: Layout, on_failure: str, *theta: Tensor) -> tuple[Tensor, ...]:
    """z of :mod:`.derivative`, residual, converged, iterations, active bounds, and the factorised conditions."""
    _check(*theta)
    batch = theta[0].shape[:-1]
    battery = _battery(*(t.expand(*batch, t.shape[-1]).reshape(-1, t.shape[-1]) for t in theta))
    arrived = iterate(Interior(battery, *_begin(battery)), _look, _go_on, MAX_ITERATIONS)
    tau, push, side = (v.movedim(1, 0).unsqueeze(-1) for v in (arrived.tau, arrived.push, arrived.side))
    kkt, on_bounds = _hold(battery, side)
    inside = Candidate(tau, _costates(battery, tau, push), push)
    errors = [_error(battery, candidate) for candidate in (on_bounds, inside)]
    best = ~(errors[0] > errors[1].clamp_min(1e-2 * TOLERANCE))
    error = torch.where(best, errors[0], errors[1])
    tau, costate, push = (torch.where(best[:, None, None], *pair) for pair in zip(on_bounds, inside, strict=True))

    def batch_first(v: Tensor) -> Tensor:
        return v.squeeze(-1).movedim(0, 1).reshape(*batch, layout.T, v.shape[-2])

    z = layout.join(*map(batch_first, (tau, costate, push[..., :2, :], push[..., 2:, :])))
    residual, iterations = error.reshape(batch), arrived.iterations.reshape(batch)
    status = torch.where(residual <= TOLERANCE, SOLVED, STUCK)
    if on_failure == "raise":
        _raise_failed(status, residual)
    of_controls, of_level = (batch_first(v).to(z.dtype) for v in (side[..., :2, :], side[..., 2:, :]))
    return z, residual, status == SOLVED, iterations, of_controls, of_level, *store(kkt, batch)


def _check(
    prices: Tensor,
    flexibility: Tensor,
    health: Tensor,
    capacity: Tensor,
    efficiency: Tensor,
    charge_rate: Tensor,
    discharge_rate: Tensor,
    start: Tensor,
) -> None:
    def demand(holds: Tensor, name: str, expected: str, value: Tensor) -> None:
        if not holds.all():
            raise ValueError(f"{name} must be {expected}, got {value[~holds.expand(value.shape)][0].item():g}")

    demand(flexibility >= 0, "flexibility", "at least 0", flexibility)
    positive = dict(health=health, capacity=capacity, charge_rate=charge_rate, discharge_rate=discharge_rate)
    for name, value in positive.items():
        demand(value > 0, name, "positive", value)
    demand((efficiency > 0) & (efficiency <= 1), "efficiency", "greater than 0 and at most 1", efficiency)
    start, capacity = torch.broadcast_tensors(start, capacity)
    demand((start >= 0) & (start <= capacity), "start", "between 0 and the capacity", start)


def _raise_failed(status: Tensor, residual: Tensor) -> None:
    reason = f"no convergence in {MAX_ITERATIONS} iterations"
    raise_failed(status, {STUCK: lambda failed: f"{reason} (residual {residual[failed].max().item():.1e})."})


def _battery(
    prices: Tensor,
    flexibility: Tensor,
    health: Tensor,
    capacity: Tensor,
    efficiency: Tensor,
    charge_rate: Tensor,
    discharge_rate: Tensor,
    start: Tensor,
) -> Battery:
    """Problem (1) for rows ``(N, ·)``."""
    one, none = torch.ones_like(efficiency), torch.zeros_like(efficiency)
    e = torch.cat([one, efficiency, -one], -1)
    E = torch.stack([torch.cat([none, one, none], -1), torch.cat([none, none, one], -1), e], -2)
    wear = torch.diag_embed(torch.cat([none, health, health], -1))
    C = 2 * (wear + flexibility[..., None] * e[:, :, None] * e[:, None, :])
    pull = (flexibility * capacity)[..., None] * e.unsqueeze(-2)  # (N, 1, 3)
    c = torch.stack([torch.zeros_like(prices), prices, -prices], -1) - pull
    upper = torch.cat([charge_rate, discharge_rate, capacity], -1)
    upper = torch.where(upper >= NO_BOUND, torch.inf, upper)
    size = largest(c, (1, 2)) + largest(C, (1, 2)) * capacity.squeeze(-1)
    c, upper, size = c.movedim(1, 0)[..., None], upper[None, ..., None], size[None, :, None, None]
    return Battery(C[None], c, E[None], upper, start[None, ..., None], capacity[None, ..., None], size)


# The path


def _begin(battery: Battery) -> tuple[Point, Tensor]:
    """As much in as out, so that the level stays; slacks at least INSIDE, whatever the level is."""
    eta, T = battery.to_level[..., 1:2], len(battery.c)
    limits = torch.cat([battery.upper[..., :1, :], battery.upper[..., 1:2, :] / eta, battery.capacity], -2)
    charge = 0.5 * limits.amin(-2, keepdim=True)
    tau = torch.cat([battery.start, charge, eta * charge], -2).expand(T, -1, -1, -1)
    slack = torch.maximum(_room(battery, tau), INSIDE * torch.minimum(battery.upper, battery.capacity))
    bounded = slack.isfinite()
    at = Point(tau, torch.where(bounded, slack, 1), torch.where(bounded, battery.size, 0))
    return at, torch.zeros_like(tau[0, :, 0, 0], dtype=torch.bool)


def _room(battery: Battery, tau: Tensor) -> Tensor:
    """E τ and U − E τ, ``(T, N, 3, 2)``."""
    v = torch.matmul(battery.E, tau)
    return torch.cat([v, battery.upper - v], -1)


def _look(it: Interior, k: int) -> tuple[Interior, Tensor, Arrived]:
    battery, at, exhausted = it
    gap = (at.slack * at.dual).amax((0, 2, 3)) / (battery.size * battery.capacity).flatten()
    off = torch.where(at.dual > 0, (_room(battery, at.tau) - at.slack).abs(), 0).amax((0, 2, 3))
    arrived = (gap <= NEAR) & (off <= NEAR * battery.capacity.flatten())
    active = at.dual * battery.capacity > at.slack * battery.size
    side = active[..., 1].long() - active[..., 0].long()
    push = at.dual[..., 1] - at.dual[..., 0]
    tau, push, side = (v.movedim(0, 1) for v in (at.tau.squeeze(-1), push, side))
    return it, arrived | exhausted, Arrived(tau, push, side, torch.full(gap.shape, k, device=gap.device))


def _go_on(it: Interior) -> Interior:
    """A step, where it is finite: near the end slacks may be so small that the recursion breaks down."""
    battery, at, _ = it
    after = _step(battery, at)
    finite = torch.isfinite(after.tau).all(2).all(0) & torch.isfinite(after.dual).all(3).all(2).all(0)[:, None]
    kept = finite[:, None]
    pairs = ((after.tau, at.tau), (after.slack, at.slack), (after.dual, at.dual))
    return Interior(battery, Point(*(torch.where(kept, new, old) for new, old in pairs)), ~finite.flatten())


def _step(battery: Battery, at: Point) -> Point:
    """A predictor and a corrector with one factorisation."""
    bounded = at.dual > 0
    weight = (at.dual / at.slack).sum(-1, keepdim=True)
    H = battery.C + torch.matmul(battery.E.mT, weight * battery.E)
    factor = factorise(H, battery.to_level.expand(len(at.tau) - 1, -1, -1, -1))
    slope = torch.matmul(battery.C, at.tau) + battery.c
    missing = torch.where(bounded, _room(battery, at.tau) - at.slack, 0)
    still = torch.zeros_like(at.tau[0, :, :1])

    def direction(product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dτ, ds, dμ with s dμ + μ ds = −product and ds = ± E dτ + what is missing."""
        pull = (product + at.dual * missing) / at.slack - at.dual
        g = slope + torch.matmul(battery.E.mT, pull[..., :1] - pull[..., 1:])
        d_tau = follow(factor, find_policy(factor, g).k, None, still)
        dv = torch.matmul(battery.E, d_tau)
        ds = torch.where(bounded, torch.cat([dv, -dv], -1) + missing, 0)
        return d_tau, ds, -(product + at.dual * ds) / at.slack * bounded

    product = at.slack * at.dual
    count = bounded.sum((0, 2, 3), keepdim=True)
    _, ds, d_dual = direction(product)
    alpha = _longest(at, ds, d_dual, 1.0)
    mu = product.sum((0, 2, 3), keepdim=True) / count
    ahead = ((at.slack + alpha * ds) * (at.dual + alpha * d_dual)).sum((0, 2, 3), keepdim=True) / count
    d_tau, ds, d_dual = direction((product + ds * d_dual - (ahead / mu) ** 3 * mu) * bounded)
    alpha = _longest(at, ds, d_dual, STEP_BACK)
    return Point(at.tau + alpha * d_tau, at.slack + alpha * ds, at.dual + alpha * d_dual)


def _longest(at: Point, ds: Tensor, d_dual: Tensor, fraction: float) -> Tensor:
    """The largest α ≤ 1 that goes at most a fraction of the way to a slack or multiplier of 0, ``(1, N, 1, 1)``."""
    of_dual = -d_dual / torch.where(at.dual > 0, at.dual, 1)
    ratio = torch.maximum(-ds / at.slack, of_dual).amax((0, 2, 3), keepdim=True)
    return (fraction / ratio.clamp_min(fraction)).clamp_max(1.0)


# Its end


def _hold(battery: Battery, side: Tensor) -> tuple[KKT, Candidate]:
    """The system with these bounds held, ``(T, N, 3, 1)``: −1, 0 or 1, and its solution."""
    T = len(side)
    rows = battery.to_level.expand(T, -1, -1, -1)
    controls, level = side[..., :2, :], side[..., 2:, :]
    H, rigid = battery.C.expand(T, -1, -1, -1), torch.zeros_like(level)
    kkt = assemble(H, rows[1:], controls != 0, rows, level != 0, rigid)
    at = torch.where(side > 0, battery.upper, 0)
    f = battery.c.new_zeros(T - 1, side.shape[1], 1, 1)
    solution, mu = solve_system(kkt, battery.c, f, battery.start[0], at[..., :2, :], at[..., 2:, :])
    return kkt, Candidate(solution.tau, solution.costate, torch.cat([solution.nu, mu], -2))


def _costates(battery: Battery, tau: Tensor, push: Tensor) -> Tensor:
    """λ_t: what is pushed in the level from hour t on."""
    slope = torch.matmul(battery.C, tau) + battery.c + torch.matmul(battery.E.mT, push)
    return slope[..., :1, :].flip(0).cumsum(0).flip(0)


def _error(battery: Battery, it: Candidate) -> Tensor:
    """The largest violation of the optimality conditions, ``(N,)``."""
    tau, costate, push = it
    future = torch.nn.functional.pad(costate[1:], (0, 0, 0, 0, 0, 0, 0, 1))
    slope = torch.matmul(battery.C, tau) + battery.c + torch.matmul(battery.E.mT, push)
    slope = slope + battery.to_level.mT * future - torch.nn.functional.pad(costate, (0, 0, 0, 2))
    room = _room(battery, tau)
    left = torch.where(push == 0, 0, push.abs() * torch.where(push > 0, room[..., 1:], room[..., :1]).abs())
    terms = (slope / battery.size, room.clamp_max(0) / battery.capacity, left / (battery.size * battery.capacity))
    return torch.stack([term.abs().amax((0, 2, 3)) for term in terms]).amax(0).nan_to_num(nan=torch.inf)
