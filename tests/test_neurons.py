import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import models, neurons
from tuningvec.measures.corpus import Tokens
from tuningvec.measures.neurons import Profile, Profiles, activation_profile, distances, profiles, total
from tuningvec.store import Record, Store
from tuningvec.weights import delta
from tuningvec.weights.checkpoint import ALL, Checkpoint, Rotated
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Combination, Factors, TuningVector

GATED = ["llama", "qwen2", "phi3", "gemma3", "qwen3", "mistral", "gemma2"]
FIELDS = ("active", "A", "Au")


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def tokens(documents=16, window=12, packed=False, seed=0):
    """Documents of random tokens and length, each a row, or packed into rows."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, window + 1, (documents,), generator=generator, dtype=torch.int32)
    flat = torch.randint(1, 64, (int(lengths.sum()),), generator=generator, dtype=torch.int32)
    return Tokens(flat, lengths, window, packed, len(flat))


def by_hooks(model, given, batch):
    """Counts and sums of A and A · u, from the inputs of the feed-forward layers, token by token."""
    act = F.silu if "gemma" not in model.config.model_type else lambda x: F.gelu(x, approximate="tanh")
    found = [dict(active=0, A=0.0, Au=0.0) for _ in model.model.layers]
    device = model.device
    for first in range(0, len(given.rows().ids), batch):
        ids, mask = (x[first : first + batch].to(device) for x in given.rows())
        ids = ids.long()
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
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("architecture", GATED)
def test_counts_equal_those_of_torch_hooks(make_checkpoint, architecture, packed, batch):
    model = load(make_checkpoint("m", architecture))
    given = tokens(packed=packed)
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
    assert torch.equal(found.active, by_hooks(model, given, 8)["active"].cpu())


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
    model, given = load(make_checkpoint("m")), tokens(documents=32)
    one, two = total(activation_profile(model, given, shards=1)), total(activation_profile(model, given, shards=4))
    assert torch.equal(one.active, two.active) and one.tokens == two.tokens == given.count
    torch.testing.assert_close(one.A, two.A, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupted_profile_continues_and_ends_identical(make_checkpoint, tmp_path, monkeypatch, seed):
    model, given = load(make_checkpoint("m")), tokens(documents=32)
    whole = activation_profile(model, given, batch=2, shards=4)
    stop, batches, real = random.Random(seed).randrange(1, 16), [], neurons._measure

    def counted(*arguments):
        batches.append(1)
        if len(batches) == stop:
            raise KeyboardInterrupt
        real(*arguments)

    def record():
        return Store(tmp_path / "store").record("profile", {}, neurons.__name__)

    monkeypatch.setattr(neurons, "_measure", counted)
    with pytest.raises(KeyboardInterrupt):
        activation_profile(model, given, batch=2, shards=4, record=record())
    resumed = activation_profile(model, given, batch=2, shards=4, record=record())
    assert len(batches) == stop + 16 - (stop - 1) // 4 * 4  # batches of the parts that were not finished
    for one, other in zip(whole, resumed, strict=True):
        assert one.tokens == other.tokens
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def test_some_parts_are_measured_and_the_rest_later(make_checkpoint):
    model, given, record = load(make_checkpoint("m")), tokens(), Record()
    some = activation_profile(model, given, shards=4, parts=[0, 2], record=record)
    assert set(record.pieces) == {"0", "2"}
    whole = activation_profile(model, given, shards=4, record=record)
    assert all(torch.equal(one.A, whole[part].A) for one, part in zip(some, (0, 2), strict=True))


def test_fewer_documents_than_parts_are_refused_with_what_to_do(make_checkpoint):
    with pytest.raises(TuningVecError, match=r"gives 3 documents in \d+ tokens; 8 are needed.*cut long texts"):
        activation_profile(load(make_checkpoint("m")), tokens(documents=3))


def test_a_model_without_gated_layers_is_refused():
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0)
    with pytest.raises(TuningVecError, match="GPT2LMHeadModel: no gated feed-forward layer"):
        activation_profile(GPT2LMHeadModel(config), tokens())


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_a_rotated_vector_keeps_spectrum_and_row_space_and_loses_its_directions(make_checkpoint, architecture):
    theta, tuned = (Combination({Checkpoint(make_checkpoint(f"{i}", architecture, seed=i)): 1}) for i in range(2))
    T, (like,) = TuningVector.between(theta, tuned), theta.terms
    where = delta.places({"T": T}, like, MATRICES)
    matrices = {name: [c.rows or ALL for n, c in where if n == name] for name, _ in where}
    turned, again, other = (Rotated(T, matrices, seed) for seed in (0, 0, 1))
    for name, component in where:
        M, RM = (term.read(name, component.rows or ALL) for term in (T, turned))
        torch.testing.assert_close(RM.T @ RM, M.T @ M, rtol=1e-3, atol=1e-5)  # singular values and row space
        cosine = (M * RM).sum() / M.square().sum()
        assert abs(cosine) < 5 * ((M @ M.T).square().sum() / len(M)).sqrt() / M.square().sum()  # its spread: see delta
        assert torch.equal(RM, again.read(name, component.rows or ALL)) and not torch.equal(
            RM, other.read(name, component.rows or ALL)
        )
        torch.testing.assert_close(turned.read(name, slice(3, 9)), turned.read(name)[3:9], rtol=0, atol=0)
    for name in T.shapes.keys() - matrices.keys():
        assert torch.equal(turned.read(name), T.read(name))
    one, two = (f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2))
    same = Rotated(Tensors({n: T.read(one) for n in (one, two)}), {one: [ALL], two: [ALL]}, 0)
    assert not torch.equal(same.read(one), same.read(two))  # each tensor has a rotation of its own


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("sides", ["left", "both"])
def test_a_turned_matrix_keeps_its_singular_values_and_what_the_side_allows(rank, sides):
    generator = torch.Generator().manual_seed(0)
    B, A = (torch.randn(shape, generator=generator) for shape in ((40, rank or 24), (rank or 24, 24)))
    vector = Tensors({"w": B @ A})
    if rank:
        vector.factors = lambda name, rows=ALL: Factors(B, A)
    turned = [Rotated(vector, {"w": [ALL]}, seed, sides).read("w") for seed in range(300)]
    M, count = B @ A, torch.linalg.matrix_rank(B @ A)
    expected = torch.linalg.svdvals(M)
    for one in turned[:5]:
        torch.testing.assert_close(torch.linalg.svdvals(one)[:count], expected[:count], rtol=1e-3, atol=1e-3)
        kept = torch.linalg.matrix_rank(torch.cat([one, M]), rtol=1e-4)
        assert (kept == count) == (sides == "left" or not rank)  # a full row space is everything
    cosines = torch.stack([(one * M).sum() / M.square().sum() for one in turned])
    variance = (M @ M.T).square().sum() / len(M) if sides == "left" else M.square().sum() ** 2 / M.numel()
    assert abs(cosines.mean()) < 4 * cosines.std() / len(turned) ** 0.5
    assert cosines.var().item() == pytest.approx((variance / M.square().sum() ** 2).item(), rel=0.3)


class Tensors:
    """A term of these tensors."""

    files = ()

    def __init__(self, tensors):
        self.tensors, self.shapes = tensors, {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, name, rows=ALL, out=None):
        return self.tensors[name][rows].clone()


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
    assert read.member.tolist() == [m.name for m in Family.load("tiny").studied]


def test_a_member_is_at_distance_zero_from_itself(measured):
    found, store = measured
    turned = neurons.rotated(Family.load("tiny"), "float32", 0, store)
    assert list(turned.parts) == list(found.parts)[1:]
    table = distances(found, turned, "pretrained", draws=3)
    own = table[table.member == "pretrained"]
    assert (own[["edit", "hamming", "edit_half", "edit_rotated"]] == 0).all(axis=None)
    assert (own[["edit_shuffled", "edit_floor"]] > 0).all(axis=None)
    others = table[table.member != "pretrained"]
    assert (others.edit > 0).all() and (others.edit <= others.hamming).all()
    assert (others.edit < others.edit_shuffled).all() and (others.edit_rotated < others.edit_shuffled).all()
    per_part = neurons.changes(found, turned, "pretrained")
    assert len(per_part) == 4 * 2 * 4 * 4 and per_part.part.unique().tolist() == list(neurons.HALVES[0])


def profile(A, tokens=10):
    A = torch.tensor(A, dtype=torch.float64)
    return Profile(tokens, (A > 0).long() * 6, A, A)


def parts(A, parts=neurons.SHARDS):
    return [profile([A])] * parts


def two(pre, ft, turned=None):
    """Two members of one layer, each with the same profile in every part, and a rotated one."""
    found = Profiles("text", {"pre": parts(pre), "ft": parts(ft)}, pd.DataFrame())
    return found, Profiles("text", {"ft": parts(ft if turned is None else turned, 4)}, pd.DataFrame()), "pre"


def test_an_edit_may_shift_a_pattern_and_hamming_may_not():
    table = distances(*two([1.0, -1] * 4, [-1.0, 1] * 4, [1.0, -1] * 3 + [1.0, 1.0]), draws=50)
    row = table[(table.member == "ft") & (table.criterion == "mean")].iloc[0]
    assert row.hamming == 1 and row.edit == 2 / 8
    assert row.hamming_shuffled == 0.5 and 0.2 < row.edit_shuffled < 0.5
    assert row.edit_rotated == row.hamming_rotated == 1 / 8 and row.edit_floor == 0 and row.edit_half == row.edit


def test_random_places_are_as_far_as_random_places():
    generator = np.random.default_rng(0)
    table = distances(*two(*(generator.choice([-1.0, 1], 400, p=[0.7, 0.3]).tolist() for _ in range(2))))
    row = table[(table.member == "ft") & (table.criterion == "half")].iloc[0]
    assert row.edit == pytest.approx(row.edit_shuffled, abs=0.03)
    assert row.hamming == pytest.approx(row.hamming_shuffled, abs=0.1)


def test_the_floor_is_what_other_documents_move():
    found, turned, _ = two([1.0] * 8, [1.0] * 8)
    found.parts["pre"][1::2] = parts([1.0] * 6 + [-4.0] * 2, 4)
    row = distances(found, turned, "pre").iloc[0]
    assert (row.edit, row.hamming_floor) == (0, 2 / 8)


def test_the_two_criteria_differ_where_few_tokens_are_strong():
    rare = Profile(10, torch.tensor([[2, 8]]), torch.tensor([[5.0, 5.0]]).double(), torch.zeros(1, 2).double())
    assert rare.pattern("mean").tolist() == [[True, True]] and rare.pattern("half").tolist() == [[False, True]]
    with pytest.raises(TuningVecError, match="criterion is 'most'; one of mean, half"):
        rare.pattern("most")


def shares(pre, ft=None, noise=0.0, parts=neurons.SHARDS):
    """Profiles of two members with these shares of active neurons by layer, and noise between parts of the text."""
    random, tokens = np.random.default_rng(2), 10_000
    found = {}
    for member, share in dict(pre=pre, ft=pre if ft is None else ft).items():
        drawn = np.clip(np.array(share) + noise * random.standard_normal((parts, len(share))), 0, 1)
        counts = (tokens * drawn).round().astype(int)[:, :, None].repeat(5, axis=2)
        found[member] = [
            Profile(tokens, torch.tensor(c), torch.ones(c.shape).double(), torch.ones(c.shape).double()) for c in counts
        ]
    return neurons.by_part(Profiles("text", found, pd.DataFrame()))


UP = [0.6, 0.2, 0.3, 0.4, 0.5]


def test_trends_tell_the_first_step_from_the_slope():
    row = neurons.trends(shares(UP)).iloc[1]
    assert (row["step"], row.rho, row.gap) == (pytest.approx(-0.4), pytest.approx(1), 0)
    assert row.others == pytest.approx(0.1) and row.step_low == pytest.approx(row.step_high) == pytest.approx(-0.4)
    noisy = neurons.trends(shares(UP, noise=0.01)).iloc[1]
    assert noisy.step_low < noisy["step"] < noisy.step_high and noisy.step_high - noisy.step_low < 0.05


def test_the_share_has_its_interval_over_parts(measured):
    found = measured[0]
    table = neurons.shares(found)
    assert table.groupby("member", sort=False).share.mean().index.tolist() == list(found.parts)
    assert (table.low < table.share).all() and (table.share < table.high).all()
    whole = found.whole("code").frequency.mean(1).numpy()
    assert table[table.member == "code"].share.to_numpy() == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize(
    ("first", "ft_first", "noise", "kind", "falsified"),
    [
        (0.6, 0.6, 0.01, "holds", False),
        (0.2, 0.2, 0.01, "null explains it", True),  # a clear rise, no larger than later ones
        (0.25, 0.25, 0.01, "null explains it", False),  # no step, and shown
        (0.0, 0.0, 0.01, "reversed", True),
        (0.6, 0.05, 0.01, "mixed", True),
        (0.3, 0.3, 0.4, "within chance", False),
    ],
)
def test_a_drop_after_the_first_layer_is_set_against_later_steps(first, ft_first, noise, kind, falsified):
    rest = [0.25, 0.3, 0.35, 0.4]
    verdict = neurons.drop_after_first(shares([first, *rest], [ft_first, *rest], noise))
    assert (verdict.kind, verdict.falsified) == (kind, falsified)


@pytest.mark.parametrize(
    ("later", "noise", "kind"),
    [
        ([0.2, 0.3, 0.4, 0.5], 0.01, "holds"),
        ([0.5, 0.4, 0.3, 0.2], 0.01, "reversed"),
        ([0.3, 0.31, 0.3, 0.31], 0.3, "within chance"),
        ([0.3, 0.5, 0.2, 0.4], 0.0, "null explains it"),
    ],
)
def test_growth_with_depth_is_judged_over_parts_of_the_text(later, noise, kind):
    verdict = neurons.grows_with_depth(shares([0.5, *later], noise=noise))
    assert verdict.kind == kind and verdict.falsified == (kind == "reversed")
    assert "8 parts of the text" in verdict.rule and (verdict.cases.high <= 1).all()


def test_two_layers_have_no_later_steps_and_no_trend():
    parts = shares([0.5, 0.2], noise=0.01)
    assert neurons.trends(parts).rho.isna().all()
    for verdict in (neurons.drop_after_first(parts), neurons.grows_with_depth(parts)):
        assert verdict.kind == "cannot be known here" and "2 layers" in verdict.why
    assert neurons.similar_shares(parts).kind == "holds"


@pytest.mark.parametrize(
    ("change", "noise", "kind", "falsified"),
    [(0.0, 0.001, "holds", False), (0.1, 0.001, "mixed", True), (0.0, 0.05, "within chance", False)],
)
def test_similar_shares_are_similar_in_each_layer(change, noise, kind, falsified):
    verdict = neurons.similar_shares(shares(UP, [*UP[:-1], UP[-1] + change], noise))
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert len(verdict.cases) == 5 and verdict.numbers["largest"] >= 0.9 * change


def test_a_share_that_moves_in_every_layer_is_not_similar():
    verdict = neurons.similar_shares(shares(UP, [share + 0.1 for share in UP], 0.001))
    assert verdict.kind in ("reversed", "differs") and verdict.falsified


def controlled(*controls):
    """A family of a specialist, one of another domain, and these controls of the first, {name: what it keeps}."""
    about = dict(label="L", license="MIT", source=dict(kind="folder", path="x"))
    tuned = [dict(name="ft", role="domain", domain="medicine"), dict(name="other", role="domain", domain="math")]
    control = dict(role="control", controls="ft", domain="medicine", differs="somehow")
    tuned += [control | dict(name=name, keeps=keeps) for name, keeps in controls]
    return Family(
        title="T", summary="S", limits="L", prompt={}, pretrained=about | dict(name="pre"),
        fine_tuned=[about | member for member in tuned],
    )  # fmt: skip


def changing(twin, sham, noise=1, seed=0):
    """φ where 40 of 400 neurons of a specialist change sign, and so many of the same 40 in its twin and its placebo."""
    random = np.random.default_rng(seed)
    pre, own = [1.0, -1.0] * 200, random.permutation(400)[:40]
    rest = [i for i in range(400) if i not in own]

    def member(same):
        def one():
            kept = max(0, min(40, same + random.integers(-noise, noise + 1)))
            places = {*random.permutation(own)[:kept], *random.permutation(rest)[: 40 - kept]}
            return profile([[-a if i in places else a for i, a in enumerate(pre)]])

        return [one() for _ in range(8)]

    found = {"pre": parts(pre), "ft": member(40), "other": member(4), "twin": member(twin), "sham": member(sham)}
    found, turned = (Profiles("text", some, pd.DataFrame()) for some in (found, {"ft": member(4)[:4]}))
    return neurons.shared_changes(found, turned, controlled(("twin", "facts"), ("sham", "form")))


@pytest.mark.parametrize(
    ("twin", "sham", "kind", "falsified"),
    [(32, 8, "holds", False), (8, 32, "reversed", True), (20, 20, "null explains it", True)],
)
def test_neurons_of_the_domain_change_again_in_a_twin_and_not_in_a_placebo(twin, sham, kind, falsified):
    shared = changing(twin, sham)
    means = shared[shared.criterion == "mean"].groupby("other").phi.mean()
    assert means["twin"] == pytest.approx((twin / 40 - 0.1) / 0.9, abs=0.06) and abs(means["other"]) < 0.1
    assert set(shared.keeps) == {"facts", "form", "", "spectrum"} and set(shared.member) == {"ft"}
    verdict = neurons.of_the_domain(shared)
    assert (verdict.kind, verdict.falsified) == (kind, falsified) and len(verdict.cases) == 2


def test_without_controls_no_neuron_is_of_the_domain():
    found = Profiles("text", {"pre": parts([1.0, -1.0])}, pd.DataFrame())
    assert neurons.of_the_domain(neurons.shared_changes(found, found, controlled())).kind == "cannot be known here"


def moved(ft, turned, noise=0, seed=1):
    """Verdict on 400 neurons of which so many changed sign, by fine-tuning and by a rotated T, more or less by part."""
    random = np.random.default_rng(seed)
    pre = [1.0, -1.0] * 200

    def flipped(count):
        count = max(0, count + (random.integers(-noise, noise + 1) if noise else 0))
        places = random.permutation(400)[:count]
        return profile([[-a if i in places else a for i, a in enumerate(pre)]])

    found = {"pre": parts(pre), "ft": [flipped(ft) for _ in range(8)]}
    null = {"ft": [flipped(turned) for _ in range(4)]}
    found, null = (Profiles("text", some, pd.DataFrame()) for some in (found, null))
    return neurons.changes(found, null, "pre"), distances(found, null, "pre", draws=2)


@pytest.mark.parametrize(
    ("ft", "turned", "noise", "kind", "falsified"),
    [
        (20, 60, 2, "differs", False),
        (60, 20, 2, "differs", True),
        (40, 40, 1, "holds", False),
        (40, 40, 30, "within chance", False),
    ],
)
def test_a_change_of_the_pattern_is_set_against_a_rotated_one(ft, turned, noise, kind, falsified):
    verdict = neurons.as_a_rotated_T(moved(ft, turned, noise)[0])
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert verdict.cases.ratio.between(0.5 * ft / turned, 2 * ft / turned).all() and len(verdict.cases) == 2


@pytest.mark.parametrize(
    ("ft", "noise", "kind", "falsified"),
    [(20, 2, "holds", False), (190, 2, "reversed", True), (100, 90, "within chance", False)],
)
def test_a_change_is_little_beside_random_places(ft, noise, kind, falsified):
    verdict = neurons.little_change(*moved(ft, 20, noise))
    assert verdict.kind == kind and (verdict.falsified or not falsified)


SPEC = """
title: Mine
summary: Two members.
limits: They differ in one matrix.
pretrained: {name: base, label: Base, license: MIT, source: {kind: folder}}
fine_tuned:
  - {name: tuned, label: Tuned, license: MIT, role: domain, domain: law, source: {kind: folder, path: tuned}}
