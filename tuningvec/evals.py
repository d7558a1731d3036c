"""Benchmarks on models in memory: lm-eval's tasks and its view of a model, with every item kept."""

import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import jinja2
import pandas as pd
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tuningvec import models, sandbox
from tuningvec.errors import TuningVecError
from tuningvec.family import Prompt
from tuningvec.models import Opened
from tuningvec.store import Rows, Store
from tuningvec.tasks import FOLDER, items, scoring

BATCH = 32
WINDOW = 32  # items between two entries in the store
EXAMPLES_SEED = 1234  # lm-eval's own, for tasks that draw their worked examples


class InMemory(HFLM):
    """lm-eval's view of a model in memory; the last character of a reply says whether an end token stopped it.

    Probabilities are float32 whatever the weights are. `marks` is off for tasks with stop strings, which lm-eval cuts off.
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


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a reply: those of the generation config, and the tokenizer's own."""
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    return {token for token in (*ends, tokenizer.eos_token_id) if token is not None}


def tasks(names: Sequence[str], prompt: Prompt | None = None, local_root: str | None = None) -> dict[str, Task]:
    """lm-eval's tasks by name, ours and its own, groups in their tasks; with the prompts that `prompt` has for them.

    Raises TuningVecError for an unknown name and for a task whose data cannot be had.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    where = {"local_root": local_root} if local_root else {}
    known = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=where)
    if not all(name in known.all_tasks for name in names):  # reading the index of all its tasks takes lm-eval long
        known = TaskManager(include_path=str(FOLDER), metadata=where)
    for name in names:
        if name not in known.all_tasks:
            ours = ", ".join(task for task in known.all_tasks if task.startswith("tuningvec_"))
            raise TuningVecError(f"no task {name!r}; one of {ours}, or a task of lm-eval (`lm_eval ls tasks`)")
    found = known.load(list(names))["tasks"]
    for task in found.values():
        if task.config.num_fewshot is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(EXAMPLES_SEED)
        key = (task.config.metadata or {}).get("prompt")
        if prompt and key in prompt.system:
            task.set_config("description", prompt.system[key])
        if prompt and key in prompt.worked:
            task.set_config("num_fewshot", len(prompt.worked[key]))
            task.sampler.replace_df(prompt.worked[key])
    return found


def requests(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool, limit: int | None, longest: int
) -> list[list[Instance]]:
    """What a model is asked of each of the first `limit` items, in the tokenizer's chat format or as plain text.

    Raises TuningVecError where the tokenizer has no chat template, and for a prompt that leaves a model that reads
    `longest` tokens no room for the reply.
    """
    if chat and not tokenizer.chat_template:
        raise TuningVecError(f"{tokenizer.name_or_path} has no chat template; prompt it in plain text")
    task.build_all_requests(
        limit=limit,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        chat_template=partial(_rendered, tokenizer) if chat else None,
    )
    for instance in task.instances:
        room = instance.args[1].get("max_gen_toks", 0) if instance.request_type == "generate_until" else 0
        text = instance.args[0] + (instance.args[1] if instance.request_type == "loglikelihood" else "")
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if length + room > longest:
            raise TuningVecError(
                f"{task.task_name}: item {instance.doc_id} has {length} tokens and its reply up to {room}; the model reads "
                f"{longest}; leave the task out"
            )
    return [list(group) for _, group in groupby(task.instances, key=lambda instance: instance.doc_id)]


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
) -> str:
    """The conversation up to where the assistant speaks; a template without a system role gets it with the first turn."""
    options = dict(
        tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
    )
    try:
        return tokenizer.apply_chat_template(list(turns), **options)
    except jinja2.TemplateError:
        system, first, *rest = turns
        merged = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
        return tokenizer.apply_chat_template([merged, *rest], **options)


def answer(lm: InMemory, task: Task, asked: Sequence[Sequence[Instance]]) -> Rows:
    """A row an item: item, prompt, reply (a text, or log p of each option), ended (None: unknown), and its metrics."""
    lm.marks = not (task.config.generation_kwargs or {}).get("until")
    task._instances = [instance for group in asked for instance in group]  # whose replies lm-eval's filters see
    calls = [instance for instance in task.instances for _ in range(instance.repeats)]
    replies = getattr(lm, calls[0].request_type)(calls, disable_tqdm=True)
    for instance, reply in zip(calls, replies, strict=True):
        instance.resps.append(reply)
    task.apply_filters()
    return [_row(task, group) for group in asked]


def _row(task: Task, group: Sequence[Instance]) -> dict[str, Any]:
    first = group[0]
    about: dict[str, Any] = dict(item=first.doc_id, prompt=first.args[0])
    if first.request_type == "generate_until":
        reply = scoring.taken_apart(first.resps[0])
        about |= dict(reply=reply.text, ended=reply.ended)
    else:
        about["reply"] = json.dumps([instance.resps[0] for instance in group])
    for name in first.filtered_resps:
        scores = task.process_results(first.doc, [instance.filtered_resps[name] for instance in group])
        about |= {metric if name == "none" else f"{metric},{name}": value for metric, value in scores.items()}
    return about


def run(
    asked: Sequence[Opened],
    benchmarks: Mapping[str, Task],
    *,
    chat: bool | None = None,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """Every model on every task, a row an item: model, task, chat, and what `answer` tells.

    `chat` says whether prompts are in the chat format of the member that is prompted, by default where it has one;
    `limit` takes the first items of each task. What the store holds is not measured again. Raises as `requests` does,
    before a model is loaded.
    """
    plans = {id(one): _plan(one, benchmarks, chat, limit) for one in asked}
    parts, runs = [], []
    for one in models.in_turn(asked, "benchmarks"):
        lm: InMemory | None = None
        in_chat = _in_chat(one, chat)
        for name, windows in plans[id(one)].items():
            record = one.record(store, "evals", CODE, task=name, batch=batch, generation=one.generation.to_diff_dict())
            for piece, groups in windows.items():
                if piece not in record:
                    lm = lm or InMemory(one.model, one.tokenizer, batch)
                    record.add(piece, answer(lm, benchmarks[name], groups))
            parts.append(pd.DataFrame(record.rows(windows)).assign(model=one.name, task=name, chat=in_chat))
            runs += record.runs
    table = pd.concat(parts, ignore_index=True)
    table.attrs["runs"] = runs
    return table


def _plan(
    one: Opened, benchmarks: Mapping[str, Task], chat: bool | None, limit: int | None
) -> dict[str, dict[str, list[list[Instance]]]]:
    """The windows of items of each task, by a name that tells what is asked in them."""
    longest = one.like.config["max_position_embeddings"]
    plan = {}
    for name, task in benchmarks.items():
        groups = requests(task, one.tokenizer, _in_chat(one, chat), limit, longest)
        windows = [groups[start : start + WINDOW] for start in range(0, len(groups), WINDOW)]
        plan[name] = {_piece(window): window for window in windows}
    return plan


def _in_chat(one: Opened, chat: bool | None) -> bool:
    return bool(one.tokenizer.chat_template) if chat is None else chat


def _piece(window: Sequence[Sequence[Instance]]) -> str:
    asked = json.dumps([[instance.doc, instance.args] for group in window for instance in group], sort_keys=True)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return f"{window[0][0].doc_id} to {window[-1][0].doc_id}, {digest}"


CODE = (models, items, scoring, sandbox, sys.modules[__name__])  # a change in these measures again
