"""What subspace alignment is without a reason: nulls that keep more of W and of T than a rotation does."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from tuningvec.store import Record, Rows, Store
from tuningvec.weights.checkpoint import ALL, Checkpoint
from tuningvec.weights.components import MATRICES, Component
from tuningvec.weights.delta import Combination, Factors, Matrix, by_matrix, dense, identities, places
from tuningvec.weights.engine import device, device_name
from tuningvec.weights.subspace import Decomposition, alignment, changed, decompose, energies

if TYPE_CHECKING:
    import pandas

NEURONS = ("W_gate", "W_up")  # matrices whose rows are neurons, which stand in no order
NOTHING = 1e-9  # of ‖T‖²: what is left of a multiple of W is rounding


def alignment_nulls(
    pretrained: Checkpoint,
    vectors: Mapping[str, Combination],
    epsilon: float = 0.05,
    draws: int = 99,
    seed: int = 0,
    store: Store | None = None,
) -> "pandas.DataFrame":
    """SSA of every vector in every matrix beside that of T less W, of T with its rows shuffled, and of other layers' T.

    Columns vector, layer, kind, epsilon and those of `alignment`; cos_W = ⟨T, W⟩ / (‖T‖ ‖W‖), and SSA_less_W,
    E_par_less_W, E_perp_less_W, null_sd_less_W of T − ⟨T, W⟩ W / ‖W‖², NaN where nothing is left; rows, the mean of SSA
    over all orders of the rows of T, and rows_sd, its spread over `draws` of them, NaN where rows are no neurons; and
    layers, SSA in this U_k of the T of the layer 1, 2, … before this one, the last preceding the first, NaN where that
    is 0. With a store, matrices that were measured before are not measured again.
    """
    every = {"": Combination({pretrained: 1}), **vectors}
    where = places(every, pretrained, MATRICES)
    record = Record()
    if store:
        inputs = dict(epsilon=epsilon, draws=draws, seed=seed, weights=identities(every, store))
        record = store.record("nulls", inputs, __name__, device_name())
    return by_matrix(record, every, where, _Nulls(vectors, where, epsilon, draws, seed).rows, "nulls")


@dataclass
class _Nulls:
    vectors: Mapping[str, Combination]
    where: Sequence[tuple[str, Component]]
    epsilon: float
    draws: int
    seed: int
    _thin: dict[tuple[str, str, str], Factors | None] = field(default_factory=dict)

    def rows(self, component: Component, matrices: dict[str, Matrix]) -> Rows:
        """The rows of one matrix, for every vector that changes it; on a GPU where there is one."""
        W = dense(matrices.pop("")).to(device())
        basis, found = decompose(W), []
        for label, T in changed(matrices):
            (plain,) = alignment(basis, T, [self.epsilon])
            row = dict(vector=label, layer=component.layer, kind=component.kind, epsilon=self.epsilon) | plain
            row |= _less(basis, T, W, self.epsilon) | dict(rows=math.nan, rows_sd=math.nan)
            if component.kind in NEURONS:
                row |= _shuffled(basis, T, self.epsilon, self.draws, self.seed)
            others = (_SSA(basis, other, self.epsilon) for other in self._before(label, component))
            found.append(row | dict(layers=list(others)))
        return found

    def _before(self, label: str, component: Component) -> Iterator[Matrix | None]:
        """This vector's matrices of the same kind in the layers before, the nearest first, then from the last on."""
        same = sorted((c.layer, name, c) for name, c in self.where if c.kind == component.kind)
        at = [layer for layer, *_ in same].index(component.layer)
        for _, name, c in [*same[:at][::-1], *same[at + 1 :][::-1]]:
            key, rows = (label, name, c.kind), c.rows or ALL
            if key not in self._thin:  # of low rank all are kept, so that each is read once
                self._thin[key] = self.vectors[label].factors(name, rows)
            matrix = self._thin[key] or self.vectors[label].read(name, rows)
            yield next((T for _, T in changed({label: matrix})), None) if matrix is not None else None


def _SSA(basis: Decomposition, T: Matrix | None, epsilon: float) -> float:
    return math.nan if T is None else energies(basis, T, [epsilon])[0]["SSA"]


def _less(basis: Decomposition, T: Matrix, W: Float[Tensor, "d_out d_in"], epsilon: float) -> dict[str, float]:
    """cos(T, W), and what alignment is of T less its part along W."""
    T = dense(T)
    size, inner, TT = (torch.sum(one * other, dtype=torch.float64).item() for one, other in ((W, W), (T, W), (T, T)))
    rest, names = T - W * (inner / size), ("SSA", "E_par", "E_perp", "null_sd")
    found = dict.fromkeys(names, math.nan)
    if torch.sum(rest**2, dtype=torch.float64) > NOTHING * TT:
        (found,) = alignment(basis, rest, [epsilon])
    return {"cos_W": inner / (size * TT) ** 0.5, **{f"{name}_less_W": found[name] for name in names}}


def _shuffled(basis: Decomposition, T: Matrix, epsilon: float, draws: int, seed: int) -> dict[str, float]:
    """Mean and spread of SSA over orders of the rows tᵢ of T.

    With P = U_kU_kᵀ the mean is k/d + (1ᵀP1 − k)(‖Σtᵢ‖² − ‖T‖²) / (d(d − 1)‖T‖²); the spread is that of so many draws.
    """
    B, A = T if isinstance(T, Factors) else (T, None)
    (found,) = energies(basis, T, [epsilon])
    d, k, TT = len(B), found["k"], found["E_par"] + found["E_perp"]
    ones = torch.sum(torch.sum(basis.U[:, :k], 0, dtype=torch.float64) ** 2).item()  # 1ᵀP1
    summed = torch.sum(B, 0, dtype=torch.float64) if A is None else torch.sum(B, 0, dtype=torch.float64) @ A.double()
    mean = k / d + (ones - k) * (torch.sum(summed**2).item() - TT) / (d * (d - 1) * TT)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(draws):
        order = torch.randperm(d, generator=generator).to(B.device)
        drawn.append(_SSA(basis, B[order] if A is None else Factors(B[order], A), epsilon))
    return dict(rows=mean, rows_sd=torch.tensor(drawn, dtype=torch.float64).std().item())
