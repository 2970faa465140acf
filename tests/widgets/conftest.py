"""A page that holds both example explorers, opened without network."""

import examples
import matplotlib
import pytest
from playwright.sync_api import Page

matplotlib.use("agg")


@pytest.fixture(scope="session")
def ball():
    return examples.ball()


@pytest.fixture(scope="session")
def everything():
    return examples.everything()


@pytest.fixture(scope="session")
def page_file(tmp_path_factory, ball, everything):
    """A page as the book builds it: both widgets' text/html in one document."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Explorers</title>'
        '<meta name="viewport" content="width=device-width"></head>'
        f"<body>{ball.to_html()}{everything.to_html()}</body></html>",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def open_page(chromium, page_file):
    """`open_page(width=..., **context options)` loads the page from disk; at the end it must have logged no error."""
    contexts, complaints = [], []

    def open_page(width: int = 900, **options) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 1200}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: complaints.append(request.url) if is_external(request.url) else None)
        page.route("http*://**", lambda route: route.abort())
        page.goto(page_file.as_uri())
        page.wait_for_function(MOUNTED)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


MOUNTED = "() => [...document.querySelectorAll('.diffopt-explorer')].every((root) => root.explorer)"


def is_external(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))
