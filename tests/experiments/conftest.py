"""Fixtures for the tests of the experiments."""

from pathlib import Path

import pytest
import torch
from line import fit_line

from diffopt_lib.experiments import Experiment, Run


@pytest.fixture
def line() -> Experiment:
    return Experiment("line", "a line is fitted", {"test error": 0.5}, "nobody, 2000, table 1", "no chapter", fit_line)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(seed=3, device=torch.device("cpu"), folder=tmp_path / "checkpoints")
