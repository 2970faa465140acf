"""How a quadratic program is solved: everything that happens outside the graph.

It is a relay: an element that an attempt solves is done, and those that are left go on to the next. The attempts are
the active set of a guess; the dual method (:mod:`.qp.dual`) where Q may be well conditioned; the interior point method
(:mod:`.qp.interior`); and the embedding (:mod:`.qp.embedding`), which is sturdier and dearer, and finds out where there
is no solution. An element is solved when its active set is confirmed (:mod:`.qp.confirm`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, times_columns
from ...batch.rows import go_on, only_on, relay, scatter, select, where
from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED, raise_failed, warn_unconfirmed
from .confirm import confirm, error_of, improve
from .derivative import Kept
from .dual import solve_dual
from .embedding import Diagnosis, solve_embedded
from .interior import interior_point
from .program import CONFIRMED, QP, SMALLEST, Attempt, Point, kkt_error, with_violations
from .scaling import Problem, Scaling, equilibrate, other_scalings

WEAKLY_ACTIVE = 1e-4  # λᵢ/sᵢ in a guess from which on an inequality may be active: both may be 0
NEARBY = 1e5  # entries of a solution in good units
HELD = 1e-14  # eigenvalues of AᵀA, relative to the largest, from which on Ad = 0 holds a direction
ELASTIC = 1e-7  # how far, for a multiplier of 1, the constraints of an infeasible program give way
# What a matrix may have below 0, relative to its largest entry, when rounding made it so.
CONVEX = {torch.float32: 1e-5, torch.float64: 1e-11}
FAR = 1e4  # a wall that is so many times as far away as the farthest that has to be reached is first put nearer

UNCONFIRMED = (
    "quadratic programs are solved within the tolerance, but which of their inequalities are active could not be "
    "confirmed: the derivative is that of an unconfirmed active set."
)


class Start(NamedTuple):
    """What a relay starts from."""

    problem: Problem
    guess: Point  # of the programs as they were given; the origin where there is none
    convex: float  # how far below 0 an eigenvalue of Q may be


def solve(
    start: Tensor,
    *data: Tensor,
    kept: Kept,
    warm: bool,
    tolerance: float,
    max_iterations: int,
    on_failure: str,
) -> tuple[Tensor, ...]:
    """The solutions z = (y, ν, λ), and besides: which inequalities are active, the elasticity of the constraints, the
    status, the iterations, the error, and the two certificates; all with the batch dimensions of ``start``, which are
    those of the data together. ``start`` is a guess (y, ν, λ, s) if ``warm``."""
    batch = start.shape[:-1]
    N = batch.numel()
    qp, scaling = kept.program(data, batch, start.new_zeros(1))
    n, k, m = qp.Q.shape[-1], qp.A.shape[-2], qp.G.shape[-2]
    guess = Point(*start.double().reshape(N, n + k + 2 * m, 1).split((n, k, m, m), dim=1))
    begin = Start(Problem.of(qp, scaling), guess, CONVEX[start.dtype])
    attempt, (status, *proofs) = search(begin, warm, tolerance, max_iterations)
    elastic = torch.zeros_like(attempt.error).unsqueeze(-1)
    if on_failure == "closest":
        attempt, status, elastic = _relax(begin.problem, attempt, status, tolerance, max_iterations)
    if on_failure != "nan":
        _raise(status.reshape(batch), attempt.error.reshape(batch), tolerance)
    warn_unconfirmed(((status == SOLVED) & ~_is_confirmed(attempt)).reshape(batch), UNCONFIRMED)

    point, failed = attempt.point, status != SOLVED
    z = torch.cat([point.y, point.nu, point.lam], dim=1)
    # All rows of a failed element count as active, so that its NaN reaches the gradient of every argument.
    active = (point.lam > point.s) | failed[:, None, None]
    vectors = (z.to(start.dtype), active, elastic.to(start.dtype))
    return (
        *(v.reshape(*batch, v.shape[1]) for v in vectors),
        *(v.reshape(batch) for v in (status, attempt.iterations, attempt.error.to(start.dtype))),
        *(v.reshape(*batch, v.shape[1]).to(start.dtype) for v in proofs),
    )


class Found(NamedTuple):
    """What a search knows of its elements."""

    attempt: Attempt
    diagnosis: Diagnosis


def search(start: Start, warm: bool, tolerance: float, max_iterations: int) -> Found:
    """The relay in the units that are likely, and in others for whom it leaves. A point that is not confirmed in any
    counts as solved, too, if it is within the tolerance."""

    def in_other_units(left: tuple[Start, Found]) -> Found:
        start, found = left
        scalings = other_scalings(start.problem.qp)

        def in_units(k: int, of: tuple[Start, tuple[Scaling, ...]], before: Found) -> Found:
            start, scalings = of
            start = start._replace(problem=Problem.of(start.problem.qp, scalings[k]))
            after = _search_in_units(start, False, max_iterations)
            return where(_is_settled(after) | (after.attempt.error < before.attempt.error), after, before)

        return go_on((start, scalings), found, [partial(in_units, k) for k in range(len(scalings))], _is_settled)

    found = _search_in_units(start, warm, max_iterations)
    found = only_on(~_is_settled(found), in_other_units, (start, found), found)
    good = ~_is_settled(found) & (found.attempt.error <= tolerance)
    status = torch.where(good, SOLVED, found.diagnosis.status)
    return found._replace(diagnosis=found.diagnosis._replace(status=status))


def _is_settled(found: Found) -> Tensor:
    return found.diagnosis.status != STUCK


def _search_in_units(start: Start, warm: bool, max_iterations: int) -> Found:
    """The quick attempts, and the embedding's turn at the elements that they leave."""

    def embed(left: tuple[Problem, Attempt]) -> Found:
        problem, attempt = left
        found, diagnosis = solve_embedded(problem, max_iterations)
        return Found(where(found.error <= attempt.error, found, attempt), diagnosis)

    attempt = find(start, warm, max_iterations)
    y, nu, lam = attempt.point.y, attempt.point.nu, attempt.point.lam
    nothing = (torch.full_like(v, torch.nan) for v in (torch.cat([nu, lam], dim=1), y))
    solved = Diagnosis(torch.full_like(attempt.iterations, SOLVED), *nothing)
    return only_on(~_is_confirmed(attempt), embed, (start.problem, attempt), Found(attempt, solved))


