"""Forward: from a guess or along the central path to near a solution, and from there by refinement to rounding level.

A point of the path counts for nothing until it has been refined. It is solved where the optimality conditions then hold
to rounding level, and infeasible or unbounded where a certificate does (:mod:`.certificate`). Otherwise the path goes
on, to the limit of the arithmetic.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import dot, largest
from ...batch.rows import go_on, only_on, relay, scatter, select
from ...batch.rows import where as choose
from ...solution import INFEASIBLE, RUNNING, SOLVED, STUCK, UNBOUNDED, raise_failed, warn_unconfirmed
from ..cones.product import Cones, project_rows
from .certificate import proves_infeasible, proves_unbounded, rounded, sharpen_infeasible, sharpen_unbounded
from .embedding import Point, begin
from .interior import extrapolate, follow
from .outside import is_quicker, start
from .program import MOST, Program, Triple, magnitudes
from .refine import CONFIRMED, refine
from .scaling import Scaling, balance, equilibrate, other_balances

# The residuals at which the path is left for refinement, if that succeeds; the last is where it ends.
TARGETS = (1e-5, 1e-8, 1e-11, 0.0)
ROUNDING = 1e-9  # how negative an eigenvalue of P may be, relative to its largest entry
AT_THE_END = 1e-10  # a violation that counts as rounding where the path has gone as far as the arithmetic does


class Settings(NamedTuple):
    """The options of :func:`.solve_cone`, and whether there is a guess."""

    tolerance: float
    max_iterations: int
    on_failure: str
    warm: bool


class Start(NamedTuple):
    """Programs as they were given, a guess at (x, v), and the E and F that even out rows and columns."""

    given: Program
    guess: Tensor
    E: Tensor
    F: Tensor

    @classmethod
    def of(cls, given: Program, guess: Tensor, cones: Cones) -> Start:
        E, F = equilibrate(given.A, given.P, cones)
        if given.P is not None:
            _check_curvature(F.unsqueeze(-1) * given.P * F.unsqueeze(-2))
        return cls(given, guess, torch.where(cones.without_bound(given.b), 0, E), F)


class Problem(NamedTuple):
    """Programs as they were given; the same equilibrated, with the sizes of their terms; and a guess at (x, y, s)."""

    given: Program
    program: Program
    size: Program
    scaling: Scaling
    guess: Triple


class Found(NamedTuple):
    """What there is so far: (x, y, s), or a certificate in it, as the status ``(B,)`` says; its violation ``(B,)``; the
    iterations ``(B,)``; and the point where the path goes on."""

    at: Triple
    status: Tensor
    error: Tensor
    iterations: Tensor
    point: Point


class Answer(NamedTuple):
    """What was found, and in which units; the scaling has a row for each element."""

    found: Found
    scaling: Scaling


def solve(
    cones: Cones, settings: Settings, guess: Tensor, c: Tensor, A: Tensor, b: Tensor, P: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The algorithm on plain tensors with aligned batch dimensions; ``guess`` is one at (x, v) if there is one.

    Returns z = (x, v) and the slack s of the scaled program, the four scales, the status, whether it is confirmed, the
    iterations, the residual, and the two certificates.
    """
    batch, (m, n) = guess.shape[:-1], A.shape[-2:]
    start = Start.of(Program.of(c, A, b, P, batch), guess.reshape(batch.numel(), n + m), cones)
    given = start.given
    usual = _in_units(start, balance(given, start.E, start.F, cones), cones, settings)
    answer = only_on(
        usual.found.status == STUCK, partial(_in_other_units, cones=cones, settings=settings), (start, usual), usual
    )
    found = answer.found
    here = largest(torch.cat(found.at, dim=-1)) <= MOST  # and not on the way to infinity
    good = (found.status == STUCK) & here & (found.error <= max(settings.tolerance, AT_THE_END))
    answer = answer._replace(found=found._replace(status=torch.where(good, SOLVED, found.status)))
    _complain(answer.found, batch, settings)
    return tuple(t.reshape(batch + t.shape[1:]) for t in _results(given, answer, cones))


