"""The floor of ROUGE-1: what texts score whose writer read nothing of the item."""

import numpy as np
import pandas as pd
import pytest
from rouge_score.rouge_scorer import RougeScorer

from tuningvec.measures import evals, floors, scores
from tuningvec.measures.floors import ANOTHER, EXAMPLE

ITEMS = 12


@pytest.fixture(scope="module")
def task():
    return evals.tasks(["tuningvec_visits"])


@pytest.fixture(scope="module")
def references(task):
    return [doc["reference"] for doc in task["tuningvec_visits"].eval_docs]


def written(who, texts, references):
    """Rows of a model that wrote these texts."""
    rouge = RougeScorer(["rouge1"])
    found = [
        rouge.score(reference, text)["rouge1"].fmeasure for reference, text in zip(references, texts, strict=False)
    ]
    return pd.DataFrame(dict(who=who, task="tuningvec_visits", item=range(len(found)), rouge1=found, acc=np.nan))


def test_another_text_and_the_worked_example_are_scored_as_a_reply_is(task, references):
    rows = floors.with_floors(written("perfect", references[:ITEMS], references), task)
    assert set(rows.who) == {"perfect", ANOTHER, EXAMPLE} and set(rows.groupby("who").size()) == {ITEMS}
    rouge, count = RougeScorer(["rouge1"]), len(references)
    others = [references[(3 + step) % count] for step in range(1, min(floors.OTHERS, count - 1) + 1)]
    by_hand = np.mean([rouge.score(references[3], text)["rouge1"].fmeasure for text in others])
    row = rows[(rows.who == ANOTHER) & (rows["item"] == 3)]
    assert row.rouge1.item() == pytest.approx(by_hand) and references[3] not in others
    assert 0.05 < rows[rows.who == EXAMPLE].rouge1.mean() < 0.6


@pytest.mark.parametrize(
    ("shift", "kind", "falsified"), [(0, "holds", False), (1, "within chance", False), (None, "reversed", True)]
)
def test_texts_are_judged_by_whether_they_are_of_their_item(task, references, shift, kind, falsified):
    texts = ["the"] * ITEMS if shift is None else [references[(i + shift) % len(references)] for i in range(ITEMS)]
    found = floors.above(floors.with_floors(written("ft", texts, references), task), seed=0)
    verdict = floors.texts_are_read(found)
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert set(verdict.cases.member) == {"ft"} and verdict.cases.floor.iloc[0] > 5
    gaps = pd.DataFrame([dict(who="ft", reference="pre", task="tuningvec_visits", points=3.0)])
    assert floors.floored(gaps, found) == [kind != "holds"]


def test_each_member_has_a_floor_of_its_own(task, references):
    own = written("λ = 0", references[:ITEMS], references).assign(member="read")
    other = written("λ = 0", ["the"] * ITEMS, references).assign(member="unread")
    found = floors.above(floors.with_floors(pd.concat([own, other]), task), seed=0)
    about = dict(who="λ = 1", reference="λ = 0", task="tuningvec_visits", points=-1.0)
    gaps = pd.DataFrame([dict(member=member, **about) for member in ("read", "unread")])
    assert floors.floored(gaps, found) == [False, True]


def test_without_texts_there_is_no_floor(task):
    items = pd.DataFrame(dict(who=["a"], task="tuningvec_drugs", item=0, acc=1.0))
    for some in (items, items.assign(member="m")):
        texts = floors.with_floors(some, task)
        assert texts.empty and floors.above(texts, seed=0).empty
        assert floors.texts_are_read(floors.above(texts, seed=0)).kind == "cannot be known here"
    assert scores.differences(items, [], 0).empty
