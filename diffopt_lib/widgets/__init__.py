"""Widgets: one front end for two hosts, a live JupyterLab and a built page without a kernel.

A chapter's widget is a matplotlib figure, controls that move the context x, marks that follow y*(x), and one function:

    import matplotlib.pyplot as plt
    import numpy as np
    from diffopt_lib.widgets import Explorer, Pad, Points, Slider

    figure, ax = plt.subplots(figsize=(5.2, 3.9))
    ax.set(xlim=(-2, 2), ylim=(-1.5, 1.5), aspect="equal")
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.6"))        # what does not move

    def solve(context):                                                 # the projection onto the ball of radius r
        x, r = context["x"], context["r"]
        n = np.linalg.norm(x)
        inside = n <= r
        y = x if inside else r * x / n
        dx = np.eye(2) if inside else r / n * (np.eye(2) - np.outer(x, x) / n**2)
        dr = np.zeros(2) if inside else x / n
        return {"y": y, "y_jacobian": np.column_stack([dx, dr])}        # (2, 3): the Pad gives two columns

    Explorer(
        figure,
        controls=[Pad("x", (-2, 2), (-1.5, 1.5), value=(1.3, 0.9)), Slider("r", 0.2, 1.4, value=1.0, steps=13)],
        marks=[Points("y", color="C1", label="y*(x)", derivative=True)],
        solve=solve,
        anchor={"x": (1.6, -0.2)},                                      # x0: the prediction from there is already off
        presets={"inside": {"x": (0.4, 0.2)}, "on the sphere": {"x": (0.6, 0.8)}},
        title="Projection onto a ball",
        description="A point x and its projection onto a disc, with the derivative's linear prediction of it.",
    )

as the last expression of a cell. `solve` runs about twice per grid node (once for the table, once for the search for
jumps), so keep it in the millisecond range or lower the controls' `steps`; or hand over the same function in JavaScript
as `page_solve`, with which the page solves for itself. See `marks` for the arrays and `Explorer` for the rest.
"""

from diffopt_lib.widgets.animation import Animation, animate
from diffopt_lib.widgets.controls import Choice, Pad, Slider
from diffopt_lib.widgets.explorer import Explorer
from diffopt_lib.widgets.marks import Arrows, Bars, HeatMap, Image, Points, Polygon, Polyline, Text

__all__ = [
    "Animation",
    "Arrows",
    "Bars",
    "Choice",
    "Explorer",
    "HeatMap",
    "Image",
    "Pad",
    "Points",
    "Polygon",
    "Polyline",
    "Slider",
    "Text",
    "animate",
]
