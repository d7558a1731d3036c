import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tuningvec.errors import TuningVecError
from tuningvec.store import Store
from tuningvec.weights import delta
from tuningvec.weights.checkpoint import Checkpoint, Gaussian
from tuningvec.weights.delta import (
    Combination,
    TuningVector,
    _rotated_variance,
    cosine_matrix,
    inner_products,
    one_matrix,
    rotation_null,
    weight_similarity,
)


@pytest.fixture
def pair(make_checkpoint):
    return (Combination({Checkpoint(make_checkpoint(name, seed=seed)): 1}) for seed, name in enumerate(["pre", "ft"]))


def read_all(combination):
    return {name: combination.read(name) for name in combination.shapes}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_removing_and_adding_the_tuning_vector_is_exact(pair):
    pre, ft = pair
    T = TuningVector.between(pre, ft)
    assert equal(read_all(ft - T), read_all(pre))
    assert equal(read_all(T.apply_to(pre)), read_all(ft))
    assert equal(read_all((-T).apply_to(ft)), read_all(pre))


def test_arithmetic_is_that_of_tensors(pair):
    pre, ft = pair
    T = TuningVector.between(pre, ft)
    for name, total in read_all(T.apply_to(pre, 0.5) + 2 * T).items():
        expected = pre.read(name) + 2.5 * (ft.read(name) - pre.read(name))
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)


TERMS = [Gaussian({}, seed) for seed in range(3)]
weights = st.dictionaries(st.sampled_from(TERMS), st.integers(-4, 4).map(lambda i: i / 2))


@given(weights, weights, st.integers(-8, 8).map(lambda i: i / 4))
def test_combinations_are_a_vector_space(one, other, scale):
    x, y = Combination(one), Combination(other)
    assert x + y == y + x and x - x == Combination({}) and x + -y == x - y
    assert scale * (x + y) == scale * x + scale * y and (-1) * (-x) == x


def test_zero_terms_are_never_read(pair):
    pre, ft = pair
    assert list((ft - TuningVector.between(pre, ft)).terms) == list(pre.terms)


def test_a_written_model_is_the_pretrained_one_again(pair, tmp_path):
    pre, ft = pair
    T, like = TuningVector.between(pre, ft), next(iter(pre.terms))
    back = (ft - T).write(tmp_path / "back", like)
    forth = T.apply_to(pre, 0.25).write(tmp_path / "forth", like)
    assert equal(read_all(Combination({back: 1})), read_all(pre))
    assert all(forth.dtype(n) == like.dtype(n) for n in like.shapes)
    assert back.config == like.config


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3", "gemma3"])
def test_a_written_sum_loads_in_transformers_and_generates(make_checkpoint, tmp_path, architecture):
    pre, ft = (Checkpoint(make_checkpoint(str(seed), architecture, seed=seed)) for seed in (0, 1))
    theta = Combination({pre: 1})
    T = TuningVector.between(theta, Combination({ft: 1}))
    half = T.apply_to(theta, 0.5)
    copy = half.write(tmp_path / "half", pre, prompted_as=ft)
    model = AutoModelForCausalLM.from_pretrained(copy.folder)
    weights = model.state_dict()
    assert all(torch.equal(weights[n].float(), half.read(n).to(pre.dtype(n)).float()) for n in pre.shapes)
    assert model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False, pad_token_id=0).shape[1] > 3


MERGEKIT = shutil.which(os.environ.get("MERGEKIT", "mergekit-yaml"))


@pytest.mark.skipif(MERGEKIT is None, reason="no program mergekit-yaml; set MERGEKIT to it")
def test_a_written_sum_is_that_of_mergekits_task_arithmetic(make_checkpoint, tmp_path):
    pre, one, two = (Checkpoint(make_checkpoint(str(seed), seed=seed)) for seed in range(3))
    theta = Combination({pre: 1})
    T1, T2 = (TuningVector.between(theta, Combination({c: 1})) for c in (one, two))
    ours = (theta + 0.7 * T1 - 0.4 * T2).write(tmp_path / "ours", pre)
    recipe = tmp_path / "merge.yaml"
    models = [dict(model=str(c.folder), parameters=dict(weight=w)) for c, w in ((one, 0.7), (two, -0.4))]
    method = dict(merge_method="task_arithmetic", base_model=str(pre.folder), dtype="float32", out_dtype="bfloat16")
    recipe.write_text(yaml.safe_dump({**method, "models": models}), encoding="utf-8")
    subprocess.run([MERGEKIT, recipe, tmp_path / "theirs", "--no-copy-tokenizer"], check=True, capture_output=True)
    theirs = Checkpoint(tmp_path / "theirs")
    for name in pre.shapes:
        torch.testing.assert_close(ours.read(name), theirs.read(name), rtol=2**-7, atol=1e-6)  # a bit of bfloat16


def test_a_model_of_another_shape_is_refused_by_tensor(make_checkpoint):
    pre = Combination({Checkpoint(make_checkpoint("pre")): 1})
    ft = Combination({Checkpoint(make_checkpoint("wide", intermediate_size=56)): 1})
    with pytest.raises(TuningVecError, match=r"layers\.0\.mlp\.down_proj\.weight is \[32, 48\] in one and \[32, 56\]"):
        TuningVector.between(pre, ft)


