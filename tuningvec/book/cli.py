"""`tuningvec`, or `python -m tuningvec`: families, their pages, the book; score and write sums of members."""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import joblib
import typer

from tuningvec.book import compendium, times
from tuningvec.book.compendium import Page, Project
from tuningvec.book.progress import Progress
from tuningvec.errors import TuningVecError
from tuningvec.family import described, shipped
from tuningvec.family.spec import Family, Prompt, family_names
from tuningvec.store import FRESH
from tuningvec.weights import cluster as workers

if TYPE_CHECKING:
    from tuningvec.measures.models import Arithmetic

app = typer.Typer(
    help="What does fine-tuning write into a language model? Execute the notebooks on a family, build the book.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
FAMILY, BOOK, WEIGHTS = "A family", "The book", "Sums of members"

Name = Annotated[str, typer.Argument(metavar="FAMILY", help="A name in data/families/, or the path of a YAML file.")]
Names = Annotated[list[str], typer.Argument(metavar="FAMILY", help="Names in data/families/, or paths of YAML files.")]
Only = Annotated[str, typer.Option(metavar="PAGE,...", help="These pages alone, such as 04_1,04_2.")]
Given = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="PAGE.NAME=VALUE", help="A page's parameter, such as 03_1.batch=8."),
]
Limit = Annotated[int | None, typer.Option(help="Ask the first items of each benchmark.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Execute and measure everything again.")]
Cluster = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Measure on the workers of a Dask cluster: a scheduler's tcp://host:port, local:2 for two processes here, "
        "slurm:8 for eight jobs.",
    ),
]
Weights = Annotated[
    list[str],
    typer.Argument(
        metavar="MEMBER[=COEFFICIENT]",
        help="A member, or a sum: medical=0.5 instruct=0.5. The first is the one that is prompted.",
    ),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 1 for what the user can put right, 2 for a wrong line, 130 for a stop."""
    try:
        app(args=arguments, prog_name="tuningvec")
    except SystemExit as end:
        return end.code or 0
    except TuningVecError as error:
        print(f"tuningvec: {error}", file=sys.stderr)
    except OSError as error:  # a disk that is full, a folder without leave
        print(f"tuningvec: {error}; what was kept before it stays", file=sys.stderr)
    return 1


@app.command("list", rich_help_panel=FAMILY)
def list_families() -> None:
    """The families there are, and where their weights are."""
    from tuningvec.book import checking  # with torch, which takes seconds to import

    for name in family_names():
        family = Family.load(name, files=False)
        print(f"{name}: {family.title}; {checking.whereabouts(family)}")


@app.command(rich_help_panel=FAMILY)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The family's name: small letters, digits, . _ -")],
    pretrained: Annotated[
        str, typer.Option(metavar="SOURCE", help="A folder, a GGUF file, or owner/model[@commit] on the hub.")
    ],
    member: Annotated[
        list[str],
        typer.Option(
            metavar="DOMAIN=SOURCE",
            help="A fine-tuned member, also an adapter's folder: medicine=path/to/it. The domain `instruct` stands for "
            "a general chat model. May be given several times.",
        ),
    ],
    license: Annotated[str | None, typer.Option(help="Of members whose card does not tell it.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Instead of data/families/.")] = None,
) -> None:
    """Write a family's file from checkpoints: their configs and cards, and questions where these do not tell."""
    ask = (lambda what: typer.prompt(what)) if license is None and sys.stdin.isatty() else (lambda _: license)
    file = described.write(name, pretrained, member, ask, to)
    print(f"{file}\nread it, then:")
    if described.unpinned(file):
        print(f"  tuningvec pin {described.named(file)}")
    for command in ("check", "run"):
        print(f"  tuningvec {command} {described.named(file)}")


@app.command(rich_help_panel=FAMILY)
def pin(
    family: Name, update: Annotated[bool, typer.Option("--update", help="Also where a commit is named.")] = False
) -> None:
    """Look up the commits of members on the Hugging Face hub, and write them into the family's file."""
    for repo, commit in described.pin(family, update).items():
        print(f"{repo}: {commit}")


@app.command(rich_help_panel=FAMILY)
def check(family: Name) -> None:
    """Whether a family can be run here: files, licences, room, tensors that do not fit, pages; no model is loaded."""
    from tuningvec.book import checking

    found = checking.checked(Family.load(family, files=False))
    for line in found.lines:
        print(line)
    if found.problems:
        raise TuningVecError("\n  ".join([f"{family}: {len(found.problems)} to put right", *found.problems]))
    print(f"{family}: nothing stands in the way")


@app.command(rich_help_panel=FAMILY)
def run(
    families: Names, only: Only = "", given: Given = None, limit: Limit = None, fresh: Fresh = False,
    cluster: Cluster = "",
) -> None:  # fmt: skip
    """Execute what changed; a stopped run goes on where it was, and a page that fails does not stop the others."""
    with Project.here().alone(), workers.started(cluster):
        _executed(families, only, given, limit, fresh)


@app.command(rich_help_panel=FAMILY)
def export(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="A name in data/families/.")], only: Only = "",
    cluster: Cluster = "",
) -> None:  # fmt: skip
    """Execute a family's pages and keep what they measure in data/measured/, for readers without its weights."""
    _exported(family, only, cluster, "measured")


