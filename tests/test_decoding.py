import json

import pytest
import torch
from conftest import ARCHITECTURES
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, GenerationConfig

from tuningvec.family.spec import Family
from tuningvec.measures import decoding, evals, models
from tuningvec.measures.decoding import InMemory

PROMPTS = [[5, 6, 7, 8, 9, 20], [5, 6, 7, 30], [5, 6, 7, 41, 42, 43, 44, 45, 46]]  # three tokens are shared
OPTIONS = [{0: [11], 1: [12, 13, 14]}, {2: [15, 16], 3: [17, 18]}, {4: [19, 20, 21, 22]}]
ROOM = 21


class Plain(InMemory):
    """The same with lm-eval's own loops."""

    _model_generate = HFLM._model_generate
    _loglikelihood_tokens = HFLM._loglikelihood_tokens


@pytest.fixture(params=ARCHITECTURES)
def model(request, make_checkpoint):
    folder = make_checkpoint("m", request.param, initializer_range=0.3)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def alone(model, prompt, **options):
    """The reply to one prompt, without padding and from an empty cache."""
    ids = torch.tensor([prompt])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, max_new_tokens=ROOM, **options
    )
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], [prompt[i:] for i, prompt in enumerate(PROMPTS)]])
def test_replies_are_those_of_each_prompt_alone(model, prompts):
    model.generation_config.eos_token_id = None
    whole = [alone(model, prompt) for prompt in prompts]
    ends = {whole[0][2], whole[-1][11]}  # within the first stretch of tokens, and after it
    for reply, expected in zip(decoding.greedy(model, prompts, ROOM, ends), whole, strict=True):
        stop = next((i + 1 for i, token in enumerate(expected) if token in ends), ROOM)
        assert reply == expected[:stop]


def test_a_penalty_of_repetition_counts_the_prompt_too(model):
    model.generation_config = GenerationConfig(repetition_penalty=1.7, eos_token_id=None)
    found = decoding.greedy(model, PROMPTS, ROOM, set())
    assert found == [alone(model, prompt) for prompt in PROMPTS]


def test_likelihoods_are_those_of_each_option_alone(model):
    found = decoding.option_likelihoods(model, PROMPTS, OPTIONS, batch=2)
    for context, options in zip(PROMPTS, OPTIONS, strict=True):
        for key, option in options.items():
            logp = torch.log_softmax(model(torch.tensor([context + option])).logits[0, len(context) - 1 : -1], -1)
            nats, likeliest = found[key]
            torch.testing.assert_close(nats, logp[range(len(option)), option].sum().item(), rtol=1e-5, atol=1e-5)
            assert likeliest == (logp.argmax(-1).tolist() == option)
    greedy = alone(model, PROMPTS[0])[:3]
    assert decoding.option_likelihoods(model, PROMPTS[:1], [{9: greedy}], batch=2)[9][1]


def test_beyond_a_sliding_window_lm_evals_own_loops_are_used(make_checkpoint):
    folder = make_checkpoint("m", "gemma3", sliding_window=16)
    assert decoding._reach(AutoModelForCausalLM.from_pretrained(folder)) == 16


@pytest.mark.parametrize("member", ["pretrained", "medical", "code"])
def test_items_replies_and_scores_are_those_of_lm_evals_loops(member, monkeypatch):
    calls, greedy = [], decoding.greedy
    monkeypatch.setattr(decoding, "greedy", lambda *given: calls.append(given) or greedy(*given))
    family = Family.load("tiny")
    one = models.Opened(family, member, "float32")
    names = ["tuningvec_drugs", "tuningvec_arithmetic", "tuningvec_functions", "tuningvec_drugs_likelihood"]
    tasks = evals.tasks(names, family.prompt)
    for name, pieces in evals.windows(one, tasks, limit=8).items():
        for groups in pieces.values():
            ours, theirs = (
                evals.answer(view(one.model, one.tokenizer), tasks[name], groups) for view in (InMemory, Plain)
            )
            if name == "tuningvec_drugs_likelihood":
                replies = [
                    torch.tensor([[r[0] for r in json.loads(row["reply"])] for row in rows]) for rows in (ours, theirs)
                ]
                torch.testing.assert_close(*replies, rtol=1e-5, atol=1e-4)
                ours, theirs = ([row | dict(reply="") for row in rows] for rows in (ours, theirs))
            assert ours == theirs
    assert len(calls) == 3  # of the benchmarks that are answered by generation
