"""The semidefinite cones: projection, derivative, frames. A symmetric matrix is the vector of its lower triangle.

Its eigenvalues are those of :mod:`.spectral`, and Π(VΛVᵀ) = V max(Λ, 0) Vᵀ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...autograd.forward_mode import forward_rule
from ...autograd.opaque import batch_first
from .kind import Kind
from .spectral import Pair, parts, share, share_and_odds


def order_of(size: int) -> int:
    """k such that k(k+1)/2 = size."""
    return (math.isqrt(8 * size + 1) - 1) // 2


def lower_triangle(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each entry of the lower triangle, column by column."""
    column, row = torch.triu_indices(k, k, device=device)
    return row, column


def to_matrix(v: Tensor) -> Tensor:
    """The symmetric matrix ``(..., k, k)`` of a vector ``(..., k(k+1)/2)``; see :class:`.Cones`."""
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


def project_semidefinite(v: Tensor, near: Tensor | None = None) -> Tensor:
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
    """DΠ(v) for the semidefinite cone, ``(..., size, size)``, by eq. (2) of :mod:`.spectral`."""
    eigenvalues, V = torch.linalg.eigh(to_matrix(v))
    gamma = share(*semidefinite_sums(torch.relu(eigenvalues), torch.relu(-eigenvalues)))
    return semidefinite_matrix(congruence_matrix(V), gamma)


def semidefinite_sums(p: Tensor, s: Tensor) -> Pair:
    """pᵢ + pⱼ and sᵢ + sⱼ for every entry of the lower triangle."""
    row, column = lower_triangle(p.shape[-1], p.device)
    return p[..., row] + p[..., column], s[..., row] + s[..., column]


def split_semidefinite(v: Tensor, near: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """y, and what :func:`semidefinite_slope` needs."""
    eigenvalues, V = torch.linalg.eigh(_finite(to_matrix(v)))
    p, s = parts(eigenvalues)
    return to_vector((V * p.unsqueeze(-2)) @ V.mT), (V, p, s)


def semidefinite_slope(V: Tensor, p: Tensor, s: Tensor) -> Pair:
    """D and W of :mod:`.slope`."""
    T = congruence_matrix(V)
    D, W = (semidefinite_matrix(T, gamma) for gamma in share_and_odds(*semidefinite_sums(p, s)))
    return D, W


@dataclass(frozen=True)
class Semidefinite:
    """The frames (:mod:`.frames`). G is D ↦ R⁻¹DR⁻ᵀ, and λ is diagonal.

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


def _upper_triangle(size: int) -> list[int]:
    """Where the entries of the upper triangle, column by column, stand in our vector, which has the lower one."""
    k = order_of(size)
    places = {(row, column): at for at, (row, column) in enumerate((r, c) for c in range(k) for r in range(c, k))}
    return [places[column, row] for column in range(k) for row in range(column + 1)]


def _centre(size: int) -> list[float]:
    """The identity matrix."""
    k = order_of(size)
    return [float(row == column) for column in range(k) for row in range(column, k)]


def _finite(M: Tensor) -> Tensor:
    """M with zeros for what is not a number, because eigenvalue routines raise."""
    return torch.nan_to_num(M, 0.0, 0.0, 0.0)


SEMIDEFINITE = Kind(
    is_bound=False,
    rows=lambda order: order * (order + 1) // 2,
    degree=order_of,
    centre=_centre,
    project=project_semidefinite,
    jacobian=semidefinite_jacobian,
    contains=lambda v: (torch.linalg.eigvalsh(to_matrix(v)) >= 0).all(-1),
    split=split_semidefinite,
    slope=semidefinite_slope,
    frame=Semidefinite.at,
    outside=lambda count, size: count * [("PSDTriangleConeT", order_of(size))],
    outside_order=_upper_triangle,
)
