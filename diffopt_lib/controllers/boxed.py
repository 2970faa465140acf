"""Which bounds are active in a linear–quadratic problem with bounded controls.

    min Σ ½ τ_tᵀ C_t τ_t + c_tᵀ τ_t   s.t.  x_{t+1} = F_t τ_t + f_t,  x_1 given,  l_t ≤ u_t ≤ h_t              (1)

Once that is known the rest is one Riccati recursion with these controls held (:mod:`.riccati`). Two methods share the
search. The *active set* method holds the controls it believes to be at their bounds, solves, and changes its mind about
those that left their bounds or whose multipliers have the wrong sign. That is Newton's method, and ends in a few rounds
near the solution, but it may cycle, as it does on unstable systems with tight bounds. The *interior point* method
follows the central path, on which slack times multiplier is σμ → 0, one Riccati recursion per iteration. It does not
cycle but never arrives, and so hands over to the active set method when it is near. Every element does this on its own.

Sources: Hintermüller, Ito & Kunisch 2002 (active sets); Mehrotra 1992 (interior point); Rao, Wright & Rawlings 1998 for
its recursion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ..batch.products import or_one
from ..batch.rows import iterate, only_on, relay
from .riccati import Factor, Sweep, factorise, find_policy, follow, sweep

ROUNDS = 6  # of the active set method, before the interior point method goes on
NEAR = 1e-3  # complementarity, relative to the first, below which the interior point method asks the active set method
STEP_BACK = 0.99  # how much of the way to a bound an interior step may go
INTERIOR = 0.1  # how far inside of the bounds the interior point method begins, relative to the width between them
SLIGHT = 1e-10  # price on controls, relative to the largest cost, with which a convex problem has a minimum
SLIP = 1e-10  # relative violation that is taken for rounding


class TimeFirst:
    """Dataclasses of tensors ``(T, N or 1, ·, ·)`` or ``(N, ·, ·)``, whose batch stands behind the time."""

    def select(self, keep: Tensor) -> Self:
        """The elements where the mask ``(N,)`` is True."""

        def pick(part: Any) -> Any:
            if isinstance(part, TimeFirst):
                return part.select(keep)
            return part if part.shape[-3] == 1 != len(keep) else part[..., keep, :, :]

        return replace(self, **{f.name: pick(getattr(self, f.name)) for f in fields(self)})  # type: ignore[type-var, arg-type]

    def where(self, condition: Tensor, other: Self) -> Self:
        """This for the elements where the condition ``(N, 1, 1)`` holds, the other one elsewhere."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{name: torch.where(condition, *pair) for name, pair in pairs.items()})  # type: ignore[type-var]


@dataclass(frozen=True)
class Boxed(TimeFirst):
    """Problem (1), time first, vectors as columns: C ``(T, N or 1, n + m, n + m)``, c ``(T, N, n + m, 1)``, …"""

    C: Tensor
    c: Tensor
    F: Tensor
    f: Tensor
    x1: Tensor
    lower: Tensor
    upper: Tensor

    def held(self, side: Tensor) -> tuple[Factor, Sweep]:
        """The solution with the controls held at the bounds that ``side`` names, ``(T, N, m, 1)``: −1, 0 or 1."""
        at = torch.where(side < 0, self.lower, torch.where(side > 0, self.upper, 0))
        factor = factorise(self.C, self.F, side != 0)
        return factor, sweep(factor, self.c, self.f, self.x1, at)


class Activity(NamedTuple):
    """The bounds that are active, ``(N, T, m)``: −1, 0 or 1; whether that is confirmed, the recursions it took, and
    whether they found the problem convex on the controls that were free."""

    side: Tensor
    confirmed: Tensor
    iterations: Tensor
    convex: Tensor


def find_active(problem: Boxed, guess: Tensor, max_iterations: int) -> Activity:
    """The active bounds of (1), from a guess ``(N, T, m)``."""

    def afresh(problem: Boxed, so_far: Activity) -> Activity:
        result = follow_path(problem, max_iterations)
        return result._replace(iterations=result.iterations + so_far.iterations)

    def at_once(problem: Boxed) -> Activity:
        return settle(problem, guess)

    attempts: list[Callable[..., Activity]] = [at_once, afresh]
    return relay(problem, attempts, lambda result: result.confirmed)


# The active set method


class Guess(NamedTuple):
    problem: Boxed
    side: Tensor
    after: Tensor  # what comes next


