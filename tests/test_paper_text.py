"""Every cell of data/paper against the paper's own text, where that lies beside the project."""

import os
import re
from itertools import takewhile
from pathlib import Path

import pytest

from tuningvec import paper

TEXT = Path(os.environ.get("TUNINGVEC_PAPER") or Path(__file__).resolve().parents[2] / "shared" / "paper" / "paper.txt")
NUMBER = re.compile(r"\$([\d.]+)e\^(\d+)\$|(?<![\w.])(\d+(?:\.\d+)?)(?![\w.])")

pytestmark = pytest.mark.skipif(
    not TEXT.is_file(), reason=f"no text of the paper at {TEXT}; set TUNINGVEC_PAPER to a text file of arXiv 2510.09359"
)


def lines_above(number: int) -> list[str]:
    """The lines of a table with tabs: from its caption up to the next paragraph."""
    lines = TEXT.read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith(f"Table {number}: "))
    body = takewhile(lambda line: "\t" in line or len(line) < 40, reversed(lines[:end]))
    return [line for line in reversed(list(body)) if "\t" in line]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15])
def test_the_cells_are_those_of_the_text_in_its_order(number):
    printed = []
    for line in lines_above(number):
        for cell in line.split("\t")[1:]:  # the first is the row's name
            if found := NUMBER.fullmatch(cell.strip()):
                printed.append(float(f"{found[1]}e{found[2]}") if found[1] else float(found[3]))
    assert printed == list(paper.table(number).value)


@pytest.mark.parametrize("number", [10, 11, 12])
def test_pairs_of_outputs_are_counted_from_the_text(number):
    pairs = [line.split("\t") for line in lines_above(number)[1:] if not line.startswith("Example")]
    cells = paper.table(number).set_index(["row", "column"]).value
    assert len(pairs) == 3
    for row, texts in zip(paper.table(number).row.unique(), pairs, strict=True):
        for column, text in zip(["with T", "without T"], texts, strict=True):
            assert cells[row, column] == len(text.split())
            if row.endswith("MMLU"):
                assert cells[row, f"{column}: thought"] == ("<think>" in text)
                assert cells[row, f"{column}: valid answer"] == bool(re.search(r"Answer: \[[A-D]\]", text))
                assert cells[row, f"{column}: worked example"] == ("contractile proteins" in text)


@pytest.mark.parametrize(
    "row, words",
    [
        ("negation: fall of accuracy", "drops by {}% for Llama3-Aloe-Alpha, and {}% for Qwen2.5-Aloe-Beta"),
        ("negation: fall of ROUGE-1", "decreases by {}% and {}% for Llama3-Aloe-Alpha"),
        ("negation: fall of instruction following", "decreases by {}% and {}%, respectively"),
        ("ablation: fall of performance", "by {}%, {}%, and {}%, respectively"),
    ],
)
def test_percentages_are_those_of_the_text(row, words):
    cells = paper.text()
    values = [f"{value:g}" for value in cells[cells.row == row].value]
    assert words.format(*values) in TEXT.read_text(encoding="utf-8")
