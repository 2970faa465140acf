"""A check that the task losses share."""

from __future__ import annotations

from torch import Tensor

from ..batch.shapes import broadcast_batch


def check_hours(*named: tuple[str, Tensor]) -> None:
    """All have equally many entries, and batch dimensions that broadcast.

    Raises:
        ValueError: they have not: a price for one hour, say, is none for a day.
    """
    (first_name, first), *others = named
    for name, tensor in others:
        if tensor.shape[-1] != first.shape[-1]:
            raise ValueError(f"{name} must have {first.shape[-1]} entries, as {first_name} has, got {tensor.shape[-1]}")
    broadcast_batch((name, tensor, 1) for name, tensor in named)
