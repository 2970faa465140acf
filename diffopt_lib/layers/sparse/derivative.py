"""The optimality conditions of a sparse quadratic program, and the linear system of its derivative.

For z = (x, y), and the set of constraints that hold with equality as the solver has found it,

    R(z) = ( Px + q + Aᵀy,   Ax − b where a constraint is active, −y elsewhere )                   (1)

D_z R and its transpose lead to the system of :mod:`.system` once the rows of inactive constraints are eliminated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ...batch.shapes import flatten_whole
from ...linear import LinearOperator
from ...solution import SolverError, failed_indices
from .pattern import Pattern
from .system import System, factorise

# A derivative's system that is solved no better than this has no solution.
SOLVABLE = 1e-7


def residual(
    patterns: tuple[Pattern, Pattern], z: Tensor, P: Tensor, q: Tensor, A: Tensor, b: Tensor, active: Tensor
) -> Tensor:
    """Eq. (1) for z ``(*batch, n + m)``; P and A are the values of their patterns' entries."""
    of_P, of_A = patterns
    x, y = z.split(of_A.shape[::-1], dim=-1)
    Px = 0.5 * (of_P.times(P, x) + of_P.T.times(P, x))
    stationarity = Px + q + of_A.T.times(A, y)
    return torch.cat([stationarity, torch.where(active, of_A.times(A, x) - b, -y)], dim=-1)


def symmetric(M: scipy.sparse.csc_array) -> scipy.sparse.csc_array:
    return (0.5 * (M + M.T)).tocsc()


class Factorisations:
    """The factorised systems of a batch, made where they are needed first and kept while the numbers stay the same.

    Args:
        patterns: of P and A.
    """

    def __init__(self, patterns: tuple[Pattern, Pattern]):
        self.patterns = patterns
        self.kept: dict[int, tuple[Sequence[np.ndarray], System]] = {}

    def at(self, element: int, P: np.ndarray, A: np.ndarray, active: np.ndarray) -> System:
        """The system of one element with these values and this active set."""
        numbers, system = self.kept.get(element, ((), None))
        if system is None or not all(map(np.array_equal, numbers, (P, A, active))):
            of_P, of_A = self.patterns
            system = factorise(symmetric(of_P.matrix(P)), of_A.matrix(A).tocsr()[active].tocsc())
            self.kept[element] = (P, A, active), system
        return system

    def solve(self, operator: LinearOperator, rhs: Tensor) -> Tensor:
        """D_z R w = rhs, or its transpose, for the residual (1)."""
        _, *tensors = operator.parameters
        batch = rhs.shape[:-1]
        P, _, A, _, active = (flatten_whole(t, 1, batch).detach().cpu().numpy() for t in tensors)
        r = flatten_whole(rhs, 1, batch).detach().cpu().numpy()
        solve_one = partial(self._solve_one, transposed=operator.transposed)
        parts = [solve_one(i, P[i], A[i], active[i], r[i]) for i in range(len(r))]
        if bad := [i for i, (_, solvable) in enumerate(parts) if not solvable]:
            failed = torch.zeros(len(r), dtype=torch.bool)
            failed[bad] = True
            raise SolverError(
                "the solution of the quadratic program is not unique, so it has no derivative.",
                failed_indices(failed.reshape(batch)),
            )
        found = np.stack([w for w, _ in parts]) if parts else r
        return torch.as_tensor(found, dtype=rhs.dtype, device=rhs.device).reshape(rhs.shape)

    def _solve_one(
        self, i: int, P: np.ndarray, A: np.ndarray, active: np.ndarray, r: np.ndarray, transposed: bool
    ) -> tuple[np.ndarray, bool]:
        """The solution for one element, and whether there is one. NaN of an element that failed stays NaN."""
        if not np.isfinite(r).all():
            return np.full_like(r, np.nan), True
        matrix = self.patterns[1].matrix(A)
        n = matrix.shape[1]
        r_x, r_y = r[:n], r[n:]
        if not transposed:
            r_x = r_x + matrix.T @ np.where(active, 0, r_y)
        w, error = self.at(i, P, A, active).solve(np.concatenate([r_x, r_y[active]]))
        x = w[:n, 0]
        y = matrix @ x - r_y if transposed else -r_y
        y[active] = w[n:, 0]
        return np.concatenate([x, y]), error < SOLVABLE
