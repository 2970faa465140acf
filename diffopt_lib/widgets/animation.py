"""A trajectory that moves: lines and polygons over time, with a button to play them and a slider to look at any moment.

    x = mpc(x_init, cost, pendulum, 60).x
    animate(pendulum.rod(x), dt=pendulum.dt, label="A pendulum swings up.")

The page needs neither a kernel nor a network. It does not move before its reader wants it to. Where scripts do not run,
the first frame is seen, and the path of each line's end.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from .javascript import module
from .style import PALETTE

WIDTH = 360  # pixels, at most
MARGIN = 0.08  # around everything that is ever drawn, relative to the larger side


@dataclass(frozen=True)
class Animation:
    """What :func:`animate` gives: IPython shows it as HTML."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def animate(lines: Any, *, dt: float, polygons: Any = None, label: str) -> Animation:
    """Frames of a trajectory, dt seconds each.

    Args:
        lines: ``(T, k, 2)``, or ``(T, m, k, 2)`` for m lines of k points; arrays or tensors without a gradient.
        dt: the time between two frames, in seconds.
        polygons: likewise, filled and under the lines.
        label: what is seen, for those who can't see it.

    Raises:
        ValueError: the shapes do not fit, T is 0, or something is not finite.
    """
    shapes = [(points, "polyline") for points in _split("lines", lines)]
    filled = [] if polygons is None else [(points, "polygon") for points in _split("polygons", polygons)]
    if any(len(points) != len(shapes[0][0]) for points, _ in filled):
        raise ValueError(f"polygons must have as many frames as lines, {len(shapes[0][0])}, got {len(filled[0][0])}")
    if not 0 < dt < np.inf:
        raise ValueError(f"dt must be positive and finite, got {dt}")
    everything = np.concatenate([points.reshape(-1, 2) for points, _ in filled + shapes])
    low, high = everything.min(0), everything.max(0)
    margin = MARGIN * max(*(high - low), 1e-9)
    scale = WIDTH / (high[0] - low[0] + 2 * margin)
    height = scale * (high[1] - low[1] + 2 * margin)

    def place(points: np.ndarray) -> str:
        """In pixels from the top left corner, y down."""
        x, y = scale * (points[:, 0] - low[0] + margin), height - scale * (points[:, 1] - low[1] + margin)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    trails = "".join(
        f'<polyline points="{place(points[:, -1])}" stroke="{PALETTE[i % len(PALETTE)]}" stroke-opacity="0.35"/>'
        for i, (points, _) in enumerate(shapes)
    )
    ground = place(np.array([[low[0] - margin, 0.0], [high[0] + margin, 0.0]]))
    moving = "".join(_shape(kind, i, place(points[0])) for i, (points, kind) in enumerate(filled + shapes))
    outlines = [[place(frame) for frame in points] for points, _ in filled + shapes]
    return Animation(_page(f"0 0 {WIDTH} {height:.1f}", label, trails, ground, moving, outlines, dt))


def _split(name: str, values: Any) -> list[np.ndarray]:
    """``(T, k, 2)`` of each line or polygon."""
    array = np.asarray(values, dtype=float)
    if array.ndim not in (3, 4) or array.shape[-1] != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have shape (T, k, 2) or (T, m, k, 2), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return [array] if array.ndim == 3 else list(array.swapaxes(0, 1))


def _shape(kind: str, i: int, points: str) -> str:
    paint = 'fill="currentColor" fill-opacity="0.25"' if kind == "polygon" else 'stroke-width="5"'
    colour = "currentColor" if kind == "polygon" else PALETTE[i % len(PALETTE)]
    return f'<{kind} data-shape="{i}" points="{points}" stroke="{colour}" {paint}/>'


def _page(
    box: str, label: str, trails: str, ground: str, moving: str, outlines: list[list[str]], seconds: float
) -> str:
    name = f"diffopt-animation-{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([outlines, label])).hex[:12]}"
    frames = json.dumps({"outlines": outlines, "seconds": seconds})
    script = f'{{{module("player")}play(document.getElementById("{name}"), {frames});}}'
    return (
        f'<div id="{name}" class="diffopt-animation" style="max-width: {WIDTH}px">'
        f'<svg viewBox="{box}" role="img" aria-label="{escape(label, quote=True)}" style="width: 100%; display: block" '
        'fill="none" stroke-linecap="round" stroke-linejoin="round">'
        f'<polyline points="{ground}" stroke="currentColor" stroke-opacity="0.3"/>{trails}{moving}</svg>'
        '<div style="display: flex; gap: 0.6em; align-items: center">'
        '<button type="button" style="min-width: 4.5em">Play</button>'
        f'<input type="range" min="0" max="{len(outlines[0]) - 1}" value="0" step="1" aria-label="Moment" '
        'style="flex: 1"><output style="min-width: 4em">0.00 s</output></div>'
        f"<script>{script}</script></div>"
    )
