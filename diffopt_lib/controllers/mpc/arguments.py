"""The arguments of :func:`.mpc`, as tensors with a time and a batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...batch.shapes import broadcast_batch
from ...validate import check_callable, check_count, check_finite, check_floating, check_same_kind, check_size
from ..arguments import check_order, read_bound

Bound = float | Tensor | None


def check_problem(horizon: Any, constraints: Any, smoothing: Any, on_failure: str) -> None:
    """What remains to be checked besides tensors, cost and dynamics."""
    check_count("horizon", horizon, 1)
    if constraints is not None:
        check_callable("constraints", constraints)
    check_size("smoothing", smoothing)
    if smoothing == math.inf or (smoothing and constraints is not None and on_failure == "closest"):
        raise ValueError(f"smoothing must be finite, and 0 with on_failure='closest', got {smoothing}")


def count_controls(
    cost: Any, dynamics: Any, u_lower: Any, u_upper: Any, u_init: Any, controls: int | None, n: int
) -> int:
    """m, from whatever knows it."""
    _check_model(cost, dynamics)
    if isinstance(dynamics, Tensor):
        return dynamics.shape[-1] - n
    if isinstance(dynamics, tuple):
        return dynamics[0].shape[-1] - n
    if isinstance(cost, tuple):
        return cost[1].shape[-1] - n
    for known in (u_init, u_lower, u_upper):
        if isinstance(known, Tensor) and known.ndim:
            return known.shape[-1]
    m = controls if controls is not None else getattr(dynamics, "m", None)
    if m is None:
        raise ValueError("nothing says how many controls there are: give controls=m, u_init, or bounds of shape (m,)")
    check_count("controls", m, 1)
    return int(m)


def _check_model(cost: Any, dynamics: Any) -> None:
    for name, value, pair in (("cost", cost, "(C, c)"), ("dynamics", dynamics, "(F, f)")):
        tensors = isinstance(value, tuple) and len(value) == 2 and all(isinstance(t, Tensor) for t in value)
        if not (tensors or callable(value) or (name == "dynamics" and isinstance(value, Tensor))):
            what = "a function, a module, or " + ("" if name == "cost" else "the tensor F, or ") + f"the tensors {pair}"
            raise ValueError(f"{name} must be {what}, got {type(value).__name__}")


def read_bounds(lower: Bound, upper: Bound, T: int, m: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Both bounds as ``(*batch, T or 1, m)``."""
    low = _read_bound("u_lower", lower, -torch.inf, T, m, like)
    high = _read_bound("u_upper", upper, torch.inf, T, m, like)
    broadcast_batch([("u_lower", low, 2), ("u_upper", high, 2)])
    check_order("u_lower", low, "u_upper", high)
    return low, high


def _read_bound(name: str, value: Bound, default: float, T: int, m: int, like: Tensor) -> Tensor:
    bound = read_bound(name, value, default, like, "x_init")
    bound = bound.reshape((1,) * max(0, 2 - bound.ndim) + bound.shape)
    if bound.shape[-1] not in (1, m) or bound.shape[-2] not in (1, T):
        expected = f"a number, (m,), (T, m) or (*batch, T, m) with T = {T} and m = {m}"
        raise ValueError(f"{name} must be {expected}, got {tuple(bound.shape)}")
    return bound.expand(*bound.shape[:-1], m)


def read_start(u_init: Tensor | None, T: int, m: int, like: Tensor) -> Tensor:
    """u_init or zeros, ``(*batch, T, m)``."""
    if u_init is None:
        return like.new_zeros(T, m)
    check_floating("u_init", u_init)
    check_same_kind("x_init", like, [("u_init", u_init)])
    check_finite("u_init", u_init)
    if u_init.ndim < 2 or tuple(u_init.shape[-2:]) != (T, m):
        raise ValueError(f"u_init must have shape (*batch, {T}, {m}), got {tuple(u_init.shape)}")
    return u_init


def probe(x_init: Tensor, lower: Tensor, upper: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """A first state and control of the batch of all tensors."""
    first = torch.maximum(torch.minimum(start[..., 0, :], upper[..., 0, :]), lower[..., 0, :]).detach()
    batch = torch.broadcast_shapes(x_init.shape[:-1], first.shape[:-1])
    return x_init.detach().expand(*batch, x_init.shape[-1]), first.expand(*batch, first.shape[-1])