def settle(problem: Boxed, side: Tensor, rounds: int = ROUNDS) -> Activity:
    """The active set method from a guess."""

    def look(guess: Guess, k: int) -> tuple[Guess, Tensor, Activity]:
        after, convex = _reconsider(guess.problem, guess.side)
        stays = convex & (after == guess.side).all(-1).all(-1)
        spent = torch.full(stays.shape, k + 1, device=stays.device)
        return guess._replace(after=after), stays | ~convex, Activity(guess.side, stays, spent, convex)

    def step(guess: Guess) -> Guess:
        return guess._replace(side=guess.after)

    return iterate(Guess(problem, side, side), look, step, rounds - 1)


def _reconsider(problem: Boxed, side: Tensor) -> tuple[Tensor, Tensor]:
    """The sides that the solution for these sides suggests, and whether there is one, ``(N,)``."""
    side = side.movedim(1, 0).unsqueeze(-1)
    _, solution = problem.held(side)
    u, nu = solution.tau[..., problem.x1.shape[-2] :, :], solution.nu
    slip = SLIP * (1 + u.abs().amax((0, 2, 3), keepdim=True))
    push = nu * side  # positive where the bound is needed
    released = (push < -SLIP * nu.abs().amax((0, 2, 3), keepdim=True)) & (problem.lower < problem.upper)
    kept = torch.where(released, 0, side)
    free = side == 0
    after = torch.where(free & (u < problem.lower - slip), -1, torch.where(free & (u > problem.upper + slip), 1, kept))
    return after.squeeze(-1).movedim(0, 1), torch.isfinite(u).all(-1).all(-1).all(0)


# The interior point method


@dataclass(frozen=True)
class Interior(TimeFirst):
    """A point inside: τ, and slacks and multipliers ``(T, N, m, 2)`` of lower and upper bounds, infinite ones masked.

    ``first`` is the complementarity at the beginning, ``near`` that, relative to it, at which to ask, ``(N, 1, 1)``.
    """

    problem: Boxed
    tau: Tensor
    slack: Tensor
    dual: Tensor
    first: Tensor
    near: Tensor


def follow_path(problem: Boxed, max_iterations: int) -> Activity:
    """The interior point method, which asks the active set method whether it is near enough."""

    def ask(state: tuple[Boxed, Activity]) -> Activity:
        problem, so_far = state
        answer = settle(problem, so_far.side)
        return answer._replace(iterations=so_far.iterations + answer.iterations, convex=so_far.convex)

    def look(at: Interior, k: int) -> tuple[Interior, Tensor, Activity]:
        gap = (at.slack * at.dual).amax((0, 2, 3)).reshape(at.near.shape)
        convex = torch.isfinite(gap).flatten()  # or else the recursion has no minimum to find
        ready = (gap <= at.near * at.first).flatten() | (k == max_iterations)
        result = Activity(_nearer(at), torch.zeros_like(ready), torch.full(ready.shape, k, device=ready.device), convex)
        # Most of the batch asks together: a round costs nearly as much for a few elements as for many.
        if 2 * ready.sum() >= len(ready) or k == max_iterations:
            result = only_on(ready, ask, (at.problem, result), result)
            at = replace(at, near=torch.where(ready[:, None, None], at.near / 100, at.near))
        return at, result.confirmed | ~convex, result

    return iterate(_begin(problem), look, interior_step, max_iterations)


def _nearer(at: Interior) -> Tensor:
    """−1 or 1 where the multiplier of a bound is larger than its slack, ``(N, T, m)``."""
    scale = at.dual.amax((0, 2, 3), keepdim=True) / at.slack.amax((0, 2, 3), keepdim=True)
    active = at.dual > scale * at.slack
    return (active[..., 1].long() - active[..., 0].long()).movedim(0, 1)


