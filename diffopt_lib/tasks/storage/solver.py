"""An interior point method for a battery's plan, with one Riccati recursion per step, and its active bounds.

The problem is eq. (1) of :mod:`.battery`. Slacks and multipliers enter C as EᵀWE, so that a bound on the state costs
nothing more than one on a control. At the end the bounds with a multiplier larger than their slack are held, and one
more solve puts the plan on them exactly (:mod:`.finish`). Where bounds hold by less than the root of what rounding
leaves of complementarity, it is the end of the path that counts. So its steps are corrected once for their rounding.

Sources: Mehrotra 1992; Rao, Wright & Rawlings 1998 for the recursion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.rows import iterate
from ...controllers.boxed import TimeFirst
from ...controllers.mpc.layout import Layout, store
from ...controllers.riccati import factorise, find_policy, follow
from ...solution import SOLVED, STUCK, raise_failed
from .battery import Battery, Terms, check, make_battery, room_of
from .finish import choose, error_of, hold, with_costates

MAX_ITERATIONS = 60
TOLERANCE = 1e-8  # of the residual
NEAR = 1e-11  # complementarity and violation at which the path ends, relative to slope and capacity
FINE = 5e-9  # error below which a later point is better even if its error is larger: its bounds are more distinct
STEP_BACK = 0.99  # how much of the way to a bound a step may go
INSIDE = 0.1  # how far inside of their bounds slacks begin, at least, relative to the capacity


@dataclass(frozen=True)
class Point(TimeFirst):
    """τ ``(T, N, 3, 1)``, and slacks and multipliers ``(T, N, 3, 2)`` of lower and upper bounds. Infinite ones have
    multiplier 0."""

    tau: Tensor
    slack: Tensor
    dual: Tensor


@dataclass(frozen=True)
class Best(TimeFirst):
    """τ and the multipliers, positive where the upper bound pushes, ``(T, N, 3, 1)``, where the error ``(1, N, 1, 1)``
    was least: close to the end of the path rounding may make it larger again."""

    tau: Tensor
    push: Tensor
    error: Tensor


class Interior(NamedTuple):
    """A point of the path, the best so far, and whether rounding lets it go no further, ``(N,)``."""

    battery: Battery
    at: Point
    best: Best
    exhausted: Tensor


class Arrived(NamedTuple):
    """τ ``(N, T, 3)``, multipliers, the active bounds −1, 0 or 1, and the iterations ``(N,)``."""

    tau: Tensor
    push: Tensor
    side: Tensor
    iterations: Tensor


def solve(layout: Layout, on_failure: str, *theta: Tensor) -> tuple[Tensor, ...]:
    """z of :mod:`.derivative`, residual, converged, iterations, active bounds, and the factorised conditions."""
    check(Terms(*theta))
    batch = theta[0].shape[:-1]
    battery = make_battery(Terms(*(t.expand(*batch, t.shape[-1]).reshape(-1, t.shape[-1]) for t in theta)))
    arrived = iterate(Interior(battery, *_begin(battery)), _look, _go_on, MAX_ITERATIONS)
    tau, push, side = (v.movedim(1, 0).unsqueeze(-1) for v in (arrived.tau, arrived.push, arrived.side))
    kkt, on_bounds = hold(battery, side)
    (tau, costate, push), error = choose(battery, kkt, side, on_bounds, tau, push)

    def batch_first(v: Tensor) -> Tensor:
        return v.squeeze(-1).movedim(0, 1).reshape(*batch, layout.T, v.shape[-2])

    z = layout.join(*map(batch_first, (tau, costate, push[..., :2, :], push[..., 2:, :])))
    residual, iterations = error.reshape(batch), arrived.iterations.reshape(batch)
    status = torch.where(residual <= TOLERANCE, SOLVED, STUCK)
    if on_failure == "raise":
        _raise_failed(status, residual)
    of_controls, of_level = (batch_first(v).to(z.dtype) for v in (side[..., :2, :], side[..., 2:, :]))
    return z, residual, status == SOLVED, iterations, of_controls, of_level, *store(kkt, batch)


def _raise_failed(status: Tensor, residual: Tensor) -> None:
    reason = f"no convergence in {MAX_ITERATIONS} iterations"
    raise_failed(status, {STUCK: lambda failed: f"{reason} (residual {residual[failed].max().item():.1e})."})


# The path


def _begin(battery: Battery) -> tuple[Point, Best, Tensor]:
    """As much in as out, so that the level stays; slacks at least INSIDE, whatever the level is."""
    eta, T = battery.to_level[..., 1:2], len(battery.c)
    limits = torch.cat([battery.upper[..., :1, :], battery.upper[..., 1:2, :] / eta, battery.capacity], -2)
    charge = 0.5 * limits.amin(-2, keepdim=True)
    tau = torch.cat([battery.start, charge, eta * charge], -2).expand(T, -1, -1, -1)
    slack = torch.maximum(room_of(battery, tau), INSIDE * torch.minimum(battery.upper, battery.capacity))
    bounded = slack.isfinite()
    at = Point(tau, torch.where(bounded, slack, 1), torch.where(bounded, battery.size, 0))
    best = Best(tau, torch.zeros_like(tau), torch.full_like(battery.size, torch.inf))
    return at, best, torch.zeros_like(tau[0, :, 0, 0], dtype=torch.bool)


def _look(it: Interior, k: int) -> tuple[Interior, Tensor, Arrived]:
    battery, at, best, exhausted = it
    gap = (at.slack * at.dual).amax((0, 2, 3)) / (battery.size * battery.capacity).flatten()
    off = torch.where(at.dual > 0, (room_of(battery, at.tau) - at.slack).abs(), 0).amax((0, 2, 3))
    arrived = (gap <= NEAR) & (off <= NEAR * battery.capacity.flatten())
    active = at.dual * battery.capacity > at.slack * battery.size
    side = active[..., 1].long() - active[..., 0].long()
    push = at.dual[..., 1:] - at.dual[..., :1]
    error = error_of(battery, with_costates(battery, at.tau, push))[:, None, None]
    better = error <= best.error[0].clamp_min(FINE)
    best = Best(at.tau, push, error[None]).where(better, best)
    tau, push, side = (v.movedim(0, 1) for v in (best.tau.squeeze(-1), best.push.squeeze(-1), side))
    iterations = torch.full(gap.shape, k, device=gap.device)
    return it._replace(best=best), arrived | exhausted, Arrived(tau, push, side, iterations)


def _go_on(it: Interior) -> Interior:
    """A step, where it is finite: near the end slacks may be so small that the recursion breaks down."""
    battery, at, best, _ = it
    after = _step(battery, at)
    finite = torch.isfinite(after.tau).all(2).all(0) & torch.isfinite(after.dual).all(3).all(2).all(0)[:, None]
    return Interior(battery, after.where(finite[:, None], at), best, ~finite.flatten())


def _step(battery: Battery, at: Point) -> Point:
    """A predictor and a corrector with one factorisation."""
    bounded = at.dual > 0
    weight = (at.dual / at.slack).sum(-1, keepdim=True)
    H = battery.C + torch.matmul(battery.E.mT, weight * battery.E)
    factor = factorise(H, battery.to_level.expand(len(at.tau) - 1, -1, -1, -1))
    slope = torch.matmul(battery.C, at.tau) + battery.c
    missing = torch.where(bounded, room_of(battery, at.tau) - at.slack, 0)
    still = torch.zeros_like(at.tau[0, :, :1])

    def along(g: Tensor) -> Tensor:
        return follow(factor, find_policy(factor, g).k, None, still)

    def across(push: Tensor) -> Tensor:
        return torch.matmul(battery.E.mT, push[..., :1] - push[..., 1:])

    def both(d_tau: Tensor) -> Tensor:
        dv = torch.matmul(battery.E, d_tau)
        return torch.cat([dv, -dv], -1)

    def direction(product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dτ, ds, dμ with s dμ + μ ds = −product and ds = ± E dτ + what is missing."""
        pull = (product + at.dual * missing) / at.slack - at.dual
        d_tau = along(slope + across(pull))
        ds = torch.where(bounded, both(d_tau) + missing, 0)
        return d_tau, ds, -(product + at.dual * ds) / at.slack * bounded

    product = at.slack * at.dual
    count = bounded.sum((0, 2, 3), keepdim=True)
    _, ds, d_dual = direction(product)
    alpha = _longest(at, ds, d_dual, 1.0)
    mu = product.sum((0, 2, 3), keepdim=True) / count
    ahead = ((at.slack + alpha * ds) * (at.dual + alpha * d_dual)).sum((0, 2, 3), keepdim=True) / count
    d_tau, ds, d_dual = direction((product + ds * d_dual - (ahead / mu) ** 3 * mu) * bounded)
    # Rounding in ds is multiplied by dual / slack, which is large at the end: solve for what that leaves.
    more = along(slope + torch.matmul(battery.C, d_tau) - across(at.dual + d_dual))
    d_more = torch.where(bounded, both(more), 0)
    d_tau, ds, d_dual = d_tau + more, ds + d_more, d_dual - at.dual * d_more / at.slack
    alpha = _longest(at, ds, d_dual, STEP_BACK)
    return Point(at.tau + alpha * d_tau, at.slack + alpha * ds, at.dual + alpha * d_dual)


def _longest(at: Point, ds: Tensor, d_dual: Tensor, fraction: float) -> Tensor:
    """The largest α ≤ 1 that goes at most a fraction of the way to a slack or multiplier of 0, ``(1, N, 1, 1)``."""
    of_dual = -d_dual / torch.where(at.dual > 0, at.dual, 1)
    ratio = torch.maximum(-ds / at.slack, of_dual).amax((0, 2, 3), keepdim=True)
    return (fraction / ratio.clamp_min(fraction)).clamp_max(1.0)
