"""Replies that lm-eval wrote with `--log_samples`, from any of its backends, kept as if they were measured here."""

import ast
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task

from tuningvec.errors import TuningVecError, parsed_json, read_json, reading, writing
from tuningvec.family.spec import Family, Prompt
from tuningvec.measures import evals, scores
from tuningvec.measures.decoding import BATCH
from tuningvec.measures.models import Opened
from tuningvec.store import Store
from tuningvec.tasks import FOLDER, sandbox

SAMPLES = r"samples_{task}_\d{{4}}-.*\.jsonl"
PAGES = EXAMS, NEGATION, ADDITION = "03_1_benchmarks", "03_2_negation", "03_4_addition"
EXACT = ".15g"  # digits of a coefficient: the sum that is written is the one that pages ask
LARGEST = 2**30  # bytes of a file of samples
Logged = Mapping[int, Mapping[str, Any]]  # lines by item


class Replayed(LM):
    """lm-eval's view of a model whose replies are known."""

    marks = False

    def __init__(self, logged: Logged):
        super().__init__()
        self._logged = logged

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        return [self._logged[r.doc_id]["resps"][r.idx][0] for r in requests]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [_likelihood(self._logged[r.doc_id]["resps"][r.idx][0]) for r in requests]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError  # no task of ours asks for it


def _likelihood(found: Any) -> tuple[float, bool]:
    """log p of an option and whether it is the likeliest; lm-eval writes both as text."""
    logp, top = found if isinstance(found, list) else ast.literal_eval(found)
    return float(logp), str(top) == "True"


class Need(NamedTuple):
    """A model, and the tasks that pages ask it in the chat format or in plain text."""

    one: Opened
    chat: bool
    limit: int | None
    tasks: dict[str, Task]


def needed(family: Family, dtype: str, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Need]:
    """What the pages 03_* of a family ask, by a name for each model; `parameters` are {page: {name: value}}.

    Not of a T turned at random, which is no sum of members.
    """
    listing, benchmarks = evals.Listing(), evals.of_domains(family)

    def about(page: str) -> dict[str, Any]:
        return dict(limit=parameters[page]["limit"], store=listing)

    if (page := EXAMS) in parameters:
        asked = evals.together(benchmarks) | evals.tasks(parameters[page]["likelihood"], family.prompt)
        evals.run([Opened(family, m.name, dtype) for m in family.members], asked, **about(page))
    if (page := NEGATION) in parameters:
        by_likelihood = evals.tasks(parameters[page]["likelihood"], family.prompt)
        asked = scores.with_likelihood(benchmarks, by_likelihood)
        evals.negation_of_specialists(family, asked, parameters[page]["scales"], dtype=dtype, **about(page))
    if (page := ADDITION) in parameters:
        exams = evals.of_domains(family, "accuracy", list(family.specialist_of))
        evals.addition(family, family.specialist_of, exams, parameters[page]["scales"], dtype=dtype, **about(page))
    found: dict[str, Need] = {}
    for one, task, chat, limit in listing.asked:
        name = "_".join(f"{c:{EXACT}}{member}" for member, c in one.terms.items()) + f".as_{one.prompted_as}"
        name = f"{name}.{'chat' if chat else 'plain'}.{limit or 'all'}"
        found.setdefault(name, Need(one, chat, limit, {})).tasks[task.task_name] = task
    return found


def script(family: str, needs: Mapping[str, Need]) -> str:
    """Shell commands that have lm-eval ask all of it: each sum of members is written, asked, and removed again."""
    lines = [
        "#!/bin/sh",
        "# Replies that pages ask, by lm-eval; `tuningvec import` keeps them. Stopped, it goes on with the next model.",
        "# MODEL and MODEL_ARGS set another backend: MODEL=hf MODEL_ARGS=dtype=bfloat16,max_length=8192 sh replies.sh",
        "set -eu",
        'cd "$(dirname "$0")"',
        "MODEL=${MODEL:-vllm}; MODEL_ARGS=${MODEL_ARGS:-dtype=bfloat16,max_model_len=8192}",
        "trap 'rm -rf model' EXIT",
        'write() { rm -rf model; tuningvec write "$@" --to model; }',
        'ask() { name=$1; shift; lm_eval --model "$MODEL" --model_args "pretrained=model,$MODEL_ARGS" '
        '--include_path tasks --log_samples --output_path "samples/$name" "$@" && touch "samples/$name/done"; }',
    ]
    models: dict[tuple[str, str], dict[str, Need]] = {}
    for name, need in needs.items():
        models.setdefault((need.one.name, need.one.prompted_as), {})[name] = need
    for some in models.values():
        one = next(iter(some.values())).one
        terms = {one.prompted_as: 0.0} | one.terms  # the one that is prompted comes first
        words = " ".join(shlex.quote(f"{member}={c:{EXACT}}") for member, c in terms.items())
        lines.append("if " + " || ".join(f"[ ! -e samples/{name}/done ]" for name in some) + "; then")
        lines.append(f"  write {shlex.quote(family)} {words}")
        for name, need in some.items():
            options = f"--tasks {','.join(need.tasks)}" + (f" --limit {need.limit}" if need.limit else "")
            options += " --apply_chat_template --fewshot_as_multiturn" if need.chat else ""
            unsafe = any(task.config.unsafe_code for task in need.tasks.values())
            options += " --confirm_run_unsafe_code" if unsafe else ""
            lines.append(f"  [ -e samples/{name}/done ] || ask {name} {options}")
        lines.append("fi")
    return "\n".join(lines) + "\n"


