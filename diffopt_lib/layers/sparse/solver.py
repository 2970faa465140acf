"""One sparse quadratic program: Clarabel finds a start, which is settled and confirmed here.

Clarabel (Goulart & Chen 2024) gives (x, y, s) to some eight digits. Which constraints are active, yᵢ > sᵢ, is a guess
that Newton's method on the optimality conditions then tests:

    [ P   A₊ᵀ ] [dx]     [ Px + q + Aᵀy ]
    [ A₊   0  ] [dy] = − [ A₊x − b₊     ],        y = 0 where a constraint is not active             (1)

A multiplier that becomes negative leaves the active set, a constraint that is violated enters it, and the guess is
right when none does. The solution then satisfies the conditions to rounding, which is checked row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED
from .derivative import Factorisations

ROUNDS = 20  # of changes of the active set
START = 1e-9  # Clarabel's tolerance
# What is 0 but for rounding: relative to the terms of its own row, and to those of the largest.
OWN, WHOLE = 1e-9, 1e-13
CERTIFICATE = 1e-6


@dataclass(frozen=True)
class Program:
    """min ½ xᵀPx + qᵀx s.t. Ax + s = b, where s = 0 in the first ``equalities`` rows and s ≥ 0 in the others."""

    P: scipy.sparse.csc_array
    q: np.ndarray
    A: scipy.sparse.csc_array
    b: np.ndarray
    equalities: int

    @property
    def is_equality(self) -> np.ndarray:
        return np.arange(len(self.b)) < self.equalities


@dataclass(frozen=True)
class Point:
    """A point, its active set, the status it has, and its error: the worst violation relative to its row's terms."""

    x: np.ndarray
    y: np.ndarray
    active: np.ndarray
    status: int
    error: float
    rounds: int


def solve(
    program: Program, factorisations: Factorisations, element: int, values: tuple[np.ndarray, np.ndarray]
) -> Point:
    """The solution, or what is wrong with the program.

    Args:
        program: the problem.
        factorisations: where the last system is kept for the derivative, as that of ``element``.
        values: of the entries of P and A, by which it is recognised.
    """
    if not all(np.isfinite(data).all() for data in (program.P.data, program.q, program.A.data)):
        return _failed(program, STUCK)
    start = clarabel(program)
    status = str(start.status).removeprefix("Almost")
    x, y, s = (np.asarray(v) for v in (start.x, start.z, start.s))
    if status == "PrimalInfeasible":
        return _failed(program, INFEASIBLE if is_infeasible(program, y) else STUCK)
    if status == "DualInfeasible":
        return _failed(program, UNBOUNDED if is_unbounded(program, x) else STUCK)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return _failed(program, STUCK)
    return settle(program, x, y, (y > s) | program.is_equality, factorisations, element, values)


def settle(
    program: Program,
    x: np.ndarray,
    y: np.ndarray,
    active: np.ndarray,
    factorisations: Factorisations,
    element: int,
    values: tuple[np.ndarray, np.ndarray],
) -> Point:
    """Steps (1) with the active set that they confirm or correct."""
    n = len(x)
    for k in range(1, ROUNDS + 1):
        system = factorisations.at(element, *values, active)
        y = np.where(active, y, 0)
        for _ in range(2):  # the second takes away what the first left of a start that was far
            r = np.concatenate([stationarity(program, x, y), (program.A @ x - program.b)[active]])
            step = system.solve(-r)[0][:, 0]
            x = x + step[:n]
            y[active] += step[n:]
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            break
        violated, negative, error = violations(program, x, y)
        wrong = np.where(active, negative & ~program.is_equality, violated)
        if not wrong.any():
            return Point(x, y, active, SOLVED if error <= OWN else STUCK, error, k)
        active = active ^ wrong
    return _failed(program, STUCK)


def stationarity(program: Program, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return program.P @ x + program.q + program.A.T @ y


def violations(program: Program, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Constraints that x violates, multipliers that are negative, both by more than rounding, and the worst error.

    An error counts relative to the terms that were added up to get it. A negative multiplier counts by what it adds to
    the stationarity of the variables in its row.
    """
    P, A = np.abs(program.P), np.abs(program.A)
    of_rows = np.abs(program.b) + A @ np.abs(x)
    of_columns = np.abs(program.q) + P @ np.abs(x) + A.T @ np.abs(y)
    row_unit = of_rows + WHOLE / OWN * (np.asarray(A.max(axis=1).todense()).ravel() * np.abs(x).max(initial=0.0))
    column_unit = of_columns + WHOLE / OWN * of_columns.max(initial=0.0) + np.finfo(np.float64).tiny
    row_unit = row_unit + np.finfo(np.float64).tiny
    excess = (program.A @ x - program.b) / row_unit
    excess = np.where(program.is_equality, np.abs(excess), np.maximum(excess, 0))
    share = (scipy.sparse.diags_array(1 / column_unit) @ A.T).max(axis=0).todense()
    sign = np.where(program.is_equality, 0, np.maximum(-y, 0)) * np.asarray(share).ravel()
    gradient = np.abs(stationarity(program, x, y)) / column_unit
    error = max(float(part.max(initial=0.0)) for part in (excess, sign, gradient))
    return excess > OWN, sign > OWN, error


def is_infeasible(program: Program, y: np.ndarray) -> bool:
    """Whether y proves that no x is feasible: Aᵀy = 0, y ≥ 0 for inequalities, bᵀy < 0, up to rounding."""
    y = np.where(program.is_equality, y, np.maximum(y, 0))
    terms = np.abs(program.A.T) @ np.abs(y)
    balanced = np.abs(program.A.T @ y) <= CERTIFICATE * terms.max(initial=0.0)
    return bool(balanced.all() and program.b @ y < -CERTIFICATE * (np.abs(program.b) @ np.abs(y)))


def is_unbounded(program: Program, x: np.ndarray) -> bool:
    """Whether the objective falls for ever along x: Px = 0, Ax = 0 or ≤ 0, qᵀx < 0, up to rounding."""
    Ax = program.A @ x
    rows = np.where(program.is_equality, np.abs(Ax), Ax) <= CERTIFICATE * (np.abs(program.A) @ np.abs(x))
    flat = np.abs(program.P @ x) <= CERTIFICATE * (np.abs(program.P) @ np.abs(x))
    return bool(rows.all() and flat.all() and program.q @ x < -CERTIFICATE * (np.abs(program.q) @ np.abs(x)))


def clarabel(program: Program) -> Any:
    """Clarabel's solution of a program."""
    import clarabel as package

    settings = package.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = START
    e, m = program.equalities, len(program.b)
    cones = [package.ZeroConeT(e)] * (e > 0) + [package.NonnegativeConeT(m - e)] * (m > e)
    P, A = (scipy.sparse.csc_matrix(matrix) for matrix in (scipy.sparse.triu(program.P), program.A))
    return package.DefaultSolver(P, program.q, A, program.b, cones, settings).solve()


def _failed(program: Program, status: int) -> Point:
    m, n = program.A.shape
    return Point(np.full(n, np.nan), np.full(m, np.nan), np.ones(m, dtype=bool), status, np.nan, 0)
