"""Every cell of data/paper against the paper's text and the benchmarks' files, where these lie beside the project."""

import os
import re
from itertools import takewhile
from pathlib import Path

import pytest

from tuningvec.paper import printed as paper

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEXT = Path(os.environ.get("TUNINGVEC_PAPER") or SHARED / "paper" / "paper.txt")
MMLU = Path(os.environ.get("TUNINGVEC_MIRROR") or SHARED / "mirror") / "cais" / "mmlu"
NUMBER = re.compile(r"\$([\d.]+)e\^(\d+)\$|(?<![\w.])(\d+(?:\.\d+)?)(?![\w.])")

needs_text = pytest.mark.skipif(
    not TEXT.is_file(), reason=f"no text of the paper at {TEXT}; set TUNINGVEC_PAPER to a text file of arXiv 2510.09359"
)
needs_mmlu = pytest.mark.skipif(
    not MMLU.is_dir(), reason=f"no MMLU at {MMLU}; set TUNINGVEC_MIRROR to a folder laid out like the hub"
)


def lines_above(number: int) -> list[str]:
    """The lines of a table with tabs: from its caption up to the next paragraph."""
    lines = TEXT.read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith(f"Table {number}: "))
    body = takewhile(lambda line: "\t" in line or len(line) < 40, reversed(lines[:end]))
    return [line for line in reversed(list(body)) if "\t" in line]


@needs_text
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15])
def test_the_cells_are_those_of_the_text_in_its_order(number):
    printed = []
    for line in lines_above(number):
        for cell in line.split("\t")[1:]:  # the first is the row's name
            if found := NUMBER.fullmatch(cell.strip()):
                printed.append(float(f"{found[1]}e{found[2]}") if found[1] else float(found[3]))
    assert printed == list(paper.table(number).value)


@needs_text
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


@needs_text
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


@needs_mmlu
@pytest.mark.parametrize(
    "column, subject",
    [
        ("Anatomy", "anatomy"),
        ("Clinical", "clinical_knowledge"),
        ("Biology", "college_biology"),
        ("Medicine", "college_medicine"),
        ("Genetics", "medical_genetics"),
        ("Professional", "professional_medicine"),
    ],
)
def test_sizes_of_mmlu_are_those_of_its_validation_splits(column, subject):
    items = (MMLU / subject / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    cells = paper.accuracy()
    assert set(cells[cells.column == column].n) == {len(items)}


@needs_mmlu
def test_the_worked_example_is_the_noted_item():
    (row,) = paper.text().query("row == 'prompt: worked examples'").itertuples()
    items = (MMLU / "college_medicine" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    hits = [i for i, item in enumerate(items, start=1) if "contractile proteins" in item]
    assert (len(hits), len(items)) == (row.value, row.n) and row.note == f"question {hits[0]} of the validation split"
