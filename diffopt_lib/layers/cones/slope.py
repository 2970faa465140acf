"""The projection onto the dual cone with its derivative, in the two forms that Newton's equations need.

The pair y = Π_{K*}(v), s = y − v has dy = D dv and ds = (D − I) dv, where D has eigenvalues between 0 and 1. Seen from
s, dy = −W ds with W = D (I − D)⁻¹. Where an eigenvalue of D is 1, s does not move and W is infinite; with I − D + εI in
the place of I − D it is merely large.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .exponential import exponential_pair
from .product import Block, BlockDiagonal, Cones
from .semidefinite import (
    congruence_matrix,
    second_order_frame,
    second_order_matrix,
    second_order_sums,
    semidefinite_matrix,
    semidefinite_sums,
    share,
    to_matrix,
    to_vector,
)

LEAST = 1e-8  # ε


class Slope(NamedTuple):
    """D and W = D (I − D + εI)⁻¹, block-diagonal."""

    D: BlockDiagonal
    W: BlockDiagonal


def linearise(v: Tensor, cones: Cones, near: Tensor | None = None) -> tuple[Tensor, Slope]:
    """y ``(*batch, m)`` and its slope at v ``(*batch, m)``; ``near`` is a guess at s, which only saves time."""
    parts = [_block(block, block.of(v), None if near is None else block.of(near)) for block in cones.blocks]
    ys, D, W = zip(*parts, strict=True) if parts else ((), (), ())
    y = torch.cat([*(part.flatten(-2) for part in ys), v[..., :0]], dim=-1)
    return y, Slope(BlockDiagonal(cones, D), BlockDiagonal(cones, W))


def _block(block: Block, v: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if block.kind == "zero":
        one = torch.ones_like(v).unsqueeze(-1)
        return v, one, one / LEAST
    if block.kind == "nonneg":
        p, s = _parts(v)
        return p, share(p, s).unsqueeze(-1), odds(p, s).unsqueeze(-1)
    if block.kind == "soc":
        eigenvalues, frame = second_order_frame(v)
        p, s = _parts(eigenvalues)
        sums = second_order_sums(p, s)
        y = (frame @ (p * math.sqrt(0.5)).unsqueeze(-1)).squeeze(-1)
        D = second_order_matrix(frame, share(p, s), share(*sums))
        return y, D, second_order_matrix(frame, odds(p, s), odds(*sums))
    if block.kind == "psd":
        eigenvalues, V = torch.linalg.eigh(to_matrix(v))
        p, s = _parts(eigenvalues)
        sums = semidefinite_sums(p, s)
        y, T = to_vector((V * p.unsqueeze(-2)) @ V.mT), congruence_matrix(V)
        return y, semidefinite_matrix(T, share(*sums)), semidefinite_matrix(T, odds(*sums))
    identity = torch.eye(3, dtype=v.dtype, device=v.device)
    p, P = exponential_pair(-v, near)
    D = identity - P
    return v + p, D, D @ torch.linalg.inv((1 + LEAST) * identity - D)


def _parts(v: Tensor) -> tuple[Tensor, Tensor]:
    """The positive and the negative part."""
    return torch.relu(v), torch.relu(-v)


def odds(p: Tensor, s: Tensor) -> Tensor:
    """γ / (1 − γ + ε) for γ = p / (p + s), without the cancellation in 1 − γ."""
    total = p + s
    return torch.where(total > 0, p / (s + LEAST * torch.where(total > 0, total, 1)), 0)
