"""The checks of exercises tell right from wrong: each one passes the solution and fails plausible wrong answers.

A solution is the code folded under its exercise, and ends in the check; where the exercise gives the check as code,
that code runs below the solution. Both run on the cells of the chapter that they need, as a reader would run them. A
wrong answer is the solution with one idea replaced: a sign, a forgotten factor, the approximation that the text warns
of, or a method that does not use what the exercise is about. `exercises` has them, chapter by chapter.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from chapters import COLUMN, chapters, has_tag, read
from exercises import Wrong

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def name_of(chapter: str) -> str:
    return re.sub(r"^\d\d_", "", Path(chapter).stem)


def judge(chapter: str) -> ModuleType:
    """The chapter's module in `exercises`."""
    return import_module(f"exercises.{name_of(chapter)}")


def blocks(text: str, kind: str) -> dict[str, str]:
    """The Python code of every exercise or every solution, by the label of the exercise."""
    fenced = re.findall(rf"^(:{{3,}})\{{{kind}\}}(.*?)^\1$", text, re.DOTALL | re.MULTILINE)
    gated = re.findall(rf"^(:{{3,}})\{{{kind}-start\}}(.*?)^:+\{{{kind}-end\}}", text, re.DOTALL | re.MULTILINE)
    found = {}
    for _, body in fenced + gated:
        label = re.search(r":label: (\S+)" if kind == "exercise" else r"^ (\S+)", body)
        assert label
        found[label[1]] = "\n".join(PYTHON.findall(body))
    return found


@cache
def solutions(chapter: str) -> dict[str, str]:
    """The code of every folded solution, with its check, by the label of its exercise."""
    cells = [cell for cell in read(chapter).cells if not has_tag(cell, "remove-cell")]
    text = "\n\n".join(c.source if c.cell_type == "markdown" else f"```python\n{c.source}\n```" for c in cells)
    given = blocks(text, "exercise")
    return {label: "\n".join([code, given[label]]) for label, code in blocks(text, "solution").items()}


@cache
def namespace(chapter: str) -> tuple[dict[str, Any], torch.dtype]:
    """What the chapter's cells define, and the precision that they ask for."""
    sources = {cell.id: cell.source for cell in read(chapter).cells}
    shorter = getattr(judge(chapter), "SHORTER", {})
    names: dict[str, Any] = {}
    torch.set_default_dtype(torch.float32)
    for name in judge(chapter).CELLS:
        source = re.sub(r"^%.*$", "", sources[name], flags=re.MULTILINE)
        for long, short in shorter.get(name, []):
            assert long in source
            source = source.replace(long, short)
        exec(source, names)
    return names, torch.get_default_dtype()


def run(chapter: str, code: str) -> None:
    """Below the chapter's cells."""
    names, dtype = namespace(chapter)
    torch.set_default_dtype(dtype)
    exec(code, dict(names))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The chapters' setup changes torch's threads and matplotlib's backend."""
    matplotlib.use("Agg")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    plt.close("all")


EXERCISES = [pytest.param(chapter, label, id=label) for chapter in chapters() for label in solutions(chapter)]
WRONG = [
    pytest.param(chapter, label, answer, id=f"{label}, {answer.why}")
    for chapter in chapters()
    for label, answers in judge(chapter).WRONG.items()
    for answer in answers
]


@pytest.mark.parametrize(("chapter", "label"), EXERCISES)
def test_passes_the_solution(chapter: str, label: str) -> None:
    run(chapter, solutions(chapter)[label])


@pytest.mark.parametrize(("chapter", "label", "answer"), WRONG)
def test_fails_a_plausible_wrong_answer(chapter: str, label: str, answer: Wrong) -> None:
    solution = solutions(chapter)[label]
    assert answer.right in solution
    with pytest.raises(AssertionError):
        run(chapter, solution.replace(answer.right, answer.wrong))


@pytest.mark.parametrize(("chapter", "label"), EXERCISES)
def test_a_solution_ends_in_its_check(chapter: str, label: str) -> None:
    last = ast.unparse(ast.parse(solutions(chapter)[label]).body[-1])
    assert re.search(r"\bassert |assert_close\(", last)


@pytest.mark.parametrize(("chapter", "label"), EXERCISES)
def test_a_solution_fits_the_column(chapter: str, label: str) -> None:
    assert [line for line in solutions(chapter)[label].splitlines() if len(line) > COLUMN] == []


@pytest.mark.parametrize("chapter", chapters())
def test_every_exercise_has_wrong_answers(chapter: str) -> None:
    assert set(judge(chapter).WRONG) == set(solutions(chapter))
    assert [label for label, answers in judge(chapter).WRONG.items() if len(answers) < 2] == []
