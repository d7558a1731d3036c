import numpy as np
import pandas as pd
import pytest

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.paper import printed as paper
from tuningvec.weights.components import MATRICES

CELLS = {1: 66, 2: 42, 3: 18, 4: 28, 5: 28, 6: 28, 7: 88, 8: 56, 9: 24, 10: 15, 11: 15, 12: 15, 13: 22, 14: 20, 15: 5}
FUNCTIONS = [
    paper.negation_accuracy, paper.negation_rouge, paper.negation_instructions, paper.alignment, paper.parallel_energy,
    paper.orthogonal_energy, paper.accuracy, paper.rouge, paper.instructions, paper.outputs_of_aloe_alpha,
    paper.outputs_of_aloe_beta, paper.outputs_of_mediphi, paper.medicine_across_domains, paper.maths_across_domains,
    paper.weight_cosines,
]  # fmt: skip
WITH_AVERAGE = [1, 2, 7, 8, 13, 14]
COUNTED = [1, 3, 7, 9, 13, 14]


@pytest.mark.parametrize("number", CELLS)
def test_each_table_has_a_function_and_every_cell_once(number):
    cells = FUNCTIONS[number - 1]()
    pd.testing.assert_frame_equal(cells, paper.table(number))
    assert len(cells) == CELLS[number] and (cells.table == str(number)).all()
    assert not cells.duplicated(["row", "column"]).any()
    assert (cells.unit != "").all() and (cells.section != "").all()


@pytest.mark.parametrize("number", [4, 5, 6])
def test_subspace_tables_are_in_the_papers_order(number):
    wide = paper.wide(paper.table(number))
    assert list(wide.columns) == list(MATRICES)
    assert list(wide.index) == list(paper.architectures().vector)


@pytest.mark.parametrize("number", WITH_AVERAGE)
def test_a_printed_average_is_the_mean_of_its_row_or_noted(number):
    cells = paper.table(number)
    averages = cells[cells.column == "Average"].set_index("row").sort_index()
    means = cells[cells.column != "Average"].groupby("row").value.mean()
    off = (means - averages.value).abs() > averages.step / 2 + 1e-9
    assert set(off.index[off]) == set(averages.index[averages.note != ""])


@pytest.mark.parametrize("number", COUNTED)
def test_a_percentage_is_a_count_of_n(number):
    cells = paper.table(number)
    cells = cells[cells.column != "Average"]
    exact = 100 / cells.n * np.round(cells.value * cells.n / 100)
    cut_off = number in (3, 9)  # these two tables do not round, they drop digits
    assert ((exact - cells.value).abs() <= cells.step * (1 if cut_off else 0.5) + 1e-9).all()


@pytest.mark.parametrize("number, table_7", [(1, 7), (13, 7), (2, 8), (3, 9)])
def test_a_row_printed_in_two_tables_is_the_same_in_both(number, table_7):
    first, second = paper.wide(paper.table(number)), paper.wide(paper.table(table_7))
    both = first.index.intersection(second.index)
    assert len(both) == (1 if number == 13 else 3)
    pd.testing.assert_frame_equal(first.loc[both], second.loc[both])


def test_the_step_is_one_unit_of_the_last_printed_digit():
    cells = paper.table(6).set_index(["row", "column"])
    assert cells.step["Aloe α", "W_Q"] == pytest.approx(0.001)
    assert cells.step["Q Code", "W_gate"] == pytest.approx(100)
    assert paper.table(9).step.max() == pytest.approx(0.1)


def test_a_rows_name_has_the_family_and_the_member():
    cells = paper.by_member(paper.negation_accuracy())
    assert list(cells.family.unique()) == ["Meta-Llama-3-8B", "Qwen2.5-7B", "Phi-3.5"]
    assert list(cells[cells.family == "Phi-3.5"].member.unique()) == ["MediPhi", "(−)T MediPhi"]


def test_cosines_are_percentages():
    assert paper.weight_cosines().value.between(99, 100).all()


def test_numbers_of_the_text_name_their_section():
    text = paper.text()
    assert (text.section != "").all() and not text.duplicated(["row", "column"]).any()


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(TuningVecError, match=r"table_99: no file .*table_99\.csv"):
        paper.table(99)


def test_a_value_that_is_no_number_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "paper").mkdir()
    text = (data_folder() / "paper" / "table_15.csv").read_text(encoding="utf-8").replace("99.93", "99,93")
    (tmp_path / "paper" / "table_15.csv").write_text(text, encoding="utf-8")
    monkeypatch.setenv("TUNINGVEC_DATA", str(tmp_path))
    with pytest.raises(TuningVecError, match=r"table_15\.csv: column `value`"):
        paper.weight_cosines()


def test_no_number_is_typed_on_the_front_page():
    front = (data_folder().parent / "book" / "index.md").read_text(encoding="utf-8")
    assert not [line for line in front.splitlines() if any(sign.isdigit() for sign in line.replace("tanwar2025", ""))]
