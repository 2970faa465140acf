"""A matplotlib figure as SVG: what does not move, the place of its axes, and the picture for print."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffopt_lib.widgets.marks import DRAW_ORDER, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def to_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element, transparent, with glyphs as paths so that it looks alike everywhere."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "diffopt"}):
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches=None, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # matplotlib's style sheet is `* {...}`, which would reach every element of the page; explorer.css has it scoped.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    return re.sub(r">\s+<", "><", svg).strip()


def with_theme(svg: str) -> str:
    """Replace the greys of the SVG by mixtures of the page's ink and paper, so that it stays legible on dark pages."""

    def themed(match: re.Match) -> str:
        red, green, blue = (int(match[1][i : i + 2], 16) for i in (0, 2, 4))
        if max(red, green, blue) - min(red, green, blue) > 10:
            return match[0]
        ink = round(100 - red / 2.55)
        return f"color-mix(in srgb, var(--ink) {ink}%, var(--paper))"

    return re.sub(r"#([0-9a-fA-F]{6})(?=[;\"])", themed, svg)


def size(figure: Figure) -> tuple[float, float]:
    """Width and height in SVG units, which are points."""
    return figure.get_figwidth() * 72, figure.get_figheight() * 72


def axes_spec(figure: Figure) -> list[dict]:
    """For each axes its box in SVG units and its two scales; only after a first drawing, when layouts move axes."""
    width, height = size(figure)
    return [
        {
            "left": box.x0 * width,
            "top": (1 - box.y1) * height,
            "width": box.width * width,
            "height": box.height * height,
            "x": _scale(ax, "x"),
            "y": _scale(ax, "y"),
        }
        for ax in figure.axes
        for box in [ax.get_position()]
    ]


def _scale(ax: Axes, which: str) -> dict:
    name = getattr(ax, f"get_{which}scale")()
    if name not in ("linear", "log"):
        raise ValueError(f"figure: the {which} axis has scale {name!r}; only 'linear' and 'log' can carry marks")
    low, high = getattr(ax, f"get_{which}lim")()
    return {"low": float(low), "high": float(high), "log": name == "log"}


def static_picture(
    figure: Figure, marks: Sequence[Mark], values: Mapping[str, np.ndarray], pads: Sequence[tuple]
) -> str:
    """A data URI: the figure with its marks at one context, for print and for readers without JavaScript.

    `pads` lists (axes index, point) of the draggable points.
    """
    before = [(ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) for ax in figure.axes]
    artists = []
    for mark in sorted(marks, key=lambda mark: DRAW_ORDER.index(mark.kind)):
        artists += mark.draw(figure.axes[mark.axes], values[mark.name])
    for axes, point in pads:
        artists += figure.axes[axes].plot(*point, "o", mfc="none", mec="k", mew=2, ms=11, zorder=5)
    for ax, (x, y, aspect) in zip(figure.axes, before, strict=True):
        ax.set(xlim=x, ylim=y, aspect=aspect)
    svg = to_svg(figure)
    for artist in artists:
        artist.remove()
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
