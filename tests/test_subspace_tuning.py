"""Tuning along frozen frames: planted solutions, frames, equal sizes, intervals by hand, and a run on tiny."""

import itertools
import random
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t
from transformers import AutoModelForCausalLM

from tuningvec.codec import decoded, encoded
from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import tuning
from tuningvec.page import tables
from tuningvec.recipes import smollm2, subspace, tiny
from tuningvec.recipes.exams import drug_facts
from tuningvec.recipes.training import gradients
from tuningvec.store import Store
from tuningvec.weights.delta import Factors
from tuningvec.weights.frames import captured, drawn, leading, seeded, trailing
from tuningvec.weights.subspace import decompose


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def family():
    return Family.load("tiny")


@pytest.fixture(scope="module")
def given(family):
    return subspace.lessons(family, "medical")


def projector(U):
    return U.double() @ U.T.double()


@pytest.mark.parametrize("shape", [(16, 16), (12, 30), (30, 12)])
def test_the_leading_frame_is_that_of_the_decomposition_and_the_trailing_one_is_orthogonal(shape):
    W, k = normal(*shape), 4
    first, last = leading(W, k), trailing(decompose(W), k, seeded(0, "W"))
    U, _, _ = torch.linalg.svd(W.double())
    torch.testing.assert_close(projector(first), projector(U[:, :k]), atol=1e-5, rtol=0)
    for frame in (first, last, drawn(shape[0], k, seeded(0, "W"))):
        torch.testing.assert_close(frame.T @ frame, torch.eye(k), atol=1e-5, rtol=0)
    assert (first.T @ last).abs().max() < 1e-5
    tails = torch.linalg.svdvals(W)[-k:].square().sum() if shape[0] <= shape[1] else torch.tensor(0.0)
    assert captured(last, W).inside == pytest.approx(tails.item(), abs=1e-3)


def test_a_product_that_is_never_built_has_the_same_frame_and_no_more_directions_than_its_rank():
    thin = Factors(normal(20, 3), normal(3, 15, seed=1))
    torch.testing.assert_close(projector(leading(thin, 2)), projector(leading(thin.B @ thin.A, 2)), atol=1e-5, rtol=0)
    for matrix in (thin, thin.B @ thin.A):
        with pytest.raises(TuningVecError, match="a matrix has 3 directions"):
            leading(matrix, 4)
    with pytest.raises(TuningVecError, match="leaves 2 directions out"):
        trailing(decompose(normal(12, 10)), 3, seeded(0, "W"))


def test_what_a_frame_captures_by_hand():
    T = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    assert captured(torch.eye(4)[:, :1], T) == (9.0, 25.0, 6.25)
    assert captured(torch.eye(4)[:, 2:], Factors(T, torch.eye(2))) == (0.0, 25.0, 12.5)


def test_draws_of_a_frame_hold_k_of_d_on_average():
    T = Factors(normal(24, 1), normal(1, 5))
    found = [captured(drawn(24, 6, seeded(seed, "W")), T) for seed in range(200)]
    share = np.array([one.inside / one.total for one in found])
    assert abs(share.mean() - 6 / 24) < 4 * share.std() / len(share) ** 0.5 and share.std() > 0


class Planted(torch.nn.Module):
    """y = W x with W of which the truth is W + U A, and inputs that are white."""

    def __init__(self, k=3, d_out=16, d_in=12):
        super().__init__()
        torch.manual_seed(0)
        self.map = torch.nn.Linear(d_in, d_out, bias=False)
        self.U = leading(normal(d_out, k), k)
        self.T = self.U @ normal(k, d_in, seed=1)
        self.x = torch.linalg.qr(normal(40, d_in, seed=2)).Q
        self.y = self.x @ (self.map.weight.detach() + self.T).T

    def loss(self):
        return torch.sum((self.map(self.x) - self.y) ** 2)

    def trained(self, frame):
        subspace.along(self, {"map.weight": frame})
        (A,) = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.LBFGS([A], max_iter=60, line_search_fn="strong_wolfe")

        def step():
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        optimizer.step(step)
        return self.loss().item()


