"""The library's docstrings as reStructuredText, for the page `appendix/api`.

They are written to be read in the source: equations stand in indented lines, and x*, |r| and ‖y‖ mean what they say.
reStructuredText would read a quotation, an emphasis and a substitution there. So indented lines after a blank line
become literal blocks, and its special characters are escaped outside of code. Default values are shown as the source
has them: evaluated, a folder would be one of the machine that built the page.
"""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

CODE = re.compile(r"(``.+?``|:\w+(?::\w+)?:`[^`]+`|`[^`]+`_*)")
SPECIAL = re.compile(r"([*|\\])|(?<=\w)_(?=\W|$)")
# Sphinx does not take a signature with a default like `<factory>` apart, and leaves its marks in it.
MODULE_MARK = re.compile(r"~(?:\w+\.)+")
SECTION = re.compile(r"^(Args|Arguments|Attributes|Raises|Returns|Yields|Examples?):$")


def escape(line: str) -> str:
    """A line of prose without anything that reStructuredText would take for markup."""
    parts = CODE.split(line)
    parts[::2] = [SPECIAL.sub(lambda found: "\\" + found[0], part) for part in parts[::2]]
    return "".join(parts)


def convert(lines: list[str]) -> list[str]:
    """A docstring's lines with its displayed equations as literal blocks and its prose escaped."""
    converted: list[str] = []
    in_section = in_display = False
    for before, line in zip(["", *lines], lines, strict=False):
        indented = line.startswith("    ")
        if line and not indented:
            in_section, in_display = bool(SECTION.match(line)), False
        elif indented and not in_section and not in_display and not before:
            in_display = True
            converted += ["::", ""]
        converted.append(line if in_display or line.lstrip().startswith(">>>") else escape(line))
    return converted


def on_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert in place, before the sections are parsed."""
    lines[:] = convert(lines)


def on_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Types without their modules, and defaults that a dataclass makes anew as dots."""
    short = signature and MODULE_MARK.sub("", signature).replace("<factory>", "...")
    return short, returns and MODULE_MARK.sub("", returns)


def show_defaults_as_written(app: Sphinx, config: Config) -> None:
    config.autodoc_preserve_defaults = True


def setup(app: Sphinx) -> dict[str, bool]:
    # Before autodoc reads the setting, which it does at the same event.
    app.connect("config-inited", show_defaults_as_written, priority=400)
    app.connect("autodoc-process-docstring", on_docstring, priority=400)
    app.connect("autodoc-process-signature", on_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
