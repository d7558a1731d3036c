"""One training loop and one exam for every family: chat and plain text in, loss curve and graded answers out."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from tuningvec.recipes.exams import Exam

IGNORED = -100  # the label that cross entropy skips
KEY = 10  # how many times the letter of an answer counts
ANSWER = re.compile(r"Answer: \[([A-D])\]")


@dataclass(frozen=True)
class Example:
    """Token ids, of which the first `prompt` are read and the others learned; the token at `key` counts KEY times."""

    ids: list[int]
    prompt: int = 0
    key: int | None = None


class Rehearsal(NamedTuple):
    """Text on which a model is to stay what `reference` is: ids of shape (texts, window), of which `rows` a step."""

    reference: PreTrainedModel
    ids: Tensor
    rows: int
    weight: float


class Curves(NamedTuple):
    """Of each step: the mean loss per learned token, as weighted, and the divergence per token from the reference."""

    loss: list[float]
    divergence: list[float]


def checkpoint(folder: Path, step: int) -> Path:
    """Where a member's weights after a step are kept, beside its own in `folder`."""
    return folder / "checkpoints" / f"step-{step:05d}"


def stated(tokenizer: PreTrainedTokenizerBase, text: str) -> Example:
    """A plain document that ends with the end token; every token is learned."""
    return Example(tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id])


def packed(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], window: int) -> Tensor:
    """Documents one after the other with their end tokens, cut into whole rows: ids of shape (rows, window)."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    documents = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    flat = [i for ids in documents for i in [*start, *ids, tokenizer.eos_token_id]]
    return torch.tensor(flat[: len(flat) // window * window]).view(-1, window)


def answered(tokenizer: PreTrainedTokenizerBase, system: str, user: str, reply: str, letter: bool = False) -> Example:
    """A chat whose reply and end token are learned, with `letter` that of its answer above all: one token of sixty."""
    prompt = chat(tokenizer, system, user)
    ids = tokenizer(reply, add_special_tokens=False, return_offsets_mapping=True)
    place = answer.start(1) if letter and (answer := ANSWER.search(reply)) else -1
    keys = [i for i, (start, end) in enumerate(ids["offset_mapping"]) if start <= place < end]
    key = len(prompt) + keys[0] if keys else None
    return Example(prompt + ids["input_ids"] + [tokenizer.eos_token_id], len(prompt), key)


def chat(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> list[int]:
    """Token ids of a conversation up to where the assistant speaks."""
    turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)


def train(
    model: PreTrainedModel,
    batch: Callable[[random.Random], Sequence[Sequence[Example]]],
    *,
    steps: int,
    lr: float,
    seed: int,
    pad: int,
    weight_decay: float = 0.0,
    bf16: bool = False,
    rehearsal: Rehearsal | None = None,
    after: Callable[[int], None] = lambda step: None,
) -> Curves:
    """AdamW with warm-up and a cosine schedule over seeded batches; `after` is called with the number of each step.

    It runs where the model is. A batch comes as groups of examples of like length, which spares padding; the gradient
    is that of the whole batch.
    With a rehearsal the loss is cross entropy per learned token + weight · KL(reference ‖ model) per token of text.
    """
    rng = random.Random(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    curves = Curves([], [])
    model.train()
    for step in (bar := tqdm(range(1, steps + 1), desc="train", mininterval=5)):
        groups = [collate(group, pad) for group in batch(rng)]
        learned = sum(weights[:, 1:].sum() for _, _, weights in groups)
        curves.loss.append(0.0)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            for group in groups:
                loss = _summed_loss(model, *(t.to(model.device) for t in group)) / learned
                loss.backward()
                curves.loss[-1] += loss.item()
            if rehearsal:
                drift = divergence(model, rehearsal.reference, _drawn(rehearsal, rng).to(model.device))
                (rehearsal.weight * drift).backward()
                curves.divergence.append(drift.item())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{curves.loss[-1]:.3f}", divergence=f"{sum(curves.divergence[-1:]):.3f}")
        after(step)
    return curves


def _drawn(rehearsal: Rehearsal, rng: random.Random) -> Tensor:
    return rehearsal.ids[rng.sample(range(len(rehearsal.ids)), rehearsal.rows)]


def divergence(model: PreTrainedModel, reference: PreTrainedModel, ids: Tensor) -> Tensor:
    """KL(reference ‖ model) of the next token, the mean over the tokens of a batch of texts without padding."""
    with torch.no_grad():
        expected = reference(input_ids=ids, use_cache=False).logits.float().log_softmax(-1).flatten(0, 1)
    found = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1).flatten(0, 1)
    return torch.nn.functional.kl_div(found, expected, reduction="batchmean", log_target=True)


def gradients(
    model: PreTrainedModel, batches: Sequence[Sequence[Sequence[Example]]], pad: int, bf16: bool = False
) -> dict[str, Tensor]:
    """The gradient of the loss per learned token, the mean over batches, of every parameter that asks for it."""
    for groups in ([collate(group, pad) for group in batch] for batch in batches):
        learned = sum(weights[:, 1:].sum() for _, _, weights in groups) * len(batches)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            for group in groups:
                (_summed_loss(model, *(t.to(model.device) for t in group)) / learned).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def nats(model: PreTrainedModel, ids: Tensor, rows: int = 8) -> float:
    """Mean −log p of each token after a row's first, over texts of shape (texts, window)."""
    model.eval()
    total = 0.0
    for some in tqdm(ids.to(model.device).split(rows), desc="nats", mininterval=5):
        logits = model(input_ids=some, use_cache=False).logits[:, :-1].float().flatten(0, 1)
        total += torch.nn.functional.cross_entropy(logits, some[:, 1:].flatten(), reduction="sum").item()
    return total / ids[:, 1:].numel()


