"""Strictly convex quadratic programs through their duals, where an iteration costs one Cholesky factorisation.

With Q = LLᵀ and z = Lᵀy + L⁻¹p the objective is ½‖z‖² and a constant: what is sought is the point nearest to 0.

    min ½ ‖z‖²   s.t.   Uᵀz = b + Uᵀv,   Wᵀz ≤ h + Wᵀv,      U = L⁻¹Aᵀ,  W = L⁻¹Gᵀ,  v = L⁻¹p          (1)

Its conditions say z = −Uν − Wλ. Splitting that along the span of U and orthogonally to it gives z = z₀ − Pλ, where z₀
is the nearest point with the equalities alone and P is W without its part along U. What is left of the conditions is a
complementarity problem in the multipliers λ and the slacks s alone, whose matrix is computed once:

    s = Mλ + q,   s ≥ 0,  λ ≥ 0,  sᵢ λᵢ = 0,      M = PᵀP,   q = h + Wᵀ(v − z₀)                        (2)

Two methods share the work on it. The interior point method follows the central path sᵢ λᵢ = σμ until it is clear which
inequalities are active, up to a few. The active set method then starts from that guess, solves (2) with sᵢ = 0 on it
and λᵢ = 0 off it, and lets those inequalities change sides whose λᵢ or sᵢ came out negative. It ends in finitely many
steps near the solution but may cycle far from it, so an element that has not settled after a few rounds goes back to
the path.

Nothing here needs to be trusted: the result is right if it satisfies the optimality conditions of the quadratic program
itself, which the caller checks.

Source: Mehrotra 1992 for the path; Hintermüller, Ito & Kunisch 2002 for the active set as a Newton method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...batch.products import solve_lower, times_columns
from ...batch.rows import iterate, scatter, select
from ...linear import cholesky_
from .path import inside, mehrotra_direction
from .program import QP, Point

NEAR = 1e-2  # relative violation of (2) from which on the active set is guessed, and after a wrong guess a hundredth
SLIP = 1e-10  # of the largest entry of λ or s: how far below 0 an entry may come out on the right side
SMALLEST_PIVOT = 1e-6  # of the Cholesky factors L and R, relative to the largest


@dataclass(frozen=True)
class NearestPoint:
    """A batch of problems (1); L ``(N or 1, n, n)``, and R the Cholesky factor of UᵀU."""

    L: Tensor
    R: Tensor
    basis: Tensor  # R⁻¹Uᵀ: orthonormal rows that span the columns of U
    along: Tensor  # W in that basis, ``(N, k, m)``
    P: Tensor  # what is left of W
    v: Tensor
    t: Tensor  # z₀ in that basis

    def solution(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """y and ν for given λ."""
        z = times_columns(self.basis.mT, self.t) - times_columns(self.P, lam)
        y = solve_lower(self.L, z - self.v, transpose=True)
        return y, -solve_lower(self.R, self.t + times_columns(self.along, lam), transpose=True)


@dataclass(frozen=True)
class Complementarity:
    """The data of (2): M ``(N or 1, m, m)``, q ``(N, m, 1)``, and the size of sᵢ λᵢ that counts as 1, ``(N, 1, 1)``."""

    M: Tensor
    q: Tensor
    size: Tensor
    work: Tensor  # memory for N factorisations

    def select(self, keep: Tensor) -> Complementarity:
        M, q, size = select((self.M, self.q, self.size), keep)
        return Complementarity(M, q, size, self.work[: len(q)])

    def factorise(self, on: Tensor | None, diagonal: Tensor) -> Tensor:
        """The Cholesky factor of M, of its rows and columns ``on`` if given, plus a diagonal; good until the next."""
        if on is None:
            self.work.copy_(self.M)
        else:
            torch.mul(on, self.M, out=self.work).mul_(on.mT)
        self.work.diagonal(dim1=-2, dim2=-1).add_(diagonal.squeeze(-1))
        return cholesky_(self.work)


def solve_dual(qp: QP, max_iterations: int) -> tuple[Point, Tensor]:
    """Points that ought to be solutions, and the iterations: 0 for an element whose Q is ill-conditioned. That one, and
    one that did not settle, may be anything."""
    problem = nearest_point(qp)
    lam, iterations = solve_complementarity(complementarity(qp, problem), max_iterations)
    y, nu = problem.solution(lam)
    s = torch.where(lam > 0, 0, (qp.h - times_columns(qp.G, y)).clamp_min(0))
    return Point(y, nu, lam, s), iterations


def nearest_point(qp: QP) -> NearestPoint:
    L = _well_conditioned(cholesky_(qp.Q.clone()))
    U, W, v = (solve_lower(L, columns) for columns in (qp.A.mT, qp.G.mT, qp.p))
    R = _well_conditioned(cholesky_(torch.matmul(U.mT, U)))
    basis = solve_lower(R, U.mT)
    along = torch.matmul(basis, W)
    P = torch.matmul(basis.mT, along).neg_().add_(W) if qp.A.shape[-2] else W
    return NearestPoint(L, R, basis, along, P, v, solve_lower(R, qp.b + times_columns(U.mT, v)))


def complementarity(qp: QP, problem: NearestPoint) -> Complementarity:
    M = torch.matmul(problem.P.mT, problem.P)
    in_basis = times_columns(problem.basis, problem.v) - problem.t
    q = (
        qp.h + times_columns(problem.P.mT, problem.v) + times_columns(problem.along.mT, in_basis)
    )  # as P is orthogonal to the basis
    size = 1 + torch.maximum(qp.p.abs().amax(-2, keepdim=True), qp.h.abs().amax(-2, keepdim=True))
    return Complementarity(M, q, size, torch.empty(len(q), *M.shape[1:], dtype=M.dtype, device=M.device))


class OnPath(NamedTuple):
    """The elements that follow the path: λ, s and the residual Mλ + q − s of each."""

    problem: Complementarity
    lam: Tensor
    s: Tensor
    r: Tensor
    near: float  # relative violation of (2) from which on the active set is guessed


def solve_complementarity(problem: Complementarity, max_iterations: int) -> tuple[Tensor, Tensor]:
    """λ ``(N, m, 1)`` and the iterations spent on each element, ``(N,)``; NaN where λ did not settle in so many.

    The iterations count the factorisations of interior point steps and of active set rounds alike.
    """
    sound = torch.isfinite(problem.q).all(1).squeeze(-1)  # not so where Q is ill-conditioned
    if sound.all():
        return _follow_path(problem, max_iterations)
    unsolved = (torch.full_like(problem.q, torch.nan), torch.zeros_like(sound, dtype=torch.int64))
    if not sound.any():
        return unsolved
    return scatter(unsolved, sound, _follow_path(select(problem, sound), max_iterations))


def _follow_path(problem: Complementarity, max_iterations: int) -> tuple[Tensor, Tensor]:
    limit = max_iterations - 1

    def look(at: OnPath, k: int) -> tuple[OnPath, Tensor, tuple[Tensor, Tensor]]:
        error = torch.maximum((at.s * at.lam).amax(1), at.r.abs().amax(1))
        # Most of the batch guesses together: a round costs nearly as much for a few elements as for many.
        if (error <= at.near * at.problem.size.squeeze(-1)).sum() < 0.9 * len(error) and k < limit:
            nobody = torch.zeros_like(error, dtype=torch.bool).squeeze(-1)
            return at, nobody, (at.lam, nobody.long())
        lam, rounds = settle(at.problem, at.lam > at.s)
        return at._replace(near=at.near / 100), ~torch.isnan(lam).any(1).squeeze(-1), (lam, k + 1 + rounds)

    def step(at: OnPath) -> OnPath:
        lam, s, r = interior_step(at.problem, at.lam, at.s, at.r)
        return at._replace(lam=lam, s=s, r=r)

    return iterate(OnPath(problem, *initial_point(problem), NEAR), look, step, limit)


def initial_point(problem: Complementarity) -> tuple[Tensor, Tensor, Tensor]:
    """(M + I) λ = −q solved for the diagonal of M alone, λ and −λ moved inside, and the residual Mλ + q − s of that."""
    v = -problem.q / (1 + problem.M.diagonal(dim1=-2, dim2=-1).unsqueeze(-1))
    lam, s = inside(v), inside(-v)
    return lam, s, times_columns(problem.M, lam) + problem.q - s


def interior_step(problem: Complementarity, lam: Tensor, s: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A predictor and corrector step on (2) with one factorisation."""
    L = problem.factorise(None, s / lam)

    def direction(complementarity: Tensor) -> tuple[Tensor, Tensor]:
        """M dλ − ds = −r and λ ds + s dλ = −complementarity."""
        dlam = solve_lower(L, solve_lower(L, -r - complementarity / lam), transpose=True)
        return dlam, -(complementarity + s * dlam) / lam

    (dlam, ds), alpha = mehrotra_direction(lam, s, direction)
    return lam + alpha * dlam, s + alpha * ds, (1 - alpha) * r  # r is linear in (λ, s): no product with M is needed


