"""One sparse cone program: Clarabel finds a start, which is settled and confirmed here.

Clarabel (Goulart & Chen 2024) gives (x, y, s) to some eight digits. Newton's method on the residual map R(x, v), eq.
(1) of :mod:`.derivative`, goes on from there at v = y − s. For a polyhedron each step solves the equations of a set of
active constraints, those with vᵢ > 0, and finds a better set; it has arrived when the set stays. At a root of R the
point is feasible, its multipliers are, and they are complementary, to rounding; the root is checked row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch

from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED
from ..cone.outside import or_nothing, row_order, spoken
from ..cones.product import Cones, project_rows
from .derivative import Structure

ROUNDS = 25
# Clarabel's tolerance and what is added to the diagonal of P for it: at first, and where that leads nowhere. The last
# one holds back what could run away at no cost.
STARTS = ((1e-9, 0.0), (1e-13, 0.0), (1e-11, 1e-7))
SETTLED, EXACT = 1e-9, 1e-14
# What is 0 but for rounding: relative to the terms of its own row, and to those of the largest.
FLOOR = 1e-4
GAP = 1e-7
CERTIFICATE = 1e-6


@dataclass(frozen=True)
class Program:
    """min ½ xᵀPx + qᵀx s.t. Ax + s = b, s ∈ K: the element of a batch, and the values of its entries."""

    element: int
    values: tuple[np.ndarray, np.ndarray]
    P: scipy.sparse.csc_array
    q: np.ndarray
    A: scipy.sparse.csc_array
    b: np.ndarray
    structure: Structure

    @property
    def cones(self) -> Cones:
        return self.structure.cones


@dataclass(frozen=True)
class Point:
    """x and v with the slack s = Π_K(−v), the error (the worst residual relative to its row's terms), the status."""

    x: np.ndarray
    v: np.ndarray
    s: np.ndarray
    error: float
    rounds: int
    status: int = SOLVED


def solve(program: Program) -> Point:
    """The solution, or what is wrong with the program."""
    if not all(np.isfinite(data).all() for data in (program.P.data, program.q, program.A.data)):
        return _failed(program, STUCK)
    for tolerance, weight in STARTS:
        status, x, y, s = clarabel(program, tolerance, weight)
        if status == "PrimalInfeasible" and is_infeasible(program, y):
            return _failed(program, INFEASIBLE)
        if status == "DualInfeasible" and is_unbounded(program, x):
            return _failed(program, UNBOUNDED)
        if not status.endswith("Infeasible") and (point := settle(program, x, y - s)).status == SOLVED:
            return point
    return _failed(program, STUCK)


def settle(program: Program, x: np.ndarray, v: np.ndarray) -> Point:
    """Newton's method on the residual map, from near a root."""
    best = _failed(program, STUCK)
    for k in range(ROUNDS):
        if not (np.isfinite(x).all() and np.isfinite(v).all()):
            break
        point, dual, primal = look(program, x, v, k)
        stalled = best.error <= SETTLED and not point.error < 0.1 * best.error
        if not point.error >= best.error:
            best = point
        if stalled or best.error <= EXACT:
            break
        dx, dv, _ = program.structure.system(program.element, *program.values, v).solve(-dual, -primal)
        x, v = x + dx, v + dv
    return best if best.error <= SETTLED and gap(program, best) <= GAP else _failed(program, STUCK)


def gap(program: Program, point: Point) -> float:
    """The duality gap xᵀPx + qᵀx + bᵀy relative to 1 + |objective|. Where x has run away in a direction that costs
    nothing, its residuals are small beside their terms, and this is not."""
    x, Px = point.x, program.P @ point.x
    value, linear = 0.5 * x @ Px + program.q @ x, program.q @ x + program.b @ (point.v + point.s)
    return float(abs(x @ Px + linear) / (1 + abs(value)))


def look(program: Program, x: np.ndarray, v: np.ndarray, rounds: int) -> tuple[Point, np.ndarray, np.ndarray]:
    """The point at (x, v) with its error, and the two parts of R there."""
    P, A, s = program.P, program.A, onto(-v, program.cones)
    y = v + s
    dual, primal = P @ x + program.q + A.T @ y, A @ x + s - program.b
    of_dual = np.abs(program.q) + np.abs(P) @ np.abs(x) + np.abs(A.T) @ np.abs(y)
    of_primal = np.abs(program.b) + np.abs(A) @ np.abs(x) + np.abs(s)
    of_dual = of_dual + FLOOR * of_dual.max(initial=0.0)
    largest = np.asarray(np.abs(A).max(axis=1).todense()).ravel()
    of_primal = of_primal + FLOOR * largest * np.abs(x).max(initial=0.0)
    error = max(_worst(dual, of_dual), _worst(primal, of_primal))
    return Point(x, v, s, error, rounds), dual, primal


def onto(v: np.ndarray, cones: Cones) -> np.ndarray:
    """Π_K(v)."""
    return project_rows(torch.as_tensor(v), cones).numpy()


def _worst(error: np.ndarray, terms: np.ndarray) -> float:
    return float((np.abs(error) / np.maximum(terms, np.finfo(np.float64).tiny)).max(initial=0.0))


def is_infeasible(program: Program, y: np.ndarray) -> bool:
    """Whether y proves that no x is feasible: y ∈ K*, Aᵀy = 0, bᵀy < 0, up to rounding."""
    y = y + onto(-y, program.cones)
    terms = np.abs(program.A.T) @ np.abs(y)
    balanced = np.abs(program.A.T @ y) <= CERTIFICATE * terms.max(initial=0.0)
    return bool(balanced.all() and program.b @ y < -CERTIFICATE * (np.abs(program.b) @ np.abs(y)))


def is_unbounded(program: Program, x: np.ndarray) -> bool:
    """Whether the objective falls for ever along x: Px = 0, −Ax ∈ K, qᵀx < 0, up to rounding."""
    away = np.abs(program.A @ x + onto(-(program.A @ x), program.cones))
    size = np.abs(x)
    inside = away <= CERTIFICATE * (np.abs(program.A) @ size).max(initial=0.0)
    flat = np.abs(program.P @ x) <= CERTIFICATE * (np.abs(program.P) @ size)
    return bool(inside.all() and flat.all() and program.q @ x < -CERTIFICATE * (np.abs(program.q) @ size))


def clarabel(program: Program, tolerance: float, weight: float) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Clarabel's status, x, y and s.

    It measures residuals against the largest entry of b. With rows scaled to their own size none is lost beside it.
    """
    import clarabel as package

    order, unit = row_order(program.cones), row_units(program)
    cones, settings = spoken(program.cones, tolerance)
    scaled = scipy.sparse.diags_array(1 / unit) @ program.A
    heavier = program.P + weight * scipy.sparse.eye_array(len(program.q))
    P, A = scipy.sparse.csc_matrix(scipy.sparse.triu(heavier)), scipy.sparse.csc_matrix(scaled.tocsr()[order])
    found = or_nothing(package.DefaultSolver(P, program.q, A, (program.b / unit)[order], cones, settings).solve)
    if found is None:
        n, m = len(program.q), len(program.b)
        return "Panicked", np.full(n, np.nan), np.full(m, np.nan), np.full(m, np.nan)
    back = np.argsort(order)
    status = str(found.status).removeprefix("Almost")
    return status, np.asarray(found.x), np.asarray(found.z)[back] / unit, np.asarray(found.s)[back] * unit


def row_units(program: Program) -> np.ndarray:
    """The size of each row's entries of A and b, one for all the rows of a cone."""
    largest = np.maximum(np.asarray(np.abs(program.A).max(axis=1).todense()).ravel(), np.abs(program.b))
    units = [np.zeros(0)]
    for block in program.cones.blocks:
        size = largest[block.start : block.start + block.count * block.size].reshape(block.count, block.size)
        units.append(np.repeat(size.max(axis=1), block.size))
    unit = np.concatenate(units)
    return np.where(unit > 0, unit, 1)


def _failed(program: Program, status: int) -> Point:
    m, n = program.A.shape
    nothing = np.full(m, np.nan)
    return Point(np.full(n, np.nan), nothing, nothing, np.inf, 0, status)
