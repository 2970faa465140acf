"""Turn a chapter's markdown, whose references only Sphinx can resolve, into markdown that reads as the page does.

Citations, numbers of equations, figures, theorems and exercises become the text that the page shows for them. What is
left is markdown, formulas, and MyST's admonitions, all of which JupyterLab renders with jupyterlab_myst.
"""

import copy
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import relpath
from typing import Any

INSTALL = """**To run this notebook** you need Python 3.11 or newer, the library of the book, `diffopt_lib`, what its
chapters use beside it, and JupyterLab. In the folder of the book's sources, this installs all of it:

```
pip install ".[book]"
```

Then `jupyter lab` opens the notebook. Links to other chapters need those notebooks in the folders beside this one."""

FENCED = re.compile(r"(^[ \t]*```.*?^[ \t]*```[ \t]*$)", re.MULTILINE | re.DOTALL)
ROLE = re.compile(r"\{([a-z:]+)\}`([^`]+)`")
EXPLICIT = re.compile(r"(?P<title>.*\S)\s*<(?P<target>[^>]+)>", re.DOTALL)
DISPLAY = re.compile(r"\$\$(.*?)\$\$(?:[ \t]*\(([\w:-]+)\))?", re.DOTALL)
TARGET = re.compile(r"^\([\w:-]+\)=\n", re.MULTILINE)
OPENING = re.compile(
    r"^(?P<fence>:{3,})\{(?P<name>prf:\w+|exercise|solution|solution-start)\}[ \t]*(?P<argument>.*)"
    r"(?P<options>(?:\n:[\w-]+:.*)*)$",
    re.MULTILINE,
)
END = re.compile(r"^:{3,}\{solution-end\}\s*^:{3,}[ \t]*$", re.MULTILINE)
LABEL = re.compile(r"^:label: *(\S+)", re.MULTILINE)
TITLE = re.compile(r"\A# ")

# The role in the source, and what Sphinx makes of it: a domain and a type.
KINDS = {"eq": "math:eq", "cite": "cite:p", "prf:ref": "prf:ref"}
KINDS |= {name: f"std:{name}" for name in ("term", "numref", "doc", "ref")}


@dataclass
class Resolved:
    """What the built page of one chapter shows for the references in it, and the numbers of what stands in it."""

    page: str
    texts: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, target) -> the text shown
    pages: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, target) -> the page it leads to
    equations: dict[str, str] = field(default_factory=dict)  # label -> "4.1"
    figures: dict[str, str] = field(default_factory=dict)  # name -> "Fig. 4.1"
    blocks: dict[str, str] = field(default_factory=dict)  # label -> "Theorem 4.1"
    titles: dict[str, str] = field(default_factory=dict)  # label -> " (The derivative of a quadratic program)"
    number: str = ""  # of the chapter
    cited: list[str] = field(default_factory=list)  # what its citations stand for


def key(kind: str, target: str) -> tuple[str, str]:
    """A reference, however its target is written."""
    target = PurePosixPath(target).name if kind == "std:doc" else target
    return kind, "".join(target.lower().split())


def resolve_role(found: re.Match, resolved: Resolved) -> str:
    """The text that the page shows for a role; a link where it leads to another chapter."""
    name, content = found[1], found[2]
    kind = KINDS.get(name, name)
    if not kind.startswith(("math:", "cite:", "prf:", "std:")):
        return found[0]
    explicit = EXPLICIT.fullmatch(content)
    title, target = (explicit["title"], explicit["target"]) if explicit else ("", content)
    try:
        text = resolved.texts[key(kind, target)]
    except KeyError:
        raise ValueError(f"{resolved.page}: the page shows nothing for {found[0]}") from None
    if kind == "std:term":
        return title or content
    text = title if title and kind in ("std:ref", "std:doc", "prf:ref") else text
    page = resolved.pages.get(key(kind, target))
    if kind == "std:doc" and page:
        return f"[{text}]({relpath(page, str(PurePosixPath(resolved.page).parent))}.ipynb)"
    return text


