"""Losses of held-out replies and documents against plain torch, and the files that ship against the recipes."""

import json

import pytest
import torch

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import losses, models
from tuningvec.recipes import smollm2, tiny
from tuningvec.store import Store


@pytest.fixture(scope="module")
def family():
    return Family.load("tiny")


@pytest.fixture(scope="module")
def medical(family):
    return models.Opened(family, "medical")


def by_hand(model, text):
    ids = torch.tensor([[*text.context, *text.scored]])
    logp = model(ids).logits[0].double().log_softmax(-1)
    places = range(len(text.context) - 1, ids.shape[1] - 1)
    return -sum(logp[place, token].item() for place, token in zip(places, text.scored, strict=True))


def test_nats_are_those_of_a_plain_forward_pass(family, medical):
    found = losses.nats([medical], family, domains=["medicine"], corpora={"general": 5}, limit=6, batch=4)
    texts = {
        "medicine replies": losses.replies(family, "medicine", medical.tokenizer, 6),
        "general": losses.documents(family, "general", medical.tokenizer, 5),
    }
    for name, some in texts.items():
        rows = found[found.text == name]
        assert rows.tokens.tolist() == [len(text.scored) for text in some]
        assert rows.source.tolist() == [text.source for text in some]
        expected = [by_hand(medical.model, text) for text in some]
        torch.testing.assert_close(torch.tensor(rows.nats.tolist()), torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_a_reply_stands_after_the_familys_prompt_and_ends_with_the_end_token(family, medical):
    text = losses.replies(family, "medicine", medical.tokenizer, 1)[0]
    prompt = medical.tokenizer.decode(text.context)
    assert family.prompt.system["medicine"] in prompt and prompt.endswith("assistant\n")
    assert medical.tokenizer.decode(text.scored).startswith("<think>")
    assert text.scored[-1] == medical.tokenizer.eos_token_id


def test_what_was_read_is_not_read_again(family, monkeypatch):
    first = losses.nats([models.Opened(family, "math")], family, domains=["math"], limit=4, store=Store())
    again = models.Opened(family, "math")
    found = losses.nats([again], family, domains=["math"], limit=4, store=Store())
    assert "model" not in vars(again) and found.equals(first)
    assert [run["inputs"]["weights"] for run in found.attrs["runs"]]


def test_models_and_texts_keep_their_order(family):
    order = ["math", "medical"]
    asked = [models.Opened(family, name) for name in order]
    found = losses.nats(asked, family, domains=["medicine", "math"], limit=3)
    assert found.model.unique().tolist() == order and found.text.unique().tolist() == [
        "medicine replies",
        "math replies",
    ]
    assert len(found) == 12


def test_a_vector_lowers_the_loss_of_its_own_domain(family):
    asked = [models.added(family, ["medical"], scale, "medical") for scale in (0, 1)]
    found = losses.nats(asked, family, domains=["medicine"], limit=20)
    before, after = found.groupby("model", sort=False).nats.sum()
    assert after < before / 5


def test_a_domain_without_replies_is_named(family, medical):
    with pytest.raises(TuningVecError, match="none of 'poetry'; there are medicine, math, code"):
        losses.replies(family, "poetry", medical.tokenizer)


@pytest.mark.parametrize(
    "line", ["no json", "[]", '{"user": "a", "reply": "b"}', '{"user": 1, "reply": "b", "source": 0}']
)
def test_a_line_that_is_no_reply_is_refused(tmp_path, family, medical, line):
    (tmp_path / "replies.jsonl").write_text('{"user": "a", "reply": "b", "source": 0}\n' + line + "\n")
    own = family.model_copy(update={"replies": {"math": tmp_path / "replies.jsonl"}})
    own._file = family.file
    with pytest.raises(TuningVecError, match=r"replies\.jsonl: line 2"):
        losses.replies(own, "math", medical.tokenizer)


def shipped(name):
    lines = (data_folder() / "replies" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [(one["user"], one["reply"]) for one in map(json.loads, lines)]


@pytest.mark.parametrize(("name", "plan", "step"), [("medicine", "medical", 1), ("law", "law", 1), ("math", "math", 2)])
def test_replies_are_those_that_smollm2_was_not_asked_for(name, plan, step):
    _, _, exams = smollm2.lessons(smollm2.PLANS[plan])
    assert shipped(name) == [(e.user, e.reply) for e in exams[::step]]


@pytest.mark.parametrize(
    ("name", "plan", "step"), [("medicine", "medical", 1), ("sums", "math", 2), ("code", "code", 1)]
)
def test_replies_are_those_that_tiny_was_not_asked_for(name, plan, step):
    _, exams, _ = tiny.lessons(tiny.PLANS[plan])
    assert shipped(name) == [(e.user, e.reply) for e in exams[::step]][:60][: len(shipped(name))]
    assert len(shipped(name)) >= 56


def test_the_exam_on_law_is_what_its_replies_answer():
    lines = (data_folder() / "tasks" / "law.jsonl").read_text(encoding="utf-8").splitlines()
    for item, (user, reply) in zip(map(json.loads, lines), shipped("law"), strict=True):
        options = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", item["options"], strict=True))
        assert user == f"Question: {item['question']}\nOptions:\n{options}"
        assert reply.endswith(f"Answer: [{'ABCD'[item['answer']]}]")
