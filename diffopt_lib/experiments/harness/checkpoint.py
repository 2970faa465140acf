"""Checkpoints that are either whole or not there, and interrupts that wait for the end of a step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...data.files import write_whole


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts of them."""
    write_whole(path, lambda beside: torch.save(state, beside))


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What :func:`save_checkpoint` wrote, on the CPU, or None. Nothing in the file is executed."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


@contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether the process was interrupted inside the block, which does not stop it.

    An interrupt is Ctrl-C, or the SIGTERM of a scheduler or of ``torchrun``. A second Ctrl-C stops at once.
    """
    interrupted = False

    def interrupt(signum: int, frame: Any) -> None:
        nonlocal interrupted
        if interrupted and signum == signal.SIGINT:
            raise KeyboardInterrupt
        interrupted = True

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
