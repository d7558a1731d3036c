"""Planted truths: what each way to compose vectors must give, and what another tool gives."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import models
from tuningvec.store import Store
from tuningvec.weights import merging
from tuningvec.weights.checkpoint import ALL, Checkpoint, LowRank
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Combination, Factors, TuningVector, dense, places
from tuningvec.weights.merging import TSV, Dare, Isotropic, Merge, Shared, Ties, matrix_rows, spectrum

D_OUT, D_IN = 60, 40
EXACT = dict(rtol=1e-4, atol=1e-5)
Q = "model.layers.0.self_attn.q_proj.weight"


def gaussian(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (D_OUT, D_IN), generator=torch.Generator().manual_seed(seed))


def frame(seed: int, d: int) -> torch.Tensor:
    """Random orthonormal directions."""
    return torch.linalg.qr(gaussian(seed, d, d)).Q


def apart(rank: int = 4) -> dict[str, Factors]:
    """Two thin vectors with no direction in common, in the output or in the input."""
    U, V = frame(0, D_OUT), frame(1, D_IN)
    parts = {"a": slice(0, rank), "b": slice(rank, 2 * rank)}
    return {name: Factors(U[:, i] @ gaussian(i.start + 5, rank, rank), V[:, i].T) for name, i in parts.items()}


def added(found) -> torch.Tensor:
    return sum(dense(T) for T in found.values())


@pytest.mark.parametrize("thin", [True, False])
@pytest.mark.parametrize("rule", [TSV(1), Shared(0), Shared(0.5), Dare(0, 0)], ids=str)
def test_vectors_without_a_common_direction_compose_without_loss(rule, thin):
    found = apart() if thin else {name: dense(T) for name, T in apart().items()}
    torch.testing.assert_close(rule({k: dense(T) for k, T in found.items()} if rule.elements else found, "W"),
                               added(found), **EXACT)  # fmt: skip


def test_vectors_with_no_place_in_common_compose_without_loss_by_signs():
    left = torch.arange(D_IN) < 20
    found = {"a": gaussian(0) * left, "b": gaussian(1) * ~left}
    torch.testing.assert_close(Ties(1)(found, "W"), added(found))


@given(density=st.floats(0.01, 1), count=st.integers(2, 4), seed=st.integers(0, 99))
def test_of_identical_vectors_ties_gives_their_largest_entries(density, count, seed):
    T = gaussian(seed)
    composed = Ties(density)({str(i): T for i in range(count)}, "W")
    kept = max(1, int(density * T.numel()))
    assert int((composed != 0).sum()) == kept
    torch.testing.assert_close(composed[composed != 0], T[composed != 0])
    assert T[composed != 0].abs().min() >= T[composed == 0].abs().max() if kept < T.numel() else True


def test_signs_are_elected_by_the_sum_and_the_mean_is_of_those_that_have_it():
    a, b, c = torch.tensor([[3.0, -1, 1, 0]]), torch.tensor([[-1.0, -3, -1, 2]]), torch.tensor([[1.0, 1, 0, 0]])
    composed = Ties(1)({"a": a, "b": b, "c": c}, "W")
    torch.testing.assert_close(composed, torch.tensor([[2.0, -2, 1, 2]]))  # at a sum of 0 plus is elected


def test_the_mean_of_many_draws_is_the_sum():
    found = {"a": gaussian(0), "b": gaussian(1)}
    draws = torch.stack([Dare(0.75, seed)(found, "W") for seed in range(800)])
    error = draws.std(0) / len(draws) ** 0.5
    gap = (draws.mean(0) - added(found)) / error
    assert gap.abs().max() < 5 and gap.std() == pytest.approx(1, abs=0.1)


def test_a_draw_drops_its_share_and_is_the_same_for_the_same_seed_and_place():
    T = {"a": gaussian(0)}
    one = Dare(0.75, 3)(T, "W")
    assert torch.equal(one, Dare(0.75, 3)(T, "W"))
    assert not torch.equal(one, Dare(0.75, 4)(T, "W")) and not torch.equal(one, Dare(0.75, 3)(T, "other"))
    assert (one == 0).float().mean().item() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(one[one != 0], 4 * T["a"][one != 0])


@pytest.mark.parametrize("thin", [True, False])
def test_the_sum_with_a_flat_spectrum_keeps_its_nuclear_norm_and_directions(thin):
    found = {name: Factors(gaussian(i, D_OUT, 4), gaussian(i + 9, 4, D_IN)) for i, name in enumerate("ab")}
    if not thin:
        found = {name: dense(T) + 0.1 * gaussian(i) for i, (name, T) in enumerate(found.items())}
    composed, (U, S, V) = Isotropic()(found, "W"), spectrum(added(found))
    sizes = torch.linalg.svdvals(composed.double())
    rank = 8 if thin else D_IN
    assert sizes[:rank].sum().item() == pytest.approx(S.sum().item(), rel=1e-5)
    assert sizes[:rank].max().item() == pytest.approx(sizes[:rank].min().item(), rel=1e-5)
    assert sizes[rank:].sum() < 1e-4
    torch.testing.assert_close(U.T @ composed.double() @ V, torch.eye(rank).double() * S.mean(), **EXACT)


def test_leading_directions_alone_are_kept_and_whitened():
    found = {name: Factors(gaussian(i, D_OUT, 4), gaussian(i + 9, 4, D_IN)) for i, name in enumerate("ab")}
    composed, parts = TSV(0.5)(found, "W"), [spectrum(T) for T in found.values()]
    expected = torch.cat([one.S[:2] for one in parts]).sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(composed.double())[:4], expected, **EXACT)
    same = {name: found["a"] for name in "ab"}
    assert torch.linalg.matrix_rank(TSV(1)(same, "W"), rtol=1e-4) == 4  # what is the same twice spans no more


def test_what_two_vectors_share_is_found_and_nothing_else():
    """Of two thin vectors one direction is common, from the same input to the same output."""
    U, V = frame(0, D_OUT), frame(1, D_IN)
    common = 3 * torch.outer(U[:, 9], V[:, 9])
    alone = {name: dense(T) for name, T in apart().items()}
    found = {name: T + common for name, T in alone.items()}
    torch.testing.assert_close(Shared(0)(found, "W"), added(alone), **EXACT)
    torch.testing.assert_close(Shared(0.5)(found, "W"), added(alone) + common, **EXACT)
    torch.testing.assert_close(Shared(1)(found, "W"), added(found), **EXACT)


def test_a_common_input_alone_or_a_common_output_alone_is_not_shared():
    U, V = frame(0, D_OUT), frame(1, D_IN)
    same_input = {"a": U[:, :4] @ V[:, :4].T, "b": U[:, 4:8] @ V[:, :4].T}
    torch.testing.assert_close(Shared(0)(same_input, "W"), added(same_input), **EXACT)
    same_output = {"a": U[:, :4] @ V[:, :4].T, "b": U[:, :4] @ V[:, 4:8].T}
    torch.testing.assert_close(Shared(0)(same_output, "W"), added(same_output), **EXACT)


def test_identical_vectors_share_all():
    T = Factors(gaussian(0, D_OUT, 2), gaussian(1, 2, D_IN))
    found = {"a": T, "b": T, "c": T}
    torch.testing.assert_close(Shared(1 / 3)(found, "W"), dense(T), **EXACT)
    assert Shared(0)(found, "W").abs().max() < 1e-4


@pytest.mark.parametrize("rank", [4, D_IN])
def test_random_rotations_share_about_nothing(rank):
    """Turned on both sides, two vectors with the same falling spectrum are alike by chance alone."""
    sizes = 0.7 ** torch.arange(rank)
    taken = []
    for seed in range(40):
        U, V = frame(2 * seed, D_OUT)[:, :rank], frame(2 * seed + 1, D_IN)[:, :rank]
        own = spectrum((U * sizes) @ V.T)
        other = spectrum((frame(900 + seed, D_OUT)[:, :rank] * sizes) @ frame(950 + seed, D_IN)[:, :rank].T)
        taken.append((torch.sum(merging.shared_part(own, [other]) ** 2) / torch.sum(own.S**2)).item())
    assert sum(share > 0 for share in taken) <= 2 and sum(taken) / len(taken) < 0.01


def test_the_limit_of_one_side_is_that_of_random_rotations():
    """How often a share of R T lies above it: a test of the formula, by draws."""
    sizes = 0.8 ** torch.arange(20).double()
    weights = sizes**2 / torch.sum(sizes**2)
    squares = gaussian(0, 200_000, D_OUT).double() ** 2
    shares = (squares[:, :20] @ weights) / squares.sum(1)
    assert shares.mean().item() == pytest.approx(1 / D_OUT, rel=0.02)
    above = (shares > merging.largest_share(weights, D_OUT, 0.01)).double().mean().item()
    assert above == pytest.approx(0.01, rel=0.35)
    one = merging.largest_share(torch.ones(1).double(), D_OUT, 0.01)
    assert one == pytest.approx(float(beta.isf(0.01, 0.5, (D_OUT - 1) / 2)))
    even = torch.full((D_OUT,), 1 / D_OUT, dtype=torch.float64)
    assert merging.largest_share(even, D_OUT, 0.01) == 1  # nothing stands out of what is the same everywhere


@pytest.mark.parametrize("thin", [True, False])
def test_a_spectrum_is_the_decomposition_of_its_matrix(thin):
    T = Factors(gaussian(0, D_OUT, 5), gaussian(1, 5, D_IN))
    found = spectrum(T if thin else dense(T))
    assert len(found.S) == 5  # what is rounding has no direction
    torch.testing.assert_close(found.product, dense(T), **EXACT)
    for side in (found.U, found.V):
        torch.testing.assert_close(side.T @ side, torch.eye(5).double(), **EXACT)


@pytest.mark.parametrize("rule", [Ties(0.5), Dare(0.5, 0), TSV(0.5), Isotropic(), Shared(0)], ids=str)
def test_of_zeros_zeros_are_made(rule):
    zeros = {"a": torch.zeros(D_OUT, D_IN), "b": torch.zeros(D_OUT, D_IN)}
    assert not rule(zeros, "W").any()


@pytest.mark.parametrize(
    "make",
    [lambda: Ties(0.0), lambda: Ties(1.5), lambda: Dare(1.0, 0), lambda: Dare(-0.1, 0), lambda: TSV(0.0),
     lambda: TSV(2.0), lambda: Shared(-0.5), lambda: Shared(1.5)],
)  # fmt: skip
def test_a_parameter_that_makes_no_sense_is_refused(make):
    with pytest.raises(TuningVecError, match=r"share of|between 0 and 1"):
        make()


@pytest.fixture
def phi(make_checkpoint):
    """Vectors of a model that stores several matrices in one tensor."""
    pre, a, b = (Checkpoint(make_checkpoint(name, "phi3", seed)) for seed, name in enumerate(["pre", "a", "b"]))
    theta = Combination({pre: 1})
    return pre, {c.folder.name: TuningVector.between(theta, Combination({c: 1})) for c in (a, b)}


def test_matrices_stored_in_one_tensor_are_composed_apart_and_the_rest_is_added(phi):
    pre, vectors = phi
    merged = Merge(vectors, Isotropic(), matrix_rows(vectors, pre))
    for tensor, part in places(vectors, pre, MATRICES):
        rows = part.rows or ALL
        expected = Isotropic()({name: T.read(tensor, rows) for name, T in vectors.items()}, tensor)
        torch.testing.assert_close(merged.read(tensor)[rows], expected)
        torch.testing.assert_close(merged.read(tensor, slice(1, 3)), merged.read(tensor)[1:3])
    for tensor, _ in places(vectors, pre, ("norm", "embedding", "head")):
        assert torch.equal(merged.read(tensor), sum(T.read(tensor) for T in vectors.values()))


def test_rules_of_elements_take_every_tensor(phi):
    pre, vectors = phi
    merged = Merge(vectors, Ties(0.2), matrix_rows(vectors, pre))
    for tensor in pre.shapes:
        found = {name: T.read(tensor) for name, T in vectors.items()}
        assert torch.equal(merged.read(tensor), Ties(0.2)(found, tensor))


def test_a_composed_model_is_known_by_files_rule_and_coefficients_and_loads(phi, tmp_path):
    pre, vectors = phi
    rows = matrix_rows(vectors, pre)

    def identity(rule, some):
        return Combination({pre: 1, Merge(some, rule, rows): 1}).identity(Store(tmp_path))

    base = identity(Ties(0.2), vectors)
    assert base == identity(Ties(0.2), dict(vectors))
    assert base != identity(Ties(0.3), vectors)
    assert base != identity(Ties(0.2), {**vectors, "a": 0.5 * vectors["a"]})
    assert identity(Dare(0.2, 0), vectors) != identity(Dare(0.2, 1), vectors)
    merged = Merge(vectors, Shared(0), rows)
    weights = Combination({pre: 1, merged: 0.5})
    model = models.load(weights, pre)
    torch.testing.assert_close(
        model.get_parameter("model.norm.weight").cpu(), weights.read("model.norm.weight"), rtol=0, atol=0
    )
    again = pickle.loads(pickle.dumps(merged))
    assert again.drawn == merged.drawn and torch.equal(again.read("lm_head.weight"), merged.read("lm_head.weight"))


def test_adapters_as_factors_and_as_full_matrices_are_composed_alike(tmp_path):
    """Corners of matrices of two adapters on disk."""
    root = Family.load("tiny").root / "smollm2"
    thin = {name: LowRank(root / name) for name in ("medical", "math")}
    for rule in (TSV(0.5), Isotropic(), Shared(0)):
        factors = {name: Factors(*(x[:70, :80] for x in T.factors(Q))) for name, T in thin.items()}
        full = {name: dense(T) for name, T in factors.items()}
        torch.testing.assert_close(rule(factors, Q), rule(full, Q), rtol=1e-3, atol=1e-6)


def test_shared_energy_is_that_of_the_shared_parts():
    tiny = Family.load("tiny")
    like = members.checkpoint(tiny)
    every = members.tuning_vectors(tiny)
    vectors = {name: every[name] for name in ("medical", "math")}
    table = merging.shared_energy(vectors, like, store=Store())
    row = table[(table.vector == "medical") & (table.layer == 0) & (table.kind == "W_Q")].iloc[0]
    own, other = (spectrum(T.read(Q)) for T in vectors.values())
    assert row.energy == pytest.approx(vectors["medical"].read(Q).double().norm().item() ** 2)
    assert row.shared == pytest.approx(merging.shared_part(own, [other]).norm().item() ** 2, rel=1e-6)
    assert (table.shared <= table.energy * (1 + 1e-9)).all() and len(table) == 2 * 7 * 4
    assert table.turned.sum() < 0.01 * table.energy.sum()
    assert table.equals(merging.shared_energy(vectors, like, store=Store()))


MERGEKIT = "mergekit is no dependency; `pip install --no-deps mergekit` to compare"


def by_mergekit(sparsification, consensus, found, density=1.0, **parameters):
    """T of the composed tensor by mergekit's own method of this kind, λ = 1."""
    base = pytest.importorskip("mergekit.merge_methods.base", reason=MERGEKIT)
    tool = pytest.importorskip("mergekit.merge_methods.generalized_task_arithmetic", reason=MERGEKIT)
    names = ("default_normalize", "default_rescale", "method_name", "method_pretty_name", "method_reference_url")
    method = tool.GeneralizedTaskArithmeticMerge(consensus, sparsification, **dict.fromkeys(names))
    tensors = [torch.zeros(D_OUT, D_IN), *found.values()]
    group = base.TensorGroup.from_tensors(tensors, base_index=0)
    ids, options = range(1, len(tensors)), {"int8_mask": False, "normalize": False, "rescale": False, "lambda": 1.0}
    of_each = dict(weight=dict.fromkeys(ids, 1.0), density=dict.fromkeys(ids, density))
    return method.merge_group(group, **options | of_each | parameters)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("count", [2, 3])
def test_mergekit_trims_and_elects_alike(density, count):
    found = {str(i): gaussian(i) for i in range(count)}
    expected = by_mergekit("magnitude", "sum", found, density=density, normalize=True)
    torch.testing.assert_close(Ties(density)(found, "W"), expected)


def test_mergekit_adds_and_drops_nothing_alike():
    found = {str(i): gaussian(i) for i in range(3)}
    torch.testing.assert_close(added(found), by_mergekit(None, None, found))
    expected = by_mergekit("random", None, found, density=1.0, rescale=True)
    torch.testing.assert_close(Dare(0, 0)(found, "W"), expected)


def test_mergekit_scales_what_is_left_to_the_same_on_average():
    """By the L1 norm of T and not by the share: with its mask the tensor is ours but for a factor near 1."""
    found = {"a": gaussian(0)}
    torch.manual_seed(123)
    dropped = by_mergekit("random", None, found, density=0.5, rescale=True)
    mask = dropped != 0
    scale = (found["a"].abs().sum() / (found["a"] * mask).abs().sum()).item()
    torch.testing.assert_close(dropped, found["a"] * mask * scale)
    assert scale == pytest.approx(1 / (1 - 0.5), rel=0.1)
