"""Spreads that are known, and leading directions that were planted: new ones are found, those of W are not."""

import pytest
import torch

from tuningvec.store import Store
from tuningvec.weights import spectra
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.components import MATRICES, Component
from tuningvec.weights.delta import Combination, Factors, TuningVector

VALUES = ["leading", "stable", "intruders"]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def measured(W, T, rank=8, top=10, near=0.6):
    (row,) = spectra._measured(Component("W_Q", 0), {"": W, "T": T}, rank, top, near)
    return row


@pytest.mark.parametrize(
    "values, leading, stable", [([3, 0, 0, 0], 1, 1), ([1, 1, 1, 1], 0.5, 4), ([2, 1, 1, 0], 5 / 6, 1.5)]
)
def test_a_spread_is_that_of_the_singular_values(values, leading, stable):
    U, V = (torch.linalg.qr(drawn(n, 4, seed=n)).Q for n in (12, 9))
    row = measured(drawn(12, 9), U @ torch.diag(torch.tensor(values, dtype=torch.float32)) @ V.T, rank=2)
    assert row["leading"] == pytest.approx(leading, abs=1e-5) and row["stable"] == pytest.approx(stable, abs=1e-4)


def test_a_long_direction_that_W_lacks_is_an_intruder_and_one_that_W_has_is_none():
    W = drawn(64, 48)
    new = torch.linalg.qr(drawn(64, 3, seed=1)).Q  # near to no one singular vector of W
    right = torch.linalg.qr(drawn(48, 3, seed=2)).Q
    assert measured(W, 100 * new @ right.T)["intruders"] == 3
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    assert measured(W, 100 * U[:, :3] @ Vh[:3])["intruders"] == 0
    assert measured(W, 1e-4 * new @ right.T)["intruders"] == 0


def test_a_low_rank_vector_has_the_spectrum_of_the_dense_one():
    W, B, A = drawn(32, 24), drawn(32, 3, seed=1), drawn(3, 24, seed=2)
    thin, dense = (measured(W, T) for T in (Factors(B, A), B @ A))
    assert [thin[c] for c in VALUES] == pytest.approx([dense[c] for c in VALUES], rel=1e-4)


def test_every_matrix_has_a_row_and_is_measured_once(make_checkpoint):
    base, tuned = (Checkpoint(make_checkpoint(name, seed=seed)) for seed, name in enumerate(["base", "tuned"]))
    T = TuningVector.between(Combination({base: 1}), Combination({tuned: 1}))
    found = spectra.spectra(base, {"tuned": T}, store=Store())
    assert len(found) == 2 * len(MATRICES) and list(found.kind.unique()) != []
    assert found.leading.between(0, 1).all() and (found.stable >= 1).all() and found.intruders.between(0, 10).all()
    assert spectra.spectra(base, {"tuned": T}, store=Store()).equals(found)
