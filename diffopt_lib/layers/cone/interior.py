"""An interior point method for the homogeneous embedding of a batch of cone programs.

The central path starts in the centre of all cones and leads to a solution of the embedding (:mod:`.embedding`). On
it, the residuals of the linear equations are μ times what they are at the start, and all complementary pairs have the
product μ, which falls from 1 to 0. Every iteration takes Newton's step for the end of the path and looks how far that
gets, α, before a variable leaves its cone. Then it aims for σμ with σ = (1 − α)³, corrected for the curvature that the
first step has met, with the same factorisation, and goes nearly as far as that second step stays inside.

Source: Mehrotra 1992 and, for these formulas, Vandenberghe 2010; Dahl & Andersen 2022 for exponential cones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import dot
from ...batch.rows import iterate
from ...batch.rows import where as choose
from ...solution import RUNNING, STUCK
from ..cones.frames import Frames
from ..cones.product import Cones
from .embedding import Point, degree, examine, residual
from .newton import Newton, Step
from .program import Program

FRACTION = 0.99  # of the way to the boundary that a step goes
# What of that it tries, until the cones without a formula for it let it.
SHORTER = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 0.0)
BLOCKED, EARLY = 0.1, 1e-8  # a step that is shorter leads back to the path instead, as long as μ is larger than that
SHORTEST = 1e-8  # a step that is shorter is the end
SMALLEST_MU = 1e-25  # of 1 at the start: what has proved nothing by then is a program whose solutions are at infinity


class State(NamedTuple):
    """Programs and the sizes of their terms, the point reached, the length ``(B,)`` of the last step, and how many
    there may be ``(B,)``."""

    program: Program
    size: Program
    point: Point
    length: Tensor
    limit: Tensor


class Reached(NamedTuple):
    """The last point, what it seems to prove (:func:`.examine`), and the iterations ``(B,)``."""

    point: Point
    status: Tensor
    iterations: Tensor


def follow(
    program: Program, size: Program, cones: Cones, point: Point, target: float, max_iterations: Tensor
) -> Reached:
    """Iterate from a point until every element seems to have proved something up to ``target``, or gets no further, at
    most ``max_iterations`` ``(B,)`` times."""

    def look(state: State, k: int) -> tuple[State, Tensor, Reached]:
        status = examine(state.program, state.size, state.point, target)
        mu = state.point.gap().squeeze(-1) / degree(cones)
        ended = (state.length < SHORTEST) | (mu < SMALLEST_MU) | (k >= state.limit)
        status = torch.where(ended & (status == RUNNING), STUCK, status)
        return state, status != RUNNING, Reached(state.point, status, torch.full_like(status, k))

    def step(state: State) -> State:
        point, length = advance(state.program, state.point, cones)
        return state._replace(point=point, length=length)

    start = State(program, size, point, torch.ones_like(point.tau[:, 0]), max_iterations)
    return iterate(start, look, step, int(max_iterations.max()) if len(max_iterations) else 0)


def advance(program: Program, point: Point, cones: Cones) -> tuple[Point, Tensor]:
    """One iteration: the next point, and the length of the step to it ``(B,)``."""
    left, products = residual(program, point), point.tau * point.kappa
    frames = Frames.at(point.s, point.y, cones)
    newton = Newton.at(program, point, frames, left)
    mu, nothing = point.gap() / degree(cones), torch.zeros_like(point.s)

    def towards(part: Tensor, curve: tuple[Tensor, Tensor, Tensor]) -> tuple[Point, Tensor]:
        """The step to where μ and the residual are this part of what they are, and how far it may go."""
        ds, dy, product = curve
        r_s, r_tau = frames.centring(ds, dy, part * mu) - frames.point, part * mu - products - product
        step, move = newton.refined_step(1 - part, r_s, r_tau, left.primal)
        return move, longest_central(FRACTION * limit(point, step, frames), point, step, frames)

    ahead = newton.step(1, -frames.point, -products)
    sigma = (1 - longest_inside(limit(point, ahead, frames), ahead, frames)) ** 3
    move, length = towards(sigma, (ahead.s, ahead.y, ahead.tau * ahead.kappa))
    blocked = (length < BLOCKED) & (mu > EARLY)
    if blocked.any():  # far from the path: back to it first
        back, reach = towards(torch.ones_like(mu), (nothing, nothing, torch.zeros_like(mu)))
        move, length = choose(blocked.squeeze(-1), (back, reach), (move, length))
    return point.moved(move, length), length.squeeze(-1)


def extrapolate(program: Program, point: Point, cones: Cones) -> Point:
    """The end of the path as its tangent at a point has it; s and y may have left their cones.

    Of a complementary pair, one goes to 0 with μ. Along the tangent it is gone, whatever the size of the other: the
    point shows which of the two it is long before the smaller one becomes small.
    """
    left, frames = residual(program, point), Frames.at(point.s, point.y, cones)
    newton, one = Newton.at(program, point, frames, left), torch.ones_like(point.tau)
    _, move = newton.refined_step(one, -frames.point, -point.tau * point.kappa, left.primal)
    return point.moved(move, one)


def limit(point: Point, step: Step, frames: Frames) -> Tensor:
    """How far, ``(B, 1)`` and at most 1, a step keeps τ, κ and the self-dual cones' s and y; 0 if it is not finite."""
    rates = [-step.tau / point.tau, -step.kappa / point.kappa, frames.shrinkage(step.s, step.y)[:, None]]
    length = 1 / torch.cat(rates, dim=-1).amax(-1, keepdim=True).clamp_min(1)
    return torch.where(torch.isfinite(length), length, 0)


def longest_inside(limit: Tensor, step: Step, frames: Frames) -> Tensor:
    """The longest step ``(B, 1)``, up to a limit, in which the cones that have to be searched hold s and y."""
    searched = frames.searched()
    if not searched:
        return limit
    lengths = limit * limit.new_tensor(SHORTER)
    return _best(lengths, [frame.inside(block.of(step.s), block.of(step.y), lengths) for block, frame in searched])


def longest_central(limit: Tensor, point: Point, step: Step, frames: Frames) -> Tensor:
    """The same, and not too far from the path."""
    searched = frames.searched()
    if not searched:
        return limit
    lengths = limit * limit.new_tensor(SHORTER)
    slope = dot(frames.point, step.s + step.y)[:, None] + point.tau * step.kappa + point.kappa * step.tau
    curvature = dot(step.s, step.y)[:, None] + step.tau * step.kappa
    mu = (point.gap() + lengths * slope + lengths.square() * curvature) / degree(frames.cones)
    fits = [frame.central(block.of(step.s), block.of(step.y), lengths, mu) for block, frame in searched]
    return _best(lengths, fits)


def _best(lengths: Tensor, fits: list[Tensor]) -> Tensor:
    """The longest that fits all cones, ``(B, 1)``; 0 if none does."""
    return (lengths * torch.cat(fits, dim=-1).all(-1)).amax(-1, keepdim=True)
