import multiprocessing
import os
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from tuningvec.errors import TuningVecError
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
    assert store.digest(file) == first and (tmp_path / "store" / "digests.jsonl").read_text().count("sha256") == 1
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


def kept(folder):
    record = Store(folder).record("table", {"x": 1}, HERE)
    record.add("a", [{"v": 0.1}])
    record.add("b", [{"v": 0.2}], {"sums": torch.arange(100.0)})
    return next(folder.glob("table-*.jsonl")), next(folder.glob("table-*.safetensors"))


@pytest.mark.parametrize("now", [b'"v": 0.3', b'"v": null', b'"w": 0.1'])
def test_a_row_that_was_altered_is_measured_again_with_a_note(tmp_path, now):
    rows, _ = kept(tmp_path)
    rows.write_bytes(rows.read_bytes().replace(b'"v": 0.1', now))
    with pytest.warns(UserWarning, match="1 altered since measured; measured again"):
        record = Store(tmp_path).record("table", {"x": 1}, HERE)
    assert "a" not in record and "b" in record


def test_any_flipped_bit_of_rows_or_arrays_is_found(tmp_path):
    for file, piece in zip(kept(tmp_path), ("a", "b"), strict=True):
        whole = file.read_bytes()
        first = whole.index(b'{"piece": "a"') if piece == "a" else 0
        last = whole.index(b"\n", first) if piece == "a" else len(whole)
        for place in range(first, last, 7):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a line that lost its last bracket is half a line, without a note
                record = Store(tmp_path).record("table", {"x": 1}, HERE)
            assert piece not in record, place
        file.write_bytes(whole)
    assert {"a", "b"} <= Store(tmp_path).record("table", {"x": 1}, HERE).pieces.keys()


def test_a_checksum_of_a_file_is_not_believed_when_it_was_altered(tmp_path):
    file, store = tmp_path / "weights", Store(tmp_path / "store")
    file.write_bytes(b"one")
    first, known = store.digest(file), tmp_path / "store" / "digests.jsonl"
    known.write_text(known.read_text().replace(f'"{first}"', "null"))
    with pytest.warns(UserWarning, match="altered"):
        assert store.digest(file) == first


def test_a_piece_that_was_written_in_part_is_said(tmp_path, monkeypatch):
    record = Store(tmp_path).record("table", {"x": 1}, HERE)
    record.add("a", [{"v": 0.1}])
    monkeypatch.setattr(Path, "open", lambda *a, **k: nullcontext(SimpleNamespace(write=lambda raw: len(raw) // 2)))
    with pytest.raises(TuningVecError, match="written in part; free some space"):
        record.add("b", [{"v": 0.2}])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TuningVecError, match=r"file/table-.*File exists; free some space, make it writable"):
        Store(tmp_path / "file").record("table", {}, HERE).add("a", [])


def test_another_user_may_read_what_is_kept_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        modes = {oct(file.stat().st_mode & 0o777) for file in kept(tmp_path)}
    finally:
        os.umask(before)
    assert modes == {"0o644"}


def test_fresh_is_a_time(tmp_path, monkeypatch):
    kept(tmp_path)
    monkeypatch.setenv("TUNINGVEC_FRESH", "abc")
    with pytest.raises(TuningVecError, match="TUNINGVEC_FRESH is 'abc'; set it to a time in seconds"):
        Store(tmp_path).record("table", {"x": 1}, HERE)
