"""One notation: every symbol of the book's formulas stands in its table of symbols, in one form."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.md"))]
MATH = re.compile(r"\$\$.+?\$\$|\$[^$`]+?\$", re.S)
FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1[ ]*$", re.S | re.M)
WORDS = re.compile(r"\\(?:text|operatorname|begin|end)\s*\{[^{}]*\}")
GREEK = ("alpha", "varepsilon", "lambda", "rho", "sigma", "Sigma", "theta")  # what may stand for a quantity
NO_QUANTITY = {"E", "I", "e", "t", "alpha"}  # expectation, identity, Euler's number, Student's t, a model's name


def formulas(text: str) -> list[str]:
    """Formulas of a page, those in captions and in strings of code as well."""
    text = FENCE.sub(lambda block: block[0] if block[0].startswith(("```{code-cell}", "```{math}")) else "", text)
    text = text.replace("{{", "{").replace("}}", "}")  # of f-strings
    return [found.replace("\\\\", "\\") if "\n" not in found else found for found in MATH.findall(text)]


def symbols(formula: str) -> set[str]:
    """Letters and Greek letters that stand for quantities."""
    bare = WORDS.sub(" ", formula)
    commands = re.findall(r"\\([A-Za-z]+)", bare)
    letters = re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+|\{aligned\}", " ", bare))
    return {*letters, *(name for name in commands if name in GREEK)}


def table() -> set[str]:
    text = (ROOT / "book" / "01_setup.md").read_text(encoding="utf-8")
    rows = text[text.index(":name: tab-notation") :].partition(":::")[0].splitlines()
    return set().union(*(symbols(found) for row in rows for found in MATH.findall(row)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_symbol_stands_in_the_table(page: Path) -> None:
    used = {s: f for f in formulas(page.read_text(encoding="utf-8")) for s in symbols(f)}
    unknown = {symbol: formula for symbol, formula in used.items() if symbol not in table() | NO_QUANTITY}
    assert unknown == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_symbols_have_one_form(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for formula in formulas(text):
        assert not re.search(r"_\{+[a-z]{2,}\}+", formula), f"words in subscripts are upright: {formula}"
        assert not re.search(r"W_[QKVO](?![A-Za-z])", formula), f"names of components are upright: {formula}"
        assert "\\mathrm" not in formula and "\\rVert_F" not in formula and "\\|_F" not in formula, formula
        assert not re.search(r"\\sigma(?!_i)", formula), f"σ is a singular value: {formula}"
    raw = [line for line in re.sub(MATH, "", text).splitlines() if re.search(r"θ_(ft|pre)", line)]
    assert [line for line in raw if not line.lstrip().startswith("#")] == []
