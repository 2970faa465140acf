"""The linear algebra of sparse cone programs: one factorisation serves the solver's steps and the derivative.

Every step and every derivative solves a system with the derivative of the residual map (:mod:`.derivative`),

    [ P    AᵀD   ] [dx]   [r₁]
    [ A   D − I  ] [dv] = [r₂]                                                                    (1)

or its transpose, where D = DΠ_{K*}(v) = V Λ Vᵀ is symmetric, block-diagonal over the cones, with 0 ≤ Λ ≤ 1. Put
B = VᵀA and w = Λ Vᵀ dv. The rows with λ = 0 (constraints that are not active) fall out, and what is left is symmetric:

    [ P    B₊ᵀ          ] [dx]   [ r₁     ]
    [ B₊   −(1 − Λ₊)/Λ₊ ] [w ] = [ Vᵀr₂ ₊ ]                                                        (2)

It may be singular: multipliers that are not unique make it so, and it does no harm. What is factorised is (2) with ±ρ
added to its diagonal, after scaling rows and columns. That matrix is quasidefinite, so the pivots can be taken from the
diagonal in any order that keeps the factors sparse (Vanderbei 1995), and iterative refinement with it finds, if (2) has
solutions, the one that is nearest to where it starts (the proximal method of multipliers).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch

from ..cones.product import Cones

REGULARISATIONS = (1e-7, 1e-5, 1e-3)  # relative to the entries, which scaling brings to 1
SCALING_ROUNDS = 5
REFINEMENTS = 30
ROUNDING = 4 * np.finfo(np.float64).eps
SMALLEST_WEIGHT = 1e-12  # a smaller λ is 0


@dataclass(frozen=True)
class Slope:
    """D = V Λ Vᵀ.

    Attributes:
        weights: Λ, ``(m,)``.
        vectors: V, or None for the identity.
    """

    weights: np.ndarray
    vectors: scipy.sparse.csc_array | None

    @classmethod
    def at(cls, v: np.ndarray, cones: Cones) -> Slope:
        """D at v ``(m,)``."""
        weights, vectors, turned = [], [], False
        point = torch.as_tensor(v)
        for block in cones.blocks:
            D = np.eye(block.size) - block.cone.jacobian(block.of(-point)).numpy()
            if block.size == 1:
                weights.append(D.ravel())
                vectors.append(scipy.sparse.eye_array(block.count))
                continue
            plain = np.abs(D - D[:, :1, :1] * np.eye(block.size)).max(axis=(1, 2)) < ROUNDING
            values, bases = np.linalg.eigh(np.where(plain[:, None, None], 0, D))
            weights.append(np.where(plain[:, None], D[:, 0, :1], values.clip(0, 1)).ravel())
            bases = np.where(plain[:, None, None], np.eye(block.size), bases)
            vectors.append(scipy.sparse.block_diag(list(bases)))
            turned = turned or not plain.all()
        V = scipy.sparse.csc_array(scipy.sparse.block_diag(vectors)) if turned else None
        return cls(np.concatenate([*weights, np.zeros(0)]), V)

    def equals(self, other: Slope) -> bool:
        one, two = (() if slope.vectors is None else slope.vectors.data for slope in (self, other))
        return np.array_equal(self.weights, other.weights) and np.array_equal(one, two)

    def turn(self, r: np.ndarray | scipy.sparse.csc_array) -> np.ndarray | scipy.sparse.csc_array:
        """Vᵀ r."""
        return r if self.vectors is None else self.vectors.T @ r

    def turn_back(self, r: np.ndarray) -> np.ndarray:
        """V r."""
        return r if self.vectors is None else self.vectors @ r


@dataclass(frozen=True)
class System:
    """The matrix (2) and its factors in scaled variables, with what leads from (1) to it."""

    slope: Slope
    B: scipy.sparse.csc_array
    on: np.ndarray
    K: scipy.sparse.csc_array
    scale: np.ndarray
    factors: scipy.sparse.linalg.SuperLU

    @classmethod
    def factorise(cls, P: scipy.sparse.csc_array, A: scipy.sparse.csc_array, slope: Slope) -> System:
        """Factors for the symmetric P, and A ``(m, n)``."""
        weights, B = slope.weights, scipy.sparse.csr_array(slope.turn(A))
        on = weights > SMALLEST_WEIGHT
        compliance = scipy.sparse.diags_array((1 - weights[on]) / weights[on])
        K = scipy.sparse.block_array([[P, B[on].T], [B[on], -compliance]], format="csc")
        scale = equilibrate(K)
        D = scipy.sparse.diags_array(scale)
        sign = np.where(np.arange(K.shape[0]) < P.shape[0], 1.0, -1.0)
        return cls(slope, B, on, K, scale, _quasidefinite_factors(D @ K @ D, sign))

    def solve(self, r_x: np.ndarray, r_v: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """dx and dv of (1), and how far the equations are from holding, relative to their terms."""
        weights, on, r = self.slope.weights, self.on, self.slope.turn(r_v)
        dx, w, error = self._refined(r_x, r[on])
        u = (self.B @ dx - r) / np.maximum(1 - weights, 0.5)  # where λ is small
        large = weights[on] >= 0.5
        u[on] = np.where(large, w / weights[on], u[on])
        return dx, self.slope.turn_back(u), error

    def solve_transposed(self, r_x: np.ndarray, r_v: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The same for the transposed matrix."""
        on, r = self.on, self.slope.turn(r_v)
        dx, w, error = self._refined(r_x + self.B[~on].T @ r[~on], r[on] / self.slope.weights[on])
        u = -r
        u[on] = w
        return dx, self.slope.turn_back(u), error

    def _refined(self, r_x: np.ndarray, r_w: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The solution of (2) by refinement, and its error."""
        r, size = np.concatenate([r_x, r_w]), np.abs(self.K)
        w, best, least = np.zeros_like(r), np.zeros_like(r), np.inf
        for _ in range(REFINEMENTS):
            w = w + self.scale * self.factors.solve(self.scale * (r - self.K @ w))
            error = _relative(r - self.K @ w, np.abs(r) + size @ np.abs(w))
            improved = error < 0.5 * least
            if error < least:
                best, least = w, error
            if least < ROUNDING or not improved:
                break
        return best[: len(r_x)], best[len(r_x) :], least


def _quasidefinite_factors(K: scipy.sparse.csc_array, sign: np.ndarray) -> scipy.sparse.linalg.SuperLU:
    """Factors of K + ρ diag(sign), for the smallest ρ that does not drown in rounding."""
    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    for rho in REGULARISATIONS[:-1]:
        with contextlib.suppress(RuntimeError):  # SuperLU met a pivot that is exactly 0
            return scipy.sparse.linalg.splu((K + scipy.sparse.diags_array(rho * sign)).tocsc(), **options)
    return scipy.sparse.linalg.splu((K + scipy.sparse.diags_array(REGULARISATIONS[-1] * sign)).tocsc(), **options)


def _relative(error: np.ndarray, terms: np.ndarray) -> float:
    """The largest error, each relative to its terms; terms far below the others' are as good as 0."""
    floor = 1e-3 * terms.max(initial=0.0) + np.finfo(np.float64).tiny
    return float((np.abs(error) / np.maximum(terms, floor)).max(initial=0.0))


def equilibrate(K: scipy.sparse.csc_array) -> np.ndarray:
    """d such that the largest entry of every row of diag(d) K diag(d) is near 1 (Ruiz 2001); 1 for an empty row."""
    entries = np.abs(K).tocoo()
    d = np.ones(K.shape[0])
    for _ in range(SCALING_ROUNDS):
        largest = np.zeros(K.shape[0])
        np.maximum.at(largest, entries.row, entries.data * d[entries.row] * d[entries.col])
        d /= np.sqrt(np.where(largest > 0, largest, 1))
    return d
