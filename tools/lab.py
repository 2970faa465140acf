"""Open the chapters in JupyterLab, in a folder `notebooks` that belongs to whoever reads and runs them.

The book's build writes each chapter as a notebook with its references resolved (`_build/notebooks`). They are copied to
`notebooks`, and copied again when a chapter has changed, except over a notebook that someone has edited: that one stays
as it is. Running cells is no edit, and outputs are not kept by a newer copy.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "_build" / "notebooks"
READERS = ROOT / "notebooks"
RECORD = ".copied.json"  # path below the folder -> digest of the cells that were copied there


def digest(notebook: Path) -> str:
    """A digest of what the cells say, whatever their outputs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    said = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def update(built: Path, readers: Path) -> list[str]:
    """Bring the readers' folder up to date, and give the notebooks that were left alone though the book's are newer."""
    record = readers / RECORD
    copied = json.loads(record.read_text()) if record.exists() else {}
    kept = []
    for source in sorted(built.rglob("*.ipynb")):
        name = source.relative_to(built).as_posix()
        target, new = readers / name, digest(source)
        if target.exists():
            present = digest_or_none(target)
            if present == new:
                copied[name] = new
                continue
            if present != copied.get(name, "never copied"):
                kept.append(name)
                continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        copied[name] = new
    readers.mkdir(exist_ok=True)
    record.write_text(json.dumps(copied, indent=1) + "\n")
    return kept


def digest_or_none(notebook: Path) -> str | None:
    """The digest of a reader's notebook; None if it is no notebook any more."""
    try:
        return digest(notebook)
    except (ValueError, KeyError, TypeError):
        return None


def main() -> None:
    kept = update(BUILT, READERS)
    if kept:
        print(
            "You have edited these notebooks, so they stay as they are; remove one to get the book's present version:"
        )
        print("\n".join(f"  notebooks/{name}" for name in kept), flush=True)
    jupyter = str(Path(sys.executable).with_name("jupyter"))
    root = ["--allow-root"] if os.geteuid() == 0 else []
    os.execv(jupyter, [jupyter, "lab", f"--notebook-dir={READERS}", *root, *sys.argv[1:]])


if __name__ == "__main__":
    main()
