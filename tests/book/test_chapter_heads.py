"""What a chapter needs and how long it takes stands at its head, and the front page draws the same."""

import re
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from chapters import ROOT, chapters

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import chapter_map

HTML = ROOT / "_build" / "html"
LINES = yaml.safe_load((ROOT / "book" / "chapters.yml").read_text(encoding="utf-8"))
NEEDS = {int(Path(page).name[:2]): line["needs"] for page, line in LINES.items()}
each_chapter = pytest.mark.parametrize("chapter", chapters())


def number_of(address: str) -> int:
    return int(Path(address).name[:2])


@cache
def page(name: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / name).with_suffix(".html").read_text(encoding="utf-8"), "html.parser")


def test_every_chapter_of_the_contents_has_its_line() -> None:
    assert [f"book/{page}.ipynb" for page in LINES] == chapters()


def test_chapters_need_earlier_ones_and_none_twice() -> None:
    def behind(number: int) -> set[int]:
        return {need for direct in NEEDS[number] for need in (direct, *behind(direct))}

    for number, needs in NEEDS.items():
        assert all(need in NEEDS and need < number for need in needs)
        assert not {need for direct in needs for need in behind(direct)} & set(needs), number


@each_chapter
def test_head_has_the_needs_as_links_and_both_times(chapter: str) -> None:
    head = page(chapter).select_one("h1 + .chapter-head")
    targets = [number_of(link["href"]) for link in head.select("a")]
    assert targets == NEEDS[number_of(chapter)]
    for link in head.select("a"):
        target = ((HTML / chapter).parent / link["href"]).resolve().relative_to(HTML.resolve())
        title = page(target.as_posix()).select_one("h1").get_text()
        assert link.get_text() == f"{number_of(link['href'])}. {title}"
    text = " ".join(head.get_text().split())
    read, run = re.search(r"(\d+) minutes? to read (less than a|\d+) minutes? to run$", text).groups()
    assert 10 <= int(read) <= 60
    assert run == "less than a" or 2 <= int(run) <= 30


@pytest.mark.parametrize("kind", ["wide", "narrow"])
def test_map_draws_every_chapter_and_every_arrow(kind: str) -> None:
    """With links that lead there, and with the arrows in words for those who don't see them."""
    drawing = page("book/intro").select_one(f".chapter-map svg.{kind}")
    links = drawing.select("a")
    assert [number_of(link["href"]) for link in links] == sorted(NEEDS)
    for link in links:
        needs = NEEDS[number_of(link["href"])]
        words = f"needs {' and '.join(map(str, needs))}" if needs else "needs no other"
        shown = " ".join(link.get_text().split())
        assert link["aria-label"] == f"{shown}, {words}"
        assert (HTML / "book" / link["href"]).exists()
    assert len(drawing.select(".arrows path")) == sum(map(len, NEEDS.values()))


def test_boxes_and_long_arrows_do_not_meet() -> None:
    """Each place of a column of the map is taken once, by a chapter or by an arrow that passes."""
    places = {number: chapter_map.Place("", "", needs) for number, needs in NEEDS.items()}
    rows = chapter_map.rows_of(places, chapter_map.columns_of(places))
    for column in {column for _, column in rows}:
        heights = sorted(row for (_, at), row in rows.items() if at == column)
        assert all(b - a >= 0.99 for a, b in zip(heights, heights[1:], strict=False))
