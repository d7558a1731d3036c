"""Switching neurons off, exactly and for a while, and what that costs (paper §2, A.2)."""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from scipy.stats import t, ttest_ind
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import corpus, evals, models, scores
from tuningvec.measures.neurons import ALPHA, Profile, Profiles, layers
from tuningvec.measures.scores import NATS, PERCENT, in_percent
from tuningvec.stats import mean_or_share, paired_shares, relative_drop
from tuningvec.store import Record, Rows, Store, joined
from tuningvec.verdict import Verdict, judge, unknown
from tuningvec.weights import cluster

Chosen = dict[int, Int64[Tensor, " neurons"]]  # of each layer


def top(profile: Profile, share: float, scope: str = "layer", criterion: str = "mean") -> Chosen:
    """The `share` of active neurons with the highest mean activation, in each layer or over the model (A.2).

    Raises TuningVecError for a share outside (0, 1] and another scope.
    """
    _check(share)
    mean = torch.where(profile.pattern(criterion), profile.A / profile.tokens, -math.inf)  # (L, d_m)
    if scope == "layer":
        return {layer: _highest(row, share) for layer, row in enumerate(mean)}
    if scope != "model":
        raise TuningVecError(f"scope is {scope!r}; one of layer, model")
    chosen = _highest(mean.flatten(), share)
    rows, columns = chosen // mean.shape[1], chosen % mean.shape[1]
    return {layer: columns[rows == layer] for layer in range(len(mean))}


def changed(before: Profile, after: Profile, share: float) -> Chosen:
    """The `share` of each layer's neurons whose mean activation differs most between two profiles.

    Raises TuningVecError for a share outside (0, 1].
    """
    _check(share)
    moved = (after.A / after.tokens - before.A / before.tokens).abs()  # (L, d_m)
    return {layer: _highest(row, share) for layer, row in enumerate(moved)}


def _check(share: float) -> None:
    if not 0 < share <= 1:
        raise TuningVecError(f"share is {share}; it must lie above 0 and not above 1")


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


def benchmarks(family: Family, domains: Sequence[str], likelihood: Sequence[str] = ()) -> list[str]:
    """The family's benchmarks of these domains that are scored by accuracy; none of a domain that it lacks.

    Behind them those of `likelihood` that put the items of one of them.
    """
    there = [domain for domain in domains if domain in family.benchmarks]
    found = [name for some in evals.of_domains(family, "accuracy", there).values() for name in some]
    return found + [name for name in likelihood if name.removesuffix(scores.LIKELIHOOD) in found]


