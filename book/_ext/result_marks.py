"""Say where a chapter quotes a stored run, and link to its row on the scoreboard.

A chapter reads a result file by `read_result("name")`, mostly in a cell that compares the text's numbers with it and is
not shown. Where that cell stands, the page gets a mark, once in a section; so none can be forgotten.
"""

import ast
import json
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

SCOREBOARD = "book/appendix/scoreboard"
READS = "read_result"
SECTION = re.compile(r"^##? ", re.MULTILINE)


def results_read_by(code: str) -> list[str]:
    """The names of the result files that a cell's code reads, in order and once each."""
    python = "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in code.splitlines())
    calls = [node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call) and node.args]
    named = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == READS]
    return list(dict.fromkeys(name.value for name in named if isinstance(name, ast.Constant)))


def mark_cell(names: list[str], after: str) -> dict[str, Any]:
    text = f"```{{result-mark}} {' '.join(names)}\n```"
    return {"cell_type": "markdown", "id": f"{after[:48]}-run-mark", "metadata": {}, "source": text}


def add_marks(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put a mark behind each cell that reads a result, as Sphinx reads the notebook."""
    if docname == SCOREBOARD or not source[0].lstrip().startswith("{"):
        return
    notebook = json.loads(source[0])
    cells: list[dict[str, Any]] = []
    said: set[str] = set()  # once in a section is enough
    for cell in notebook["cells"]:
        cells.append(cell)
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and SECTION.search(text):
            said.clear()
        names = results_read_by(text) if cell["cell_type"] == "code" else []
        names = [name for name in names if name not in said]
        said.update(names)
        if names:
            cells.append(mark_cell(names, cell["id"]))
    if len(cells) > len(notebook["cells"]):
        source[0] = json.dumps({**notebook, "cells": cells})


class result_mark(nodes.General, nodes.Element):
    """Stands for the mark until the page is written."""


class ResultMark(SphinxDirective):
    """`result-mark`, with the names of result files."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        return [result_mark(names=self.arguments[0].split())]


def write_marks(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    here = app.builder.get_target_uri(docname)
    scoreboard = relative_uri(here, app.builder.get_target_uri(SCOREBOARD))
    for node in list(doctree.findall(result_mark)):
        links = [f'<a href="{scoreboard}#result-{name}">{name}</a>' for name in node["names"]]
        runs = "a stored run" if len(links) == 1 else "stored runs"
        mark = f'<p class="result-mark">This section quotes {runs} of the scoreboard: {", ".join(links)}</p>'
        node.replace_self(nodes.raw("", mark, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_node(result_mark)
    app.add_directive("result-mark", ResultMark)
    app.connect("source-read", add_marks)
    app.connect("doctree-resolved", write_marks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
