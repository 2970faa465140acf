"""The executed chapters that the pages are made of: current, without errors, in time, with described figures."""

import pytest
from chapters import COLUMN, ROOT, chapters, has_tag, notebooks_below, read

from tools.build_book import STAGE, is_current, read_record, time_limit

each_chapter = pytest.mark.parametrize("chapter", chapters())


@each_chapter
def test_is_current(chapter: str) -> None:
    """The pages show what the present sources produce."""
    assert is_current(chapter, read_record()), "stale: run `make book`"
    source, executed = read(chapter), read(STAGE / chapter)
    assert [cell.source for cell in source.cells] == [cell.source for cell in executed.cells]


@each_chapter
def test_ran_from_top_to_bottom_without_an_error(chapter: str) -> None:
    cells = [cell for cell in read(STAGE / chapter).cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@each_chapter
def test_printed_lines_fit_the_column(chapter: str) -> None:
    for cell in read(STAGE / chapter).cells:
        if cell.cell_type == "code" and not has_tag(cell, "remove-cell", "remove-output"):
            printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
            assert [line for line in printed.splitlines() if len(line) > COLUMN] == [], cell.id


@each_chapter
def test_kept_to_its_time(chapter: str) -> None:
    assert read_record()[chapter].seconds <= time_limit(chapter)


@each_chapter
def test_figures_are_captioned_and_described(chapter: str) -> None:
    """Every image has a caption that can be read alone, a name to refer to, and alternative text."""
    figures = 0
    for cell in read(STAGE / chapter).cells:
        if cell.cell_type != "code" or has_tag(cell, "remove-cell", "remove-output"):
            continue
        data = [output.data for output in cell.outputs if output.output_type in ("display_data", "execute_result")]
        if not any(mime.startswith("image/") for bundle in data if "text/html" not in bundle for mime in bundle):
            continue
        figures += 1
        figure, image = cell.metadata.mystnb.figure, cell.metadata.mystnb.image
        assert len(figure.caption.split()) >= 8, cell.id
        assert figure.name, cell.id
        assert len(image.alt.split()) >= 5, cell.id
        assert image.alt != figure.caption, cell.id
    assert figures >= 1


@each_chapter
def test_widgets_carry_their_page(chapter: str) -> None:
    """An explorer is stored as HTML of at most 1.5 MB; the state of ipywidgets is not stored beside it."""
    notebook = read(STAGE / chapter)
    assert "widgets" not in notebook.metadata
    bundles = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    explorers = [bundle["text/html"] for bundle in bundles if "diffopt-explorer" in bundle.get("text/html", "")]
    assert explorers
    assert max(len(html) for html in explorers) <= 1_500_000


def test_folder_of_the_stage_is_the_books() -> None:
    """Nothing is staged that the book does not have."""
    assert notebooks_below(STAGE) == notebooks_below(ROOT)
