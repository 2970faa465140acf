"""The nonnegative numbers {v ≥ 0}, and {0}, whose dual is all of R. Every row is a cone of its own.

A number is its own eigenvalue (:mod:`.spectral`): Π(v) = max(v, 0), with the derivative 1 or 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .kind import Kind
from .spectral import LEAST, Pair, parts, share_and_odds

EQUALITY_SCALE = 1e4


def project_nonnegative(v: Tensor, near: Tensor | None = None) -> Tensor:
    """max(v, 0), entry by entry."""
    return torch.relu(v)


def nonnegative_jacobian(v: Tensor) -> Tensor:
    """DΠ(v), ``(..., 1)`` to ``(..., 1, 1)``."""
    return (v > 0).to(v.dtype).unsqueeze(-1)


def split_nonnegative(v: Tensor, near: Tensor | None = None) -> tuple[Tensor, Pair]:
    """y, and what :func:`nonnegative_slope` needs."""
    p, s = parts(v)
    return p, (p, s)


def nonnegative_slope(p: Tensor, s: Tensor) -> Pair:
    """D and W of :mod:`.slope`."""
    D, W = share_and_odds(p, s)
    return D.unsqueeze(-1), W.unsqueeze(-1)


@dataclass(frozen=True)
class Nonnegative:
    """The frames (:mod:`.frames`): λ = √(s y)."""

    matrix: Tensor
    point: Tensor

    @classmethod
    def at(cls, s: Tensor, y: Tensor) -> Nonnegative:
        return cls((y / s).sqrt().unsqueeze(-1), (s * y).sqrt())

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        return (mu - ds * dy) / self.point

    def shrinkage(self, d: Tensor) -> Tensor:
        return (-d / self.point).squeeze(-1)


NONNEGATIVE = Kind(
    is_bound=True,
    rows=lambda order: 1,
    degree=lambda size: 1,
    centre=lambda size: [1.0],
    project=project_nonnegative,
    jacobian=nonnegative_jacobian,
    contains=lambda v: (v >= 0).squeeze(-1),
    split=split_nonnegative,
    slope=nonnegative_slope,
    frame=Nonnegative.at,
    outside=lambda count, size: [("NonnegativeConeT", count)],
)


def project_zero(v: Tensor, near: Tensor | None = None) -> Tensor:
    """0: not a constant, so that it has a derivative."""
    return 0 * v


def zero_jacobian(v: Tensor) -> Tensor:
    """0, ``(..., 1)`` to ``(..., 1, 1)``."""
    return torch.zeros_like(v).unsqueeze(-1)


def split_zero(v: Tensor, near: Tensor | None = None) -> tuple[Tensor, tuple[Tensor]]:
    """The multiplier is v, whatever it is."""
    return v, (v,)


def zero_slope(v: Tensor) -> Pair:
    """D and W of :mod:`.slope`."""
    one = torch.ones_like(v).unsqueeze(-1)
    return one, one / LEAST


@dataclass(frozen=True)
class Zero:
    """The frames of equalities: no slack, and a multiplier that may be anything. G ought to be infinite."""

    matrix: Tensor
    point: Tensor

    @classmethod
    def at(cls, s: Tensor, y: Tensor) -> Zero:
        return cls(torch.full_like(s, EQUALITY_SCALE).unsqueeze(-1), torch.zeros_like(s))

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        return torch.zeros_like(ds)

    def shrinkage(self, d: Tensor) -> Tensor:
        return d.new_zeros(*d.shape[:-2], 0)


ZERO = Kind(
    is_bound=False,
    rows=lambda order: 1,
    degree=lambda size: 0,
    centre=lambda size: [0.0],
    project=project_zero,
    jacobian=zero_jacobian,
    contains=lambda v: (v == 0).squeeze(-1),
    split=split_zero,
    slope=zero_slope,
    frame=Zero.at,
    outside=lambda count, size: [("ZeroConeT", count)],
)
