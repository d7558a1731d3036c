"""lm-eval's view of a model in memory: what prompts share is read once, a reply that has ended is not gone on with."""

import copy
import logging
import os.path
from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer
from transformers.generation import RepetitionPenaltyLogitsProcessor

from tuningvec.tasks import scoring

BATCH = 32
STEPS = 8  # tokens that are decoded before replies that have ended are let go
HEEDED = {  # settings of a generation config that `greedy` heeds, or that greedy decoding has no use for
    "_from_model_config", "bos_token_id", "do_sample", "eos_token_id", "max_length", "output_attentions",
    "output_hidden_states", "pad_token_id", "repetition_penalty", "temperature", "top_k", "top_p",
    "transformers_version", "use_cache",
}  # fmt: skip
ATTENTION = {"full_attention", "sliding_attention"}
Ids = Int64[Tensor, "rows tokens"]


class InMemory(HFLM):
    """lm-eval's view of a model in memory; the last character of a reply says whether an end token stopped it.

    Probabilities are float32 whatever the weights are. `marks` is off for tasks with stop strings, where lm-eval cuts.
    Replies and log-likelihoods are those of lm-eval's own loops up to rounding, which other shapes of batches change.
    """

    marks = False

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int = BATCH):
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every model that is not named by a string
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch, softmax_dtype="float32")
        self._ends = end_tokens(model, tokenizer)

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        if not (self.marks and isinstance(tokens, list) and skip_special_tokens):
            return super().tok_decode(tokens, skip_special_tokens)
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        return super().tok_decode(tokens[:end]) + (scoring.CUT if end is None else scoring.ENDED)

    def _model_generate(self, context: Ids, max_length: int, stop: list[str], **options: Any) -> Tensor:
        plain = options | dict(attention_mask=None) == dict(attention_mask=None, do_sample=False, temperature=0.0)
        heeded = self.model.generation_config.to_diff_dict().keys() <= HEEDED
        if not (self.marks and plain and heeded and max_length <= _reach(self.model)):
            return super()._model_generate(context, max_length, stop, **options)
        rows = [ids[kept.bool()].tolist() for ids, kept in zip(context, options["attention_mask"], strict=True)]
        replies = greedy(self.model, rows, max_length - context.shape[1], self._ends)
        padded = torch.full((len(rows), max_length), self.tokenizer.pad_token_id)
        for row, reply in zip(padded, replies, strict=True):
            row[context.shape[1] : context.shape[1] + len(reply)] = torch.tensor(reply)
        return padded

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        _, contexts, options = zip(*requests, strict=True)
        if max(map(len, contexts)) + max(map(len, options)) > _reach(self.model):
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        if requests[0][0] is None:  # pieces of running texts, as many as are read together
            return text_likelihoods(self.model, contexts, options)
        asked: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for i, (context, option) in enumerate(zip(contexts, options, strict=True)):
            asked.setdefault(tuple(context), {})[i] = option
        found: dict[int, tuple[float, bool]] = {}
        in_order = sorted(asked, key=len, reverse=True)
        for first in range(0, len(in_order), self.batch_size):
            some = in_order[first : first + self.batch_size]
            found |= option_likelihoods(self.model, some, [asked[context] for context in some], self.batch_size)
        return [found[i] for i in range(len(requests))]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a reply: those of the generation config, and the tokenizer's own."""
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    return {token for token in (*ends, tokenizer.eos_token_id) if token is not None}


