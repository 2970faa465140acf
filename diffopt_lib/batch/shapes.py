"""Batch dimensions: broadcast, aligned, flattened. Every complaint about them is worded here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

Named = tuple[
    str, Tensor, int
]  # an argument's name, the tensor, and how many of its dimensions are not batch dimensions


def broadcast_batch(arguments: Iterable[Named]) -> torch.Size:
    """The batch dimensions that all the arguments have together."""
    arguments = list(arguments)
    try:
        # numpy's, because torch's loads a computer algebra system when it is first called.
        return torch.Size(np.broadcast_shapes(*(t.shape[: t.ndim - dims] for _, t, dims in arguments)))
    except ValueError:
        shown = ", ".join(f"{name} {tuple(t.shape)}" for name, t, _ in arguments)
        raise ValueError(f"the batch dimensions must broadcast against each other, got {shown}") from None


def align_batch(t: Tensor, event_dims: int, batch_dims: int) -> Tensor:
    """t with all batch dimensions explicit, ones in front where it had fewer."""
    missing = batch_dims - (t.ndim - event_dims)
    return t.reshape((1,) * missing + t.shape)


def align(*arguments: Named) -> tuple[torch.Size, list[Tensor]]:
    """The batch dimensions, and the tensors with equally many of them, 1 where they are shared (and not copied)."""
    batch = broadcast_batch(arguments)
    return batch, [align_batch(t, dims, len(batch)) for _, t, dims in arguments]


def expand_vectors(**vectors: Tensor) -> list[Tensor]:
    """Tensors ``(*batch, ·)`` with the whole batch."""
    batch = broadcast_batch((name, v, 1) for name, v in vectors.items())
    return [v.expand(*batch, v.shape[-1]) for v in vectors.values()]


def flatten(t: Tensor, event_dims: int, batch: torch.Size) -> Tensor:
    """t ``(*batch, *event)``, with 1s where it is shared, as ``(N, *event)``, or ``(1, *event)`` if all share it."""
    event = t.shape[t.ndim - event_dims :]
    if t.shape[: t.ndim - event_dims].numel() == 1:
        return t.reshape(1, *event)
    return t.expand(*batch, *event).reshape(batch.numel(), *event)


def flatten_whole(t: Tensor, event_dims: int, batch: torch.Size) -> Tensor:
    """t as ``(N, *event)``, also where all share it."""
    event = t.shape[t.ndim - event_dims :]
    return t.expand(*batch, *event).reshape(batch.numel(), *event)


def expand_guess(y0: Tensor, value: Tensor) -> Tensor:
    """y0 ``(..., n)`` expanded to the batch dimensions of f's value ``(*batch,)``; the error names both."""
    try:
        return y0.expand(*value.shape, y0.shape[-1])
    except RuntimeError:
        raise ValueError(
            f"f(y0, *x) must have the batch shape of y0, {tuple(y0.shape[:-1])}, or one that y0 broadcasts to, "
            f"got {tuple(value.shape)}"
        ) from None
