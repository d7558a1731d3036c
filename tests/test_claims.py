"""Each verdict of the audit comes from the CSVs: a changed cell changes it."""

import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.utils.capture import capture_output

from tuningvec.book import compendium
from tuningvec.book.compendium import Project
from tuningvec.data import data_folder
from tuningvec.page.finding import VERDICTS
from tuningvec.paper import audit, claims

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "05_audit.md"


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Change cells of a copy of data/paper: edit(table, {(row, column): value}), where None is every row or column."""
    shutil.copytree(data_folder() / "paper", tmp_path / "data" / "paper")
    monkeypatch.setenv("TUNINGVEC_DATA", str(tmp_path / "data"))

    def change(table, cells):
        file = tmp_path / "data" / "paper" / (f"table_{table:02d}.csv" if isinstance(table, int) else f"{table}.csv")
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
        for (row, column), value in cells.items():
            hit = (rows.row.str.endswith(row) if row else True) & (rows.column == column if column else True)
            assert hit is True or hit.any()
            rows.loc[hit, "value"] = value
        rows.to_csv(file, index=False)

    return change


GATE_UP = {(None, "W_gate"): "0.95", (None, "W_up"): "0.95"}
ALL_RIGHT = dict.fromkeys([("Aloe-Alpha", None), ("Aloe-Beta", None), ("MediPhi", None)], "100")
NONE_RIGHT = dict.fromkeys([("(−)T Aloe-Alpha", None), ("(−)T Aloe-Beta", None), ("(−)T MediPhi", None)], "0")
Q_CODE_AND_MATH = {("Q Code", None): "1", ("Q Math", None): "1"}
FITTING = {("Q Code", "W_gate"): "1.51e4", ("Q Math", "W_gate"): "2.11e4", ("Q Math", "W_up"): "2.15e4"}
ITS_MEAN = {("· Aloe-Alpha", "Average"): "0.23"}
BETTER_MEDIPHI = {("· MediPhi", "CareQA"): "68.80"}
SAME = {(None, "same subject"): "1"}
FLIPS = {  # claim: the verdict after the edits, and the edits
    claims.misprints: ("holds", {6: FITTING}),
    claims.least_aligned: ("differs", {4: GATE_UP}),
    claims.attention_better_aligned: ("differs", {4: {("Aloe α", "W_Q"): "0"} | GATE_UP}),
    claims.near_cosines: ("differs", {15: {("Meta-Llama-3-8B", "Aloe α"): "98.00"}}),
    claims.small_moves: ("holds", {5: Q_CODE_AND_MATH, 6: Q_CODE_AND_MATH}),
    claims.low_energy: ("differs", {5: {("Aloe β", "W_down"): "1e6"}}),
    claims.fall_without_T: ("holds", {1: {("(−)T Aloe-Alpha", "Average"): "69.00"}}),
    claims.mediphi_unharmed: ("holds", {3: {("(−)T MediPhi", "Stopped"): "64.07"}}),
    claims.knowledge: (
        "holds",
        {1: {("(−)T Aloe-Alpha", "CareQA"): "99.40"}, 13: {("Math-Instruct", "CareQA"): "99.40"}},
    ),
    claims.counts_of_items: ("differs", {7: {("Phi-3.5 · Instruct", "Anatomy"): "85.75"}}),
    claims.printed_averages: ("holds", {2: ITS_MEAN, 8: ITS_MEAN}),
    claims.ranks_by_average: ("holds", {1: BETTER_MEDIPHI, 7: BETTER_MEDIPHI}),
    claims.text_percentages: ("holds", {"text": {("instruction following", "Aloe-Alpha"): "76"}}),
    claims.worked_example: ("holds", {"text": {("prompt: worked examples", None): "0"}}),
    claims.outputs_to_the_same_input: ("holds", {10: SAME, 11: SAME}),
    claims.always_valid: ("holds", {11: {(None, "with T: valid answer"): "1"}}),
}
OF_COMPARISONS = {  # the same for verdicts that rest on the evidence
    claims.compared_cells: (1, ALL_RIGHT | NONE_RIGHT),
    claims.medical_accuracy: (7, ALL_RIGHT | {("Base", None): "0", ("Instruct", None): "0"}),
    claims.instructions_without_T: (3, {("(−)T Aloe-Beta", "Thought"): "0.00", ("(−)T MediPhi", "Thought"): "0.00"}),
    claims.instructions_of_fine_tuned: (
        9,
        {("Qwen2.5-7B · Base", "Thought"): "0", ("Phi-3.5 · Instruct", "Thought"): "0"},
    ),
    claims.rouge_gains: (8, dict.fromkeys([*ALL_RIGHT, ("B · Instruct", None)], "0.90")),
}


@pytest.mark.parametrize("claim", FLIPS, ids=lambda claim: claim.__name__)
def test_a_changed_cell_changes_the_verdict(claim, edit, evidence):
    expected, edits = FLIPS[claim]
    assert claim(evidence).verdict != expected
    for table, cells in edits.items():
        edit(table, cells)
    assert claim(evidence).verdict == expected


def test_changed_cells_change_the_verdicts_on_comparisons(edit, evidence):
    assert "holds" not in [claim(evidence).verdict for claim in OF_COMPARISONS]
    for table, cells in OF_COMPARISONS.values():
        edit(table, cells)
    changed = claims.gather(evidence.level, evidence.alpha, seed=0)
    assert {claim.__name__: claim(changed).verdict for claim in OF_COMPARISONS} == {
        claim.__name__: "holds" for claim in OF_COMPARISONS
    }


def test_tables_of_norms_would_be_read_as_norms(edit, evidence):
    cells = audit.energies()
    edit(4, {(c.vector, c.kind): f"{c.norms:.3f}" for c in cells.itertuples()})
    assert claims.squared_norms(evidence).verdict == "holds"


def test_ten_data_sets_would_be_recognised(edit, evidence):
    for table in (3, 9):
        cells = audit.paper.table(table)
        counts = np.round(cells.value / 100 * 2123)
        cut_off = np.floor(counts / 2123 * 10000) / 100
        edit(table, {(c.row, c.column): f"{v:.2f}" for c, v in zip(cells.itertuples(), cut_off, strict=True)})
    assert claims.ten_data_sets(evidence).verdict == "holds"


def test_what_no_cell_can_change_is_marked_as_not_printed(evidence):
    tested = {*FLIPS, *OF_COMPARISONS, claims.squared_norms, claims.ten_data_sets}
    judged = dict(zip(claims.CLAIMS, claims.judge(evidence), strict=True))
    for claim, row in judged.items():
        assert (claim in tested) != (row.basis == "not printed")
        assert (row.verdict == "cannot be known") or row.basis != "not printed"


@pytest.mark.usefixtures("shell")
def test_the_summary_counts_its_verdicts(evidence):
    judged = claims.judge(evidence)
    with capture_output() as captured:
        claims.show(judged, "tab-x", "Claims.")
    (output,) = captured.outputs
    assert sum(json.loads(output.metadata[VERDICTS]).values()) == len(judged) == len(claims.CLAIMS)
    text = output.data["text/markdown"]
    assert text.count("{ref}`sec-audit-") == len(judged)
    sections = NOTEBOOK.read_text(encoding="utf-8")
    assert all(f"(sec-audit-{row.section})=" in sections for row in judged)


def test_the_page_shows_the_verdict_of_the_changed_cell(edit, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "notebooks")
    edit("text", {("instruction following", "Aloe-Alpha"): "76"})
    (page,) = compendium.plan(Project.here(), [])
    assert [executed for _, executed in compendium.execute([page])] == [True]
    outputs = [o for cell in nbformat.read(page.output, 4).cells for o in cell.get("outputs", [])]
    (summary,) = (o.data["text/markdown"] for o in outputs if VERDICTS in o.get("metadata", {}))
    (row,) = (line for line in summary.splitlines() if line.startswith("| The percentages of the text"))
    assert "[holds]{.holds}" in row and "8 of 8 are." in row
