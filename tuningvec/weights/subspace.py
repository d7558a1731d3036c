"""Into which subspaces of the pretrained weights a tuning vector writes (paper §4, A.7)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tuningvec.errors import TuningVecError
from tuningvec.store import Record, Rows, Store
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.components import MATRICES, Component
from tuningvec.weights.delta import Combination, Factors, Matrix, by_matrix, dense, identities, places
from tuningvec.weights.engine import device, device_name

if TYPE_CHECKING:
    import pandas

FLOAT64_UP_TO = 1000  # rows; twice the time of float32, which is little up to here
EDGE = "edge"  # in the place of an ε: k counts the singular values above the Marchenko–Pastur edge

Cut = float | str  # an ε, or EDGE


@dataclass(frozen=True)
class Decomposition:
    """W = U Σ Vᵀ with singular values in falling order; columns of U and V beyond the rank are of no use."""

    U: Float[Tensor, "d_out n"]
    S2: Float64[Tensor, " n"]
    V: Float[Tensor, "d_in n"]

    def k(self, epsilon: Cut) -> int:
        """k = min{k : Σ_{i>k} σᵢ² / Σ σᵢ² ≤ ε²} (A.7); of EDGE, how many singular values noise has not.

        Noise of variance s² in d_out × d_in entries has hardly one above s(√d_out + √d_in). The median gives s (Gavish
        and Donoho, arXiv 1305.5870), which takes at least half of the spectrum for noise.
        """
        if epsilon == EDGE:
            small, large = sorted((len(self.U), len(self.V)))
            edge = self.S2.quantile(0.5) / _median(small / large) * (1 + (small / large) ** 0.5) ** 2
            return int(torch.sum(edge < self.S2))
        if not isinstance(epsilon, float | int) or not 0 < epsilon < 1:
            raise TuningVecError(f"epsilon is {epsilon}; it must lie between 0 and 1, or be {EDGE!r}")
        tails = self.S2.flip(0).cumsum(0)  # from the smallest up, so that small values are not lost beside large ones
        return len(self.S2) - int(torch.sum(tails <= epsilon**2 * tails[-1]))


@cache
def _median(ratio: float) -> float:
    """The median of the Marchenko–Pastur law of this ratio of sides, at most 1, for entries of variance 1."""
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    angle = torch.linspace(0, math.pi / 2, 20_001, dtype=torch.float64)[1:]
    x = low + (high - low) * torch.sin(angle) ** 2  # evenly dense where the law has its poles
    mass = torch.cumsum(torch.sin(2 * angle) ** 2 / x, 0)
    return x[int(torch.searchsorted(mass, mass[-1] / 2))].item()


def decompose(W: Float[Tensor, "d_out d_in"]) -> Decomposition:
    """The singular value decomposition of W from the eigenvectors of its smaller Gram matrix.

    In float64 up to FLOAT64_UP_TO rows of that matrix, above in W's own dtype. V = Wᵀ U / σ (or U = W V / σ) with
    σ² = ‖Wᵀ uᵢ‖² summed in float64: an error δ of an eigenvector changes σ² by δ² alone, which keeps k.
    """
    if W.shape[0] > W.shape[1]:
        turned = decompose(W.T)
        return Decomposition(turned.V, turned.S2, turned.U)
    if len(W) <= FLOAT64_UP_TO:
        W = W.double()
    U = torch.linalg.eigh(W @ W.T).eigenvectors
    V = W.T @ U
    S2, order = torch.sort(_sum(V**2, 0), descending=True)
    return Decomposition(U[:, order], S2, V[:, order] / S2.sqrt().clamp(min=torch.finfo(W.dtype).tiny).to(W.dtype))


def energies(basis: Decomposition, T: Matrix, epsilons: Sequence[Cut]) -> list[dict[str, float]]:
    """k, E_par = ‖U_k U_kᵀ T‖²_F, E_perp = ‖T‖²_F − E_par and SSA = E_par / ‖T‖²_F for each ε (§4, Tables 4 to 6).

    One projection serves every ε. A low-rank T is never built.
    """
    ks = [basis.k(epsilon) for epsilon in epsilons]
    B, A = T if isinstance(T, Factors) else (T, None)
    left = basis.U[:, : max(ks)].T.to(B.dtype) @ B  # (k, r) or (k, d_in)
    rows = _sum(left**2 if A is None else (left @ (A @ A.T)) * left, 1)
    total = _sum(B**2 if A is None else (B.T @ B) * (A @ A.T)).item()
    inside = [rows[:k].sum().item() for k in ks]
    return [dict(k=k, E_par=e, E_perp=total - e, SSA=e / total) for k, e in zip(ks, inside, strict=True)]


def alignment(basis: Decomposition, T: Matrix, epsilons: Sequence[Cut]) -> list[dict[str, float]]:
    """`energies` of T with their null, and the same measure from the right and from both sides, for each ε.

    SSA_V takes V_k, SSA_UV both. null = k/d_out is the mean of SSA when T is rotated on its left at random, null_sd its
    spread; excess = (SSA − null) / (1 − null), z = (SSA − null) / null_sd, both NaN where the subspace is the whole
    space.
    """
    found = energies(basis, T, epsilons)
    B, A = T if isinstance(T, Factors) else (T, None)
    d_out, d_in = len(B), (B if A is None else A).shape[1]
    right, both = _sides(basis, B, A, [row["k"] for row in found])
    total = found[0]["E_par"] + found[0]["E_perp"]
    squares = _squares(B, A) / total**2
    rows = []
    for row, from_right, from_both in zip(found, right, both, strict=True):
        k, SSA = row["k"], row["SSA"]
        null, null_sd = k / d_out, _null_sd(squares, d_out, k)
        rows.append(row | dict(
            d_out=d_out, d_in=d_in, null=null, null_sd=null_sd,
            excess=(SSA - null) / (1 - null) if k < d_out else math.nan,
            z=(SSA - null) / null_sd if null_sd > 0 else math.nan,
            SSA_V=from_right / total, null_V=k / d_in,
            SSA_UV=from_both / total, null_UV=k * k / (d_out * d_in),
        ))  # fmt: skip
    return rows


def _sides(
    basis: Decomposition, B: Float[Tensor, "d_out r"], A: Float[Tensor, "r d_in"] | None, ks: Sequence[int]
) -> tuple[list[float], list[float]]:
    """‖T V_k‖² and ‖U_kᵀ T V_k‖² for each k; T = B A, or B."""
    U, V = (side[:, : max(ks)].to(B.dtype) for side in (basis.U, basis.V))
    if A is None:
        right = B @ V  # (d_out, k)
        columns, both = _sum(right**2, 0), U.T @ right
    else:
        right = A @ V  # (r, k)
        columns, both = _sum((B.T @ B @ right) * right, 0), U.T @ B @ right
    return [columns[:k].sum().item() for k in ks], [_sum(both[:k, :k] ** 2).item() for k in ks]


def _squares(B: Float[Tensor, "d_out r"], A: Float[Tensor, "r d_in"] | None) -> float:
    """‖T Tᵀ‖²_F of T = B A, or of T = B: the sum of the fourth powers of its singular values."""
    if A is not None:
        product = B.T @ B @ (A @ A.T)  # (r, r)
        return _sum(product * product.T).item()
    return _sum((B @ B.T if len(B) <= B.shape[1] else B.T @ B) ** 2).item()


def _sum(x: Tensor, dim: int | None = None) -> Tensor:
    return torch.sum(x, dtype=torch.float64) if dim is None else torch.sum(x, dim, dtype=torch.float64)


def _null_sd(squares: float, d: int, k: int) -> float:
    """Standard deviation of SSA over random left rotations R T.

    The captured share of a unit direction is Beta(k/2, (d−k)/2), of variance v = 2k(d−k) / (d²(d+2)); shares of d
    orthogonal directions add to k, so with weights wᵢ = sᵢ²/‖T‖² and squares = Σwᵢ² the variance is
    v (d Σwᵢ² − 1) / (d − 1).
    """
    unit = 2 * k * (d - k) / (d**2 * (d + 2))
    return (unit * max(0.0, d * squares - 1) / (d - 1)) ** 0.5


def subspace_alignment(
    pretrained: Checkpoint,
    vectors: Mapping[str, Combination],
    epsilons: Sequence[Cut] = (0.05,),
    store: Store | None = None,
) -> "pandas.DataFrame":
    """`alignment` of every vector in every matrix of the model, one decomposition of W for all vectors and ε.

    Columns vector, layer, kind, epsilon and those of `alignment`. A vector without a matrix has no row for it. With a
    store, matrices that were measured before are not measured again; `attrs["runs"]` tells when and on what they were.
    """
    every = {"": Combination({pretrained: 1}), **vectors}
    record = Record()
    if store:
        inputs = {"epsilons": list(epsilons), "weights": identities(every, store)}
        record = store.record("alignment", inputs, __name__, device_name())
    measure = partial(_measured, epsilons=epsilons)
    return by_matrix(record, every, places(every, pretrained, MATRICES), measure, "subspaces")


def _measured(component: Component, matrices: dict[str, Matrix], epsilons: Sequence[Cut]) -> Rows:
    """The rows of one matrix, for every vector that changes it; on a GPU where there is one."""
    basis, rows = decompose(dense(matrices.pop("")).to(device())), []
    for label, T in changed(matrices):
        place = dict(vector=label, layer=component.layer, kind=component.kind)
        measured = alignment(basis, T, epsilons)
        rows += [{**place, "epsilon": e, **row} for e, row in zip(epsilons, measured, strict=True)]
    return rows


def changed(matrices: Mapping[str, Matrix]) -> Iterator[tuple[str, Matrix]]:
    """Those that are not 0 throughout, on the GPU where there is one."""
    where = device()
    for label, matrix in matrices.items():
        if all(torch.any(factor) for factor in (matrix if isinstance(matrix, Factors) else (matrix,))):
            yield label, Factors(*(f.to(where) for f in matrix)) if isinstance(matrix, Factors) else matrix.to(where)


def over_layers(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """Means over layers by vector, ε and kind, as in Tables 4 to 6; z of the mean from independent rotations."""
    groups = table.groupby(["vector", "epsilon", "kind"], sort=False)
    measures = ["k", "d_out", "d_in", "E_par", "E_perp", "SSA", "null", "SSA_V", "null_V", "SSA_UV", "null_UV"]
    means = groups[measures].mean()
    means = means.astype({"d_out": int, "d_in": int})
    means["layers"] = groups.size()
    means["null_sd"] = groups["null_sd"].apply(lambda sd: (sd**2).sum() ** 0.5 / len(sd))
    means["excess"] = (means.SSA - means.null) / (1 - means.null).where(means.null < 1)
    means["z"] = (means.SSA - means.null) / means.null_sd.where(means.null_sd > 0)
    return means.reset_index().sort_values(["epsilon", "kind"], key=_in_order, kind="stable", ignore_index=True)


def _in_order(column: "pandas.Series") -> "pandas.Series":
    """Kinds in the paper's order instead of the alphabet's, EDGE behind every ε."""
    return column.map(MATRICES.index) if column.name == "kind" else column.replace(EDGE, math.inf).astype(float)
