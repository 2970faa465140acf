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

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .barrier import Barrier, shadow
from .product import Block, BlockDiagonal, Cones, Kind
from .semidefinite import Pair, congruence_matrix, diagonal_places, to_matrix, to_vector

EQUALITY_SCALE = 1e4
NEAR_PATH = 1e-6  # δsᵀδy relative to sᵀy below which rounding may decide over their direction


class Frame(Protocol):
    """The frames of a block of cones of one kind, for s and y ``(B, count, size)`` in their interiors."""

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


@dataclass(frozen=True)
class Zero:
    """Equalities: no slack, and a multiplier that may be anything."""

    matrix: Tensor
    point: Tensor

    @classmethod
    def at(cls, s: Tensor, y: Tensor) -> Zero:
        return cls(torch.full_like(s, EQUALITY_SCALE).unsqueeze(-1), torch.zeros_like(s))

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        return torch.zeros_like(ds)

    def shrinkage(self, d: Tensor) -> Tensor:
        return d.new_zeros(*d.shape[:-2], 0)


@dataclass(frozen=True)
class Nonnegative:
    """Numbers: λ = √(s y)."""

    matrix: Tensor
    point: Tensor

    @classmethod
    def at(cls, s: Tensor, y: Tensor) -> Nonnegative:
        return cls((y / s).sqrt().unsqueeze(-1), (s * y).sqrt())

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        return (mu - ds * dy) / self.point

    def shrinkage(self, d: Tensor) -> Tensor:
        return (-d / self.point).squeeze(-1)


@dataclass(frozen=True)
class SecondOrder:
    """Vectors (t, x) with the determinant t² − ‖x‖².

    With s and y brought to determinant 1, the map of (1) is a Lorentz boost:

        G = (det y / det s)^¼ [ u₀   −uᵀ              ]        (u₀, u) = (s₀ + y₀, s₁ − y₁) / (2γ),
                              [ −u   I + uuᵀ/(1 + u₀) ],       γ = √((1 + sᵀy)/2)
    """

    matrix: Tensor
    point: Tensor

    @classmethod
    def at(cls, s: Tensor, y: Tensor) -> SecondOrder:
        both = torch.stack([s, y])
        roots = _determinant(both).sqrt()
        (s, y), (root_s, root_y) = both / roots, roots
        gamma = ((1 + (s * y).sum(-1, keepdim=True)) / 2).sqrt()
        s0, y0, s1, y1 = s[..., :1], y[..., :1], s[..., 1:], y[..., 1:]
        point = torch.cat([gamma, ((gamma + y0) * s1 + (gamma + s0) * y1) / (s0 + y0 + 2 * gamma)], dim=-1)
        u0, u = (s0 + y0) / (2 * gamma), (s1 - y1) / (2 * gamma)
        inner = u.unsqueeze(-1) * (u / (1 + u0)).unsqueeze(-2)
        inner.diagonal(dim1=-2, dim2=-1).add_(1)
        lower = torch.cat([-u.unsqueeze(-1), inner], dim=-1)
        matrix = torch.cat([torch.cat([u0, -u], dim=-1).unsqueeze(-2), lower], dim=-2)
        return cls((root_y / root_s).sqrt().unsqueeze(-1) * matrix, (root_s * root_y).sqrt() * point)

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        t, x = self.point[..., :1], self.point[..., 1:]
        v0 = mu - (ds * dy).sum(-1, keepdim=True)
        v1 = -ds[..., :1] * dy[..., 1:] - dy[..., :1] * ds[..., 1:]
        first = (t * v0 - (x * v1).sum(-1, keepdim=True)) / _determinant(self.point)
        return torch.cat([first, (v1 - first * x) / t], dim=-1)

    def shrinkage(self, d: Tensor) -> Tensor:
        root = _determinant(self.point).sqrt()
        point, d = self.point / root, d / root
        d0, d1 = d[..., :1], d[..., 1:]
        t, x = point[..., :1], point[..., 1:]
        along = t * d0 - (x * d1).sum(-1, keepdim=True)
        across = d1 - (along + d0) / (t + 1) * x
        return torch.linalg.vector_norm(across, dim=-1) - along.squeeze(-1)


