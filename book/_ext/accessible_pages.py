"""Mend what keeps the built pages from readers who use a keyboard or a screen reader.

The theme, docutils and MyST-NB write some HTML whose names and roles are wrong. Each mend is one pattern, and the tests
in the browser run axe-core on every page.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

MENDS = [
    # A name of its own hides the visible one ("Show the code: …", "Search this book").
    (re.compile(r'(<summary[^>]*) aria-label="[^"]*"'), r"\1"),
    (re.compile(r'(<button class="btn search-button-field [^>]*?) title="Search" aria-label="Search"'), r"\1"),
    # print.css leaves the verb away.
    (re.compile(r'(<p class="expanded admonition-title">)(Hide the code: )'), r'\1<span class="on-screen">\2</span>'),
    # The role of an entry is deprecated, and a list of references has items.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
    # The sidebar has the book's title, the search and the contents: all of it leads somewhere.
    (re.compile(r'(<div id="pst-primary-sidebar")'), r'\1 role="navigation" aria-label="Book"'),
    # The corner of a table heads nothing.
    (re.compile(r"<th\b([^>]*)>\s*(?:<p>\s*</p>)?\s*</th>"), r"<td\1></td>"),
]


def mend(html: str) -> str:
    for pattern, replacement in MENDS:
        html = pattern.sub(replacement, html)
    return html


def mend_pages(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        mended = mend(html)
        if mended != html:
            page.write_text(mended, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", mend_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