def settle(problem: Complementarity, active: Tensor, rounds: int = 4) -> tuple[Tensor, Tensor]:
    """The active set method from a guess ``(N, m, 1)``: λ, NaN where it did not settle; the rounds spent, ``(N,)``."""

    def look(at: tuple[Complementarity, Tensor], k: int) -> tuple[Any, Tensor, tuple[Tensor, Tensor]]:
        problem, active = at
        on = active.to(problem.q.dtype)
        L = problem.factorise(on, 1 - on)  # the identity off the active set
        lam = solve_lower(L, solve_lower(L, -on * problem.q), transpose=True)
        s = times_columns(problem.M, lam) + problem.q
        slip = SLIP * torch.maximum(s.abs().amax(1, keepdim=True), lam.abs().amax(1, keepdim=True))
        moves = torch.where(active, ~(lam >= -slip), s < -slip)
        stays = ~moves.any(1).squeeze(-1)
        solution = torch.where(stays[:, None, None], lam.clamp_min(0), torch.nan)
        return (problem, active ^ moves), stays, (solution, torch.full_like(stays, k + 1, dtype=torch.int64))

    return iterate((problem, active), look, lambda at: at, rounds - 1)


def _well_conditioned(L: Tensor) -> Tensor:
    """L, NaN where its pivots tell of a matrix that is nearly singular."""
    if L.shape[-1] == 0:
        return L
    pivots = L.diagonal(dim1=-2, dim2=-1)
    good = pivots.amin(-1) > SMALLEST_PIVOT * pivots.amax(-1)
    return L if good.all() else torch.where(good[:, None, None], L, torch.nan)
