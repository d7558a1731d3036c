"""The overview holds what pages recorded: a row a claim, a column a family, the audit beside it."""

import ast
from dataclasses import replace
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import pytest
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tuningvec.book import overview
from tuningvec.book.compendium import Page, Project
from tuningvec.book.reading import anchor
from tuningvec.family.spec import Family
from tuningvec.page import audited
from tuningvec.page.finding import Row, effects, finding, summary, undecided
from tuningvec.verdict import Verdict, judge, unknown

ROOT = Path(__file__).parent.parent
CLAIM = "Removing the vector lowers the score"


def cases(*effects):
    rows = [dict(effect=effect, low=effect - 4, high=effect + 4) for effect in effects]
    return judge(pd.DataFrame(rows), "rule", least=5, unit="points", digits=0)


def executed(stem, family, show):
    """A page with the outputs that `show` displays."""
    with capture_output() as captured:
        show()
    outputs = [new_output("display_data", output.data, metadata=output.metadata) for output in captured.outputs]
    page = Page(Project(ROOT), ROOT / "notebooks" / f"{stem}.md", Family.load(family) if family else None)
    return page, nbformat.from_dict(new_notebook(cells=[new_code_cell(outputs=outputs)]))


def found(stem, family, verdict, claim=CLAIM, control=False):
    return executed(
        stem, family, lambda: finding(claim, paper="p", here="h", verdict=verdict, each="", control=control)
    )


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def audit(shell):
    line = Row("As the paper prints it", "said", cases(20), "negation", "inference", of=CLAIM)
    return executed("05_0_audit", None, lambda: summary([line], "tab-x", "caption"))


def test_a_row_a_claim_and_a_column_a_family(audit):
    pages = [
        found("03_2_negation", "tiny", cases(12)),
        found("03_2_negation", "smollm2_full", cases(12, -9, 1)),
        found("02_2_edit_distance", "tiny", unknown("rule", "nothing fits"), "Another"),
    ]
    head, first, row = rows("\n".join(overview.table(overview.claims([audit, *pages]))))
    assert head == ["Claim", "Its own numbers", "Tiny", "SmolLM2-135M, fully fine-tuned"]
    assert first == ["Another", "–", first[2], ""] and "cannot be known here" in first[2]
    assert row[:2] == [CLAIM, "[{ref}`holds <sec-audit-negation>`]{.holds}"]
    assert row[2] == f"[{{ref}}`holds <{anchor('tiny', '03_2', CLAIM)}>`]{{.holds}}<br>+12 (+8, +16) points"
    full = anchor("smollm2_full", "03_2", CLAIM)
    assert row[3] == f"[{{ref}}`mixed <{full}>`]{{.differs}}<br>−9 to +12 points in 3 cases"


def test_open_questions_are_answered_with_what_stays_open(shell):
    asked = found("06_1_path", "tiny", cases(12, 1), "The path is straight")
    text = overview.overview([asked, found("03_2_negation", "tiny", cases(12))])
    head, row = rows(text)
    assert head == ["Claim", "Family", "Answer", "Not decided"] and CLAIM not in text
    place = anchor("tiny", "06_1", "The path is straight")
    answer = f"[{{ref}}`mixed <{place}>`]{{.differs}}<br>+1 to +12 points in 2 cases"
    assert row == ["The path is straight", "Tiny", answer, "1 of 2 cases"]


def test_effects_and_what_is_undecided():
    assert effects(cases(12)) == "+12 (+8, +16) points" and undecided(cases(12)) == ""
    assert (
        effects(unknown("rule", "nothing fits")) == "" and undecided(unknown("rule", "nothing fits")) == "nothing fits"
    )
    beside = replace(cases(12, 40), cases=cases(12, 40).cases.assign(outcome=["for", "not judged"]))
    assert effects(beside) == "+12 (+8, +16) points" and undecided(beside) == ""
    assert effects(Verdict("holds", "rule")) == "" and undecided(cases(1, 12)) == "1 of 2 cases"


def calls(name):
    """The calls of this name in the code of all notebooks."""
    for file in (ROOT / "notebooks").glob("*.md"):
        for cell in (cell for cell in jupytext.read(file).cells if cell.cell_type == "code"):
            tree = ast.parse(cell.source)
            yield from (n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == name)


def test_every_line_of_the_audit_is_about_a_claim_that_some_page_makes():
    claims = {call.args[0].value for call in calls("finding") if isinstance(call.args[0], ast.Constant)}
    about = {line.of for lines in audited.LINES.values() for line in lines if line.of}
    assert len(about) > 10 and about <= claims
