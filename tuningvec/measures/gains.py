"""What benchmarks say of fine-tuning, of taking T away and of sums of vectors: the judges of `scores`' tables."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from tuningvec.measures.scores import ALPHA, KEPT, LIKELIHOOD, added, holm_known, task_name, values
from tuningvec.stats import paired_contrast, paired_ratio
from tuningvec.verdict import Verdict, judge, unknown


def domain_gain(gaps: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Fine-tuning makes a model better at the benchmarks of its domain; `gaps` are of `own_domain`."""
    return _in_any_form(gaps, "fine-tuned minus pretrained", least, 1)


def negation_falls(gaps: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Removing T lowers the scores; `gaps` are of `without` by member."""
    return _in_any_form(gaps, r"$\theta_\text{ft} - T$ minus $\theta_\text{ft}$ under one prompt", least, -1)


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
    return cases.assign(clear=holm_known(cases.p) < ALPHA)


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
        r"in every case $\theta_\text{ft}$ under either prompt is above $\theta_\text{pre}$ under either, which needs "
        f"weights that matter more than the prompt: the smallest of the four differences is at least {least:g} "
        f"points, and all four are beyond chance (exact McNemar, Holm over the cases at {ALPHA:g}). Reversed: the "
        "prompt outweighs the weights, or the fine-tuned weights are worse"
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
    cases["clear"] = holm_known(cases.p) < ALPHA
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
    cases["clear"] = holm_known(cases.p) < ALPHA
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
