"""Each verdict on what T does to the weights, from matrices on disk: other matrices, another verdict."""

import json
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from tuningvec.family.spec import Family
from tuningvec.measures import directions
from tuningvec.paper import printed
from tuningvec.weights.checkpoint import Checkpoint, Gaussian, LowRank
from tuningvec.weights.components import MATRICES, components
from tuningvec.weights.delta import (
    Combination,
    TuningVector,
    cosine_matrix,
    inner_products,
    rotation_null,
    weight_similarity,
)
from tuningvec.weights.subspace import over_layers, subspace_alignment

EPSILON = 0.3
GATE_UP, REST = list(directions.GATE_UP), ["W_Q", "W_K", "W_V", "W_O", "W_down"]
SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_key_value_heads=4)
DOMAIN = {"medical": "medicine", "math": "math", "code": "code"}


@pytest.fixture
def theta(make_checkpoint):
    return Checkpoint(make_checkpoint("pretrained", **SIZES))


@pytest.fixture
def tune(theta, tmp_path):
    """Write a fine-tuned checkpoint, θ_pre + make(kind, W, G) in every matrix with G Gaussian, and give its T."""

    def tune(name, make, seed=0):
        folder = tmp_path / name
        shutil.copytree(theta.folder, folder)
        generator, tensors = torch.Generator().manual_seed(seed), load_file(folder / "model.safetensors")
        for tensor, W in tensors.items():
            (part,) = components(tensor, theta.config)
            tensors[tensor] = W = W.float()
            if part.kind in MATRICES:
                tensors[tensor] = W + 1e-3 * make(part.kind, W, torch.randn(W.shape, generator=generator))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return TuningVector.between(Combination({theta: 1}), Combination({Checkpoint(folder): 1}))

    return tune


def bent(outside):
    """A T whose part outside the span of U_k is so many times longer than chance, by kind."""

    def make(kind, W, G):
        U, S, _ = torch.linalg.svd(W, full_matrices=False)
        k = int(torch.sum(S.square().flip(0).cumsum(0).flip(0) > EPSILON**2 * S.square().sum()))
        inside = U[:, :k] @ U[:, :k].T @ G
        return inside + outside.get(kind, 1) * (G - inside)

    return make


def scaled(sizes):
    return lambda kind, W, G: sizes.get(kind, 1) * G


def means(theta, T):
    return over_layers(subspace_alignment(theta, T, [EPSILON]))


@pytest.mark.parametrize(
    ("outside", "kind", "falsified"),
    [
        (dict.fromkeys(GATE_UP, 2), "holds", False),
        (dict.fromkeys(REST, 2), "reversed", True),
        (dict.fromkeys(GATE_UP, 0.3), "reversed", True),
        ({}, "null explains it", False),
    ],
)
def test_new_directions_are_judged_by_what_chance_gives(theta, tune, outside, kind, falsified):
    T = {name: tune(name, bent(outside), seed) for seed, name in enumerate(DOMAIN)}
    found = directions.new_directions(means(theta, T), GATE_UP, REST)
    assert (found.kind, found.falsified) == (kind, falsified)
    if not outside:  # a reader of SSA alone would see the paper's profile here
        assert found.numbers["SSA_more"].max() < found.numbers["SSA_than"].min()


def test_a_vector_of_one_direction_is_within_chance_and_is_no_null(theta, tune):
    T = {"medical": tune("medical", lambda kind, W, G: 10 * G[:, :1] @ G[:1])}
    found = directions.new_directions(means(theta, T), ["W_Q", "W_O"], ["W_K", "W_V"])
    assert found.kind == "within chance" and "could not have been seen" in found.why


def test_vectors_that_disagree_are_mixed(theta, tune):
    T = {"medical": tune("medical", bent(dict.fromkeys(GATE_UP, 2))), "math": tune("math", bent({}), 1)}
    assert directions.new_directions(means(theta, T), GATE_UP, REST).kind == "mixed"


def test_a_vector_without_these_matrices_cannot_be_judged(theta, tune):
    T = {"medical": tune("medical", lambda kind, W, G: G * (kind in GATE_UP))}
    found = directions.new_directions(means(theta, T), GATE_UP, REST)
    assert found.kind == "cannot be known here" and found.falsified is None
    assert directions.energy_concentrated(subspace_alignment(theta, T)).kind == "cannot be known here"