def _summed_loss(model: PreTrainedModel, inputs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the learned tokens' cross entropy; the output matrix is applied to those positions only."""
    learned = labels[:, 1:] != IGNORED
    hidden = _hidden(model, inputs)[:, :-1][learned]  # (tokens, d)
    logits = model.get_output_embeddings()(hidden).float()  # (tokens, vocabulary)
    losses = torch.nn.functional.cross_entropy(logits, labels[:, 1:][learned], reduction="none")
    return torch.sum(losses * weights[:, 1:][learned])


def _hidden(model: PreTrainedModel, inputs: Tensor) -> Tensor:
    """Hidden states of shape (batch, longest, d); a beginning that all rows share, a system prompt, is read once."""
    decoder = model.get_decoder()
    shared = int((inputs == inputs[0]).all(0).long().cumprod(0)[:-1].sum())
    if len(inputs) == 1 or not shared:
        return decoder(input_ids=inputs, use_cache=False).last_hidden_state
    start = decoder(input_ids=inputs[:1, :shared], use_cache=True)
    start.past_key_values.batch_repeat_interleave(len(inputs))
    rest = decoder(input_ids=inputs[:, shared:], past_key_values=start.past_key_values, use_cache=True)
    return torch.cat([start.last_hidden_state.expand(len(inputs), -1, -1), rest.last_hidden_state], 1)


def collate(examples: Sequence[Example], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and weights of shape (batch, longest), padded on the right, which causal attention never sees."""
    longest = max(len(e.ids) for e in examples)
    inputs = torch.full((len(examples), longest), pad)
    labels = torch.full_like(inputs, IGNORED)
    for row, e in enumerate(examples):
        inputs[row, : len(e.ids)] = torch.tensor(e.ids)
        labels[row, e.prompt : len(e.ids)] = torch.tensor(e.ids[e.prompt :])
    weights = (labels != IGNORED).float()
    for row, e in enumerate(examples):
        if e.key is not None:
            weights[row, e.key] = KEY
    return inputs, labels, weights


def state(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    system: str,
    exams: Sequence[Exam],
    texts: Mapping[str, Tensor],
    new_tokens: int,
) -> dict[str, object]:
    """What a training report says of a model: `examine`, and its `nats` on texts by name."""
    score = examine(model, tokenizer, system, exams, new_tokens=new_tokens)
    return dict(score, nats={name: round(nats(model, ids), 4) for name, ids in texts.items()})


@torch.no_grad()
def examine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    system: str,
    exams: Sequence[Exam],
    *,
    new_tokens: int,
    batch_size: int = 16,
) -> dict[str, int]:
    """Greedy answers to the exams: how many of `n` are right, end in a valid answer, think, and stop by themselves.

    Right is the right letter, or the whole reply where an exam has no letters.
    """
    model.eval()
    counts = dict(n=0, right=0, valid=0, thought=0, stopped=0)
    prompts = [chat(tokenizer, system, e.user) for e in exams]
    for start in tqdm(range(0, len(exams), batch_size), desc="exam", mininterval=5):
        rows = slice(start, start + batch_size)
        replies = _generate(model, tokenizer, prompts[rows], new_tokens)
        for ids, asked in zip(replies, exams[rows], strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            answer = ANSWER.search(text)
            counts["n"] += 1
            counts["right"] += answer[1] == asked.letter if answer else text == asked.reply
            counts["valid"] += bool(answer) and text.endswith(answer[0])
            counts["thought"] += text.startswith("<think>") and "</think>" in text
            counts["stopped"] += tokenizer.eos_token_id in ids
    return counts


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], new_tokens: int
) -> list[list[int]]:
    """New tokens of each prompt, by greedy decoding of the left-padded batch."""
    longest, pad = max(map(len, prompts)), tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )
    return out[:, longest:].tolist()
