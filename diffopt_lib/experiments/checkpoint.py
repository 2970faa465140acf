"""Checkpoints that are either whole or not there, and Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..data.files import write_whole


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts of them."""
    write_whole(path, lambda beside: torch.save(state, beside))


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What :func:`save_checkpoint` wrote, on the CPU, or None. Nothing in the file is executed."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


@contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether Ctrl-C was pressed inside the block, instead of stopping in mid-step.

    A second Ctrl-C stops at once.
    """
    pressed = False

    def press(signum: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