@dataclass(frozen=True)
class Semidefinite:
    """Matrices, as vectors of triangles. G is D ↦ R⁻¹DR⁻ᵀ, and λ is diagonal.

    With S = LLᵀ and LᵀYL = QMQᵀ it is λ = M^½ and R = LQM^−¼; then R⁻¹ = λ⁻¹RᵀY.
    """

    matrix: Tensor
    point: Tensor
    eigenvalues: Tensor

    @classmethod
    def at(cls, s: Tensor, y: Tensor) -> Semidefinite:
        Y = to_matrix(y)
        L, _ = torch.linalg.cholesky_ex(to_matrix(s))
        M, Q = torch.linalg.eigh(_finite(L.mT @ Y @ L))
        eigenvalues = M.clamp_min(torch.finfo(s.dtype).tiny).sqrt()
        R = L @ Q / eigenvalues.sqrt().unsqueeze(-2)
        point = torch.zeros_like(s)
        point[..., diagonal_places(M.shape[-1], s.device)] = eigenvalues
        return cls(congruence_matrix(R.mT @ Y / eigenvalues.unsqueeze(-1)), point, eigenvalues)

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        product = to_matrix(ds) @ to_matrix(dy)
        product = product + product.mT
        sums = self.eigenvalues.unsqueeze(-1) + self.eigenvalues.unsqueeze(-2)
        result = -product / sums
        result.diagonal(dim1=-2, dim2=-1).add_(mu / self.eigenvalues)
        return to_vector(result)

    def shrinkage(self, d: Tensor) -> Tensor:
        root = self.eigenvalues.sqrt()
        return -torch.linalg.eigvalsh(_finite(to_matrix(d) / root.unsqueeze(-1) / root.unsqueeze(-2)))[..., 0]


@dataclass(frozen=True)
class Exponential:
    """Exponential cones. The rows of G are orthogonal in two ways, so that its inverse needs no factorisation.

    With δs = s − μ s̄ and δy = y − μ ȳ, where s̄ and ȳ are the shadows of the pair, and H = μ∇²F(s), the rows of G are

        y / √(sᵀy),    δy / √(δsᵀδy),    √t · (s × δs),      t = det H / det [s δs]ᵀH[s δs],

    the last being what H has left orthogonal to s and s̄. Near the path, where δs = 0, the second direction is H's, too.
    """

    matrix: Tensor
    point: Tensor
    dual_matrix: Tensor
    s: Tensor
    y: Tensor
    barrier: Barrier

    @classmethod
    def at(cls, s: Tensor, y: Tensor) -> Exponential:
        barrier, gap = Barrier.at(s), _dot(s, y)
        mu = gap / 3
        on_path = -mu * barrier.gradient()  # the y of the path for this s, and Hs
        ds, dy = s - mu * shadow(y), y - on_path
        length = _dot(ds, dy)
        near = ~(length > NEAR_PATH * gap)
        k = barrier.tangent()
        ds = torch.where(near, k - _dot(y, k) / gap * s, ds)
        H_ds, s_H_ds = mu * barrier.hessian_times(ds), _dot(on_path, ds)
        dy = torch.where(near, H_ds - s_H_ds / gap * y, dy)
        length = torch.where(near, _dot(ds, dy), length)
        t = mu**3 * barrier.hessian_determinant() / (gap * _dot(ds, H_ds) - s_H_ds.square())
        across, dual_across = torch.linalg.cross(torch.stack([s, y]), torch.stack([ds, dy]))
        root, first, second = t.sqrt(), gap.sqrt(), length.sqrt()
        matrix = torch.stack([y / first, dy / second, root * across], dim=-2)
        dual_matrix = torch.stack([s / first, ds / second, dual_across / (root * gap * length)], dim=-2)
        point = torch.cat([first, torch.zeros_like(s[..., 1:])], dim=-1)
        return cls(matrix, point, dual_matrix, s, y, barrier)

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        ds, dy = self.leave(ds, dy)
        correction = 0.5 * self.barrier.third_derivative(ds, self.barrier.hessian_solve(dy))
        return _times(self.dual_matrix, correction - mu * self.barrier.gradient())

    def shrinkage(self, d: Tensor) -> Tensor:
        return d.new_zeros(*d.shape[:-2], 0)

    def leave(self, ds: Tensor, dy: Tensor) -> Pair:
        """Steps in the frame as steps of s and y."""
        return _times(self.dual_matrix.mT, ds), _times(self.matrix.mT, dy)


