"""Solve over the grid of the controls and store it small, so that a page without a kernel can move.

Nodes are stored as integer codes, one scale per coordinate. Between nodes the page interpolates multilinearly, except
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

Solve = Callable[[dict], Mapping[str, object]]

HALVINGS = 4
INSIDE = (0.43, 0.54, 0.47, 0.58)
"""Where in a cell it is probed along each axis: not at the centre, where the jumps of symmetric problems are."""
PROBES = 64
INT16_NAN, UINT8_NAN = -32768, 255


@dataclass(frozen=True)
class Entry:
    """One array that `solve` returns: a mark's, or a mark's Jacobian."""

    name: str
    mark: Mark
    scalars: int | None = None
    """Trailing dimension of a Jacobian; None for the mark itself."""

    def read(self, solution: Mapping[str, object]) -> np.ndarray:
        if self.name not in solution:
            raise ValueError(f"solve returned no {self.name!r}; it returned {sorted(solution)}")
        value = solution[self.name]
        if self.mark.kind == "text" and self.scalars is None and is_text(value):
            array = np.asarray(value, dtype=object)
        else:
            array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
            if self.mark.kind == "image" and array.dtype != np.uint8:
                array = np.clip(array.astype(float), 0, 1) * 255
            array = array.astype(float)
            if self.mark.kind == "image" and not np.isfinite(array).all():
                raise ValueError(f"solve returned an image {self.name!r} with NaN or infinite entries")
            if np.isinf(array).any():
                raise ValueError(f"solve returned infinite entries in {self.name!r}; use NaN for what is not drawn")
        self.check_shape(array.shape)
        return array

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if self.scalars is None:
            if not self.mark.accepts(shape):
                raise ValueError(
                    f"mark {self.name!r}: {type(self.mark).__name__} cannot draw an array of shape {shape}"
                )
        elif not (shape and shape[-1] == self.scalars and self.mark.accepts(shape[:-1])):
            raise ValueError(
                f"{self.name!r} must have shape (*shape of {self.mark.name!r}, {self.scalars}), one column per "
                f"continuous scalar of the context in control order; got {shape}"
            )


def is_text(value: object) -> bool:
    """Whether a Text mark's value is strings (which are never interpolated) rather than numbers."""
    return any(isinstance(word, str) for word in np.ravel(np.array(value, dtype=object)))


@dataclass
class Table:
    """The solutions of one entry: codes (rows, entries); rows are the grid's nodes, then the extra contexts."""

    entry: Entry
    shape: tuple[int, ...]
    codes: np.ndarray
    low: np.ndarray
    step: np.ndarray
    nan: int | None
    log: np.ndarray
    strings: list[str] | None = None
    jumps: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))
    """Per cell of the grid, whether it must not be interpolated; `find_jumps` fills it."""

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Values in drawing coordinates (log10 where the axis is logarithmic), shape (len(rows), entries)."""
        codes = self.codes[rows]
        values = self.low + self.step * codes.astype(float).reshape(len(codes), -1, len(self.low))
        values = values.reshape(len(codes), -1)
        if self.nan is not None:
            values[codes == self.nan] = np.nan
        return values

    def to_data(self, values: np.ndarray) -> np.ndarray:
        """Drawing coordinates to data coordinates, in the entry's shape."""
        values = values.reshape(-1, len(self.log))
        values = np.where(self.log, 10.0 ** np.where(self.log, values, 0.0), values)
        return values.reshape(self.shape)

    @property
    def span(self) -> np.ndarray:
        return self.step * (65534 if self.codes.dtype == np.int16 else 254 if self.nan else 255)


def log_columns(entry: Entry, shape: tuple[int, ...], axes: Sequence[Mapping]) -> np.ndarray:
    """For each column (entry of the mark's last dimension, times the Jacobian's scalars): is its axis logarithmic?"""
    coordinates = entry.mark.coordinates
    if entry.scalars is not None:
        return np.zeros(max(len(coordinates), 1) * entry.scalars, dtype=bool)
    scales = axes[entry.mark.axes]
    return np.array([c in "xy" and scales[c]["log"] for c in coordinates] or [False])


def to_drawing(values: np.ndarray, log: np.ndarray) -> np.ndarray:
    """Data to drawing coordinates, (rows, entries); what a logarithmic axis cannot show becomes NaN."""
    columns = values.reshape(len(values), -1, len(log))
    with np.errstate(divide="ignore", invalid="ignore"):
        logged = np.log10(np.where(columns > 0, columns, np.nan))
    return np.where(log, logged, columns).reshape(len(values), -1)


def quantise(values: np.ndarray, columns: int, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Codes, low, step, NaN code: values = low + step * code per column, off by at most step / 2."""
    byte = dtype is np.uint8
    levels, first, nan = (254, 0, UINT8_NAN) if byte else (65534, -32767, INT16_NAN)
    split = values.reshape(-1, columns)
    finite = np.isfinite(split)
    low = np.where(finite, split, np.inf).min(0)
    high = np.where(finite, split, -np.inf).max(0)
    low, high = np.where(low <= high, low, 0.0), np.where(low <= high, high, 0.0)
    step = (high - low) / levels
    codes = np.rint((split - low) / np.where(step > 0, step, 1.0))
    codes = np.where(finite, codes + first, nan).astype(dtype).reshape(values.shape)
    return codes, low - first * step, step, nan


def make_table(entry: Entry, arrays: list[np.ndarray], axes: Sequence[Mapping]) -> Table:
    shape = arrays[0].shape
    if arrays[0].dtype == object:
        words = [str(word) for array in arrays for word in array.ravel()]
        strings = sorted(set(words))
        codes = np.array([strings.index(word) for word in words], dtype=np.int16).reshape(len(arrays), -1)
        return Table(entry, shape, codes, np.zeros(1), np.ones(1), None, np.zeros(1, bool), strings)
    values = np.stack(arrays).reshape(len(arrays), -1)
    log = log_columns(entry, shape, axes)
    if entry.mark.kind == "image":
        return Table(entry, shape, np.rint(values).astype(np.uint8), np.zeros(1), np.ones(1), None, log)
    dtype = np.uint8 if entry.mark.byte else np.int16
    codes, low, step, nan = quantise(to_drawing(values, log), len(log), dtype)
    return Table(entry, shape, codes, low, step, nan, log)


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


@dataclass(frozen=True)
class Place:
    """Where a context lies on the grid: rows of its cell's corners with their weights, the nearest row, the cell."""

    rows: np.ndarray
    weights: np.ndarray
    nearest: int
    cell: int


def pick(context: Mapping, axis: GridAxis) -> float | str:
    value = context[axis.control]
    return value if axis.component is None else value[axis.component]


def locate(grid: Sequence[GridAxis], positions: Sequence[float]) -> Place:
    corners, nearest, cell = [(0, 1.0)], 0, 0
    for axis, position in zip(grid, positions, strict=True):
        n = axis.steps
        if axis.discrete:
            corners = [(row * n + int(position), weight) for row, weight in corners]
            nearest, cell = nearest * n + int(position), cell * n + int(position)
            continue
        below = min(int(position), n - 2)
        part = position - below
        corners = [
            (row * n + below + up, weight * share)
            for row, weight in corners
            for up, share in ((0, 1 - part), (1, part))
            if share > 0
        ]
        nearest, cell = nearest * n + int(position + 0.5), cell * (n - 1) + below
    rows, weights = zip(*corners, strict=True)
    return Place(np.array(rows), np.array(weights), nearest, cell)


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
