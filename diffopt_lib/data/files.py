"""Where the library keeps files outside itself, and how it writes one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "DIFFOPT_CACHE"


def cache_folder() -> Path:
    """Where this user's checkpoints and downloads lie: ``$DIFFOPT_CACHE``, or ``~/.cache/diffopt_lib``."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "diffopt_lib")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in its place in one step, which can't be half done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        beside.chmod(0o644)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
