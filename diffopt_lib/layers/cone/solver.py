"""Forward: from a guess or along the central path to near a solution, from there by refinement to rounding level."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.rows import relay
from ...batch.rows import where as choose
from ...solution import INFEASIBLE, RUNNING, SOLVED, STUCK, UNBOUNDED, raise_failed
from ..cones.product import Cones, project_rows
from .embedding import Point, begin
from .interior import follow
from .program import Program, Triple, kkt_residual
from .refine import refine
from .scaling import Scaling, equilibrate

# The path is left for polishing where the residual is EARLY times the tolerance, if that makes it as much smaller.
EARLY = 1e3


class Problem(NamedTuple):
    """Programs as they were given, the same equilibrated, and a guess at (x, y, s)."""

    program: Program
    scaled: Program
    scaling: Scaling
    guess: Triple


class Found(NamedTuple):
    """What there is so far: (x, y, s), or a certificate in it, as the status ``(B,)`` says; the iterations ``(B,)``;
    and the point where the path goes on."""

    at: Triple
    status: Tensor
    iterations: Tensor
    point: Point


def solve(
    start: Tensor,
    c: Tensor,
    A: Tensor,
    b: Tensor,
    cones: Cones,
    warm: bool,
    tolerance: float,
    max_iterations: int,
    on_failure: str,
) -> tuple[Tensor, ...]:
    """The algorithm on plain tensors with aligned batch dimensions; ``start`` is a guess at (x, v) if ``warm``.

    Returns z = (x, v), the slack s and what it is away from the projection of −v (0 after polishing), the status, the
    iterations, the residual, and the two certificates.
    """
    batch, (m, n) = start.shape[:-1], A.shape[-2:]
    program = Program.of(c, A, b, batch)
    x, v = start.reshape(batch.numel(), n + m).split((n, m), dim=-1)
    y = v + project_rows(-v, cones)
    problem = Problem(program, *equilibrate(program, cones), Triple(x, y, y - v))

    def from_guess(problem: Problem) -> Found:
        at, iterations = _polish(problem, cones, problem.guess) if warm else (problem.guess, torch.zeros_like(nobody))
        solved = warm & (kkt_residual(problem.program, at) <= tolerance)
        return Found(at, torch.where(solved, SOLVED, RUNNING), iterations, begin(problem.scaled, cones))

    def along_the_path(problem: Problem, found: Found, target: float, enough: float) -> Found:
        limit = (max_iterations - found.iterations).clamp_min(0)
        point, at, status, steps = follow(*problem[:3], cones, found.point, target, tolerance, limit)
        ended = (status == SOLVED) | (status == STUCK)
        at = choose(ended, _polish(problem, cones, at)[0], at)
        good = kkt_residual(problem.program, at) <= enough
        status = torch.where(ended & good, SOLVED, torch.where((status == SOLVED) & ~good, RUNNING, status))
        return Found(at, status, found.iterations + steps, point)

    def early(problem: Problem, found: Found) -> Found:
        return along_the_path(problem, found, EARLY * tolerance, tolerance / EARLY)

    def late(problem: Problem, found: Found) -> Found:
        return along_the_path(problem, found, tolerance, tolerance)

    nobody = torch.zeros(batch.numel(), dtype=torch.int64, device=x.device)
    found = relay(problem, (from_guess, early, late), lambda found: found.status != RUNNING)
    residual = kkt_residual(program, found.at)
    if on_failure == "raise":
        _raise_failed(found.status.reshape(batch), residual.reshape(batch))
    return tuple(t.reshape(batch + t.shape[1:]) for t in _results(found, residual, cones))


def _polish(problem: Problem, cones: Cones, at: Triple) -> tuple[Triple, Tensor]:
    """(x, y, s) refined on the residual map of the scaled program, where that makes the optimality conditions hold
    better, and the Newton steps that it took."""
    program, scaled, scaling, _ = problem
    refined, steps = refine(scaled, scaling.scale(at), cones)
    refined = scaling.unscale(refined)
    return choose(kkt_residual(program, refined) <= kkt_residual(program, at), refined, at), steps


def _results(found: Found, residual: Tensor, cones: Cones) -> tuple[Tensor, ...]:
    (x, y, s), status, iterations, _ = found
    infeasible_because = torch.where((status == INFEASIBLE)[:, None], y, torch.nan)
    unbounded_because = torch.where((status == UNBOUNDED)[:, None], x, torch.nan)
    x, y, s = (torch.where((status == SOLVED)[:, None], t, 0) for t in found.at)
    v = y - s
    gap = s - project_rows(-v, cones, s)
    return torch.cat([x, v], -1), s, gap, status, iterations, residual, infeasible_because, unbounded_because


def _raise_failed(status: Tensor, residual: Tensor) -> None:
    raise_failed(
        status,
        {
            INFEASIBLE: "the cone program is infeasible (a y in K* has Aᵀy = 0 and bᵀy < 0).",
            UNBOUNDED: "the cone program is unbounded (an x has −Ax in K and cᵀx < 0).",
            STUCK: lambda failed: f"no convergence to the tolerance (residual {residual[failed].max().item():.1e}).",
        },
    )
