"""Each verdict of the audit comes from the CSVs: a changed cell changes it."""

import json
import shutil
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.utils.capture import capture_output

from tuningvec.book import compendium
from tuningvec.book.compendium import Project
from tuningvec.data import data_folder
from tuningvec.page import audited, finding
from tuningvec.page.finding import VERDICTS, Row, summary
from tuningvec.paper import audit, claims, closed
from tuningvec.paper import printed as paper
from tuningvec.verdict import judge, unknown

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("05_*.md"))


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Change cells of a copy of data/paper: edit(table, {(row, column): value}), where None is every row or column."""
    for folder in ("paper", "published"):
        shutil.copytree(data_folder() / folder, tmp_path / "data" / folder)
    monkeypatch.setenv("TUNINGVEC_DATA", str(tmp_path / "data"))

    def change(table, cells):
        file = tmp_path / "data" / "paper" / (f"table_{table:02d}.csv" if isinstance(table, int) else f"{table}.csv")
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
        for (row, column), value in cells.items():
            hit = rows.row.str.endswith(row or "") & rows.column.str.fullmatch(column or ".*")
            assert hit.any()
            rows.loc[hit, "value"] = value
        rows.to_csv(file, index=False)

    return change


def evidence_of(*tables):
    """The compared rows of these tables alone, from the CSVs as they are now; Table 7's averages as printed."""
    comparisons = pd.DataFrame() if tables == (8,) else audit.comparisons(0.95, tables)
    pooled = audit.pooled(0.95, tables) if 7 in tables else pd.DataFrame()
    averages = audit.average_differences(0.95, 0, tables) if tables == (8,) else averages_of_table_7()
    return claims.Evidence(0.95, 0.05, comparisons, pooled, averages)


@cache
def averages_of_table_7():
    return audit.average_differences(0.95, 0, (7,))


def judged(name):
    """The verdict of one claim on the CSVs as they are now."""
    shapes = audit.shape_bound()
    return {
        "squared_norms": lambda: claims.squared_norms(audit.energies()),
        "misprints": lambda: claims.misprints(audit.energies()),
        "least_aligned": lambda: claims.least_aligned(shapes, audit.variance_explained(shapes)),
        "attention_better_aligned": lambda: claims.attention_better_aligned(audit.by_part(shapes)),
        "near_cosines": lambda: claims.near_cosines(audit.cosines()),
        "marginal_changes": lambda: claims.marginal_changes(audit.cosines()),
        "marginal_changes_elsewhere": lambda: claims.marginal_changes_elsewhere(audit.lengths(), audit.cosines()),
        "low_energy": lambda: claims.low_energy(audit.lengths()),
        "fall_is_of_T": lambda: claims.fall_is_of_T(audit.parts_of_the_fall(0.95), 0.95, 0.05),
        "evaluations_agree": lambda: claims.evaluations_agree(audit.same_weights(), 0.95),
        "unharmed_without_T": lambda: claims.unharmed_without_T(evidence_of(3).comparisons),
        "lost_ability": lambda: claims.lost_ability(audit.below_chance(0.95, 0.05), 0.95, 0.05),
        "counts_of_items": lambda: claims.counts_of_items(audit.sizes()),
        "ten_data_sets": lambda: claims.ten_data_sets(audit.sizes()),
        "printed_averages": lambda: claims.printed_averages(audit.averages()),
        "ranks_by_average": lambda: claims.ranks_by_average(claims.gather(0.95, 0.05, seed=0)),
        "compared_cells": lambda: claims.compared_cells(evidence_of(13, 14)),
        "medical_accuracy": lambda: claims.medical_accuracy(evidence_of(7)),
        "instructions_without_T": lambda: claims.instructions_without_T(evidence_of(3)),
        "instructions_of_fine_tuned": lambda: claims.instructions_of_fine_tuned(evidence_of(9)),
        "rouge_gains": lambda: claims.rouge_gains(evidence_of(8)),
        "text_percentages": lambda: claims.text_percentages(audit.percentages()),
        "worked_example": lambda: claims.worked_example(paper.text()),
        "outputs_to_the_same_input": lambda: claims.outputs_to_the_same_input(audit.output_pairs()),
        "always_valid": lambda: claims.always_valid(),
    }[name]()


def rows_of(value, *rows):
    return dict.fromkeys([(row, None) for row in rows], value)


