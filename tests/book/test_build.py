"""What makes a chapter stale, and so executes it again; `test_dependencies.py` has which files of the library do."""

from pathlib import Path

import nbformat
import pytest

from tools import build_book
from tools.build_book import chapter_digest

CHAPTER = "book/scoreboard.ipynb"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of one notebook, which reads result files."""
    monkeypatch.setattr(build_book, "ROOT", tmp_path)
    for folder in ("book", "diffopt_lib/experiments/results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "requirements.txt").write_text("torch")
    (tmp_path / "diffopt_lib" / "__init__.py").write_text("from .solve import y")
    (tmp_path / "diffopt_lib" / "solve.py").write_text("y = 1")
    (tmp_path / "diffopt_lib" / "other.py").write_text("z = 1")
    cells = [nbformat.v4.new_code_cell("%matplotlib inline\nfrom diffopt_lib import y\n!ls")]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"diffopt": {"reads": ["benchmarks/results"]}})
    nbformat.write(notebook, tmp_path / CHAPTER)
    return tmp_path


@pytest.mark.parametrize(
    "file",
    [
        "diffopt_lib/solve.py",
        "diffopt_lib/__init__.py",
        "benchmarks/results/qp.json",
        "requirements.txt",
        CHAPTER,
    ],
)
def test_a_change_of_what_a_chapter_reads_makes_it_stale(root: Path, file: str) -> None:
    before = chapter_digest(CHAPTER)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    text = (root / file).read_text() if (root / file).exists() else ""
    (root / file).write_text(text + "\n")
    assert chapter_digest(CHAPTER) != before


@pytest.mark.parametrize(
    "file", ["README.md", "benchmarks/qp.py", "diffopt_lib/other.py", "diffopt_lib/__pycache__/y.pyc"]
)
def test_other_files_do_not(root: Path, file: str) -> None:
    before = chapter_digest(CHAPTER)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("anything")
    assert chapter_digest(CHAPTER) == before


def test_the_scoreboard_reads_the_benchmarks_results() -> None:
    assert build_book.diffopt_metadata("book/appendix/scoreboard.ipynb")["reads"] == ["benchmarks/results"]
