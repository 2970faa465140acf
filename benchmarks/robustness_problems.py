"""Random hostile programs, each with a known answer.

An answer is known by construction. For a solvable program the solution x and its multipliers z are chosen first, and
c = −Px − Aᵀz and b = Ax + s with s ∈ K, z ∈ K*, sᵀz = 0 make them optimal. An infeasible program has z ∈ K* with
Aᵀz = 0 and bᵀz < 0; an unbounded one has a feasible x and a d with Pd = 0, −Ad ∈ K and cᵀd < 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .cone_problems import Shape

Random = np.random.Generator


@dataclass(frozen=True)
class Program:
    """min ½ xᵀPx + cᵀx  s.t.  b − Ax ∈ K, with what is known of it.

    Attributes:
        verdict: ``"solvable"``, ``"infeasible"`` or ``"unbounded"``.
        x: the solution; of an unbounded program a feasible point; of an infeasible one nothing (zeros).
        proof: z of the solution or of the infeasibility, d of the unboundedness.
        unit: the size of each variable: an error in x counts relative to it.
    """

    P: np.ndarray
    c: np.ndarray
    A: np.ndarray
    b: np.ndarray
    shape: Shape
    verdict: str
    x: np.ndarray
    proof: np.ndarray
    unit: np.ndarray | float = 1.0

    @property
    def quadratic(self) -> bool:
        """Whether K has no cones beside the zero and the nonnegative ones: Ax = b and Gx ≤ h."""
        return self.shape.rows == self.shape.zero + self.shape.nonneg

    @property
    def unique(self) -> bool:
        """Whether no direction keeps the gradient and all rows that push: then x is the only solution."""
        pushing = np.arange(len(self.b)) < self.shape.zero
        pushing |= self.proof > 1e-8 * np.abs(self.proof).max(initial=1e-300)
        rows = np.vstack([self.P, self.A[pushing]]) * self.unit
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
        return bool(np.linalg.svd(rows, compute_uv=False)[-1] > 1e-2) if len(rows) >= len(self.c) else False

    def error(self, x: np.ndarray) -> float:
        """The distance to the solution, if it is the only one; else by how much x is infeasible or not optimal."""
        if not self.quadratic or self.unique:
            scaled = self.x / self.unit
            return float(np.abs(x / self.unit - scaled).max() / (1 + np.abs(scaled).max()))
        over = self.A @ x - self.b
        over[self.shape.zero :] = np.maximum(over[self.shape.zero :], 0)
        violation = np.abs(over) / (1 + np.abs(self.b) + np.abs(self.A) @ np.abs(x))
        size = 1 + 0.5 * np.abs(x) @ np.abs(self.P) @ np.abs(x) + np.abs(self.c) @ np.abs(x)
        return float(max(violation.max(initial=0), abs(self.value(x) - self.value(self.x)) / size))

    def value(self, x: np.ndarray) -> float:
        return float(0.5 * x @ self.P @ x + self.c @ x)


def solvable(P, A, x, s, z, shape: Shape, unit: np.ndarray | float = 1.0) -> Program:
    """The program that has the solution x with slacks s and multipliers z."""
    return Program(P, -P @ x - A.T @ z, A, A @ x + s, shape, "solvable", x, z, unit)


def power(rng: Random, low: float, high: float) -> float:
    """10 to a power between low and high."""
    return float(10 ** rng.uniform(low, high))


def gram(rng: Random, n: int, rank: int, ridge: float = 0.0) -> np.ndarray:
    M = rng.standard_normal((n, rank))
    return M @ M.T / n + ridge * np.eye(n)


def either(rng: Random, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Slacks and multipliers of inequalities: of each pair, one number is positive and the other 0."""
    active = rng.random(count) < 0.4
    return np.where(active, 0, 0.1 + rng.random(count)), np.where(active, 0.1 + rng.random(count), 0)


# Random hostile programs


