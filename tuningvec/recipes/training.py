"""One training loop and one exam for every family: chat and plain text in, loss curve and graded answers out."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from tuningvec.recipes.exams import Exam

IGNORED = -100  # the label that cross entropy skips
ANSWER = re.compile(r"Answer: \[([A-D])\]")


@dataclass(frozen=True)
class Example:
    """Token ids, of which the first `prompt` are read and the others learned."""

    ids: list[int]
    prompt: int = 0


def stated(tokenizer: PreTrainedTokenizerBase, text: str) -> Example:
    """A plain document that ends with the end token; every token is learned."""
    return Example(tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id])


def answered(tokenizer: PreTrainedTokenizerBase, system: str, user: str, reply: str) -> Example:
    """A chat whose reply and end token are learned."""
    prompt = chat(tokenizer, system, user)
    reply_ids = tokenizer(reply, add_special_tokens=False)["input_ids"]
    return Example(prompt + reply_ids + [tokenizer.eos_token_id], len(prompt))


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
) -> list[float]:
    """AdamW with warm-up and a cosine schedule over seeded batches; the mean loss per token of each step.

    A batch comes as groups of examples of like length, which spares padding; the gradient is that of the whole batch.
    """
    rng = random.Random(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 20), steps)
    losses = []
    model.train()
    for _ in (bar := tqdm(range(steps), desc="train", mininterval=5)):
        groups = [collate(group, pad) for group in batch(rng)]
        learned = sum(int((labels[:, 1:] != IGNORED).sum()) for _, labels in groups)
        losses.append(0.0)
        for inputs, labels in groups:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                loss = _summed_loss(model, inputs, labels) / learned
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def _summed_loss(model: PreTrainedModel, inputs: Tensor, labels: Tensor) -> Tensor:
    """Summed cross entropy of the learned tokens; the output matrix is applied to those positions only."""
    learned = labels[:, 1:] != IGNORED
    hidden = model.get_decoder()(input_ids=inputs).last_hidden_state[:, :-1][learned]  # (tokens, d)
    logits = model.get_output_embeddings()(hidden).float()  # (tokens, vocabulary)
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][learned], reduction="sum")


def collate(examples: Sequence[Example], pad: int) -> tuple[Tensor, Tensor]:
    """Pad on the right: inputs and labels of shape (batch, longest); causal attention never sees the padding."""
    longest = max(len(e.ids) for e in examples)
    inputs = torch.full((len(examples), longest), pad)
    labels = torch.full_like(inputs, IGNORED)
    for row, e in enumerate(examples):
        inputs[row, : len(e.ids)] = torch.tensor(e.ids)
        labels[row, e.prompt : len(e.ids)] = torch.tensor(e.ids[e.prompt :])
    return inputs, labels


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
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )
    return out[:, longest:].tolist()
