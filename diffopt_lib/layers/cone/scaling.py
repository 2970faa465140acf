"""Equilibration of a cone program: rows and columns of A brought to a common size, b and c to size 1.

    x = F x̂ / β,   s = E⁻¹ ŝ / β,   y = E ŷ / γ   with   Â = E A F,   b̂ = β E b,   ĉ = γ F c                  (1)

E and F are positive diagonals. A cone is only mapped to itself if all its rows are scaled alike, so E is constant on
every second-order, semidefinite and exponential cone.

Source: D. Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices, 2001; as in SCS,
O'Donoghue et al. 2016, §5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest
from ..cones.product import Cones
from .program import Program, Triple


class Scaling(NamedTuple):
    """E ``(B or 1, m)``, F ``(B or 1, n)``, β and γ ``(B, 1)`` of (1)."""

    E: Tensor
    F: Tensor
    of_b: Tensor
    of_c: Tensor

    def scale(self, at: Triple) -> Triple:
        """(x̂, ŷ, ŝ) of (x, y, s)."""
        return Triple(self.of_b * at.x / self.F, self.of_c * at.y / self.E, self.of_b * self.E * at.s)

    def unscale(self, at: Triple) -> Triple:
        """(x, y, s) of (x̂, ŷ, ŝ)."""
        return Triple(self.F * at.x / self.of_b, self.E * at.y / self.of_c, at.s / (self.E * self.of_b))


def equilibrate(program: Program, cones: Cones, rounds: int = 10) -> tuple[Program, Scaling]:
    """The scaled program and its scaling; every row (cone) and column of Â has its largest entry near 1."""
    A = program.A
    E, F = A.new_ones(A.shape[:-1]), A.new_ones(*A.shape[:-2], A.shape[-1])
    for _ in range(rounds):
        size = A.abs()
        rows = _of_cones(size.amax(-1), cones) if A.shape[-1] else E
        columns = size.amax(-2) if A.shape[-2] else F
        e, f = _inverse_root(rows), _inverse_root(columns)
        A, E, F = e.unsqueeze(-1) * A * f.unsqueeze(-2), E * e, F * f
    b, c = E * program.b, F * program.c
    of_b, of_c = _inverse_size(b), _inverse_size(c)
    return Program(of_c * c, A, of_b * b), Scaling(E, F, of_b, of_c)


def _of_cones(rows: Tensor, cones: Cones) -> Tensor:
    """For each row the largest of its cone; the rows of zero and nonneg are cones of their own."""
    pieces = [block.of(rows).amax(-1, keepdim=True).expand(*rows.shape[:-1], -1, block.size) for block in cones.blocks]
    return torch.cat([piece.flatten(-2) for piece in pieces], dim=-1) if pieces else rows


def _inverse_root(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1).rsqrt()


def _inverse_size(v: Tensor) -> Tensor:
    size = largest(v).unsqueeze(-1)
    return 1 / torch.where(size > 0, size, 1)