TALL = ("W_gate", "W_up")
FINE_TUNED = ("· Aloe-Alpha", "· Aloe-Beta", "· MediPhi", "B · Instruct")
PRETRAINED = ("· Base", "Phi-3.5 · Instruct")
WITHOUT = ("(−)T Aloe-Alpha", "(−)T Aloe-Beta", "(−)T MediPhi")
FITTING = {("Q Code", "W_gate"): "1.51e4", ("Q Math", "W_gate"): "2.11e4", ("Q Math", "W_up"): "2.15e4"}
SAME = {(None, "same subject"): "1"}
TUNED = ("· Aloe-Alpha", "· Aloe-Beta", "· MediPhi")
MEDICAL_BETTER = {13: rows_of("100", "Beta") | rows_of("0", "-Instruct")}
MATHS_BETTER = {14: rows_of("0", "Beta") | rows_of("100", "-Instruct")}
NEARLY_EQUAL = rows_of("50", "-Instruct") | rows_of("52", "Aloe-Beta")
MLP = ("W_gate", "W_up", "W_down")
FLIPS = [  # claim, the verdict as printed, the edits, the verdict after them
    ("misprints", "differs", {6: FITTING}, "holds"),
    ("least_aligned", "mixed", {4: {(None, kind): "0.950" for kind in TALL}}, "reversed"),
    ("least_aligned", "mixed", {4: {(None, kind): "0.150" for kind in TALL}}, "cannot be known here"),
    ("attention_better_aligned", "cannot be known here", {4: {(None, kind): "0.010" for kind in MLP}}, "holds"),
    ("attention_better_aligned", "cannot be known here", {4: {(None, kind): "0.999" for kind in MLP}}, "reversed"),
    ("near_cosines", "null explains it", {15: {(None, None): "90.00"}}, "differs"),
    ("near_cosines", "null explains it", {15: {("Meta-Llama-3-8B", "Aloe α"): "98.00"}}, "mixed"),
    ("marginal_changes", "holds", {15: {(None, None): "90.00"}}, "differs"),
    ("marginal_changes", "holds", {15: {("Meta-Llama-3-8B", "Aloe α"): "98.00"}}, "mixed"),
    (
        "marginal_changes_elsewhere",
        "differs",
        {table: rows_of("1", "Q Code", "Q Math") for table in (5, 6)} | {4: rows_of("0.5", "Q Code", "Q Math")},
        "holds",
    ),
    ("low_energy", "holds", {5: {("Aloe β", "W_down"): "1e5"}}, "null explains it"),
    ("low_energy", "holds", {5: {("Aloe β", "W_down"): "3e6"}, 6: {("Aloe β", "W_down"): "4e4"}}, "reversed"),
    ("fall_is_of_T", "mixed", {1: rows_of("40", *TUNED) | rows_of("0", *WITHOUT)}, "reversed"),
    ("fall_is_of_T", "mixed", {1: rows_of("100", *TUNED) | rows_of("70", *WITHOUT)}, "holds"),
    ("unharmed_without_T", "holds", {3: rows_of("20", "(−)T MediPhi")}, "reversed"),
    ("unharmed_without_T", "holds", {3: {("(−)T MediPhi", "Stopped"): "81.50"}}, "mixed"),
    ("lost_ability", "mixed", {1: rows_of("50", *WITHOUT), 13: rows_of("50", "· Math-Instruct")}, "holds"),
    ("lost_ability", "mixed", {1: rows_of("90", *WITHOUT), 13: rows_of("90", "· Math-Instruct")}, "reversed"),
    ("lost_ability", "mixed", {1: rows_of("2", *WITHOUT), 13: rows_of("2", "· Math-Instruct")}, "cannot be known here"),
    ("counts_of_items", "holds", {7: {("Phi-3.5 · Instruct", "Anatomy"): "85.75"}}, "differs"),
    ("printed_averages", "holds", {2: {("· Aloe-Alpha", "Average"): "0.25"}}, "differs"),
    ("printed_averages", "holds", {1: {("· Aloe-Alpha", "Average"): "72.45"}}, "differs"),
    ("text_percentages", "differs", {"text": {("instruction following", "Aloe-Alpha"): "76"}}, "holds"),
    ("worked_example", "differs", {"text": {("prompt: worked examples", None): "0"}}, "holds"),
    ("outputs_to_the_same_input", "cannot be known here", {10: SAME, 11: SAME}, "holds"),
    ("always_valid", "differs", {11: {(None, "with T: valid answer"): "1"}}, "holds"),
    ("compared_cells", "mixed", {t: NEARLY_EQUAL for t in (13, 14)}, "within chance"),
    ("compared_cells", "mixed", MEDICAL_BETTER | MATHS_BETTER, "holds"),
    ("medical_accuracy", "mixed", {7: rows_of("100", *FINE_TUNED) | rows_of("50", *PRETRAINED)}, "holds"),
    ("medical_accuracy", "mixed", {7: rows_of("20", *FINE_TUNED) | rows_of("50", *PRETRAINED)}, "reversed"),
    ("medical_accuracy", "mixed", {7: rows_of("52", *FINE_TUNED) | rows_of("50", *PRETRAINED)}, "within chance"),
    ("instructions_without_T", "mixed", {3: rows_of("0.00", *WITHOUT) | rows_of("90.00", "· Aloe-Beta")}, "holds"),
    ("instructions_without_T", "mixed", {3: rows_of("99.90", *WITHOUT) | rows_of("20.00", *TUNED)}, "reversed"),
    ("instructions_of_fine_tuned", "mixed", {9: rows_of("99", *FINE_TUNED) | rows_of("20", *PRETRAINED)}, "holds"),
    ("instructions_of_fine_tuned", "mixed", {9: rows_of("50.00", *FINE_TUNED, *PRETRAINED)}, "within chance"),
    ("rouge_gains", "within chance", {8: rows_of("0.90", *FINE_TUNED)}, "holds"),
    ("rouge_gains", "within chance", {8: rows_of("0.01", *FINE_TUNED)}, "reversed"),
]  # fmt: skip


