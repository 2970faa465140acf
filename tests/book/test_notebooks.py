"""The notebooks that readers open say, word for word, what the pages say."""

import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from chapters import ROOT, chapters

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import plain_notebooks

HTML = ROOT / "_build" / "html"
NOTEBOOKS = ROOT / "_build" / "notebooks"
MATH = re.compile(r"\\begin\{equation\*\}.*?\\end\{equation\*\}|(?<!\\)\$(?!\s)[^$]*?(?<![\s\\])\$", re.DOTALL)
each_chapter = pytest.mark.parametrize("chapter", chapters())


def sources(path: Path, kind: str = "markdown") -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def for_lab(chapter: str) -> Path:
    return NOTEBOOKS / Path(chapter).relative_to("book")


def download(chapter: str) -> Path:
    return HTML / "_sources" / chapter


def words_of_markdown(text: str) -> list[str]:
    """What a reader of rendered markdown reads: no code, no formulas, no marks."""
    text = re.sub(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^:{3,}(\{\w+\})?|^:class:.*$", "", text, flags=re.MULTILINE)
    text = MATH.sub(" ", text)
    text = re.sub(r"\[([^\]]*)\]\([^)\s]*\)", r"\1", text)
    text = re.sub(r"^\d+\. ", "", text, flags=re.MULTILINE)  # a list's numbers are no text in the page
    return re.findall(r"\w+", text.replace("_", " "))


def words_of_page(chapter: str) -> list[str]:
    page = BeautifulSoup((HTML / chapter).with_suffix(".html").read_text(encoding="utf-8"), "html.parser")
    article = page.select_one("article")
    of_the_page = ".headerlink, script, style, .prev-next-area, nav, .chapter-head, .result-mark"
    for part in article.select(f".math, .cell, .highlight, {of_the_page}"):
        part.decompose()
    return re.findall(r"\w+", article.get_text().replace("_", " "))


@each_chapter
def test_says_what_the_page_says(chapter: str) -> None:
    """Citations, numbers, glossary terms and titles included; captions stand in cells of their own on one side and
    inside outputs on the other."""
    path = for_lab(chapter)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = [cell for cell in cells if not str(cell["id"]).endswith(("-caption", "works-cited"))]
    text = "\n\n".join("".join(cell["source"]) for cell in shown if cell["cell_type"] == "markdown")
    assert words_of_markdown(text) == words_of_page(chapter)


@each_chapter
def test_captions_have_the_pages_words_and_numbers(chapter: str) -> None:
    page = BeautifulSoup((HTML / chapter).with_suffix(".html").read_text(encoding="utf-8"), "html.parser")
    captions = page.select("article figcaption")
    for part in page.select("article figcaption .math, article figcaption .headerlink"):
        part.decompose()
    cells = json.loads(for_lab(chapter).read_text(encoding="utf-8"))["cells"]
    ours = [words_of_markdown("".join(cell["source"])) for cell in cells if str(cell["id"]).endswith("-caption")]
    assert ours == [re.findall(r"\w+", caption.get_text().replace("_", " ")) for caption in captions]


@each_chapter
@pytest.mark.parametrize("place", [for_lab, download])
def test_no_markup_that_only_sphinx_knows_is_left(chapter: str, place: Callable[[str], Path]) -> None:
    text = "\n".join(sources(place(chapter)))
    assert "```{" not in text  # what stands in backticks is code here, and stays as it is
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    left = r"\{[a-z:]+\}`|^:label:.*|^\([\w:-]+\)=|\$\$ *\(eq"
    assert re.findall(left, text, re.MULTILINE) == []
    assert set(re.findall(r":::\{([\w:-]+)\}", text)) <= {"admonition"}


@each_chapter
def test_numbers_formulas_as_the_page(chapter: str) -> None:
    """Displayed formulas carry the page's numbers, in the page's order."""
    page = BeautifulSoup((HTML / chapter).with_suffix(".html").read_text(encoding="utf-8"), "html.parser")
    shown = [number.find(string=True, recursive=False).strip("()") for number in page.select("article .eqno")]
    assert re.findall(r"\\tag\{([^}]+)\}", "\n".join(sources(for_lab(chapter)))) == shown
    assert len(shown) > 0


@each_chapter
def test_download_says_first_what_to_install(chapter: str) -> None:
    first = sources(download(chapter))[0]
    assert json.loads(download(chapter).read_text(encoding="utf-8"))["cells"][0]["source"] == first
    assert "pip install" in first and "diffopt_lib" in first
    extra = re.search(r'pip install "\.\[(\w+)\]"', first)
    assert (
        extra and extra[1] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )


@each_chapter
def test_runs_the_same_code(chapter: str) -> None:
    """Nothing of a chapter's code is lost or changed on the way."""
    code = [source for source in sources(ROOT / chapter, "code") if source.strip()]
    assert sources(for_lab(chapter), "code") == code
    assert sources(download(chapter), "code") == code


@each_chapter
def test_cites_what_it_lists(chapter: str) -> None:
    """The works cited stand at the end, as the book's references have them."""
    references = BeautifulSoup((HTML / "book/appendix/references.html").read_text(encoding="utf-8"), "html.parser")
    entries = {" ".join(entry.p.get_text().split()) for entry in references.select("div.citation")}
    works = re.findall(r"^- (.*)$", sources(for_lab(chapter))[-1], re.MULTILINE)
    assert len(works) > 3
    assert set(works) <= entries


def test_page_offers_the_notebook_for_download() -> None:
    for chapter in chapters():
        page = (HTML / chapter).with_suffix(".html")
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        links = [link["href"] for link in soup.select("a[href*='_sources/']")]
        assert any((page.parent / link).resolve() == download(chapter) for link in links)


def test_a_reference_that_leads_nowhere_fails() -> None:
    with pytest.raises(ValueError, match=r"chapter: the page shows nothing for \{eq\}`eq-none`"):
        plain_notebooks.resolve("See {eq}`eq-none`.", plain_notebooks.Resolved("chapter"))
    code = "```\n{eq}`eq-none`\n```\n"
    assert plain_notebooks.resolve(code, plain_notebooks.Resolved("chapter")) == code