def test_the_control_fails_for_a_vector_that_is_not_random(theta, tune):
    random = {"random": TuningVector({Gaussian(theta.shapes, 0): 1})}
    assert directions.random_on_null(means(theta, random)).kind == "holds"
    found = directions.random_on_null(means(theta, {"random": tune("bent", bent({"W_Q": 0.8}))}))
    assert found.kind == "mixed" and found.falsified and "1 of 7 against" in found.why


@pytest.mark.parametrize(
    ("make", "kind", "falsified"),
    [
        (bent(dict.fromkeys(GATE_UP, 3)), "holds", False),
        (scaled(dict.fromkeys(GATE_UP, 4)), "null explains it", False),
        (scaled(dict.fromkeys(REST, 4)), "reversed", True),
    ],
)
def test_orthogonal_energy_is_judged_by_that_of_turned_matrices(theta, tune, make, kind, falsified):
    layers = subspace_alignment(theta, {"medical": tune("medical", make)}, [EPSILON])
    found = directions.energy_concentrated(layers)
    assert (found.kind, found.falsified) == (kind, falsified)


@pytest.mark.parametrize(
    ("size", "kind", "falsified"),
    [(2, "holds", False), (0.5, "reversed", True), (1.05, "differs", False)],
)
def test_domains_are_ranked_by_their_energy(theta, tune, size, kind, falsified):
    T = {"medical": tune("medical", scaled({}))}
    T |= {name: tune(name, scaled(dict.fromkeys(MATRICES, size)), seed) for seed, name in enumerate(("math", "code"))}
    layers = subspace_alignment(theta, T, [EPSILON])
    found = directions.medicine_lowest(layers, DOMAIN)
    assert (found.kind, found.falsified, len(found.cases)) == (kind, falsified, 2)
    assert directions.medicine_lowest(layers, {"medical": "medicine"}).kind == "cannot be known here"


def similarity(theta, T):
    return weight_similarity(inner_products({"pretrained": Combination({theta: 1}), "ft": T}, theta), "pretrained")


@pytest.mark.parametrize(("size", "kind", "falsified"), [(0.1, "holds", False), (20, "reversed", True)])
def test_a_cosine_is_judged_by_the_papers_smallest(theta, tune, size, kind, falsified):
    table = similarity(theta, tune("ft", scaled(dict.fromkeys(MATRICES, size))))
    found = directions.nearly_parallel(table, printed.weight_cosines())
    assert (found.kind, found.falsified) == (kind, falsified)


@pytest.mark.parametrize(
    ("make", "kind", "falsified"),
    [
        (scaled(dict.fromkeys(MATRICES, 5)), "null explains it", True),
        (lambda kind, W, G: 300 * W, "holds", False),
        (lambda kind, W, G: -1500 * W, "holds", False),
    ],
)
def test_a_cosine_says_more_than_length_where_T_lies_along_the_weights(theta, tune, make, kind, falsified):
    found = directions.more_than_length(similarity(theta, tune("ft", make)))
    assert (found.kind, found.falsified) == (kind, falsified)


def cosines(theta, T):
    return cosine_matrix(inner_products(T, theta), rotation_null(T, theta))


def test_vectors_are_orthogonal_by_size_and_not_by_being_exactly_so(theta, tune):
    T = {name: tune(name, scaled({}), seed) for seed, name in enumerate(DOMAIN)}
    assert directions.orthogonal(cosines(theta, T), DOMAIN).kind == "holds"
    slightly = T | {"math": TuningVector((T["math"] + 0.06 * T["medical"]).terms)}
    found = directions.orthogonal(cosines(theta, slightly), DOMAIN)
    assert found.kind == "holds" and found.cases.z.max() > 3 and found.falsified is None
    alike = {name: TuningVector((vector + T["medical"]).terms) for name, vector in T.items()}
    assert directions.orthogonal(cosines(theta, alike), DOMAIN).kind in ("differs", "reversed")
    assert directions.orthogonal(cosines(theta, T), {"math": "math", "code": "code"}).kind == "cannot be known here"


def test_a_pair_the_paper_does_not_call_orthogonal_is_not_judged(theta, tune):
    T = {name: tune(name, scaled({}), seed) for seed, name in enumerate(DOMAIN)}
    T["code"] = TuningVector((T["code"] + T["math"]).terms)
    found = directions.orthogonal(cosines(theta, T), DOMAIN)
    assert found.kind == "holds" and set(zip(found.cases.a, found.cases.b, strict=True)) == {
        ("medical", "math"),
        ("medical", "code"),
    }


