"""The linear algebra of sparse quadratic programs: one factorisation serves the solver's steps and the derivative.

With the rows A₊ of the constraints that hold with equality, every step and every derivative solves

    [ P   A₊ᵀ ] [dx]   [r₁]
    [ A₊   0  ] [dy] = [r₂]                                                                       (1)

The matrix may be singular: multipliers that are not unique make it so, and it does not matter. What is factorised is

    [ P + ρI   A₊ᵀ ]
    [ A₊      −ρI  ]                                                                              (2)

after scaling rows and columns. It is quasidefinite, so that the pivots can be taken from the diagonal in any order that
keeps the factors sparse (Vanderbei 1995), and iterative refinement with it solves (1), if (1) has a solution, by the
one that is nearest to where it starts (the proximal method of multipliers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

REGULARISATION = 1e-8  # relative to the entries, which scaling brings to 1
SCALING_ROUNDS = 5
REFINEMENTS = 30
ROUNDING = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class System:
    """The matrix of (1), and the factors of (2) in scaled variables."""

    K: scipy.sparse.csc_array
    scale: np.ndarray
    factors: scipy.sparse.linalg.SuperLU

    def solve(self, r: np.ndarray) -> tuple[np.ndarray, float]:
        """w with K w = r, ``(size,)`` or ``(size, columns)``, and how far K w is from r, by its terms."""
        r = r.reshape(len(r), -1)
        w, best = np.zeros_like(r), np.zeros_like(r)
        size, least = np.abs(self.K), np.inf
        for _ in range(REFINEMENTS):
            w = w + self._step(r - self.K @ w)
            error = _relative(r - self.K @ w, np.abs(r) + size @ np.abs(w))
            if not error < least:
                break
            best, improved, least = w, error < 0.5 * least, error
            if least < ROUNDING or not improved:
                break
        return best, least

    def _step(self, r: np.ndarray) -> np.ndarray:
        d = self.scale[:, None]
        return d * self.factors.solve(d * r)


def _relative(error: np.ndarray, terms: np.ndarray) -> float:
    """The largest error, each relative to its terms; terms far below the others' are as good as 0."""
    floor = 1e-3 * terms.max(axis=0, initial=0.0) + np.finfo(np.float64).tiny
    return float((np.abs(error) / np.maximum(terms, floor)).max(initial=0.0))


def factorise(P: scipy.sparse.csc_array, A: scipy.sparse.csc_array) -> System:
    """Factors of (2) for the symmetric P and the rows A of (1)."""
    K = scipy.sparse.block_array([[P, A.T], [A, None]], format="csc")
    n, size = P.shape[0], K.shape[0]
    scale = equilibrate(K)
    D = scipy.sparse.diags_array(scale)
    sign = np.where(np.arange(size) < n, REGULARISATION, -REGULARISATION)
    scaled = (D @ K @ D + scipy.sparse.diags_array(sign)).tocsc()
    factors = scipy.sparse.linalg.splu(
        scaled, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return System(K, scale, factors)


def equilibrate(K: scipy.sparse.csc_array) -> np.ndarray:
    """d such that the largest entry of every row of diag(d) K diag(d) is near 1 (Ruiz 2001); 1 for an empty row."""
    entries = np.abs(K).tocoo()
    d = np.ones(K.shape[0])
    for _ in range(SCALING_ROUNDS):
        largest = np.zeros(K.shape[0])
        np.maximum.at(largest, entries.row, entries.data * d[entries.row] * d[entries.col])
        d /= np.sqrt(np.where(largest > 0, largest, 1))
    return d
