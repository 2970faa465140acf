"""Where a table must not be interpolated.

In a cell that a jump runs through every in-between value would be a lie: the page shows the nearest node and says so. A
cell is searched for a jump as follows. One extra solve near its centre tells whether interpolation is off there. If so,
the segment from there to the most different corner is halved four times, keeping the half with the larger change: on a
kink the change shrinks with the segment, on a jump it stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffopt_lib.widgets.controls import Control, GridAxis, context_at
from diffopt_lib.widgets.solver import Solver
from diffopt_lib.widgets.table import Place, Table, locate, pick, to_drawing

HALVINGS = 4
LEAST_BUDGET = 256
INSIDE = (0.43, 0.54, 0.47, 0.58)
"""Where in a cell it is probed along each axis: not at the centre, where the jumps of symmetric problems are."""
SNAPPED, NEAR = 1, 2


@dataclass
class Baked:
    controls: Sequence[Control]
    grid: list[GridAxis]
    tables: dict[str, Table]
    nodes: int
    extras: list[dict] = field(default_factory=list)
    fine: dict[int, int] = field(default_factory=dict)
    """The cells with a finer grid of their own, each with its first row."""
    error: dict[str, float] = field(default_factory=dict)
    """Per mark, in data units: what the page is off by at most, away from jumps ..."""
    snap_error: dict[str, float] = field(default_factory=dict)
    """... and the worst seen within a cell of a jump."""
    checks: list[tuple[dict, dict]] = field(default_factory=list)

    def locate(self, context: Mapping) -> Place:
        return locate(self.grid, [axis.position(pick(context, axis)) for axis in self.grid], self.fine)

    def read(self, name: str, context: Mapping) -> tuple[np.ndarray, bool]:
        """What the page shows for an entry off the grid, in data units, and whether that is near a jump."""
        table, place = self.tables[name], self.locate(context)
        if table.strings is not None:
            words = np.array(table.strings, object)[table.codes[place.nearest]]
            differ = (table.codes[place.rows] != table.codes[place.nearest]).any()
            return words.reshape(table.shape), bool(differ)
        near = bool(table.jumps[place.cell])
        if len(place.rows) > 1 and table.jumps[place.cell] == SNAPPED:
            return table.to_data(table.decode(np.array([place.nearest]))[0]), near
        return table.to_data(place.weights @ table.decode(place.rows)), near


@dataclass(frozen=True)
class Probe:
    """A point inside a cell: its position on the grid and the solution there."""

    position: list[float]
    place: Place
    context: dict
    solution: dict[str, np.ndarray]


def starts(baked: Baked) -> list[tuple[int, ...]]:
    """The lowest corner of every cell, cell by cell."""
    return list(itertools.product(*(range(a.steps if a.discrete else a.steps - 1) for a in baked.grid)))


def probe_cells(baked: Baked, solver: Solver) -> list[Probe]:
    """One solution inside every cell; none if nothing moves continuously."""
    if all(axis.discrete for axis in baked.grid):
        return []
    probes = []
    for start in starts(baked):
        inside = [
            s if axis.discrete else s + INSIDE[i % len(INSIDE)]
            for i, (axis, s) in enumerate(zip(baked.grid, start, strict=True))
        ]
        context = context_at(baked.controls, baked.grid, inside)
        probes.append(Probe(inside, locate(baked.grid, inside), context, solver(context)))
    return probes


def find_jumps(baked: Baked, solver: Solver, probes: Sequence[Probe]) -> None:
    """Mark, for every entry, the cells in which the page must not interpolate, and those beside them."""
    for table in baked.tables.values():
        table.jumps = np.zeros(len(starts(baked)), dtype=np.uint8)
    budget = max(solver.calls, LEAST_BUDGET)
    for probe in probes:
        for table in baked.tables.values():
            if table.strings is not None or table.entry.mark.continuous:
                continue
            corners = table.decode(probe.place.rows)
            value = drawing_value(probe.solution, table)
            if not suspicious(corners, probe.place.weights, value, table):
                continue
            # A Jacobian jumps where its mark has a kink, and is read once per anchor: no need to look closer.
            if table.entry.scalars is not None or (np.isnan(corners) != np.isnan(value)).any():
                table.jumps[probe.place.cell] = SNAPPED
            elif budget > 0:
                calls = solver.calls
                table.jumps[probe.place.cell] = is_jump(baked, solver, table, probe, value, corners)
                budget -= solver.calls - calls
    cells = [axis.steps if axis.discrete else axis.steps - 1 for axis in baked.grid]
    for table in baked.tables.values():
        table.jumps = with_neighbours(table.jumps.reshape(cells), [not axis.discrete for axis in baked.grid]).ravel()


def with_neighbours(jumps: np.ndarray, moving: Sequence[bool]) -> np.ndarray:
    """The cells beside a jump, along the axes that move continuously, marked NEAR."""
    near = jumps == SNAPPED
    for axis, moves in enumerate(moving):
        if moves:
            padded = np.pad(near, [(1, 1) if i == axis else (0, 0) for i in range(near.ndim)])
            near = near | np.delete(padded, [0, 1], axis) | np.delete(padded, [-1, -2], axis)
    return np.where(jumps == SNAPPED, SNAPPED, NEAR * near).astype(np.uint8)


def drawing_value(solution: Mapping[str, np.ndarray], table: Table) -> np.ndarray:
    return to_drawing(solution[table.entry.name].reshape(1, -1), table.log)[0]


def distance(a: np.ndarray, b: np.ndarray, table: Table) -> float:
    """The largest difference relative to a column's range; infinite if the two are not NaN at the same places."""
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    gap = np.abs(a - b).reshape(-1, len(table.log)) / np.where(table.span > 0, table.span, 1.0)
    return float(np.nan_to_num(gap).max(initial=0.0))


def suspicious(corners: np.ndarray, weights: np.ndarray, value: np.ndarray, table: Table) -> bool:
    """Is interpolation at a point inside the cell off by more than curvature explains?"""
    holes = np.isnan(corners)
    if (holes != holes[0]).any() or (np.isnan(value) != holes[0]).any():
        return True
    spread = max(distance(corner, corners[0], table) for corner in corners)
    # If a jump cuts off a single corner, interpolation is off by that corner's weight.
    return distance(value, weights @ corners, table) > max(0.6 * spread / len(corners), 0.01)


def is_jump(baked: Baked, solver: Solver, table: Table, probe: Probe, value: np.ndarray, corners: np.ndarray) -> bool:
    """Does the change from a point inside the cell to its most different corner stay when the segment shrinks?"""
    gaps = [distance(value, corner, table) for corner in corners]
    farthest = int(np.argmax(gaps))
    position = np.unravel_index(probe.place.rows[farthest], [axis.steps for axis in baked.grid])
    near, far = np.array(probe.position, dtype=float), np.array(position, dtype=float)
    at_near, at_far = value, corners[farthest]
    for _ in range(HALVINGS):
        between = (near + far) / 2
        at = drawing_value(solver(context_at(baked.controls, baked.grid, between)), table)
        if distance(at_near, at, table) > distance(at, at_far, table):
            far, at_far = between, at
        else:
            near, at_near = between, at
    return distance(at_near, at_far, table) > 0.5 * gaps[farthest]
