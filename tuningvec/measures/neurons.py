"""Neurons of the gated feed-forward layers: which are active, and how their pattern differs between models."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64
from nnsight import NNsight
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import corpus, models
from tuningvec.measures.corpus import Tokens
from tuningvec.stats import mean_interval
from tuningvec.store import Record, Rows, Store, joined
from tuningvec.verdict import Verdict, judge, unknown
from tuningvec.weights import cluster

SHARDS = 8  # parts of a corpus that are measured and kept one by one; no document lies in two
HALVES = range(0, SHARDS, 2), range(1, SHARDS, 2)  # the same documents never in both
BATCH = 8  # rows of a window
ALPHA = 0.05  # of all cases of a verdict together
RENAMED = {"activation_fn": "act_fn"}  # Phi-3


@dataclass(frozen=True)
class Profile:
    """What the neurons of L layers did on some tokens: A = σ(W_gate x), u = W_up x (paper §2).

    `active` counts the tokens with A > 0; `A` and `Au` are sums over tokens of A and of A · u, which W_down reads.
    """

    tokens: int
    active: Int64[Tensor, "L d_m"]
    A: Float64[Tensor, "L d_m"]
    Au: Float64[Tensor, "L d_m"]

    def __add__(self, other: "Profile") -> "Profile":
        """The profile on the tokens of both."""
        return Profile(self.tokens + other.tokens, self.active + other.active, self.A + other.A, self.Au + other.Au)

    @property
    def frequency(self) -> Float64[Tensor, "L d_m"]:
        """Share of the tokens on which a neuron is active."""
        return self.active.double() / self.tokens

    def pattern(self, criterion: str) -> Bool[Tensor, "L d_m"]:
        """z = 1 for a neuron whose mean activation is positive ("mean"), or that is active on most tokens ("half").

        Raises TuningVecError for another criterion.
        """
        if criterion not in CRITERIA:
            raise TuningVecError(f"criterion is {criterion!r}; one of {', '.join(CRITERIA)}")
        return self.A > 0 if criterion == "mean" else self.frequency > 0.5


CRITERIA: dict[str, str] = {"mean": "mean activation > 0", "half": "active on over half the tokens"}


def activation_profile(
    model: PreTrainedModel,
    tokens: Tokens,
    batch: int = BATCH,
    shards: int = SHARDS,
    parts: Sequence[int] | None = None,
    record: Record | None = None,
) -> list[Profile]:
    """Profiles of the parts of a corpus, `tokens.part(i, shards)`, or of some; their sum is that of the whole.

    One trace a batch; no activation of a single token is kept and the output head is never computed. Sums over a batch
    are float32, over batches float64. A part that the record holds is not measured again. Raises TuningVecError for a
    model without gated feed-forward layers, and for fewer documents than parts.
    """
    record = Record() if record is None else record
    parts = range(shards) if parts is None else parts
    _check(model)
    _enough(tokens, shards)
    missing = {part: tokens.part(part, shards) for part in parts if str(part) not in record}
    with tqdm(total=sum(t.count for t in missing.values()), desc="profile", unit=" tokens") as bar:
        for part, selected in missing.items():
            record.add(str(part), *_summed(model, selected, batch, bar.update))
    return _kept(record, parts)


def _enough(tokens: Tokens, shards: int) -> None:
    if tokens.documents < shards:
        raise TuningVecError(
            f"the corpus gives {tokens.documents} documents in {tokens.count} tokens; {shards} are needed, since no "
            "document lies in two parts: raise tokens, or cut long texts into documents"
        )


def _summed(
    model: PreTrainedModel, selected: Tokens, batch: int, told: Callable[[int], object]
) -> tuple[Rows, dict[str, Tensor]]:
    """The number of tokens as one row, and the sums over them."""
    net, device = NNsight(model.get_decoder(), rename=RENAMED), model.get_input_embeddings().weight.device
    sums, rows = _Sums.zero(model), selected.rows()
    for first in range(0, len(rows.ids), batch):
        ids, mask = (x[first : first + batch].to(device) for x in rows)
        _measure(net, sums, ids, mask)
        told(int(mask.sum()))
    return [dict(tokens=selected.count)], sums.on_cpu()


def _kept(record: Record, parts: Sequence[int]) -> list[Profile]:
    return [Profile(record.pieces[str(part)][0]["tokens"], **record.arrays(str(part))) for part in parts]


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """The blocks of a model."""
    return model.get_decoder().layers


def _check(model: PreTrainedModel) -> None:
    blocks = getattr(model.get_decoder(), "layers", [None])
    mlp = getattr(blocks[0], "mlp", None)
    if not hasattr(mlp, "down_proj") or not any(hasattr(mlp, name) for name in ("act_fn", *RENAMED)):
        raise TuningVecError(
            f"{type(model).__name__}: no gated feed-forward layer; Llama, Qwen, Phi-3, Mistral and Gemma have them"
        )


@dataclass(frozen=True)
class _Sums:
    """One row a layer, on the layer's own device."""

    active: list[Int64[Tensor, " d_m"]]
    A: list[Float64[Tensor, " d_m"]]
    Au: list[Float64[Tensor, " d_m"]]

    @classmethod
    def zero(cls, model: PreTrainedModel) -> "_Sums":
        downs = [layer.mlp.down_proj for layer in layers(model)]

        def rows(dtype: torch.dtype) -> list[Tensor]:
            return [torch.zeros(down.in_features, dtype=dtype, device=down.weight.device) for down in downs]

        return cls(rows(torch.int64), rows(torch.float64), rows(torch.float64))

    def on_cpu(self) -> dict[str, Tensor]:
        return {name: torch.stack([row.cpu() for row in rows]) for name, rows in vars(self).items()}


