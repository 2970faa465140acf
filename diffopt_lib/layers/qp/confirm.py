"""From a point near a solution to the solution: which inequalities are active, and proof that it is these.

On its active set a quadratic program is a system of linear equations, which can be solved to the last digit. The result
is the solution if no multiplier and no slack came out negative; an inequality for which that happened changes sides. A
point is *confirmed* if it is complementary, sᵢ = 0 or λᵢ = 0 for every i, and satisfies the optimality conditions up to
the rounding of what was added up: a wrong active set leaves more than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import times_columns
from ...batch.rows import iterate, only_on, where
from .certificate import is_mirage
from .kkt import solve_exactly, solve_sturdily
from .program import CONFIRMED, QP, Point, Step, kkt_error, residual

TEMPTING = 1e-6  # error from which on a point might be taken for a solution
ROUNDS = 3  # of changing sides
Solve = Callable[[QP, Tensor, Tensor, Step], tuple[Step, Tensor]]


class Guess(NamedTuple):
    """A program, a point near its solution, and which inequalities are thought to be active ``(N, m, 1)``."""

    qp: QP
    near: Point
    active: Tensor


def confirm(
    qp: QP, near: Point, active: Tensor | None = None, rounds: int = ROUNDS, sturdy: bool = False
) -> tuple[Point, Tensor]:
    """The solution for the active set of a point, by default {λᵢ > sᵢ}, after at most some rounds of changing sides;
    and its error ``(N,)``, which says whether it is confirmed. If ``sturdy``, by the whole KKT matrix."""
    # What is small beside the largest right-hand side may be large in its own equation: all rounds are needed.
    solve: Solve = solve_sturdily if sturdy else partial(solve_exactly, enough=0.0)

    def look(at: Guess, k: int) -> tuple[Guess, Tensor, tuple[Point, Tensor]]:
        y, nu, lam, slack = on_active_set(at.qp, at.near, at.active, solve)
        # Without an objective nothing pushes: multipliers that are not 0 would be rounding errors of rounding errors.
        pushed = ((at.qp.p != 0) | (times_columns(at.qp.Q, y) != 0)).any(1, keepdim=True)
        nu, lam = torch.where(pushed, nu, 0), torch.where(pushed, lam, 0)
        point = Point(y, nu, lam.clamp_min(0), torch.where(at.active, 0, slack.clamp_min(0)))
        point, error = _or_origin(at.qp, point, error_of(at.qp, point))
        wrong = torch.where(at.active, lam < 0, slack < 0)
        stop = (error <= CONFIRMED) | ~wrong.any(1).squeeze(-1)
        return Guess(at.qp, at.near, at.active ^ wrong), stop, (point, error)

    active = near.lam > near.s if active is None else active
    return iterate(Guess(qp, near, active), look, lambda at: at, rounds - 1)


def _or_origin(qp: QP, point: Point, error: Tensor) -> tuple[Point, Tensor]:
    """The points and their errors, or 0 with the same multipliers where that is feasible and better: if y should be 0
    and no wall has a distance, what is left of y is rounding errors, with nothing to be small beside."""

    def at_origin(of: tuple[QP, Point, Tensor]) -> tuple[Point, Tensor]:
        qp, point, error = of
        s = qp.h.expand_as(point.lam)
        origin = Point(torch.zeros_like(point.y), point.nu, torch.where(s > 0, 0, point.lam), s)
        of_origin = error_of(qp, origin)
        return where(of_origin < error, (origin, of_origin), (point, error))

    feasible = ~qp.b.any(1).squeeze(-1) & (qp.h >= 0).all(1).squeeze(-1) & (qp.elastic == 0).flatten()
    return only_on(feasible & ~(error <= CONFIRMED), at_origin, (qp, point, error), (point, error))


def error_of(qp: QP, point: Point) -> Tensor:
    """The KKT error ``(N,)``, infinite for what only seems to be a solution. It is more than CONFIRMED for a point that
    is not complementary."""

    def second_look(at: tuple[QP, Point, Tensor]) -> Tensor:
        qp, point, error = at
        complementary = ~((point.s > 0) & (point.lam > 0)).any(1).squeeze(-1)
        return torch.where(is_mirage(qp, point), torch.inf, torch.where(complementary, error, error + 2 * CONFIRMED))

    error = kkt_error(qp, point)
    return only_on(error <= TEMPTING, second_look, (qp, point, error), error)


def on_active_set(qp: QP, near: Point, active: Tensor, solve: Solve) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, ν, λ and the slacks of the solution with equalities on the active set and λ = 0 off it; signs as they come.

    Where multipliers are not unique they are those next to the ones of the point."""
    start = replace(near, lam=active * near.lam, s=torch.zeros_like(near.s))
    r = residual(qp, start)
    rhs = Step(-r.dual, -r.equality, -r.inequality * active)
    step, _ = solve(qp, qp.elastic.expand(len(active), 1, 1), active, rhs)
    y, nu, lam = start.y + step.y, start.nu + step.equality, start.lam + step.inequality
    return y, nu, lam, qp.h + qp.elastic * lam - times_columns(qp.G, y)


def improve(qp: QP, point: Point, *guesses: Tensor, sturdy: bool = False) -> tuple[Point, Tensor]:
    """The points and their errors, with what :func:`confirm` makes of them where that is more accurate: of the active
    sets that are guessed, in turn, and of {λᵢ > sᵢ}."""
    best, error = point, error_of(qp, point)
    for active in (*guesses, point.lam > point.s):
        polished, of_polished = confirm(qp, point, active, sturdy=sturdy)
        best, error = where(of_polished <= error, (polished, of_polished), (best, error))
        if (error <= CONFIRMED).all():
            break
    return best, error
