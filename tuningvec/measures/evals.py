"""Benchmarks on models in memory: lm-eval's tasks and its view of a model, with every item kept."""

import hashlib
import inspect
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from tuningvec.closure import PACKAGE, Closure
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family, FineTuned, Prompt
from tuningvec.measures import models
from tuningvec.measures.decoding import BATCH, InMemory
from tuningvec.measures.models import Opened
from tuningvec.store import Record, Rows, Store, Told
from tuningvec.tasks import FOLDER, sandbox, scoring
from tuningvec.weights import cluster

WINDOW = 32  # items between two entries in the store
SUM, NONE = "sum", "none"  # vectors that are added: all of them, none
Windows = dict[str, list[list[Instance]]]
EXAMPLES_SEED = 1234  # lm-eval's own, for tasks that draw their worked examples
ASKED = (  # fields of a task's config that what is asked follows from, and where its items lie
    "task", "task_alias", "tag", "description", "num_fewshot", "fewshot_config", "dataset_path", "dataset_name",
    "dataset_kwargs", "metadata",
)  # fmt: skip


class Unreadable(TuningVecError):
    """A prompt that a model cannot read, or all tasks, each of `left_out` with its task, member and reason."""

    def __init__(self, reason: str = "", left_out: Sequence[dict[str, str]] = ()):
        self.left_out = list(left_out)
        super().__init__(reason or "; ".join(f"{row['member']} {row['reason']}" for row in left_out))


def tasks(
    names: Sequence[str], prompt: Prompt | None = None, local_root: str | None = None, folders: Sequence[Path] = ()
) -> dict[str, Task]:
    """lm-eval's tasks by name, groups in their tasks: ours, its own, those in further folders; with `prompt`'s prompts.

    Raises TuningVecError for an unknown name and for a task whose data cannot be had.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    where = {"local_root": local_root} if local_root else {}
    paths = [FOLDER, *folders]
    known = TaskManager(include_path=paths, include_defaults=False, metadata=where)
    if not all(name in known.all_tasks for name in names):  # reading the index of all its tasks takes lm-eval long
        known = TaskManager(include_path=paths, metadata=where)
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


def of_domains(
    family: Family, score: str | None = None, domains: Sequence[str] | None = None, local_root: str | None = None
) -> dict[str, dict[str, Task]]:
    """The family's benchmarks by domain; those scored by "accuracy" or by "rouge1" alone, if told.

    Raises TuningVecError for a domain that the family has no benchmarks for, and as `tasks` does.
    """
    found = {}
    for domain in family.benchmarks if domains is None else domains:
        if domain not in family.benchmarks:
            there = ", ".join(family.benchmarks)
            raise TuningVecError(f"{family.file}: benchmarks: no domain {domain!r}; there are {there}")
        some = tasks(family.benchmarks[domain], family.prompt, local_root)
        found[domain] = {
            n: t for n, t in some.items() if score is None or (_main(t) == "rouge1") == (score == "rouge1")
        }
    return {domain: some for domain, some in found.items() if some}


def together(benchmarks: Mapping[str, Mapping[str, Task]]) -> dict[str, Task]:
    """The tasks of all domains."""
    return {name: task for some in benchmarks.values() for name, task in some.items()}


def _main(task: Task) -> str:
    return scoring.main([metric["metric"] for metric in task.config.metric_list])


def requests(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat: bool, limit: int | None, config: Mapping[str, Any]
) -> list[list[Instance]]:
    """What a model is asked of each of the first `limit` items, in the tokenizer's chat format or as plain text.

    Raises TuningVecError for a limit below 1 and where the chat template is absent or fails; Unreadable for a prompt
    that a model of this `config` cannot read: longer than it reads with a reply, or with tokens that it lacks.
    """
    if limit is not None and limit < 1:
        raise TuningVecError(f"limit is {limit}; it is a number of items, or None for all")
    if chat and not tokenizer.chat_template:
        raise TuningVecError(f"{tokenizer.name_or_path} has no chat template; prompt it in plain text")
    system = task.config.description
    if system and not chat and not system.endswith("\n"):  # lm-eval sets nothing between it and what follows
        task.set_config("description", system + task.config.fewshot_delimiter)
    task.build_all_requests(
        limit=limit,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        chat_template=partial(models.rendered, tokenizer) if chat else None,
    )
    task.set_config("description", system)
    for instance in task.instances:
        room = instance.args[1].get("max_gen_toks", 0) if instance.request_type == "generate_until" else 0
        text = instance.args[0] + (instance.args[1] if instance.request_type == "loglikelihood" else "")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) + room > config["max_position_embeddings"]:
            raise Unreadable(
                f"{task.task_name}: item {instance.doc_id} has {len(ids)} tokens and its reply up to {room}; the model "
                f"reads {config['max_position_embeddings']}"
            )
        if max(ids) >= config["vocab_size"]:
            raise Unreadable(
                f"{task.task_name}: item {instance.doc_id} holds token {max(ids)}; the model has rows for "
                f"{config['vocab_size']}: a sum of members cannot read what the pretrained member lacks"
            )
    return [list(group) for _, group in groupby(task.instances, key=lambda instance: instance.doc_id)]


def answer(lm: LM, task: Task, asked: Sequence[Sequence[Instance]]) -> Rows:
    """A row an item: item, prompt, reply (a text, or log p of each option), ended (None: unknown), and its metrics."""
    task._instances = [instance for group in asked for instance in group]  # whose replies lm-eval's filters see
    for instance in task.instances:  # they may have been answered by another model
        instance.resps, instance.filtered_resps = [], {}
    calls, marks = calls_of(task, asked)
    for instance, reply in zip(calls, replied(lm, calls, marks), strict=True):
        instance.resps.append(reply)
    task.apply_filters()
    return [_row(task, group) for group in asked]


def calls_of(task: Task, asked: Sequence[Sequence[Instance]]) -> tuple[list[Instance], bool]:
    """What is asked, each as often as it is, and whether the end of a reply is to be marked."""
    calls = [instance for group in asked for instance in group for _ in range(instance.repeats)]
    return calls, not (task.config.generation_kwargs or {}).get("until")


def replied(lm: LM, calls: Sequence[Instance], marks: bool) -> list[Any]:
    """The replies to some calls of one type."""
    lm.marks = marks
    return getattr(lm, calls[0].request_type)(calls, disable_tqdm=True)


class Given(LM):
    """In a model's place: the replies that were given."""

    def __init__(self, replies: list[Any]):
        super().__init__()
        self._replies = replies

    def generate_until(self, calls: list[Instance], disable_tqdm: bool = True) -> list[Any]:
        return self._replies

    loglikelihood = loglikelihood_rolling = generate_until


