"""The barrier of the exponential cone and its derivatives.

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

from ...batch.products import dot

_dot = partial(dot, keepdim=True)

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
