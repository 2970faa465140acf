"""Newton's method for the balancing problem of :mod:`.derivative`, from high temperature to low.

With the rows normalised, which is half a step of Sinkhorn's algorithm, what is left is to minimise over v the convex

    F(v) = Σ_i a_i log Σ_j b_j exp(S_ij/τ + v_j) − bᵀv                                              (1)

whose gradient is the error of the column sums and whose Hessian, scaled by √b, is the Laplacian of :mod:`.derivative`.
Sinkhorn's algorithm (:mod:`.rounds`) has the first word where scores do not differ by much more than τ. In general it
needs max|S|/τ rounds or more. Newton's method needs a handful, if it starts close enough, and the solution for 4τ is
close: every other element of the batch starts at a temperature at which its scores hardly matter, where v = 0 is good,
and cools down as soon as its error is small.

Columns that share little with the others have a tiny curvature, and Newton's step d would throw them far off. Entries
of P change by factors exp(d), and Newton's method wants to go as far as that factor, not its logarithm. So potentials
go ±log(1 + |d|), which leaves small steps alone. If that does not lead to the end soon, shorter steps take over, which
decrease F in any case. To the curvature a small multiple of the error is added. The constants were chosen by counting
iterations on random, tied, heavy-tailed and low-rank scores, uneven weights, and n × (n − 1) matrices, the hardest.

Source: Sun & Tran-Dinh, Generalized self-concordant functions, 2019, for the length of the safe step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch.rows import iterate
from .derivative import floored, laplacian, shift
from .problem import FORBIDDEN
from .rounds import PLAIN_SPREAD, plain_rounds

COOLING = 4.0  # the next temperature is the present one divided by this
WARM_ENOUGH = 0.1  # relative error of a column sum at which the next temperature can begin
DAMPING = 1e-4  # times the error, added to the diagonal of the Laplacian
PATIENCE = 30  # bold steps at one temperature before the safe ones take over


class Balanced(NamedTuple):
    """Potentials v ``(N, m)`` and status ``(N,)``, where ``error`` is the largest relative one of a column sum."""

    v: Tensor
    error: Tensor
    iterations: Tensor
    converged: Tensor


class Iterate(NamedTuple):
    """A batch of problems, the temperature t ``(k, 1, 1)`` that each has come down to, v ``(k, 1, m)`` there, the
    number of steps at this temperature, and what follows from v: Q, the column sums and the largest error of one."""

    S: Tensor
    tau: Tensor
    a: Tensor
    b: Tensor
    tolerance: Tensor
    t: Tensor
    v: Tensor
    steps: Tensor
    Q: Tensor
    column_sums: Tensor
    error: Tensor


def balance(
    S: Tensor, tau: Tensor, a: Tensor, b: Tensor, guess: Tensor | None, tolerance: Tensor, max_iterations: int
) -> Balanced:
    """Solve for S ``(N, n, m)``, tau ``(N, 1, 1)``, a ``(N, n, 1)``, b ``(N, 1, m)``; guess: τ v, ``(N, m)``.

    Converged means a relative error of the column sums of at most ``tolerance``, ``(N,)``.
    """

    def look(at: Iterate, k: int) -> tuple[Iterate, Tensor, Balanced]:
        converged = (at.error <= at.tolerance) & (at.t <= at.tau)[:, 0, 0]
        stop = converged | ~torch.isfinite(at.error)
        return at, stop, Balanced(at.v[:, 0], at.error, torch.full_like(at.steps, k), converged)

    return iterate(_begin(S, tau, a, floored(b), guess, tolerance), look, _step, max_iterations)


def _begin(S: Tensor, tau: Tensor, a: Tensor, b: Tensor, guess: Tensor | None, tolerance: Tensor) -> Iterate:
    smallest = torch.where(S > FORBIDDEN / 10, S, torch.inf).amin((1, 2), keepdim=True)
    spread = S.amax((1, 2), keepdim=True) - smallest
    hottest = torch.maximum(spread / 4, tau)
    t = hottest if guess is None else _first_temperature(S, tau, a, b, guess, hottest)
    v = torch.zeros_like(b) if guess is None else guess.unsqueeze(1) / t
    warm = spread <= PLAIN_SPREAD * tau
    if warm.any():
        v = torch.where(warm, plain_rounds(S, tau, a, b, v * (t / tau), tolerance), v)
        t = torch.where(warm, tau, t)
    steps = torch.zeros(len(S), dtype=torch.int64, device=S.device)
    return Iterate(S, tau, a, b, tolerance, t, v, steps, *_columns(S, t, v, a, b))


def _step(at: Iterate) -> Iterate:
    """A Newton step, and then, if the error was small already, the next temperature."""
    d = _newton_direction(at.Q, at.column_sums, at.a, at.b, at.error)
    v = at.v + torch.where((at.steps < PATIENCE)[:, None, None], _bold(d), _safe(d))
    cooler = torch.where((at.error <= WARM_ENOUGH)[:, None, None], torch.maximum(at.t / COOLING, at.tau), at.t)
    steps = torch.where((cooler < at.t)[:, 0, 0], 0, at.steps + 1)
    v = v * (at.t / cooler)
    return Iterate(*at[:5], cooler, v, steps, *_columns(at.S, cooler, v, at.a, at.b))


def size_of(S: Tensor) -> Tensor:
    """The largest magnitude of a score that is not forbidden, ``(N, 1, 1)``."""
    return torch.where(S > FORBIDDEN / 10, S.abs(), 0).amax((1, 2), keepdim=True)


def _first_temperature(S: Tensor, tau: Tensor, a: Tensor, b: Tensor, guess: Tensor, hottest: Tensor) -> Tensor:
    """The temperature to start at from a guess: the final one, if the guess is good there."""
    _, _, error = _columns(S, tau, guess.unsqueeze(1) / tau, a, b)
    return torch.where((error < 0.5)[:, None, None], tau, hottest)


def _columns(S: Tensor, t: Tensor, v: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q = K diag(b) with u such that its rows sum to 1, the column sums of P = diag(a) Q ``(N, 1, m)``, and the largest
    relative error of one ``(N,)``."""
    Q = torch.softmax((S / t).add_(v + b.log()), dim=-1)
    column_sums = a.mT @ Q
    return Q, column_sums, (column_sums / b - 1).abs().amax((1, 2))


def _newton_direction(Q: Tensor, column_sums: Tensor, a: Tensor, b: Tensor, error: Tensor) -> Tensor:
    L = laplacian(Q, a, b)
    L.diagonal(dim1=-2, dim2=-1).add_(shift(L) + DAMPING * error.unsqueeze(-1))
    factor, _ = torch.linalg.cholesky_ex(L)
    scale = b.mT.sqrt()
    return (torch.cholesky_solve((b - column_sums).mT / scale, factor) / scale).mT


def _bold(d: Tensor) -> Tensor:
    """Every potential by itself goes log(1 + |d|)."""
    return d.sign() * d.abs().log1p()


def _safe(d: Tensor) -> Tensor:
    """All go the same fraction log(1 + R)/R of d, R = max d − min d, which decreases F whatever v is.

    Along d the third derivative of F, a sum of third central moments of d, is at most R times the second.
    """
    R = d.amax(-1, keepdim=True) - d.amin(-1, keepdim=True)
    return d * torch.where(R > 0, R.log1p() / R, 1)
