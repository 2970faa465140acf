"""Shared by all tests: one thread per test process, double precision where a test asks for it, and the real data."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator: the same numbers in every run."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that the environment variable DIFFOPT_DATA names."""
    folder = os.environ.get("DIFFOPT_DATA")
    if not folder:
        pytest.skip("DIFFOPT_DATA names no folder of real data sets")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
