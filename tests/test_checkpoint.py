import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tuningvec.errors import TuningVecError
from tuningvec.weights import checkpoint as module
from tuningvec.weights import shards
from tuningvec.weights.checkpoint import INDEX, SINGLE, Checkpoint, Gaussian, LowRank, write_checkpoint

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


def test_a_full_disk_is_said_and_leaves_nothing(make_checkpoint, tmp_path, monkeypatch):
    whole = Checkpoint(make_checkpoint("model"))
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(TuningVecError, match=r"needs 0\.0 GB and the disk has 0\.0 GB free"):
        write_checkpoint(tmp_path / "copy", whole, whole.read)
    monkeypatch.undo()
    monkeypatch.setattr(os, "pwrite", lambda *a: 0)
    with pytest.raises(TuningVecError, match="was written in part"):
        write_checkpoint(tmp_path / "copy", whole, whole.read)
    assert set(tmp_path.iterdir()) == before


def test_what_a_killed_write_left_is_removed_by_the_next(make_checkpoint, tmp_path):
    whole = Checkpoint(make_checkpoint("model"))
    (tmp_path / ".copy.unfinished").mkdir()
    (tmp_path / ".copy.unfinished" / "half").write_bytes(b"half")
    (tmp_path / ".copy.lock").touch()
    before = os.umask(0o022)
    try:
        write_checkpoint(tmp_path / "copy", whole, whole.read)
    finally:
        os.umask(before)
    assert {file.name for file in tmp_path.iterdir()} == {"model", "copy"}
    modes = {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "copy").iterdir()}
    assert modes == {"0o644"} and (tmp_path / "copy").stat().st_mode & 0o777 == 0o755


def test_two_runs_do_not_write_one_folder(make_checkpoint, tmp_path):
    whole = Checkpoint(make_checkpoint("model"))
    with FileLock(tmp_path / ".copy.lock"), pytest.raises(TuningVecError, match="copy: another run writes it; wait"):
        write_checkpoint(tmp_path / "copy", whole, whole.read)


def test_folders_beside_the_files_are_no_matter(make_checkpoint, tmp_path):
    folder = make_checkpoint("model")
    for name in (".git", "onnx"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"other")
    whole = Checkpoint(folder)
    copy = write_checkpoint(tmp_path / "copy", whole, whole.read)
    assert copy.shapes == whole.shapes and not (tmp_path / "copy" / ".git").exists()


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
    (folder / SINGLE).rename(folder / "weights.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {Q: "../model/weights.safetensors"}}))
    with pytest.raises(TuningVecError, match="not a file name inside"):
        Checkpoint(folder)


def test_a_link_out_of_the_folder_is_refused(make_checkpoint, tmp_path):
    folder, elsewhere = make_checkpoint("model"), tmp_path / "elsewhere.safetensors"
    (folder / SINGLE).rename(elsewhere)
    (folder / SINGLE).symlink_to(elsewhere)
    with pytest.raises(TuningVecError, match="a link that leads out of the folder"):
        Checkpoint(folder)


def sharded(folder, copies):
    """Split a checkpoint into two files; `copies` tensors of the first are in the second as well."""
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    half = len(names) // 2
    files = {"a.safetensors": names[:half], "b.safetensors": names[half - copies :]}
    for file, part in files.items():
        save_file({n: tensors[n] for n in part}, folder / file)
    (folder / SINGLE).unlink()
    weights = {n: file for file, part in files.items() for n in part}
    (folder / INDEX).write_text(json.dumps({"weight_map": weights}))
    return names, weights


def test_a_tensor_in_two_shards_is_named(make_checkpoint):
    folder = make_checkpoint("model")
    names, _ = sharded(folder, copies=1)
    with pytest.raises(TuningVecError, match=rf"b\.safetensors: tensor {names[len(names) // 2 - 1]} is also in a\.saf"):
        Checkpoint(folder)


def test_a_tensor_that_the_index_promises_is_missed(make_checkpoint):
    folder = make_checkpoint("model")
    _, weights = sharded(folder, copies=0)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**weights, "model.extra.weight": "a.safetensors"}}))
    with pytest.raises(TuningVecError, match=r"tensor model\.extra\.weight is in no shard"):
        Checkpoint(folder)


def damage(file, change):
    """Rewrite a safetensors header."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text = change(raw[8 : 8 + length].decode()).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda text: text[:-5], "the header is not JSON"),
        (lambda text: text.replace('"BF16"', '"BF17"', 1), "has dtype BF17; weights are one of"),
        (lambda text: text.replace("data_offsets", "offsets", 1), "broken header entry"),
        (lambda text: text.replace('"shape":[64,32]', '"shape":[65,32]', 1), r"bytes do not hold BF16 \[65, 32\]"),
        (lambda text: text.replace("model.norm.weight", "lm_head.weight"), "tensor lm_head.weight stands twice"),
        (lambda text: "[]", "no table of tensors"),
    ],
)
def test_a_broken_header_is_named_with_its_tensor(make_checkpoint, change, words):
    folder = make_checkpoint("model")
    damage(folder / SINGLE, change)
    with pytest.raises(TuningVecError, match=words):
        Checkpoint(folder)


def test_a_file_without_a_header_is_named(tmp_path):
    (tmp_path / SINGLE).write_bytes(b"abc")
    with pytest.raises(TuningVecError, match="not a whole safetensors file"):
        Checkpoint(tmp_path)


def test_rows_are_read_as_they_lie_in_the_whole(make_checkpoint):
    checkpoint = Checkpoint(make_checkpoint("model"))
    out = torch.empty(5, 32)
    assert torch.equal(checkpoint.read(Q, slice(3, 8), out), checkpoint.read(Q)[3:8]) and out.any()
    assert torch.equal(checkpoint.read("model.norm.weight", slice(2, 4)), checkpoint.read("model.norm.weight")[2:4])


@pytest.mark.parametrize("piece", [1, 7, 100, 10**6])
def test_pieces_of_any_size_make_the_same_file(make_checkpoint, tmp_path, monkeypatch, piece):
    whole = Checkpoint(make_checkpoint("model"))
    monkeypatch.setattr(shards, "PIECE", piece)
    copy = write_checkpoint(tmp_path / "copy", whole, whole.read)
    assert (copy.folder / SINGLE).stat().st_size % 8 == 0
    before, after = load_file(whole.folder / SINGLE), load_file(copy.folder / SINGLE)
    assert before.keys() == after.keys() and all(torch.equal(after[n], t) for n, t in before.items())


def test_chat_template_and_generation_config_are_those_of_the_prompted_member(make_checkpoint, tmp_path):
    theta, prompted = Checkpoint(make_checkpoint("model")), Checkpoint(make_checkpoint("tuned", rope_theta=1e6))
    (prompted.folder / "chat_template.jinja").write_text("{{ messages }}")
    (prompted.folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    copy = write_checkpoint(tmp_path / "copy", theta, theta.read, prompted)
    assert (copy.folder / "chat_template.jinja").is_file()
    assert json.loads((copy.folder / "generation_config.json").read_text())["eos_token_id"] == 7
    assert copy.config == theta.config


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


def test_a_written_folder_has_the_mode_of_any_new_folder(tmp_path, make_checkpoint):
    whole = Checkpoint(make_checkpoint("whole"))
    usual = tmp_path / "usual"
    usual.mkdir()
    written = write_checkpoint(tmp_path / "copy", whole, whole.read).folder
    assert written.stat().st_mode == usual.stat().st_mode
    assert {file.stat().st_mode & 0o044 for file in written.iterdir()} == {0o044}