def find(start: Start, warm: bool, max_iterations: int) -> Attempt:
    """The relay of the quick attempts, which begins with the guess if there is one."""
    attempts: list[Callable[..., Attempt]] = [_from_guess, _hold_weakly_active] if warm else []

    def through_the_dual(start: Start, *_: Attempt) -> Attempt:
        nearer = _nearer(start.problem.scaled)
        point, iterations = solve_dual(nearer, max_iterations)
        if (
            nearer is start.problem.qp
            and (largest(torch.cat([point.y, point.nu, point.lam], 1), (1, 2)) < NEARBY).all()
        ):
            # It is complementary, and in good units what is nearby is no mirage: :func:`error_of` would be dearer.
            return Attempt(point, kkt_error(nearer, point), iterations)
        return _in_given_units(start.problem, nearer, point, iterations)

    def directly(start: Start, *_: Attempt) -> Attempt:
        check_convex(start.problem.scaled, start.convex)
        nearer = _nearer(start.problem.scaled)
        point, _error, iterations = interior_point(nearer, len(start.guess.y), max_iterations)
        return _in_given_units(start.problem, nearer, point, iterations)

    qp = start.problem.qp
    if 0 < qp.G.shape[-2] <= 2 * qp.Q.shape[-1]:  # the dual is not much larger
        attempts += [through_the_dual, _improve]
    attempts.append(directly)
    return relay(start, attempts, _is_confirmed)


def _is_confirmed(attempt: Attempt) -> Tensor:
    return attempt.error <= CONFIRMED


def check_convex(qp: QP, rounding: float) -> None:
    """Raise where Q has a negative eigenvalue along a direction with Ad = 0, beyond a rounding relative to its largest
    entry: a point that satisfies the optimality conditions would prove nothing. (Whom the dual method solves has a
    Cholesky factor of Q.)"""
    size = largest(qp.Q, (1, 2)).clamp_min(SMALLEST)[:, None, None]
    Q = qp.Q / size
    _, info = torch.linalg.cholesky_ex(Q + rounding * torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device))
    if not (info > 0).any():
        return
    size = torch.broadcast_shapes(Q.shape[:1], qp.A.shape[:1])
    Q, A = (t.expand(*size, -1, -1) for t in (Q, qp.A))
    _, S, Vh = torch.linalg.svd(A.mT @ A)  # whose rows span Rⁿ, also where A has none
    held = HELD * S[:, :1].clamp_min(SMALLEST) < S
    free = ~held.unsqueeze(-1) * Vh
    lowest = torch.linalg.eigvalsh(free @ Q @ free.mT)[:, 0]
    if (lowest < -rounding).any():
        raise ValueError(
            "Q must be positive semidefinite on the directions that Ay = b leaves free, got a matrix with a negative "
            f"eigenvalue, {lowest.min().item():.1e} times its largest entry"
        )


