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


def pieces(elements: Sequence[Element]) -> list[Sequence[Element]]:
    """Elements whose relaxations are solved together."""
    count = int(np.clip(ENTRIES // max(1, elements[0].A.size), 1, ELEMENTS))
    return [elements[i : i + count] for i in range(0, len(elements), count)]


def solve_relaxed(elements: Sequence[Element], tolerance: float) -> list[np.ndarray | None]:
    """y of those whose relaxation has a whole solution, None for the others; None for all if one has no solution."""
    shared = all(e.A is elements[0].A and e.b is elements[0].b for e in elements)
    rows = [scaled_rows(e) for e in elements[:1]] * len(elements) if shared else [scaled_rows(e) for e in elements]
    c = [e.c * unit(e.c) for e in elements]
    result = _blocks(c, rows, elements)
    if result is None:
        return [None] * len(elements)
    points, multipliers = result
    found: list[np.ndarray | None] = []
    for e, costs, part, y, mu in zip(elements, c, rows, points, multipliers, strict=True):
        violation = residual(*(torch.as_tensor(t) for t in (e.A, e.b, y)))
        gap = costs @ y - _bound(costs, part, mu, e)
        right = violation <= tolerance and gap <= GAP * (np.abs(costs) @ np.abs(y))
        found.append(y if right else None)
    return found


def _blocks(
    c: Sequence[np.ndarray], rows: Sequence[Rows], elements: Sequence[Element]
) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """The rounded vertex of each block, and its multipliers: of ≤ above 0, of ≥ below; None without a solution."""
    box = np.stack([np.concatenate([getattr(e, side) for e in elements]) for side in ("lower", "upper")], -1)
    if (box[:, 0] > box[:, 1]).any():
        return None
    A = _diagonal(rows)
    lower, upper = (np.concatenate([getattr(part, side) for part in rows]) for side in ("lower", "upper"))
    equal, below, above = lower == upper, (lower < upper), (lower < upper) & (lower > -np.inf)
    result = linprog(
        np.concatenate(c),
        A_ub=sparse.vstack([A[below], -A[above]]),
        b_ub=np.concatenate([upper[below], -lower[above]]),
        A_eq=A[equal],
        b_eq=upper[equal],
        bounds=box,
        method="highs-ds",
    )
    if result.status != 0:
        return None
    y = np.round(result.x) + 0.0
    mu = np.zeros(len(upper))
    mu[equal] = -result.eqlin.marginals
    mu[below] = -result.ineqlin.marginals[: below.sum()]
    mu[above] += result.ineqlin.marginals[below.sum() :]
    ends = np.cumsum([len(part.upper) for part in rows])[:-1]
    return np.split(y, np.cumsum([len(e.c) for e in elements])[:-1]), np.split(mu, ends)


def _diagonal(rows: Sequence[Rows]) -> sparse.csr_array:
    if all(part is rows[0] for part in rows):  # quicker by half
        return sparse.kron(sparse.eye_array(len(rows)), sparse.csr_array(rows[0].A), format="csr")
    return sparse.block_diag([sparse.csr_array(part.A) for part in rows], format="csr")


def _bound(c: np.ndarray, rows: Rows, mu: np.ndarray, element: Element) -> float:
    """The right side of (4), with μ > 0 on an upper and μ < 0 on a lower side of a row."""
    r = c + rows.A.T @ mu
    side = np.where(mu > 0, rows.upper, rows.lower)
    box = np.where(r > 0, element.lower, element.upper)
    used = np.flatnonzero(mu)
    moved = np.flatnonzero(r)
    return float(r[moved] @ box[moved] - mu[used] @ side[used])
