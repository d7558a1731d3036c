"""Fill a family's title, name and limits into a notebook's Markdown cells and captions.

Papermill imports this module while it is itself being imported (it is an entry point): import papermill first.
"""

import re
from functools import partial
from typing import Any

import jinja2
import yaml
from nbformat import NotebookNode
from papermill.engines import NBClientEngine

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family

LABEL = re.compile(r"^\((.+)\)=$", re.MULTILINE)
REFERENCE = re.compile(r"\{ref\}`([^`<]+?)\s*<([^`>]+)>`")


class TemplateEngine(NBClientEngine):
    """Papermill's engine, after filling `{{ family.title }}` and the like into Markdown cells and figure captions."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        fill(nb_man.nb)
        super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


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
    gone = _labels(context, environment := jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False))
    notebook.cells = [c for c in notebook.cells if _applies(c, environment, context)]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        if parameters and "parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        try:
            if cell.cell_type == "markdown":
                text = environment.from_string(cell.source).render(context)
                cell.source = REFERENCE.sub(partial(_kept, gone), text)
            elif "mystnb" in cell.metadata:
                cell.metadata.mystnb = _filled(cell.metadata.mystnb, environment, context)
        except jinja2.TemplateError as error:
            raise TuningVecError(f"cell {number}: template: {error}") from None


def left_out(family: Family) -> dict[str, str]:
    """The pages that do not apply to a family, {page: reason}: those that its file names, and by the pages' own rules.

    A notebook's metadata may state `needs`, {expression: what is missing where it is false}. Raises TuningVecError for
    an expression that cannot be evaluated.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    found = dict(family.left_out)
    for stem, text in _notebooks().items():
        needs = yaml.safe_load(text.split("---\n")[1]).get("needs", {})
        for condition, reason in needs.items():
            try:
                met = bool(environment.compile_expression(condition, undefined_to_none=False)(family=family))
            except jinja2.TemplateError as error:
                raise TuningVecError(f"{stem}: needs: {condition}: {error}") from None
            if not met:
                found.setdefault(stem, reason)
    return found


def _notebooks() -> dict[str, str]:
    files = sorted((data_folder().parent / "notebooks").glob("*.md"))
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


def _labels(context: dict[str, Any], environment: jinja2.Environment) -> set[str]:
    """The labels of pages that are left out."""
    texts = _notebooks()
    found = [label for stem in context.get("left_out", {}) for label in LABEL.findall(texts.get(stem, ""))]
    return {environment.from_string(label).render(context) for label in found}


def _kept(gone: set[str], reference: re.Match[str]) -> str:
    return reference[1] if reference[2] in gone else reference[0]


def _applies(cell: NotebookNode, environment: jinja2.Environment, context: dict[str, Any]) -> bool:
    condition = cell.metadata.get("when")
    if condition is None:
        return True
    try:
        found = environment.compile_expression(condition, undefined_to_none=False)(context)
        return bool(found)  # an unknown name raises here at the latest
    except jinja2.TemplateError as error:
        start = cell.source.strip().partition("\n")[0]
        raise TuningVecError(f"cell {start!r}: when: {condition}: {error}") from None


def _filled(value: Any, environment: jinja2.Environment, context: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return NotebookNode({k: _filled(v, environment, context) for k, v in value.items()})
    return environment.from_string(value).render(context) if isinstance(value, str) else value
