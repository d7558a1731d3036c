import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tuningvec import checkpoint as module
from tuningvec.checkpoint import INDEX, SINGLE, Checkpoint, Gaussian, LowRank, write_checkpoint
from tuningvec.errors import TuningVecError

Q = "model.layers.0.self_attn.q_proj.weight"


def test_it_reads_what_safetensors_holds(make_checkpoint):
    folder = make_checkpoint("model")
    checkpoint, stored = Checkpoint(folder), load_file(folder / SINGLE)
    assert checkpoint.shapes == {name: tuple(t.shape) for name, t in stored.items()}
    assert all(torch.equal(checkpoint.read(name), t.float()) for name, t in stored.items())
    assert checkpoint.parameters == sum(t.numel() for t in stored.values())


def test_a_sharded_copy_reads_the_same_and_loads_in_transformers(make_checkpoint, tmp_path, monkeypatch):
    whole = Checkpoint(make_checkpoint("model"))
    monkeypatch.setattr(module, "SHARD_BYTES", 8_000)
    copy = write_checkpoint(tmp_path / "copy", whole, whole.read)
    assert (copy.folder / INDEX).is_file() and len(list(copy.folder.glob("*.safetensors"))) > 1
    assert all(torch.equal(copy.read(name), whole.read(name)) for name in whole.shapes)
    loaded = AutoModelForCausalLM.from_pretrained(copy.folder).state_dict()
    assert torch.equal(loaded[Q].float(), whole.read(Q))


def test_a_failed_write_leaves_nothing(make_checkpoint, tmp_path):
    whole = Checkpoint(make_checkpoint("model"))

    def breaks(name, rows, out):
        if name == Q:
            raise RuntimeError("disk on fire")
        return whole.read(name, rows, out)

    before = set(tmp_path.iterdir())
    with pytest.raises(RuntimeError):
        write_checkpoint(tmp_path / "copy", whole, breaks)
    assert set(tmp_path.iterdir()) == before


def test_it_overwrites_nothing(make_checkpoint, tmp_path):
    whole = Checkpoint(make_checkpoint("model"))
    (tmp_path / "copy").mkdir()
    with pytest.raises(TuningVecError, match="exists already"):
        write_checkpoint(tmp_path / "copy", whole, whole.read)


def test_a_pickle_is_refused_with_the_reason(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(TuningVecError, match=r"pytorch_model\.bin is a pickle"):
        Checkpoint(tmp_path)


def test_a_truncated_file_is_named(make_checkpoint):
    file = make_checkpoint("model") / SINGLE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TuningVecError, match=SINGLE):
        Checkpoint(file.parent)


def test_a_shard_outside_the_folder_is_refused(make_checkpoint):
    folder = make_checkpoint("model")
    (folder / INDEX).write_text(json.dumps({"weight_map": {Q: "../model/model.safetensors"}}))
    with pytest.raises(TuningVecError, match="not a file name inside"):
        Checkpoint(folder)


def test_integers_are_not_weights(make_checkpoint):
    folder = make_checkpoint("model")
    save_file({**load_file(folder / SINGLE), Q: torch.ones(2, 2, dtype=torch.int8)}, folder / SINGLE)
    with pytest.raises(TuningVecError, match=f"{Q} has dtype I8"):
        Checkpoint(folder).read(Q)


@pytest.fixture
def adapter(make_checkpoint, tmp_path):
    """A LoRA adapter with B ≠ 0 as peft writes it, and the weights that peft merges it to."""
    model = AutoModelForCausalLM.from_pretrained(make_checkpoint("model"), dtype=torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, target_modules="all-linear"))
    for name, p in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", wrapped.merge_and_unload().state_dict()


def test_a_low_rank_update_is_what_peft_merges(adapter, make_checkpoint):
    folder, merged = adapter
    update, base = LowRank(folder), Checkpoint(make_checkpoint("model"))
    assert len(update.shapes) == 2 * 7
    for name, shape in update.shapes.items():
        assert shape == base.shapes[name]
        torch.testing.assert_close(base.read(name) + update.read(name), merged[name])
        b, a = update.factors(name)
        assert torch.equal(b @ a, update.read(name)) and a.shape[0] == 3


def test_more_than_a_plain_lora_is_refused(adapter):
    folder, _ = adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(TuningVecError, match="use_dora"):
        LowRank(folder)


def test_half_a_pair_is_refused(adapter):
    folder, _ = adapter
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if "lora_B" in n)
    save_file({n: t for n, t in tensors.items() if n != name}, file)
    with pytest.raises(TuningVecError, match="lora_B"):
        LowRank(folder)


def test_random_weights_depend_on_seed_and_name_only(make_checkpoint):
    like = Checkpoint(make_checkpoint("model"))
    one, same, other = (Gaussian(like.shapes, seed) for seed in (1, 1, 2))
    assert torch.equal(one.read(Q), same.read(Q))
    assert not torch.equal(one.read(Q), other.read(Q))
    assert not torch.equal(one.read(Q), one.read(Q.replace("layers.0", "layers.1")))
