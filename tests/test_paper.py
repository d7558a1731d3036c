import pytest

from tuningvec import paper
from tuningvec.components import MATRICES
from tuningvec.errors import TuningVecError


@pytest.mark.parametrize("number", [4, 5, 6])
def test_a_table_has_every_cell_once_in_the_papers_order(number):
    wide = paper.wide(number)
    assert list(wide.columns) == list(MATRICES)
    assert list(wide.index) == ["Aloe α", "Aloe β", "Q Code", "Q Math"]
    assert wide.notna().all(axis=None)


def test_the_ratio_of_energies_is_table_4_but_for_the_noted_cells():
    ratio = paper.wide(5) / (paper.wide(5) + paper.wide(6))
    gap = (ratio - paper.wide(4)).abs().stack()
    noted = {(r.row, r.column) for r in paper.table(6).itertuples() if r.note}
    assert {cell for cell, size in gap.items() if size > 0.0125} == noted


def test_cosines_are_percentages():
    cosines = paper.table(15)
    assert len(cosines) == 5 and cosines.value.between(99, 100).all()


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(TuningVecError, match=r"paper table 99: no file .*table_99\.csv"):
        paper.table(99)
