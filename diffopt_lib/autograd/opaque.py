"""Run an algorithm on plain tensors, hidden from every derivative, even inside ``torch.func`` transforms.

Iterative solvers ask questions of their data: has it converged, is this matrix singular? Inside ``torch.func.vmap``
such questions have no answer. But our algorithms are batched already, so a vmapped call is a call with one more batch
dimension: :func:`opaque` intercepts ``vmap`` and adds that dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .precision import without_autocast

Algorithm = Callable[..., tuple[Tensor, ...]]
InDims = tuple[int | None, ...]


def opaque(algorithm: Algorithm, *tensors: Tensor) -> tuple[Tensor, ...]:
    """``algorithm(*tensors)`` without a graph: a tuple of tensors that carry no derivative.

    Every output has the batch dimensions of the first tensor. The algorithm must touch no other tensors.
    """
    return _Opaque.apply(algorithm, None, *tensors)


def opaque_function(
    algorithm: Algorithm, f: Callable[..., Tensor], state: Tensor, *parameters: Tensor
) -> tuple[Tensor, ...]:
    """:func:`opaque` for ``algorithm(f, state, *parameters)`` with a batched function ``f(state, *parameters)``."""
    return _Opaque.apply(algorithm, f, state, *parameters)


def add_batch_dim(
    f: Callable[..., Tensor], batch_size: int, in_dims: InDims, tensors: tuple[Any, ...]
) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """A vmapped call f(*tensors) in plain terms: f and its tensors with one more batch dimension in front.

    Options of f, which are no tensors, stay as they are.
    """
    dims = (0, *(None if dim is None else 0 for dim in in_dims[1:]))

    def batched(first: Tensor, *others: Tensor, **options: Any) -> Tensor:
        shared = (x.squeeze(0) if dim is None else x for x, dim in zip(others, in_dims[1:], strict=True))
        return torch.func.vmap(partial(f, **options), in_dims=dims)(first, *shared)

    return batched, _with_batch_dim(batch_size, in_dims, tensors)


def _with_batch_dim(batch_size: int, in_dims: InDims, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first tensor always gets the whole dimension. Of the others, those that are not vmapped get a 1 there, so
    that an algorithm that knows the shapes of its tensors finds their batch dimensions aligned."""
    first, *others = tensors
    first = first.expand(batch_size, *first.shape) if in_dims[0] is None else first.movedim(in_dims[0], 0)
    others = [x.unsqueeze(0) if dim is None else x.movedim(dim, 0) for x, dim in zip(others, in_dims[1:], strict=True)]
    return first, *others


def batch_first(info: Any, in_dims: InDims, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors of a vmapped call of a function that is batched already: each with the new dimension in front."""
    return [
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, in_dims, strict=True)
    ]


class _Opaque(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(algorithm, f, *tensors):
        return tuple(algorithm(*tensors) if f is None else algorithm(f, *tensors))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output)
        ctx.tensors, ctx.outputs = len(inputs) - 2, len(output)

    @staticmethod
    def backward(ctx, *cotangents):
        return None, None, *([None] * ctx.tensors)

    @staticmethod
    def jvp(ctx, *tangents):
        return (None,) * ctx.outputs

    @staticmethod
    def vmap(info, in_dims, algorithm, f, *tensors):
        if f is None:
            tensors = _with_batch_dim(info.batch_size, in_dims[2:], tensors)
        else:
            f, tensors = add_batch_dim(f, info.batch_size, in_dims[2:], tensors)
        out = _Opaque.apply(algorithm, f, *tensors)
        return out, tuple(0 for _ in out)