def _measure(net: NNsight, sums: _Sums, ids: Tensor, mask: Tensor) -> None:
    """Add a batch: in the trace only what is changed in place outlives it."""
    keep = None if mask.all() else mask.reshape(-1, 1)  # (tokens, 1)
    with torch.no_grad(), net.trace(input_ids=ids.long(), attention_mask=mask.long(), use_cache=False):
        for layer, active, A_sum, Au_sum in zip(net.layers, sums.active, sums.A, sums.Au, strict=True):
            A = _by_token(layer.mlp.act_fn.output, keep)  # (tokens, d_m)
            A_sum.add_(A.sum(0, dtype=torch.float32))
            positive = torch.gt(A, 0, out=torch.empty_like(A))  # 0 or 1; many times as fast as by way of booleans
            active.add_(positive.sum(0, dtype=torch.float32).long())
            Au_sum.add_(_by_token(layer.mlp.down_proj.input, keep).sum(0, dtype=torch.float32))


def _by_token(values: Tensor, keep: Tensor | None) -> Tensor:
    """One row a token; those of padding are 0, which adds nothing and is not active."""
    rows = values.flatten(0, 1)
    return rows if keep is None else rows * keep.to(rows)


class Profiles(NamedTuple):
    """The profile of each member in parts of a corpus, and a table of what was read; its `attrs["runs"]` tell when."""

    corpus: str
    parts: dict[str, list[Profile]]
    read: pd.DataFrame

    def whole(self, member: str) -> Profile:
        """The profile on all tokens."""
        return total(self.parts[member])


def total(parts: Iterable[Profile]) -> Profile:
    return reduce(Profile.__add__, parts)


def profiles(family: Family, dtype: str, store: Store | None = None, controls: bool = False) -> Profiles:
    """The activation profile of every member on the family's first corpus, read by each member's own tokenizer.

    Controls are left out unless they are asked for. Members whose profile is stored are not loaded. Raises as
    `activation_profile` and `corpus.tokens` do.
    """
    return _profiles(family, models.opened(family, dtype, controls), range(SHARDS), store)


def rotated(family: Family, dtype: str, seed: int, store: Store | None = None) -> Profiles:
    """The same of θ_pre + T with T rotated (`models.Turned`), for every fine-tuned member, on the first of HALVES."""
    names = [member.name for member in family.studied[1:]]
    turned = [models.Turned(family, name, seed, dtype) for name in names]
    found = _profiles(family, models.in_turn(turned), HALVES[0], store)
    return found._replace(parts=dict(zip(names, found.parts.values(), strict=True)))


