"""Members of a family as models in memory, from the same weights that the measures on disk read."""

import gc
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, get_args

import jinja2
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tuningvec.errors import TuningVecError, reading
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.store import Record, Store
from tuningvec.weights.checkpoint import ALL, Checkpoint, Rotated, Sides
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Combination, places
from tuningvec.weights.engine import device_name, dtype_name

OWN_CODE = {"trust_remote_code": False}  # else transformers asks, and runs a model's own code on "y"
REMEDY = "only architectures of transformers itself are run; fetch the folder again"


class Opened:
    """A member whose model is loaded when it is first asked for."""

    def __init__(self, family: Family, name: str, dtype: str = "float32"):
        self.name, self.dtype = name, dtype_name(dtype)
        opened = members.weights(family, name)
        self.weights, self.like = opened.own, opened.like
        self.prompted, self._template = self.like, family.template
        self.terms, self.prompted_as = {name: 1.0}, name

    def __getstate__(self) -> dict[str, Any]:
        """Another process loads the model and reads the tokenizer itself."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "tokenizer", "generation")}

    @cached_property
    def model(self) -> PreTrainedModel:
        model = load(self.weights, self.like, self.dtype)
        model.generation_config = self.generation
        return model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the member that is prompted, with the family's chat template where it has one."""
        with reading(f"{self.prompted.folder}: tokenizer", REMEDY):
            tokenizer = AutoTokenizer.from_pretrained(self.prompted.folder, **OWN_CODE)
        if self._template is not None:
            tokenizer.chat_template = self._template
        return tokenizer

    @cached_property
    def tokenizer_digest(self) -> str:
        """SHA-256 of all that the tokenizer does."""
        return hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    @cached_property
    def generation(self) -> GenerationConfig:
        """How the member that is prompted generates: its end tokens, and penalties where it has them."""
        folder = self.prompted.folder
        with reading(f"{folder}: generation settings", REMEDY):
            if (folder / "generation_config.json").is_file():
                return GenerationConfig.from_pretrained(folder)
            return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, **OWN_CODE))

    def record(self, store: Store | None, what: str, module: str, **inputs: Any) -> Record:
        """The record of what is measured of this member from `inputs`; without a store, one for this run alone."""
        if store is None:
            return Record()
        about = {"weights": {self.name: self.weights.identity(store)}, "dtype": self.dtype, **inputs}
        return store.record(what, about, module, device_name())


def rendered(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
) -> str:
    """The conversation up to where the assistant speaks; without a system role its text begins the first turn.

    Raises TuningVecError for a template that cannot be filled with it.
    """
    options = dict(
        tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
    )
    with reading(f"{tokenizer.name_or_path}: chat template", "correct it, or give the family one"):
        try:
            return tokenizer.apply_chat_template(list(turns), **options)
        except jinja2.TemplateError:
            if turns[0]["role"] != "system":
                raise
            system, first, *rest = turns
            merged = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
            return tokenizer.apply_chat_template([merged, *rest], **options)


class Arithmetic(Opened):
    """Σ c·θ of members, {member: c}, prompted as one of them: with its tokenizer, chat template and end tokens.

    θ_ft − λT is {ft: 1 − λ, pre: λ}; θ_pre + λ Σ T_d over n domains is {pre: 1 − nλ, d: λ, …}. A sum that comes down to
    one member is that member; any other has the shapes and settings of the pretrained one. Raises TuningVecError for an
    unknown member and for coefficients that do not add up to 1, which make no model.
    """

    def __init__(self, family: Family, terms: Mapping[str, float], prompted: str, dtype: str = "float32"):
        terms = {family.member(name).name: round(c, 12) for name, c in terms.items() if round(c, 12)}
        if abs(sum(terms.values()) - 1) > 1e-9:
            total = sum(terms.values())
            raise TuningVecError(f"coefficients {terms} add up to {total:g}; those of a model add up to 1")
        alone = next(iter(terms)) if len(terms) == 1 else None
        super().__init__(family, alone or family.pretrained.name, dtype)
        if not alone:
            order = [member.name for member in family.members if member.name in terms]
            self.name = " + ".join(f"{terms[name]:g} {name}" for name in order).replace("+ -", "− ")
            self.weights = sum((terms[name] * members.weights(family, name).fitted for name in order), Combination({}))
        self.prompted = members.weights(family, prompted).like
        self.terms, self.prompted_as = terms, prompted


class Merged(Opened):
    """A model of given weights with the shapes and settings of the pretrained member, prompted as another member."""

    def __init__(self, family: Family, weights: Combination, name: str, prompted: str, dtype: str = "float32"):
        super().__init__(family, family.pretrained.name, dtype)
        self.weights, self.name = weights, name
        self.prompted = members.weights(family, prompted).like


def rotated(T: Combination, like: Checkpoint, seed: int, sides: Sides) -> Rotated:
    """T with every matrix of the shapes of `like` turned at random; norms and biases stay."""
    matrices: dict[str, list[slice]] = {}
    for tensor, component in places({"": T}, like, (*MATRICES, "embedding", "head")):
        matrices.setdefault(tensor, []).append(component.rows or ALL)
    return Rotated(T, matrices, seed, sides)


