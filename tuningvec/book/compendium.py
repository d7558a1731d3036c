"""Prepare → execute → build: text notebooks become executed pages, executed pages become the book."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from filelock import FileLock, Timeout
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from tuningvec.book.progress import Progress
from tuningvec.book.template import fill, left_out
from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError, reading, writing
from tuningvec.family import described, shipped
from tuningvec.family.spec import Adapter, Family, Folder
from tuningvec.store import Store

Executed = list[tuple["Page", NotebookNode]]
NO_FAMILY = "paper"  # folder and name of pages about the paper alone
VERSIONS = (
    "torch", "transformers", "safetensors", "numpy", "nnsight", "datasets", "lm_eval", "math-verify", "rouge_score",
    "papermill", "jupyter-book",
)  # fmt: skip


@dataclass(frozen=True)
class Project:
    """Where the book's sources and products lie."""

    root: Path

    @classmethod
    def here(cls) -> "Project":
        return cls(data_folder().parent)

    @property
    def notebooks(self) -> list[Path]:
        return sorted((self.root / "notebooks").glob("*.md"))

    @property
    def executed(self) -> Path:
        """Executed pages of every family, kept from run to run."""
        return self.root / "build" / "pages"

    @property
    def results(self) -> Path:
        """What the book shows: complete pages of the families asked for."""
        return self.root / "book" / "results"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises TuningVecError where another run is making pages or the book in this tree."""
        file = self.root / "build" / ".lock"
        with writing(file, "make the folder writable, or work in a copy"):
            file.parent.mkdir(exist_ok=True)
            lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise TuningVecError(f"{self.root}: another run is at work here; wait for it, or work in a copy") from None
        try:
            yield
        finally:
            lock.release()

    @property
    def log(self) -> Path:
        """What every run said, with the time of each line."""
        return self.root / "build" / "run.log"

    def commit(self) -> str:
        """The short commit, with `+` when tracked files differ from it; empty outside a git checkout."""
        command = ["git", "-C", str(self.root), "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
        if shutil.which("git") is None:
            return ""
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@dataclass(frozen=True)
class Page:
    """One notebook, for one family unless it is about the paper alone."""

    project: Project
    notebook: Path
    family: Family | None
    given: tuple[tuple[str, Any], ...] = ()  # parameters in the place of the notebook's own

    def __str__(self) -> str:
        return f"{self.folder}/{self.notebook.stem}"

    @property
    def folder(self) -> str:
        return self.family.name if self.family else NO_FAMILY

    @property
    def output(self) -> Path:
        return self.project.executed / self.folder / f"{self.notebook.stem}.ipynb"

    def link(self, text: str, results: str = "results/") -> str:
        """A link to the page's place below what the book shows."""
        return f"[{text}]({results}{self.folder}/{self.output.name})"

    def digest(self) -> str:
        """A checksum of what the page depends on: notebook, family and weights, package, printed data, versions."""
        package = Path(__file__).parent.parent
        code = [*package.rglob("*.py"), *(package / "tasks").glob("*yaml")]
        printed = ["paper", "published"] if self.family else ["paper", "published", "scaling", "."]
        paper = (file for folder in printed for file in (data_folder() / folder).glob("*.*"))
        store, small = Store(), [self.notebook, *sorted(code), *sorted(paper)]
        lines = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in small]
        records = shipped.records(self.family, self.number) if self.family else None
        files = [*_inputs(self.family), *(sorted(records.iterdir()) if records else ())]
        lines += [f"{file.name} {store.digest(file)}" for file in files]
        lines += [f"{name} {importlib.metadata.version(name)}" for name in VERSIONS]
        lines += [os.environ.get("TUNINGVEC_DTYPE", ""), repr(self.given)]
        lines += [repr(left_out(self.family))] if self.family else []  # 01_families lists them, references need them
        return hashlib.sha256("\n".join([str(self), *lines]).encode()).hexdigest()

    def is_current(self) -> bool:
        """Whether an execution of exactly these inputs is at hand."""
        return self.output.is_file() and _record(nbformat.read(self.output, 4)).get("digest") == self.digest()

    def seconds(self) -> float | None:
        """How long the last execution took, if one is at hand."""
        return nbformat.read(self.output, 4).metadata.papermill.duration if self.output.is_file() else None

    def gigabytes(self) -> float | None:
        """The most memory that the last execution took, if one is at hand and it was told."""
        return _record(nbformat.read(self.output, 4)).get("gigabytes") if self.output.is_file() else None

    @property
    def number(self) -> str:
        """The number that the name of the notebook begins with, 02_5 or 07."""
        return re.match(r"\d*(_\d+)?", self.notebook.stem)[0]

    def own_parameters(self) -> dict[str, Any]:
        """The notebook's own parameters, or what is `given` in their place."""
        return defaults(self.notebook) | dict(self.given)

    def parameters(self) -> dict[str, Any]:
        """All parameters, with this family; each is passed, so that each shows once.

        A dtype of "auto" is decided here, so that the page shows what it came to, or what was measured elsewhere.
        """
        from tuningvec.weights import engine

        values = self.own_parameters()
        if values.get("dtype") == engine.AUTO:
            elsewhere = self.family and (self.family.shipped or shipped.records(self.family, self.number))
            values["dtype"] = shipped.provenance(elsewhere)["dtype"] if elsewhere else engine.dtype_name()
        if self.family is None:
            return values
        return values | {"family": described.named(self.family.file)}

    def run(self, output: Path, **options: Any) -> NotebookNode:
        """Hand the notebook to papermill, which writes `output` cell by cell."""
        from tuningvec.weights import engine

        output.parent.mkdir(parents=True, exist_ok=True)
        notebook = jupytext.read(self.notebook)
        parameters, folder = self.parameters(), self.notebook.parent
        about = dict(digest=self.digest(), commit=self.project.commit(), machine=engine.machine())
        notebook.metadata["tuningvec"] = about | dict(dtype=parameters.get("dtype", ""))
        return papermill.execute_notebook(notebook, output, parameters, engine_name="tuningvec", cwd=folder, **options)


