"""From items to what a table shows: scores with intervals, differences on the same items, averages over benchmarks.

`items` are rows of `evals.run`, with a column `who` that names what is compared. Scores are in percent, differences in
points; intervals are 95 %.
"""

import itertools
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from tuningvec.stats import bootstrap_difference, bootstrap_mean, holm, mean_or_share, paired_difference, relative_drop

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


def across(
    items: pd.DataFrame, specialists: Mapping[str, str], benchmarks: Mapping[str, Collection[str]], seed: int
) -> pd.DataFrame:
    """Each specialist minus that of a benchmark's own domain, {domain: member}, on that benchmark; as `differences`."""
    return _by_domain(items, benchmarks, {domain: against(items, own) for domain, own in specialists.items()}, seed)


def sum_against_others(
    items: pd.DataFrame, specialists: Mapping[str, str], benchmarks: Mapping[str, Collection[str]], seed: int
) -> pd.DataFrame:
    """θ_pre + Σ T_d minus each θ_pre + T_d of another domain, on the benchmarks of a domain; as `differences`."""
    whole = items[items.scale == 1]
    who = whole.drop_duplicates("vectors").set_index("vectors").who
    pairs = {
        domain: [(who["sum"], who[other]) for other in specialists.values() if other != own]
        for domain, own in specialists.items()
    }
    return _by_domain(whole, benchmarks, pairs, seed)


def _by_domain(
    items: pd.DataFrame,
    benchmarks: Mapping[str, Collection[str]],
    pairs: Mapping[str, Sequence[tuple[str, str]]],
    seed: int,
) -> pd.DataFrame:
    """Differences in score between the pairs of each domain on its benchmarks, judged together."""
    parts = [differences(items[items.task.isin(benchmarks[domain])], some, seed) for domain, some in pairs.items()]
    table = pd.concat(parts, ignore_index=True)
    return _judged(table[table.what == "score"])


def added(
    items: pd.DataFrame, specialists: Mapping[str, str], benchmarks: Mapping[str, Collection[str]], seed: int
) -> pd.DataFrame:
    """`normalised` of every sum on every benchmark by the domain's own specialist, with scale and vectors."""
    whole = items[items.scale == 1].drop_duplicates("vectors").set_index("vectors").who
    parts = [
        normalised(items, whole[own], task, seed) for domain, own in specialists.items() for task in benchmarks[domain]
    ]
    sums = items.drop_duplicates("who")[["who", "scale", "vectors"]]
    return pd.concat(parts).merge(sums, on="who")


def normalised(items: pd.DataFrame, specialist: str, task: str, seed: int) -> pd.DataFrame:
    """Score of each `who` divided by the specialist's on the same items (Figs. 4, 6), with a bootstrap interval.

    NaN where the specialist has no right answer.
    """
    own = values(items, specialist, task)
    rows = []
    for who in items[items.task == task].who.unique():
        found = values(items, who, task)
        row = dict(who=who, task=task, ratio=np.nan, low=np.nan, high=np.nan)
        if own.any():
            drop = relative_drop(own, found, seed)
            row |= dict(ratio=found.mean() / own.mean(), low=1 - drop.high / 100, high=1 - drop.low / 100)
        rows.append(row)
    return pd.DataFrame(rows)


def _pairs(items: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(items.who, items.task, strict=True)))
