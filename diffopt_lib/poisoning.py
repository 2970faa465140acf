"""Training data moved so that the model fitted to them does badly.

    max_δ  loss(θ*(data + δ))   s.t.   ‖δᵢ‖ ≤ radius for every movable point, δᵢ = 0 for the others           (1)

where θ* is any fit that can be differentiated with respect to its data.

Source: Biggio, Nelson & Laskov, Poisoning attacks against support vector machines, 2012.
Chapter: book/2_differentiable/09_sensitivity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from .autograd.precision import full_precision
from .batch.products import unit
from .validate import check_callable, check_count, check_finite, check_floating, check_kind

Fit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Poisoning:
    """What an attack found.

    Attributes:
        data: the training data that hurt most among those tried, of the shape of the data.
        loss: the loss after fitting to the data of each step, ``(steps + 1, *batch)``; the first is without an attack.
    """

    data: Tensor
    loss: Tensor


@full_precision
def poison(
    fit: Fit,
    loss: Callable[[Tensor], Tensor],
    data: Tensor,
    radius: float,
    *,
    movable: Tensor | None = None,
    steps: int = 30,
    step_size: float | None = None,
) -> Poisoning:
    """Eq. (1) of this module by projected gradient ascent through the fit.

    Every point moves along its own gradient, a step that shrinks linearly to 0, and back into its ball. The problem is
    not concave: this is an attack, and no bound on what attacks can do.

    Args:
        fit: maps data ``(*batch, n, d)`` to θ*; anything differentiable, :func:`.layers.linear_svm` as well.
        loss: maps θ* to ``(*batch,)``.
        data: the training points.
        radius: of the balls, in the units of the data, > 0.
        movable: which points may be moved, bool, ``(*batch, n)`` or ``(n,)``; all if absent.
        steps: number of steps, at least 0; there is one fit more.
        step_size: length of the first step, > 0, in the units of the data; a quarter of the radius if absent.

    Raises:
        ValueError: bad shapes, dtypes or numbers; NaN or infinite input; a loss of another shape than ``(*batch,)``.
    """
    check_callable("fit", fit)
    check_callable("loss", loss)
    check_floating("data", data)
    if data.ndim < 2:
        raise ValueError(f"data must have shape (*batch, n, d), got {tuple(data.shape)}")
    check_finite("data", data)
    check_kind("radius", radius, Real, "a number")
    length = radius / 4 if step_size is None else step_size
    for name, size in (("radius", radius), ("step_size", length)):
        check_kind(name, size, Real, "a number")
        if not 0 < size < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {size}")
    check_count("steps", steps)
    if movable is not None:
        _check_movable(movable, data)
    data = data.detach()
    free = data.new_ones(()) if movable is None else movable.unsqueeze(-1).to(data.dtype)

    delta = torch.zeros_like(data)
    best, best_loss, losses = data, data.new_tensor(-torch.inf), []
    for k in range(steps + 1):
        value, gradient = value_and_gradient(lambda x: loss(fit(x)), data + delta, data.shape[:-2])
        losses.append(value)
        better = (value > best_loss).reshape(*value.shape, 1, 1)
        best, best_loss = torch.where(better, data + delta, best), torch.maximum(value, best_loss)
        moved = delta + length * (1 - k / steps) * free * unit(gradient) if k < steps else delta
        delta = moved * (radius / _norm(moved).clamp_min(radius))
    return Poisoning(best, torch.stack(losses))


def value_and_gradient(f: Callable[[Tensor], Tensor], x: Tensor, batch: torch.Size) -> tuple[Tensor, Tensor]:
    """The loss f(x) ``(*batch,)`` and its gradient, for f that treats the elements of the batch independently."""

    def total(x):
        value = f(x)
        check_kind("loss", value, Tensor, "a function that returns a tensor")
        if value.shape != batch:
            raise ValueError(
                f"loss must return the batch dimensions {tuple(batch)} alone, got shape {tuple(value.shape)}"
            )
        return value.sum(), value

    gradient, value = torch.func.grad(total, has_aux=True)(x)
    return value, gradient


def _check_movable(movable: Tensor, data: Tensor) -> None:
    check_kind("movable", movable, Tensor, "a bool tensor")
    if movable.dtype != torch.bool:
        raise ValueError(f"movable must be a bool tensor, got {movable.dtype}")
    try:
        fits = torch.broadcast_shapes(movable.shape, data.shape[:-1]) == data.shape[:-1]
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"movable must have shape (*batch, n) or (n,) for data {tuple(data.shape)}, got {tuple(movable.shape)}"
        )


def _norm(v: Tensor) -> Tensor:
    return v.norm(dim=-1, keepdim=True)
