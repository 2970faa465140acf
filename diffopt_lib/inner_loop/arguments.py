"""What an inner loop is given: checks, in the words of :mod:`diffopt_lib.validate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from ..solution import OnFailure
from ..unroll import Optimizer, State
from ..validate import (
    check_callable,
    check_count,
    check_finite,
    check_floating,
    check_kind,
    check_limits,
    check_option,
    check_same_kind,
)

Derivative = Literal["unroll", "checkpoint", "truncated", "implicit"]


def check_data(data: Any, batch_dims: int) -> torch.Size:
    """The tasks' dimensions, which lead in every tensor of ``data``; floating-point entries are finite."""
    tensors = [(f"data{keystr}", x) for keystr, x in _named_leaves(data) if isinstance(x, Tensor)]
    for name, x in tensors:
        check_finite(name, x)
    if batch_dims == 0:
        return torch.Size()
    if not tensors:
        raise ValueError(f"data must have tensors with {batch_dims} leading dimension(s) of tasks, got none")
    batch = tensors[0][1].shape[:batch_dims]
    for name, x in tensors:
        if x.ndim < batch_dims or x.shape[:batch_dims] != batch:
            raise ValueError(
                f"every tensor of data must have the tasks in its first {batch_dims} dimension(s): {tensors[0][0]} has "
                f"shape {tuple(tensors[0][1].shape)}, {name} {tuple(x.shape)}"
            )
    return batch


def _named_leaves(data: Any) -> list[tuple[str, Any]]:
    return [("".join(map(str, path)), x) for path, x in tree_flatten_with_path(data)[0]]


def check_start(
    start: Mapping[str, Tensor], parameters: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], batch: torch.Size
) -> None:
    check_kind("start", start, Mapping, "a mapping from names to weights")
    missing = [name for name in shapes if name not in start]
    unknown = [name for name in start if name not in shapes]
    if missing or unknown:
        raise ValueError(
            f"start must have the weights that are adapted, {', '.join(shapes)}; "
            + (f"it lacks {missing[0]}" if missing else f"{unknown[0]} is none of them")
        )
    for name, shape in shapes.items():
        w = start[name]
        check_same_kind("the parameters", parameters[name], [(f"start[{name!r}]", w)])
        if w.shape not in (shape, batch + shape):
            raise ValueError(
                f"start[{name!r}] must have shape {tuple(shape)} or {tuple(batch + shape)}, got {tuple(w.shape)}"
            )
        check_finite(f"start[{name!r}]", w)


def check_step(optimizer: Optimizer, y: Tensor, memory: State) -> None:
    """A step is like y: a learning rate of another shape or dtype would make other weights of these, without a word."""
    wanted = f"optimizer must take steps of the shape and dtype of the weights, {tuple(y.shape)} {y.dtype}, got"
    rates = "a learning rate has shape (), (n,) or (*batch, 1) and their dtype"
    try:
        step, _ = optimizer.update(0, torch.zeros_like(y), memory)
    except RuntimeError as error:  # shapes that do not broadcast
        raise ValueError(f"{wanted} none: {rates} ({error})") from error
    if step.shape != y.shape or step.dtype != y.dtype:
        raise ValueError(f"{wanted} {tuple(step.shape)} {step.dtype}: {rates}")


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that require a gradient, all floating point and of one dtype."""
    parameters: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("module must have parameters that require a gradient, got none")
    (first, reference), *_ = parameters.items()
    check_floating(f"the parameter {first}", reference)
    check_same_kind(f"the parameter {first}", reference, ((f"the parameter {n}", p) for n, p in parameters.items()))
    for name, p in parameters.items():
        check_finite(f"the parameter {name}", p)
    return parameters


def check_options(
    module: object,
    loss: object,
    steps: object,
    gradient: object,
    truncate: object,
    batch_dims: object,
    tolerance: object,
    solve: object,
    on_failure: object,
) -> None:
    check_kind("module", module, nn.Module, "a torch.nn.Module")
    check_callable("loss", loss)
    check_count("steps", steps)
    check_option("gradient", gradient, get_args(Derivative))
    check_count("batch_dims", batch_dims)
    check_option("on_failure", on_failure, get_args(OnFailure))
    check_limits(tolerance, None)
    if (gradient == "truncated") != (truncate is not None):
        raise ValueError(f'truncate belongs to gradient="truncated", got {truncate!r} with gradient={gradient!r}')
    if truncate is not None:
        check_count("truncate", truncate)
    for name, value in (("tolerance", tolerance), ("solve", solve)):
        if value is not None and gradient != "implicit":
            raise ValueError(f'{name} belongs to gradient="implicit", got gradient={gradient!r}')
    if solve is not None:
        check_callable("solve", solve)
