"""Neurons that were shuffled are found again, unrelated ones are not, and a short T cannot make them change places."""

import itertools
import json
import math
import pickle
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tuningvec.codec import decoded, encoded
from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import matching, models
from tuningvec.measures.corpus import Tokens
from tuningvec.measures.neurons import CRITERIA, DISTANCES
from tuningvec.recipes import tiny as recipe
from tuningvec.store import Store
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.delta import Combination
from tuningvec.weights.matching import (
    ORDERS,
    Permuted,
    apart,
    assignment,
    costs,
    in_one,
    layers_of,
    matched,
    neurons,
    room,
    shuffle,
)

ABOUT = dict(scales=[1, 64], depth=2, parts=2, tokens=48, seed=0)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tiny():
    """Of `tiny` the pretrained member, two specialists and a twin."""
    whole = Family.load("tiny")
    kept = [m for m in whole.fine_tuned if m.name in ("medical", "math", "twin")]
    return whole.model_copy(update=dict(fine_tuned=kept))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def found(tiny, store):
    return matching.study(tiny, "float32", **ABOUT, store=store)


@given(st.integers(0, 2**16), st.floats(0, 0.3))
def test_permuted_neurons_are_found(seed, size):
    X, order = normal(40, 24, seed=seed), shuffle("m", 0, 40, seed)
    moved = X + size * normal(40, 24, seed=seed + 1)
    match = matched(X, moved[order])
    assert torch.equal(order[match.order], torch.arange(40))
    assert match.fixed == int((match.order == torch.arange(40)).sum())


def test_the_assignment_is_the_best_of_all():
    S = normal(6, 6)
    best = max(itertools.permutations(range(6)), key=lambda p: sum(S[j, i].item() for j, i in enumerate(p)))
    assert assignment(S).tolist() == list(best)
    with pytest.raises(TuningVecError, match="not a number"):
        assignment(S / 0)


def test_the_gain_is_the_share_of_the_squared_distance():
    X, Y = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[0, 2.0], [2, 0]])
    match = matched(X, Y)  # 5 + 8 apart as they are, 1 + 0 the other way round
    assert match.order.tolist() == [1, 0] and match.fixed == 0
    assert match.gain == pytest.approx(1 - 1 / 13)
    assert matched(X, X).gain == 0 and matched(X, X).fixed == 2


def test_parts_count_alike():
    parts = dict(W_gate=100 * normal(50, 8), W_up=normal(50, 8, seed=1), W_down=0.01 * normal(50, 8, seed=2))
    lengths = in_one(parts, parts).square().reshape(50, 3, 8).sum((0, 2))
    torch.testing.assert_close(lengths, torch.full((3,), 50.0))
    parts["W_up"].zero_()
    assert torch.isfinite(in_one(parts, parts)).all()


def test_room_by_hand():
    found = room(torch.tensor([[0.0, 0], [2, 0], [0, 6]]), torch.tensor([[0.5, 0], [0, 0], [0, 3]]))
    assert found.margin.tolist() == pytest.approx([2 / 1, math.inf, 6 / 6])
    assert found.swap.tolist() == [2, math.inf, math.inf]  # half of the way; the third moves away from both


@given(st.integers(0, 2**16), st.floats(0.01, 1), st.floats(0.01, 3))
def test_the_bound_is_never_broken_and_the_swap_is_where_it_happens(seed, size, scale):
    X, T = normal(20, 6, seed=seed).double(), size * normal(20, 6, seed=seed + 1).double()
    margin, swap = room(X.float(), T.float())
    assert (margin <= swap * (1 + 1e-5)).all()
    nearest = torch.cdist(X + scale * T, X).argmin(1)
    own = torch.arange(20)
    assert (nearest == own)[scale < margin * (1 - 1e-4)].all()
    assert (nearest == own)[scale < swap * (1 - 1e-4)].all() and (nearest != own)[scale > swap * (1 + 1e-4)].all()
    below = 0.999 * margin.min()
    assert torch.equal(assignment((X + below * T) @ X.T), own)  # ⟨x_j + λt_j, x_i⟩, whichever way round


