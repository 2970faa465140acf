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

from .cone_central import centre, slope, split
from .cone_newton import DenseNewton, Newton
from .cone_program import Program, dot, kkt_residual, largest, times
from .cone_scaling import Scaling
from .cone_symmetric import central_pair
from .cones import Cones

NEIGHBOURHOOD = 3.0
BOLD = 10  # the number of attempts that go all the way back
FARTHEST = 2  # attempts that may be skipped at once
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

    def at(self, z: Tensor, mu: Tensor, expected: Tensor | None = None) -> PathPoint:
        """The point z ``(B, n + m + 1)`` and μ ``(B,)``.

        Args:
            expected: roughly what the residual will be. It tells roughly what s will be, where that takes a search.
        """
        c, A, b = self.program.c, self.program.A, self.program.b
        n = c.shape[-1]
        finite = torch.isfinite(z).all(-1)  # what a singular matrix made of z is no better than any other point
        z = torch.where(finite[:, None], z, 0)
        x, v, v_tau = z[:, :n], z[:, n:-1], z[:, -1]
        tau, kappa = central_pair(v_tau, mu)
        slack = b * tau[:, None] - times(A, x) - mu[:, None] * self.start[:, n:-1]
        y, s = split(v, mu, self.cones, centre(v, self.cones) if expected is None else slack - expected[:, n:-1])
        residual = torch.cat(
            [
                times(A.mT, y) + c * tau[:, None] - mu[:, None] * self.start[:, :n],
                slack - s,
                (-dot(c, x) - dot(b, y) - kappa - mu * self.start[:, -1])[:, None],
            ],
            dim=-1,
        )
        return PathPoint(z, mu, y, s, tau, kappa, torch.where(finite[:, None], residual, torch.inf))

    def linearise(self, point: PathPoint, careful: bool) -> tuple[Newton | DenseNewton, Tensor]:
        """∂R/∂z, factorised, and ∂R/∂μ ``(B, n + m + 1)``."""
        c, A, b = self.program.c, self.program.A, self.program.b
        of_v = slope(point.z[:, c.shape[-1] : -1], point.s, point.mu, self.cones)
        tau_rate, rate = 1 / (point.tau + point.kappa), of_v.rate
        of_mu = torch.cat(
            [
                times(A.mT, rate) + c * tau_rate[:, None],
                b * tau_rate[:, None] - rate,
                (-dot(b, rate) - tau_rate)[:, None],
            ],
            dim=-1,
        )
        newton = (DenseNewton if careful else Newton).at(self.program, of_v, point.tau, point.kappa)
        return newton, of_mu - self.start


def begin(program: Program, cones: Cones) -> tuple[Embedding, PathPoint]:
    """The embedding and the start of its path, μ = 1 and z = 0."""
    B, n, m = len(program.c), program.c.shape[-1], program.b.shape[-1]
    z, mu = program.c.new_zeros(B, n + m + 1), program.c.new_ones(B)
    embedding = Embedding(program, cones, torch.zeros_like(z))
    embedding = replace(embedding, start=embedding.at(z, mu).residual)
    return embedding, embedding.at(z, mu)


def advance(
    embedding: Embedding, point: PathPoint, boldness: Tensor, careful: bool = False
) -> tuple[PathPoint, Tensor]:
    """One step along the path.

    Args:
        boldness: ``(B,)``, which of ATTEMPTS to try first.
        careful: whether to use :class:`DenseNewton`.

    Returns:
        The next point and the attempt that succeeded. Where even the most careful failed the point stays, with the last
        index plus one.
    """
    newton, of_mu = embedding.linearise(point, careful)
    back, along = newton.solve(torch.stack([-point.residual, point.mu[:, None] * of_mu], dim=-1)).unbind(-1)
    attempts = torch.tensor(ATTEMPTS, dtype=point.mu.dtype, device=point.mu.device)

    taken, trial = boldness.clone(), torch.arange(len(point.mu), device=point.mu.device)
    result = here = point
    while len(trial):
        reduction, length = attempts[taken[trial]].unbind(-1)
        mu, expected = reduction * here.mu, (1 - length)[:, None] * here.residual
        z = here.z + length[:, None] * back + (1 - reduction)[:, None] * along
        first = embedding.at(z, mu, expected)
        correction = newton.solve((first.residual - expected).unsqueeze(-1), refinements=0).squeeze(-1)
        second = embedding.at(z - correction, mu, torch.zeros_like(expected))
        allowed = torch.where(reduction < 1, NEIGHBOURHOOD * mu, (1 - 0.1 * length) * here.distance)
        near = second.distance <= allowed
        result = second if result is here and near.all() else result.put(trial[near], second.select(near))
        if near.all():
            break
        taken[trial[~near]] += _retreat(taken[trial], second.distance / allowed, attempts)[~near]
        keep = ~near & (taken[trial] < len(ATTEMPTS))
        trial, here, embedding, newton = trial[keep], here.select(keep), embedding.select(keep), newton.select(keep)
        back, along = back[keep], along[keep]
    return result, taken


def _retreat(taken: Tensor, excess: Tensor, attempts: Tensor) -> Tensor:
    """How many attempts further to go after one that ended ``excess`` times too far from the path.

    The distance is an error of third order in the length of the step, 1 − reduction, and the room is proportional to
    the reduction.
    """
    reduction = attempts[:BOLD, 0]
    index = taken.clamp_max(BOLD - 1)
    room = (reduction / reduction[index, None]) * ((1 - reduction[index, None]) / (1 - reduction)) ** 3
    fits = (room >= excess[:, None]) & (torch.arange(BOLD, device=taken.device) > index[:, None])
    jump = torch.where(fits.any(-1), fits.to(torch.int8).argmax(-1), BOLD) - taken
    return torch.where(taken < BOLD, jump.clamp(1, FARTHEST), 1)


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
    boldness, careful = torch.full_like(index, 3), torch.zeros(B, dtype=torch.bool, device=index.device)
    x, y, s = program.c.new_zeros(B, n), program.c.new_zeros(B, m), program.c.new_zeros(B, m)
    status, iterations = torch.full_like(index, STUCK), torch.zeros_like(index)
    for k in range(max_iterations + 1):
        now, *here = examine(program, point, scaling, tolerance)
        stuck = boldness >= len(ATTEMPTS)
        stop = (now != RUNNING) | (stuck & careful) | (k == max_iterations)
        careful, boldness = careful | stuck, torch.where(stuck, 3, boldness)
        if stop.any():
            done, now = index[stop], now[stop]
            x[done], y[done], s[done] = (t[stop] for t in here)
            status[done], iterations[done] = torch.where(now == RUNNING, STUCK, now), k
            keep = ~stop
            program, scaling, embedding = program.select(keep), scaling.select(keep), embedding.select(keep)
            point, index, boldness, careful = point.select(keep), index[keep], boldness[keep], careful[keep]
        if not len(index):
            break
        if not careful.any():
            point, taken = advance(embedding, point, boldness)
        else:
            taken = boldness.clone()
            for rows in (careful, ~careful):
                part, taken[rows] = advance(
                    embedding.select(rows), point.select(rows), boldness[rows], careful=bool(careful[rows].any())
                )
                point = point.put(rows, part)
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
