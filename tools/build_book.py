"""Execute the chapters that changed, two at a time, and build the book from what they produced.

The sources in `book/` are committed without outputs. They are copied to `.stage`, where nbmake executes every chapter
whose digest is new and writes the outputs into the copy; Sphinx then builds `_build/html` from the stage and executes
nothing. A chapter's digest covers the notebook, the modules of `diffopt_lib` that it imports with all that is behind
them (`dependencies.py`), `requirements.txt`, and the folders that the notebook's metadata `diffopt.reads` names. So a
change of a module makes those chapters stale that use it, and a new benchmark the scoreboard.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from tools.dependencies import files_behind, files_below

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
STAGE = ROOT / ".stage"  # not below _build, because nbmake passes over every notebook there
HTML = BUILD / "html"
RECORD = BUILD / "chapters.json"  # chapter -> its Execution
HTML_DIGEST = BUILD / "html.digest"

DEFAULT_TIME_LIMIT = 60.0
# On a busy machine seconds are longer: DIFFOPT_TIME_FACTOR stretches every limit.
TIME_FACTOR = float(os.environ.get("DIFFOPT_TIME_FACTOR", "1"))


@dataclass
class Execution:
    """What is remembered of a chapter's last successful execution."""

    digest: str
    seconds: float
    limit: float


# Digests


def digest_of(files: list[Path]) -> str:
    """One SHA-256 digest over the names and contents of `files`."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def chapter_digest(chapter: str) -> str:
    """The digest of everything that a chapter's outputs depend on."""
    library = files_behind(code_of(chapter), ROOT / "diffopt_lib")
    read = [file for folder in diffopt_metadata(chapter).get("reads", []) for file in files_below(ROOT / folder)]
    return digest_of([ROOT / chapter, ROOT / "requirements.txt", *sorted(library), *read])


# Chapters


def chapters_in_toc() -> list[str]:
    """The notebooks that the table of contents names, as paths below the root."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [page["file"] for part in toc["parts"] for page in part["chapters"]]
    return [f"{page}.ipynb" for page in pages if (ROOT / f"{page}.ipynb").exists()]


def diffopt_metadata(chapter: str) -> dict[str, Any]:
    """What a notebook says about itself to this program."""
    return nbformat.read(ROOT / chapter, as_version=4).metadata.get("diffopt", {})


def code_of(chapter: str) -> str:
    """The Python in a notebook's cells, without the commands to IPython."""
    cells = nbformat.read(ROOT / chapter, as_version=4).cells
    lines = (line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines())
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def time_limit(chapter: str) -> float:
    """Seconds a chapter may take: its metadata `diffopt.time_limit`, or 60, stretched by DIFFOPT_TIME_FACTOR."""
    return TIME_FACTOR * diffopt_metadata(chapter).get("time_limit", DEFAULT_TIME_LIMIT)


def read_record() -> dict[str, Execution]:
    """The executions on record."""
    if not RECORD.exists():
        return {}
    return {chapter: Execution(**entry) for chapter, entry in json.loads(RECORD.read_text()).items()}


def write_record(record: dict[str, Execution]) -> None:
    RECORD.write_text(json.dumps({chapter: asdict(entry) for chapter, entry in record.items()}, indent=2) + "\n")


def is_current(chapter: str, record: dict[str, Execution]) -> bool:
    """Whether the stage holds this chapter, executed from the present sources."""
    return (STAGE / chapter).exists() and chapter in record and record[chapter].digest == chapter_digest(chapter)


# Staging


