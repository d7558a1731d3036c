import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import models, preflight
from tuningvec.store import Store
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.delta import Combination, TuningVector

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3", "gemma3"])
def test_arithmetic_in_memory_is_arithmetic_on_disk(make_checkpoint, architecture, tmp_path):
    pre, ft = (Checkpoint(make_checkpoint(str(seed), architecture, seed)) for seed in (0, 1))
    theta = Combination({pre: 1})
    half = (0.5 * TuningVector.between(theta, Combination({ft: 1}))).apply_to(theta)
    half.write(tmp_path / "half", like=pre)
    loaded = models.load(half, pre, "bfloat16").state_dict()
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.bfloat16).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(tensor.cpu(), expected[name]) for name, tensor in loaded.items())


def test_a_member_is_loaded_as_it_is_stored(make_checkpoint):
    pre = Checkpoint(make_checkpoint("m"))
    model = models.load(Combination({pre: 1}), pre)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(model.get_parameter(name).cpu(), pre.read(name)) for name in pre.shapes)


@pytest.mark.parametrize("rows", [4, 1])
def test_the_head_is_given_rows_that_torch_need_not_copy_it_for(make_checkpoint, rows):
    pre = Checkpoint(make_checkpoint("m"))
    model, seen = models.load(Combination({pre: 1}), pre), []
    ids = torch.arange(24, device=model.device).reshape(rows, -1)
    whole = model(ids).logits
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].stride()))
    torch.testing.assert_close(model(ids, logits_to_keep=1).logits, whole[:, -1:])
    assert seen == [(32, 32, 1)]


def test_every_member_of_the_shipped_families_has_its_weights():
    family = Family.load("tiny")
    for member in family.members:
        opened = members.weights(family, member.name)
        weights, like = opened.own, opened.like
        own = members.weights(family, member.name).fitted
        model = models.load(weights, like)
        assert all(torch.equal(model.get_parameter(name).cpu(), own.read(name)) for name in own.shapes)


def test_an_adapter_is_added_to_its_base():
    family = Family.load("smollm2")
    opened = members.weights(family, "medical")
    weights, like = opened.own, opened.like
    assert weights == members.weights(family, "medical").fitted and like == members.checkpoint(family)
    model = models.load(weights, like)
    name = "model.layers.3.mlp.down_proj.weight"
    assert torch.equal(model.get_parameter(name).cpu(), weights.read(name))
    assert not torch.equal(model.get_parameter(name).cpu(), like.read(name))


def test_an_unknown_dtype_is_refused(make_checkpoint):
    pre = Checkpoint(make_checkpoint("m"))
    with pytest.raises(TuningVecError, match="dtype is 'int8'; it must be auto, float32"):
        models.load(Combination({pre: 1}), pre, "int8")


def test_negation_at_one_is_compared_with_the_pretrained_file(make_checkpoint):
    for name in ("tiny", "smollm2"):
        family = Family.load(name)
        table = preflight.recovered(family)
        verdict = preflight.negation_recovers(table)
        assert verdict.kind == "holds" and verdict.falsified is False and (table["of bound"] <= 1).all()
    assert table.error.max() > 0  # adapters: base + BA − BA is not the base to the last bit


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_negation_of_another_vector_does_not_recover_the_pretrained_file(value, monkeypatch):
    family = Family.load("tiny")
    other = TuningVector.between(members.weights(family, "math").fitted, members.weights(family, "medical").fitted)
    vectors = members.tuning_vectors(family) | {"medical": other}
    verdict = preflight.negation_recovers(preflight.recovered(family, vectors))
    assert verdict.kind == "differs" and verdict.why == "1 of 4 members beyond it" and verdict.falsified
    real, calls = Checkpoint.read, []

    def corrupt(self, name, rows=slice(None), out=None):
        tensor = real(self, name, rows, out)
        if self.folder.name == "code" and name == "model.norm.weight":
            calls.append(name)
            if len(calls) == 1:  # θ_ft is read before T
                tensor[3] = value
        return tensor

    monkeypatch.setattr(Checkpoint, "read", corrupt)
    table = preflight.recovered(family)
    assert len(calls) == 2
    within = dict(zip(table.member, table["of bound"] <= 1, strict=True))
    assert not within.pop("code") and all(within.values())
    assert preflight.negation_recovers(table).kind == "differs"


