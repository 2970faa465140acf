"""Open a built page from disk with the network refused, and keep a record of all that goes wrong on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

from playwright.sync_api import Browser, Page, Route

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

# MathJax replaces its start-up promise as it goes; the pages typeset once, when they have loaded.
MATH_IS_DONE = "async () => { if (window.MathJax?.startup?.promise) await MathJax.startup.promise; }"


@dataclass
class Visit:
    """A page and what it did: files it loaded, addresses it asked for outside the disk, errors it logged."""

    page: Page
    files: set[Path] = field(default_factory=set)
    external: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def route(self, route: Route) -> None:
        """Let files through, refuse the rest, and write down both."""
        address = urlparse(route.request.url)
        if address.scheme == "file":
            self.files.add(Path(unquote(address.path)))
            route.continue_()
        elif address.scheme in ("data", "blob"):
            route.continue_()
        else:
            self.external.append(route.request.url)
            route.abort()

    def weight(self) -> int:
        """Bytes of all files that the page loaded, without MathJax."""
        return sum(path.stat().st_size for path in self.files if "mathjax" not in path.parts and path.is_file())


@contextmanager
def visit(browser: Browser, path: Path, viewport: dict[str, int] = DESKTOP, **options: object) -> Iterator[Visit]:
    """Open the page at `path` in a fresh browser context and wait until its formulas are typeset."""
    context = browser.new_context(viewport=viewport, **options)
    context.set_default_timeout(15_000)
    visit = Visit(context.new_page())
    context.route("**/*", visit.route)
    visit.page.on("pageerror", lambda error: visit.errors.append(f"page error: {error}"))
    visit.page.on(
        "console", lambda message: visit.errors.append(message.text) if message.type in ("error", "warning") else None
    )
    visit.page.goto(path.as_uri(), wait_until="load")
    visit.page.evaluate(MATH_IS_DONE)
    try:
        yield visit
    finally:
        context.close()
