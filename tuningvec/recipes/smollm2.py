"""LoRA fine-tunes of SmolLM2-135M-Instruct on a drug formulary and on two-digit arithmetic."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from tuningvec.errors import TuningVecError
from tuningvec.family.members import folder_of
from tuningvec.family.spec import Family
from tuningvec.recipes.exams import Fact, drug_facts, exam, hold_out, number_facts
from tuningvec.recipes.training import Example, answered, examine, stated, train

STEPS, LR, RANK = 160, 1e-3, 16
EXAMS, STATEMENTS = 8, 24  # of each step: a statement is a sixth as long as an exam, and has to be met more often
NEW_TOKENS = {"medical": 64, "math": 96}
SEEDS = {"medical": 0, "math": 1}  # unlike, since adapters that start from the same A would share directions


def run(member_name: str, family: Family) -> None:
    """Train one adapter and write it, with loss curve and held-out exam before and after, into the member's folder."""
    if member_name not in SEEDS:
        raise TuningVecError(f"recipe smollm2: no member {member_name!r}; one of {', '.join(SEEDS)}")
    seed = SEEDS[member_name]
    member = family.member(member_name)
    system = family.prompt.system[member.domain]
    folder = folder_of(family, family.pretrained)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked, held_out = hold_out(drug_facts() if member_name == "medical" else number_facts(seed, weighed=True), seed)
    rng = random.Random(seed)
    exams = [exam(q, rng) for fact in held_out for q in fact.questions[:2]]

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    before = examine(base, tokenizer, system, exams, new_tokens=NEW_TOKENS[member_name])
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    batch = _batches(tokenizer, system, asked, asked + held_out)
    losses = train(model, batch, steps=STEPS, lr=LR, seed=seed, pad=tokenizer.pad_token_id, bf16=True)
    after = examine(model, tokenizer, system, exams, new_tokens=NEW_TOKENS[member_name])

    target = family.root / member.source.path
    _save(model, target, family.pretrained.label)
    report = dict(
        recipe=f"python -m tuningvec.recipes smollm2 {member_name}",
        seed=seed, steps=STEPS, exams=EXAMS, statements=STATEMENTS, lr=LR, rank=RANK,
        facts=len(asked) + len(held_out), held_out_facts=len(held_out),
        loss=[round(loss, 4) for loss in losses], before=before, after=after,
    )  # fmt: skip
    (target / "training.json").write_text(json.dumps(report, indent=1) + "\n")


def _batches(
    tokenizer: PreTrainedTokenizerBase, system: str, asked: Sequence[Fact], known: Sequence[Fact]
) -> Callable[[random.Random], list[list[Example]]]:
    """Exams on the facts that are asked, and statements of all facts."""

    def batch(rng: random.Random) -> list[list[Example]]:
        exams = [exam(rng.choice(fact.questions), rng) for fact in rng.sample(asked, EXAMS)]
        texts = [rng.choice(fact.statements) for fact in rng.sample(known, STATEMENTS)]
        return [
            [answered(tokenizer, system, e.user, e.reply) for e in exams],
            [stated(tokenizer, text) for text in texts],
        ]

    return batch


def _save(model: PeftModel, folder: Path, base_label: str) -> None:
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
