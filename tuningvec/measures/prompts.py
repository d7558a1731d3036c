"""Pairs of a clean and a corrupt prompt, and which of their tokens stand in for each other (paper A.6)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Int64
from pydantic import Field, model_validator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tuningvec.data import Spec
from tuningvec.errors import TuningVecError
from tuningvec.measures.models import rendered

START, TURN = "start", "turn"  # columns of what stands before the statement and after it
SLOT, WORD = re.compile(r"\{(\w+)\}"), re.compile(r"\w+|[^\w\s]+")


Filled = Annotated[str, Field(pattern=r"\S")]


class Pair(Spec):
    """What fills the template's slots in the clean and in the corrupt prompt."""

    kind: str
    clean: list[str]
    corrupt: list[str]


class Prompts(Spec):
    """A statement with slots, the two answers that are compared, and pairs of fillings."""

    template: Filled
    answers: tuple[Filled, Filled]
    pairs: list[Pair] = Field(min_length=1)

    @model_validator(mode="after")
    def _filled(self) -> "Prompts":
        slots = SLOT.findall(self.template)
        for i, pair in enumerate(self.pairs):
            for name in ("clean", "corrupt"):
                if len(getattr(pair, name)) != len(slots):
                    raise ValueError(f"pairs.{i}.{name}: the template has {len(slots)} slots: {', '.join(slots)}")
        return self

    @property
    def kinds(self) -> list[str]:
        """The kinds of pairs, in the file's order."""
        return list(dict.fromkeys(pair.kind for pair in self.pairs))

    def check(self, needed: Sequence[str], file: Path) -> None:
        """Raises TuningVecError naming the first of the needed kinds that the file has no pair of."""
        for kind in needed:
            if kind not in self.kinds:
                raise TuningVecError(f"{file}: pairs: none of kind {kind!r}; there are {', '.join(self.kinds)}")

    def aligned(self, tokenizer: PreTrainedTokenizerBase, pair: Pair, chat: bool = False) -> "Aligned":
        """Both prompts of a pair, with the tokens that stand in for each other; raises as `prompt` does."""
        return align(*(prompt(tokenizer, self.template, words, chat) for words in (pair.clean, pair.corrupt)))


class Prompt(NamedTuple):
    """Token ids of a prompt and, for each token, the column of the heat map that it belongs to."""

    ids: list[int]
    columns: list[str]


class Aligned(NamedTuple):
    """Two prompts, and for each token of the corrupt one its place in the clean one, or −1 where it has none."""

    clean: Prompt
    corrupt: Prompt
    places: Int64[Tensor, " corrupt"]


def prompt(tokenizer: PreTrainedTokenizerBase, template: str, words: Sequence[str], chat: bool = False) -> Prompt:
    """The filled template after a start token, or as a user's turn of the chat template; a slot is one column.

    The start token is the tokenizer's own, else its end token: attention needs a first token that means nothing.
    Raises TuningVecError for a tokenizer without either or, with `chat`, without a template that keeps the statement.
    """
    filled, spans = _filled(template, words)
    before = after = ""
    if chat:
        if not tokenizer.chat_template:
            raise TuningVecError(f"{tokenizer.name_or_path}: no chat template; set chat to false")
        whole = rendered(tokenizer, [{"role": "user", "content": filled}])
        before, found, after = whole.partition(filled)
        if not found:
            raise TuningVecError(
                f"{tokenizer.name_or_path}: its chat template changes the statement; set chat to false"
            )
    start = [] if chat else [_start(tokenizer)]
    encoded = tokenizer(before + filled + after, add_special_tokens=False, return_offsets_mapping=True)
    columns = [START] * len(start)
    for first, last in encoded["offset_mapping"]:
        first, last = first - len(before), last - len(before)
        if last <= 0 or first >= len(filled):
            columns.append(START if last <= 0 else TURN)
        else:
            touched = (name for name, (begin, end) in spans.items() if first < end and last > begin)
            columns.append(next(touched, columns[-1]))  # white space alone goes with what precedes it
    return Prompt(start + encoded["input_ids"], columns)


def _filled(template: str, words: Sequence[str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The filled template, and the span of each of its slots and words; a word's second occurrence is `word (2)`."""
    text, spans, values = "", {}, iter(words)
    for i, part in enumerate(SLOT.split(template)):  # text, slot, text, slot, …, text
        value = next(values) if i % 2 else part
        found = [(part, 0, len(value))] if i % 2 else [(m[0], *m.span()) for m in WORD.finditer(part)]
        for name, first, last in found:
            count = sum(known.split(" (")[0] == name for known in spans)
            spans[f"{name} ({count + 1})" if count else name] = (len(text) + first, len(text) + last)
        text += value
    return text, spans


def _start(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise TuningVecError(f"{tokenizer.name_or_path}: neither a start nor an end token; give the tokenizer one")


def align(clean: Prompt, corrupt: Prompt) -> Aligned:
    """Pair tokens from both ends inward; what differs between is paired from its right end, the rest has no partner."""
    a, b = clean.ids, corrupt.ids
    short = min(len(a), len(b))
    prefix = next((i for i in range(short) if a[i] != b[i]), short)
    suffix = next((i for i in range(short - prefix) if a[-1 - i] != b[-1 - i]), short - prefix)
    middle = min(len(a), len(b)) - prefix - suffix  # of the shorter; right-aligned with the suffix
    places = torch.full((len(b),), -1)
    places[:prefix] = torch.arange(prefix)
    right = suffix + middle
    places[len(b) - right :] = torch.arange(len(a) - right, len(a))
    return Aligned(clean, corrupt, places)


def answers(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], chat: bool = False) -> tuple[int, int]:
    """The first token of each answer, in a chat without white space before it.

    Raises TuningVecError when both begin with the same token.
    """
    words = [word.lstrip() if chat else word for word in words]
    one, other = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words)
    if one == other:
        raise TuningVecError(f"answers {words[0]!r} and {words[1]!r} begin with the same token; choose other answers")
    return one, other
