"""The built pages, for the tests in Chromium, and what those have measured."""

from pathlib import Path

import pytest
import torch

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker("browser")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have measured."""
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    measured = [value for report in reports for name, value in report.user_properties if name == "measured"]
    if measured:
        terminalreporter.section("measured in Chromium")
        for line in sorted(measured):
            terminalreporter.line(line)


@pytest.fixture(autouse=True)
def chapters_dtype(seeded: None) -> None:
    """What a chapter computes when a test calls its functions is in the dtype that chapters set."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built pages."""
    assert (HTML / "index.html").exists(), "no built pages; `make book` builds them"
    return HTML
