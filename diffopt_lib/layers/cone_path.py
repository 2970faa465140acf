"""A path to the solution of a cone program: the homogeneous embedding, made smooth and followed to its end.

The program, its dual, and their optimality conditions are

    min cᵀx  s.t.  Ax + s = b, s ∈ K;      max −bᵀy  s.t.  Aᵀy + c = 0, y ∈ K*;      sᵀy = 0.            (1)

The homogeneous self-dual embedding multiplies the data by a new variable τ ≥ 0 and gives the duality gap a slack κ ≥ 0:

    Aᵀy + cτ = 0,     −Ax + bτ = s,     −cᵀx − bᵀy = κ,      sᵀy = 0, τκ = 0                             (2)

It always has a solution. One with τ > 0 is, divided by τ, a solution of (1). One with κ > 0 proves that there is none:
bᵀy < 0 with Aᵀy = 0 that the program is infeasible, cᵀx < 0 with −Ax ∈ K that it is unbounded.

Conditions such as y ∈ K*, s ∈ K, sᵀy = 0 say that y and s are the projections of v = y − s onto K* and of −v onto K. So
(2) is a system of equations for (x, v, v_τ), the residual map. It has kinks. But with the central pair of
:mod:`.cone_central` in place of the projections, and with a residual that vanishes at the start and fades with μ,

    R(x, v, v_τ; μ) = (Aᵀy + cτ,  −Ax + bτ − s,  −cᵀx − bᵀy − κ) − μ · (the same at the start) = 0           (3)

has exactly one smooth path of roots from (0, 0, 0) at μ = 1 to a solution of (2) at μ = 0. We follow it by a
predictor–corrector method: Newton's step back to the path and the tangent along it come from one factorisation, as does
a second-order correction; μ falls as far as |R| ≤ NEIGHBOURHOOD · μ allows. y and s never leave their cones.

Source: Ye, Todd & Mizuno 1994 for the embedding; Busseti, Moursi & Boyd 2019 for its residual map; Burke & Xu 1998 and
Engelke & Kanzow 2002 for predictor–corrector methods on smoothed equations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .cone_central import central_pair, centre, derivative, split
from .cone_scaling import Program, Scaling
from .cones import Cones

NEIGHBOURHOOD = 3.0
REGULARISATION = 1e-12
# What a step tries, from bold to careful: the factor on μ, and the part of the way back to the path. Towards the end
# the path is hard to get back to along the solutions of (2), which form a ray, and the way along it may be the shorter
# one.
ATTEMPTS = (
    *((reduction, 1.0) for reduction in (0.003, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96)),
    *((reduction, 1 - reduction) for reduction in (0.03, 0.2, 0.5, 0.8)),
    *((1.0, 0.5**k) for k in range(10)),
)

RUNNING, SOLVED, INFEASIBLE, UNBOUNDED, STUCK = range(5)


@dataclass(frozen=True)
class PathPoint:
    """A point near the path: z = (x, v, v_τ) ``(B, n + m + 1)`` and μ ``(B,)``, with what follows from them.

    Attributes:
        y, s: the central pair of v, ``(B, m)``.
        tau, kappa: that of v_τ, ``(B,)``.
        residual: R of eq. (3), ``(B, n + m + 1)``.
    """

    z: Tensor
    mu: Tensor
    y: Tensor
    s: Tensor
    tau: Tensor
    kappa: Tensor
    residual: Tensor

    def select(self, rows: Tensor) -> PathPoint:
        return PathPoint(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: Tensor, other: PathPoint) -> PathPoint:
        """This point with the given rows replaced."""
        values = {}
        for field in fields(self):
            value = getattr(self, field.name).clone()
            value[rows] = getattr(other, field.name)
            values[field.name] = value
        return PathPoint(**values)

    @property
    def distance(self) -> Tensor:
        return self.residual.abs().amax(-1)


@dataclass(frozen=True)
class Embedding:
    """Eq. (3) for a batch: the program, its cones, and the residual at the start, ``(B, n + m + 1)``."""

    program: Program
    cones: Cones
    start: Tensor

    def select(self, rows: Tensor) -> Embedding:
        return replace(self, program=self.program.select(rows), start=self.start[rows])

    def at(self, z: Tensor, mu: Tensor, guess: Tensor) -> PathPoint:
        """The point z ``(B, n + m + 1)``; guess ``(B, m)`` is an s nearby."""
        c, A, b = self.program.c, self.program.A, self.program.b
        n, m = c.shape[-1], b.shape[-1]
        finite = torch.isfinite(z).all(-1)  # what a singular matrix made of z is no better than any other point
        z = torch.where(finite[:, None], z, 0)
        x, v, v_tau = z[:, :n], z[:, n : n + m], z[:, -1]
        y, s = split(v, mu, self.cones, guess)
        tau, kappa = central_pair(v_tau, mu)
        residual = torch.cat(
            [
                times(A.mT, y) + c * tau[:, None],
                b * tau[:, None] - times(A, x) - s,
                (-dot(c, x) - dot(b, y) - kappa)[:, None],
            ],
            dim=-1,
        )
        residual = torch.where(finite[:, None], residual - mu[:, None] * self.start, torch.inf)
        return PathPoint(z, mu, y, s, tau, kappa, residual)

    def linearise(self, point: PathPoint) -> tuple[Tensor, Tensor]:
        """∂R/∂z ``(B, n + m + 1, n + m + 1)`` and ∂R/∂μ ``(B, n + m + 1)``."""
        c, A, b = self.program.c, self.program.A, self.program.b
        B, n, m = len(c), c.shape[-1], b.shape[-1]
        D, rate = derivative(point.z[:, n : n + m], point.y, point.s, point.mu, self.cones)
        tau_rate = 1 / (point.tau + point.kappa)
        d = point.tau * tau_rate
        J = c.new_zeros(B, n + m + 1, n + m + 1)
        J[:, :n, n:-1] = A.mT @ D
        J[:, :n, -1] = c * d[:, None]
        J[:, n:-1, :n] = -A
        J[:, n:-1, n:-1] = -D
        J[:, n:-1, -1] = b * d[:, None]
        J[:, -1, :n] = -c
        J[:, -1, n:-1] = -times(D, b)
        J[:, -1, -1] = -d
        J.diagonal(dim1=-2, dim2=-1)[:, n:] += 1
        # Redundant rows or columns of A would make the matrix singular. Newton's method takes this back out.
        J.diagonal(dim1=-2, dim2=-1).add_(REGULARISATION)
        of_mu = torch.cat(
            [
                times(A.mT, rate) + c * tau_rate[:, None],
                b * tau_rate[:, None] - rate,
                (-dot(b, rate) - tau_rate)[:, None],
            ],
            dim=-1,
        )
        return J, of_mu - self.start


def begin(program: Program, cones: Cones) -> tuple[Embedding, PathPoint]:
    """The embedding and the start of its path, μ = 1 and z = 0."""
    B, n, m = len(program.c), program.c.shape[-1], program.b.shape[-1]
    z, mu = program.c.new_zeros(B, n + m + 1), program.c.new_ones(B)
    embedding = Embedding(program, cones, torch.zeros_like(z))
    embedding = replace(embedding, start=embedding.at(z, mu, centre(program.b, cones)).residual)
    return embedding, embedding.at(z, mu, centre(program.b, cones))


def advance(embedding: Embedding, point: PathPoint, boldness: Tensor) -> tuple[PathPoint, Tensor]:
    """One step along the path.

    Args:
        boldness: ``(B,)``, which of ATTEMPTS to try first.

    Returns:
        The next point and the attempt that succeeded. Where even the most careful failed the point stays, with the last
        index plus one.
    """
    J, of_mu = embedding.linearise(point)
    LU, pivots, _ = torch.linalg.lu_factor_ex(J)
    both = torch.linalg.lu_solve(LU, pivots, torch.stack([-point.residual, point.mu[:, None] * of_mu], dim=-1))
    back, along = both.unbind(-1)
    reductions, lengths = torch.tensor(ATTEMPTS, dtype=point.mu.dtype, device=point.mu.device).unbind(-1)

    taken, trial = boldness.clone(), torch.arange(len(point.mu), device=point.mu.device)
    result = point
    while len(trial):
        reduction, length = reductions[taken[trial]], lengths[taken[trial]]
        here, local = point.select(trial), embedding.select(trial)
        mu = reduction * here.mu
        z = here.z + length[:, None] * back[trial] + (1 - reduction)[:, None] * along[trial]
        first = local.at(z, mu, here.s)
        error = first.residual - (1 - length)[:, None] * here.residual
        correction = torch.linalg.lu_solve(LU[trial], pivots[trial], error.unsqueeze(-1)).squeeze(-1)
        second = local.at(z - correction, mu, first.s)
        near = second.distance <= torch.where(reduction < 1, NEIGHBOURHOOD * mu, (1 - 0.1 * length) * here.distance)
        result = result.put(trial[near], second.select(near))
        trial = trial[~near]
        taken[trial] += 1
        trial = trial[taken[trial] < len(ATTEMPTS)]
    return result, taken


def follow(
    program: Program, scaled: Program, scaling: Scaling, cones: Cones, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Follow the path of every element until it proves something about the program, or to its end.

    The path is that of the scaled program; what it proves is judged on the program as it was given.

    Returns:
        x ``(B, n)``, y and s ``(B, m)``, of the program as it was given: solutions where the status says SOLVED,
        certificates with bᵀy = −1 or cᵀx = −1 where it says INFEASIBLE or UNBOUNDED. Then the status and the iterations
        ``(B,)``.
    """
    embedding, point = begin(scaled, cones)
    B, n, m = len(program.c), program.c.shape[-1], program.b.shape[-1]
    index = torch.arange(B, device=program.c.device)
    boldness = torch.zeros_like(index)
    x, y, s = program.c.new_zeros(B, n), program.c.new_zeros(B, m), program.c.new_zeros(B, m)
    status, iterations = torch.full_like(index, STUCK), torch.zeros_like(index)
    for k in range(max_iterations + 1):
        now, *here = examine(program, point, scaling, tolerance)
        stop = (now != RUNNING) | (boldness == len(ATTEMPTS)) | (k == max_iterations)
        if stop.any():
            done, now = index[stop], now[stop]
            x[done], y[done], s[done] = (t[stop] for t in here)
            status[done], iterations[done] = torch.where(now == RUNNING, STUCK, now), k
            keep = ~stop
            program, scaling, embedding = program.select(keep), scaling.select(keep), embedding.select(keep)
            point, index, boldness = point.select(keep), index[keep], boldness[keep]
        if not len(index):
            break
        point, taken = advance(embedding, point, boldness)
        boldness = torch.where(taken < len(ATTEMPTS), (taken - 2).clamp_min(0), taken)
    return x, y, s, status, iterations


