"""What moves in a figure. A mark names an entry of what `solve` returns and says how to draw it.

| mark | array | a row is |
| --- | --- | --- |
| `Points` | (k, 2) or (2,) | x, y |
| `Polyline` | (k, 2), or (m, k, 2) for m lines | x, y; a NaN interrupts the line |
| `Polygon` | (k, 2), or (m, k, 2) for m polygons | x, y; closed |
| `Arrows` | (k, 4) | x, y, dx, dy |
| `Bars` | (k,) | the height at `positions[k]` |
| `HeatMap` | (h, w) | values, row 0 at the bottom of `extent` |
| `Image` | (h, w, 3) or (h, w, 4) | colours in [0, 1] or uint8, row 0 at the top of `extent` |
| `Text` | (k,) or (), or strings | what `format` puts into its braces |

NaN means "not drawn". Every mark has the same shape at every context. Marks are drawn from the broad to the small: heat
maps and images under the figure, then polygons, bars, lines, arrows, points, text; within a kind in the order given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

PLACEHOLDER = re.compile(r"\{(\d*)(?::(\+?)(?:\.(\d+))?([fegsd%]?))?\}")


def check_format(name: str, text: str) -> None:
    rest = PLACEHOLDER.sub("", text)
    if "{" in rest or "}" in rest:
        raise ValueError(f"mark {name!r}: {text!r} has a field other than {{:+.3f}} with f, e, g, d, % or s")


@dataclass(frozen=True)
class Mark:
    """What all marks share: the entry's name, a legend label, a colour and the index of the figure's axes.

    `readout` is a format, as in `Text`, for the numbers that the legend shows beside the label. Without one these are
    the mark's own entries; with one `solve` returns them as `"<name>_readout"`, so that a point of the simplex can read
    as its three shares. A mark with a derivative then also has `"<name>_readout_jacobian"`, with a row for each number.
    `continuous` says that the mark never jumps, so that a table interpolates it in every cell.
    """

    name: str
    _: KW_ONLY
    label: str = ""
    color: str = "C0"
    axes: int = 0
    unit: str = ""
    derivative: bool = False
    readout: str = ""
    continuous: bool = False

    kind: ClassVar[str]
    coordinates: ClassVar[str] = ""
    """One letter per entry of the last dimension: its axis, `-` for none; empty if the entries are no coordinates."""
    differentiable: ClassVar[bool] = False
    byte: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.derivative and not self.differentiable:
            raise ValueError(f"mark {self.name!r}: {type(self).__name__} cannot show a derivative's prediction")
        check_format(self.name, self.readout)

    def accepts(self, shape: tuple[int, ...]) -> bool:
        raise NotImplementedError

    def draw(self, ax, data: np.ndarray) -> list:
        """Draw on a matplotlib axes, for the page without JavaScript; return the artists."""
        raise NotImplementedError

    def style(self) -> dict:
        """The drawing options that JavaScript needs beside the colour."""
        return {}


@dataclass(frozen=True)
class Points(Mark):
    _: KW_ONLY
    size: float = 8.0

    kind = "points"
    coordinates = "xy"
    differentiable = True

    def accepts(self, shape):
        return shape == (2,) or (len(shape) == 2 and shape[1] == 2)

    def draw(self, ax, data):
        x, y = data.reshape(-1, 2).T
        return ax.plot(x, y, "o", color=self.color, ms=self.size)

    def style(self):
        return {"size": self.size}


@dataclass(frozen=True)
class Polyline(Mark):
    _: KW_ONLY
    width: float = 2.0
    dash: Sequence[float] | None = None

    kind = "polyline"
    coordinates = "xy"
    differentiable = True

    def accepts(self, shape):
        return len(shape) in (2, 3) and shape[-1] == 2

    def draw(self, ax, data):
        lines = data.reshape(-1, *data.shape[-2:])
        style = (0, tuple(self.dash)) if self.dash else "-"
        return [ax.plot(*line.T, color=self.color, lw=self.width, ls=style)[0] for line in lines]

    def style(self):
        return {"width": self.width, "dash": list(self.dash) if self.dash else None}


@dataclass(frozen=True)
class Polygon(Mark):
    _: KW_ONLY
    opacity: float = 0.25
    width: float = 1.5

    kind = "polygon"
    coordinates = "xy"
    differentiable = True

    def accepts(self, shape):
        return len(shape) in (2, 3) and shape[-1] == 2

    def draw(self, ax, data):
        from matplotlib.colors import to_rgba

        patches = []
        for polygon in data.reshape(-1, *data.shape[-2:]):
            patches += ax.fill(*polygon.T, fc=to_rgba(self.color, self.opacity), ec=self.color, lw=self.width)
        return patches

    def style(self):
        return {"opacity": self.opacity, "width": self.width}


@dataclass(frozen=True)
class Arrows(Mark):
    _: KW_ONLY
    width: float = 1.75

    kind = "arrows"
    coordinates = "xy--"

    def accepts(self, shape):
        return len(shape) == 2 and shape[1] == 4

    def draw(self, ax, data):
        props = {"arrowstyle": "-|>", "color": self.color, "lw": self.width, "shrinkA": 0, "shrinkB": 0}
        drawn = data[np.isfinite(data).all(1)]
        return [ax.annotate("", (x + dx, y + dy), (x, y), arrowprops=props) for x, y, dx, dy in drawn]

    def style(self):
        return {"width": self.width}


@dataclass(frozen=True)
class Bars(Mark):
    _: KW_ONLY
    positions: Sequence[float] | None = None
    width: float = 0.8
    base: float = 0.0

    kind = "bars"
    coordinates = "y"
    differentiable = True

    def accepts(self, shape):
        return len(shape) == 1 and (self.positions is None or len(self.positions) == shape[0])

    def draw(self, ax, data):
        positions = np.arange(len(data)) if self.positions is None else self.positions
        return list(ax.bar(positions, data - self.base, self.width, bottom=self.base, color=self.color))

    def style(self):
        positions = None if self.positions is None else [float(p) for p in self.positions]
        return {"positions": positions, "width": self.width, "base": self.base}


@dataclass(frozen=True)
class HeatMap(Mark):
    """A matrix of values over `extent` = (x0, x1, y0, y1), coloured from `vmin` to `vmax` (default: the values' range
    over all contexts)."""

    _: KW_ONLY
    extent: Sequence[float]
    cmap: str = "viridis"
    vmin: float | None = None
    vmax: float | None = None
    smooth: bool = False

    kind = "heatmap"
    byte = True

    def accepts(self, shape):
        return len(shape) == 2

    def draw(self, ax, data):
        limits = {"vmin": self.vmin, "vmax": self.vmax}
        return [ax.imshow(data, extent=self.extent, origin="lower", aspect="auto", cmap=self.cmap, zorder=0, **limits)]

    def style(self):
        from matplotlib import colormaps

        colors = (colormaps[self.cmap](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(int)
        style = {"extent": list(self.extent), "colors": colors.ravel().tolist(), "smooth": self.smooth}
        return style | {"vmin": self.vmin, "vmax": self.vmax}


@dataclass(frozen=True)
class Image(Mark):
    """A picture over `extent` = (x0, x1, y0, y1)."""

    _: KW_ONLY
    extent: Sequence[float]
    smooth: bool = True

    kind = "image"
    byte = True

    def accepts(self, shape):
        return len(shape) == 3 and shape[2] in (3, 4)

    def draw(self, ax, data):
        return [ax.imshow(data / 255, extent=self.extent, origin="upper", aspect="auto", zorder=0)]

    def style(self):
        return {"extent": list(self.extent), "smooth": self.smooth}


@dataclass(frozen=True)
class Text(Mark):
    """A line of text: `format` takes the numbers (or strings) that `solve` returns, as in `"gap {:.1e}"`.

    `position` is (x, y) in data coordinates, or with `within="axes"` in fractions of the axes, or the name of a
    `Points` mark, whose first point the text then follows. The outline in the page's colour keeps it legible on lines;
    on a heat map, which is as bright on dark pages, leave it out and take a colour other than black, which is the ink.
    """

    _: KW_ONLY
    position: Sequence[float] | str
    format: str = "{:.3f}"
    within: str = "data"
    align: str = "left"
    size: float = 9.0
    color: str = "k"
    outline: bool = True

    kind = "text"

    def __post_init__(self):
        super().__post_init__()
        if self.align not in ("left", "center", "right") or self.within not in ("data", "axes"):
            raise ValueError(f"mark {self.name!r}: align is left, center or right; within is data or axes")
        check_format(self.name, self.format)

    def accepts(self, shape):
        return len(shape) <= 1

    def draw(self, ax, data):
        if isinstance(self.position, str):
            return []
        transform = ax.transData if self.within == "data" else ax.transAxes
        words = [value if isinstance(value, str) else float(value) for value in np.atleast_1d(data)]
        line = self.format.format(*words) if all(isinstance(w, str) or np.isfinite(w) for w in words) else ""
        return [ax.text(*self.position, line, ha=self.align, color=self.color, size=self.size, transform=transform)]

    def style(self):
        position = self.position if isinstance(self.position, str) else [float(p) for p in self.position]
        return {
            "position": position,
            "format": self.format,
            "within": self.within,
            "align": self.align,
            "size": self.size,
            "outline": self.outline,
        }


@dataclass(frozen=True)
class Readout(Mark):
    """The numbers of a mark's or a pad's readout: in the legend, not in the figure."""

    kind = "readout"
    differentiable = True

    def accepts(self, shape):
        return len(shape) <= 1


DRAW_ORDER = ["heatmap", "image", "polygon", "bars", "polyline", "arrows", "points", "text"]


def readout_name(name: str) -> str:
    return f"{name}_readout"


def jacobian_name(mark: Mark) -> str:
    return f"{mark.name}_jacobian"
