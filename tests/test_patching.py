import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import models, patching
from tuningvec.measures.patching import SITES, Patcher
from tuningvec.measures.prompts import Prompt, Prompts, align, answers
from tuningvec.store import Store

TINY = data_folder() / "families" / "tiny" / "medical"
ARCHITECTURES = ["llama", "qwen2", "phi3", "gemma3"]
ANSWERS = (5, 6)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def ids(*tokens):
    return Prompt(list(tokens), ["x"] * len(tokens))


LONG, SHORT = ids(1, 10, 11, 12, 13, 40, 41), ids(1, 20, 40, 41)


def put(model, site, layer, change):
    """Hook that changes what a site holds."""
    block = model.model.layers[layer]
    if site == "attention":
        return block.self_attn.register_forward_hook(lambda m, a, out: (change(out[0]), *out[1:]))
    module = block.mlp if site == "mlp" else block
    return module.register_forward_hook(lambda m, a, out: change(out))


def metric(model, tokens):
    logits = model(torch.tensor([tokens])).logits[0, -1]
    return logits[ANSWERS[0]] - logits[ANSWERS[1]]


def held(model, site, layer, tokens):
    found = []
    hook = put(model, site, layer, lambda out: (found.append(out.detach().clone()), out)[1])
    metric(model, tokens)
    hook.remove()
    return found[0][0]