def _from_guess(start: Start) -> Attempt:
    point, error = confirm(start.problem.qp, start.guess)
    return Attempt(point, error, torch.ones_like(error, dtype=torch.int64))


def _hold_weakly_active(start: Start, attempt: Attempt) -> Attempt:
    """Points that are not accurate yet may owe it to inequalities with λᵢ = sᵢ = 0: if no other holds what they do,
    it must not be left free. They are polished once more from the guess, with these in the active set."""
    active = start.guess.lam > WEAKLY_ACTIVE * start.guess.s
    point, error = confirm(start.problem.qp, start.guess, active)
    return where(error < attempt.error, attempt._replace(point=point, error=error), attempt)


def _improve(start: Start, attempt: Attempt) -> Attempt:
    """Where Q is well conditioned enough for the dual method, and the active set nearly right."""
    point, error = improve(start.problem.qp, attempt.point)
    return attempt._replace(point=point, error=error)


def _nearer(qp: QP) -> QP:
    """The program with walls that are far away moved to where they still ought to be out of reach. A solution that does
    not touch them is one of the program itself; one that does will be refused there."""
    if not qp.h.numel() or qp.h.amax() <= FAR:
        return qp
    reach = torch.cat([qp.b.abs().expand(len(qp.p), -1, 1), -qp.h.expand(len(qp.p), -1, 1)], dim=1)
    far = FAR * (1 + reach.amax(1, keepdim=True).clamp_min(0))
    return replace(qp, h=torch.minimum(qp.h, far)) if (qp.h > far).any() else qp


def _in_given_units(problem: Problem, solved: QP, point: Point, iterations: Tensor) -> Attempt:
    """A solution of the scaled program, or of that with nearer walls, as an attempt at the one that was given."""
    if solved is not problem.qp:
        point = problem.undo(point)
        slack = (problem.qp.h - times_columns(problem.qp.G, point.y)).clamp_min(0)
        point = replace(point, s=torch.where((point.s == 0) & (point.lam > 0), 0, slack))
    return Attempt(point, error_of(problem.qp, point), iterations)


def _relax(
    problem: Problem, attempt: Attempt, status: Tensor, tolerance: float, max_iterations: int
) -> tuple[Attempt, Tensor, Tensor]:
    """The infeasible elements solved with elastic constraints instead; their ε ``(N, 1)`` tells them apart."""
    infeasible = status == INFEASIBLE
    elastic = torch.where(infeasible, ELASTIC, 0.0).to(attempt.error).unsqueeze(-1)
    if not infeasible.any():
        return attempt, status, elastic
    part = replace(select(problem.qp, infeasible), elastic=elastic[infeasible].unsqueeze(-1))

    def directly(part: QP) -> Attempt:
        return interior_point(part, len(part.p), max_iterations)

    def as_an_ordinary_program(part: QP, attempt: Attempt) -> Attempt:
        ordinary = with_violations(part)
        n, (k, m) = part.p.shape[1], (ordinary.b.shape[1], ordinary.h.shape[1])
        scaled = Problem.of(ordinary, equilibrate(ordinary))
        none = Point(*(part.p.new_zeros(len(part.p), size, 1) for size in (n + k + m, k, m, m)))
        found, _ = search(Start(scaled, none, math.inf), False, tolerance, max_iterations)
        point = replace(found.point, y=found.point.y[:, :n])
        found = found._replace(point=point, error=error_of(part, point))
        return where(found.error < attempt.error, found, attempt)

    found = relay(part, [directly, as_an_ordinary_program], _is_confirmed)
    attempt = scatter(attempt, infeasible, found)
    now = torch.where(attempt.error <= tolerance, SOLVED, STUCK)
    return attempt, torch.where(infeasible, now, status), elastic


def _raise(status: Tensor, error: Tensor, tolerance: float) -> None:
    raise_failed(
        status,
        {
            INFEASIBLE: "quadratic program infeasible: no y satisfies Ay = b and Gy ≤ h (certified).",
            UNBOUNDED: "quadratic program unbounded: the objective falls for ever along a direction that meets no wall "
            "(certified).",
            STUCK: lambda failed: (
                f"the quadratic program did not reach a KKT residual of {tolerance:.1e} "
                f"(it is {error[failed].nan_to_num(nan=torch.inf).max().item():.1e})."
            ),
        },
    )