def test_vectors_of_one_domain_that_are_no_more_alike_explain_it(theta, tune):
    T = {name: tune(name, scaled({}), seed) for seed, name in enumerate(("medical", "again", "math"))}
    domain = DOMAIN | {"again": "medicine"}
    if (same := cosines(theta, T).query("kind == 'all' and a == 'medical' and b == 'again'").cosine.item()) > 0:
        T["again"] = TuningVector((T["again"] - 2 * same * T["medical"]).terms)
    found = directions.orthogonal(cosines(theta, T), domain)
    assert found.kind == "null explains it" and found.falsified
    T["again"] = TuningVector((T["again"] + T["medical"]).terms)
    found = directions.orthogonal(cosines(theta, T).query("a != 'again'"), domain)
    assert found.kind == "holds" and found.falsified is False


@pytest.fixture
def adapter(theta, tmp_path):
    """Write a LoRA adapter from factors B and A of W_Q in every layer, and give its T."""

    def adapter(name, factors):
        folder, prefix = tmp_path / name, "base_model.model.model.layers"
        folder.mkdir()
        tensors = {
            f"{prefix}.{layer}.self_attn.q_proj.lora_{x}.weight": factor.contiguous()
            for layer, pair in enumerate(factors)
            for x, factor in zip("BA", pair, strict=True)
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 4}), encoding="utf-8")
        return TuningVector({LowRank(folder): 1})

    return adapter


def drawn(seed, layers=3, rank=4):
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(s, generator=generator) for s in ((64, rank), (rank, 64))) for _ in range(layers)]


def test_the_ceiling_is_the_largest_cosine_that_the_input_factors_allow(theta, adapter):
    one, other = drawn(0), drawn(1)
    table = cosines(theta, {"medical": adapter("one", one), "math": adapter("other", other)})
    ceiling = table[table.kind == "all"].ceiling.item()
    reached = []
    for (B, A), (_, C) in ((pair, rival) for pair, rival in zip(one, other, strict=True)):
        best = torch.linalg.lstsq(C.T.double(), (B @ A).T.double()).solution.T  # the B of the rival nearest to B A
        reached.append((B @ A, best @ C.double()))
    T, nearest = (torch.stack([pair[i].double() for pair in reached]) for i in (0, 1))
    cosine = (torch.sum(T * nearest) / (T.norm() * nearest.norm())).item()
    back = torch.stack([(D @ C) @ torch.linalg.pinv(A) @ A for (_, A), (D, C) in zip(one, other, strict=True)])
    whole = torch.stack([D @ C for D, C in other])
    assert ceiling == pytest.approx(max(cosine, (back.norm() / whole.norm()).item()), rel=1e-4) and ceiling < 0.5


def test_beside_a_full_fine_tune_the_ceiling_is_what_of_it_the_adapter_could_be(theta, tune, adapter):
    factors = drawn(0)
    T = {"medical": adapter("thin", factors), "math": tune("full", scaled({}), 1)}
    table = cosines(theta, T)
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3)]
    inside = [
        T["math"].read(n).double() @ torch.linalg.pinv(A.double()) @ A.double()
        for n, (_, A) in zip(names, factors, strict=True)
    ]
    norm = sum(T["math"].read(n).double().square().sum() for n in T["math"].shapes) ** 0.5
    expected = (sum(part.square().sum() for part in inside) ** 0.5 / norm).item()
    assert table[table.kind == "all"].ceiling.item() == pytest.approx(expected, rel=1e-4) and expected < 0.9


def test_a_cosine_of_adapters_is_judged_by_what_they_allow(theta, adapter):
    one, other = drawn(0), drawn(1)
    toward = [(B @ A @ torch.linalg.pinv(C), C) for (B, A), (_, C) in zip(one, other, strict=True)]
    T = {"medical": adapter("one", one), "math": adapter("toward", toward)}
    found = directions.orthogonal(cosines(theta, T), DOMAIN)
    assert found.kind in ("differs", "reversed")
    assert 0.1 < found.cases.effect.item() <= found.cases.ceiling.item() < 0.4


def test_a_full_fine_tune_has_no_ceiling(theta, tune):
    T = {name: tune(name, scaled({}), seed) for seed, name in enumerate(("medical", "math"))}
    assert cosines(theta, T).ceiling.min() == pytest.approx(1)


