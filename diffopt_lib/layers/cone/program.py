"""A batch of cone programs as the solver sees it, and how far a point is from solving it.

    min cᵀx  s.t.  Ax + s = b, s ∈ K;      max −bᵀy  s.t.  Aᵀy + c = 0, y ∈ K*;      sᵀy = 0                  (1)

The first is the program, the second its dual; a pair of feasible points is optimal if the third equation holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Program:
    """(1) for a batch of B: c ``(B, n)``, A ``(B, m, n)`` or, shared by the batch, ``(1, m, n)``, b ``(B, m)``."""

    c: Tensor
    A: Tensor
    b: Tensor

    def select(self, rows: Tensor) -> Program:
        """The elements that ``rows``, a mask or indices, picks."""
        return Program(self.c[rows], take(self.A, rows), self.b[rows])


def take(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of x, unless x is shared by the batch, with 1 in the place of its size."""
    return x if x.shape[0] == 1 else x[rows]


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
    return (v.unsqueeze(-2) @ M.mT).squeeze(-2)  # batched BLAS takes a row several times faster than a column


def dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1)


def largest(v: Tensor) -> Tensor:
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])
