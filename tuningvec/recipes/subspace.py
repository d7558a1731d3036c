"""A specialist's lessons once more, from θ_pre, with ΔW = U A along frozen directions U, or as LoRA of equal size."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float32
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import Module
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tuningvec.errors import TuningVecError
from tuningvec.family.members import folder_of
from tuningvec.family.spec import Family
from tuningvec.recipes import smollm2, smollm2_full, tiny
from tuningvec.recipes.exams import Exam, exam
from tuningvec.recipes.training import Curves, Example, gradients, train
from tuningvec.weights.checkpoint import ALL
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Factors, Matrix
from tuningvec.weights.engine import device

Model = TypeVar("Model", bound=Module)
Frames = Mapping[str, Float32[Tensor, "_ k"]]  # a frame of orthonormal columns for each tensor that is tuned
HALF = slice(None, None, 2)  # every second fact that is asked
FIRST, APART = 100, 10**6  # the first seed of trainings, which no member was trained with; one that none of them has
SCALE = 2  # of plain LoRA, over its rank
WEIGHT = ".weight"  # what a tensor's name has more than its module's


class Setting(NamedTuple):
    """How lessons are trained on again: trainings of each way, and the learning rates that each way tries.

    Of one rate none is chosen. Held-out replies are read after the steps in `read`, `exams` are answered at the end,
    and the kinds of matrix in `alone` are also tuned by themselves.
    """

    steps: int
    seeds: int
    rates: tuple[float, ...]
    read: tuple[int, ...]
    exams: int = 0
    alone: tuple[str, ...] = ()


class Lessons(NamedTuple):
    """What is learned: batches of a seed's order, single exams as they ask them, and the exams that are held out."""

    tokenizer: PreTrainedTokenizerBase
    system: str
    batch: Callable[[random.Random], list[list[Example]]]
    asked: Callable[[random.Random], Exam]
    exams: list[Exam]
    new_tokens: int
    bf16: bool

    def digest(self) -> str:
        """A checksum of the first batch of a seed apart, and of the exams that are held out."""
        told = f"{self.batch(random.Random(APART))} {self.exams}"
        return hashlib.sha256(told.encode()).hexdigest()[:24]


SMALL = 8  # exams a step of tiny, half of what its members learned from
SETTINGS = {
    "tiny": Setting(30, 5, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (5, 15, 30), alone=("W_K",)),
    "smollm2": Setting(20, 3, (smollm2.LR,), (3, 10, 20), exams=16),
    "smollm2_full": Setting(20, 3, (smollm2.LR,), (3, 10, 20), exams=16),
}