class _Replying:
    """A model that replies; it is loaded when it is first asked."""

    def __init__(self, one: Opened, batch: int):
        self.one, self.batch = one, batch

    @cached_property
    def lm(self) -> InMemory:
        return InMemory(self.one.model, self.one.tokenizer, self.batch)

    def __call__(self, asked: tuple[list[Instance], bool]) -> list[Any]:
        return replied(self.lm, *asked)


class _Window(NamedTuple):
    """Where the rows of some items belong."""

    one: Opened
    task: str
    piece: str
    groups: list[list[Instance]]

    def __str__(self) -> str:
        return f"{self.one.name}, {self.task}, items {self.piece}"


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
    """Every model on every task, a row an item: model (and who, what is compared), task, chat, what `answer` tells.

    `chat` says whether prompts are in the chat format of the member that is prompted, by default as `in_chat` does;
    `limit` takes the first items of each task. What the store holds is not measured again. Tasks that `readable` leaves
    out are named in `attrs["left_out"]`. Raises as it does, before a model is loaded.
    """
    if isinstance(store, Listing):
        return store.noted(asked, benchmarks, chat, limit)
    plans, left_out = readable(asked, benchmarks, chat, limit)
    records = _answered(asked, benchmarks, plans, batch, store)
    parts, runs = [], []
    for one in asked:
        for name, pieces in plans[id(one)].items():
            record = records[id(one), name]
            asked_as = dict(model=one.name, who=one.name, task=name, chat=in_chat(one, benchmarks[name], chat))
            parts.append(pd.DataFrame(record.rows(pieces)).assign(**asked_as))
            runs += record.runs
    table = pd.concat(parts, ignore_index=True)
    table.attrs |= dict(runs=Told(runs), left_out=Told(left_out))
    return table


