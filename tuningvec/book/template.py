"""Fill a family's title, name and limits into a notebook's Markdown cells and captions.

Papermill imports this module while it is itself being imported (it is an entry point): import papermill first.
"""

from typing import Any

import jinja2
from nbformat import NotebookNode
from papermill.engines import NBClientEngine

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family


class TemplateEngine(NBClientEngine):
    """Papermill's engine, after filling `{{ family.title }}` and the like into Markdown cells and figure captions."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        fill(nb_man.nb)
        super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


def fill(notebook: NotebookNode) -> None:
    """Fill the family into Markdown cells and `mystnb` metadata, give cells fixed ids, hide replaced defaults.

    A cell with `when: <expression>` in its metadata is dropped where that is false for the family.

    Raises TuningVecError naming the cell for a field that a family does not have, in a text or in `when`.
    """
    parameters = notebook.metadata.papermill.parameters
    context = {"family": Family.load(parameters["family"])} if "family" in parameters else {}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    notebook.cells = [c for c in notebook.cells if _applies(c, environment, context)]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        if parameters and "parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        try:
            if cell.cell_type == "markdown":
                cell.source = environment.from_string(cell.source).render(context)
            elif "mystnb" in cell.metadata:
                cell.metadata.mystnb = _filled(cell.metadata.mystnb, environment, context)
        except jinja2.TemplateError as error:
            raise TuningVecError(f"cell {number}: template: {error}") from None


def _applies(cell: NotebookNode, environment: jinja2.Environment, context: dict[str, Any]) -> bool:
    condition = cell.metadata.get("when")
    if condition is None:
        return True
    try:
        return bool(environment.compile_expression(condition, undefined_to_none=False)(context))
    except jinja2.TemplateError as error:
        start = cell.source.strip().partition("\n")[0]
        raise TuningVecError(f"cell {start!r}: when: {condition}: {error}") from None


def _filled(value: Any, environment: jinja2.Environment, context: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return NotebookNode({k: _filled(v, environment, context) for k, v in value.items()})
    return environment.from_string(value).render(context) if isinstance(value, str) else value