def study(
    family: Family,
    found: Profiles,
    *,
    shares: Sequence[float],
    scope: str,
    texts: int,
    words: int,
    draws: int,
    seed: int,
    dtype: str,
    benchmarks: Sequence[str],
    limit: int | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """Scores of every member whole, without its top neurons, and without as many at random; a row an item.

    With scope "changed", of every specialist with a control of the form alone, and in place of its top neurons those
    that changed most (`changed`) from the pretrained member to it, to each of its controls and to each other
    specialist, as many of each. Columns member, ablated ("nothing", "top" or the name of whose changes they are,
    "random"), share, draw (of the random neurons), task (a corpus or a benchmark), item, source, and right (its score)
    or nats and tokens. Texts are the first `words` words of the `texts`
    documents of each corpus, those that were not profiled; they are scored under every draw, benchmarks, which take
    longer, under the first. `limit` takes the first items of each benchmark. What the store holds is not measured
    again. Tasks that `evals.readable` leaves out are named in `attrs["left_out"]`. Raises TuningVecError for fewer than
    two draws and for scope "changed" without such a control, and as `top`, `held_out`, `evals.tasks` and
    `evals.requests` do.
    """
    if draws < 2:
        raise TuningVecError(f"draws is {draws}; random neurons need two draws or more, which tell their spread")
    tasks = evals.tasks(benchmarks, family.prompt) if benchmarks else {}
    after = {found.corpus: int(found.read.documents.max())}
    held = {name: held_out(family, name, after.get(name, 0), texts, words) for name in family.corpora}
    ranked = by_changes(family) if scope == "changed" else {member.name: ["top"] for member in family.studied}
    settings = {member: _settings(kinds, shares, draws) for member, kinds in ranked.items()}
    choose = partial(_chosen, family, found, scope, seed)
    members, tables = [models.Opened(family, name, dtype) for name in ranked], []
    try:
        plans, left_out = evals.readable(members, tasks, limit=limit) if tasks else ({}, [])
    except evals.Unreadable as error:
        plans, left_out = {}, error.left_out
    for member, record, pieces in _studied(members, held, tasks, plans, settings, choose, store):
        tables.append(pd.DataFrame(record.rows(pieces)).assign(member=member.name))
        tables[-1].attrs["runs"] = record.runs
    table = scores.with_sources(joined(tables), tasks)
    table.attrs["left_out"] = left_out
    return table


class Setting(NamedTuple):
    """What is ablated, its share, and the draw of random neurons."""

    ablated: str
    share: float
    draw: int


def _studied(
    members: Sequence[models.Opened],
    held: dict[str, list[str]],
    tasks: dict[str, Task],
    plans: dict[int, dict[str, evals.Windows]],
    settings: dict[str, list[Setting]],
    choose: Callable[[str, Setting], Chosen],
    store: Store | None,
) -> list[tuple[models.Opened, Record, list[str]]]:
    """Each member, its record, and the pieces of it that hold the scores under each of its settings."""
    bar = tqdm(total=sum(map(len, settings.values())), desc="ablation")
    found: list[tuple[models.Opened, Record, list[str]]] = []

    def due() -> Iterator[cluster.Piece]:
        for member in models.in_turn(members):
            asked, work = plans.get(id(member), {}), partial(_without, member, held)
            items = hashlib.sha256(repr((held, [list(parts) for parts in asked.values()])).encode()).hexdigest()
            record, pieces = member.record(store, "ablation", __name__, items=items), []
            found.append((member, record, pieces))
            for setting in settings[member.name]:
                chosen, windows = choose(member.name, setting), {} if setting.draw else asked
                pieces.append(f"{setting.ablated} {setting.share:g} {setting.draw} {_digest(chosen)}")
                if pieces[-1] in record:
                    bar.update()
                    continue
                calls = [evals.calls_of(tasks[name], one) for name, some in windows.items() for one in some.values()]
                yield _Ablation(member.name, setting, record, pieces[-1], windows), work, (chosen, calls)

    for one, replies in cluster.each(due()):
        rows = _scores(tasks, one.asked, *replies)
        one.record.add(one.piece, [one.setting._asdict() | row for row in rows])
        bar.update()
    bar.close()
    return found


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


def by_changes(family: Family) -> dict[str, list[str]]:
    """Members of a domain with a control of the form alone, each with those by whose changes its neurons are chosen.

    They are the member itself, its controls and the members of a domain beside it. Raises TuningVecError where no
    member has such a control.
    """
    domains = [member for member in family.studied[1:] if member.role == "domain"]
    found: dict[str, list[str]] = {}
    for member in domains:
        own = [control.name for control in family.controls if control.controls == member.name]
        if _forms(family, member.name):
            found[member.name] = [member.name, *own, *(other.name for other in domains if other != member)]
    if not found:
        raise TuningVecError(f"{family.file}: no member has a control that keeps the form alone")
    return found


def in_common(family: Family, found: Profiles, shares: Sequence[float]) -> pd.DataFrame:
    """Of the neurons that changed most to a specialist of `by_changes`, the part that others changed as well.

    Columns member, other, share (of a layer's neurons; so large a part would be in common by chance) and common.
    """
    rows, before = [], found.whole(family.pretrained.name)
    for member, others in by_changes(family).items():
        for other, share in itertools.product(others[1:], shares):
            own, theirs = (changed(before, found.whole(name), share) for name in (member, other))
            common = np.mean([np.isin(some, theirs[layer]).mean() for layer, some in own.items()])
            rows.append(dict(member=member, other=other, share=share, common=float(common)))
    return pd.DataFrame(rows)


def _settings(kinds: Sequence[str], shares: Sequence[float], draws: int) -> list[Setting]:
    chosen = [(kind, share, 0) for kind, share in itertools.product(kinds, shares)]
    every = [("nothing", 0.0, 0), *chosen, *itertools.product(["random"], shares, range(draws))]
    return list(itertools.starmap(Setting, every))


def _chosen(family: Family, found: Profiles, scope: str, seed: int, member: str, setting: Setting) -> Chosen:
    kind, share, draw = setting
    if kind == "nothing":
        return {}
    if scope == "changed":
        whose = member if kind == "random" else kind
        chosen = changed(found.whole(family.pretrained.name), found.whole(whose), share)
    else:
        chosen = top(found.whole(member), share, scope)
    return at_random(chosen, found.whole(member).A.shape[1], seed + draw) if kind == "random" else chosen


def _digest(chosen: Chosen) -> str:
    listed = {layer: some.tolist() for layer, some in chosen.items()}
    return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]