def examine(program: Program, point: PathPoint, scaling: Scaling, tolerance: float) -> tuple[Tensor, ...]:
    """What a point proves about the program as it was given: the status ``(B,)`` and the (x, y, s) that prove it."""
    x, y, s = scaling.unscale(point.z[:, : program.c.shape[-1]], point.y, point.s)
    tau = point.tau[:, None]
    solved = kkt_residual(program, x / tau, y / tau, s / tau) <= tolerance
    cost, dual_cost = dot(program.c, x), dot(program.b, y)
    hopeless = point.kappa > point.tau
    infeasible = hopeless & (dual_cost < 0) & (largest(times(program.A.mT, y)) <= -tolerance * dual_cost)
    unbounded = hopeless & (cost < 0) & (largest(times(program.A, x) + s) <= -tolerance * cost)
    status = torch.full_like(point.mu, RUNNING, dtype=torch.int64)
    status[unbounded], status[infeasible], status[solved] = UNBOUNDED, INFEASIBLE, SOLVED
    of_x = torch.where(status == UNBOUNDED, -cost, point.tau)[:, None]
    of_y = torch.where(status == INFEASIBLE, -dual_cost, point.tau)[:, None]
    return status, x / of_x, y / of_y, s / of_x


def kkt_residual(program: Program, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """The largest violation of (1), each condition relative to 1 + the size of its terms, ``(B,)``."""
    c, A, b = program.c, program.A, program.b
    primal = largest(times(A, x) + s - b) / (1 + largest(b))
    dual = largest(times(A.mT, y) + c) / (1 + largest(c))
    cost, dual_cost = dot(c, x), dot(b, y)
    gap = (cost + dual_cost).abs() / (1 + torch.minimum(cost.abs(), dual_cost.abs()))
    return torch.stack([primal, dual, gap]).amax(0)


def times(M: Tensor, v: Tensor) -> Tensor:
    """M v for M ``(B or 1, k, n)`` and v ``(B, n)``; a shared matrix costs one matrix product."""
    if M.shape[0] == 1:
        return v @ M[0].mT
    return (M @ v.unsqueeze(-1)).squeeze(-1)


def dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1)


def largest(v: Tensor) -> Tensor:
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])
