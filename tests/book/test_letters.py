"""Each chapter says what its letters mean, in `book/letters.yml`: one letter, one meaning in a chapter."""

import re
from collections import Counter
from typing import Any

import pytest
import yaml
from chapters import ROOT, chapters, markdown, read

OFTEN = 4  # formulas; a letter of fewer is explained where it stands

GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi"
    r"|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell)$"
)
FORMULA = re.compile(r"\$\$(.*?)\$\$|(?<!\$)\$([^$]+)\$(?!\$)", re.DOTALL)
NAMES = re.compile(r"\\(?:text|operatorname\*?|mathrm|begin|end)\s*\{[^{}]*\}|\\(?:left|right|[bB]ig[lr]?)\b")
SCRIPTS = re.compile(r"[_^]\s*(?:\{[^{}]*\}|\\[a-zA-Z]+\s*(?:\{[^{}]*\})?|.)")
DERIVATIVES = re.compile(r"D(?:_\{?\\?[a-z]+\}?|(?=\s*\\?(?:R|Phi|Pi|mathcal)))|\\mathrm\s*d")
LETTER = re.compile(r"\\math(?:cal|bb|bf)\s*\{?\s*[A-Za-z]\}?|\\[a-zA-Z]+|[a-zA-Z]")


class OnceOnly(yaml.SafeLoader):
    """YAML whose keys may not be repeated."""


def _mapping(loader: OnceOnly, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    assert repeated == [], f"these stand twice in one list: {repeated}"
    return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))  # type: ignore[no-untyped-call]


OnceOnly.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def declared() -> dict[str, dict[str, str]]:
    meanings: dict[str, dict[str, str]] = yaml.load((ROOT / "book" / "letters.yml").read_text(), OnceOnly)
    return meanings


def letters(formula: str) -> set[str]:
    """The letters of a formula, without what stands above and below them."""
    formula = DERIVATIVES.sub(" ", NAMES.sub(" ", formula))
    while SCRIPTS.search(formula):
        formula = SCRIPTS.sub(" ", formula)
    found = {re.sub(r"[\s{}]+", " ", letter).strip() for letter in LETTER.findall(formula)}
    found = {re.sub(r"\\math(cal|bb|bf) ?", r"\\math\1 ", letter) for letter in found}
    return {letter for letter in found if not letter.startswith("\\") or GREEK.match(letter) or "\\math" in letter}


def used_often(chapter: str) -> set[str]:
    text = re.sub(r"```.*?```", "", markdown(read(chapter)), flags=re.DOTALL)
    counts = Counter(letter for formula in FORMULA.findall(text) for letter in letters("".join(formula)))
    return {letter for letter, count in counts.items() if count >= OFTEN}


@pytest.mark.parametrize("chapter", chapters())
def test_letters_that_come_back_are_declared(chapter: str) -> None:
    meanings = declared()
    own = meanings.get(re.findall(r"/(\d\d)_", chapter)[0], {})
    assert sorted(used_often(chapter) - set(own) - set(meanings["everywhere"])) == []


@pytest.mark.parametrize("chapter", chapters())
def test_a_letter_is_not_declared_for_nothing(chapter: str) -> None:
    own = declared().get(re.findall(r"/(\d\d)_", chapter)[0], {})
    text = re.sub(r"```.*?```", "", markdown(read(chapter)), flags=re.DOTALL)
    used = {letter for formula in FORMULA.findall(text) for letter in letters("".join(formula))}
    assert sorted(set(own) - used) == []


def test_meanings_are_short_and_different() -> None:
    """Two letters of a chapter don't mean the same, and a meaning is one line."""
    for chapter, meanings in declared().items():
        repeated = [meaning for meaning, count in Counter(meanings.values()).items() if count > 1]
        assert [meaning for meaning in repeated if meaning != "index"] == [], chapter
        assert all(0 < len(meaning) <= 100 for meaning in meanings.values()), chapter


def test_letters_are_read_off_formulas() -> None:
    assert letters(r"\tfrac12 y^\top Q y + p_i^\top \mathrm dy \le \lambda_{\mathcal A}") == {"y", "Q", "p", r"\lambda"}
    assert letters(r"D_z R(z, x) = \operatorname{diag}(\mathcal C)") == {"R", "z", "x", r"\mathcal C"}
