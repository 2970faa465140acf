"""Sparse maps between the vectors of CVXPY and tensors, as modules whose numbers are never rounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Exact(torch.nn.Module):
    """A module with constants that follow it to a device, but keep their dtype when it is cast.

    They state a problem: a network in half precision must not round the problem that one of its layers solves.
    """

    def __init__(self, **constants: np.ndarray | None):
        super().__init__()
        self.constants = {name: torch.as_tensor(value) for name, value in constants.items() if value is not None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.constants = {name: t.to(fn(t.new_empty(0)).device) for name, t in self.constants.items()}
        return super()._apply(fn, recurse)

    def on(self, device: torch.device, name: str) -> Tensor:
        """A constant where it is needed."""
        return self.constants[name].to(device)


class AffineMap(Exact):
    """An affine function of θ with few nonzero coefficients: from (θ, 1) ``(*batch, size)`` to ``(*batch, *shape)``.

    Where it does not depend on θ at all the result has no batch dimensions, so that the solver can share it.

    Attributes:
        places: of the entries that are not always 0, in the result flattened row by row, ascending.
    """

    def __init__(self, row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, ...], size: int):
        self.places, slot = np.unique(np.asarray(row, dtype=np.int64), return_inverse=True)
        column = np.asarray(column, dtype=np.int64)
        super().__init__(places=self.places, slot=slot, column=column, value=np.asarray(value, dtype=np.float64))
        self.shape: tuple[int, ...] = shape
        self.is_constant = bool((column == size - 1).all())

    def entries(self, theta: Tensor) -> Tensor:
        """The entries at ``places``, ``(*batch, len(places))``."""
        if self.is_constant:
            theta = theta.new_ones(theta.shape[-1])
        slot, column, value = (self.on(theta.device, name) for name in ("slot", "column", "value"))
        terms = theta[..., column] * value.to(theta.dtype)
        return theta.new_zeros(*terms.shape[:-1], len(self.places)).index_add(-1, slot, terms)

    def forward(self, theta: Tensor) -> Tensor:
        entries = self.entries(theta)
        flat = theta.new_zeros(*entries.shape[:-1], math.prod(self.shape))
        return flat.index_copy(-1, self.on(theta.device, "places"), entries).unflatten(-1, self.shape)


class Entries(Exact):
    """Reads entries of a vector in a new order and shape, times a factor; entries without a source have the factor 0.

    Where there is a ``mirror`` the entry is the mean of two.
    """

    def __init__(self, index: np.ndarray, factor: np.ndarray | None = None, mirror: np.ndarray | None = None):
        flat = None if mirror is None else mirror.reshape(-1).astype(np.int64)
        super().__init__(index=index.reshape(-1).astype(np.int64), factor=factor, mirror=flat)
        self.shape = tuple(index.shape)

    def forward(self, vector: Tensor) -> Tensor:
        """``(*batch, size)`` to ``(*batch, *shape)``."""
        picked = vector[..., self.on(vector.device, "index")]
        if "mirror" in self.constants:
            picked = 0.5 * (picked + vector[..., self.on(vector.device, "mirror")])
        picked = picked.reshape(vector.shape[:-1] + self.shape)
        if "factor" in self.constants:
            picked = picked * self.on(vector.device, "factor").to(picked.dtype)
        return picked
