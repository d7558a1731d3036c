import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import ablation, evals, models, neurons
from tuningvec.measures.ablation import ablated, at_random, effects, study, top
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
    shares=[0.05, 1.0], scope="layer", texts=3, words=20, seed=0, dtype="float32", limit=9,
    benchmarks=["tuningvec_drugs_likelihood", "tuningvec_functions"],
)  # fmt: skip


def test_a_study_has_a_row_for_each_item_and_is_kept(tiny, found, tmp_path, monkeypatch):
    real, scored = ablation._scores, []

    def stopped(*arguments):
        if len(scored) == 7:
            raise KeyboardInterrupt
        scored.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(ablation, "_scores", stopped)
    with pytest.raises(KeyboardInterrupt):
        study(tiny, found, **OPTIONS, store=Store(tmp_path))
    scored.insert(0, None)  # no longer stops
    table = study(tiny, found, **OPTIONS, store=Store(tmp_path))
    assert len(scored) - 1 == 5 * 5  # settings × members, each once
    assert len(table) == 25 * (2 * 3 + 2 * 9) and len(table.attrs["runs"]) == 5 + 1
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
    gaps = ablation.resilience(table, "pretrained", "medical", 0.05)
    assert gaps.member.tolist() == ["instruct", "medical", "math", "code"]
    top_cost = costs[(costs.task == "medical") & (costs.ablated == "top") & (costs.share == 0.05)].set_index("member")
    expected = top_cost.change["code"] - top_cost.change["pretrained"]
    assert gaps.difference.iloc[3] == pytest.approx(expected)


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
