"""Three ways down: damped Newton, L-BFGS, and gradient descent with momentum, each for a batch of problems at once.

A method is a small object with

    start(y, g)                  what it remembers about each element at the beginning
    step(objective, y, f, g, memory)   the next iterate, the new memory, and the decrease of f that it predicted
    direction(objective, y, g, memory) −P g, its update with the preconditioner P and the memory held

y, g are ``(k, n)``, f ``(k,)``, and every tensor of the memory starts with k, so that elements can leave the batch.

Source: Nocedal & Wright, Numerical Optimization, 2006, chapters 3, 4 and 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..batch.products import dot, times
from ..batch.rows import scatter, select
from ..linear import solve
from .objective import Objective
from .search import armijo, weak_wolfe

Memory = tuple[Tensor, ...]


class Method(Protocol):
    max_iterations: int

    def start(self, y: Tensor, g: Tensor) -> Memory: ...
    def step(
        self, objective: Objective, y: Tensor, f: Tensor, g: Tensor, memory: Memory
    ) -> tuple[Tensor, Memory, Tensor]: ...
    def direction(self, objective: Objective, y: Tensor, g: Tensor, memory: Memory) -> Tensor: ...
    def is_minimum(self, objective: Objective, y: Tensor) -> Tensor: ...


class Newton:
    """d = −(∇²f)⁻¹ ∇f where the Hessian is positive definite; the trust-region step where it is not."""

    max_iterations = 100

    def start(self, y, g):
        return (1 + y.detach().norm(dim=-1),)  # the trust radius

    def step(self, objective, y, f, g, memory):
        (radius,) = memory
        H = objective.hessian(y)
        L, info = torch.linalg.cholesky_ex(H.detach())
        indefinite = (info > 0) | (L.diagonal(dim1=-2, dim2=-1).amin(-1) == 0)
        d = _newton_direction(H, g, radius, indefinite)
        slope = dot(g, d)
        curvature = torch.where(indefinite, dot(d, times(H, d)), 0)
        t = armijo(objective, y, f, d, slope, curvature)
        radius = torch.where(t == 1, 2 * radius, t * d.detach().norm(dim=-1)).clamp_min(1e-12)
        predicted = -(slope + torch.where(indefinite, curvature, -slope) / 2)
        return y + t.unsqueeze(-1) * d, (radius,), predicted

    def direction(self, objective, y, g, memory):
        return -solve(objective.hessian(y), g)

    def is_minimum(self, objective, y):
        """No negative curvature: a saddle or a maximum is not where to stop."""
        eigenvalues = torch.linalg.eigvalsh(objective.hessian(y).detach())
        return eigenvalues[:, 0] >= -(torch.finfo(y.dtype).eps ** 0.5) * eigenvalues.abs().amax(-1)


class LBFGS:
    """d = −P g with P built from the last ``history`` steps s and gradient changes y (two-loop recursion, alg. 7.4)."""

    max_iterations = 500
    history = 10

    def start(self, y, g):
        zeros = torch.zeros(len(y), self.history, y.shape[-1], dtype=y.dtype, device=y.device)
        scale = 1 / g.detach().norm(dim=-1).clamp_min(1)  # a first step of length at most 1
        return zeros, zeros, zeros[..., 0], scale

    def step(self, objective, y, f, g, memory):
        d = _two_loop(g, memory)
        slope = dot(g, d)
        t = weak_wolfe(objective, y, f, d, slope)
        y_new = y + t.unsqueeze(-1) * d
        _, g_new = objective.value_and_gradient(y_new)
        return y_new, _remember(memory, y_new - y, g_new - g), -slope

    def direction(self, objective, y, g, memory):
        return _two_loop(g, memory)

    def is_minimum(self, objective, y):
        return torch.ones(len(y), dtype=torch.bool, device=y.device)


class GradientDescent:
    """Nesterov's accelerated gradient: p = y − α g,  y⁺ = p + β (p − p₋), with α by backtracking on the condition
    f(p) ≤ f(y) − ½ α ‖g‖², and the momentum dropped when it points uphill (O'Donoghue & Candès 2015, §3.2)."""

    max_iterations = 5000

    def start(self, y, g):
        one = torch.ones_like(g[:, 0].detach())
        return y, one, one  # p₋, Nesterov's t, α

    def step(self, objective, y, f, g, memory):
        previous, t, alpha = memory
        # The step may grow again, but only while the decrease that would forbid it is visible above rounding.
        visible = alpha * dot(g, g) > 1000 * torch.finfo(f.dtype).eps * f.abs()
        trial = torch.where(visible, 1.2 * alpha, alpha).detach()
        alpha = armijo(objective, y, f, -g, -dot(g, g), torch.zeros_like(f), start=trial, decrease=0.5)
        p = y - alpha.unsqueeze(-1) * g
        uphill = dot(g, p - previous) > 0
        t = torch.where(uphill, 1, t)
        t_next = (1 + (1 + 4 * t.square()).sqrt()) / 2
        beta = (t - 1) / t_next
        y_new = p + beta.unsqueeze(-1) * (p - previous)
        return y_new, (p, t_next, alpha), torch.full_like(f, torch.inf)

    def direction(self, objective, y, g, memory):
        return -memory[2].unsqueeze(-1) * g

    def is_minimum(self, objective, y):
        return torch.ones(len(y), dtype=torch.bool, device=y.device)


METHODS: dict[str, Callable[[], Method]] = {"newton": Newton, "lbfgs": LBFGS, "gradient_descent": GradientDescent}


def _newton_direction(H: Tensor, g: Tensor, radius: Tensor, indefinite: Tensor) -> Tensor:
    """−(H + μ I)⁻¹ g + τ v, with μ = τ = 0 where H is positive definite."""
    mu = torch.zeros_like(radius)
    escape = torch.zeros_like(g)
    if indefinite.any():
        found = _trust_region(*select((H.detach(), g.detach(), radius), indefinite))
        mu, escape = scatter((mu, escape), indefinite, found)
    identity = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    shifted = H + mu[:, None, None] * identity
    return escape - solve(shifted, g)


def _trust_region(H: Tensor, g: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The step min gᵀd + ½ dᵀHd s.t. ‖d‖ ≤ radius for indefinite H, as the shift μ and the escape τ v it is made of.

    On the boundary d(μ) = −(H + μ I)⁻¹ g with μ > −λ₁, and ‖d(μ)‖ falls from ∞ to below the radius between −λ₁ and
    −λ₁ + ‖g‖ / radius, so bisection finds it. In the hard case g has no part along the eigenvector v of λ₁: ‖d‖ stays
    short of the radius, and what is left goes along v, down the negative curvature (Nocedal & Wright, §4.3).
    """
    eigenvalues, V = torch.linalg.eigh(H)
    g_hat = times(V.mT, g)
    lowest = eigenvalues[:, :1]
    margin = torch.finfo(g.dtype).eps ** 0.5 * eigenvalues.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    low = (-lowest).clamp_min(0) + margin
    high = low + g.norm(dim=-1, keepdim=True) / radius.unsqueeze(-1)
    for _ in range(50):
        middle = (low + high) / 2
        short = (g_hat / (eigenvalues + middle)).norm(dim=-1, keepdim=True) <= radius.unsqueeze(-1)
        low, high = torch.where(short, low, middle), torch.where(short, middle, high)
    mu = high.squeeze(-1)
    length = (g_hat / (eigenvalues + high)).norm(dim=-1)
    left = (radius.square() - length.square()).clamp_min(0).sqrt()
    downhill = torch.where(g_hat[:, 0] > 0, -1.0, 1.0).to(g.dtype)
    negative = lowest.squeeze(-1) < 0
    return mu, (torch.where(negative, left, 0) * downhill).unsqueeze(-1) * V[:, :, 0]


def _two_loop(g: Tensor, memory: Memory) -> Tensor:
    """−P g. Slots that are still empty have ρ = 0 and do nothing."""
    S, Y, rho, scale = memory
    q = g
    alphas = []
    for i in reversed(range(S.shape[-2])):
        alpha = rho[..., i] * dot(S[..., i, :], q)
        q = q - alpha.unsqueeze(-1) * Y[..., i, :]
        alphas.append(alpha)
    q = scale.unsqueeze(-1) * q
    for i, alpha in zip(range(S.shape[-2]), reversed(alphas), strict=True):
        beta = rho[..., i] * dot(Y[..., i, :], q)
        q = q + (alpha - beta).unsqueeze(-1) * S[..., i, :]
    return -q


def _remember(memory: Memory, s: Tensor, y: Tensor) -> Memory:
    """Push the pair (s, y) where sᵀy is safely positive; the other elements keep what they have."""
    S, Y, rho, scale = memory
    sy = dot(s, y)
    good = sy > torch.finfo(s.dtype).eps * s.norm(dim=-1) * y.norm(dim=-1)
    safe = torch.where(good, sy, 1)

    def push(old, new):
        pushed = torch.cat([old[:, 1:], new.unsqueeze(1)], dim=1)
        return torch.where(good.reshape(-1, *[1] * (old.ndim - 1)), pushed, old)

    scale = torch.where(good, safe / torch.where(good, dot(y, y), 1), scale)
    return push(S, s), push(Y, y), push(rho, 1 / safe), scale
