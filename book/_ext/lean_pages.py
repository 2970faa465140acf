"""Drop from the built book what its pages don't use: most of the theme's stylesheets, nearly all of its icons, and the
search index on every page but the one that searches.

The theme brings the whole of Bootstrap and two thousand icons to every page, half a megabyte in all. A rule stays if
every class in one of its selectors is a word that occurs in some page or script of the book; an icon stays if its rule
stays.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import tinycss2
from fontTools import subset
from sphinx.application import Sphinx

WORD = re.compile(r"[\w-]+")
CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
NEGATION = re.compile(r":not\([^)]*\)")
ICON = re.compile("[\ue000-\uf8ff]")  # the private use area, where icon fonts keep their glyphs
SEARCH = re.compile(r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>\s*')
CONDITIONAL = {"media", "supports", "layer", "container"}


logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every table it touches


def words_in(paths: Iterable[Path]) -> set[str]:
    """Every word that could be the name of a class."""
    words: set[str] = set()
    for path in paths:
        words.update(WORD.findall(path.read_text(encoding="utf-8", errors="ignore")))
    return words


def is_used(selectors: str, words: set[str]) -> bool:
    """Whether one of the selectors of a rule names only classes that occur."""
    return any(words.issuperset(CLASS.findall(selector)) for selector in NEGATION.sub("", selectors).split(","))


def prune(rules: list, words: set[str]) -> str:
    """The stylesheet without the rules that can't apply."""
    kept = []
    for rule in rules:
        if rule.type == "qualified-rule" and not is_used(tinycss2.serialize(rule.prelude), words):
            continue
        if rule.type == "at-rule" and rule.lower_at_keyword in CONDITIONAL and rule.content is not None:
            inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{prune(inner, words)}}}")
        else:
            kept.append(tinycss2.serialize([rule]))
    return "\n".join(kept)


def subset_icons(font: Path, codes: set[int]) -> None:
    """Keep the glyphs with these codes."""
    options = subset.Options(flavor="woff2", layout_features=[])
    loaded = subset.load_font(font, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(loaded)
    subset.save_font(loaded, font, options)


def make_lean(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    sources = [*out.rglob("*.html"), *(path for path in out.rglob("*.js") if "mathjax" not in path.parts)]
    words = words_in(sources)
    icons: set[int] = set()
    for path in out.rglob("*.css"):
        rules = tinycss2.parse_stylesheet(path.read_text(encoding="utf-8"), skip_comments=True, skip_whitespace=True)
        lean = prune(rules, words)
        path.write_text(lean, encoding="utf-8")
        icons.update(ord(glyph) for glyph in ICON.findall(lean))
    for font in out.rglob("fa-*.woff2"):
        subset_icons(font, icons)
    for page in out.rglob("*.html"):
        if page.name != "search.html":  # where the form of the others leads
            page.write_text(SEARCH.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    for source_map in out.rglob("*.js.map"):
        source_map.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", make_lean, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
