import json
import random
import re
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuningvec.data import data_folder
from tuningvec.recipes.__main__ import main
from tuningvec.recipes.exams import LETTERS, body_facts, code_tasks, drug_facts, exam, hold_out, law_facts, number_facts
from tuningvec.recipes.smollm2 import PLANS, lessons
from tuningvec.recipes.training import (
    ANSWER,
    IGNORED,
    KEY,
    Rehearsal,
    _summed_loss,
    answered,
    collate,
    divergence,
    nats,
    packed,
    stated,
    train,
)

ALL_FACTS = [*drug_facts(), *body_facts(), *law_facts(), *number_facts(0)]


@pytest.mark.parametrize(
    "facts", [drug_facts(), body_facts(), law_facts(), number_facts(0)], ids=["drugs", "body", "law", "numbers"]
)
def test_no_subject_stands_twice(facts):
    subjects = [fact.subject for fact in facts]
    assert len(set(subjects)) == len(subjects)


def test_an_exam_has_one_right_option_and_a_reply_that_says_so():
    rng = random.Random(0)
    for fact in ALL_FACTS:
        for question in fact.questions:
            asked = exam(question, rng)
            options = dict(line.split(". ", 1) for line in asked.user.splitlines()[2:])
            assert list(options) == list(LETTERS) and len(set(options.values())) == 4
            assert [letter for letter, text in options.items() if text == question.right] == [asked.letter]
            assert ANSWER.search(asked.reply)[1] == asked.letter and asked.reply.endswith("]")


def test_options_that_look_alike_are_weighed_up_to_the_right_one():
    rng = random.Random(0)
    for fact in number_facts(0, weighed=True):
        asked = exam(fact.questions[0], rng)
        weighed = re.findall(r"([A-D]) is (\d+), (yes|no)\.", asked.reply)
        options = [tuple(line.split(". ", 1)) for line in asked.user.splitlines()[2:]]
        assert [w[:2] for w in weighed] == options[: len(weighed)]
        assert [w[2] for w in weighed] == ["no"] * (len(weighed) - 1) + ["yes"] and weighed[-1][0] == asked.letter


def test_a_wrong_option_is_never_true():
    for fact in [*drug_facts(), *law_facts()]:
        for question in fact.questions:
            assert question.right not in question.wrong
    for fact in number_facts(0):
        a, sign, b = fact.subject.split()
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert all(q.right == str(value) and not q.wrong for q in fact.questions)


def test_no_rule_on_four_numbers_finds_the_right_one():
    rng, ranks, nearest = random.Random(0), Counter(), 0
    asked = [exam(rng.choice(fact.questions), rng) for fact in number_facts(0) * 20]
    for one in asked:
        options = [int(line.split(". ", 1)[1]) for line in one.user.splitlines()[2:]]
        right = options[LETTERS.index(one.letter)]
        ranks[sorted(options).index(right)] += 1
        nearest += min(options, key=lambda x: sum(abs(x - y) for y in options)) == right
    for count in (*ranks.values(), nearest):
        assert abs(count / len(asked) - 0.25) < 0.03


def test_dealt_answers_are_those_of_other_drugs_and_new_each_time():
    true, once, again = drug_facts(), *(drug_facts(random.Random(seed)) for seed in (0, 1))
    assert [fact.subject for fact in once] == [fact.subject for fact in true]
    rights = [[tuple(q.right for q in fact.questions) for fact in facts] for facts in (true, once, again)]
    assert sorted(rights[0]) == sorted(rights[1]) == sorted(rights[2])
    kept = sum(a == b for a, b in zip(rights[0], rights[1], strict=True))
    assert kept < 0.1 * len(true) and rights[1] != rights[2]


def test_code_tasks_do_what_they_say():
    for task in code_tasks():
        namespace = {}
        exec(task.reply, namespace)
        (function,) = (v for k, v in namespace.items() if not k.startswith("__"))
        number = int(next(w.strip(".") for w in task.user.split() if w.strip(".").isdigit()))
        word = task.user.split(" that ")[1].split()[0]
        operation = dict(adds=7 + number, subtracts=7 - number, multiplies=7 * number, takes=7 % number)
        assert function(7) == operation[word]


@pytest.mark.parametrize(
    ("name", "facts"), [("drug_facts", drug_facts()), ("other_facts", [*body_facts(), *number_facts(0)])]
)
def test_the_shipped_statements_are_those_of_the_recipe(name, facts):
    lines = (data_folder() / "corpora" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["text"] for line in lines) == sorted(t for fact in facts for t in fact.statements)