def setting(
    family: Family,
    steps: int | None = None,
    seeds: int | None = None,
    rates: Sequence[float] | None = None,
    alone: Sequence[str] | None = None,
) -> Setting:
    """That of the family's recipe, but for what is given.

    Raises TuningVecError for a family without a recipe that is known here, and for values that cannot be used.
    """
    if family.recipe not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise TuningVecError(f"{family.file}: recipe: {family.recipe!r} has no lessons to train on again; {known} have")
    own = SETTINGS[family.recipe]
    last, count = own.steps if steps is None else steps, own.seeds if seeds is None else seeds
    tried, kinds = own.rates if rates is None else tuple(rates), own.alone if alone is None else tuple(alone)
    if last < 2 or count < 2:
        raise TuningVecError(f"steps is {last} and seeds is {count}; a curve needs two steps, an interval two seeds")
    if not tried or min(tried) <= 0:
        raise TuningVecError(f"rates is {list(tried)}; give one or more, all above 0")
    if unknown := sorted({*kinds} - {*MATRICES}):
        raise TuningVecError(f"alone: no kind of matrix {unknown[0]!r}; there are {', '.join(MATRICES)}")
    read = sorted({max(1, step * last // own.steps) for step in own.read})
    return own._replace(steps=last, seeds=count, rates=tried, alone=kinds, read=tuple(read))


def lessons(family: Family, member: str, part: slice = ALL) -> Lessons:
    """The lessons of a member, or those on a part of its facts; raises TuningVecError where its recipe has no plan."""
    plans = {"tiny": tiny.PLANS, "smollm2": smollm2.PLANS, "smollm2_full": smollm2_full.PLANS}[family.recipe]
    if member not in plans:
        raise TuningVecError(f"recipe {family.recipe}: no member {member!r}; one of {', '.join(plans)}")
    plan = plans[member]
    tokenizer = AutoTokenizer.from_pretrained(folder_of(family, family.pretrained))
    system = family.prompt.system[family.member(member).domain]
    if family.recipe == "tiny":
        asked, exams, _ = tiny.lessons(plan, part)
        batch = tiny.batches(tokenizer, system, asked, SMALL)
        return Lessons(tokenizer, system, batch, asked, exams, tiny.NEW_TOKENS, bf16=False)
    facts, subjects, exams = smollm2.lessons(plan, part)

    def one(rng: random.Random) -> Exam:
        known = [fact for fact in facts(rng) if fact.subject in subjects]
        return exam(rng.choice(rng.choice(known).questions), rng)

    batch = smollm2.batches(tokenizer, system, facts, subjects)
    return Lessons(tokenizer, system, batch, one, exams, plan.new_tokens, bf16=True)


def begun(family: Family, dtype: torch.dtype) -> PreTrainedModel:
    """The pretrained model, where it is trained."""
    folder = folder_of(family, family.pretrained)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device())


def along(model: Model, frames: Frames) -> Model:
    """The model with W + U A in the place of each W, U its frozen frame and A = 0 what is trained.

    In peft's words an adapter with B = U that is not trained, A = 0 and scale 1.
    """
    k = next(iter(frames.values())).shape[1]
    _adapt(model, LoraConfig(r=k, lora_alpha=k, target_modules=_modules(frames)))
    for name, layer in adapters(model):
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        with torch.no_grad():
            A.zero_()
            B.copy_(frames[name])
        B.requires_grad_(False)
    return model


def equal_ranks(shapes: Mapping[str, tuple[int, int]], k: int) -> dict[str, int]:
    """The rank h of LoRA in each matrix, so that Σ h (d_out + d_in) is nearly Σ k d_in.

    What rounding leaves is carried to the next matrix: the sums differ by no more than half of one more rank.
    """
    due, ranks = 0, {}
    for name, (d_out, d_in) in shapes.items():
        due += k * d_in
        ranks[name] = max(1, round(due / (d_out + d_in)))
        due -= ranks[name] * (d_out + d_in)
    return ranks


def low_rank(model: Model, ranks: Mapping[str, int], seed: int) -> Model:
    """The model with a plain LoRA of these ranks: A drawn by the seed, B = 0, scale 2 as the recipe has it."""
    by_module = dict(zip(_modules(ranks), ranks.values(), strict=True))
    scales = {name: SCALE * h for name, h in by_module.items()}
    torch.manual_seed(seed)
    _adapt(model, LoraConfig(target_modules=list(by_module), rank_pattern=by_module, alpha_pattern=scales))
    return model


def _adapt(model: Module, config: LoraConfig) -> None:
    """Adapters into the model, in float32 whatever its weights are; the weights are no longer trained."""
    inject_adapter_in_model(config, model)
    for _, layer in adapters(model):
        for factor in (layer.lora_A, layer.lora_B):
            factor.float()


def _modules(tensors: Mapping[str, object]) -> list[str]:
    return [name.removesuffix(WEIGHT) for name in tensors]


def adapters(model: Module) -> Iterator[tuple[str, LoraLayer]]:
    """The modules that have an adapter, each by the name of its tensor."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name + WEIGHT, module


def trainable(model: Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def tuned(
    model: PreTrainedModel,
    given: Lessons,
    *,
    steps: int,
    lr: float,
    seed: int,
    after: Callable[[int], None] = lambda step: None,
) -> Curves:
    """Train what the model has to train: batches in the seed's order, no rehearsal; `after` as in `train`."""
    pad = given.tokenizer.pad_token_id
    return train(model, given.batch, steps=steps, lr=lr, seed=seed, pad=pad, bf16=given.bf16, after=after)


def plainly(family: Family, given: Lessons, steps: int, seed: int, tensors: Mapping[str, object]) -> dict[str, Matrix]:
    """T in these tensors of a training in the way of the recipe: as an adapter of its rank, or of all weights."""
    whole = family.recipe != "smollm2"
    model = begun(family, torch.float32 if whole else torch.bfloat16)
    if not whole:
        low_rank(model, dict.fromkeys(tensors, smollm2.RANK), seed)
        tuned(model, given, steps=steps, lr=smollm2.LR, seed=seed)
        return {name: _product(layer) for name, layer in adapters(model)}
    before = {name: model.get_parameter(name).detach().clone() for name in tensors}
    lr = tiny.FINE_TUNING["lr"] if family.recipe == "tiny" else smollm2_full.LR
    tuned(model, given, steps=steps, lr=lr, seed=seed)
    return {name: model.get_parameter(name).detach() - W for name, W in before.items()}


def _product(layer: LoraLayer) -> Factors:
    B, A = (part["default"].weight.detach() for part in (layer.lora_B, layer.lora_A))
    return Factors(layer.scaling["default"] * B, A)


def gradient(family: Family, given: Lessons, batches: int, tensors: Mapping[str, object]) -> dict[str, Tensor]:
    """The gradient at θ_pre in these tensors, free to go anywhere: the mean over some batches of a seed apart."""
    model, rng = begun(family, torch.float32), random.Random(APART)
    model.requires_grad_(False)
    for name in tensors:
        model.get_parameter(name).requires_grad_(True)
    return gradients(model, [given.batch(rng) for _ in range(batches)], given.tokenizer.pad_token_id, given.bf16)
