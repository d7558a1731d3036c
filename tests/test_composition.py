"""What composes better than a sum: planted items flip each verdict; splits, settings and models are what they say."""

import itertools
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import composition, evals, losses, scores
from tuningvec.measures.composition import ALONE, BY_DOMAIN, PLAIN, PRETRAINED, SUM, Setting
from tuningvec.page import composed
from tuningvec.store import Store
from tuningvec.weights.merging import Shared

DOMAINS = {"medicine": "medical", "math": "math", "code": "code"}
SETTINGS = [["sum", [0.5, 1], None], ["TIES", [1, 1], [0.2, 0.5]]]


@pytest.fixture(scope="module")
def tiny():
    return Family.load("tiny")


def items(known, n=40, spread=0.02, per_source=2, seed=0):
    """Values of items, {who: mean by domain}, over 0 for θ_pre and 1 for specialists, two an independent source."""
    random, rows = np.random.default_rng(seed), []
    for number, (domain, own) in enumerate(DOMAINS.items()):
        fact = random.normal(0, 0.3, n // per_source).repeat(
            per_source
        )  # what all models share, which pairing takes out
        means = {"pretrained": 0.0} | {name: float(name == own) for name in DOMAINS.values()}
        for who, mean in (means | {who: each[number] for who, each in known.items()}).items():
            values = mean + fact + random.normal(0, spread, n)
            rows += [
                dict(who=who, domain=domain, source=i // per_source, item=i, value=v) for i, v in enumerate(values)
            ]
    return pd.DataFrame(rows)


def table(tiny, **known):
    """`compared` of the sum, the sum at λ = 1 and some ways, by their mean scores in three domains."""
    told = {SUM: (0.9, 0.7, 0.9), PLAIN: (0.9, 0.7, 0.9)} | {name.replace("_", " "): v for name, v in known.items()}
    return composition.compared(items(told), tiny, 0)


def test_scores_are_normalised_by_hand_and_the_worst_is_the_smallest(tiny):
    found = items({SUM: (0.9, 0.7, 0.8), "TIES": (0.5, 0.95, 0.6)}).assign(source=lambda x: x["item"])
    means = found.groupby(["domain", "who"]).value.mean()
    zero = means.unstack()["pretrained"]
    expected = {
        who: [(means[d, who] - zero[d]) / (means[d, own] - zero[d]) for d, own in DOMAINS.items()]
        for who in (SUM, "TIES")
    }
    compared = composition.compared(found, tiny, 0).set_index("who")
    for who, each in expected.items():
        row = compared.loc[who]
        assert row[list(DOMAINS)].tolist() == pytest.approx(each)
        assert (row["mean"], row.worst, row.gain) == pytest.approx((np.mean(each), min(each), np.mean(each)))
        assert row.worst_low < row.worst < row.worst_high
    assert compared.effect["TIES"] == pytest.approx(min(expected["TIES"]) - min(expected[SUM]))
    assert compared.effect[SUM] == 0 and compared.p[SUM] == 1 and not compared.clear[SUM]


def test_the_interval_of_one_domain_is_that_of_the_ratio_it_is(tiny):
    """Where one domain is the worst in every draw, it is a ratio of means; the delta method gives its spread."""
    found = items({SUM: (0.9, 0.5, 0.9)}, n=400, per_source=1, spread=0.1)
    row = composition.compared(found, tiny, 0).set_index("who").loc[SUM]
    wide = found[found.domain == "math"].pivot(index="item", columns="who", values="value")
    up, down = wide[SUM] - wide.pretrained, wide["math"] - wide.pretrained
    rest = (up - up.mean() / down.mean() * down) / down.mean()
    half = 1.96 * rest.std() / len(rest) ** 0.5
    assert (row.worst_high - row.worst_low) / 2 == pytest.approx(half, rel=0.1)


def test_items_of_one_fact_count_once(tiny):
    """A fact's items that go the same way leave as wide an interval as one of them."""
    one = items({SUM: (0.9, 0.7, 0.9), "TIES": (0.9, 0.8, 0.9)}, n=20, per_source=1, spread=0.1)
    four = pd.concat([one.assign(item=one["item"] + 20 * i) for i in range(4)], ignore_index=True)
    rows = [composition.compared(some, tiny, 0).set_index("who").loc["TIES"] for some in (one, four)]
    widths = [row.high - row.low for row in rows]
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


@pytest.mark.parametrize(
    "worst, kind, falsified",
    [
        (0.85, "holds", False),
        (0.55, "reversed", True),
        (0.7, "null explains it", True),
        (0.72, "null explains it", True),
    ],
)
def test_the_way_that_did_best_before_is_judged_against_the_sum(tiny, worst, kind, falsified):
    found = composition.better_than_sum(table(tiny, TIES=(0.9, worst, 0.9)), "TIES")
    assert (found.kind, found.falsified) == (kind, falsified), found.cases


def test_a_few_noisy_items_leave_it_within_chance(tiny):
    some = items({SUM: (0.9, 0.7, 0.9), "TIES": (0.9, 0.75, 0.9)}, n=8, spread=0.4)
    found = composition.better_than_sum(composition.compared(some, tiny, 0), "TIES")
    assert found.kind == "within chance" and "could not have been seen" in found.why


@pytest.mark.parametrize(
    "ties, iso, kind, falsified",
    [
        ((0.9, 0.5, 0.9), (0.5, 0.9, 0.9), "holds", False),
        ((0.9, 0.85, 0.9), (0.9, 0.85, 0.9), "reversed", True),
        ((0.9, 0.5, 0.9), (0.9, 0.85, 0.9), "mixed", True),
        ((0.9, 0.7, 0.9), (0.9, 0.7, 0.9), "null explains it", True),
    ],
)
def test_other_ways_are_worse_than_the_sum(tiny, ties, iso, kind, falsified):
    found = composition.worse_than_sum(table(tiny, TIES=ties, **{"Iso-C": iso}))
    assert (found.kind, found.falsified) == (kind, falsified), found.cases
    assert set(found.cases.method) == {"TIES", "Iso-C"}  # the sum by domain, of which the sum is a case, is none


@pytest.mark.parametrize("plain, kind", [(0.5, "holds"), (0.9, "reversed"), (0.7, "null explains it")])
def test_a_chosen_λ_is_judged_against_1(tiny, plain, kind):
    some = items({SUM: (0.9, 0.7, 0.9), PLAIN: (0.9, plain, 0.9)})
    found = composition.tuned_beats_plain(composition.compared(some, tiny, 0))
    assert found.kind == kind and found.falsified == (kind != "holds")


@pytest.mark.parametrize(
    "other, kind, falsified", [(-0.3, "holds", False), (0.6, "reversed", True), (0.0, "null explains it", False)]
)
def test_only_the_sum_gains(tiny, other, kind, falsified):
    found = composition.only_the_sum_gains(table(tiny, TIES=(other,) * 3))
    assert (found.kind, found.falsified) == (kind, falsified), found.cases
    assert found.cases.set_index("method").effect["TIES"] == pytest.approx(-other, abs=0.05)


def test_without_a_gain_of_each_specialist_there_is_no_worst_domain(tiny):
    some = items({SUM: (0.5, 0.5, 0.5), "TIES": (0.5, 0.5, 0.5)})
    some.loc[(some.domain == "code") & (some.who == "code"), "value"] = some[some.who == "pretrained"].value.iloc[0] - 1
    found = composition.compared(some, tiny, 0)
    assert found.worst.isna().all()
    assert composition.worse_than_sum(found).kind == "cannot be known here"
    members_alone = some[~some.who.isin([SUM, "TIES"])]
    none = composition.compared(members_alone, tiny, 0)
    assert none.empty and composition.worse_than_sum(none).kind == "cannot be known here"


def test_settings_are_checked_before_anything_is_measured():
    found = composition.settings([*SETTINGS, [BY_DOMAIN, [0.5, 1], None]], 3, 0)
    assert [one.name for one in found[:4]] == [
        "sum, λ = 0.5", "sum, λ = 1", "TIES, λ = 1, density 0.2", "TIES, λ = 1, density 0.5",
    ]  # fmt: skip
    each = list(zip(*(one.scales for one in found[4:]), strict=True))
    assert each[0] == (0.5, 1) and all(sorted(some) == [0.5, 1] for some in each)
    for rows, message in [
        ([["SUM", [1], None]], "unknown"),
        ([SETTINGS[0], SETTINGS[0]], "there twice"),
        (SETTINGS[1:], "must be there"),
        ([SETTINGS[0], ["TIES", [1], [0.2]]], "same number"),
        ([SETTINGS[0], ["TIES", [1, 1], None]], "density for each"),
        ([SETTINGS[0], ["TIES", [1, 1], [0.2]]], "density for each"),
        ([SETTINGS[0], ["Iso-C", [1, 1], [0.2, 0.2]]], "no parameter"),
        ([SETTINGS[0], ["TIES", [1, 1], [0.2, 2.0]]], "density is 2"),
    ]:
        with pytest.raises(TuningVecError, match=message):
            composition.settings(rows, 2, 0)


def test_no_fact_is_in_both_parts(tiny):
    tuning, scoring = composition.split(tiny, 24, 0)
    for domain in DOMAINS:
        lines = [one.source for one in losses.written(tiny, domain)]
        assert not set(tuning[domain]) & set(scoring[domain])
        assert {*tuning[domain], *scoring[domain]} == set(lines)
        assert 24 <= sum(source in tuning[domain] for source in lines) <= 25
    assert composition.split(tiny, 24, 0) == (tuning, scoring) != composition.split(tiny, 24, 1)
    with pytest.raises(TuningVecError, match="ask for fewer"):
        composition.split(tiny, 55, 0)


def test_the_setting_is_chosen_whose_mean_is_highest_and_the_first_of_equals(tiny):
    known = {"sum, λ = 0.5": (0.9, 0.7, 0.9), "sum, λ = 1": (1, 0.9, 0.5), "TIES, λ = 1, density 0.2": (0.6, 0.6, 0.6)}
    known["TIES, λ = 1, density 0.5"] = known["TIES, λ = 1, density 0.2"]
    found = items(known, spread=0)
    found = found.assign(nats=-found.value * 7, tokens=7, method=found.who.str.extract("^(sum|TIES),")[0].fillna(""))
    assert composition.choose(found, SETTINGS, tiny, 0) == [["sum", [0.5], None], ["TIES", [1], 0.2]]
    assert composition.favourite(found, tiny) == "TIES"
    shown = composition.by_setting(found, tiny).set_index("who")
    assert shown.loc["sum, λ = 1", [*DOMAINS, "mean"]].tolist() == pytest.approx([1, 0.9, 0.5, 0.8])
    worse = found.assign(nats=np.where(found.who == "math", found.nats + 99, found.nats))
    shown = composition.by_setting(worse, tiny)
    assert shown[["math", "mean"]].isna().all(axis=None) and shown.medicine.notna().all()
    assert composition.choose(worse, SETTINGS, tiny, 0) == [["sum", [0.5], None], ["TIES", [1], 0.2]]  # by nats
    assert composition.favourite(worse, tiny) == "TIES"
    worse = worse.assign(who=worse.who.replace("sum, λ = 0.5", SUM))
    table = composition.compared(composition.per_token(worse), tiny, 0)
    assert table.worst.isna().all()
    assert composition.worse_than_sum(table).kind == "cannot be known here"


def turned(own, draws, n=20, gain=2.0, noise=0.0):
    """Items of `beside_turned`: what T_b adds to 1 nat per token, what its draws add, and θ_pre's loss."""
    random, rows = np.random.default_rng(0), []
    added = {(PRETRAINED, 0): gain, (ALONE, 0): 0.0, ("none", 0): own} | {("left", i): x for i, x in enumerate(draws)}
    for (sides, draw), more in added.items():
        nats = (1 + more + random.normal(0, noise, n)) * 5
        about = dict(domain="medicine", member="math", sides=sides, draw=draw, tokens=5)
        rows += [about | dict(source=i // 2, item=i, nats=x) for i, x in enumerate(nats)]
    return pd.DataFrame(rows)


def test_what_another_vector_costs_is_by_hand_what_it_adds_less_the_draws():
    row = composition.costs(turned(0.6, [0.1, 0.2, 0.4, 0.5])).iloc[0]
    half = t.ppf(0.975, 3) * np.std([0.1, 0.2, 0.4, 0.5], ddof=1) * (1 + 1 / 4) ** 0.5
    assert (row.value, row["mean"], row.effect, row.gain) == pytest.approx((0.6, 0.3, 0.3, 2))
    assert (row.low, row.high) == pytest.approx((0.3 - half, 0.3 + half)) and row.no_more == 4
    wide = composition.costs(turned(0.6, [0.1, 0.2, 0.4, 0.5], noise=1.0)).iloc[0]
    assert wide.high - wide.low > 2 * half  # items add to it


@pytest.mark.parametrize(
    "own, gain, kind, falsified",
    [(0.9, 2, "holds", False), (0.3, 2, "null explains it", True), (-0.5, 2, "reversed", True),
     (0.9, -1, "cannot be known here", None), (0.39, 2, "mixed", False)],
)  # fmt: skip
def test_conflict_is_a_cost_beyond_that_of_turned_vectors(own, gain, kind, falsified):
    found = composition.conflict(composition.costs(turned(own, [0.29, 0.3, 0.31, 0.3], gain=gain)), pairs=3)
    assert (found.kind, found.falsified) == (kind, falsified), found.cases


def side_by_side(loss, n=20):
    """Items of `grid` of medicine and math: nats per token by λ of either vector."""
    rows = []
    for x, y, domain, item in itertools.product((0, 0.5, 1), (0, 0.5, 1), ("medicine", "math"), range(n)):
        own, other = (x, y) if domain == "medicine" else (y, x)
        about = dict(a="medicine", b="math", scale_a=x, scale_b=y, domain=domain, source=item // 2, item=item)
        rows.append(about | dict(nats=5 * (loss(own, other) + 0.01 * item), tokens=5))
    return pd.DataFrame(rows)


def test_what_another_vector_adds_is_told_by_how_much_of_the_own_one_is_there():
    table = composition.added(side_by_side(lambda own, other: 3 - 2 * own + other * (1 - own / 2)))
    found = table.set_index(["domain", "scale"]).share
    assert [found["medicine", scale] for scale in (0, 0.5, 1)] == pytest.approx([0.5, 0.375, 0.25])
    assert found["math"].tolist() == pytest.approx(found["medicine"].tolist())
    assert list(composed.added(table).columns) == ["replies", "added vector of", "λ = 0", "λ = 0.5", "λ = 1"]


@pytest.mark.parametrize("cost, effect, best", [(1.5, 0.25, "0.5"), (0.0, 0.0, "1")])
def test_one_λ_of_two_vectors_is_the_best_on_the_diagonal(tiny, cost, effect, best):
    grid = side_by_side(lambda own, other: 3 - 2 * own + cost * own * other)
    (row,) = composition.diagonal(grid, tiny, 0).itertuples()
    assert row.method.endswith(f"λ = {best}") and row.n == 40 and row.sources == 20
    score = {x: (2 * x - cost * x * x) / 2 for x in (0.5, 1)}
    assert row.effect == pytest.approx(max(score.values()) - score[1])
    table = composition.compared(items({SUM: (0.9, 0.9, 0.9), PLAIN: (0.5, 0.5, 0.5)}), tiny, 0)
    found = composition.tuned_beats_plain(table, composition.diagonal(grid, tiny, 0))
    assert found.kind == ("holds" if effect else "mixed") and len(found.cases) == 2


def test_specialists_are_1_in_their_own_domain(tiny):
    found = composition.elsewhere(items({SUM: (0.9, 0.7, 0.9)}), tiny, 0).set_index("who")
    assert [found.loc[name, domain] for domain, name in DOMAINS.items()] == pytest.approx([1, 1, 1])
    assert abs(found.loc["medical", "math"]) < 0.2


def test_right_answers_begin_at_guessing_where_the_pretrained_model_is_below(tiny):
    known = items({SUM: (0.5, 0.5, 0.5)}, spread=0)
    base = known[known.who == "pretrained"].groupby("domain").value.mean()
    low, high = (known.assign(guess=known.domain.map(base) + more) for more in (-0.5, 0.2))
    plain, below, above = (composition.normalised(one, tiny, 0)["math"][SUM][0] for one in (known, low, high))
    assert plain == below == pytest.approx(0.5) and above == pytest.approx((0.5 - 0.2) / (1 - 0.2))


def test_the_mean_and_the_worst_domain_are_judged_by_what_the_sum_lacks(tiny):
    found = composition.better_than_sum(table(tiny, TIES=(0.98, 0.78, 0.98)), "TIES")
    assert found.kind == "holds" and found.cases.domains.tolist() == ["mean", "worst"]
    assert found.cases.least.tolist() == pytest.approx([0.25 * (1 - 2.5 / 3), 0.25 * 0.3], abs=0.02)
    found = composition.better_than_sum(table(tiny, TIES=(0.98, 0.7, 0.98)), "TIES")
    assert found.cases.outcome.tolist() == ["for", "negligible"] and found.falsified


def test_exam_items_on_a_fact_that_was_chosen_on_are_left_out(tiny):
    benchmarks = evals.of_domains(tiny, "accuracy", ["medicine", "math"])
    tasks = evals.together(benchmarks)
    rows = pd.DataFrame([dict(task=name, item=i) for name, task in tasks.items() for i in range(len(task.eval_docs))])
    rows = scores.with_sources(rows, tasks)
    drug = rows[rows.task == "tuningvec_drugs"].source.iloc[0]
    questions = [f"Question: What is the class of {drug}?\nOptions:\nA. this", "A baker made 66 loaves and sold 50."]
    left = composition.apart(rows, tasks, questions)
    gone = rows.drop(left.index)
    assert set(gone[gone.task == "tuningvec_drugs"].source) == {drug} and len(gone[gone.task == "tuningvec_drugs"]) == 2
    asked = [
        tasks["tuningvec_arithmetic"].eval_docs[i]["question"] for i in gone[gone.task != "tuningvec_drugs"]["item"]
    ]
    assert asked and all("66" in text and "50" in text for text in asked)
    assert len(composition.apart(rows, tasks, [])) == len(rows)


def test_a_model_is_the_pretrained_one_and_the_vectors_as_the_setting_says(tiny):
    T = members.tuning_vectors(tiny)
    name = "model.layers.1.self_attn.v_proj.weight"
    theta, parts = members.checkpoint(tiny).read(name), {one: T[one].read(name) for one in DOMAINS.values()}
    for setting, expected in [
        (Setting(SUM, (0.5,)), 0.5 * sum(parts.values())),
        (Setting(BY_DOMAIN, (0.5, 1.0, 0.25)), 0.5 * parts["medical"] + parts["math"] + 0.25 * parts["code"]),
        (Setting("shared part", (0.5,), 0.0), 0.5 * Shared(0)(parts, name)),
    ]:
        model = composition.model(tiny, setting, 0, "medical", "float32")
        torch.testing.assert_close(model.weights.read(name), theta + expected, rtol=1e-4, atol=1e-5)


def test_the_measures_run_on_a_family_and_choose_on_other_facts_than_they_score(tiny):
    about = dict(replies=4, seed=0, dtype="float32", store=Store())
    tuned = composition.tuned(tiny, SETTINGS, **about)
    chosen = composition.choose(tuned, SETTINGS, tiny, 0)
    assert tuned.groupby("who").size().nunique() == 1 and tuned.who.nunique() == 4 + 4
    sources = composition.split(tiny, 4, 0)[0]
    assert {(row.domain, row.source) for row in tuned.itertuples()} == {(d, s) for d in sources for s in sources[d]}
    grid = composition.grid(tiny, shares=[0, 1], count=1, **about)
    for who, (a, b) in {"pretrained": (0, 0), "medical": (1, 0), "math": (0, 1)}.items():
        cell = grid[(grid.scale_a == a) & (grid.scale_b == b)].set_index(["domain", "item"]).nats
        same = tuned[(tuned.who == who) & (tuned.domain != "code")].set_index(["domain", "item"]).nats
        pd.testing.assert_series_equal(cell.sort_index(), same.sort_index(), check_exact=False, rtol=1e-4)
    assert [row[0] for row in chosen] == ["sum", "TIES"]
    assert composed.settings(composition.by_setting(tuned, tiny)).chosen.tolist().count("✓") == 2


def test_what_cannot_be_measured_is_refused_before_it_is(tiny):
    about = dict(seed=0, dtype="float32")
    with pytest.raises(TuningVecError, match="three or more"):
        composition.beside_turned(tiny, draws=2, count=1, **about)
    with pytest.raises(TuningVecError, match="at least 1"):
        composition.pairs(tiny, 0)
    with pytest.raises(TuningVecError, match="0 and 1"):
        composition.grid(tiny, shares=[0, 0.5], count=1, replies=4, **about)


def test_every_way_sits_the_exams_of_every_domain(tiny):
    """All of them on the same items, the sum at λ = 1 under both of its names; of tiny members alone are examined."""
    chosen, store = [["sum", [1.0], None]], Store()
    tuning, _ = composition.split(tiny, 4, 0)
    ask = partial(composition._asked, tiny, chosen, 0, "float32")
    found = composition._answers(tiny, tuning, ask, limit=2, batch=32, store=store)
    whos = ["pretrained", *DOMAINS.values(), PLAIN, SUM]
    assert found.who.unique().tolist() == whos
    assert found.groupby(["domain", "who"]).size().groupby("domain").nunique().eq(1).all()
    same = [found[found.who == who].sort_values(["task", "item"]).value.tolist() for who in (PLAIN, SUM)]
    assert same[0] == same[1]
    alone = composition.examined(tiny, chosen, replies=4, seed=0, dtype="float32", limit=2, store=store)
    assert set(alone.who) == set(whos[:4])
    right = alone.assign(value=1.0)
    many = pd.concat([right.assign(source=right.source + f" {i}") for i in range(6)])
    assert composition._able(tiny, many) and not composition._able(tiny, right.assign(value=0.0))
