"""Keep the built pages light and free of errors and of anything that is fetched from elsewhere.

Two things of the default page are in the way:

- sphinx-thebe (kernels in the page, through a CDN) is always loaded, twice, and then logs a page error;
- the theme loads a 1.5 MB script that draws its icons, although its stylesheet already draws them with a font.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ICON_SCRIPT = re.compile(r"<script [^>]*fontawesome\.js[^>]*></script>")


def is_thebe(asset: Any) -> bool:
    """Whether a script or stylesheet of the page belongs to sphinx-thebe."""
    inline = getattr(asset, "attributes", {}).get("body") or ""
    return "thebe" in str(getattr(asset, "filename", "")) or "THEBE_JS_URL" in inline


def drop_thebe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Take sphinx-thebe's scripts and stylesheets out of the page's lists."""
    for key in ("script_files", "css_files"):
        context[key] = [asset for asset in context[key] if not is_thebe(asset)]


def drop_icon_script(app: Sphinx, error: Exception | None) -> None:
    """Remove the icon script from the written pages (the theme's template has no switch for it)."""
    if error is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        lighter = ICON_SCRIPT.sub("", html)
        if lighter != html:
            page.write_text(lighter, encoding="utf-8")
    Path(app.outdir, "_static/scripts/fontawesome.js").unlink(missing_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", drop_icon_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
