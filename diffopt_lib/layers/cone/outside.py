"""A start from Clarabel, where it is installed: for a few programs on a CPU its compiled loop is quicker than ours.

It solves one program after the other, in threads where there are several. What it returns counts as a guess, which
:mod:`.refine` brings to rounding level or leaves to the central path. Nothing depends on Clarabel, and the path is what
the library answers for.

Source: Goulart & Chen, Clarabel: an interior-point solver for conic programs with quadratic objectives, 2024.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..cones.product import Cones
from .program import Program, Triple

SMALL = 16  # programs, up to which it pays
TIGHT = 1e-12  # for one or two, a few iterations more are quicker than a step of refinement

_wanted = ContextVar("wanted", default=True)


@contextmanager
def own_path_only() -> Iterator[None]:
    """Inside, no start comes from outside."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def is_quicker(program: Program) -> bool:
    """Whether a start from outside is to be had and pays."""
    return _wanted.get() and program.c.device.type == "cpu" and len(program.c) <= SMALL and _installed()


@cache
def _installed() -> bool:
    return importlib.util.find_spec("clarabel") is not None


def start(program: Program, cones: Cones) -> tuple[Triple, Tensor]:
    """A guess at the solution of every program, NaN where there is none, and the iterations that it took ``(B,)``."""
    layout = Layout.of(program, cones)
    B = len(program.c)
    threads = min(B, torch.get_num_threads())
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(layout.solve, range(B)))
    else:
        results = [layout.solve(i) for i in range(B)]
    x, y, s, iterations = (np.stack(part) for part in zip(*results, strict=True))
    back = np.argsort(layout.order)
    at = Triple(*(program.c.new_tensor(t) for t in (x, y[:, back], s[:, back])))
    return at, torch.as_tensor(iterations, device=program.c.device)


class Layout(NamedTuple):
    """A batch of programs as Clarabel reads them: compressed columns of one pattern, rows in its order."""

    c: np.ndarray
    b: np.ndarray
    A: SparseBatch
    P: SparseBatch
    order: np.ndarray
    cones: list[Any]
    settings: Any

    @classmethod
    def of(cls, program: Program, cones: Cones) -> Layout:
        c, A, b = (t.numpy() for t in program[:3])
        P = np.zeros((1, c.shape[-1], c.shape[-1])) if program.P is None else program.P.numpy()
        order = row_order(cones)
        return cls(
            c,
            b[:, order],
            SparseBatch.of(A[:, order]),
            SparseBatch.of(np.triu(P)),
            order,
            *spoken(cones, TIGHT if len(c) <= 2 else None),
        )

    def solve(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """x, y and s of the i-th program, and the iterations."""
        import clarabel

        solver = clarabel.DefaultSolver(
            self.P.matrix(i), self.c[i], self.A.matrix(i), self.b[i], self.cones, self.settings
        )
        solution = or_nothing(solver.solve)
        if solution is None:
            m, n = self.A.shape
            return np.full(n, np.nan), np.full(m, np.nan), np.full(m, np.nan), 0
        solved = solution.status in (clarabel.SolverStatus.Solved, clarabel.SolverStatus.AlmostSolved)
        x, y, s = (np.asarray(t) if solved else np.full(len(t), np.nan) for t in (solution.x, solution.z, solution.s))
        return x, y, s, solution.iterations


def row_order(cones: Cones) -> np.ndarray:
    """Which of our rows Clarabel has first, second, …"""
    rows = [
        block.start + block.size * np.arange(block.count)[:, None] + np.array(block.cone.outside_order(block.size))
        for block in cones.blocks
    ]
    return np.concatenate([*map(np.ravel, rows), np.zeros(0)]).astype(np.int64)


def spoken(cones: Cones, tolerance: float | None) -> tuple[list[Any], Any]:
    """Cones and settings as Clarabel has them, for one thread, with a tolerance of its own by default."""
    import clarabel

    named = [entry for block in cones.blocks for entry in block.cone.outside(block.count, block.size)]
    settings = clarabel.DefaultSettings()
    settings.verbose = settings.presolve_enable = settings.chordal_decomposition_enable = False
    settings.max_threads = 1
    if tolerance is not None:
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    return [getattr(clarabel, name)(*sizes) for name, *sizes in named], settings


def or_nothing(solve: Callable[[], Any]) -> Any:
    """What Clarabel finds, or None where it panics, as it does when an eigenvalue routine of its own fails. That is no
    Exception in Python; its name is all that tells it from an interrupt."""
    try:
        return solve()
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None


class SparseBatch(NamedTuple):
    """Matrices of one pattern: their entries ``(B or 1, nnz)`` column by column, the rows, and where columns start."""

    entries: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, M: np.ndarray) -> SparseBatch:
        by_column = M.swapaxes(-2, -1)
        columns, rows = (by_column != 0).any(0).nonzero()
        starts = np.searchsorted(columns, np.arange(by_column.shape[-2] + 1))
        return cls(np.ascontiguousarray(by_column[:, columns, rows]), rows, starts, M.shape[-2:])

    def matrix(self, i: int) -> Any:
        from scipy.sparse import csc_matrix

        return csc_matrix((self.entries[min(i, len(self.entries) - 1)], self.rows, self.starts), self.shape)
