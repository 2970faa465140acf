"""An interior point method for the homogeneous embedding of a batch of cone programs.

The central path starts in the centre of all cones and leads to a solution of the embedding (:mod:`.cone_embedding`). On
it, the residuals of the linear equations are μ times what they are at the start, and all complementary pairs have the
product μ, which falls from 1 to 0. Every iteration takes Newton's step for the end of the path and looks how far that
gets, α, before a variable leaves its cone. Then it aims for σμ with σ = (1 − α)³, corrected for the curvature that the
first step has met, with the same factorisation, and goes nearly as far as that second step stays inside.

Source: Mehrotra 1992 and, for these formulas, Vandenberghe 2010; Dahl & Andersen 2022 for exponential cones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import cone_barrier as barrier
from .cone_embedding import RUNNING, STUCK, Point, begin, degree, examine, residual
from .cone_frames import Frames
from .cone_newton import Newton, Step
from .cone_program import Program, dot
from .cone_scaling import Scaling
from .cones import Cones

FRACTION = 0.99  # of the way to the boundary
# What a step tries where exponential cones do not let it go that far.
SHORTER = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 0.0)
CENTRALITY = 1e-4
SHORTEST = 1e-8
SMALLEST_MU = 1e-15  # of 1 at the start: what has proved nothing by then is a program whose solutions are at infinity


def follow(
    program: Program, scaled: Program, scaling: Scaling, cones: Cones, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Iterate until every element has proved something about its program, or gets no further.

    The path is that of the scaled program; what it proves is judged on the program as it was given.

    Returns:
        x ``(B, n)``, y and s ``(B, m)`` as :func:`.examine` describes them, the status and the iterations ``(B,)``.
    """
    point = begin(scaled, cones)
    x, y, s = torch.zeros_like(program.c), torch.zeros_like(program.b), torch.zeros_like(program.b)
    index = torch.arange(len(x), device=x.device)
    status, iterations = torch.full_like(index, STUCK), torch.zeros_like(index)
    length = torch.ones_like(x[:, 0])
    for k in range(max_iterations + 1):
        now, *here = examine(program, point, scaling, tolerance)
        mu = point.gap().squeeze(-1) / degree(cones)
        ended = (length < SHORTEST) | (mu < SMALLEST_MU) | (k == max_iterations)
        stop = (now != RUNNING) | ended
        if stop.any():
            done, now = index[stop], now[stop]
            x[done], y[done], s[done] = (t[stop] for t in here)
            status[done], iterations[done] = torch.where(now == RUNNING, STUCK, now), k
            keep = ~stop
            program, scaled, scaling = program.select(keep), scaled.select(keep), scaling.select(keep)
            point, index = point.select(keep), index[keep]
        if not len(index):
            break
        point, length = advance(scaled, point, cones)
    return x, y, s, status, iterations


def advance(program: Program, point: Point, cones: Cones) -> tuple[Point, Tensor]:
    """One iteration: the next point, and the length of the step to it ``(B,)``."""
    frames = Frames.at(point.s, point.y, cones)
    newton = Newton.at(program, point, frames)
    end, products = residual(program, point).times(-1), point.tau * point.kappa
    mu = point.gap() / degree(cones)

    ahead = newton.solve(end, -frames.point, -products)
    sigma = (1 - longest(point, ahead, frames)) ** 3

    r_s = frames.centring(ahead.s, ahead.y, sigma * mu) - frames.point
    r_tau = sigma * mu - products - ahead.of.tau * ahead.of.kappa
    step = newton.solve_refined(end.times(1 - sigma), r_s, r_tau)
    length = longest(point, step, frames, FRACTION, CENTRALITY)
    return point.moved(step.of, length), length.squeeze(-1)


def longest(point: Point, step: Step, frames: Frames, fraction: float = 1.0, centrality: float = 0.0) -> Tensor:
    """How far to take a step, ``(B, 1)``: at most once, and that fraction of the way to where τ, κ or a self-dual cone
    ends; less where exponential cones do not let it."""
    of_tau, of_kappa = -step.of.tau / point.tau, -step.of.kappa / point.kappa
    rates = torch.cat([of_tau, of_kappa, frames.shrinkage(step.s, step.y)[:, None]], dim=-1)
    length = fraction / rates.amax(-1, keepdim=True).clamp_min(fraction)
    length = torch.where(torch.isfinite(length), length, 0)
    if frames.cones.exp:
        lengths = length * length.new_tensor(SHORTER)
        length = (lengths * _exponential_fits(point, step.of, lengths, frames.cones, centrality)).amax(-1, keepdim=True)
    return length


def _exponential_fits(point: Point, step: Point, lengths: Tensor, cones: Cones, centrality: float) -> Tensor:
    """Whether after a step of these lengths ``(B, k)`` the exponential cones hold s and y, and these are near the path.

    The path has sᵀy = 3μ in every cone. With the shadows s̄ of y and ȳ of s, 3 / s̄ᵀȳ is a lower bound on sᵀy/3 that
    goes to 0 at the boundary.
    """
    block, each = cones.blocks[-1], lengths[..., None, None]
    s = block.of(point.s)[:, None] + each * block.of(step.s)[:, None]
    y = block.of(point.y)[:, None] + each * block.of(step.y)[:, None]
    inside = (barrier.height(s) > 0) & (barrier.dual_height(y) > 0)
    slope = (dot(point.s, step.y) + dot(step.s, point.y))[:, None] + point.tau * step.kappa + step.tau * point.kappa
    mu = (point.gap() + lengths * slope + lengths.square() * step.gap()) / degree(cones)
    central = -dot(barrier.shadow(y), barrier.gradient(s)) * (centrality * mu[..., None]) <= 3
    return (inside & central).all(-1)
