import numpy as np
import pandas as pd
import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import ablation, evals, models, neurons
from tuningvec.measures.ablation import ablated, at_random, changed, effects, study, top
from tuningvec.measures.neurons import Profile
from tuningvec.store import Store

TINY = data_folder() / "families" / "tiny" / "medical"
CHOSEN = {0: torch.tensor([3, 1, 40]), 1: torch.tensor([0])}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def profile(A):
    A = torch.tensor(A, dtype=torch.float64)
    return Profile(10, (A > 0).long() * 6, A, A)


def lists(chosen):
    return {layer: some.tolist() for layer, some in chosen.items()}


def zeroing_hooks(model, chosen):
    """The reference: activations set to zero where W_down reads them."""

    def zero(_, args, some):
        args[0][..., some] = 0

    return [
        model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(lambda m, a, s=some: zero(m, a, s))
        for layer, some in chosen.items()
    ]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_top_is_ranked_among_active_neurons():
    found = profile([[0.1, 0.9, -5.0, 0.5, 0.5], [-1.0, 3.0, 0.2, -0.1, 2.0]])
    assert lists(top(found, 0.5)) == {0: [1, 3], 1: [1, 4]}
    assert lists(top(found, 1.0)) == {0: [1, 3, 4, 0], 1: [1, 4, 2]}
    assert lists(top(found, 0.01)) == {0: [1], 1: [1]}
    assert lists(top(found, 0.4, scope="model")) == {0: [1], 1: [1, 4]}


@pytest.mark.parametrize(
    ("options", "said"),
    [(dict(share=0.0), "share is 0.0"), (dict(share=1.5), "share is 1.5"), (dict(share=0.1, scope="net"), "'net'")],
)
def test_a_wrong_choice_is_refused(options, said):
    with pytest.raises(TuningVecError, match=said):
        top(profile([[1.0]]), **options)


def test_random_neurons_are_as_many_and_the_same_for_a_seed():
    one, again, other = (lists(at_random(CHOSEN, 48, seed)) for seed in (0, 0, 1))
    assert one == again != other
    assert {layer: len(set(some)) for layer, some in one.items()} == {0: 3, 1: 1}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3", "gemma3"])
def test_ablation_equals_a_hook_that_zeroes_activations(make_checkpoint, architecture):
    model = load(make_checkpoint("m", architecture))
    ids, before = torch.arange(1, 25).reshape(2, 12), weights(model)
    options = dict(max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True)
    plain = model(ids).logits
    with ablated(model, CHOSEN):
        logits, made = model(ids).logits, model.generate(ids, **options)
    assert same(model, before)
    hooks = zeroing_hooks(model, CHOSEN)
    expected = model.generate(ids, **options)
    torch.testing.assert_close(logits, model(ids).logits, rtol=0, atol=1e-6)
    assert torch.equal(made.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(made.logits), torch.stack(expected.logits), rtol=0, atol=1e-6)
    [hook.remove() for hook in hooks]
    assert torch.equal(model(ids).logits, plain) and not torch.equal(logits, plain)


def test_log_likelihoods_under_lm_eval_are_those_of_the_hook():
    model, tokenizer = load(TINY), AutoTokenizer.from_pretrained(TINY)
    request = [Instance("loglikelihood", {}, ("Metformin is used to treat", " type 2 diabetes"), 0)]
    lm, chosen = evals.InMemory(model, tokenizer), {0: torch.arange(100)}
    plain = lm.loglikelihood(request, disable_tqdm=True)
    with ablated(lm.model, chosen):
        ours = lm.loglikelihood(request, disable_tqdm=True)
    hooks = zeroing_hooks(model, chosen)
    theirs = lm.loglikelihood(request, disable_tqdm=True)
    [hook.remove() for hook in hooks]
    assert ours[0][0] == pytest.approx(theirs[0][0], abs=1e-5) and abs(ours[0][0] - plain[0][0]) > 0.01
    assert lm.loglikelihood(request, disable_tqdm=True) == plain


