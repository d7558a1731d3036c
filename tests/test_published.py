"""What others measured, and what is inferred from it: other numbers, another verdict."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuningvec.data import data_folder
from tuningvec.measures import evals, floors
from tuningvec.paper import published
from tuningvec.paper.published import NEIGHBOURS, TRAINING

MIRROR = Path(__file__).parents[2] / "shared" / "mirror"


@pytest.fixture(scope="module")
def tensors():
    return published.weight_differences()


@pytest.fixture(scope="module")
def pairs(tensors):
    return published.by_pair(tensors)


def test_every_pair_is_there_with_its_training(tensors, pairs):
    assert len(tensors) == 19_288 and len(pairs) == 49
    assert set(pairs.training) == set(TRAINING) and tensors.training.notna().all()
    assert (pairs.smallest <= pairs.r).all() and (pairs.r <= pairs.largest).all()


@given(st.floats(1, 2), st.floats(-1, 1))
def test_the_cosine_with_W_is_the_one_that_made_both_numbers(r, x):
    length = (1 + 2 * r * x + r**2) ** 0.5
    if length < 0.05:
        return  # nothing is left of W
    found = published.along_W(pd.Series([r]), pd.Series([(1 + r * x) / length]))[0]
    assert found == pytest.approx(x, abs=1e-5)


def test_short_vectors_do_not_tell_their_cosine_with_W():
    assert published.along_W(pd.Series([0.5, 0.999]), pd.Series([0.9, -0.2])).isna().all()


def test_contradictions_are_beyond_the_last_digits(tensors):
    made = pd.DataFrame(dict(r=[0.0576, 0.0576, 0.0141, 0.1, 0.1], cosine=[1.0, 0.99834, 0.9999, 0.99499, 0.9949]))
    flags = tensors.head(5).assign(r=made.r.to_numpy(), cosine=made.cosine.to_numpy())
    found = published.contradictions(flags)
    assert found.near.tolist() == [True, False, False, False, False]
    assert found.impossible.tolist() == [False, False, False, False, True]


def planted(tensors, x, pair, r=1.2):
    """The source's rows with this cosine of T and W in all matrices of the pair."""
    own = (tensors.pretrained == pair[0]) & (tensors.fine_tuned == pair[1]) & tensors.kind.notna()
    cosine = (1 + r * x) / (1 + 2 * r * x + r**2) ** 0.5
    return tensors.assign(r=tensors.r.mask(own, r), cosine=tensors.cosine.mask(own, cosine))


@pytest.mark.parametrize(("x", "outcomes"), [(-0.58, {"for", "open"}), (-0.1, {"against"})])
def test_a_multiple_of_W_explains_as_much_as_it_is_large(tensors, x, outcomes):
    made = planted(tensors, x, NEIGHBOURS["Q Code"][:2])
    cells = published.minus_W(made)
    code = cells[cells.vector == "Q Code"]
    assert code.cos_W.tolist() == pytest.approx([x, x], abs=1e-5)
    bound = code.bound.iloc[0]
    assert code.predicted.iloc[0] == pytest.approx(x**2 + (1 - x**2) * bound, abs=1e-5)
    assert (code.low < code.predicted).all() and (code.predicted < code.high).all()
    cases = published.is_minus_W(cells).cases
    assert set(cases.outcome[cases.vector == "Q Code"]) == outcomes


def test_a_cosine_that_is_too_high_is_allowed_for(tensors):
    right = published.minus_W(planted(tensors, -0.4, NEIGHBOURS["Q Code"][:2])).iloc[0]
    own = (tensors.fine_tuned == NEIGHBOURS["Q Code"][1]) & tensors.kind.notna()
    made = planted(tensors, -0.4, NEIGHBOURS["Q Code"][:2])
    high = published.minus_W(made.assign(cosine=made.cosine.mask(own, made.cosine * (1 + published.BIAS)))).iloc[0]
    assert high.predicted < right.predicted <= high.high


def test_the_range_holds_every_step_that_long(tensors):
    row = published.minus_W(planted(tensors, -0.4, NEIGHBOURS["Q Code"][:2], r=1.5)).iloc[0]
    own = tensors.fine_tuned == NEIGHBOURS["Q Code"][2]
    steps = tensors[own & (tensors.kind == "W_gate")].r
    generator = np.random.default_rng(0)
    W = generator.normal(size=50)
    W /= np.linalg.norm(W)
    side = generator.normal(size=50)
    side -= W * (W @ side)
    T = 1.5 * (-0.4 * W + (1 - 0.16) ** 0.5 * side / np.linalg.norm(side))
    for _ in range(200):
        step = generator.normal(size=50) + generator.normal() * 20 * W
        shares = []
        for length in steps:
            moved = T + step / np.linalg.norm(step) * length * np.linalg.norm(W + T)
            shares.append((W @ moved) ** 2 / (moved @ moved))
        predicted = np.mean(shares) + (1 - np.mean(shares)) * row.bound
        assert row.low - 1e-9 <= predicted <= row.high + 1e-9


@pytest.mark.parametrize(("factor", "kind", "falsified"), [(1, "mixed", False), (0.3, "differs", True)])
def test_lengths_are_compared_with_those_measured(pairs, factor, kind, falsified):
    made = pairs.assign(r=pairs.r.where(pairs.r < 1, factor * pairs.r))
    found = published.lengths_agree(published.beside_lengths(made))
    assert (found.kind, found.falsified) == (kind, falsified)


@pytest.mark.parametrize(("factor", "kind"), [(1, "mixed"), (0.1, "holds"), (1000, "differs")])
def test_marginal_is_judged_by_every_fine_tune(pairs, factor, kind):
    found = published.fine_tunes_are_short(pairs.assign(r=factor * pairs.r))
    assert found.kind == kind and found.falsified == (kind != "holds")
    assert not found.cases.training.isin(["continued pretraining", "version upgrade"]).any()
    assert len(found.cases) == 41  # without the two whose second model was made from another


def test_cosines_of_large_matrices_are_poor_and_left_out(tensors):
    moved = tensors[tensors.matrix & tensors.r.between(0.1, 0.5)]
    assert moved[moved.parameters > 2**26].near.mean() > 0.95
    assert published.usable(tensors).query("r < 0.5").near.mean() < 0.25


def test_notes_are_set_against_another_patients():
    cells = published.notes_above_floor()
    assert len(cells) == 24 and cells.floor.between(30, 40).all() and (cells.example < cells.floor).all()
    assert cells.points.to_list() == pytest.approx((cells.score - cells.floor).to_list())
    assert (cells.low < cells.points).all() and (cells.points < cells.high).all()
    assert published.notes_are_read(cells).kind == "mixed"
    for shift, kind in ((10, "holds"), (-10, "reversed")):
        ends = {name: shift + cells[name] - cells.points for name in ("points", "low", "high")}
        assert published.notes_are_read(cells.assign(**ends)).kind == kind


@pytest.mark.skipif(not MIRROR.is_dir(), reason="the benchmark files are not beside the project")
def test_the_floor_is_that_of_the_benchmarks_own_references():
    sets = evals.tasks(list(published.SETS.values()), local_root=str(MIRROR))
    kept = pd.read_csv(data_folder() / "published" / "rouge_floors.csv")
    pd.testing.assert_frame_equal(floors.of_tasks(sets), kept, atol=1e-5)
