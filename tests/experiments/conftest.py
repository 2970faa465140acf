"""Fixtures for the tests of the experiments."""

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
