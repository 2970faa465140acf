"""The explorer's JavaScript: modules in `js/`, put together into the one that a page carries.

Each module imports only from those before it, so that without their `import` and `export` they can stand in one file.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "js"
MODULES = (
    "numerics",
    "dom",
    "text",
    "scales",
    "table",
    "page_solve",
    "paths",
    "pixels",
    "picture",
    "controls",
    "presets",
    "legend",
    "status",
    "snapshot",
    "contract",
    "view",
    "hosts",
)
ALONE = ("player",)  # what an animation carries, and no explorer


@cache
def bundle() -> str:
    """All modules as one that imports nothing and exports nothing."""
    return "\n".join(module(name) for name in MODULES)


@cache
def module(name: str) -> str:
    """One module of those that import nothing, or that stand after what they import."""
    return strip((FOLDER / f"{name}.js").read_text(encoding="utf-8"))


def strip(source: str) -> str:
    """A module's source without its imports and exports, and without comments of a whole line."""
    source = re.sub(r"^import [^;]*;\n", "", source, flags=re.MULTILINE)
    source = re.sub(r"^export (?=async|class|const|function)", "", source, flags=re.MULTILINE)
    source = re.sub(r"^[ \t]*/\*\*(?:(?!\*/).)*\*/[ \t]*\n", "", source, flags=re.MULTILINE | re.DOTALL)
    source = re.sub(r"^[ \t]*//.*\n", "", source, flags=re.MULTILINE)
    return re.sub(r"\n{2,}", "\n", source).strip() + "\n"
