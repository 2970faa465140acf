"""What a reader can move: a `Slider`, a `Pad` (a point in the figure) and a `Choice`.

A control is one entry of the context. On the static page the context moves over a grid of solved nodes, so each control
also says which `GridAxis` it spans: a slider one, a pad two, a choice one without anything between its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GridAxis:
    """One axis of the grid: `steps` nodes from `low` to `high`, or the listed `values` with nothing between them."""

    control: str
    component: int | None = None
    low: float = 0.0
    high: float = 1.0
    steps: int = 2
    log: bool = False
    values: tuple | None = None

    @property
    def discrete(self) -> bool:
        return self.values is not None

    def value(self, position: float) -> float | str:
        """The control's value at a position in node units, 0 ... steps - 1."""
        if self.values is not None:
            return self.values[int(position)]
        fraction = position / (self.steps - 1)
        if self.log:
            return float(self.low * (self.high / self.low) ** fraction)
        return float(self.low + (self.high - self.low) * fraction)

    def position(self, value: Any) -> float:
        """The inverse of `value`; rounding errors at a node are removed so that a node is read exactly."""
        if self.values is not None:
            return self.values.index(value)
        if self.log:
            fraction = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            fraction = (value - self.low) / (self.high - self.low)
        position = min(max(fraction, 0.0), 1.0) * (self.steps - 1)
        return round(position) if abs(position - round(position)) < 1e-9 else position

    def spec(self) -> dict:
        names = ("control", "component", "low", "high", "steps", "log", "values")
        return {name: getattr(self, name) for name in names}


def _check_range(name: str, low: float, high: float, steps: int) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"control {name!r}: the range must be finite with low < high, got ({low}, {high})")
    if steps < 2:
        raise ValueError(f"control {name!r}: steps must be at least 2, got {steps}")


