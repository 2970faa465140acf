"""The residual map of a sparse cone program, whose root is its solution, and systems with the derivative of that map.

With y = Π_{K*}(v) and s = y − v, which are in their cones and orthogonal for any v, the optimality conditions are

    R(x, v) = (Px + q + Aᵀy,   Ax + s − b) = 0                                                    (1)

as in :mod:`diffopt_lib.layers.cone.derivative`; the systems are solved by :mod:`.system`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ...batch.shapes import flatten_whole
from ...linear import LinearOperator
from ...solution import SolverError, failed_indices
from ..cone.derivative import with_projection_derivative
from ..cones.product import Cones
from .pattern import Pattern
from .system import Slope, System

# A derivative's system that is solved no better than this has no solution.
SOLVABLE = 1e-7


def residual(structure: Structure, z: Tensor, P: Tensor, q: Tensor, A: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Eq. (1) for z ``(*batch, n + m)`` with the slack s; P and A are the values of their patterns' entries."""
    x, v = z.split(structure.A.shape[::-1], dim=-1)
    y = v + with_projection_derivative(s, v, structure.cones)
    Px = 0.5 * (structure.P.times(P, x) + structure.P.T.times(P, x))
    return torch.cat([Px + q + structure.A.T.times(A, y), structure.A.times(A, x) + y - v - b], dim=-1)


class Structure:
    """What the programs of a batch share, and their factorised systems, kept while the numbers stay the same.

    Attributes:
        P, A: the patterns.
        cones: K.
    """

    def __init__(self, patterns: tuple[Pattern, Pattern], cones: Cones):
        self.P, self.A = patterns
        self.cones = cones
        self.kept: dict[int, tuple[Sequence[np.ndarray], System]] = {}

    def matrices(self, P: np.ndarray, A: np.ndarray) -> tuple[scipy.sparse.csc_array, scipy.sparse.csc_array]:
        """P, symmetric, and A of one program."""
        matrix = self.P.matrix(P)
        return (0.5 * (matrix + matrix.T)).tocsc(), self.A.matrix(A)

    def system(self, element: int, P: np.ndarray, A: np.ndarray, v: np.ndarray) -> System:
        """The system of one element with these values at v: for a polyhedron it depends on the active set alone."""
        slope = Slope.at(v, self.cones)
        numbers, system = self.kept.get(element, ((), None))
        if system is None or not (system.slope.equals(slope) and all(map(np.array_equal, numbers, (P, A)))):
            system = System.factorise(*self.matrices(P, A), slope)
            self.kept[element] = (P, A), system
        return system

    def solve(self, operator: LinearOperator, rhs: Tensor) -> Tensor:
        """D R w = rhs, or its transpose."""
        batch, n = rhs.shape[:-1], self.A.shape[1]
        z, P, _, A, *_ = (flatten_whole(t, 1, batch).detach().cpu().numpy() for t in operator.parameters)
        r = flatten_whole(rhs, 1, batch).detach().cpu().numpy()
        found, unsolved = np.full_like(r, np.nan), torch.zeros(len(r), dtype=torch.bool)
        for i in range(len(r)):
            if np.isfinite(r[i]).all():  # NaN of an element that failed stays NaN
                system = self.system(i, P[i], A[i], z[i, n:])
                solve = system.solve_transposed if operator.transposed else system.solve
                *parts, error = solve(r[i, :n], r[i, n:])
                found[i], unsolved[i] = np.concatenate(parts), not error < SOLVABLE
        if unsolved.any():
            reason = "the solution of the cone program is not unique, so it has no derivative."
            raise SolverError(reason, failed_indices(unsolved.reshape(batch)))
        return torch.as_tensor(found, dtype=rhs.dtype, device=rhs.device).reshape(rhs.shape)
