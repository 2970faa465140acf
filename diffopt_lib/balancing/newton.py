"""Newton's method for the balancing problem of :mod:`.balancing`, from high temperature to low.

With the rows normalised, which is half a step of Sinkhorn's algorithm, what is left is to minimise over v the convex

    F(v) = Σ_i a_i log Σ_j b_j exp(S_ij/τ + v_j) − bᵀv                                              (1)

whose gradient is the error of the column sums and whose Hessian, scaled by √b, is the Laplacian of :mod:`.balancing`.
Sinkhorn's algorithm, with its other half step, costs two products with a matrix per round. Where scores do not differ
by much more than τ some twenty rounds are enough, so it has the first word there. In general it needs max|S|/τ of them
or more. Newton's method needs a handful, if it starts close enough, and the solution for 4τ is close: every other
element of the batch starts at a temperature at which its scores hardly matter, where v = 0 is good, and cools down as
soon as its error is small.

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

from .derivative import floored, laplacian, shift

FORBIDDEN = -1e100  # the score of a pair that can't be: its entry of P is exactly zero
COOLING = 4.0
WARM_ENOUGH = 0.1  # relative error of a column sum at which the next temperature can begin
DAMPING = 1e-4
PATIENCE = 30  # bold steps at one temperature before the safe ones take over
PLAIN_SPREAD = 30.0  # of scores in units of τ, up to which Sinkhorn's algorithm may begin
PLAIN_ROUNDS = 24


class Balance(NamedTuple):
    """Potentials v ``(N, m)`` and status ``(N,)``, where ``error`` is the largest relative one of a column sum."""

    v: Tensor
    error: Tensor
    iterations: Tensor
    converged: Tensor


def balance(
    S: Tensor, tau: Tensor, a: Tensor, b: Tensor, guess: Tensor | None, tolerance: Tensor, max_iterations: int
) -> Balance:
    """Solve for S ``(N, n, m)``, tau ``(N, 1, 1)``, a ``(N, n, 1)``, b ``(N, 1, m)``; guess: τ v, ``(N, m)``.

    Converged means a relative error of the column sums of at most ``tolerance``, ``(N,)``.
    """
    b = floored(b)
    smallest = torch.where(S > FORBIDDEN / 10, S, torch.inf).amin((1, 2), keepdim=True)
    spread = S.amax((1, 2), keepdim=True) - smallest
    hottest = torch.maximum(spread / 4, tau)
    target = tolerance
    t = hottest if guess is None else _start(S, tau, a, b, guess, hottest)
    v = torch.zeros_like(b) if guess is None else guess.unsqueeze(1) / t
    warm = spread <= PLAIN_SPREAD * tau
    if warm.any():
        v = torch.where(warm, _plain_rounds(S, tau, a, b, v * (t / tau), tolerance), v)
        t = torch.where(warm, tau, t)

    index = torch.arange(len(S), device=S.device)
    cooled = torch.zeros_like(index)  # the iteration at which the present temperature began
    finished: list[tuple[Tensor, ...]] = []
    for k in range(max_iterations + 1):
        Q, column_sums = _rows_normalised(S, t, v, a, b)
        error = (column_sums / b - 1).abs().amax((1, 2))
        converged = (error <= target) & (t <= tau)[:, 0, 0]
        stop = converged | ~torch.isfinite(error) | (k == max_iterations)
        if stop.any() or len(S) == 0:
            finished.append((index[stop], v[stop], error[stop], torch.full_like(index[stop], k), converged[stop]))
            if stop.all():
                break
            keep = ~stop
            index, S, tau, a, b, t, v, Q = (x[keep] for x in (index, S, tau, a, b, t, v, Q))
            column_sums, error, target, cooled = (x[keep] for x in (column_sums, error, target, cooled))
        d = _newton_direction(Q, column_sums, a, b, error)
        v = v + torch.where((k - cooled < PATIENCE)[:, None, None], _bold(d), _safe(d))
        cool = error <= WARM_ENOUGH
        cooler = torch.where(cool[:, None, None], torch.maximum(t / COOLING, tau), t)
        cooled = torch.where(cool & (cooler < t)[:, 0, 0], k, cooled)
        v, t = v * (t / cooler), cooler
    index, v, error, iterations, converged = (torch.cat(pieces) for pieces in zip(*finished, strict=True))
    order = index.argsort()
    return Balance(v[order, 0], error[order], iterations[order], converged[order])


def size_of(S: Tensor) -> Tensor:
    """The largest magnitude of a score that is not forbidden, ``(N, 1, 1)``."""
    return torch.where(S > FORBIDDEN / 10, S.abs(), 0).amax((1, 2), keepdim=True)


def _start(S: Tensor, tau: Tensor, a: Tensor, b: Tensor, guess: Tensor, hottest: Tensor) -> Tensor:
    """The temperature to start at from a guess: the final one, if the guess is good there."""
    _, column_sums = _rows_normalised(S, tau, guess.unsqueeze(1) / tau, a, b)
    good = (column_sums / b - 1).abs().amax((1, 2), keepdim=True) < 0.5
    return torch.where(good, tau, hottest)


def _plain_rounds(S: Tensor, tau: Tensor, a: Tensor, b: Tensor, v: Tensor, tolerance: Tensor) -> Tensor:
    """v after rounds of Sinkhorn's algorithm, at most ``PLAIN_ROUNDS``; of use only where exp(S/τ) has no zeros."""
    K = (S - S.amax(-1, keepdim=True)).div_(tau).exp_()  # rows may be scaled beforehand
    K_transposed, a = K.mT.contiguous(), a.mT  # a row times a matrix is much quicker than a matrix times a column
    w = b * (v - v.amax(-1, keepdim=True)).exp()  # a constant is free, and a bad guess must not overflow
    for k in range(1, PLAIN_ROUNDS + 1):
        before = w
        w = b / ((a / (w @ K_transposed)) @ K)
        if k % 4 == 0 and ((before / w - 1).abs().amax((1, 2)) <= tolerance).all():
            break
    return (w / b).log()


def _rows_normalised(S: Tensor, t: Tensor, v: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Q = K diag(b) with u such that its rows sum to 1, and the column sums of P = diag(a) Q, ``(N, 1, m)``."""
    Q = torch.softmax((S / t).add_(v + b.log()), dim=-1)
    return Q, a.mT @ Q


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
