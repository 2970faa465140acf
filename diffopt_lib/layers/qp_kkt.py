"""The linear algebra of quadratic programs: one factorisation serves every step of the solver and the backward pass.

Every Newton step, every polishing step and every derivative of

    min ½ yᵀQy + pᵀy   s.t.   Ay = b,  Gy ≤ h                                                      (1)

solves a symmetric system with the same pattern, in which w ≥ 0 weighs the inequality rows:

    Q dy + Aᵀ dν + Gᵀ dλ = r₁
    A dy                 = r₂                                                                      (2)
    G dy − dλ / w        = r₃       (dλ = 0 where w = 0)

Eliminating dλ and then dν leaves two Cholesky factorisations, of n × n and p × p, instead of one LU of (n + p + m)²:

    K = Q + Gᵀ diag(w) G,     S = A K⁻¹ Aᵀ                                                         (3)

Q may be singular and rows of A redundant, so both are regularised by ρ and δ, and the error which that makes is taken
out again by iterative refinement: a proximal point step on (2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class QP:
    """The data of (1) for a batch of N: Q ``(N, n, n)``, A ``(N, k, n)``, G ``(N, m, n)``, and the columns p
    ``(N, n, 1)``, b ``(N, k, 1)``, h ``(N, m, 1)``. A shared tensor has 1 in the place of N; k and m may be 0."""

    Q: Tensor
    p: Tensor
    A: Tensor
    b: Tensor
    G: Tensor
    h: Tensor

    def select(self, keep: Tensor) -> QP:
        """The batch elements where ``keep`` is True."""
        return QP(*(take(getattr(self, field.name), keep) for field in fields(self)))


class Step(NamedTuple):
    """(dy, dν, dλ), or the right-hand sides (r₁, r₂, r₃), one or more columns each: ``(N, n, c)`` and so on."""

    y: Tensor
    equality: Tensor
    inequality: Tensor


def take(x: Tensor, keep: Tensor) -> Tensor:
    """Rows of x, unless it is shared by the whole batch."""
    return x if x.shape[0] == 1 and keep.shape[0] != 1 else x[keep]


def mul(M: Tensor, v: Tensor) -> Tensor:
    """M v for ``(N or 1, k, n)`` and ``(N, n, c)``; a shared matrix times single columns is one matrix product."""
    if M.shape[0] == 1 and v.shape[-1] == 1:
        return (v.squeeze(-1) @ M[0].mT).unsqueeze(-1)
    return torch.matmul(M, v)


@dataclass(frozen=True)
class KKT:
    """The factors of (3) for given weights w.

    Attributes:
        L: Cholesky factor of K + ρ I, ``(N, n, n)``.
        V: L⁻¹ Aᵀ, ``(N, n, k)``.
        M: Cholesky factor of VᵀV + δ I, ``(N, k, k)``.
        G: inequality rows, as in :class:`QP`.
        w: their weights, ``(N, m, 1)``.
    """

    L: Tensor
    V: Tensor
    M: Tensor
    G: Tensor
    w: Tensor

    def solve(self, r: Step) -> Step:
        """The solution of (2) up to the regularisation: dλ = w (G dy − r₃), so r₁ gains Gᵀ(w r₃)."""
        u = _forward(self.L, r.y + mul(self.G.mT, self.w * r.inequality))
        if self.M.shape[-1] == 0:
            y, equality = _backward(self.L, u), r.equality
        else:
            equality = _backward(self.M, _forward(self.M, torch.matmul(self.V.mT, u) - r.equality))
            y = _backward(self.L, u - torch.matmul(self.V, equality))
        return Step(y, equality, self.w * (mul(self.G, y) - r.inequality))


def factorise(Q: Tensor, A: Tensor, G: Tensor, w: Tensor, rho: float, delta: float) -> KKT:
    """The factors for weights w ``(N, m, 1)``; an element whose K is not positive definite gets NaN factors."""
    K = torch.matmul(G.mT, w * G).add_(Q)
    K.diagonal(dim1=-2, dim2=-1).add_(rho)
    L, info = torch.linalg.cholesky_ex(K)
    if (info > 0).any():
        L = torch.where((info > 0)[:, None, None], torch.nan, L)
    if A.shape[-2] == 0:
        empty = L.new_zeros(L.shape[0], L.shape[-1], 0)
        return KKT(L, empty, empty[:, :0], G, w)
    V = _forward(L, A.mT.expand(L.shape[0], -1, -1))
    S = torch.matmul(V.mT, V)
    S.diagonal(dim1=-2, dim2=-1).add_(delta)
    return KKT(L, V, torch.linalg.cholesky_ex(S)[0], G, w)


def _forward(L: Tensor, r: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(L, r, upper=False)


def _backward(L: Tensor, r: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(L.mT, r, upper=True)
