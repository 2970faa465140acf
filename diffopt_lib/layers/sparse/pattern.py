"""Sparse matrices as torch sees them: a fixed pattern, and the values of its entries, which have batch dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Where the entries of a matrix are that may differ from 0.

    Attributes:
        rows, columns: of the entries, in the order of their values; no place occurs twice.
        shape: of the matrix.
    """

    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]

    @property
    def T(self) -> Pattern:
        return Pattern(self.columns, self.rows, self.shape[::-1])

    @property
    def density(self) -> float:
        return len(self.rows) / max(math.prod(self.shape), 1)

    def times(self, values: Tensor, v: Tensor) -> Tensor:
        """M v ``(*batch, rows)`` for the values of M ``(*batch, entries)`` and v ``(*batch, columns)``."""
        rows, columns = (torch.as_tensor(index, device=v.device) for index in (self.rows, self.columns))
        terms = values * v[..., columns]
        return terms.new_zeros(*terms.shape[:-1], self.shape[0]).index_add(-1, rows, terms)

    def matrix(self, values: np.ndarray) -> scipy.sparse.csc_array:
        """One matrix, by its values ``(entries,)``."""
        return scipy.sparse.csc_array((values, (self.rows, self.columns)), shape=self.shape)
