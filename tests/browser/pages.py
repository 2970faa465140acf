"""The built pages, as the browser tests list them."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"


def pages() -> list[str]:
    """Every page of the built book, as a path below its folder; the redirect at the top is none."""
    found = (path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html"))
    return sorted(page for page in found if not page.startswith("_") and page != "index.html")


def book_pages() -> list[str]:
    """The pages that the table of contents names."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]
    return [f"{file}.html" for file in files]


def chapters() -> list[str]:
    """The pages that are chapters: made from notebooks."""
    return [page for page in book_pages() if (ROOT / page).with_suffix(".ipynb").exists()]
