"""From items to what a table shows and what it says: scores, differences on the same items, averages, verdicts.

`items` are rows of `evals.run`, with a column `who` that names what is compared. Scores are in percent, differences in
points; intervals are 95 %.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from tuningvec.family.spec import Family
from tuningvec.stats import (
    bootstrap_difference,
    bootstrap_mean,
    holm,
    mean_or_share,
    paired_contrast,
    paired_difference,
    paired_ratio,
    relative_drop,
    sign_flips,
    wilson,
)
from tuningvec.tasks.scoring import main
from tuningvec.verdict import Verdict, judge, unknown

LENIENT = {"acc": "acc_lenient"}
INSTRUCTIONS = ("thought", "valid", "valid_lenient", "stopped_text", "stopped_token")
KEPT = ("thought", "valid", "stopped_token")  # the paper's three (Tables 3, 9)
LIKELIHOOD = "_likelihood"  # ends the name of a task that puts the items of another to be answered by likelihood
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
    return pd.DataFrame(rows, columns=["who", "instruction", "n", "score", "low", "high"])


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
                whos = items[items.task.isin(some)].who.unique()
                found[name] = pd.DataFrame([_average(items, who, some, seed) for who in whos])
    return found


def _average(items: pd.DataFrame, who: str, tasks: Sequence[str], seed: int) -> dict[str, Any]:
    each = [values(items, who, task) for task in tasks]
    low, high = bootstrap_mean(each, seed)
    return dict(who=who, score=100 * np.mean([part.mean() for part in each]), low=100 * low, high=100 * high)


def pooled(items: pd.DataFrame) -> pd.DataFrame:
    """The items that have an answer to give, of all tasks, as one task "all"."""
    asked = items[items.valid.notna()] if "valid" in items else items.head(0)
    return asked.assign(task="all", item=asked.task + " " + asked["item"].astype(str))


def against(items: pd.DataFrame, reference: str) -> list[tuple[str, str]]:
    """Every other `who` with the reference."""
    return [(who, reference) for who in items.who.unique() if who != reference]


def differences(items: pd.DataFrame, pairs: Sequence[tuple[str, str]], seed: int) -> pd.DataFrame:
    """The first of each pair minus the second on the same items of each task: in score, lenient score, instructions.

    n, points, low, high and p: Newcombe's interval and McNemar's exact p; of ROUGE-1 a bootstrap over items and a
    sign-flip test. `clear` tells whether it is beyond chance by Holm's p over all rows of one kind, `what`.
    """
    rows = []
    for (who, other), task in itertools.product(pairs, items.task.unique()):
        for what, column in _compared(items, task).items():
            both = [values(items, one, task, column) for one in (who, other)]
            if all(map(len, both)):
                about = dict(who=who, reference=other, task=task, what=what, metric=column)
                rows.append(about | _difference(*both, seed))
    columns = ["who", "reference", "task", "what", "metric", "n", "points", "low", "high", "p"]
    return _judged(pd.DataFrame(rows, columns=columns))


def _compared(items: pd.DataFrame, task: str) -> dict[str, str]:
    """What is compared of a task, with the column that holds it."""
    name, known = metric(items, task), _columns(items, task)
    columns = {"score": name, "lenient": LENIENT.get(name, ""), **{i: i for i in INSTRUCTIONS}}
    return {what: column for what, column in columns.items() if column in known}


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(clear=table.groupby("what").p.transform(_holm) < ALPHA)


def _difference(first: Values, second: Values, seed: int) -> dict[str, float]:
    n = len(first)
    if set(np.unique([first, second])) <= {0.0, 1.0}:
        a, b = first.astype(bool), second.astype(bool)
        return dict(n=n) | paired_difference(*(int(both.sum()) for both in (a & b, a & ~b, ~a & b, ~a & ~b)))._asdict()
    low, high = bootstrap_difference([first], [second], seed, benchmarks=False, paired=True)
    gap = first - second
    unseen = wilson(0, n).high if np.ptp(gap) == 0 else 0.0  # items that differ may be as rare as this
    points = dict(points=100 * gap.mean(), low=100 * (low - unseen), high=100 * (high + unseen))
    return dict(n=n) | points | dict(p=sign_flips(gap, seed))


def _holm(p: pd.Series) -> pd.Series:
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
        rows.append(dict(scale=scale, what=what, n=len(found)) | _interval(found, seed))
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


def two_by_two(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What weights and prompts do in the 2 × 2 of θ_ft (λ = 0) and θ_pre (λ = 1), own format and plain text.

    As `differences`, with `effect` and `compared`, in words: "weights" under one prompt, "prompt" with one set of
    weights, "crossed" where both change, and their "interaction", paired by item. Empty where all is plain text.
    """
    corner = _corners(items)
    effects = {}
    if len(corner) == 4:
        effects = {
            (corner[0, True], corner[1, True]): ("weights", r"$\theta_{ft} - \theta_{pre}$, chat"),
            (corner[0, False], corner[1, False]): ("weights", r"$\theta_{ft} - \theta_{pre}$, plain"),
            (corner[0, True], corner[0, False]): ("prompt", r"chat − plain, $\theta_{ft}$"),
            (corner[1, True], corner[1, False]): ("prompt", r"chat − plain, $\theta_{pre}$"),
            (corner[0, True], corner[1, False]): ("crossed", r"$\theta_{ft}$, chat − $\theta_{pre}$, plain"),
            (corner[0, False], corner[1, True]): ("crossed", r"$\theta_{ft}$, plain − $\theta_{pre}$, chat"),
        }
    table = differences(items, list(effects), seed)
    named = [effects[pair] for pair in zip(table.who, table.reference, strict=True)]
    table = table.assign(effect=[effect for effect, _ in named], compared=[words for _, words in named])
    rows = []
    for task, what, (a, b, c, d) in _in_corners(items):
        about = dict(task=task, what=what, effect="interaction", compared="interaction")
        rows.append(about | _difference(a - b, c - d, seed))
    return _judged(pd.concat([table, pd.DataFrame(rows)], ignore_index=True)) if rows else table