@pytest.mark.parametrize("sides", ["left", "both"])
@pytest.mark.parametrize(
    ("name", "start", "scale"), [("tiny", None, 1), ("tiny", "medical", -0.5), ("smollm2", "medical", -1)]
)
def test_a_turned_T_has_the_length_and_spectrum_of_T_and_starts_where_it_is_told(name, start, scale, sides):
    family = Family.load(name)
    model = models.Turned(family, "medical", 0, sides=sides, start=start, scale=scale)
    begun = members.weights(family, start or family.pretrained.name)
    straight = begun.fitted + scale * members.tuning_vectors(family)["medical"]
    assert model.prompted == begun.like and straight.shapes == model.weights.shapes
    matrix = "model.layers.1.mlp.down_proj.weight"
    spectra = [torch.linalg.svdvals(w.read(matrix) - begun.fitted.read(matrix)) for w in (straight, model.weights)]
    torch.testing.assert_close(*spectra, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(straight.read(matrix), model.weights.read(matrix), atol=1e-4)
    kept = "model.norm.weight"
    assert torch.allclose(straight.read(kept), model.weights.read(kept), rtol=0, atol=1e-6)
    if start and scale == -0.5:
        assert torch.equal(straight.read(matrix), models.negated(family, start, 0.5).weights.read(matrix))


def test_draws_are_told_apart_by_what_is_stored_of_them(tmp_path):
    family, store = Family.load("tiny"), Store(tmp_path)
    drawn = models.turned(family, ["medical", "math"], 3, 0, "float32", removed=[0.5, 1])
    assert len(drawn) == 2 * 2 * 2 * 3 == len({model.name for _, model in drawn})
    assert len({str(model.weights.identity(store)) for _, model in drawn}) == len(drawn)
    again = models.turned(family, ["medical"], 3, 0, "float32", removed=[0.5])
    assert [m.weights.identity(store) for _, m in again] == [m.weights.identity(store) for _, m in drawn[:6]]
    with pytest.raises(TuningVecError, match="no member 'law'; there are"):
        models.turned(family, ["law"], 3, 0, "float32")


@pytest.fixture
def hostile(make_checkpoint):
    """Write a model whose config names code of its own; returns its folder and what that code writes when it is run."""

    def made(model_type):
        folder = make_checkpoint("hostile")
        ran = folder / "ran"
        code = f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
        (folder / "modeling.py").write_text(code)
        config = json.loads((folder / "config.json").read_text())
        config |= dict(
            model_type=model_type, auto_map={"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M"}
        )
        (folder / "config.json").write_text(json.dumps(config))
        return folder, ran

    return made


def test_code_that_comes_with_a_model_is_not_run(hostile, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder, ran = hostile("unheard_of")
    pre = Checkpoint(folder)
    with pytest.raises(TuningVecError, match="only architectures of transformers itself are run"):
        models.load(Combination({pre: 1}), pre)
    assert not ran.exists()


def test_a_known_architecture_runs_as_transformers_has_it(hostile, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder, ran = hostile("llama")
    pre = Checkpoint(folder)
    assert type(models.load(Combination({pre: 1}), pre)).__module__.startswith("transformers.models.llama")
    assert not ran.exists()


@pytest.mark.parametrize("change", [lambda t: t.pop("model.norm.weight"), lambda t: t.update({Q: t[Q][:8].clone()})])
def test_a_model_is_not_made_up_where_weights_are_missing(make_checkpoint, change):
    file = make_checkpoint("m") / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    pre = Checkpoint(file.parent)
    with pytest.raises(TuningVecError, match=r"no model\.norm\.weight of the shape|not loaded"):
        models.load(Combination({pre: 1}), pre)


@pytest.mark.parametrize("other", ["model.safetensors.index.json", "adapter_config.json"])
def test_a_folder_of_which_memory_and_disk_would_read_different_weights_is_refused(make_checkpoint, other):
    folder = make_checkpoint("m")
    (folder / other).write_text("{}")
    with pytest.raises(TuningVecError, match=f"{other} lies beside model.safetensors; keep the one"):
        Checkpoint(folder)