def _profiles(family: Family, opened: Iterable[models.Opened], parts: Sequence[int], store: Store | None) -> Profiles:
    name = next(iter(family.corpora))
    records: dict[str, Record] = {}
    tables = []

    def due() -> Iterator[cluster.Piece]:
        for member in opened:
            tokens = corpus.tokens(family, name, member.tokenizer, store)
            digest = tokens.digest()
            record = records[member.name] = member.record(store, "profile", __name__, tokens=digest)
            row = dict(member=member.name, documents=tokens.documents, tokens=tokens.count, asked=tokens.asked)
            tables.append(pd.DataFrame([row | dict(window=tokens.window, digest=digest)]))
            missing = [part for part in parts if str(part) not in record]
            if missing and not cluster.address():
                activation_profile(member.model, tokens, parts=parts, record=record)
            elif missing:
                yield from _apart(member, tokens, missing)

    for where, sums in cluster.each(due()):
        records[where.member].add(str(where.part), *sums)
    for table, record in zip(tables, records.values(), strict=True):
        table.attrs["runs"] = record.runs
    return Profiles(name, {member: _kept(record, parts) for member, record in records.items()}, joined(tables))


class _Part(NamedTuple):
    member: str
    part: int

    def __str__(self) -> str:
        return f"{self.member}, part {self.part} of the corpus"


def _apart(member: models.Opened, tokens: Tokens, missing: Sequence[int]) -> Iterator[cluster.Piece]:
    """The parts of a corpus as pieces for the workers of a cluster."""
    _enough(tokens, SHARDS)
    work = partial(_profiled, member)
    for part in missing:
        yield _Part(member.name, part), work, tokens.part(part, SHARDS)


def _profiled(member: models.Opened, selected: Tokens) -> tuple[Rows, dict[str, Tensor]]:
    _check(member.model)
    return _summed(member.model, selected, BATCH, lambda _: None)


def by_part(found: Profiles) -> pd.DataFrame:
    """Share of tokens and neurons that are active, a row a member and part of the corpus, a column a layer."""
    tables = {m: pd.DataFrame([part.frequency.mean(1).numpy() for part in parts]) for m, parts in found.parts.items()}
    return pd.concat(tables, names=["member", "part"])


def shares(found: Profiles) -> pd.DataFrame:
    """Share of active neurons by member and layer, in three readings (paper Fig. 1).

    `share` is that of tokens and neurons with A > 0, the mean over the parts of the corpus with its t interval (`low`,
    `high`); `mean` and `half` are the shares of neurons that are active by either criterion.
    """
    tables = []
    for member, table in by_part(found).groupby("member", sort=False):
        low, high = mean_interval(table.to_numpy())
        patterns = {c: found.whole(member).pattern(c).double().mean(1).numpy() for c in CRITERIA}
        columns = dict(share=table.mean(), low=low, high=high, **patterns)
        tables.append(pd.DataFrame(dict(member=member, layer=table.columns, **columns)))
    return pd.concat(tables, ignore_index=True)


def trends(parts: pd.DataFrame) -> pd.DataFrame:
    """How the share of active neurons (`by_part`) runs through the layers, a row a member (paper §2).

    `step` is the change from the first layer to the second and `rho` Spearman's correlation of share and layer from the
    second on, each with its t interval over the parts of the corpus; `others` the mean absolute change between later
    neighbouring layers; `gap` the mean absolute difference from the first member in the same layer.
    """
    mean = parts.groupby("member", sort=False).mean()
    table = pd.DataFrame(dict(first=mean.iloc[:, 0], second=mean.iloc[:, 1], last=mean.iloc[:, -1]))
    for name, samples in (("step", _steps(parts)), ("rho", _rho(parts))):
        found = _over_parts(samples, level=1 - ALPHA).set_index("member")
        ends = found[["effect", "low", "high"]]
        table[[name, f"{name}_low", f"{name}_high"]] = ends.clip(-1, 1)  # t knows no bounds
    gap = (mean - mean.iloc[0]).abs().mean(axis=1)
    return table.assign(others=_later_steps(parts), gap=gap).reset_index()


def _steps(parts: pd.DataFrame) -> pd.Series:
    return parts[1] - parts[0]


def _later_steps(parts: pd.DataFrame) -> pd.Series:
    """Mean absolute change between neighbouring layers from the second on, by member."""
    return parts.groupby("member", sort=False).mean().iloc[:, 1:].diff(axis=1).abs().mean(axis=1)


def _rho(parts: pd.DataFrame) -> pd.Series:
    """Spearman's correlation of share and layer from the second layer on, by member and part."""
    ranks = parts.iloc[:, 1:].rank(axis=1)
    return ranks.T.corrwith(pd.Series(ranks.columns, index=ranks.columns))