def _answered(
    asked: Sequence[Opened],
    benchmarks: Mapping[str, Task],
    plans: Mapping[int, Mapping[str, Windows]],
    batch: int,
    store: Store | None,
) -> dict[tuple[int, str], Record]:
    """The record of each model, by its `id`, and task, with all windows of its plan."""
    records: dict[tuple[int, str], Record] = {}
    bar = tqdm(total=sum(len(pieces) for plan in plans.values() for pieces in plan.values()), desc="benchmarks")

    def due() -> Iterator[cluster.Piece]:
        for one in models.in_turn(asked):
            work = _Replying(one, batch)
            for name, pieces in plans[id(one)].items():
                record = records[id(one), name] = record_of(one, benchmarks[name], batch, store)
                missing = [_Window(one, name, *pair) for pair in pieces.items() if pair[0] not in record]
                bar.update(len(pieces) - len(missing))
                yield from ((window, work, calls_of(benchmarks[name], window.groups)) for window in missing)

    for (one, name, piece, groups), replies in cluster.each(due()):
        rows = answer(Given(replies), benchmarks[name], groups)
        records[id(one), name].add(piece, known(rows, one, name))
        bar.update()
    bar.close()
    return records


class Listing(Store):
    """Instead of a store: `run` measures nothing with it, and it notes what was to be asked of which model."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Opened, Task, bool, int | None]] = []

    def noted(
        self, asked: Sequence[Opened], benchmarks: Mapping[str, Task], chat: bool | None, limit: int | None
    ) -> pd.DataFrame:
        """A row a model and task, in the place of their items."""
        rows = []
        for one, (name, task) in product(asked, benchmarks.items()):
            self.asked.append((one, task, in_chat(one, task, chat), limit))
            rows.append(dict(item=0, model=one.name, who=one.name, task=name, chat=in_chat(one, task, chat)))
        table = pd.DataFrame(rows)
        table.attrs |= dict(runs=Told(), left_out=Told())
        return table


def record_of(one: Opened, task: Task, batch: int, store: Store | None) -> Record:
    """The record of a model's replies to a task: keyed by weights, tokenizer, generation settings, and scoring."""
    about = dict(batch=batch, generation=one.generation.to_diff_dict(), tokenizer=one.tokenizer_digest)
    scored = _scoring(task) if store else None
    return one.record(store, "evals", __name__, task=task.task_name, scoring=scored, **about)


def readable(
    asked: Sequence[Opened], benchmarks: Mapping[str, Task], chat: bool | None = None, limit: int | None = None
) -> tuple[dict[int, dict[str, Windows]], list[dict[str, str]]]:
    """`windows` of each model by its `id`, and the tasks that some model cannot read, each with member and reason.

    So are tasks whose replies are code, where nothing shuts that off. Those are put to none of them, since models are
    compared on the same items. Raises TuningVecError where no task is left, and as `requests` does.
    """
    plans: dict[int, dict[str, Windows]] = {id(one): {} for one in asked}
    left_out = []
    for name, task in benchmarks.items():
        if task.config.unsafe_code and (lack := sandbox.lacking()):
            left_out.append(dict(task=name, member="this machine", reason=lack))
            continue
        for one in asked:
            try:
                plans[id(one)] |= windows(one, {name: task}, chat, limit)
            except Unreadable as error:
                left_out.append(dict(task=name, member=one.name, reason=f"cannot read {error}"))
                break
    gone = {row["task"] for row in left_out}
    if gone == set(benchmarks):
        raise Unreadable(left_out=left_out)
    return {key: {name: found[name] for name in found if name not in gone} for key, found in plans.items()}, left_out


def known(rows: Rows, one: Opened, task: str) -> Rows:
    """The rows; raises TuningVecError for a metric, or a log-likelihood, that is not a number."""
    for row in rows:
        numbers = [value for value in row.values() if isinstance(value, float)]
        if "ended" not in row:
            numbers += [logp for logp, *_ in json.loads(row["reply"])]
        if any(map(math.isnan, numbers)):
            raise TuningVecError(
                f"{task}: item {row['item']}: a score of {one.name} is not a number; look for NaN in its weights"
            )
    return rows


