"""Products of batches, M v and uᵀv, and the sizes of what is in them, with shared matrices and empty ones."""

from __future__ import annotations

import torch
from torch import Tensor

DUST = 1e-14  # of the largest number, what is no more than its rounding
GAP = 1e4  # between two groups of sizes


def times(M: Tensor, v: Tensor) -> Tensor:
    """M v for M ``(*batch, k, n)`` and v ``(*batch, n)``; an M that the batch shares (1s) costs one matrix product."""
    if M.shape[:-2].numel() == 1:
        return v @ M.reshape(M.shape[-2:]).mT
    return (v.unsqueeze(-2) @ M.mT).squeeze(-2)  # batched BLAS takes a row several times faster than a column


def times_columns(M: Tensor, V: Tensor) -> Tensor:
    """M V for M ``(N or 1, k, n)`` and columns V ``(N, n, c)``; a shared matrix times single columns is one product."""
    if V.shape[-1] != 1:
        return torch.matmul(M, V)
    if M.shape[0] == 1:
        return (V.squeeze(-1) @ M[0].mT).unsqueeze(-1)
    return (V.mT @ M.mT).mT


def contract(M: Tensor, v: Tensor) -> Tensor:
    """:func:`times` for formulas that are differentiated in M: as a sum of products that is quicker to pull back."""
    if M.shape[:-2].numel() == 1:
        return times(M, v)
    return (M * v.unsqueeze(-2)).sum(-1)


def solve_lower(L: Tensor, V: Tensor, transpose: bool = False) -> Tensor:
    """L⁻¹ V, or L⁻ᵀ V, for a lower triangular L ``(N or 1, n, n)`` and V ``(N, n, c)``; a shared L is not copied."""
    if L.shape[0] == 1 and V.shape[0] > 1 and V.shape[-1] == 1:
        return solve_lower(L, V.squeeze(-1).mT.unsqueeze(0), transpose).squeeze(0).mT.unsqueeze(-1)
    return torch.linalg.solve_triangular(L.mT if transpose else L, V, upper=transpose)


def dot(u: Tensor, v: Tensor, keepdim: bool = False) -> Tensor:
    """uᵀv, ``(*batch,)``."""
    return (u * v).sum(-1, keepdim=keepdim)


def or_one(size: Tensor) -> Tensor:
    """Sizes to divide by: 1 where there is none."""
    return torch.where(size > 0, size, 1)


def without_dust(sizes: Tensor, beside: Tensor) -> Tensor:
    """Sizes ``(N, …)``, 0 where they are no more than the rounding of the largest number in ``beside`` ``(N, …)``."""
    most = largest(beside, tuple(range(1, beside.ndim))).reshape(-1, *[1] * (sizes.ndim - 1))
    return torch.where(sizes < DUST * most, 0, sizes)


def least_of_groups(sizes: Tensor) -> list[Tensor]:
    """Sorted by size, positive entries ``(N, n)`` fall into groups with factors of more than GAP between them. The
    least of the first group ``(N, 1)``, of the second, ...; 0 where there is none."""
    ordered = torch.where(sizes > 0, sizes, torch.inf).sort(-1).values
    before = torch.cat([torch.zeros_like(ordered[:, :1]), ordered[:, :-1]], dim=-1)
    first = torch.isfinite(ordered) & (ordered > GAP * before)
    group = torch.where(first, first.cumsum(-1), 0)
    count = int(group.max()) if group.numel() else 0
    return [torch.where(group == k, ordered, 0).sum(-1, keepdim=True) for k in range(1, count + 1)]


def unit(v: Tensor) -> Tensor:
    """v / ‖v‖, and 0 for 0."""
    return v / or_one(v.norm(dim=-1, keepdim=True))


def largest(v: Tensor, dims: int | tuple[int, ...] = -1) -> Tensor:
    """The largest magnitude along the last dimension, or along ``dims``; 0 where there is no entry."""
    dims = (dims,) if isinstance(dims, int) else dims
    if all(v.shape[d] for d in dims):
        return v.abs().amax(dims)
    return v.sum(dims)
