"""The paper's printed numbers as data, one function a table: `data/paper/*.csv`.

Values are as printed, misprints too; `note` says where the print contradicts itself. The paper does not give the number
of items `n` behind an accuracy: it is a number that gives every printed value, and the size of the benchmark's split.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path

import pandas as pd

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError

AVERAGE = "Average"  # the column of means, which are printed and not measured
SEPARATOR = " · "  # between pretrained model, member and example in a row's name


def text() -> pd.DataFrame:
    """Numbers that stand in the running text and in captions alone."""
    return _read("text")


def architectures() -> pd.DataFrame:
    """For each T of Tables 4 to 6, the pretrained model and the fields of its `config.json` that set matrix shapes."""
    return pd.read_csv(_file("architectures"))


def table(number: int) -> pd.DataFrame:
    """Table `number`, one cell a row: table, row, column, value, step, unit, section, n, note.

    `step` is one unit of the last printed digit, so `value` is known to ± step/2 if it was rounded.
    Raises TuningVecError for a table that is not there or a value that is no number.
    """
    return _read(f"table_{number:02d}")


def texts(number: int) -> pd.DataFrame:
    """Table `number` as it is printed, misprints and all: its texts, rows by columns in the paper's order."""
    return wide(_raw(_file(f"table_{number:02d}")))


def changed(texts: Mapping[int, Mapping[tuple[str, str], str]]) -> Callable[[int], pd.DataFrame]:
    """`table` with other texts in some cells, {number: {(row, column): text}}.

    Raises TuningVecError for a cell that is not there and a text that is no number.
    """
    return partial(_changed, texts)


def _changed(texts: Mapping[int, Mapping[tuple[str, str], str]], number: int) -> pd.DataFrame:
    file = _file(f"table_{number:02d}")
    cells = _raw(file)
    for (row, column), text in texts.get(number, {}).items():
        cell = (cells.row == row) & (cells.column == column)
        if not cell.any():
            raise TuningVecError(f"Table {number}: no cell {row}, {column}")
        cells.loc[cell, "value"] = text
    return _parsed(cells, file)


negation_accuracy = partial(table, 1)  # accuracy on ten medical benchmarks with T and without (§3.1)
negation_rouge = partial(table, 2)  # ROUGE-1 with T and without (§3.1)
negation_instructions = partial(table, 3)  # outputs that follow each of three instructions, with T and without (§3.1)
alignment = partial(table, 4)  # SSA by kind of matrix, mean over layers (§4)
parallel_energy = partial(table, 5)  # E∥ by kind of matrix, mean over layers (§4)
orthogonal_energy = partial(table, 6)  # E⊥ by kind of matrix, mean over layers (§4)
accuracy = partial(table, 7)  # accuracy of every member on ten medical benchmarks (A.3)
rouge = partial(table, 8)  # ROUGE-1 of every member (A.3)
instructions = partial(table, 9)  # share of outputs of every member that follow each of three instructions (A.3)
outputs_of_aloe_alpha = partial(table, 10)  # what can be counted in its three pairs of outputs (A.5)
outputs_of_aloe_beta = partial(table, 11)  # what can be counted in its three pairs of outputs (A.5)
outputs_of_mediphi = partial(table, 12)  # what can be counted in its three pairs of outputs (A.5)
medicine_across_domains = partial(table, 13)  # accuracy of the medical and the maths model on medicine (A.9)
maths_across_domains = partial(table, 14)  # accuracy of the medical and the maths model on maths (A.9)
weight_cosines = partial(table, 15)  # cosine of pretrained and fine-tuned weights, times 100 (A.8)


def measured(*numbers: int) -> pd.DataFrame:
    """The cells of these tables with `family` and `member`, without the averages."""
    cells = by_member(pd.concat([table(number) for number in numbers], ignore_index=True))
    return cells[cells.column != AVERAGE]


def wide(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells in the paper's own shape: rows by columns, in the paper's order."""
    return cells.pivot(index="row", columns="column", values="value").loc[cells.row.unique(), cells.column.unique()]


def by_member(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with a row's name split into `family`, its pretrained model, and `member`."""
    names = cells.row.str.split(SEPARATOR, n=1, expand=True, regex=False)
    return cells.assign(family=names[0], member=names[1])


def rises(cells: pd.DataFrame, scale: float = 1) -> pd.DataFrame:
    """Plain mean of the last member of each family minus that of its first: member, points. Averages are not read."""
    cells = by_member(cells[cells.column != AVERAGE])
    means = (
        cells.groupby(["family", "member"], sort=False).value.mean().reset_index("member").groupby(level=0, sort=False)
    )
    points = scale * (means.value.last() - means.value.first())
    return pd.DataFrame(dict(member=means.member.last(), points=points)).reset_index(drop=True)


def prompted_share() -> pd.DataFrame:
    """How much of the fall of Table 1 the prompt alone explains, in percent: family, fall, share.

    (θ_pre of Table 7 − (−)T) / (θ_ft − (−)T), plain means over the benchmarks: (−)T is θ_pre under θ_ft's prompt.
    """
    means = [measured(number).groupby(["family", "member"], sort=False).value.mean() for number in (1, 7)]
    removed, pretrained = (mean.groupby("family", sort=False) for mean in means)
    tuned, without, own = removed.first(), removed.last(), pretrained.first()
    fall = tuned - without
    return pd.DataFrame(dict(fall=fall, share=100 * (own - without) / fall)).dropna().reset_index()


def _read(name: str) -> pd.DataFrame:
    file = _file(name)
    return _parsed(_raw(file), file)


def _raw(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def _parsed(cells: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Cells with numbers in the place of texts, and the step of each."""
    try:
        printed = cells.value.map(Decimal)
    except ArithmeticError:
        raise TuningVecError(f"{file}: column `value` holds something that is no number") from None
    cells["value"] = printed.map(float)
    cells.insert(4, "step", printed.map(lambda value: 10.0 ** int(value.as_tuple().exponent)))
    cells["n"] = pd.to_numeric(cells.n).astype("Int64")
    return cells


def _file(name: str) -> Path:
    file = data_folder() / "paper" / f"{name}.csv"
    if not file.is_file():
        raise TuningVecError(f"the paper's {name}: no file {file}")
    return file
