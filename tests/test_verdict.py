"""What a set of effects with intervals says of a claim."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuningvec import verdict
from tuningvec.page.finding import CSS
from tuningvec.verdict import judge

NAN = float("nan")
UP, DOWN, SMALL, OPEN, UNKNOWN = (0.5, 0.3, 0.7), (-0.5, -0.7, -0.3), (0.01, -0.05, 0.07), (0.2, -0.3, 0.7), (NAN,) * 3
TINY = (0.05, 0.04, 0.06)  # beyond chance and smaller than what matters
LEAST = 0.1


def cases(*rows: tuple[float, float, float], **columns: object) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["effect", "low", "high"]).assign(**columns)


@pytest.mark.parametrize(
    ("rows", "direction", "kind"),
    [
        ([UP, UP], 1, "holds"),
        ([UP, UP], -1, "reversed"),
        ([DOWN], 1, "reversed"),
        ([DOWN], -1, "holds"),
        ([UP, DOWN], 1, "mixed"),
        ([UP, OPEN], 1, "mixed"),
        ([UP, SMALL], 1, "mixed"),
        ([UP, UNKNOWN], 1, "mixed"),
        ([SMALL, SMALL], 1, "null explains it"),
        ([TINY, TINY], 1, "null explains it"),
        ([SMALL, OPEN], 1, "within chance"),
        ([OPEN], 1, "within chance"),
        ([SMALL, UNKNOWN], 1, "cannot be known here"),
        ([SMALL, SMALL], 0, "holds"),
        ([SMALL, UP], 0, "mixed"),
        ([OPEN], 0, "within chance"),
        ([UNKNOWN], 1, "cannot be known here"),
        ([], 1, "cannot be known here"),
    ],
)
def test_each_outcome_has_its_kind(rows, direction, kind):
    found = judge(cases(*rows), "rule", least=LEAST, direction=direction)
    assert found.kind == kind
    assert found.rule == "rule" and len(found.cases) == len(rows)


def test_a_mixed_verdict_counts_its_cases():
    found = judge(cases(UP, UP, DOWN, OPEN, UNKNOWN), "rule", least=LEAST)
    for count in ("2 of 5 for", "1 of 5 against", "1 of 5 open", "1 of 5 unknown"):
        assert count in found.why
    assert found.cases.outcome.tolist() == ["for", "for", "against", "open", "unknown"]


def test_within_chance_says_what_could_not_have_been_seen():
    found = judge(cases(OPEN, SMALL), "rule", least=LEAST, unit="points")
    assert found.why == "1 of 2 negligible; in the others a difference below 0.50 points could not have been seen"


def test_a_correction_decides_what_is_clear():
    rows = cases(UP, UP)
    assert judge(rows.assign(clear=[True, False]), "rule", least=LEAST).kind == "mixed"
    assert judge(rows.assign(clear=False), "rule", least=LEAST).kind == "within chance"
    assert judge(cases(OPEN).assign(clear=True), "rule", least=LEAST).kind == "holds"


def test_each_case_may_have_a_smallest_effect_of_its_own():
    rows = cases(UP, UP, UNKNOWN).set_index(pd.Index(["a", "b", "c"]))
    least = pd.Series({"b": 0.9, "a": 0.1, "c": 0.1})
    assert judge(rows, "rule", least=least).cases.outcome.tolist() == ["for", "negligible", "unknown"]


def test_a_smallest_difference_is_a_number():
    assert "nan" not in judge(cases(SMALL, UNKNOWN), "rule", least=LEAST).why


def test_what_could_not_have_been_seen_is_no_smaller_than_what_was_not_clear():
    assert "below 0.20" not in judge(cases(UP, clear=False), "rule", least=LEAST).why


def test_a_claim_of_no_effect_that_is_contradicted_differs():
    assert judge(cases(UP, DOWN), "rule", least=LEAST, direction=0).kind == "differs"


def test_an_effect_beyond_chance_is_not_called_within_chance():
    assert judge(cases((0.08, 0.02, 0.14)), "rule", least=LEAST).kind != "within chance"


def test_numbers_and_the_falsifier_are_kept():
    found = judge(cases(UP), "rule", least=LEAST, falsified=False, ratio=2.0)
    assert found.numbers == {"ratio": 2.0} and found.falsified is False
    stopped = verdict.unknown("rule", "one corpus only", n=1)
    assert stopped.kind == "cannot be known here" and stopped.why == "one corpus only" and stopped.falsified is None


def test_every_kind_has_a_meaning_and_a_colour():
    assert set(get_args(verdict.Kind)) == verdict.MEANING.keys() == CSS.keys()


EFFECTS = st.tuples(st.floats(-2, 2), st.floats(0, 2)).map(lambda e: (e[0], e[0] - e[1], e[0] + e[1]))
TURNED = {"holds": "reversed", "reversed": "holds"}


@given(st.lists(EFFECTS, min_size=1, max_size=5))
def test_turning_every_effect_turns_the_verdict(rows):
    turned = [(-effect, -high, -low) for effect, low, high in rows]
    one, other = (judge(cases(*some), "rule", least=LEAST) for some in (rows, turned))
    assert other.kind == TURNED.get(one.kind, one.kind)
    assert one.kind == judge(cases(*turned), "rule", least=LEAST, direction=-1).kind


@given(st.lists(EFFECTS, min_size=1, max_size=5))
def test_no_effect_is_called_both_found_and_absent(rows):
    """A claim that there is an effect and one that there is none never both hold."""
    some, none = judge(cases(*rows), "rule", least=LEAST), judge(cases(*rows), "rule", least=LEAST, direction=0)
    assert not (some.kind in ("holds", "reversed") and none.kind == "holds")
    assert (some.kind == "null explains it") <= (none.kind == "holds")
    assert np.all(some.cases.effect == none.cases.effect)