@pytest.mark.parametrize("name, before, edits, after", FLIPS, ids=[f"{n}-{a}" for n, _, _, a in FLIPS])
def test_a_changed_cell_changes_the_verdict(name, before, edits, after, edit):
    assert judged(name).kind == before
    for table, values in edits.items():
        edit(table, values)
    assert judged(name).kind == after


def test_tables_of_norms_would_be_read_as_norms(edit):
    assert judged("squared_norms").kind == "differs"
    edit(4, {(c.vector, c.kind): f"{c.norms:.3f}" for c in audit.energies().itertuples()})
    assert judged("squared_norms").kind == "holds"


def test_ten_data_sets_would_be_recognised(edit):
    assert judged("ten_data_sets").kind == "differs"
    for table in (3, 9):
        cells = paper.table(table)
        counts = np.round(cells.value / 100 * 2123)
        cut_off = np.floor(counts / 2123 * 10000) / 100
        edit(table, {(c.row, c.column): f"{v:.2f}" for c, v in zip(cells.itertuples(), cut_off, strict=True)})
    assert judged("ten_data_sets").kind == "holds"


def test_averages_that_are_far_apart_rank_the_models(edit):
    verdict = judged("ranks_by_average")
    assert verdict.kind == "mixed" and "3 depend on the pairing" in verdict.why
    edit(1, rows_of("100", *TUNED) | rows_of("1", *WITHOUT))
    edit(
        7,
        rows_of("90", *TUNED) | rows_of("50", "B · Instruct") | rows_of("5", *PRETRAINED),
    )
    assert judged("ranks_by_average").kind == "holds"


def test_two_evaluations_agree_where_their_values_do(edit):
    assert judged("evaluations_agree").kind == "mixed"
    for table, other in ((1, 7), (3, 9)):
        cells = paper.by_member(paper.table(other))
        pretrained = cells[cells.row.str.endswith(PRETRAINED)]
        names = {"Meta-Llama-3-8B": WITHOUT[0], "Qwen2.5-7B": WITHOUT[1], "Phi-3.5": WITHOUT[2]}
        edit(table, {(names[c.family], c.column): f"{c.value:.2f}" for c in pretrained.itertuples()})
    verdict = judged("evaluations_agree")
    assert verdict.kind == "holds" and (verdict.cases.effect == 0).all()
    edit(1, rows_of("0", *WITHOUT))
    assert judged("evaluations_agree").kind == "mixed"


def test_a_fall_of_two_equal_parts_is_seen_and_is_no_more_of_T_than_of_the_prompt(edit):
    edit(7, rows_of("50", *PRETRAINED))
    edit(1, rows_of("70", *TUNED) | rows_of("30", *WITHOUT))
    verdict = judged("fall_is_of_T")
    assert verdict.kind == "mixed" and list(verdict.cases.outcome) == ["for", "for", "open", "open"]


def test_a_family_that_the_paper_says_does_not_fall_is_no_case():
    assert set(judged("fall_is_of_T").cases.family) == {"Meta-Llama-3-8B", "Qwen2.5-7B"}


def test_a_small_excess_over_the_bound_is_not_against_the_claim_however_clear(edit):
    cases = judged("least_aligned").cases.set_index(["vector", "kind"])
    assert cases.low["Aloe β", r"$W_\text{gate}$"] > 0 and cases.outcome["Aloe β", r"$W_\text{gate}$"] == "open"
    edit(4, {("Aloe β", "W_gate"): "0.290"})
    assert (
        judged("least_aligned").cases.set_index(["vector", "kind"]).outcome["Aloe β", r"$W_\text{gate}$"] == "against"
    )


def test_equal_cells_are_counted_and_left_out():
    verdict = judged("compared_cells")
    assert (verdict.cases.effect > 0).all() and verdict.numbers["equal"] + len(verdict.cases) == 19


