"""Members of a family as models in memory, from the same weights that the measures on disk read."""

import gc
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tuningvec import sources
from tuningvec.checkpoint import Checkpoint, LowRank
from tuningvec.delta import Combination
from tuningvec.engine import device_name
from tuningvec.errors import TuningVecError
from tuningvec.family import Adapter, Family
from tuningvec.store import Record, Store


class Opened:
    """A member whose model is loaded when it is first asked for."""

    def __init__(self, family: Family, name: str, dtype: str = "float32"):
        self.name, self.dtype = name, dtype
        self.weights, self.like = weights(family, name)

    @cached_property
    def model(self) -> PreTrainedModel:
        return load(self.weights, self.like, self.dtype)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.like.folder)

    def record(self, store: Store | None, what: str, code: Sequence[ModuleType], **inputs: Any) -> Record:
        """The record of what is measured of this member from `inputs`; without a store, one for this run alone."""
        if store is None:
            return Record()
        about = {"weights": {self.name: self.weights.identity(store)}, "dtype": self.dtype, **inputs}
        return store.record(what, about, code, device_name())


def opened(family: Family, dtype: str, desc: str) -> Iterator[Opened]:
    """All members in turn, the pretrained one first; a member's model is let go when its turn is over."""
    for member in tqdm(family.members, desc=desc, mininterval=5):
        one = Opened(family, member.name, dtype)
        yield one
        one.__dict__.pop("model", None)
        gc.collect()  # what traces a model refers to itself


def weights(family: Family, name: str) -> tuple[Combination, Checkpoint]:
    """A member's weights in their own shapes, and the checkpoint whose architecture and tokenizer they have."""
    member = family.member(name)
    if not isinstance(member.source, Adapter):
        like = Checkpoint(sources.folder_of(family, member))
        return Combination({like: 1}), like
    base, like = weights(family, member.source.base)
    return base + Combination({LowRank(sources.folder_of(family, member)): 1}), like


def load(combination: Combination, like: Checkpoint, dtype: str = "float32") -> PreTrainedModel:
    """A model with these weights, to be read only, in evaluation mode; spread over the GPUs there are, else on the CPU.

    Weights are combined in float32 and rounded to `dtype` once. Raises TuningVecError for an unknown dtype and for a
    model that does not fit into memory.
    """
    kind = _dtype(dtype)
    model = AutoModelForCausalLM.from_pretrained(
        like.folder, dtype=kind, device_map="auto" if torch.cuda.is_available() else None
    )
    if set(combination.terms) != {like} or combination.terms[like] != 1:
        for tensor in (combination - Combination({like: 1})).shapes:
            parameter = model.get_parameter(tensor)
            if parameter.is_meta:
                raise TuningVecError(f"{like.folder}: {tensor} fits on no device; use a machine with more memory")
            parameter.data.copy_(combination.read(tensor))
    return model.eval().requires_grad_(False)


def _dtype(name: str) -> torch.dtype:
    kind = getattr(torch, name, None)
    if kind not in (torch.float32, torch.bfloat16, torch.float16):
        raise TuningVecError(f"dtype is {name!r}; it must be float32, bfloat16 or float16")
    return kind
