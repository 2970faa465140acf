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
from ...solution import RUNNING, STUCK
from ..cones.frames import Frames
from ..cones.product import Cones
from .embedding import Point, degree, examine, residual
from .newton import Newton, Step
from .program import Program, Triple
from .scaling import Scaling

FRACTION = 0.99  # of the way to the boundary that a step goes
# What of that it tries, until the cones without a formula for it let it.
SHORTER = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 0.0)
SHORTEST = 1e-8  # a step that is shorter is the end
SMALLEST_MU = 1e-15  # of 1 at the start: what has proved nothing by then is a program whose solutions are at infinity


class State(NamedTuple):
    """Programs as they were given and scaled, the point reached, the length ``(B,)`` of the last step, and how many
    more there may be ``(B,)``."""

    program: Program
    scaled: Program
    scaling: Scaling
    point: Point
    length: Tensor
    limit: Tensor


class Proof(NamedTuple):
    """The last point, the triple and the status as :func:`.examine` describes them, and the iterations ``(B,)``."""

    point: Point
    at: Triple
    status: Tensor
    iterations: Tensor


def follow(
    program: Program,
    scaled: Program,
    scaling: Scaling,
    cones: Cones,
    point: Point,
    target: float,
    tolerance: float,
    max_iterations: Tensor,
) -> Proof:
    """Iterate from a point until every element has proved something about its program, or gets no further.

    The path is that of the scaled program; what it proves is judged on the program as it was given: a solution by
    whether its residual reaches the target, a certificate by the tolerance. ``max_iterations`` is ``(B,)``.
    """

    def look(state: State, k: int) -> tuple[State, Tensor, Proof]:
        status, at = examine(state.program, state.point, state.scaling, target, tolerance)
        mu = state.point.gap().squeeze(-1) / degree(cones)
        ended = (state.length < SHORTEST) | (mu < SMALLEST_MU) | (k >= state.limit)
        status = torch.where(ended & (status == RUNNING), STUCK, status)
        return state, status != RUNNING, Proof(state.point, at, status, torch.full_like(status, k))

    def step(state: State) -> State:
        point, length = advance(state.scaled, state.point, cones)
        return state._replace(point=point, length=length)

    start = State(program, scaled, scaling, point, torch.ones_like(point.tau[:, 0]), max_iterations)
    return iterate(start, look, step, int(max_iterations.max()) if len(max_iterations) else 0)


def advance(program: Program, point: Point, cones: Cones) -> tuple[Point, Tensor]:
    """One iteration: the next point, and the length of the step to it ``(B,)``."""
    left, products = residual(program, point), point.tau * point.kappa
    frames = Frames.at(point.s, point.y, cones)
    newton = Newton.at(program, point, frames, left)

    ahead = newton.step(1, -frames.point, -products)
    sigma = (1 - longest_inside(limit(point, ahead, frames), ahead, frames)) ** 3
    target = sigma * point.gap() / degree(cones)

    r_s = frames.centring(ahead.s, ahead.y, target) - frames.point
    r_tau = target - products - ahead.tau * ahead.kappa
    step, move = newton.refined_step(1 - sigma, r_s, r_tau, left.primal)
    length = longest_central(FRACTION * limit(point, step, frames), point, step, frames)
    return point.moved(move, length), length.squeeze(-1)


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
