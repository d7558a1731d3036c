import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuningvec.errors import TuningVecError
from tuningvec.weights import subspace
from tuningvec.weights.checkpoint import Checkpoint, Gaussian
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Factors, TuningVector
from tuningvec.weights.subspace import alignment, decompose, over_layers, subspace_alignment

shapes = st.tuples(st.integers(2, 24), st.integers(2, 24))
seeds = st.integers(0, 10_000)
epsilons = st.sampled_from([0.01, 0.05, 0.1, 0.5])


def pair(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -2, shape[1])
    return torch.randn(shape, generator=generator) * scale, torch.randn(shape, generator=generator)


def energy(matrix):
    return torch.sum(matrix**2).item()


def measured(basis, T, epsilon):
    (row,) = alignment(basis, T, [epsilon])
    return row


def rotation(d, generator):
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


@given(shapes, seeds, epsilons)
def test_it_agrees_with_the_singular_value_decomposition(shape, seed, epsilon):
    W, T = pair(shape, seed)
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    tail = [(S[i:] ** 2).sum() / (S**2).sum() for i in range(1, len(S) + 1)]
    k = next(i for i, t in enumerate(tail, 1) if t <= epsilon**2)
    found = measured(decompose(W), T, epsilon)
    total = energy(T.double())
    assert found["k"] == k
    assert found["SSA"] == pytest.approx(energy(U[:, :k].T @ T.double()) / total, abs=1e-5)
    assert found["SSA_V"] == pytest.approx(energy(T.double() @ Vh[:k].T) / total, abs=1e-5)
    assert found["SSA_UV"] == pytest.approx(energy(U[:, :k].T @ T.double() @ Vh[:k].T) / total, abs=1e-5)


@pytest.mark.parametrize("shape", [(96, 96), (200, 64), (64, 200)])
def test_a_float32_decomposition_has_the_same_rank_and_share(shape, monkeypatch):
    W, T = pair(shape, seed=1)
    expected = alignment(decompose(W), T, [0.02, 0.05, 0.1])
    monkeypatch.setattr(subspace, "FLOAT64_UP_TO", 0)
    assert decompose(W).U.dtype == torch.float32
    for found, known in zip(alignment(decompose(W), T, [0.02, 0.05, 0.1]), expected, strict=True):
        assert found["k"] == known["k"] and found["SSA"] == pytest.approx(known["SSA"], abs=1e-4)


@given(shapes, seeds, epsilons)
def test_energies_add_up_and_the_share_ignores_scale(shape, seed, epsilon):
    W, T = pair(shape, seed)
    basis = decompose(W)
    one, four = measured(basis, T, epsilon), measured(decompose(2 * W), 4 * T, epsilon)
    assert one["E_par"] + one["E_perp"] == pytest.approx(energy(T.double()))
    assert -1e-6 <= one["SSA"] <= 1 + 1e-6
    assert four["SSA"] == pytest.approx(one["SSA"]) and four["null_sd"] == pytest.approx(one["null_sd"], abs=1e-7)


@given(shapes, seeds, epsilons)
def test_rotating_both_changes_nothing(shape, seed, epsilon):
    W, T = pair(shape, seed)
    R = rotation(shape[0], torch.Generator().manual_seed(seed + 1))
    one, turned = measured(decompose(W), T, epsilon), measured(decompose(R @ W.double()), R @ T.double(), epsilon)
    assert turned["SSA"] == pytest.approx(one["SSA"], abs=1e-5)


@given(shapes, seeds, epsilons)
def test_the_share_of_W_itself_is_one_less_the_tail(shape, seed, epsilon):
    W, _ = pair(shape, seed)
    basis = decompose(W)
    found = measured(basis, W, epsilon)
    assert found["SSA"] == pytest.approx((basis.S2[: found["k"]].sum() / basis.S2.sum()).item(), abs=1e-5)
    assert 1 - found["SSA"] <= epsilon**2 + 1e-5


@given(shapes, seeds, st.integers(1, 4))
def test_a_low_rank_vector_measures_as_the_dense_one(shape, seed, rank):
    W, _ = pair(shape, seed)
    generator = torch.Generator().manual_seed(seed)
    B, A = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    basis = decompose(W)
    thin, whole = (alignment(basis, T, [0.05, 0.3]) for T in (Factors(B.double(), A.double()), B.double() @ A.double()))
    for one, other in zip(thin, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6, nan_ok=True)


@settings(max_examples=6)
@given(st.sampled_from([(16, 6), (6, 16), (12, 12)]), st.integers(1, 6), st.integers(0, 100))
def test_null_and_its_spread_are_those_of_random_left_rotations(shape, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    W, _ = pair(shape, seed)
    B, A = (torch.randn(s, generator=generator).double() for s in ((shape[0], rank), (rank, shape[1])))
    T = B @ A
    basis = decompose(W)
    found = measured(basis, T, 0.3)
    U = basis.U[:, : found["k"]].double()
    total = (T**2).sum()
    shares = torch.stack([((U.T @ (rotation(shape[0], generator) @ T)) ** 2).sum() / total for _ in range(1500)])
    assert abs(shares.mean() - found["null"]) <= 4.5 * shares.std() / 1500**0.5 + 1e-9
    assert found["null_sd"] == pytest.approx(shares.std().item(), rel=0.12, abs=1e-9)


@pytest.mark.parametrize("epsilon", [0, 1, -0.1])
def test_an_impossible_epsilon_is_refused(epsilon):
    with pytest.raises(TuningVecError, match="between 0 and 1"):
        decompose(torch.eye(3)).k(epsilon)


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_a_random_vector_lies_on_the_null_in_every_component(make_checkpoint, architecture):
    theta = Checkpoint(make_checkpoint("model", architecture))
    random = TuningVector({Gaussian(theta.shapes, seed=0): 1})
    means = over_layers(subspace_alignment(theta, {"random": random}, [0.05, 0.3]))
    assert set(means.kind) == set(MATRICES) and set(means.layers) == {2}
    assert means.z.abs().max() < 4
    tall = means[means.kind.isin(["W_gate", "W_up"])]
    assert (tall.null <= tall.d_in / tall.d_out).all()


def test_a_vector_without_a_matrix_has_no_row(make_checkpoint):
    theta = Checkpoint(make_checkpoint("model"))
    nothing = TuningVector({theta: 1}) - TuningVector({theta: 1})
    assert subspace_alignment(theta, {"nothing": nothing}).empty
