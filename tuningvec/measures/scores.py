"""From items to what a table shows and what it says: scores, differences on the same items, averages, verdicts.

`items` are rows of `evals.run`, with a column `who` that names what is compared and, `with_sources`, one that names
each item's source; without it every item is its own. Scores are in percent, differences in points; intervals are 95 %.
"""

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import norm

from tuningvec.family.spec import Family
from tuningvec.measures import turned
from tuningvec.stats import (
    bootstrap_difference,
    bootstrap_mean,
    design_effect,
    exact,
    holm,
    least_seen,
    least_seen_of_mean,
    mean_or_share,
    paired_contrast,
    paired_ratio,
    paired_shares,
    sign_flips,
    wilson,
)
from tuningvec.tasks.scoring import main

LENIENT = {"acc": "acc_lenient"}
INSTRUCTIONS = ("thought", "valid", "valid_lenient", "stopped_text", "stopped_token", "stopped")
KEPT = ("thought", "valid", "stopped")  # the paper's three (Tables 3, 9); `stopped` is by text and by token
LIKELIHOOD = "_likelihood"  # ends the name of a task that puts the items of another to be answered by likelihood
ALPHA = 0.05
NATS, PERCENT = "nats per token", "ΔP (%)"  # units of what an ablation costs

OPTION = re.compile(r"^[A-J]\. ", re.MULTILINE)  # as the tasks' prompts list what may be chosen

Values = Float[np.ndarray, " items"]


def metric(items: pd.DataFrame, task: str) -> str:
    """The column that holds the score of a task."""
    return main(_columns(items, task))


def _columns(items: pd.DataFrame, task: str) -> list[str]:
    """The columns that hold something of a task."""
    rows = (items.task == task).to_numpy()
    return [column for column in items if items[column].notna().to_numpy()[rows].any()]


def task_name(task: str) -> str:
    """A task without the package's name."""
    return task.removeprefix("tuningvec_").replace("_", " ")


def in_percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def values(items: pd.DataFrame, who: str, task: str, column: str | None = None) -> Values:
    """A score an item, in the order of the items."""
    column, rows = column or metric(items, task), (items.who == who) & (items.task == task)
    return items.loc[rows, ["item", column]].sort_values("item")[column].to_numpy(float)


