"""One integer program after another through HiGHS's branch and bound, several at a time in threads.

HiGHS takes a row as satisfied, and a bound as met, to within 10⁻⁶ in the units it is given. So a program is handed over
with its coefficients scaled to some thousand, by powers of two, which changes none of their digits; what comes back is
rounded and checked against the program itself. A program that is said to be infeasible is solved again without
presolve, and one that is said to be unbounded must show a feasible point and a direction.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from torch import Tensor

from ...batch.shapes import flatten
from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED
from ...validate import NO_BOUND
from .program import Program, residual

SIZE = 2.0**10  # of the largest coefficient of a row, or of the costs, as HiGHS sees it
OPTIMAL, LIMIT, EMPTY, ENDLESS = 0, 1, 2, 3  # milp's own codes; anything else is trouble
GAP = 1e-9  # between the value and the bound below it that is proved, relative to Σ|cⱼ yⱼ|


class Element(NamedTuple):
    """One program, in arrays."""

    c: np.ndarray
    A: np.ndarray
    b: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Found(NamedTuple):
    """A point, what became of the program, and the nodes of the search."""

    y: np.ndarray
    status: int
    nodes: int


def branch_and_bound(
    program: Program, tolerance: float, max_nodes: int, closest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y ``(*batch, n)``, NaN where there is none, status and number of nodes ``(*batch,)``.

    Args:
        program: of at least one element, with all batch dimensions in c.
        tolerance: on the relative violation of a row.
        max_nodes: of each search.
        closest: give infeasible elements the point with the least sum of distances to violated constraints.
    """
    batch, device = program.c.shape[:-1], program.c.device
    arrays = [flatten(t, dims, batch).cpu().numpy() for t, dims in zip(program, (1, 2, 1, 1, 1), strict=True)]
    elements = [Element(*(a[0] if len(a) == 1 else a[i] for a in arrays)) for i in range(batch.numel())]
    solve = partial(_solve, tolerance=tolerance, max_nodes=max_nodes, closest=closest)
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:
        found = list(threads.map(solve, elements))
    y = torch.as_tensor(np.array([f.y for f in found]), device=device).reshape(program.c.shape)
    status, nodes = (torch.tensor(numbers, device=device) for numbers in zip(*(f[1:] for f in found), strict=True))
    return y, status.reshape(batch), nodes.reshape(batch)


def _solve(element: Element, tolerance: float, max_nodes: int, closest: bool) -> Found:
    """The relaxed rows first, which hold where the tolerance says so; then the rows as they are."""
    found = Found(np.full(len(element.c), np.nan), STUCK, 0)
    for slack in (tolerance, 0.0):
        result = _milp(element, element.c, slack, max_nodes)
        if result.status == EMPTY:
            result = _milp(element, element.c, slack, max_nodes, presolve=False)
        nodes = found.nodes + int(result.mip_node_count or 0)
        if result.status == EMPTY:
            y = _closest(element, max_nodes) if closest else found.y
            return Found(y, INFEASIBLE, nodes)
        if result.status not in (OPTIMAL, LIMIT) and _is_unbounded(element, max_nodes):
            return Found(found.y, UNBOUNDED, nodes)
        found = Found(found.y, STUCK, nodes)
        if result.status == OPTIMAL and _is_right(element, y := np.round(result.x) + 0.0, result, tolerance):
            return Found(y, SOLVED, nodes)
    return found


def _milp(element: Element, c: np.ndarray, slack: float, max_nodes: int, presolve: bool = True) -> OptimizeResult:
    rows = _rows(element, slack)
    return milp(
        c * _unit(c),
        integrality=np.ones_like(c),
        bounds=Bounds(element.lower, element.upper),
        constraints=rows,
        options={"mip_rel_gap": 0, "node_limit": max_nodes, "presolve": presolve},
    )


def _rows(element: Element, slack: float) -> list[LinearConstraint]:
    """Ay ≤ b, scaled; of two rows a and −a, as of an equality, HiGHS is told as one, which it solves in a fifth of the
    time."""
    kept = element.b < NO_BOUND
    if not kept.any():
        return []
    A, b = element.A[kept] + 0.0, element.b[kept]
    unit = _unit(A)
    upper = (b + slack * np.maximum(np.abs(b), np.abs(A).max(axis=-1))) * unit
    lower, alone = np.full(len(b), -np.inf), np.ones(len(b), dtype=bool)
    known: dict[bytes, int] = {}
    for k, row in enumerate(A):
        other = known.get((0.0 - row).tobytes())
        if other is not None and -upper[k] <= upper[other]:
            lower[other], alone[k] = max(lower[other], -upper[k]), False
        else:
            known[row.tobytes()] = k
    return [LinearConstraint((A * unit[:, None])[alone], lower[alone], upper[alone])]


def _unit(rows: np.ndarray) -> np.ndarray:
    """The power of two that brings each row's largest magnitude to some thousand."""
    largest = np.abs(rows).max(axis=-1)
    return np.where(largest > 0, SIZE * np.exp2(-np.ceil(np.log2(np.where(largest > 0, largest, SIZE)))), 1.0)


def _is_right(element: Element, y: np.ndarray, result: OptimizeResult, tolerance: float) -> bool:
    """Whether the rounded point satisfies the constraints, and no other can be better, as the search has proved."""
    inside = ((element.lower <= y) & (y <= element.upper)).all()
    violation = residual(*(torch.as_tensor(t) for t in (element.A, element.b, y)))
    value, bound = element.c @ y, result.mip_dual_bound / _unit(element.c)
    return bool(inside and violation <= tolerance and value - bound <= GAP * (np.abs(element.c) @ np.abs(y)))


def _is_unbounded(element: Element, max_nodes: int) -> bool:
    """Whether there is a feasible point, and a direction d with Ad ≤ 0, within the box for ever, and cᵀd < 0."""
    if _milp(element, np.zeros_like(element.c), 0.0, max_nodes).status != OPTIMAL:
        return False
    kept = element.b < NO_BOUND
    box = np.stack([-1.0 * np.isinf(element.lower), 1.0 * np.isinf(element.upper)], -1)
    A = element.A[kept] * _unit(element.A[kept])[:, None] if kept.any() else None
    c = element.c * _unit(element.c)
    ray = linprog(c, A_ub=A, b_ub=None if A is None else np.zeros(len(A)), bounds=box)
    return bool(ray.status == 0 and ray.fun < -1e-6 * SIZE)


def _closest(element: Element, max_nodes: int) -> np.ndarray:
    """argmin Σ sᵢ over integer y in the box and s ≥ 0 with aᵢᵀy − ‖aᵢ‖ sᵢ ≤ bᵢ; NaN if the box has no point."""
    n, m = len(element.c), len(element.b)
    norm = np.linalg.norm(element.A, axis=-1)
    norm = np.where(norm > 0, norm, 1)
    elastic = Element(
        np.concatenate([np.zeros(n), np.ones(m)]),
        np.concatenate([element.A / norm[:, None], -np.eye(m)], axis=1),
        element.b / norm,
        np.concatenate([element.lower, np.zeros(m)]),
        np.concatenate([element.upper, np.full(m, np.inf)]),
    )
    result = milp(
        elastic.c,
        integrality=np.concatenate([np.ones(n), np.zeros(m)]),
        bounds=Bounds(elastic.lower, elastic.upper),
        constraints=_rows(elastic, 0.0),
        options={"mip_rel_gap": 0, "node_limit": max_nodes},
    )
    return np.full(n, np.nan) if result.x is None else np.round(result.x[:n]) + 0.0
