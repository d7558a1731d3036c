"""What follows in closed form from Tables 4, 5, 6 and 15, as printed or with changed numbers; for Python and a browser.

`book/_static/live_audit.js` has the same formulas, and takes from `inputs` all that is no formula.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pandas as pd

from tuningvec.paper import audit, claims, published
from tuningvec.paper import printed as paper
from tuningvec.verdict import Verdict

TABLES = (4, 5, 6, 15)
JUDGES = (
    claims.squared_norms, claims.misprints, claims.least_aligned, published.is_minus_W, claims.attention_better_aligned,
    claims.near_cosines, claims.marginal_changes, claims.marginal_changes_elsewhere, claims.low_energy,
)  # fmt: skip


def verdicts(table: audit.Printed = paper.table, measured: pd.DataFrame | None = None) -> dict[str, Verdict]:
    """The verdict of each of JUDGES, by its name; `measured` is of `published.weight_differences`."""
    measured = published.weight_differences() if measured is None else measured
    energies, shapes = audit.energies(table), audit.shape_bound(table)
    cosines, vectors = audit.cosines(table), audit.lengths(table)
    asked = {
        "squared_norms": (energies,),
        "misprints": (energies,),
        "least_aligned": (shapes, audit.variance_explained(shapes)),
        "attention_better_aligned": (audit.by_part(shapes),),
        "is_minus_W": (published.minus_W(measured, shapes),),
        "near_cosines": (cosines,),
        "marginal_changes": (cosines,),
        "marginal_changes_elsewhere": (vectors, cosines),
        "low_energy": (vectors,),
    }
    return {judge.__name__: judge(*asked[judge.__name__]) for judge in JUDGES}


def inputs() -> dict[str, Any]:
    """The tables as printed, the shapes of each vector's matrices, others' measurements, and the judges' limits."""
    shapes = audit.shape_bound()
    models = shapes.drop_duplicates("vector").set_index("vector")[["pretrained", "layers"]].to_dict("index")
    for row in shapes.itertuples():
        models[row.vector].setdefault("shapes", {})[row.kind] = [row.d_out, row.d_in]
    shares = published.minus_W(published.weight_differences(), shapes)
    return {
        "tables": {str(number): _by_row(paper.texts(number)) for number in TABLES},
        "vectors": models,
        "minusW": shares[["vector", "kind", "predicted", "low", "high"]].to_dict("records"),
        "limits": {judge.__name__: _limits(judge) for judge in JUDGES} | {"misprint": audit.MISPRINT},
        "unknown": claims.K_UNKNOWN,
    }


def _by_row(texts: pd.DataFrame) -> dict[str, dict[str, str]]:
    return {row: cells.dropna().to_dict() for row, cells in texts.iterrows()}


def _limits(judge: Callable[..., Verdict]) -> dict[str, float]:
    """The limits that a judge takes where none are given."""
    parameters = inspect.signature(judge).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def examples() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    """Other numbers to try, by what they are: {name: {table: {row: {column: text}}}}."""
    cells = audit.energies()
    wrong = cells[cells.misprint]
    return {
        "what would fit in Table 6": {"6": _texts(wrong.assign(text=wrong.implied.map("{:.4g}".format)))},
        "Table 4 as norms would give it": {"4": _texts(cells.assign(text=cells.norms.map("{:.3f}".format)))},
    }


def _texts(cells: pd.DataFrame) -> dict[str, dict[str, str]]:
    return {vector: dict(zip(part.kind, part.text, strict=True)) for vector, part in cells.groupby("vector")}
