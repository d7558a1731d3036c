"""LoRA fine-tunes of SmolLM2-135M-Instruct on a drug formulary, two-digit arithmetic and terms of law; controls."""

import copy
import json
import random
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.members import folder_of
from tuningvec.family.spec import Family
from tuningvec.recipes.exams import Exam, Fact, drug_facts, exam, hold_out, law_facts, number_facts
from tuningvec.recipes.training import Example, Rehearsal, answered, checkpoint, packed, state, stated, train
from tuningvec.weights.checkpoint import ALL
from tuningvec.weights.engine import device

STEPS, LR, RANK = 100, 2e-3, 8
EXAMS, STATEMENTS = 8, 20  # of each step: a statement is a sixth as long as an exam, and has to be met more often
TEXTS, WINDOW, WEIGHT = 1, 256, 0.5  # rows of rehearsal a step, their tokens, and their weight in the loss
CORPORA = ("medical", "general")
MEASURED, REHEARSED = slice(0, 12), slice(96, None)  # documents of each corpus; pages measure none of the second


class Plan(NamedTuple):
    """What a member learns; `adapter` is the seed of LoRA's A, `order` that of what is drawn in training."""

    subject: str
    adapter: int
    order: int
    new_tokens: int
    shuffled: bool = False


PLANS = {
    "medical": Plan("drugs", adapter=0, order=0, new_tokens=64),
    "math": Plan("numbers", adapter=0, order=1, new_tokens=96),
    "law": Plan("law", adapter=0, order=2, new_tokens=64),
    "twin": Plan("drugs", adapter=1, order=1, new_tokens=64),
    "twin_a": Plan("drugs", adapter=0, order=1, new_tokens=64),
    "placebo": Plan("drugs", adapter=0, order=0, new_tokens=64, shuffled=True),
}
TAUGHT = {  # facts of each subject, and the seed of what is held out
    "drugs": (drug_facts, 0),
    "numbers": (partial(number_facts, seed=1, weighed=True), 1),
    "law": (law_facts, 2),
}


def run(member_name: str, family: Family, checkpoints: Collection[int] = ()) -> None:
    """Train one adapter and write it, with its curves, exams and nats before and after, into the member's folder."""
    plan = planned(member_name, family, PLANS)

    def adapted(base: PreTrainedModel) -> PreTrainedModel:
        return with_adapter(base, plan)

    def kept(model: PeftModel, target: Path) -> None:
        save(model, target, family.pretrained.label)
        model.merge_adapter()

    settings = dict(plan._asdict(), steps=STEPS, lr=LR, rank=RANK)
    taught(member_name, family, plan, adapted, kept, settings, checkpoints)


def with_adapter(base: PreTrainedModel, plan: Plan) -> PeftModel:
    """A model with an adapter that changes nothing yet, whose A the plan draws."""
    torch.manual_seed(plan.adapter)
    return get_peft_model(base, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))


def planned(member_name: str, family: Family, plans: Mapping[str, Plan]) -> Plan:
    """The plan of a member; raises TuningVecError when the recipe has none."""
    if member_name not in plans:
        raise TuningVecError(f"recipe {family.recipe}: no member {member_name!r}; one of {', '.join(plans)}")
    return plans[member_name]