def any_rank(rng: Random, rank: int | None = None, ridge: float = 0.0) -> Program:
    """P of any rank from 0 to n, as many inequalities as it happens, up to more active ones than dimensions."""
    n = int(rng.integers(2, 9))
    k, m = int(rng.integers(0, n // 2 + 1)), int(rng.integers(1, 2 * n + 6))
    P = gram(rng, n, int(rng.integers(0, n + 1)) if rank is None else rank, ridge)
    s, z = either(rng, m)
    s, z = np.append(np.zeros(k), s), np.append(rng.standard_normal(k), z)
    return solvable(P, rng.standard_normal((k + m, n)), rng.standard_normal(n), s, z, Shape(zero=k, nonneg=m))


def linear(rng: Random) -> Program:
    """P = 0."""
    return any_rank(rng, rank=0)


def integer_vertices(rng: Random) -> Program:
    """Small integers everywhere: ties, weakly active rows, several walls through one point."""
    n = int(rng.integers(2, 8))
    k, m = int(rng.integers(0, n // 2 + 1)), int(rng.integers(n, 2 * n + 6))
    M, A = rng.integers(-2, 3, (n, int(rng.integers(0, n + 1)))), rng.integers(-2, 3, (k + m, n)).astype(float)
    s = np.append(np.zeros(k), rng.integers(0, 3, m))
    z = np.append(rng.integers(-2, 3, k), rng.integers(0, 3, m) * (s[k:] == 0))
    return solvable((M @ M.T).astype(float), A, rng.integers(-3, 4, n).astype(float), s, z, Shape(zero=k, nonneg=m))


def duplicates(rng: Random) -> Program:
    """Every row twice, and the first inequality a third time, doubled."""
    base = any_rank(rng)
    k = base.shape.zero
    order, factor = [*range(k), *range(k), *(2 * list(range(k, len(base.b)))), k], np.ones(2 * len(base.b) + 1)
    factor[-1] = 2
    first = np.zeros(len(order))
    first[:k], first[2 * k : k + len(base.b)] = base.proof[:k], base.proof[k:]
    shape = Shape(zero=2 * k, nonneg=2 * base.shape.nonneg + 1)
    return replace(base, A=factor[:, None] * base.A[order], b=factor * base.b[order], proof=first, shape=shape)


def giant_bounds(rng: Random) -> Program:
    """Further bounds between 1e4 and 1e20 that nothing comes near."""
    base = any_rank(rng)
    n, bound = len(base.c), power(rng, 4, 20)
    shape = replace(base.shape, nonneg=base.shape.nonneg + 2 * n)
    A = np.vstack([base.A, np.eye(n), -np.eye(n)])
    b, z = np.append(base.b, np.full(2 * n, bound)), np.append(base.proof, np.zeros(2 * n))
    return replace(base, A=A, b=b, proof=z, shape=shape)


def soft_rows(rng: Random) -> Program:
    """Inequalities with slacks at a linear price between 1 and 1e9, some of them paid."""
    n, m, price = int(rng.integers(2, 7)), int(rng.integers(2, 8)), power(rng, 0, 9)
    s, z = either(rng, m)
    # A price beyond 1e3 is not paid by programs of this size.
    paid = rng.permutation(m)[: m // 3 if price < 1e3 else 0]
    s[paid], z[paid] = 0, price
    z = np.minimum(z, price)
    e = np.zeros(m)
    e[paid] = rng.random(len(paid)) + 0.1
    A = np.block([[rng.standard_normal((m, n)), -np.eye(m)], [np.zeros((m, n)), -np.eye(m)]])
    P = np.zeros((n + m, n + m))
    P[:n, :n] = gram(rng, n, n, 0.2)
    x = np.append(rng.standard_normal(n), e)
    return solvable(P, A, x, np.append(s, e), np.append(z, price - z), Shape(nonneg=2 * m))


def badly_scaled(rng: Random) -> Program:
    """Variables, rows and the objective in units between 1e-4 and 1e4."""
    base = any_rank(rng, ridge=0.2)
    columns, rows, cost = (10 ** rng.uniform(-4, 4, size) for size in (len(base.c), len(base.b), 1))
    P, c = cost * columns[:, None] * base.P * columns, cost * columns * base.c
    A, b, z = rows[:, None] * base.A * columns, rows * base.b, cost * base.proof / rows
    return replace(base, P=P, c=c, A=A, b=b, x=base.x / columns, proof=z, unit=1 / columns)


def any_unit(rng: Random) -> Program:
    """All of x in one unit between 1e-9 and 1e9."""
    base, unit = any_rank(rng, ridge=0.2), power(rng, -9, 9)
    scaled = {name: unit * getattr(base, name) for name in ("c", "b", "x", "proof")}
    return replace(base, **scaled, unit=np.full(len(base.c), unit))


def no_interior(rng: Random) -> Program:
    """Equalities written as two inequalities each."""
    base = any_rank(rng)
    k = base.shape.zero
    order = [*range(k), *range(len(base.b))]
    sign = np.append(-np.ones(k), np.ones(len(base.b)))
    z = np.concatenate([np.maximum(-base.proof[:k], 0), np.maximum(base.proof[:k], 0), base.proof[k:]])
    shape = Shape(nonneg=len(order))
    return replace(base, A=sign[:, None] * base.A[order], b=sign * base.b[order], proof=z, shape=shape)


def contradiction(rng: Random) -> Program:
    """aᵀx ≤ h and aᵀx ≥ h + δ, δ between 1e-3 and 1e2."""
    return _infeasible(rng, np.ones(1))


def farkas(rng: Random) -> Program:
    """A positive combination of five inequalities says 0ᵀx ≤ −δ."""
    return _infeasible(rng, 0.1 + rng.random(5))


def _infeasible(rng: Random, weights: np.ndarray) -> Program:
    base = any_rank(rng, ridge=0.2)
    k, n, more = base.shape.zero, len(base.c), len(weights)
    rows, bounds = rng.standard_normal((more, n)), rng.standard_normal(more)
    A = np.vstack([base.A, rows, -weights @ rows])
    b = np.concatenate([base.b, bounds, [-weights @ bounds - power(rng, -3, 2)]])
    z = np.concatenate([np.zeros(len(base.b)), weights, [1]])
    return Program(base.P, base.c, A, b, Shape(zero=k, nonneg=len(b) - k), "infeasible", np.zeros(n), z)


def no_minimum(rng: Random) -> Program:
    """A direction that no row forbids, along which the objective falls for ever."""
    base = any_rank(rng)
    n, k = len(base.c), base.shape.zero
    d = rng.standard_normal(n)
    d = d / np.linalg.norm(d)
    across = np.eye(n) - np.outer(d, d)
    A = base.A.copy()
    A[:k] = A[:k] @ across
    A[k:][A[k:] @ d > 0] *= -1
    c = across @ rng.standard_normal(n) - power(rng, -1, 1) * d
    s = np.append(np.zeros(k), rng.random(base.shape.nonneg))
    return Program(across @ base.P @ across, c, A, A @ base.x + s, base.shape, "unbounded", base.x, d)


HOSTILE: dict[str, Callable[[Random], Program]] = {
    "any rank": any_rank,
    "linear": linear,
    "integer vertices": integer_vertices,
    "duplicate rows": duplicates,
    "giant bounds": giant_bounds,
    "soft rows": soft_rows,
    "badly scaled": badly_scaled,
    "any unit": any_unit,
    "no interior": no_interior,
    "contradiction": contradiction,
    "Farkas": farkas,
    "no minimum": no_minimum,
}
