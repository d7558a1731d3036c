"""Into which subspaces of the pretrained weights a tuning vector writes (paper §4, A.7)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tuningvec.checkpoint import Checkpoint
from tuningvec.components import MATRICES
from tuningvec.delta import Combination, Factors, Matrix, parts
from tuningvec.errors import TuningVecError


@dataclass(frozen=True)
class Decomposition:
    """W = U Σ Vᵀ with singular values in falling order; columns of U and V beyond the rank are of no use."""

    U: Float[Tensor, "d_out n"]
    S2: Float[Tensor, " n"]
    V: Float[Tensor, "d_in n"]

    def k(self, epsilon: float) -> int:
        """k = min{k : Σ_{i>k} σᵢ² / Σ σᵢ² ≤ ε²} (A.7)."""
        if not 0 < epsilon < 1:
            raise TuningVecError(f"epsilon is {epsilon}; it must lie between 0 and 1")
        tail = 1 - torch.cumsum(self.S2, 0) / self.S2.sum()
        return int(torch.nonzero(tail <= epsilon**2)[0, 0]) + 1


def decompose(W: Float[Tensor, "d_out d_in"]) -> Decomposition:
    """The singular value decomposition of W, in float64, from the eigenvectors of its smaller Gram matrix.

    The other side follows as U = W V / σ (or V = Wᵀ U / σ), exact for every σ that ε can ask for.
    """
    W = W.double()
    if W.shape[0] > W.shape[1]:
        turned = decompose(W.T)
        return Decomposition(turned.V, turned.S2, turned.U)
    S2, U = torch.linalg.eigh(W @ W.T)
    S2, U = S2.flip(0).clamp(min=0), U.flip(1)
    V = W.T @ U / S2.sqrt().clamp(min=torch.finfo(S2.dtype).tiny)
    return Decomposition(U, S2, V)


def alignment(basis: Decomposition, T: Matrix, epsilons: Sequence[float]) -> list[dict[str, float]]:
    """SSA and energies of T against the top-k subspace of W with their null, for each ε.

    E_par = ‖U_k U_kᵀ T‖²_F, E_perp = ‖T‖²_F − E_par, SSA = E_par / ‖T‖²_F, the squared ratio that the paper's tables
    hold; SSA_V the same from the right with V_k, SSA_UV with both. null = k/d_out is the mean of SSA when T is
    rotated on its left at random, null_sd its spread; excess = (SSA − null) / (1 − null), z = (SSA − null) / null_sd,
    both NaN where the subspace is the whole space. A low-rank T is never built.
    """
    ks = [basis.k(epsilon) for epsilon in epsilons]
    B, A = T if isinstance(T, Factors) else (T, None)
    d_out, d_in = len(B), A.shape[1] if A is not None else B.shape[1]
    left, right, both = _captured(basis, B, A, ks)
    total, squares = _moments(B, A)
    rows = []
    for k, E_par, from_right, from_both in zip(ks, left, right, both, strict=True):
        SSA, null, null_sd = E_par / total, k / d_out, _null_sd(squares / total**2, d_out, k)
        rows.append(dict(
            k=k, d_out=d_out, d_in=d_in, E_par=E_par, E_perp=total - E_par,
            SSA=SSA, null=null, null_sd=null_sd,
            excess=(SSA - null) / (1 - null) if k < d_out else math.nan,
            z=(SSA - null) / null_sd if null_sd > 0 else math.nan,
            SSA_V=from_right / total, null_V=k / d_in,
            SSA_UV=from_both / total, null_UV=k * k / (d_out * d_in),
        ))  # fmt: skip
    return rows


def _captured(
    basis: Decomposition, B: Float[Tensor, "d_out r"], A: Float[Tensor, "r d_in"] | None, ks: Sequence[int]
) -> tuple[list[float], list[float], list[float]]:
    """‖U_kᵀ T‖², ‖T V_k‖² and ‖U_kᵀ T V_k‖² for each k; T = B A, or B."""
    most = max(ks)
    U, V = basis.U[:, :most].to(B.dtype), basis.V[:, :most].to(B.dtype)
    left = U.T @ B  # (k, r) or (k, d_in)
    right = V if A is None else A @ V  # (d_in, k) or (r, k)
    from_right = B @ V if A is None else right
    both = left @ right  # (k, k)
    row_energy = _sum(left**2 if A is None else (left @ (A @ A.T)) * left, 1)
    column_energy = _sum(from_right**2 if A is None else (B.T @ B @ right) * right, 0)
    return (
        [row_energy[:k].sum().item() for k in ks],
        [column_energy[:k].sum().item() for k in ks],
        [_sum(both[:k, :k] ** 2).item() for k in ks],
    )


def _moments(B: Float[Tensor, "d_out r"], A: Float[Tensor, "r d_in"] | None) -> tuple[float, float]:
    """‖T‖²_F and ‖T Tᵀ‖²_F of T = B A, or of T = B."""
    if A is not None:
        product = B.T @ B @ (A @ A.T)  # (r, r)
        return product.trace().item(), _sum(product * product.T).item()
    gram = B @ B.T if len(B) <= B.shape[1] else B.T @ B
    return _sum(B**2).item(), _sum(gram**2).item()


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
    pretrained: Checkpoint, vectors: Mapping[str, Combination], epsilons: Sequence[float] = (0.05,)
) -> pd.DataFrame:
    """`alignment` of every vector in every matrix of the model, one decomposition of W for all vectors and ε.

    Columns vector, layer, kind, epsilon and those of `alignment`. A vector without a matrix has no row for it.
    """
    rows = []
    for component, tensors in parts({"": Combination({pretrained: 1}), **vectors}, pretrained, "subspaces", MATRICES):
        basis = decompose(tensors.pop(""))
        for label, T in tensors.items():
            if all(torch.any(factor) for factor in (T if isinstance(T, Factors) else (T,))):
                place = dict(vector=label, layer=component.layer, kind=component.kind)
                measured = alignment(basis, T, epsilons)
                rows += [{**place, "epsilon": e, **row} for e, row in zip(epsilons, measured, strict=True)]
    return pd.DataFrame(rows)


def over_layers(table: pd.DataFrame) -> pd.DataFrame:
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


def _in_order(column: pd.Series) -> pd.Series:
    """Kinds in the paper's order instead of the alphabet's."""
    return column.map(MATRICES.index) if column.name == "kind" else column
