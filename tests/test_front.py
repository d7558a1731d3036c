"""The front page: five claims, each with a bottom line that follows from verdicts alone."""

import typing

import jupytext
import pandas as pd
import pytest
from test_overview import ROOT, calls, cases, executed, found, rows

from tuningvec.book import front, overview
from tuningvec.page.finding import Row, summary
from tuningvec.verdict import Kind, judge

KINDS = typing.get_args(Kind)
FALL, PARTS = (headline.finding for headline in front.five_claims()[2].headlines[:2])


def page(family, effect, claim=FALL, number="03_2_negation"):
    return found(number, family, cases(effect), claim)


def row(text, words):
    (line,) = (line for line in rows(text) if words in line[0])
    return line


def test_every_headline_is_a_finding_of_a_page_and_has_words_for_every_verdict():
    made = {call.args[0].value for call in calls("finding") if hasattr(call.args[0], "value")}
    for headline in (headline for five in front.five_claims() for headline in five.headlines):
        assert headline.finding in made
        assert {headline.clause(kind) for kind in KINDS} == {*headline.says.values()}, headline.finding
        assert {*KINDS} - {*headline.says} <= {"differs"}, headline.finding


def test_every_page_with_findings_belongs_to_one_claim_or_is_an_open_question():
    numbers = [number for five in front.five_claims() for number in five.pages] + [*overview.QUESTIONS]
    assert len(numbers) == len(set(numbers))
    for file in (ROOT / "notebooks").glob("0[1-7]_*.md"):
        if any("finding(" in cell.source for cell in jupytext.read(file).cells) and file.stem != "06_lora_or_full":
            assert any(file.stem.startswith(number) for number in numbers), file.stem


def test_a_bottom_line_follows_from_the_verdicts(shell):
    falls, parts, _ = front.five_claims()[2].headlines
    text = front.front([page("tiny", -12), page("smollm2_full", -12)])
    assert row(text, "carries the gain")[-1] == f"W{falls.clause('reversed')[1:]}."
    text = front.front([page("tiny", 12), page("smollm2_full", 1), page("tiny", 12, PARTS)])
    full = "SmolLM2-135M, fully fine-tuned"
    assert row(text, "carries the gain")[-1] == (
        f"*Tiny*: {falls.clause('holds')}; {parts.clause('holds')}. *{full}*: {falls.clause('within chance')}."
    )
    both = [page(name, effect, PARTS) for name, effect in (("tiny", 12), ("smollm2_full", -12))]
    text = front.front([page("tiny", 12), page("smollm2_full", 1), *both])
    assert row(text, "carries the gain")[-1] == (
        f"*Tiny*: {falls.clause('holds')}; {parts.clause('holds')}. "
        f"*{full}*: {falls.clause('within chance')}; {parts.clause('reversed')}."
    )


def test_a_row_holds_the_papers_own_numbers_and_each_familys_verdicts(shell):
    line = Row("As printed", "said", judge(pd.DataFrame([dict(effect=20.0, low=16.0, high=24.0)]), "rule", least=5),
               "negation", "inference", of=FALL)  # fmt: skip
    audited = executed("05_audit", None, lambda: summary([line], "tab-x", "caption"))
    text = front.front([audited, page("tiny", 12)])
    assert rows(text)[0] == ["The paper claims", "Its own numbers", "Tiny", "Bottom line"]
    cells = row(text, "carries the gain")
    assert cells[1] == "p [{ref}`holds <sec-audit-negation>`]{.holds}"
    assert cells[2].startswith("[Tiny]{.on-phone}scores [{ref}`holds <finding-tiny-03-2-") and cells[2].endswith(
        "`]{.holds} +12 (+8, +16) points"
    )
    mixed = front.front([found("03_2_negation", "tiny", cases(12, 1), FALL)])
    assert row(mixed, "carries the gain")[2].endswith("{.differs} 1 of 2 for, 1 of 2 open")
    assert row(text, "moves the weights little")[1:] == ["–", "[Tiny]{.on-phone}–", "–"]


@pytest.mark.parametrize("number, heading", [("02_4_weight_similarity", 0), ("06_lora_or_full", None)])
def test_all_findings_stand_under_their_claim_and_controls_apart(shell, number, heading):
    control = found(number, "tiny", cases(12), "A control", control=True)
    text = front.findings([found(number, "tiny", cases(12), "Some claim"), control])
    title = "Further pages" if heading is None else front.five_claims()[heading].claim
    assert text.index(f"### {title}") < text.index("Some claim") < text.index("### Controls") < text.index("A control")
