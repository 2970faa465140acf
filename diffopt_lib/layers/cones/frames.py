"""Frames in which a slack s ∈ K and a multiplier y ∈ K* are the same vector: the scaling of interior point methods.

A frame is a linear map G, one matrix for each cone, with

    G s = G⁻ᵀ y = λ.                                                                               (1)

In it, steps are d̃s = G ds and d̃y = G⁻ᵀ dy, and the inner product dsᵀdy is d̃sᵀd̃y. Complementarity, which is s y = μ for
a nonnegative pair, becomes λ ∘ λ = μ e, and Newton's step for it d̃s + d̃y = −λ + λ⁻¹ ∘ (σμ e − d̃s ∘ d̃y), where the last
term corrects for the curvature along a step that was predicted (Mehrotra 1992).

For the self-dual cones this is the scaling of Nesterov and Todd, and ∘ the product of the cone: of numbers entry by
entry, (u, v) ∘ (t, x) = (ut + vᵀx, ux + tv) for second-order cones, ½ (UV + VU) for matrices. For the exponential cone
there is no such product. There GᵀG is the Hessian of the barrier, μ∇²F(s), brought to satisfy (1) and the same for the
*shadows* of the pair, GᵀG s̄ = ȳ, by the quasi-Newton formula of Tunçel; and the correction is with the third derivative
of F. Equalities have no slack, so their G ought to be infinite. It is merely large.

Source: Nesterov & Todd 1997; for its formulas, Vandenberghe, The CVXOPT linear and quadratic cone program solvers,
2010; for the exponential cone, Tunçel 2001 and Dahl & Andersen, A primal-dual interior-point algorithm for
nonsymmetric exponential-cone optimization, 2022.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .kind import Frame, Searched
from .nonnegative import EQUALITY_SCALE
from .product import Block, BlockDiagonal, Cones

__all__ = ["EQUALITY_SCALE", "Frames"]


@dataclass(frozen=True)
class Frames:
    """The frames of all cones for a pair (s, y), and λ ``(B, m)``."""

    cones: Cones
    parts: tuple[Frame, ...]
    matrix: BlockDiagonal
    point: Tensor

    @classmethod
    def at(cls, s: Tensor, y: Tensor, cones: Cones) -> Frames:
        parts = tuple(block.cone.frame(block.of(s), block.of(y)) for block in cones.blocks)
        matrix = BlockDiagonal(cones, tuple(part.matrix for part in parts))
        return cls(cones, parts, matrix, _join(s, *(part.point for part in parts)))

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        """:meth:`.Frame.centring` of all, for steps ``(B, m)`` and μ ``(B, 1)``."""
        mu = mu.unsqueeze(-1)
        return _join(ds, *(part.centring(block.of(ds), block.of(dy), mu) for block, part in self._pairs()))

    def shrinkage(self, ds: Tensor, dy: Tensor) -> Tensor:
        """The smallest r ≥ 0 ``(B,)`` for which λ + αds and λ + αdy are in the self-dual cones for all α < 1/r."""
        both = torch.stack([ds, dy])
        rates = [part.shrinkage(block.of(both)) for block, part in self._pairs()]
        return torch.cat([*rates, both.new_zeros(*both.shape[:-1], 1)], dim=-1).amax((0, -1))

    def searched(self) -> list[tuple[Block, Searched]]:
        """Those in which the length of a step has to be found by trying."""
        return [(block, part) for block, part in self._pairs() if isinstance(part, Searched)]

    def _pairs(self) -> Iterable[tuple[Block, Frame]]:
        return zip(self.cones.blocks, self.parts, strict=True)


def _join(like: Tensor, *parts: Tensor) -> Tensor:
    return torch.cat([part.flatten(-2) for part in parts], dim=-1) if parts else like
