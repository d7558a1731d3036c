import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from tuningvec.codec import decoded, encoded
from tuningvec.errors import TuningVecError
from tuningvec.measures.patching import Plan
from tuningvec.store import Told


def there_and_back(value):
    return decoded(json.loads(json.dumps(encoded(value))))


def test_a_table_comes_back_with_dtypes_index_and_every_bit():
    table = pd.DataFrame(
        {
            "share": [0.1 + 0.2, float("nan"), float("inf")],
            "n": pd.array([1, None, 3], dtype="Int64"),
            "right": [True, False, True],
            "who": ["a", None, "ß\u2028"],
            "ended": [True, None, float("nan")],
            "left": [[1.5, 2], (), {"a": 1}],
            7: np.float32([1, 2, 3]),
        }
    )
    back = there_and_back(table)
    assert_frame_equal(back, table, check_exact=True)
    assert back.left.tolist() == [[1.5, 2], (), {"a": 1}]
    assert back.ended[1] is None and np.isnan(back.ended[2])


@pytest.mark.parametrize(
    "index",
    [
        pd.MultiIndex.from_product([["a", "b"], [0, 1]], names=["member", "part"]),
        pd.Index([4, 3, 2, 1], name="layer"),
        pd.Index(["d", "c", "b", "a"]),
    ],
)
def test_an_index_comes_back(index):
    table = pd.DataFrame(np.arange(8.0).reshape(4, 2), index=index, columns=pd.Index([0, 1], name="layer"))
    assert_frame_equal(there_and_back(table), table, check_exact=True)


def test_an_empty_table_keeps_its_columns():
    table = pd.DataFrame(columns=["member", "phi"])
    assert_frame_equal(there_and_back(table), table)


def test_of_a_run_what_pages_show_is_kept():
    run = dict(measured="2026-01-01T00:00", machine="m", device="CPU", versions={"torch": "1"})
    table = pd.DataFrame({"a": [1]})
    table.attrs |= dict(
        runs=Told([run | dict(inputs=dict(weights={"x": [["ab", 1]]}, held=["text"] * 9))]),
        left_out=Told([dict(task="t")]),
    )
    back = there_and_back(table).attrs
    assert back == dict(runs=(run | dict(inputs=dict(weights={"x": [["ab", 1]]})),), left_out=(dict(task="t"),))
    assert isinstance(back["runs"], Told)


def test_arrays_tuples_and_records_come_back():
    values = (torch.arange(6, dtype=torch.float64).view(2, 3) / 7, {("a", 1): np.float32([1 / 3])}, Plan(8, 4, 6), None)
    tensor, arrays, plan, nothing = there_and_back(values)
    assert torch.equal(tensor, values[0]) and tensor.dtype is torch.float64
    assert arrays["a", 1].tobytes() == values[1]["a", 1].tobytes()
    assert plan == values[2] and type(plan) is Plan and nothing is None


def test_no_other_object_is_written():
    with pytest.raises(TuningVecError, match="PosixPath: no such object can be exported"):
        encoded([Path("a")])


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "tuningvec.store:Store", "tuningvec.store:json.loads"]
)
def test_a_file_names_no_code_to_run(name):
    with pytest.raises(TuningVecError, match="no record of this package"):
        decoded({"record": name, "of": ["true"]})
