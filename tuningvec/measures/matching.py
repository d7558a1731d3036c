"""Would matching neurons show more agreement between members? Optimal assignments, their nulls, and what they change.

A network computes the same function when the neurons of a layer are put in another order; two models that were trained
apart agree only up to such an order (Entezari et al. 2022, arXiv 2110.06296; Ainsworth et al. 2023, arXiv 2209.04836).
"""

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Float64
from nnsight import NNsight
from scipy.stats import chi2
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError, reading
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import corpus, models
from tuningvec.measures.corpus import Tokens
from tuningvec.measures.neurons import BATCH, CRITERIA, DISTANCES, RENAMED, Profile, layers
from tuningvec.stats import mean_interval
from tuningvec.store import Record, Rows, Store, joined
from tuningvec.verdict import Verdict, judge
from tuningvec.weights.checkpoint import ALL, Checkpoint
from tuningvec.weights.components import SYMBOLS
from tuningvec.weights.delta import Combination, identities
from tuningvec.weights.engine import device, device_name
from tuningvec.weights.matching import (
    AS_IS,
    MATCHED,
    ONE_ORDER,
    ORDERS,
    OWN_ORDER,
    PAIR,
    SHUFFLED,
    Permuted,
    Study,
    assignment,
    by_layer,
    layers_of,
    shuffle,
)

EPSILON = 0.05  # the paper's
FRESH = ("untrained", "untrained, another seed")
WEIGHTS, ACTIVATIONS = "weights", "activations"
ALPHA = 0.05  # of all cases of a verdict together
MOST = 40  # fixed points of a layer, which has more by chance with probability 1e-48


COLUMNS = {  # of the tables of `weights.matching.Study`
    "matches": ["a", "b", "layer", "neurons", "fixed", "right", "gain"],
    "margins": ["member", "layer", "r", "median", "least", "first", "percent"],
    "scaled": ["member", "layer", "scale", "moved", "nearest"],
    "cosines": ["a", "b", "layer", "order", "inner", "aa", "bb"],
    "alignment": ["vector", "layer", "kind", "order", "SSA", "null"],
}


class Found(NamedTuple):
    """What matching by weights and by activations gives; columns are those of `by_weights` and `by_activations`."""

    matches: pd.DataFrame
    margins: pd.DataFrame
    scaled: pd.DataFrame
    cosines: pd.DataFrame
    alignment: pd.DataFrame
    distances: pd.DataFrame


class Untrained:
    """The weights of a model of some config, with so many layers, as transformers initialises them, in memory.

    No weight is trained. What is drawn for a layer has the same distribution however many layers follow.
    """

    def __init__(self, like: Checkpoint, count: int, seed: int):
        self._made_of = like, count, seed
        with reading(f"{like.folder}: not initialised", models.REMEDY):
            config = AutoConfig.from_pretrained(like.folder, **models.OWN_CODE)
            config.num_hidden_layers = count
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:count]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                made = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **models.OWN_CODE)
        self.model: PreTrainedModel = made.eval().requires_grad_(False)
        self._tensors = dict(made.named_parameters())
        self._name = f"Untrained({config.model_type}, {count} layers, seed {seed})"
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def __reduce__(self) -> tuple[type, tuple[Checkpoint, int, int]]:
        """Another process draws the same again."""
        return type(self), self._made_of

    def read(self, name: str, rows: slice = ALL, out: Tensor | None = None) -> Float32[Tensor, "..."]:
        found = self._tensors[name].data[rows]
        return found.clone() if out is None else out.copy_(found)

    def __repr__(self) -> str:
        return self._name


