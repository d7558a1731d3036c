import json
import multiprocessing
import time

import pandas as pd
import pytest
import torch

from tuningvec.store import Record, Store
from tuningvec.weights import delta, subspace
from tuningvec.weights.checkpoint import Checkpoint, Gaussian
from tuningvec.weights.delta import Combination, TuningVector, rotation_null
from tuningvec.weights.subspace import subspace_alignment

HERE = "tuningvec.errors"


@pytest.fixture
def pair(make_checkpoint):
    theta, tuned = (Checkpoint(make_checkpoint(str(seed), seed=seed)) for seed in (0, 1))
    return theta, {"tuned": TuningVector.between(Combination({theta: 1}), Combination({tuned: 1}))}


@pytest.fixture
def measured(monkeypatch):
    """The matrices that were measured."""
    done, real = [], subspace._measured
    monkeypatch.setattr(subspace, "_measured", lambda part, *rest, **how: done.append(part) or real(part, *rest, **how))
    return done


def test_a_second_run_measures_nothing_and_gives_the_same_table(pair, measured, tmp_path):
    first = subspace_alignment(*pair, [0.05], Store(tmp_path))
    assert len(measured) == 14
    second = subspace_alignment(*pair, [0.05], Store(tmp_path))
    assert len(measured) == 14
    pd.testing.assert_frame_equal(first, second)
    assert second.attrs["runs"][0]["inputs"]["epsilons"] == [0.05] and len(second.attrs["runs"]) == 1


def test_other_weights_or_parameters_are_measured_again(pair, measured, tmp_path):
    theta, T = pair
    subspace_alignment(theta, T, [0.05], Store(tmp_path))
    subspace_alignment(theta, T, [0.1], Store(tmp_path))
    assert len(measured) == 28
    subspace_alignment(theta, {"tuned": 2 * T["tuned"]}, [0.05], Store(tmp_path))
    assert len(measured) == 42


def test_the_same_weights_in_another_folder_are_known(pair, measured, tmp_path):
    theta, T = pair
    subspace_alignment(theta, T, [0.05], Store(tmp_path / "store"))
    theta.folder.rename(theta.folder.with_name("moved"))
    moved = Checkpoint(theta.folder.with_name("moved"))
    (tuned,) = (term for term in T["tuned"].terms if term != theta)
    again = TuningVector.between(Combination({moved: 1}), Combination({tuned: 1}))
    subspace_alignment(moved, {"tuned": again}, [0.05], Store(tmp_path / "store"))
    assert len(measured) == 14


def test_a_stopped_run_goes_on_with_the_next_matrix(pair, tmp_path, monkeypatch):
    real, done = subspace._measured, []

    def stopped(component, *rest, **how):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(component)
        return real(component, *rest, **how)

    monkeypatch.setattr(subspace, "_measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        subspace_alignment(*pair, [0.05], Store(tmp_path))
    monkeypatch.setattr(subspace, "_measured", lambda c, *rest, **how: done.append(c) or real(c, *rest, **how))
    resumed = subspace_alignment(*pair, [0.05], Store(tmp_path))
    assert len(done) == 14 and len({(c.layer, c.kind) for c in done}) == 14
    pd.testing.assert_frame_equal(resumed, subspace_alignment(*pair, [0.05]))
    assert len(resumed.attrs["runs"]) == 2


def test_the_null_of_the_cosine_is_kept_too(pair, tmp_path, monkeypatch):
    theta, T = pair
    T = {"one": T["tuned"], "two": TuningVector({Gaussian(theta.shapes, seed=0): 1})}
    first = rotation_null(T, theta, Store(tmp_path))
    monkeypatch.setattr(delta, "_rotated_variance", lambda a, b: 1 / 0)
    pd.testing.assert_frame_equal(first, rotation_null(T, theta, Store(tmp_path)))
    with pytest.raises(ZeroDivisionError):
        rotation_null({"one": T["one"], "other": 2 * T["two"]}, theta, Store(tmp_path))


def test_fresh_measures_again(pair, measured, tmp_path, monkeypatch):
    subspace_alignment(*pair, [0.05], Store(tmp_path))
    monkeypatch.setenv("TUNINGVEC_FRESH", str(time.time()))
    subspace_alignment(*pair, [0.05], Store(tmp_path))
    assert len(measured) == 28


def test_half_a_line_of_a_killed_run_is_passed_over(tmp_path):
    record = Store(tmp_path).record("table", {"x": 1}, HERE)
    record.add("a", [{"v": 0.1}])
    (file,) = tmp_path.glob("table-*.jsonl")
    with file.open("ab") as stream:
        stream.write(b'{"piece": "b", "rows": [{"v')
    again = Store(tmp_path).record("table", {"x": 1}, HERE)
    assert "a" in again and "b" not in again
    again.add("b", [{"v": 0.2}])
    assert Store(tmp_path).record("table", {"x": 1}, HERE).rows(["a", "b"]) == [{"v": 0.1}, {"v": 0.2}]


def add_many(folder, offset):
    record = Store(folder).record("table", {}, HERE)
    for i in range(100):
        record.add(str(i), [{"v": i, "text": "x" * 500, "by": offset}])


def test_two_runs_at_once_do_each_other_no_harm(tmp_path):
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=add_many, args=(tmp_path, i)) for i in range(2)]
    [run.start() for run in runs], [run.join() for run in runs]
    record = Store(tmp_path).record("table", {}, HERE)
    assert [row["v"] for row in record.rows(map(str, range(100)))] == list(range(100))


def test_numbers_come_back_as_they_were(tmp_path):
    values = [0.1 + 0.2, 1e-300, float("inf"), 2**53 + 1]
    Store(tmp_path).record("table", {}, HERE).add("a", [{"v": v} for v in values])
    assert [row["v"] for row in Store(tmp_path).record("table", {}, HERE).rows(["a"])] == values


def test_a_changed_file_has_another_checksum(tmp_path):
    file, store = tmp_path / "weights", Store(tmp_path / "store")
    file.write_bytes(b"one")
    first = store.digest(file)
    assert store.digest(file) == first and len(json.loads(next((tmp_path / "store").iterdir()).read_text())) == 2
    file.write_bytes(b"three")
    assert store.digest(file) != first


def test_without_a_store_pieces_are_kept_for_the_run():
    record = Record()
    record.add("a", [{"v": 1}])
    assert "a" in record and record.rows(["a"]) == [{"v": 1}]


def test_arrays_lie_in_a_file_of_their_own(tmp_path):
    arrays = {"counts": torch.arange(5), "sums": torch.rand(2, 3, dtype=torch.float64)}
    kept = Store(tmp_path).record("profile", {"x": 1}, HERE)
    kept.add("0", [{"tokens": 7}], arrays)
    for record in (kept, Store(tmp_path).record("profile", {"x": 1}, HERE)):
        assert record.pieces["0"] == [{"tokens": 7}]
        assert all(torch.equal(record.arrays("0")[name], array) for name, array in arrays.items())
    (file,) = tmp_path.glob("*.safetensors")
    file.unlink()
    assert "0" not in Store(tmp_path).record("profile", {"x": 1}, HERE)
    alone = Record()
    alone.add("0", [], arrays)
    assert torch.equal(alone.arrays("0")["counts"], arrays["counts"])
