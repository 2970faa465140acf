"""Shared by all tests: one thread per process, seeds, the real data, and the CUDA marker."""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from tools.chromium import find_chromium

torch.set_num_threads(1)

CHROMIUM_FLAGS = [
    "--no-sandbox",  # as root, Chromium starts only without its sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same seeds and leaves torch's own dtype and matplotlib's own style: the order is
    random, and what a test or a fixture of the session sets for a chapter's code must not reach the next one."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    if matplotlib := sys.modules.get("matplotlib"):
        matplotlib.rcdefaults()


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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One Chromium for all tests of a process."""
    path = find_chromium()
    assert path, "no Chromium; `make test` installs one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
