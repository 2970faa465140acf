"""What happens at one time: cost, next state and constraints as one function of τ_t = (x_t, u_t), with derivatives.

    s_t(τ) = ( cost(x, u, t),   dynamics(x, u, t),   constraints(x, u, t) )                                (1)

One call gives everything that a rollout needs; one pull-back with the weights (1, λ_{t+1}, μ_t) gives the gradient of
the Hamiltonian, and two its Hessian, in which the second derivatives of the dynamics are weighted by the costates.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from ...autograd.closure import make_all_explicit
from ...batch.function import RowFunction
from .layout import Layout

TIME = 3  # where t is among the parameters (x_init, lower, upper, t, *hidden) of a stage


class Model(NamedTuple):
    """The stage (1) as ``f(tau, x_init, lower, upper, t, *hidden)`` of shape ``(*batch, 1 + n + k)``, or only those
    parts ``of`` it that are named; what the caller's functions close over, and the batch that they have."""

    f: Callable[..., Tensor]
    hidden: list[Tensor]
    layout: Layout
    batch: torch.Size


def make_model(
    cost: Callable[..., Tensor],
    dynamics: Callable[..., Tensor],
    constraints: Callable[..., Tensor] | None,
    x: Tensor,
    u: Tensor,
    horizon: int,
) -> Model:
    """Call everything once, at x ``(*batch, n)`` and u ``(*batch, m)``, to see what there is and whether it fits."""
    n, m = x.shape[-1], u.shape[-1]
    named = {"cost": cost, "dynamics": dynamics} | ({} if constraints is None else {"constraints": constraints})
    timed = {name: takes_time(f) for name, f in named.items()}
    t = torch.zeros((), dtype=torch.int64, device=x.device)
    calls = [(f, (x, u, t) if timed[name] else (x, u)) for name, f in named.items()]
    functions, hidden, values = make_all_explicit(*calls)
    explicit = dict(zip(named, functions, strict=True))
    _check_shapes(dict(zip(named, values, strict=True)), x)
    batch = torch.broadcast_shapes(values[0].shape, *(value.shape[:-1] for value in values[1:]), x.shape[:-1])
    _check_whole_batch(named, timed, x.expand(*batch, n), u.expand(*batch, m), t)
    k = values[2].shape[-1] if constraints is not None else 0
    last = max(horizon - 2, 0)  # the last next state that counts

    def f(
        tau: Tensor, _x: Tensor, _lower: Tensor, _upper: Tensor, t: Tensor, *hidden: Tensor, of: Any = named
    ) -> Tensor:
        def value(name: str) -> Tensor:
            when = t.clamp_max(last) if name == "dynamics" else t
            arguments = (tau[..., :n], tau[..., n:], when.reshape(())) if timed[name] else (tau[..., :n], tau[..., n:])
            part = explicit[name](*arguments, *hidden)
            part = part.unsqueeze(-1) if name == "cost" else part
            return part.expand(*tau.shape[:-1], part.shape[-1])

        return torch.cat([value(name) for name in of], dim=-1).to(tau.dtype)

    return Model(f, hidden, Layout(horizon, n, m, k), batch)


def takes_time(f: Callable[..., Any]) -> bool:
    """Whether f has a third argument, t, without a default."""
    try:
        parameters = inspect.signature(f.forward if isinstance(f, nn.Module) else f).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    required = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return len(required) >= 3


def with_time(f: Callable[..., Any]) -> Callable[..., Any]:
    """f(x, u) or f(x, u, t) as a function of all three."""
    return f if takes_time(f) else lambda x, u, t: f(x, u)


def _check_shapes(values: dict[str, Tensor], x: Tensor) -> None:
    for name, value in values.items():
        if name == "dynamics" and value.shape[-1:] != x.shape[-1:]:
            raise ValueError(f"dynamics(x, u) must have shape (*batch, {x.shape[-1]}), got {tuple(value.shape)}")
        of_batch = value.shape if name == "cost" else value.shape[:-1]
        try:
            torch.broadcast_shapes(of_batch, x.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"{name}(x, u) must have the batch dimensions of x, {tuple(x.shape[:-1])}, got {tuple(value.shape)}"
            ) from None


@torch.no_grad()
def _check_whole_batch(
    named: dict[str, Callable[..., Tensor]], timed: dict[str, bool], x: Tensor, u: Tensor, t: Tensor
) -> None:
    """That functions keep the batch: a cost of shape ``(*batch, 1)`` would make it grow, and one that adds up the
    batch, or constraints without the dimension k, would tie its elements together."""
    batch = tuple(x.shape[:-1])
    for name, f in named.items():
        value = f(x, u, t) if timed[name] else f(x, u)
        event = () if name == "cost" else tuple(value.shape[-1:])
        if tuple(value.shape) != batch + event or (name == "constraints" and not event):
            shape = {"cost": "(*batch)", "dynamics": "(*batch, n)"}.get(name, "(*batch, k)")
            raise ValueError(
                f"{name}(x, u) must have the shape {shape}, with the batch {batch} of x and of what it closes over, "
                f"got {tuple(value.shape)}"
            )


@dataclass(frozen=True)
class Stage:
    """The stage of every element of a flat batch: rows of τ ``(N, n + m)`` in, ``(N, 1 + n + k)`` out."""

    function: RowFunction
    layout: Layout

    @classmethod
    def of(cls, f: Callable[..., Tensor], layout: Layout, parameters: tuple[Tensor, ...], tau: Tensor) -> Stage:
        """f(tau, *parameters) for the batch of τ ``(*batch, n + m)``."""
        return cls(RowFunction(f, parameters, tau.shape[:-1], tau.detach().reshape(-1, tau.shape[-1])), layout)

    def select(self, keep: Tensor) -> Stage:
        return replace(self, function=self.function.select(keep))

    def only(self, name: str) -> Stage:
        """Of "cost" or "dynamics" alone: ``(N, 1)`` or ``(N, n)`` out."""
        return replace(self, function=replace(self.function, f=partial(self.function.f, of=[name])))

    def at(self, tau: Tensor, t: Tensor) -> Tensor:
        """At one time."""
        x = self.function.x
        return replace(self.function, x=(*x[:TIME], t, *x[TIME + 1 :]))(tau)

    def values(self, tau: Tensor) -> Tensor:
        """At all times: ``(T, N, n + m)`` to ``(T, N, 1 + n + k)``."""
        return vmap(self.at)(tau, torch.arange(len(tau), device=tau.device))

    def expand(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Values and Jacobians ``(T, N, 1 + n + k, n + m)``."""
        values, pull = vjp(self.values, tau)
        basis = torch.eye(values.shape[-1], dtype=tau.dtype, device=tau.device)
        rows = vmap(lambda e: pull(e.expand(values.shape))[0])(basis)
        return values, rows.movedim(0, -2)

    def hessian(self, tau: Tensor, weights: Tensor) -> Tensor:
        """Of weightsᵀ s_t, ``(T, N, n + m, n + m)``, for weights ``(T, N, 1 + n + k)``."""
        gradient, pull = vjp(lambda tau: vjp(self.values, tau)[1](weights)[0], tau)
        basis = torch.eye(tau.shape[-1], dtype=tau.dtype, device=tau.device)
        rows = vmap(lambda e: pull(e.expand(gradient.shape))[0])(basis)
        return rows.movedim(0, -2)
