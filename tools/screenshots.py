"""Photograph every built page, wide and as on a phone, light and dark, into `_build/screenshots`.

Or one page, as it first appears: `python -m tools.screenshots book/1_optimization/01_argmin.html docs/page.png`.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Literal, get_args

from playwright.sync_api import Browser, ViewportSize, sync_playwright

from tools.chromium import find_chromium

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
Scheme = Literal["light", "dark"]
SIZES: dict[str, ViewportSize] = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


def photograph(browser: Browser, page: str, size: str, scheme: Scheme, target: Path, whole: bool = True) -> None:
    """Open a page in a colour scheme, wait for its formulas, and save what it looks like."""
    context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
    tab = context.new_page()
    tab.goto((HTML / page).as_uri(), wait_until="load")
    tab.evaluate("async () => { await window.MathJax?.startup?.promise; }")
    tab.wait_for_timeout(500)
    target.parent.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=target, full_page=whole)
    context.close()


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        if len(sys.argv) == 3:
            photograph(browser, sys.argv[1], "wide", "light", Path(sys.argv[2]), whole=False)
            return
        pages = sorted(path.relative_to(HTML) for path in (HTML / "book").rglob("*.html"))
        for page, size, scheme in product(pages, SIZES, get_args(Scheme)):
            target = ROOT / "_build" / "screenshots" / f"{page.stem}_{size}_{scheme}.png"
            photograph(browser, str(page), size, scheme, target)
            print(target.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main()
