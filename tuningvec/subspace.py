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
from tuningvec.delta import Combination, parts
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


def alignment(basis: Decomposition, T: Float[Tensor, "d_out d_in"], epsilon: float) -> dict[str, float]:
    """SSA and energies of T against the top-k subspace of W, with their null.

    E_par = ‖U_k U_kᵀ T‖²_F, E_perp = ‖T‖²_F − E_par, SSA = E_par / ‖T‖²_F, the squared ratio that the paper's tables
    hold; SSA_V the same from the right with V_k, SSA_UV with both. null = k/d_out is the mean of SSA when T is
    rotated on its left at random, null_sd its spread; excess = (SSA − null) / (1 − null), z = (SSA − null) / null_sd,
    both NaN where the subspace is the whole space.
    """
    d_out, d_in = T.shape
    k = basis.k(epsilon)
    T = T.double()
    total = torch.sum(T**2).item()
    left = basis.U[:, :k].T @ T  # (k, d_in)
    E_par = torch.sum(left**2).item()
    null = k / d_out
    null_sd = _null_sd(T, total, k)
    SSA = E_par / total
    return dict(
        k=k, d_out=d_out, d_in=d_in, E_par=E_par, E_perp=total - E_par,
        SSA=SSA, null=null, null_sd=null_sd,
        excess=(SSA - null) / (1 - null) if k < d_out else math.nan,
        z=(SSA - null) / null_sd if null_sd > 0 else math.nan,
        SSA_V=torch.sum((T @ basis.V[:, :k]) ** 2).item() / total, null_V=k / d_in,
        SSA_UV=torch.sum((left @ basis.V[:, :k]) ** 2).item() / total, null_UV=k * k / (d_out * d_in),
    )  # fmt: skip


def _null_sd(T: Float[Tensor, "d_out d_in"], total: float, k: int) -> float:
    """Standard deviation of SSA over random left rotations R T.

    The captured share of a unit direction is Beta(k/2, (d−k)/2), of variance v = 2k(d−k) / (d²(d+2)); shares of d
    orthogonal directions add to k, so with weights wᵢ = sᵢ²/‖T‖² the variance is v (d Σwᵢ² − 1) / (d − 1).
    """
    d = len(T)
    small = T @ T.T if d <= T.shape[1] else T.T @ T
    squares = torch.sum(small**2).item() / total**2  # Σ wᵢ²
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
            if torch.any(T):
                place = dict(vector=label, layer=component.layer, kind=component.kind)
                rows += [{**place, "epsilon": e, **alignment(basis, T, e)} for e in epsilons]
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