def test_a_tuning_vector_alone_is_not_a_model_of_another_checkpoint(make_checkpoint, tmp_path):
    small, tied = (Checkpoint(make_checkpoint(n, tie_word_embeddings=n == "tied")) for n in ("whole", "tied"))
    with pytest.raises(TuningVecError, match=r"lm_head\.weight"):
        Combination({small: 1}).write(tmp_path / "out", tied)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3"])
def test_cosines_equal_those_of_the_flattened_weights(make_checkpoint, architecture):
    checkpoints = [Checkpoint(make_checkpoint(str(s), architecture, seed=s)) for s in range(3)]
    pre, *tuned = (Combination({c: 1}) for c in checkpoints)
    T = {f"T{i}": TuningVector.between(pre, ft) for i, ft in enumerate(tuned)}
    flat = [torch.cat([t.double().flatten() for t in read_all(v).values()]) for v in T.values()]
    table = cosine_matrix(inner_products(T, checkpoints[0]))
    whole = table[table.kind == "all"].iloc[0]
    assert whole.cosine == pytest.approx(torch.cosine_similarity(*flat, dim=0).item(), abs=1e-6)
    similar = weight_similarity(inner_products({"pre": pre, **T}, checkpoints[0]), "pre")
    pre_flat, ft_flat = (torch.cat([t.double().flatten() for t in read_all(m).values()]) for m in (pre, tuned[0]))
    row = similar[(similar.vector == "T0") & (similar.kind == "all")].iloc[0]
    assert row.cosine == pytest.approx(torch.cosine_similarity(pre_flat, ft_flat, dim=0).item(), abs=1e-6)
    assert row.r == pytest.approx((flat[0].norm() / pre_flat.norm()).item(), rel=1e-6)
    assert row.cosine >= row.least


def test_the_null_of_the_cosine_is_that_of_random_left_rotations():
    generator = torch.Generator().manual_seed(0)
    for shape in ((12, 5), (5, 12)):
        a, b = (torch.randn(shape, generator=generator) for _ in range(2))
        d = shape[0]
        products = []
        for _ in range(4000):
            q, r = torch.linalg.qr(torch.randn(d, d, generator=generator))
            products.append(torch.sum(q * r.diagonal().sign() @ a * b).item())
        sampled = torch.tensor(products)
        assert _rotated_variance(a, b) == pytest.approx(sampled.var().item(), rel=0.1)
        assert abs(sampled.mean()) < 4 * sampled.std() / 4000**0.5


def test_random_tuning_vectors_are_orthogonal_within_the_null(make_checkpoint):
    like = Checkpoint(make_checkpoint("model"))
    T = {str(s): TuningVector({Gaussian(like.shapes, s): 1}) for s in range(6)}
    table = cosine_matrix(inner_products(T, like), rotation_null(T, like))
    z = table[table.kind == "all"].z
    assert z.abs().max() < 4 and 0.4 < z.std() < 1.8


def test_importing_weights_imports_torch_and_safetensors_alone():
    names = "{'transformers', 'nnsight', 'pandas', 'scipy'}"
    code = f"import sys, tuningvec.weights.delta, tuningvec.weights.subspace; print({names} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_one_matrix_by_hand_is_its_row(make_checkpoint, architecture):
    checkpoints = [Checkpoint(make_checkpoint(str(s), architecture, seed=s)) for s in range(3)]
    pre, *tuned = (Combination({c: 1}) for c in checkpoints)
    T = {f"T{i}": TuningVector.between(pre, ft) for i, ft in enumerate(tuned)}
    tensor, part, (A, B) = one_matrix(list(T.values()), checkpoints[0])
    null = rotation_null(T, checkpoints[0], tensors=[tensor])
    table = cosine_matrix(inner_products(T, checkpoints[0], [tensor]), null)
    row = table[table.kind == part.kind].iloc[0]
    assert row.cosine == pytest.approx(torch.cosine_similarity(A.flatten(), B.flatten(), dim=0).item(), abs=1e-6)
    sd = (B @ A.T).norm() / len(A) ** 0.5 / (A.norm() * B.norm())
    assert row.null_sd == pytest.approx(sd.item(), rel=1e-5)
    gate = [name for name in checkpoints[0].shapes if "layers.0.mlp.gate" in name]
    kinds = set(inner_products(T, checkpoints[0], gate).kind)
    assert kinds == {"llama": {"W_gate"}, "phi3": {"W_gate", "W_up"}}[architecture]


def test_weights_without_a_matrix_in_common_have_none_to_show(pair):
    pre, ft = pair
    with pytest.raises(TuningVecError, match="no matrix in common"):
        one_matrix([pre, ft - ft], next(iter(pre.terms)))


def test_a_null_that_was_measured_is_not_measured_again(pair, monkeypatch):
    pre, ft = pair
    T, like, store = {"a": ft - pre, "b": ft}, next(iter(pre.terms)), Store()
    first = rotation_null(T, like, store)
    monkeypatch.setattr(delta, "_rotated_variance", None)  # calling it would fail
    again = rotation_null(T, like, store)
    pd.testing.assert_frame_equal(again, first)
    assert again.attrs["runs"][0]["inputs"]["weights"].keys() == T.keys()
