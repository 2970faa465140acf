"""How, where, when and with which code a number was obtained."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ... import __version__

LIBRARY = Path(__file__).parents[2]
# Where files go does not change a figure, and is a matter of one machine: these do not stand in a recorded command.
PLACES = ("--checkpoints", "--output")
VERSIONS = ("diffopt_lib", "torch", "numpy", "scipy")


def provenance(device: torch.device, *, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Date, command, hardware and versions, those of further packages too, as JSON can hold them."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": git_commit(),
        "sources": library_digest(),
        "hardware": hardware(device),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS + packages},
    }


def command_line() -> str:
    """The command as one would type it, without the options that say where files go."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    what = ["-m", module.name.removesuffix(".__main__")] if module else [Path(sys.argv[0]).name]
    return shlex.join([*launcher(), *what, *without_places(sys.argv[1:])])


def without_places(arguments: list[str]) -> list[str]:
    """Arguments without ``--checkpoints FOLDER`` and ``--output FOLDER``, or ``--output=FOLDER``."""
    before = ["", *arguments]
    kept = (now for last, now in zip(before, arguments, strict=False) if not {last, now} & set(PLACES))
    return [argument for argument in kept if argument.partition("=")[0] not in PLACES]


def launcher() -> list[str]:
    """``python``, or ``torchrun`` with the number of processes that it started."""
    if "WORLD_SIZE" not in os.environ:
        return ["python"]
    processes = int(os.environ["WORLD_SIZE"])
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    nodes = [] if per_node == processes else ["--nnodes", str(processes // per_node)]
    return ["torchrun", *nodes, "--nproc-per-node", str(per_node)]


def hardware(device: torch.device) -> dict[str, Any]:
    """The processor, its cores and threads, and the accelerator if the device is one."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def version(package: str) -> str | None:
    """The installed version of a distribution, or None. Ours is known where it is run without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return __version__ if package == "diffopt_lib" else None


def git_commit() -> str | None:
    """The commit of the source that runs, with ``+`` if files were changed since; None outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def library_digest() -> str:
    """Twelve digits of a digest of the library's Python files; equal digests mean equal code."""
    digest = hashlib.sha256()
    for path in sorted(LIBRARY.rglob("*.py")):
        digest.update(path.relative_to(LIBRARY).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def code_behind(origin: Mapping[str, Any]) -> str:
    """Which code a result is of, in words: its commit, and whether the library is still the one that computed it.

    Args:
        origin: the ``provenance`` of a result file. One without ``sources`` is older than that entry, and so than the
            library's present code.
    """
    commit = (origin.get("commit") or "").removesuffix("+")
    at = f"commit {commit}" if commit else "no commit"
    changed = " with changes that were not committed" if (origin.get("commit") or "").endswith("+") else ""
    since = "" if origin.get("sources") == library_digest() else "; the library has changed since"
    return at + changed + since