class _Ablation(NamedTuple):
    """Where the rows of an ablated member belong."""

    member: str
    setting: Setting
    record: Record
    piece: str
    asked: dict[str, evals.Windows]

    def __str__(self) -> str:
        return "{}, ablation of {} {:g}, draw {}".format(self.member, *self.setting)


def _without(
    member: models.Opened, held: dict[str, list[str]], given: tuple[Chosen, list[tuple[list[Instance], bool]]]
) -> tuple[dict[str, Rows], list[list[Any]]]:
    """log p of the texts, and the replies to each window, without the chosen neurons."""
    chosen, calls = given
    with ablated(member.model, chosen):
        lm = evals.InMemory(member.model, member.tokenizer)
        texts = {name: evals.score_texts(lm, some) for name, some in held.items()}
        return texts, [evals.replied(lm, *asked) for asked in calls]


def _scores(
    tasks: dict[str, Task], asked: dict[str, evals.Windows], texts: dict[str, Rows], replies: list[list[Any]]
) -> Rows:
    scored, given = dict(texts), iter(replies)
    for name, windows in asked.items():
        answered = (evals.answer(evals.Given(next(given)), tasks[name], groups) for groups in windows.values())
        rows = [row for some in answered for row in some]
        column = scores.main(rows[0])
        scored[name] = [dict(right=row[column]) for row in rows]
    return [dict(task=task, item=i, **row) for task, rows in scored.items() for i, row in enumerate(rows)]


