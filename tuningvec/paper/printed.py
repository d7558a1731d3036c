"""The paper's printed numbers as data, one function a table: `data/paper/*.csv`.

Values are as printed, misprints too; `note` says where the print contradicts itself. The paper does not give the number
of items `n` behind an accuracy: it is a number that gives every printed value, and the size of the benchmark's split.
"""

from decimal import Decimal
from pathlib import Path

import pandas as pd

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError

AVERAGE = "Average"  # the column of means, which are printed and not measured
SEPARATOR = " · "  # between pretrained model, member and example in a row's name


def negation_accuracy() -> pd.DataFrame:
    """Table 1: accuracy on ten medical benchmarks with T and without (§3.1)."""
    return table(1)


def negation_rouge() -> pd.DataFrame:
    """Table 2: ROUGE-1 with T and without (§3.1)."""
    return table(2)


def negation_instructions() -> pd.DataFrame:
    """Table 3: share of outputs that follow each of three instructions, with T and without (§3.1)."""
    return table(3)


def alignment() -> pd.DataFrame:
    """Table 4: SSA by kind of matrix, mean over layers (§4)."""
    return table(4)


def parallel_energy() -> pd.DataFrame:
    """Table 5: E∥ by kind of matrix, mean over layers (§4)."""
    return table(5)


def orthogonal_energy() -> pd.DataFrame:
    """Table 6: E⊥ by kind of matrix, mean over layers (§4)."""
    return table(6)


def accuracy() -> pd.DataFrame:
    """Table 7: accuracy of every member on ten medical benchmarks (A.3)."""
    return table(7)


def rouge() -> pd.DataFrame:
    """Table 8: ROUGE-1 of every member (A.3)."""
    return table(8)


def instructions() -> pd.DataFrame:
    """Table 9: share of outputs of every member that follow each of three instructions (A.3)."""
    return table(9)


def outputs_of_aloe_alpha() -> pd.DataFrame:
    """Table 10: what can be counted in its three pairs of outputs (A.5)."""
    return table(10)


def outputs_of_aloe_beta() -> pd.DataFrame:
    """Table 11: what can be counted in its three pairs of outputs (A.5)."""
    return table(11)


def outputs_of_mediphi() -> pd.DataFrame:
    """Table 12: what can be counted in its three pairs of outputs (A.5)."""
    return table(12)


def medicine_across_domains() -> pd.DataFrame:
    """Table 13: accuracy of the medical and the maths model on medicine (A.9)."""
    return table(13)


def maths_across_domains() -> pd.DataFrame:
    """Table 14: accuracy of the medical and the maths model on maths (A.9)."""
    return table(14)


def weight_cosines() -> pd.DataFrame:
    """Table 15: cosine of pretrained and fine-tuned weights, times 100 (A.8)."""
    return table(15)


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


def wide(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells in the paper's own shape: rows by columns, in the paper's order."""
    return cells.pivot(index="row", columns="column", values="value").loc[cells.row.unique(), cells.column.unique()]


def by_member(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with a row's name split into `family`, its pretrained model, and `member`."""
    names = cells.row.str.split(SEPARATOR, n=1, expand=True, regex=False)
    return cells.assign(family=names[0], member=names[1])


def rises(cells: pd.DataFrame, scale: float = 1) -> pd.DataFrame:
    """Plain mean of the last member of each family minus that of its first: member, points. Averages are not read."""
    means = by_member(cells[cells.column != AVERAGE]).groupby(["family", "member"], sort=False).value.mean() * scale
    ends = means.reset_index().groupby("family", sort=False)
    return pd.DataFrame(
        dict(member=part.member.iloc[-1], points=part.value.iloc[-1] - part.value.iloc[0]) for _, part in ends
    )


def prompted_share() -> pd.DataFrame:
    """How much of the fall of Table 1 the prompt alone explains, in percent: family, fall, share.

    (θ_pre of Table 7 − (−)T) / (θ_ft − (−)T), plain means over the benchmarks: (−)T is θ_pre under θ_ft's prompt.
    """
    removed, pretrained = (by_member(cells[cells.column != AVERAGE]) for cells in (negation_accuracy(), accuracy()))
    rows = []
    for family, part in removed.groupby("family", sort=False):
        tuned, without = part.groupby("member", sort=False).value.mean()
        own = pretrained[pretrained.family == family].groupby("member", sort=False).value.mean().iloc[0]
        rows.append(dict(family=family, fall=tuned - without, share=100 * (own - without) / (tuned - without)))
    return pd.DataFrame(rows)


def _read(name: str) -> pd.DataFrame:
    file = _file(name)
    cells = pd.read_csv(file, dtype=str, keep_default_na=False)
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