@pytest.mark.parametrize("pair", [(LONG, SHORT), (SHORT, LONG)], ids=["longer", "shorter"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exact_patching_equals_one_hook_at_a_time(make_checkpoint, architecture, pair):
    model = load(make_checkpoint("m", architecture, initializer_range=0.3))
    aligned = align(*pair)
    found = Patcher(model, ANSWERS).exact(aligned)
    corrupt = metric(model, pair[1].ids)
    assert found.corrupt == pytest.approx(corrupt.item(), abs=1e-5)
    assert found.clean == pytest.approx(metric(model, pair[0].ids).item(), abs=1e-5)
    for i, site in enumerate(SITES):
        for layer in range(2):
            clean = held(model, site, layer, pair[0].ids)
            for place, partner in enumerate(aligned.places.tolist()):
                if partner < 0:
                    assert found.effect[i, layer, place].isnan()
                    continue

                def change(out, place=place, partner=partner, clean=clean):
                    out = out.clone()
                    out[0, place] = clean[partner]
                    return out

                hook = put(model, site, layer, change)
                expected = metric(model, pair[1].ids) - corrupt
                hook.remove()
                assert found.effect[i, layer, place].item() == pytest.approx(expected.item(), abs=2e-5)
    assert found.effect.nan_to_num().abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attribution_is_the_derivative_towards_the_clean_activation(make_checkpoint, architecture):
    model = load(make_checkpoint("m", architecture, initializer_range=0.3))
    aligned = align(LONG, SHORT)
    found = Patcher(model, ANSWERS).attribution(aligned).effect
    for i, site in enumerate(SITES):
        for layer in range(2):
            clean, added = held(model, site, layer, LONG.ids), []

            def change(out, added=added):
                added.append(torch.zeros_like(out, requires_grad=True))
                return out + added[0]

            hook = put(model, site, layer, change)
            metric(model, SHORT.ids).backward()
            hook.remove()
            corrupt = held(model, site, layer, SHORT.ids)
            expected = torch.sum((clean[aligned.places] - corrupt) * added[0].grad[0], -1)
            torch.testing.assert_close(found[i, layer], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropped_gradients_are_those_without_a_layers_branches(make_checkpoint, architecture):
    model = load(make_checkpoint("m", architecture, initializer_range=0.3))
    aligned = align(LONG, SHORT)
    found = Patcher(model, ANSWERS).attribution(aligned, drop=True).effect
    for (i, site), layer in itertools.product(enumerate(SITES), range(2)):
        difference = held(model, site, layer, LONG.ids)[aligned.places] - held(model, site, layer, SHORT.ids)
        estimates = []
        for dropped in range(2):
            added = []

            def change(out, added=added):
                added.append(torch.zeros_like(out, requires_grad=True))
                return out + added[0]

            hooks = [put(model, branch, dropped, torch.Tensor.detach) for branch in ("attention", "mlp")]
            hooks.append(put(model, site, layer, change))
            metric(model, SHORT.ids).backward()
            [hook.remove() for hook in hooks]
            estimates.append(torch.sum(difference * added[0].grad[0], -1).abs())
        torch.testing.assert_close(found[i, layer], torch.stack(estimates).mean(0), rtol=1e-3, atol=1e-5)


def test_more_steps_come_nearer_to_exact_patching():
    family = Family.load("tiny")
    model, tokenizer = load(TINY.parent / "pretrained"), AutoTokenizer.from_pretrained(TINY)
    prompts = Prompts.read(family.root / family.patching)
    pair = next(p for p in prompts.pairs if p.kind == "wrong drug")
    aligned = prompts.aligned(tokenizer, pair)
    patcher = Patcher(model, answers(tokenizer, prompts.answers))
    exact = patcher.exact(aligned).effect
    gaps = [(patcher.attribution(aligned, steps).effect - exact).square().sum() for steps in (1, 8)]
    assert gaps[1] < gaps[0] / 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_identical_prompts_have_no_effect_at_all(make_checkpoint, architecture):
    patcher, aligned = Patcher(load(make_checkpoint("m", architecture)), ANSWERS), align(LONG, LONG)
    for found in (patcher.exact(aligned), patcher.attribution(aligned), patcher.attribution(aligned, 4)):
        assert found.clean == found.corrupt and not found.effect.any()


def test_layers_between_are_left_out(make_checkpoint):
    patcher, aligned = Patcher(load(make_checkpoint("m", num_hidden_layers=5)), ANSWERS), align(LONG, LONG)
    known = ~patcher.exact(aligned, layers=3).effect.isnan()
    assert known.all(-1).all(0).tolist() == [True, False, True, False, True]
    assert not patcher.exact(aligned, layers=9).effect.isnan().any()


def test_patching_runs_in_bfloat16(make_checkpoint):
    model = load(make_checkpoint("m")).bfloat16()
    found = Patcher(model, ANSWERS).exact(align(SHORT, LONG))
    assert found.effect.dtype == torch.float32 and found.effect[..., -1].isfinite().all()


SPEC = 'template: "{drug} is for {use}. It is"\nanswers: [" true", " false"]\npairs:\n'
PAIRS = "".join(
    f"- {{kind: {kind}, clean: [{a}, gout], corrupt: [{b}, {use}]}}\n"
    for kind, a, b, use in [
        ("one", "Warfarin", "Lithium", "gout"),
        ("one", "Digoxin", "Timolol", "gout"),
        ("one", "Digoxin", "Losartan", "gout"),
        ("one", "Metformin", "Losartan", "gout"),
        ("same", "Digoxin", "Digoxin", "gout"),
    ]
)


def test_a_study_averages_over_pairs_and_is_kept(tmp_path, monkeypatch):
    spec = Family.load("tiny")
    (tmp_path / "pairs.yaml").write_text(SPEC + PAIRS)
    family = spec.model_copy(update={"patching": tmp_path / "pairs.yaml"})
    family._file = spec.file
    options = dict(
        needed=["same"], pairs=10, steps=2, layers=9, chat=False, dtype="float32", store=Store(tmp_path / "store")
    )
    maps = patching.study(family, **options)
    assert maps.effects["math", "one"].shape == (4, 3, 4, len(maps.columns)) and maps.kinds == ["one", "same"]
    assert patching.largest(maps, "same") == dict.fromkeys((m.name for m in family.members), 0.0)
    known = patching.knowledge(maps)
    same = known[known.kind == "same"]
    assert (same.difference == 0).all() and len(known) == 10
    pair, methods = maps.examples["math", "one"]
    has = pair.places >= 0
    column = [i for i, name in enumerate(pair.corrupt.columns) if name == "drug" and has[i]]
    where = maps.columns.index("drug")
    torch.testing.assert_close(
        maps.effects["math", "one"][0, :, :, where], methods["integrated"][..., column].sum(-1), rtol=1e-5, atol=1e-6
    )
    alike = patching.similarity(maps, "pretrained", seed=0, draws=50)
    own = alike[alike.member == "pretrained"]
    assert own.correlation.tolist() == pytest.approx([1, 1, 1]) and set(alike.kind) == {"one"}
    assert (alike.low <= alike.correlation + 1e-9).all() and (alike.null < 1).all()
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)
    again = patching.study(family, **options)
    assert again.metrics.equals(maps.metrics) and again.agreement.equals(maps.agreement)
    with pytest.raises(ZeroDivisionError):
        patching.study(family, **options | dict(steps=3))
    with pytest.raises(TuningVecError, match=r"pairs\.yaml: pairs: none of kind 'other'; there are one, same"):
        patching.study(family, **options | dict(needed=["other"]))
