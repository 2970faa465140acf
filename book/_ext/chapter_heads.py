"""What a chapter needs and how long it takes, at its head; and all chapters with what they need, as a map.

`book/chapters.yml` says what a chapter needs. Minutes to read come from the words of the page, minutes to run from the
execution that the page shows.
"""

import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml
from chapter_map import Place, draw_maps
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

WORDS_A_MINUTE = 200
SKIPPED = {"cell_output", "tag_hide-input", "tag_hide-cell"}
FOLDER = "book/"


@dataclass(frozen=True)
class Chapter:
    """A line of `chapters.yml`; its number is that of its place."""

    docname: str
    short: str
    needs: list[int]


def read_chapters(source: Path) -> dict[int, Chapter]:
    """All chapters by their numbers."""
    lines = yaml.safe_load((source / FOLDER / "chapters.yml").read_text(encoding="utf-8"))
    return {int(Path(page).name[:2]): Chapter(FOLDER + page, **line) for page, line in lines.items()}


def words_of(doctree: nodes.Node) -> int:
    """The words that a reader goes through: a formula is one, a displayed one ten; neither folded code nor outputs."""
    if isinstance(doctree, nodes.math | nodes.math_block):
        return 10 if isinstance(doctree, nodes.math_block) else 1
    if isinstance(doctree, nodes.Text):
        return len(doctree.astext().split())
    if isinstance(doctree, nodes.raw | nodes.comment) or SKIPPED & set(doctree.get("classes", [])):
        return 0
    return sum(map(words_of, doctree.children))


def seconds_of(app: Sphinx, docname: str) -> float | None:
    """How long the chapter took when it was executed: by `tools/build_book.py`, or by Jupyter Book itself."""
    record = Path(app.outdir).parent / "chapters.json"
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8")).get(f"{docname}.ipynb", {}).get("seconds")
    data = getattr(app.env, "nb_metadata", {}).get(docname, {}).get("exec_data") or {}
    return data.get("runtime")


def minutes(number: float) -> str:
    return "less than a minute" if number < 1 else f"{math.ceil(number)} minute{'s' if math.ceil(number) > 1 else ''}"


def head_of(app: Sphinx, chapter: Chapter, chapters: dict[int, Chapter], doctree: nodes.document) -> str:
    """The line under a chapter's title."""
    here = app.builder.get_target_uri(chapter.docname)
    links = []
    for number in chapter.needs:
        target = relative_uri(here, app.builder.get_target_uri(chapters[number].docname))
        title = app.env.titles[chapters[number].docname].astext()
        links.append(f'<a class="reference internal" href="{target}">{number}. {escape(title)}</a>')
    needs = f"Needs {' and '.join(links)}" if links else "Needs no other chapter"
    parts = [needs, f"{minutes(words_of(doctree) / WORDS_A_MINUTE)} to read"]
    seconds = seconds_of(app, chapter.docname)
    if seconds is not None:
        parts.append(f"{minutes(seconds / 60)} to run")
    return f'<p class="chapter-head">{"".join(f"<span>{part}</span> " for part in parts)}</p>'


def add_head(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the head under the title of a chapter."""
    chapters = read_chapters(Path(app.srcdir))
    chapter = next((chapter for chapter in chapters.values() if chapter.docname == docname), None)
    title = doctree.next_node(nodes.title)
    if app.builder.format != "html" or chapter is None or title is None:
        return
    head = nodes.raw("", head_of(app, chapter, chapters, doctree), format="html")
    title.parent.insert(title.parent.index(title) + 1, head)


class chapter_map(nodes.General, nodes.Element):
    """Stands for the map until the page is written."""


class ChapterMap(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [chapter_map()]


def draw_map(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    here = app.builder.get_target_uri(docname)
    for node in list(doctree.findall(chapter_map)):
        chapters = read_chapters(Path(app.srcdir))
        places = {
            number: Place(chapter.short, relative_uri(here, app.builder.get_target_uri(chapter.docname)), chapter.needs)
            for number, chapter in chapters.items()
        }
        node.replace_self(nodes.raw("", draw_maps(places), format="html"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(chapter_map)
    app.add_directive("chapter-map", ChapterMap)
    app.connect("doctree-resolved", add_head)
    app.connect("doctree-resolved", draw_map)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
