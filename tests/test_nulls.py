"""Closed forms against draws, and signals that were planted: found by the null that should, passed by the others."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuningvec.measures import directions
from tuningvec.store import Store
from tuningvec.weights import nulls
from tuningvec.weights.checkpoint import Checkpoint, Gaussian
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Combination, Factors, TuningVector
from tuningvec.weights.nulls import alignment_nulls
from tuningvec.weights.subspace import EDGE, Decomposition, alignment, decompose, over_layers, subspace_alignment

EPSILON = 0.3
SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=8, num_key_value_heads=4)
GATE_UP, REST = list(directions.GATE_UP), ["W_Q", "W_K", "W_V", "W_O", "W_down"]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_the_mean_over_orders_of_rows_is_that_of_all_orders(rank, seed):
    basis, T = decompose(drawn(5, 3, seed=seed)), drawn(5, rank, seed=seed + 1) @ drawn(rank, 3, seed=seed + 2) + 0.5
    shares = [alignment(basis, T[list(order)], [EPSILON])[0]["SSA"] for order in itertools.permutations(range(5))]
    found = nulls._shuffled(basis, T, EPSILON, draws=200, seed=0)
    assert found["rows"] == pytest.approx(torch.tensor(shares, dtype=torch.float64).mean().item(), abs=1e-5)
    assert found["rows_sd"] == pytest.approx(torch.tensor(shares, dtype=torch.float64).std().item(), rel=0.25, abs=1e-6)


@given(st.floats(-0.9, 0.9), st.integers(0, 1000))
def test_what_is_left_without_W_is_orthogonal_to_it(share, seed):
    W, G = drawn(12, 8, seed=seed), drawn(12, 8, seed=seed + 1)
    G -= W * (torch.sum(W * G) / torch.sum(W * W))
    T = share * W / W.norm() + (1 - share**2) ** 0.5 * G / G.norm()
    basis = decompose(W)
    found, rest = nulls._less(basis, T, W, EPSILON), alignment(basis, G / G.norm(), [EPSILON])[0]
    assert found["cos_W"] == pytest.approx(share, abs=1e-5)
    assert found["SSA_less_W"] == pytest.approx(rest["SSA"], abs=1e-4)
    assert found["E_par_less_W"] + found["E_perp_less_W"] == pytest.approx(1 - share**2, abs=1e-4)
    assert found["null_sd_less_W"] == pytest.approx(rest["null_sd"], abs=1e-4)


def test_a_low_rank_vector_has_the_nulls_of_the_dense_one():
    W, B, A = drawn(12, 8), drawn(12, 2, seed=1), drawn(2, 8, seed=2)
    basis = decompose(W)
    for measure in (
        lambda T: nulls._less(basis, T, W, EPSILON), lambda T: nulls._shuffled(basis, T, EPSILON, 20, 0)
    ):  # fmt: skip
        assert measure(Factors(B, A)) == pytest.approx(measure(B @ A), abs=1e-5)


def test_nothing_is_left_of_a_multiple_of_W():
    W = drawn(12, 8)
    found = nulls._less(decompose(W), -0.3 * W, W, EPSILON)
    assert found["cos_W"] == pytest.approx(-1) and found["SSA_less_W"] != found["SSA_less_W"]


@pytest.mark.parametrize("shape", [(300, 300), (400, 150), (150, 400)])
def test_the_edge_counts_what_stands_out_of_noise(shape):
    noise = drawn(*shape)
    assert decompose(noise).k(EDGE) <= 3  # the largest singular values of noise lie about the edge
    spikes = drawn(shape[0], 7, seed=1) @ drawn(7, shape[1], seed=2)
    assert 7 <= decompose(noise + spikes).k(EDGE) <= 9


def test_the_edge_of_a_constant_spectrum_is_above_it():
    one = torch.eye(6)
    assert Decomposition(one, torch.ones(6, dtype=torch.float64), one).k(EDGE) == 0


@pytest.fixture
def theta(make_checkpoint):
    return Checkpoint(make_checkpoint("pretrained", **SIZES))


def beside(theta, T):
    table = alignment_nulls(theta, T, EPSILON, draws=30)
    edge = over_layers(subspace_alignment(theta, T, [EDGE]))
    return directions.beside_nulls(table, edge)


@pytest.fixture
def noise(theta):
    """T of Gaussian entries in each tensor, as large as W."""
    return {name: TuningVector({Gaussian(theta.shapes, seed): 0.02}) for seed, name in enumerate(("a", "b"))}


def test_a_random_vector_is_on_every_null(theta, noise):
    found = beside(theta, noise)
    assert set(found.against) == {*directions.CHANCE, "edge", "members"} and set(found.kind) == set(MATRICES)
    assert set(found[found.against == "rows"].kind) == set(GATE_UP)
    assert found.z.abs().max() < 4 and found.excess.abs().max() < 0.1
    assert found[found.against == "members"].z.isna().all()


def test_a_shorter_W_is_told_from_an_aligned_vector(theta, noise):
    shrunk = {name: T - 0.5 * Combination({theta: 1}) for name, T in noise.items()}
    found = beside(theta, shrunk).set_index(["vector", "kind", "against"])
    assert (found.z.xs("rotation", level="against").drop(index=["W_V"], level="kind") > 5).any()
    assert found.z.xs("less W", level="against").abs().max() < 4


def test_the_verdict_names_the_nulls_that_disagree(theta, noise):
    part = _Some(theta, {name: shape for name, shape in theta.shapes.items() if "gate" in name or "up" in name})
    shrunk = {name: T - 0.5 * Combination({part: 1}) for name, T in noise.items()}
    found = directions.against_nulls(beside(theta, shrunk), GATE_UP, REST)
    assert found.kind == "mixed"
    assert found.why == "reversed against rotation, rows, layers; null explains it against less W"
    even = directions.against_nulls(beside(theta, noise), GATE_UP, REST)
    assert even.kind in ("null explains it", "within chance", "mixed") and "reversed" not in even.why
    table = directions.survivors(beside(theta, shrunk), {"gate and up": (GATE_UP, REST)}).set_index("against")
    assert table["gate and up"]["rotation"].startswith("reversed")
    assert table["gate and up"]["less W"].startswith("null explains it")


class _Some:
    """Some tensors of a checkpoint as a summand."""

    def __init__(self, checkpoint, shapes):
        self.checkpoint, self.shapes = checkpoint, shapes

    def read(self, name, rows=slice(None), out=None):
        found = self.checkpoint.read(name, rows)
        return found if out is None else out.copy_(found)


def test_an_own_layer_is_told_from_the_others(theta, noise):
    class Own(_Some):
        def read(self, name, rows=slice(None), out=None):
            W = super().read(name, rows)
            U, _, _ = torch.linalg.svd(W, full_matrices=False)
            return U[:, :3] @ drawn(3, W.shape[1])

    own = Own(theta, {name: shape for name, shape in theta.shapes.items() if len(shape) == 2 and "proj" in name})
    found = beside(theta, {"own": TuningVector({own: 1})}).set_index(["kind", "against"])
    layers = found.xs("layers", level="against")
    assert (layers.SSA > 0.99).all() and (layers.z > 5).all()
    assert found.xs("members", level="against").null.isna().all()


@pytest.mark.parametrize("N", [2, 3, 4, 5])
def test_the_spread_over_orders_of_layers_is_that_of_all_orders(N, monkeypatch):
    monkeypatch.setattr(directions, "FEWEST_LAYERS", 2)
    M = drawn(N, N).double().numpy()
    rows = [
        dict(layer=here, SSA=M[here, here], layers=[M[here, (here - step) % N] for step in range(1, N)])
        for here in range(N)
    ]
    mean, sd = directions._in_any_order(pd.DataFrame(rows[::-1]))
    orders = [M[range(N), order].mean() for order in itertools.permutations(range(N))]
    assert mean == pytest.approx(np.mean(orders)) and sd == pytest.approx(np.std(orders))


def test_few_layers_and_rows_that_are_no_neurons_are_passed_over(make_checkpoint):
    theta = Checkpoint(make_checkpoint("small", **SIZES | dict(num_hidden_layers=3)))
    T = {"a": TuningVector({Gaussian(theta.shapes, 0): 0.02})}
    found = beside(theta, T)
    assert found[found.against == "layers"].null_sd.isna().all()
    queries = directions.against_nulls(found, ["W_Q", "W_O"], ["W_K", "W_V"])
    assert queries.why.endswith("against rotation, less W") and np.isnan(queries.numbers["without"]).all()
    gate = directions.against_nulls(found, GATE_UP, REST)
    assert "rows" in gate.why and len(gate.numbers["without"]) == len(gate.numbers["edge"]) == 1


def test_a_stopped_run_goes_on_and_gives_the_same(theta, noise, tmp_path, monkeypatch):
    whole = alignment_nulls(theta, noise, EPSILON, draws=5, store=Store(tmp_path / "whole"))
    seen, rows = [], nulls._Nulls.rows

    def stopping(self, component, matrices):
        seen.append(component)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return rows(self, component, matrices)

    monkeypatch.setattr(nulls._Nulls, "rows", stopping)
    with pytest.raises(KeyboardInterrupt):
        alignment_nulls(theta, noise, EPSILON, draws=5, store=Store(tmp_path / "store"))
    again = alignment_nulls(theta, noise, EPSILON, draws=5, store=Store(tmp_path / "store"))
    assert again.to_json() == whole.to_json() and len(seen) == 4 + 8 * len(MATRICES) - 3
