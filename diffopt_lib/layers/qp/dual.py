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
steps near the solution but may cycle far from it, so whoever has not settled after a few rounds goes back to the path.

Nothing here needs to be trusted: the result is right if it satisfies the optimality conditions of the quadratic program
itself, which the caller checks.

Source: Mehrotra 1992 for the path; Hintermüller, Ito & Kunisch 2002 for the active set as a Newton method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...linear import cholesky_
from .interior import Point
from .kkt import QP, mul, solve_lower, take
from .path import inside, mehrotra_direction

NEAR = 1e-2  # relative violation of (2) below which the active set is worth a guess
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
        z = mul(self.basis.mT, self.t) - mul(self.P, lam)
        y = solve_lower(self.L, z - self.v, transpose=True)
        return y, -solve_lower(self.R, self.t + mul(self.along, lam), transpose=True)


@dataclass(frozen=True)
class Complementarity:
    """The data of (2): M ``(N or 1, m, m)``, q ``(N, m, 1)``, and the size of sᵢ λᵢ that counts as 1, ``(N, 1, 1)``."""

    M: Tensor
    q: Tensor
    size: Tensor
    work: Tensor  # memory for N factorisations

    def select(self, keep: Tensor) -> Complementarity:
        M, q, size = (take(t, keep) for t in (self.M, self.q, self.size))
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
    """A solution, and the iterations spent on each element, ``(N,)``.

    An element whose Q is ill-conditioned or that did not settle is returned as it is, and may be anything.
    """
    problem = nearest_point(qp)
    dual = complementarity(qp, problem)
    lam, iterations = solve_complementarity(dual, max_iterations)
    y, nu = problem.solution(lam)
    s = torch.where(lam > 0, 0, (qp.h - mul(qp.G, y)).clamp_min(0))
    return Point(y, nu, lam, s), iterations


def nearest_point(qp: QP) -> NearestPoint:
    L = _well_conditioned(cholesky_(qp.Q.clone()))
    U, W, v = (solve_lower(L, columns) for columns in (qp.A.mT, qp.G.mT, qp.p))
    R = _well_conditioned(cholesky_(torch.matmul(U.mT, U)))
    basis = solve_lower(R, U.mT)
    along = torch.matmul(basis, W)
    P = torch.matmul(basis.mT, along).neg_().add_(W) if qp.A.shape[-2] else W
    return NearestPoint(L, R, basis, along, P, v, solve_lower(R, qp.b + mul(U.mT, v)))


def complementarity(qp: QP, problem: NearestPoint) -> Complementarity:
    M = torch.matmul(problem.P.mT, problem.P)
    in_basis = mul(problem.basis, problem.v) - problem.t
    q = qp.h + mul(problem.P.mT, problem.v) + mul(problem.along.mT, in_basis)  # as P is orthogonal to the basis
    size = 1 + torch.maximum(qp.p.abs().amax(-2, keepdim=True), qp.h.abs().amax(-2, keepdim=True))
    return Complementarity(M, q, size, torch.empty(len(q), *M.shape[1:], dtype=M.dtype, device=M.device))


def solve_complementarity(problem: Complementarity, max_iterations: int) -> tuple[Tensor, Tensor]:
    """λ ``(N, m, 1)`` and the iterations spent on each element, ``(N,)``; NaN where λ did not settle in so many.

    The iterations count the factorisations of interior point steps and of active set rounds alike.
    """
    solution = torch.full_like(problem.q, torch.nan)
    iterations = torch.zeros(len(solution), dtype=torch.int64, device=solution.device)
    sound = torch.isfinite(problem.q).all(1).squeeze(-1)  # not so where Q is ill-conditioned
    left = torch.nonzero(sound).squeeze(-1)
    if len(left) == 0:
        return solution, iterations
    if len(left) < len(solution):
        problem = problem.select(sound)
    near = NEAR
    lam, s, r = initial_point(problem)
    for k in range(1, max_iterations + 1):
        error = torch.maximum((s * lam).amax(1), r.abs().amax(1))
        # Most of the batch guesses together: a round costs nearly as much for a few elements as for many.
        if (error <= near * problem.size.squeeze(-1)).sum() >= 0.9 * len(left) or k == max_iterations:
            solution[left], rounds = settle(problem, lam > s)
            iterations[left] = k + rounds
            keep = torch.isnan(solution[left]).any(1).squeeze(-1)
            if not keep.any():
                break
            problem, left, near = problem.select(keep), left[keep], near / 100
            lam, s, r = lam[keep], s[keep], r[keep]
        lam, s, r = interior_step(problem, lam, s, r)
    return solution, iterations


def initial_point(problem: Complementarity) -> tuple[Tensor, Tensor, Tensor]:
    """(M + I) λ = −q solved for the diagonal of M alone, λ and −λ moved inside, and the residual Mλ + q − s of that."""
    v = -problem.q / (1 + problem.M.diagonal(dim1=-2, dim2=-1).unsqueeze(-1))
    lam, s = inside(v), inside(-v)
    return lam, s, mul(problem.M, lam) + problem.q - s


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
    solution = torch.full_like(problem.q, torch.nan)
    spent = torch.full((len(active),), rounds, device=active.device)
    left = torch.arange(len(active), device=active.device)
    for k in range(1, rounds + 1):
        on = active.to(problem.q.dtype)
        L = problem.factorise(on, 1 - on)  # the identity off the active set
        lam = solve_lower(L, solve_lower(L, -on * problem.q), transpose=True)
        s = mul(problem.M, lam) + problem.q
        slip = 1e-10 * torch.maximum(s.abs().amax(1, keepdim=True), lam.abs().amax(1, keepdim=True))
        moves = torch.where(active, ~(lam >= -slip), s < -slip)
        stays = ~moves.any(1).squeeze(-1)
        solution[left[stays]], spent[left[stays]] = lam[stays].clamp_min(0), k
        if stays.all():
            break
        left, problem, active = left[~stays], problem.select(~stays), (active ^ moves)[~stays]
    return solution, spent


def _well_conditioned(L: Tensor) -> Tensor:
    """L, NaN where its pivots tell of a matrix that is nearly singular."""
    if L.shape[-1] == 0:
        return L
    pivots = L.diagonal(dim1=-2, dim2=-1)
    good = pivots.amin(-1) > SMALLEST_PIVOT * pivots.amax(-1)
    return L if good.all() else torch.where(good[:, None, None], L, torch.nan)
