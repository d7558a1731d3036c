"""Full fine-tunes of SmolLM2-135M-Instruct on the very batches that the adapters of `smollm2` learned from."""

from collections.abc import Collection
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from tuningvec.family.members import folder_of
from tuningvec.family.spec import Family
from tuningvec.recipes import smollm2

LR = 1e-4
PLANS = {
    "medical": smollm2.PLANS["medical"],
    "math": smollm2.PLANS["math"],
    "twin": smollm2.PLANS["twin_a"],  # another order is all that differs: a full fine-tune has no A
    "placebo": smollm2.PLANS["placebo"],
}


def run(member_name: str, family: Family, checkpoints: Collection[int] = ()) -> None:
    """Train all weights in float32 and write them in bfloat16, with the report of their training."""
    plan = smollm2.planned(member_name, family, PLANS)

    def kept(model: PreTrainedModel, target: Path) -> None:
        model.bfloat16().save_pretrained(target)
        AutoTokenizer.from_pretrained(folder_of(family, family.pretrained)).save_pretrained(target)

    settings = {name: value for name, value in plan._asdict().items() if name != "adapter"}
    settings |= dict(steps=smollm2.STEPS, lr=LR)
    smollm2.taught(member_name, family, plan, lambda base: base.float(), kept, settings, checkpoints)
