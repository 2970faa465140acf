"""Programs whose linear relaxation has a whole solution, as shortest paths and assignments have: no search is needed.

The relaxations of many elements are one linear program whose blocks do not touch, for HiGHS takes longer to be called
than to solve a small one. A vertex of it, rounded to y, is the solution where it meets a bound that no point of the
relaxation is below. With any multipliers μ ≥ 0 of the rows Ay ≤ b, r = c + Aᵀμ, and the box,

    cᵀy ≥ −bᵀμ + Σⱼ min(rⱼ lⱼ, rⱼ uⱼ)                                                          (4)

and HiGHS's multipliers make this an equality at the minimum. What is accepted is proved, whatever it was rounded from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linprog

from .program import residual
from .rows import Element, Rows, scaled_rows, unit

GAP = 1e-9  # between the value of a point and the bound below it, relative to Σ|cⱼ yⱼ|
ELEMENTS, ENTRIES = 32, 2**16  # of one linear program: what it takes for each of its elements grows beyond
NEIGHBORS = 4  # at most, that are searched because one of them has no solution


def pieces(elements: Sequence[Element]) -> list[Sequence[Element]]:
    """Elements whose relaxations are solved together."""
    count = int(np.clip(ENTRIES // max(1, elements[0].A.size), 1, ELEMENTS))
    return [elements[i : i + count] for i in range(0, len(elements), count)]


def solve_relaxed(elements: Sequence[Element], tolerance: float) -> list[np.ndarray | None]:
    """y of those whose relaxation has a whole solution, None for others, and for neighbors of one without any."""
    shared = all(e.A is elements[0].A and e.b is elements[0].b for e in elements)
    different = elements[:1] if shared else elements
    rows = [scaled_rows(e) for e in different] * (len(elements) if shared else 1)
    c, lower, upper = (np.stack(part) for part in zip(*((e.c, e.lower, e.upper) for e in elements), strict=True))
    c = c * unit(c)[:, None]
    found = None if (lower > upper).any() else _vertices(c, rows, lower, upper)
    if found is None and len(elements) > NEIGHBORS:
        middle = len(elements) // 2
        return solve_relaxed(elements[:middle], tolerance) + solve_relaxed(elements[middle:], tolerance)
    if found is None:
        return [None] * len(elements)
    y, bound = found
    A, b = (torch.as_tensor(np.stack(part)) for part in zip(*((e.A, e.b) for e in different), strict=True))
    right = residual(A, b, torch.as_tensor(y)).numpy() <= tolerance
    right &= (c * y).sum(1) - bound <= GAP * np.abs(c * y).sum(1)
    return [point if proved else None for point, proved in zip(y, right, strict=True)]


def _vertices(
    c: np.ndarray, rows: Sequence[Rows], lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The rounded vertex ``(elements, n)`` and the bound (4) of each element, or None without a solution."""
    A = _diagonal(rows)
    least, most = (np.concatenate([getattr(part, side) for part in rows]) for side in ("lower", "upper"))
    equal, below, above = least == most, least < most, (least < most) & (least > -np.inf)
    result = linprog(
        c.ravel(),
        A_ub=sparse.vstack([A[below], -A[above]]),
        b_ub=np.concatenate([most[below], -least[above]]),
        A_eq=A[equal],
        b_eq=most[equal],
        bounds=np.stack([lower.ravel(), upper.ravel()], -1),
        method="highs-ds",
        options={"presolve": False},  # it takes longer than it saves
    )
    if result.status != 0:
        return None
    mu = np.zeros(len(most))  # above 0 for an upper side of a row, below for a lower one
    mu[equal] = -result.eqlin.marginals
    mu[below] = -result.ineqlin.marginals[: below.sum()]
    mu[above] += result.ineqlin.marginals[below.sum() :]
    r = (c.ravel() + A.T @ mu).reshape(c.shape)
    element = np.repeat(np.arange(len(c)), [len(part.upper) for part in rows])
    of_rows = np.bincount(element, _product(mu, np.where(mu > 0, most, least)), minlength=len(c))
    bound = _product(r, np.where(r > 0, lower, upper)).sum(1) - of_rows
    return (np.round(result.x) + 0.0).reshape(c.shape), bound


def _diagonal(rows: Sequence[Rows]) -> sparse.csr_array:
    if all(part is rows[0] for part in rows):  # quicker by half
        return sparse.kron(sparse.eye_array(len(rows)), sparse.csr_array(rows[0].A), format="csr")
    return sparse.block_diag([sparse.csr_array(part.A) for part in rows], format="csr")


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x y, where 0 ∞ = 0."""
    return x * np.where(x == 0, 0, y)