@app.command(rich_help_panel=FAMILY)
def record(family: Annotated[str, typer.Argument(metavar="FAMILY", help="A name in data/families/.")], only: Annotated[
    str, typer.Option(metavar="PAGES", help="Numbers of pages that take long, 06_3,06_4.")
], cluster: Cluster = "") -> None:  # fmt: skip
    """Execute long pages of a family and keep what they measure in data/records/, for readers with its weights."""
    _exported(family, only, cluster, "records")


def _exported(family: str, only: str, cluster: str, where: shipped.Where) -> None:
    from tuningvec.weights import engine

    with Project.here().alone(), workers.started(cluster):
        spec, project = shipped.exportable(family), Project.here()
        about = dict(commit=project.commit(), dtype=engine.dtype_name())
        kept = shipped.still(spec, _listed(only), about["dtype"], where) if only else None
        with tempfile.TemporaryDirectory() as stage:
            os.environ[shipped.STAGE] = stage  # for the notebooks' kernels
            pages = compendium.plan(Project.here(), [family])
            _execute(pages, compendium.numbered(pages, _listed(only)))
            print(shipped.export(Path(stage), spec, about, kept, where))


@app.command(rich_help_panel=FAMILY)
def replies(
    family: Name, to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write.")],
    only: Only = "", given: Given = None, limit: Limit = None,
) -> None:  # fmt: skip
    """Write the lm-eval commands that have another program, such as vLLM, write the replies that pages 03 ask."""
    from tuningvec.measures import imported

    spec = Family.load(family)
    needs = imported.needed(spec, "auto", _asking(family, only, given, limit))
    imported.write_tasks(spec.prompt, {name for need in needs.values() for name in need.tasks}, to / "tasks")
    (to / "replies.sh").write_text(imported.script(described.named(spec.file), needs), encoding="utf-8")
    print(f"{to / 'replies.sh'}: {len(needs)} runs of lm_eval\nthen: tuningvec import {family} {to}")


@app.command("import", rich_help_panel=FAMILY)
def import_(
    family: Name,
    folder: Annotated[Path, typer.Argument(help="That of `tuningvec replies`, or samples of one model.")],
    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MEMBER[=COEFFICIENT]]", help="The model whose samples they are, if of one alone."),
    ] = None,
    only: Only = "", given: Given = None, limit: Limit = None, batch: int = 32,
) -> None:  # fmt: skip
    """Keep what lm-eval wrote with --log_samples as if it had been measured here; pages tell where it comes from."""
    from tuningvec.measures import evals, imported
    from tuningvec.store import Store

    spec, found = Family.load(family), {}
    if weights:
        tasks = evals.tasks(imported.tasks_in(folder), spec.prompt)
        found[" ".join(weights)] = imported.take(
            _sum(family, weights, "auto"), tasks, folder, batch=batch, store=Store()
        )
    else:
        for name, need in imported.needed(spec, "auto", _asking(family, only, given, limit)).items():
            if (folder / "samples" / name).is_dir():
                found[name] = imported.take(need.one, need.tasks, folder / "samples" / name, batch=batch, store=Store())
    if not found:
        raise TuningVecError(f"{folder}: no samples; run `sh {folder / 'replies.sh'}` first")
    for name, counts in found.items():
        print(f"{name}: {', '.join(f'{count} of {task}' for task, count in counts.items())}")


def _asking(family: str, only: str, given: Sequence[str] | None, limit: int | None) -> dict[str, dict[str, object]]:
    """The parameters of a family's pages that ask benchmarks, {page: {name: value}}."""
    from tuningvec.measures import imported

    pages = compendium.plan(Project.here(), [family], _parameters(given), limit)
    some = compendium.numbered(pages, _listed(only))
    return {page.notebook.stem: page.own_parameters() for page in some if page.notebook.stem in imported.PAGES}


@app.command(rich_help_panel=BOOK)
def book(
    families: Names, given: Given = None, limit: Limit = None, fresh: Fresh = False, cluster: Cluster = ""
) -> None:  # fmt: skip
    """Execute what changed and build the book."""
    with Project.here().alone():
        with workers.started(cluster):
            pages = _executed(families, "", given, limit, fresh)
        compendium.publish(Project.here(), pages)
        print(f"book: {compendium.build(Project.here())}")


@app.command(rich_help_panel=BOOK)
def pdf() -> None:
    """Print the book that was built last, as one PDF; needs Chromium."""
    from tuningvec.book import pdf as printed

    with Project.here().alone():
        print(f"pdf: {printed.write(Project.here())}")


