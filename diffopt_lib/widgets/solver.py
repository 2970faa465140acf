"""`solve` with its answer checked: every entry there, drawable, and of one shape at all contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from diffopt_lib.widgets.controls import Control, Pad
from diffopt_lib.widgets.marks import Mark, Readout, jacobian_name, readout_name
from diffopt_lib.widgets.table import Entry

Solve = Callable[[dict], Mapping[str, object]]


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
