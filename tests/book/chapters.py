"""The book's sources and the executed chapters, as the tests of the book read them."""

import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
COLUMN = 80  # characters of code that a page shows side by side


def toc_files() -> list[str]:
    """The pages of the table of contents, without their endings."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]


def chapters() -> list[str]:
    """The chapters, as paths below the root: the numbered folders' notebooks that the table of contents names."""
    return [f"{file}.ipynb" for file in toc_files() if re.match(r"book/\d_\w+/\d\d_", file)]


def notebooks_below(folder: Path) -> set[str]:
    """All notebooks of the book in a folder that holds it, but for JupyterLab's own copies."""
    paths = {path.relative_to(folder) for path in (folder / "book").rglob("*.ipynb")}
    return {path.as_posix() for path in paths if ".ipynb_checkpoints" not in path.parts}


def markdown_pages() -> list[str]:
    """The other pages."""
    return [f"{file}.md" for file in toc_files() if (ROOT / f"{file}.md").exists()]


def read(path: Path | str) -> nbformat.NotebookNode:
    """A notebook, by its path below the root."""
    return nbformat.read(ROOT / path, as_version=4)


def markdown(notebook: nbformat.NotebookNode) -> str:
    """The text of a notebook's markdown cells."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code(notebook: nbformat.NotebookNode) -> str:
    """The code of a notebook's cells."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def shown_code(cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The code cells that a reader sees without unfolding anything."""
    return [c for c in cells if c.cell_type == "code" and not has_tag(c, "remove-cell", "remove-input", "hide-input")]


def page_text(path: str) -> str:
    """The text of a page of either kind."""
    return markdown(read(path)) if path.endswith(".ipynb") else (ROOT / path).read_text(encoding="utf-8")


def has_tag(cell: nbformat.NotebookNode, *tags: str) -> bool:
    return bool(set(tags) & set(cell.metadata.get("tags", [])))