def effects(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What each ablation costs: score and change against the whole member, each with its 95 % interval.

    Of a benchmark, `score` is its mean P (Wilson; of ROUGE-1 a bootstrap over items) and `change` is
    ΔP = (P − P_ablated) / P in percent (A.2; bootstrap over items), unknown where P is 0. Of a corpus, `score` is the
    mean −log p in nats per token and `change` its rise (t intervals over documents and draws).
    """
    rows = []
    for member, task in table[["member", "task"]].drop_duplicates().itertuples(index=False):
        part = table[(table.member == member) & (table.task == task)]
        found = {key: _values(some) for key, some in part.groupby(["ablated", "share"], sort=False)}
        whole = found["nothing", 0.0]
        for (kind, share), values in found.items():
            about = dict(member=member, task=task, ablated=kind, share=share, score=values.mean(), unit=_unit(part))
            if _unit(part) == PERCENT:
                source = _sources(part)
                low, high = mean_or_share(values[:, 0], seed, sources=source)
                change, change_low, change_high = np.nan, np.nan, np.nan
                if whole.any():
                    change = 100 * (1 - values.mean() / whole.mean())
                    change_low, change_high = relative_drop(whole[:, 0], values[:, 0], seed, sources=source)
            else:
                _, low, high = _crossed(values, 0.95)
                change, change_low, change_high = _crossed(values - whole, 0.95)
            rows.append(about | dict(low=low, high=high, change=change, change_low=change_low, change_high=change_high))
    return pd.DataFrame(rows)


def _unit(rows: pd.DataFrame) -> str:
    return PERCENT if rows.nats.isna().all() else NATS


def _values(rows: pd.DataFrame) -> Float[np.ndarray, "items draws"]:
    """A value an item and draw."""
    values = rows.right if _unit(rows) == PERCENT else -rows.nats / rows.tokens
    return rows.assign(value=values.astype(float)).pivot(index="item", columns="draw", values="value").to_numpy()


def _sources(rows: pd.DataFrame) -> np.ndarray | None:
    """The source of each item in the order of `_values`; None where rows do not tell it."""
    return rows.drop_duplicates("item").sort_values("item").source.to_numpy() if "source" in rows else None


def _costs(items: pd.DataFrame) -> dict[tuple[str, str, str, float], Float[np.ndarray, "documents draws"]]:
    """Rise of −log p in nats per token, by member, corpus, what was ablated, and share."""
    texts = items[items.nats.notna()].groupby(["member", "task", "ablated", "share"], sort=False)
    found = {key: _values(rows) for key, rows in texts}
    return {key: values - found[(*key[:2], "nothing", 0.0)] for key, values in found.items() if key[2] != "nothing"}


def _crossed(values: Float[np.ndarray, "items draws"], level: float) -> tuple[float, float, float]:
    """Mean over items and draws, both samples, with its t interval.

    The variance is that of the items' means over their number plus that of the draws' means over theirs, with
    Satterthwaite's degrees of freedom. A single draw is no sample.
    """
    parts = [(np.var(values.mean(1 - axis), ddof=1) / n, n - 1) for axis, n in enumerate(values.shape) if n > 1]
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / n for part, n in parts) if variance else 1.0
    half = t.ppf((1 + level) / 2, df) * variance**0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def _cases(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Cases with `samples`, one whose mean is the effect or two whose means are subtracted; intervals hold at once."""
    level = 1 - ALPHA / max(len(rows), 1)
    found = []
    for row in rows:
        first, *others = row.pop("samples")
        if others:
            test = ttest_ind(first.mean(1), others[0].mean(1), equal_var=False)
            ends = (first.mean() - others[0].mean(), *test.confidence_interval(level))
        else:
            ends = _crossed(first, level)
        found.append(row | dict(zip(("effect", "low", "high"), map(float, ends), strict=True)))
    return pd.DataFrame(found)


def top_neurons(items: pd.DataFrame, least: float = 0.05) -> Verdict:
    """Whether the top neurons cost likelihood that as many at random do not, in rows of `study`."""
    costs = _costs(items)
    rows = []
    for (member, task, kind, share), cost in costs.items():
        if kind == "top" and share < 1:
            samples = [cost - costs[member, task, "random", share]]
            rows.append(dict(member=member, task=task, share=in_percent(share), samples=samples))
    rule = (
        f"the top neurons cost at least {least:g} nats per token more than as many at random, in every member and "
        "text, at every share short of all neurons; intervals are Student's t over documents and draws of random "
        "neurons and hold together with 95 %. Benchmarks, under one draw, are shown and not judged"
    )
    n = dict(documents=_documents(items), draws=items.draw.max() + 1)
    if not rows:
        return unknown(rule, "only all active neurons together were ablated", beyond=[], smallest=least, **n)
    cases = _cases(rows)
    met = bool((cases.high < least).any())
    return judge(cases, rule, least=least, unit=NATS, falsified=met, beyond=cases.effect, smallest=least, **n)


def _documents(items: pd.DataFrame) -> int:
    """How many documents of each corpus were scored."""
    return int(items[items.nats.notna()].groupby("task")["item"].nunique().min())


def domain_neurons(items: pd.DataFrame, domain: str, least: float = 0.05) -> Verdict:
    """Whether neurons that are most active on `domain` text cost it more than other text, in rows of `study`."""
    costs = {(m, task, share): cost for (m, task, kind, share), cost in _costs(items).items() if kind == "top"}
    rule = (
        f"the top neurons cost {domain} text at least {least:g} nats per token more than other text, in every member, "
        "at every share short of all neurons; intervals are Welch's over documents and hold together with 95 %"
    )
    own = {(m, share): cost for (m, task, share), cost in costs.items() if task == domain and share < 1}
    rows = []
    for (m, task, share), cost in costs.items():
        if task != domain and share < 1:
            about = dict(member=m, other=task, share=in_percent(share), own=own[m, share].mean(), cost=cost.mean())
            rows.append(about | dict(samples=[own[m, share], cost]))
    if not rows:
        lacks = "a second corpus, whose text is the control" if own else "a share below 1"
        own_costs = [cost.mean() for cost in own.values()]
        numbers = dict(own=own_costs, cost=[], other="other", smallest=least, documents=_documents(items))
        return unknown(rule, f"it takes {lacks}, which is not there", **numbers)
    cases = _cases(rows)
    numbers = dict(own=cases.own, cost=cases.cost, other=list(cases.other.unique()))
    numbers |= dict(smallest=least, documents=_documents(items))
    return judge(cases, rule, least=least, unit=NATS, falsified=bool((cases.high < least).any()), **numbers)


def resilience(items: pd.DataFrame, pretrained: str, domain: str, least: float = 0.05) -> Verdict:
    """Whether the smallest ablation of top neurons costs fine-tuned members less than the pretrained one."""
    costs, share = _costs(items), items.share[items.ablated == "top"].min()
    own = {member: cost for (member, task, kind, s), cost in costs.items() if (task, kind, s) == (domain, "top", share)}
    cases = _cases([dict(member=m, samples=[cost - own[pretrained]]) for m, cost in own.items() if m != pretrained])
    rule = (
        f"without the top {in_percent(share)} of its active neurons every fine-tuned member loses at least {least:g} "
        f"nats per token of {domain} text less than the pretrained one does, on the same documents; intervals are "
        "Student's t over documents and hold together with 95 %"
    )
    met = bool((cases.low > -least).any())
    about = dict(smallest=least, documents=_documents(items))
    return judge(cases, rule, least=least, direction=-1, unit=NATS, falsified=met, **about)


def facts_in_exams(items: pd.DataFrame, family: Family, least: float = 5.0) -> Verdict:
    """Whether neurons that changed with the facts cost exams more than those of the form, by scope "changed"."""
    some, rows, no_room = items[items.nats.isna()], [], []
    for (member, task, share), part in some.groupby(["member", "task", "share"], sort=False):
        right = {kind: _values(one)[:, 0] for kind, one in part.groupby("ablated") if kind != "nothing"}
        for form in _forms(family, member) if member in right else ():
            about = dict(member=member, form=form, task=scores.task_name(task), share=in_percent(share))
            source, left = _sources(part), right[form]
            about |= scores.counted(right[member], source)
            best = paired_shares(left, np.zeros_like(left), source, level=1 - ALPHA)  # those of the facts left none
            if best.low > 0 and best.points >= least:
                rows.append(about | dict(both=(left, right[member], source)))
            else:
                no_room.append(f"{about['task']}: {int(left.sum())} of {len(left)} are right after {form}'s")
    found = [paired_shares(*row.pop("both"), level=1 - ALPHA / len(rows)) for row in rows]
    rule = (
        f"ablating the neurons that changed most in the specialist costs an exam at least {least:g} points more than "
        "ablating as many that changed most in its control of words and form alone, in the specialist and on the same "
        "items; intervals (Newcombe) hold together with 95 %. Left out are exams with so few right answers after the "
        "second ablation that even losing all of them would not be clear"
    )
    if not rows:
        why = (
            f"too few answers are right after ablation ({'; '.join(no_room)})" if no_room else "no benchmark was asked"
        )
        return unknown(rule, why, smallest=least, no_room="; ".join(no_room))
    cases = pd.DataFrame(rows).assign(effect=[d.points for d in found], low=[d.low for d in found])
    cases = cases.assign(high=[d.high for d in found])
    met = bool((cases.high < least).any())
    about = dict(smallest=least, no_room="; ".join(no_room) or "none")
    return judge(cases, rule, least=least, unit="points", digits=0, falsified=met, **about)


def facts_in_texts(items: pd.DataFrame, family: Family, least: float = 0.05) -> Verdict:
    """The same of likelihood: whether they cost text of each corpus more."""
    costs, rows = _costs(items), []
    for (member, task, kind, share), cost in costs.items():
        for form in _forms(family, member) if kind == member else ():
            about = dict(member=member, form=form, task=task, share=in_percent(share))
            rows.append(about | dict(samples=[cost - costs[member, task, form, share]]))
    rule = (
        f"ablating the neurons that changed most in the specialist costs text at least {least:g} nats per token more "
        "than ablating as many that changed most in its control of words and form alone, in the specialist and on the "
        "same documents; intervals are Student's t and hold together with 95 %"
    )
    cases = _cases(rows)
    met = bool((cases.high < least).any())
    return judge(cases, rule, least=least, unit=NATS, falsified=met, smallest=least, documents=_documents(items))


def _forms(family: Family, member: str) -> list[str]:
    """The controls of a member that keep its form alone."""
    return [control.name for control in family.controls if control.controls == member and control.keeps == "form"]