def with_sources(items: pd.DataFrame, benchmarks: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of items with `source`, what an item shares with others of its task: the drug or the text it is about.

    `benchmarks` are lm-eval's tasks. A task names it as `cluster` in its metadata, a field of its documents or a
    template over them as `doc_to_text` is; where it names none every item is a source of its own.
    """

    def named(name: str, item: int) -> str:
        task = benchmarks.get(name)
        cluster = (task.config.metadata or {}).get("cluster") if task else None
        return str(task.doc_to_text(task.eval_docs[item], cluster) if cluster else item)

    asked = items[["task", "item"]].drop_duplicates().itertuples(index=False, name=None)
    known = {(name, item): named(name, item) for name, item in asked}
    return items.assign(source=[known[key] for key in zip(items.task, items["item"], strict=True)])


def sources(items: pd.DataFrame, who: str, task: str) -> np.ndarray | None:
    """The source of each of the `values`; None where every item is its own."""
    rows = (items.who == who) & (items.task == task)
    found = items[rows].sort_values("item").source if "source" in items else pd.Series()
    return None if found.is_unique else found.to_numpy()


def guessing(items: pd.DataFrame, task: str) -> float:
    """Share of a task's items that a guess among the options offered gets right; 0 where none are offered.

    Options are counted in the prompt's last question, by likelihood in the reply, which has a log p for each.
    """
    asked = items[items.task == task].drop_duplicates("item")
    if "prompt" not in asked:
        return 0.0
    by_likelihood = task.endswith(LIKELIHOOD)
    offered = [
        len(json.loads(reply)) if by_likelihood else len(OPTION.findall(prompt.rpartition("Options:")[2]))
        for prompt, reply in zip(asked.prompt, asked.reply, strict=True)
    ]
    return float(np.mean([1 / n for n in offered])) if offered and min(offered) > 1 else 0.0


def counted(found: Values, source: np.ndarray | None) -> dict[str, int]:
    """How many items and how many sources."""
    return dict(n=len(found), sources=len(found if source is None else set(source)))


def above_guessing(found: Values, share: float, source: np.ndarray | None = None) -> bool:
    """Whether more are right than a `share` that guesses get right, one-sided exact binomial at ALPHA."""
    deff = design_effect(found, source)
    return share == 0 or exact(found.sum() / deff, len(found) / deff, 1 - 2 * ALPHA).low > share


def _with_stopped(items: pd.DataFrame) -> pd.DataFrame:
    """With `stopped`: nothing follows the answer, and an end token ended the reply."""
    known = {"stopped_text", "stopped_token"} <= set(items)
    return items.assign(stopped=items.stopped_text * items.stopped_token) if known else items


def of_tasks(items: pd.DataFrame, seed: int, lenient: bool = False) -> pd.DataFrame:
    """Score of each `who` on each task: n, score, low, high; Wilson's interval, of ROUGE-1 a bootstrap over items."""
    rows = []
    for who, task in _pairs(items):
        name = metric(items, task)
        column = LENIENT.get(name) if lenient and LENIENT.get(name) in _columns(items, task) else name
        found = values(items, who, task, column)
        about = dict(who=who, task=task, metric=name, n=len(found))
        rows.append(about | _interval(found, seed, sources(items, who, task)))
    return pd.DataFrame(rows)


def of_metrics(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean of every metric of every task with its interval, a row each, as lm-eval scales it; for tasks of any kind."""
    about = ["item", "source", "prompt", "reply", "ended", "model", "who", "task", "chat"]
    rows = []
    for (model, task), part in items.groupby(["model", "task"], sort=False):
        metrics = part.sort_values("item").drop(columns=about, errors="ignore")
        for name, found in metrics.dropna(axis=1, how="all").items():
            low, high = mean_or_share(found, seed, sources=sources(part, part.who.iloc[0], task))
            row = dict(model=model, task=task, metric=name, n=len(found))
            rows.append(row | dict(mean=float(found.astype(float).mean()), low=low, high=high))
    return pd.DataFrame(rows)


def of_instructions(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Share of replies that keep each instruction, over all multiple-choice and maths items together (Tables 3, 9)."""
    asked = pooled(items)
    rows = []
    known = [name for name in INSTRUCTIONS if name in asked]
    for who, name in itertools.product(asked.who.unique(), known):
        found = values(asked, who, "all", name)
        about = dict(who=who, instruction=name, n=len(found))
        rows.append(about | _interval(found, seed, sources(asked, who, "all")))
    return pd.DataFrame(rows, columns=["who", "instruction", "n", "score", "low", "high"])


def _interval(found: Values, seed: int, source: np.ndarray | None) -> dict[str, float]:
    low, high = mean_or_share(found, seed, sources=source)
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
                whos = items[items.task.isin(some)].who.unique()
                found[name] = pd.DataFrame([_average(items, who, some, seed) for who in whos])
    return found


def _average(items: pd.DataFrame, who: str, tasks: Sequence[str], seed: int) -> dict[str, Any]:
    each = [values(items, who, task) for task in tasks]
    low, high = bootstrap_mean(each, seed, sources=[sources(items, who, task) for task in tasks])
    return dict(who=who, score=100 * np.mean([part.mean() for part in each]), low=100 * low, high=100 * high)


def pooled(items: pd.DataFrame) -> pd.DataFrame:
    """The items that have an answer to give, of all tasks, as one task "all"."""
    asked = _with_stopped(items[items.valid.notna()] if "valid" in items else items.head(0))
    kept = [column for column in ("item", "source") if column in asked]
    return asked.assign(task="all", **{column: asked.task + " " + asked[column].astype(str) for column in kept})


def against(items: pd.DataFrame, reference: str) -> list[tuple[str, str]]:
    """Every other `who` with the reference."""
    return [(who, reference) for who in items.who.unique() if who != reference]


def differences(items: pd.DataFrame, pairs: Sequence[tuple[str, str]], seed: int) -> pd.DataFrame:
    """The first of each pair minus the second on the same items of each task: in score, lenient score, instructions.

    n, sources (how many), n_eff (of independent items), points, low, high and p: Newcombe's interval and McNemar's
    exact p, of clusters that of sign flips; of ROUGE-1 a bootstrap over items and a sign-flip test. `clear` tells
    whether it is beyond chance by Holm's p over all rows of one kind, `what`. Of scores, `guessed` tells that the
    better of both is not above `guessing`, `named` in how many replies of the worse one, in percent, an option is
    named; `before` is the reference's score.
    """
    items, rows = _with_stopped(items), []
    tasks = items.task.unique()
    chance = {task: guessing(items, task) for task in tasks}
    compared = {task: _compared(items, task) for task in tasks}
    options = [task for task in tasks if "valid_lenient" in _columns(items, task)]
    for (who, other), task in itertools.product(pairs, tasks):
        for what, column in compared[task].items():
            both = [values(items, one, task, column) for one in (who, other)]
            source = sources(items, who, task)
            if all(map(len, both)):
                about = dict(who=who, reference=other, task=task, what=what, metric=column)
                about |= dict(before=100 * both[1].mean(), guessed=False, named=np.nan)
                if what in ("score", "lenient"):
                    about["guessed"] = not any(above_guessing(found, chance[task], source) for found in both)
                    worse = who if both[0].mean() < both[1].mean() else other
                    if task in options:
                        about["named"] = 100 * values(items, worse, task, "valid_lenient").mean()
                rows.append(about | _difference(*both, seed, source))
    columns = ["who", "reference", "task", "what", "metric", "before", "guessed", "named"]
    columns += ["n", "sources", "n_eff", "points", "low", "high", "p"]
    return _judged(pd.DataFrame(rows, columns=columns))


def _compared(items: pd.DataFrame, task: str) -> dict[str, str]:
    """What is compared of a task, with the column that holds it."""
    name, known = metric(items, task), _columns(items, task)
    columns = {"score": name, "lenient": LENIENT.get(name, ""), **{i: i for i in INSTRUCTIONS}}
    return {what: column for what, column in columns.items() if column in known}


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(clear=table.groupby("what").p.transform(holm_known) < ALPHA)


def _difference(first: Values, second: Values, seed: int, source: np.ndarray | None) -> dict[str, float]:
    gap = first - second
    n_eff = len(gap) / design_effect(gap, source)
    about = counted(gap, source) | dict(n_eff=n_eff)
    if set(np.unique([first, second])) <= {0.0, 1.0}:
        return about | paired_shares(first, second, source)._asdict()
    low, high = bootstrap_difference([first], [second], seed, benchmarks=False, paired=True, sources=[source])
    unseen = wilson(0, n_eff).high if np.ptp(gap) == 0 else 0.0  # items that differ may be as rare as this
    points = dict(points=100 * gap.mean(), low=100 * (low - unseen), high=100 * (high + unseen))
    return about | points | dict(p=sign_flips(gap, seed, sources=source))


def seen(gaps: pd.DataFrame) -> pd.DataFrame:
    """The smallest difference in score that each task could show with 80 % power, by itself and as one of all.

    Columns task, n, comparisons (rows of `differences` that Holm's correction counts together, those of a member where
    it is told), alone and corrected, in points: of shares `least_seen` at the task's smallest n_eff, of ROUGE-1 by the
    widest of its intervals.
    """
    rows = gaps[gaps.what == "score"]
    counts, found = rows.groupby(rows.get("member", rows.what)).what.transform("size"), []
    for task, part in rows.groupby("task", sort=False):
        n, count = int(part.n.iloc[0]), int(counts[part.index[0]])
        least = partial(least_seen, part.n_eff.min())
        if part.metric.iloc[0] == "rouge1":
            sd = ((part.high - part.low).max() / 2) / norm.ppf(0.975) * n**0.5
            least = partial(least_seen_of_mean, sd, n)
        found.append(dict(task=task, n=n, comparisons=count, alone=least(ALPHA), corrected=least(ALPHA / count)))
    return pd.DataFrame(found, columns=["task", "n", "comparisons", "alone", "corrected"])


def holm_known(p: pd.Series) -> pd.Series:
    known = p.dropna()
    return pd.Series(holm(known), index=known.index).reindex(p.index) if len(known) else p


def curves(items: pd.DataFrame, task: str, seed: int) -> pd.DataFrame:
    """Score, lenient score and instructions kept by λ, for θ_ft − λT prompted in the member's own format."""
    asked = items[items.own & (items.task == task)]
    known = list(_compared(items, task).values())
    swept = asked[["scale", "who"]].drop_duplicates().itertuples(index=False, name=None)
    rows = []
    for (scale, who), what in itertools.product(swept, known):
        found = values(asked, who, task, what)
        about = dict(scale=scale, what=what, n=len(found))
        rows.append(about | _interval(found, seed, sources(asked, who, task)))
    return pd.DataFrame(rows)


def by_member(items: pd.DataFrame, measure: Callable[[pd.DataFrame, int], pd.DataFrame], seed: int) -> pd.DataFrame:
    """What is measured of the items of each `member`, in one table with that column."""
    parts = [measure(part, seed).assign(member=member) for member, part in items.groupby("member", sort=False)]
    return pd.concat(parts, ignore_index=True)


def all_curves(items: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    """`curves` of every member and of every task that more than two models were asked, by a title with n."""
    found = {}
    for (member, task), part in items[items.own].groupby(["member", "task"], sort=False):
        if part.scale.nunique() > 2:
            curve = curves(part, task, seed)
            found[f"{member}, {task_name(task)}, n = {curve.n.iloc[0]}"] = curve
    return found


def lost(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """θ_ft − λT minus θ_ft of one member, for every λ above 0, in the member's own format; as `differences`."""
    own = items[items.own]
    return differences(own, against(own, own[own.scale == 0].who.iloc[0]), seed)


def without(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """θ_ft − T minus θ_ft of one member, in the member's own format; as `differences`."""
    return lost(items[items.scale.isin([0, 1])], seed)


def falls_of_turned(items: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """What θ_ft loses with T and with each turned T, on the same items; a row a move, for `turned.against_draws`.

    `items` are of `evals.negation_of_specialists`, `drawn` of `evals.negation_of_turned`, whose λ must be among theirs.
    Columns member, what (benchmark, way of scoring and λ), sides, draw, value (the fall in points), items (how many are
    independent: their sources) and error, the standard error over them of the fall by T less the mean fall by the
    draws. A way in which θ_ft is not above `guessing` is left out: it has nothing to lose.
    """
    rows, own = [], items[items.own]
    for (member, task, scale), part in drawn.groupby(["member", "task", "scale"], sort=False):
        mine = own[(own.member == member) & (own.task == task)]
        for what, column in _compared(part, task).items():
            if what not in ("score", "lenient"):
                continue
            before, with_T = (_of_one(mine[mine.scale == c], column) for c in (0, scale))
            source = sources(mine[mine.scale == 0], mine[mine.scale == 0].who.iloc[0], task)
            if not above_guessing(before, guessing(mine, task), source):
                continue
            (way,) = ways(pd.DataFrame([dict(task=task, what=what, metric=column)]))
            about = dict(
                member=member,
                items=counted(before, source)["sources"],
                what=f"{task_name(task.removesuffix(LIKELIHOOD))}, {way}, λ = {scale:g}",
            )
            rows.append(about | dict(sides=turned.NONE, draw=0, value=100 * (before - with_T).mean(), error=0.0))
            for sides, some in part.groupby("sides", sort=False):
                found = {draw: _of_one(one, column) for draw, one in some.groupby("draw")}
                gap = np.mean(list(found.values()), axis=0) - with_T
                error = 100 * float(np.std(gap, ddof=1)) * (design_effect(gap, source) / len(gap)) ** 0.5
                falls = [dict(draw=i, value=100 * (before - x).mean(), error=error) for i, x in found.items()]
                rows += [about | dict(sides=sides) | fall for fall in falls]
    return pd.DataFrame(rows, columns=["member", "what", "sides", "draw", "value", "items", "error"])


def _of_one(items: pd.DataFrame, column: str) -> Values:
    """A score an item of one model's items of one task, in the order of the items."""
    return items.sort_values("item")[column].to_numpy(float)


def ways(rows: pd.DataFrame) -> np.ndarray:
    """How scores of accuracy count what is right, by their task, what is compared and its metric."""
    return np.select(
        [rows.task.str.endswith(LIKELIHOOD), rows.what == "lenient", rows.metric == "passed"],
        ["by likelihood", "in any form", "by assertions"],
        "in the form asked for",
    )


def two_by_two(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What weights and prompts do in the 2 × 2 of θ_ft (λ = 0) and θ_pre (λ = 1), own format and plain text.

    As `differences`, with `effect` and `compared`, in words: "weights" under one prompt, "prompt" with one set of
    weights, "crossed" where both change, and their "interaction", paired by item. Empty where all is plain text.
    """
    items = items[~items.task.str.endswith(LIKELIHOOD)]  # which has no second prompt
    corner = _corners(items)
    effects = {}
    if len(corner) == 4:
        effects = {
            (corner[0, True], corner[1, True]): ("weights", r"$\theta_\text{ft} - \theta_\text{pre}$, chat"),
            (corner[0, False], corner[1, False]): ("weights", r"$\theta_\text{ft} - \theta_\text{pre}$, plain"),
            (corner[0, True], corner[0, False]): ("prompt", r"chat − plain, $\theta_\text{ft}$"),
            (corner[1, True], corner[1, False]): ("prompt", r"chat − plain, $\theta_\text{pre}$"),
            (corner[0, True], corner[1, False]): ("crossed", r"$\theta_\text{ft}$, chat − $\theta_\text{pre}$, plain"),
            (corner[0, False], corner[1, True]): ("crossed", r"$\theta_\text{ft}$, plain − $\theta_\text{pre}$, chat"),
        }
    table = differences(items, list(effects), seed)
    named = [effects[pair] for pair in zip(table.who, table.reference, strict=True)]
    table = table.assign(effect=[effect for effect, _ in named], compared=[words for _, words in named])
    rows = []
    for task, what, (a, b, c, d), source in _in_corners(items):
        about = dict(task=task, what=what, effect="interaction", compared="interaction")
        rows.append(about | _difference(a - b, c - d, seed, source))
    return _judged(pd.concat([table, pd.DataFrame(rows)], ignore_index=True)) if rows else table


def _corners(items: pd.DataFrame) -> dict[tuple[float, bool], str]:
    ends = items[items.scale.isin([0, 1])].drop_duplicates(["scale", "own"])
    return {(row.scale, row.own): row.who for row in ends.itertuples()}


def _in_corners(items: pd.DataFrame) -> Iterator[tuple[str, str, list[Values], np.ndarray | None]]:
    """Of everything compared: task, what, the items of θ_ft and θ_pre in chat, then in plain text, and their source."""
    corner = _corners(items)
    for task in [task for task in items[~items.own].task.unique() if not task.endswith(LIKELIHOOD)]:
        for what, column in _compared(items, task).items():
            order = [(0, True), (1, True), (0, False), (1, False)]
            found = [values(items, corner[place], task, column) for place in order]
            if all(map(len, found)):
                yield task, what, found, sources(items, corner[0, True], task)


def parts_of_fall(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The fall a − b from θ_ft to θ_pre, both in chat, and its parts by weights, a − d, and by prompt, d − b.

    d is θ_pre in plain text. Of one member, a row a task with plain text and a score, in points: fall, weights with
    p_weights, prompt, and weights − prompt = a − 2d + b as points with low, high and p. `share`, with
    Fieller's interval, is the prompt's in percent of a fall that is clearly above 0.
    """
    rows = []
    for task, what, (a, b, _, d), source in _in_corners(items):
        if what not in ("score", "lenient"):
            continue
        fall, weights, prompt = (_difference(x, y, seed, source) for x, y in ((a, b), (a, d), (d, b)))
        about = dict(task=task, what=what, metric=_compared(items, task)[what], fall=fall["points"])
        about |= counted(a, source)
        about |= dict(weights=weights["points"], prompt=prompt["points"], p_weights=weights["p"])
        share = paired_ratio(d, a, minus=b, sources=source)
        about |= {name: 100 * value for name, value in zip(("share", "share_low", "share_high"), share, strict=True)}
        rows.append(about | paired_contrast([a, d, b], [1, -2, 1], sources=source)._asdict())
    return pd.DataFrame(rows)


def sum_against_others(
    items: pd.DataFrame, specialists: Mapping[str, str], benchmarks: Mapping[str, Collection[str]], seed: int
) -> pd.DataFrame:
    """θ_pre + Σ T_d minus each θ_pre + T_d of another domain, on the benchmarks of a domain; as `differences`, with n.

    `specialists` is {domain: member}; columns domain and other name the benchmark's and the vector's. All are judged
    together.
    """
    whole = items[items.scale == 1]
    who = whole.drop_duplicates("vectors").set_index("vectors").who
    domains = {who[member]: domain for domain, member in specialists.items()}
    parts = []
    for domain, own in specialists.items():
        pairs = [(who["sum"], who[other]) for other in specialists.values() if other != own]
        part = differences(whole[whole.task.isin(list(benchmarks[domain]))], pairs, seed)
        parts.append(part.assign(domain=domain, other=part.reference.map(domains)))
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

    NaN where the specialist's score is not clearly above 0, or not above `guessing`.
    """
    own, source = values(items, specialist, task), sources(items, specialist, task)
    above = above_guessing(own, guessing(items, task), source)
    rows = []
    for who in items[items.task == task].who.unique():
        found = values(items, who, task)
        ratio, low, high = paired_ratio(found, own, sources=source) if above else (np.nan,) * 3
        if who == specialist and own.any() and above:
            ratio = low = high = 1.0
        rows.append(dict(who=who, task=task, n=len(own), ratio=ratio, low=low, high=high))
    return pd.DataFrame(rows)


def _pairs(items: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(items.who, items.task, strict=True)))


def with_likelihood(
    benchmarks: Mapping[str, Mapping[str, Any]], likelihood: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The benchmarks of each domain, and those that put the items of one of them to be answered by likelihood."""
    return {
        domain: {**some, **{name: task for name, task in likelihood.items() if name.removesuffix(LIKELIHOOD) in some}}
        for domain, some in benchmarks.items()
    }


def own_domain(gaps: pd.DataFrame, family: Family, benchmarks: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """The rows of each specialist on the benchmarks of its own domain, by likelihood too."""
    own = {member.name: benchmarks.get(member.domain, ()) for member in family.specialists}
    rows = zip(gaps.who, gaps.task, strict=True)
    return gaps[np.array([task.removesuffix(LIKELIHOOD) in own.get(who, ()) for who, task in rows], dtype=bool)]