def _scoring(task: Task) -> dict[str, Any]:
    """What makes a task's metrics of replies: its config, and the code of every function that this names."""
    config = {field: value for field, value in vars(task.config).items() if field not in ASKED and value is not None}
    return dict(config=json.loads(json.dumps(config, default=_code)), code=sorted(map(_code, _functions(config))))


def _functions(value: Any) -> Iterator[Callable[..., Any]]:
    if callable(value):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _functions(part)


def _code(function: Any) -> str:
    """A function's name with a checksum of what it does: our modules' imports too, else all code beside its file."""
    module, file = getattr(function, "__module__", ""), inspect.getsourcefile(inspect.unwrap(function))
    if module.partition(".")[0] == PACKAGE:
        closure = Closure.of(module)
        return f"{function.__qualname__} {closure.digest} {json.dumps(closure.versions)}"
    beside = b"".join(path.read_bytes() for path in sorted(Path(file).parent.glob("*.py")))
    return f"{function.__qualname__} {_checksum(beside)}"


def _checksum(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def negation(
    family: Family,
    member: str,
    benchmarks: Mapping[str, Task],
    scales: Sequence[float],
    *,
    dtype: str,
    plain: bool = True,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """θ_ft − λT over the scales, prompted as the fine-tuned member; with `plain`, λ = 0 and 1 in plain text as well.

    Rows of `run` with columns scale, own (whether in that member's own format) and who (see `negated`). Raises as `run`
    does, and for scales without 0 and 1.
    """
    if not {0, 1} <= set(scales):
        raise TuningVecError(f"scales {list(scales)}: 0 and 1, the two models that are compared, must be among them")
    swept = {scale: models.negated(family, member, scale, dtype) for scale in scales}
    settings = [(True, None, swept)]
    if plain and next(iter(swept.values())).tokenizer.chat_template:
        settings.append((False, False, {scale: one for scale, one in swept.items() if scale in (0, 1)}))
    parts = []
    for own, chat, some in settings:
        part = run(list(some.values()), benchmarks, chat=chat, limit=limit, batch=batch, store=store)
        scale = part.model.map({one.name: scale for scale, one in some.items()})
        parts.append(part.assign(scale=scale, own=own, who=[negated(value, own) for value in scale]))
    return _joined(parts)


def negation_of_specialists(
    family: Family,
    benchmarks: Mapping[str, Mapping[str, Task]],
    scales: Sequence[float],
    *,
    dtype: str,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """`negation` of every specialist on the benchmarks of its own domain, with a column member; raises as it does.

    Texts, which take long, are written at λ = 0 and 1 in the member's own format alone, where the domain has other
    benchmarks as well.
    """
    about = dict(dtype=dtype, limit=limit, batch=batch, store=store)

    def of(member: FineTuned) -> Iterator[pd.DataFrame]:
        own = benchmarks.get(member.domain, {})
        texts = {name: task for name, task in own.items() if _main(task) == "rouge1"}
        swept = {name: task for name, task in own.items() if name not in texts} or texts
        yield negation(family, member.name, swept, scales, **about).assign(member=member.name)
        if texts and texts is not swept:
            ends = negation(family, member.name, texts, [0, 1], plain=False, **about)
            yield ends.assign(member=member.name)

    return _readable_of(of, family.specialists)


def negation_of_turned(
    family: Family,
    benchmarks: Mapping[str, Mapping[str, Task]],
    scales: Sequence[float],
    *,
    draws: int,
    seed: int,
    dtype: str,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """θ_ft − λ · turned T of every specialist on the benchmarks of its own domain, by `models.turned`; no texts.

    Rows of `run`, each in the member's own format, with columns member, sides, draw and scale. Raises as
    `models.turned` and `run` do.
    """
    drawn = {
        member.name: models.turned(family, [member.name], draws, seed, dtype, scales) for member in family.specialists
    }

    def of(member: FineTuned) -> Iterator[pd.DataFrame]:
        asked = {name: task for name, task in benchmarks.get(member.domain, {}).items() if _main(task) != "rouge1"}
        if asked:
            told = pd.DataFrame([about | dict(model=model.name) for about, model in drawn[member.name]])
            swept = [model for _, model in drawn[member.name]]
            part = run(swept, asked, limit=limit, batch=batch, store=store)
            found = part.merge(told, on="model")
            found.attrs |= part.attrs
            yield found

    return _readable_of(of, family.specialists)


def negated(scale: float, own: bool = True) -> str:
    """How θ_ft − λT is called, prompted in the member's own format or in plain text."""
    return f"λ = {scale:g}" + ("" if own else ", plain text")


def _readable_of(measure: Callable[[Any], Iterable[pd.DataFrame]], cases: Iterable[Any]) -> pd.DataFrame:
    """What is measured of each case, in one table; a case of which nothing can be read is left out and named."""
    parts, left_out = [], []
    for case in cases:
        try:
            parts += measure(case)
        except Unreadable as error:
            left_out += error.left_out
    if not parts:
        raise Unreadable(left_out=left_out)
    table = _joined(parts)
    table.attrs["left_out"] = Told([*table.attrs["left_out"], *left_out])
    return table


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(parts, ignore_index=True)
    for name in ("runs", "left_out"):
        table.attrs[name] = Told(row for part in parts for row in part.attrs[name])
    return table


def addition(
    family: Family,
    specialists: Mapping[str, str],
    benchmarks: Mapping[str, Mapping[str, Task]],
    scales: Sequence[float],
    *,
    dtype: str,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """θ_pre + λ Σ T_d and θ_pre + λ T_d for every specialist, {domain: member}, on the benchmarks of their domains.

    All are prompted as the specialist of the benchmark's domain. Rows of `run` with columns scale, vectors ("sum", or
    a member) and who ("sum, λ = 0.5"). The pretrained weights are there once, with "none". A domain of which nothing
    can be read is left out. Raises TuningVecError for fewer than two specialists and for scales without 1, and as
    `run` does where no domain is left.
    """
    if len(specialists) < 2:
        raise TuningVecError(f"{family.file}: {len(specialists)} domain models with benchmarks; a sum needs two")
    if 1 not in scales:
        raise TuningVecError(f"scales {list(scales)}: 1, the specialist that scores are divided by, must be among them")
    sums = {SUM: list(specialists.values())} | {member: [member] for member in specialists.values()}
    swept = [(NONE, 0.0), *((vectors, scale) for vectors in sums for scale in scales if scale)]

    def of(domain: str) -> Iterator[pd.DataFrame]:
        asked = {
            (vectors, scale): models.added(family, sums.get(vectors, []), scale, specialists[domain], dtype)
            for vectors, scale in swept
        }
        part = run(list(asked.values()), benchmarks[domain], limit=limit, batch=batch, store=store)
        about = {one.name: key for key, one in asked.items()}
        vectors, scale = zip(*part.model.map(about), strict=True)
        who = [f"{v}, λ = {c:g}" if c else family.pretrained.name for v, c in zip(vectors, scale, strict=True)]
        yield part.assign(scale=scale, vectors=vectors, who=who)

    return _readable_of(of, specialists)


def windows(
    one: Opened, benchmarks: Mapping[str, Task], chat: bool | None = None, limit: int | None = None
) -> dict[str, Windows]:
    """What a model is asked by each task, in windows of items named by what is asked in them; raises as `requests`."""
    found = {}
    for name, task in benchmarks.items():
        groups = requests(task, one.tokenizer, in_chat(one, task, chat), limit, one.like.config)
        parts = [groups[start : start + WINDOW] for start in range(0, len(groups), WINDOW)]
        found[name] = {_piece(part): part for part in parts}
    return found


def in_chat(one: Opened, task: Task, chat: bool | None = None) -> bool:
    """Whether prompts are in chat format: as asked, else where there is one and the task is to generate."""
    generates = task.OUTPUT_TYPE == "generate_until"
    return generates and bool(one.tokenizer.chat_template) if chat is None else chat


def _piece(window: Sequence[Sequence[Instance]]) -> str:
    asked = json.dumps([[instance.doc, instance.args] for group in window for instance in group], sort_keys=True)
    return f"{window[0][0].doc_id} to {window[-1][0].doc_id}, {_checksum(asked.encode())[:16]}"


def score_texts(lm: InMemory, texts: Sequence[str]) -> Rows:
    """log p(text) in nats, a row each with `nats` and the number of `tokens`."""
    calls = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    found = lm.loglikelihood_rolling(calls, disable_tqdm=True)
    return [dict(nats=nats, tokens=len(lm.tok_encode(text))) for nats, text in zip(found, texts, strict=True)]
