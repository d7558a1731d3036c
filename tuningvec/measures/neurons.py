"""Neurons of the gated feed-forward layers: which are active, and how their pattern differs between models."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64
from nnsight import NNsight
from rapidfuzz.distance import Levenshtein
from scipy.stats import spearmanr
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import corpus, models
from tuningvec.measures.corpus import Tokens
from tuningvec.stats import mean_interval
from tuningvec.store import Record, Store

SHARDS = 8  # parts of a corpus that are measured and kept one by one
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
    model: PreTrainedModel, tokens: Tokens, batch: int = 8, shards: int = SHARDS, record: Record | None = None
) -> list[Profile]:
    """Profiles of the parts of a corpus, `tokens.part(i, shards)`; their sum is that of the whole.

    One trace a batch; no activation of a single token is kept and the output head is never computed. Sums over a batch
    are float32, over batches float64. A part that the record holds is not measured again. Raises TuningVecError for a
    model without gated feed-forward layers, and for fewer rows than parts.
    """
    record = Record() if record is None else record
    _check(model)
    if len(tokens.ids) < shards:
        raise TuningVecError(
            f"the corpus has {len(tokens.ids)} rows; {shards} are needed, so raise tokens or lower window"
        )
    net, device = NNsight(model.get_decoder(), rename=RENAMED), model.get_input_embeddings().weight.device
    missing = [part for part in range(shards) if str(part) not in record]
    rows = {part: tokens.part(part, shards) for part in missing}
    with tqdm(total=sum(len(t.ids) for t in rows.values()), desc="profile", unit=" rows", mininterval=5) as bar:
        for part, selected in rows.items():
            sums = _Sums.zero(model)
            for first in range(0, len(selected.ids), batch):
                some = slice(first, first + batch)
                _measure(net, sums, selected.ids[some].to(device), selected.mask[some].to(device))
                bar.update(len(selected.ids[some]))
            record.add(str(part), [dict(tokens=selected.count)], sums.on_cpu())
    return _kept(record, shards)


def _kept(record: Record, shards: int) -> list[Profile]:
    return [Profile(record.pieces[str(part)][0]["tokens"], **record.arrays(str(part))) for part in range(shards)]


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
    """The profile of each member in SHARDS parts, and a table of what was read; its `attrs["runs"]` tell when."""

    corpus: str
    parts: dict[str, list[Profile]]
    read: pd.DataFrame

    def whole(self, member: str) -> Profile:
        """The profile on all tokens."""
        return total(self.parts[member])


def total(parts: Sequence[Profile]) -> Profile:
    return reduce(Profile.__add__, parts)


def profiles(family: Family, dtype: str, store: Store | None = None) -> Profiles:
    """The activation profile of every member on the family's first corpus, read by each member's own tokenizer.

    Members whose profile is stored are not loaded. Raises as `activation_profile` and `corpus.tokens` do.
    """
    name = next(iter(family.corpora))
    found, rows, runs = {}, [], []
    for member in models.opened(family, dtype, "members"):
        tokens = corpus.tokens(family, name, member.tokenizer, store)
        digest = tokens.digest()
        record = member.record(store, "profile", __name__, tokens=digest)
        if all(str(part) in record for part in range(SHARDS)):
            found[member.name] = _kept(record, SHARDS)
        else:
            found[member.name] = activation_profile(member.model, tokens, record=record)
        read = dict(documents=tokens.documents, tokens=tokens.count, asked=tokens.asked)
        shape = dict(rows=tokens.ids.shape[0], window=tokens.ids.shape[1], digest=digest)
        rows.append(dict(member=member.name, **read, **shape))
        runs += record.runs
    table = pd.DataFrame(rows)
    table.attrs["runs"] = runs
    return Profiles(name, found, table)


def shares(found: Profiles) -> pd.DataFrame:
    """Share of active neurons by member and layer, in three readings (paper Fig. 1).

    `share` is the mean over tokens of the share of neurons with A > 0, with a t interval (`low`, `high`) over the parts
    of the corpus; `mean` and `half` are the shares of neurons that are active by either criterion.
    """
    tables = []
    for member, parts in found.parts.items():
        whole, by_part = total(parts), _by_part(parts)
        low, high = mean_interval(by_part)
        patterns = {c: whole.pattern(c).double().mean(1).numpy() for c in CRITERIA}
        columns = dict(share=whole.frequency.mean(1).numpy(), low=low, high=high, **patterns)
        tables.append(pd.DataFrame(dict(member=member, layer=range(by_part.shape[1]), **columns)))
    return pd.concat(tables, ignore_index=True)


def _by_part(parts: Sequence[Profile]) -> Float64[np.ndarray, "parts L"]:
    """Share of tokens and neurons that are active, by part of the corpus and layer."""
    return np.stack([part.frequency.mean(1).numpy() for part in parts])


def trends(found: Profiles) -> pd.DataFrame:
    """How the share of active neurons runs through the layers, a row a member (paper §2).

    `step` is the change from the first layer to the second, with a t interval (`low`, `high`) over the parts of the
    corpus; `rho` Spearman's correlation of share and layer from the second layer on, with its `p`; `others` the mean
    absolute change between neighbouring layers from the second on; `gap` the mean absolute difference from the first
    member in the same layer.
    """
    rows, reference = [], None
    for member, parts in found.parts.items():
        by_part = _by_part(parts)
        share = total(parts).frequency.mean(1).numpy()
        reference = share if reference is None else reference
        low, high = mean_interval(by_part[:, 1] - by_part[:, 0])
        rho, p = spearmanr(np.arange(1, len(share)), share[1:])
        rows.append(
            dict(
                member=member, first=share[0], second=share[1], last=share[-1], step=share[1] - share[0],
                low=float(low), high=float(high), others=np.abs(np.diff(share[1:])).mean(),
                rho=float(rho), p=float(p), gap=np.abs(share - reference).mean(),
            )
        )  # fmt: skip
    return pd.DataFrame(rows)


def distances(found: Profiles, pretrained: str, draws: int = 20, seed: int = 0) -> pd.DataFrame:
    """Normalised edit distance of each member's binary activation pattern from the pretrained one's (paper Fig. 2).

    Columns member, layer, criterion, `edit` (Levenshtein / d_m) and `hamming` (share of neurons that differ), each with
    `_null`, what as many active neurons at random places give (the mean over `draws`, of standard deviation
    `edit_null_sd`; for Hamming the exact p (1 − q) + q (1 − p)), and `_floor`, the pretrained member's distance from
    itself between the two halves of the corpus.
    """
    random = np.random.default_rng(seed)
    whole = {member: total(parts) for member, parts in found.parts.items()}
    halves = [total(found.parts[pretrained][i::2]) for i in range(2)]
    rows = []
    for member, criterion in itertools.product(whole, CRITERIA):
        patterns = [p.pattern(criterion).numpy() for p in (whole[pretrained], whole[member], *halves)]
        for layer, (z_pre, z_ft, half_1, half_2) in enumerate(zip(*patterns, strict=True)):
            drawn = [_edit(z_pre, random.permutation(z_ft)) for _ in range(draws)]
            p, q = z_pre.mean(), z_ft.mean()
            rows.append(
                dict(
                    member=member, layer=layer, criterion=criterion,
                    edit=_edit(z_pre, z_ft), hamming=np.mean(z_pre != z_ft),
                    edit_null=np.mean(drawn), edit_null_sd=np.std(drawn, ddof=1),
                    hamming_null=p * (1 - q) + q * (1 - p),
                    edit_floor=_edit(half_1, half_2), hamming_floor=np.mean(half_1 != half_2),
                )
            )  # fmt: skip
    return pd.DataFrame(rows)


def _edit(one: Bool[np.ndarray, " d_m"], other: Bool[np.ndarray, " d_m"]) -> float:
    """Levenshtein distance over length."""
    return Levenshtein.distance(one.tobytes(), other.tobytes()) / len(one)
