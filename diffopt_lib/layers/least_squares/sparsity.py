"""Which residuals depend on which unknowns, and how few products find a whole Jacobian once that is known.

Columns of J that share no row can be found together: J times the sum of their unit vectors has the entries of each in
rows of its own (Curtis, Powell & Reid 1974). The columns are coloured so that those of one colour share no row, and as
many products as there are colours give all entries. The same works for the Hessian, whose pattern is that of JᵀJ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from .manifolds import Euclidean, Manifold


@dataclass(frozen=True, eq=False)
class Sparsity:
    """The places of a Jacobian ``(m, n)`` that may differ from 0: n counts tangent coordinates.

    Attributes:
        rows, columns: of these places, no place twice.
        shape: (m, n).
    """

    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]
    _closed: dict[int, Sparsity] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, matrix: object) -> Sparsity:
        """From anything that scipy takes as a sparse matrix: where it isn't 0."""
        pattern = scipy.sparse.csr_array(matrix)
        pattern.sum_duplicates()
        pattern = pattern.tocoo()
        shape = (int(pattern.shape[0]), int(pattern.shape[1]))
        return cls(pattern.row.astype(np.int64), pattern.col.astype(np.int64), shape)

    @classmethod
    def of_terms(cls, unknowns: Tensor, block: int, dim: int, count: int) -> Sparsity:
        """E terms of ``block`` residuals each, term e on the points ``unknowns[e]`` of ``count`` points of ``dim``
        tangent coordinates: an edge of a pose graph has two. A negative number stands for a known point."""
        terms = unknowns.detach().cpu().numpy()
        e, i = np.broadcast_arrays(np.arange(len(terms))[:, None], terms)
        e, i = e[terms >= 0], i[terms >= 0]
        rows = (e[:, None, None] * block + np.arange(block)[None, :, None]).repeat(dim, 2)
        columns = (i[:, None, None] * dim + np.arange(dim)[None, None, :]).repeat(block, 1)
        ones = np.ones(rows.size)
        return cls.of(
            scipy.sparse.coo_array((ones, (rows.ravel(), columns.ravel())), shape=(len(terms) * block, count * dim))
        )

    @classmethod
    def detect(
        cls, residual: Callable[..., Tensor], y: Tensor, *x: Tensor, manifold: Manifold | None = None
    ) -> Sparsity:
        """Look at the Jacobian near y ``(*batch, ambient)``, at a random point: costs one dense Jacobian."""
        manifold = manifold or Euclidean(y.shape[-1])
        noise = torch.randn(manifold.dim, generator=torch.Generator().manual_seed(0), dtype=y.dtype).to(y.device)
        near = manifold.retract(y.detach(), 1e-3 * noise * (1 + manifold.size(y.detach())))

        def tangent(delta: Tensor) -> Tensor:
            return residual(manifold.retract(near, delta.expand(*near.shape[:-1], -1)), *x)

        J = torch.func.jacrev(tangent)(torch.zeros_like(noise)).detach()
        found = (J != 0).flatten(0, -3).any(0) if J.ndim > 2 else J != 0
        return cls.of(found.cpu().numpy())

    def closed(self, block: int) -> Sparsity:
        """With the rows of a block alike, as they are after a product with a block's weight."""
        if block == 1:
            return self
        if block not in self._closed:
            shape = (self.shape[0] // block, self.shape[1])
            ones = np.ones(len(self.rows))
            terms = scipy.sparse.coo_array((ones, (self.rows // block, self.columns)), shape=shape)
            self._closed[block] = Sparsity.of(scipy.sparse.kron(terms, np.ones((block, 1))))
        return self._closed[block]

    @cached_property
    def matrix(self) -> scipy.sparse.csr_array:
        """Ones at the places."""
        return scipy.sparse.csr_array((np.ones(len(self.rows)), (self.rows, self.columns)), shape=self.shape)

    @cached_property
    def gram(self) -> Sparsity:
        """Of JᵀJ, and of the Hessian of any function of the residuals; the diagonal is part of it."""
        return Sparsity.of(self.matrix.T @ self.matrix + scipy.sparse.eye_array(self.shape[1]))

    @cached_property
    def colours(self) -> np.ndarray:
        """A colour for every column, ``(n,)``: greedy, columns of many neighbours first."""
        neighbours = scipy.sparse.csr_array(self.matrix.T @ self.matrix)
        start, index = neighbours.indptr, neighbours.indices
        colours = np.full(self.shape[1], -1)
        for j in np.argsort(-np.diff(start), kind="stable"):
            taken = set(colours[index[start[j] : start[j + 1]]].tolist())
            colour = 0
            while colour in taken:
                colour += 1
            colours[j] = colour
        return colours

    def seeds(self, like: Tensor) -> Tensor:
        """One vector for each colour, ``(colours, n)``, 1 in its columns."""
        number = int(self.colours.max(initial=-1)) + 1
        seeds = np.zeros((number, self.shape[1]))
        seeds[self.colours, np.arange(self.shape[1])] = 1
        return torch.as_tensor(seeds, dtype=like.dtype, device=like.device)

    def expand(self, compressed: Tensor) -> Tensor:
        """The entries ``(k, entries)`` from the products with the seeds, ``(colours, k, m)``."""
        colour = torch.as_tensor(self.colours[self.columns], device=compressed.device)
        return compressed[colour, :, torch.as_tensor(self.rows, device=compressed.device)].mT
