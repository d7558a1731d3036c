"""Switching neurons off, exactly and for a while, and what that costs (paper §2, A.2)."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from lm_eval.api.task import Task
from torch import Tensor
from transformers import PreTrainedModel

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import corpus, evals, models, scores
from tuningvec.measures.neurons import Profile, Profiles, layers
from tuningvec.measures.scores import NATS, PERCENT
from tuningvec.stats import mean_interval, mean_or_share, relative_drop
from tuningvec.store import Rows, Store

Chosen = dict[int, Int64[Tensor, " neurons"]]  # of each layer


def top(profile: Profile, share: float, scope: str = "layer", criterion: str = "mean") -> Chosen:
    """The `share` of active neurons with the highest mean activation, in each layer or over the model (A.2).

    Raises TuningVecError for a share outside (0, 1] and another scope.
    """
    if not 0 < share <= 1:
        raise TuningVecError(f"share is {share}; it must lie above 0 and not above 1")
    mean = torch.where(profile.pattern(criterion), profile.A / profile.tokens, -math.inf)  # (L, d_m)
    if scope == "layer":
        return {layer: _highest(row, share) for layer, row in enumerate(mean)}
    if scope != "model":
        raise TuningVecError(f"scope is {scope!r}; one of layer, model")
    chosen = _highest(mean.flatten(), share)
    rows, columns = chosen // mean.shape[1], chosen % mean.shape[1]
    return {layer: columns[rows == layer] for layer in range(len(mean))}


def _highest(mean: Tensor, share: float) -> Int64[Tensor, " neurons"]:
    """Places of the highest of the finite values, the first of equal ones first."""
    count = math.ceil(share * int(mean.isfinite().sum()))
    return torch.sort(mean, descending=True, stable=True).indices[:count]


def at_random(chosen: Chosen, width: int, seed: int) -> Chosen:
    """As many neurons of each layer as were chosen, drawn from all `width` of it."""
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randperm(width, generator=generator)[: len(some)] for layer, some in chosen.items()}


@contextmanager
def ablated(model: PreTrainedModel, chosen: Chosen) -> Iterator[PreTrainedModel]:
    """The model with these neurons' activations at zero; afterwards its weights are what they were, bit for bit.

    Column j of W_down is all that neuron j writes (A.2), so a zero there equals a_j = 0, in whatever runs the model.
    Raises TuningVecError before anything is changed for a layer or neuron that the model does not have.
    """
    weights = {layer: _down(model, layer, some) for layer, some in chosen.items()}
    kept = {layer: weight[:, chosen[layer].to(weight.device)] for layer, weight in weights.items()}
    try:
        for layer, weight in weights.items():
            weight[:, chosen[layer].to(weight.device)] = 0
        yield model
    finally:
        for layer, weight in weights.items():
            weight[:, chosen[layer].to(weight.device)] = kept[layer]


def _down(model: PreTrainedModel, layer: int, some: Tensor) -> Tensor:
    if layer not in range(len(layers(model))):
        raise TuningVecError(f"layer {layer}: the model has layers 0 to {len(layers(model)) - 1}")
    weight = layers(model)[layer].mlp.down_proj.weight.data
    if len(some) and not 0 <= int(some.min()) <= int(some.max()) < weight.shape[1]:
        raise TuningVecError(f"layer {layer}: neurons must be 0 to {weight.shape[1] - 1}")
    return weight


def study(
    family: Family,
    found: Profiles,
    *,
    shares: Sequence[float],
    scope: str,
    texts: int,
    words: int,
    seed: int,
    dtype: str,
    benchmarks: Sequence[str],
    limit: int | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """Scores of every member whole, without its top neurons, and without as many at random; a row an item.

    Columns member, ablated ("nothing", "top", "random"), share, task (a corpus or a benchmark), item, and right (its
    score) or nats and tokens. Texts are the first `words` words of the `texts` documents of each corpus, those that
    were not profiled; `limit` takes the first items of each benchmark. What the store holds is not measured again.
    Raises as `top`, `held_out`, `evals.tasks` and `evals.requests` do.
    """
    tasks = evals.tasks(benchmarks, family.prompt)
    after = {found.corpus: int(found.read.documents.max())}
    held = {name: held_out(family, name, after.get(name, 0), texts, words) for name in family.corpora}
    settings = [("nothing", 0.0), *((kind, share) for share in shares for kind in ("top", "random"))]
    tables, runs = [], []
    for member in models.opened(family, dtype, "ablation"):
        asked = evals.windows(member, tasks, limit=limit)
        items = hashlib.sha256(repr((held, [list(parts) for parts in asked.values()])).encode()).hexdigest()
        profiled = found.read.set_index("member").digest[member.name]
        record = member.record(store, "ablation", __name__, profiled=profiled, scope=scope, seed=seed, items=items)
        whole = found.whole(member.name)
        for kind, share in settings:
            if _piece(kind, share) not in record:
                with ablated(member.model, _chosen(whole, kind, share, scope, seed)):
                    rows = _scores(member, held, tasks, asked)
                    record.add(_piece(kind, share), [dict(ablated=kind, share=share, **row) for row in rows])
        tables.append(pd.DataFrame(record.rows(_piece(*setting) for setting in settings)).assign(member=member.name))
        runs += record.runs
    table = pd.concat(tables, ignore_index=True)
    table.attrs["runs"] = runs
    return table


def held_out(family: Family, name: str, after: int, count: int, words: int) -> list[str]:
    """The beginnings of the `count` documents of a corpus that follow its first `after`.

    Raises TuningVecError when there are too few.
    """
    texts = list(islice(corpus.documents(family.corpora[name], family.root), after, after + count))
    if len(texts) < count:
        raise TuningVecError(
            f"{family.file}: corpora.{name}: {len(texts)} documents follow the {after} that are profiled, {count} are "
            "needed; lower its tokens or add documents"
        )
    return [" ".join(text.split()[:words]) for text in texts]


def _piece(kind: str, share: float) -> str:
    return f"{kind} {share:g}"


def _chosen(profile: Profile, kind: str, share: float, scope: str, seed: int) -> Chosen:
    if kind == "nothing":
        return {}
    chosen = top(profile, share, scope)
    return chosen if kind == "top" else at_random(chosen, profile.A.shape[1], seed)


def _scores(
    member: models.Opened, held: dict[str, list[str]], tasks: dict[str, Task], asked: dict[str, evals.Windows]
) -> Rows:
    lm = evals.InMemory(member.model, member.tokenizer)
    scored = {name: evals.score_texts(lm, texts) for name, texts in held.items()}
    for name, task in tasks.items():
        rows = [row for groups in asked[name].values() for row in evals.answer(lm, task, groups)]
        column = scores.main(rows[0])
        scored[name] = [dict(right=row[column]) for row in rows]
    return [dict(task=task, item=i, **row) for task, rows in scored.items() for i, row in enumerate(rows)]


def effects(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What each ablation costs: score and change against the whole member, each with its 95 % interval.

    Of a benchmark, `score` is its mean P (Wilson; of ROUGE-1 a bootstrap over items) and `change` is
    ΔP = (P − P_ablated) / P in percent (A.2; bootstrap over items), unknown where P is 0. Of a corpus, `score` is the
    mean −log p in nats per token and `change` its rise (t intervals over documents).
    """
    rows = []
    for member, task in table[["member", "task"]].drop_duplicates().itertuples(index=False):
        part = table[(table.member == member) & (table.task == task)]
        found = {key: _score(some) for key, some in part.groupby(["ablated", "share"], sort=False)}
        whole = found["nothing", 0.0]
        for (kind, share), values in found.items():
            about = dict(member=member, task=task, ablated=kind, share=share, score=values.mean(), unit=_unit(part))
            if _unit(part) == PERCENT:
                low, high = mean_or_share(values, seed)
                change, change_low, change_high = np.nan, np.nan, np.nan
                if whole.any():
                    change = 100 * (1 - values.mean() / whole.mean())
                    change_low, change_high = relative_drop(whole, values, seed)
            else:
                low, high = mean_interval(values)
                change = (values - whole).mean()
                change_low, change_high = mean_interval(values - whole)
            rows.append(about | dict(low=low, high=high, change=change, change_low=change_low, change_high=change_high))
    return pd.DataFrame(rows)


def resilience(table: pd.DataFrame, pretrained: str, task: str, share: float) -> pd.DataFrame:
    """How much more the top `share` costs each member than the pretrained one, on the same texts (t interval)."""
    part = table[table.task == task]

    def cost(member: str) -> np.ndarray:
        own = part[part.member == member]
        whole, cut = own[own.ablated == "nothing"], own[(own.ablated == "top") & (own.share == share)]
        return _score(cut) - _score(whole)

    rows = []
    for member in part.member.unique():
        if member != pretrained:
            gap = cost(member) - cost(pretrained)
            low, high = (float(end) for end in mean_interval(gap))
            rows.append(dict(member=member, difference=gap.mean(), low=low, high=high))
    return pd.DataFrame(rows)


def _unit(rows: pd.DataFrame) -> str:
    return PERCENT if rows.nats.isna().all() else NATS


def _score(rows: pd.DataFrame) -> np.ndarray:
    """A value an item, in the order of the items."""
    rows = rows.sort_values("item")
    return rows.right.to_numpy(float) if _unit(rows) == PERCENT else (-rows.nats / rows.tokens).to_numpy()
