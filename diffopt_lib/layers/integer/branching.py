"""Integer programs through HiGHS, several at a time in threads: relaxations first, then one search after another.

What comes back from a search is rounded and checked against the program itself. A program that is said to be infeasible
is solved again without presolve, and one that is said to be unbounded must show a feasible point and a direction.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from torch import Tensor

from ...batch.shapes import flatten
from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED
from ...validate import NO_BOUND
from .program import Program, residual
from .relaxation import GAP, pieces, solve_relaxed
from .rows import SIZE, Element, scaled_rows, unit

OPTIMAL, LIMIT, EMPTY = 0, 1, 2  # milp's own codes; anything else is trouble
SPLITS = 4  # by hand, one within the other


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
    rows = [list(a) * (batch.numel() if len(a) == 1 else 1) for a in arrays]
    elements = [Element(*parts) for parts in zip(*rows, strict=True)]
    search = partial(_solve, tolerance=tolerance, max_nodes=max_nodes, closest=closest)
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:
        known = _relax(elements, tolerance, threads)
        open_ones = threads.map(search, (e for e, y in zip(elements, known, strict=True) if y is None))
        found = [next(open_ones) if y is None else Found(y, SOLVED, 0) for y in known]
    y = torch.as_tensor(np.array([f.y for f in found]), device=device).reshape(program.c.shape)
    status, nodes = (torch.tensor(numbers, device=device) for numbers in zip(*(f[1:] for f in found), strict=True))
    return y, status.reshape(batch), nodes.reshape(batch)


def _relax(elements: list[Element], tolerance: float, threads: ThreadPoolExecutor) -> list[np.ndarray | None]:
    """The solutions of those that need no search; one program alone starts with its relaxation anyway."""
    if len(elements) == 1:
        return [None]
    return list(chain(*threads.map(partial(solve_relaxed, tolerance=tolerance), pieces(elements))))


def _solve(element: Element, tolerance: float, max_nodes: int, closest: bool, splits: int = SPLITS) -> Found:
    """The relaxed rows first, which hold where the tolerance says so; then the rows as they are."""
    found = Found(np.full(len(element.c), np.nan), STUCK, 0)
    scaled = element._replace(c=element.c * unit(element.c))
    for slack in (tolerance, 0.0):
        result = _milp(scaled, slack, max_nodes)
        if result.status == EMPTY:
            result = _milp(scaled, slack, max_nodes, presolve=False)
        nodes = found.nodes + int(result.mip_node_count or 0)
        if result.status == EMPTY:
            y = _closest(element, max_nodes) if closest else found.y
            return Found(y, INFEASIBLE, nodes)
        if result.status not in (OPTIMAL, LIMIT) and _is_unbounded(element, max_nodes):
            return Found(found.y, UNBOUNDED, nodes)
        found = Found(found.y, STUCK, nodes)
        if result.status == OPTIMAL and _is_right(element, y := np.round(result.x) + 0.0, result, tolerance):
            return Found(y, SOLVED, nodes)
    if result.status == OPTIMAL and splits:
        return _split(element, result.x, tolerance, max_nodes, closest, splits - 1)._replace(nodes=nodes)
    return found


def _split(element: Element, x: np.ndarray, tolerance: float, max_nodes: int, closest: bool, splits: int) -> Found:
    """The best of what is below, at and above the integer that HiGHS took xⱼ for, where xⱼ is off the most.

    To HiGHS 10⁻⁶ is 0, and a program may gain by that what no point of integers has.
    """
    off = np.abs(x - np.round(x))
    j = off.argmax()
    nothing = np.full(len(x), np.nan)
    if off[j] == 0:
        return Found(nothing, STUCK, 0)
    whole, is_j = np.round(x[j]), np.arange(len(x)) == j
    ranges = ((element.lower[j], whole - 1), (whole, whole), (whole + 1, element.upper[j]))
    pieces = (
        element._replace(lower=np.where(is_j, low, element.lower), upper=np.where(is_j, high, element.upper))
        for low, high in ranges
        if low <= high
    )
    found = [_solve(piece, tolerance, max_nodes, False, splits) for piece in pieces]
    if any(f.status not in (SOLVED, INFEASIBLE) for f in found):
        return Found(nothing, STUCK, 0)
    solved = [f for f in found if f.status == SOLVED]
    if not solved:
        return Found(_closest(element, max_nodes) if closest else nothing, INFEASIBLE, 0)
    return min(solved, key=lambda f: element.c @ f.y)


def _milp(
    element: Element, slack: float, max_nodes: int, *, whole: np.ndarray | int = 1, presolve: bool = True
) -> OptimizeResult:
    """The minimum over integers, or over numbers where ``whole`` is 0; costs as they are given."""
    return milp(
        element.c,
        integrality=np.broadcast_to(whole, element.c.shape),
        bounds=Bounds(element.lower, element.upper),
        constraints=_constraints(element, slack),
        options={"mip_rel_gap": 0, "node_limit": max_nodes, "presolve": presolve},
    )


def _constraints(element: Element, slack: float) -> list[LinearConstraint]:
    rows = scaled_rows(element, slack)
    return [LinearConstraint(*rows)] if len(rows.upper) else []


def _is_right(element: Element, y: np.ndarray, result: OptimizeResult, tolerance: float) -> bool:
    """Whether the rounded point satisfies the constraints, and no other can be better, as the search has proved."""
    inside = ((element.lower <= y) & (y <= element.upper)).all()
    violation = residual(*(torch.as_tensor(t) for t in (element.A, element.b, y)))
    value, bound = element.c @ y, result.mip_dual_bound / unit(element.c)
    return bool(inside and violation <= tolerance and value - bound <= GAP * (np.abs(element.c) @ np.abs(y)))


def _is_unbounded(element: Element, max_nodes: int) -> bool:
    """Whether there is a feasible point, and a direction d with Ad ≤ 0, within the box for ever, and cᵀd < 0."""
    if _milp(element._replace(c=np.zeros_like(element.c)), 0.0, max_nodes).status != OPTIMAL:
        return False
    kept = element.b < NO_BOUND
    box = np.stack([-1.0 * np.isinf(element.lower), 1.0 * np.isinf(element.upper)], -1)
    A = element.A[kept] * unit(element.A[kept])[:, None] if kept.any() else None
    c = element.c * unit(element.c)
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
    result = _milp(elastic, 0.0, max_nodes, whole=np.arange(n + m) < n)
    return np.full(n, np.nan) if result.x is None else np.round(result.x[:n]) + 0.0
