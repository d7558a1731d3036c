"""From items to what a table shows: scores with intervals, differences on the same items, averages over benchmarks.

`items` are rows of `evals.run`, with a column `who` that names what is compared. Scores are in percent, differences in
points; intervals are 95 %.
"""

import itertools
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from tuningvec.stats import (
    bootstrap_difference,
    bootstrap_mean,
    holm,
    mean_or_share,
    paired_contrast,
    paired_difference,
    paired_ratio,
)
from tuningvec.verdict import Verdict, judge

MAIN = ("acc", "passed", "rouge1")  # the score of a task is the first of these that it has
LENIENT = {"acc": "acc_lenient"}
INSTRUCTIONS = ("thought", "valid", "valid_lenient", "stopped_text", "stopped_token")
ALPHA = 0.05
NATS, PERCENT = "nats per token", "ΔP (%)"  # units of what an ablation costs

Values = Float[np.ndarray, " items"]


def metric(items: pd.DataFrame, task: str) -> str:
    """The column that holds the score of a task."""
    return main(_columns(items, task))


def _columns(items: pd.DataFrame, task: str) -> list[str]:
    """The columns that hold something of a task."""
    return list(items[items.task == task].dropna(axis=1, how="all"))


def task_name(task: str) -> str:
    """A task without the package's name."""
    return task.removeprefix("tuningvec_").replace("_", " ")


def in_percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def main(row: Container[str]) -> str:
    """The first of MAIN that a row has."""
    return next(name for name in MAIN if name in row)


def values(items: pd.DataFrame, who: str, task: str, column: str | None = None) -> Values:
    """A score an item, in the order of the items."""
    part = items[(items.who == who) & (items.task == task)].sort_values("item")
    return part[column or metric(items, task)].to_numpy(float)


def of_tasks(items: pd.DataFrame, seed: int, lenient: bool = False) -> pd.DataFrame:
    """Score of each `who` on each task: n, score, low, high; Wilson's interval, of ROUGE-1 a bootstrap over items."""
    rows = []
    for who, task in _pairs(items):
        name = metric(items, task)
        column = LENIENT.get(name) if lenient and LENIENT.get(name) in _columns(items, task) else name
        found = values(items, who, task, column)
        rows.append(dict(who=who, task=task, metric=name, n=len(found)) | _interval(found, seed))
    return pd.DataFrame(rows)


