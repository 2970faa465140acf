"""Where the library keeps files outside itself, how it gets one with a checksum, and how it writes one."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "DIFFOPT_CACHE"
DATA_VARIABLE = "DIFFOPT_DATA"
SECONDS = 60.0  # without an answer, before a download is given up


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


def content(folder: str, name: str, source: str, checksum: str, whose: str) -> bytes:
    """The uncompressed content of a published file, from the first place that has it.

    It is looked for in ``$DIFFOPT_DATA``, then in the user's cache, and is otherwise downloaded into the latter.

    Args:
        folder: where it lies in either place.
        name: its name there, where it is compressed by gzip.
        source: its address, compressed or not.
        checksum: sha256 of the content, because mirrors compress anew.
        whose: the name of the data, for complaints.

    Raises:
        ValueError: what is there is something else.
        FileNotFoundError: it is neither there nor can it be downloaded; the message says where to put it.
    """
    places = [cache_folder() / folder / name]
    if data := os.environ.get(DATA_VARIABLE):
        places.insert(0, Path(data) / folder / name)
    for path in places:
        if path.exists():
            return _checked(path.read_bytes(), str(path), name, checksum, whose)
    packed = _download(source, name, folder, places)
    if packed[:2] != b"\x1f\x8b" and not source.endswith(".gz"):
        packed = gzip.compress(packed, mtime=0)
    found = _checked(packed, source, name, checksum, whose)
    write_whole(places[-1], lambda beside: beside.write_bytes(packed))
    return found


def _download(source: str, name: str, folder: str, places: list[Path]) -> bytes:
    try:
        with urllib.request.urlopen(source, timeout=SECONDS) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError) as error:
        looked = " and ".join(str(path) for path in places)
        raise FileNotFoundError(
            f"{name} is not at {looked}, and {source} did not answer ({error}). Put the file there, or name a "
            f"folder that has it in {folder}/ with the environment variable {DATA_VARIABLE}"
        ) from None


def _checked(packed: bytes, where: str, name: str, checksum: str, whose: str) -> bytes:
    """Decompress, and compare the checksum."""
    try:
        data = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{where} is not a gzip file: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != checksum:
        raise ValueError(f"{where} is not {whose}'s {name}: the sha256 of its content is {found}")
    return data
