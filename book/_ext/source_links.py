"""Link the book to the library's source: inline code that names a file or an object of it leads to its page and line.

Written `diffopt_lib/layers/qp/layer.py`, or `diffopt_lib.layers.solve_qp`, it is plain code in JupyterLab, and a link
in the built pages, which have a page for every file that some text names.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.osutil import relative_uri

PACKAGE = "diffopt_lib"
ROOT = Path(importlib.import_module(PACKAGE).__file__ or "").parents[1]
REFERENCE = re.compile(rf"{PACKAGE}(?:/[\w/]+\.\w+|(?:\.\w+)+)")
INLINE_CODE = re.compile(rf"`({REFERENCE.pattern})`")
LINKED: set[Path] = set()  # the files that some page of this build links to


def source_of(text: str) -> tuple[Path, int] | None:
    """The file, relative to the repository, and the line that a reference names; None if there is no such thing."""
    if "/" in text:
        return (Path(text), 1) if (ROOT / text).is_file() else None
    names = text.split(".")
    for split in range(len(names), 0, -1):  # the module is as much of the name as can be imported
        try:
            thing = reduce(getattr, names[split:], importlib.import_module(".".join(names[:split])))
            thing = inspect.unwrap(thing)  # a decorated function is found where it is written
            return Path(inspect.getfile(thing)).relative_to(ROOT), _first_line(thing)
        except (ImportError, AttributeError):
            continue
        except TypeError:  # a value, not a function, class or module
            return None
    return None


def _first_line(thing: object) -> int:
    """The line of ``def`` or ``class``, below any decorators; 1 for a module."""
    lines, first = inspect.getsourcelines(thing)  # type: ignore[arg-type]
    below = (i for i, line in enumerate(lines) if re.match(r"\s*(async )?(def|class) ", line))
    return 1 if inspect.ismodule(thing) else first + next(below, 0)


def page_of(file: Path) -> str:
    return f"_modules/{file.with_suffix('').as_posix()}"


class LinkSources(SphinxPostTransform):
    """Put a link around every reference in inline code."""

    default_priority = 400
    formats = ("html",)

    def run(self, **options: Any) -> None:
        here = self.app.builder.get_target_uri(self.env.docname)
        for literal in list(self.document.findall(nodes.literal)):
            source = source_of(literal.astext()) if REFERENCE.fullmatch(literal.astext()) else None
            if source and not isinstance(literal.parent, nodes.reference):
                file, line = source
                LINKED.add(file)
                target = relative_uri(here, self.app.builder.get_target_uri(page_of(file)))
                link = nodes.reference("", "", internal=True, refuri=f"{target}#line-{line}", classes=["source"])
                literal.replace_self(link)
                link += literal


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for every file that a page refers to, in its text or in a docstring that it shows."""
    for file in sorted(LINKED):
        code = (ROOT / file).read_text(encoding="utf-8")
        lines = app.builder.highlighter.highlight_block(code, "python", linenos="inline", lineanchors="line")
        yield page_of(file), {"title": file.as_posix(), "body": f"<h1>{file.as_posix()}</h1>{lines}"}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(LinkSources)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}  # LINKED is filled while pages are written
