"""The committed chapters: clean files with the anatomy that CONTRIBUTING.md describes."""

import ast
import re

import pytest
from chapters import (
    COLUMN,
    ROOT,
    chapters,
    code,
    markdown,
    markdown_pages,
    notebooks_below,
    page_text,
    read,
    shown_code,
    toc_files,
)
from pybtex.database import parse_file

# What the book does not say: announcements, praise, fillers.
UNWANTED = [
    r"in this (chapter|section|notebook),? we( will|'ll|’ll)?\b",
    r"\bpowerful\b",
    r"\bseamless(ly)?\b",
    r"\bit is (important|worth noting|worth mentioning)\b",
    r"\bnote that\b",
    r"\bTODO\b",
    r"\bFIXME\b",
    r"\bdelve\b",
]

each_chapter = pytest.mark.parametrize("chapter", chapters())
each_page = pytest.mark.parametrize("page", chapters() + markdown_pages())


def test_contents_name_files_that_exist() -> None:
    missing = [file for file in toc_files() if not any((ROOT / f"{file}{end}").exists() for end in (".ipynb", ".md"))]
    assert missing == []
    assert len(chapters()) >= 3


def test_every_notebook_is_in_the_contents() -> None:
    found = notebooks_below(ROOT)
    assert found == {f"{file}.ipynb" for file in toc_files() if (ROOT / f"{file}.ipynb").exists()}


@each_chapter
def test_is_committed_without_outputs(chapter: str) -> None:
    notebook = read(chapter)
    dirty = [
        cell.id
        for cell in notebook.cells
        if cell.cell_type == "code"
        and (cell.outputs or cell.execution_count is not None or "execution" in cell.metadata)
    ]
    assert dirty == []
    assert "widgets" not in notebook.metadata


@each_chapter
def test_asks_for_the_kernel_of_the_environment(chapter: str) -> None:
    notebook = read(chapter)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))


@each_chapter
def test_visible_code_fits_the_column(chapter: str) -> None:
    lines = [(cell.id, line) for cell in shown_code(read(chapter).cells) for line in cell.source.splitlines()]
    assert [(cell, line) for cell, line in lines if len(line) > COLUMN] == []


@each_chapter
def test_has_one_title_and_opens_with_a_question(chapter: str) -> None:
    notebook = read(chapter)
    text = re.sub(r"```.*?```", "", markdown(notebook), flags=re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert notebook.cells[0].cell_type == "markdown" or notebook.cells[1].cell_type == "markdown"
    opening = next(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert opening.startswith("# ")
    assert "?" in text[:3000]


@each_chapter
def test_names_x_y_f_and_the_constraints(chapter: str) -> None:
    """A table whose head, or first column, has the four: context, decision, objective, constraint."""
    rows = re.findall(r"^\|.*\|$", markdown(read(chapter)), re.MULTILINE)
    table = "\n".join(rows).lower()
    for word in ("context", "decision", "objective", "constraint"):
        assert word in table


@each_chapter
def test_proves_something(chapter: str) -> None:
    """Numbered equations that the text refers to, and a proof, or a derivation over several numbered equations."""
    text = markdown(read(chapter))
    labels = set(re.findall(r"\$\$\s*\(([\w-]+)\)", text)) | set(re.findall(r"\{math\}\s*\n:label: ([\w-]+)", text))
    cited = set(re.findall(r"\{eq\}`([\w-]+)`", text))
    assert labels & cited
    assert "{prf:proof}" in text or len(labels) >= 3


@each_chapter
def test_has_an_explorer_and_a_question_before_it(chapter: str) -> None:
    """The last words before a widget's cell ask what it will show."""
    cells = read(chapter).cells
    places = [i for i, cell in enumerate(cells) if cell.cell_type == "code" and "Explorer(" in cell.source]
    assert places
    assert any(
        "?" in cells[j].source for i in places for j in range(max(0, i - 3), i) if cells[j].cell_type == "markdown"
    )


@each_chapter
def test_presets_say_where_the_derivative_is_taken_or_none_does(chapter: str) -> None:
    """Else a prediction depends on which button was pressed before."""
    source = re.sub(r"^%.*$", "", code(read(chapter)), flags=re.MULTILINE)
    keywords = [part for part in ast.walk(ast.parse(source)) if isinstance(part, ast.keyword)]
    for presets in (part.value for part in keywords if part.arg == "presets" and isinstance(part.value, ast.Dict)):
        written_out = [preset for preset in presets.values if isinstance(preset, ast.Dict)]
        keys = [{key.value for key in preset.keys} for preset in written_out]
        assert len({"anchor" in names for names in keys}) <= 1, keys


@each_chapter
def test_calls_the_library_and_asserts(chapter: str) -> None:
    source = code(read(chapter))
    assert "diffopt_lib" in source
    assert len(re.findall(r"^\s*assert |assert_close|assert_allclose", source, re.MULTILINE)) >= 5


@each_chapter
def test_exercises_have_checks_and_folded_solutions(chapter: str) -> None:
    """Three to five exercises; each says how to check an answer and has a solution that is folded away."""
    text = markdown(read(chapter))
    exercises = re.findall(r"\{exercise(?:-start)?\}[^\n]*\n:label: ([\w-]+)\n", text)
    solutions = re.findall(r"\{solution(?:-start)?\} ([\w-]+)\n:class: dropdown", text)
    assert 3 <= len(exercises) <= 5
    assert sorted(exercises) == sorted(solutions)
    bodies = re.split(r"\{exercise(?:-start)?\}", text)[1:]
    assert all(re.search(r"check|assert", re.split(r"\{solution", body)[0], re.IGNORECASE) for body in bodies)


@each_chapter
def test_ends_with_pointers(chapter: str) -> None:
    """The last section says what to take away and cites where to read on."""
    last = re.split(r"^## ", markdown(read(chapter)), flags=re.MULTILINE)[-1]
    assert "{cite" in last


@each_page
def test_citations_exist(page: str) -> None:
    known = {key.lower() for key in parse_file(str(ROOT / "book" / "references.bib")).entries}
    cited = {
        key.strip().lower()
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page_text(page))
        for key in keys.split(",")
    }
    assert cited <= known


def test_references_are_complete_and_used() -> None:
    entries = parse_file(str(ROOT / "book" / "references.bib")).entries
    text = "\n".join(page_text(page) for page in chapters() + markdown_pages())
    assert [
        key for key, entry in entries.items() if not ({"title", "year"} <= set(entry.fields) and entry.persons)
    ] == []
    assert [key for key in entries if key not in text] == []


@each_page
@pytest.mark.parametrize("phrase", UNWANTED)
def test_prose_is_plain(page: str, phrase: str) -> None:
    assert re.findall(phrase, page_text(page), re.IGNORECASE) == []