def of_metrics(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean of every metric of every task with its interval, a row each, as lm-eval scales it; for tasks of any kind."""
    rows = []
    for (model, task), part in items.groupby(["model", "task"], sort=False):
        metrics = part.drop(columns=["item", "prompt", "reply", "ended", "model", "task", "chat"], errors="ignore")
        for name, found in metrics.dropna(axis=1, how="all").items():
            low, high = mean_or_share(found, seed)
            about = dict(model=model, task=task, metric=name, n=len(found))
            rows.append(about | dict(mean=float(found.astype(float).mean()), low=low, high=high))
    return pd.DataFrame(rows)


def of_instructions(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Share of replies that keep each instruction, over all multiple-choice and maths items together (Tables 3, 9)."""
    asked = pooled(items)
    rows = []
    for who, name in itertools.product(asked.who.unique(), INSTRUCTIONS):
        found = values(asked, who, "all", name)
        rows.append(dict(who=who, instruction=name, n=len(found)) | _interval(found, seed))
    return pd.DataFrame(rows)


def _interval(found: Values, seed: int) -> dict[str, float]:
    low, high = mean_or_share(found, seed)
    return dict(score=100 * found.mean(), low=100 * low, high=100 * high)


def averages(items: pd.DataFrame, benchmarks: Mapping[str, Collection[str]], seed: int) -> dict[str, pd.DataFrame]:
    """By domain with several benchmarks, {domain: tasks}: their plain mean of each `who`, as the paper averages.

    Accuracies and ROUGE-1 are not averaged together. Intervals are bootstraps over the items of each benchmark.
    """
    found = {}
    for domain, tasks in benchmarks.items():
        asked = [task for task in tasks if task in set(items.task)]
        for text in (False, True):
            some = [task for task in asked if (metric(items, task) == "rouge1") == text]
            if len(some) > 1:
                name = f"{domain}, mean" + (" ROUGE-1" if text else "")
                found[name] = pd.DataFrame([_average(items, who, some, seed) for who in items.who.unique()])
    return found


def _average(items: pd.DataFrame, who: str, tasks: Sequence[str], seed: int) -> dict[str, Any]:
    each = [values(items, who, task) for task in tasks]
    low, high = bootstrap_mean(each, seed)
    return dict(who=who, score=100 * np.mean([part.mean() for part in each]), low=100 * low, high=100 * high)


def pooled(items: pd.DataFrame) -> pd.DataFrame:
    """The items that have an answer to give, of all tasks, as one task "all"."""
    asked = items[items.valid.notna()]
    return asked.assign(task="all", item=asked.task + " " + asked["item"].astype(str))


def against(items: pd.DataFrame, reference: str) -> list[tuple[str, str]]:
    """Every other `who` with the reference."""
    return [(who, reference) for who in items.who.unique() if who != reference]


def differences(items: pd.DataFrame, pairs: Sequence[tuple[str, str]], seed: int) -> pd.DataFrame:
    """The first of each pair minus the second on the same items of each task: in score, lenient score, instructions.

    points, low, high and p: Newcombe's interval and McNemar's exact p; of ROUGE-1 a bootstrap over items and no p.
    `clear` tells whether it is beyond chance: by Holm's p over all rows of one kind, of ROUGE-1 by an interval without
    0.
    """
    rows = []
    for (who, other), task in itertools.product(pairs, items.task.unique()):
        name, known = metric(items, task), _columns(items, task)
        columns = {"score": name, "lenient": LENIENT.get(name, ""), **{i: i for i in INSTRUCTIONS}}
        for what, column in columns.items():
            if column not in known:
                continue
            both = [values(items, one, task, column) for one in (who, other)]
            if all(map(len, both)):
                rows.append(dict(who=who, reference=other, task=task, what=what) | _difference(*both, seed))
    return _judged(pd.DataFrame(rows, columns=["who", "reference", "task", "what", "points", "low", "high", "p"]))


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    corrected = table.groupby("what").p.transform(_holm)
    return table.assign(clear=np.where(table.p.isna(), (table.low > 0) | (table.high < 0), corrected < ALPHA))


def _difference(first: Values, second: Values, seed: int) -> dict[str, float]:
    if set(np.unique([first, second])) <= {0.0, 1.0}:
        a, b = first.astype(bool), second.astype(bool)
        return paired_difference(*(int(both.sum()) for both in (a & b, a & ~b, ~a & b, ~a & ~b)))._asdict()
    low, high = bootstrap_difference([first], [second], seed, benchmarks=False, paired=True)
    points = 100 * (first.mean() - second.mean())
    return dict(points=points, low=100 * low, high=100 * high, p=np.nan)


def _holm(p: pd.Series) -> pd.Series:
    known = p.dropna()
    return pd.Series(holm(known), index=known.index).reindex(p.index) if len(known) else p


def curves(items: pd.DataFrame, task: str, seed: int) -> pd.DataFrame:
    """Score, lenient score and instructions kept by λ, for θ_ft − λT prompted in the member's own format."""
    asked = items[items.own & (items.task == task)]
    known = [name for name in (metric(items, task), *LENIENT.values(), *INSTRUCTIONS) if name in _columns(items, task)]
    swept = asked[["scale", "who"]].drop_duplicates().itertuples(index=False, name=None)
    rows = []
    for (scale, who), what in itertools.product(swept, known):
        rows.append(dict(scale=scale, what=what) | _interval(values(asked, who, task, what), seed))
    return pd.DataFrame(rows)


def two_by_two(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Differences between θ_ft (λ = 0) and θ_pre (λ = 1) in either prompt, and between the prompts with either weights.

    As `differences`, with `effect`, "weights" or "prompt", and `compared`, in words. Empty where the member has plain
    text alone.
    """
    ends = items[items.scale.isin([0, 1])].drop_duplicates(["scale", "own"])
    corner = {(row.scale, row.own): row.who for row in ends.itertuples()}
    effects = {}
    if len(corner) == 4:
        effects = {
            (corner[0, True], corner[1, True]): ("weights", r"$\theta_{ft} - \theta_{pre}$, chat"),
            (corner[0, False], corner[1, False]): ("weights", r"$\theta_{ft} - \theta_{pre}$, plain"),
            (corner[0, True], corner[0, False]): ("prompt", r"chat − plain, $\theta_{ft}$"),
            (corner[1, True], corner[1, False]): ("prompt", r"chat − plain, $\theta_{pre}$"),
        }
    table = differences(items, list(effects), seed)
    named = [effects[pair] for pair in zip(table.who, table.reference, strict=True)]
    return table.assign(effect=[effect for effect, _ in named], compared=[words for _, words in named])


def sum_against_others(
    items: pd.DataFrame, specialists: Mapping[str, str], benchmarks: Mapping[str, Collection[str]], seed: int
) -> pd.DataFrame:
    """θ_pre + Σ T_d minus each θ_pre + T_d of another domain, on the benchmarks of a domain; as `differences`, with n.

    `specialists` is {domain: member}. All are judged together.
    """
    whole = items[items.scale == 1]
    who = whole.drop_duplicates("vectors").set_index("vectors").who
    parts = []
    for domain, own in specialists.items():
        pairs = [(who["sum"], who[other]) for other in specialists.values() if other != own]
        parts.append(differences(whole[whole.task.isin(list(benchmarks[domain]))], pairs, seed))
    table = pd.concat(parts, ignore_index=True)
    n = whole.groupby("task")["item"].nunique()
    return _judged(table[table.what == "score"].assign(n=table.task.map(n)))


def added(
    items: pd.DataFrame, specialists: Mapping[str, str], benchmarks: Mapping[str, Collection[str]]
) -> pd.DataFrame:
    """`normalised` of every sum on every benchmark by the domain's own specialist, with scale and vectors."""
    whole = items[items.scale == 1].drop_duplicates("vectors").set_index("vectors").who
    parts = [
        normalised(items, whole[own], task)
        for domain, own in specialists.items()
        for task in benchmarks[domain]
        if task in set(items.task)
    ]
    return pd.concat(parts).merge(items.drop_duplicates("who")[["who", "scale", "vectors"]], on="who")


def normalised(items: pd.DataFrame, specialist: str, task: str) -> pd.DataFrame:
    """Score of each `who` divided by the specialist's on the same items (Figs. 4, 6), with Fieller's interval.

    NaN where the specialist's score is not clearly above 0.
    """
    own = values(items, specialist, task)
    rows = []
    for who in items[items.task == task].who.unique():
        ratio, low, high = paired_ratio(values(items, who, task), own)
        if who == specialist and own.any():
            ratio = low = high = 1.0
        rows.append(dict(who=who, task=task, n=len(own), ratio=ratio, low=low, high=high))
    return pd.DataFrame(rows)


def _pairs(items: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(items.who, items.task, strict=True)))


def serves(
    items: pd.DataFrame,
    specialists: Mapping[str, str],
    benchmarks: Mapping[str, Collection[str]],
    *,
    share: float = 0.8,
) -> Verdict:
    """Whether θ_pre + Σ T_d (λ = 1) keeps at least `share` of each specialist's score on its domain's benchmarks.

    `items` are of `evals.addition`. Falsified when on some benchmark the sum falls short and is nearer to what another
    domain's vector gives alone than to the specialist. `best` are the ratios at the λ whose smallest ratio is largest.
    """
    rule = (
        f"The sum at λ = 1 serves a domain if its score is at least {share:.0%} of that of the domain's specialist on "
        f"the same items. The effect is sum − {share:g} · specialist in points, beyond chance by a paired t (Holm over "
        "all benchmarks). Above 0 on every benchmark: holds; below on every one: reversed. Where the specialist's own "
        "score is not clearly above 0 there is no ratio."
    )
    cases = pd.DataFrame(_sums(items, specialists, benchmarks, share))
    numbers = dict(share=share, best=np.nan, best_scale=np.nan)
    if not cases.effect.notna().any():
        return Verdict("cannot be known here", rule, "no specialist's score is clearly above 0", cases, numbers)
    cases["clear"] = _holm(cases.p) < ALPHA
    short = cases.clear & (cases.effect < 0)
    kept = cases.clear & (cases.effect > 0) | cases.apart
    met = True if (short & cases.nearer).any() else False if kept.all() else None
    ratios = added(items, specialists, benchmarks).query("vectors == 'sum'")
    by_scale = ratios.pivot(index="scale", columns="task", values="ratio").dropna(axis=1)
    best = by_scale.loc[by_scale.min(axis=1).idxmax()]
    numbers |= dict(best=best, best_scale=best.name)
    return judge(cases, rule, least=0.0, unit="points", digits=0, falsified=met, **numbers)


def _sums(
    items: pd.DataFrame, specialists: Mapping[str, str], benchmarks: Mapping[str, Collection[str]], share: float
) -> Iterator[dict[str, Any]]:
    """A row a benchmark: the sum at λ = 1 beside the specialist, the best other vector alone and the pretrained one."""
    whole = items[(items.scale == 1) | (items.vectors == "none")]
    who = whole.drop_duplicates("vectors").set_index("vectors").who
    for own, task in [(own, task) for domain, own in specialists.items() for task in benchmarks[domain]]:
        if task not in set(whole.task):
            continue
        found = {vectors: values(whole, name, task) for vectors, name in who.items()}
        both = [found["sum"], found[own]]
        ratio, low, high = paired_ratio(*both)
        about = dict(task=task_name(task), n=len(found[own]), ratio=ratio, ratio_low=low, ratio_high=high)
        about |= {name: 100 * found[key].mean() for name, key in [("sum", "sum"), ("own", own), ("none", "none")]}
        others = [found[other] for other in specialists.values() if other != own]
        about["other"] = 100 * max(other.mean() for other in others)
        halves = [paired_contrast([*both, other], [1, -0.5, -0.5]) for other in others]
        about |= dict(nearer=any(half.high < 0 for half in halves), apart=all(half.low > 0 for half in halves))
        gap = paired_contrast(both, [1, -share])
        known = dict(effect=gap.points, low=gap.low, high=gap.high, p=gap.p)
        yield about | (known if np.isfinite(ratio) else dict.fromkeys(known, np.nan))


def beyond_others(gaps: pd.DataFrame, *, least: float = 5.0) -> Verdict:
    """Whether the sum scores more than another domain's vector alone; `gaps` are of `sum_against_others`."""
    rule = (
        "The effect is the score of the sum at λ = 1 minus that of each other domain's vector alone, on the same "
        f"items; it counts when it is beyond chance (McNemar's exact test, Holm over all pairs) and at least {least:g} "
        "points."
    )
    cases = gaps.assign(effect=gaps.points, task=gaps.task.map(task_name))
    return judge(cases, rule, least=least, unit="points", digits=0)


def does_not_carry_over(
    items: pd.DataFrame,
    examined: Mapping[str, Sequence[str]],
    benchmarks: Mapping[str, Collection[str]],
    pretrained: str,
    *,
    least: float = 0.25,
) -> Verdict:
    """Whether what a domain's (first) specialist gained is not also gained by the specialists of other domains.

    `examined` is {domain: members}. Falsified when some specialist of another domain is shown to gain at least `least`
    of it.
    """
    rule = (
        "Gains are over the pretrained member, on the same items of a domain's benchmarks. The effect is the gain of "
        f"another domain's specialist minus {least:g} of the gain of the domain's own. Clearly below 0 (paired t, Holm "
        "over all cases), less than that share carries over; clearly above, more. A case counts where the domain's "
        "own gain is clearly above 0."
    )
    cases = pd.DataFrame(_carried(items, examined, benchmarks, pretrained, least))
    if not cases.effect.notna().any():
        why = "no specialist gains clearly over the pretrained member on its own domain's benchmarks"
        return Verdict("cannot be known here", rule, why, cases)
    cases["clear"] = _holm(cases.p) < ALPHA
    met = True if (cases.clear & (cases.effect > 0)).any() else False if cases.clear.all() else None
    return judge(cases, rule, least=0.0, direction=-1, unit="points", digits=0, falsified=met)


def _carried(
    items: pd.DataFrame,
    examined: Mapping[str, Sequence[str]],
    benchmarks: Mapping[str, Collection[str]],
    pretrained: str,
    least: float,
) -> Iterator[dict[str, Any]]:
    """A row a benchmark and specialist of another domain: its gain beside that of the domain's own."""
    for domain, task in [(domain, task) for domain, some in benchmarks.items() for task in some]:
        if task not in set(items.task):
            continue
        before, own = (values(items, who, task) for who in (pretrained, examined[domain][0]))
        gain = paired_contrast([own, before], [1, -1])
        for who in [who for other, names in examined.items() if other != domain for who in names]:
            theirs = values(items, who, task)
            found = paired_contrast([theirs, own, before], [1, -least, least - 1])
            known = dict(effect=found.points, low=found.low, high=found.high, p=found.p)
            about = dict(who=who, own=examined[domain][0], task=task_name(task), n=len(own))
            about |= dict(carried=100 * float((theirs - before).mean()), gain=gain.points)
            yield about | (known if gain.low > 0 else dict.fromkeys(known, np.nan))