def test_weights_come_back_after_an_exception_and_from_nested_ablations(make_checkpoint):
    model = load(make_checkpoint("m"))
    before = weights(model)
    with pytest.raises(KeyboardInterrupt), ablated(model, CHOSEN):
        raise KeyboardInterrupt
    assert same(model, before)
    with ablated(model, CHOSEN):
        with ablated(model, {0: torch.tensor([1, 2])}):
            pass
        assert not model.model.layers[0].mlp.down_proj.weight[:, [1, 3, 40]].any()
    assert same(model, before)


@pytest.mark.parametrize(
    ("chosen", "said"), [({2: torch.tensor([0])}, "layer 2"), ({0: torch.tensor([48])}, "0 to 47")]
)
def test_neurons_that_are_not_there_change_nothing(make_checkpoint, chosen, said):
    model = load(make_checkpoint("m"))
    before = weights(model)
    with pytest.raises(TuningVecError, match=said), ablated(model, CHOSEN | chosen):
        pass
    assert same(model, before)


@pytest.fixture(scope="module")
def tiny():
    return Family.load("tiny")


@pytest.fixture(scope="module")
def found(tiny, tmp_path_factory):
    return neurons.profiles(tiny, "float32", Store(tmp_path_factory.mktemp("store")))


OPTIONS = dict(
    shares=[0.05, 1.0], scope="layer", texts=3, words=20, draws=2, seed=0, dtype="float32", limit=9,
    benchmarks=["tuningvec_drugs_likelihood", "tuningvec_functions"],
)  # fmt: skip


def test_a_study_has_a_row_for_each_item_and_is_kept(tiny, found, tmp_path, monkeypatch):
    real, scored = ablation._scores, []

    def stopped(*arguments):
        if len(scored) == 9:
            raise KeyboardInterrupt
        scored.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(ablation, "_scores", stopped)
    with pytest.raises(KeyboardInterrupt):
        study(tiny, found, **OPTIONS, store=Store(tmp_path))
    scored.insert(0, None)  # no longer stops
    table = study(tiny, found, **OPTIONS, store=Store(tmp_path))
    assert len(scored) - 1 == 7 * 5  # settings × members, each once
    assert len(table) == 5 * (5 * (2 * 3 + 2 * 9) + 2 * 2 * 3) and len(table.attrs["runs"]) == 5 + 1
    assert set(table.task[table.draw > 0]) == {"medical", "general"}  # benchmarks are asked under one draw
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)
    assert study(tiny, found, **OPTIONS, store=Store(tmp_path)).equals(table)

    costs = effects(table, seed=0)
    whole = costs[costs.ablated == "nothing"]
    able = whole[whole.score > 0]  # ΔP is unknown where P is 0
    assert (able[["change", "change_low", "change_high"]] == 0).all(axis=None)
    assert whole[whole.score == 0].change.isna().all() and set(whole.member[whole.score == 0]) >= {"pretrained"}
    cut = costs[(costs.task == "tuningvec_functions") & (costs.member == "code") & (costs.ablated == "top")]
    assert cut.change.max() == 100 and (cut.unit == "ΔP (%)").all()
    texts = costs[(costs.unit != "ΔP (%)") & (costs.share == 1)].set_index(["member", "task", "ablated"])
    assert (texts.change > 0.5).all() and (texts.low < texts.score).all() and (texts.score < texts.high).all()
    gaps = ablation.resilience(table, "pretrained", "medical").cases
    assert gaps.member.tolist() == ["instruct", "medical", "math", "code"]
    top_cost = costs[(costs.task == "medical") & (costs.ablated == "top") & (costs.share == 0.05)].set_index("member")
    expected = top_cost.change["code"] - top_cost.change["pretrained"]
    assert gaps.effect.iloc[3] == pytest.approx(expected)


