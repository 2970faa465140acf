"""A batch of cone programs as the solver sees it, and how far a point is from solving it.

    min cᵀx  s.t.  Ax + s = b, s ∈ K;      max −bᵀy  s.t.  Aᵀy + c = 0, y ∈ K*;      sᵀy = 0                  (1)

The first is the program, the second its dual; a pair of feasible points is optimal if the third equation holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import dot, largest, times
from ...batch.shapes import flatten, flatten_whole


class Program(NamedTuple):
    """(1) for a batch of B: c ``(B, n)``, A ``(B, m, n)`` or, shared by the batch, ``(1, m, n)``, b ``(B, m)``."""

    c: Tensor
    A: Tensor
    b: Tensor

    @classmethod
    def of(cls, c: Tensor, A: Tensor, b: Tensor, batch: torch.Size) -> Program:
        """The program with one batch dimension, of data whose batch dimensions are aligned."""
        return cls(flatten_whole(c, 1, batch), flatten(A, 2, batch), flatten_whole(b, 1, batch))


class Triple(NamedTuple):
    """x ``(B, n)``, y and s ``(B, m)``."""

    x: Tensor
    y: Tensor
    s: Tensor


def kkt_residual(program: Program, at: Triple) -> Tensor:
    """The largest violation of (1), each condition relative to 1 + the size of its terms, ``(B,)``."""
    c, A, b = program
    primal = largest(times(A, at.x) + at.s - b) / (1 + largest(b))
    dual = largest(times(A.mT, at.y) + c) / (1 + largest(c))
    cost, dual_cost = dot(c, at.x), dot(b, at.y)
    gap = (cost + dual_cost).abs() / (1 + torch.minimum(cost.abs(), dual_cost.abs()))
    return torch.stack([primal, dual, gap]).amax(0)
