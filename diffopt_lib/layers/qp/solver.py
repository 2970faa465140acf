"""How a quadratic program is solved: everything that happens outside the graph.

It is a relay: an element that an attempt solves is done, and those that are left go on to the next. The attempts are
the active set of a guess; the dual method (:mod:`.qp.dual`) where Q may be well conditioned; and the interior point
method (:mod:`.qp.interior`), for all. Those that none has solved are examined for a reason (:mod:`.qp.feasibility`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.rows import relay, scatter, select, where
from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED, raise_failed
from .derivative import Kept
from .dual import solve_dual
from .feasibility import ELASTIC, Diagnosis, diagnose
from .interior import interior_point, polish
from .program import QP, Attempt, Point, kkt_error
from .scaling import Scaling

# Where both should be 0 a solver leaves λ and s small, with a ratio between this and its inverse.
WEAKLY_ACTIVE = 1e-4


class Problem(NamedTuple):
    """The programs as they were given and in good units, and a guess of their solutions."""

    qp: QP
    scaling: Scaling | None
    scaled: QP
    guess: Point  # the origin where there is none

    def size(self) -> int:
        return len(self.qp.p)

    def in_given_units(self, attempt: Attempt) -> Attempt:
        if self.scaling is None:
            return attempt
        point = self.scaling.undo(attempt.point)
        return Attempt(point, kkt_error(self.qp, point), attempt.iterations)


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
    problem = Problem(qp, scaling, qp if scaling is None else scaling.apply(qp), guess)
    attempt = find(problem, warm, tolerance, max_iterations)

    attempt, diagnosis, elastic = _explain(problem, attempt, tolerance, max_iterations, on_failure == "closest")
    if on_failure != "nan":
        _raise(diagnosis.status.reshape(batch), attempt.error.reshape(batch), tolerance)

    failed = diagnosis.status != SOLVED
    point = attempt.point
    z = torch.cat([point.y, point.nu, point.lam], dim=1)
    # All rows of a failed element count as active, so that its NaN reaches the gradient of every argument.
    active = (point.lam > point.s) | failed[:, None, None]
    per_element = (diagnosis.status, attempt.iterations, attempt.error.to(start.dtype))
    certificates = (diagnosis.infeasible_because, diagnosis.unbounded_because)
    vectors = (z.to(start.dtype), active, elastic.to(start.dtype))
    return (
        *(v.reshape(*batch, v.shape[1]) for v in vectors),
        *(v.reshape(batch) for v in per_element),
        *(v.reshape(*batch, v.shape[1]).to(start.dtype) for v in certificates),
    )


def find(problem: Problem, warm: bool, tolerance: float, max_iterations: int) -> Attempt:
    """The relay of attempts, which begins with the guess if there is one."""

    def from_guess(problem: Problem) -> Attempt:
        point = polish(problem.qp, problem.guess)
        return Attempt(point, kkt_error(problem.qp, point), torch.ones_like(point.y[:, 0, 0], dtype=torch.int64))

    def through_the_dual(problem: Problem, *_: Attempt) -> Attempt:
        return problem.in_given_units(solve_dual(problem.scaled, max_iterations))

    def directly(problem: Problem, *_: Attempt) -> Attempt:
        return problem.in_given_units(interior_point(problem.scaled, problem.size(), tolerance, max_iterations))

    attempts: list[Callable[..., Attempt]] = []
    if warm:
        attempts += [from_guess, hold_weakly_active]
    if 0 < problem.qp.G.shape[-2] <= 2 * problem.qp.Q.shape[-1]:  # the dual is not much larger
        attempts.append(through_the_dual)
    attempts.append(directly)
    return relay(problem, attempts, lambda attempt: attempt.error <= tolerance)


def hold_weakly_active(problem: Problem, attempt: Attempt) -> Attempt:
    """Points that are not accurate yet may owe it to inequalities with λᵢ = sᵢ = 0: if no other holds what they do,
    it must not be left free. They are polished once more from the guess, with these in the active set."""
    point = polish(problem.qp, problem.guess, WEAKLY_ACTIVE)
    polished = attempt._replace(point=point, error=kkt_error(problem.qp, point))
    return where(polished.error < attempt.error, polished, attempt)


def _explain(
    problem: Problem, attempt: Attempt, tolerance: float, max_iterations: int, closest: bool
) -> tuple[Attempt, Diagnosis, Tensor]:
    """What became of each element. If ``closest``, the infeasible ones are solved with elastic constraints instead, and
    their ε ``(N, 1)`` tells them apart."""
    y, nu, lam = attempt.point.y, attempt.point.nu, attempt.point.lam
    failed = ~(attempt.error <= tolerance)
    nothing = torch.full_like(torch.cat([nu, lam], dim=1), torch.nan), torch.full_like(y, torch.nan)
    diagnosis = Diagnosis(torch.where(failed, STUCK, SOLVED), *nothing)
    elastic = torch.zeros_like(y[:, :1, 0])
    if not failed.any():
        return attempt, diagnosis, elastic
    qp, scaling = select((problem.qp, problem.scaling), failed)
    diagnosis = scatter(diagnosis, failed, diagnose(qp, scaling, int(failed.sum()), max_iterations))
    infeasible = diagnosis.status == INFEASIBLE
    if closest and infeasible.any():
        elastic = torch.where(infeasible[:, None], ELASTIC, elastic)
        part = replace(select(problem.qp, infeasible), elastic=elastic[infeasible].unsqueeze(-1))
        found = interior_point(part, int(infeasible.sum()), tolerance, max_iterations)
        attempt = scatter(attempt, infeasible, found)
        now = torch.where(attempt.error <= tolerance, SOLVED, STUCK)
        diagnosis = diagnosis._replace(status=torch.where(infeasible, now, diagnosis.status))
    return attempt, diagnosis, elastic


def _raise(status: Tensor, error: Tensor, tolerance: float) -> None:
    raise_failed(
        status,
        {
            INFEASIBLE: "quadratic program infeasible: no y satisfies Ay = b and Gy ≤ h (certified).",
            UNBOUNDED: "quadratic program unbounded: the objective falls for ever along a feasible direction "
            "(certified).",
            STUCK: lambda failed: (
                f"the quadratic program did not reach a KKT residual of {tolerance:.1e} "
                f"(it is {error[failed].nan_to_num(nan=torch.inf).max().item():.1e})."
            ),
        },
    )