def test_distances_of_neurons_are_those_of_torch():
    X = normal(12, 5)
    found = apart(X)
    assert torch.isinf(found.diagonal()).all()
    torch.testing.assert_close(
        found.fill_diagonal_(0).sqrt(), torch.cdist(X, X).double().fill_diagonal_(0), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3"])
def test_a_shuffled_model_is_the_same_function_with_other_weights(make_checkpoint, architecture):
    like = Checkpoint(make_checkpoint("m", architecture))
    weights = Combination({like: 1})
    permuted = Permuted(weights, like, "m", 0)
    ids = torch.randint(1, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    one, other = (models.load(w, like)(ids).logits for w in (weights, Combination({permuted: 1})))
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    for layer, place in layers_of(like).items():
        before, after, order = neurons(weights, place), neurons(permuted, place), shuffle("m", layer, 48, 0)
        assert all(torch.equal(after[kind], before[kind][order]) for kind in before)
        match = matched(in_one(before, before), in_one(after, before))
        assert torch.equal(order[match.order], torch.arange(48)) and match.gain == pytest.approx(1)
        name = place["W_down"][0]
        assert torch.equal(permuted.read(name, slice(3, 9)), permuted.read(name)[3:9])
    other_seed = Permuted(weights, like, "m", 1)
    assert not torch.equal(other_seed.read(name), permuted.read(name))


def test_neurons_are_found_by_their_activations():
    A = normal(200, 30)
    order = shuffle("m", 0, 30, 0)
    noisy = 3 * A + 1 + 0.5 * normal(200, 30, seed=1)  # a scale and a place are no difference
    assert torch.equal(order[assignment(matching.correlations(A, noisy[:, order]))], torch.arange(30))
    expected = np.corrcoef(A.T, noisy.T)[:30, 30:]
    np.testing.assert_allclose(matching.correlations(A, noisy), expected, atol=1e-5)
    A[:, 3] = 1
    assert (matching.correlations(A, noisy)[3] == 0).all()


@pytest.mark.parametrize("packed", [True, False])
def test_activity_is_that_of_torch_hooks_without_the_first_token_of_a_row(make_checkpoint, packed):
    model = AutoModelForCausalLM.from_pretrained(make_checkpoint("m"), dtype=torch.float32).eval()
    lengths = torch.tensor([5, 3, 7, 6], dtype=torch.int32)
    flat = torch.randint(1, 64, (21,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    read = Tokens(flat, lengths, 6, packed, 21)
    found = matching.activity(model, [[read, read]], [1])
    ids, mask = read.rows()
    inputs = []
    model.model.layers[1].mlp.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids.long(), attention_mask=mask.long())
        mlp = model.model.layers[1].mlp
        keep = mask.clone()
        keep[:, 0] = False
        x = inputs[-1][keep]
        A = F.silu(mlp.gate_proj(x))
        Au = A * mlp.up_proj(x)
    torch.testing.assert_close(found.outputs[0], torch.cat([Au, Au])[None], rtol=1e-4, atol=1e-6)
    (profile,) = found.profiles
    assert profile.tokens == 2 * int(keep.sum()) and torch.equal(profile.active[0], 2 * (A > 0).sum(0))
    torch.testing.assert_close(profile.A[0], 2 * A.double().sum(0), rtol=1e-4, atol=1e-5)


def test_a_model_without_gated_layers_is_refused():
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    model.get_decoder().layers = model.transformer.h
    with pytest.raises(TuningVecError, match="GPT2LMHeadModel: no gated feed-forward layers"):
        matching.activity(model, [], [0])


@pytest.mark.parametrize("count", [3, 4, 5])
def test_chance_is_that_of_all_permutations(count):
    fixed = [sum(i == j for i, j in enumerate(p)) for p in itertools.permutations(range(count))]
    times, known = Counter(fixed), matching.chance(count, 1)
    assert known == pytest.approx([times[k] / len(fixed) for k in range(count + 1)])
    both = Counter(a + b for a, b in itertools.product(fixed, fixed))
    assert matching.chance(count, 2) == pytest.approx([both[k] / len(fixed) ** 2 for k in range(2 * count + 1)])


def test_of_many_neurons_chance_is_poisson():
    known = matching.chance(352, 4)
    assert known[:30] == pytest.approx(poisson.pmf(range(30), 4), abs=1e-12)
    assert known.sum() == pytest.approx(1) and known @ np.arange(len(known)) == pytest.approx(4)


def test_fixed_points_of_unrelated_neurons_are_at_chance():
    draws = 150
    counts = [matched(normal(40, 12, seed=i), normal(40, 12, seed=1000 + i)).fixed for i in range(draws)]
    known = matching.chance(40, draws)
    assert 0.01 < known[: sum(counts) + 1].sum() < 0.99
    assert np.var(counts) == pytest.approx(1, abs=0.5)


def test_a_model_is_matched_with_its_own_initialisation_and_with_no_other(tiny):
    like = members.checkpoint(tiny)
    own, another = (matching.Untrained(like, 4, seed) for seed in (recipe.SEED, recipe.SEED + 1))
    trained = Combination({like: 1})
    for place in layers_of(like).values():
        X, Y, Z = (neurons(weights, place) for weights in (trained, own, another))
        assert matched(in_one(X, X), in_one(Y, X)).fixed == 352
        assert matched(in_one(X, X), in_one(Z, X)).fixed < 8  # of random permutations 1 in 100,000 has as many


def test_untrained_weights_follow_from_their_seed_and_leave_other_draws_alone(tiny):
    like, state = members.checkpoint(tiny), torch.random.get_rng_state()
    one, again, other = (matching.Untrained(like, 2, seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state()) and repr(one) == repr(again) != repr(other)
    name = "model.layers.1.mlp.up_proj.weight"
    sent = pickle.loads(pickle.dumps(one))
    assert torch.equal(one.read(name), sent.read(name)) and repr(one) == repr(sent)
    assert torch.equal(one.read(name), again.read(name)) and not torch.equal(one.read(name), other.read(name))
    assert torch.equal(one.read(name, slice(2, 5)), one.read(name)[2:5]) and one.shapes[name] == like.shapes[name]
    assert max(int(n.split(".")[2]) for n in one.shapes if ".layers." in n) == 1


def test_pairs_are_the_pretrained_member_specialists_and_controls(tiny):
    assert matching.pairs_of(tiny) == [
        *(("pretrained", other) for other in ("medical", "math", "twin")), ("medical", "math"), ("medical", "twin"),
    ]  # fmt: skip
    assert matching.spread_out(30, 4) == [0, 10, 19, 29] and matching.spread_out(3, 8) == [0, 1, 2]


def test_members_of_tiny_need_no_matching(found):
    verdict = matching.need_no_matching(found.matches)
    assert verdict.kind == "holds" and verdict.falsified is False and len(verdict.cases) == 10
    assert verdict.numbers["chance"] == pytest.approx(1 - 1 / 352)
    again = matching.found_again(found.matches)
    assert again.kind == "holds" and set(again.cases.by) == {"weights", "activations"}
    rows = found.matches[found.matches.b.str.endswith(", shuffled")]
    assert (rows.right == rows.neurons).all() and rows.fixed.max() < 10
    assert matching.too_short(found.margins).kind == "holds"


def test_unrelated_models_are_at_chance(found):
    counted = matching.fixed_by_chance(found.matches)
    assert len(counted) == 4 and (counted.expected == 2).all() and (counted.p > 0.01).all()
    verdict = matching.not_found(found.matches)
    assert verdict.falsified is False and (verdict.cases.low < 0).all() and (verdict.cases.high > 0).all()


def test_matching_by_the_identity_changes_no_bit_and_a_wrong_order_changes_all(found):
    taken = matching.in_orders(found.cosines, found.alignment)
    assert list(taken) == ["what", "of", *ORDERS]
    for same in ("matched", "wrong, then matched"):
        assert (taken[same] == taken["as they are"]).all()
    cosines, SSA = (taken[taken.what == what] for what in ("cosine", "SSA"))
    assert cosines["a wrong order each"].between(0.45, 0.55).all() and (cosines["one wrong order"] > 0.98).all()
    assert (SSA["a wrong order each"] > SSA["as they are"]).all()
    assert matching.same_T(taken).kind == "holds" and "follows" in matching.same_T(taken).why
    distances = matching.by_order(found.distances)
    assert (distances.weights == distances.before).all() and (distances.wrong > 2 * distances.before).all()
    assert len(distances) == 2 * len(CRITERIA) * len(DISTANCES)
    assert matching.same_distances(found.distances).kind == "holds"


def test_a_longer_T_moves_neurons(found):
    moved = found.scaled.groupby("scale").moved.mean()
    assert moved[1] == 0 < moved[64]
    assert (found.margins.least <= found.margins["first"]).all() and (
        found.margins["first"] <= found.margins.percent
    ).all()
    rows = found.scaled.merge(found.margins, on=["member", "layer"])
    assert (rows.moved[rows.scale < rows["first"]] == 0).all()


def test_what_was_measured_is_not_measured_again_and_ships(found, tiny, store, monkeypatch):
    monkeypatch.setattr(matching, "activity", lambda *_: 1 / 0)
    monkeypatch.setattr(matching.Study, "of_layer", lambda *_: 1 / 0)
    again = matching.study(tiny, "float32", **ABOUT, store=store)
    shipped = decoded(json.loads(json.dumps(encoded(found))))
    for name, table in found._asdict().items():
        pd.testing.assert_frame_equal(getattr(again, name), table)
        pd.testing.assert_frame_equal(getattr(shipped, name), table)


def pairs(fixed, b="medical", by="weights", right=None):
    """Matches of one pair with so many fixed points of 100, by part."""
    rows = [dict(a="pretrained", b=b, by=by, part=i, layer=0, neurons=100, fixed=n) for i, n in enumerate(fixed)]
    return pd.DataFrame(rows).assign(right=fixed if right is None else right, gain=0.0, own=1.0, other=0.0)


def test_neurons_that_move_are_told():
    found = pd.concat([pairs([80]), pairs([90, 91, 90, 91], by="activations")])
    verdict = matching.need_no_matching(found)
    assert verdict.kind == "differs" and verdict.falsified
    assert verdict.cases.effect.tolist() == pytest.approx([0.2, 0.095])
    assert verdict.cases.low[0] == verdict.cases.effect[0] and verdict.cases.low[1] < 0.095 < verdict.cases.high[1]
    lost = matching.found_again(pairs([0], "medical, shuffled", right=[60]))
    assert lost.kind == "differs" and lost.falsified


def test_one_layer_that_moves_is_not_lost_in_the_mean():
    rows = pd.concat([pairs([100]).assign(layer=layer) for layer in range(29)] + [pairs([71]).assign(layer=29)])
    verdict = matching.need_no_matching(rows)
    assert verdict.kind == "differs" and verdict.cases.effect.item() == pytest.approx(0.29)
    assert "Layers: 30 by weights" in verdict.rule


def test_a_count_beyond_chance_differs_however_small():
    found = pd.concat([pairs([5], matching.FRESH[1]).assign(layer=layer, neurons=1536) for layer in range(4)])
    assert matching.fixed_by_chance(found).p[0] < 1e-6
    assert matching.not_found(found).kind == "differs" and matching.not_found(found).falsified
    chance = pd.concat([pairs([1], matching.FRESH[1]).assign(layer=layer, neurons=1536) for layer in range(4)])
    assert matching.not_found(chance).kind == "holds"


def test_a_related_model_is_told_from_an_untrained_one():
    found = pairs([60], matching.FRESH[1])
    assert matching.not_found(found).kind == "differs" and matching.not_found(found).falsified
    assert matching.fixed_by_chance(found).p[0] < 1e-30
    assert matching.fixed_by_chance(pairs([1], matching.FRESH[1])).p[0] == 1


def test_a_T_that_reaches_another_neuron_is_told():
    margins = pd.DataFrame([dict(member="m", layer=0, r=2.0, median=0.5, least=0.1, first=0.4, percent=0.5)])
    assert matching.too_short(margins).kind == "reversed" and matching.too_short(margins).falsified
    near = matching.too_short(margins.assign(first=1.5))
    assert near.kind == "differs" and near.falsified is False


def test_distances_and_cosines_that_change_are_told():
    keys = itertools.product(("edit", "hamming"), range(4))
    rows = [dict(member="m", criterion="mean", distance=d, part=part, layer=0) for d, part in keys]
    values = dict(before=0.3, weights=0.1, activations=0.3, wrong=0.5)
    verdict = matching.same_distances(pd.DataFrame(rows).assign(**values))
    assert verdict.kind == "mixed" and verdict.falsified and verdict.numbers["largest"] == pytest.approx(0.2)
    taken = pd.DataFrame([dict(what="cosine", of="a, b") | dict.fromkeys(ORDERS, 0.1) | dict(matched=0.4)])
    assert matching.same_T(taken).kind == "differs" and matching.same_T(taken).falsified


def test_vectors_that_leave_neurons_alone_have_no_cosine(tiny):
    empty = {name: pd.DataFrame(columns=columns) for name, columns in matching.COLUMNS.items()}
    taken = matching.in_orders(empty["cosines"], empty["alignment"])
    assert taken.empty and list(taken) == ["what", "of", *ORDERS]
    assert matching.same_T(taken).kind == "cannot be known here"


def test_texts_share_no_document_and_are_cut(tiny):
    like = models.Opened(tiny, "pretrained")
    read = matching.texts(tiny, like, 3, 40, None)
    assert [sum(one.count for one in part) for part in read] == [40, 40, 40]
    assert all(int(one.lengths.sum()) == one.count and (one.lengths > 0).all() for part in read for one in part)
    with pytest.raises(TuningVecError, match="5000 parts need as many"):
        matching.texts(tiny, like, 5000, 40, None)


@pytest.mark.parametrize("wrong", [dict(depth=0), dict(parts=1), dict(tokens=1), dict(scales=[1, -1])])
def test_parameters_out_of_range_are_refused(tiny, wrong):
    with pytest.raises(TuningVecError, match="give at least 1 layer"):
        matching.study(tiny, "float32", **(ABOUT | wrong))


def test_costs_are_fitted_to_all_but_the_largest_and_extrapolated():
    table = matching.costs_of_layers(14336)
    assert set(table.pair) == {"members", "unrelated"}
    assert (table.gigabytes == 16 * table.neurons**2 / 1e9).all()
    last = table[table.neurons == 14336]
    assert len(last) == 2 and last[["product", "assignment"]].isna().all(axis=None)
    for _, rows in table.groupby("pair"):
        for what in ("product_fit", "assignment_fit"):
            powers = np.diff(np.log(rows[what])) / np.diff(np.log(rows.neurons))
            assert powers == pytest.approx(powers[0]) and 1 < powers[0] < 4
    rows = list(costs([16, 32]))
    assert [row["neurons"] for row in rows] == [16, 16, 32, 32] and list(rows[0]) == list(table)[:4]