def number_formula(found: re.Match, resolved: Resolved) -> str:
    """A displayed formula with the number that it has on the page, or none: JupyterLab would number `$$` by itself."""
    body, label = found[1].strip(), found[2]
    line = found.string[: found.start()].rpartition("\n")[2]
    if line.strip():  # inside a line of text
        return found[0]
    tag = f" \\tag{{{resolved.equations[label]}}}" if label else ""
    return f"\\begin{{equation*}}\n{line}{body}{tag}\n{line}\\end{{equation*}}"


def open_block(found: re.Match, resolved: Resolved) -> str:
    """The first lines of a theorem, proof, exercise or solution, as those of an admonition with the page's title."""
    name, argument, fence = found["name"], found["argument"].strip(), found["fence"]
    if name.startswith("solution"):
        title = resolved.blocks[argument] + resolved.titles.get(argument, "")
        folds = " dropdown" if name == "solution" else ""  # a solution with cells in it can't fold here
        return f"{fence}{{admonition}} Solution to {title}\n:class: tip{folds}"
    if name == "prf:proof":
        return f"{fence}{{admonition}} Proof\n:class: note"
    label = LABEL.search(found["options"])
    title = resolved.blocks[label[1]] if label else name.removeprefix("prf:").capitalize()
    kind = "tip" if name == "exercise" else "important"
    return f"{fence}{{admonition}} {title}{f' ({argument})' if argument else ''}\n:class: {kind}"


def resolve(text: str, resolved: Resolved) -> str:
    """Markdown with everything that Sphinx knows written out; code stays as it is."""
    parts = FENCED.split(text)
    for i in range(0, len(parts), 2):
        part = END.sub("", TARGET.sub("", parts[i]))
        part = OPENING.sub(lambda found: open_block(found, resolved), part)
        part = DISPLAY.sub(lambda found: number_formula(found, resolved), part)
        parts[i] = ROLE.sub(lambda found: resolve_role(found, resolved), part)
    return "".join(parts)


def titles_of(notebook: dict[str, Any]) -> dict[str, str]:
    """The titles of theorems and exercises, in brackets, by their labels."""
    text = "\n\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    titled = ((LABEL.search(found["options"]), found["argument"].strip()) for found in OPENING.finditer(text))
    return {label[1]: f" ({title})" for label, title in titled if label and title}


def markdown_cell(name: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def cells_of(cell: dict[str, Any], resolved: Resolved) -> list[dict[str, Any]]:
    """A cell as a reader of the notebook gets it: text resolved, what the page folds folded, a figure's caption."""
    if cell["cell_type"] == "markdown":
        return [{**cell, "source": resolve("".join(cell["source"]), resolved)}]
    if {"hide-input", "remove-input", "remove-cell"} & set(cell["metadata"].get("tags", [])):
        cell = {**cell, "metadata": {**cell["metadata"], "jupyter": {"source_hidden": True}}}
    figure = cell["metadata"].get("mystnb", {}).get("figure", {})
    if "caption" not in figure:
        return [cell]
    number = resolved.figures.get(figure.get("name", ""), "")
    caption = f"**{number}** {resolve(figure['caption'], resolved)}"
    return [cell, markdown_cell(f"{cell['id'][:50]}-caption", caption)]


def plain_notebook(notebook: dict[str, Any], resolved: Resolved, *, download: bool) -> dict[str, Any]:
    """The notebook that a reader opens: for `make lab` without outputs, as a download with them and a first cell that
    says what to install."""
    notebook = copy.deepcopy(notebook)
    resolved.titles = titles_of(notebook)
    cells = [part for cell in notebook["cells"] for part in cells_of(cell, resolved)]
    cells = [cell for cell in cells if "".join(cell["source"]).strip()]
    if resolved.number:
        cells[0]["source"] = TITLE.sub(f"# {resolved.number}. ", cells[0]["source"])
    if resolved.cited:
        works = "\n".join(f"- {work}" for work in resolved.cited)
        cells.append(markdown_cell("works-cited", f"## Works cited\n\n{works}"))
    if download:
        cells.insert(0, markdown_cell("what-to-install", INSTALL))
    else:
        for cell in cells:
            if cell["cell_type"] == "code":
                cell.update(outputs=[], execution_count=None)
    return {**notebook, "cells": cells}