def _begin(problem: Boxed) -> Interior:
    """The unconstrained controls moved inside, with multipliers of the size of the slope there. Where a control is
    cheap, and only its bounds hold it, there are none without a slight price on it."""
    lower, upper, n = problem.lower, problem.upper, problem.x1.shape[-2]
    price = SLIGHT * or_one(problem.C.abs().amax((0, 2, 3), keepdim=True)).expand_as(lower)
    free = sweep(factorise(problem.C, problem.F, _fixed(problem), price), problem.c, problem.f, problem.x1)
    width = upper - lower
    margin = INTERIOR * torch.where(width.isfinite(), width, 1 + torch.where(lower.isfinite(), lower, upper).abs())
    u = torch.maximum(torch.minimum(free.tau[..., n:, :], upper - margin), lower + margin)
    tau = _rollout(problem, u)
    slope = _slope(problem, tau)
    bounded = torch.cat([lower.isfinite(), upper.isfinite()], -1) & (width > 0)
    slack = torch.where(bounded, torch.cat([u - lower, upper - u], -1), 1)
    pushes = torch.cat([slope, -slope], -1).clamp_min(0)
    size = slope.abs().mean((0, 2, 3), keepdim=True) + torch.finfo(slope.dtype).tiny
    dual = torch.where(bounded, pushes + size, 0)
    first = (slack * dual).amax((0, 2, 3)).reshape(-1, 1, 1)
    return Interior(problem, tau, slack, dual, first, torch.full_like(first, NEAR))


def interior_step(at: Interior) -> Interior:
    """A predictor and a corrector with one factorisation."""
    problem, n = at.problem, at.problem.x1.shape[-2]
    bounded = at.dual > 0
    factor = factorise(
        problem.C, problem.F, _fixed(problem), weight=(at.dual / at.slack * bounded).sum(-1, keepdim=True)
    )
    slope = torch.matmul(problem.C, at.tau) + problem.c

    def direction(complementarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dτ, ds, dμ with s dμ + μ ds = −complementarity."""
        pull = (complementarity / at.slack - at.dual) * bounded
        of_u = torch.nn.functional.pad(pull[..., :1] - pull[..., 1:], (0, 0, n, 0))
        d_tau = follow(factor, find_policy(factor, slope + of_u).k, None, torch.zeros_like(problem.x1))
        du = d_tau[..., n:, :]
        ds = torch.cat([du, -du], -1)
        return d_tau, ds, -(complementarity + at.dual * ds) / at.slack * bounded

    product = at.slack * at.dual
    count = bounded.sum((0, 2, 3), keepdim=True).clamp_min(1)
    _, ds, d_dual = direction(product)
    alpha = _longest(at, ds, d_dual, bounded, 1.0)
    mu = product.sum((0, 2, 3), keepdim=True) / count
    ahead = ((at.slack + alpha * ds) * (at.dual + alpha * d_dual)).sum((0, 2, 3), keepdim=True) / count
    d_tau, ds, d_dual = direction((product + ds * d_dual - (ahead / mu) ** 3 * mu) * bounded)
    alpha = _longest(at, ds, d_dual, bounded, STEP_BACK)
    return replace(
        at,
        tau=at.tau + alpha * d_tau,
        slack=torch.where(bounded, at.slack + alpha * ds, 1),
        dual=at.dual + alpha * d_dual,
    )


def _fixed(problem: Boxed) -> Tensor | None:
    """The controls whose bounds meet, ``(T, N, m, 1)``, if there are any."""
    fixed = problem.lower == problem.upper
    return fixed if fixed.any() else None


def _longest(at: Interior, ds: Tensor, d_dual: Tensor, bounded: Tensor, fraction: float) -> Tensor:
    """The largest α ≤ 1 that goes at most a fraction of the way to a slack or multiplier of 0, ``(1, N, 1, 1)``."""
    ratio = torch.where(bounded, torch.maximum(-ds / at.slack, -d_dual / at.dual), 0).amax((0, 2, 3), keepdim=True)
    return (fraction / ratio.clamp_min(fraction)).clamp_max(1.0)


def _rollout(problem: Boxed, u: Tensor) -> Tensor:
    """τ of these controls."""
    n, x = problem.x1.shape[-2], [problem.x1]
    push = torch.matmul(problem.F[..., n:], u[:-1]) + problem.f
    for t in range(len(u) - 1):
        x.append(torch.matmul(problem.F[t, ..., :n], x[-1]) + push[t])
    return torch.cat([torch.stack(x), u], dim=-2)


def _slope(problem: Boxed, tau: Tensor) -> Tensor:
    """The derivative of the cost in the controls, ``(T, N, m, 1)``, by the adjoint recursion."""
    n, F = problem.x1.shape[-2], problem.F
    g = torch.matmul(problem.C, tau) + problem.c
    slopes, costate = [g[-1, ..., n:, :]], g[-1, ..., :n, :]
    for t in range(len(g) - 2, -1, -1):
        total = g[t] + torch.matmul(F[t].mT, costate)
        costate = total[..., :n, :]
        slopes.append(total[..., n:, :])
    return torch.stack(slopes[::-1])