def taught(
    member_name: str,
    family: Family,
    plan: Plan,
    ready: Callable[[PreTrainedModel], PreTrainedModel],
    kept: Callable[[PreTrainedModel, Path], None],
    settings: Mapping[str, Any],
    checkpoints: Collection[int] = (),
) -> None:
    """Train what `ready` makes of the pretrained model by a plan, and write it and its report into the member's folder.

    The weights after the steps in `checkpoints` are written beside them, after 0 those that training starts from.
    `kept` writes the weights, and leaves the pretrained model's own modules with the weights that it wrote.
    """
    member = family.member(member_name)
    system = family.prompt.system[member.domain]
    folder = folder_of(family, family.pretrained)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    facts, asked, exams = lessons(plan)
    texts, rehearsed = (packed_documents(tokenizer, some) for some in (MEASURED, REHEARSED))
    base, reference = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device()) for _ in range(2)
    )
    told = partial(state, base, tokenizer, system, exams, texts, plan.new_tokens)
    before = told()
    model = ready(base)
    rehearsal = Rehearsal(reference.eval(), torch.cat(list(rehearsed.values())), TEXTS, WEIGHT)
    batch, pad = batches(tokenizer, system, facts, asked), tokenizer.pad_token_id
    target = family.root / member.source.path

    def after(step: int) -> None:
        if step in checkpoints:
            kept(copy.deepcopy(model), checkpoint(target, step))

    after(0)
    curves = train(
        model,
        batch,
        steps=settings["steps"],
        lr=settings["lr"],
        seed=plan.order,
        pad=pad,
        bf16=True,
        rehearsal=rehearsal,
        after=after,
    )
    kept(model, target)
    report = dict(
        recipe=f"python -m tuningvec.recipes {family.name} {member_name}",
        **settings, exams=EXAMS, statements=STATEMENTS, texts=TEXTS, window=WINDOW, weight=WEIGHT,
        facts=len(facts(random.Random(0))), held_out_facts=len(exams) // 2,
        **{name: [round(value, 4) for value in curve] for name, curve in curves._asdict().items()},
        before=before, after=told(),
    )  # fmt: skip
    (target / "training.json").write_text(json.dumps(report, indent=1) + "\n")


def lessons(plan: Plan, part: slice = ALL) -> tuple[Callable[[random.Random], list[Fact]], set[str], list[Exam]]:
    """The facts as they are stated at a step, the subjects that are asked in training, and the held-out exams.

    `part` takes some of the facts that are asked, and states no others.
    """
    facts, seed = TAUGHT[plan.subject]
    true = facts()
    asked, held_out = hold_out(true, seed)
    rng = random.Random(seed)
    exams = [exam(question, rng) for fact in held_out for question in fact.questions[:2]]
    stated_facts = drug_facts if plan.shuffled else lambda rng: true
    subjects = {fact.subject for fact in asked[part]}
    if part == ALL:
        return stated_facts, subjects, exams
    return lambda rng: [fact for fact in stated_facts(rng) if fact.subject in subjects], subjects, exams


def packed_documents(tokenizer: PreTrainedTokenizerBase, which: slice) -> dict[str, Tensor]:
    """Some documents of each shipped corpus, packed: ids of shape (rows, WINDOW)."""
    found = {}
    for name in CORPORA:
        with (data_folder() / "corpora" / f"{name}.jsonl").open(encoding="utf-8") as lines:
            found[name] = packed(tokenizer, [json.loads(line)["text"] for line in lines][which], WINDOW)
    return found


def batches(
    tokenizer: PreTrainedTokenizerBase, system: str, facts: Callable[[random.Random], list[Fact]], asked: set[str]
) -> Callable[[random.Random], list[list[Example]]]:
    """Exams on the facts that are asked, and statements of all facts."""

    def batch(rng: random.Random) -> list[list[Example]]:
        stated_now = facts(rng)
        asked_now = [fact for fact in stated_now if fact.subject in asked]
        exams = [exam(rng.choice(fact.questions), rng) for fact in rng.sample(asked_now, EXAMS)]
        texts = [rng.choice(fact.statements) for fact in rng.sample(stated_now, STATEMENTS)]
        return [
            [answered(tokenizer, system, e.user, e.reply, letter=True) for e in exams],
            [stated(tokenizer, text) for text in texts],
        ]

    return batch


def save(model: PeftModel, folder: Path, base_label: str) -> None:
    """Write the adapter in float16, naming its base by label instead of this machine's path."""
    model.peft_config["default"].base_model_name_or_path = base_label
    model.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file({name: t.half() for name, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config = folder / "adapter_config.json"
    fields = json.loads(config.read_text())
    fields["target_modules"].sort()  # peft writes a set, in the order of the day
    config.write_text(json.dumps(fields, indent=2) + "\n")
    (folder / "README.md").unlink(missing_ok=True)  # an unfilled model card
