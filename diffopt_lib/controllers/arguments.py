"""The tensors of a linear–quadratic problem: their times and batch dimensions, and whether they fit."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.shapes import align_batch, broadcast_batch
from ..validate import NO_BOUND, as_tensor, check_finite, check_floating, check_same_kind, values_visible

EVENT_DIMS = {"x_init": 1, "C": 3, "c": 2, "F": 3, "f": 2}  # the time among them


def check_problem(
    x_init: Tensor, C: Tensor, c: Tensor, F: Tensor, f: Tensor | None, horizon: int | None
) -> tuple[list[Tensor], torch.Size]:
    """The five arguments with a time, that of c being T, and aligned batch dimensions, 1 where shared; the batch."""
    check_floating("x_init", x_init)
    check_floating("F", F)
    f = F.new_zeros(F.shape[-2:-1]) if f is None else f
    named = dict(x_init=x_init, C=C, c=c, F=F, f=f)
    for name, t in named.items():
        check_floating(name, t)
        check_finite(name, t)
    check_same_kind("x_init", x_init, named.items())
    n, k = x_init.shape[-1] if x_init.ndim else 0, C.shape[-1] if C.ndim else 0
    if n == 0 or k <= n:
        raise ValueError(
            f"x_init must have shape (*batch, n) with n ≥ 1, and C (*batch, T, n + m, n + m) with m ≥ 1, "
            f"got {tuple(x_init.shape)} and {tuple(C.shape)}"
        )
    for name, event in dict(C=(k, k), c=(k,), F=(n, k), f=(n,)).items():
        if tuple(named[name].shape[-len(event) :]) != event:
            raise ValueError(f"{name} must end in the shape {event}, got {tuple(named[name].shape)}")
        if named[name].ndim == len(event):
            named[name] = named[name].unsqueeze(0)
    T = _horizon({name: named[name].shape[-d] for name, d in EVENT_DIMS.items() if name != "x_init"}, horizon)
    named["c"] = named["c"].expand(*named["c"].shape[:-2], T, k)
    for name in ("F", "f"):
        time = -EVENT_DIMS[name]
        if named[name].shape[time] == T:
            named[name] = named[name].narrow(time, 0, T - 1)
    arguments = [(name, t, EVENT_DIMS[name]) for name, t in named.items()]
    batch = broadcast_batch(arguments)
    return [align_batch(t, dims, len(batch)) for _, t, dims in arguments], batch


def _horizon(times: dict[str, int], horizon: int | None) -> int:
    """T, from the times of C and c, or from those of F and f."""
    T = horizon
    if T is None:
        T = max(times["C"], times["c"])
    if T == 1 and horizon is None:
        of_dynamics = max(times["F"], times["f"])
        if of_dynamics == 1:
            raise ValueError("no argument has a time dimension: horizon must say how many steps there are")
        T = of_dynamics + 1
    wrong = {name: time for name, time in times.items() if time not in ((1, T) if name in "Cc" else (1, T - 1, T))}
    if T < 1 or wrong:
        raise ValueError(
            f"with a horizon of T = {T}, C and c must have T or 1 times, F and f T − 1, T or 1, got "
            + ", ".join(f"{name} with {time}" for name, time in times.items())
        )
    return T


def read_bound(name: str, value: float | Tensor | None, default: float, like: Tensor, like_name: str) -> Tensor:
    """A bound, a number or a tensor, as a tensor like another argument; ±10²⁰ and ±∞ are none, which is ±∞ here."""
    bound = as_tensor(name, default if value is None else value, like, like_name)
    bound = torch.where(
        bound.abs() >= NO_BOUND, torch.copysign(torch.full_like(bound, torch.inf), bound.detach()), bound
    )
    if values_visible(bound) and (bound.isnan() | (bound == -default)).any():
        raise ValueError(
            f"{name} must be {'below +∞' if default < 0 else 'above −∞'} and not be NaN, got {_worst(bound)}"
        )
    return bound


def _worst(bound: Tensor) -> str:
    return "NaN" if bound.isnan().any() else f"{bound[bound.isinf()][0].item()}"


def check_order(lower_name: str, lower: Tensor, upper_name: str, upper: Tensor) -> None:
    """No lower bound is above its upper bound."""
    if values_visible(lower) and values_visible(upper) and (lower > upper).any():
        raise ValueError(
            f"{lower_name} must not be above {upper_name}, got a bound that is {(lower - upper).max():g} above"
        )
