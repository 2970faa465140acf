"""The loop around a method of descent: every element of the batch converges on its own, and leaves when it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch.products import largest
from ..batch.rows import iterate
from ..solution import RUNNING, SOLVED, STUCK, UNBOUNDED, UNDEFINED, OnFailure, raise_failed
from .methods import Memory, Method
from .objective import Objective

FARTHEST = 1e12  # an entry of y larger than this means that the objective is unbounded below
LOWEST = -1e20  # a value of f lower than this means the same


class Iterate(NamedTuple):
    """y ``(k, n)``, f and ∇f there, the largest entry of ∇f, the method's memory, and whether y is good enough."""

    objective: Objective
    y: Tensor
    value: Tensor
    gradient: Tensor
    residual: Tensor
    memory: Memory
    converged: Tensor


class Result(NamedTuple):
    """What is known of an element when it leaves."""

    y: Tensor
    residual: Tensor
    iterations: Tensor
    status: Tensor
    memory: Memory


def descend(
    f: Callable[..., Tensor],
    y0: Tensor,
    x: tuple[Tensor, ...],
    method: Method,
    tolerance: float,
    max_iterations: int,
    on_failure: OnFailure,
) -> tuple[Tensor, ...]:
    """Iterate until every element has converged or failed.

    Returns (y, residual, iterations, converged, *memory), each with the batch dimensions of y0.
    """

    def look(at: Iterate, k: int) -> tuple[Iterate, Tensor, Result]:
        status = _judge(at)
        if k == max_iterations:
            status = torch.where(status == RUNNING, STUCK, status)
        return at, status != RUNNING, Result(at.y, at.residual, torch.full_like(status, k), status, at.memory)

    def step(at: Iterate) -> Iterate:
        y, memory, predicted = method.step(at.objective, at.y, at.value, at.gradient, at.memory)
        y, value, g = _step_back(at.objective, at.y, y)
        residual = largest(g.detach())
        # The next decrease of f would drown in rounding, and the gradient has stopped falling: no better can be had.
        rounding = 10 * torch.finfo(y.dtype).eps * value.abs()
        exhausted = (predicted <= rounding) & (residual > 0.5 * at.residual)
        return Iterate(at.objective, y, value, g, residual, memory, (residual <= tolerance) | exhausted)

    result = iterate(_begin(f, y0, x, method, tolerance), look, step, max_iterations)
    if on_failure == "raise":
        _raise_failed(result, y0.shape[:-1], tolerance)
    columns = (result.y, result.residual, result.iterations, result.status == SOLVED, *result.memory)
    return tuple(c.reshape((*y0.shape[:-1], *c.shape[1:])) for c in columns)


def _begin(f: Callable[..., Tensor], y0: Tensor, x: tuple[Tensor, ...], method: Method, tolerance: float) -> Iterate:
    objective, y = Objective.of(f, x, y0), y0.reshape(-1, y0.shape[-1])
    value, g = objective.value_and_gradient(y)
    residual = largest(g.detach())
    converged = residual <= tolerance
    if converged.any():
        converged &= method.is_minimum(objective, y)
    return Iterate(objective, y, value, g, residual, method.start(y, g), converged)


def _judge(at: Iterate) -> Tensor:
    """The status of every element, ``(k,)``."""
    unbounded = (largest(at.y.detach()) > FARTHEST) | (at.value < LOWEST)
    undefined = ~(torch.isfinite(at.value) & torch.isfinite(at.residual))
    status = torch.where(at.converged, SOLVED, RUNNING)
    return torch.where(unbounded, UNBOUNDED, torch.where(undefined, UNDEFINED, status))


def _step_back(objective: Objective, last: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, f and ∇f, with y moved halfway back to the last iterate as long as ∇f is not finite there.

    A step can end on the edge of where f is smooth, with f still finite: y log y at 0 has slope −∞.
    """
    for _ in range(50):
        value, g = objective.value_and_gradient(y)
        edge = torch.isfinite(value) & ~torch.isfinite(largest(g.detach()))
        if not edge.any():
            break
        y = torch.where(edge.unsqueeze(-1), (last + y) / 2, y)
    return y, value, g


def _raise_failed(result: Result, batch: torch.Size, tolerance: float) -> None:
    residual, iterations, status = (t.reshape(batch) for t in (result.residual, result.iterations, result.status))
    raise_failed(
        status,
        {
            UNBOUNDED: "f seems to be unbounded below: the iterates left every reasonable bound.",
            UNDEFINED: lambda failed: (
                f"f or its gradient is not finite (at iteration {iterations[failed].min().item()})."
            ),
            STUCK: lambda failed: (
                f"no convergence to a gradient of {tolerance:.1e} in {iterations[failed].max().item()} iterations "
                f"(it is {residual[failed].max().item():.1e})."
            ),
        },
    )
