"""The self-dual cones: nonnegative, second-order, semidefinite. One family, because each has a spectral decomposition.

A vector v has eigenvalues λ: its entries, or t ± ‖x‖, or the eigenvalues of a symmetric matrix. It is in the cone when
none is negative, and the projection replaces each by its positive part,

    v = Σ λᵢ cᵢ,    Π(v) = Σ max(λᵢ, 0) cᵢ.                                                         (1)

Write p = Π(v) and s = p − v = Π(−v). Both have the eigenvectors of v. In the basis that the eigenvectors span, the
derivative is a table of divided differences (Löwner 1934):

    (DΠ(v) h)ᵢⱼ = γᵢⱼ hᵢⱼ,    γᵢⱼ = (pᵢ + pⱼ) / (pᵢ + pⱼ + sᵢ + sⱼ)                                    (2)

which is also right when eigenvalues repeat, where differentiating the eigenvectors would divide by zero. A kink is
where the denominator vanishes. There we take γᵢⱼ = 0, as ReLU does at 0.

Source: Parikh & Boyd 2014, §6.3; for (2), Sun & Sun, Semismooth matrix-valued functions, 2002, and Malick & Sendov
2006.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...autograd.forward_mode import forward_rule
from ...autograd.opaque import batch_first

Pair = tuple[Tensor, Tensor]


# Nonnegative: v is its own list of eigenvalues.


def project_nonnegative(v: Tensor) -> Tensor:
    """max(v, 0), entry by entry."""
    return torch.relu(v)


def nonnegative_jacobian(v: Tensor) -> Tensor:
    """The diagonal of DΠ(v) for entries that each are a block of size 1: ``(..., 1)`` to ``(..., 1, 1)``."""
    return (v > 0).to(v.dtype).unsqueeze(-1)


# Second-order: v = (t, x) has the eigenvalues t ± ‖x‖, with eigenvectors ½ (1, ±x/‖x‖).


def project_second_order(v: Tensor) -> Tensor:
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


# Semidefinite: v is a symmetric matrix, as the vector of its lower triangle.


def order_of(size: int) -> int:
    """k such that k(k+1)/2 = size."""
    return (math.isqrt(8 * size + 1) - 1) // 2


def lower_triangle(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each entry of the lower triangle, column by column."""
    column, row = torch.triu_indices(k, k, device=device)
    return row, column


def to_matrix(v: Tensor) -> Tensor:
    """The symmetric matrix ``(..., k, k)`` of a vector ``(..., k(k+1)/2)``; see :class:`.cones.Cones`."""
    k = order_of(v.shape[-1])
    row, column = lower_triangle(k, v.device)
    place = torch.empty(k, k, dtype=torch.long, device=v.device)
    place[row, column] = place[column, row] = torch.arange(v.shape[-1], device=v.device)
    scale = torch.full((k, k), math.sqrt(0.5), dtype=v.dtype, device=v.device).fill_diagonal_(1)
    return v[..., place] * scale


def to_vector(M: Tensor) -> Tensor:
    """The vector of a symmetric matrix, the inverse of :func:`to_matrix`."""
    row, column = lower_triangle(M.shape[-1], M.device)
    return M[..., row, column] * (1 + (math.sqrt(2) - 1) * (row != column).to(M.dtype))


def project_semidefinite(v: Tensor) -> Tensor:
    """V max(Λ, 0) Vᵀ for the symmetric matrix V Λ Vᵀ that v ``(..., k(k+1)/2)`` holds."""
    return to_vector(_ProjectSemidefinite.apply(to_matrix(v)))


def diagonal_places(k: int, device: torch.device) -> Tensor:
    """Where the diagonal stands in a vector."""
    row, column = lower_triangle(k, device)
    return (row == column).nonzero().squeeze(-1)


