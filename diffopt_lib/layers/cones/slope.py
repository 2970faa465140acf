"""The projection onto the dual cone with its derivative, in the two forms that Newton's equations need.

The pair y = Π_{K*}(v), s = y − v has dy = D dv and ds = (D − I) dv, where D has eigenvalues between 0 and 1. Seen from
s, dy = −W ds with W = D (I − D)⁻¹. Where an eigenvalue of D is 1, s does not move and W is infinite; with I − D + εI in
the place of I − D it is merely large (:data:`.spectral.LEAST`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .product import BlockDiagonal, Cones
from .spectral import LEAST

__all__ = ["LEAST", "Slope", "linearise"]


class Slope(NamedTuple):
    """D and W = D (I − D + εI)⁻¹, block-diagonal."""

    D: BlockDiagonal
    W: BlockDiagonal


def linearise(v: Tensor, cones: Cones, near: Tensor | None = None) -> tuple[Tensor, Slope]:
    """y ``(*batch, m)`` and its slope at v ``(*batch, m)``; ``near`` is a guess at s, which only saves time."""
    parts = [block.cone.linearise(block.of(v), None if near is None else block.of(near)) for block in cones.blocks]
    ys, D, W = zip(*parts, strict=True) if parts else ((), (), ())
    y = torch.cat([*(part.flatten(-2) for part in ys), v[..., :0]], dim=-1)
    return y, Slope(BlockDiagonal(cones, D), BlockDiagonal(cones, W))
