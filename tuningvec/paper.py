"""The paper's printed numbers as data: `data/paper/table_NN.csv`."""

import pandas as pd

from tuningvec.errors import TuningVecError
from tuningvec.family import data_folder


def table(number: int) -> pd.DataFrame:
    """Table `number` of arXiv 2510.09359, one cell a row: table, row, column, value, unit, section, n, note.

    Values are as printed, misprints too; `note` says where the print contradicts itself.
    """
    file = data_folder() / "paper" / f"table_{number:02d}.csv"
    if not file.is_file():
        raise TuningVecError(f"paper table {number}: no file {file}")
    return pd.read_csv(file, dtype={"n": "Int64"}, keep_default_na=False, na_values={"n": [""]})


def wide(number: int) -> pd.DataFrame:
    """The same table in the paper's own shape: rows by columns, in the paper's order."""
    cells = table(number)
    return cells.pivot(index="row", columns="column", values="value").loc[cells.row.unique(), cells.column.unique()]