def family_with_controls():
    def member(name, domain, **fields):
        about = dict(name=name, label=name, license="MIT", source=dict(kind="folder", path=name))
        return about | dict(domain=domain, role="domain") | fields

    control = dict(role="control", controls="medical", differs="drawn anew")
    pretrained = member("pretrained", "")
    return Family(
        title="T", summary="S", limits="L", prompt={},
        pretrained={field: pretrained[field] for field in ("name", "label", "license", "source")},
        fine_tuned=[
            member("medical", "medicine"),
            member("math", "math"),
            member("twin", "medicine", keeps="facts", **control),
            member("placebo", "medicine", keeps="form", **control),
        ],
    )  # fmt: skip


@pytest.mark.parametrize(("form", "kind"), [(0.1, "holds"), (1.0, "null explains it")])
def test_a_cosine_is_set_against_that_of_two_trainings_on_the_same_facts(theta, tune, form, kind):
    names = ("medical", "math", "twin", "placebo", "both")
    T = {name: tune(name, scaled({}), seed) for seed, name in enumerate(names)}
    both = T.pop("both")
    for name, share in (("medical", 1), ("twin", 1), ("placebo", form)):
        T[name] = TuningVector((T[name] + share * both).terms)
    found = directions.pairs(cosines(theta, T), family_with_controls())
    by = found.set_index(["a", "b"])
    assert by.common["medical", "math"] == "neither"
    assert by.common["medical", "twin"] == "facts" and by.common["twin", "placebo"] == "form"
    assert by.common["math", "placebo"] == "neither" and by.share["medical", "twin"] == 1
    assert by.twins["medical", "math"] == by.cosine["medical", "twin"] == pytest.approx(0.5, abs=0.05)
    assert by.low["medical", "math"] < by.share["medical", "math"] < by.high["medical", "math"]
    verdict = directions.facts_beyond_form(found)
    assert verdict.kind == kind or (kind == "null explains it" and verdict.kind != "holds")
    judged = directions.orthogonal(cosines(theta, T), DOMAIN, found)
    assert judged.cases.twins.tolist() == [by.twins["medical", "math"]] and judged.falsified is False


def test_without_a_twin_there_is_no_share(theta, tune):
    T = {name: tune(name, scaled({}), seed) for seed, name in enumerate(("medical", "math"))}
    found = directions.pairs(cosines(theta, T), family_with_controls())
    assert found.share.isna().all() and directions.facts_beyond_form(found).kind == "cannot be known here"


@pytest.mark.parametrize(("size", "kind"), [(0, "holds"), (30, "differs")])
def test_alignment_of_a_specialist_is_set_against_that_of_its_placebo(theta, tune, size, kind):
    def aligned(kind, W, G):
        return G + size * torch.linalg.norm(G) / torch.linalg.norm(W) * W

    T = {"medical": tune("medical", aligned, 0), "placebo": tune("placebo", scaled({}), 1)}
    means = over_layers(subspace_alignment(theta, T, [0.05]))
    verdict = directions.as_any_training(means, family_with_controls(), least=0.5)
    assert verdict.kind == kind


def test_cosines_of_the_blocks_leave_out_embedding_and_head(theta):
    one, other = (Gaussian(theta.shapes, seed=seed) for seed in (0, 1))
    T = {"medical": TuningVector({one: 1}), "math": TuningVector({one: 1, other: 1})}
    null = rotation_null(T, theta)
    found = directions.of_blocks(cosine_matrix(inner_products(T, theta), null), null)
    inside = [name for name in theta.shapes if "embed" not in name and "lm_head" not in name]
    a, b = (torch.cat([vector.read(name).double().flatten() for name in inside]) for vector in T.values())
    assert found.cosine.item() == pytest.approx((a @ b / (a.norm() * b.norm())).item(), abs=1e-6)


def test_adapters_have_no_other_cosine_in_the_blocks(theta, adapter):
    T = {"medical": adapter("one", drawn(0)), "math": adapter("other", drawn(1))}
    null = rotation_null(T, theta)
    found = directions.of_blocks(cosine_matrix(inner_products(T, theta), null), null)
    assert found.empty and directions.pairs(found, Family.load("tiny")).empty


def test_what_cannot_be_judged_still_names_the_smallest_that_matters():
    nothing = pd.DataFrame(columns=["a", "b", "kind", "cosine", "null_sd", "z", "ceiling"])
    none = directions.pairs(nothing, Family.load("tiny"))
    assert none.empty and directions.facts_beyond_form(none).numbers["smallest"] == 0.1
