"""What a reference leads to, for the pages that show it in place (`book/_static/previews.js`).

Links to an equation, theorem, exercise, figure, glossary term or work are marked here by `data-preview`. What stands on
the same page is copied by the page itself. Of other pages a page opened from disk may fetch nothing, so what some page
refers to is written into one script, which is loaded at the first such reference.
"""

import json
import re
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx

SCRIPT = "preview_targets.js"
LINK = re.compile(r'<a class="reference internal" href="([^"#]*)#([^"]+)"')
TARGETS = "div.math[id], div.proof[id], div.exercise[id], figure[id], dl.glossary > dt[id], div.citation[id]"


def explanation(term: Tag) -> Tag:
    """A glossary's entry: the terms that share it, and what it says."""
    entry = BeautifulSoup('<dl class="glossary"></dl>', "html.parser").dl
    terms = [term, *term.find_next_siblings(["dt", "dd"])]
    for part in terms[: [part.name for part in terms].index("dd") + 1]:
        entry.append(BeautifulSoup(str(part), "html.parser"))
    return entry


def plain(target: Tag, page: str) -> str:
    """A target without what one could follow, and with its images as seen from the book's folder."""
    part = explanation(target) if target.name == "dt" else BeautifulSoup(str(target), "html.parser")
    for link in part.select(".headerlink, script, button"):
        link.decompose()
    for link in part.find_all("a"):
        link.unwrap()
    for tag in part.find_all(id=True):
        del tag["id"]
    for image in part.find_all("img"):
        image["src"] = normpath(join(dirname(page), image["src"]))
    return str(part)


def address(page: str, link: re.Match) -> tuple[str, str]:
    """The page and the id that a link on a page leads to."""
    return normpath(join(dirname(page), unquote(link[1]))) if link[1] else page, unquote(link[2])


def write_previews(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    pages = {path.relative_to(out).as_posix(): path for path in out.rglob("*.html")}
    links = {
        page: {address(page, link) for link in LINK.finditer(path.read_text(encoding="utf-8"))}
        for page, path in pages.items()
    }
    wanted = set().union(*links.values())
    targets: dict[tuple[str, str], Tag] = {}
    for page in sorted({page for page, _ in wanted} & pages.keys()):
        soup = BeautifulSoup(pages[page].read_text(encoding="utf-8"), "html.parser")
        targets |= {(page, tag["id"]): tag for tag in soup.select(TARGETS) if (page, tag["id"]) in wanted}
    for page, path in pages.items():

        def mark(link: re.Match, page: str = page) -> str:
            return f'{link[0]} data-preview=""' if address(page, link) in targets else link[0]

        path.write_text(LINK.sub(mark, path.read_text(encoding="utf-8")), encoding="utf-8")
    afar = {target for page, found in links.items() for target in found if target[0] != page}
    known = {"#".join(target): plain(tag, target[0]) for target, tag in targets.items() if target in afar}
    text = json.dumps(known, ensure_ascii=False, indent=0)
    (out / "_static" / SCRIPT).write_text(f"window.previewTargets = {text};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write_previews, priority=700)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
