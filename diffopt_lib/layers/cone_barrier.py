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

import torch
from torch import Tensor

# The point with s = −∇F(s): central, and the same for the cone and its dual.
CENTRE = (-0.8278383990656786, 0.8051020015847954, 1.290927709856958)


def height(s: Tensor) -> Tensor:
    """A number ``(...)`` that is positive exactly where s ``(..., 3)`` is in the interior of K; it is ψ/y."""
    x, y, z = s.unbind(-1)
    inside = (y > 0) & (z > 0)
    y = torch.where(inside, y, 1)
    return torch.where(inside, torch.log(torch.where(inside, z, 1) / y) - x / y, -1)


def dual_height(y: Tensor) -> Tensor:
    """The same for K*: the right-hand side of (2)."""
    minus_u, v, w = y.unbind(-1)
    inside = (minus_u < 0) & (w > 0)
    u = torch.where(inside, -minus_u, 1)
    return torch.where(inside, torch.log(torch.where(inside, w, 1) / u) + v / u + 1, -1)


def gradient(s: Tensor) -> Tensor:
    """∇F(s) ``(..., 3)`` for s in the interior."""
    _, y, z = s.unbind(-1)
    psi, of_psi = _psi(s)
    return torch.stack([torch.zeros_like(y), -1 / y, -1 / z], dim=-1) - of_psi / psi.unsqueeze(-1)


def hessian_times(s: Tensor, k: Tensor) -> Tensor:
    """∇²F(s) k ``(..., 3)``."""
    psi, g = _psi(s)
    psi, bend = psi.unsqueeze(-1), _bend(s)
    result = g * (_dot(g, k) / psi.square()) + bend * (_dot(bend, k) * s[..., 1:2] / psi)
    result[..., 1:] += k[..., 1:] / s[..., 1:].square()
    return result


def tangent(s: Tensor) -> Tensor:
    """A vector k ``(..., 3)`` with ∇ψᵀk = 0 that is not a multiple of s."""
    log_ratio = torch.log(s[..., 2] / s[..., 1])
    return torch.stack([log_ratio - 1, torch.ones_like(log_ratio), torch.zeros_like(log_ratio)], dim=-1)


def hessian_determinant(s: Tensor) -> Tensor:
    """det ∇²F(s) ``(..., 1)``."""
    psi = _psi(s)[0].unsqueeze(-1)
    y, z = s[..., 1:2], s[..., 2:]
    return (1 + 2 * y / psi) / (psi * y * z).square()


def hessian_solve(s: Tensor, r: Tensor) -> Tensor:
    """k = ∇²F(s)⁻¹ r ``(..., 3)``: x is in one of the rank-one terms only, and the rest is diagonal plus rank one."""
    psi, g = _psi(s)
    psi, bend, squared = psi.unsqueeze(-1), _bend(s)[..., 1:], s[..., 1:].square()
    right = r[..., 1:] + g[..., 1:] * r[..., :1]
    share = s[..., 1:2] * _dot(bend, squared * right) / (psi + 2 * s[..., 1:2])
    k = squared * (right - share * bend)
    return torch.cat([_dot(g[..., 1:], k) + psi.square() * r[..., :1], k], dim=-1)


def third_derivative(s: Tensor, h: Tensor, k: Tensor) -> Tensor:
    """∇³F(s)[h, k] ``(..., 3)``."""
    y = s[..., 1:2]
    psi, g = _psi(s)
    psi, bend = psi.unsqueeze(-1), _bend(s)
    g_h, g_k, bend_h, bend_k = (_dot(a, b) for a, b in ((g, h), (g, k), (bend, h), (bend, k)))
    # ∇²ψ = −y · bend bendᵀ, and along k bend changes by turn.
    turn = k * torch.stack([torch.zeros_like(psi[..., 0]), -(s[..., 1] ** -2), s[..., 2] ** -2], dim=-1)
    third = -(k[..., 1:2] * bend_h + y * _dot(turn, h)) * bend - y * bend_h * turn
    result = -2 * g_h * g_k * g / psi**3 - third / psi
    result = result - y * ((g_h * bend_k + g_k * bend_h) * bend + bend_h * bend_k * g) / psi.square()
    result[..., 1:] -= 2 * h[..., 1:] * k[..., 1:] / s[..., 1:] ** 3
    return result


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


def _psi(s: Tensor) -> tuple[Tensor, Tensor]:
    """ψ and its gradient."""
    x, y, z = s.unbind(-1)
    log_ratio = torch.log(z / y)
    return y * log_ratio - x, torch.stack([-torch.ones_like(x), log_ratio - 1, y / z], dim=-1)


def _bend(s: Tensor) -> Tensor:
    """∇²ψ = −y · bend bendᵀ."""
    _, y, z = s.unbind(-1)
    return torch.stack([torch.zeros_like(y), 1 / y, -1 / z], dim=-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)
