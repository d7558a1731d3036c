"""Tuning vectors T = θ_ft − θ_pre as linear combinations of weights on disk (paper §3)."""

import itertools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float32, Float64
from torch import Tensor
from tqdm import tqdm

from tuningvec.errors import TuningVecError
from tuningvec.store import Record, Rows, Store, Told
from tuningvec.weights import cluster
from tuningvec.weights.checkpoint import ALL, Checkpoint, LowRank, Term, sliced, write_checkpoint
from tuningvec.weights.components import KINDS, MATRICES, Component, components
from tuningvec.weights.engine import share
from tuningvec.weights.shards import PIECE

if TYPE_CHECKING:
    import pandas

BLOCK = 2**14  # products summed in float32 before float64 takes over
RANK_FROM = 1e-6  # of the largest singular value of a float32 factor; what is smaller is rounding
WHOLE = 1 - 1e-4  # share of a vector in the rows of another from which rounding alone keeps it from being whole


class Factors(NamedTuple):
    """A matrix of low rank, T = B A, that is never built."""

    B: Float32[Tensor, "d_out r"]
    A: Float32[Tensor, "r d_in"]


Matrix = Tensor | Factors


class Combination:
    """A linear combination Σ cᵢ θᵢ of weights, never held whole in memory.

    Coefficients of the same weights add up before anything is read, so that θ_ft − T is θ_pre and θ_pre + T is θ_ft bit
    for bit. Arithmetic is float32.
    """

    def __init__(self, terms: Mapping[Term, float]):
        self.terms = {term: c for term, c in terms.items() if c != 0}

    def __add__(self, other: "Combination") -> "Combination":
        merged = dict(self.terms)
        for term, c in other.terms.items():
            merged[term] = merged.get(term, 0) + c
        return type(self)(merged)

    def __neg__(self) -> "Combination":
        return -1 * self

    def __sub__(self, other: "Combination") -> "Combination":
        return self + -other

    def __rmul__(self, scale: float) -> "Combination":
        return type(self)({term: scale * c for term, c in self.terms.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Combination) and self.terms == other.terms

    __hash__ = None  # terms are compared, not hashed

    def __repr__(self) -> str:
        return " ".join(f"{c:+g}·{term!r}" for term, c in self.terms.items()) or "0"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that some term holds."""
        return {name: shape for term in self.terms for name, shape in term.shapes.items()}

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."] | None:
        """Σ cᵢ θᵢ[name], or some of its rows, or None where no term holds the tensor."""
        total = None
        for term, c in self.terms.items():
            if name not in term.shapes:
                continue
            if total is None:
                total = term.read(name, rows, out)
                if c != 1:
                    total.mul_(c)
            else:
                total.add_(term.read(name, rows), alpha=c)
        return total

    def combine(self, tensors: Mapping[Term, Tensor], out: Tensor | None = None) -> Float32[Tensor, "..."] | None:
        """The same of tensors that were read already."""
        here = [(tensors[term], c) for term, c in self.terms.items() if term in tensors]
        if len(here) > 1 and here[0][1] == 1:  # most vectors are a difference
            total = torch.add(here[0][0], here[1][0], alpha=here[1][1], out=out)
            here = here[2:]
        elif here:
            total = torch.mul(*here[0], out=out)
            here = here[1:]
        else:
            return None
        for tensor, c in here:
            total.add_(tensor, alpha=c)
        return total

    def factors(self, name: str, rows: slice = ALL) -> "Factors | None":
        """B and A with Σ cᵢ θᵢ[name] = B A, where every term that holds the tensor is low-rank; else None."""
        holding = [(term, c) for term, c in self.terms.items() if name in term.shapes]
        if not holding or not all(isinstance(term, LowRank) for term, _ in holding):
            return None
        pairs = [(c, *term.factors(name, rows)) for term, c in holding]
        return Factors(torch.cat([c * b for c, b, _ in pairs], 1), torch.cat([a for _, _, a in pairs]))

    def identity(self, store: Store) -> list[list[str | float]]:
        """Coefficients and checksums of what they stand before: the same for the same weights, wherever they lie."""
        return sorted([_identity(term, store), c] for term, c in self.terms.items())

    def write(
        self, folder: str | os.PathLike[str], like: Checkpoint, prompted_as: Checkpoint | None = None
    ) -> Checkpoint:
        """Write the combination as a checkpoint with the dtypes and config of `like`, in memory that does not grow.

        Tokenizer, generation config and chat template are those of `prompted_as`, or of `like`. Raises TuningVecError
        when it is not a model that fits `like`, the folder exists or the disk has no room.
        """
        if self.shapes != like.shapes:
            odd = _misfit(self.shapes, like.shapes)
            raise TuningVecError(f"{self!r} does not fit {like.folder}: {odd}; give the checkpoint it is built on")
        return write_checkpoint(folder, like, self.read, prompted_as)


def _identity(term: Term, store: Store) -> str:
    files = getattr(term, "files", None)
    if files is None:
        return repr(term)
    return " ".join(filter(None, [*(store.digest(file)[:24] for file in files), getattr(term, "drawn", "")]))


class TuningVector(Combination):
    """T = θ_ft − θ_pre (paper §3): negate, add, scale, and apply it to weights."""

    @classmethod
    def between(cls, pretrained: Combination, fine_tuned: Combination) -> "TuningVector":
        """T from two models of the same shapes; raises TuningVecError naming the first tensor that differs."""
        if pretrained.shapes != fine_tuned.shapes:
            odd = _misfit(pretrained.shapes, fine_tuned.shapes)
            raise TuningVecError(f"{fine_tuned!r} was not fine-tuned from {pretrained!r}: {odd}")
        return cls((fine_tuned - pretrained).terms)

    def apply_to(self, model: Combination, scale: float = 1.0) -> Combination:
        """θ + scale · T."""
        return model + scale * self


def _misfit(one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]]) -> str:
    name = min(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))
    shapes = [str(list(s[name])) if name in s else "absent" for s in (one, other)]
    return f"tensor {name} is {shapes[0]} in one and {shapes[1]} in the other"


def places(
    vectors: Mapping[str, Combination],
    like: Checkpoint,
    kinds: Collection[str] = KINDS,
    tensors: Collection[str] | None = None,
) -> list[tuple[str, Component]]:
    """The components of these kinds that some vector has, in all tensors or in these, each with its tensor."""
    names = dict.fromkeys(name for vector in vectors.values() for name in vector.shapes)
    found = (name for name in names if tensors is None or name in tensors)
    return [(name, c) for name in found for c in components(name, like.config) if c.kind in kinds]


def one_matrix(
    vectors: Sequence[Combination], like: Checkpoint
) -> tuple[str, Component, list[Float64[Tensor, "d_out d_in"]]]:
    """The first matrix that is nowhere 0 throughout: its tensor, which one it is, and what each of these holds of it.

    Raises TuningVecError where these weights have no such matrix in common.
    """
    for name, part in places({"": vectors[-1]}, like, MATRICES):
        found = [vector.read(name, part.rows or ALL) for vector in vectors]
        if all(matrix is not None and torch.any(matrix) for matrix in found):
            return name, part, [matrix.double() for matrix in found]
    raise TuningVecError(f"{' and '.join(map(repr, vectors))} have no matrix in common; compare others")


def _of_place(
    vectors: Mapping[str, Combination],
    measure: Callable[[Component, dict[str, Matrix]], Rows],
    place: tuple[str, Component],
) -> Rows:
    """What `measure` gives of a component and its matrix in each vector that has one; each tensor is read once."""
    name, component = place
    rows = component.rows or ALL
    found: dict[str, Matrix | None] = {label: vector.factors(name, rows) for label, vector in vectors.items()}
    dense = {label: vectors[label] for label, thin in found.items() if thin is None}
    terms = dict.fromkeys(term for vector in dense.values() for term in vector.terms if name in term.shapes)
    tensors = {term: term.read(name, rows) for term in terms}
    found |= {label: vector.combine(tensors) for label, vector in dense.items()}
    return measure(component, {label: matrix for label, matrix in found.items() if matrix is not None})


def by_matrix(
    record: Record,
    vectors: Mapping[str, Combination],
    where: Sequence[tuple[str, Component]],
    measure: Callable[[Component, dict[str, Matrix]], Rows],
    desc: str,
) -> "pandas.DataFrame":
    """The rows that `measure` gives of every component; those that the record holds are not measured again.

    `attrs["runs"]` tells when and on what they were.
    """
    import pandas as pd

    pieces = {f"{name} {component.kind}": (name, component) for name, component in where}
    work = partial(_of_place, vectors, measure)
    missing = [(piece, work, place) for piece, place in pieces.items() if piece not in record]
    for piece, rows in tqdm(cluster.each(missing), desc=desc, total=len(missing)):
        record.add(piece, rows)
    table = pd.DataFrame(record.rows(pieces))
    table.attrs["runs"] = Told(record.runs)
    return table


def identities(vectors: Mapping[str, Combination], store: Store) -> dict[str, Any]:
    """What the store knows each of these weights by."""
    return {label: vector.identity(store) for label, vector in vectors.items()}


def inner_products(
    vectors: Mapping[str, Combination], like: Checkpoint, tensors: Collection[str] | None = None
) -> "pandas.DataFrame":
    """Frobenius inner products of all pairs by component, in one pass over the files (paper A.4, before division).

    Columns a, b, kind, inner = ⟨A, B⟩ over all tensors, or over these: products in float32 over blocks of BLOCK, summed
    in float64. Memory does not grow with the tensors.
    """
    import pandas as pd

    labels = list(vectors)
    held = {label: {c.kind for n in v.shapes for c in components(n, like.config)} for label, v in vectors.items()}
    sums: dict[str, Float64[Tensor, "m m"]] = {}
    for part in share(_pieces(vectors, like, tensors), partial(_grams, list(vectors.values()))):
        for kind, gram in part.items():
            sums[kind] = sums[kind] + gram if kind in sums else gram
    rows = [
        (a, b, kind, gram[i, j].item())
        for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(labels), 2)
        for kind, gram in sums.items()
        if kind in held[a] and kind in held[b]
    ]
    return pd.DataFrame(rows, columns=["a", "b", "kind", "inner"])


class _Piece(NamedTuple):
    name: str
    kind: str
    rows: slice
    shape: tuple[int, ...]


def _pieces(
    vectors: Mapping[str, Combination], like: Checkpoint, tensors: Collection[str] | None = None
) -> list[_Piece]:
    """All tensors, or these, cut into rows of about PIECE elements together."""
    shapes = {name: shape for vector in vectors.values() for name, shape in vector.shapes.items()}
    found = []
    for name, component in places(vectors, like, tensors=tensors):
        step = max(1, PIECE // torch.Size(shapes[name][1:]).numel())
        first, last, _ = (component.rows or ALL).indices(shapes[name][0])
        cuts = [slice(i, min(i + step, last)) for i in range(first, last, step)]
        found += [_Piece(name, component.kind, rows, sliced(shapes[name], rows)) for rows in cuts]
    return found


def _grams(vectors: Sequence[Combination], pieces: Sequence[_Piece]) -> dict[str, Float64[Tensor, "m m"]]:
    """Inner products of all vectors over some pieces, by kind."""
    terms = list(dict.fromkeys(term for vector in vectors for term in vector.terms))
    width = max((torch.Size(piece.shape).numel() for piece in pieces), default=0)
    read, combined = torch.empty(len(terms), width), torch.empty(len(vectors), width)
    sums: dict[str, Float64[Tensor, "m m"]] = {}
    for piece in tqdm(pieces, desc="inner products"):
        size = torch.Size(piece.shape).numel()
        tensors = {term: row[:size] for term, row in zip(terms, read, strict=True) if piece.name in term.shapes}
        for term, row in tensors.items():
            term.read(piece.name, piece.rows, row.view(piece.shape))
        for vector, row in zip(vectors, combined, strict=True):
            if vector.combine(tensors, row[:size]) is None:
                row.zero_()
        gram = _gram(combined[:, :size])
        sums[piece.kind] = sums[piece.kind] + gram if piece.kind in sums else gram
    return sums


def _gram(X: Float32[Tensor, "m n"]) -> Float64[Tensor, "m m"]:
    """X Xᵀ, summed in float64 over blocks of columns."""
    whole = X.shape[1] // BLOCK * BLOCK
    blocks = X[:, :whole].unflatten(1, (-1, BLOCK)).transpose(0, 1)  # (blocks, m, BLOCK)
    rest = X[:, whole:].double()
    return torch.bmm(blocks, blocks.mT).sum(0, dtype=torch.float64) + rest @ rest.mT


def rotation_null(
    vectors: Mapping[str, Combination],
    like: Checkpoint,
    store: Store | None = None,
    tensors: Collection[str] | None = None,
) -> "pandas.DataFrame":
    """What chance gives ⟨A, B⟩ and what the rows of each leave to the other, for every pair of two, by component.

    Columns a, b, kind; null_variance = Σ ‖B Aᵀ‖²_F / d_out, the variance of ⟨RA, B⟩ when each matrix of A is rotated on
    its left by a random R of its own (the mean is 0); reach_a = Σ ‖A P_B‖²_F and reach_b = Σ ‖B P_A‖²_F, where P
    projects on the row space of the other's low-rank factor and is the identity for a full matrix. With a store,
    matrices that were measured before are not measured again; `attrs["runs"]` tells when and on what they were.
    """
    record = store.record("null", {"weights": identities(vectors, store)}, __name__) if store else Record()
    found = by_matrix(record, vectors, places(vectors, like, tensors=tensors), _pair_rows, "null")
    columns = ["a", "b", "kind", "null_variance", "reach_a", "reach_b"]
    table = found.reindex(columns=columns).groupby(columns[:3], sort=False).sum().reset_index()
    table.attrs["runs"] = found.attrs["runs"]
    return table


def _pair_rows(component: Component, matrices: dict[str, Matrix]) -> Rows:
    return [
        dict(
            a=a, b=b, kind=component.kind, null_variance=_rotated_variance(A, B),
            reach_a=_energy_in_rows(A, B), reach_b=_energy_in_rows(B, A),
        )
        for (a, A), (b, B) in itertools.combinations(matrices.items(), 2)
    ]  # fmt: skip


def _energy_in_rows(T: Matrix, other: Matrix) -> float:
    """‖T P‖²_F, with P the projector on the row space of `other`, or the identity where that is a full matrix."""
    B, A = T if isinstance(T, Factors) else (None, T)
    if isinstance(other, Factors):
        _, sizes, rows = torch.linalg.svd(other.A.double(), full_matrices=False)
        A = A @ rows[sizes > RANK_FROM * sizes[0]].T.to(A.dtype)  # the same energy in fewer columns
    if B is None:
        return torch.linalg.vector_norm(A, dtype=torch.float64).item() ** 2
    return torch.sum((B.T @ B) * (A @ A.T), dtype=torch.float64).item()


def _rotated_variance(a: Matrix, b: Matrix) -> float:
    """‖B Aᵀ‖²_F / d_out, through the smallest of the ways to write it."""
    if isinstance(a, Factors) and isinstance(b, Factors):
        middle = b.A @ a.A.T  # (r, r)
        return torch.sum((b.B.T @ b.B @ middle) * (middle @ (a.B.T @ a.B)), dtype=torch.float64).item() / len(a.B)
    a, b = (dense(m) for m in (a, b))
    a, b = (m.reshape(len(m), -1) for m in (a, b))
    d_out, d_in = a.shape
    if d_out <= d_in:
        return torch.sum((b @ a.T) ** 2, dtype=torch.float64).item() / d_out
    return torch.sum((a.T @ a) * (b.T @ b), dtype=torch.float64).item() / d_out


def dense(matrix: Matrix) -> Float32[Tensor, "..."]:
    return matrix.B @ matrix.A if isinstance(matrix, Factors) else matrix


def cosine_matrix(products: "pandas.DataFrame", null: "pandas.DataFrame | None" = None) -> "pandas.DataFrame":
    """cos(A, B) = ⟨A, B⟩ / (‖A‖ ‖B‖) of all pairs, by component and for the whole model (`kind` "all"; paper A.4).

    With `rotation_null`, null_sd is the standard deviation of the cosine under a random left rotation of each matrix,
    z = cosine / null_sd, and ceiling the largest cosine that a low-rank one of the two, with its input factor kept,
    could have with the other as it is: of two such the larger of ‖A P_B‖ / ‖A‖ and ‖B P_A‖ / ‖B‖, beside a full one
    the full one's share in the rows of the other, 1 of two full ones. Raises TuningVecError for one vector alone.
    """
    if products.a.nunique() < 2:
        raise TuningVecError("one tuning vector has no cosine; name the page in the family's left_out, with the reason")
    table = _with_total(products, "inner")
    norms = _norms(table)
    pairs = table[table.a != table.b].reset_index(drop=True)
    scale = [norms[a, kind] * norms[b, kind] for a, b, kind in zip(pairs.a, pairs.b, pairs.kind, strict=True)]
    pairs["cosine"] = pairs.inner / scale
    if null is not None:
        known = _with_total(null, ["null_variance", "reach_a", "reach_b"])
        rows = pairs[["a", "b", "kind"]].merge(known, how="left", on=["a", "b", "kind"])
        pairs["null_sd"] = rows.null_variance**0.5 / scale
        pairs["z"] = pairs.cosine / pairs.null_sd
        sizes = {x: [norms[key] ** 2 for key in zip(pairs[x], pairs.kind, strict=True)] for x in "ab"}
        shares = rows[[]].assign(**{x: (rows[f"reach_{x}"] / sizes[x]).clip(upper=1) for x in "ab"})
        bound = shares.where(shares < WHOLE).max(axis=1)  # a vector lies whole in the rows of a full one
        pairs["ceiling"] = bound.where(bound.notna() | shares.isna().any(axis=1), 1.0) ** 0.5
    return pairs.drop(columns="inner")


def weight_similarity(products: "pandas.DataFrame", pretrained: str) -> "pandas.DataFrame":
    """cos(θ_pre, θ_pre + T) and r = ‖T‖ / ‖θ_pre‖ of every T beside `pretrained`, by component (paper Table 15).

    From ⟨θ,θ⟩, ⟨θ,T⟩ and ⟨T,T⟩. `least` = √(1 − r²) is the smallest cosine that r allows, `orthogonal` = 1/√(1 + r²)
    the cosine if T were orthogonal to θ_pre. NaN where a component of θ_pre is zero throughout.
    """
    import pandas as pd

    table = _with_total(products, "inner")
    norms = _norms(table)
    rows = table[(table.a == pretrained) & (table.b != pretrained)].reset_index(drop=True)
    theta = pd.Series([norms[pretrained, kind] for kind in rows.kind])
    t = pd.Series([norms[b, kind] for b, kind in zip(rows.b, rows.kind, strict=True)])
    r = t / theta
    return pd.DataFrame(
        {
            "vector": rows.b,
            "kind": rows.kind,
            "cosine": (theta**2 + rows.inner) / (theta * (theta**2 + 2 * rows.inner + t**2) ** 0.5),
            "r": r,
            "least": (1 - r**2).clip(lower=0) ** 0.5,
            "orthogonal": (1 + r**2) ** -0.5,
        }
    )


def _with_total(table: "pandas.DataFrame", values: str | list[str]) -> "pandas.DataFrame":
    import pandas as pd

    total = table.groupby(["a", "b"], sort=False)[values].sum().reset_index()
    return pd.concat([total.assign(kind="all"), table], ignore_index=True)


def _norms(table: "pandas.DataFrame") -> dict[tuple[str, str], float]:
    own = table[table.a == table.b]
    return {(a, kind): inner**0.5 for a, kind, inner in zip(own.a, own.kind, own.inner, strict=True)}
