"""Every page as axe-core judges it: wide in both themes and on a phone, without a violation.

axe-core is JavaScript that runs in the page; npm installs it into `node_modules`, as the other tools that check
JavaScript, so that nothing is fetched by the test itself.
"""

from pathlib import Path

import pytest
from pages import pages
from playwright.sync_api import Browser, Page
from visit import DESKTOP, PHONE, visit

AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
INSTALL = "no axe-core: install node 20 and npm, then `npm ci` in the project's folder"
MODES = {"wide, light": (DESKTOP, "light"), "wide, dark": (DESKTOP, "dark"), "phone": (PHONE, "light")}

# A formula is hundreds of elements, whose glyphs axe can't see: a box of its size stands for it, with its words.
BOX_FORMULAS = """() => {
  const formulas = [...document.querySelectorAll("mjx-container")];
  const sizes = formulas.map(formula => formula.querySelector("mjx-math").getBoundingClientRect());
  formulas.forEach((formula, i) => {
    const box = document.createElement("span");
    const words = formula.querySelector("mjx-assistive-mml");
    box.style = `display: inline-block; width: ${sizes[i].width}px; height: ${sizes[i].height}px`;
    words.textContent = words.textContent.trim();
    formula.replaceChildren(box, words);
  });
}"""
# Of the words in code that have the same colour on the same ground, one is enough.
THIN_CODE = """() => {
  const seen = new Set();
  for (const code of document.querySelectorAll("pre, code, .sig")) {
    const ground = code.closest("[class*=cell_], .admonition")?.className ?? "";
    for (const span of code.querySelectorAll("span, em")) {
      const kind = `${ground} / ${code.tagName} ${code.className} / ${Boolean(span.closest("a"))} ${span.className}`;
      if (seen.has(kind) || span.id) span.replaceWith(...span.childNodes);
      seen.add(kind);
    }
    code.normalize();
  }
}"""
SETTLE = """async () => {
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))));
  document.getAnimations().forEach(animation => animation.playState === "running" && animation.finish());
}"""
RUN = """async () => {
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"];
  const rules = {"label-content-name-mismatch": {enabled: true}};
  const {violations} = await axe.run(document, {runOnly: tags, rules, resultTypes: ["violations"]});
  return violations.flatMap(({id, nodes}) => nodes.map(node => `${id}: ${node.html.slice(0, 160)}`));
}"""

pytestmark = pytest.mark.skipif(not AXE.exists(), reason=INSTALL)


def violations(page: Page) -> list[str]:
    """What axe-core finds on an open page in its present size and theme."""
    page.evaluate(SETTLE)
    return page.evaluate(RUN)


def test_axe_finds_what_is_wrong(chromium: Browser, tmp_path: Path) -> None:
    """Without this, a pass could mean that nothing was looked at."""
    faulty = tmp_path / "page.html"
    faulty.write_text(
        '<title>A page</title><img src="x"><p style="color: #aaa">Pale</p>'
        '<pre><span class="k">if</span><span class="c" style="color: #bbb"># pale</span></pre>'
    )
    with visit(chromium, faulty) as visited:
        visited.page.evaluate(THIN_CODE)
        visited.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = violations(visited.page)
    assert {"image-alt", "color-contrast", "html-has-lang", "region"} <= {line.partition(":")[0] for line in found}
    assert any("# pale" in line for line in found)


@pytest.mark.parametrize("path", pages())
def test_page_has_no_violation(chromium: Browser, html: Path, path: str) -> None:
    found = []
    with visit(chromium, html / path, color_scheme="light", reduced_motion="reduce") as visited:
        page = visited.page
        page.evaluate(BOX_FORMULAS)
        page.evaluate(THIN_CODE)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        for name, (viewport, scheme) in MODES.items():
            page.set_viewport_size(viewport)
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
            found += [f"{name}: {line}" for line in violations(page)]
    assert found == []