class Turned(Opened):
    """θ + c · (T of a member, turned): every matrix in T rotated (`Rotated`); norms and biases keep their T.

    θ is the pretrained member unless `start` names another, and what is prompted; c is `scale`. θ_ft − λ · turned T
    starts at the member with c = −λ. Raises TuningVecError for an unknown member.
    """

    def __init__(
        self,
        family: Family,
        member: str,
        seed: int,
        dtype: str = "float32",
        sides: Sides = "left",
        start: str | None = None,
        scale: float = 1,
    ):
        super().__init__(family, family.pretrained.name, dtype)
        T = members.tuning_vectors(family, controls=True)[family.member(member).name]
        self.name = f"{member}, rotated" if sides == "left" else f"{member}, rotated on both sides"
        if start is not None:
            self.name = f"{start} {scale:+g} · ({self.name}, seed {seed})"
        begun = members.weights(family, start or family.pretrained.name)
        self.weights = begun.fitted + Combination({rotated(T, self.like, seed, sides): scale})
        self.prompted = begun.like


def turned(
    family: Family, members: Sequence[str], count: int, seed: int, dtype: str, removed: Sequence[float] = ()
) -> list[tuple[dict[str, Any], Turned]]:
    """T of each member turned `count` times on the left and on both sides, each with what tells it; not yet loaded.

    The model is θ_pre + turned T; with `removed`, θ_ft − λ · turned T for each λ in it. What tells it is member, sides,
    draw and, with `removed`, scale. Draw i has the seed `seed` + i. Raises TuningVecError for fewer than three draws,
    and as `Turned` does.
    """
    if count < 3:
        raise TuningVecError(f"draws is {count}; a spread needs three or more")
    found = []
    for member, scale, sides, draw in itertools.product(members, removed or (None,), get_args(Sides), range(count)):
        about: dict[str, Any] = dict(member=member, sides=sides, draw=draw)
        where: dict[str, Any] = {}
        if scale is not None:
            about, where = about | dict(scale=scale), dict(start=member, scale=-scale)
        found.append((about, Turned(family, member, seed + draw, dtype, sides, **where)))
    return found


def negated(family: Family, member: str, scale: float, dtype: str = "float32") -> Arithmetic:
    """θ_ft − λT of a fine-tuned member (paper §3.1), prompted as that member; at λ = 1 the pretrained weights."""
    return Arithmetic(family, {member: 1 - scale, family.pretrained.name: scale}, member, dtype)


def added(family: Family, members: Sequence[str], scale: float, prompted: str, dtype: str = "float32") -> Arithmetic:
    """θ_pre + λ Σ T_d over these members (paper §3.1), prompted as one of them."""
    terms = {family.pretrained.name: 1 - len(members) * scale, **dict.fromkeys(members, scale)}
    return Arithmetic(family, terms, prompted, dtype)


def opened(family: Family, dtype: str, controls: bool = False) -> Iterator[Opened]:
    """All members in turn, the pretrained one first; controls where they are asked for."""
    return in_turn([Opened(family, m.name, dtype) for m in (family.members if controls else family.studied)])


def in_turn(models: Sequence[Opened]) -> Iterator[Opened]:
    """Each of these; its model is let go when its turn is over."""
    for one in models:
        yield one
        if one.__dict__.pop("model", None) is not None:
            gc.collect()  # what traces a model refers to itself


def load(combination: Combination, like: Checkpoint, dtype: str = "float32") -> PreTrainedModel:
    """A model with these weights, to be read only, in evaluation mode; spread over the GPUs there are, else on the CPU.

    Weights are combined in float32 and rounded to `dtype` once. Code that comes with a model is never run. Raises
    TuningVecError for an unknown dtype, for an architecture that is not transformers' own, for weights that do not make
    up the model, and for a model that does not fit into memory.
    """
    where = "auto" if torch.cuda.is_available() else None
    asked = dtype_name(dtype)
    with reading(f"{like.folder}: not loaded", REMEDY):
        model, info = AutoModelForCausalLM.from_pretrained(
            like.folder,
            dtype=getattr(torch, asked),
            device_map=where,
            use_safetensors=True,
            output_loading_info=True,
            **OWN_CODE,
        )
    if absent := sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]})):
        raise TuningVecError(f"{like.folder}: no {absent[0]} of the shape that config.json asks for; fetch it again")
    if set(combination.terms) != {like} or combination.terms[like] != 1:
        for tensor in (combination - Combination({like: 1})).shapes:
            parameter = model.get_parameter(tensor)
            if parameter.is_meta:
                raise TuningVecError(f"{like.folder}: {tensor} fits on no device; use a machine with more memory")
            parameter.data.copy_(combination.read(tensor))
    # torch multiplies a view, such as that of the last position of each row, by a copy of the head for each row
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (_with_own_strides(inputs[0]),))
    return model.eval().requires_grad_(False)


def _with_own_strides(states: Tensor) -> Tensor:
    """A copy: `contiguous` leaves a single row the strides of what it is a view of, by which torch goes."""
    return states.clone(memory_format=torch.contiguous_format)