def test_a_task_that_a_member_does_not_read_is_left_out(tiny, found, monkeypatch):
    real = evals.windows

    def windows(one, tasks, *rest):
        if one.name == "math" and "tuningvec_functions" in tasks:
            raise evals.Unreadable("too long")
        return real(one, tasks, *rest)

    monkeypatch.setattr(evals, "windows", windows)
    table = study(tiny, found, **OPTIONS | dict(shares=[1.0]))
    assert set(effects(table, 0).task) == {"medical", "general", "tuningvec_drugs_likelihood"}
    assert table.attrs["left_out"] == [dict(task="tuningvec_functions", member="math", reason="cannot read too long")]


def test_a_family_with_one_corpus_and_no_benchmark_lacks_the_control_alone(tiny, found):
    alone = tiny.model_copy(update={"corpora": {"medical": tiny.corpora["medical"]}})
    alone._file = tiny.file
    assert ablation.benchmarks(tiny, ["law"]) == [] and ablation.benchmarks(tiny, ["code"]) == ["tuningvec_functions"]
    table = study(alone, found, **OPTIONS | dict(benchmarks=[]))
    verdict = ablation.domain_neurons(table, "medical")
    assert verdict.kind == "cannot be known here" and "a second corpus" in verdict.why
    assert ablation.top_neurons(table).kind != "cannot be known here"
    assert set(effects(table, 0).task) == {"medical"}


def test_one_draw_is_no_sample(tiny, found):
    with pytest.raises(TuningVecError, match="draws is 1; random neurons need two"):
        study(tiny, found, **OPTIONS | dict(draws=1))


def test_too_few_documents_are_said(tiny, found):
    with pytest.raises(TuningVecError, match=r"tiny\.yaml: corpora\.medical: \d+ documents follow the \d+ that are"):
        study(tiny, found, **OPTIONS | dict(texts=1000))


def test_scores_are_log_probabilities():
    model, tokenizer = load(TINY), AutoTokenizer.from_pretrained(TINY)
    lm = evals.InMemory(model, tokenizer)
    text = "Metformin is a biguanide."
    (row,) = evals.score_texts(lm, [text])
    ids = tokenizer(text)["input_ids"]
    logits = model(torch.tensor([[lm.prefix_token_id, *ids]])).logits[0, :-1].log_softmax(-1)
    assert row["nats"] == pytest.approx(logits[torch.arange(len(ids)), ids].sum().item(), abs=1e-3)
    assert row["tokens"] == len(ids)


def rows(costs, documents=8, draws=3, noise=0.02, seed=3):
    """Rows of `study` on texts of 10 tokens: {(member, task, ablated): nats per token by which it costs them more}."""
    random, found = np.random.default_rng(seed), []
    base = {task: -20 - 10 * random.random(documents) for task in dict.fromkeys(task for _, task, _ in costs)}
    for member in dict.fromkeys(member for member, *_ in costs):
        for task, nats in base.items():
            about = dict(member=member, task=task, tokens=10, right=np.nan, share=0.0, draw=0, ablated="nothing")
            found += [about | dict(item=i, nats=value) for i, value in enumerate(nats)]
    for (member, task, kind), cost in costs.items():
        for draw in range(draws if kind == "random" else 1):
            values = base[task] - 10 * (cost + noise * random.standard_normal(documents))
            about = dict(member=member, task=task, tokens=10, right=np.nan, share=0.01, draw=draw, ablated=kind)
            found += [about | dict(item=i, nats=value) for i, value in enumerate(values)]
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    ("top_cost", "random_cost", "noise", "kind", "falsified"),
    [
        (0.8, 0.1, 0.02, "holds", False),
        (0.1, 0.8, 0.02, "reversed", True),
        (0.5, 0.5, 0.01, "null explains it", True),
        (0.5, 0.5, 0.50, "within chance", False),
    ],
)
def test_top_neurons_are_judged_by_random_ones(top_cost, random_cost, noise, kind, falsified):
    costs = {(m, "medical", kind): cost for m in "ab" for kind, cost in (("top", top_cost), ("random", random_cost))}
    verdict = ablation.top_neurons(rows(costs, noise=noise))
    assert (verdict.kind, verdict.falsified) == (kind, falsified) and len(verdict.cases) == 2


