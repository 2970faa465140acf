"""A quadratic program and its dual in one system that always has a solution: sturdier and dearer than the other paths.

The optimality conditions, multiplied by a new variable τ ≥ 0, with a slack κ ≥ 0 for the duality gap, are

    Qx + Aᵀν + Gᵀλ + pτ = 0,      Ax − bτ = 0,      Gx + s − hτ = 0,
    xᵀQx/τ + pᵀx + bᵀν + hᵀλ + κ = 0,      s, λ, τ, κ ≥ 0,   sᵢλᵢ = 0,   τκ = 0                        (1)

A solution with τ > 0 is, divided by τ, one of the program. One with κ > 0 proves that there is none: (ν, λ) that it is
infeasible or x that it is unbounded (:mod:`.qp.certificate`). Newton's step for (1) with τ held is a system (2) of
:mod:`.qp.kkt` with 1/w = s/λ. Here its whole matrix is factorised and the solution refined, and with z₂ the solution
for the right-hand sides (−p, b, h), z₁ that for the residuals, and ξ = x/τ,

    (‖x₂ − ξ‖²_Q + Σ (sᵢ/λᵢ) λ₂ᵢ² + κ/τ) dτ = r_gap − r_τκ/τ + (2Qξ + p)ᵀx₁ + bᵀν₁ + hᵀλ₁                (2)

Source: Goulart & Chen, Clarabel: an interior-point solver for conic programs with quadratic objectives, 2024; the
homogeneous embedding is Ye, Todd & Mizuno 1994's, and for a quadratic objective Andersen & Ye 1999's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, times_columns
from ...batch.rows import iterate, scatter, select, where
from ...solution import INFEASIBLE, RUNNING, SOLVED, STUCK, UNBOUNDED
from .certificate import Candidate, proves_infeasible, proves_unbounded, sharpen_direction, sharpen_multipliers
from .confirm import error_of, improve
from .kkt import FullKKT
from .program import CONFIRMED, QP, SMALLEST, Attempt, Point, Residual, Step
from .scaling import Problem

FRACTION = 0.99  # of the way to the boundary that a step goes
NEAR = 1e-4  # residual from which on the active set is guessed, and after a wrong guess a tenth of that
HOPELESS = 1e-3  # τ/κ from which on a proof that there is no solution is looked for, likewise
SHORTEST = 1e-6  # step that still gets anywhere
SMALLEST_MU = 1e-20  # of 1 at the start, where float64 ends


class Diagnosis(NamedTuple):
    """The status ``(N,)``; (ν, λ) that prove infeasibility with bᵀν + hᵀλ = −1, ``(N, k + m, 1)``, and d that proves
    unboundedness with pᵀd = −1, ``(N, n, 1)``; NaN where there is none."""

    status: Tensor
    infeasible_because: Tensor
    unbounded_because: Tensor


class Embedded(NamedTuple):
    """An iterate of (1), with τ and κ ``(N, 1, 1)``."""

    point: Point
    tau: Tensor
    kappa: Tensor

    def mu(self) -> Tensor:
        products = (self.point.s * self.point.lam).sum(1, keepdim=True) + self.tau * self.kappa
        return products / (1 + self.point.s.shape[1])

    def solution(self) -> Point:
        return Point(*(t / self.tau for t in vars(self.point).values()))


class State(NamedTuple):
    """What is known of the elements that are still running: the best point so far in the units of the caller, and below
    what residual and what τ/κ the next guess is made."""

    problem: Problem
    at: Embedded
    best: Point
    error: Tensor
    near: Tensor
    hopeless: Tensor
    length: Tensor  # of the last step
    rising: Tensor  # where it left more of λᵢ than of sᵢ: in the end those are the active inequalities, in all units


def solve_embedded(problem: Problem, max_iterations: int) -> tuple[Attempt, Diagnosis]:
    """Iterate until every element is confirmed, or proved to have no solution, or gets no further."""

    def look(state: State, k: int) -> tuple[State, Tensor, tuple[Attempt, Diagnosis]]:
        last = (state.at.mu().flatten() < SMALLEST_MU) | (state.length < SHORTEST) | (k == max_iterations)
        state = _guess_solution(state, last)
        state, diagnosis = _look_for_proof(state, last)
        confirmed = state.error <= CONFIRMED
        status = torch.where(
            confirmed, SOLVED, torch.where(last & (diagnosis.status == RUNNING), STUCK, diagnosis.status)
        )
        attempt = Attempt(state.best, state.error, torch.full_like(status, k))
        return state, status != RUNNING, (attempt, diagnosis._replace(status=status))

    def step(state: State) -> State:
        before = state.at.point
        at, length = advance(state.problem.scaled, state.at)
        rising = at.point.lam / before.lam > at.point.s / before.s
        return state._replace(at=at, length=length, rising=rising)

    at = begin(problem.scaled, len(problem.qp.p))
    one = at.tau.flatten()
    nothing_yet = (problem.undo(at.point), torch.full_like(one, torch.inf))
    start = State(problem, at, *nothing_yet, NEAR * one, HOPELESS * one, one, at.point.lam > at.point.s)
    return iterate(start, look, step, max_iterations)


def begin(qp: QP, size: int) -> Embedded:
    y, nu, lam = (torch.zeros_like(v.expand(size, -1, 1)) for v in (qp.p, qp.b, qp.h))
    one = y.new_ones(size, 1, 1)
    return Embedded(Point(y, nu, lam + 1, lam + 1), one, one)


def advance(qp: QP, at: Embedded) -> tuple[Embedded, Tensor]:
    """One predictor and corrector step, and its length ``(N,)``."""
    newton = Newton.of(qp, at)
    mu = at.mu()
    lam, s = at.point.lam, at.point.s
    ahead, ds, dtau, dkappa = newton.step(0.0 * mu, s * lam, at.tau * at.kappa)
    alpha = _length(at, ahead.inequality, ds, dtau, dkappa)
    sigma = (1 - alpha) ** 3
    step, ds, dtau, dkappa = newton.step(
        sigma,
        s * lam + ds * ahead.inequality - sigma * mu,
        at.tau * at.kappa + dtau * dkappa - sigma * mu,
    )
    alpha = FRACTION * _length(at, step.inequality, ds, dtau, dkappa)
    moved = Embedded(at.point.moved(step, ds, alpha), at.tau + alpha * dtau, at.kappa + alpha * dkappa)
    finite = moved.point.is_finite() & torch.isfinite(moved.tau + moved.kappa).flatten()
    return where(finite, moved, at), torch.where(finite, alpha.flatten(), 0)


def _length(at: Embedded, dlam: Tensor, ds: Tensor, dtau: Tensor, dkappa: Tensor) -> Tensor:
    rates = [-dlam / at.point.lam, -ds / at.point.s, -dtau / at.tau, -dkappa / at.kappa]
    return 1 / torch.cat(rates, dim=1).amax(1, keepdim=True).clamp_min(1)


class Newton(NamedTuple):
    """(1) linearised at an iterate and factorised."""

    qp: QP
    at: Embedded
    kkt: FullKKT
    left: Residual  # of the first three equations
    gap: Tensor  # of the fourth
    constant: Step  # z₂
    slope: Tensor  # 2Qξ + p
    pivot: Tensor

    @classmethod
    def of(cls, qp: QP, at: Embedded) -> Newton:
        (y, nu, lam, s), tau, kappa = vars(at.point).values(), at.tau, at.kappa
        Qy = times_columns(qp.Q, y)
        left = Residual(
            Qy + times_columns(qp.A.mT, nu) + times_columns(qp.G.mT, lam) + qp.p * tau,
            times_columns(qp.A, y) - qp.b * tau,
            times_columns(qp.G, y) + s - qp.h * tau,
        )
        gap = _dot(y, Qy) / tau + _dot(qp.p, y) + _dot(qp.b, nu) + _dot(qp.h, lam) + kappa
        kkt = FullKKT.at(qp, s / lam, torch.ones_like(s))
        constant, unsolved = kkt.solve(Step(*(v.expand(len(y), -1, 1) for v in (-qp.p, qp.b, qp.h))), rounds=3)
        away = constant.y - y / tau
        pivot = _dot(away, times_columns(qp.Q, away)) + _dot(s / lam, constant.inequality.square()) + kappa / tau
        # Where the program has no solution, neither need z₂ exist, and what is left of its equations counts.
        pivot = pivot + _dot(constant.y, unsolved.y)
        pivot = pivot - _dot(constant.equality, unsolved.equality) - _dot(constant.inequality, unsolved.inequality)
        return cls(qp, at, kkt, left, gap, constant, 2 * Qy / tau + qp.p, pivot)

    def step(self, keep: Tensor, products: Tensor, of_tau: Tensor) -> tuple[Step, Tensor, Tensor, Tensor]:
        """(dx, dν, dλ), ds, dτ, dκ that leave a part ``keep`` of the residuals, with λ ds + s dλ = −products and
        κ dτ + τ dκ = −of_tau."""
        qp, (lam, s), tau = self.qp, (self.at.point.lam, self.at.point.s), self.at.tau
        r = Step(*((keep - 1) * v for v in self.left))
        z, _ = self.kkt.solve(r._replace(inequality=r.inequality + products / lam), rounds=3)
        ahead = _dot(self.slope, z.y) + _dot(qp.b, z.equality) + _dot(qp.h, z.inequality)
        dtau = ((1 - keep) * self.gap - of_tau / tau + ahead) / self.pivot
        step = Step(*(a + dtau * c for a, c in zip(z, self.constant, strict=True)))
        return step, -(products + s * step.inequality) / lam, dtau, -(of_tau + self.at.kappa * dtau) / tau


def _guess_solution(state: State, last: Tensor) -> State:
    """The best point replaced by what its active set makes of an iterate that is near enough."""
    at, scaled = state.at, state.problem.scaled
    solution = at.solution()
    ready = (_distance(scaled, solution) <= state.near) & (at.tau > HOPELESS * at.kappa).flatten() | last
    if not ready.any():
        return state
    part, near, rising, best, error = select((state.problem, solution, state.rising, state.best, state.error), ready)
    found = part.undo(improve(part.scaled, near, rising, sturdy=True)[0])
    of_found = error_of(part.qp, found)
    best, error = where(of_found < error, (found, of_found), (best, error))
    best, error = scatter((state.best, state.error), ready, (best, error))
    return state._replace(best=best, error=error, near=torch.where(ready, state.near / 10, state.near))


def _distance(qp: QP, point: Point) -> Tensor:
    """How far a point is from a solution, ``(N,)``, as far as it takes to see whether a guess is worth while."""
    y, nu, lam, s = vars(point).values()
    Qy, forces = times_columns(qp.Q, y), times_columns(qp.A.mT, nu) + times_columns(qp.G.mT, lam)
    size = largest(torch.cat([Qy, forces, qp.p], dim=1), (1, 2))
    stationarity = largest(Qy + forces + qp.p, (1, 2)) / size.clamp_min(SMALLEST)
    gap = (s * lam).sum((1, 2)) / (SMALLEST + _dot(y, Qy).abs() + _dot(y, qp.p).abs()).flatten()
    return torch.minimum(torch.maximum(stationarity, gap), largest(s * lam, (1, 2)))


def _look_for_proof(state: State, last: Tensor) -> tuple[State, Diagnosis]:
    """What the iterates that go to infinity prove."""
    at, problem = state.at, state.problem
    nothing = (torch.full_like(torch.cat([at.point.nu, at.point.lam], dim=1), torch.nan), at.point.y * torch.nan)
    status = torch.full(at.tau.shape[:1], RUNNING, device=at.tau.device)
    diagnosis = Diagnosis(status, *nothing)
    ready = (at.tau <= state.hopeless[:, None, None] * at.kappa).flatten() | (last & (at.tau < at.kappa).flatten())
    if ready.any():
        part, here = select((problem, at.point), ready)
        diagnosis = scatter(diagnosis, ready, prove(part, here))
    return state._replace(hopeless=torch.where(ready, state.hopeless / 10, state.hopeless)), diagnosis


def prove(problem: Problem, at: Point) -> Diagnosis:
    """The proofs that a point of the scaled program is near, checked on the program as it was given."""
    candidate = Candidate(at.nu, at.lam, at.y, at.lam > at.s)
    nu, lam = sharpen_multipliers(problem.scaled, candidate)
    proof = problem.undo(Point(sharpen_direction(problem.scaled, candidate), nu, lam, lam))
    infeasible = proves_infeasible(problem.qp, proof.nu, proof.lam)
    unbounded = ~infeasible & proves_unbounded(problem.qp, proof.y)
    status = torch.where(infeasible, INFEASIBLE, torch.where(unbounded, UNBOUNDED, RUNNING))
    multipliers = torch.cat([proof.nu, proof.lam], dim=1)
    rows = torch.cat([v.expand(len(at.y), -1, 1) for v in (problem.qp.b, problem.qp.h)], dim=1)
    return Diagnosis(status, _normalised(multipliers, rows, infeasible), _normalised(proof.y, problem.qp.p, unbounded))


def _normalised(proof: Tensor, cost: Tensor, holds: Tensor) -> Tensor:
    """The proof with costᵀproof = −1, NaN where it does not hold."""
    proof = proof / -(cost * proof).sum(1, keepdim=True)
    return torch.where(holds[:, None, None], proof, torch.nan)


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(1, keepdim=True)
