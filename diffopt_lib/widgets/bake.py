"""Solve over the grid of the controls and store it small, so that a page without a kernel can move.

Between nodes the page interpolates multilinearly, except where a jump is (`jumps`). Cells that a kink runs through get
a finer grid of their own. The bake then measures its own error, inside the cells and at random contexts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from diffopt_lib.widgets.controls import Control, context_at, random_context
from diffopt_lib.widgets.jumps import SNAPPED, Baked, Probe, distance, drawing_value, find_jumps, probe_cells, starts
from diffopt_lib.widgets.solver import Solver
from diffopt_lib.widgets.table import FINE, Table, make_table, to_drawing

PROBES = 64
SAFETY = 2.0
"""What is printed is that many times the worst error seen, since other contexts may be worse."""
CLOSE = 0.004
"""Interpolation inside a cell that is off by more, as a share of a mark's range, asks for a finer grid there."""


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


def measure(
    baked: Baked, solver: Solver, probes: Sequence[Probe], seed: int = 0, checks: int = 8, check_entries: int = 64
) -> None:
    """Compare what the page shows with the solution inside every cell and at random contexts; keep a few of these for
    tests of the page."""
    generator = np.random.default_rng(seed)
    marks = [entry.name for entry in solver.entries if entry.scalars is None]
    drawn = [entry.name for entry in solver.entries if entry.scalars is None and entry.mark.kind != "readout"]
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
                (context, {name: solution[name] for name in drawn if solution[name].size <= check_entries})
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
