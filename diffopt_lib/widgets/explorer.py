"""The explorer: a figure, controls that move the context x, marks that show y*(x) and its derivative's prediction."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anywidget
import ipywidgets
import numpy as np

from diffopt_lib.widgets import figure as drawing
from diffopt_lib.widgets.bake import bake
from diffopt_lib.widgets.contexts import check_names, exact_contexts, read_preset
from diffopt_lib.widgets.controls import Control, Pad, complete, plain
from diffopt_lib.widgets.javascript import bundle
from diffopt_lib.widgets.marks import Mark
from diffopt_lib.widgets.page_solve import solve_in_page
from diffopt_lib.widgets.payload import check_size, describe, pack
from diffopt_lib.widgets.solver import Solve, Solver, entries

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent


class Explorer(anywidget.AnyWidget):
    """A figure whose marks follow the context, live in JupyterLab and from a table in a page without a kernel.

    Args:
        figure: a matplotlib figure with everything that does not move. Its limits are final; it is closed after use.
        controls: `Slider`, `Pad`, `Choice`; together they are the context.
        marks: what moves; see `diffopt_lib.widgets.marks` for the array each one takes.
        solve: `solve(context) -> {mark name: array}`, numpy or torch. The context maps a control's name to a float
            (Slider), an array of shape (2,) (Pad) or a string (Choice). For a mark with `derivative=True` it also
            returns `"<name>_jacobian"` of shape (*mark shape, d), the derivative with respect to the d continuous
            scalars of the context in control order (a Slider counts 1, a Pad 2, a Choice or an integer Slider 0).
        presets: name to the part of the context it sets. An entry `"anchor"` also sets x0 of the prediction; an entry
            `"note"` is a sentence shown while the preset is.
        anchor: x0 at the start, a (partial) context. Default: the start itself.
        title: one line above the figure. description: what it shows, for those who cannot see it.
        limit: the most bytes that the stored solutions may take in the page.
        page_solve: `solve` again, as the source of a JavaScript function `(context, data, tools) => ({name: array})`,
            with which a page without a kernel solves for itself; then there is no table. `tools` are the pieces of
            `js/numerics.js`. At the bake it must agree with `solve` at 1,000 random contexts.
        page_data: what that function is handed as `data`: anything that JSON holds.

    Raises:
        ValueError: unknown names, an array a mark cannot draw or that changes its shape, a table beyond the limit, a
            `page_solve` that differs from `solve`.
        ImportError: `page_solve` without the package mini-racer, in which it is checked.
    """

    _esm = bundle() + "export default { render };"
    _css = HERE / "explorer.css"

    def __init__(
        self,
        figure: Figure,
        controls: Sequence[Control],
        marks: Sequence[Mark],
        solve: Solve,
        *,
        presets: Mapping[str, Mapping] | None = None,
        anchor: Mapping | None = None,
        title: str = "",
        description: str = "",
        limit: int = 1_000_000,
        page_solve: str | None = None,
        page_data: Mapping | None = None,
    ):
        super().__init__()
        check_names(figure, controls, marks)
        self.controls = list(controls)
        self.solver = Solver(solve, entries(marks, controls))
        self.title, self.description = title, description or title
        svg = drawing.with_theme(drawing.to_svg(figure))
        axes = drawing.axes_spec(figure)

        start = complete(controls, {})
        start_anchor = complete(controls, anchor or {})
        named = {name: read_preset(controls, name, preset) for name, preset in (presets or {}).items()}
        anchors = [start_anchor, *(preset["anchor"] for preset in named.values() if "anchor" in preset)]
        exact = exact_contexts(controls, start, anchors, named)

        if page_solve is None:
            self.baked = bake(self.solver, self.controls, axes, exact, limit)
            self.table, stored = pack(self.baked)
            check_size(self.baked, self.table, limit)
            values = {mark.name: self.baked.read(mark.name, start)[0] for mark in marks}
        else:
            entry_list, data = self.solver.entries, dict(page_data or {})
            solved = solve_in_page(self.solver, entry_list, controls, axes, start, page_solve, data)
            self.table, stored = b"", describe(solved)
            values = solved.start
        width, height = drawing.size(figure)
        self.payload = {
            "title": title,
            "description": self.description,
            "svg": svg,
            "width": width,
            "height": height,
            "axes": axes,
            "controls": [control_spec(control) for control in controls],
            "marks": [mark_spec(mark) for mark in marks],
            "grid": [axis.spec() for control in controls for axis in control.grid()],
            "extras": [],
            **stored,
            "start": plain(start),
            "anchor": plain(start_anchor),
            "presets": {name: preset["shown"] for name, preset in named.items()},
        }
        pads = [(control.axes, start[control.name]) for control in controls if isinstance(control, Pad)]
        self.picture = drawing.static_picture(figure, marks, values, pads)
        close(figure)
        self.on_msg(self._answer)

    def _answer(self, _widget, message: Mapping, _buffers: Sequence) -> None:
        """The live protocol. "hello" is answered by the payload, "solve" by the solution at a context or its error."""
        if message["kind"] == "hello":
            self.send({"kind": "payload", "payload": self.payload}, buffers=[self.table])
        elif message["kind"] == "solve":
            self._answer_solve(message["id"], message["context"])

    def _answer_solve(self, request: int, context: Mapping) -> None:
        began = time.perf_counter()
        try:
            arrays = self.solver(complete(self.controls, context))
        except Exception as error:  # whatever the author's code raises belongs on the reader's screen
            message = f"{type(error).__name__}: {error}"
            self.send({"kind": "error", "id": request, "message": message})
            return
        numbers = {name: array for name, array in arrays.items() if array.dtype != object}
        answer = {
            "kind": "answer",
            "id": request,
            "seconds": time.perf_counter() - began,
            "names": list(numbers),
            "strings": {name: list(array.ravel()) for name, array in arrays.items() if array.dtype == object},
        }
        self.send(answer, buffers=[np.ascontiguousarray(array, dtype="<f8").tobytes() for array in numbers.values()])

    def to_html(self) -> str:
        """The widget for a page without a kernel: the picture, and the module and the data that replace it."""
        payload = {**self.payload, "table": base64.b64encode(self.table).decode()}
        data = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
        data = data.replace("</", "<\\/").replace("<!--", "<\\u0021--")
        # Browsers refuse `import` from file://, so the module is inline. Modules run after the page is parsed: the
        # first one mounts every widget of the page, the others find nothing left to do.
        return (
            f"<style>{read('explorer.css')}</style>"
            f'<div class="diffopt-explorer" data-static>'
            f'<img src="{self.picture}" alt="{html.escape(self.description)}">'
            f'<script type="application/json">{data}</script></div>'
            f'<script type="module">{bundle()}\nmountAll(document);</script>'
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """For a page, the widget's static self; where a person may move it with a kernel, the live view too."""
        data, metadata = (super()._repr_mimebundle_(**kwargs) if is_attended() else None) or ({}, {})
        return {**data, "text/plain": f"Explorer: {self.description}", "text/html": self.to_html()}, metadata


