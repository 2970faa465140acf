"""The Gauss–Newton matrix M = JᵀΩJ, Ω as in eq. (2) of :mod:`.model`, in three forms, and systems with it.

Each form says what M is times a vector, what its diagonal is, and solves (M + diag(shift)) d = b for the coordinates
that are free to move; the others get 0. Where the matrix is not positive definite the solution is NaN.

    Dense     M itself, ``(N, n, n)``, and its Cholesky factors
    Sparse    J found by few products (:mod:`.sparsity`), M as scipy's sparse matrix, one for each element, and SuperLU
    Products  nothing is formed: conjugate gradients on v ↦ Jᵀ(Ω(J v))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor
from torch.func import vmap

from ...batch.products import dot, times
from ...batch.rows import select
from .model import Linearisation, Model, columns
from .sparsity import Sparsity

PROBES = 12  # for an estimate of a diagonal
CG_TOLERANCE = 1e-10  # of a step, relative to the right-hand side


class Normal(Protocol):
    def times(self, v: Tensor) -> Tensor: ...
    def diagonal(self) -> Tensor: ...
    def solve(self, shift: Tensor, free: Tensor, b: Tensor) -> Tensor: ...


Form = Callable[[Model, Linearisation, Tensor], Normal]


def weigh(model: Model, at: Linearisation, v: Tensor) -> Tensor:
    """Ω v for v ``(..., N, m)``."""
    _, Wv = model.terms.weighted(v, model.weight)
    product = at.slope.unsqueeze(-1) * Wv
    if at.bend is not None:
        along = (at.force * v.unflatten(-1, at.force.shape[-2:])).sum(-1)
        product = product + (at.bend * along).unsqueeze(-1) * at.force
    return product.flatten(-2)


@dataclass(frozen=True)
class Dense:
    """M, ``(N, n, n)``."""

    M: Tensor

    @classmethod
    def of(cls, model: Model, at: Linearisation, y: Tensor) -> Dense:
        n = model.manifold.dim
        J = columns(at.push, torch.eye(n, dtype=y.dtype, device=y.device), len(y)).double()
        WJ = weigh(model, at, J)
        return cls(J.permute(1, 0, 2) @ WJ.permute(1, 2, 0))

    def times(self, v: Tensor) -> Tensor:
        return times(self.M, v)

    def diagonal(self) -> Tensor:
        return self.M.diagonal(dim1=-2, dim2=-1)

    def solve(self, shift: Tensor, free: Tensor, b: Tensor) -> Tensor:
        mask = free.to(b.dtype)
        K = mask.unsqueeze(-1) * self.M * mask.unsqueeze(-2) + torch.diag_embed(torch.where(free, shift, 1))
        L, info = torch.linalg.cholesky_ex(K)
        d = torch.cholesky_solve((mask * b).unsqueeze(-1), L).squeeze(-1)
        return torch.where((info == 0).unsqueeze(-1), d, torch.nan)


@dataclass(frozen=True, eq=False)
class Sparse:
    """M of every element, in scipy's hands."""

    matrices: list[scipy.sparse.csc_array]
    like: Tensor

    @staticmethod
    def form(sparsity: Sparsity) -> Form:
        """The form for a pattern."""

        def of(model: Model, at: Linearisation, y: Tensor) -> Sparse:
            pattern = sparsity.closed(model.terms.block)
            compressed = columns(at.push, pattern.seeds(y), len(y)).double()
            weighted = weigh(model, at, compressed)
            values, products = (pattern.expand(c).cpu().numpy() for c in (compressed, weighted))
            matrices = []
            for J_values, WJ_values in zip(values, products, strict=True):
                J, WJ = (to_matrix(pattern, v) for v in (J_values, WJ_values))
                matrices.append(scipy.sparse.csc_array(J.T @ WJ))
            return Sparse(matrices, at.gradient)

        return of

    def select(self, keep: Tensor) -> Sparse:
        return Sparse([M for M, kept in zip(self.matrices, keep.tolist(), strict=True) if kept], self.like[keep])

    def times(self, v: Tensor) -> Tensor:
        return self._each(lambda M, v: M @ v, v)

    def diagonal(self) -> Tensor:
        return self._each(lambda M, _: M.diagonal(), self.like)

    def solve(self, shift: Tensor, free: Tensor, b: Tensor) -> Tensor:
        def solve(M: scipy.sparse.csc_array, shift: np.ndarray, free: np.ndarray, b: np.ndarray) -> np.ndarray:
            factors = factorise(restrict(M, free) + scipy.sparse.diags_array(np.where(free, shift, 1.0)))
            return np.full_like(b, np.nan) if factors is None else factors.solve(np.where(free, b, 0.0))

        return self._each(solve, shift, free, b)

    def _each(self, f: Callable[..., np.ndarray], *vectors: Tensor) -> Tensor:
        rows = zip(self.matrices, *(v.cpu().numpy() for v in vectors), strict=True)
        found = np.array([f(*row) for row in rows]).reshape(self.like.shape)
        return torch.as_tensor(found, dtype=self.like.dtype, device=self.like.device)


