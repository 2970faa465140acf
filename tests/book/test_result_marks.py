"""Where a chapter quotes a stored run, the page says so, and the link leads to that run's row on the scoreboard."""

import re
import sys

import pytest
from bs4 import BeautifulSoup, Tag
from chapters import ROOT, chapters, read

from diffopt_lib import experiments

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import result_marks

HTML = ROOT / "_build" / "html"
SCOREBOARD = HTML / "book" / "appendix" / "scoreboard.html"
# Here a plain search stands beside the extension's reading of the code.
CALL = re.compile(r"read_result\(\s*[\"'](\w+)[\"']")


def read_by(chapter: str) -> set[str]:
    code = "\n".join(cell.source for cell in read(chapter).cells if cell.cell_type == "code")
    return set(CALL.findall(code))


def marks_of(chapter: str) -> list[Tag]:
    page = BeautifulSoup((HTML / chapter).with_suffix(".html").read_text(encoding="utf-8"), "html.parser")
    return page.select("article .result-mark a")


@pytest.mark.parametrize("chapter", chapters())
def test_every_result_that_a_chapter_reads_is_marked(chapter: str) -> None:
    assert {link.get_text() for link in marks_of(chapter)} == read_by(chapter)


def test_chapters_read_results_by_name_only() -> None:
    """What is read under a computed name would have no mark."""
    for chapter in chapters():
        code = "\n".join(cell.source for cell in read(chapter).cells if cell.cell_type == "code")
        assert len(re.findall(r"\bread_result\(", code)) == len(CALL.findall(code)), chapter
        assert "experiments/results" not in code, chapter


def test_marks_lead_to_the_row_of_their_experiment() -> None:
    board = BeautifulSoup(SCOREBOARD.read_text(encoding="utf-8"), "html.parser")
    links = [link for chapter in chapters() for link in marks_of(chapter)]
    assert len(links) >= 9
    for link in links:
        assert link["href"] == f"../appendix/scoreboard.html#result-{link.get_text()}"
    for name in experiments.names():
        row = board.select_one(f"tr#result-{name}")
        assert row.get_text().startswith(experiments.find(name).claim)


def test_the_names_are_found_in_code_and_nowhere_else() -> None:
    code = (
        '%matplotlib inline\n# read_result("comment")\nx = read_result("a")["figures"]\ny = "read_result(\'text\')"\n'
    )
    assert result_marks.results_read_by(f'{code}z = [read_result("b"), read_result("a")]') == ["a", "b"]
