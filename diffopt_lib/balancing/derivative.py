"""Matrices with given marginals that are as close as can be to a kernel: the equations, and their derivative.

The matrix that maximises ⟨S, P⟩ + τ H(P), H(P) = −Σ P log P, among those with row sums a and column sums b is

    P_ij = a_i b_j K_ij,      K_ij = exp(S_ij/τ + u_i + v_j)                                        (1)

for multipliers u, v of the two kinds of sums, which are the root of

    R_i = Σ_j b_j K_ij − 1,      R_j = Σ_i a_i K_ij − 1                                             (2)

Written relative to a and b in this way the potentials stay finite where a marginal is zero. With the rows of D R
eliminated, and both sides scaled by √b, a linear system with D R or its transpose is one with

    L = I − MᵀM,      M_ij = √a_i K_ij √b_j                                                         (3)

which is the Laplacian of a graph that joins two columns if they share a row. Its null vector √b belongs to the constant
that u can give to v without moving P. At low temperature P falls apart into blocks, every one of which adds a direction
that hardly moves P, and L is singular to working precision.

Source: Sinkhorn 1967; Cuturi, Sinkhorn distances, 2013, for the entropic problem.
Chapter: book/2_differentiable/07_permutations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.columns import as_columns
from ..batch.shapes import flatten_whole
from ..linear import LinearOperator
from ..solution import SolverError, failed_indices


def kernel(z: Tensor, S: Tensor, tau: Tensor) -> Tensor:
    """K of eq. (1), ``(*batch, n, m)``, for z = (u, v) ``(*batch, n + m)``."""
    u, v = z.split((S.shape[-2], S.shape[-1]), dim=-1)
    return (S / tau + u.unsqueeze(-1) + v.unsqueeze(-2)).exp()


def marginal_residual(z: Tensor, S: Tensor, tau: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Eq. (2) for S ``(*batch, n, m)``, tau ``(*batch, 1, 1)``, a ``(*batch, n, 1)`` and b ``(*batch, 1, m)``."""
    K = kernel(z, S, tau)
    return torch.cat([(b * K).sum(-1) - 1, (a * K).sum(-2) - 1], dim=-1)


def floored(b: Tensor) -> Tensor:
    """b with zeros replaced by something that is as good as zero but can be divided by."""
    return b.clamp_min(1e-30)


def laplacian(Q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Eq. (3) for Q = K diag(b), whose rows sum to 1: ``(N, m, m)``.

    Differences 1 − MᵀM would lose what is left of them at low temperature. The diagonal is computed from the other
    entries of its row instead, which L √b = 0 allows: there all terms have the same sign.
    """
    M = a.sqrt() * Q / b.sqrt()
    shared = M.mT @ M
    shared.diagonal(dim1=-2, dim2=-1).zero_()
    degree = (shared @ b.sqrt().mT).squeeze(-1) / b.sqrt().squeeze(-2)
    return torch.diag_embed(degree) - shared


def shift(L: Tensor) -> float:
    """What makes L safely positive definite: well above its rounding errors, well below anything that moves P."""
    return 50 * torch.finfo(L.dtype).eps * L.shape[-1]


def solve_marginals(operator: LinearOperator, rhs: Tensor) -> Tensor:
    """D_z R w = rhs, or its transpose, for the residual (2), up to directions that do not move P.

    Where the true w is large because L is nearly singular it multiplies entries of P that are as small, so L plus a
    small multiple of I serves, and one step of refinement takes the error of that out again where it matters.
    """
    z, S, tau, a, b = operator.parameters
    batch = torch.broadcast_shapes(z.shape[:-1], *(t.shape[:-2] for t in (S, tau, a, b)))
    K, a, b = (flatten_whole(t, 2, batch) for t in (kernel(z, S, tau), a, b))
    b = floored(b)
    r, restore = as_columns(rhs, batch)
    r_u, r_v = r.split((K.shape[-2], K.shape[-1]), dim=-2)
    Q, C, scale = b * K, a * K, b.mT.sqrt()
    L = laplacian(Q, a, b)
    factor, info = torch.linalg.cholesky_ex(L + shift(L) * torch.eye(L.shape[-1], dtype=L.dtype, device=L.device))
    failed = (info > 0) & torch.isfinite(r).all((1, 2))  # an element marked NaN stays NaN and is nobody's error
    if failed.any():
        reason = "the derivative's system is not positive definite to working precision."
        raise SolverError(reason, failed_indices(failed.reshape(batch)))

    def solve_laplacian(y: Tensor) -> Tensor:
        x = torch.cholesky_solve(y, factor)
        return x + torch.cholesky_solve(y - L @ x, factor)

    if operator.transposed:
        w_v = scale * solve_laplacian((r_v - Q.mT @ r_u) / scale)
        w_u = r_u - C @ w_v
    else:
        w_v = solve_laplacian((r_v - C.mT @ r_u) * scale) / scale
        w_u = r_u - Q @ w_v
    return restore(torch.cat([w_u, w_v], dim=-2))