def write_tasks(prompt: Prompt, names: Iterable[str], folder: Path) -> None:
    """Write our tasks with a family's system prompts and worked examples, for lm-eval's `--include_path`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, task in evals.tasks(list(names), prompt).items():
        key = (task.config.metadata or {}).get("prompt")
        own = FOLDER / f"{name.removeprefix('tuningvec_')}.yaml"
        if not own.is_file():
            continue  # lm-eval's own
        about: dict[str, Any] = dict(include=str(own), task=name)
        if key in prompt.system:
            about["description"] = prompt.system[key]
        if key in prompt.worked:
            about["num_fewshot"] = len(prompt.worked[key])
            about["fewshot_config"] = dict(sampler="first_n", samples=prompt.worked[key])
        with writing(folder / own.name):
            (folder / own.name).write_text(yaml.safe_dump(about, sort_keys=False, allow_unicode=True), encoding="utf-8")


def take(
    one: Opened, benchmarks: Mapping[str, Task], folder: Path, *, batch: int = BATCH, store: Store | None = None
) -> dict[str, int]:
    """Keep the replies in the newest file of samples of each task below a folder; returns {task: items}.

    They are scored here. Every prompt and every setting of generation must be what this model would be asked here, and
    the task of the same version. Items are kept in whole windows of those that pages ask, from the first on. Raises
    TuningVecError for a folder without samples of these tasks, and for a reply to another prompt.
    """
    found = {}
    for name, task in benchmarks.items():
        named = re.compile(SAMPLES.format(task=re.escape(name)))
        files = sorted((file for file in folder.rglob("*.jsonl") if named.fullmatch(file.name)), key=lambda f: f.name)
        if files and not (task.config.unsafe_code and sandbox.lacking()):
            found[name] = _taken(one, task, files[-1], batch, store)
    if not found:
        raise TuningVecError(f"{folder}: no samples of {', '.join(benchmarks)}; run lm_eval with --log_samples")
    return found


def tasks_in(folder: Path) -> list[str]:
    """The tasks of which a folder holds samples."""
    named = re.compile(SAMPLES.format(task="(.+)"))
    return sorted({found[1] for file in folder.rglob("*.jsonl") if (found := named.fullmatch(file.name))})


def _taken(one: Opened, task: Task, file: Path, batch: int, store: Store | None) -> int:
    logged, told = _logged(file), _told(file, task)
    record, count = evals.record_of(one, task, batch, store), 0
    record.tell(imported=told)
    for piece, groups in _windows(one, task, file, logged).items():
        with reading(file, "write it again with this task of ours"):
            for group in groups:
                _same(group, logged[group[0].doc_id], file)
            if piece not in record:
                rows = evals.answer(Replayed(logged), task, groups)
                record.add(piece, evals.known(rows, one, task.task_name))
        count += len(groups)
    return count


def _windows(one: Opened, task: Task, file: Path, logged: Logged) -> evals.Windows:
    """The windows of the items that were asked, in the format, chat or plain, that the first was asked in."""
    name, count = task.task_name, next(i for i in range(len(logged) + 1) if i not in logged)
    if not count:
        raise TuningVecError(f"{file}: item 0 is not in it; ask from the first item on")
    for chat in (evals.in_chat(one, task), not evals.in_chat(one, task)):
        if chat and not one.tokenizer.chat_template:
            continue
        windows = evals.windows(one, {name: task}, chat, count)[name]
        first = next(iter(windows.values()))[0]
        if first[0].args[0] == logged[0]["arguments"]["gen_args_0"]["arg_0"]:
            break
    return windows


def _same(group: Sequence[Instance], line: Mapping[str, Any], file: Path) -> None:
    """Raises TuningVecError where an item was asked otherwise than here."""
    for number, instance in enumerate(group):
        asked = line["arguments"][f"gen_args_{number}"]
        for place, ours in enumerate(instance.args):
            theirs = asked[f"arg_{place}"]
            if isinstance(ours, dict):
                names = ("until", "max_gen_toks", "do_sample")
                ours, theirs = ({name: each.get(name) for name in names} for each in (ours, theirs))
            if ours != theirs:
                raise TuningVecError(
                    f"{file}: item {instance.doc_id} was asked otherwise than here: {theirs!r:.200}, not "
                    f"{ours!r:.200}; ask as `tuningvec replies` says"
                )


def _logged(file: Path) -> Logged:
    """The lines of a file of samples by item; of several filters the first line."""
    found: dict[int, Mapping[str, Any]] = {}
    with reading(file, "write it again with --log_samples"):
        if (size := file.stat().st_size) > LARGEST:
            raise TuningVecError(f"{file}: {size / 2**30:.1f} GB of samples; at most {LARGEST // 2**30} are read")
        for number, text in enumerate(file.read_bytes().splitlines(), 1):
            line = parsed_json(text, f"{file}: line {number}", "write it again with --log_samples")
            found.setdefault(int(line["doc_id"]), line)
    return found


def _told(file: Path, task: Task) -> str:
    """What wrote a file of samples, from the results beside it; raises TuningVecError for a task of another version."""
    date = file.stem.rpartition("_")[2]
    results = file.with_name(f"results_{date}.json")
    if not results.is_file():
        raise TuningVecError(f"{file}: no {results.name} beside it, which tells what wrote it; keep the folder whole")
    about = read_json(results)
    version, own = about.get("versions", {}).get(task.task_name), task.VERSION
    if str(version) != str(own):
        raise TuningVecError(f"{file}: version {version} of {task.task_name}; here it is {own}; ask again")
    backend = str(about.get("config", {}).get("model"))
    backend = backend if re.fullmatch(r"[\w-]+", backend) else "a model in memory"  # a path is nobody's business
    return f"lm-eval {about.get('lm_eval_version')}, {backend}, {date[:10]}"
