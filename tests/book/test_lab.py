"""`make lab` copies the chapters into a reader's folder, and never over what a reader has written."""

import json
from pathlib import Path

import pytest

from tools.lab import update


def write(path: Path, *sources: str, outputs: list | None = None) -> None:
    cells = [{"cell_type": "code", "source": source, "outputs": outputs or []} for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells}))


def first_source(path: Path) -> str:
    return json.loads(path.read_text())["cells"][0]["source"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A built chapter, and a reader's folder with a copy of it."""
    built, readers = tmp_path / "built", tmp_path / "readers"
    write(built / "part" / "chapter.ipynb", "x = 1")
    assert update(built, readers) == []
    assert first_source(readers / "part" / "chapter.ipynb") == "x = 1"
    return built, readers


def test_a_newer_chapter_replaces_one_that_was_only_run(folders: tuple[Path, Path]) -> None:
    built, readers = folders
    write(readers / "part" / "chapter.ipynb", "x = 1", outputs=["1"])
    write(built / "part" / "chapter.ipynb", "x = 2")
    assert update(built, readers) == []
    assert first_source(readers / "part" / "chapter.ipynb") == "x = 2"


def test_a_run_chapter_that_has_not_changed_keeps_its_outputs(folders: tuple[Path, Path]) -> None:
    built, readers = folders
    write(readers / "part" / "chapter.ipynb", "x = 1", outputs=["1"])
    update(built, readers)
    assert '"1"' in (readers / "part" / "chapter.ipynb").read_text()


@pytest.mark.parametrize("text", [None, "not a notebook"])
def test_what_a_reader_has_edited_stays_and_is_named(folders: tuple[Path, Path], text: str | None) -> None:
    built, readers = folders
    mine = readers / "part" / "chapter.ipynb"
    write(mine, "x = 17")
    if text:
        mine.write_text(text)
    before = mine.read_text()
    for newer in ("x = 2", "x = 3"):
        write(built / "part" / "chapter.ipynb", newer)
        assert update(built, readers) == ["part/chapter.ipynb"]
        assert mine.read_text() == before


def test_a_removed_copy_is_made_anew(folders: tuple[Path, Path]) -> None:
    built, readers = folders
    (readers / "part" / "chapter.ipynb").unlink()
    update(built, readers)
    assert first_source(readers / "part" / "chapter.ipynb") == "x = 1"


def test_a_readers_own_notebook_is_left_alone(folders: tuple[Path, Path]) -> None:
    built, readers = folders
    write(readers / "mine.ipynb", "y = 1")
    assert update(built, readers) == []
    assert first_source(readers / "mine.ipynb") == "y = 1"
