"""Two explorers that between them hold every control and every mark, with a solution that is known in closed form."""

import matplotlib.pyplot as plt
import numpy as np

from diffopt_lib.widgets import (
    Arrows,
    Bars,
    Choice,
    Explorer,
    HeatMap,
    Image,
    Pad,
    Points,
    Polygon,
    Polyline,
    Slider,
    Text,
)

ANGLES = np.linspace(0, 2 * np.pi, 41)
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
STEPS = np.geomspace(1, 100, 20)
GRID = np.stack(np.meshgrid(np.linspace(-2, 2, 12), np.linspace(-2, 2, 12)), -1)


def project(context: dict) -> dict:
    """The projection of x onto the ball of radius r, with its Jacobian in (x, r)."""
    x, r = context["x"], context["r"]
    norm = np.linalg.norm(x)
    if norm <= r:
        y, dx, dr = x, np.eye(2), np.zeros(2)
    else:
        y, dx, dr = r * x / norm, r / norm * (np.eye(2) - np.outer(x, x) / norm**2), x / norm
    return {"y": y, "y_jacobian": np.column_stack([dx, dr]), "ball": r * CIRCLE}


BALL_IN_PAGE = """({ x, r }, _, { linspace }) => {
  const n = Math.hypot(...x), outside = n > r, scale = outside ? r / n : 1;
  const dr = x.map((v) => (outside ? v / n : 0));
  const dx = (i, j) => scale * (Number(i === j) - (outside ? (x[i] * x[j]) / n ** 2 : 0));
  const circle = linspace(0, 2 * Math.PI, 41).map((t) => [r * Math.cos(t), r * Math.sin(t)]);
  const y_jacobian = [[dx(0, 0), dx(0, 1), dr[0]], [dx(1, 0), dx(1, 1), dr[1]]];
  return { y: x.map((v) => scale * v), y_jacobian, ball: circle };
}"""
"""`project` for the page."""


def ball(**options) -> Explorer:
    figure, ax = plt.subplots(figsize=(5, 3.75))
    ax.set(xlim=(-2, 2), ylim=(-1.5, 1.5), aspect="equal", title="a ball")
    return Explorer(
        figure,
        controls=[
            Pad("x", (-2, 2), (-1.5, 1.5), value=(1.3, 0.9), steps=(15, 13), label="the point x"),
            Slider("r", 0.2, 1.4, value=1.0, steps=5, label="radius", unit="m"),
        ],
        marks=[
            Polygon("ball", color="C0", opacity=0.12, label="the ball"),
            Points("y", color="C1", label="y*(x)", derivative=True),
        ],
        solve=project,
        anchor={"x": (1.6, -0.2)},
        presets={
            "inside": {"x": (0.41, 0.22), "anchor": {"x": (0.3, 0.3)}, "note": "Nothing to project."},
            "on the sphere": {"x": (0.6, 0.8), "r": 1.0},
        },
        title="Projection onto a ball",
        description='A point x & its projection onto a "ball"',
        **options,
    )


def softargmax(context: dict) -> dict:
    """Softargmax or its limit, with marks of every remaining kind."""
    x, tau, k = context["x"], context["tau"], context["k"]
    logits = np.array([x[0], x[1], 0.5])
    if context["method"] == "soft":
        p = np.exp((logits - logits.max()) / tau)
        p /= p.sum()
        dp = (np.diag(p) - np.outer(p, p)) / tau
        jacobian = np.column_stack([dp[:, 0], dp[:, 1], -dp @ logits / tau])
    else:
        p, jacobian = np.eye(3)[logits.argmax()], np.zeros((3, 3))
    return {
        "distance": ((GRID - x) ** 2).sum(-1),
        "picture": np.broadcast_to(p, (4, 4, 3)),
        "p": p,
        "p_jacobian": jacobian,
        "rate": np.stack([STEPS, 5 * STEPS**-tau], 1),
        "step": np.array([[x[0], x[1], -x[0] / 2, -x[1] / 2]]),
        "count": np.array([k, tau]),
        "largest": ["first", "second", "third"][int(p.argmax())],
    }


def everything(**options) -> Explorer:
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 3.2), layout="constrained")
    axes[0].set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
    axes[1].set(xlim=(1, 100), ylim=(1e-3, 10), xscale="log", yscale="log")
    axes[2].set(xlim=(-0.6, 2.6), ylim=(0, 1.1))
    return Explorer(
        figure,
        controls=[
            Pad("x", (-2, 2), (-2, 2), value=(0.8, -0.3), steps=(8, 8), label="logits"),
            Slider("tau", 0.2, 2.0, value=0.6, steps=6, label="temperature", scale="log"),
            Choice("method", ["soft", "hard"], label="layer"),
            Slider("k", 1, 3, value=2, integer=True, label="count"),
        ],
        marks=[
            HeatMap("distance", extent=(-2, 2, -2, 2), cmap="Greys", smooth=True),
            Image("picture", extent=(-2, -1, 1, 2)),
            Bars("p", color="C2", label="softargmax", derivative=True, axes=2),
            Polyline("rate", color="C3", label="rate", axes=1, dash=(5, 2)),
            Arrows("step", color="C4", label="a step"),
            Text("count", position=(0.05, 0.05), within="axes", format="k = {:.0f}, τ = {:.2f}", axes=1),
            Text("largest", position=(1, 1.02), format="{}", axes=2, align="center", label="largest"),
        ],
        solve=softargmax,
        presets={"tie": {"x": (0.5, 0.5), "method": "hard"}},
        title="Everything",
        description="Every other mark.",
        **options,
    )
