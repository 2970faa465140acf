"""Shared by all tests: one thread per process, a seeded generator, the real data, and the CUDA marker."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator: the same numbers in every run."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """The same test on every device there is."""
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The same test in both precisions."""
    return request.param


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