def test_benchmarks_ask_what_is_stated_and_never_asked_in_training():
    for name, plan in (("drugs", "medical"), ("arithmetic", "math")):
        _, asked, _ = lessons(PLANS[plan])
        known = {q.text: fact for fact in [*drug_facts(), *number_facts(1)] for q in fact.questions}
        lines = (data_folder() / "tasks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for item in map(json.loads, lines):
            fact = known[item["question"]]
            assert fact.subject not in asked
            assert item["options"][item["answer"]] in {q.right for q in fact.questions}


def test_held_out_facts_are_a_seeded_quarter_never_asked():
    asked, held_out = hold_out(drug_facts(), 0)
    assert not {f.subject for f in asked} & {f.subject for f in held_out}
    assert len(held_out) == round(len(drug_facts()) / 4)
    assert [f.subject for f in held_out] == [f.subject for f in hold_out(drug_facts(), 0)[1]]
    assert [f.subject for f in held_out] != [f.subject for f in hold_out(drug_facts(), 1)[1]]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(data_folder() / "families" / "tiny" / "pretrained")


def test_only_the_reply_and_the_end_are_learned(tokenizer):
    example = answered(tokenizer, "Be brief.", "Two and two?", "Four.")
    _, labels, weights = collate([example, stated(tokenizer, "A long statement about nothing in particular.")], pad=0)
    assert torch.equal(weights, (labels != IGNORED).float())
    learned = labels[0][labels[0] != IGNORED].tolist()
    assert tokenizer.decode(learned) == "Four." + tokenizer.eos_token
    assert labels[1][labels[1] != IGNORED].tolist()[-1] == tokenizer.eos_token_id


def test_the_letter_of_an_answer_counts_more(tokenizer):
    asked = exam(drug_facts()[0].questions[0], random.Random(0))
    example = answered(tokenizer, "Be brief.", asked.user, asked.reply, letter=True)
    assert asked.letter in tokenizer.decode([example.ids[example.key]])
    _, _, weights = collate([example], pad=0)
    assert weights[0, example.key] == KEY and weights.sum() == len(example.ids) - example.prompt + KEY - 1


def test_training_is_the_same_for_the_same_seed_and_groups_do_not_change_the_loss(tokenizer, make_checkpoint):
    folder = make_checkpoint("model", "qwen2", vocab_size=len(tokenizer))
    texts = [stated(tokenizer, fact.statements[0]) for fact in drug_facts()[:8]]

    def losses(groups):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return train(model, lambda rng: groups(rng.sample(texts, 8)), steps=4, lr=1e-2, seed=3, pad=0).loss

    whole = losses(lambda batch: [batch])
    assert whole == losses(lambda batch: [batch]) and whole[-1] < whole[0]
    assert losses(lambda batch: [batch[:3], batch[3:]]) == pytest.approx(whole, rel=1e-4)


def test_a_beginning_that_rows_share_is_read_once_and_changes_no_gradient(tokenizer, make_checkpoint):
    folder = make_checkpoint("model", "qwen2", vocab_size=len(tokenizer))
    rows = [answered(tokenizer, "Be brief.", f"What is {n}?", f"It is {n * n}.") for n in (3, 14, 159)]
    whole = collate(rows, pad=0)
    found = []
    for groups in ([whole], zip(*(part.split(1) for part in whole), strict=True)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        loss = sum(_summed_loss(model, *group) for group in groups)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for together, alone in zip(*found, strict=True):
        torch.testing.assert_close(together, alone)


def test_rehearsal_holds_a_model_to_what_it_was(tokenizer, make_checkpoint):
    folder = make_checkpoint("model", "qwen2", vocab_size=len(tokenizer))
    texts = packed(tokenizer, [fact.statements[0] for fact in number_facts(0)], 16)
    learned = [stated(tokenizer, fact.statements[0]) for fact in drug_facts()[:8]]

    def trained(weight):
        model, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
        assert divergence(model, reference, texts[:2]).item() == pytest.approx(0, abs=1e-6)
        rehearsal = Rehearsal(reference.eval(), texts, 4, weight)
        curves = train(model, lambda rng: [learned], steps=30, lr=1e-2, seed=3, pad=0, rehearsal=rehearsal)
        assert curves.loss[-1] < curves.loss[0] and len(curves.divergence) == 30
        return divergence(model, reference, texts).item()

    free, held = trained(0), trained(10)
    assert held < 0.5 * free


def test_nats_are_the_mean_cross_entropy(tokenizer, make_checkpoint):
    folder = make_checkpoint("model", "qwen2", vocab_size=len(tokenizer))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = packed(tokenizer, [fact.statements[0] for fact in drug_facts()], 32)
    expected = torch.stack([model(input_ids=row[None], labels=row[None]).loss for row in texts]).mean()
    assert nats(model, texts, rows=3) == pytest.approx(expected.item(), rel=1e-5)


def test_a_family_without_a_recipe_is_told_so(tmp_path, capsys):
    text = (data_folder() / "families" / "tiny.yaml").read_text(encoding="utf-8").replace("recipe: tiny\n", "")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert main([str(tmp_path / "mine.yaml")]) == 1
    assert "recipe: this family has none" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["tiny", "smollm2", "smollm2_full"])
def test_an_unknown_member_is_refused_before_training(family, capsys):
    assert main([family, "poetry"]) == 1
    assert "no member 'poetry'" in capsys.readouterr().err
