"""Ways to compose tuning vectors other than to add them up: one summand each, made matrix by matrix.

A rule takes the same tensor of every vector and gives that of the composed one. Rules of elements take every tensor
whole. Rules of matrices take the seven matrices of a layer; of what is no such matrix, norms, biases, embedding and
head, they take the sum.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from tuningvec.errors import TuningVecError
from tuningvec.store import Record, Rows, Store
from tuningvec.weights.checkpoint import ALL, Checkpoint, Term
from tuningvec.weights.components import MATRICES, Component
from tuningvec.weights.delta import RANK_FROM, Combination, Factors, Matrix, by_matrix, dense, identities, places
from tuningvec.weights.engine import device, device_name
from tuningvec.weights.subspace import FLOAT64_UP_TO, changed

if TYPE_CHECKING:
    import pandas

CHANCE = 0.05  # that a random rotation shares a direction of a matrix


@runtime_checkable
class Rule(Protocol):
    """How tensors of several vectors, by label, become one; `elements` tells a rule of elements from one of matrices.

    Its text names its parameters: of two rules with the same text the composed tensors are the same.
    """

    elements: ClassVar[bool]

    def __call__(self, found: Mapping[str, Matrix], name: str) -> Float32[Tensor, "..."]: ...


@dataclass(frozen=True)
class Ties:
    """TIES (Yadav et al. 2023, arXiv 2306.01708): trim, elect a sign, take the mean of those that have it.

    Of each tensor of each vector the `density` largest entries in size stay. The elected sign of a place is that of
    the sum there, plus where that is 0; the mean is over the vectors whose entry is not 0 and has that sign. Raises
    TuningVecError for a density outside (0, 1].
    """

    density: float
    elements: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise TuningVecError(f"density is {self.density}; it is a share of entries, above 0 and at most 1")

    def __str__(self) -> str:
        return f"TIES, density {self.density:g}"

    def __call__(self, found: Mapping[str, Matrix], name: str) -> Float32[Tensor, "..."]:
        trimmed = [_trimmed(dense(T), self.density) for T in found.values()]
        elected = torch.where(sum(trimmed) >= 0, 1.0, -1.0)
        total, count = torch.zeros_like(elected), torch.zeros_like(elected)
        for T in trimmed:
            agrees = T * elected > 0
            total += T * agrees
            count += agrees
        return total / count.clamp(min=1)


def _trimmed(T: Float32[Tensor, "..."], density: float) -> Float32[Tensor, "..."]:
    """T with all but the largest entries in size set to 0; entries as large as the smallest of these stay as well."""
    size = T.abs()
    smaller = size.numel() - max(1, int(density * size.numel()))
    return T if smaller <= 0 else T * (size >= size.flatten().kthvalue(smaller + 1).values)


@dataclass(frozen=True)
class Dare:
    """DARE (Yu et al. 2024, arXiv 2311.03099) and the sum: entries are dropped by chance, those left grow.

    T̃ = M ∘ T / (1 − `dropped`) with independent M of mean 1 − dropped, so that E[T̃] = T; drawn anew for each vector and
    tensor, the same for the same seed. Raises TuningVecError for a share outside [0, 1).
    """

    dropped: float
    seed: int
    elements: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.dropped < 1:
            raise TuningVecError(f"dropped is {self.dropped}; it is a share of entries, at least 0 and below 1")

    def __str__(self) -> str:
        return f"DARE, dropped {self.dropped:g}, seed {self.seed}"

    def __call__(self, found: Mapping[str, Matrix], name: str) -> Float32[Tensor, "..."]:
        return torch.stack([self._thinned(dense(T), f"{label} {name}") for label, T in found.items()]).sum(0)

    def _thinned(self, T: Float32[Tensor, "..."], place: str) -> Float32[Tensor, "..."]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {place}".encode()))
        return T * (torch.rand(T.shape, generator=generator) >= self.dropped) / (1 - self.dropped)


class Spectrum(NamedTuple):
    """T = U diag(S) Vᵀ with the singular values that are more than rounding, in falling order."""

    U: Float[Tensor, "d_out r"]
    S: Float[Tensor, " r"]
    V: Float[Tensor, "d_in r"]

    @property
    def product(self) -> Float32[Tensor, "d_out d_in"]:
        return ((self.U * self.S) @ self.V.T).float().cpu()


def spectrum(T: Matrix) -> Spectrum:
    """The singular value decomposition of T; of a low-rank T = B A through its thin factors.

    In float64, of a full T with more than FLOAT64_UP_TO rows and columns in float32.
    """
    if isinstance(T, Factors):
        (left, upper), (right, lower) = (torch.linalg.qr(x.double()) for x in (T.B, T.A.T))
        U, S, Vh = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        U, V = left @ U, right @ Vh.T
    else:
        where = T.to(device())
        U, S, Vh = torch.linalg.svd(where.double() if min(T.shape) <= FLOAT64_UP_TO else where, full_matrices=False)
        V = Vh.T
    rank = int(torch.sum(RANK_FROM * S[0] < S)) if len(S) else 0
    return Spectrum(U[:, :rank], S[:rank], V[:, :rank])


def _nearest_frame(X: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
    """P Qᵀ of X = P S Qᵀ: of independent columns the nearest orthonormal ones; what repeats makes up no others."""
    if not X.shape[1]:
        return X
    P, S, Qh = torch.linalg.svd(X, full_matrices=False)
    rank = int(torch.sum(RANK_FROM * S[0] < S))
    return P[:, :rank] @ Qh[:rank]


@dataclass(frozen=True)
class TSV:
    """TSV-Merge (Gargiulo et al. 2025, arXiv 2412.00081): each T cut to its leading directions, these then whitened.

    The first `kept` of the singular values of each T stay, rounded up. Their left vectors stand side by side in U, the
    right ones in V, and U diag(S) Vᵀ is formed with the nearest frames of U and of V, so that no direction of one T
    has a part in those of another. Raises TuningVecError for a share outside (0, 1].
    """

    kept: float
    elements: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.kept <= 1:
            raise TuningVecError(f"kept is {self.kept}; it is a share of singular values, above 0 and at most 1")

    def __str__(self) -> str:
        return f"TSV-Merge, kept {self.kept:g}"

    def __call__(self, found: Mapping[str, Matrix], name: str) -> Float32[Tensor, "d_out d_in"]:
        parts = []
        for one in map(spectrum, found.values()):
            k = math.ceil(self.kept * len(one.S))
            parts.append((one.U[:, :k], one.S[:k], one.V[:, :k]))
        U, S, V = (torch.cat(x, -1) for x in zip(*parts, strict=True))
        return Spectrum(_nearest_frame(U), S, _nearest_frame(V)).product


@dataclass(frozen=True)
class Isotropic:
    """Iso-C (Marczak et al. 2025, arXiv 2502.04959): the sum with its spectrum made flat, σ̄ U Vᵀ.

    σ̄ is the mean of the sum's singular values that are not 0, so that their sum stays.
    """

    elements: ClassVar[bool] = False

    def __str__(self) -> str:
        return "Iso-C"

    def __call__(self, found: Mapping[str, Matrix], name: str) -> Float32[Tensor, "d_out d_in"]:
        U, S, V = spectrum(_added(found))
        return Spectrum(U, S.mean().expand_as(S) if len(S) else S, V).product


def _added(found: Mapping[str, Matrix]) -> Matrix:
    """Σ T, of thin factors side by side."""
    parts = list(found.values())
    if all(isinstance(T, Factors) for T in parts):
        return Factors(torch.cat([T.B for T in parts], 1), torch.cat([T.A for T in parts]))
    return torch.stack([dense(T) for T in parts]).sum(0)


@dataclass(frozen=True)
class Shared:
    """The sum, with what each T shares with the others counted by `weight`: Σ_a T_a − (1 − weight) S_a.

    S_a = P_a T_a Q_a is what T_a maps from shared directions of the input to shared directions of the output
    (`shared_part`). At weight 0 no T has a part where another is; at 1/n what n vectors share is counted once; at 1 it
    is the sum. Raises TuningVecError for a weight outside [0, 1].
    """

    weight: float
    elements: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise TuningVecError(f"weight is {self.weight}; it must lie between 0 and 1")

    def __str__(self) -> str:
        return f"shared part, weight {self.weight:g}"

    def __call__(self, found: Mapping[str, Matrix], name: str) -> Float32[Tensor, "d_out d_in"]:
        spectra = {label: spectrum(T) for label, T in found.items()}
        total = dense(_added(found))
        for label, one in spectra.items():
            others = [other for name, other in spectra.items() if name != label]
            total = total - (1 - self.weight) * shared_part(one, others).float().cpu()
        return total


def shared_part(own: Spectrum, others: Sequence[Spectrum], chance: float = CHANCE) -> Float[Tensor, "d_out d_in"]:
    """S = P T Q, with P and Q the projectors on the output and the input directions that T shares with others."""
    P = _shared(own.U * own.S, [(other.U, other.S) for other in others], chance)
    Q = _shared(own.V * own.S, [(other.V, other.S) for other in others], chance)
    return P @ (P.T @ (own.U * own.S)) @ (own.V.T @ Q) @ Q.T


def _shared(
    own: Float[Tensor, "d r"], others: Sequence[tuple[Float[Tensor, "d s"], Float[Tensor, " s"]]], chance: float
) -> Float[Tensor, "d m"]:
    """A basis of the singular directions u of others in which both they and T have more than chance gives.

    The other has more than the even share of its energy in u, σ² / ‖T_b‖² > 1/d, and T has a share ‖uᵀT‖² / ‖T‖² that
    R T, R a random rotation, exceeds in any of the matrix's directions with probability `chance` at most (Bonferroni;
    `largest_share`). `own` are the singular vectors of T times its singular values.
    """
    d, total = len(own), torch.sum(own**2)
    candidates = [U[:, torch.sum(S**2) / d < S**2] for U, S in others if len(S)]
    count = sum(U.shape[1] for U in candidates)
    if not count or not total:
        return own.new_zeros(d, 0)
    limit = largest_share(torch.sum(own**2, 0) / total, d, chance / count)
    chosen = torch.cat([U[:, torch.sum((U.T @ own) ** 2, 1) / total > limit] for U in candidates], 1)
    basis, sizes, _ = torch.linalg.svd(chosen, full_matrices=False)
    return basis[:, sizes > RANK_FROM]


def largest_share(weights: Float[Tensor, " r"], d: int, chance: float) -> float:
    """The share of ‖T‖² that a direction holds of R T with probability `chance` at most, R a random rotation of d.

    `weights` are the squared singular values of T, scaled to sum to 1. The share is Σ wⱼ gⱼ² / Σ gᵢ² with standard
    normal g: mean 1/d and variance v (d Σ wⱼ² − 1) / (d − 1) with v = 2 (d − 1) / (d² (d + 2)). The limit is that of
    the Beta distribution with this mean and variance, which for one singular value is the exact one.
    """
    from scipy.stats import beta

    uneven = d * torch.sum(weights**2).item() - 1
    if uneven < 1e-6:  # the same in every direction
        return 1.0
    variance = 2 * uneven / (d**2 * (d + 2))
    size = (1 / d) * (1 - 1 / d) / variance - 1
    return float(beta.isf(chance, size / d, size * (1 - 1 / d)))


class Merge:
    """Tuning vectors composed by a rule, as one summand.

    `matrices` holds the rows of each matrix by tensor (`matrix_rows`); memory is that of one tensor of each vector.
    """

    def __init__(
        self, vectors: Mapping[str, Combination], rule: Rule, matrices: Mapping[str, Sequence[slice]] | None = None
    ):
        self.vectors, self.rule, self.matrices = dict(vectors), rule, matrices or {}
        self.shapes = {name: shape for T in self.vectors.values() for name, shape in T.shapes.items()}
        self._known = "", torch.empty(0)

    @property
    def files(self) -> list[Path]:
        """What all vectors are read from."""
        return [file for T in self.vectors.values() for term in T.terms for file in getattr(term, "files", [])]

    @property
    def drawn(self) -> str:
        """What tells it from others of the same files."""
        each = {label: [[_told(term), c] for term, c in T.terms.items()] for label, T in self.vectors.items()}
        return f"{self.rule} (of {each})"

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."]:
        known, whole = self._known
        if known != name:  # rows of one tensor are asked for one after the other
            whole = self._composed(name)
            self._known = name, whole
        some = whole[rows]
        return some.clone() if out is None else out.copy_(some)

    def _composed(self, name: str) -> Float32[Tensor, "..."]:
        holding = {label: T for label, T in self.vectors.items() if name in T.shapes}
        if self.rule.elements:
            return self.rule({label: T.read(name) for label, T in holding.items()}, name)
        if name not in self.matrices:
            return torch.stack([T.read(name) for T in holding.values()]).sum(0)
        whole = torch.empty(self.shapes[name])
        for rows in self.matrices[name]:
            found = {label: T.factors(name, rows) or T.read(name, rows) for label, T in holding.items()}
            whole[rows] = self.rule(found, name)
        return whole

    def __repr__(self) -> str:
        return f"Merge({', '.join(self.vectors)}; {self.rule})"


def _told(term: Term) -> str:
    """What tells a summand beside its files."""
    return getattr(term, "drawn", "" if hasattr(term, "files") else repr(term))


def matrix_rows(vectors: Mapping[str, Combination], like: Checkpoint) -> dict[str, list[slice]]:
    """The rows of each of the seven matrices of a layer that some vector has, by tensor."""
    found: dict[str, list[slice]] = {}
    for tensor, component in places(vectors, like, MATRICES):
        found.setdefault(tensor, []).append(component.rows or ALL)
    return found


def shared_energy(
    vectors: Mapping[str, Combination], like: Checkpoint, seed: int = 0, store: Store | None = None
) -> "pandas.DataFrame":
    """How much of every T is shared with the others (`shared_part`), by matrix, and how much of a turned T.

    Columns vector, layer, kind, energy = ‖T‖², shared = ‖S‖², turned, that of R T with a random rotation R of its own.
    With a store, matrices that were measured before are not measured again.
    """
    record = Record()
    if store:
        inputs = dict(weights=identities(vectors, store), seed=seed)
        record = store.record("shared", inputs, __name__, device_name())
    measure = partial(_energies, seed=seed)
    return by_matrix(record, vectors, places(vectors, like, MATRICES), measure, "shared parts")


def _energies(component: Component, matrices: dict[str, Matrix], seed: int) -> Rows:
    spectra, rows = {label: spectrum(T) for label, T in changed(matrices)}, []
    for label, own in spectra.items():
        others = [other for name, other in spectra.items() if name != label]
        place = dict(vector=label, layer=component.layer, kind=component.kind)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {list(place.values())}".encode()))
        drawn = torch.randn(own.U.shape, generator=generator, dtype=torch.float64)
        turned = own._replace(U=torch.linalg.qr(drawn).Q.to(own.U))  # a uniform frame, as R U is
        found = dict(energy=own.S, shared=shared_part(own, others), turned=shared_part(turned, others))
        rows.append(place | {name: torch.sum(x**2, dtype=torch.float64).item() for name, x in found.items()})
    return rows