prompt: {}
"""
GATE = "model.layers.3.mlp.gate_proj.weight"  # the last layer's


@pytest.fixture
def pattern_verdict(tmp_path):
    """The verdict on a fine-tune of the tiny model's last W_gate, from checkpoints and text."""
    base = data_folder() / "families/tiny/pretrained"

    def verdict(change):
        shutil.copytree(base, tmp_path / "tuned")
        weights = load_file(base / "model.safetensors")
        weights[GATE] = weights[GATE] + change(weights[GATE])
        save_file(weights, tmp_path / "tuned/model.safetensors", {"format": "pt"})
        facts = dict(kind="files", path=str(data_folder() / "corpora/drug_facts.jsonl"), tokens=1024, window=64)
        spec = yaml.safe_load(SPEC) | dict(corpora=dict(facts=facts))
        spec["pretrained"]["source"]["path"] = str(base)
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
        family = Family.load(tmp_path / "mine.yaml")
        found, turned = profiles(family, "float32"), neurons.rotated(family, "float32", seed=0)
        return neurons.as_a_rotated_T(neurons.changes(found, turned, "base"))

    return verdict


def test_the_verdict_follows_a_change_that_keeps_what_is_active(pattern_verdict):
    verdict = pattern_verdict(lambda gate: gate)  # twice as strong, with the same signs
    case = verdict.cases.set_index("criterion").loc["half"]
    assert (case.outcome, case.ratio) == ("against", 0) and case.rotated > 0.03 and not verdict.falsified


def test_the_verdict_follows_a_change_that_turns_neurons_off(pattern_verdict):
    net, read = load(data_folder() / "families/tiny/pretrained"), []
    net.model.layers[3].mlp.register_forward_pre_hook(lambda _, args: read.append(args[0].mean((0, 1)).detach()))
    net(torch.arange(5, 400).unsqueeze(0))
    verdict = pattern_verdict(lambda gate: -torch.ones(len(gate), 1) * read[0].bfloat16())  # along what it reads
    case = verdict.cases.set_index("criterion").loc["half"]
    assert case.low > 0 and case.ratio > 1.2