@dataclass(frozen=True)
class Slider:
    """A real number in [low, high], moved continuously and solved at `steps` nodes; the context holds a float.

    `scale="log"` spaces nodes and slider geometrically. `integer=True` is for counts (k of a top-k, a number of
    iterations): it takes every whole number in the range, nothing is interpolated between them, and it does not count
    as a continuous scalar of the derivative.
    """

    name: str
    low: float
    high: float
    _: KW_ONLY
    value: float | None = None
    steps: int = 41
    label: str = ""
    unit: str = ""
    scale: str = "linear"
    integer: bool = False

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high, self.steps)
        if self.scale not in ("linear", "log"):
            raise ValueError(f"control {self.name!r}: scale must be 'linear' or 'log', got {self.scale!r}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"control {self.name!r}: a log scale needs low > 0, got {self.low}")
        if self.integer and (int(self.low) != self.low or int(self.high) != self.high):
            raise ValueError(
                f"control {self.name!r}: an integer slider needs whole bounds, got {self.low}, {self.high}"
            )

    def default(self) -> float:
        if self.value is not None:
            return self.clean(self.value)
        return float(self.low) if self.integer or self.scale == "log" else (self.low + self.high) / 2

    def grid(self) -> list[GridAxis]:
        if self.integer:
            values = tuple(float(v) for v in range(int(self.low), int(self.high) + 1))
            return [GridAxis(self.name, low=self.low, high=self.high, steps=len(values), values=values)]
        return [GridAxis(self.name, None, self.low, self.high, self.steps, self.scale == "log")]

    def clean(self, value: Any) -> float:
        number = float(value)
        if not self.low <= number <= self.high:
            raise ValueError(f"control {self.name!r}: {number} lies outside [{self.low}, {self.high}]")
        return float(round(number)) if self.integer else number

    def spec(self) -> dict:
        return {
            "kind": "slider",
            "name": self.name,
            "label": self.label or self.name,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "log": self.scale == "log",
            "integer": self.integer,
        }


@dataclass(frozen=True)
class Pad:
    """A point of the plane that is dragged in the data coordinates of the figure's axes; the context holds (2,).

    `readout` is a format for the numbers `"<name>_readout"` that `solve` returns, where the point stands for other
    numbers than its two coordinates.
    """

    name: str
    x: tuple[float, float]
    y: tuple[float, float]
    _: KW_ONLY
    value: Sequence[float] | None = None
    steps: tuple[int, int] = (21, 21)
    label: str = ""
    unit: str = ""
    axes: int = 0
    color: str = "k"
    readout: str = ""

    def __post_init__(self) -> None:
        for (low, high), steps in zip((self.x, self.y), self.steps, strict=True):
            _check_range(self.name, low, high, steps)

    def default(self) -> np.ndarray:
        middle = (sum(self.x) / 2, sum(self.y) / 2)
        return self.clean(middle if self.value is None else self.value)

    def grid(self) -> list[GridAxis]:
        return [
            GridAxis(self.name, i, low, high, steps)
            for i, ((low, high), steps) in enumerate(zip((self.x, self.y), self.steps, strict=True))
        ]

    def clean(self, value: object) -> np.ndarray:
        point = np.asarray(value, dtype=float)
        if point.shape != (2,):
            raise ValueError(f"control {self.name!r}: expected a point of shape (2,), got shape {point.shape}")
        for number, (low, high) in zip(point, (self.x, self.y), strict=True):
            if not low <= number <= high:
                raise ValueError(f"control {self.name!r}: {number} lies outside [{low}, {high}]")
        return point

    def spec(self) -> dict:
        return {
            "kind": "pad",
            "name": self.name,
            "label": self.label or self.name,
            "unit": self.unit,
            "x": self.x,
            "y": self.y,
            "axes": self.axes,
            "readout": self.readout,
        }


@dataclass(frozen=True)
class Choice:
    """One of a few strings; the context holds the string."""

    name: str
    options: Sequence[str]
    _: KW_ONLY
    value: str | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if len(self.options) == 0 or len(set(self.options)) < len(self.options):
            raise ValueError(f"control {self.name!r}: options must be distinct and not empty, got {self.options}")

    def default(self) -> str:
        return self.clean(self.options[0] if self.value is None else self.value)

    def grid(self) -> list[GridAxis]:
        return [GridAxis(self.name, steps=len(self.options), values=tuple(self.options))]

    def clean(self, value: object) -> str:
        if value not in self.options:
            raise ValueError(f"control {self.name!r}: {value!r} is none of {list(self.options)}")
        return str(value)

    def spec(self) -> dict:
        return {
            "kind": "choice",
            "name": self.name,
            "label": self.label or self.name,
            "options": list(self.options),
        }


Control = Slider | Pad | Choice


def complete(controls: Sequence[Control], partial: Mapping[str, object]) -> dict:
    """The full context that `partial` stands for: what it does not name takes its control's default."""
    known = {control.name for control in controls}
    for name in partial:
        if name not in known:
            raise ValueError(f"unknown control {name!r}; the controls are {sorted(known)}")
    return {c.name: c.clean(partial[c.name]) if c.name in partial else c.default() for c in controls}


def plain(context: Mapping[str, object]) -> dict:
    """The context as JSON has it: a list for a point."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in context.items()}


def context_at(controls: Sequence[Control], grid: Sequence[GridAxis], positions: Sequence[float]) -> dict:
    context: dict = {}
    for axis, position in zip(grid, positions, strict=True):
        value = axis.value(position)
        if axis.component is None:
            context[axis.control] = value
        else:
            context.setdefault(axis.control, np.empty(2))[axis.component] = value
    return {control.name: context[control.name] for control in controls}


def random_context(controls: Sequence[Control], generator: np.random.Generator) -> dict:
    """One of all contexts, uniform along each control (along its logarithm on a logarithmic slider)."""
    grid = [axis for control in controls for axis in control.grid()]
    positions = [
        int(generator.integers(axis.steps)) if axis.discrete else generator.uniform(0, axis.steps - 1) for axis in grid
    ]
    return complete(controls, context_at(controls, grid, positions))