def plan(
    project: Project,
    names: Sequence[str],
    parameters: Mapping[str, Mapping[str, str]] | None = None,
    limit: int | None = None,
) -> list[Page]:
    """The pages about the paper alone, then those of the families, less what `left_out` tells.

    A notebook without a parameter `family` is about the paper alone. `parameters` are {page: {name: value}}, in YAML,
    and `limit` is that of every page which has one. Raises TuningVecError before anything runs: for a bad spec, a
    family named twice or like the folder of the paper's pages, an unknown page, a parameter that a page does not have
    or of another type.
    """
    families = [Family.load(name) for name in names]
    if twice := sorted(name for name, count in Counter(f.name for f in families).items() if count > 1):
        raise TuningVecError(f"family named twice: {', '.join(twice)}")
    own = {notebook: defaults(notebook) for notebook in project.notebooks}
    given = _given(own, parameters or {}, limit)
    alone = [n for n in own if "family" not in own[n]]
    stems = [n.stem for n in own if n not in alone]
    pages = [Page(project, n, None, given[n]) for n in alone]
    for family in families:
        if family.name == NO_FAMILY:
            raise TuningVecError(
                f"{family.file}: the name {NO_FAMILY!r} is taken by the paper's own pages; rename the file"
            )
        for unknown in sorted(family.left_out.keys() - set(stems)):
            raise TuningVecError(f"{family.file}: left_out: no page {unknown!r}; pages are {', '.join(stems)}")
        gone = left_out(family)
        pages += [Page(project, n, family, given[n]) for n in own if n not in alone and n.stem not in gone]
    return pages