KINDS: dict[Kind, Callable[[Tensor, Tensor], Frame]] = {
    "zero": Zero.at,
    "nonneg": Nonnegative.at,
    "soc": SecondOrder.at,
    "psd": Semidefinite.at,
    "exp": Exponential.at,
}


@dataclass(frozen=True)
class Frames:
    """The frames of all cones for a pair (s, y), and λ ``(B, m)``."""

    cones: Cones
    parts: tuple[Frame, ...]
    matrix: BlockDiagonal
    point: Tensor

    @classmethod
    def at(cls, s: Tensor, y: Tensor, cones: Cones) -> Frames:
        parts = tuple(KINDS[block.kind](block.of(s), block.of(y)) for block in cones.blocks)
        matrix = BlockDiagonal(cones, tuple(part.matrix for part in parts))
        return cls(cones, parts, matrix, _join(s, *(part.point for part in parts)))

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        """:meth:`Frame.centring` of all, for steps ``(B, m)`` and μ ``(B, 1)``."""
        mu = mu.unsqueeze(-1)
        return _join(ds, *(part.centring(block.of(ds), block.of(dy), mu) for block, part in self._pairs()))

    def shrinkage(self, ds: Tensor, dy: Tensor) -> Tensor:
        """The smallest r ≥ 0 ``(B,)`` for which λ + αds and λ + αdy are in the self-dual cones for all α < 1/r."""
        both = torch.stack([ds, dy])
        rates = [part.shrinkage(block.of(both)) for block, part in self._pairs()]
        return torch.cat([*rates, both.new_zeros(*both.shape[:-1], 1)], dim=-1).amax((0, -1))

    def exponential_cones(self, ds: Tensor, dy: Tensor, lengths: Tensor) -> Pair:
        """s and y of the exponential cones, which must exist, after steps of these lengths ``(B, k)``:
        ``(B, k, count, 3)``."""
        block, frame = self.cones.blocks[-1], self.parts[-1]
        assert isinstance(frame, Exponential)
        ds, dy = frame.leave(block.of(ds), block.of(dy))
        lengths = lengths[..., None, None]
        return frame.s.unsqueeze(1) + lengths * ds.unsqueeze(1), frame.y.unsqueeze(1) + lengths * dy.unsqueeze(1)

    def _pairs(self) -> Iterable[tuple[Block, Frame]]:
        return zip(self.cones.blocks, self.parts, strict=True)


def _join(like: Tensor, *parts: Tensor) -> Tensor:
    return torch.cat([part.flatten(-2) for part in parts], dim=-1) if parts else like


def _determinant(v: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(v[..., 1:], dim=-1, keepdim=True)
    return (v[..., :1] - norm) * (v[..., :1] + norm)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _times(M: Tensor, v: Tensor) -> Tensor:
    return (M * v.unsqueeze(-2)).sum(-1)


def _finite(M: Tensor) -> Tensor:
    """M with zeros for what is not a number, because eigenvalue routines raise."""
    return torch.nan_to_num(M, 0.0, 0.0, 0.0)
