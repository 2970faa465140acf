"""The optimality conditions of a control problem, linearised: what both a Newton step and a derivative solve.

    H_t dτ_t + F_tᵀ dλ_{t+1} − (dλ_t, 0) + (0, dν_t) + G_tᵀ dμ_t = −c_t
    dx_1 = x_1,    F_t dτ_t + f_t = dx_{t+1}                                                         (1)
    du = held_at   for held controls, dν = 0 for the others
    G_t dτ_t − ε dμ_t = row_at   for active rows, dμ = 0 for the others

Held controls leave the Riccati recursion, :mod:`..riccati`. Active rows may tie several times together, which a
recursion can't. They are made (more) elastic, G dτ − dμ/w = row_at with a large weight w ≤ 1/ε, so that they join H
as Gᵀ w G, and the error of that is repaired by solving for what is left of (1) a few times more: it shrinks by about w
each time. Rows that depend on each other share what they must do; that is where a Schur complement would be singular.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import or_one
from ..riccati import Factor, Sweep, defect, factorise, sweep

STIFFNESS = 1e7  # of an active row, relative to H
REPAIRS = 8  # at most


class KKT(NamedTuple):
    """The system (1), time first: the factorisation of H + Gᵀ w G; H; G ``(T, N, k, n + m)``; w, ε ``(T, N, k, 1)``."""

    factor: Factor
    H: Tensor
    G: Tensor
    w: Tensor
    elastic: Tensor


def sizes(H: Tensor) -> Tensor:
    """How curved a cost with Hessians ``(T, N, ·, ·)`` is in each coordinate, ``(N, n + m)``, at whatever time that is
    most; where there is no curvature, as in the most curved one. It tells metres from millimetres."""
    curved = H.diagonal(dim1=-2, dim2=-1).abs().amax(0)
    return torch.where(curved > 0, curved, or_one(curved.amax(-1, keepdim=True)))


def compliance(G: Tensor, sizes: Tensor) -> Tensor:
    """How far rows ``(T, N, k, n + m)`` give way to a unit of force, ``(T, N, k, 1)``: Σ_j G_j² / size_j."""
    return (G.square() / sizes.unsqueeze(-2)).sum(-1, keepdim=True)


def assemble(H: Tensor, F: Tensor, held: Tensor | None, G: Tensor, active: Tensor, elastic: Tensor) -> KKT:
    """The system (1) for held controls ``(T, N, m, 1)`` and active rows ``(T, N, k, 1)``, both bool, and ε of rows."""
    if not G.shape[-2]:
        return KKT(factorise(H, F, held), H, G, elastic, elastic)
    give = compliance(G, sizes(H))
    w = torch.where(active & (give > 0), STIFFNESS / or_one(give), 0)
    w = w / (1 + elastic * w)
    stiff = H + torch.matmul(G.mT, w * G)
    return KKT(factorise(stiff, F, held), H, G, w, elastic)


def solve_system(
    kkt: KKT, c: Tensor, f: Tensor, x1: Tensor, held_at: Tensor | None, row_at: Tensor
) -> tuple[Sweep, Tensor]:
    """The solution (dτ, dλ, dν) of (1) and dμ ``(T, N, k, columns)``; ``row_at`` counts on active rows only."""
    factor, H, G, w, elastic = kkt
    if not G.shape[-2]:
        return sweep(factor, c, f, x1, held_at), row_at
    solution = sweep(factor, c - torch.matmul(G.mT, w * row_at), f, x1, held_at)
    mu = w * (torch.matmul(G, solution.tau) - row_at)
    for _ in range(REPAIRS):
        of_tau, of_f, of_x1, _ = defect(H, factor.F, solution, c + torch.matmul(G.mT, mu), f, x1)
        of_rows = (w > 0) * (row_at - torch.matmul(G, solution.tau) + elastic * mu)
        if not of_rows.numel() or of_rows.abs().max() <= 1e-14 * (1 + solution.tau.abs().max()) * (1 + G.abs().max()):
            break
        more = sweep(factor, of_tau - torch.matmul(G.mT, w * of_rows), of_f, of_x1)
        mu = mu + w * (torch.matmul(G, more.tau) - of_rows)
        solution = Sweep(*(a + b for a, b in zip(solution, more, strict=True)))
    return solution, mu
