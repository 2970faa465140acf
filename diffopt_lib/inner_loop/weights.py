"""Weights that an inner loop has reached, and a module that is called with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import register_pytree_node, tree_map

from ..unroll import State
from ..validate import check_callable
from .arguments import check_data
from .derivative import System


class Predict:
    """A module with other weights, called as the module is: what an inner loop hands to the caller's loss.

    Attributes:
        asked: whether the weights were used, by a call or by name.
    """

    def __init__(self, module: nn.Module, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor]):
        self.module = module
        self.buffers = buffers
        self.asked = False
        self._weights = weights

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """What stands in the place of the module's parameters, by name."""
        self.asked = True
        return self._weights

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.module, {**self.weights, **self.buffers}, args, kwargs)


def on_tasks(
    module: nn.Module, function: Callable[[Predict, Any], Any], data: Any, batch: torch.Size
) -> Callable[[Mapping[str, Tensor]], Any]:
    """weights ↦ function(predict, data) for weights ``(*batch, *shape)``, one task at a time and all of them at once.

    Every call works on a copy of the module's buffers: running statistics are read, and what a module in training mode
    writes into them is lost, for there is no one task whose statistics the module should keep.
    """

    def one(weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], data: Any) -> Any:
        return function(Predict(module, weights, {name: b.clone() for name, b in buffers.items()}), data)

    buffers = dict(module.named_buffers())
    if not batch:
        return lambda weights: one(weights, buffers, data)
    if batch.numel() == 1:  # without vmap a loop over one task takes two thirds of the time

        def only(weights: Mapping[str, Tensor]) -> Any:
            out = one({name: _first(w, batch) for name, w in weights.items()}, buffers, _first(data, batch))
            return tree_map(lambda x: x.reshape(batch + x.shape) if isinstance(x, Tensor) else x, out)

        return only
    dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, data)
    each = vmap(one, in_dims=(0, 0, dims), randomness="different")

    def flat(x: Any) -> Any:
        return x.reshape((batch.numel(), *x.shape[len(batch) :])) if isinstance(x, Tensor) else x

    def all_at_once(weights: Mapping[str, Tensor]) -> Any:
        # The reshaping belongs in here: make_explicit sees a tensor where a torch function takes it, and vmap is none.
        copies = {name: b.expand(batch.numel(), *b.shape).clone() for name, b in buffers.items()}
        out = each({name: flat(w) for name, w in weights.items()}, copies, tree_map(flat, data))
        return tree_map(lambda x: x.reshape(batch + x.shape[1:]), out)

    return all_at_once


def _first(tree: Any, batch: torch.Size) -> Any:
    """Tensors ``shape`` of those of the only task of a batch, ``(1, …, 1, *shape)``."""
    return tree_map(lambda x: x.reshape(x.shape[len(batch) :]) if isinstance(x, Tensor) else x, tree)


@dataclass(frozen=True)
class Layout:
    """Which parameters are adapted, and where each of them stands in the vector of them all."""

    shapes: Mapping[str, torch.Size]

    @property
    def sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes.values()]

    def join(self, weights: Mapping[str, Tensor], batch: torch.Size) -> Tensor:
        """``(*batch, n)`` of weights ``(*batch, *shape)`` or ``shape``."""
        parts = [
            weights[name].expand(batch + shape).reshape(*batch, shape.numel()) for name, shape in self.shapes.items()
        ]
        return torch.cat(parts, -1)

    def split(self, y: Tensor) -> dict[str, Tensor]:
        """Weights ``(*batch, *shape)`` of ``(*batch, n)``."""
        parts = zip(self.shapes.items(), y.split(self.sizes, -1), strict=True)
        return {name: part.reshape(y.shape[:-1] + shape) for (name, shape), part in parts}


class FastWeights(dict[str, Tensor]):
    """The weights an inner loop has reached, by name, each ``(*batch, *shape)``: what ``functional_call`` takes.

    Attributes:
        state: what the optimizer remembers, so that the loop can go on.
        steps: how many steps were taken, those of earlier loops included.
        centre: the weights that ``prox`` pulls towards, as one vector.
        residual: with ``gradient="implicit"``, ‖∇‖ of the inner objective relative to its scale, ``(*batch,)``.
        systems: with ``gradient="implicit"``, the linear systems that backward passes have solved so far.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        module: nn.Module,
        batch: torch.Size,
        state: State,
        steps: int,
        centre: Tensor,
        residual: Tensor | None = None,
        systems: list[System] | None = None,
    ):
        super().__init__(weights)
        self.module = module
        self.batch = batch
        self.state = state
        self.steps = steps
        self.centre = centre
        self.residual = residual
        self.systems = [] if systems is None else systems

    def evaluate(self, function: Callable[[Predict, Any], Any], data: Any) -> Any:
        """``function(predict, data)`` with these weights, with the dimensions of the tasks in front of what it returns.

        ``function`` is written for one task, as the loss of :func:`inner_loop` is, and may be that loss.
        """
        check_callable("function", function)
        if self.batch:
            batch = check_data(data, len(self.batch))
            if batch != self.batch:
                raise ValueError(f"data must be of the tasks of these weights, {tuple(self.batch)}, got {tuple(batch)}")
        return on_tasks(self.module, function, data, self.batch)(self)

    def detach(self) -> FastWeights:
        """The same without a graph: a loop that goes on from here is differentiated from here only."""
        return tree_map(lambda x: x.detach(), self)


def _flatten(fast: FastWeights) -> tuple[list[Any], tuple[Any, ...]]:
    residual = () if fast.residual is None else (fast.residual,)  # for vmap a None is no empty tree, but a leaf
    tensors = [list(fast.values()), fast.state, fast.centre, residual]
    return tensors, (tuple(fast), fast.module, fast.batch, fast.steps, fast.systems)


def _unflatten(tensors: Any, rest: tuple[Any, ...]) -> FastWeights:
    values, state, centre, residual = tensors
    names, module, batch, steps, systems = rest
    weights = dict(zip(names, values, strict=True))
    return FastWeights(weights, module, batch, state, steps, centre, residual[0] if residual else None, systems)


register_pytree_node(FastWeights, _flatten, _unflatten)  # so that vmap and the like take and return it
