"""What a reader is asked for: when something moves, how many theorems come first, and how long a chapter is.

A word is what stands between spaces and has a letter or a digit in it. A displayed equation counts as one. What is
folded (proofs, solutions, code) doesn't count, nor do cells that are removed.
"""

import re

import nbformat
import pytest
from chapters import chapters, read, shown_code

WORDS_BEFORE_IT_MOVES, THEOREMS_BEFORE_IT_MOVES, WORDS_IN_ALL = 1_200, 2, 6_500

FOLDED = re.compile(r"^(:{3,})\{[\w:]+\}[^\n]*\n:class: dropdown.*?^\1$", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"\$\$.*?\$\$(\s*\([\w-]+\))?", re.DOTALL)
THEOREM = re.compile(r"\{prf:(theorem|proposition|lemma|corollary)\}")


def words(text: str) -> int:
    text = EQUATION.sub(" equation ", FOLDED.sub("", text))
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def prose(cells: list[nbformat.NotebookNode]) -> int:
    return sum(words(cell.source) for cell in cells if cell.cell_type == "markdown")


def code_words(cells: list[nbformat.NotebookNode]) -> int:
    return sum(words(cell.source) for cell in shown_code(cells))


def before_it_moves(chapter: str) -> list[nbformat.NotebookNode]:
    cells = read(chapter).cells
    first = next(i for i, cell in enumerate(cells) if cell.cell_type == "code" and "Explorer(" in cell.source)
    return list(cells[:first])


@pytest.mark.parametrize("chapter", chapters())
def test_something_moves_early(chapter: str) -> None:
    assert prose(before_it_moves(chapter)) <= WORDS_BEFORE_IT_MOVES


@pytest.mark.parametrize("chapter", chapters())
def test_few_theorems_stand_before_it(chapter: str) -> None:
    text = "\n".join(cell.source for cell in before_it_moves(chapter) if cell.cell_type == "markdown")
    assert len(THEOREM.findall(text)) <= THEOREMS_BEFORE_IT_MOVES


@pytest.mark.parametrize("chapter", chapters())
def test_is_not_too_long(chapter: str) -> None:
    cells = read(chapter).cells
    assert prose(cells) + code_words(cells) <= WORDS_IN_ALL


def test_folded_text_and_equations_are_not_counted() -> None:
    text = "One two.\n\n:::{prf:proof}\n:class: dropdown\n\nthree four\n:::\n\n$$ a + b $$ (eq-a)\n\nfive = six"
    assert words(text) == 5
