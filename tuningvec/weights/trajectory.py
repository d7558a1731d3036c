"""The path that training takes through the weights, read off the inner products of its checkpoints.

T_t is the tuning vector after step t; a path starts at T = 0. `gram` holds ⟨T_t, T_u⟩ of the checkpoints in the order
of their steps, the last is the end; 0 itself is no row of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Gram = Float[np.ndarray, "steps steps"]
Each = Float[np.ndarray, " steps"]


class Places(NamedTuple):
    """Where each checkpoint lies to the straight line from 0 to the end.

    cosine = cos(T_t, T_end); distance = ‖T_t − ⟨T_t, T_end⟩ T_end / ‖T_end‖²‖ / ‖T_end‖; onward = cos(T_t, T_end − T_t)
    with what is still to come, NaN at the end.
    """

    cosine: Each
    distance: Each
    onward: Each


class Form(NamedTuple):
    """A path as a whole: its length over ‖T_end‖, and the participation ratio of its increments.

    With the eigenvalues e_i of the Gram matrix of the increments, dimension = (Σ e_i)² / Σ e_i².
    """

    length: float
    dimension: float


def increments(gram: Gram) -> Gram:
    """⟨D_i, D_j⟩ of the increments D_i between one checkpoint and the next, the first from 0."""
    steps = np.eye(len(gram)) - np.eye(len(gram), k=-1)
    return steps @ gram @ steps.T


def walk(gram: Gram) -> Gram:
    """The null: the Gram matrix of a walk with increments of the same lengths, each orthogonal to all others.

    Then ⟨T_t, T_u⟩ = Σ_{i ≤ min(t, u)} ‖D_i‖². With q = ‖T_t‖² / ‖T_end‖² its cosine is √q, its distance √(q (1 − q)),
    and onward 0; its length is Σ ‖D_i‖ / √Σ ‖D_i‖², its dimension (Σ ‖D_i‖²)² / Σ ‖D_i‖⁴.
    """
    reached = np.cumsum(np.diag(increments(gram)))
    return np.minimum.outer(reached, reached)


def places(gram: Gram) -> Places:
    """Where the checkpoints lie; NaN where T_t or T_end is 0."""
    square, inner, end = np.diag(gram), gram[:, -1], gram[-1, -1]
    rest = square - 2 * inner + end  # ‖T_end − T_t‖²
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = inner / np.sqrt(square * end)
        distance = np.sqrt(np.maximum(square - inner**2 / end, 0) / end)
        onward = np.where(rest > 0, (inner - square) / np.sqrt(square * np.where(rest > 0, rest, np.nan)), np.nan)
    return Places(cosine, distance, onward)


def form(gram: Gram) -> Form:
    """Length and dimension; NaN where nothing moved."""
    between = increments(gram)
    square = np.diag(between).clip(min=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        length = np.sqrt(square).sum() / np.sqrt(gram[-1, -1])
        dimension = square.sum() ** 2 / np.sum(between**2)  # Σ e_i² = ‖⟨D_i, D_j⟩‖²
    return Form(float(length), float(dimension))


def later(gram: Gram, steps: Sequence[int], apart: int) -> Each:
    """cos(T_t, T_end − T_u), u the first kept step at least `apart` after t; NaN where there is none before the end.

    0 of a walk, also of one whose neighbouring steps are alike for as long as an optimiser's momentum lasts.
    """
    found, end = np.full(len(steps), np.nan), gram[-1, -1]
    for i, step in enumerate(steps):
        if (u := int(np.searchsorted(steps, step + apart))) < len(steps) - 1:
            rest = gram[u, u] - 2 * gram[u, -1] + end
            found[i] = (gram[i, -1] - gram[i, u]) / np.sqrt(gram[i, i] * rest) if rest > 0 else np.nan
    return found
