"""A batch of cone programs as the solver sees it, and how far a point is from solving it.

    min ½ xᵀPx + cᵀx  s.t.  Ax + s = b, s ∈ K;      max −½ xᵀPx − bᵀy  s.t.  Px + Aᵀy + c = 0, y ∈ K*      (1)

The first is the program, the second its dual. Points that are feasible for both are optimal if sᵀy = 0, which is to say
xᵀPx + cᵀx + bᵀy = 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import dot, largest, times
from ...batch.shapes import flatten, flatten_whole

# An equation counts as violated relative to the sum of its terms, or to this where the sum is smaller.
LEAST = 0.1
# Nor relative to more than this: the data are of size 1, and terms of another size stand for a point that runs away.
MOST = 1e6


class Program(NamedTuple):
    """(1) for a batch of B: c ``(B, n)``, A ``(B, m, n)``, b ``(B, m)`` and perhaps P ``(B, n, n)``. A and P that the
    batch shares have 1 in the place of B."""

    c: Tensor
    A: Tensor
    b: Tensor
    P: Tensor | None = None

    @classmethod
    def of(cls, c: Tensor, A: Tensor, b: Tensor, P: Tensor | None, batch: torch.Size) -> Program:
        """The program with one batch dimension, of data whose batch dimensions are aligned."""
        P = None if P is None else flatten(P, 2, batch)
        return cls(flatten_whole(c, 1, batch), flatten(A, 2, batch), flatten_whole(b, 1, batch), P)

    def curvature(self, x: Tensor) -> Tensor:
        """P x."""
        return torch.zeros_like(x) if self.P is None else times(self.P, x)


class Triple(NamedTuple):
    """x ``(B, n)``, y and s ``(B, m)``."""

    x: Tensor
    y: Tensor
    s: Tensor


def equations(program: Program, at: Triple) -> Tensor:
    """Px + Aᵀy + c, Ax + s − b and xᵀPx + cᵀx + bᵀy, one after the other ``(B, n + m + 1)``."""
    (c, A, b, _), (x, y, s) = program, at
    curvature = program.curvature(x)
    gap = dot(x, curvature + c, keepdim=True) + dot(b, y, keepdim=True)
    return torch.cat([times(A.mT, y) + curvature + c, times(A, x) + s - b, gap], dim=-1)


def magnitudes(program: Program) -> Program:
    """|c|, |A|, |b| and |P|."""
    c, A, b, P = program
    return Program(c.abs(), A.abs(), b.abs(), None if P is None else P.abs())


def violation(left: Tensor, size: Program, at: Triple) -> Tensor:
    """The largest of what the :func:`equations` leave at a point, ``(B,)``, each relative to the sum of its own terms.

    What has nothing to do with a row has no influence on how exactly the row must hold: with residuals relative to the
    largest entry of b, a bound of 10⁹ that is not active would excuse an error of 10 elsewhere.
    """
    c, A, b, _ = size
    x, y, s = at.x.abs(), at.y.abs(), at.s.abs()
    curvature = size.curvature(x)
    gap = 1 + dot(x, curvature + c, keepdim=True) + dot(b, y, keepdim=True)
    terms = [times(A.mT, y) + curvature + c, times(A, x) + s + b, gap]
    return largest(left / torch.cat(terms, dim=-1).clamp(LEAST, MOST))
