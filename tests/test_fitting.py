import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tuningvec.errors import TuningVecError
from tuningvec.weights.checkpoint import SINGLE, Checkpoint
from tuningvec.weights.delta import Combination, TuningVector
from tuningvec.weights.fitting import EMBEDDING, HEAD, Fitted, fit, misfits


def vector(pretrained, fine_tuned):
    theta = Combination({pretrained: 1})
    return theta, TuningVector.between(theta, Combination({fit(pretrained, fine_tuned): 1}))


def outcomes(pretrained, fine_tuned):
    return {m.what: m.outcome for m in misfits(pretrained, fine_tuned)}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3", "qwen3", "mistral", "gemma2", "gemma3"])
def test_a_plain_fine_tune_is_used_as_it_is(make_checkpoint, architecture):
    pre, ft = (Checkpoint(make_checkpoint(f"{architecture}{seed}", architecture, seed=seed)) for seed in (0, 1))
    assert misfits(pre, ft) == [] and fit(pre, ft) is ft


def test_rows_added_to_the_vocabulary_are_left_out(make_checkpoint):
    pre, ft = (Checkpoint(make_checkpoint(str(n), vocab_size=n)) for n in (64, 70))
    assert outcomes(pre, ft) == {EMBEDDING: "compared", HEAD: "compared"}
    theta, T = vector(pre, ft)
    assert torch.equal(T.read(EMBEDDING), ft.read(EMBEDDING)[:64] - pre.read(EMBEDDING))
    assert torch.equal(T.apply_to(theta).read(HEAD), ft.read(HEAD)[:64])
    assert "further rows are left out" in misfits(pre, ft)[0].how


def test_rows_that_the_fine_tune_lacks_stay_as_they_were(make_checkpoint):
    pre, ft = (Checkpoint(make_checkpoint(str(n), vocab_size=n)) for n in (70, 64))
    theta, T = vector(pre, ft)
    tuned = T.apply_to(theta).read(EMBEDDING)
    assert torch.equal(tuned[:64], ft.read(EMBEDDING)) and torch.equal(tuned[64:], pre.read(EMBEDDING)[64:])
    assert torch.equal(T.read(EMBEDDING, slice(60, 70)), T.read(EMBEDDING)[60:70])
    assert not T.read(EMBEDDING)[64:].any()


def test_a_tied_head_is_compared_as_the_embedding(make_checkpoint):
    pre, ft = (Checkpoint(make_checkpoint(str(tied), tie_word_embeddings=tied)) for tied in (False, True))
    assert outcomes(pre, ft)[HEAD] == "compared"
    theta, T = vector(pre, ft)
    assert torch.equal(T.apply_to(theta).read(HEAD), ft.read(EMBEDDING))


def test_a_head_of_its_own_is_left_out_where_the_pretrained_one_is_tied(make_checkpoint):
    pre, ft = (Checkpoint(make_checkpoint(str(tied), tie_word_embeddings=tied)) for tied in (True, False))
    assert outcomes(pre, ft) == {HEAD: "left out"}
    theta, T = vector(pre, ft)
    assert HEAD not in T.shapes and torch.equal(T.apply_to(theta).read(EMBEDDING), ft.read(EMBEDDING))


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            dict(num_attention_heads=8, num_key_value_heads=4, head_dim=8),
            "num_attention_heads: 4 in one, 8 in the other",
        ),
        (dict(intermediate_size=56), r"mlp\.down_proj\.weight: \[32, 48\] in one, \[32, 56\] in the other"),
        (dict(num_hidden_layers=3), r"model\.layers\.2\.input_layernorm\.weight: absent in one"),
    ],
)
def test_another_architecture_stops_with_what_differs(make_checkpoint, changes, words):
    pre, ft = Checkpoint(make_checkpoint("pre")), Checkpoint(make_checkpoint("ft", **changes))
    with pytest.raises(TuningVecError, match=words):
        fit(pre, ft)


def test_other_positions_are_told_and_do_not_stop(make_checkpoint):
    pre = Checkpoint(make_checkpoint("pre"))
    folder = make_checkpoint("ft", seed=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 1e6}))
    (told,) = [m for m in misfits(pre, Checkpoint(folder)) if m.what.startswith("rope")]
    assert told.outcome == "compared" and "pretrained setting" in told.how


def test_a_table_of_positions_is_left_out(make_checkpoint):
    pre, folder = Checkpoint(make_checkpoint("pre")), make_checkpoint("ft", seed=1)
    table = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file({**load_file(folder / SINGLE), table: torch.ones(4)}, folder / SINGLE)
    assert outcomes(pre, Checkpoint(folder)) == {table: "left out"}
    theta, T = vector(pre, Checkpoint(folder))
    assert table not in T.shapes and T.apply_to(theta).shapes == pre.shapes


def test_a_tensor_that_one_lacks_stops(make_checkpoint):
    pre, folder = Checkpoint(make_checkpoint("pre")), make_checkpoint("ft")
    tensors = load_file(folder / SINGLE)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / SINGLE)
    with pytest.raises(TuningVecError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: \[48, 32\] in one, absent"):
        fit(pre, Checkpoint(folder))


def test_fitted_weights_are_read_in_pieces_too(make_checkpoint):
    pre, ft = (Checkpoint(make_checkpoint(str(n), vocab_size=n)) for n in (70, 64))
    fitted = Fitted(ft, pre)
    for rows in (slice(0, 10), slice(60, 68), slice(66, 70)):
        assert torch.equal(fitted.read(EMBEDDING, rows), fitted.read(EMBEDDING)[rows])