@app.command(rich_help_panel=BOOK)
def prepare(
    families: Names, to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write.")],
    given: Given = None, limit: Limit = None,
    recorded: Annotated[bool, typer.Option("--recorded", help="Pages whose records ship, and no others.")] = False,
) -> None:  # fmt: skip
    """Write the notebooks with their parameters filled in, not executed."""
    pages = compendium.plan(Project.here(), families, _parameters(given), limit)
    if recorded:
        pages = [page for page in pages if page.family and shipped.records(page.family, page.number)]
    for file in compendium.prepare(pages, to):
        print(file)


@app.command(rich_help_panel=WEIGHTS)
def evaluate(
    family: Name,
    weights: Weights,
    tasks: Annotated[str, typer.Option(metavar="TASK,...", help="Tasks or groups of lm-eval, or ours.")],
    limit: Limit = None,
    tokens: Annotated[int | None, typer.Option(help="The longest reply, for a quick look.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain text instead of the chat format.")] = False,
    hub: Annotated[str | None, typer.Option(help="A folder that holds data sets in the hub's layout.")] = None,
    include: Annotated[
        list[Path] | None, typer.Option(help="Folders with further tasks of lm-eval.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A YAML file with other prompts and worked examples.")] = None,
    dtype: Annotated[
        str, typer.Option(help="auto: bfloat16 where the hardware computes in it, else float32.")
    ] = "auto",
    batch: int = 32,
    items: Annotated[
        Path | None, typer.Option(help="Write every item with prompt, reply and scores to this JSONL file.")
    ] = None,
) -> None:  # fmt: skip
    """Score a member, or a sum of members, on benchmarks."""
    from tuningvec.measures import evals, scores
    from tuningvec.store import Store

    prompt = Prompt.read(prompts) if prompts else Family.load(family).prompt
    asked = evals.tasks(_listed(tasks), prompt, hub, include or ())
    for task in asked.values():
        if tokens and task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": tokens}, update=True)
    found = evals.run(
        [_sum(family, weights, dtype)], asked, chat=False if plain else None, limit=limit, batch=batch, store=Store()
    )
    if items:
        found.to_json(items, orient="records", lines=True, force_ascii=False)
    for row in found.attrs["left_out"]:
        print(f"left out: {row['task']}: {row['reason']}", file=sys.stderr)
    print(scores.of_metrics(scores.with_sources(found, asked)).to_markdown(index=False, floatfmt=".4g"))


@app.command(rich_help_panel=WEIGHTS)
def write(
    family: Name, weights: Weights, to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write.")]
) -> None:
    """Write a sum of members as a checkpoint, for another program to load."""
    one = _sum(family, weights, "float32")
    print(one.weights.write(to, one.like, one.prompted).folder)


def _sum(family: str, weights: Sequence[str], dtype: str) -> "Arithmetic":
    from tuningvec.measures.models import Arithmetic

    terms: dict[str, float] = {}
    for part in weights:
        member, _, coefficient = part.partition("=")
        try:
            terms[member] = terms.get(member, 0) + float(coefficient or 1)
        except ValueError:
            raise TuningVecError(f"{part}: {coefficient!r} is no number; write member=0.5") from None
    return Arithmetic(Family.load(family), terms, next(iter(terms)), dtype)


def _listed(text: str) -> list[str]:
    return [word for word in text.replace(" ", ",").split(",") if word]


def _parameters(given: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """`page.name=value` as {page: {name: value}}; raises TuningVecError for what is none."""
    found: dict[str, dict[str, str]] = {}
    for one in given or ():
        where, equals, value = one.partition("=")
        page, dot, name = where.partition(".")
        if not (page and dot and name and equals):
            raise TuningVecError(f"-p {one}: not of the form PAGE.NAME=VALUE, such as 03_1.batch=8")
        found.setdefault(page, {})[name] = value
    return found


def _executed(
    families: Sequence[str], only: str, given: Sequence[str] | None, limit: int | None, fresh: bool
) -> list[Page]:
    pages = compendium.plan(Project.here(), families, _parameters(given), limit)
    if fresh:
        os.environ[FRESH] = str(time.time())  # for the notebooks' kernels
    asked = compendium.numbered(pages, _listed(only)) if only else pages
    _execute(pages, compendium.due(asked, fresh))
    return pages


def _execute(pages: Sequence[Page], some: Sequence[Page]) -> None:
    """Execute some of the pages."""
    os.environ.setdefault("OMP_NUM_THREADS", str(joblib.cpu_count(only_physical_cores=True)))
    os.environ |= dict(TQDM_MININTERVAL="1", TQDM_NCOLS="100", TQDM_NROWS="20")  # of kernels, read here, not shown
    known = times.expected(some)
    with Progress([str(page) for page in some], known, log=Project.here().log) as progress:
        progress.say(times.announced(pages, some, known))
        try:
            for page in compendium.execute(some, progress):
                progress.say(f"{page}: {page.seconds():.1f} s")
        except KeyboardInterrupt:
            print(f"\ntuningvec: {progress.kept()}", file=sys.stderr)
            raise


if __name__ == "__main__":
    sys.exit(main())