def copy_if_changed(source: Path, target: Path) -> None:
    """Copy a file unless the copy is there already: an untouched file keeps its time stamp, and Sphinx its cache."""
    if target.exists() and target.read_bytes() == source.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def stage_config() -> None:
    """Stage the book's configuration with execution switched off."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["execute"]["execute_notebooks"] = "off"
    text = yaml.safe_dump(config, sort_keys=False)
    target = STAGE / "_config.yml"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def stage_sources(stale: list[str]) -> None:
    """Make the stage equal to the sources, but for the chapters whose executed copies are still good."""
    STAGE.mkdir(parents=True, exist_ok=True)
    stage_config()
    copy_if_changed(ROOT / "_toc.yml", STAGE / "_toc.yml")
    sources = {path.relative_to(ROOT) for path in files_below(ROOT / "book")}
    executed = {Path(chapter) for chapter in chapters_in_toc()} - {Path(chapter) for chapter in stale}
    for path in sources - executed:
        copy_if_changed(ROOT / path, STAGE / path)
    for path in files_below(STAGE / "book"):
        if path.relative_to(STAGE) not in sources:
            path.unlink()


# Execution


def run_nbmake(stale: list[str], report: Path) -> None:
    """Execute the staged copies of the `stale` chapters in place; the report tells which passed and their times."""
    longest = max(time_limit(chapter) for chapter in stale)
    command = [sys.executable, "-m", "pytest", "--nbmake", "--overwrite", "-n", "2", "-v", f"--junitxml={report}"]
    command += [f"--nbmake-timeout={int(longest)}", f"--timeout={int(2 * longest)}", "-p", "no:cacheprovider"]
    command += ["-p", "no:randomly", "-o", "addopts=", *[str(STAGE / chapter) for chapter in stale]]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})


def passed_seconds(report: Path) -> dict[str, float]:
    """Seconds by file name, of the chapters that the report says have passed."""
    cases = ElementTree.parse(report).iter("testcase")
    return {case.attrib["name"]: float(case.attrib["time"]) for case in cases if len(case) == 0}


def drop_widget_state(path: Path) -> None:
    """Remove the ipywidgets state of an executed chapter: no page uses it, and it repeats the widgets' data."""
    notebook = nbformat.read(path, as_version=4)
    if notebook.metadata.pop("widgets", None) is not None:
        nbformat.write(notebook, path)


def execute(stale: list[str], record: dict[str, Execution]) -> list[str]:
    """Execute the `stale` chapters, put those that pass on record, and return those that fail."""
    report = BUILD / "nbmake.xml"
    report.unlink(missing_ok=True)
    digests = {chapter: chapter_digest(chapter) for chapter in stale}
    run_nbmake(stale, report)
    seconds = passed_seconds(report)
    failed = []
    for chapter in stale:
        name = Path(chapter).name
        if name in seconds:
            drop_widget_state(STAGE / chapter)
            record[chapter] = Execution(digests[chapter], seconds[name], time_limit(chapter))
        else:
            record.pop(chapter, None)
            failed.append(chapter)
    write_record(record)
    return failed


def print_times(chapters: list[str], stale: list[str], record: dict[str, Execution]) -> None:
    """A table of the chapters' execution times."""
    print(f"\n{'chapter':48} {'seconds':>8} {'limit':>6}")
    for chapter in chapters:
        entry = record[chapter]
        note = "" if chapter in stale else "  (unchanged)"
        note += "  OVER ITS LIMIT" if entry.seconds > entry.limit else ""
        print(f"{chapter:48} {entry.seconds:8.1f} {entry.limit:6.0f}{note}")
    print(flush=True)


# HTML


def build_html() -> None:
    """Run Jupyter Book on the stage with warnings as errors, unless nothing has changed since the last good build."""
    # The library counts, because the API page is made of its docstrings.
    digest = digest_of([*files_below(STAGE), *files_below(ROOT / "diffopt_lib"), ROOT / "requirements.txt"])
    if HTML_DIGEST.exists() and HTML_DIGEST.read_text() == digest and (HTML / "index.html").exists():
        print("The pages are up to date.")
        return
    HTML_DIGEST.unlink(missing_ok=True)
    # Written anew from Sphinx's cache, so that no page stays behind whose source is gone.
    shutil.rmtree(HTML, ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [str(jupyter_book), "build", str(STAGE), "--path-output", str(ROOT), "-W", "--keep-going"]
    result = subprocess.run(command, cwd=ROOT)
    if result.returncode != 0:
        # A warning is only given when a page is read, so the next build must read every page again.
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
        sys.exit("The book has warnings or errors; see above.")
    HTML_DIGEST.write_text(digest)


def main() -> None:
    start = time.monotonic()
    BUILD.mkdir(exist_ok=True)
    chapters, record = chapters_in_toc(), read_record()
    stale = [chapter for chapter in chapters if not is_current(chapter, record)]
    stage_sources(stale)
    if stale:
        print(f"Executing {len(stale)} of {len(chapters)} chapters, two at a time ...", flush=True)
        failed = execute(stale, record)
        if failed:
            sys.exit(f"Failed: {', '.join(failed)}")
    print_times(chapters, stale, record)
    build_html()
    print(f"The book: {HTML / 'index.html'}  ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
