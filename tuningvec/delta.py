"""Tuning vectors T = θ_ft − θ_pre as linear combinations of weights on disk (paper §3)."""

import itertools
import os
from collections.abc import Collection, Iterator, Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tuningvec.checkpoint import Checkpoint, Term, write_checkpoint
from tuningvec.components import KINDS, Component, components
from tuningvec.errors import TuningVecError


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

    def read(self, name: str, cache: Mapping[Term, Tensor] | None = None) -> Float[Tensor, "..."] | None:
        """Σ cᵢ θᵢ[name] in float32, or None where no term holds the tensor; `cache` holds tensors read already."""
        total = None
        for term, c in self.terms.items():
            if name not in term.shapes:
                continue
            tensor = term.read(name) if cache is None else cache[term]
            scaled = tensor if c == 1 else c * tensor
            total = scaled if total is None else total + scaled
        return total

    def write(self, folder: str | os.PathLike[str], like: Checkpoint) -> Checkpoint:
        """Write the combination as a checkpoint with the dtypes, config and tokenizer of `like`.

        Raises TuningVecError when it is not a model that fits `like`, the folder exists or the disk has no room.
        """
        if self.shapes != like.shapes:
            odd = _misfit(self.shapes, like.shapes)
            raise TuningVecError(f"{self!r} does not fit {like.folder}: {odd}; give the checkpoint it is built on")
        return write_checkpoint(folder, like, self.read)


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


def parts(
    vectors: Mapping[str, Combination], like: Checkpoint, desc: str, kinds: Collection[str] = KINDS
) -> Iterator[tuple[Component, dict[str, Tensor]]]:
    """Every component of these kinds in turn, with its matrix in each vector that has one; each tensor is read once."""
    names = dict.fromkeys(name for vector in vectors.values() for name in vector.shapes)
    terms = list(dict.fromkeys(term for vector in vectors.values() for term in vector.terms))
    for name in tqdm(names, desc=desc, mininterval=5):
        wanted = [c for c in components(name, like.config) if c.kind in kinds]
        if not wanted:
            continue
        cache = {term: term.read(name) for term in terms if name in term.shapes}
        tensors = {label: vector.read(name, cache) for label, vector in vectors.items()}
        for component in wanted:
            rows = component.rows or slice(None)
            yield component, {label: t[rows] for label, t in tensors.items() if t is not None}


def inner_products(vectors: Mapping[str, Combination], like: Checkpoint) -> pd.DataFrame:
    """Frobenius inner products of all pairs by component, in one pass over the files (paper A.4, before division).

    Columns a, b, kind, inner = ⟨A, B⟩ in float64, and null_variance = Σ ‖B Aᵀ‖²_F / d_out: the variance of ⟨RA, B⟩ when
    each matrix of A is rotated on its left by an independent random R, whose mean is 0.
    """
    sums: dict[tuple[str, str, str], list[float]] = {}
    for component, tensors in parts(vectors, like, "inner products"):
        matrices = {label: t.reshape(len(t), -1) for label, t in tensors.items()}
        for a, b in itertools.combinations_with_replacement(matrices, 2):
            cell = sums.setdefault((a, b, component.kind), [0.0, 0.0])
            cell[0] += torch.sum(matrices[a] * matrices[b], dtype=torch.float64).item()
            if a != b:
                cell[1] += _rotated_variance(matrices[a], matrices[b])
    rows = [(*key, inner, variance) for key, (inner, variance) in sums.items()]
    return pd.DataFrame(rows, columns=["a", "b", "kind", "inner", "null_variance"])


def _rotated_variance(a: Float[Tensor, "d_out d_in"], b: Float[Tensor, "d_out d_in"]) -> float:
    """‖B Aᵀ‖²_F / d_out, through the smaller of the two ways to write it."""
    d_out, d_in = a.shape
    if d_out <= d_in:
        return torch.sum((b @ a.T) ** 2, dtype=torch.float64).item() / d_out
    return torch.sum((a.T @ a) * (b.T @ b), dtype=torch.float64).item() / d_out


def cosine_matrix(products: pd.DataFrame) -> pd.DataFrame:
    """cos(A, B) = ⟨A, B⟩ / (‖A‖ ‖B‖) of all pairs, by component and for the whole model (`kind` "all"; paper A.4).

    null_sd is the standard deviation of the cosine under a random left rotation of each matrix; z = cosine / null_sd.
    Raises TuningVecError when there is only one vector.
    """
    if products.a.nunique() < 2:
        raise TuningVecError("one tuning vector has no cosine; name the page in the family's left_out, with the reason")
    table = _with_total(products)
    norms = _norms(table)
    pairs = table[table.a != table.b].copy()
    scale = [norms[a, kind] * norms[b, kind] for a, b, kind in zip(pairs.a, pairs.b, pairs.kind, strict=True)]
    pairs["cosine"] = pairs.inner / scale
    pairs["null_sd"] = pairs.null_variance**0.5 / scale
    pairs["z"] = pairs.cosine / pairs.null_sd
    return pairs.drop(columns=["inner", "null_variance"]).reset_index(drop=True)


def weight_similarity(products: pd.DataFrame, pretrained: str) -> pd.DataFrame:
    """cos(θ_pre, θ_pre + T) and r = ‖T‖ / ‖θ_pre‖ of every T beside `pretrained`, by component (paper Table 15).

    From ⟨θ,θ⟩, ⟨θ,T⟩ and ⟨T,T⟩. `least` = √(1 − r²) is the smallest cosine that r allows, `orthogonal` = 1/√(1 + r²)
    the cosine if T were orthogonal to θ_pre. NaN where a component of θ_pre is zero throughout.
    """
    table = _with_total(products)
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


def _with_total(products: pd.DataFrame) -> pd.DataFrame:
    total = products.groupby(["a", "b"], sort=False)[["inner", "null_variance"]].sum().reset_index()
    return pd.concat([total.assign(kind="all"), products], ignore_index=True)


def _norms(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    own = table[table.a == table.b]
    return {(a, kind): inner**0.5 for a, kind, inner in zip(own.a, own.kind, own.inner, strict=True)}
