import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import models, neurons
from tuningvec.measures.corpus import Tokens
from tuningvec.measures.neurons import Profile, Profiles, activation_profile, distances, profiles, total
from tuningvec.store import Store

GATED = ["llama", "qwen2", "phi3", "gemma3", "qwen3", "mistral", "gemma2"]
FIELDS = ("active", "A", "Au")


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def tokens(rows=16, window=12, padding="right", seed=0):
    """Random tokens in rows of random length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 64, (rows, window), generator=generator, dtype=torch.int32)
    lengths = torch.randint(3, window + 1, (rows, 1), generator=generator)
    mask = torch.arange(window) < lengths
    return Tokens(ids, mask.flip(1) if padding == "left" else mask, rows, rows * window)


def by_hooks(model, given, batch):
    """Counts and sums of A and A · u, from the inputs of the feed-forward layers, token by token."""
    act = F.silu if "gemma" not in model.config.model_type else lambda x: F.gelu(x, approximate="tanh")
    found = [dict(active=0, A=0.0, Au=0.0) for _ in model.model.layers]
    for first in range(0, len(given.ids), batch):
        ids, mask = given.ids[first : first + batch].long(), given.mask[first : first + batch]
        inputs = {}
        hooks = [
            layer.mlp.register_forward_pre_hook(lambda _, args, i=i, to=inputs: to.__setitem__(i, args[0]))
            for i, layer in enumerate(model.model.layers)
        ]
        with torch.no_grad():
            model(input_ids=ids, attention_mask=mask.long())
        [hook.remove() for hook in hooks]
        for i, layer in enumerate(model.model.layers):
            mlp = layer.mlp
            with torch.no_grad():
                if hasattr(mlp, "gate_up_proj"):
                    gate, up = mlp.gate_up_proj(inputs[i]).chunk(2, -1)
                else:
                    gate, up = mlp.gate_proj(inputs[i]), mlp.up_proj(inputs[i])
                A = act(gate)
            for row, keep in zip(range(len(ids)), mask, strict=True):
                found[i]["active"] = found[i]["active"] + (A[row, keep] > 0).sum(0)
                found[i]["A"] = found[i]["A"] + A[row, keep].double().sum(0)
                found[i]["Au"] = found[i]["Au"] + (A * up)[row, keep].double().sum(0)
    return {name: torch.stack([layer[name] for layer in found]) for name in FIELDS}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("architecture", GATED)
def test_counts_equal_those_of_torch_hooks(make_checkpoint, architecture, padding, batch):
    model = load(make_checkpoint("m", architecture))
    given = tokens(padding=padding)
    found = total(activation_profile(model, given, batch=batch, shards=1))
    expected = by_hooks(model, given, batch)
    assert torch.equal(found.active, expected["active"]) and found.tokens == given.count
    torch.testing.assert_close(found.A, expected["A"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.Au, expected["Au"], rtol=1e-5, atol=1e-6)
    assert 0 < int(found.active.sum()) < found.active.numel() * given.count


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_counts_equal_those_of_torch_hooks_on_a_gpu(make_checkpoint):
    model, given = load(make_checkpoint("m")).cuda(), tokens()
    found = total(activation_profile(model, given, shards=1))
    on_gpu = Tokens(given.ids.cuda(), given.mask.cuda(), given.documents, given.asked)
    assert torch.equal(found.active, by_hooks(model, on_gpu, 8)["active"].cpu())


def test_counts_are_exact_in_bfloat16(make_checkpoint):
    model = load(make_checkpoint("m"), torch.bfloat16)
    given = tokens()
    found = total(activation_profile(model, given, shards=1))
    assert torch.equal(found.active, by_hooks(model, given, 8)["active"])


def test_the_output_head_is_never_computed(make_checkpoint):
    model = load(make_checkpoint("m"))
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    activation_profile(model, tokens())


def test_the_parts_of_a_corpus_add_up_to_the_whole(make_checkpoint):
    model, given = load(make_checkpoint("m")), tokens(rows=32)
    one, two = total(activation_profile(model, given, shards=1)), total(activation_profile(model, given, shards=4))
    assert torch.equal(one.active, two.active) and one.tokens == two.tokens == given.count
    torch.testing.assert_close(one.A, two.A, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupted_profile_continues_and_ends_identical(make_checkpoint, tmp_path, monkeypatch, seed):
    model, given = load(make_checkpoint("m")), tokens(rows=32)
    whole = activation_profile(model, given, batch=2, shards=4)
    stop, batches, real = random.Random(seed).randrange(1, 16), [], neurons._measure

    def counted(*arguments):
        batches.append(1)
        if len(batches) == stop:
            raise KeyboardInterrupt
        real(*arguments)

    def record():
        return Store(tmp_path / "store").record("profile", {}, [neurons])

    monkeypatch.setattr(neurons, "_measure", counted)
    with pytest.raises(KeyboardInterrupt):
        activation_profile(model, given, batch=2, shards=4, record=record())
    resumed = activation_profile(model, given, batch=2, shards=4, record=record())
    assert len(batches) == stop + 16 - (stop - 1) // 4 * 4  # batches of the parts that were not finished
    for one, other in zip(whole, resumed, strict=True):
        assert one.tokens == other.tokens
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def test_a_model_without_gated_layers_is_refused():
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0)
    with pytest.raises(TuningVecError, match="GPT2LMHeadModel: no gated feed-forward layer"):
        activation_profile(GPT2LMHeadModel(config), tokens())


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    return profiles(Family.load("tiny"), "float32", store), store


def test_stored_profiles_need_no_model(measured, monkeypatch):
    found, store = measured
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)
    again = profiles(Family.load("tiny"), "float32", store)
    for member, parts in found.parts.items():
        for one, other in zip(parts, again.parts[member], strict=True):
            assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)
    pd.testing.assert_frame_equal(found.read, again.read)
    with pytest.raises(ZeroDivisionError):
        profiles(Family.load("tiny"), "bfloat16", store)


def test_all_members_read_the_same(measured):
    read = measured[0].read
    assert read.digest.nunique() == 1 and (read.tokens == read.asked).all()
    assert read.member.tolist() == [m.name for m in Family.load("tiny").members]


def test_a_member_is_at_distance_zero_from_itself(measured):
    table = distances(measured[0], "pretrained", draws=3)
    own = table[table.member == "pretrained"]
    assert (own.edit == 0).all() and (own.hamming == 0).all() and (own.edit_null > 0).all()
    others = table[table.member != "pretrained"]
    assert (others.edit > 0).all() and (others.edit <= others.hamming).all() and (others.edit < others.edit_null).all()


def profile(A, tokens=10):
    A = torch.tensor(A, dtype=torch.float64)
    return Profile(tokens, (A > 0).long() * 6, A, A)


def two(pre, ft):
    """Two members of one layer, each with the same profile in every part."""
    parts = {"pre": [profile([pre])] * 2, "ft": [profile([ft])] * 2}
    return Profiles("text", parts, pd.DataFrame())


def test_an_edit_may_shift_a_pattern_and_hamming_may_not():
    table = distances(two([1.0, -1] * 4, [-1.0, 1] * 4), "pre", draws=50)
    row = table[(table.member == "ft") & (table.criterion == "mean")].iloc[0]
    assert row.hamming == 1 and row.edit == 2 / 8
    assert row.hamming_null == 0.5 and 0.2 < row.edit_null < 0.5


def test_random_places_are_as_far_as_random_places():
    generator = np.random.default_rng(0)
    table = distances(two(*(generator.choice([-1.0, 1], 400, p=[0.7, 0.3]).tolist() for _ in range(2))), "pre")
    row = table[(table.member == "ft") & (table.criterion == "half")].iloc[0]
    assert abs(row.edit - row.edit_null) < 4 * row.edit_null_sd
    assert row.hamming == pytest.approx(row.hamming_null, abs=0.1)


def test_the_two_criteria_differ_where_few_tokens_are_strong():
    rare = Profile(10, torch.tensor([[2, 8]]), torch.tensor([[5.0, 5.0]]).double(), torch.zeros(1, 2).double())
    assert rare.pattern("mean").tolist() == [[True, True]] and rare.pattern("half").tolist() == [[False, True]]
    with pytest.raises(TuningVecError, match="criterion is 'most'; one of mean, half"):
        rare.pattern("most")


def test_trends_tell_the_first_step_from_the_slope():
    shares = [0.6, 0.2, 0.3, 0.4, 0.5]
    counts = torch.tensor([[int(100 * share)] * 5 for share in shares])
    part = Profile(100, counts, torch.ones(5, 5).double(), torch.ones(5, 5).double())
    found = Profiles("text", {"pre": [part, part], "ft": [part, part]}, pd.DataFrame())
    row = neurons.trends(found).iloc[1]
    assert (row["step"], row.rho, row.gap) == (pytest.approx(-0.4), pytest.approx(1), 0)
    assert row.others == pytest.approx(0.1) and row.low == row.high == row["step"]
    table = neurons.shares(found)
    assert table.share.tolist() == pytest.approx(shares * 2) and (table["mean"] == 1).all()
