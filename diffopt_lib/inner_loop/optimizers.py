"""One optimizer for each part of a module, and numbers for its parts; a part is how parameters' names begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..unroll import Optimizer, State, check_optimizer
from ..validate import check_size, per_problem
from .weights import Layout

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """An optimizer that hands the vector of all weights part by part to others.

    Attributes:
        optimizers: one for each part.
        sizes: entries of each part.
        remembered: how many tensors each optimizer remembers.
    """

    optimizers: tuple[Optimizer, ...]
    sizes: tuple[int, ...]
    remembered: tuple[int, ...]

    def init(self, y: Tensor) -> State:
        parts = zip(self.optimizers, y.split(self.sizes, -1), strict=True)
        return tuple(m for optimizer, part in parts for m in optimizer.init(part))

    def update(self, k: int, g: Tensor, state: State) -> tuple[Tensor, State]:
        steps: list[Tensor] = []
        memory: list[Tensor] = []
        for optimizer, part, count in zip(self.optimizers, g.split(self.sizes, -1), self.remembered, strict=True):
            step, remembered = optimizer.update(k, part, state[len(memory) : len(memory) + count])
            steps.append(step)
            memory += remembered
        return torch.cat(steps, -1), tuple(memory)


def arrange(
    shapes: Mapping[str, torch.Size], optimizer: Optimizer | Mapping[str, Optimizer], like: Tensor
) -> tuple[Layout, Optimizer]:
    """The parameters that are adapted, part by part, and one optimizer for the vector of them all."""
    if not isinstance(optimizer, Mapping):
        check_optimizer(optimizer)
        return Layout(dict(shapes)), optimizer
    if not optimizer:
        raise ValueError("optimizer must name some part of the module, got an empty mapping")
    for part in optimizer.values():
        check_optimizer(part)
    owner = by_part("optimizer", optimizer, shapes)
    names = {part: [name for name in shapes if owner.get(name) == part] for part in optimizer}
    sizes = tuple(sum(shapes[name].numel() for name in names[part]) for part in optimizer)
    remembered = tuple(len(one.init(like.new_zeros(size))) for one, size in zip(optimizer.values(), sizes, strict=True))
    layout = Layout({name: shapes[name] for part in optimizer for name in names[part]})
    return layout, Parts(tuple(optimizer.values()), sizes, remembered)


def by_part(argument: str, parts: Mapping[str, object], names: Iterable[str]) -> dict[str, str]:
    """Which part every name belongs to, for those that belong to one: the longest key that it begins with.

    A key ends where a name has a point or ends: "0" and "0.weight" own 0.weight, and "" owns all that no other does.
    """
    owner = {}
    for name in names:
        keys = [key for key in parts if key == "" or name == key or name.startswith(f"{key}.")]
        if keys:
            owner[name] = max(keys, key=len)
    idle = [key for key in parts if key not in owner.values()]
    if idle:
        raise ValueError(
            f"{argument} has the key {idle[0]!r}, which is no trainable parameter's; there are {', '.join(names)}"
        )
    return owner


def coefficient(argument: str, value: object, layout: Layout, y: Tensor) -> Tensor | float:
    """A number, a tensor ``(*batch,)``, or a mapping from parts to these, as what multiplies y ``(*batch, n)``."""
    if not isinstance(value, Mapping):
        return _column(argument, value, y)
    owner = by_part(argument, value, layout.shapes)
    columns = {part: torch.as_tensor(_column(f"{argument}[{part!r}]", value[part], y)) for part in value}
    entries = [
        columns[owner[name]].to(y).expand(*y.shape[:-1], shape.numel()) if name in owner else torch.zeros_like(part)
        for (name, shape), part in zip(layout.shapes.items(), y.split(layout.sizes, -1), strict=True)
    ]
    return torch.cat(entries, -1)


def _column(argument: str, value: object, y: Tensor) -> Tensor | float:
    if not isinstance(value, Tensor):
        check_size(argument, value)
        return float(value)  # type: ignore[arg-type]
    number = per_problem(argument, value, y, "the parameters")
    if number.shape not in (torch.Size(), y.shape[:-1]):
        raise ValueError(
            f"{argument} must be a number or a tensor of shape () or {tuple(y.shape[:-1])}, one for each task, "
            f"got shape {tuple(number.shape)}"
        )
    return number.unsqueeze(-1)
