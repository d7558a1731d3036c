"""Over how many directions a tuning vector is spread, and which leading directions of fine-tuned weights are new."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from tuningvec.store import Record, Rows, Store
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.components import MATRICES, Component
from tuningvec.weights.delta import Combination, Matrix, by_matrix, dense, identities, places
from tuningvec.weights.engine import device, device_name
from tuningvec.weights.subspace import changed, decompose

if TYPE_CHECKING:
    import pandas


def spectra(
    pretrained: Checkpoint,
    vectors: Mapping[str, Combination],
    rank: int = 8,
    top: int = 10,
    near: float = 0.6,
    store: Store | None = None,
) -> "pandas.DataFrame":
    """The spectrum of every T in every matrix, and the intruder dimensions of W + T, a row each.

    Columns vector, layer, kind; leading = Σ_{i ≤ rank} σᵢ² / ‖T‖²; stable = ‖T‖² / σ₁², the stable rank; intruders, how
    many of the first `top` left singular vectors of W + T have no |cosine| of at least `near` with any of W
    (Shuttleworth et al. 2024, arXiv 2410.21228). With a store, matrices that were measured before are not measured
    again; `attrs["runs"]` tells when and on what they were.
    """
    every = {"": Combination({pretrained: 1}), **vectors}
    record = Record()
    if store:
        inputs = dict(rank=rank, top=top, near=near, weights=identities(every, store))
        record = store.record("spectra", inputs, __name__, device_name())
    measure = partial(_measured, rank=rank, top=top, near=near)
    return by_matrix(record, every, places(every, pretrained, MATRICES), measure, "spectra")


def _measured(component: Component, matrices: dict[str, Matrix], rank: int, top: int, near: float) -> Rows:
    W = dense(matrices.pop("")).to(device())
    U, rows = decompose(W).U, []
    for label, matrix in changed(matrices):
        T = dense(matrix)
        S2, tuned = decompose(T).S2, decompose(W + T).U[:, :top]
        nearest = (U.T.to(tuned.dtype) @ tuned).abs().amax(0)
        spread = dict(leading=(S2[:rank].sum() / S2.sum()).item(), stable=(S2.sum() / S2[0]).item())
        place = dict(vector=label, layer=component.layer, kind=component.kind)
        rows.append(place | spread | dict(intruders=int(torch.sum(nearest < near))))
    return rows
