"""Arguments of the layers on vectors: x ``(*batch, n)``, and what belongs to whole problems, ``(*batch,)``.

A temperature, a total or a k is a number or a tensor with one entry for every element of the batch. Its batch
dimensions and those of x broadcast against each other, aligned at the right, as torch does it: x ``(3, n)`` with
τ ``(2, 1)`` gives y ``(2, 3, n)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..opaque import opaque
from ..validate import check_finite, check_floating, check_positive, check_same_kind


def check_vectors(x: Tensor, name: str = "x") -> None:
    """x is ``(*batch, n)`` with n ≥ 1, finite."""
    check_floating(name, x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (*batch, n) with n ≥ 1, got {tuple(x.shape)}")
    check_finite(name, x)


def per_problem(name: str, value: float | Tensor, x: Tensor, x_name: str = "x") -> Tensor:
    """A number or a tensor ``(*batch,)`` that belongs to whole problems, as a finite tensor ``(*batch,)`` like x."""
    if isinstance(value, Tensor):
        check_same_kind(x_name, x, [(name, value)])
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    check_finite(name, value)
    return value


def temperature(tau: float | Tensor, x: Tensor, x_name: str = "x") -> Tensor:
    """τ > 0, a number or a tensor ``(*batch,)``, as a tensor ``(*batch,)`` like x."""
    tau = per_problem("tau", tau, x, x_name)
    opaque(_check_temperature, torch.zeros_like, tau)  # which sees the values even under ``vmap``
    return tau


def _check_temperature(_f: object, tau: Tensor) -> tuple[Tensor]:
    check_positive("tau", tau)
    return (torch.zeros_like(tau),)


def align(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors ``(*batch, ·)``, with batch dimensions that broadcast, all with the whole batch."""
    try:
        batch = torch.broadcast_shapes(*(v.shape[:-1] for v in tensors))
    except RuntimeError:
        shapes = ", ".join(str(tuple(v.shape[:-1])) for v in tensors)
        raise ValueError(f"the batch dimensions of the arguments must broadcast, got {shapes}") from None
    return tuple(v.expand(*batch, v.shape[-1]) for v in tensors)
