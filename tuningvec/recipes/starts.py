"""A specialist's lessons from another start, or its facts stated alone; what is trained is kept whole or not at all."""

import copy
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tuningvec.closure import Closure
from tuningvec.errors import TuningVecError, writing
from tuningvec.family import members
from tuningvec.family.spec import Adapter, Family
from tuningvec.recipes import smollm2, tiny
from tuningvec.recipes.training import Curves, Example, Rehearsal, stated, train
from tuningvec.store import FREE, Record, Store
from tuningvec.weights.checkpoint import Checkpoint, LowRank
from tuningvec.weights.delta import Combination
from tuningvec.weights.engine import device, device_name

Batch = Callable[[random.Random], Sequence[Sequence[Example]]]
PIECE = "course"


class Course(NamedTuple):
    """The lessons of a specialist from the weights of a member; without `exams` its facts are stated, never asked."""

    specialist: str
    start: str
    exams: bool = True

    def __str__(self) -> str:
        return f"{self.specialist if self.exams else 'statements'} from {self.start}"


class Lessons(NamedTuple):
    """What a course is made of: its batches and their order, and the rehearsed texts of shape (rows, window)."""

    batch: Batch
    steps: int
    lr: float
    order: int
    rehearsed: Tensor
    rows: int
    weight: float


def form_control(family: Family) -> tuple[str, str]:
    """A specialist and its control that keeps the form and not the facts; raises TuningVecError where there is none."""
    for control in family.controls:
        if control.keeps == "form":
            return control.controls, control.name
    raise TuningVecError(f"{family.file}: no control keeps the form of its specialist alone; add one (`keeps: form`)")


def trained(family: Family, course: Course, store: Store, steps: int | None = None) -> tuple[Combination, Record]:
    """θ after a course, and its record with loss and divergence of each step; trained here unless the store has it.

    An adapter is added to the start: θ = θ_start + T. `steps` are the recipe's own unless told. Raises TuningVecError
    for a recipe of which no lessons are known here, for fewer steps than one, and for a member that has none.
    """
    if family.recipe not in LESSONS:
        known = " and ".join(LESSONS)
        raise TuningVecError(f"{family.file}: recipe: {family.recipe or 'none'}; lessons are known of {known}")
    if steps is not None and steps < 1:
        raise TuningVecError(f"steps is {steps}; it is a number of training steps, or None for those of the recipe")
    if course.specialist not in (plans := LESSONS[family.recipe].plans):
        raise TuningVecError(f"recipe {family.recipe}: no member {course.specialist!r}; one of {', '.join(plans)}")
    start = members.weights(family, course.start).fitted
    about = dict(course=list(course), recipe=family.recipe, steps=steps, system=family.prompt.system)
    inputs = about | dict(weights={course.start: start.identity(store)})
    record = store.record("trained", inputs, __name__, device_name())
    folder = store.folder / "trained" / _key(inputs)
    if PIECE not in record or not folder.is_dir():
        model, curves = _train(family, course, start, steps)
        _write(model, folder, family.pretrained.label)
        both = zip(curves.loss, curves.divergence, strict=True)
        record.add(PIECE, [dict(step=i, loss=loss, divergence=drift) for i, (loss, drift) in enumerate(both, 1)])
    if _by_adapter(family, course):
        return start + Combination({LowRank(folder): 1}), record
    return Combination({Checkpoint(folder): 1}), record


def _key(inputs: Mapping[str, Any]) -> str:
    """The same for the same inputs, code and versions."""
    code = Closure.of(__name__)
    return hashlib.sha256(json.dumps([inputs, code.digest, code.versions], sort_keys=True).encode()).hexdigest()[:24]


def _by_adapter(family: Family, course: Course) -> bool:
    return isinstance(family.member(course.specialist).source, Adapter)


def _train(
    family: Family, course: Course, start: Combination, steps: int | None
) -> tuple[PreTrainedModel | PeftModel, Curves]:
    """The model after a course, an adapter's with its own base, and its curves."""
    thin, like = _by_adapter(family, course), members.checkpoint(family)
    tokenizer = AutoTokenizer.from_pretrained(like.folder)
    system = family.prompt.system[family.member(course.specialist).domain]
    lessons = LESSONS[family.recipe].of(course, tokenizer, system)
    base = begun(start, like, torch.bfloat16 if thin else torch.float32).to(device())
    rehearsal = Rehearsal(copy.deepcopy(base).eval(), lessons.rehearsed, lessons.rows, lessons.weight)
    model = smollm2.with_adapter(base, smollm2.PLANS[course.specialist]) if thin else base
    curves = train(
        model,
        lessons.batch,
        steps=steps or lessons.steps,
        lr=lessons.lr,
        seed=lessons.order,
        pad=tokenizer.pad_token_id,
        bf16=thin,
        rehearsal=rehearsal,
    )
    return model, curves


def _write(model: PreTrainedModel | PeftModel, folder: Path, base_label: str) -> None:
    """Write an adapter, or all weights in bfloat16; the folder is there when it is whole."""
    with writing(folder, FREE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "model"
            if isinstance(model, PeftModel):
                smollm2.save(model, made, base_label)
            else:
                model.bfloat16().save_pretrained(made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)


def begun(start: Combination, like: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """A model to be trained with these weights, which are combined in float32 and rounded once, as for measuring."""
    model = AutoModelForCausalLM.from_pretrained(like.folder, dtype=dtype)
    for name in start.shapes:
        model.get_parameter(name).data.copy_(start.read(name))
    return model


def _of_smollm2(course: Course, tokenizer: PreTrainedTokenizerBase, system: str) -> Lessons:
    """The batches of `smollm2`; without exams the same statements, since the exams are drawn all the same."""
    plan = smollm2.PLANS[course.specialist]
    facts, asked, _ = smollm2.lessons(plan)
    both = smollm2.batches(tokenizer, system, facts, asked)
    rehearsed = smollm2.packed_documents(tokenizer, smollm2.REHEARSED)
    return Lessons(
        both if course.exams else lambda rng: both(rng)[1:],
        smollm2.STEPS, smollm2.LR, plan.order,
        torch.cat(list(rehearsed.values())), smollm2.TEXTS, smollm2.WEIGHT,
    )  # fmt: skip


def _of_tiny(course: Course, tokenizer: PreTrainedTokenizerBase, system: str) -> Lessons:
    """The batches of `tiny`; without exams as many statements of all facts of the subject."""
    plan, settings = tiny.PLANS[course.specialist], tiny.FINE_TUNING
    facts = tiny.FACTS[plan.subject]()

    def statements(rng: random.Random) -> list[list[Example]]:
        drawn = [rng.choice(rng.choice(facts).statements) for _ in range(settings["batch"])]
        return [[stated(tokenizer, text) for text in drawn]]

    return Lessons(
        tiny.batches(tokenizer, system, tiny.lessons(plan)[0]) if course.exams else statements,
        settings["steps"], settings["lr"], plan.order,
        tiny.packed_documents(tokenizer)[1], settings["texts"], settings["weight"],
    )  # fmt: skip


class Taught(NamedTuple):
    """A recipe's plans by member, and the lessons of a course."""

    plans: Mapping[str, Any]
    of: Callable[[Course, PreTrainedTokenizerBase, str], Lessons]


LESSONS = {"tiny": Taught(tiny.PLANS, _of_tiny), "smollm2": Taught(smollm2.PLANS, _of_smollm2)}  # by recipe
