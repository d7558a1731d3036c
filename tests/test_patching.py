import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import models, patching, turned
from tuningvec.measures.patching import METHODS, SITES, Maps, Patcher, Plan
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
    plan, needed, store = Plan(pairs=10, steps=2, layers=9), ["same"], Store(tmp_path / "store")
    maps = patching.study(family, plan, needed, store=store)
    assert maps.effects["math", "one"].shape == (4, 3, 4, len(maps.columns)) and maps.kinds == ["one", "same"]
    assert patching.no_effect(patching.largest(maps, "same")).kind == "holds"
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
    alike = patching.similarity(maps, "pretrained", seed=0, splits=20, draws=20)
    assert len(alike) == 4 * 2 * 3 and set(alike.left_out[alike.kind == "same"]) == {"1 pairs, of which halves need 4"}
    moves = patching.moves(family, plan, maps, ["one"], draws=3, seed=0, store=store)
    assert moves.groupby(["member", "sides", "what"]).size().groupby("sides").unique().map(list).to_dict() == {
        "none": [1], "left": [3], "both": [3]
    }  # fmt: skip
    assert moves.value.between(1e-6, 2).all() and moves[moves.sides != "none"].value.nunique() == 4 * 3 * 6
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)
    again = patching.moves(family, plan, maps, ["one"], draws=3, seed=0, store=store)
    pd.testing.assert_frame_equal(again, moves)
    with pytest.raises(ZeroDivisionError):
        patching.moves(family, plan, maps, ["one"], draws=3, seed=1, store=store)
    with pytest.raises(TuningVecError, match=r"pairs\.yaml: pairs: none of kind 'other'"):
        patching.moves(family, plan, maps, ["other"], draws=3, seed=0, store=store)
    again = patching.study(family, plan, needed, store=store)
    assert again.metrics.equals(maps.metrics) and again.agreement.equals(maps.agreement)
    with pytest.raises(ZeroDivisionError):
        patching.study(family, plan._replace(steps=3), needed, store=store)
    with pytest.raises(TuningVecError, match=r"pairs\.yaml: pairs: none of kind 'other'; there are one, same"):
        patching.study(family, plan, ["other"])


FAMILY = """
title: Mine
summary: A family of two.
limits: None.
pretrained: {{name: base, label: B, license: MIT, source: {{kind: folder, path: {pretrained}}}}}
fine_tuned:
  - {{name: tuned, label: T, license: MIT, role: domain, domain: law, source: {{kind: folder, path: tuned}}}}
prompt: {{system: {{law: ""}}}}
patching: pairs.yaml
"""


def test_a_weight_that_is_no_number_is_an_error_with_member_and_pair(tmp_path):
    shutil.copytree(TINY, tmp_path / "tuned")
    (file,) = (tmp_path / "tuned").glob("*.safetensors")
    weights = load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, file, {"format": "pt"})
    (tmp_path / "pairs.yaml").write_text(SPEC + PAIRS)
    (tmp_path / "mine.yaml").write_text(FAMILY.format(pretrained=TINY.parent / "pretrained"))
    with pytest.raises(TuningVecError, match=r"mine\.yaml: tuned: one \['Warfarin', 'gout'\] against .* not finite"):
        patching.study(Family.load(tmp_path / "mine.yaml"), Plan(pairs=1, steps=1, layers=1))


def made(pairs=8, *, other, noise=0.5, seed=0, kinds=("one", "two"), **changed):
    """Maps of a pretrained member and of others, {name: true map}, each pair with noise that members share in part."""
    random = np.random.default_rng(seed)
    effects = {}
    for kind in kinds:
        shared = random.gamma(0.5, 1, (pairs, 3, 9, 8))
        for member, true in other.items():
            own = random.gamma(0.5, 1, shared.shape)
            size = true * random.gamma(4, 0.25, (pairs, 1, 1, 1)) + noise * (shared + own) / 2
            effects[member, kind] = torch.tensor(size * random.choice([-1, 1], size.shape)).float()
    return Maps(pd.DataFrame(), effects | changed, list("abcdefgh"), {}, pd.DataFrame())


def judged(maps):
    return patching.same_regions(patching.similarity(maps, "pre", seed=0, splits=40, draws=60))


ONE, OTHER = (np.random.default_rng(seed).gamma(0.3, 1, (3, 9, 8)) for seed in (1, 2))