def _in_other_units(of: tuple[Start, Answer], cones: Cones, settings: Settings) -> Answer:
    """In the units in which the bounds have other sizes, in turn, for those that are stuck in the usual ones."""
    start, answer = of
    scalings = other_balances(start.given, start.E, start.F, cones)

    def attempt(k: int, of: tuple[Start, tuple[Scaling, ...]], before: Answer) -> Answer:
        start, scalings = of
        after = _in_units(start, scalings[k], cones, settings._replace(warm=False))
        return choose((after.found.status != STUCK) | (after.found.error < before.found.error), after, before)

    attempts = [partial(attempt, k) for k in range(len(scalings))]
    return go_on((start, scalings), answer, attempts, lambda answer: answer.found.status != STUCK)


def _in_units(start: Start, scaling: Scaling, cones: Cones, settings: Settings) -> Answer:
    """The relay of guess, outside help and the path; who is not solved and has no proof in the end is stuck."""
    problem = _prepare(start, scaling, cones, settings.warm)
    attempts = [partial(_from_guess, cones=cones, warm=settings.warm)]
    if is_quicker(problem.program):
        attempts.append(partial(_from_outside, cones=cones))
    attempts += [partial(_along_the_path, cones=cones, settings=settings, target=target) for target in TARGETS]
    found = relay(problem, attempts, lambda found: found.status != RUNNING)
    found = found._replace(status=torch.where(found.status == RUNNING, STUCK, found.status))
    (x, _, s), scaling = found.at, problem.scaling
    scaling = Scaling(scaling.E.expand_as(s), scaling.F.expand_as(x), *(t.expand(len(x), 1) for t in scaling[2:]))
    return Answer(found, scaling)


def _prepare(start: Start, scaling: Scaling, cones: Cones, warm: bool) -> Problem:
    given, guess = start.given, start.guess
    program = scaling.of(given)
    x, v = guess.split((given.A.shape[-1], given.A.shape[-2]), dim=-1)
    y = v + project_rows(-v, cones) if warm else v
    at = scaling.scale(Triple(x, y, y - v))
    bound = scaling.E > 0
    at = Triple(at.x, torch.where(bound, at.y, 0), torch.where(bound, at.s, 1))
    return Problem(given, program, magnitudes(program), scaling, at)


def _check_curvature(P: Tensor) -> None:
    """In even units, in which the size of one variable's curvature says nothing about another's."""
    size = P.diagonal(dim1=-2, dim2=-1).abs().amax(-1, keepdim=True)
    shifted = P + torch.diag_embed((ROUNDING * size + torch.finfo(P.dtype).tiny).expand(P.shape[:-1]))
    if (torch.linalg.cholesky_ex(shifted).info > 0).any():
        raise ValueError("P must be positive semidefinite, got a matrix with a negative eigenvalue")


def _from_guess(problem: Problem, cones: Cones, warm: bool) -> Found:
    nothing = torch.zeros(len(problem.guess.x), dtype=torch.int64, device=problem.guess.x.device)
    at, iterations = problem.guess, nothing
    error = torch.full_like(at.x[:, 0], torch.inf)
    if warm:
        at, error, iterations = refine(problem.program, problem.size, problem.guess, cones)
    status = torch.where(error <= CONFIRMED, SOLVED, RUNNING)
    return Found(at, status, error, iterations, begin(problem.program, cones))


def _from_outside(problem: Problem, found: Found, cones: Cones) -> Found:
    guess, iterations = start(problem.program, cones)
    unknown = torch.isnan(guess.x[:, 0])
    if unknown.any():
        guess = choose(unknown, problem.guess, guess)
    at, error, _ = refine(problem.program, problem.size, guess, cones)
    status = torch.where(error <= CONFIRMED, SOLVED, RUNNING)
    return choose(status == SOLVED, Found(at, status, error, iterations, found.point), found)


def _along_the_path(problem: Problem, found: Found, cones: Cones, settings: Settings, target: float) -> Found:
    limit = (settings.max_iterations - found.iterations).clamp_min(0)
    point, status, iterations = follow(problem.program, problem.size, cones, found.point, target, limit)
    found = found._replace(point=point, iterations=found.iterations + iterations)
    found = _refined(problem, found, cones)
    hopeless = (found.status == RUNNING) & (point.kappa > point.tau).squeeze(-1)
    if hopeless.any():
        part = _proved(select(problem, hopeless), select(found, hopeless), cones)
        found = scatter(found, hopeless, part)
    return found


