"""Equilibration of a cone program: rows and columns of A and P brought to a common size, and b and c to size 1.

    x = F x̂ / β,   s = E⁻¹ ŝ / β,   y = E ŷ / γ   with   Â = E A F,   b̂ = β E b,   ĉ = γ F c,   P̂ = (γ/β) F P F   (1)

E and F are positive diagonals. A cone is only mapped to itself if all its rows are scaled alike, so E is constant on
every cone of several rows.

Source: D. Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices, 2001; as in SCS,
O'Donoghue et al. 2016, §5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, least_of_groups, or_one, without_dust
from ..cones.product import Cones, contained
from .program import Program, Triple

FAR = 1e3
EVEN = 0.5  # of the logarithm of a size


class Scaling(NamedTuple):
    """E ``(B or 1, m)``, F ``(B or 1, n)``, β and γ ``(B, 1)`` of (1); or with the batch dimensions of the caller."""

    E: Tensor
    F: Tensor
    of_b: Tensor
    of_c: Tensor

    def scale(self, at: Triple) -> Triple:
        """(x̂, ŷ, ŝ) of (x, y, s)."""
        E = or_one(self.E)
        return Triple(self.of_b * at.x / self.F, self.of_c * at.y / E, self.of_b * E * at.s)

    def unscale(self, at: Triple) -> Triple:
        """(x, y, s) of (x̂, ŷ, ŝ)."""
        return Triple(self.F * at.x / self.of_b, self.E * at.y / self.of_c, at.s / (or_one(self.E) * self.of_b))

    def of(self, program: Program) -> Program:
        """The scaled program."""
        E, F, of_b, of_c = self
        A = E.unsqueeze(-1) * program.A * F.unsqueeze(-2)
        P = program.P
        if P is not None:
            P = (of_c / of_b).unsqueeze(-1) * F.unsqueeze(-1) * P * F.unsqueeze(-2)
        return Program(of_c * F * program.c, A, self.of_bounds(program.b), P)

    def of_bounds(self, b: Tensor) -> Tensor:
        """b̂, with 1 for a row that is no constraint, of which E = 0 leaves 0 x + s = 1."""
        return torch.where(self.E > 0, self.of_b * self.E * b, 1)


def equilibrate(A: Tensor, P: Tensor | None, cones: Cones, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """E ``(*batch, m)`` and F ``(*batch, n)`` with which every row (cone) and column of Â has its largest entry near 1.

    With a quadratic objective it is the larger entry of A's and P's columns that counts, P in units of its largest.
    """
    size = A.abs()
    batch = size.shape[:-2] if P is None else torch.broadcast_shapes(size.shape[:-2], P.shape[:-2])
    if P is not None:
        curvature = P.abs()
        curvature = curvature / or_one(largest(curvature, (-2, -1)))[..., None, None]
    E, F = size.new_ones(*batch, A.shape[-2]), size.new_ones(*batch, A.shape[-1])
    for _ in range(rounds):
        scaled = E.unsqueeze(-1) * size * F.unsqueeze(-2)
        columns = _largest_of_columns(scaled)
        if P is not None:
            columns = torch.maximum(columns, (F.unsqueeze(-1) * curvature * F.unsqueeze(-2)).amax(-2))
        rows, columns = or_one(largest_of_cones(scaled.amax(-1), cones)), or_one(columns)
        E, F = E / rows.sqrt(), F / columns.sqrt()
        if (torch.cat([rows, columns], dim=-1).log().abs() < EVEN).all():
            break
    return E, F


def balance(program: Program, E: Tensor, F: Tensor, cones: Cones) -> Scaling:
    """The scaling with these E and F, in which b and c are of size 1.

    A bound that is far away and a price that nobody pays may be as large as they like, and must not make all else look
    small. So the size of b is that of what x = 0 violates; or, if it violates nothing, that of the nearest bound, or of
    how far a quadratic objective goes if that is less. The size of c is between the largest price and the largest that
    is not FAR above the smaller ones, because one that is may have to be paid. Rows and columns with a b or c FAR above
    these sizes are scaled down.
    """
    return _of_size(_usual_size(program, E, F, cones), program, E, F, cones)


def other_balances(program: Program, E: Tensor, F: Tensor, cones: Cones) -> tuple[Scaling, ...]:
    """The scalings for all sizes that b may have, the usual one aside: no guess is right for all data with dust of
    rounding, or bounds out of reach, in them."""
    usual, bounds = _usual_size(program, E, F, cones), largest_of_cones((E * program.b).abs(), cones)
    sizes = map(or_one, (_reach(program, F), *least_of_groups(bounds)))
    return tuple(_of_size(size, program, E, F, cones) for size in sizes if (size != usual).any())


def _usual_size(program: Program, E: Tensor, F: Tensor, cones: Cones) -> Tensor:
    """The size of b ``(B, 1)`` as :func:`balance` has it."""
    b = E * program.b
    away = largest(torch.where(contained(b, cones), 0, b)).unsqueeze(-1)
    nearest = _smallest(largest_of_cones(b.abs(), cones)).unsqueeze(-1)
    reach = _reach(program, F)
    nearest = torch.where((reach > 0) & ~((nearest > 0) & (nearest < reach)), reach, nearest)
    return torch.where(away > 0, away, or_one(nearest))


def _of_size(size_of_b: Tensor, program: Program, E: Tensor, F: Tensor, cones: Cones) -> Scaling:
    bounds, prices = largest_of_cones((E * program.b).abs(), cones), _prices(program, F)
    size_of_c = or_one(torch.maximum(_usual(prices), _curvature(program, F) * size_of_b))
    bounds, prices = bounds / size_of_b, prices / size_of_c
    E, F = E / torch.where(bounds > FAR, bounds, 1), F / torch.where(prices > FAR, prices, 1)
    return Scaling(E, F, 1 / size_of_b, 1 / size_of_c)


def _reach(program: Program, F: Tensor) -> Tensor:
    """How far a quadratic objective goes by itself ``(B, 1)``; 0 without one."""
    price, curvature = _usual(_prices(program, F)), _curvature(program, F)
    return torch.where(curvature > 0, price / or_one(curvature), 0)


def _prices(program: Program, F: Tensor) -> Tensor:
    prices = (F * program.c).abs()
    return without_dust(prices, prices)


def _usual(prices: Tensor) -> Tensor:
    """The size of c that goes with these prices, ``(B, 1)``."""
    low = torch.where(prices > 0, prices, torch.inf).sort(-1).values[..., prices.shape[-1] // 10, None]
    usual = torch.where(prices <= FAR * low, prices, 0).amax(-1, keepdim=True)
    return (usual * prices.amax(-1, keepdim=True)).sqrt()


def _curvature(program: Program, F: Tensor) -> Tensor:
    if program.P is None:
        return torch.zeros_like(F[..., :1])
    return largest(F.unsqueeze(-1) * program.P * F.unsqueeze(-2), (-2, -1)).unsqueeze(-1)


def _smallest(size: Tensor) -> Tensor:
    """The smallest positive entry; 0 if there is none."""
    positive = torch.where(size > 0, size, torch.inf)
    smallest = positive.amin(-1) if size.shape[-1] else torch.full_like(size.sum(-1), torch.inf)
    return torch.where(torch.isfinite(smallest), smallest, 0)


def largest_of_cones(rows: Tensor, cones: Cones) -> Tensor:
    """For each row the largest of its cone; the rows of zero and nonneg are cones of their own."""
    pieces = []
    for block in cones.blocks:
        own = block.of(rows)
        pieces.append((own if block.size == 1 else own.amax(-1, keepdim=True).expand_as(own)).flatten(-2))
    return torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0] if pieces else rows


def _largest_of_columns(size: Tensor) -> Tensor:
    return size.amax(-2) if size.shape[-2] else size.sum(-2)


def shared(v: Tensor) -> Tensor:
    """v ``(*batch, k)`` with batch dimensions of 1, if all elements have the same."""
    first = v.flatten(0, -2)[:1] if v.ndim > 1 else v
    return first.reshape((1,) * (v.ndim - 1) + v.shape[-1:]) if len(first) and (v == first).all() else v
