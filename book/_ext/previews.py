"""What a reference leads to, for the pages that show it in place (`book/_static/previews.js`).

An equation, theorem, exercise, figure, glossary term or work of the same page is copied by the page itself. Of other
pages a page opened from disk may fetch nothing, so what some page refers to is written here into one script, which is
loaded at the first such reference; links that have their target in it say so by `data-preview`.
"""

import json
import re
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx

SCRIPT = "preview_targets.js"
LINK = re.compile(r'<a class="reference internal" href="([^"#]+\.html)#([^"]+)"')
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


def targets_of(out: Path, page: str, ids: set[str]) -> dict[str, str]:
    """Those of the ids on a page that can be shown, by `page#id`."""
    soup = BeautifulSoup((out / page).read_text(encoding="utf-8"), "html.parser")
    return {f"{page}#{tag['id']}": plain(tag, page) for tag in soup.select(TARGETS) if tag["id"] in ids}


def write_previews(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    pages = {path.relative_to(out).as_posix(): path for path in out.rglob("*.html")}
    wanted: dict[str, set[str]] = {}

    def target_of(page: str, found: re.Match) -> tuple[str, str]:
        return normpath(join(dirname(page), unquote(found[1]))), unquote(found[2])

    for page, path in pages.items():
        for found in LINK.finditer(path.read_text(encoding="utf-8")):
            target, name = target_of(page, found)
            wanted.setdefault(target, set()).add(name)
    known: dict[str, str] = {}
    for target in sorted(wanted.keys() & pages.keys()):
        known |= targets_of(out, target, wanted[target])
    for page, path in pages.items():

        def mark(found: re.Match, page: str = page) -> str:
            return f'{found[0]} data-preview=""' if "#".join(target_of(page, found)) in known else found[0]

        path.write_text(LINK.sub(mark, path.read_text(encoding="utf-8")), encoding="utf-8")
    text = json.dumps(known, ensure_ascii=False, indent=0)
    (out / "_static" / SCRIPT).write_text(f"window.previewTargets = {text};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write_previews, priority=700)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
