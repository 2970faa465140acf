"""The second-order cones {(t, x): ‖x‖ ≤ t}: projection, derivative, frames.

A vector v = (t, x) has the eigenvalues t ± ‖x‖ (:mod:`.spectral`), with eigenvectors ½ (1, ±x/‖x‖).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .kind import Kind
from .spectral import Pair, parts, share, share_and_odds


def project_second_order(v: Tensor, near: Tensor | None = None) -> Tensor:
    """Projection of v = (t, x) ``(..., d)`` onto {‖x‖ ≤ t}.

    v if ‖x‖ ≤ t;  0 if ‖x‖ ≤ −t;  otherwise ½ (1 + t/‖x‖) (‖x‖, x).
    """
    t, x = v[..., :1], v[..., 1:]
    squared = x.square().sum(-1, keepdim=True)
    outside = squared > t.square()
    norm = torch.where(outside, squared, 1).sqrt()  # a number where the root is not used: its derivative is used anyway
    onto_surface = 0.5 * (1 + t / norm) * torch.cat([norm, x], dim=-1)
    return torch.where(outside, onto_surface, torch.where(t > 0, v, 0))


def second_order_frame(v: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (t + ‖x‖, t − ‖x‖) ``(..., 2)`` and the unit vectors (1, ±x/‖x‖)/√2 as columns ``(..., d, 2)``."""
    t, x = v[..., :1], v[..., 1:]
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    some = torch.zeros_like(x)
    some[..., :1] = 1  # at x = 0 both eigenvalues are t and any direction is an eigenvector
    direction = torch.where(norm > 0, x / torch.where(norm > 0, norm, 1), some)
    one = torch.ones_like(t)
    frame = torch.stack([torch.cat([one, direction], -1), torch.cat([one, -direction], -1)], dim=-1)
    return torch.cat([t + norm, t - norm], dim=-1), frame / math.sqrt(2)


def second_order_matrix(frame: Tensor, own: Tensor, mixed: Tensor) -> Tensor:
    """The matrix ``(..., d, d)`` with eigenvalues ``own`` ``(..., 2)`` on the two directions of the frame and ``mixed``
    ``(..., 1)`` on the d − 2 orthogonal to them."""
    mixed = mixed.unsqueeze(-1)
    identity = torch.eye(frame.shape[-2], dtype=own.dtype, device=own.device)
    return mixed * identity + (frame * (own.unsqueeze(-2) - mixed)) @ frame.mT


def second_order_jacobian(v: Tensor) -> Tensor:
    """DΠ(v) for the second-order cone, ``(..., d, d)``: γ₊₊ and γ₋₋ on the frame, γ₊₋ elsewhere."""
    eigenvalues, frame = second_order_frame(v)
    p, s = torch.relu(eigenvalues), torch.relu(-eigenvalues)
    return second_order_matrix(frame, share(p, s), share(*second_order_sums(p, s)))


def second_order_sums(p: Tensor, s: Tensor) -> Pair:
    """p₊ + p₋ and s₊ + s₋, ``(..., 1)``."""
    return p.sum(-1, keepdim=True), s.sum(-1, keepdim=True)


def split_second_order(v: Tensor, near: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """y, and what :func:`second_order_slope` needs."""
    eigenvalues, frame = second_order_frame(v)
    p, s = parts(eigenvalues)
    return (frame @ (p * math.sqrt(0.5)).unsqueeze(-1)).squeeze(-1), (frame, p, s)


def second_order_slope(frame: Tensor, p: Tensor, s: Tensor) -> Pair:
    """D and W of :mod:`.slope`."""
    own, mixed = share_and_odds(p, s), share_and_odds(*second_order_sums(p, s))
    D, W = (second_order_matrix(frame, *values) for values in zip(own, mixed, strict=True))
    return D, W


@dataclass(frozen=True)
class SecondOrder:
    """The frames (:mod:`.frames`), for vectors (t, x) with the determinant t² − ‖x‖².

    With s and y brought to determinant 1, the map with Gs = G⁻ᵀy is a Lorentz boost:

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


def _determinant(v: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(v[..., 1:], dim=-1, keepdim=True)
    return (v[..., :1] - norm) * (v[..., :1] + norm)


SECOND_ORDER = Kind(
    is_bound=False,
    rows=lambda size: size,
    degree=lambda size: 1,
    centre=lambda size: [1.0] + [0.0] * (size - 1),
    project=project_second_order,
    jacobian=second_order_jacobian,
    contains=lambda v: torch.linalg.vector_norm(v[..., 1:], dim=-1) <= v[..., 0],
    split=split_second_order,
    slope=second_order_slope,
    frame=SecondOrder.at,
    outside=lambda count, size: count * [("SecondOrderConeT", size)],
)