def _over_parts(samples: pd.Series, level: float | None = None) -> pd.DataFrame:
    """Mean over `part`, the last level of the index, with its t interval; a row for each of the other levels' keys.

    Intervals hold at once with probability 1 − ALPHA (Bonferroni), unless a level is given.
    """
    groups = samples.groupby(list(samples.index.names[:-1]), sort=False)
    level = 1 - ALPHA / groups.ngroups if level is None else level
    rows = [(values.mean(), *map(float, mean_interval(values.to_numpy(), level))) for _, values in groups]
    keys = groups.first().index
    return pd.DataFrame(rows, columns=["effect", "low", "high"], index=keys).reset_index()


AT_ONCE = (
    "intervals are Student's t over the {parts} parts of the text, which share no document, and hold at once with 95 %"
)


def drop_after_first(parts: pd.DataFrame, times: float = 2.0) -> Verdict:
    """Whether the share of active neurons (`by_part`) falls after the first layer by more than later layers change."""
    rule = (
        f"the step from the first layer to the second is a fall, and at least {times:g} times the mean step between "
        f"later neighbouring layers, in every member; {_at_once(parts)}"
    )
    if parts.shape[1] < 3:
        return unknown(rule, f"the model has {parts.shape[1]} layers; there are no later steps")
    cases = _over_parts(_steps(parts)).merge(trends(parts)[["member", "first", "second", "others"]], on="member")
    met = bool((cases.low > 0).any())
    return judge(cases, rule, least=times * cases.others, direction=-1, digits=3, falsified=met)


def grows_with_depth(parts: pd.DataFrame, least: float = 0.5) -> Verdict:
    """Whether the share of active neurons (`by_part`) rises with the layer from the second layer on."""
    rule = (
        f"Spearman's ρ of share and layer, from the second layer on, is above 0 and at least {least:g} in every "
        f"member; {_at_once(parts)}: layers are not a sample, so no p value is computed from them"
    )
    if parts.shape[1] < 5:
        return unknown(rule, f"the model has {parts.shape[1]} layers; a trend needs four after the first")
    cases = _over_parts(_rho(parts))
    cases[["low", "high"]] = cases[["low", "high"]].clip(-1, 1)
    return judge(cases, rule, least=least, falsified=bool((cases.high < 0).any()))


def similar_shares(parts: pd.DataFrame, least: float = 0.02) -> Verdict:
    """Whether every member uses the same share of neurons (`by_part`) as the first one, layer by layer."""
    first, *others = parts.index.unique("member")
    gaps = pd.concat({member: parts.loc[member] - parts.loc[first] for member in others}, names=["member"])
    cases = _over_parts(gaps.rename_axis(columns="layer").stack().swaplevel())
    rule = (
        f"in every layer of every fine-tuned member the share differs by less than {least:g} from the pretrained "
        f"member's; {_at_once(parts)}"
    )
    beyond = (cases.low > least) | (cases.high < -least)
    numbers = dict(gap=trends(parts).gap.iloc[1:], others=_later_steps(parts).iloc[0], largest=cases.effect.abs().max())
    numbers |= dict(smallest=least)
    return judge(cases, rule, least=least, direction=0, digits=3, falsified=bool(beyond.any()), **numbers)


def distances(found: Profiles, turned: Profiles, pretrained: str, draws: int = 20, seed: int = 0) -> pd.DataFrame:
    """Normalised edit distance of each member's binary activation pattern from the pretrained one's (paper Fig. 2).

    Columns member, layer, criterion, `edit` (Levenshtein / d_m) and `hamming` (share of neurons that differ), each with
    `_shuffled`, what as many active neurons at random places give (the mean over `draws`; for Hamming the exact
    p (1 − q) + q (1 − p)); and on half of the text `_half`, the same as without; `_rotated`, the distance that the
    rotated T of `turned` makes; and `_floor`, the pretrained member's from itself on the other half.
    """
    random = np.random.default_rng(seed)
    half, other = ({m: total(parts[i] for i in some) for m, parts in found.parts.items()} for some in HALVES)
    rows = []
    for (member, parts), criterion in itertools.product(found.parts.items(), CRITERIA):
        null = total(turned.parts[member]) if member in turned.parts else half[member]
        profiled = found.whole(pretrained), total(parts), half[pretrained], half[member], null, other[pretrained]
        patterns = [profile.pattern(criterion).numpy() for profile in profiled]
        for layer, (z_pre, z_ft, half_pre, half_ft, rotated, elsewhere) in enumerate(zip(*patterns, strict=True)):
            p, q = z_pre.mean(), z_ft.mean()
            row = dict(member=member, layer=layer, criterion=criterion)
            for name, distance in DISTANCES.items():
                row |= {
                    name: distance(z_pre, z_ft), f"{name}_half": distance(half_pre, half_ft),
                    f"{name}_rotated": distance(half_pre, rotated), f"{name}_floor": distance(half_pre, elsewhere),
                }  # fmt: skip
            row["edit_shuffled"] = np.mean([_edit(z_pre, random.permutation(z_ft)) for _ in range(draws)])
            rows.append(row | dict(hamming_shuffled=p * (1 - q) + q * (1 - p)))
    return pd.DataFrame(rows)


