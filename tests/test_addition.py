"""Verdicts on sums of tuning vectors, and on what carries over to other domains, from rows of items."""

import numpy as np
import pandas as pd
import pytest

from tuningvec.measures import gains, scores
from tuningvec.stats import paired_contrast, paired_ratio

SPECIALISTS = {"medicine": "a", "math": "b"}
BENCHMARKS = {"medicine": {"m": None}, "math": {"n": None}}
OPTIONS = dict(prompt="Question: which?\nOptions:\nA. one\nB. two\nC. three\nD. four", reply="")


def answers(right, n):
    """Rows of items of `evals.addition` at λ = 1, {(vectors, task): how many are right}; half as many at λ = 0.5."""
    rows = []
    for (vectors, task), count in right.items():
        for scale in (0.0,) if vectors == "none" else (0.5, 1.0):
            about = dict(vectors=vectors, task=task, scale=scale, who=f"{vectors}, λ = {scale:g}")
            some = count if scale != 0.5 else count // 2
            rows += [about | dict(item=i, acc=float(i < some)) for i in range(n)]
    return pd.DataFrame(rows)


def added(sum_m, sum_n, own=(29, 30), other=(3, 4), n=32):
    """The sum has `sum_m` and `sum_n` right, the specialists `own`, each on the other's benchmark `other`."""
    right = {("sum", "m"): sum_m, ("sum", "n"): sum_n, ("a", "m"): own[0], ("b", "n"): own[1]}
    return answers(right | {("b", "m"): other[0], ("a", "n"): other[1], ("none", "m"): 2, ("none", "n"): 2}, n)


@pytest.mark.parametrize(
    "items, kind, falsified",
    [
        (added(29, 30), "holds", False),
        (added(10, 5), "reversed", True),  # a collapse, to what the other domain's vector gives alone
        (added(29, 5), "mixed", True),
        (added(24, 24), "within chance", False),
        (added(14, 14, other=(3, 14)), "reversed", True),
        (added(15, 16), "reversed", None),  # short of the share, and between the two
        (added(0, 0, own=(3, 3), other=(0, 0), n=3), "within chance", None),
        (added(1, 1, own=(0, 0)), "cannot be known here", None),
        (added(0, 30, own=(0, 30)), "mixed", None),  # one of two has nothing to divide by
    ],
)
def test_a_sum_serves_every_domain_by_its_share_of_each_specialist(items, kind, falsified):
    verdict = gains.serves(items, SPECIALISTS, BENCHMARKS)
    assert (verdict.kind, verdict.falsified) == (kind, falsified), verdict.cases
    assert not (verdict.kind == "holds" and verdict.falsified)


def test_a_specialist_that_guesses_has_no_ratio():
    """13 of 56 with four options."""
    verdict = gains.serves(added(13, 13, own=(13, 13), other=(0, 0), n=56).assign(**OPTIONS), SPECIALISTS, BENCHMARKS)
    assert verdict.kind == "cannot be known here" and "guessing" in verdict.why
    assert gains.serves(added(13, 13, own=(13, 13), n=56), SPECIALISTS, BENCHMARKS).kind != verdict.kind
    one = gains.serves(added(53, 13, own=(53, 13), n=56).assign(**OPTIONS), SPECIALISTS, BENCHMARKS)
    assert one.cases.ratio.isna().tolist() == [False, True] and one.numbers["best"].index.tolist() == ["m"]


def test_a_vector_that_beats_the_specialist_is_not_what_the_sum_falls_to():
    beaten = gains.serves(added(100, 310, own=(160, 310), other=(300, 10), n=320), SPECIALISTS, BENCHMARKS)
    assert beaten.falsified is None and not beaten.cases.nearer.any()
    assert gains.serves(added(100, 310, own=(300, 310), other=(90, 10), n=320), SPECIALISTS, BENCHMARKS).falsified


def test_no_scale_is_best_where_all_give_nothing():
    verdict = gains.serves(added(0, 0), SPECIALISTS, BENCHMARKS)
    assert verdict.kind == "reversed" and np.isnan(verdict.numbers["best_scale"]) and np.isnan(verdict.numbers["best"])


def test_the_best_of_all_scales_is_reported_beside_the_papers():
    items = added(20, 10)
    verdict = gains.serves(
        items.assign(scale=items.scale.map({0.0: 0.0, 0.5: 0.25, 1.0: 1.0})), SPECIALISTS, BENCHMARKS
    )
    assert verdict.numbers["best_scale"] == 1
    assert verdict.numbers["best"].to_dict() == pytest.approx({"m": 20 / 29, "n": 10 / 30})
    row = verdict.cases.set_index("task").loc["m"]
    assert (row.n, row["sum"], row.own, row.other, row.none) == (
        32,
        *(pytest.approx(100 * k / 32) for k in (20, 29, 3, 2)),
    )
    assert row.ratio_low < row.ratio < row.ratio_high < 1


def test_the_least_share_decides():
    items = added(22, 22)
    kinds = [gains.serves(items, SPECIALISTS, BENCHMARKS, share=share).kind for share in (0.4, 0.7, 0.99)]
    assert kinds == ["holds", "within chance", "reversed"]


@pytest.mark.parametrize(
    "items, kind, falsified",
    [
        (added(29, 30), "holds", False),
        (added(3, 4, other=(29, 30)), "reversed", True),
        (added(29, 4), "mixed", None),
        (added(5, 6), "within chance", None),
        (added(4, 5, n=5), "within chance", None),  # of so few items none could be clear
        (added(300, 400, own=(900, 900), other=(300, 400), n=1000), "null explains it", False),
    ],
)
def test_a_sum_is_better_than_another_domains_vector(items, kind, falsified):
    gaps = scores.sum_against_others(items, SPECIALISTS, BENCHMARKS, 0)
    assert set(gaps.n) == {items["item"].nunique()}
    verdict = gains.beyond_others(gaps)
    assert (verdict.kind, verdict.falsified) == (kind, falsified)