def congruence_matrix(V: Tensor) -> Tensor:
    """H ↦ VHVᵀ as a matrix on vectors of triangles, ``(..., k(k+1)/2, k(k+1)/2)``."""
    row, column = lower_triangle(V.shape[-1], V.device)
    scale = 1 + (math.sqrt(0.5) - 1) * (row == column).to(V.dtype)
    # Column (i, j) is the vector of the symmetric part of vᵢvⱼᵀ, made a unit vector if V is orthogonal.
    upper, lower = V.index_select(-2, row), V.index_select(-2, column)
    T = upper.index_select(-1, row) * lower.index_select(-1, column)
    T = T + upper.index_select(-1, column) * lower.index_select(-1, row)
    return T * (scale[:, None] * scale)


def semidefinite_matrix(T: Tensor, gamma: Tensor) -> Tensor:
    """H ↦ V (γ ∘ VᵀHV) Vᵀ as a matrix on vectors of triangles, for γ given as such a vector ``(..., k(k+1)/2)`` and
    the congruence matrix T of an orthogonal V."""
    return (T * gamma.unsqueeze(-2)) @ T.mT


def semidefinite_jacobian(v: Tensor) -> Tensor:
    """DΠ(v) for the semidefinite cone, ``(..., size, size)``, by eq. (2)."""
    eigenvalues, V = torch.linalg.eigh(to_matrix(v))
    gamma = share(*semidefinite_sums(torch.relu(eigenvalues), torch.relu(-eigenvalues)))
    return semidefinite_matrix(congruence_matrix(V), gamma)


def semidefinite_sums(p: Tensor, s: Tensor) -> Pair:
    """pᵢ + pⱼ and sᵢ + sⱼ for every entry of the lower triangle."""
    row, column = lower_triangle(p.shape[-1], p.device)
    return p[..., row] + p[..., column], s[..., row] + s[..., column]


class _ProjectSemidefinite(torch.autograd.Function):
    """M ↦ p = Π(M), with p (p − M) + (p − M) p = 0 differentiated: |M| dp + dp |M| = p dM + dM p, |M| = 2p − M."""

    @staticmethod
    def forward(M):
        eigenvalues, V = torch.linalg.eigh(M)
        return (V * torch.relu(eigenvalues).unsqueeze(-2)) @ V.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx, g):
        M, p = ctx.saved_tensors
        return _derivative(M, p, g)

    @staticmethod
    def jvp(ctx, dM):
        with forward_rule(ctx) as (M, p):
            return _derivative(M, p, dM)

    @staticmethod
    def vmap(info, in_dims, *tensors):
        return _ProjectSemidefinite.apply(*batch_first(info, in_dims, tensors)), 0


def _derivative(M: Tensor, p: Tensor, H: Tensor) -> Tensor:
    H = 0.5 * (H + H.mT)
    return _Lyapunov.apply(2 * p - M, p @ H + H @ p)


class _Lyapunov(torch.autograd.Function):
    """The symmetric X with A X + X A = B, for symmetric A ⪰ 0 and B; zero where A's eigenvalues add to nothing.

    Differentiating gives A dX + X... = the same equation for dX with the right side dB − dA X − X dA.
    """

    @staticmethod
    def forward(A, B):
        eigenvalues, V = torch.linalg.eigh(A)
        sums = eigenvalues.unsqueeze(-1) + eigenvalues.unsqueeze(-2)
        rounding = 4 * torch.finfo(A.dtype).eps * A.shape[-1] * eigenvalues[..., -1:].abs().unsqueeze(-1)
        return V @ torch.where(sums > rounding, (V.mT @ B @ V) / sums, 0) @ V.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx, g):
        A, X = ctx.saved_tensors
        W = _Lyapunov.apply(A, 0.5 * (g + g.mT))
        return -(W @ X + X @ W), W

    @staticmethod
    def jvp(ctx, dA, dB):
        with forward_rule(ctx) as (A, X):
            return _Lyapunov.apply(A, dB - dA @ X - X @ dA)

    @staticmethod
    def vmap(info, in_dims, *tensors):
        return _Lyapunov.apply(*batch_first(info, in_dims, tensors)), 0


# What the three have in common.


def share(p: Tensor, s: Tensor) -> Tensor:
    """γ = p / (p + s) of eq. (2), 0 where both are 0."""
    total = p + s
    return torch.where(total > 0, p / torch.where(total > 0, total, 1), 0)