def _refined(problem: Problem, found: Found, cones: Cones) -> Found:
    """What refinement makes of the end of the path as it looks from the point reached, if that is the best so far."""
    ahead, here = _solution(extrapolate(problem.program, found.point, cones)), _solution(found.point)
    start = choose(torch.isfinite(torch.cat(ahead, dim=-1)).all(-1), ahead, here)
    at, error, _ = refine(problem.program, problem.size, start, cones)
    at, error = choose(error <= found.error, (at, error), (found.at, found.error))
    return found._replace(at=at, error=error, status=torch.where(error <= CONFIRMED, SOLVED, RUNNING))


def _solution(point: Point) -> Triple:
    return Triple(point.x / point.tau, point.y / point.tau, point.s / point.tau)


def _proved(problem: Problem, found: Found, cones: Cones) -> Found:
    """Certificates that the point reached is near to, if the program as it was given has them."""
    program, (x, y, *_) = problem.program, found.point
    y = sharpen_infeasible(program, y / -dot(program.b, y)[:, None], cones)
    x = sharpen_unbounded(program, x / -dot(program.c, x)[:, None], cones)
    sharp = Triple(x, y, found.at.s)
    scale, unscale, at, status = problem.scaling.scale, problem.scaling.unscale, found.at, found.status
    for candidate in (_rounded(sharp), sharp, scale(_rounded(unscale(sharp)))):
        certificate = unscale(candidate)
        infeasible = proves_infeasible(problem.given, certificate.y, cones)
        unbounded = proves_unbounded(problem.given, certificate.x, cones)
        proven = torch.where(infeasible, INFEASIBLE, torch.where(unbounded, UNBOUNDED, RUNNING))
        at = choose((status == RUNNING) & (proven != RUNNING), candidate, at)
        status = torch.where(status == RUNNING, proven, status)
        if (status != RUNNING).all():
            break
    return found._replace(at=at, status=status)


def _rounded(at: Triple) -> Triple:
    return Triple(rounded(at.x), rounded(at.y), at.s)


def _results(given: Program, answer: Answer, cones: Cones) -> tuple[Tensor, ...]:
    found, scaling = answer
    status = found.status
    solved = status == SOLVED
    infeasible_because, unbounded_because = (torch.full_like(t, torch.nan) for t in (found.at.y, found.at.x))
    if not solved.all():
        x, y, _ = scaling.unscale(found.at)
        y, x = y / -dot(given.b, y, keepdim=True), x / -dot(given.c, x, keepdim=True)
        infeasible_because = torch.where((status == INFEASIBLE)[:, None], y, torch.nan)
        unbounded_because = torch.where((status == UNBOUNDED)[:, None], x, torch.nan)
    x, y, s = (torch.where(solved[:, None], t, 0) for t in found.at)
    confirmed = solved & (found.error <= AT_THE_END)
    facts = (status, confirmed, found.iterations, found.error, infeasible_because, unbounded_because)
    return (torch.cat([x, y - s], dim=-1), s, *scaling, *facts)


def _complain(found: Found, batch: torch.Size, settings: Settings) -> None:
    status, error = found.status.reshape(batch), found.error.reshape(batch)
    doubtful = (status == SOLVED) & (error > AT_THE_END)
    worst = torch.where(doubtful, error, 0).amax().item() if doubtful.any() else 0.0
    warn_unconfirmed(
        doubtful,
        f"cone programs were solved to a residual of {worst:.1e} and no better: the derivative there may be that of a "
        "neighbouring piece.",
    )
    if settings.on_failure == "raise":
        raise_failed(
            status,
            {
                INFEASIBLE: "the cone program is infeasible (a y in K* has Aᵀy = 0 and bᵀy < 0).",
                UNBOUNDED: "the cone program is unbounded (an x has −Ax in K and cᵀx < 0).",
                STUCK: lambda failed: f"no convergence to the tolerance (residual {error[failed].max().item():.1e}).",
            },
        )