def spread_out(count: int, depth: int) -> list[int]:
    """`depth` of so many layers, even over depth with the first and the last, or all where there are no more."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(depth, count))})


def pairs_of(family: Family) -> list[tuple[str, str]]:
    """The pretrained member with each other one, specialists with each other, and with their own controls."""
    first, *others = (member.name for member in family.members)
    specialists = [member.name for member in family.specialists]
    own = [(control.controls, control.name) for control in family.controls if control.controls in specialists]
    return [*((first, other) for other in others), *itertools.combinations(specialists, 2), *own]


def study(
    family: Family,
    dtype: str,
    *,
    scales: Sequence[float],
    depth: int,
    parts: int,
    tokens: int,
    seed: int,
    store: Store | None = None,
) -> Found:
    """Members of a family matched by weights and by activations, beside shuffled and untrained models.

    By activations and with T in other orders in `depth` layers; text is `parts` parts of so many tokens, half of each
    corpus of two. Raises TuningVecError for parameters out of range, as `corpus.tokens` does, and for a model without
    gated feed-forward layers.
    """
    if depth < 1 or parts < 2 or tokens < 2 or not all(scale > 0 for scale in scales):
        raise TuningVecError(
            f"depth {depth}, parts {parts}, tokens {tokens}, scales {list(scales)}: give at least 1 layer, 2 parts of "
            "2 tokens, and lengths above 0"
        )
    like = members.checkpoint(family)
    deep = spread_out(len(layers_of(like)), depth)
    # a small seed may be that of the pretrained member, which would then meet its own initialisation
    untrained = {name: Untrained(like, len(deep), zlib.crc32(f"{seed} {name}".encode())) for name in FRESH}
    tables, orders = by_weights(family, untrained, scales, deep, seed, store)
    read, distances = by_activations(family, untrained, orders, dtype, deep, parts, tokens, seed, store)
    matches = joined([tables.pop("matches").assign(by=WEIGHTS, part=0), read.assign(by=ACTIVATIONS)])
    return Found(matches, distances=distances, **tables)


def by_weights(
    family: Family,
    untrained: Mapping[str, Untrained],
    scales: Sequence[float],
    deep: Sequence[int],
    seed: int,
    store: Store | None = None,
) -> tuple[dict[str, pd.DataFrame], dict[int, dict[str, Tensor]]]:
    """Tables of `weights.matching.Study`, and the order of each member's neurons by layer.

    Columns are those of COLUMNS: `right` of a shuffled member are those found again, of others those that are fixed.
    """
    like, first = members.checkpoint(family), family.pretrained.name
    whole = {member.name: members.weights(family, member.name).fitted for member in family.members}
    fresh = {name: Combination({one: 1}) for name, one in untrained.items()}
    own, tuned = pairs_of(family), [member.name for member in family.studied[1:]]
    compared = [pair for pair in own if pair[0] != first]
    pairs = [*own, FRESH, (first, FRESH[0])]
    found = Study(whole | fresh, pairs, list(whole), compared, tuned, list(scales), list(deep), EPSILON, seed)
    record = Record()
    if store:
        about = dict(weights=identities(whole | fresh, store), scales=list(scales), deep=list(deep), seed=seed)
        record = store.record("matching", about | dict(pairs=pairs, shuffled=list(whole)), __name__, device_name())
    rows, orders = by_layer(record, found, like)
    tables = {name: pd.DataFrame(rows.get(name, []), columns=columns) for name, columns in COLUMNS.items()}
    return {name: joined([table], record.runs) for name, table in tables.items()}, orders


class Activity(NamedTuple):
    """What the neurons of some layers did, token by token: what W_down reads of each, and the profile of each part."""

    outputs: list[Float32[Tensor, "layers tokens d_m"]]
    profiles: list[Profile]


def texts(family: Family, like: models.Opened, parts: int, tokens: int, store: Store | None) -> list[list[Tokens]]:
    """Parts of the family's corpora of so many tokens each, as many of each corpus; no document lies in two parts.

    All members read the pretrained one's tokens. Raises TuningVecError for fewer documents than parts.
    """
    found: list[list[Tokens]] = [[] for _ in range(parts)]
    for name in family.corpora:
        read = corpus.tokens(family, name, like.tokenizer, store)
        if read.documents < parts:
            raise TuningVecError(f"corpus {name}: {read.documents} documents; {parts} parts need as many")
        for number, part in enumerate(found):
            part.append(_first(read.part(number, parts), max(1, tokens // len(family.corpora))))
    return found


def _first(read: Tokens, count: int) -> Tokens:
    """The first tokens of some."""
    ends = read.lengths.cumsum(0).clamp(max=count)
    lengths = ends.diff(prepend=torch.zeros(1, dtype=ends.dtype))
    return replace(read, flat=read.flat[:count], lengths=lengths[lengths > 0].int())


def activity(model: PreTrainedModel, parts: Sequence[Sequence[Tokens]], where: Sequence[int]) -> Activity:
    """A and A · u of the neurons of these layers on each part of a text, in one trace a batch.

    The first token of each row is left out: models put large activations there that belong to no token (Sun et al.
    2024, arXiv 2402.17762), and a single token would decide a correlation.
    """
    blocks = layers(model)
    if not all(hasattr(getattr(block, "mlp", None), "down_proj") for block in blocks):
        raise TuningVecError(f"{type(model).__name__}: no gated feed-forward layers, whose neurons could be matched")
    net = NNsight(model.get_decoder(), rename=RENAMED)
    outputs, profiles = [], []
    for part in parts:
        A, Au = (torch.cat(some, 1) for some in zip(*_batches(net, model, part, where), strict=True))
        outputs.append(Au)
        sums = (one.sum(1, dtype=torch.float64) for one in (A, Au))
        profiles.append(Profile(A.shape[1], (A > 0).sum(1), *sums))
    return Activity(outputs, profiles)


def _batches(
    net: NNsight, model: PreTrainedModel, part: Sequence[Tokens], where: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """A and A · u of a batch after the other, (layers, tokens, d_m) each."""
    home, width = model.get_input_embeddings().weight.device, layers(model)[0].mlp.down_proj.in_features
    for ids, mask in (read.rows() for read in part):
        for some, real in zip(ids.split(BATCH), mask.split(BATCH), strict=True):
            keep = real.clone()
            keep[:, 0] = False
            A, Au = (torch.empty(len(where), int(keep.sum()), width) for _ in range(2))
            _trace(net, some.long().to(home), real.long().to(home), keep.flatten(), where, A, Au)
            yield A, Au


def _trace(net: NNsight, ids: Tensor, mask: Tensor, keep: Tensor, where: Sequence[int], A: Tensor, Au: Tensor) -> None:
    """Fill A and Au in place: nothing else outlives a trace."""
    with torch.no_grad(), net.trace(input_ids=ids, attention_mask=mask, use_cache=False):
        for number, layer in enumerate(where):
            A[number].copy_(net.layers[layer].mlp.act_fn.output.flatten(0, 1)[keep])
            Au[number].copy_(net.layers[layer].mlp.down_proj.input.flatten(0, 1)[keep])


def correlations(one: Float[Tensor, "tokens n"], other: Float[Tensor, "tokens n"]) -> Float32[Tensor, "n n"]:
    """Pearson's correlation over tokens of each neuron of the one with each of the other; 0 where one never varies."""
    scaled = []
    for values in (one, other):
        centred = values.double() - values.mean(0, dtype=torch.float64)
        lengths = torch.linalg.vector_norm(centred, dim=0)
        scaled.append((centred / lengths.where(lengths > 0, torch.inf)).float().to(device()))
    return (scaled[0].T @ scaled[1]).cpu()