def _reach(model: PreTrainedModel) -> int:
    """How many tokens a row may have so that each sees all before it and none changes where an earlier one stands.

    No token at all for a model that keeps something else than keys and values.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if "past_key_values" not in signature(model.forward).parameters or not kinds <= ATTENTION:
        return 0
    window, rope = getattr(config, "sliding_window", None), getattr(config, "rope_parameters", None) or {}
    switch = "original_max_position_embeddings"  # where long rope takes other frequencies, for all tokens of a row
    limits = window, rope.get(switch), getattr(config, switch, None), config.max_position_embeddings
    return min(limit for limit in limits if limit)


class _Growing(DynamicLayer):
    """Keys and values in a buffer with room for further tokens, so that a step does not copy those before it."""

    _buffers: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, new = self.get_seq_length(), (key_states, value_states)
        after = before + key_states.shape[-2]
        if not self._buffers or self._buffers[0].shape[-2] < after:
            held = self.keys, self.values
            self._buffers = tuple(x.new_empty(*x.shape[:2], after + STEPS, x.shape[-1]) for x in new)
            for buffer, some in zip(self._buffers, held, strict=True):
                if before:
                    buffer[:, :, :before] = some
        for buffer, some in zip(self._buffers, new, strict=True):
            buffer[:, :, before:after] = some
        self.keys, self.values = (buffer[:, :, :after] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._buffers = ()
        super().batch_select_indices(indices)


class _Read(NamedTuple):
    """What rows have read: which of their places hold a token, and keys and values."""

    mask: Ids
    cache: Cache

    def rows(self, places: Int64[Tensor, " rows"]) -> "_Read":
        """Of these rows, one as often as it is named, with a cache of its own."""
        cache = copy.copy(self.cache)
        cache.layers = list(map(copy.copy, self.cache.layers))
        cache.batch_select_indices(places.cpu())  # layers may lie on several GPUs
        return _Read(self.mask[places], cache)


def _begun(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids, _Read]:
    """Ids and mask of all rows, and these with what they share at their beginning read, less than any has.

    Padding stands behind what is shared.
    """
    shared = list(os.path.commonprefix(list(map(list, rows))))[: min(map(len, rows)) - 1]  # noqa: RUF071
    rest, mask = _padded(model, [row[len(shared) :] for row in rows], left=True)
    begin = torch.tensor([shared], dtype=torch.long, device=rest.device)
    cache = DynamicCache(config=model.config)
    cache.layers = [_Growing() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if shared:
        model.get_decoder()(input_ids=begin, past_key_values=cache, use_cache=True)
    read = _Read(torch.ones_like(begin), cache).rows(torch.zeros(len(rows), dtype=torch.long, device=rest.device))
    return torch.cat([begin.expand(len(rows), -1), rest], 1), torch.cat([read.mask, mask], 1), read


def _padded(model: PreTrainedModel, rows: Sequence[Sequence[int]], left: bool) -> tuple[Ids, Ids]:
    """Ids and mask of rows of any lengths, padded on one side.

    A row is padded with a token of its own, so that a penalty on repetition counts none that is not there.
    """
    width = max(map(len, rows))
    ids, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    for row, places, there in zip(rows, ids, mask, strict=True):
        own = slice(width - len(row), width) if left else slice(len(row))
        places[:], places[own], there[own] = row[0], torch.tensor(row), 1
    return ids.to(model.device), mask.to(model.device)


@torch.no_grad()
def greedy(model: PreTrainedModel, prompts: Sequence[Sequence[int]], room: int, ends: set[int]) -> list[list[int]]:
    """Up to `room` likeliest tokens after each prompt, up to one of `ends`.

    What all prompts begin with is read once, and every few steps the replies that have ended are let go.
    """
    ids, mask, read = _begun(model, prompts)
    begin, start, going = read.mask.shape[1], ids.shape[1], torch.arange(len(ids), device=ids.device)
    found = ids.new_full((len(ids), room), -1)
    stops = torch.tensor(sorted(ends), device=ids.device)
    new = ids[:, begin:]
    for step in range(room):
        read, logits = _read_on(model, read, new, mask[:, -new.shape[1] :], 1)
        new = _likeliest(model, ids, logits)
        ids, mask = torch.cat([ids, new], 1), torch.ones_like(new)
        found[going, step] = new[:, 0]
        if step % STEPS == STEPS - 1:
            on = torch.nonzero(~torch.isin(ids[:, start:], stops).any(1))[:, 0]
            if not len(on):
                break
            if len(on) < len(going):
                going, ids, new, mask, read = going[on], ids[on], new[on], mask[on], read.rows(on)
    return [_cut(reply, ends) for reply in found.tolist()]


def _likeliest(model: PreTrainedModel, ids: Ids, logits: Float[Tensor, "rows 1 vocabulary"]) -> Int64[Tensor, "rows 1"]:
    """The likeliest next tokens, by the generation config's penalty on those that the rows hold."""
    penalty = model.generation_config.repetition_penalty
    if penalty and penalty != 1:
        logits = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[:, -1].float())[:, None]
    return logits.argmax(-1)