def test_within_chance_names_a_difference_at_the_level_of_the_correction(edit):
    widths = judged("rouge_gains").cases.eval("(high - low) / 2")
    alone = evidence_of(8).averages.query("claimed").eval("(both_high - both_low) / 2")
    assert (widths / alone).to_numpy() == pytest.approx(1.569, abs=0.001)  # Student's t, 5 df: .995 over .975
    edit(8, rows_of("0.01", *FINE_TUNED))
    assert judged("rouge_gains").cases.clear.all()


def test_holm_corrects_over_the_pairs_of_the_claim_alone():
    rows = audit.pooled(0.95)
    mine = rows[(rows.table == "7") & rows.claimed]
    alone = audit.corrected(mine, 0.05)
    assert len(mine) == 5 and (alone.outcome == audit.OUTCOMES[0]).sum() == 3
    wider = audit.corrected(rows[rows.table == "7"].assign(claimed=True), 0.05)
    assert (wider.outcome[mine.index] == audit.OUTCOMES[0]).sum() == 2


def test_a_matrix_whose_null_is_unknown_is_never_said_to_get_new_directions(edit):
    edit(4, {(None, None): "0.000"})
    assert set(judged("least_aligned").cases.outcome) == {"open"}


@pytest.mark.usefixtures("shell")
def test_the_summary_counts_what_is_judged_and_claimed():
    cases = pd.DataFrame({"effect": [1.0], "low": [0.5], "high": [1.5]})
    holds = judge(cases, "Larger than 0.", least=0.1, size=2.5)
    rows = [
        Row("A", "It is {size:.1f}: {each}.", holds, "energy", "arithmetic", each="{effect:.2f}", more="And more."),
        Row("B", "Beside it.", holds, "shape", "inference", claimed=False),
        Row("C", "A figure.", unknown("", "no numbers"), "text", "not printed"),
    ]
    with capture_output() as captured:
        summary(rows, "tab-x", "Claims.")
        finding.evidence(rows)
    table, boxes = captured.outputs
    assert json.loads(table.metadata[VERDICTS]) == {"holds": 1}
    text = table.data["text/markdown"]
    assert "| It is 2.5: 1.00." in text and text.count("{ref}`sec-audit-") == 3 and "Larger" not in text
    text = boxes.data["text/markdown"]
    assert "It is 2.5: 1.00. And more." in text and "(no numbers), not printed" in text
    assert text.count("{admonition}") == 3 and text.count("{dropdown} Rule and 1 case\n\nLarger than 0.") == 2
    assert "inference, no claim of the paper" in text


def test_the_page_shows_the_verdict_of_the_changed_cell_with_its_rule(edit, tmp_path):
    (tmp_path / "notebooks").mkdir()
    for notebook in NOTEBOOKS:
        shutil.copy(notebook, tmp_path / "notebooks")
    edit("text", {("instruction following", "Aloe-Alpha"): "76"})
    pages = compendium.plan(Project.here(), [])[:1]
    assert pages[0].number == "05_0" and list(compendium.execute(pages)) == pages
    outputs = [o for cell in nbformat.read(pages[0].output, 4).cells for o in cell.get("outputs", [])]
    (table,) = (o for o in outputs if VERDICTS in o.get("metadata", {}))
    lines = [line for line in table.data["text/markdown"].splitlines() if line.startswith("| ")][1:]
    (row,) = (line for line in lines if line.startswith("| The percentages of the text"))
    assert "[holds]{.holds}" in row and "8 of 8 are." in row
    printed = [line for line in lines if ", not printed" not in line]
    counted = [line for line in printed if "no claim" not in line]
    assert all("[cannot be known" in line for line in set(lines) - set(printed))
    assert sum(json.loads(table.metadata[VERDICTS]).values()) == len(counted)


def test_every_section_has_its_evidence_once_and_every_judge_of_the_audit_is_asked():
    pages = {notebook.stem: notebook.read_text(encoding="utf-8") for notebook in NOTEBOOKS}
    text = "\n".join(pages.values())
    for name in audited.LINES:
        (page,) = (page for page in pages.values() if f"(sec-audit-{name})=" in page)
        assert f'evidence(found.rows("{name}"))' in page and text.count(f'found.rows("{name}")') == 1
    assert all("{ref}`the audit <page-audit>`" in page for stem, page in pages.items() if stem != "05_0_audit")
    asked = Path(audited.__file__).read_text(encoding="utf-8")
    uses = {name for name in claims.__dict__ if f"claims.{name}(" in asked} | set(closed.verdicts())
    others = {"squared_norms", "ten_data_sets", "evaluations_agree", "ranks_by_average"}
    assert {name for name, *_ in FLIPS} | others <= uses
