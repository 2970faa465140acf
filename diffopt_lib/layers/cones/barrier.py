"""The barrier of the exponential cone, its derivatives, and the frames (:mod:`.frames`) that are made of them.

    F(x, y, z) = −log ψ − log y − log z,      ψ = y log(z/y) − x                                       (1)

F is self-concordant and logarithmically homogeneous of degree 3: −∇F maps the interior of K onto that of the dual cone
K*, and ∇F(s)ᵀs = −3. Its inverse has a closed form but for one number. If −∇F(x, y, z) = (−u, v, w), then

    ψ = 1/u,     y = 1/(u δ),     z = (1 + u y)/w       with   δ + log(1 + δ) = log(w/u) + v/u + 1,            (2)

where the right-hand side is positive exactly in the interior of K*.

Source: Nesterov & Nemirovski 1994 for the barrier; for (2), Serrano, Algorithms for unsymmetric cone optimization,
2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...batch.products import contract, dot
from .spectral import Pair

_dot = partial(dot, keepdim=True)

NEAR_PATH = 1e-6  # δsᵀδy relative to sᵀy below which rounding may decide over their direction
CENTRALITY = 1e-2  # how much smaller than elsewhere a complementary product may become
# The point with s = −∇F(s): central, and the same for the cone and its dual.
CENTRE = (-0.8278383990656786, 0.8051020015847954, 1.290927709856958)


def height(s: Tensor) -> Tensor:
    """A number ``(...)`` that is positive exactly where s ``(..., 3)`` is in the interior of K; it is ψ/y."""
    x, y, z = s.unbind(-1)
    inside = (y > 0) & (z > 0)
    return torch.where(inside, torch.log(z / y) - x / y, -1)


def dual_height(y: Tensor) -> Tensor:
    """The same for K*: the right-hand side of (2)."""
    minus_u, v, w = y.unbind(-1)
    inside = (minus_u < 0) & (w > 0)
    return torch.where(inside, torch.log(-w / minus_u) - v / minus_u + 1, -1)


@dataclass(frozen=True)
class Barrier:
    """The derivatives of F at s ``(..., 3)`` in the interior. With g = ∇ψ and ∇²ψ = −y h hᵀ they are

        ∇F = −g/ψ − (0, 1/y, 1/z),      ∇²F = ggᵀ/ψ² + (y/ψ) hhᵀ + diag(0, 1/y², 1/z²).                    (3)

    Attributes:
        y, psi: ``(..., 1)``.
        g, h: ``(..., 3)``.
        inverse: (0, 1/y, 1/z), ``(..., 3)``.
    """

    y: Tensor
    psi: Tensor
    g: Tensor
    h: Tensor
    inverse: Tensor

    @classmethod
    def at(cls, s: Tensor) -> Barrier:
        x, y, z = s.unsqueeze(-1).unbind(-2)
        log_ratio, zero = torch.log(z / y), torch.zeros_like(x)
        g = torch.cat([zero - 1, log_ratio - 1, y / z], dim=-1)
        inverse = torch.cat([zero, 1 / y, 1 / z], dim=-1)
        return cls(y, y * log_ratio - x, g, inverse * inverse.new_tensor([0.0, 1.0, -1.0]), inverse)

    def gradient(self) -> Tensor:
        """∇F ``(..., 3)``."""
        return -self.g / self.psi - self.inverse

    def hessian_times(self, k: Tensor) -> Tensor:
        """∇²F k ``(..., 3)``."""
        along_g, along_h = _dot(self.g, k) / self.psi.square(), _dot(self.h, k) * (self.y / self.psi)
        return self.g * along_g + self.h * along_h + self.inverse.square() * k

    def hessian_solve(self, r: Tensor) -> Tensor:
        """k = ∇²F⁻¹ r ``(..., 3)``: x is in one of the rank-one terms only, and the rest is diagonal plus rank one."""
        g, h, scale = self.g[..., 1:], self.h[..., 1:], self.inverse[..., 1:] ** -2
        right = r[..., 1:] + g * r[..., :1]
        k = scale * (right - h * (_dot(h, scale * right) * self.y / (self.psi + 2 * self.y)))
        return torch.cat([_dot(g, k) + self.psi.square() * r[..., :1], k], dim=-1)

    def hessian_determinant(self) -> Tensor:
        """det ∇²F ``(..., 1)``."""
        yz = self.inverse[..., 1:].prod(-1, keepdim=True)
        return (1 + 2 * self.y / self.psi) * (yz / self.psi).square()

    def third_derivative(self, a: Tensor, b: Tensor) -> Tensor:
        """∇³F[a, b] ``(..., 3)``: (3) for a, differentiated along b."""
        g_a, g_b, h_a, h_b = (_dot(u, v) / self.psi for u, v in ((self.g, a), (self.g, b), (self.h, a), (self.h, b)))
        turn = -self.h * self.inverse * b  # of h, along b
        bend = -self.y * self.psi * (h_b * self.h)  # of g
        of_g = -2 * g_a * g_b * self.g + (g_a * bend + _dot(bend, a) / self.psi * self.g)
        of_h = (b[..., 1:2] - self.y * g_b) * h_a * self.h + self.y * (_dot(turn, a) / self.psi * self.h + h_a * turn)
        return of_g / self.psi + of_h - 2 * self.inverse**3 * a * b

    def tangent(self) -> Tensor:
        """A vector k ``(..., 3)`` with gᵀk = 0 that is not a multiple of s."""
        one = torch.ones_like(self.y)
        return torch.cat([self.g[..., 1:2], one, torch.zeros_like(one)], dim=-1)


def shadow(y: Tensor) -> Tensor:
    """The s ``(..., 3)`` with −∇F(s) = y, for y ``(..., 3)`` in the interior of K*, by (2)."""
    minus_u, _, w = y.unbind(-1)
    u, beta = -minus_u, dual_height(y)
    delta = torch.maximum(beta / 2, beta - torch.log1p(beta))  # below the root; Newton's steps increase to it
    for _ in range(4):
        delta = delta - (delta + torch.log1p(delta) - beta) * (1 + delta) / (2 + delta)
    second = 1 / (u * delta)
    log_ratio = torch.log1p(delta) + torch.log(u / w)
    return torch.stack([second * log_ratio - 1 / u, second, (1 + u * second) / w], dim=-1)


@dataclass(frozen=True)
class Exponential:
    """The frames (:mod:`.frames`). The rows of G are orthogonal in two ways: its inverse needs no factorisation.

    With δs = s − μ s̄ and δy = y − μ ȳ, where s̄ and ȳ are the shadows of the pair, and H = μ∇²F(s), the rows of G are

        y / √(sᵀy),    δy / √(δsᵀδy),    √t · (s × δs),      t = det H / det [s δs]ᵀH[s δs],

    the last being what H has left orthogonal to s and s̄. Near the path, where δs = 0, the second direction is H's, too.

    All this is computed where s is (−ψ/y, 1, 1): the map (x, y, z) ↦ ((x − y log(s₃/s₂)) / s₂, y / s₂, z / s₃) takes
    the cone to itself, and rounding errors do not depend on how small s₂ is.

    Attributes:
        matrix, point: G and λ.
        inner, dual_inner: G and its inverse transposed after that map.
        s, y, barrier: the pair and the barrier there.
    """

    matrix: Tensor
    point: Tensor
    inner: Tensor
    dual_inner: Tensor
    s: Tensor
    y: Tensor
    barrier: Barrier

    @classmethod
    def at(cls, s: Tensor, y: Tensor) -> Exponential:
        _, second, third = s.unsqueeze(-1).unbind(-2)
        scale, log_ratio = torch.cat([second, second, third], dim=-1), torch.log(third / second)
        s, y = _sheared(s / scale, -log_ratio), _sheared(y * scale, log_ratio, transpose=True)
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
        inner = torch.stack([y / first, dy / second, root * across], dim=-2)
        dual_inner = torch.stack([s / first, ds / second, dual_across / (root * gap * length)], dim=-2)
        point = torch.cat([first, torch.zeros_like(s[..., 1:])], dim=-1)
        matrix = _sheared(inner, -log_ratio.unsqueeze(-2), transpose=True) / scale.unsqueeze(-2)
        return cls(matrix, point, inner, dual_inner, s, y, barrier)

    def centring(self, ds: Tensor, dy: Tensor, mu: Tensor) -> Tensor:
        ds, dy = self.leave(ds, dy)
        correction = 0.5 * self.barrier.third_derivative(ds, self.barrier.hessian_solve(dy))
        return contract(self.dual_inner, correction - mu * self.barrier.gradient())

    def shrinkage(self, d: Tensor) -> Tensor:
        return d.new_zeros(*d.shape[:-2], 0)

    def leave(self, ds: Tensor, dy: Tensor) -> Pair:
        """Steps in the frame as steps of s and y after the map."""
        return contract(self.dual_inner.mT, ds), contract(self.inner.mT, dy)

    def inside(self, ds: Tensor, dy: Tensor, lengths: Tensor) -> Tensor:
        s, y = self._after(ds, dy, lengths)
        return (height(s) > 0) & (dual_height(y) > 0)

    def central(self, ds: Tensor, dy: Tensor, lengths: Tensor, mu: Tensor) -> Tensor:
        """On the path sᵀy = 3μ, and with the shadows s̄ of y and ȳ of s, 9 / s̄ᵀȳ is a lower bound on sᵀy that goes to 0
        at the boundary."""
        s, y = self._after(ds, dy, lengths)
        near = -dot(shadow(y), Barrier.at(s).gradient()) * (CENTRALITY * mu[..., None]) <= 3
        return (height(s) > 0) & (dual_height(y) > 0) & near

    def _after(self, ds: Tensor, dy: Tensor, lengths: Tensor) -> Pair:
        """s and y after steps of these lengths ``(B, k)``: ``(B, k, count, 3)``."""
        ds, dy = self.leave(ds, dy)
        lengths = lengths[..., None, None]
        return self.s.unsqueeze(1) + lengths * ds.unsqueeze(1), self.y.unsqueeze(1) + lengths * dy.unsqueeze(1)


def _sheared(v: Tensor, by: Tensor, transpose: bool = False) -> Tensor:
    """(x + by · y, y, z) for v = (x, y, z) ``(..., 3)``; or (x, y + by · x, z)."""
    x, y, z = v.unsqueeze(-1).unbind(-2)
    return torch.cat([x, y + by * x, z] if transpose else [x + by * y, y, z], dim=-1)