def _cut(reply: list[int], ends: set[int]) -> list[int]:
    """A reply up to its first end, without what was not written."""
    end = next((i + 1 for i, token in enumerate(reply) if token in ends), len(reply))
    return [token for token in reply[:end] if token >= 0]


@torch.no_grad()
def option_likelihoods(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], options: Sequence[dict[int, Sequence[int]]], batch: int
) -> dict[int, tuple[float, bool]]:
    """log p of each context's options, by key, in nats, and whether greedy decoding gives the option.

    What all contexts begin with is read once, and each context once for all of its options, `batch` of which are read
    together.
    """
    ids, mask, read = _begun(model, contexts)
    begin = read.mask.shape[1]
    context, first = _read_on(model, read, ids[:, begin:], mask[:, begin:], 1)
    every = [(row, key, option) for row, some in enumerate(options) for key, option in some.items()]
    found = {}
    for start in range(0, len(every), batch):
        rows, keys, some = zip(*every[start : start + batch], strict=True)
        places = torch.tensor(rows, device=ids.device)
        tokens, there = _padded(model, some, left=False)
        logits = first[places]  # of the options' first tokens
        if tokens.shape[1] > 1:
            _, later = _read_on(model, context.rows(places), tokens[:, :-1], there[:, :-1], 0)
            logits = torch.cat([logits, later], 1)
        found |= {key: _scored(row, option) for key, row, option in zip(keys, logits, some, strict=True)}
    return found


@torch.no_grad()
def text_likelihoods(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> list[tuple[float, bool]]:
    """log p of each text after its context in nats, and whether greedy decoding gives the text."""
    ids, _ = _padded(model, [[*context, *text][:-1] for context, text in zip(contexts, texts, strict=True)], left=False)
    logits = model(ids, use_cache=False).logits  # what pads a row stands behind it, where it is seen by none
    starts = [len(context) - 1 for context in contexts]
    return [_scored(row[start:], text) for row, start, text in zip(logits, starts, texts, strict=True)]


def _scored(logits: Float[Tensor, "tokens vocabulary"], tokens: Sequence[int]) -> tuple[float, bool]:
    """log p of these tokens in nats, and whether each is the likeliest one."""
    ids = torch.tensor(tokens, device=logits.device)
    logp = torch.log_softmax(logits[: len(ids)], -1, dtype=torch.float32)
    nats = logp.gather(1, ids[:, None]).sum(dtype=torch.float64)
    return nats.item(), bool((logp.argmax(-1) == ids).all())


def _read_on(
    model: PreTrainedModel, read: _Read, ids: Ids, mask: Ids, logits: int
) -> tuple[_Read, Float[Tensor, "rows last vocabulary"]]:
    """What rows have read with further tokens, and the logits after the last so many of these, 0 for all."""
    whole = torch.cat([read.mask, mask], 1)
    places = (whole.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    options = dict(attention_mask=whole, position_ids=places, use_cache=True, logits_to_keep=logits)
    found = model(ids, past_key_values=read.cache, **options)
    return _Read(whole, found.past_key_values), found.logits.to(ids.device)
