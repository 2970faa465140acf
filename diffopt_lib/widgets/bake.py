"""Solve over the grid of the controls and store it small, so that a page without a kernel can move.

Between nodes the page interpolates multilinearly, except in a cell that a jump runs through: there every in-between
value would be a lie, and the page shows the nearest node and says so. A cell is searched for a jump as follows. One
extra solve near its centre tells whether interpolation is off there. If so, the segment from there to the most
different corner is halved four times, keeping the half with the larger change: on a kink the change shrinks with the
segment, on a jump it stays. Cells that a kink runs through get a finer grid of their own.

The bake then measures its own error, at the points inside the cells and at random contexts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffopt_lib.widgets.controls import Control, GridAxis, Pad, context_at, random_context
from diffopt_lib.widgets.marks import Mark, Readout, jacobian_name, readout_name
from diffopt_lib.widgets.table import FINE, Entry, Place, Table, locate, make_table, pick, to_drawing

Solve = Callable[[dict], Mapping[str, object]]

HALVINGS = 4
LEAST_BUDGET = 256
INSIDE = (0.43, 0.54, 0.47, 0.58)
"""Where in a cell it is probed along each axis: not at the centre, where the jumps of symmetric problems are."""
PROBES = 64
SAFETY = 2.0
"""What is printed is that many times the worst error seen, since other contexts may be worse."""
CLOSE = 0.004
"""Interpolation inside a cell that is off by more, as a share of a mark's range, asks for a finer grid there."""
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


def continuous_scalars(controls: Sequence[Control]) -> int:
    """d: how many numbers of the context move continuously."""
    return sum(not axis.discrete for control in controls for axis in control.grid())


def entries(marks: Sequence[Mark], controls: Sequence[Control]) -> list[Entry]:
    """What `solve` must return: the marks, their derivatives, and the numbers of their and the pads' readouts."""
    listed = []
    for mark in marks:
        shown: list[Mark] = [mark]
        if mark.readout:
            shown.append(Readout(readout_name(mark.name), derivative=mark.derivative, continuous=mark.continuous))
        for part in shown:
            listed.append(Entry(part.name, part))
            if part.derivative:
                listed.append(Entry(jacobian_name(part), part, continuous_scalars(controls)))
    for control in controls:
        if isinstance(control, Pad) and control.readout:
            listed.append(Entry(readout_name(control.name), Readout(readout_name(control.name))))
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


def bake(
    solver: Solver,
    controls: Sequence[Control],
    axes: Sequence[Mapping],
    extras: Sequence[dict] = (),
    limit: int = 1_000_000,
) -> Baked:
    """Solve at every node and at the `extras` (contexts that the page must show exactly), find the jumps, refine the
    kinks within the limit of bytes, and measure."""
    grid = [axis for control in controls for axis in control.grid()]
    nodes = [context_at(controls, grid, p) for p in itertools.product(*(range(axis.steps) for axis in grid))]
    solutions = [solver(context) for context in [*nodes, *extras]]

    def tables() -> dict[str, Table]:
        return {e.name: make_table(e, [solution[e.name] for solution in solutions], axes) for e in solver.entries}

    baked = Baked(controls, grid, tables(), len(nodes), list(extras))
    probes = probe_cells(baked, solver)
    find_jumps(baked, solver, probes)
    for cell, contexts in refine(baked, probes, limit).items():
        baked.fine[cell] = len(solutions)
        solutions += [solver(context) for context in contexts]
    jumps = {name: table.jumps for name, table in baked.tables.items()}
    baked.tables = tables()
    for name, table in baked.tables.items():
        table.jumps = jumps[name]
    measure(baked, solver, probes)
    return baked


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


def refine(baked: Baked, probes: Sequence[Probe], limit: int) -> dict[int, list[dict]]:
    """The contexts of a finer grid in the cells where interpolation is worst, as many as the limit has room for."""
    marks = [t for t in baked.tables.values() if t.entry.scalars is None and t.strings is None]
    moving = [not axis.discrete for axis in baked.grid]
    row_bytes = sum(table.codes[0].nbytes for table in baked.tables.values())
    # Deflated and written in base64, a table takes about as many characters as it has bytes.
    room = max(limit - row_bytes * (baked.nodes + len(baked.extras)), 0) // max(
        row_bytes * (FINE + 1) ** sum(moving), 1
    )
    off = {}
    for probe in probes:
        rough = [
            distance(drawing_value(probe.solution, t), probe.place.weights @ t.decode(probe.place.rows), t)
            for t in marks
            if t.jumps[probe.place.cell] != SNAPPED
        ]
        if max(rough, default=0.0) > CLOSE:
            off[probe.place.cell] = max(rough)
    worst = sorted(off, key=lambda cell: -off[cell])[: min(room, baked.nodes // (FINE + 1) ** sum(moving))]
    corners = starts(baked)
    steps = [np.linspace(0, 1, FINE + 1) if moves else np.zeros(1) for moves in moving]
    return {
        cell: [
            context_at(baked.controls, baked.grid, [s + part for s, part in zip(corners[cell], parts, strict=True)])
            for parts in itertools.product(*steps)
        ]
        for cell in sorted(worst)
    }


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


def measure(
    baked: Baked, solver: Solver, probes: Sequence[Probe], seed: int = 0, checks: int = 8, check_entries: int = 64
) -> None:
    """Compare what the page shows with the solution inside every cell and at random contexts; keep a few of these for
    tests of the page."""
    generator = np.random.default_rng(seed)
    marks = [entry.name for entry in solver.entries if entry.scalars is None]
    baked.error = {name: 0.0 for name in marks if baked.tables[name].strings is None}
    for probe in probes:
        for name in baked.error:
            note_error(baked, name, probe.context, probe.solution[name])
    for _ in range(PROBES):
        context = random_context(baked.controls, generator)
        solution = solver(context)
        for name in baked.error:
            note_error(baked, name, context, solution[name])
        if len(baked.checks) < checks and not any(baked.read(name, context)[1] for name in marks):
            baked.checks.append(
                (context, {name: solution[name] for name in marks if solution[name].size <= check_entries})
            )
    baked.error = {name: SAFETY * worst for name, worst in baked.error.items()}


def note_error(baked: Baked, name: str, context: Mapping, truth: np.ndarray) -> None:
    """Add what the page is off by at a context to the worst seen."""
    table, cell = baked.tables[name], baked.locate(context).cell
    shown, near = baked.read(name, context)
    if not near and not np.array_equal(np.isnan(shown), np.isnan(visible(truth, table))):
        # A hole that the cell's corners and the point inside had missed.
        table.jumps[cell] = SNAPPED
        shown, near = baked.read(name, context)
    worst = float(np.nan_to_num(np.abs(shown - truth)).max(initial=0.0))
    kept = baked.snap_error if near else baked.error
    kept[name] = max(kept.get(name, 0.0), worst)


def visible(truth: np.ndarray, table: Table) -> np.ndarray:
    """The truth with NaN where a logarithmic axis cannot show it."""
    return to_drawing(truth.reshape(1, -1), table.log).reshape(truth.shape)