def changes(found: Profiles, turned: Profiles, pretrained: str, seed: int = 0) -> pd.DataFrame:
    """Edit distance from the pretrained pattern by layer on each part of the first of HALVES.

    Columns member, criterion, layer, part, `edit` (the member's), `rotated` (that of its rotated T on the same text)
    and `shuffled` (that of as many active neurons at random places).
    """
    random = np.random.default_rng(seed)
    rows = []
    for member, criterion, (i, part) in itertools.product(turned.parts, CRITERIA, enumerate(HALVES[0])):
        profiled = found.parts[pretrained][part], found.parts[member][part], turned.parts[member][i]
        z_pre, z_ft, z_null = (profile.pattern(criterion).numpy() for profile in profiled)
        others = dict(edit=z_ft, rotated=z_null, shuffled=random.permuted(z_ft, axis=1))
        for layer, before in enumerate(z_pre):
            found_there = {name: _edit(before, z[layer]) for name, z in others.items()}
            rows.append(dict(member=member, criterion=criterion, layer=layer, part=part, **found_there))
    return pd.DataFrame(rows)


def little_change(found: pd.DataFrame, distances: pd.DataFrame, most: float = 0.5) -> Verdict:
    """Whether fine-tuning moves the pattern (`changes`) in every layer by less than a share of random places."""
    rule = (
        f"the edit distance from the pretrained pattern is below {most:.0%} of that of as many active neurons at "
        "random places on the same text, in every layer of every member and by both criteria; "
        f"{AT_ONCE.format(parts=found.part.nunique())}"
    )
    keys = ["member", "criterion"]
    cases = _compared(found, found.edit - most * found.shuffled, [*keys, "layer"])
    others = distances[distances.member.isin(found.member)]
    of_text = others.groupby(keys)[["edit_half", "edit_floor"]].mean()
    means = _means(found, keys)
    numbers = dict(floor=of_text.edit_floor, times_floor=of_text.edit_half / of_text.edit_floor, ratio=means.ratio)
    numbers |= dict(edit=means.edit, shuffled=means.shuffled, largest=(cases.edit / cases.shuffled).max(), most=most)
    met = bool((cases.low > 0).any())
    return judge(cases, rule, least=0.0, direction=-1, unit="of the distance", digits=3, falsified=met, **numbers)


def as_a_rotated_T(found: pd.DataFrame, least: float = 0.2) -> Verdict:
    """Whether fine-tuning moves the pattern (`changes`) as far as a rotated T of the same spectrum does."""
    keys = ["member", "criterion"]
    means = found.groupby([*keys, "part"], sort=False)[["edit", "rotated", "shuffled"]].mean().reset_index()
    cases = _compared(means, means.edit - means.rotated, keys)
    rule = (
        f"the edit distance from the pretrained pattern, mean over layers, is within {least:.0%} of that of θ_pre plus "
        "a rotated T, in every member and by both criteria; both are measured on the same half of the text, with one "
        f"draw of rotations; {AT_ONCE.format(parts=found.part.nunique())}"
    )
    further = cases.low > least * cases.rotated
    return judge(cases, rule, least=least * cases.rotated, direction=0, digits=3, falsified=bool(further.any()))


