"""Speed and memory of the measures on models in memory, against named references in the same run.

Run with `make bench`. Each ratio is the median over pairs of a measure and its reference, taken in turns, on the
pretrained member of the family smollm2.
"""

import statistics
from dataclasses import replace
from functools import partial

import lm_eval
import torch
from bench_weights import REPEATS, peak, seconds
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from tuningvec.family.spec import Family
from tuningvec.measures import evals, models
from tuningvec.measures.corpus import Tokens, tokens
from tuningvec.measures.neurons import activation_profile
from tuningvec.measures.patching import Patcher
from tuningvec.measures.prompts import Prompts, answers

BATCH, ROWS = 8, 16  # of 256 tokens
ITEMS = 16  # of a benchmark
SHORT, BATCHES = 32, 200  # tokens of a row, and rows one by one, for the memory


def bench_capture(model: PreTrainedModel, given: Tokens) -> None:
    """An activation profile against the base model's plain forward pass over the same batches."""

    @torch.no_grad()
    def plain() -> None:
        for first in range(0, ROWS, BATCH):
            ids, mask = (x[first : first + BATCH].long() for x in given.rows())
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)

    pairs = [
        (seconds(plain), seconds(lambda: activation_profile(model, given, BATCH, shards=1))) for _ in range(REPEATS)
    ]
    ratio = statistics.median(theirs / ours for theirs, ours in pairs)
    speed = given.count / statistics.median(ours for _, ours in pairs)
    print(
        f"activation profile, {model.dtype}: {ratio:.2f} × the tokens/s of the plain forward pass "
        f"({speed:.0f} tokens/s)",
        flush=True,
    )


def bench_memory(model: PreTrainedModel) -> None:
    """Peak memory after a few batches and after many."""

    def run(batches: int) -> None:
        ids = torch.randint(model.config.vocab_size, (batches * SHORT,), dtype=torch.int32)
        given = Tokens(ids, torch.tensor([len(ids)], dtype=torch.int32), SHORT, packed=True, asked=len(ids))
        activation_profile(model, given, batch=1, shards=1)

    run(BATCHES // 10)
    before = peak()
    run(BATCHES)
    print(f"memory over {BATCHES} further batches: peak +{(peak() - before) / 2**20:.1f} MB", flush=True)


def bench_patching(model: PreTrainedModel, family: Family) -> None:
    """Attribution of every layer, site and token against exact patching of the same places."""
    tokenizer = models.Opened(family, family.pretrained.name).tokenizer
    prompts = Prompts.read(family.root / family.patching)
    pair = prompts.aligned(tokenizer, prompts.pairs[0])
    patcher = Patcher(model, answers(tokenizer, prompts.answers))
    for steps in (1, 4):
        ours = statistics.median(seconds(partial(patcher.attribution, pair, steps)) for _ in range(REPEATS))
        theirs = seconds(lambda: patcher.exact(pair))
        print(
            f"attribution, {steps} steps: {ours / theirs:.3f} × exact patching ({ours:.2f} s against {theirs:.1f} s)",
            flush=True,
        )


def bench_evaluation(one: models.Opened, family: Family) -> None:
    """Replies with their scores, windows and marks against lm-eval's own loop over the same items and batches."""
    name = "tuningvec_drugs"
    tasks = evals.tasks([name], family.prompt)

    def plain() -> None:
        lm = HFLM(pretrained=one.model, tokenizer=one.tokenizer, batch_size=ITEMS)
        options = dict(limit=ITEMS, bootstrap_iters=0, apply_chat_template=True, fewshot_as_multiturn=True)
        lm_eval.evaluate(lm, {"tasks": tasks}, **options)

    def ours() -> None:
        lm = evals.InMemory(one.model, one.tokenizer, ITEMS)
        for window in evals.windows(one, tasks, limit=ITEMS)[name].values():
            evals.answer(lm, tasks[name], window)

    ratio = statistics.median(seconds(ours) / seconds(plain) for _ in range(REPEATS))
    print(f"evaluation of {ITEMS} items: {ratio:.2f} × lm-eval's own loop", flush=True)


def main() -> None:
    torch.manual_seed(0)
    family = Family.load("smollm2")
    opened = {dtype: models.Opened(family, family.pretrained.name, dtype) for dtype in ("bfloat16", "float32")}
    whole = tokens(family, next(iter(family.corpora)), opened["float32"].tokenizer)
    flat = whole.flat[: ROWS * whole.window]
    given = replace(whole, flat=flat, lengths=torch.tensor([len(flat)], dtype=torch.int32))
    for member in opened.values():
        bench_capture(member.model, given)
    bench_evaluation(opened["bfloat16"], family)
    model = opened["float32"].model
    bench_memory(model)
    bench_patching(model, family)


if __name__ == "__main__":
    main()
