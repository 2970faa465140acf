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

__all__ = ["LEAST", "Parts", "Slope", "linearise", "slope_of", "split"]


class Slope(NamedTuple):
    """D and W = D (I − D + εI)⁻¹, block-diagonal."""

    D: BlockDiagonal
    W: BlockDiagonal


Parts = tuple[tuple[Tensor, ...], ...]


def split(v: Tensor, cones: Cones, near: Tensor | None = None) -> tuple[Tensor, Parts]:
    """y ``(*batch, m)`` at v ``(*batch, m)``, and what :func:`slope_of` needs; ``near`` is a guess at s, which only
    saves time."""
    pairs = [block.cone.split(block.of(v), None if near is None else block.of(near)) for block in cones.blocks]
    y = torch.cat([*(part.flatten(-2) for part, _ in pairs), v[..., :0]], dim=-1)
    return y, tuple(parts for _, parts in pairs)


def slope_of(parts: Parts, cones: Cones) -> Slope:
    """The slope of y."""
    pairs = [block.cone.slope(*part) for block, part in zip(cones.blocks, parts, strict=True)]
    D, W = zip(*pairs, strict=True) if pairs else ((), ())
    return Slope(BlockDiagonal(cones.blocks, D).joined(), BlockDiagonal(cones.blocks, W).joined())


def linearise(v: Tensor, cones: Cones, near: Tensor | None = None) -> tuple[Tensor, Slope]:
    """y and its slope."""
    y, parts = split(v, cones, near)
    return y, slope_of(parts, cones)
