"""`python -m tuningvec`: execute the notebooks on families, build the book; score and write sums of members."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import joblib

from tuningvec.book import compendium, times
from tuningvec.book.compendium import Page, Project
from tuningvec.book.progress import Progress
from tuningvec.errors import TuningVecError
from tuningvec.family import shipped
from tuningvec.family.spec import Family, Prompt

if TYPE_CHECKING:
    from tuningvec.measures.models import Arithmetic


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with Project.here().alone() if options.alone else nullcontext():
            options.run(options)
    except TuningVecError as error:
        print(f"tuningvec: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a disk that is full, a folder without leave
        print(f"tuningvec: {error}; what was kept before it stays", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"\ntuningvec: {stopped or 'stopped'}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tuningvec", description=__doc__)
    parser.set_defaults(alone=False)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("book", _book, "execute what changed and build the book"),
        ("execute", _execute, "execute what changed"),
        ("prepare", _prepare, "write the notebooks with their parameters filled in, not executed"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("families", nargs="+", help="names in data/families/, or paths of YAML files")
        command.set_defaults(run=run, alone=name != "prepare")
        if name == "prepare":
            command.add_argument("--to", type=Path, required=True, help="folder to write to")
        else:
            again = "execute every page and measure every table again"
            command.add_argument("--fresh", action="store_true", help=again)
    text = "execute a family's pages and keep what they measure in data/measured/, for readers without its weights"
    export = commands.add_parser("export", help=text, description=text)
    export.add_argument("families", nargs=1, metavar="family", help="a name in data/families/")
    only = "pages to measure again, such as 02_5; what ships of the others stays"
    export.add_argument("--only", nargs="+", default=[], metavar="page", help=only)
    export.set_defaults(run=_export, alone=True, fresh=False)
    text = "whether what ships of a family can be what was measured"
    check = commands.add_parser("check", help=text, description=text)
    check.add_argument("family", help="a name in data/families/ and data/measured/")
    check.set_defaults(run=_check)
    evaluate = commands.add_parser("evaluate", help="score a member, or a sum of members, on benchmarks")
    _weights(evaluate)
    add = evaluate.add_argument
    add("--tasks", nargs="+", required=True, metavar="task", help="tasks or groups of lm-eval, or ours")
    add("--limit", type=int, help="take the first items of each task")
    add("--tokens", type=int, help="the longest reply, for a quick look")
    add("--plain", action="store_true", help="plain text instead of the chat format")
    add("--hub", help="a folder that holds data sets in the hub's layout")
    add("--include", type=Path, nargs="+", default=[], help="folders with further tasks of lm-eval")
    add("--prompts", type=Path, help="a YAML file with other system prompts and worked examples")
    add(
        "--dtype",
        default="auto",
        help="auto: bfloat16 where the hardware computes in it, else float32",
    )
    add("--batch", type=int, default=32)
    add("--items", type=Path, help="write every item with prompt, reply and scores to this JSONL file")
    evaluate.set_defaults(run=_evaluate)
    write = commands.add_parser("write", help="write a sum of members as a checkpoint, for another program to load")
    _weights(write)
    write.add_argument("--to", type=Path, required=True, help="folder to write to")
    write.set_defaults(run=_write)
    return parser


def _weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", help="a name in data/families/, or the path of a YAML file")
    parser.add_argument(
        "weights", nargs="+", metavar="member[=coefficient]",
        help="a member, or a sum: `medical=0.5 instruct=0.5`; the first is the one that is prompted",
    )  # fmt: skip


def _asked(options: argparse.Namespace, dtype: str) -> "Arithmetic":
    from tuningvec.measures.models import Arithmetic

    terms: dict[str, float] = {}
    for part in options.weights:
        member, _, coefficient = part.partition("=")
        try:
            terms[member] = terms.get(member, 0) + float(coefficient or 1)
        except ValueError:
            raise TuningVecError(f"{part}: {coefficient!r} is no number; write member=0.5") from None
    return Arithmetic(Family.load(options.family), terms, next(iter(terms)), dtype)


def _evaluate(options: argparse.Namespace) -> None:
    from tuningvec.measures import evals, scores
    from tuningvec.store import Store

    prompt = Prompt.read(options.prompts) if options.prompts else Family.load(options.family).prompt
    tasks = evals.tasks(options.tasks, prompt, options.hub, options.include)
    for task in tasks.values():
        if options.tokens and task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": options.tokens}, update=True)
    items = evals.run(
        [_asked(options, options.dtype)], tasks,
        chat=False if options.plain else None, limit=options.limit, batch=options.batch, store=Store(),
    )  # fmt: skip
    if options.items:
        items.to_json(options.items, orient="records", lines=True, force_ascii=False)
    for row in items.attrs["left_out"]:
        print(f"left out: {row['task']}: {row['reason']}", file=sys.stderr)
    print(scores.of_metrics(scores.with_sources(items, tasks)).to_markdown(index=False, floatfmt=".4g"))


def _write(options: argparse.Namespace) -> None:
    one = _asked(options, "float32")
    print(one.weights.write(options.to, one.like, one.prompted).folder)


def _execute(options: argparse.Namespace, only: Sequence[str] | None = None) -> list[Page]:
    """Execute the pages that are due, or of the families all, or `only` these, whatever was executed before."""
    os.environ.setdefault("OMP_NUM_THREADS", str(joblib.cpu_count(only_physical_cores=True)))
    bars = dict(TQDM_MININTERVAL="1", TQDM_NCOLS="100", TQDM_NROWS="20")  # of kernels, which are read here, not shown
    os.environ |= bars
    pages = compendium.plan(Project.here(), options.families)
    if options.fresh:
        os.environ["TUNINGVEC_FRESH"] = str(time.time())  # for the notebooks' kernels
    some = compendium.due(pages, options.fresh) if only is None else compendium.numbered(pages, only)
    known = times.expected(some)
    with Progress([str(page) for page in some], known) as progress:
        progress.say(times.announced(pages, some, known))
        try:
            for page, executed in compendium.execute(pages, some, progress):
                if executed:
                    progress.say(f"{page}: {page.seconds():.1f} s")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(progress.kept()) from None
    return pages


def _book(options: argparse.Namespace) -> None:
    project = Project.here()
    pages = _execute(options)
    compendium.publish(project, pages)
    print(f"book: {compendium.build(project)}")


def _export(options: argparse.Namespace) -> None:
    from tuningvec.weights import engine

    (name,) = options.families
    family, project = shipped.exportable(name), Project.here()
    about = dict(commit=project.commit(), dtype=engine.dtype_name())
    kept = shipped.still(family, options.only, about["dtype"]) if options.only else None
    with tempfile.TemporaryDirectory() as stage:
        os.environ[shipped.STAGE] = stage  # for the notebooks' kernels
        _execute(options, options.only)
        print(shipped.export(Path(stage), family, about, kept))


def _check(options: argparse.Namespace) -> None:
    from tuningvec.measures.contributed import problems

    if found := list(problems(Family.load(options.family))):
        raise TuningVecError("\n  ".join([f"{options.family}: {len(found)} problems", *found]))
    print(f"{options.family}: nothing that cannot be")


def _prepare(options: argparse.Namespace) -> None:
    for file in compendium.prepare(compendium.plan(Project.here(), options.families), options.to):
        print(file)


if __name__ == "__main__":
    sys.exit(main())