def shared_changes(everyone: Profiles, turned: Profiles, family: Family) -> pd.DataFrame:
    """How far a specialist with controls changes the neurons that others change: φ, by part of the text.

    With c = 1 where a member's pattern differs from the pretrained one's, φ is the correlation of c and the other's c
    over neurons, each less its mean in the layer: 1 for the same neurons, 0 for as many at random places in each layer.
    Columns member, other, keeps ("facts", "form", "" for another domain, "spectrum" for its own rotated T), criterion,
    part, phi (NaN where one of both changes nothing).
    """
    pretrained = everyone.parts[family.pretrained.name]
    rows = []
    for member in [m for m in family.studied[1:] if any(c.controls == m.name for c in family.controls)]:
        keeps = {c.name: c.keeps for c in family.controls if c.controls == member.name}
        keeps |= {m.name: "" for m in family.studied[1:] if m is not member}
        others = {name: (kept, dict(enumerate(everyone.parts[name]))) for name, kept in keeps.items()}
        rotated = dict(zip(HALVES[0], turned.parts[member.name], strict=True))
        others["its rotated T"] = "spectrum", rotated
        for (other, (kept, parts)), criterion in itertools.product(others.items(), CRITERIA):
            for part, profile in parts.items():
                before = pretrained[part].pattern(criterion)
                own = everyone.parts[member.name][part].pattern(criterion) ^ before
                phi = _phi(own, profile.pattern(criterion) ^ before)
                about = dict(member=member.name, other=other, keeps=kept, criterion=criterion)
                rows.append(about | dict(part=part, phi=phi))
    return pd.DataFrame(rows, columns=["member", "other", "keeps", "criterion", "part", "phi"])


def _phi(one: Bool[Tensor, "L d_m"], other: Bool[Tensor, "L d_m"]) -> float:
    x, y = (c.double() - c.double().mean(1, keepdim=True) for c in (one, other))
    both = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / both if both else np.nan


def of_the_domain(shared: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether the neurons that a specialist changes are its domain's: shared with a twin and not with a placebo.

    A specialist's twin is the control that keeps its facts whose changes are most like its own.
    """
    rule = (
        "φ of the neurons that a specialist and its twin change (another training run on the same facts; of several, "
        "the one most like it), minus φ with its placebo (the same words and form without the facts), is above 0 and "
        f"at least {least:g}, by both criteria; "
    )
    means = shared.groupby(["member", "keeps", "other"], sort=False).phi.mean()
    samples = {}
    for member, kept in means.groupby("member", sort=False):
        kept = kept.droplevel("member")
        if not {"facts", "form"} <= set(kept.index.unique("keeps")):
            continue
        twin, placebo = (kept[keeps].idxmax() for keeps in ("facts", "form"))
        values = shared[shared.member == member].set_index(["other", "criterion", "part"]).phi
        samples[member, twin, placebo] = values[twin] - values[placebo]
    others = shared.groupby("keeps").phi.mean()
    about = dict(smallest=least, domain=others.get("", np.nan), spectrum=others.get("spectrum", np.nan))
    if not samples:
        return unknown(rule + "none has both", "no specialist has both a twin and a placebo", **about)
    gaps = pd.concat(samples, names=["member", "twin", "placebo"])
    cases = _over_parts(gaps)
    of = shared.groupby(["member", "other", "criterion"]).phi.mean()
    for who in ("twin", "placebo"):
        cases[f"phi_{who}"] = [of[m, o, c] for m, o, c in zip(cases.member, cases[who], cases.criterion, strict=True)]
    rule += AT_ONCE.format(parts=gaps.index.unique("part").size)
    return judge(cases, rule, least=least, falsified=bool((cases.high < least).any()), **about)


def _means(found: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    means = found.groupby(list(keys), sort=False)[["edit", "rotated", "shuffled"]].mean()
    return means.assign(ratio=means.edit / means.rotated).reset_index()


def _compared(found: pd.DataFrame, effect: pd.Series, keys: Sequence[str]) -> pd.DataFrame:
    """An effect by these keys with its interval over parts, beside the mean distances."""
    cases = _over_parts(effect.set_axis(pd.MultiIndex.from_frame(found[[*keys, "part"]])))
    return cases.merge(_means(found, keys), on=list(keys))


def _at_once(parts: pd.DataFrame) -> str:
    return AT_ONCE.format(parts=len(parts.index.unique("part")))


def _edit(one: Bool[np.ndarray, " d_m"], other: Bool[np.ndarray, " d_m"]) -> float:
    """Levenshtein distance over length."""
    return Levenshtein.distance(one.tobytes(), other.tobytes()) / len(one)


def _hamming(one: Bool[np.ndarray, " d_m"], other: Bool[np.ndarray, " d_m"]) -> float:
    return float(np.mean(one != other))


DISTANCES = {"edit": _edit, "hamming": _hamming}
