"""The chapters and what they need, drawn twice: in columns for a wide page, and as a list with arcs for a phone."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT, GAP, STEP = 138, 40, 30, 54  # a box, the room between columns, and from row to row
LINE, LEFT = 44, 78  # on a phone: from chapter to chapter, and the room for the arcs
CHARACTERS = 15  # of a name in one line of a box


@dataclass(frozen=True)
class Place:
    """A chapter on the map."""

    name: str
    address: str
    needs: list[int]


def columns_of(places: dict[int, Place]) -> dict[int, int]:
    """A chapter stands one column to the right of the last that it needs."""
    columns: dict[int, int] = {}
    for number in sorted(places):  # what a chapter needs comes before it
        columns[number] = max((columns[need] + 1 for need in places[number].needs), default=0)
    return columns


def rows_of(places: dict[int, Place], columns: dict[int, int]) -> dict[tuple[int, int], float]:
    """Heights, in rows: beside what is needed. An arrow over several columns has a place, (from, column), in each."""
    last = max(columns.values())
    stops: list[list[tuple[int, int, list[int]]]] = [[] for _ in range(last + 1)]  # per column: name, column, sources
    for number, place in places.items():
        stops[columns[number]].append((number, columns[number], place.needs))
        for need in place.needs:
            for column in range(columns[need] + 1, columns[number]):
                if (need, column) not in [stop[:2] for stop in stops[column]]:
                    stops[column].append((need, column, [need]))
    tallest = max(map(len, stops))
    rows: dict[tuple[int, int], float] = {}
    for column, here in enumerate(stops):

        def height(stop: tuple[int, int, list[int]], column: int = column) -> tuple[float, int]:
            beside = [rows.get((need, column - 1), rows.get((need, columns[need]), 0.0)) for need in stop[2]]
            return (sum(beside) / len(beside) if beside else 0.0), stop[0]

        for i, stop in enumerate(sorted(here, key=height)):
            rows[stop[0], column] = (i + 0.5) * tallest / len(here) - 0.5
    return rows


def curve(points: list[Point]) -> str:
    """A smooth line through the points that leaves and arrives level."""
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        path += f" C{(x0 + x1) / 2:.1f},{y0:.1f} {(x0 + x1) / 2:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"
    return path


def label(number: int, place: Place) -> str:
    """What is read out: what is seen, and the arrows in words."""
    needs = f"needs {' and '.join(map(str, place.needs))}" if place.needs else "needs no other"
    return f'aria-label="{number} {escape(place.name)}, {needs}"'


def lines_of(name: str) -> list[str]:
    """A name in one line or two."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > CHARACTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def box(number: int, place: Place, x: float, y: float) -> str:
    """A chapter as a box with its number; (x, y) is the middle of its left side."""
    lines = lines_of(place.name)
    tops = [y + 4.5 + 16 * (i - (len(lines) - 1) / 2) for i in range(len(lines))]
    words = " ".join(
        f'<tspan x="{x + 30:.1f}" y="{top:.1f}">{escape(line)}</tspan>' for top, line in zip(tops, lines, strict=True)
    )
    return (
        f'<a href="{place.address}" {label(number, place)}>'
        f'<rect x="{x:.1f}" y="{y - HEIGHT / 2:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<text><tspan class="number" x="{x + 8:.1f}" y="{y + 4.5:.1f}">{number}</tspan> {words}</text></a>'
    )


def wide_map(places: dict[int, Place]) -> str:
    columns = columns_of(places)
    rows = rows_of(places, columns)
    spots = {stop: (2.0 + stop[1] * (WIDTH + GAP), 22.0 + row * STEP) for stop, row in rows.items()}
    arrows = []
    for number, place in places.items():
        for need in place.needs:
            through = [spots[need, column] for column in range(columns[need] + 1, columns[number])]
            x, y = spots[need, columns[need]]
            passing = [point for (x1, y1) in through for point in ((x1, y1), (x1 + WIDTH, y1))]
            end = spots[number, columns[number]]
            arrows.append(f'<path d="{curve([(x + WIDTH, y), *passing, (end[0] - 5, end[1])])}"/>')
    boxes = [box(number, place, *spots[number, columns[number]]) for number, place in places.items()]
    width = max(x for x, _ in spots.values()) + WIDTH + 2
    height = max(y for _, y in spots.values()) + 22
    return drawing("wide", width, height, arrows, boxes)


def narrow_map(places: dict[int, Place]) -> str:
    """Below each other, in order, with arcs on the left from what is needed."""
    heights = {number: LINE * (i + 0.5) for i, number in enumerate(sorted(places))}
    arrows, rows = [], []
    for number, place in places.items():
        for need in place.needs:
            start, end = heights[need], heights[number]
            bow = min(14 + 5.5 * (end - start) / LINE, LEFT - 8)
            left = LEFT - 1.33 * bow
            arrows.append(
                f'<path d="M{LEFT - 2},{start:.1f} C{left:.1f},{start:.1f} {left:.1f},{end:.1f} {LEFT - 7},{end:.1f}"/>'
            )
        y = heights[number]
        rows.append(
            f'<a href="{place.address}" {label(number, place)}>'
            f'<rect x="{LEFT}" y="{y - LINE / 2:.1f}" width="{340 - LEFT - 2}" height="{LINE}" rx="5"/>'
            f'<text><tspan class="number" x="{LEFT + 8}" y="{y + 5:.1f}">{number}</tspan> '
            f'<tspan x="{LEFT + 34}" y="{y + 5:.1f}">{escape(place.name)}</tspan></text></a>'
        )
    return drawing("narrow", 340, LINE * len(places), arrows, rows)


def drawing(kind: str, width: float, height: float, arrows: list[str], boxes: list[str]) -> str:
    head = '<path d="M0,0 L7,3.5 L0,7 z"/>'
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="group" aria-label="The chapters as a map">'
        f'<defs><marker id="arrow-{kind}" viewBox="0 0 7 7" refX="2" refY="3.5" markerWidth="6" markerHeight="6" '
        f'orient="auto">{head}</marker></defs>'
        f'<g class="arrows" aria-hidden="true" style="marker-end: url(#arrow-{kind})">{"".join(arrows)}</g>'
        f"{''.join(boxes)}</svg>"
    )


def draw_maps(places: dict[int, Place]) -> str:
    """Both drawings; the style shows the one that fits."""
    return f'<nav class="chapter-map" aria-label="Map of the chapters">{wide_map(places)}{narrow_map(places)}</nav>'
