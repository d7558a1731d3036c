"""Which neuron of one model is which of another: optimal assignments by weights, and how far T is from changing them.

A neuron is its row of W_gate, its row of W_up and its column of W_down, one after the other, each divided by the root
mean square length of such a part over the neurons of the layer in the first model, so that the three count alike.
Ainsworth et al. 2023, Git Re-Basin, arXiv 2209.04836; the heads of attention are left as they are.
"""

import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from tqdm import tqdm

from tuningvec.errors import TuningVecError
from tuningvec.store import Record, Rows
from tuningvec.weights import cluster
from tuningvec.weights.checkpoint import ALL, Checkpoint, Term
from tuningvec.weights.components import MLP, Component
from tuningvec.weights.delta import Combination, places
from tuningvec.weights.engine import device
from tuningvec.weights.subspace import decompose, energies

Parts = dict[str, Float32[Tensor, "d_m d"]]  # of all neurons of a layer, by MLP
Place = Mapping[str, tuple[str, Component]]  # where those are stored
SHUFFLED = "{}, shuffled"
ORDERS = "as they are", "matched", "a wrong order each", "one wrong order", "wrong, then matched"
AS_IS, MATCHED, OWN_ORDER, ONE_ORDER, FOUND = ORDERS
PERCENT = 0.01
PAIR = 16  # bytes: the similarity in float32 and its negative, and that in float64


def assignment(similarity: Float[Tensor, "n n"]) -> Int64[Tensor, " n"]:
    """π that maximises Σ_j S[j, π(j)] over all permutations (Crouse 2016, as in scipy).

    Raises TuningVecError for a similarity that is not a number.
    """
    from scipy.optimize import linear_sum_assignment

    if not torch.isfinite(similarity).all():
        raise TuningVecError("neurons: a similarity that is not a number; look for NaN in the weights")
    return torch.from_numpy(linear_sum_assignment(-similarity.cpu().double().numpy())[1])