def is_attended() -> bool:
    """Whether someone sits before the kernel: nbconvert, nbclient and the book's build run cells that cannot ask."""
    try:
        from IPython import get_ipython
    except ImportError:
        return True
    request: Mapping = getattr(get_ipython(), "get_parent", dict)()
    return request.get("content", {}).get("allow_stdin", True)


def show_boxes() -> None:
    """In a `VBox` and its kin, too, an explorer has its static self for a page without a kernel."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.mimebundle_formatter.for_type(ipywidgets.Box, box_bundle)


def box_bundle(box: ipywidgets.Box) -> tuple[dict, dict]:
    live = box._repr_mimebundle_() or {}
    pages = [explorer.to_html() for explorer in explorers_in(box)]
    if not pages:
        return live, {}
    page = {"text/plain": "Explorers in a box", "text/html": "\n".join(pages)}
    return ({**live, **page} if is_attended() else page), {}


def explorers_in(widget: ipywidgets.Widget) -> list[Explorer]:
    if isinstance(widget, Explorer):
        return [widget]
    return [found for child in getattr(widget, "children", ()) for found in explorers_in(child)]


def read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def resolve_color(color: str) -> str:
    """A colour for both themes: black becomes the page's ink."""
    from matplotlib.colors import to_hex

    color = to_hex(color)
    return "var(--ink)" if color == "#000000" else color


def mark_spec(mark: Mark) -> dict:
    shared = {name: getattr(mark, name) for name in ("kind", "name", "label", "axes", "unit", "derivative", "readout")}
    return {**shared, "color": resolve_color(mark.color), **mark.style()}


def control_spec(control: Control) -> dict:
    spec = control.spec()
    return {**spec, "color": resolve_color(control.color)} if isinstance(control, Pad) else spec


def close(figure: Figure) -> None:
    """Keep the inline backend from showing the bare figure under the widget."""
    import matplotlib.pyplot as plt

    plt.close(figure)


show_boxes()
