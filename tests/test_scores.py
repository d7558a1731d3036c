"""What items say: every verdict from raw rows of items, flipped by changing the items."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tuningvec.family.spec import Family
from tuningvec.measures import evals, gains, scores, turned
from tuningvec.page.text import each
from tuningvec.paper import printed
from tuningvec.stats import least_seen, sign_flips

N = 56
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def rows(who, task, columns, n=N, **about):
    """Items of which so many of each column are 1: {column: count}, or {column: values}."""
    values = {
        name: [float(i < count) for i in range(n)] if np.isscalar(count) else list(count)
        for name, count in columns.items()
    }
    return pd.DataFrame({"who": who, "task": task, "item": range(n), **values}).assign(**about)


def asked(form, lenient, likelihood, before=(2, 20, 20), kept=50, n=N):
    """Two members on a benchmark: right in the form, in any form, by likelihood; and the same before fine-tuning."""
    parts = []
    for who, (strict, loose, likely), follows in (("pre", before, 2), ("ft", (form, lenient, likelihood), kept)):
        counts = dict(acc=strict, acc_lenient=loose, thought=follows, valid=follows, valid_lenient=n)
        counts |= dict(stopped_text=follows, stopped_token=follows)
        parts.append(rows(who, "tuningvec_t", counts, n))
        parts.append(rows(who, "tuningvec_t_likelihood", dict(acc=likely), n))
    return pd.concat(parts, ignore_index=True)


def gaps(items):
    return scores.differences(items, scores.against(items, "pre"), 0)


GAINS = {
    "knowledge": (asked(54, 54, 54), "holds", False),
    "worse": (asked(2, 3, 3, before=(50, 50, 50)), "reversed", None),
    "the form alone": (asked(54, 54, 24), "mixed", None),
    "the form alone, by many items": (asked(540, 540, 200, before=(20, 200, 200), n=560), "mixed", True),
    "a little": (asked(5, 23, 23), "within chance", None),
    "shown to be nothing": (asked(21, 201, 201, before=(20, 200, 200), n=560), "null explains it", None),
    "few items": (asked(3, 3, 3, before=(0, 0, 0), n=4), "within chance", None),
}


@pytest.mark.parametrize(("items", "kind", "falsified"), GAINS.values(), ids=GAINS)
def test_a_gain_must_be_there_in_the_form_and_without_it(items, kind, falsified):
    verdict = gains.domain_gain(gaps(items))
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert len(verdict.cases) == 3 and set(verdict.cases.n) == {items["item"].nunique()}


def test_a_gain_in_the_form_alone_is_told_by_way_of_scoring():
    verdict = gains.domain_gain(gaps(asked(54, 54, 23)))
    assert verdict.why.startswith("for the claim: 1 of 1 in the form asked for")
    assert verdict.why.endswith("0 of 1 by likelihood")
    assert verdict.numbers["ways"].endswith("by likelihood: within chance")
    text = each(verdict.cases, "{member} on {benchmark}, {way}, {effect:+.1f}, n = {n}")
    assert "ft on t, by likelihood, +5.4, n = 56" in text


QUESTION = "Question: which?\nOptions:\nA. one\nB. two\nC. three\nD. four"


def options(form, before, n=N, likelihood=None, names=(0, N)):
    """Replies to questions of four options: right in the form, which is right in any form too; who names an option."""
    asked = dict(prompt=f"A. an example\n{QUESTION}<|im_end|>", reply="Answer: [A]")
    found = [
        rows(who, "tuningvec_t", dict(acc=right, acc_lenient=right, valid=named, valid_lenient=named), n, **asked)
        for who, right, named in (("pre", before, names[0]), ("ft", form, names[1]))
    ]
    asked = dict(prompt="Question: which?", reply="[[-1.0, true], [-2.0, false], [-3.0, false], [-4.0, false]]")
    for who, right in zip(("pre", "ft"), likelihood or (), strict=likelihood is not None):
        found.append(rows(who, "tuningvec_t_likelihood", dict(acc=right), n, **asked))
    return pd.concat(found, ignore_index=True)


GUESSES = {
    "13 of 56 after none": (options(13, 0), "mixed", True),
    "the same, and as likely before": (options(13, 0, likelihood=(52, 53)), "mixed", True),
    "the same, and likelier": (options(13, 0, likelihood=(15, 53)), "holds", False),
    "likelier, and still a guess": (options(30, 0, likelihood=(0, 14)), "mixed", None),
    "above guessing": (options(30, 0), "holds", False),
    "guesses, and the other one named its options": (options(13, 0, names=(40, N)), "mixed", None),
    "a little less in each": (options(540, 480, 560, likelihood=(560, 545), names=(560, 560)), "mixed", True),
}


@pytest.mark.parametrize(("items", "kind", "falsified"), GUESSES.values(), ids=GUESSES)
def test_guesses_are_no_knowledge(items, kind, falsified):
    verdict = gains.domain_gain(gaps(items))
    assert (verdict.kind, verdict.falsified) == (kind, falsified), verdict.cases.T


def test_what_a_guess_gets_right_is_counted_from_the_options():
    items = options(13, 0, likelihood=(1, 2))
    assert [scores.guessing(items, task) for task in items.task.unique()] == [0.25, 0.25]
    assert scores.guessing(items.assign(prompt="Question: 2 + 2?"), "tuningvec_t") == 0
    five = items.assign(prompt=items.prompt.str.replace("<|im_end|>", "\nE. five<|im_end|>"))
    assert scores.guessing(five, "tuningvec_t") == pytest.approx(0.2)


def test_without_likelihood_the_lenient_score_decides():
    items = asked(54, 24, 0)
    alone = items[items.task == "tuningvec_t"]
    assert gains.domain_gain(gaps(alone)).kind == "mixed"
    assert gains.domain_gain(gaps(alone.assign(acc_lenient=alone.acc))).kind == "holds"
    functions = pd.concat([rows("pre", "f", dict(passed=1)), rows("ft", "f", dict(passed=40))])
    assert gains.domain_gain(gaps(functions)).kind == "holds"


def test_several_cases_share_one_error_rate():
    one = asked(9, 27, 29, before=(2, 20, 20))  # p = .016 in the form alone
    strict = one[one.task == "tuningvec_t"].drop(columns=["acc_lenient"])
    assert gains.domain_gain(gaps(strict)).kind == "holds"
    many = [strict.assign(task=f"t{i}") for i in range(8)]
    assert gains.domain_gain(gaps(pd.concat(many))).kind == "within chance"


def test_nothing_to_judge_cannot_be_known():
    table = gaps(asked(54, 54, 54)).head(0)
    assert gains.domain_gain(table).kind == "cannot be known here"
    assert gains.negation_falls(table).kind == "cannot be known here"
    assert gains.texts_change(table, 1, table).kind == "cannot be known here"
    assert gains.instructions_change(table, 1).kind == "cannot be known here"


@pytest.mark.parametrize(
    ("kept", "kind", "falsified"), [(50, "holds", False), (4, "within chance", False), (0, "within chance", None)]
)
def test_instructions_are_judged_over_all_cases(kept, kind, falsified):
    verdict = gains.instructions_change(gaps(asked(54, 54, 54, kept=kept)), 1)
    assert (verdict.kind, verdict.falsified) == (kind, falsified)


def test_an_instruction_that_is_lost_speaks_against_the_claim():
    items = asked(54, 54, 54)
    lost = items[items.task == "tuningvec_t"]
    lost = lost.assign(valid=[*lost.valid[lost.who == "ft"], *lost.valid[lost.who == "pre"]])
    verdict = gains.instructions_change(gaps(lost), 1)
    assert (verdict.kind, verdict.falsified) == ("mixed", True)
    assert "1 of 3 against" in verdict.why


def test_an_ended_reply_that_goes_on_after_its_answer_has_not_stopped():
    items = asked(54, 54, 54).assign(stopped_token=1.0)
    table = gaps(items).query("what == 'stopped'")
    assert table.points.tolist() == [pytest.approx(100 * 48 / N)]
    assert gaps(items.drop(columns="stopped_token")).query("what == 'stopped'").empty
    functions = pd.concat([rows(who, "f", dict(passed=9, stopped_token=n)) for who, n in (("pre", 0), ("ft", N))])
    both = pd.concat([items, functions])
    assert set(gains.instructions_change(gaps(both), 1).cases.benchmark) == {"t"}
    shown = scores.of_instructions(items, 0).set_index(["who", "instruction"]).score
    assert shown["ft", "stopped"] == pytest.approx(100 * 50 / N) and shown["pre", "stopped_token"] == 100


def test_without_room_there_is_nothing_to_judge():
    full = asked(54, 54, 54).query("task == 'tuningvec_t'")
    full.loc[full.who == "pre", ["thought"]] = 1.0
    full.loc[full.who == "ft", ["thought"]] = 1.0
    verdict = gains.instructions_change(gaps(full), 1)
    assert (verdict.kind, verdict.numbers["no_room"], len(verdict.cases)) == ("holds", "1 of 3", 2)
    full.loc[full.who == "ft", ["thought"]] = 0.0
    lost = gains.instructions_change(gaps(full), 1)
    assert (lost.kind, lost.numbers["no_room"], lost.falsified) == ("mixed", "0 of 3", True)
    nothing = full.assign(thought=0.0, valid=0.0, stopped_text=0.0)
    assert gains.instructions_change(gaps(nothing), -1).kind == "cannot be known here"


FAR_ABOVE = pd.DataFrame(dict(who=["pre", "ft"], task="visits", points=50.0, clear=True))  # of another item's text


def texts(shift, n=24):
    base = np.random.default_rng(0).uniform(0.1, 0.4, n)
    noise = np.random.default_rng(1).uniform(-0.01, 0.01, n)
    return pd.concat(
        [rows("pre", "visits", dict(rouge1=base), n), rows("ft", "visits", dict(rouge1=base + shift + noise), n)]
    )


@pytest.mark.parametrize(
    ("items", "kind", "falsified"),
    [
        (texts(0.1), "holds", False),
        (texts(-0.1), "reversed", True),
        (texts(0.0), "null explains it", False),
        (texts(0.1, n=3), "within chance", None),  # three signs have p = .25 at least
    ],
)
def test_texts_are_judged_by_their_items(items, kind, falsified):
    verdict = gains.texts_change(gaps(items), 1, FAR_ABOVE)
    assert (verdict.kind, verdict.falsified) == (kind, falsified)


def test_what_could_be_seen_is_told_with_how_many_are_compared():
    found = scores.seen(gaps(pd.concat([asked(9, 9, 9), texts(0.1)]))).set_index("task")
    assert set(found.comparisons) == {3} and found.n.to_dict() == {
        "tuningvec_t": N,
        "tuningvec_t_likelihood": N,
        "visits": 24,
    }
    assert (found.corrected > found.alone).all() and found.alone["tuningvec_t"] == least_seen(N)
    assert found.alone["visits"] < 1  # the items' noise is a hundredth
    assert scores.seen(gaps(texts(0.1)).head(0)).empty


def test_texts_at_the_floor_show_no_gain():
    items = texts(0.1)
    at_it = FAR_ABOVE.assign(points=[-8.0, 0.1], clear=[True, False])
    verdict = gains.texts_change(gaps(items), 1, at_it)
    assert verdict.kind == "within chance" and verdict.cases.outcome.tolist() == ["open"]
    assert gains.texts_change(gaps(items), 1, at_it.assign(clear=True)).kind == "holds"
    both = FAR_ABOVE.assign(member="m")
    own = gaps(items).assign(member="m")
    assert gains.texts_change(own, 1, both).kind == "holds"
    assert gains.texts_change(own, 1, both.assign(clear=False)).kind != "holds"


def test_the_same_texts_are_no_proof_that_nothing_changes():
    base = texts(0.0, n=5)
    same = base.assign(rouge1=[*base[base.who == "pre"].rouge1] * 2)
    verdict = gains.texts_change(gaps(same), 1, FAR_ABOVE)
    assert verdict.kind == "within chance" and "could not have been seen" in verdict.why
    assert sign_flips(np.zeros(5), 0) == 1


def corners(ft_chat, pre_chat, ft_plain, pre_plain, n=32, lenient=None, member="ft"):
    """The four cells of weights and prompts, with so many right."""
    cells = {(0.0, True): ft_chat, (1.0, True): pre_chat, (0.0, False): ft_plain, (1.0, False): pre_plain}
    parts = [
        rows(
            f"λ = {scale:g}{'' if own else ', plain text'}", "tuningvec_t",
            dict(acc=count, acc_lenient=count if lenient is None else lenient, thought=count),
            n, scale=scale, own=own, member=member,
        )
        for (scale, own), count in cells.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def judged(items):
    tables = (scores.by_member(items, measure, 0) for measure in (scores.parts_of_fall, scores.without))
    return gains.lost_with_the_weights(*tables)


WEIGHTS = {
    "the weights": (corners(30, 2, 30, 1), "holds", False),
    "the prompt takes 81 of 90, an interaction hides it": (corners(190, 10, 190, 172, n=200), "reversed", True),
    "the prompt takes 70 of 94": (corners(94, 0, 80, 70, n=100), "reversed", True),
    "all of the fall is the weights'": (corners(100, 65, 35, 0, n=100), "holds", False),
    "half and half": (corners(1500, 500, 1000, 1000, n=2000), "null explains it", False),
    "half and half, few": (corners(30, 10, 20, 20), "within chance", None),
    "nothing falls": (corners(30, 30, 1, 1), "cannot be known here", None),
    "it rises": (corners(2, 30, 1, 30), "cannot be known here", None),
    "the form alone falls": (corners(30, 2, 30, 1, lenient=20), "mixed", False),
    "too few": (corners(3, 0, 3, 0, n=3), "cannot be known here", None),
}


@pytest.mark.parametrize(("items", "kind", "falsified"), WEIGHTS.values(), ids=WEIGHTS)
def test_the_weights_take_more_of_the_fall_than_the_prompt(items, kind, falsified):
    verdict = judged(items)
    assert (verdict.kind, verdict.falsified) == (kind, falsified), verdict.cases.T
    assert set(verdict.cases.way) == {"in the form asked for", "in any form"}


def test_parts_of_a_fall_add_up_and_agree_with_their_share():
    parts = scores.by_member(corners(190, 10, 190, 172, n=200), scores.parts_of_fall, 0).iloc[0]
    assert (parts.fall, parts.weights, parts.prompt) == pytest.approx((90, 9, 81)) and parts.share == pytest.approx(90)
    assert (parts.points, parts.low, parts.high) == pytest.approx((-72, -80, -63), abs=0.8)
    assert parts.share_low > 50  # as the difference is below 0
    few = scores.by_member(corners(8, 0, 0, 0, n=8), scores.parts_of_fall, 0).iloc[0]
    assert few.share == 0 and few.share_low < -5 and few.share_high > 5


def test_what_falls_is_what_the_first_verdict_says_falls():
    items = corners(11, 3, 11, 3)  # 25 points, p = .008
    assert judged(items).cases.falls.all() and judged(items).kind == "holds"
    many = pd.concat([corners(11, 3, 11, 3), *(corners(3, 3, 3, 3, member=f"m{i}") for i in range(6))])
    falls = gains.negation_falls(scores.by_member(many, scores.without, 0)).cases
    assert not falls.clear.any() and judged(many).kind == "cannot be known here"


def test_likelihood_has_no_second_prompt():
    items = corners(30, 2, 30, 1)
    both = pd.concat([items, items.assign(task="tuningvec_t_likelihood").drop(columns=["acc_lenient", "thought"])])
    for measure in (scores.two_by_two, scores.parts_of_fall):
        assert set(scores.by_member(both, measure, 0).task) == {"tuningvec_t"}
    falls = scores.by_member(both, scores.without, 0)
    assert "by likelihood" in set(gains.negation_falls(falls).cases.way)
    found = scores.with_likelihood({"m": {"t": 1}, "n": {"u": 2}}, {"t_likelihood": 3, "v_likelihood": 4})
    assert found == {"m": {"t": 1, "t_likelihood": 3}, "n": {"u": 2}}


def test_the_interaction_is_paired_by_item():
    table = scores.by_member(corners(30, 1, 1, 1), scores.two_by_two, 0)
    (row,) = table[(table.effect == "interaction") & (table.what == "score")].to_dict("records")
    assert row["points"] == pytest.approx(100 * 29 / 32) and row["low"] > 70 and row["clear"] and row["n"] == 32
    (none,) = scores.by_member(corners(30, 1, 30, 1), scores.two_by_two, 0).query(
        "effect == 'interaction' and what == 'score'"
    ).to_dict("records")  # fmt: skip
    assert none["points"] == 0 and none["low"] < 0 < none["high"] and not none["clear"]


def test_the_prompt_s_share_of_a_fall():
    share = scores.by_member(corners(30, 10, 30, 20), scores.parts_of_fall, 0).iloc[0]
    assert share.share == pytest.approx(50) and share.share_low < 50 < share.share_high and share.n == 32
    assert np.isnan(scores.by_member(corners(10, 10, 30, 20), scores.parts_of_fall, 0).share).all()
    assert [round(x) for x in printed.prompted_share().share] == [94, 15, -4]


def test_members_with_plain_text_alone_have_no_second_prompt():
    items = corners(30, 2, 30, 1)
    assert judged(items[items.own]).kind == "cannot be known here"


def test_two_specialists_of_one_domain_are_told_apart():
    items = pd.concat([corners(30, 2, 30, 1), corners(5, 2, 5, 1, member="other")])
    verdict = judged(items)
    assert verdict.kind == "mixed" and set(verdict.cases.member) == {"ft", "other"}
    falls = scores.by_member(items, scores.without, 0)
    assert gains.negation_falls(falls).cases.member.tolist() == ["ft", "other"] * 2
    assert list(scores.all_curves(pd.concat([items, items[items.own].assign(scale=0.5, who="λ = 0.5")]), 0)) == [
        "ft, t, n = 32", "other, t, n = 32",
    ]  # fmt: skip


FALLS = {
    "knowledge": (corners(30, 2, 0, 0), "holds", False),
    "nothing": (corners(500, 500, 0, 0, n=1000), "null explains it", None),
    "better without": (corners(2, 30, 0, 0), "reversed", None),
    "the form": (corners(900, 20, 0, 0, n=1000, lenient=900), "mixed", True),
    "few": (corners(3, 2, 0, 0), "within chance", None),
}


@pytest.mark.parametrize(("items", "kind", "falsified"), FALLS.values(), ids=FALLS)
def test_scores_must_fall_in_any_form(items, kind, falsified):
    verdict = gains.negation_falls(scores.by_member(items, scores.without, 0))
    assert (verdict.kind, verdict.falsified) == (kind, falsified)


def test_a_specialist_is_judged_on_its_own_domain():
    family = Family.load("tiny")
    about = dict(reference="pretrained", what="score")
    table = pd.DataFrame(
        [
            dict(who=who, task=task, **about)
            for who in ("instruct", "medical", "math")
            for task in ("tuningvec_drugs", "tuningvec_drugs_likelihood", "tuningvec_arithmetic")
        ]
    )
    own = scores.own_domain(table, family, {"medicine": ["tuningvec_drugs"], "math": ["tuningvec_arithmetic"]})
    assert list(zip(own.who, own.task, strict=True)) == [
        ("medical", "tuningvec_drugs"), ("medical", "tuningvec_drugs_likelihood"), ("math", "tuningvec_arithmetic"),
    ]  # fmt: skip
    assert list(scores.own_domain(table.head(0), family, {}).columns) == list(table)


def test_items_without_answers_have_no_instructions():
    items = texts(0.1)
    assert scores.of_instructions(items, 0).empty and scores.pooled(items).empty


def test_rises_of_the_paper_are_means_of_cells():
    rises = printed.rises(printed.rouge(), 100).set_index("member").points.round(1)
    assert rises.to_dict() == {"Aloe-Alpha": -0.7, "Aloe-Beta": 6.2, "MediPhi": 0.3}


def drawn_rows(counts, lenient, n=64):
    """Items of draws of a turned T taken away, by sides, with so many right."""
    return pd.concat(
        rows(f"{sides} {i}", "tuningvec_t", dict(acc=count, acc_lenient=lenient), n, scale=1.0, sides=sides, draw=i)
        for sides in ("left", "both")
        for i, count in enumerate(counts)
    ).assign(member="ft")


@pytest.mark.parametrize(
    ("without_T", "counts", "kind", "falsified"),
    [
        (4, [60, 61, 59, 60, 60, 61], "holds", False),
        (60, [4, 5, 3, 4, 5, 4], "reversed", True),
        (4, [4, 60, 10, 50, 30, 20], "within chance", False),  # draws that cost anything
        (4, [60, 40, 62], "within chance", False),  # of three draws little is known
    ],
)
def test_removing_T_is_judged_by_removing_its_draws(without_T, counts, kind, falsified):
    items = corners(62, without_T, 62, without_T, n=64)
    moves = scores.falls_of_turned(items, drawn_rows(counts, counts[0]))
    assert set(moves.what) == {"t, in the form asked for, λ = 1", "t, in any form, λ = 1"}
    strict = moves[moves.what.str.contains("asked")]
    assert strict.value[strict.sides == "none"].tolist() == [pytest.approx(100 * (62 - without_T) / 64)]
    assert strict.value[strict.sides == "left"].tolist() == pytest.approx([100 * (62 - c) / 64 for c in counts])
    verdict = gains.more_than_turned(turned.against_draws(strict))
    assert (verdict.kind, verdict.falsified) == (kind, falsified), verdict.cases.T


def test_a_member_that_guesses_has_nothing_to_lose():
    asked = dict(prompt="Options:\nA. one\nB. two\n", reply="A")
    moves = scores.falls_of_turned(corners(33, 4, 33, 4, n=64).assign(**asked), drawn_rows([30, 31, 32], 30))
    assert moves.empty and gains.more_than_turned(turned.against_draws(moves)).kind == "cannot be known here"


def paired(items, n=N):
    """Items i and i + 1 of every task are of one source."""
    return items.assign(source=[f"drug {item // 2}" for item in items["item"]])


def test_items_of_one_source_are_one_cluster():
    alone, items = asked(54, 54, 54), paired(asked(54, 54, 54))
    found, before = gaps(items), gaps(alone)
    assert set(found.n) == {N} and set(found.sources) == {N // 2} and set(before.sources) == {N}
    assert (before.n_eff == N).all() and (found.n_eff <= N).all() and (found.n_eff < N).any()
    assert (found.low <= before.low + 1e-9).all() and (found.p >= before.p).all()
    assert (scores.seen(found).alone >= scores.seen(before).alone).all()
    wider = scores.of_tasks(items, 0)
    assert (wider.high - wider.low > scores.of_tasks(alone, 0).eval("high - low")).all()
    asked_for = scores.of_instructions(items, 0)
    assert (asked_for.high - asked_for.low > scores.of_instructions(alone, 0).eval("high - low")).any()


def test_a_rule_says_how_items_of_one_source_count():
    said = "Items that share a source, such as two questions on one drug, count as one cluster"
    items = asked(54, 54, 54)
    assert gains.domain_gain(gaps(paired(items))).rule.endswith(said)
    own = gains.domain_gain(gaps(items.assign(source=items["item"].astype(str))))
    assert said not in own.rule and own.rule == gains.domain_gain(gaps(items)).rule
    pd.testing.assert_frame_equal(own.cases, gains.domain_gain(gaps(items)).cases)


def test_what_three_items_of_one_source_agree_on_is_chance():
    few = asked(9, 9, 9, before=(0, 0, 0))
    clustered = few.assign(source=[f"text {item // 3}" if item < 9 else str(item) for item in few["item"]])
    assert gains.domain_gain(gaps(few)).cases.clear.all()
    assert not gains.domain_gain(gaps(clustered)).cases.clear.any()  # three sources: p = .25


def test_where_the_prompt_and_the_weights_are_told_apart_sources_count():
    both = (corners(20, 2, 20, 9), paired(corners(20, 2, 20, 9)))
    parts = [scores.by_member(some, scores.parts_of_fall, 0) for some in both]
    assert (parts[1].high - parts[1].low > parts[0].high - parts[0].low).all() and set(parts[1].sources) == {16}
    tables = [scores.by_member(some, scores.two_by_two, 0) for some in both]
    assert (tables[1].p >= tables[0].p).all() and (tables[1].p > tables[0].p).any()


def test_sources_are_those_of_the_tasks():
    drugs, notes = "tuningvec_drugs", "tuningvec_visits"
    items = pd.DataFrame(dict(who="x", task=[drugs, drugs, drugs, notes, "text"], item=[2, 0, 1, 3, 7]))
    found = scores.with_sources(items, evals.tasks([drugs, notes]))
    assert found.source.tolist() == ["bumetanide", "imatinib", "imatinib", "3", "7"]
    assert scores.sources(found, "x", drugs).tolist() == ["imatinib", "imatinib", "bumetanide"]
    assert scores.sources(found, "x", notes) is None


@pytest.mark.parametrize("page", sorted(NOTEBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_tells_the_sources_of_the_items_that_it_scores(page):
    text = page.read_text(encoding="utf-8")
    asked = re.findall(r"(?:evals\.(?:run|addition|negation\w*)|starts\.negated)\(", text)
    assert text.count("scores.with_sources(") == len(asked)