def costs(sizes: Sequence[int], seed: int = 0) -> Iterator[dict[str, float | str]]:
    """Processor seconds of the product of so many neurons of 6/7 as many weights, in float32, and of their assignment.

    A row each size and kind of pair: "members", whose neurons moved little and stand in another order, and "unrelated"
    ones. An assignment holds PAIR bytes for each pair of neurons.
    """
    generator = torch.Generator().manual_seed(seed)
    assignment(torch.eye(2))  # imports are no part of it
    for n in sizes:
        X, Z = (torch.randn(n, 6 * n // 7, generator=generator) for _ in range(2))
        near = (X + Z / 10)[torch.randperm(n, generator=generator)]
        for pair, Y in (("members", near), ("unrelated", Z)):
            start = time.process_time()
            S = X @ Y.T
            middle = time.process_time()
            assignment(S)
            seconds = middle - start, time.process_time() - middle
            yield dict(neurons=n, pair=pair, product=round(seconds[0], 4), assignment=round(seconds[1], 4))


class Match(NamedTuple):
    """Neuron j of the first is π(j) = order[j] of the second; `fixed` counts j = π(j).

    gain = (Σ‖y_j − x_j‖² − Σ‖y_π(j) − x_j‖²) / Σ‖y_j − x_j‖², the share of the squared distance that π takes away.
    """

    order: Int64[Tensor, " n"]
    fixed: int
    gain: float


def matched(X: Float32[Tensor, "n d"], Y: Float32[Tensor, "n d"]) -> Match:
    """The assignment of the neurons of Y to those of X that makes Σ‖y_π(j) − x_j‖² least.

    Since lengths do not depend on π it is the one with the largest Σ⟨x_j, y_π(j)⟩.
    """
    where = device()
    S = (X.to(where) @ Y.to(where).T).cpu()
    order, own = assignment(S), torch.arange(len(S))
    more = (S[own, order].double() - S.diagonal().double()).sum().item()
    apart = torch.sum((X - Y) ** 2, dtype=torch.float64).item()
    return Match(order, int((order == own).sum()), 2 * more / apart if apart and more > 0 else 0.0)


class Room(NamedTuple):
    """How many times as long T may be, by neuron of a layer, before its nearest neighbour is another one's.

    `margin` = min_{i ≠ j} ‖x_i − x_j‖ / (2 ‖t_j‖) is a bound: by the triangle inequality ‖x_j + λt_j − x_i‖ ≥
    ‖x_i − x_j‖ − λ‖t_j‖ > λ‖t_j‖ for every λ below it, and where λ is below the margins of all neurons the identity is
    the only optimal assignment, since each neuron is nearest to itself. `swap` is the λ itself, min_i ‖x_i − x_j‖² /
    (2⟨t_j, x_i − x_j⟩) over the i with a product above 0. Infinite where t_j is 0.
    """

    margin: Float64[Tensor, " n"]
    swap: Float64[Tensor, " n"]


def apart(X: Float32[Tensor, "n d"]) -> Float64[Tensor, "n n"]:
    """‖x_i − x_j‖² of all pairs of neurons, infinite for a neuron and itself."""
    gram = X.to(device()).double() @ X.to(device()).double().T
    own = gram.diagonal()
    return (own[:, None] + own - 2 * gram).clamp(min=0).fill_diagonal_(torch.inf)


def room(X: Float32[Tensor, "n d"], T: Float32[Tensor, "n d"], between: Float64[Tensor, "n n"] | None = None) -> Room:
    """Margins of neurons with weights X that move by T; `between` is `apart(X)` where it is known."""
    between = apart(X) if between is None else between
    along = (T.to(between.device) @ X.to(between.device).T).double()  # (j, i)
    lengths = torch.linalg.vector_norm(T, dim=1, dtype=torch.float64).to(between.device)
    margin = between.amin(1).sqrt() / (2 * lengths)
    slope = 2 * (along - along.diagonal()[:, None])
    swap = torch.where(slope > 0, between / slope, torch.inf).amin(1)
    return Room(margin.where(lengths > 0, torch.inf).cpu(), swap.cpu())


def shuffle(label: str, layer: int, count: int, seed: int) -> Int64[Tensor, " count"]:
    """A random order of the neurons of a layer, the same for the same label and seed."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {label} {layer}".encode()))
    return torch.randperm(count, generator=generator)


class Permuted:
    """The weights of a model with the neurons of every layer in a random order: as a function it is the same model."""

    def __init__(self, weights: Combination, like: Checkpoint, label: str, seed: int):
        self.weights, self.shapes, self.label, self.seed = weights, weights.shapes, label, seed
        self.files = [file for term in weights.terms for file in getattr(term, "files", ())]
        self.drawn = f"neurons of {label} shuffled (seed {seed})"
        self._stored: dict[str, list[Component]] = {}
        for name, component in places({label: weights}, like, MLP):
            self._stored.setdefault(name, []).append(component)

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."]:
        whole = self.weights.read(name)
        for component in self._stored.get(name, ()):
            part = whole[component.rows or ALL]
            side = 1 if component.kind == "W_down" else 0
            order = shuffle(self.label, component.layer, part.shape[side], self.seed)
            whole[component.rows or ALL] = part.index_select(side, order)
        return whole[rows].clone() if out is None else out.copy_(whole[rows])

    def __repr__(self) -> str:
        return f"Permuted({self.weights!r}, {self.label}, seed {self.seed})"


def layers_of(like: Checkpoint) -> dict[int, Place]:
    """Where each layer has its neurons; raises TuningVecError for a model without gated feed-forward layers."""
    found: dict[int, dict[str, tuple[str, Component]]] = {}
    for name, component in places({"": Combination({like: 1})}, like, MLP):
        found.setdefault(component.layer, {})[component.kind] = name, component
    if not found or any(len(place) < len(MLP) for place in found.values()):
        raise TuningVecError(f"{like.folder}: no gated feed-forward layers, whose neurons could be matched")
    return {layer: {kind: place[kind] for kind in MLP} for layer, place in sorted(found.items())}


def neurons(weights: Term, place: Place) -> Parts:
    """The parts of a layer's neurons, a row a neuron."""
    parts = {kind: weights.read(name, component.rows or ALL) for kind, (name, component) in place.items()}
    return parts | {"W_down": parts["W_down"].T.contiguous()}


def _scales(parts: Parts) -> dict[str, float]:
    """Root mean square length of each part over neurons; 1 where all are 0."""
    return {
        kind: torch.linalg.vector_norm(part, dtype=torch.float64).item() / len(part) ** 0.5 or 1.0
        for kind, part in parts.items()
    }


def in_one(parts: Parts, like: Parts) -> Float32[Tensor, "d_m width"]:
    """Each neuron as one vector, its parts scaled as those of `like` are."""
    return torch.cat([part / scale for part, scale in zip(parts.values(), _scales(like).values(), strict=True)], 1)


@dataclass(frozen=True)
class Study:
    """What is matched, layer by layer: pairs of `members`, whose first one is pretrained.

    In the layers in `deep` members in `shuffled` are matched after a shuffle too, T of those in `tuned` is made longer,
    and T of the pairs in `compared` is taken in other orders; SSA is that of ε. A member that lacks a layer has no row
    for it.
    """

    members: Mapping[str, Combination]
    pairs: Sequence[tuple[str, str]]
    shuffled: Sequence[str]
    compared: Sequence[tuple[str, str]]
    tuned: Sequence[str]
    scales: Sequence[float]
    deep: Collection[int]
    epsilon: float
    seed: int

    def of_layer(self, place: tuple[int, Place]) -> tuple[dict[str, Rows], dict[str, Tensor]]:
        """Rows by table, and the order of each pair that has the pretrained member in it."""
        layer, where = place
        first = next(iter(self.members))
        has = {n: w for n, w in self.members.items() if all(name in w.shapes for name, _ in where.values())}
        parts = {name: neurons(weights, where) for name, weights in has.items()}
        one = _Layer(self, layer, first, parts)
        matches, orders = one.matches()
        tables = dict(matches=matches, margins=one.margins())
        if layer in self.deep:
            tables["matches"] = matches + one.shuffles()
            tables |= dict(scaled=one.longer(), cosines=one.cosines(orders), alignment=one.alignment(orders))
        return tables, {name: order.int() for name, order in orders.items()}


@dataclass
class _Layer:
    study: Study
    layer: int
    first: str
    parts: dict[str, Parts]

    def __post_init__(self) -> None:
        self.pretrained = self._vectors(self.first, self.first)
        self.between = apart(self.pretrained)
        self.found: dict[str, Tensor] = {}  # orders of shuffled members that undo the shuffle

    def _vectors(self, name: str, like: str) -> Tensor:
        return in_one(self.parts[name], self.parts[like])

    def matches(self) -> tuple[Rows, dict[str, Tensor]]:
        rows, orders = [], {}
        for a, b in (pair for pair in self.study.pairs if all(name in self.parts for name in pair)):
            match = matched(self.pretrained if a == self.first else self._vectors(a, a), self._vectors(b, a))
            rows.append(self._row(a, b, match, match.fixed))
            if a == self.first:
                orders[b] = match.order
        return rows, orders

    def shuffles(self) -> Rows:
        """Members with their neurons shuffled beside the pretrained one; `right` are those that are found again."""
        rows = []
        for name in self.study.shuffled:
            order = self._shuffle(name)
            match = matched(self.pretrained, self._vectors(name, self.first)[order])
            self.found[name] = order[match.order]
            right = int((self.found[name] == torch.arange(len(order))).sum())
            rows.append(self._row(self.first, SHUFFLED.format(name), match, right))
        return rows

    def _shuffle(self, name: str) -> Tensor:
        return shuffle(name, self.layer, len(self.pretrained), self.study.seed)

    def _row(self, a: str, b: str, match: Match, right: int) -> dict[str, str | float]:
        about = dict(a=a, b=b, layer=self.layer, neurons=len(match.order))
        return about | dict(fixed=match.fixed, right=right, gain=match.gain)

    def _rooms(self) -> Iterator[tuple[str, Tensor, Room]]:
        for name in self.study.tuned:
            T = self._vectors(name, self.first) - self.pretrained
            yield name, T, room(self.pretrained, T, self.between)

    def margins(self) -> Rows:
        rows = []
        for name, T, (margin, swap) in self._rooms():
            length = torch.linalg.vector_norm(T, dtype=torch.float64) / torch.linalg.vector_norm(
                self.pretrained, dtype=torch.float64
            )
            rows.append(dict(
                member=name, layer=self.layer, r=length.item(), median=margin.median().item(),
                least=margin.min().item(), first=swap.min().item(),
                percent=swap.sort().values[_hundredth(len(swap))].item(),
            ))  # fmt: skip
        return rows

    def longer(self) -> Rows:
        """The share of neurons that move when T is so many times as long, in the assignment and by nearest one."""
        rows = []
        S = (self.pretrained @ self.pretrained.T).double()
        for name, T, (_, swap) in self._rooms():
            more, own = (self.pretrained @ T.T).double(), torch.arange(len(S))
            for scale in self.study.scales:
                moved = (assignment(S + scale * more) != own).double().mean().item()
                nearest = (swap < scale).double().mean().item()
                rows.append(dict(member=name, layer=self.layer, scale=scale, moved=moved, nearest=nearest))
        return rows

    def _T(self, name: str, order: Tensor) -> Parts:
        """θ_ft∘π − θ_pre."""
        return {kind: part[order] - self.parts[self.first][kind] for kind, part in self.parts[name].items()}

    def _orders(self, names: Sequence[str], orders: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """The order of each of these members' neurons, by how it is chosen."""
        own = torch.arange(len(self.pretrained))
        return {
            AS_IS: [own for _ in names],
            MATCHED: [orders[name] for name in names],
            OWN_ORDER: [self._shuffle(name) for name in names],
            ONE_ORDER: [self._shuffle(names[0]) for _ in names],
            FOUND: [self.found[name] for name in names],
        }

    def cosines(self, orders: Mapping[str, Tensor]) -> Rows:
        """Inner products of two T, over the matrices of the feed-forward layer, in each order."""
        rows = []
        for a, b in self.study.compared:
            for order, (of_a, of_b) in self._orders((a, b), orders).items():
                A, B = self._T(a, of_a), self._T(b, of_b)
                products = {
                    name: sum(torch.sum(one[kind] * other[kind], dtype=torch.float64).item() for kind in MLP)
                    for name, one, other in (("inner", A, B), ("aa", A, A), ("bb", B, B))
                }
                rows.append(dict(a=a, b=b, layer=self.layer, order=order, **products))
        return rows

    def alignment(self, orders: Mapping[str, Tensor]) -> Rows:
        """SSA of each T in each matrix of the feed-forward layer, in each order (paper §4)."""
        rows = []
        pretrained = self.parts[self.first]
        bases = {k: decompose((W.T if k == "W_down" else W).contiguous().to(device())) for k, W in pretrained.items()}
        for name in self.study.tuned:
            for order, (of_T,) in self._orders((name,), orders).items():
                if order == ONE_ORDER:
                    continue  # of one T the same as an order of its own
                for kind, part in self._T(name, of_T).items():
                    T = (part.T if kind == "W_down" else part).contiguous().to(device())
                    if torch.any(T):
                        (found,) = energies(bases[kind], T, [self.study.epsilon])
                        about = dict(vector=name, layer=self.layer, kind=kind, order=order)
                        rows.append(about | dict(SSA=found["SSA"], null=found["k"] / len(T)))
        return rows


def _hundredth(count: int) -> int:
    """The place of the neuron with which one in a hundred have moved."""
    return max(0, -(-count // int(1 / PERCENT)) - 1)


def by_layer(record: Record, study: Study, like: Checkpoint) -> tuple[dict[str, Rows], dict[int, dict[str, Tensor]]]:
    """Rows of every layer by table, and the orders by layer; layers that the record holds are not measured again."""
    where, work = layers_of(like), study.of_layer  # one object, which a cluster is sent once
    missing = [(str(layer), work, (layer, place)) for layer, place in where.items() if str(layer) not in record]
    for piece, (tables, orders) in tqdm(cluster.each(missing), desc="matching", total=len(missing)):
        record.add(piece, [dict(table=name, rows=rows) for name, rows in tables.items()], orders)
    found: dict[str, Rows] = {}
    for one in record.rows(map(str, where)):
        found.setdefault(one["table"], []).extend(one["rows"])
    orders = {layer: {n: order.long() for n, order in record.arrays(str(layer)).items()} for layer in where}
    return found, orders
