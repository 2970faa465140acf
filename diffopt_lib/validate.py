"""Checks on input, so that every layer complains about the same thing in the same words."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real

import torch
from torch import Tensor

from .autograd.opaque import opaque
from .solution import failed_indices, name_elements

NO_BOUND = 1e20  # an upper bound that is no less is no constraint


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


def check_scores(name: str, x: Tensor) -> Tensor | None:
    """x has neither NaN nor +∞, and −∞ is a mask: where x is masked, or None if it is nowhere.

    Inside ``torch.func.vmap``, where nobody may look, the answer is always a mask.
    """
    if not values_visible(x):
        return x == -torch.inf
    if torch.isfinite(x.sum()):
        return None
    masked = x == -torch.inf
    if not (torch.isfinite(x) | masked).all():
        bad = (~torch.isfinite(x)).sum().item()
        raise ValueError(
            f"{name} must be finite, got {bad} NaN or infinite entries out of {x.numel()} (−inf alone would be a mask)"
        )
    return masked if masked.any() else None


def check_unmasked(name: str, masked: Tensor, dim: int = -1) -> None:
    """Some entry along the dimension, counted from the last as −1, is not masked."""

    def check(masked: Tensor) -> tuple[Tensor]:
        empty = masked.all(dim)
        if empty.any():
            raise ValueError(f"{name} must have an entry that is not −inf.{name_elements(failed_indices(empty))}")
        return (masked,)

    opaque(check, masked)  # which sees the values even under ``vmap``


def check_positive(name: str, x: Tensor) -> None:
    """Every entry of x is greater than 0."""
    if values_visible(x) and not (x > 0).all():
        raise ValueError(f"{name} must be positive, got {x.min().item():g}")


def check_same_kind(reference_name: str, reference: Tensor, named: Iterable[tuple[str, Tensor]]) -> None:
    """Every floating-point tensor has the dtype of the reference, and every tensor its device."""
    for name, x in named:
        check_kind(name, x, Tensor, "a torch tensor")
        if x.is_complex():
            raise ValueError(f"{name} must be real, got {x.dtype}")
        if x.is_floating_point() and x.dtype != reference.dtype:
            raise ValueError(f"{name} must have the dtype of {reference_name}, {reference.dtype}, got {x.dtype}")
        if x.device != reference.device:
            raise ValueError(f"{name} must be on the device of {reference_name}, {reference.device}, got {x.device}")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], what: str) -> None:
    """value is an instance of a class, of which ``what`` tells a user."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {what}, got {_show(value)}")


def parts_of_guess(
    init: object, kind: type, batch: torch.Size, sizes: dict[str, int], reference_name: str, reference: Tensor
) -> list[Tensor]:
    """The vectors with these names and sizes of an earlier solution, without a graph, with all batch dimensions."""
    check_kind("init", init, kind, f"a {kind.__name__}")
    parts = {name: getattr(init, name).detach() for name in sizes}
    check_same_kind(reference_name, reference, ((f"init.{name}", v) for name, v in parts.items()))
    for name, v in parts.items():
        shape = (*batch, sizes[name])
        if v.ndim > len(shape) or any(a not in (1, b) for a, b in zip(v.shape[::-1], shape[::-1], strict=False)):
            raise ValueError(
                f"init.{name} must have the shape {shape}, or one that expands to it, got {tuple(v.shape)}"
            )
        if v.shape[-1:] != shape[-1:]:
            raise ValueError(f"init.{name} must have {sizes[name]} entries, got {v.shape[-1]}")
    return [v.expand(*batch, -1) for v in parts.values()]


def check_callable(name: str, value: object) -> None:
    """value is a function, or something else that can be called."""
    if not callable(value):
        raise ValueError(f"{name} must be a function, got {_show(value)}")


def check_count(name: str, value: object, least: int = 0) -> None:
    """value is an integer, at least so much."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be an integer, at least {least}, got {_show(value)}")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_size(name: str, value: object) -> None:
    """value is a number that is not negative: a tolerance, say."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number, at least 0, got {_show(value)}")
    if not float(value) >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


def check_limits(tolerance: object, max_iterations: object) -> None:
    """A tolerance and a number of iterations; None stands for a default."""
    if tolerance is not None:
        check_size("tolerance", tolerance)
    if max_iterations is not None:
        check_count("max_iterations", max_iterations)


def _show(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    shown = repr(value)
    return shown if len(shown) <= 60 else type(value).__name__


def check_option(name: str, value: object, options: Iterable[object]) -> None:
    """value is one of the options."""
    options = list(options)
    if not any(type(value) is type(option) and value == option for option in options):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {_show(value)}")


def check_problem(f: object, y0: Tensor, x: tuple[Tensor, ...]) -> None:
    """A function f, an initial iterate y0 ``(*batch, n)`` with n ≥ 1, and context tensors x like it, all finite."""
    check_floating("y0", y0)
    if y0.ndim == 0 or y0.shape[-1] == 0:
        raise ValueError(f"y0 must have shape (*batch, n) with n ≥ 1, got {tuple(y0.shape)}")
    check_callable("f", f)
    check_same_kind("y0", y0, ((f"x[{i}]", t) for i, t in enumerate(x)))
    for name, t in [("y0", y0), *((f"x[{i}]", t) for i, t in enumerate(x))]:
        check_finite(name, t)


# Arguments of layers on vectors: x (*batch, n), and what belongs to whole problems, (*batch,), a number or a tensor.


def check_vectors(x: Tensor, name: str = "x") -> None:
    """x is ``(*batch, n)`` with n ≥ 1, finite."""
    _check_shape(name, x)
    check_finite(name, x)


def check_masked_vectors(x: Tensor, name: str = "x") -> Tensor | None:
    """x is ``(*batch, n)`` with n ≥ 1, finite or −∞: :func:`check_scores`."""
    _check_shape(name, x)
    return check_scores(name, x)


def _check_shape(name: str, x: Tensor) -> None:
    check_floating(name, x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (*batch, n) with n ≥ 1, got {tuple(x.shape)}")


def per_problem(name: str, value: float | Tensor, x: Tensor, x_name: str = "x") -> Tensor:
    """A number or a tensor ``(*batch,)`` that belongs to whole problems, as a finite tensor ``(*batch,)`` like x."""
    value = as_tensor(name, value, x, x_name)
    check_finite(name, value)
    return value


def as_tensor(name: str, value: float | Tensor, x: Tensor, x_name: str = "x") -> Tensor:
    """A number or a tensor as a tensor like x."""
    if isinstance(value, Tensor):
        check_same_kind(x_name, x, [(name, value)])
    elif isinstance(value, str):
        raise ValueError(f"{name} must be a number or a tensor, got {value!r}")
    try:
        return torch.as_tensor(value, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number or a tensor, got {_show(value)}") from None


def temperature(tau: float | Tensor, x: Tensor, x_name: str = "x") -> Tensor:
    """τ > 0, a number or a tensor ``(*batch,)``, as a tensor ``(*batch,)`` like x."""
    tau = per_problem("tau", tau, x, x_name)
    opaque(_check_temperature, tau)  # which sees the values even under ``vmap``
    return tau


def _check_temperature(tau: Tensor) -> tuple[Tensor]:
    check_positive("tau", tau)
    return (torch.zeros_like(tau),)
