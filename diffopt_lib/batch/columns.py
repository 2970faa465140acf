"""Right-hand sides of a batch of linear systems as columns, so that those of one matrix share its factorisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def as_columns(rhs: Tensor, batch: torch.Size) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """rhs ``(*batch', n)`` as ``(N, n, c)`` for matrices of batch dimensions ``batch``, and the way back.

    Batch dimensions that only the right-hand side has (a vmapped cotangent), where ``batch`` has 1, become columns.
    """
    extra = [i for i, size in enumerate(batch) if size == 1 and rhs.shape[i] > 1]
    order = [*(i for i in range(len(batch)) if i not in extra), rhs.ndim - 1, *extra]
    permuted = rhs.permute(order)
    columns = permuted.reshape(batch.numel(), rhs.shape[-1], math.prod(rhs.shape[i] for i in extra))

    def restore(w: Tensor) -> Tensor:
        return w.reshape(permuted.shape).permute([order.index(i) for i in range(rhs.ndim)])

    return columns, restore