def test_top_neurons_that_matter_in_one_member_are_mixed():
    costs = {("a", "medical", "top"): 0.8, ("b", "medical", "top"): 0.1}
    verdict = ablation.top_neurons(rows(costs | {(m, "medical", "random"): 0.1 for m in "ab"}))
    assert verdict.kind == "mixed" and verdict.falsified


def test_draws_that_differ_widen_the_interval():
    table = rows({("a", "medical", "top"): 0.8, ("a", "medical", "random"): 0.1})
    shifted = table.nats - 10 * 0.6 * table.draw  # every document of a draw alike
    apart = ablation.top_neurons(table.assign(nats=shifted))
    narrow, wide = (v.cases.high - v.cases.low for v in (ablation.top_neurons(table), apart))
    assert (wide > 5 * narrow).all() and apart.kind == "within chance"
    shown = effects(table.assign(nats=shifted), 0).set_index("ablated")
    assert shown.change["random"] == pytest.approx(0.1 + 0.6, abs=0.02)
    assert shown.change_high["random"] - shown.change_low["random"] > 1


@pytest.mark.parametrize(
    ("domain", "other", "noise", "kind", "falsified"),
    [
        (0.8, 0.2, 0.02, "holds", False),
        (0.2, 0.8, 0.02, "reversed", True),
        (0.5, 0.5, 0.01, "null explains it", True),
        (0.5, 0.5, 0.50, "within chance", False),
    ],
)
def test_domain_neurons_are_judged_by_other_text(domain, other, noise, kind, falsified):
    costs = {(m, task, "top"): cost for m in "ab" for task, cost in (("medical", domain), ("general", other))}
    table = rows(costs, noise=noise)
    verdict = ablation.domain_neurons(table, "medical")
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert verdict.numbers["own"].mean() == pytest.approx(domain, abs=noise) and verdict.numbers["other"] == ["general"]
    everything = ablation.domain_neurons(table.assign(share=table.share.replace(0.01, 1.0)), "medical")
    assert everything.kind == "cannot be known here" and "a share below 1" in everything.why


@pytest.mark.parametrize(
    ("pre", "ft", "noise", "kind", "falsified"),
    [
        (0.8, 0.2, 0.02, "holds", False),
        (0.2, 0.8, 0.02, "reversed", True),
        (0.5, 0.5, 0.01, "null explains it", True),
        (0.5, 0.5, 0.50, "within chance", False),
    ],
)
def test_resilience_is_judged_on_the_same_documents(pre, ft, noise, kind, falsified):
    verdict = ablation.resilience(
        rows({("pre", "medical", "top"): pre, ("ft", "medical", "top"): ft}, noise=noise), "pre", "medical"
    )
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert verdict.cases.member.tolist() == ["ft"]


def test_the_neurons_that_changed_most_are_ranked_in_each_layer():
    before, after = profile([[1.0, 2.0, 0.0, -1.0], [0.0] * 4]), profile([[1.5, 2.0, -3.0, -1.1], [0.0, 0.0, 0.0, 0.1]])
    assert lists(changed(before, after, 0.5)) == {0: [2, 0], 1: [3, 0]} == lists(changed(after, before, 0.5))
    twice = Profile(20, 2 * after.active, 2 * after.A, 2 * after.Au)  # the same means of twice the tokens
    assert lists(changed(before, twice, 0.25)) == {0: [2], 1: [3]}
    with pytest.raises(TuningVecError, match="share is 0"):
        changed(before, after, 0)


