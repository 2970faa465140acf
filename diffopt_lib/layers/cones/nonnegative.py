"""The nonnegative numbers {v ≥ 0}, and {0}, whose dual is all of R. Every row is a cone of its own.

A number is its own eigenvalue (:mod:`.spectral`): Π(v) = max(v, 0), with the derivative 1 or 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .kind import Kind
from .spectral import LEAST, odds, parts, share

EQUALITY_SCALE = 1e4


def project_nonnegative(v: Tensor, near: Tensor | None = None) -> Tensor:
    """max(v, 0), entry by entry."""
    return torch.relu(v)


def nonnegative_jacobian(v: Tensor) -> Tensor:
    """DΠ(v), ``(..., 1)`` to ``(..., 1, 1)``."""
    return (v > 0).to(v.dtype).unsqueeze(-1)


def linearise_nonnegative(v: Tensor, near: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """y, D and W of :mod:`.slope`."""
    p, s = parts(v)
    return p, share(p, s).unsqueeze(-1), odds(p, s).unsqueeze(-1)


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
    rows=lambda order: 1,
    degree=lambda size: 1,
    centre=lambda size: [1.0],
    project=project_nonnegative,
    jacobian=nonnegative_jacobian,
    linearise=linearise_nonnegative,
    frame=Nonnegative.at,
)


def project_zero(v: Tensor, near: Tensor | None = None) -> Tensor:
    """0: not a constant, so that it has a derivative."""
    return 0 * v


def zero_jacobian(v: Tensor) -> Tensor:
    """0, ``(..., 1)`` to ``(..., 1, 1)``."""
    return torch.zeros_like(v).unsqueeze(-1)


def linearise_zero(v: Tensor, near: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """y, D and W of :mod:`.slope`: the multiplier is v, whatever it is."""
    one = torch.ones_like(v).unsqueeze(-1)
    return v, one, one / LEAST


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
    rows=lambda order: 1,
    degree=lambda size: 0,
    centre=lambda size: [0.0],
    project=project_zero,
    jacobian=zero_jacobian,
    linearise=linearise_zero,
    frame=Zero.at,
)
