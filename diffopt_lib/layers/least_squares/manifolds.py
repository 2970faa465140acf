"""Where the unknowns live: vectors, the rotations and poses of :mod:`.groups`, and products of these.

A point is stored as a vector of ``ambient`` entries, and moved by a tangent vector of ``dim`` entries: the *retraction*
y ⊞ δ is a smooth function with y ⊞ 0 = y that reaches every point near y once. A solver works in δ and starts anew from
0 after every step, so it meets neither the constraint that a rotation obeys nor the place where angles jump by 2π.

Source: Absil, Mahony & Sepulchre, Optimization algorithms on matrix manifolds, 2008, §4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Manifold(Protocol):
    """Points ``(..., ambient)``, tangent vectors ``(..., dim)``."""

    @property
    def ambient(self) -> int: ...
    @property
    def dim(self) -> int: ...

    def retract(self, y: Tensor, delta: Tensor) -> Tensor:
        """y ⊞ δ."""
        ...

    def chart(self, y: Tensor) -> Tensor:
        """For each tangent coordinate the entry of y to which it is added, and 0 where the manifold is curved."""
        ...

    def size(self, y: Tensor) -> Tensor:
        """What a change by a tangent coordinate is small against, ``(..., dim)``."""
        ...

    def project(self, y: Tensor) -> Tensor:
        """The nearest point of the manifold."""
        ...


@dataclass(frozen=True)
class Euclidean:
    """Rⁿ: y ⊞ δ = y + δ."""

    n: int

    @property
    def ambient(self) -> int:
        return self.n

    @property
    def dim(self) -> int:
        return self.n

    def retract(self, y: Tensor, delta: Tensor) -> Tensor:
        return y + delta

    def chart(self, y: Tensor) -> Tensor:
        return y

    def size(self, y: Tensor) -> Tensor:
        return y.abs()

    def project(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class Power:
    """Many points of one manifold, one after the other: ``Power(SE2(), 256)``."""

    base: Manifold
    count: int

    @property
    def ambient(self) -> int:
        return self.count * self.base.ambient

    @property
    def dim(self) -> int:
        return self.count * self.base.dim

    def points(self, y: Tensor) -> Tensor:
        """``(..., count, ·)`` of the base."""
        return y.unflatten(-1, (self.count, -1))

    def retract(self, y: Tensor, delta: Tensor) -> Tensor:
        return self.base.retract(self.points(y), self.points(delta)).flatten(-2)

    def chart(self, y: Tensor) -> Tensor:
        return self.base.chart(self.points(y)).flatten(-2)

    def size(self, y: Tensor) -> Tensor:
        return self.base.size(self.points(y)).flatten(-2)

    def project(self, y: Tensor) -> Tensor:
        return self.base.project(self.points(y)).flatten(-2)


@dataclass(frozen=True, init=False)
class Product:
    """Points of several manifolds, one after the other: ``Product(Euclidean(2), SO3())``."""

    parts: tuple[Manifold, ...]

    def __init__(self, *parts: Manifold):
        object.__setattr__(self, "parts", parts)

    @cached_property
    def ambient(self) -> int:
        return sum(part.ambient for part in self.parts)

    @cached_property
    def dim(self) -> int:
        return sum(part.dim for part in self.parts)

    def points(self, y: Tensor) -> tuple[Tensor, ...]:
        """The part of y in each manifold."""
        return y.split([part.ambient for part in self.parts], -1)

    def retract(self, y: Tensor, delta: Tensor) -> Tensor:
        deltas = delta.split([part.dim for part in self.parts], -1)
        return torch.cat([p.retract(a, d) for p, a, d in zip(self.parts, self.points(y), deltas, strict=True)], -1)

    def chart(self, y: Tensor) -> Tensor:
        return torch.cat([part.chart(a) for part, a in zip(self.parts, self.points(y), strict=True)], -1)

    def size(self, y: Tensor) -> Tensor:
        return torch.cat([part.size(a) for part, a in zip(self.parts, self.points(y), strict=True)], -1)

    def project(self, y: Tensor) -> Tensor:
        return torch.cat([part.project(a) for part, a in zip(self.parts, self.points(y), strict=True)], -1)
