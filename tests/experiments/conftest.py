"""Fixtures for the tests of the experiments."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from line import LINE

from diffopt_lib.experiments import Experiment, Run


@pytest.fixture
def line() -> Experiment:
    return LINE


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(seed=3, device=torch.device("cpu"), folder=tmp_path / "checkpoints")


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """A shell that starts the tests in the background makes them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