def defaults(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook, as it sets them."""
    inspected = papermill.inspect_notebook(jupytext.read(notebook))
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in inspected.items()}


def _given(
    own: Mapping[Path, Mapping[str, Any]], parameters: Mapping[str, Mapping[str, str]], limit: int | None
) -> dict[Path, tuple[tuple[str, Any], ...]]:
    """The parameters of each notebook that were given, checked against its own."""
    found = {n: {"limit": limit} if limit is not None and "limit" in values else {} for n, values in own.items()}
    for page, asked in parameters.items():
        some = [n for n in own if n.stem == page or n.stem.startswith(f"{page}_")]
        if not some:
            raise TuningVecError(f"no page {page}; there are {', '.join(n.stem for n in own)}")
        for notebook, (name, text) in itertools.product(some, asked.items()):
            if name not in own[notebook].keys() - {"family"}:
                there = ", ".join(sorted(own[notebook].keys() - {"family"})) or "none"
                raise TuningVecError(f"{notebook.stem}: no parameter {name!r}; there are {there}")
            found[notebook][name] = _typed(text, own[notebook][name], f"{notebook.stem}.{name}")
    return {notebook: tuple(sorted(values.items())) for notebook, values in found.items()}


def _typed(text: str, default: Any, where: str) -> Any:
    """A value of the same type as the notebook's own; of any type where that is None."""
    with reading(f"{where}={text}: not readable as YAML", "correct it"):
        value = yaml.safe_load(text)
    value = float(value) if isinstance(default, float) and type(value) is int else value
    if default is not None and type(value) is not type(default):
        raise TuningVecError(f"{where}={text}: {type(default).__name__} is needed, as in {default!r}")
    return value


def numbered(pages: Sequence[Page], numbers: Sequence[str]) -> list[Page]:
    """The pages of families with these numbers, such as 02_5, or all; raises TuningVecError for a number of none."""
    own = [page for page in pages if page.family]
    for number in numbers:
        if not any(page.notebook.stem.startswith(f"{number}_") for page in own):
            raise TuningVecError(f"no page {number}; there are {', '.join(page.notebook.stem for page in own)}")
    return [p for p in own if not numbers or any(p.notebook.stem.startswith(f"{number}_") for number in numbers)]


def due(pages: Sequence[Page], fresh: bool = False) -> list[Page]:
    """The pages whose inputs changed since they were executed; all with `fresh`."""
    return [page for page in pages if fresh or not page.is_current()]


def execute(pages: Sequence[Page], progress: Progress | None = None) -> Iterator[Page]:
    """Execute these pages; yields each when it is done.

    A notebook that fails does not stop the others. After them TuningVecError is raised, naming each page that failed
    and its cell; the unfinished page is kept for reading, an older execution of it is not.
    """
    failed = []
    for number, page in enumerate(pages):
        if progress:
            progress.start(number)
        try:
            _execute(page, progress)
        except TuningVecError as error:
            failed.append(str(error))
            if progress:
                progress.say(f"{page}: failed")
        else:
            yield page
    if failed:
        raise TuningVecError("\n".join(failed))


def _execute(page: Page, progress: Progress | None) -> None:
    page.output.unlink(missing_ok=True)
    unfinished = page.output.with_name(f"{page.output.stem}.unfinished.ipynb")
    told = dict(progress_bar={"file": progress}, stderr_file=progress) if progress else dict(progress_bar=False)
    kernel = Config({"KernelManager": {"connection_file": str(unfinished.with_suffix(".kernel.json"))}})
    try:
        page.run(unfinished, config=kernel, **told)  # after a kill the next run finds both files, and takes them over
    except PapermillExecutionError as error:
        raise TuningVecError(
            f"{page}: cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"  the page so far, with the traceback: {unfinished}"
        ) from None
    unfinished.rename(page.output)


def prepare(pages: Sequence[Page], folder: Path) -> list[Path]:
    """Write each page with its parameters filled in and nothing executed, for nbmake or an editor."""
    files = []
    for page in pages:
        files.append(folder / page.folder / f"{page.notebook.stem}.ipynb")
        notebook = page.run(files[-1], prepare_only=True)
        fill(notebook)
        nbformat.write(notebook, files[-1])
    return files


def publish(project: Project, pages: Sequence[Page]) -> None:
    """Lay out what the book shows: the executed pages of these families alone, findings, verdicts, status, MathJax."""
    from tuningvec.book import front, overview, reading  # which need scipy, as the command line does not
    from tuningvec.page import finding

    shutil.rmtree(project.results, ignore_errors=True)
    notebooks = []
    for page in pages:
        target = project.results / page.folder / page.output.name
        target.parent.mkdir(parents=True, exist_ok=True)
        notebooks.append((page, nbformat.read(page.output, 4)))
        nbformat.write(_shown(page), target)
    beside = reading.Files(project.results / "files", project.results.parent)
    texts = {
        "front": front.front(notebooks) + front.figure(notebooks, beside),
        "meanings": finding.meanings() + "\n",
        "glossary": finding.glossary() + "\n",
        "findings": front.findings(notebooks),
        "06_0_overview": overview.overview(notebooks),
        "audit": _audit(notebooks),
        "status": _status(project, notebooks),
    }
    for name, text in texts.items():
        (project.results / f"{name}.md").write_text(text, encoding="utf-8")
    _copy_mathjax(project.root / "book" / "_static" / "mathjax")


def _shown(page: Page) -> NotebookNode:
    """An executed page in the order of a reader; what stands beside it is written on the way."""
    from tuningvec.book import reading  # which needs pandas, as the command line does not

    notebook = nbformat.read(page.output, 4)
    folder = page.project.results / page.folder
    files = reading.Files(folder / "files", folder)
    notebook.cells = reading.Reading(notebook, files, (page.folder, page.number), _how(page, notebook)).cells()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    notebook.metadata.pop("papermill")  # with what libraries warn of it holds paths of this machine
    return notebook


def _how(page: Page, notebook: NotebookNode) -> str:
    """How a page is run again, and how long that took here."""
    run, record = notebook.metadata.papermill, _record(notebook)
    named = described.named(page.family.file) if page.family else ""
    command = f"tuningvec run {named} --only {page.number}" if named else "make book"
    took = [f"{run.duration:.0f} s" if run.duration >= 1 else "less than a second"]
    took += [f"{record['gigabytes']:.1f} GB"] if "gigabytes" in record else []
    return (
        f"**Run it again**: `{command}`. Here, on {run.end_time[:10]}, it took {' and '.join(took)} beyond what was "
        f"measured before; its source is `notebooks/{page.notebook.name}`. [All pages](../status.md)."
    )


def build(project: Project) -> Path:
    """Build the book strictly, unless it was built of the same sources; returns the index page.

    The new book replaces the old one only when Sphinx had nothing to warn of. Raises TuningVecError otherwise.
    """
    html, built = project.root / "_build" / "html", project.root / "_build" / "sources"
    sources = _sources(project)
    if (html / "index.html").is_file() and built.is_file() and built.read_text() == sources:
        return html / "index.html"
    built.unlink(missing_ok=True)
    new = sphinx(project, project.root / "build" / "book", "html")
    html.parent.mkdir(exist_ok=True)
    shutil.rmtree(html, ignore_errors=True)
    shutil.move(new, html)
    built.write_text(sources)
    return html / "index.html"


def sphinx(project: Project, scratch: Path, builder: str) -> Path:
    """Run a builder of Sphinx from nothing into `scratch`; returns its folder.

    Raises TuningVecError when Sphinx had something to warn of.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # Sphinx repeats no warning for a page that it does not read again
    program = shutil.which("jupyter-book", path=str(Path(sys.executable).parent)) or "jupyter-book"
    command = [program, "build", str(project.root), "--path-output", str(scratch), "--builder", builder]
    log = project.root / "build" / f"{scratch.name}.log"
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            [*command, "-W", "--keep-going", "-n"], check=False, stdout=stream, stderr=subprocess.STDOUT
        )
    if done.returncode:
        said = [line for line in log.read_text(encoding="utf-8").splitlines() if "WARNING" in line or "ERROR" in line]
        raise TuningVecError(
            "\n  ".join(["the book was not built, the former one is untouched:", *said, f"all that was said: {log}"])
        )
    return scratch / "_build" / builder


def _sources(project: Project) -> str:
    """A checksum of all files that the book is built of, and of the versions of what builds it."""
    files = [*project.root.glob("_*.yml"), *project.root.glob("CITATION.cff"), Path(__file__).with_name("site.py")]
    files += [file for file in (project.root / "book").rglob("*") if file.is_file()]
    lines = [f"{file} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in sorted(files)]
    lines += sorted(f"{package.name} {package.version}" for package in importlib.metadata.distributions())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def _audit(notebooks: Executed) -> str:
    """How many of the audit's claims have which verdict, in a sentence."""
    from tuningvec.page import finding

    lines = []
    for page, verdicts in recorded(notebooks, finding.VERDICTS):
        each = ", ".join(f"{finding.badge(verdict)} {count}" for verdict, count in verdicts.items())
        lines.append(f"{sum(verdicts.values())} claims are judged there: {each}. Read {page.link('the audit')}.")
    return "\n\n".join(lines) + "\n"


def recorded(notebooks: Executed, key: str) -> Iterator[tuple[Page, Any]]:
    """What the outputs of the pages carry under `key`."""
    for page, notebook in notebooks:
        for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
            if text := output.get("metadata", {}).get(key):
                yield page, json.loads(text)


def _status(project: Project, notebooks: Executed) -> str:
    """The status page: each page's seconds, date and commit, and the versions all ran with."""
    lines = ["# Status of this build", "", "Each page was executed once on the inputs named here.", ""]
    lines += ["| Page | Family | Seconds | GB | dtype | Executed (UTC) | Commit |", "|---|---|---:|---:|---|---|---|"]
    for page, notebook in notebooks:
        run, record = notebook.metadata.papermill, _record(notebook)
        link, title = page.link(page.notebook.stem, ""), page.family.title if page.family else "the paper alone"
        commit = f"`{record['commit']}`" if record["commit"] else "not a git checkout"
        when = run.end_time[:16].replace("T", " ")
        memory = f"{record['gigabytes']:.1f}" if "gigabytes" in record else "–"
        lines.append(row(link, title, f"{run.duration:.0f}", memory, record["dtype"] or "–", when, commit))
    machines = dict.fromkeys(_record(notebook)["machine"] for _, notebook in notebooks)
    told = "GB is the most memory that a page took, dtype that of models in memory. A `+` after a commit means that "
    lines += ["", told + "tracked files differed from it."]
    lines += ["", "| Of | Version |", "|---|---|"]
    lines += [row(name, importlib.metadata.version(name)) for name in VERSIONS]
    lines += [row("Python", platform.python_version()), *(row("Machine", machine) for machine in machines)]
    return "\n".join(lines) + "\n"


def _record(notebook: NotebookNode) -> dict[str, Any]:
    return notebook.metadata.get("tuningvec", {})


def _inputs(family: Family | None) -> list[Path]:
    """A family's file, its weights, and what its members are given to read."""
    if family is None:
        return []
    folders = [family.root / m.source.path for m in family.members if isinstance(m.source, Folder | Adapter)]
    weights = [file for folder in ([family.shipped] if family.shipped else folders) for file in folder.iterdir()]
    return [family.file, *sorted(f for f in weights if f.is_file()), *family.reading]


def _copy_mathjax(folder: Path) -> None:
    """Copy MathJax out of its Python package, so that the built book asks no other host for it."""
    package = importlib.util.find_spec("mathjax")
    if package is None or package.origin is None:
        raise TuningVecError("package django-static-mathjax is not installed; install the extra `book`")
    source = Path(package.origin).parent / "static" / "mathjax"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (source / "es5" / "tex-svg.js", source / "LICENSE"):
        shutil.copyfile(file, folder / file.name)
