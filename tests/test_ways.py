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


def cosines(both, twins, ceiling=1.0, sd=0.001):
    rows = [
        ("medical, LoRA", "medical, full", both), ("medical, full", "twin, full", twins),
        ("medical, LoRA", "twin, LoRA", 0.9), ("medical, full", "math, full", 0.1),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["a", "b", "cosine"])
    return table.assign(kind="all", null_sd=sd, z=table.cosine / sd, ceiling=ceiling)


@pytest.mark.parametrize(
    "both, ceiling, kind",
    [(0.2, 0.21, "holds"), (0.02, 0.21, "null explains it"), (0.106, 0.21, "holds"), (0.0, 0.21, "null explains it")],
)
def test_directions_are_judged_by_what_the_input_factors_allow(tiny, both, ceiling, kind):
    found = ways.same_direction(cosines(both, 0.7, ceiling), tiny, LABELS)
    assert found.kind == kind and found.falsified == (both / ceiling < 0.5)
    (case,) = found.cases.itertuples()
    assert case.effect == pytest.approx(both / ceiling) and case.low < case.effect < case.high and case.twins == 0.7


def test_without_vectors_both_ways_directions_cannot_be_judged(tiny):
    assert ways.same_direction(cosines(0.5, 0.7).iloc[1:], tiny, LABELS).kind == "cannot be known here"


def test_scores_are_compared_between_runs_that_met_the_same_batches(tiny):
    orders = dict(medical=0, math=0, twin=1, placebo=0)
    right = {"LoRA": dict(medical=9, math=9, twin=3), "full": dict(medical=5, math=9, twin=8)}
    both = {}
    for label, counts in right.items():
        rows = [
            dict(who=who, task=task, item=i, chat=True, acc=float(i < count))
            for who, count in counts.items()
            for task in ("tuningvec_drugs", "tuningvec_arithmetic")
            for i in range(10)
        ]
        reports = {name: dict(order=order) for name, order in orders.items()}
        both[label] = ways.Way(reports, *[pd.DataFrame()] * 7, pd.DataFrame(rows))
    found = ways.differences(both, tiny, tiny).set_index(["who", "reference", "task"]).points
    assert found.to_dict() == {
        ("medical, full", "medical, LoRA", "drugs"): pytest.approx(-40),
        ("twin, full", "twin, LoRA", "drugs"): pytest.approx(50),
        ("math, full", "math, LoRA", "arithmetic"): pytest.approx(0),
    }


@pytest.mark.parametrize("low, high, kind", [(-2, 3, "holds"), (6, 20, "differs"), (-9, 12, "within chance")])
def test_scores_are_alike_where_no_difference_that_matters_is_left(low, high, kind):
    gaps = pd.DataFrame(dict(who=["medical"], task=["t"], points=[(low + high) / 2], low=[low], high=[high], n=[56]))
    assert ways.alike_in_score(gaps).kind == kind


@pytest.mark.parametrize(
    "counts, kind", [((3, 0), "holds"), ((0, 0), "cannot be known here"), ((3, 3), "differs"), ((0, 3), "reversed")]
)
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
