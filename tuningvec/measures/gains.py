"""What benchmarks say of fine-tuning, of taking T away and of sums of vectors: the judges of `scores`' tables."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from tuningvec.measures import floors, turned
from tuningvec.measures.directions import MEDICINE
from tuningvec.measures.scores import (
    ALPHA,
    KEPT,
    LIKELIHOOD,
    above_guessing,
    added,
    counted,
    guessing,
    holm_known,
    sources,
    task_name,
    values,
    ways,
)
from tuningvec.stats import paired_contrast, paired_ratio
from tuningvec.verdict import Verdict, judge, unknown

COMPARED = (MEDICINE, "math")  # the domains whose vectors the paper adds


def domain_gain(gaps: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Fine-tuning makes a model better at the benchmarks of its domain; `gaps` are of `own_domain`."""
    return _in_any_form(gaps, "fine-tuned minus pretrained", least, 1)


def beyond_form(gaps: pd.DataFrame, least: float = 5.0) -> Verdict:
    """A specialist gains more than a control of words and form alone; `gaps` are of `own_domain` against it."""
    return _in_any_form(gaps, "specialist minus placebo", least, 1)


def negation_falls(gaps: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Removing T lowers the scores; `gaps` are of `without` by member."""
    return _in_any_form(gaps, r"$\theta_\text{ft} - T$ minus $\theta_\text{ft}$ under one prompt", least, -1)


def _in_any_form(gaps: pd.DataFrame, compared: str, least: float, direction: Literal[1, -1]) -> Verdict:
    """Judged in the form asked for and in the way that needs the form least: a change in the form alone is mixed.

    In any form a model that guesses is right now and then, and one that names no option never: where the better of both
    is not above guessing, there is no knowledge to compare.
    """
    cases = _holmed(_ways(gaps))
    rule = (
        f"the difference ({compared}) on the same items is beyond chance (exact McNemar, Holm over all cases at "
        f"{ALPHA:g}), {'up' if direction > 0 else 'down'}, and at least {least:g} points, in the form that "
        "the prompt asks for and in the way that needs no form: by likelihood where it was asked, else in any form. "
        "There the better of both must be above guessing among the options (one-sided binomial)"
    )
    about: dict[str, Any] = dict(least=least, direction=direction)
    ways = {way: judge(part, rule, **about) for way, part in cases.groupby("way", sort=False)}
    judged = judge(cases[cases.decides], rule, unit="points", digits=0, **about)
    counts = [f"{(v.cases.outcome == 'for').sum()} of {len(v.cases)} {way}" for way, v in ways.items()]
    why = "for the claim: " + ", ".join(counts) if judged.kind == "mixed" else judged.why
    shown = pd.concat([v.cases for v in ways.values()]) if ways else cases
    said = "; ".join(f"{way}: {v.kind}" for way, v in ways.items())
    met = _form_alone(judged.cases, cases, least, direction) if ways else None
    return replace(judged, why=why, cases=shown, falsified=met, numbers=dict(ways=said, least=least))


def _form_alone(judged: pd.DataFrame, cases: pd.DataFrame, least: float, direction: int) -> bool | None:
    """Whether the form alone is shown to change somewhere; False where all that changes is knowledge too.

    Shown: freely the change is less than `least`, or the better of both guesses and the other names no option.
    """
    outcome = judged.groupby(["member", "benchmark"], sort=False).outcome
    strict, free = outcome.first(), outcome.last()
    form = strict[strict == "for"].index
    change = judged.high if direction > 0 else -judged.low
    small = (change < least).groupby([judged.member, judged.benchmark]).last()
    guesses = (cases.way == "in any form") & cases.guessed & (cases.named < least)
    unnamed = guesses.groupby([cases.member, cases.benchmark]).any()
    if (small | unnamed & (free != "for"))[form].any():
        return True
    return False if len(form) and (free[form] == "for").all() else None


def _ways(gaps: pd.DataFrame) -> pd.DataFrame:
    """Cases of accuracy by the way of scoring; of each member's benchmark the first and the last way decide."""
    rows = gaps[gaps.what.isin(["score", "lenient"]) & (gaps.metric != "rouge1")]
    order = ["by assertions", "in the form asked for", "in any form", "by likelihood"]
    cases = _cases(rows).assign(way=pd.Categorical(ways(rows), order)).sort_values("way", kind="stable")
    group = ["member", "benchmark"]
    last = ~cases.duplicated(group, keep="last")
    free = cases.way.isin(["in any form", "by likelihood"])
    about = dict(decides=~cases.duplicated(group) | last, guessed=cases.guessed.astype(bool) & free)
    return cases.assign(way=cases.way.astype(object), **about)


def _cases(gaps: pd.DataFrame) -> pd.DataFrame:
    """Differences as cases of a verdict."""
    benchmark = gaps.task.str.removesuffix(LIKELIHOOD).map(task_name)
    member = gaps.get("member", gaps.get("who"))
    return gaps.rename(columns={"points": "effect"}).assign(benchmark=benchmark, member=member)


def _holmed(cases: pd.DataFrame) -> pd.DataFrame:
    """Whether each is beyond chance by Holm's p; not where the better side of a way without form guesses."""
    clear = holm_known(cases.p) < ALPHA
    return cases.assign(clear=clear & ~cases.guessed if "decides" in cases else clear)


def texts_change(gaps: pd.DataFrame, direction: Literal[1, -1], above: pd.DataFrame, least: float = 2.0) -> Verdict:
    """A fine-tuned model writes better texts, or removing T makes them worse; by `floors.above`."""
    rule = (
        f"the difference in ROUGE-1 on the same items is beyond chance (sign flips, Holm over the cases at {ALPHA:g}), "
        f"{'up' if direction > 0 else 'down'}, and at least {least:g} points; a case does not count where the better "
        "of the two is no nearer to its references than another item's text"
    )
    some = gaps[(gaps.what == "score") & (gaps.metric == "rouge1")]
    cases = _holmed(_cases(some)).assign(floored=floors.floored(some, above))
    cases["clear"] &= ~cases.floored
    return _changed(cases, rule, least, direction)


def instructions_change(gaps: pd.DataFrame, direction: Literal[1, -1], least: float = 5.0) -> Verdict:
    """Fine-tuned models follow the prompt's instructions better, or less well without T."""
    rule = (
        "in every case, a member, a benchmark and an instruction, the difference in replies that keep it is beyond "
        f"chance (exact McNemar, Holm over all cases at {ALPHA:g}), {'up' if direction > 0 else 'down'}, and at least "
        f"{least:g} points. Left out is a case without room: its reference is within so many points of "
        f"{'100' if direction > 0 else '0'} %, and the difference is not clearly the other way"
    )
    cases = _holmed(_cases(gaps[gaps.what.isin(KEPT)]))
    cases["instruction"] = cases.what.replace("stopped", "stopped after the answer")
    room = 100 - cases.before if direction > 0 else cases.before
    full = (room <= least) & ~(cases.clear & (direction * cases.effect < 0))
    return _changed(cases[~full], rule, least, direction, no_room=f"{full.sum()} of {len(cases)}")


def _changed(cases: pd.DataFrame, rule: str, least: float, direction: Literal[1, -1], **numbers: Any) -> Verdict:
    """A verdict that a case which clearly goes the other way speaks against, unless all are shown not to."""
    if cases.empty:
        why = "no specialist has such a benchmark in its domain" + (" with room to change" if numbers else "")
        return unknown(rule, why, mean=np.nan, **numbers)
    numbers["mean"] = cases.effect.mean()
    found = judge(cases, rule, least=least, direction=direction, unit="points", digits=0, **numbers)
    return replace(found, falsified=_otherwise(found.cases, least, direction))


def _otherwise(cases: pd.DataFrame, least: float, direction: Literal[1, -1]) -> bool | None:
    """Whether a case clearly goes the other way; False where all have items enough to, and are shown not to by `least`.

    Of n sources that all go one way p is 2 / 2ⁿ.
    """
    worst = cases.low if direction > 0 else -cases.high
    shown = (worst > -least) & (2 * 0.5**cases.sources < ALPHA)
    return True if (cases.outcome == "against").any() else False if shown.all() else None


def more_than_turned(compared: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether removing T costs more than removing a turned T; `compared` is of `turned.against_draws` of falls."""
    rule = (
        f"the fall without T is at least {least:g} points larger than the mean fall of the draws, turned on the left "
        "and on both sides, on every benchmark and in every way of scoring in which the fine-tuned member is above "
        f"guessing among the options (one-sided binomial); {turned.intervals(compared)}, on other items as well"
    )
    if compared.empty:
        return unknown(rule, "no specialist is above guessing on its domain's benchmarks", smallest=least)
    return turned.judged(compared, rule, least, direction=1, unit="points", digits=0, smallest=least)


def lost_with_the_weights(parts: pd.DataFrame, falls: pd.DataFrame, least: float = 5.0) -> Verdict:
    r"""What is lost without T is lost with the weights and not by the prompt.

    `parts` is of `parts_of_fall`, `falls` of `without`, both by member: what falls is judged as in `negation_falls`.
    θ_ft chat − θ_pre chat = (θ_ft chat − θ_pre plain) + (θ_pre plain − θ_pre chat), by the weights and by the prompt.
    """
    rule = (
        r"where a score of right answers falls ($\theta_\text{ft}$ minus $\theta_\text{pre}$, both in chat) beyond "
        f"chance, as judged above, and by at least {least:g} points, the part of the weights "
        r"($\theta_\text{ft}$ in chat minus $\theta_\text{pre}$ "
        r"in plain text) exceeds that of the prompt ($\theta_\text{pre}$, plain minus chat) beyond chance (paired t) "
        f"and by at least {least:g} points, and is itself beyond chance (exact McNemar); Holm over all that falls at "
        f"{ALPHA:g}. Reversed: the prompt takes more than the weights"
    )
    if parts.empty:
        return unknown(rule, "the members have plain text only: there is no second prompt")
    cases = _cases(parts)
    told = _holmed(_ways(falls)).rename(columns={"clear": "falls"})
    cases = cases.merge(told[["member", "task", "metric", "way", "falls"]], how="inner")
    fell = cases.falls & (cases.fall >= least)
    cases = cases.assign(points=cases.effect, points_low=cases.low, points_high=cases.high)
    measured = ["effect", "low", "high", "p"]
    cases[measured] = cases[measured].where(fell)
    if not fell.any():
        return Verdict("cannot be known here", rule, "nothing is lost beyond chance under one prompt", cases)
    cases["p"] = cases.p.where(cases.effect < 0, cases[["p", "p_weights"]].max(axis=1, skipna=False))
    found = judge(_holmed(cases), rule, least=least, unit="points", digits=0)
    return replace(found, falsified=_otherwise(found.cases[fell], least, 1))


def serves(
    items: pd.DataFrame,
    specialists: Mapping[str, str],
    benchmarks: Mapping[str, Collection[str]],
    *,
    share: float = 0.8,
) -> Verdict:
    """Whether θ_pre + Σ T_d (λ = 1) keeps at least `share` of each specialist's score on its domain's benchmarks.

    `items` are of `evals.addition`. Falsified when on some benchmark the sum falls short and is nearer to what another
    domain's vector, which scores less than the specialist, gives alone than to the specialist. `best` are the ratios at
    the λ whose smallest ratio is largest; unknown where several are.
    """
    rule = (
        f"The sum at λ = 1 serves a domain if its score is at least {share:.0%} of that of the domain's specialist on "
        f"the same items. The effect is sum − {share:g} · specialist in points, beyond chance by a paired t (Holm over "
        "all benchmarks). Above 0 on every benchmark: holds; below on every one: reversed. Where the specialist's own "
        "score is not clearly above 0, and above guessing among the options (one-sided binomial), there is no ratio."
    )
    cases = pd.DataFrame(_sums(items, specialists, benchmarks, share))
    numbers = dict(share=share, best=np.nan, best_scale=np.nan)
    if not cases.effect.notna().any():
        why = "no specialist's score is clearly above 0 and above guessing"
        return Verdict("cannot be known here", rule, why, cases, numbers)
    cases["clear"] = holm_known(cases.p) < ALPHA
    short = cases.clear & (cases.effect < 0)
    kept = cases.clear & (cases.effect > 0) | cases.apart
    met = True if (short & cases.nearer).any() else False if kept.all() else None
    ratios = added(items, specialists, benchmarks).query("vectors == 'sum'")
    by_scale = ratios.pivot(index="scale", columns="task", values="ratio").dropna(axis=1)
    smallest = by_scale.min(axis=1)
    if (smallest == smallest.max()).sum() == 1:
        best = by_scale.loc[smallest.idxmax()]
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
        both, source = [found["sum"], found[own]], sources(whole, who[own], task)
        contrast = partial(paired_contrast, sources=source)
        above = above_guessing(found[own], guessing(whole, task), source)
        ratio, low, high = paired_ratio(*both, sources=source) if above else (np.nan,) * 3
        about = dict(task=task_name(task)) | counted(found[own], source)
        about |= dict(ratio=ratio, ratio_low=low, ratio_high=high)
        about |= {name: 100 * found[key].mean() for name, key in [("sum", "sum"), ("own", own), ("none", "none")]}
        others = [found[other] for other in specialists.values() if other != own]
        about["other"] = 100 * max(other.mean() for other in others)
        less = [other for other in others if other.mean() < found[own].mean()]
        halves = [contrast([*both, other], [1, -0.5, -0.5]) for other in less]
        about |= dict(nearer=any(half.high < 0 for half in halves))
        about |= dict(apart=len(less) == len(others) and all(half.low > 0 for half in halves))
        gap = contrast(both, [1, -share])
        known = dict(effect=gap.points, low=gap.low, high=gap.high, p=gap.p)
        yield about | (known if np.isfinite(ratio) else dict.fromkeys(known, np.nan))


def beyond_others(gaps: pd.DataFrame, *, least: float = 5.0) -> Verdict:
    """Whether the sum scores more on medicine than the maths vector alone, and the other way round.

    `gaps` are of `sum_against_others`; pairs with other domains, of which the paper says nothing, are cases beside it.
    """
    rule = (
        "The effect is the score of the sum at λ = 1 minus that of the vector of maths alone on medicine, and of that "
        "of medicine on maths, on the same items; it counts when it is beyond chance (McNemar's exact test, Holm over "
        f"these pairs at {ALPHA:g}) and at least {least:g} points. Other pairs of domains are shown and not judged"
    )
    cases = gaps.assign(effect=gaps.points, task=gaps.task.map(task_name))
    claimed = cases.domain.isin(COMPARED) & cases.other.isin(COMPARED)
    beside = cases[~claimed].assign(outcome="not judged")
    if not claimed.any():
        return replace(unknown(rule, "no vector of medicine stands beside one of maths"), cases=beside)
    found = judge(_holmed(cases[claimed]), rule, least=least, unit="points", digits=0)
    met = _otherwise(found.cases, least, 1)
    return replace(found, cases=pd.concat([found.cases, beside]), falsified=met)


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
        "own gain is clearly above 0, and its specialist above guessing among the options (one-sided binomial)."
    )
    cases = pd.DataFrame(_carried(items, examined, benchmarks, pretrained, least))
    if not cases.effect.notna().any():
        why = "on its own domain no specialist gains clearly over the pretrained member and is above guessing"
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
        source = sources(items, pretrained, task)
        gain = paired_contrast([own, before], [1, -1], sources=source)
        gained = gain.low > 0 and above_guessing(own, guessing(items, task), source)
        for who in [who for other, names in examined.items() if other != domain for who in names]:
            theirs = values(items, who, task)
            found = paired_contrast([theirs, own, before], [1, -least, least - 1], sources=source)
            known = dict(effect=found.points, low=found.low, high=found.high, p=found.p)
            about = dict(who=who, own=examined[domain][0], task=task_name(task)) | counted(own, source)
            about |= dict(carried=100 * float((theirs - before).mean()), gain=gain.points)
            yield about | (known if gained else dict.fromkeys(known, np.nan))
