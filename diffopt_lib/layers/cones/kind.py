"""What the solvers have to know about a kind of cone. The file of each kind ends in its :class:`Kind`.

To add one: a file like :mod:`.second_order`, its line in :data:`.product.KINDS`, its field in :class:`.product.Cones`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


class Frame(Protocol):
    """The frames of a block of cones of one kind (:mod:`.frames`), for s and y ``(B, count, size)`` in their interiors.

    Where no formula tells how far a step may go, a frame has what :class:`Searched` has as well.
    """

    @property
    def matrix(self) -> Tensor:
        """G, ``(B, count, size, size)``."""

    @property
    def point(self) -> Tensor:
        """λ, ``(B, count, size)``."""

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        """λ⁻¹ ∘ (μe − ds ∘ dy) for steps ``(B, count, size)`` in the frame and μ ``(B, 1, 1)``."""

    def shrinkage(self, d: Tensor) -> Tensor:
        """The r ``(..., B, count)`` for which λ + αd leaves the cone at α = 1/r; not positive if it never does. None,
        that is ``(..., B, 0)``, from cones without a formula for it."""


@runtime_checkable
class Searched(Protocol):
    """A frame of cones in which the length of a step is found by trying several, ``(B, k)``."""

    def inside(self, ds: Tensor, dy: Tensor, lengths: Tensor) -> Tensor:
        """Whether s and y stay in their cones, ``(B, k, count)``."""

    def central(self, ds: Tensor, dy: Tensor, lengths: Tensor, mu: Tensor) -> Tensor:
        """The same, and whether they stay near the central path, where μ is ``(B, k)``."""


@dataclass(frozen=True)
class Kind:
    """A kind of cone. Tensors ``(*batch, count, size)`` are rows of ``count`` such cones, each of ``size`` rows.

    Attributes:
        rows: the size of a cone of the order that :class:`.Cones` lists.
        degree: sᵀy / μ of a cone of this size where all complementary products are μ.
        centre: the s of a cone of this size that is −∇F(s), for its barrier F: there the central path starts.
        project: Π(v); differentiable twice. It may be told a point near the result, which only saves time.
        jacobian: DΠ(v), ``(*batch, count, size, size)``.
        linearise: y, D and W as :mod:`.slope` defines them, for v and perhaps a point near s.
        frame: the frames of s and y.
    """

    rows: Callable[[int], int]
    degree: Callable[[int], int]
    centre: Callable[[int], list[float]]
    project: Callable[[Tensor, Tensor | None], Tensor]
    jacobian: Callable[[Tensor], Tensor]
    linearise: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]
    frame: Callable[[Tensor, Tensor], Frame]
