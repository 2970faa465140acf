"""Checks on input, so that every layer complains about the same thing in the same words."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def values_visible(x: Tensor) -> bool:
    """Whether Python may look at the entries of x; inside ``torch.func.vmap`` and ``torch.compile`` it may not."""
    return not (torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x))


def check_floating(name: str, x: Tensor) -> None:
    """x is a float32 or float64 tensor."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {x.dtype}")


def check_finite(name: str, x: Tensor) -> None:
    """x has neither NaN nor infinite entries."""
    if not (x.is_floating_point() and values_visible(x)) or torch.isfinite(x.sum()):
        return  # a finite sum has finite terms, and is quicker to see than the terms are
    if not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).sum().item()
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite entries out of {x.numel()}")


def check_positive(name: str, x: Tensor) -> None:
    """Every entry of x is greater than 0."""
    if values_visible(x) and not (x > 0).all():
        raise ValueError(f"{name} must be positive, got {x.min().item():g}")


def check_same_kind(reference_name: str, reference: Tensor, named: Iterable[tuple[str, Tensor]]) -> None:
    """Every floating-point tensor has the dtype of the reference, and every tensor its device."""
    for name, x in named:
        if x.is_floating_point() and x.dtype != reference.dtype:
            raise ValueError(f"{name} must have the dtype of {reference_name}, {reference.dtype}, got {x.dtype}")
        if x.device != reference.device:
            raise ValueError(f"{name} must be on the device of {reference_name}, {reference.device}, got {x.device}")


def check_option(name: str, value: object, options: Iterable[object]) -> None:
    """value is one of the options."""
    options = list(options)
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")


def check_problem(y0: Tensor, x: tuple[Tensor, ...]) -> None:
    """An initial iterate y0 ``(*batch, n)`` with n ≥ 1 and context tensors x of the same kind, all finite."""
    check_floating("y0", y0)
    if y0.ndim == 0 or y0.shape[-1] == 0:
        raise ValueError(f"y0 must have shape (*batch, n) with n ≥ 1, got {tuple(y0.shape)}")
    check_same_kind("y0", y0, ((f"x[{i}]", t) for i, t in enumerate(x)))
    for name, t in [("y0", y0), *((f"x[{i}]", t) for i, t in enumerate(x))]:
        check_finite(name, t)


def align_batch(t: Tensor, event_dims: int, batch_dims: int) -> Tensor:
    """t with all batch dimensions explicit, ones in front where it had fewer."""
    missing = batch_dims - (t.ndim - event_dims)
    return t.reshape((1,) * missing + t.shape)


def expand_batch(y0: Tensor, value: Tensor) -> Tensor:
    """y0 ``(..., n)`` expanded to the batch dimensions of f's value ``(*batch,)``; the error names both."""
    try:
        return y0.expand(*value.shape, y0.shape[-1])
    except RuntimeError:
        raise ValueError(
            f"f(y0, *x) must have the batch shape of y0, {tuple(y0.shape[:-1])}, or one that y0 broadcasts to, "
            f"got {tuple(value.shape)}"
        ) from None
