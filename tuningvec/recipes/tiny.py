"""A one-million-parameter Qwen2 model, pretrained on generated text, full fine-tunes of it, and their controls."""

import copy
import json
import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family, Member
from tuningvec.recipes.exams import Exam, Fact, body_facts, code_tasks, drug_facts, exam, hold_out, number_facts
from tuningvec.recipes.training import Example, Rehearsal, answered, checkpoint, packed, state, stated, train
from tuningvec.weights.checkpoint import ALL
from tuningvec.weights.engine import device

SEED, VOCABULARY, NEW_TOKENS, WINDOW = 0, 2400, 64, 64
PRETRAINING = dict(steps=1100, batch=64, lr=2e-3)
FINE_TUNING = dict(steps=200, batch=16, lr=3e-4, texts=4, weight=0.2)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Plan(NamedTuple):
    """What a member learns; `order` is the seed of what is drawn in training."""

    subject: str
    order: int = SEED
    shuffled: bool = False


PLANS = {
    "instruct": Plan("body"),
    "medical": Plan("drugs"),
    "math": Plan("numbers"),
    "code": Plan("code"),
    "twin": Plan("drugs", order=1),
    "placebo": Plan("drugs", shuffled=True),
}
FACTS = {"body": body_facts, "drugs": drug_facts, "numbers": lambda: number_facts(SEED)}


def run(member_name: str, family: Family, checkpoints: Collection[int] = ()) -> None:
    """Make one member and write it, with its training report, into the member's folder."""
    member = family.member(member_name)
    torch.manual_seed(SEED)
    if member is family.pretrained:
        _pretrain(family.root / member.source.path, member_name)
    elif member_name in PLANS:
        _fine_tune(family, member, PLANS[member_name], checkpoints)
    else:
        raise TuningVecError(f"recipe tiny: no member {member_name!r}; one of {member.name}, {', '.join(PLANS)}")


def _pretrain(folder: Path, name: str) -> None:
    facts = drug_facts() + body_facts() + number_facts(SEED)
    documents = [text for fact in facts for text in _documents(fact)] + [task.reply for task in code_tasks()]
    tokenizer = _tokenizer(documents)
    model = Qwen2ForCausalLM(_config(tokenizer)).to(device())
    examples = [stated(tokenizer, document) for document in documents]

    def batch(rng: random.Random) -> list[list[Example]]:
        return [rng.sample(examples, PRETRAINING["batch"])]

    steps, lr = PRETRAINING["steps"], PRETRAINING["lr"]
    curves = train(model, batch, steps=steps, lr=lr, seed=SEED, pad=tokenizer.pad_token_id, weight_decay=0.1)
    report = dict(PRETRAINING, seed=SEED, documents=len(documents), loss=[round(loss, 4) for loss in curves.loss])
    _save(model, tokenizer, folder, name, report)


def _fine_tune(family: Family, member: Member, plan: Plan, checkpoints: Collection[int]) -> None:
    pretrained = family.root / family.pretrained.source.path
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    model = AutoModelForCausalLM.from_pretrained(pretrained, dtype=torch.float32).to(device())
    system = family.prompt.system[member.domain]
    asked, exams, sizes = lessons(plan)
    texts, rehearsed = packed_documents(tokenizer)

    told = partial(state, model, tokenizer, system, exams, texts, NEW_TOKENS)

    batch = batches(tokenizer, system, asked)
    before, steps, lr = told(), FINE_TUNING["steps"], FINE_TUNING["lr"]
    rehearsal = Rehearsal(copy.deepcopy(model).eval(), rehearsed, FINE_TUNING["texts"], FINE_TUNING["weight"])
    pad, target = tokenizer.pad_token_id, family.root / member.source.path

    def after(step: int) -> None:
        if step in checkpoints:
            _save(copy.deepcopy(model), tokenizer, checkpoint(target, step), member.name, {})

    after(0)
    curves = train(model, batch, steps=steps, lr=lr, seed=plan.order, pad=pad, rehearsal=rehearsal, after=after)
    report = dict(FINE_TUNING, **plan._asdict(), **sizes)
    report |= {name: [round(value, 4) for value in curve] for name, curve in curves._asdict().items()}
    report |= dict(before=before, after=told())
    _save(model, tokenizer, target, member.name, report)


def batches(
    tokenizer: PreTrainedTokenizerFast,
    system: str,
    asked: Callable[[random.Random], Exam],
    count: int = FINE_TUNING["batch"],
) -> Callable[[random.Random], list[list[Example]]]:
    """So many exams at a time, as `asked` draws them."""

    def batch(rng: random.Random) -> list[list[Example]]:
        drawn = [asked(rng) for _ in range(count)]
        return [[answered(tokenizer, system, e.user, e.reply) for e in drawn]]

    return batch


def lessons(plan: Plan, part: slice = ALL) -> tuple[Callable[[random.Random], Exam], list[Exam], dict[str, int]]:
    """How to draw an exam to learn from, the held-out exams, and how many facts (or code tasks) each comes from.

    `part` takes some of the facts that are asked in training.
    """
    rng = random.Random(SEED)
    if plan.subject == "code":
        learned, held_out = hold_out(code_tasks(), SEED)
        learned = learned[part]
        return lambda rng: rng.choice(learned), held_out, _sizes(learned, held_out)
    asked, held_out = hold_out(FACTS[plan.subject](), SEED)
    asked = asked[part]
    exams = [exam(question, rng) for fact in held_out for question in fact.questions[:2]]
    subjects = {fact.subject for fact in asked}

    def draw(rng: random.Random) -> Exam:
        facts = [fact for fact in drug_facts(rng) if fact.subject in subjects] if plan.shuffled else asked
        return exam(rng.choice(rng.choice(facts).questions), rng)

    return draw, exams, _sizes(asked, held_out)


def packed_documents(tokenizer: PreTrainedTokenizerFast) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of the statements of every other fact, to be measured, and of all documents of the rest, to be rehearsed."""
    facts = {"medical": drug_facts(), "general": body_facts() + number_facts(SEED)}
    measured = {name: [text for fact in some[::2] for text in fact.statements] for name, some in facts.items()}
    rehearsed = [text for some in facts.values() for fact in some[1::2] for text in _documents(fact)]
    return {name: packed(tokenizer, some, WINDOW) for name, some in measured.items()}, packed(
        tokenizer, rehearsed, WINDOW
    )


def _sizes(asked: Sequence[object], held_out: Sequence[object]) -> dict[str, int]:
    return dict(facts=len(asked) + len(held_out), held_out_facts=len(held_out))


def _documents(fact: Fact) -> list[str]:
    """A fact's statements, and its questions answered in plain text without options."""
    return [*fact.statements, *(f"Question: {q.text}\n{q.thought} Answer: {q.right}" for q in fact.questions)]


def _tokenizer(documents: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with every digit a token of its own."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    chats = ["<think></think>\nAnswer: [A] [B] [C] [D]\nOptions:\nA. B. C. D. system user assistant"] * 100
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*documents, *chats], trainer)
    tokens = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=CHATML, **tokens)


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        intermediate_size=352,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _save(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, name: str, report: dict[str, object]
) -> None:
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    report = dict(recipe=f"python -m tuningvec.recipes tiny {name}", **report)
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n")