class _Job(NamedTuple):
    """A pair of models that is matched by what neurons do in some layers, on the first parts of the text."""

    a: str
    b: str
    where: tuple[int, ...]
    parts: int

    def __str__(self) -> str:
        return f"{self.a} · {self.b}"


def by_activations(
    family: Family,
    untrained: Mapping[str, Untrained],
    orders: Mapping[int, Mapping[str, Tensor]],
    dtype: str,
    deep: Sequence[int],
    parts: int,
    tokens: int,
    seed: int,
    store: Store | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Matches by correlation over tokens, and distances of patterns of active neurons before and after matching.

    matches: a, b, part, layer, neurons, fixed, right, gain (of standardised activations), own and other, the mean
    correlation of a neuron with itself and with the most alike other one. distances: member, criterion, distance, part,
    layer, before, weights, activations (by the order that the next part of the text gives) and wrong (a random order).
    Untrained models are matched in as many of the first layers and on the first part. `orders` are those by weights.
    Models are read in this process, one at a time.
    """
    first, tuned = family.pretrained.name, [member.name for member in family.studied[1:]]
    shuffled = [first, next(iter([member.name for member in family.specialists] or tuned))]
    opened = {member.name: models.Opened(family, member.name, dtype) for member in family.members}
    opened |= {SHUFFLED.format(name): _shuffled(family, name, dtype, seed) for name in shuffled}
    jobs = [_Job(a, b, tuple(deep), parts) for a, b in pairs_of(family)]
    jobs += [_Job(first, SHUFFLED.format(name), tuple(deep), parts) for name in shuffled]
    jobs += [_Job(a, b, tuple(range(len(deep))), 1) for a, b in (FRESH, (first, FRESH[0]))]
    read = texts(family, opened[first], parts, tokens, store)
    record = Record()
    if store:
        weights = {name: one.weights for name, one in opened.items()}
        weights |= {name: Combination({one: 1}) for name, one in untrained.items()}
        about = dict(weights=identities(weights, store), dtype=opened[first].dtype, deep=list(deep), seed=seed)
        about["text"] = [one.digest() for part in read for one in part]
        record = store.record("activations", about, __name__, device_name())
    acting = _Acting({**opened, **untrained}, read, [job for job in jobs if str(job) not in record])
    for job in tqdm(list(acting.due), desc="activations"):
        one, other = acting.of(job)
        rows, by_part = _matches(job, one, other, seed)
        tables = dict(matches=rows)
        if job.a == first and job.b in tuned:
            tables["distances"] = _distances(job, one, other, orders, by_part, seed)
        record.add(str(job), [dict(table=name, rows=some) for name, some in tables.items()])
    pieces = record.rows(map(str, jobs))
    found = ([row for piece in pieces if piece["table"] == name for row in piece["rows"]] for name in TABLES)
    matches, distances = (joined([pd.DataFrame(rows)], record.runs) for rows in found)
    return matches, distances


TABLES = ("matches", "distances")


def _shuffled(family: Family, name: str, dtype: str, seed: int) -> models.Merged:
    """A member with its neurons shuffled."""
    weights = Combination({Permuted(members.weights(family, name).fitted, members.checkpoint(family), name, seed): 1})
    return models.Merged(family, weights, SHUFFLED.format(name), name, dtype)


@dataclass
class _Acting:
    """What each model does, as long as a job that is due needs it; a model is let go when it was read."""

    models: Mapping[str, models.Opened | Untrained]
    read: Sequence[Sequence[Tokens]]
    due: list[_Job]
    _known: dict[tuple[str, tuple[int, ...], int], Activity] = field(default_factory=dict)

    def of(self, job: _Job) -> tuple[Activity, Activity]:
        """What both models of a job do, which is then no longer due."""
        self.due.remove(job)
        one, other = (self._activity((name, job.where, job.parts)) for name in (job.a, job.b))
        needed = {(name, later.where, later.parts) for later in self.due for name in (later.a, later.b)}
        self._known = {key: found for key, found in self._known.items() if key in needed}
        return one, other

    def _activity(self, key: tuple[str, tuple[int, ...], int]) -> Activity:
        if key not in self._known:
            name, where, parts = key
            model = self.models[name]
            for one in [model] if isinstance(model, Untrained) else models.in_turn([model]):
                self._known[key] = activity(one.model, self.read[:parts], where)
        return self._known[key]


def _matches(job: _Job, one: Activity, other: Activity, seed: int) -> tuple[Rows, list[list[Tensor]]]:
    """Rows by part and layer, and the orders found there; `right` are neurons whose shuffle is undone."""
    rows, found = [], []
    for part, (X, Y) in enumerate(zip(one.outputs, other.outputs, strict=True)):
        found.append([])
        for layer, x, y in zip(job.where, X, Y, strict=True):
            S, own = correlations(x, y), torch.arange(x.shape[1])
            order = assignment(S)
            label = job.b.removesuffix(SHUFFLED.format(""))
            source = own if label == job.b else shuffle(label, layer, len(own), seed)
            diagonal = S.diagonal().double()
            more, apart = (S[own, order].double() - diagonal).sum().item(), (1 - diagonal).sum().item()
            about = dict(a=job.a, b=job.b, part=part, layer=layer, neurons=len(own))
            counts = dict(fixed=int((order == own).sum()), right=int((source[order] == own).sum()))
            gain = more / apart if more > 0 and apart > 0 else 0.0
            alike = S.clone().fill_diagonal_(-1).amax(1).mean().item()
            rows.append(about | counts | dict(gain=gain, own=diagonal.mean().item(), other=alike))
            found[-1].append(order)
    return rows, found


def _distances(
    job: _Job,
    one: Activity,
    other: Activity,
    orders: Mapping[int, Mapping[str, Tensor]],
    by_part: Sequence[Sequence[Tensor]],
    seed: int,
) -> Rows:
    """Distances of the patterns of a member and the pretrained one, before and after matching."""
    rows, parts = [], len(by_part)
    for part, criterion, (number, layer) in itertools.product(range(parts), CRITERIA, enumerate(job.where)):
        z_pre, z_ft = (acting.profiles[part].pattern(criterion)[number].numpy() for acting in (one, other))
        after = {
            "before": torch.arange(len(z_ft)), WEIGHTS: orders[layer][job.b],
            ACTIVATIONS: by_part[(part + 1) % parts][number], "wrong": shuffle(job.b, layer, len(z_ft), seed),
        }  # fmt: skip
        for name, distance in DISTANCES.items():
            found = {how: distance(z_pre, z_ft[order.numpy()]) for how, order in after.items()}
            rows.append(dict(member=job.b, criterion=criterion, distance=name, part=part, layer=layer) | found)
    return rows


def moved(matches: pd.DataFrame) -> pd.DataFrame:
    """Share of neurons whose best match is another one, in the layer where it is most, by pair of members and way.

    Columns a, b, by, effect with `low` and `high`: by weights it is exact, by activations they are Student's t over the
    parts of the text, for all rows together (Bonferroni); and gain, own, other, means over layers and parts.
    """
    real = matches[~matches.b.str.endswith(SHUFFLED.format("")) & ~matches.b.isin(FRESH)]
    value = 1 - real.fixed / real.neurons
    return _over_parts(real.assign(value=value), ["a", "b", "by"], ["gain", "own", "other"], over="max")


def _over_parts(
    rows: pd.DataFrame, keys: list[str], means: Sequence[str] = (), over: Literal["mean", "max"] = "mean"
) -> pd.DataFrame:
    """`effect`, of `value` the mean or maximum over layers and the mean over parts, with its t interval over parts.

    It is exact of a single part.
    """
    groups = rows.groupby(keys, sort=False)
    level, found = 1 - ALPHA / max(1, groups.ngroups), []
    for key, some in groups:
        samples = some.groupby("part").value.agg(over).to_numpy()
        effect = float(samples.mean())
        low, high = mean_interval(samples, level) if len(samples) > 1 else (effect, effect)
        about = dict(zip(keys, key, strict=True), **{name: some[name].mean() for name in means})
        found.append(about | dict(effect=effect, low=float(low), high=float(high)))
    return pd.DataFrame(found, columns=[*keys, *means, "effect", "low", "high"])


OVER_PARTS = (
    "By weights it is exact for these members; by activations the interval is Student's t over the {parts} parts of "
    "the text, which share no document, 95 % for all cases together. Where all parts agree it has no width, and so few "
    "parts leave open up to {open:.0%} of other texts. Layers: {layers}."
)


def _said(matches: pd.DataFrame) -> str:
    parts = matches.part.nunique()
    layers = ", ".join(f"{some.layer.nunique()} by {by}" for by, some in matches.groupby("by", sort=False))
    return OVER_PARTS.format(parts=parts, open=1 - ALPHA ** (1 / parts), layers=layers)


def need_no_matching(matches: pd.DataFrame, least: float = 0.01) -> Verdict:
    """Whether the best match of a neuron is itself, in every pair of members, by weights and by activations."""
    cases = moved(matches)
    rule = (
        "Effect: the share of neurons that the optimal assignment moves to another place, in the layer where it is "
        f"largest, for every pair of members. {_said(matches)} Smallest share that matters: {least:g}; a random order "
        "moves all but one neuron per layer on average. No direction: the claim is that there is none that matters."
    )
    most, chance = {by: cases[cases.by == by].effect.max() for by in (WEIGHTS, ACTIVATIONS)}, matches.neurons.max()
    numbers = dict(smallest=least, chance=1 - 1 / chance, pairs=len(cases) // 2)
    numbers |= {f"most_{by}": value for by, value in most.items()} | {f"own_{ACTIVATIONS}": cases.own}
    return judge(cases, rule, least=least, direction=0, digits=3, falsified=bool((cases.low > least).any()), **numbers)


def too_short(margins: pd.DataFrame, least: float = 2.0) -> Verdict:
    """Whether T is too short to bring a neuron nearer to another one's place than to its own, in every member."""
    of = margins.groupby("member", sort=False)
    cases = of[["least", "first", "percent"]].min().assign(median=of["median"].median(), r=of.r.max())
    reach = (margins["first"] * margins.r).groupby(margins.member, sort=False).min()
    cases = cases.assign(reach=reach).reset_index()
    effect = np.log(cases["first"])
    cases = cases.assign(effect=effect, low=effect, high=effect)
    rule = (
        "Effect: the smallest $\\lambda$ at which a neuron of $\\theta_\\text{pre} + \\lambda T$ is nearer to another "
        "neuron of $\\theta_\\text{pre}$ than to itself, over all neurons and layers, on a logarithmic scale. Below it "
        "the identity is the optimal assignment by weights. Interval: none, it is exact for these weights. Smallest "
        f"that matters: {least:g}; $T$ could then be so many times as long. Direction: above 1."
    )
    met = bool((cases["first"] <= 1).any())
    found = judge(cases, rule, least=math.log(least), falsified=met, smallest=least)
    return replace(found, kind="differs") if found.kind == "null explains it" else found  # exact: there is no null


def same_distances(distances: pd.DataFrame, share: float = 0.1, least: float = 0.001) -> Verdict:
    """Whether matching leaves the distances between patterns of active neurons as they are."""
    keys = ["member", "criterion", "distance", "by"]
    rows = distances.melt([*keys[:3], "part", "layer", "before", "wrong"], [WEIGHTS, ACTIVATIONS], "by", "after")
    cases = _over_parts(rows.assign(value=rows.after - rows.before), keys, ["before", "after", "wrong"])
    smallest = (share * cases.before).clip(lower=least)
    rule = (
        "Effect: the distance from the pretrained pattern after matching minus that before, mean over layers, by both "
        "criteria, for orders by weights and by the activations on another part of the text. Interval: Student's t "
        f"over the {rows.part.nunique()} parts of the text, which share no document, 95 % for all cases together. "
        f"Smallest that matters: {share:.0%} of the distance before, at least {least:g}. No direction: the claim is "
        "that there is none that matters."
    )
    met = bool(((cases.low > smallest) | (cases.high < -smallest)).any())
    numbers = dict(before=cases.before, after=cases.after, wrong=cases.wrong, largest=cases.effect.abs().max())
    found = judge(cases, rule, least=smallest, direction=0, digits=3, falsified=met, share=share, **numbers)
    return _following(found)


def _following(found: Verdict) -> Verdict:
    """The verdict, which says where no order was changed, so that nothing could."""
    same = found.kind == "holds" and (found.cases.effect == 0).all()
    return replace(found, why=f"{found.why or '1 of 1'}; it follows, since no neuron moves") if same else found


def by_order(distances: pd.DataFrame) -> pd.DataFrame:
    """Distances before and after matching and in a wrong order, means over layers and parts of the text."""
    columns = ["before", WEIGHTS, ACTIVATIONS, "wrong"]
    return distances.groupby(["member", "criterion", "distance"], sort=False)[columns].mean().reset_index()


def in_orders(cosines: pd.DataFrame, alignment: pd.DataFrame) -> pd.DataFrame:
    """Cosines of T over all compared layers, and SSA, mean over them, a column each of ORDERS of the neurons.

    Columns what ("cosine", "SSA"), of, and the orders.
    """
    sums = cosines.groupby(["a", "b", "order"], sort=False)[["inner", "aa", "bb"]].sum()
    cosine = (sums.inner / (sums.aa * sums.bb) ** 0.5).unstack()
    SSA = alignment.groupby(["vector", "kind", "order"], sort=False).SSA.mean().unstack()
    tables = {"cosine": cosine.set_axis([f"{a}, {b}" for a, b in cosine.index])}
    tables["SSA"] = SSA.set_axis([f"{vector}, {SYMBOLS[kind]}" for vector, kind in SSA.index])
    found = pd.concat(tables, names=["what", "of"]).reindex(columns=list(ORDERS))
    return found.rename_axis(columns=None).reset_index()


def same_T(taken: pd.DataFrame, least: float = 0.01) -> Verdict:
    """Whether matching leaves the cosines of T and its alignment as they are; `taken` is of `in_orders`."""
    effect = taken[MATCHED] - taken[AS_IS]
    cases = taken[["what", "of"]].assign(effect=effect, low=effect, high=effect)
    rule = (
        "Effect: a cosine of two $T$, over the matrices of the feed-forward layers, or SSA of a $T$ in one kind of "
        "them, with every member matched to the pretrained one, minus the same without. Interval: none, both are "
        f"exact for these weights. Smallest that matters: {least:g}. No direction: the claim is that there is none."
    )
    wrong = taken[taken.what == "cosine"]
    numbers = dict(largest=effect.abs().max(), smallest=least, as_is=wrong[AS_IS], each_wrong=wrong[OWN_ORDER])
    numbers |= dict(one_wrong=wrong[ONE_ORDER], SSA_wrong=(taken[OWN_ORDER] - taken[AS_IS])[taken.what == "SSA"])
    met = bool((effect.abs() > least).any())
    return _following(judge(cases, rule, least=least, direction=0, digits=3, falsified=met, **numbers))


def found_again(matches: pd.DataFrame, least: float = 0.005) -> Verdict:
    """The control: whether neurons that were shuffled are found again."""
    shuffled = matches[matches.b.str.endswith(SHUFFLED.format(""))]
    value = 1 - shuffled.right / shuffled.neurons
    cases = _over_parts(shuffled.assign(value=value), ["a", "b", "by"], over="max")
    rule = (
        "Effect: the share of a shuffled member's neurons that are not matched with the pretrained member's neuron "
        f"from which they came, in the layer where it is largest. {_said(shuffled)} Smallest that matters: {least:g}. "
        "No direction: the claim is that there is none that matters."
    )
    about = dict(smallest=least, falsified=bool((cases.low > least).any()), most=cases.effect.max())
    return judge(cases, rule, least=least, direction=0, digits=3, **about)


def chance(neurons: int, layers: int) -> Float64[np.ndarray, " counts"]:
    """Probabilities of 0, 1, 2, … fixed points in all of so many independent random permutations of so many neurons.

    Of one permutation P(k) = Σ_{i ≤ n − k} (−1)^i / i! / k! (Montmort), with mean 1 and variance 1; the sum over layers
    is their convolution, and but for terms of the order 1/n! a Poisson distribution with the number of layers as mean.
    """
    most = min(neurons, MOST)
    derangements = np.cumsum([(-1) ** i / math.factorial(i) for i in range(min(neurons, 2 * MOST) + 1)])
    one = [derangements[min(neurons - k, len(derangements) - 1)] / math.factorial(k) for k in range(most + 1)]
    found = np.ones(1)
    for _ in range(layers):
        found = np.convolve(found, one)
    return found


def fixed_by_chance(matches: pd.DataFrame) -> pd.DataFrame:
    """Fixed points of untrained models, summed over layers, beside those of random permutations.

    Columns a, b, by, layers, neurons, fixed, expected, p (exact, two-sided: twice the smaller tail), and effect, the
    share that is fixed less 1 / neurons, with Garwood's interval of a Poisson count, for all rows together; and gain,
    own and other, means over layers: what matching finds where there is nothing to find.
    """
    groups = matches[matches.b.isin(FRESH)].groupby(["a", "b", "by"], sort=False)
    rows, alpha = [], ALPHA / groups.ngroups
    for (a, b, by), some in groups:
        count, n, fixed = len(some), int(some.neurons.iloc[0]), int(some.fixed.sum())
        known = chance(n, count)
        p = min(1.0, 2 * min(known[: fixed + 1].sum(), known[fixed:].sum()))
        ends = chi2.ppf(alpha / 2, 2 * fixed) / 2 if fixed else 0.0, chi2.ppf(1 - alpha / 2, 2 * fixed + 2) / 2
        effect, low, high = (x / (count * n) - 1 / n for x in (fixed, *ends))
        about = dict(a=a, b=b, by=by, layers=count, neurons=n, fixed=fixed, expected=count, p=float(p))
        about |= some[["gain", "own", "other"]].mean().to_dict()
        rows.append(about | dict(effect=effect, low=float(low), high=float(high)))
    return pd.DataFrame(rows)


def not_found(matches: pd.DataFrame, many: int = 3) -> Verdict:
    """The control: whether the neurons of untrained models are matched at chance, up to so many a layer."""
    cases = fixed_by_chance(matches)
    least = many / cases.neurons
    rule = (
        "Effect: the share of neurons of an untrained model whose best match has the same number, minus that of a "
        "random permutation, one neuron per layer. All orders of an untrained layer are equally likely, so its "
        "assignment is a random permutation, and the fixed points of many layers sum to a Poisson count. Interval: "
        f"Garwood's, 95 % for all cases together. Smallest that matters: {many} neurons per layer; and a count that "
        f"chance gives with a probability below {ALPHA:g}, for all cases together, differs however small it is. No "
        "direction: the claim is that there is none."
    )
    met = bool((cases.p * len(cases) < ALPHA).any())
    found = judge(cases, rule, least=least, direction=0, digits=4, falsified=met, p=cases.p)
    return replace(found, kind="differs") if met else found


def costs_of_layers(neurons: int) -> pd.DataFrame:
    """Recorded processor seconds of matching a layer (`weights.matching.costs`), what a fit gives, and gigabytes.

    Columns neurons, pair, product, assignment, product_fit, assignment_fit, assignment_cubic, gigabytes. A product, and
    an assignment at worst, grows with the third power, from the largest recorded one. The fit of an assignment is a
    power of the number of neurons, by least squares of logarithms over all recorded sizes of a kind of pair but the
    largest, which tells how far it is off. A layer of so many `neurons` was not measured and has these alone.
    """
    found = pd.read_csv(data_folder() / "scaling" / "assignment.csv")
    parts = []
    for pair, rows in found.groupby("pair", sort=False):
        *_, last = rows.sort_values("neurons").itertuples()
        known = rows[rows.neurons < last.neurons]
        power = np.polyfit(np.log(known.neurons), np.log(known.assignment), 1)
        rows = rows.set_index("neurons").reindex([*rows.neurons, neurons]).rename_axis("neurons").reset_index()
        fits = dict(product_fit=last.product * (rows.neurons / last.neurons) ** 3)
        fits["assignment_fit"] = np.exp(np.polyval(power, np.log(rows.neurons)))
        fits["assignment_cubic"] = last.assignment * (rows.neurons / last.neurons) ** 3
        parts.append(rows.assign(pair=pair, **fits))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(gigabytes=PAIR * table.neurons**2 / 1e9)
