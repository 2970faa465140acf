"""Write the notebooks that readers open, with every reference as the built page shows it.

While Sphinx writes a page, this remembers what it made of each reference. When the book is built, `plain_notebooks`
writes those texts into copies of the chapters: into `_build/notebooks`, which `make lab` opens, and in place of the
files that the pages offer for download.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from plain_notebooks import Resolved, key, plain_notebook
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

BLOCK = re.compile(
    r'<div class="(?:proof|exercise) ?[\w -]*admonition" id="([^"]+)">\s*'
    r'<p class="admonition-title"><span class="caption-number">([^<]+)</span>'
)
FOLDER = "notebooks"
REFERENCES = "book/appendix/references"


class reference_mark(nodes.Inline, nodes.TextElement):
    """Stands around a reference until it is resolved, and knows what was referred to."""


class MarkReferences(SphinxPostTransform):
    """Put a mark around every reference, before any is resolved."""

    default_priority = 1
    formats = ("html",)

    def run(self, **options: Any) -> None:
        for node in list(self.document.findall(pending_xref)):
            kind = f"{node.get('refdomain') or 'std'}:{node['reftype']}"
            mark = reference_mark("", "", key=key(kind, node["reftarget"]))
            node.replace_self(mark)
            mark += node


def collected(app: Sphinx) -> dict[str, Resolved]:
    """What is known of each page of this build."""
    if not hasattr(app, "resolved_references"):
        app.resolved_references = {}  # type: ignore[attr-defined]
    return app.resolved_references  # type: ignore[attr-defined]


def numbers(app: Sphinx, docname: str, kind: str) -> dict[str, str]:
    """The numbers of a page's figures or equations, by their ids."""
    found = app.env.toc_fignumbers.get(docname, {}).get(kind, {})
    return {name: ".".join(map(str, number)) for name, number in found.items()}


def on_resolved(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take the marks away, and remember what they had come to hold."""
    here = collected(app).setdefault(docname, Resolved(docname))
    for mark in list(doctree.findall(reference_mark)):
        name = mark["key"]
        here.texts[name] = mark.astext().strip()
        for link in mark.findall(nodes.reference):
            address = link.get("refuri", "")
            if name[0] == "std:doc":
                target = Path(address.partition("#")[0]).with_suffix("")
                here.pages[name] = (Path(docname).parent / target).as_posix()
            elif name[0].startswith("cite:"):
                here.cited.append(address.partition("#")[2])
        mark.replace_self(mark.children)
    number = app.env.toc_secnumbers.get(docname, {}).get("", ())
    here.number = ".".join(map(str, number))
    equations = numbers(app, docname, "displaymath")
    for formula in doctree.findall(nodes.math_block):
        if formula.get("label"):
            here.equations[formula["label"]] = equations.get(formula["ids"][0], str(formula.get("number", "")))
    here.figures = {name: f"Fig. {number}" for name, number in numbers(app, docname, "figure").items()}


def on_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Remember the numbers of theorems and exercises, which their extensions write into the page."""
    if doctree is not None:
        here = collected(app).setdefault(pagename, Resolved(pagename))
        here.blocks = {label: number.strip() for label, number in BLOCK.findall(context.get("body", ""))}


def citations(app: Sphinx) -> dict[str, str]:
    """The entries of the list of references, by their ids."""
    doctree = app.env.get_and_resolve_doctree(REFERENCES, app.builder)
    entries = doctree.findall(nodes.citation)
    return {entry["ids"][0]: " ".join(entry.next_node(nodes.paragraph).astext().split()) for entry in entries}


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    works = citations(app)
    target = Path(app.outdir).parent / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    for docname, resolved in collected(app).items():
        source = Path(app.srcdir, f"{docname}.ipynb")
        if source.exists():
            resolved.cited = sorted({works[entry] for entry in resolved.cited})
            notebook = json.loads(source.read_text(encoding="utf-8"))
            for_lab = plain_notebook(notebook, resolved, download=False)
            download = plain_notebook(notebook, resolved, download=True)
            write(target / f"{docname.removeprefix('book/')}.ipynb", for_lab)
            write(Path(app.outdir, "_sources", f"{docname}.ipynb"), download)


def write(path: Path, notebook: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(MarkReferences)
    app.connect("doctree-resolved", on_resolved, priority=999)
    app.connect("html-page-context", on_page)
    app.connect("build-finished", write_notebooks)
    return {
        "parallel_read_safe": True,
        "parallel_write_safe": False,
    }  # what is known is collected while pages are written