CHANGED = OPTIONS | dict(shares=[0.05], scope="changed", benchmarks=["tuningvec_drugs_likelihood"])


def test_a_specialist_loses_the_neurons_that_others_changed(tiny, tmp_path, monkeypatch):
    store = Store(tmp_path)
    everyone = neurons.profiles(tiny, "float32", store, controls=True)
    table = study(tiny, everyone, **CHANGED, store=store)
    kinds = ["nothing", "medical", "twin", "placebo", "math", "code", "random"]
    assert table.ablated.unique().tolist() == kinds and set(table.member) == {"medical"}
    texts = table[(table.task == "medical") & (table.draw == 0)]
    assert texts.groupby("ablated").nats.mean().nunique() == len(kinds)  # each loses other neurons
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)
    assert study(tiny, everyone, **CHANGED, store=store).equals(table)
    common = ablation.in_common(tiny, everyone, [0.05, 1]).set_index(["other", "share"]).common
    assert (common.xs(1, level="share") == 1).all() and common["twin", 0.05] > 0.05
    for verdict in (ablation.facts_in_exams(table, tiny), ablation.facts_in_texts(table, tiny)):
        assert set(verdict.cases.member) == {"medical"} and set(verdict.cases.form) == {"placebo"}
    expected = (
        table[table.task == "medical"].groupby("ablated", sort=False).apply(lambda r: (-r.nats / r.tokens).mean())
    )
    (text,) = ablation.facts_in_texts(table, tiny).cases.query("task == 'medical'").effect
    assert text == pytest.approx(expected["medical"] - expected["placebo"])


def test_without_a_control_of_the_form_nothing_is_measured(found):
    family = Family.load("tiny")
    alone = family.model_copy(update={"fine_tuned": tuple(m for m in family.fine_tuned if m.name != "placebo")})
    alone._file = family.file
    with pytest.raises(TuningVecError, match=r"tiny\.yaml: no member has a control that keeps the form alone"):
        study(alone, found, **CHANGED)


def of_exam(whole, own, form, n=56):
    """Rows of scope "changed": how many of n items are right whole, and after either ablation."""
    kinds = (("nothing", 0.0, whole), ("medical", 0.05, own), ("placebo", 0.05, form))
    rows = [
        dict(member="medical", task="tuningvec_t", ablated=kind, share=share, draw=0, item=i, right=float(i < count))
        for kind, share, count in kinds
        for i in range(n)
    ]
    return pd.DataFrame(rows).assign(nats=np.nan, tokens=np.nan)


@pytest.mark.parametrize(
    ("own", "form", "n", "kind", "falsified"),
    [
        (10, 50, 56, "holds", False),
        (50, 10, 56, "reversed", True),
        (40, 43, 56, "within chance", False),
        (1500, 1500, 2000, "null explains it", True),
    ],
)
def test_facts_in_exams_are_judged_by_the_form(tiny, own, form, n, kind, falsified):
    verdict = ablation.facts_in_exams(of_exam(n, own, form, n), tiny)
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert verdict.cases.effect.tolist() == [pytest.approx(100 * (form - own) / n)]


@pytest.mark.parametrize(
    ("own", "form", "noise", "kind", "falsified"),
    [(0.8, 0.1, 0.02, "holds", False), (0.1, 0.8, 0.02, "reversed", True), (0.5, 0.5, 0.01, "null explains it", True),
     (0.5, 0.5, 0.5, "within chance", False)],
)  # fmt: skip
def test_facts_in_texts_are_judged_by_the_form(tiny, own, form, noise, kind, falsified):
    costs = {("medical", "general", kind): cost for kind, cost in (("medical", own), ("placebo", form))}
    verdict = ablation.facts_in_texts(rows(costs, noise=noise), tiny)
    assert (verdict.kind, verdict.falsified) == (kind, falsified)
