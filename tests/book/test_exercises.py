"""The checks of the exercises tell right from wrong.

In chapters 1 to 5 a removed cell runs each check on the solution and on plausible wrong answers, which it must refuse,
and prints a line for each exercise. A chapter whose check lets a wrong answer pass doesn't build.
"""

import re

import pytest
from chapters import chapters, has_tag, markdown, read

from tools.build_book import STAGE

JUDGED = [chapter for chapter in chapters() if re.search(r"/0[1-5]_", chapter)]
VERDICT = re.compile(r"^(ex-[\w-]+) passes the solution and fails (\w.*)$", re.MULTILINE)


@pytest.mark.parametrize("chapter", JUDGED)
def test_every_exercise_has_a_judge(chapter: str) -> None:
    """Each is named in one call of `tells`, in a cell that readers don't see."""
    notebook = read(chapter)
    exercises = re.findall(r"\{exercise(?:-start)?\}[^\n]*\n:label: ([\w-]+)\n", markdown(notebook))
    removed = "\n".join(cell.source for cell in notebook.cells if has_tag(cell, "remove-cell"))
    judged = re.findall(r"\btells\(\s*\"(ex-[\w-]+)\"", removed)
    assert sorted(judged) == sorted(exercises)


@pytest.mark.parametrize("chapter", JUDGED)
def test_wrong_answers_were_refused(chapter: str) -> None:
    """In the executed chapter, two wrong answers at least for each exercise."""
    outputs = [output for cell in read(STAGE / chapter).cells for output in cell.get("outputs", [])]
    said = "".join(output.text for output in outputs if output.get("name") == "stdout")
    verdicts = {label: wrong.split() for label, wrong in VERDICT.findall(said)}
    exercises = re.findall(r"\{exercise(?:-start)?\}[^\n]*\n:label: ([\w-]+)\n", markdown(read(chapter)))
    assert sorted(verdicts) == sorted(exercises)
    assert all(len(wrong) >= 2 for wrong in verdicts.values()), verdicts
