"""Convex cones, the projection onto each, and the derivative of the projection.

    Π_K(v) = argmin_{p ∈ K} ½ ‖p − v‖²                                                             (1)

By Moreau's theorem every v splits into orthogonal parts of K and of its polar −K*, so one projection serves both cones:

    v = Π_K(v) − Π_{K*}(−v),        Π_K(v)ᵀ Π_{K*}(−v) = 0                                         (2)

The nonnegative, second-order and semidefinite cones are self-dual; the dual of the zero cone {0} is all of R. A product
of cones is projected onto block by block. Each kind has a file of its own (:data:`KINDS`).

Chapter: book/2_differentiable/05_cone_programs. Source: Parikh & Boyd, Proximal Algorithms, 2014, §6.3; Busseti, Moursi
& Boyd, Solution refinement at regular points of conic problems, 2019, §2.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache, cached_property

import torch
from torch import Tensor

from ...validate import NO_BOUND, check_finite, check_floating
from .exponential import EXPONENTIAL
from .kind import Kind
from .nonnegative import NONNEGATIVE, ZERO
from .second_order import SECOND_ORDER
from .semidefinite import SEMIDEFINITE

# In row order, by the names of the fields of Cones.
KINDS: dict[str, Kind] = {
    "zero": ZERO,
    "nonneg": NONNEGATIVE,
    "soc": SECOND_ORDER,
    "psd": SEMIDEFINITE,
    "exp": EXPONENTIAL,
}

SMALL = 100_000  # entries of a batch of matrices that are not worth being taken apart


@dataclass(frozen=True)
class Block:
    """``count`` cones of one kind, each of ``size`` rows, that stand one after the other from row ``start`` on."""

    kind: str
    start: int
    count: int
    size: int

    @property
    def cone(self) -> Kind:
        """What there is to know of the kind."""
        return KINDS[self.kind]

    def of(self, v: Tensor) -> Tensor:
        """The rows of the block: ``(*batch, rows)`` to ``(*batch, count, size)``."""
        rows = v[..., self.start : self.start + self.count * self.size]
        return rows.reshape(*v.shape[:-1], self.count, self.size)


@dataclass(frozen=True)
class Cones:
    """A product of cones in the row order of SCS: zero, nonneg, soc, psd, exp.

    Attributes:
        zero: rows that must be 0.
        nonneg: rows that must be ≥ 0.
        soc: sizes d of second-order cones {(t, x) ∈ R × R^{d−1}: ‖x‖ ≤ t}.
        psd: orders k of semidefinite cones. A symmetric k × k matrix takes k(k+1)/2 rows: its lower triangle, column
            by column, with the entries off the diagonal times √2, so that the dot product is the trace product.
        exp: number of exponential cones, three rows each: the closure of {(x, y, z): y > 0, y exp(x/y) ≤ z}.
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exp: int = 0

    def __post_init__(self):
        for field in fields(self):
            listed, given = isinstance(field.default, tuple), getattr(self, field.name)
            sizes = _sizes(field.name, given if listed else (given,), least=1 if listed else 0)
            object.__setattr__(self, field.name, sizes if listed else given)

    @cached_property
    def rows(self) -> int:
        """The number of rows m of all the cones together."""
        return sum(block.count * block.size for block in self.blocks)

    @cached_property
    def degree(self) -> int:
        """sᵀy / μ where all complementary products are μ."""
        return sum(block.count * block.cone.degree(block.size) for block in self.blocks)

    @property
    def equalities(self) -> slice:
        """The rows that have no slack."""
        return slice(0, self.zero)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The cones in row order; neighbours of one kind and size form one block."""
        blocks, start = [], 0
        for name, kind in KINDS.items():
            listed = getattr(self, name)
            orders = itertools.groupby(listed) if isinstance(listed, tuple) else [(1, range(listed))]
            for order, group in orders:
                count, size = len(list(group)), kind.rows(order)
                if count:
                    blocks.append(Block(name, start, count, size))
                    start += count * size
        return tuple(blocks)

    def without_bound(self, b: Tensor) -> Tensor:
        """Which rows of b ``(*batch, m)`` are no constraint, because they say that something is at most 10²⁰ or ∞."""
        can_be = [block.cone.is_bound for block in self.blocks for _ in range(block.count * block.size)]
        return (b >= NO_BOUND) & torch.tensor(can_be, dtype=torch.bool, device=b.device)


def _sizes(name: str, sizes: Iterable[int], least: int) -> tuple[int, ...]:
    sizes = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(f"{name} of Cones must be integers ≥ {least}, got {size!r}")
    return sizes


def project(v: Tensor, cones: Cones) -> Tensor:
    """Π_K(v), eq. (1), for v ``(*batch, m)`` in the rows of the cones; differentiable twice away from its kinks.

    Raises:
        ValueError: v is not floating point, not finite, or has another number of rows than the cones.
    """
    _check_rows(v, cones)
    return project_rows(v, cones)


def project_rows(v: Tensor, cones: Cones, near: Tensor | None = None) -> Tensor:
    """:func:`project` without its checks, for use inside a solver, which may know a point ``near`` the result."""
    parts = [block.cone.project(block.of(v), None if near is None else block.of(near)) for block in cones.blocks]
    return torch.cat([part.flatten(-2) for part in parts] or [v], dim=-1)


def project_dual(v: Tensor, cones: Cones) -> Tensor:
    """Π_{K*}(v) = v + Π_K(−v), eq. (2), for v ``(*batch, m)``; differentiable like :func:`project`."""
    _check_rows(v, cones)
    return v + project(-v, cones)


def projection_derivative(v: Tensor, h: Tensor, cones: Cones) -> Tensor:
    """DΠ_K(v) h without the matrix, for v and h ``(*batch, m)``. Symmetric: it is its own transpose."""
    v, h = torch.broadcast_tensors(v, h)
    _, pull_back = torch.func.vjp(lambda v: project(v, cones), v)
    return pull_back(h)[0]


def projection_jacobian(v: Tensor, cones: Cones) -> Tensor:
    """DΠ_K(v), the dense ``(*batch, m, m)``: block-diagonal, symmetric, with eigenvalues from 0 to 1.

    On a kink it is one of the limits of the derivative nearby, so that a semismooth Newton method may use it.
    """
    if not cones.blocks:
        return v.new_zeros(*v.shape, 0)
    return BlockDiagonal(cones.blocks, tuple(block.cone.jacobian(block.of(v)) for block in cones.blocks)).dense()


def dual_projection_jacobian(v: Tensor, cones: Cones) -> Tensor:
    """DΠ_{K*}(v) = I − DΠ_K(−v), dense ``(*batch, m, m)``."""
    return torch.eye(v.shape[-1], dtype=v.dtype, device=v.device) - projection_jacobian(-v, cones)


def contained(v: Tensor, cones: Cones) -> Tensor:
    """For each row of v ``(*batch, m)`` whether its cone contains the rows of v that it has."""
    parts = [block.cone.contains(block.of(v)).repeat_interleave(block.size, dim=-1) for block in cones.blocks]
    return torch.cat([*parts, torch.zeros_like(v[..., :0], dtype=torch.bool)], dim=-1)


def centre(like: Tensor, cones: Cones) -> Tensor:
    """The s = y ``(B, m)`` with s = −∇F(s), where the central path starts."""
    row = [entry for block in cones.blocks for entry in block.count * block.cone.centre(block.size)]
    return like.new_tensor(row).expand_as(like)


@dataclass(frozen=True)
class BlockDiagonal:
    """A matrix on the rows of the cones that does not mix them: for each block ``(*batch, count, size, size)``."""

    blocks: tuple[Block, ...]
    matrices: tuple[Tensor, ...]

    def times(self, X: Tensor) -> Tensor:
        """The product with X ``(*batch, m, k)``."""
        if self._is_joined:
            return self.matrices[0].squeeze(-3) @ X
        parts = []
        for block, matrix in zip(self.blocks, self.matrices, strict=True):
            shape = (block.count, block.size)
            rows = X[..., block.start : block.start + block.count * block.size, :].unflatten(-2, shape)
            parts.append((matrix * rows if block.size == 1 else matrix @ rows).flatten(-3, -2))
        return torch.cat(parts, dim=-2) if parts else X

    def times_vector(self, v: Tensor) -> Tensor:
        """The product with v ``(*batch, m)``."""
        if self._is_joined:
            return (v.unsqueeze(-2) @ self.matrices[0].squeeze(-3).mT).squeeze(-2)
        parts = []
        for block, matrix in zip(self.blocks, self.matrices, strict=True):
            rows = block.of(v)
            product = matrix[..., 0] * rows if block.size == 1 else (rows.unsqueeze(-2) @ matrix.mT).squeeze(-2)
            parts.append(product.flatten(-2))
        return torch.cat(parts, dim=-1) if parts else v

    @property
    def mT(self) -> BlockDiagonal:
        """The transposed matrix."""
        return BlockDiagonal(self.blocks, tuple(matrix.mT for matrix in self.matrices))

    def joined(self) -> BlockDiagonal:
        """The same as one block, if it is so small that several products cost more than one with the zeros."""
        rows = sum(block.count * block.size for block in self.blocks)
        batch = self.matrices[0].shape[:-3] if self.blocks else torch.Size()
        if len(self.blocks) < 2 or batch.numel() * rows**2 > SMALL:
            return self
        return BlockDiagonal((Block("", 0, 1, rows),), (self.dense().unsqueeze(-3),))

    def dense(self) -> Tensor:
        """The whole matrix ``(*batch, m, m)``."""
        entries = torch.cat([matrix.flatten(-3) for matrix in self.matrices], dim=-1)
        rows = sum(block.count * block.size for block in self.blocks)
        out = entries.new_zeros(*entries.shape[:-1], rows * rows)
        out[..., _places(self.blocks, entries.device)] = entries
        return out.unflatten(-1, (rows, rows))

    def select(self, rows: Tensor) -> BlockDiagonal:
        """The batch elements that ``rows``, a mask or indices, picks."""
        return BlockDiagonal(self.blocks, tuple(matrix[rows] for matrix in self.matrices))

    @property
    def _is_joined(self) -> bool:
        return len(self.blocks) == 1 and self.blocks[0].count == 1


@cache
def _places(blocks: tuple[Block, ...], device: torch.device) -> Tensor:
    """Where the entries of the blocks stand in the whole matrix, row by row."""
    m = sum(block.count * block.size for block in blocks)
    places = []
    for block in blocks:
        first = block.start + block.size * torch.arange(block.count).reshape(-1, 1, 1)
        row, column = torch.arange(block.size).reshape(-1, 1), torch.arange(block.size)
        places.append(((first + row) * m + first + column).flatten())
    return torch.cat(places).to(device)


def _check_rows(v: Tensor, cones: Cones) -> None:
    check_floating("v", v)
    if v.ndim == 0 or v.shape[-1] != cones.rows:
        raise ValueError(f"v must have shape (*batch, {cones.rows}) for these cones, got {tuple(v.shape)}")
    check_finite("v", v)