def test_pairs_of_other_domains_are_shown_and_not_judged():
    whole = added(29, 30)
    code = [whole[whole.vectors == "b"].assign(vectors="c", who=lambda t: t.who.str.replace("b,", "c,"), acc=1.0)]
    three, asked = SPECIALISTS | {"code": "c"}, BENCHMARKS | {"code": {}}
    verdict = gains.beyond_others(scores.sum_against_others(pd.concat([whole, *code]), three, asked, 0))
    assert verdict.kind == "holds" and verdict.falsified is False
    assert verdict.cases.groupby("other", sort=False).outcome.first().to_dict() == {
        "math": "for", "medicine": "for", "code": "not judged",
    }  # fmt: skip
    strange = scores.sum_against_others(whole, {"law": "a", "math": "b"}, {"law": {"m": 0}, "math": {"n": 0}}, 0)
    unknown = gains.beyond_others(strange)
    assert unknown.kind == "cannot be known here" and set(unknown.cases.outcome) == {"not judged"}


def members(right, n=40):
    return pd.DataFrame(
        dict(who=who, task=task, item=i, acc=float(i < count)) for (who, task), count in right.items() for i in range(n)
    )


def asked(own=(36, 36), other=(4, 4), before=(4, 4), **more):
    right = {("a", "m"): own[0], ("b", "n"): own[1], ("b", "m"): other[0], ("a", "n"): other[1]}
    return members(right | {("base", "m"): before[0], ("base", "n"): before[1]} | more)


@pytest.mark.parametrize(
    "items, kind, falsified",
    [
        (asked(), "holds", False),
        (asked(other=(30, 30)), "reversed", True),
        (asked(other=(4, 30)), "mixed", True),
        (asked(other=(12, 12)), "within chance", None),
        (asked(own=(36, 5)), "mixed", None),  # nothing gained on one, so nothing to carry over
        (asked(own=(5, 5)), "cannot be known here", None),
        (asked(own=(30, 30), other=(30, 30), before=(30, 30)), "cannot be known here", None),  # all knew it before
    ],
)
def test_what_is_gained_carries_over_by_the_gain_over_the_pretrained_member(items, kind, falsified):
    verdict = gains.does_not_carry_over(items, {"medicine": ["a"], "math": ["b"]}, BENCHMARKS, "base")
    assert (verdict.kind, verdict.falsified) == (kind, falsified), verdict.cases


def test_a_specialist_that_guesses_gained_nothing_to_carry_over():
    guessed = asked(own=(13, 13), before=(0, 0), other=(0, 0)).assign(**OPTIONS)
    verdict = gains.does_not_carry_over(guessed, {"medicine": ["a"], "math": ["b"]}, BENCHMARKS, "base")
    assert verdict.kind == "cannot be known here" and (verdict.cases.gain > 30).all()


def test_a_low_score_on_another_domain_is_no_loss_where_the_pretrained_member_is_as_low():
    """Against the domain's own specialist alone, both would be clearly below."""
    carried = gains.does_not_carry_over(asked(other=(26, 26)), {"medicine": ["a"], "math": ["b"]}, BENCHMARKS, "base")
    assert carried.kind == "reversed" and (carried.cases.carried > 50).all()


def test_every_specialist_of_another_domain_is_a_case():
    both = asked(**{})
    twin = both[both.who == "b"].assign(who="c")
    examined = {"medicine": ["a"], "math": ["b", "c"]}
    verdict = gains.does_not_carry_over(pd.concat([both, twin]), examined, BENCHMARKS, "base")
    assert list(zip(verdict.cases.who, verdict.cases.task, strict=True)) == [("b", "m"), ("c", "m"), ("a", "n")]


def test_few_items_that_agree_are_not_beyond_chance():
    assert paired_contrast([np.zeros(3), np.ones(3)], [1, -1]).high > 0
    assert paired_contrast([np.zeros(8), np.ones(8)], [1, -1]).high < 0
    assert np.isnan(paired_ratio(np.ones(3), np.zeros(3))).all()


@pytest.mark.parametrize("truth", [0.2, 0.6])
def test_intervals_cover(truth):
    """Of a ratio and of a contrast that is 0, over draws of 30 paired items; at least 93 %."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(600):
        shared = rng.random(30)
        own = shared < 0.8  # of every item's own difficulty
        other = np.where(rng.random(30) < 0.5, shared, rng.random(30)) < 0.8 * truth
        _, low, high = paired_ratio(other, own)
        gap = paired_contrast([other, own], [1, -truth])
        hits.append((low <= truth <= high, gap.low <= 0 <= gap.high))
    ratio, contrast = np.mean(hits, axis=0)
    assert ratio >= 0.93 and contrast >= 0.93


def test_a_ratio_of_differences_is_bounded_by_the_contrasts_that_allow_0():
    rng = np.random.default_rng(0)
    a, b, d = (rng.random(40) < share for share in (0.9, 0.1, 0.5))
    share, low, high = paired_ratio(d, a, minus=b)
    assert share == pytest.approx((d.mean() - b.mean()) / (a.mean() - b.mean())) and low < share < high
    assert paired_contrast([d, a, b], [1, -low, low - 1]).low == pytest.approx(0, abs=1e-6)
    assert paired_contrast([d, a, b], [1, -high, high - 1]).high == pytest.approx(0, abs=1e-6)
    assert np.isnan(paired_ratio(d, b, minus=a)).all()  # what does not fall has no share
