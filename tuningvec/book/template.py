"""Fill a family's title, name and limits into a notebook's Markdown cells and captions.

Papermill imports this module while it is itself being imported (it is an entry point): import papermill first.
"""

import asyncio
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jupyter_core.utils import ensure_event_loop
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine
from papermill.log import logger

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError, reading
from tuningvec.family import shipped
from tuningvec.family.spec import Family

LABEL = re.compile(r"^\((.+)\)=$", re.MULTILINE)
ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)
REFERENCE = re.compile(r"\{ref\}`([^`<]+?)\s*<([^`>]+)>`")


class TemplateEngine(Engine):
    """Papermill's engine, after filling `{{ family.title }}` and the like into Markdown cells and figure captions."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        input_path: object = None,
        **options: Any,
    ) -> None:
        """What papermill's own engine does, with a client that can be interrupted; `input_path` is of no use to it."""
        fill(nb_man.nb)
        options |= dict(startup_timeout=start_timeout, timeout=execution_timeout, log=logger)
        quiet = ["--log-level=CRITICAL"]  # of TCP on this machine, of being stopped; what a cell raises is told apart
        Client(nb_man, kernel_name=kernel_name, extra_arguments=quiet, **options).execute()


class Client(PapermillNotebookClient):
    """Papermill's client, which lets nothing wait for the kernel any more when it is interrupted.

    Else what waits may find the kernel dead while it is put away, and complain of that. It also notes the most memory
    that the kernel took, where the system tells it (Linux).
    """

    def papermill_execute_cells(self) -> None:
        try:
            super().papermill_execute_cells()
            status = Path(f"/proc/{self.km.provisioner.pid}/status")
            if status.is_file() and (peak := PEAK.search(status.read_text())):
                self.nb.metadata.setdefault("tuningvec", {})["gigabytes"] = int(peak[1]) * 1024 / 1e9
        except KeyboardInterrupt:
            loop = ensure_event_loop()
            waiting = asyncio.all_tasks(loop)
            for task in waiting:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))
            raise


def fill(notebook: NotebookNode) -> None:
    """Fill the family into Markdown cells and `mystnb` metadata, give cells fixed ids, hide replaced defaults.

    A cell with `when: <expression>` in its metadata is dropped where that is false for the family. Templates may name
    `family` and `left_out`, as `left_out` tells; a reference to a page that is left out becomes its text alone.

    Raises TuningVecError naming the cell for a field that a family does not have, in a text or in `when`.
    """
    parameters = notebook.metadata.papermill.parameters
    context: dict[str, Any] = {}
    if "family" in parameters:
        family = Family.load(parameters["family"])
        context = {"family": family, "left_out": left_out(family)}
    texts = _notebooks()
    labels = [label for stem in context.get("left_out", {}) for label in LABEL.findall(texts.get(stem, ""))]
    gone = _filled(labels, context)  # the labels of pages that are left out
    notebook.cells = [c for c in notebook.cells if _applies(c, context)]
    if context and context["family"].shipped:
        told = new_markdown_cell(shipped.notice(context["family"]), metadata=deepcopy(notebook.cells[0].metadata))
        notebook.cells.insert(1, told)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        if parameters and "parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        try:
            if cell.cell_type == "markdown":
                text = _filled(cell.source, context)
                cell.source = REFERENCE.sub(lambda found: found[1] if found[2] in gone else found[0], text)
            elif "mystnb" in cell.metadata:
                cell.metadata.mystnb = _filled(cell.metadata.mystnb, context)
        except jinja2.TemplateError as error:
            raise TuningVecError(f"cell {number}: template: {error}") from None


def left_out(family: Family) -> dict[str, str]:
    """The pages that do not apply to a family, {page: reason}: those that its file names, and by the pages' own rules.

    A notebook's metadata may state `needs`, {expression: what is missing where it is false}. Raises TuningVecError for
    an expression that cannot be evaluated.
    """
    found = dict(family.left_out)
    for stem, text in _notebooks().items():
        with reading(f"{stem}: metadata at the head", "correct it"):
            needs = yaml.safe_load(text.split("---\n")[1]).get("needs", {})
        for condition, reason in needs.items():
            if not _met(condition, {"family": family}, f"{stem}: needs"):
                found.setdefault(stem, reason)
    return found


def _notebooks() -> dict[str, str]:
    files = sorted((data_folder().parent / "notebooks").glob("*.md"))
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


def _applies(cell: NotebookNode, context: dict[str, Any]) -> bool:
    start = cell.source.strip().partition("\n")[0]
    return "when" not in cell.metadata or _met(cell.metadata.when, context, f"cell {start!r}: when")


def _met(condition: str, context: dict[str, Any], where: str) -> bool:
    try:
        return bool(ENVIRONMENT.compile_expression(condition, undefined_to_none=False)(context))
    except jinja2.TemplateError as error:
        raise TuningVecError(f"{where}: {condition}: {error}") from None


def _filled(value: Any, context: dict[str, Any]) -> Any:
    """A text, or all texts in lists and dictionaries, filled."""
    if isinstance(value, dict):
        return NotebookNode({k: _filled(v, context) for k, v in value.items()})
    if isinstance(value, list):
        return [_filled(v, context) for v in value]
    return ENVIRONMENT.from_string(value).render(context) if isinstance(value, str) else value