def to_matrix(pattern: Sparsity, values: np.ndarray) -> scipy.sparse.csr_array:
    """The matrix of a pattern with these values."""
    return scipy.sparse.csr_array((values, (pattern.rows, pattern.columns)), shape=pattern.shape)


def restrict(M: scipy.sparse.csc_array, free: np.ndarray) -> scipy.sparse.csc_array:
    """M with the rows and columns that are not free empty."""
    if free.all():
        return M
    F = scipy.sparse.diags_array(free.astype(np.float64))
    return F @ M @ F


def factorise(M: scipy.sparse.csc_array) -> scipy.sparse.linalg.SuperLU | None:
    """SuperLU factors of a symmetric matrix with pivots from the diagonal; None unless it is positive definite.

    Elimination without row exchanges keeps the matrix symmetric, so the pivots have the signs of its eigenvalues.
    """
    try:
        factors = scipy.sparse.linalg.splu(
            scipy.sparse.csc_array(M),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # a pivot that is exactly 0
        return None
    definite = np.array_equal(factors.perm_r, factors.perm_c) and (factors.U.diagonal() > 0).all()
    return factors if definite else None


@dataclass(frozen=True, eq=False)
class Products:
    """v ↦ M v at points y of a model."""

    model: Model
    at: Linearisation
    y: Tensor

    @classmethod
    def of(cls, model: Model, at: Linearisation, y: Tensor) -> Products:
        return cls(model, at, y)

    def select(self, keep: Tensor) -> Products:
        model, y = select(self.model, keep), self.y[keep]
        return Products(model, model.linearise(y), y)

    def times(self, v: Tensor) -> Tensor:
        return self.at.pull(weigh(self.model, self.at, self.at.push(v).double())).double()

    def diagonal(self) -> Tensor:
        """An estimate, which tells units apart: E (Jᵀu)_j (JᵀΩu)_j = M_jj for random signs u, always the same ones."""
        m = self.at.force.flatten(-2).shape[-1]
        bits = torch.randint(2, (PROBES, 1, m), generator=torch.Generator().manual_seed(0))
        signs = (2.0 * bits - 1).to(self.at.force).expand(-1, len(self.y), -1)
        pulled, weighed = (vmap(self.at.pull)(u).double() for u in (signs, weigh(self.model, self.at, signs)))
        return (pulled * weighed).mean(0).abs()

    def solve(self, shift: Tensor, free: Tensor, b: Tensor) -> Tensor:
        mask = free.to(b.dtype)

        def product(v: Tensor) -> Tensor:
            return mask * self.times(mask * v) + shift * v

        curved = mask * self.diagonal() + shift
        return conjugate_gradients(
            product, mask * b, torch.where(curved > 0, 1 / torch.where(curved > 0, curved, 1), 1)
        )


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, unit: Tensor) -> Tensor:
    """A⁻¹ b for positive definite A known by its products, to CG_TOLERANCE or as near as 2 n steps come; ``unit`` is
    about the inverse of its diagonal."""
    x, r, z = torch.zeros_like(b), b, unit * b
    p, rz = z, dot(r, z, keepdim=True)
    target = CG_TOLERANCE**2 * rz
    for _ in range(2 * b.shape[-1] + 10):
        running = rz > target
        if not running.any():
            break
        Ap = product(p)
        curvature = dot(p, Ap, keepdim=True)
        running = running & (curvature > 0)
        step = torch.where(running, rz / torch.where(running, curvature, 1), 0)
        x, r = x + step * p, r - step * Ap
        z = unit * r
        after = torch.where(running, dot(r, z, keepdim=True), 0)
        p = z + torch.where(running, after / torch.where(running, rz, 1), 0) * p
        rz = after
    return x
