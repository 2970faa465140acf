"""Solve over the grid of the controls and store it small, so that a page without a kernel can move.

Between nodes the page interpolates multilinearly, except
in a cell that a jump runs through: there every in-between value would be a lie, and the page shows the nearest node.
A cell is searched for a jump as follows. One extra solve near its centre tells whether interpolation is off there. If
so, the segment from there to the most different corner is halved four times, keeping the half with the larger change:
on a kink the change shrinks with the segment, on a jump it stays.

The bake then measures its own error at random contexts off the grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffopt_lib.widgets.controls import Control, GridAxis, complete
from diffopt_lib.widgets.marks import Mark, jacobian_name
from diffopt_lib.widgets.table import Entry, Place, Table, locate, make_table, pick, to_drawing

Solve = Callable[[dict], Mapping[str, object]]

HALVINGS = 4
INSIDE = (0.43, 0.54, 0.47, 0.58)
"""Where in a cell it is probed along each axis: not at the centre, where the jumps of symmetric problems are."""
PROBES = 64


@dataclass
class Baked:
    controls: Sequence[Control]
    grid: list[GridAxis]
    tables: dict[str, Table]
    nodes: int
    extras: list[dict] = field(default_factory=list)
    error: dict[str, float] = field(default_factory=dict)
    """Per mark, in data units: the worst error seen where the page interpolates ..."""
    snap_error: dict[str, float] = field(default_factory=dict)
    """... and where it shows the nearest node because of a jump."""
    checks: list[tuple[dict, dict]] = field(default_factory=list)

    def locate(self, context: Mapping) -> Place:
        return locate(self.grid, [axis.position(pick(context, axis)) for axis in self.grid])

    def read(self, name: str, context: Mapping) -> tuple[np.ndarray, bool]:
        """What the page shows for an entry off the grid, in data units, and whether that is a snapped node."""
        table, place = self.tables[name], self.locate(context)
        if table.strings is not None:
            words = np.array(table.strings, object)[table.codes[place.nearest]]
            differ = (table.codes[place.rows] != table.codes[place.nearest]).any()
            return words.reshape(table.shape), bool(differ)
        if len(place.rows) > 1 and table.jumps[place.cell]:
            return table.to_data(table.decode(np.array([place.nearest]))[0]), True
        return table.to_data(place.weights @ table.decode(place.rows)), False


def context_at(controls: Sequence[Control], grid: Sequence[GridAxis], positions: Sequence[float]) -> dict:
    context: dict = {}
    for axis, position in zip(grid, positions, strict=True):
        value = axis.value(position)
        if axis.component is None:
            context[axis.control] = value
        else:
            context.setdefault(axis.control, np.empty(2))[axis.component] = value
    return {control.name: context[control.name] for control in controls}


def continuous_scalars(controls: Sequence[Control]) -> int:
    """d: how many numbers of the context move continuously."""
    return sum(not axis.discrete for control in controls for axis in control.grid())


def entries(marks: Sequence[Mark], controls: Sequence[Control]) -> list[Entry]:
    listed = []
    for mark in marks:
        listed.append(Entry(mark.name, mark))
        if mark.derivative:
            listed.append(Entry(jacobian_name(mark), mark, continuous_scalars(controls)))
    return listed


class Solver:
    """`solve` with its answer checked: every entry there, drawable, and of one shape at all contexts."""

    def __init__(self, solve: Solve, listed: Sequence[Entry]):
        self.solve = solve
        self.entries = listed
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.calls = 0

    def __call__(self, context: Mapping) -> dict[str, np.ndarray]:
        self.calls += 1
        # A copy, so that a `solve` that writes into its context cannot spoil ours.
        try:
            solution = self.solve({name: np.copy(v) if isinstance(v, np.ndarray) else v for name, v in context.items()})
        except Exception as error:
            error.add_note(f"raised by the widget's solve at the context {dict(context)}")
            raise
        arrays = {entry.name: entry.read(solution) for entry in self.entries}
        for name, array in arrays.items():
            first = self.shapes.setdefault(name, array.shape)
            if array.shape != first:
                raise ValueError(
                    f"mark {name!r} must have one shape at every context: it was {first}, "
                    f"and {array.shape} at {dict(context)}"
                )
        return arrays


def bake(solver: Solver, controls: Sequence[Control], axes: Sequence[Mapping], extras: Sequence[dict] = ()) -> Baked:
    """Solve at every node and at the `extras` (contexts that the page must show exactly), find the jumps, measure."""
    grid = [axis for control in controls for axis in control.grid()]
    nodes = [context_at(controls, grid, p) for p in itertools.product(*(range(axis.steps) for axis in grid))]
    solutions = [solver(context) for context in [*nodes, *extras]]
    tables = {
        entry.name: make_table(entry, [solution[entry.name] for solution in solutions], axes)
        for entry in solver.entries
    }
    baked = Baked(controls, grid, tables, len(nodes), list(extras))
    find_jumps(baked, solver)
    measure(baked, solver)
    return baked


def find_jumps(baked: Baked, solver: Solver) -> None:
    """Mark, for every entry, the cells in which the page must not interpolate."""
    grid = baked.grid
    moving = [i for i, axis in enumerate(grid) if not axis.discrete]
    cells = [range(axis.steps if axis.discrete else axis.steps - 1) for axis in grid]
    numeric = [table for table in baked.tables.values() if table.strings is None]
    count = int(np.prod([len(c) for c in cells]))
    for table in baked.tables.values():
        table.jumps = np.zeros(count, dtype=np.uint8)
    if not moving:
        return
    budget = solver.calls
    for cell, start in enumerate(itertools.product(*cells)):
        inside = [s + INSIDE[i % len(INSIDE)] if i in moving else s for i, s in enumerate(start)]
        solution = solver(context_at(baked.controls, grid, inside))
        place = locate(grid, inside)
        for table in numeric:
            corners = table.decode(place.rows)
            value = to_drawing(solution[table.entry.name].reshape(1, -1), table.log)[0]
            if suspicious(corners, place.weights, value, table):
                # A Jacobian jumps where its mark has a kink, and is read once per anchor: no need to look closer.
                # Beyond the budget, too, a suspect is taken for a jump: a snapped value is coarse but never invented.
                if table.entry.scalars is not None or budget <= 0:
                    table.jumps[cell] = 1
                    continue
                calls = solver.calls
                table.jumps[cell] = is_jump(baked, solver, table, inside, value, place.rows, corners)
                budget -= solver.calls - calls


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


def is_jump(baked: Baked, solver: Solver, table: Table, inside, value, rows, corners) -> bool:
    """Does the change from a point inside the cell to its most different corner stay when the segment shrinks?"""
    gaps = [distance(value, corner, table) for corner in corners]
    farthest = int(np.argmax(gaps))
    if np.isinf(gaps[farthest]):
        return True
    position = np.array(np.unravel_index(rows[farthest], [axis.steps for axis in baked.grid]), dtype=float)
    near, far = np.array(inside, dtype=float), position
    at_near, at_far = value, corners[farthest]
    for _ in range(HALVINGS):
        between = (near + far) / 2
        solution = solver(context_at(baked.controls, baked.grid, between))
        at = to_drawing(solution[table.entry.name].reshape(1, -1), table.log)[0]
        if distance(at_near, at, table) > distance(at, at_far, table):
            far, at_far = between, at
        else:
            near, at_near = between, at
    return distance(at_near, at_far, table) > 0.5 * gaps[farthest]


def measure(baked: Baked, solver: Solver, seed: int = 0, checks: int = 8, check_entries: int = 256) -> None:
    """Compare what the page shows with the solution at random contexts; keep a few of these for tests of the page."""
    generator = np.random.default_rng(seed)
    marks = [entry.name for entry in solver.entries if entry.scalars is None]
    baked.error = {name: 0.0 for name in marks if baked.tables[name].strings is None}
    baked.snap_error = {}
    for _ in range(PROBES):
        positions = [
            int(generator.integers(axis.steps)) if axis.discrete else generator.uniform(0, axis.steps - 1)
            for axis in baked.grid
        ]
        context = complete(baked.controls, context_at(baked.controls, baked.grid, positions))
        solution = solver(context)
        anything_snapped = False
        for name in marks:
            shown, snapped = baked.read(name, context)
            anything_snapped |= snapped
            if name not in baked.error:
                continue
            truth = solution[name]
            if not snapped and not np.array_equal(np.isnan(shown), np.isnan(visible(truth, baked.tables[name]))):
                # The probe found a hole that the cell's corners and the point inside had missed.
                baked.tables[name].jumps[baked.locate(context).cell] = 1
                anything_snapped = snapped = True
                shown, _ = baked.read(name, context)
            worst = float(np.nan_to_num(np.abs(shown - truth)).max(initial=0.0))
            kept = baked.snap_error if snapped else baked.error
            kept[name] = max(kept.get(name, 0.0), worst)
        if not anything_snapped and len(baked.checks) < checks:
            small = {name: solution[name] for name in marks if not baked.checks or solution[name].size <= check_entries}
            baked.checks.append((context, small))


def visible(truth: np.ndarray, table: Table) -> np.ndarray:
    """The truth with NaN where a logarithmic axis cannot show it."""
    return to_drawing(truth.reshape(1, -1), table.log).reshape(truth.shape)