def _corners(items: pd.DataFrame) -> dict[tuple[float, bool], str]:
    ends = items[items.scale.isin([0, 1])].drop_duplicates(["scale", "own"])
    return {(row.scale, row.own): row.who for row in ends.itertuples()}


def _in_corners(items: pd.DataFrame) -> Iterator[tuple[str, str, list[Values]]]:
    """Of everything compared: task, what, and the items of θ_ft and θ_pre in chat, then in plain text."""
    corner = _corners(items)
    for task in items[~items.own].task.unique():
        for what, column in _compared(items, task).items():
            order = [(0, True), (1, True), (0, False), (1, False)]
            found = [values(items, corner[place], task, column) for place in order]
            if all(map(len, found)):
                yield task, what, found


def prompted_share(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """How much of the fall from θ_ft to θ_pre, both in chat format, that format alone takes from θ_pre, in percent.

    Of one member: (θ_pre plain − θ_pre chat) / (θ_ft chat − θ_pre chat) by score, with a bootstrap interval over items;
    a row each task with plain text whose fall is beyond chance.
    """
    rows = []
    for task, what, (a, b, _, d) in _in_corners(items):
        fall = _difference(a, b, seed)
        if what == "score" and fall["points"] > 0 and fall["p"] < ALPHA:
            low, high = relative_drop(a - b, a - d, seed)
            rows.append(dict(task=task, n=len(a), share=100 * (d - b).mean() / (a - b).mean(), low=low, high=high))
    return pd.DataFrame(rows, columns=["task", "n", "share", "low", "high"])


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


def own_domain(gaps: pd.DataFrame, family: Family, benchmarks: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """The rows of each specialist on the benchmarks of its own domain, by likelihood too."""
    own = {member.name: benchmarks.get(member.domain, ()) for member in family.specialists}
    rows = zip(gaps.who, gaps.task, strict=True)
    return gaps[np.array([task.removesuffix(LIKELIHOOD) in own.get(who, ()) for who, task in rows], dtype=bool)]


def domain_gain(gaps: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Fine-tuning makes a model better at the benchmarks of its domain; `gaps` are of `own_domain`."""
    return _in_any_form(gaps, "fine-tuned minus pretrained", least, 1)


def negation_falls(gaps: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Removing T lowers the scores; `gaps` are of `without` by member."""
    return _in_any_form(gaps, r"$\theta_{ft} - T$ minus $\theta_{ft}$ under one prompt", least, -1)


def _in_any_form(gaps: pd.DataFrame, compared: str, least: float, direction: Literal[1, -1]) -> Verdict:
    """Judged in the form asked for and in the way that needs the form least: a change in the form alone is mixed."""
    cases = _ways(gaps)
    rule = (
        f"the difference ({compared}) on the same items is beyond chance (exact McNemar, Holm over what is judged "
        f"together at {ALPHA:g}), {'up' if direction > 0 else 'down'}, and at least {least:g} points, in the form that "
        "the prompt asks for and in the way that needs no form: by likelihood where it was asked, else in any form"
    )
    ways = {
        way: judge(_holmed(part), rule, least=least, direction=direction)
        for way, part in cases.groupby("way", sort=False)
    }
    judged = judge(_holmed(cases[cases.decides]), rule, least=least, direction=direction, unit="points", digits=0)
    outcome = judged.cases.groupby(["member", "benchmark"], sort=False).outcome
    strict, free = (outcome.first(), outcome.last()) if len(cases) else (pd.Series(dtype=str),) * 2
    form = strict[strict == "for"].index
    falsified = True if free[form].isin(["negligible", "against"]).any() else None
    if len(form) and (free[form] == "for").all():
        falsified = False
    counts = [f"{(v.cases.outcome == 'for').sum()} of {len(v.cases)} {way}" for way, v in ways.items()]
    why = "for the claim: " + ", ".join(counts) if judged.kind == "mixed" else judged.why
    shown = pd.concat([v.cases for v in ways.values()]) if ways else cases
    said = "; ".join(f"{way}: {v.kind}" for way, v in ways.items())
    return replace(judged, why=why, cases=shown, falsified=falsified, numbers=dict(ways=said, least=least))


def _ways(gaps: pd.DataFrame) -> pd.DataFrame:
    """Cases of accuracy by the way of scoring; of each member's benchmark the first and the last way decide."""
    rows = gaps[gaps.what.isin(["score", "lenient"]) & (gaps.metric != "rouge1")]
    way = np.select(
        [rows.task.str.endswith(LIKELIHOOD), rows.what == "lenient", rows.metric == "passed"],
        ["by likelihood", "in any form", "by assertions"],
        "in the form asked for",
    )
    order = ["by assertions", "in the form asked for", "in any form", "by likelihood"]
    cases = _cases(rows).assign(way=pd.Categorical(way, order)).sort_values("way", kind="stable")
    group = ["member", "benchmark"]
    ends = ~cases.duplicated(group) | ~cases.duplicated(group, keep="last")
    return cases.assign(way=cases.way.astype(object), decides=ends)


def _cases(gaps: pd.DataFrame) -> pd.DataFrame:
    """Differences as cases of a verdict."""
    benchmark = gaps.task.str.removesuffix(LIKELIHOOD).map(task_name)
    return gaps.rename(columns={"points": "effect"}).assign(benchmark=benchmark, member=gaps.get("member", gaps.who))


def _holmed(cases: pd.DataFrame) -> pd.DataFrame:
    return cases.assign(clear=_holm(cases.p) < ALPHA)


def texts_change(gaps: pd.DataFrame, direction: Literal[1, -1], least: float = 2.0) -> Verdict:
    """Fine-tuning makes the texts better that a model writes, or removing T makes them worse."""
    rule = (
        f"the difference in ROUGE-1 on the same items is beyond chance (sign flips, Holm over the cases at {ALPHA:g}), "
        f"{'up' if direction > 0 else 'down'}, and at least {least:g} points"
    )
    cases = _holmed(_cases(gaps[(gaps.what == "score") & (gaps.metric == "rouge1")]))
    return _changed(cases, rule, least, direction)


def instructions_change(gaps: pd.DataFrame, direction: Literal[1, -1], least: float = 5.0) -> Verdict:
    """Fine-tuned models follow the prompt's instructions better, or less well without T."""
    rule = (
        "in every case, a member, a benchmark and an instruction, the difference in replies that keep it is beyond "
        f"chance (exact McNemar, Holm over all cases at {ALPHA:g}), {'up' if direction > 0 else 'down'}, and at least "
        f"{least:g} points"
    )
    cases = _holmed(_cases(gaps[gaps.what.isin(KEPT)]))
    cases["instruction"] = cases.what.str.replace("_", ", ")
    return _changed(cases, rule, least, direction)


def _changed(cases: pd.DataFrame, rule: str, least: float, direction: Literal[1, -1]) -> Verdict:
    """A verdict that a case which clearly goes the other way speaks against."""
    if cases.empty:
        return unknown(rule, "no specialist has such a benchmark in its domain", mean=np.nan)
    found = judge(cases, rule, least=least, direction=direction, unit="points", digits=0, mean=cases.effect.mean())
    return replace(found, falsified=bool((found.cases.outcome == "against").any()))


def lost_with_the_weights(table: pd.DataFrame, least: float = 5.0) -> Verdict:
    """What is lost without T is lost with the weights and not by the prompt; `table` is of `two_by_two` by member.

    θ_ft under either prompt is above θ_pre under either. Of weights W and prompt P, means over the other factor, θ_ft
    chat − θ_pre plain = W + P and θ_ft plain − θ_pre chat = W − P: both are above 0 only where W > |P|.
    """
    rule = (
        r"in every case $\theta_{ft}$ under either prompt is above $\theta_{pre}$ under either, which needs weights "
        f"that matter more than the prompt: the smallest of the four differences is at least {least:g} points, and all "
        f"four are beyond chance (exact McNemar, Holm over the cases at {ALPHA:g}). Reversed: the prompt outweighs the "
        "weights, or the fine-tuned weights are worse"
    )
    keys, rows = ["member", "task", "what"], table[table.what.isin(["score", "lenient"])]
    if rows.empty:
        effects = dict.fromkeys(("weights", "prompt", "interaction"), np.nan)
        return unknown(rule, "the members have plain text alone: there is no second prompt", counts="–", **effects)
    four = rows[rows.effect.isin(["weights", "crossed"])]
    cases = _cases(four.drop(columns="effect").loc[four.groupby(keys, sort=False).points.idxmin()])
    ends = four.groupby(keys, sort=False).agg(low=("low", "min"), high=("high", "min"), p_max=("p", "max"))
    cases = cases.drop(columns=["low", "high"]).merge(ends.reset_index(), on=keys)
    cases["p"] = cases.p_max.where(cases.effect > 0, (4 * cases.p).clip(upper=1))
    ways = {"acc": "in the form asked for", "acc_lenient": "in any form", "passed": "by assertions"}
    cases["way"] = cases.metric.map(ways).fillna("ROUGE-1")
    apart = rows[rows.effect != "crossed"]
    counts = [f"{words} {part.clear.sum()} of {len(part)}" for words, part in apart.groupby("compared", sort=False)]
    found = judge(
        _holmed(cases), rule, least=least, unit="points", digits=0, falsified=_format_alone(rows, least),
        counts="; ".join(counts), **{name: part.points for name, part in rows.groupby("effect")},
    )  # fmt: skip
    if found.kind in ("within chance", "null explains it") and apart.clear.any():
        return replace(found, kind="mixed", why="clear differences: " + "; ".join(counts))
    return found


def _format_alone(rows: pd.DataFrame, least: float) -> bool | None:
    """Whether the weights are shown to make no gain in plain text somewhere; None where that cannot be told."""
    plain = rows[(rows.effect == "weights") & rows.compared.str.endswith("plain")]
    none = (plain.high < least) | (plain.clear & (plain.points < 0))
    return True if none.any() else False if len(plain) and (plain.clear & (plain.points >= least)).all() else None


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
