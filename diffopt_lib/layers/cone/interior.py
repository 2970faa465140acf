"""An interior point method for the homogeneous embedding of a batch of cone programs.

The central path starts in the centre of all cones and leads to a solution of the embedding (:mod:`.cone.embedding`). On
it, the residuals of the linear equations are μ times what they are at the start, and all complementary pairs have the
product μ, which falls from 1 to 0. Every iteration takes Newton's step for the end of the path and looks how far that
gets, α, before a variable leaves its cone. Then it aims for σμ with σ = (1 − α)³, corrected for the curvature that the
first step has met, with the same factorisation, and goes nearly as far as that second step stays inside.

Source: Mehrotra 1992 and, for these formulas, Vandenberghe 2010; Dahl & Andersen 2022 for exponential cones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..cones.barrier import Barrier, dual_height, height, shadow
from ..cones.frames import Frames
from ..cones.product import Cones
from .embedding import RUNNING, STUCK, Point, degree, examine, residual
from .newton import Newton, Step
from .program import Program, dot
from .scaling import Scaling

FRACTION = 0.99  # of the way to the boundary that a step goes
# What of that it tries where there are exponential cones, until they let it.
SHORTER = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 0.0)
CENTRALITY = 1e-4  # how much smaller than elsewhere a complementary product may become in an exponential cone
SHORTEST = 1e-8  # a step that is shorter is the end
SMALLEST_MU = 1e-15  # of 1 at the start: what has proved nothing by then is a program whose solutions are at infinity


def follow(
    program: Program,
    scaled: Program,
    scaling: Scaling,
    cones: Cones,
    point: Point,
    target: float,
    tolerance: float,
    max_iterations: Tensor,
) -> tuple[Point, list[Tensor], Tensor, Tensor]:
    """Iterate from a point until every element has proved something about its program, or gets no further.

    The path is that of the scaled program; what it proves is judged on the program as it was given: a solution by
    whether its residual reaches the target, a certificate by the tolerance. ``max_iterations`` is ``(B,)``.

    Returns:
        The last point; (x, y, s), the status as :func:`.examine` describes them; the iterations ``(B,)``.
    """
    x, y, s = torch.zeros_like(program.c), torch.zeros_like(program.b), torch.zeros_like(program.b)
    index = torch.arange(len(x), device=x.device)
    status, iterations = torch.full_like(index, STUCK), torch.zeros_like(index)
    last, length = point.clone(), torch.ones_like(x[:, 0])
    k = 0
    while True:
        now, *here = examine(program, point, scaling, target, tolerance)
        mu = point.gap().squeeze(-1) / degree(cones)
        ended = (length < SHORTEST) | (mu < SMALLEST_MU) | (k >= max_iterations[index])
        stop = (now != RUNNING) | ended
        if stop.any():
            done, now = index[stop], now[stop]
            x[done], y[done], s[done] = (t[stop] for t in here)
            status[done], iterations[done] = torch.where(now == RUNNING, STUCK, now), k
            last.put(done, point.select(stop))
            keep = ~stop
            program, scaled, scaling = program.select(keep), scaled.select(keep), scaling.select(keep)
            point, index = point.select(keep), index[keep]
        if not len(index):
            return last, [x, y, s], status, iterations
        point, length = advance(scaled, point, cones)
        k += 1


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
    """The longest step ``(B, 1)``, up to a limit, in which the exponential cones hold s and y."""
    if not frames.cones.exp:
        return limit
    lengths = limit * limit.new_tensor(SHORTER)
    s, y = frames.exponential_cones(step.s, step.y, lengths)
    return _best(lengths, _inside(s, y))


def longest_central(limit: Tensor, point: Point, step: Step, frames: Frames) -> Tensor:
    """The same, and not too far from the path. There sᵀy = 3μ in every cone, and with the shadows s̄ of y and ȳ of s,
    9 / s̄ᵀȳ is a lower bound on sᵀy that goes to 0 at the boundary."""
    if not frames.cones.exp:
        return limit
    lengths = limit * limit.new_tensor(SHORTER)
    s, y = frames.exponential_cones(step.s, step.y, lengths)
    slope = dot(frames.point, step.s + step.y)[:, None] + point.tau * step.kappa + point.kappa * step.tau
    curvature = dot(step.s, step.y)[:, None] + step.tau * step.kappa
    mu = (point.gap() + lengths * slope + lengths.square() * curvature) / degree(frames.cones)
    central = -dot(shadow(y), Barrier.at(s).gradient()) * (CENTRALITY * mu[..., None]) <= 3
    return _best(lengths, _inside(s, y) & central)


def _inside(s: Tensor, y: Tensor) -> Tensor:
    return (height(s) > 0) & (dual_height(y) > 0)


def _best(lengths: Tensor, fits: Tensor) -> Tensor:
    """The longest that fits all cones, ``(B, 1)``; 0 if none does."""
    return (lengths * fits.all(-1)).amax(-1, keepdim=True)
