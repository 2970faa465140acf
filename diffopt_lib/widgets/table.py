"""What a bake stores: the solutions of each entry as small integers, one scale per coordinate, and how they are found.

Nodes are stored as integer codes, one scale per coordinate. `locate` says between which of them a context lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffopt_lib.widgets.controls import GridAxis
from diffopt_lib.widgets.marks import Mark

INT16_NAN, UINT8_NAN = -32768, 255
FINE = 4
"""Into how many parts a refined cell is cut along each axis that moves continuously."""


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


def locate(grid: Sequence[GridAxis], positions: Sequence[float], fine: Mapping[int, int] | None = None) -> Place:
    """The corners of the cell at a position, or of the finer cell where that cell has a grid of its own."""
    coarse, parts, nearest, cell = [], [], 0, 0
    for axis, position in zip(grid, positions, strict=True):
        if axis.discrete:
            coarse.append((axis.steps, int(position), 0.0))
            nearest, cell = nearest * axis.steps + int(position), cell * axis.steps + int(position)
            continue
        below = min(int(position), axis.steps - 2)
        coarse.append((axis.steps, below, position - below))
        parts.append(position - below)
        nearest, cell = nearest * axis.steps + int(position + 0.5), cell * (axis.steps - 1) + below
    first = (fine or {}).get(cell)
    if first is None:
        rows, weights = corners_of(coarse)
    else:
        inner = [(min(int(part * FINE), FINE - 1), part * FINE) for part in parts]
        rows, weights = corners_of([(FINE + 1, below, at - below) for below, at in inner])
        rows = rows + first
    return Place(rows, weights, nearest, cell)


def corners_of(axes: Sequence[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and weights of a cell's corners; an axis is (nodes, the node below, the part of the way to the next)."""
    corners = [(0, 1.0)]
    for n, below, part in axes:
        corners = [
            (row * n + below + up, weight * share)
            for row, weight in corners
            for up, share in ((0, 1 - part), (1, part))
            if share > 0
        ]
    rows, weights = zip(*corners, strict=True)
    return np.array(rows), np.array(weights)