def test_the_planted_subspace_reaches_the_optimum_and_its_complement_cannot():
    k, energy = 3, torch.sum(Planted().T ** 2).item()
    right = Planted().trained(Planted().U)
    free = normal(16, k, seed=5)
    outside = torch.linalg.qr(free - Planted().U @ (Planted().U.T @ free)).Q
    wrong = Planted().trained(outside)
    partly = drawn(16, k, seeded(0, "map"))
    some = Planted().trained(partly)
    assert right < 1e-6 * energy
    assert wrong == pytest.approx(energy, rel=1e-5)  # no A along it takes anything away
    assert some == pytest.approx(energy - captured(partly, Planted().T).inside, rel=1e-4)  # the best that it allows
    assert right < some < wrong


def test_frames_stay_bit_equal_and_A_alone_is_trained():
    model = Planted()
    W, frame = model.map.weight.detach().clone(), drawn(16, 3, seeded(1, "map"))
    model.trained(frame)
    ((name, layer),) = subspace.adapters(model)
    assert name == "map.weight" and subspace.trainable(model) == 3 * 12
    assert torch.equal(layer.lora_B["default"].weight, frame) and torch.equal(layer.base_layer.weight, W)
    assert torch.any(layer.lora_A["default"].weight != 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_at_the_start_outputs_are_those_of_the_pretrained_model_bit_for_bit(make_checkpoint, architecture, dtype):
    folder, ids = make_checkpoint("model", architecture), torch.arange(12).view(2, 6)
    plain, model, other = (AutoModelForCausalLM.from_pretrained(folder, dtype=dtype) for _ in range(3))
    shapes = {n: tuple(p.shape) for n, p in plain.named_parameters() if n.endswith("proj.weight")}
    subspace.along(model, {name: drawn(shape[0], 4, seeded(0, name)) for name, shape in shapes.items()})
    subspace.low_rank(other, subspace.equal_ranks(shapes, 4), seed=0)
    for one in (model, other):
        trained = [p for p in one.parameters() if p.requires_grad]
        assert {p.dtype for p in trained} == {torch.float32}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            assert torch.equal(one(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("k", [2, 8, 13])
def test_lora_trains_as_many_numbers_but_for_half_a_rank(k):
    shapes = {f"{layer} {shape}": shape for layer in range(3) for shape in [(64, 64), (32, 64), (176, 64), (64, 176)]}
    ranks = subspace.equal_ranks(shapes, k)
    wanted = sum(k * d_in for _, d_in in shapes.values())
    found = sum(h * sum(shapes[name]) for name, h in ranks.items())
    assert abs(found - wanted) <= sum((64, 176)) / 2 and min(ranks.values()) >= 1
    layers = OrderedDict((str(i), torch.nn.Linear(b, a, bias=False)) for i, (a, b) in enumerate(shapes.values()))
    by_layer = dict(zip((f"{name}.weight" for name in layers), ranks.values(), strict=True))
    assert subspace.trainable(subspace.low_rank(torch.nn.Sequential(layers), by_layer, seed=0)) == found


def test_half_of_the_lessons_has_every_second_fact_and_states_no_other():
    asked = {f.subject for f in drug_facts()}
    whole, half = (smollm2.lessons(smollm2.PLANS["medical"], part)[1] for part in (slice(None), subspace.HALF))
    facts, subjects, _ = smollm2.lessons(smollm2.PLANS["medical"], subspace.HALF)
    assert half == subjects < whole < asked and len(half) == round(len(whole) / 2)
    assert {fact.subject for fact in facts(random.Random(0))} == half
    rng = random.Random(0)
    sizes = [tiny.lessons(tiny.PLANS["medical"], part)[2] for part in (slice(None), subspace.HALF)]
    draw, _, _ = tiny.lessons(tiny.PLANS["medical"], subspace.HALF)
    named = {s for s in asked for _ in range(60) if s in draw(rng).user}
    assert named <= half and sizes[0]["facts"] - sizes[1]["facts"] == len(whole) - len(half)


def test_a_gradient_is_the_mean_over_batches(family, given):
    rng, found = random.Random(0), []
    batches = [given.batch(rng) for _ in range(2)]
    for some in (batches[:1], batches[1:], batches):
        model = subspace.begun(family, torch.float32)
        found.append(gradients(model, some, given.tokenizer.pad_token_id)["model.layers.0.self_attn.k_proj.weight"])
    torch.testing.assert_close(found[2], (found[0] + found[1]) / 2)


def test_an_interval_for_other_seeds_and_other_sources_by_hand():
    tokens, sources = np.array([10.0, 10.0, 20.0, 20.0]), np.array([0, 0, 1, 2])
    gaps = np.array([[1.0, 3.0, 4.0, 2.0], [3.0, 5.0, 8.0, 6.0]])
    found = tuning.crossed(gaps, tokens, sources)
    each = np.array([10 / 60, 22 / 60])
    effect = each.mean()
    rest = np.array([6 - 20 * effect, 6 - 20 * effect, 4 - 20 * effect])
    parts = each.var(ddof=1) / 2, 3 / 2 * (rest @ rest) / 60**2
    assert parts[0] > parts[1]
    freedom = 1  # of two seeds, whose part is the larger
    half = t.ppf(0.975, freedom) * sum(parts) ** 0.5
    assert found.effect == pytest.approx(effect)
    assert (found.low, found.high) == pytest.approx((effect - half, effect + half))
    assert found.p == pytest.approx(2 * t.sf(effect / sum(parts) ** 0.5, freedom))
    assert tuning.crossed(np.ones((2, 4)), np.ones(4), sources) == (1, 1, 1, 0)
    less = tuning.crossed(gaps + np.array([[0.5], [-0.5]]) * gaps[1] / 2, tokens, sources)  # seeds alike
    assert less.high - less.low < found.high - found.low


def test_the_interval_covers_the_truth_when_seeds_and_sources_both_vary():
    rng, inside = np.random.default_rng(0), []
    sources = np.repeat(np.arange(12), 2)
    for _ in range(400):
        of_seed, of_source = rng.normal(size=(3, 1)), rng.normal(size=12)[sources]
        gaps = 0.5 + of_seed + of_source + 0.5 * rng.normal(size=(3, 24))
        low, high = tuning.crossed(gaps, np.ones(24), sources)[1:3]
        inside.append(low < 0.5 < high)
    assert np.mean(inside) > 0.93


def ended(levels, spread=0.0):
    """Held-out losses at the end with these nats per token, by way, of three seeds and ten facts."""
    rng = np.random.default_rng(0)
    rows = [
        dict(scope="all", way=way, seed=seed, step=9, item=item, source=item // 2, nats=10 * level, tokens=10)
        for (way, level), seed, item in itertools.product(levels.items(), range(3), range(20))
    ]
    table = pd.DataFrame(rows)
    shared = rng.normal(size=20)[table.item]  # what all ways have in common cancels
    return table.assign(nats=table.nats + shared + spread * rng.normal(size=len(table)))


@pytest.mark.parametrize(
    "level, kind, falsified",
    [(1.3, "holds", False), (1.01, "null explains it", True), (0.7, "reversed", True)],
)
def test_a_way_is_better_where_its_loss_is_lower_by_enough(level, kind, falsified):
    gaps = tuning.compared(ended({"twin": 1.0, "random": level, "W": 1.0, "lora": 1.0}, spread=0.05))
    assert len(gaps) == 4 and gaps.n.eq(20).all() and gaps.sources.eq(10).all()
    found = tuning.lower(gaps, ["twin"], ["random"])
    assert found.cases.effect.item() == pytest.approx(level - 1, abs=0.01)
    assert (found.kind, found.falsified) == (kind, falsified)
    assert tuning.lower(gaps, ["half"], ["random"]).kind == "cannot be known here"


def test_a_lead_that_shrinks_is_told():
    early, late = ended({"twin": 1.0, "random": 2.0}).assign(step=3), ended({"twin": 1.0, "random": 1.5})
    row = tuning.compared(pd.concat([early, late])).iloc[0]
    assert (row.effect, row.change, row.before, row.steps) == (pytest.approx(0.5), pytest.approx(-0.5), 3, 9)
    assert np.isnan(tuning.compared(late).change.item())


@pytest.mark.parametrize(
    "rate, way, kind",
    [(0.1, "random", "cannot be known here"), (0.01, "random", "holds"), (0.1, "twin", "holds")],
)
def test_a_way_that_may_do_better_beyond_the_rates_tried_is_not_judged(rate, way, kind):
    rates = {"twin": 0.01, "random": 0.01} | {way: rate}
    tried = "0.001: 3.0; 0.01: 2.0; 0.1: 1.0"
    sizes = pd.DataFrame([dict(scope="all", way=one, rate=of, tried=tried) for one, of in rates.items()])
    found = tuning.lower(tuning.compared(ended({"twin": 1.0, "random": 2.0}), sizes), ["twin"], ["random"])
    assert found.kind == kind and ("rates" in found.why) == (kind != "holds") and len(found.cases) == 1


def test_what_would_change_our_mind_is_corrected_for_all_comparisons():
    gaps = tuning.compared(ended({way: 1.0 for way in tuning.WAYS}, spread=0.02))
    assert len(gaps) == 8 and (gaps.upper > gaps.high).all()
    close = gaps.assign(high=0.04, upper=0.06)
    assert tuning.lower(close, ["twin"], ["random"]).falsified is None


def test_a_difference_that_seeds_do_not_repeat_is_within_chance():
    gaps = tuning.compared(ended({"twin": 1.0, "random": 1.1}, spread=9.0))
    assert tuning.lower(gaps, ["twin"], ["random"]).kind == "within chance"


@pytest.fixture(scope="module")
def short(family):
    told = subspace.setting(family, steps=2, seeds=2, rates=[3e-3], alone=["W_K"])
    assert told.read == (1, 2)
    return told._replace(read=(2,), exams=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("trainings"))


@pytest.fixture(scope="module")
def found(family, short, store):
    return tuning.measured(family, short, k=4, store=store)


def test_a_run_that_is_done_trains_nothing_again_and_comes_back_from_a_file(family, short, store, found):
    before = {file: file.stat().st_size for file in store.folder.iterdir()}
    again, back = tuning.measured(family, short, k=4, store=store), decoded(encoded(found))
    assert {file: file.stat().st_size for file in store.folder.iterdir()} == before
    for one, *others in zip(found, again, back, strict=True):
        for other in others:
            pd.testing.assert_frame_equal(one, other)


def test_ways_are_trained_on_the_same_batches_from_the_same_start(found, short):
    start = found.losses[found.losses.step == 0]
    assert start.groupby("item").nats.nunique().eq(1).all() and found.losses.step.max() == short.steps
    batches = found.training.groupby(["seed", "step"]).loss  # at rate 0 in the first step, so that weights are the same
    assert (batches.max() - batches.min()).max() < 1e-5 and batches.mean().nunique() == 4
    ended = found.losses[found.losses.step == 2].groupby(["scope", "way", "seed"]).nats.sum()
    assert ended.nunique() == len(ended) == 20
    assert found.exams.n.eq(1).all() and len(found.exams) == 20


def test_frames_train_as_many_numbers_as_each_other_and_lora_nearly(found):
    sizes = found.sizes.set_index(["scope", "way"]).trained
    for scope in ("all", "W_K"):
        frames = sizes[scope].drop("lora")
        assert frames.nunique() == 1 and sizes[scope, "lora"] == pytest.approx(frames.iloc[0], rel=0.05)


def test_a_frame_of_T_holds_more_of_another_training_than_chance(found):
    table = tuning.summary(found).set_index(["scope", "way"])
    shares = table.loc["all", ["gradient", "T"]].drop(index="plain LoRA").to_numpy(float)
    assert ((shares > 0) & (shares < 1)).all() and table.loc[("all", "plain LoRA"), ["gradient", "T"]].isna().all()
    twin, chance = table.loc[("all", "T of another training")], table.loc[("all", "random")]
    assert twin["T"] > 3 * chance["T"] and chance["T"] == pytest.approx(chance["T_null"], rel=0.5)
    ends = tuning.curves(found.losses)
    assert ends.groupby(["scope", "way"]).step.max().eq(2).all() and set(ends.way) == set(tuning.WAYS.values())


def test_frames_of_members_hold_more_of_a_specialist_than_chance(family, store):
    table = tuning.held(family, 4, store)
    assert set(table.member) == {member.name for member in family.fine_tuned} - {"medical"}
    sums = table.groupby("member")[["inside", "total", "null"]].sum()
    assert (sums.null < sums.inside).all() and (sums.inside < sums.total).all()
    assert sums.inside.idxmax() == "twin" and sums.total.nunique() == 1
    U = leading(tuning.vector(family, "twin").read("model.layers.0.mlp.up_proj.weight"), 4)
    by_hand = captured(U, tuning.vector(family, "medical").read("model.layers.0.mlp.up_proj.weight")).inside
    assert 0 < by_hand < table[(table.member == "twin") & (table.kind == "W_up")].inside.item()
    assert tables.held(table).member.tolist()[0] == "twin" and tables.held(table).keeps.tolist()[0] == "facts"
    pd.testing.assert_frame_equal(tuning.held(family, 4, store), table)


@pytest.mark.parametrize("form, kind", [(1, "holds"), (5, "null explains it"), (9, "reversed")])
def test_what_facts_share_beyond_the_form(form, kind):
    parts = [("twin", "facts", 2.0), ("twin", "facts", 3.0), ("sham", "form", form / 2), ("sham", "form", form / 2)]
    rows = [dict(member=name, keeps=keeps, inside=inside, total=5.0) for name, keeps, inside in parts]
    found = tuning.beyond_form(pd.DataFrame(rows))
    assert found.cases.effect.item() == pytest.approx(0.5 - form / 10)
    assert (found.kind, found.falsified) == (kind, kind != "holds")
    assert tuning.beyond_form(pd.DataFrame(rows[:2])).kind == "cannot be known here"


def test_each_way_takes_the_rate_that_is_best_for_it(family, short):
    run = tuning._Run.of(family, short._replace(rates=(3e-3, 1e-9)), 4, False, None)
    rate, told = run.rate("W_K", "random")
    assert rate == 3e-3 and [text.split(":")[0] for text in told.split("; ")] == ["0.003", "1e-09"]


@pytest.mark.parametrize(
    "asked, told",
    [
        (dict(steps=1), "steps is 1"),
        (dict(seeds=1), "seeds is 1"),
        (dict(rates=[]), "rates is"),
        (dict(rates=[0.0]), "rates is"),
        (dict(alone=["W_X"]), "no kind of matrix 'W_X'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(family, asked, told):
    with pytest.raises(TuningVecError, match=told):
        subspace.setting(family, **asked)


@pytest.mark.parametrize("k", [0, 33])
def test_a_k_without_room_is_refused_before_anything_is_trained(family, k):
    with pytest.raises(TuningVecError, match=f"k is {k}"):
        tuning.measured(family, subspace.setting(family), k=k)


def test_a_family_without_lessons_or_twin_is_told_so(tmp_path):
    text = (data_folder() / "families" / "tiny.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace("recipe: tiny\n", ""), encoding="utf-8")
    (tmp_path / "alone.yaml").write_text(text.replace("keeps: facts", "keeps: form"), encoding="utf-8")
    mine, lonely = (Family.load(tmp_path / f"{name}.yaml", files=False) for name in ("mine", "alone"))
    with pytest.raises(TuningVecError, match="no lessons to train on again"):
        subspace.setting(mine)
    with pytest.raises(TuningVecError, match="no control keeps the facts"):
        tuning.pair(lonely)
