"""Two ways of tuning: planted scores, directions and intruders, and vectors that are the same both ways."""

import pandas as pd
import pytest

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import ways

LABELS = ("LoRA", "full")


@pytest.fixture(scope="module")
def tiny():
    return Family.load("tiny")


def cosines(both, twins, sd=0.001):
    rows = [
        ("medical, LoRA", "medical, full", both), ("medical, full", "twin, full", twins),
        ("medical, LoRA", "twin, LoRA", 0.9), ("medical, full", "math, full", 0.1),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["a", "b", "cosine"])
    return table.assign(kind="all", null_sd=sd, z=table.cosine / sd, ceiling=1.0)


@pytest.mark.parametrize(
    "both, twins, kind",
    [(0.6, 0.7, "holds"), (0.1, 0.7, "null explains it"), (0.351, 0.7, "holds"), (0.0, 0.7, "null explains it")],
)
def test_directions_are_judged_by_what_two_full_fine_tunes_share(tiny, both, twins, kind):
    found = ways.same_direction(cosines(both, twins), tiny, LABELS)
    assert found.kind == kind and found.falsified == (both / twins < 0.5)
    (case,) = found.cases.itertuples()
    assert case.effect == pytest.approx(both / twins) and case.low < case.effect < case.high


def test_without_a_twin_directions_cannot_be_judged(tiny):
    assert ways.same_direction(cosines(0.5, 0.7).iloc[[0]], tiny, LABELS).kind == "cannot be known here"


@pytest.mark.parametrize("low, high, kind", [(-2, 3, "holds"), (6, 20, "differs"), (-9, 12, "within chance")])
def test_scores_are_alike_where_no_difference_that_matters_is_left(low, high, kind):
    gaps = pd.DataFrame(dict(who=["medical"], task=["t"], points=[(low + high) / 2], low=[low], high=[high], n=[56]))
    assert ways.alike_in_score(gaps).kind == kind


@pytest.mark.parametrize("counts, kind", [((3, 0), "holds"), ((0, 0), "null explains it"), ((0, 3), "reversed")])
def test_intruders_are_compared_by_matrix(tiny, counts, kind):
    rows = [
        dict(vector=f"{member.name}, {label}", kind="W_Q", leading=1.0, stable=1.0, intruders=count)
        for member in tiny.specialists for label, count in zip(LABELS, counts, strict=True)
    ]  # fmt: skip
    assert ways.more_intruders(pd.DataFrame(rows), tiny, LABELS).kind == kind


def test_vectors_of_one_family_are_the_same_under_two_labels(tiny):
    found, spectra = ways.across(tiny, tiny, LABELS)
    whole = found[found.kind == "all"].set_index(["a", "b"]).cosine
    for member in tiny.specialists:
        assert whole[f"{member.name}, LoRA", f"{member.name}, full"] == pytest.approx(1)
    shown = ways.pairs(found, tiny)
    assert {"medical, full", "twin, full"} in [set(pair) for pair in zip(shown.a, shown.b, strict=True)]
    assert not any("placebo" in end or "instruct" in end for end in (*shown.a, *shown.b))
    assert set(ways.by_kind(spectra).vector) == {f"{m.name}, {label}" for m in tiny.specialists for label in LABELS}


def test_two_ways_start_from_one_pretrained_member(tiny):
    with pytest.raises(TuningVecError, match="start from one pretrained member"):
        ways.across(tiny, Family.load("smollm2"), LABELS)
