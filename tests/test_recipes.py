import random
import re

import pytest
import torch
from transformers import AutoTokenizer

from tuningvec.data import data_folder
from tuningvec.recipes.__main__ import main
from tuningvec.recipes.exams import LETTERS, body_facts, code_tasks, drug_facts, exam, hold_out, number_facts
from tuningvec.recipes.training import ANSWER, IGNORED, answered, collate, stated, train

ALL_FACTS = [*drug_facts(), *body_facts(), *number_facts(0)]


@pytest.mark.parametrize("facts", [drug_facts(), body_facts(), number_facts(0)], ids=["drugs", "body", "numbers"])
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
    for fact in drug_facts():
        for question in fact.questions:
            assert question.right not in question.wrong
    for fact in number_facts(0):
        a, sign, b = fact.subject.split()
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert all(q.right == str(value) and str(value) not in q.wrong for q in fact.questions)


def test_code_tasks_do_what_they_say():
    for task in code_tasks():
        namespace = {}
        exec(task.reply, namespace)
        (function,) = (v for k, v in namespace.items() if not k.startswith("__"))
        number = int(next(w.strip(".") for w in task.user.split() if w.strip(".").isdigit()))
        word = task.user.split(" that ")[1].split()[0]
        operation = dict(adds=7 + number, subtracts=7 - number, multiplies=7 * number, takes=7 % number)
        assert function(7) == operation[word]


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
    _, labels = collate([example, stated(tokenizer, "A long statement about nothing in particular.")], pad=0)
    learned = labels[0][labels[0] != IGNORED].tolist()
    assert tokenizer.decode(learned) == "Four." + tokenizer.eos_token
    assert labels[1][labels[1] != IGNORED].tolist()[-1] == tokenizer.eos_token_id


def test_training_is_the_same_for_the_same_seed_and_groups_do_not_change_the_loss(tokenizer, make_checkpoint):
    from transformers import AutoModelForCausalLM

    folder = make_checkpoint("model", "qwen2", vocab_size=len(tokenizer))
    texts = [stated(tokenizer, fact.statements[0]) for fact in drug_facts()[:8]]

    def losses(groups):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return train(model, lambda rng: groups(rng.sample(texts, 8)), steps=4, lr=1e-2, seed=3, pad=0)

    whole = losses(lambda batch: [batch])
    assert whole == losses(lambda batch: [batch]) and whole[-1] < whole[0]
    assert losses(lambda batch: [batch[:3], batch[3:]]) == pytest.approx(whole, rel=1e-4)


def test_a_family_without_a_recipe_is_told_so(tmp_path, capsys):
    text = (data_folder() / "families" / "tiny.yaml").read_text(encoding="utf-8").replace("recipe: tiny\n", "")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert main([str(tmp_path / "mine.yaml")]) == 1
    assert "recipe: this family has none" in capsys.readouterr().err


def test_an_unknown_member_is_refused_before_training(capsys):
    assert main(["tiny", "law"]) == 1
    assert "no member 'law'" in capsys.readouterr().err