@pytest.mark.parametrize(
    ("true", "noise", "kind", "falsified"),
    [
        (dict(pre=ONE, a=ONE, b=ONE), 0.5, "holds", False),
        (dict(pre=ONE, a=3 * ONE, b=ONE / 9), 0.02, "holds", False),  # where, and not how much
        (dict(pre=ONE, a=OTHER, b=OTHER), 0.5, "reversed", True),
        (
            dict(pre=ONE, a=ONE + OTHER, b=ONE + OTHER),
            0.3,
            "reversed",
            True,
        ),  # far beyond shuffled maps, yet less alike
        (dict(pre=ONE, a=ONE, b=OTHER), 0.5, "mixed", True),
    ],
)
def test_regions_are_alike_when_true_maps_are(true, noise, kind, falsified):
    verdict = judged(made(other=true, noise=noise))
    assert (verdict.kind, verdict.falsified) == (kind, falsified) and len(verdict.cases) == 12
    assert verdict.numbers["kept"] + verdict.numbers["lost"] == 12
    if falsified and kind == "reversed" and noise < 0.5:
        assert verdict.numbers["beyond"] == 12


def test_a_member_without_regions_of_its_own_is_against_the_claim():
    maps, noise = made(other=dict(pre=ONE, a=ONE)), made(other=dict(a=0 * ONE), noise=1)
    verdict = judged(maps._replace(effects=maps.effects | noise.effects))
    assert verdict.kind == "reversed" and verdict.falsified


@pytest.mark.parametrize("seed", range(5))
def test_maps_of_noise_alone_hold_nothing(seed):
    verdict = judged(made(other=dict.fromkeys(["pre", "a"], np.zeros((3, 9, 8))), seed=seed))
    assert verdict.kind in ("cannot be known here", "within chance") and verdict.falsified is None


def test_agreement_of_halves_is_set_against_that_of_halves():
    """Members that share the true map, and pairs, agree as their own halves do, however noisy."""
    many = [patching.similarity(made(other=dict(pre=ONE, a=ONE), noise=1, seed=s), "pre", 0, 40, 10) for s in range(8)]
    alike = pd.concat(many)
    assert alike.halves.mean() < 0.9 and abs(alike.agreement.mean() - alike.halves.mean()) < 0.02
    assert abs(alike.corrected.mean() - 1) < 0.03  # no credit for a noisier member: a little below 1
    assert np.mean((alike.low <= 1) & (alike.high >= 1)) > 0.9


def test_places_without_effect_make_no_maps_alike():
    narrow = [patching.similarity(made(other=dict(pre=ONE, a=OTHER)), "pre", 0, 20, 10)]
    maps = made(other=dict(pre=ONE, a=OTHER))
    wide = maps._replace(effects={key: torch.nn.functional.pad(x, (30, 0)) for key, x in maps.effects.items()})
    narrow.append(patching.similarity(wide, "pre", 0, 20, 10))
    assert narrow[0].equals(narrow[1])


def test_what_cannot_be_compared_is_left_out_with_the_reason():
    verdict = judged(made(3, other=dict(pre=ONE, a=ONE)))
    assert verdict.kind == "cannot be known here" and "one: 3 pairs, of which halves need 4" in verdict.why
    none = {(member, "none"): torch.zeros(8, 3, 9, 8) for member in ("pre", "a")}
    maps = made(other=dict(pre=ONE, a=ONE))
    verdict = judged(maps._replace(effects=maps.effects | none))
    assert verdict.kind == "holds" and len(verdict.cases) == 6
    assert verdict.numbers["left_out"] == "none: no effect differs from another in the pretrained member"
    verdict = judged(maps._replace(effects={key: x * (key[0] == "pre") for key, x in maps.effects.items()}))
    assert verdict.kind == "reversed" and verdict.falsified  # a member in which nothing has an effect


def test_maps_are_alike_up_to_size_and_sign_and_without_places_of_no_effect():
    one, other = (torch.tensor(x[:1]).float() for x in (ONE, OTHER))
    assert patching._alike(one, -3 * one) == pytest.approx(1)
    assert patching._alike(one, torch.nn.functional.pad(other, (0, 0))) < 0.5
    wide = [torch.nn.functional.pad(x, (30, 0)) for x in (one, other)]
    assert patching._alike(*wide) == pytest.approx(patching._alike(one, other))
    assert np.isnan(patching._alike(one, torch.zeros_like(one))) and np.isnan(patching._alike(0 * one, 0 * one))


