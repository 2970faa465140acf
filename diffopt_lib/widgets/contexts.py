"""What an explorer is asked to show: names that fit together, presets, and the contexts that must be exact."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diffopt_lib.widgets.controls import Choice, Control, Pad, complete, plain
from diffopt_lib.widgets.marks import Mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_names(figure: Figure, controls: Sequence[Control], marks: Sequence[Mark]) -> None:
    names = [control.name for control in controls]
    if len(set(names)) < len(names):
        raise ValueError(f"controls must have distinct names, got {names}")
    names = [mark.name for mark in marks]
    if len(set(names)) < len(names):
        raise ValueError(f"marks must have distinct names, got {names}")
    placed: list[Mark | Pad] = [*marks, *(control for control in controls if isinstance(control, Pad))]
    for item in placed:
        if not 0 <= item.axes < len(figure.axes):
            raise ValueError(f"{item.name!r}: axes={item.axes}, but the figure has {len(figure.axes)} axes")
    for mark in marks:
        position = getattr(mark, "position", None)
        if isinstance(position, str) and not any(m.name == position and m.kind == "points" for m in marks):
            raise ValueError(f"mark {mark.name!r}: position={position!r} is not the name of a Points mark")


def read_preset(controls: Sequence[Control], name: str, preset: Mapping) -> dict:
    """The preset's full context (what it does not name at its default), its anchor, and what the page is told."""
    changes = {key: value for key, value in preset.items() if key not in ("anchor", "note")}
    try:
        context = complete(controls, changes)
        anchor = complete(controls, {**context, **preset["anchor"]}) if "anchor" in preset else None
    except ValueError as error:
        raise ValueError(f"preset {name!r}: {error}") from None
    shown = {"set": plain({key: context[key] for key in changes}), "note": str(preset.get("note", ""))}
    if anchor is None:
        return {"context": context, "shown": shown}
    return {"context": context, "anchor": anchor, "shown": {**shown, "anchor": plain(anchor)}}


def exact_contexts(
    controls: Sequence[Control], start: Mapping, anchors: Sequence[Mapping], named: Mapping
) -> list[dict]:
    """Contexts that the page shows without interpolation: the start, the presets, and the anchors for every choice."""
    choices = [control for control in controls if isinstance(control, Choice)]
    contexts = [dict(start), *(preset["context"] for preset in named.values())]
    for anchor in anchors:
        for options in itertools.product(*(control.options for control in choices)):
            contexts.append({**anchor, **{c.name: option for c, option in zip(choices, options, strict=True)}})
    distinct = {json.dumps(plain(context)): context for context in contexts}
    return list(distinct.values())