@pytest.mark.parametrize(
    ("value", "draws", "kind", "falsified"),
    [
        (0.05, [0.049, 0.05, 0.051, 0.05], "holds", False),
        (0.60, [0.04, 0.05, 0.06, 0.05], "differs", True),
        (0.01, [0.50, 0.52, 0.51, 0.49], "differs", True),
        (0.05, [0.01, 0.50, 0.20, 0.40], "within chance", False),
    ],
)
def test_a_move_of_maps_is_judged_by_that_of_draws(value, draws, kind, falsified):
    about = dict(member="m", what="wrong, mlp")
    rows = [about | dict(sides="none", draw=0, value=value)]
    rows += [about | dict(sides=sides, draw=i, value=x) for sides in ("left", "both") for i, x in enumerate(draws)]
    verdict = patching.as_turned_moves(turned.against_draws(pd.DataFrame(rows)))
    assert (verdict.kind, verdict.falsified) == (kind, falsified)


def metrics(**members):
    """Clean and corrupt metrics of pairs, {member: {kind: clean − corrupt of each}}."""
    parts = [
        pd.DataFrame(dict(member=member, kind=kind, clean=np.array(gaps) - 1.0, corrupt=-1.0))
        for member, kinds in members.items()
        for kind, gaps in kinds.items()
    ]
    return patching.knowledge(Maps(pd.concat(parts), {}, [], {}, pd.DataFrame()))


UP, DOWN, SMALL, WIDE = (
    [1.0, 1.5, 1.2, 0.9, 1.4],
    [-1.0, -1.5, -1.2, -0.9, -1.4],
    [0.1, -0.1, 0.02, 0, 0],
    [3, -3, 2, -1, 0],
)


@pytest.mark.parametrize(
    ("gaps", "kind", "falsified"),
    [
        ([UP, UP], "holds", False),
        ([DOWN, DOWN], "reversed", True),
        ([UP, DOWN], "mixed", True),
        ([SMALL, SMALL], "null explains it", True),
        ([WIDE, WIDE], "within chance", False),
        ([[0.2, 0.21, 0.2, 0.19, 0.2]] * 2, "null explains it", True),  # clear, and too small to matter
        ([UP[:3], UP[:3]], "cannot be known here", None),
        (
            [[0.05, 1, 0.9, 1.5]] * 1 + [[0.05, 1, 0.4, 1.5]] * 6,
            "within chance",
            False,
        ),  # beyond 0 alone, not among seven
    ],
)
def test_truth_is_told_by_wrong_conditions_and_not_by_names(gaps, kind, falsified):
    known = metrics(**{f"m{i}": {"name": UP, "condition": one} for i, one in enumerate(gaps)})
    verdict = patching.tells_truth(known, "name", "condition")
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert verdict.numbers["named_above"] == verdict.numbers["members"] == len(gaps)


@pytest.mark.parametrize(("value", "kind"), [(0.0, "holds"), (1e-12, "differs"), (torch.nan, "differs")])
@pytest.mark.parametrize("where", ["effects", "exact"])
def test_the_control_holds_at_exactly_nothing(value, kind, where):
    pair = align(LONG, SHORT)
    effects, found = torch.zeros(1, 3, 2, 4), {method: torch.zeros(3, 2, len(SHORT.ids)) for method in METHODS}
    found["exact"][:, 0] = torch.nan  # a layer that is not patched
    (effects[0] if where == "effects" else found[where])[1, 1, 2] = value
    maps = Maps(pd.DataFrame(), {("m", "same"): effects}, [], {("m", "same"): (pair, found)}, pd.DataFrame())
    assert patching.no_effect(patching.largest(maps, "same")).kind == kind
    assert patching.no_effect(patching.largest(maps, "other")).kind == "cannot be known here"


def test_a_metric_that_nothing_moves_tells_nothing_of_truth():
    row = dict(pairs=8, clean=0.0, corrupt=0.0, above=4, p=0.4)
    still = [dict(member=m, kind="named", difference=0.05, low=-0.1, high=0.2, **row) for m in ("pre", "ft")]
    none = [dict(member=m, kind="wrong", difference=0.0, low=-0.1, high=0.1, **row) for m in ("pre", "ft")]
    verdict = patching.tells_truth(pd.DataFrame(still + none), "named", "wrong")
    assert verdict.kind == "cannot be known here" and verdict.falsified is None
    moved = [row | dict(difference=2.0, low=1.5, high=2.5) for row in still]
    assert patching.tells_truth(pd.DataFrame(moved + none), "named", "wrong").kind == "null explains it"
