"""Judges of the paper's claims by its own printed numbers: tables of the audit in, a verdict out."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from tuningvec import stats
from tuningvec.paper import audit
from tuningvec.paper import printed as paper
from tuningvec.verdict import Verdict, judge, unknown
from tuningvec.weights.components import SYMBOLS

K_UNKNOWN = r"$k$ is not printed, so a random $T$ may have as much"
UNPAIRED = "interval over items drawn for each model"
HOLM = (
    "Clear where the $p$ that belongs to the interval is significant, Holm over the cases; intervals are Bonferroni's."
)


FALLING = ("Meta-Llama-3-8B", "Qwen2.5-7B")  # families that §3.1 says fall without T


class Evidence(NamedTuple):
    """The compared rows of the paper's tables, with the level of intervals and the α of corrected tests."""

    level: float
    alpha: float
    comparisons: pd.DataFrame
    pooled: pd.DataFrame
    averages: pd.DataFrame


def gather(level: float, alpha: float, seed: int) -> Evidence:
    """Compare the rows of the paper's tables once for all claims; `seed` is the bootstrap's."""
    rows = audit.comparisons(level), audit.pooled(level), audit.average_differences(level, seed)
    return Evidence(level, alpha, *rows)


def squared_norms(cells: pd.DataFrame, least: float = 0.02) -> Verdict:
    """Whether Tables 4 to 6 are made of norms; from `audit.energies`."""
    fits = {name: int(((cells[name] - cells.SSA).abs() <= least).sum()) for name in ("norms", "squared")}
    rule = (
        f"Of both readings of Tables 5 and 6 that one is printed which gives more cells of Table 4 within {least}. "
        "Differs where squared norms do."
    )
    about = dict(rule=rule, cases=cells, numbers=fits | {"cells": len(cells)})
    if fits["norms"] == fits["squared"]:
        return Verdict("cannot be known here", why="both readings fit as many cells", **about)
    return Verdict("holds" if fits["norms"] > fits["squared"] else "differs", **about)


def misprints(cells: pd.DataFrame) -> Verdict:
    """Whether Table 6 agrees with Tables 4 and 5; from `audit.energies`."""
    wrong = cells[cells.misprint]
    names = [f"{v.vector} {SYMBOLS[v.kind]} {v.E_perp:,.0f} for {v.implied:,.0f}" for v in wrong.itertuples()]
    rule = (
        r"Table 4 as a share of squared norms and Table 5 give $E_\perp$, if layers are even. Differs where a cell is "
        f"more than {audit.MISPRINT} times larger or smaller."
    )
    return _agrees(rule, len(cells), names, cases=cells)


def least_aligned(cells: pd.DataFrame, explained: pd.DataFrame, sds: float = 3, least: float = 0.1) -> Verdict:
    """Whether gate and up have less of T in old directions than chance; from `audit.shape_bound`."""
    tall = cells[cells.bound < 1]
    ends = {"low": (tall.z - sds) * tall.sd / (1 - tall.bound), "high": tall.SSA + tall.step / 2}
    cases = tall[["vector", "z", "layers"]].assign(kind=tall.kind.map(SYMBOLS), effect=tall.excess, **ends)
    rule = (
        "The excess of SSA over its null, by vector and matrix. The null is at most the bound and at least 0, so the "
        f"bound gives the least excess: against the claim where that is {least} or more and above 0 by more than the "
        f"rounding and {sds} standard deviations of a mean over layers (rotations of different layers taken as "
        r"independent: one layer's are $\sqrt{N}$ times wider). Never for the claim: nothing printed says how far the "
        r"null is below its bound. A $T$ as long as $W$ may hold $-W$ itself, whose SSA is nearly 1."
    )
    total, vectors = explained.set_index("vector").loc["all"], explained.query("vector != 'all'")
    numbers = {name: total[name] for name in ("unfitted", "factor", "tall")}
    above = cases[cases.low > 0]
    names = [f"{v.vector} {v.kind} {v.z:.0f} ({v.z / v.layers**0.5:.1f})" for v in above.itertuples()]
    numbers |= {"by_vector": vectors.unfitted, "above": names, "clear": len(above), "cells": len(cases)}
    return _no_null(judge(cases, rule, least=least, direction=-1, **numbers))


def attention_better_aligned(parts: pd.DataFrame, least: float = 0.05) -> Verdict:
    """Whether attention's SSA exceeds the MLP's by more than shape gives; from `audit.by_part`."""
    gap = parts.attention - parts.MLP
    cases = parts.assign(effect=gap, low=gap - parts["shape"], high=gap)
    rule = (
        "Mean SSA of attention less that of the MLP, by vector, against the null's. With $k$ the same share of the "
        "full rank in all matrices, the null's difference lies between 0 and that of the bounds. For the claim where "
        f"the difference is above both and at least {least}; against it where it is below both."
    )
    above = int((parts.W_down > parts.attention).sum())
    numbers = {name: parts[name] for name in ("attention", "MLP", "gate_up", "W_down", "shape", "rank_share")}
    return _no_null(judge(cases, rule, least=least, gap=gap, above=above, vectors=len(parts), **numbers))


def _no_null(verdict: Verdict) -> Verdict:
    """Where no case is clear the reason is no sample's size: the null depends on k."""
    chance = verdict.kind == "within chance"
    return replace(verdict, kind="cannot be known here", why=K_UNKNOWN) if chance else verdict


def near_cosines(cosines: pd.DataFrame, least: float = 0.99) -> Verdict:
    """Whether the cosines of Table 15 tell how many directions change; from `audit.cosines`."""
    high = cosines.cosine >= least
    cases = cosines.assign(outcome=np.where(high, "negligible", "against"))
    rule = (
        r"A random $T$ of length $r\lVert\theta_\text{pre}\rVert$, spread over all directions, gives the cosine "
        rf"$1/\sqrt{{1 + r^2}}$, as one in a single direction does. So a cosine of {least} or more is what the null "
        "gives too; a lower one is against the claim that cosines are high. None can be for it."
    )
    numbers = {"cosine": cosines.cosine, "angle": cosines.angle, "r": pd.concat([cosines.r_low, cosines.r_high])}
    kind = "null explains it" if high.all() else "mixed" if high.any() else "differs"
    why = "" if high.all() else f"{(~high).sum()} of {len(cases)} are not high"
    return Verdict(kind, rule, why, cases, numbers)


def marginal_changes(cosines: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether the models of §2 move little; from `audit.cosines`."""
    ends = {"effect": cosines.r, "low": cosines.r_low, "high": cosines.r_high}
    return judge(cosines.assign(**ends), _length_rule(least), least=least, direction=0, r=cosines.r)


def marginal_changes_elsewhere(vectors: pd.DataFrame, cosines: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether the vectors that §2 does not have are as short; from `audit.lengths`."""
    cases = vectors[~vectors.vector.isin(cosines.member)]
    cases = cases.assign(effect=cases.r, low=cases.r_low * cases.r_summed / cases.r, high=cases.r_high)
    rule = _length_rule(least) + " The range includes energies that are sums over layers."
    return judge(cases, rule, least=least, direction=0, r=cases.r, summed=cases.r_summed)


def _length_rule(least: float) -> str:
    return (
        r"Marginal is a $\lVert T\rVert/\lVert\theta_\text{pre}\rVert$, of a $T$ orthogonal to $\theta_\text{pre}$, "
        rf"below {least} within its rounding; against the claim where it is above {least}."
    )


def low_energy(vectors: pd.DataFrame, least: float = 10) -> Verdict:
    """Whether code and maths have much more energy than medicine in Qwen; from `audit.lengths`."""
    of_qwen = vectors[vectors.pretrained == "Qwen2.5-7B"].set_index("vector")
    medical, others = of_qwen.loc["Aloe β"], of_qwen.drop(index="Aloe β")
    ratio = others.energy / medical.energy
    low = (others.energy - others.rounding) / (medical.energy + medical.rounding)
    high = (others.energy + others.rounding) / (medical.energy - medical.rounding)
    cases = pd.DataFrame({"effect": np.log10(ratio), "low": np.log10(low), "high": np.log10(high)}).reset_index()
    rule = (
        f"Energy over the medical vector's, by vector: much more is {least} times or more whatever the rounding. Tables"
        " 5 and 6 are read as squared norms, with what fits in the cells of Table 6 that Tables 4 and 5 contradict."
    )
    return judge(
        cases,
        rule,
        least=float(np.log10(least)),
        ratio=ratio,
        root=ratio**0.5,
        as_printed=others.printed / medical.printed,
    )


def fall_is_of_T(
    parts: pd.DataFrame, level: float, alpha: float, families: tuple[str, ...] = FALLING, least: float = 1
) -> Verdict:
    """Whether the fall without T lies between θ_ft and θ_pre; from `audit.parts_of_the_fall`."""
    rule = (
        r"$\theta_\text{ft} - T$ is $\theta_\text{pre}$, so what lies between the pretrained model's row (Table 7) and "
        "the one without $T$ (Table 1) is prompting or scoring, and $T$'s part is the rest. By family, over all items: "
        f"$T$'s part, and how much larger than the other it is; at least {least} point, in the widest pairing of "
        f"items. {HOLM}"
    )
    rows, what = parts[parts.family.isin(families)], {"of_T": "$T$'s part", "excess": "$T$'s part less the other"}
    names, columns = ["family", "effect", "low", "high"], ("family", "{}_points", "{}_low", "{}_high")
    cases = [rows[[c.format(p) for c in columns]].set_axis(names, axis=1).assign(what=what[p]) for p in what]
    cases = _corrected(pd.concat(cases, ignore_index=True), level, alpha)
    return judge(cases, rule, least=least, unit="points", digits=1, n=int(rows.n.iloc[0]), share=rows.prompt_share)


def _corrected(cases: pd.DataFrame, level: float, alpha: float, df: float = np.inf) -> pd.DataFrame:
    """The cases with `clear`, Holm's p ≤ α by Student's t from effect and interval, and Bonferroni's intervals."""
    half, quantile = (cases.high - cases.low) / 2, t.ppf((1 + level) / 2, df)
    p = pd.Series(2 * t.sf(cases.effect.abs() / half * quantile, df))
    wider = t.ppf(1 - alpha / 2 / len(cases), df) / quantile
    ends = {end: cases.effect + wider * (cases[end] - cases.effect) for end in ("low", "high")}
    return cases.assign(clear=stats.holm(p.fillna(1)) <= alpha, **ends)


def evaluations_agree(rows: pd.DataFrame, level: float, least: float = 5) -> Verdict:
    """Whether two evaluations of the same weights give the same; from `audit.same_weights`."""
    what = rows.column.where(rows.table == "3", "accuracy")
    sums = rows.assign(what=what).dropna(subset="items").groupby(["family", "what"], sort=False)
    cases = sums[["n", "right", "right_pre"]].sum().reset_index()
    cases[["effect", "low", "high"]] = _points(cases.right, cases.right_pre, cases.n, level)
    rule = (
        "Accuracy over all items, and each instruction, by family: the same where the difference, with "
        f"an uncorrected {UNPAIRED}, lies within {least} points, against it where it lies beyond."
    )
    worst = cases.loc[cases.effect.abs().idxmax()]
    numbers = {
        "points": cases.effect,
        "where": f"{worst.family} {worst.what}",
        "apart": abs(worst.right - worst.right_pre),
    }
    return judge(cases, rule, least=least, direction=0, unit="points", digits=1, n=int(worst.n), **numbers)


def unharmed_without_T(comparisons: pd.DataFrame, family: str = "Phi-3.5", least: float = 2) -> Verdict:
    """Whether a family follows instructions no worse without T; from `audit.comparisons`."""
    rows = comparisons[(comparisons.table == "3") & (comparisons.family == family)]
    cases = rows.assign(effect=-rows.points, low=-rows.high, high=-rows.low)
    rule = (
        f"By instruction: no worse where the change without $T$, with an uncorrected {UNPAIRED}, is above "
        f"−{least} points; against it where it is below −{least}."
    )
    shifted = cases.assign(**{end: cases[end] + least for end in ("effect", "low", "high")})
    verdict = judge(shifted, rule, least=0, unit="points", digits=1, change=cases.effect)
    return replace(verdict, cases=cases.assign(outcome=verdict.cases.outcome))


def lost_ability(chance: pd.DataFrame, level: float, alpha: float, least: float = 2) -> Verdict:
    """Whether the low scores of Tables 1 and 13 are low, and not the form of answers; from `audit.below_chance`."""
    rows = chance.set_index("member")
    pairs = {low: better for table, better, low in audit.CLAIMED.values() if table in (1, 13)}
    cases, better = rows.loc[list(pairs)].reset_index(), rows.loc[list(pairs.values())].reset_index()
    cases[["effect", "low", "high"]] = _points(better.right, cases.right, cases.n, level)
    cases = cases.assign(better=better.member, lower=cases.effect, effect=cases.effect.mask(cases.below))
    rule = (
        "On the benchmarks with four options, by row: lower than the model compared with by at least "
        f"{least} points, with an {UNPAIRED}. {HOLM} Unknown where the row is below guessing: an output without a "
        "valid answer counts as wrong, so it measures the form of the answers first."
    )
    low = [f"{v.member} {v.right} of {v.n:,} ({v.share:.1%})" for v in cases[cases.below].itertuples()]
    numbers = {"lower": cases.lower, "below": low, "count": len(low), "total": len(cases)}
    return judge(_corrected(cases, level, alpha), rule, least=least, unit="points", digits=1, **numbers)


def _points(first: pd.Series, second: pd.Series, n: pd.Series, level: float) -> list[tuple[float, ...]]:
    """Differences in points of counts of n items with their intervals, as if each had items of its own."""
    counts = zip(*(column.astype(int) for column in (first, second, n)), strict=True)
    return [stats.difference(int(a), int(size), int(b), int(size), level)[:3] for a, b, size in counts]


def counts_of_items(sizes: pd.DataFrame) -> Verdict:
    """Whether accuracies are counts of the benchmarks' items; from `audit.sizes`."""
    table = sizes[sizes.digits == "rounded"]
    rule = "Differs where any value is no count of items with two decimals: of 500, or of the split if that is smaller."
    least = int(table.n.min())
    numbers = {"least": least, "point": 100 / least}
    return _agrees(rule, len(table), list(table.benchmark[~table.fits]), cases=table, **numbers)


def ten_data_sets(sizes: pd.DataFrame) -> Verdict:
    """Whether Tables 3 and 9 count the outputs of all ten data sets; from `audit.sizes`."""
    outputs = sizes.set_index("benchmark").loc[audit.CUT_OFF_TABLES]
    n = paper.accuracy().drop_duplicates("column").set_index("column").n.dropna()
    left_out = [name for name in n.index if n.sum() - n[name] == outputs.smallest]
    rule = (
        f"The number of outputs that gives every printed value, up to {audit.LARGEST_N:,}, is that of the items. "
        "Digits are taken as cut off, which the paper does not say: chosen because it fits."
    )
    numbers = {name: outputs[name] for name in ("fitting", "rounded", "smallest")}
    numbers |= {"sets": len(n), "items": int(n.sum()), "left_out": left_out}
    if outputs.fitting != 1:
        return unknown(rule, f"{outputs.fitting} numbers give every printed value", **numbers)
    return Verdict("holds" if outputs.smallest == n.sum() else "differs", rule, numbers=numbers)


def printed_averages(averages: pd.DataFrame) -> Verdict:
    """Whether printed averages are those of their rows; from `audit.averages`."""
    wrong = averages[~averages.agrees]
    names = [f"Table {v.table}, {v.row}, {v.printed:g} for {v.mean:.3f}" for v in wrong.itertuples()]
    rule = "Differs where any is not the plain mean of its row, rounded, whatever the cells were before their rounding."
    return _agrees(rule, len(averages), names, cases=averages, equal=int(averages.equal.sum()))


def ranks_by_average(evidence: Evidence, least: float = 1) -> Verdict:
    """Whether the average tells the better model of a pair; from `audit.average_differences` and `audit.pooled`."""
    averages, pooled = evidence.averages, evidence.pooled
    keys = ["table", "family", "first", "second"]
    rows = averages.merge(pooled[[*keys, "points"]], on=keys, suffixes=("", "_weighted"))
    cases, nested = (
        _corrected(_better_first(rows, f"{how}_low", f"{how}_high"), evidence.level, evidence.alpha)
        for how in ("items", "nested")
    )
    rule = (
        f"By pair of models: the better average is ahead by at least {least} point, with an {UNPAIRED} of the same "
        f"benchmarks. {HOLM}"
    )
    turned = rows[rows.points * rows.points_weighted < 0]
    up = turned.points > 0
    names = list(turned["first"].where(up, turned.second) + " over " + turned.second.where(up, turned["first"]))
    verdict = judge(cases, rule, least=least, unit="points", digits=1, turned=names, turns=len(names), pairs=len(cases))
    return _depending(verdict, nested.clear & ~cases.clear)


def compared_cells(evidence: Evidence, least: float = 1) -> Verdict:
    """Whether bold and shaded cells differ from what they are compared with; from `audit.comparisons`."""
    rows = audit.corrected(evidence.comparisons, evidence.alpha)
    cases = rows[rows["items"] != 0].assign(effect=rows.points.abs())
    over = "within each table, over the pairs with the pretrained model or without $T$, and over the others"
    verdict = _survivors(cases, "cell", least, evidence.alpha, over, total=len(rows), equal=len(rows) - len(cases))
    clear = int(verdict.cases.outcome.isin(["for", "against"]).sum())
    return replace(verdict, numbers=verdict.numbers | {"clear": clear, "cells": len(cases)})


def _better_first(rows: pd.DataFrame, low: str, high: str) -> pd.DataFrame:
    """Each difference as the better one's lead, with its interval."""
    sign = np.where(rows.points < 0, -1, 1)
    ends = np.sort(sign[:, None] * rows[[low, high]].to_numpy(), axis=1)
    return rows.assign(effect=sign * rows.points, low=ends[:, 0], high=ends[:, 1])


def medical_accuracy(evidence: Evidence, least: float = 1) -> Verdict:
    """Whether fine-tuned models are better at medicine, by Table 7."""
    mine = [t[(t.table == "7") & t.claimed] for t in (evidence.comparisons, evidence.pooled, evidence.averages)]
    cells, pooled, averages = *(audit.corrected(rows, evidence.alpha) for rows in mine[:2]), mine[2]
    numbers = {"points": pooled.points, "averages": averages.points, "models": len(pooled), "n": int(pooled.n.iloc[0])}
    numbers |= {f"above_{how}": int((averages[f"{how}_low"] > 0).sum()) for how in ("items", "nested")}
    clear = pooled[(pooled.outcome == audit.OUTCOMES[0]) & (pooled.points > 0)]
    numbers["names"] = list(clear.family + " " + clear["first"])
    cases = pooled.assign(effect=pooled.points)
    return _survivors(cases, "model, over all items", least, evidence.alpha, **_ways(cells), **numbers)


def instructions_without_T(evidence: Evidence, families: tuple[str, ...] = FALLING, least: float = 2) -> Verdict:
    """Whether models follow instructions worse without T, by Table 3."""
    rows = evidence.comparisons.query("table == '3'")
    return _instructions(rows[rows.family.isin(families)], evidence.alpha, least)


def instructions_of_fine_tuned(evidence: Evidence, least: float = 2) -> Verdict:
    """Whether fine-tuned models follow instructions better, by Table 9."""
    return _instructions(evidence.comparisons.query("table == '9' and claimed"), evidence.alpha, least)


def _instructions(rows: pd.DataFrame, alpha: float, least: float) -> Verdict:
    cells = audit.corrected(rows, alpha)
    verdict = _survivors(cells.assign(effect=cells.points), "cell", least, alpha, **_ways(cells))
    against = verdict.cases[verdict.cases.outcome == "against"]
    names = [f"{v.first} {v.column} by {-v.points:.2f} points" for v in against.itertuples()]
    return replace(verdict, numbers=verdict.numbers | {"against": names})


def _survivors(
    cases: pd.DataFrame, of: str, least: float, alpha: float, over: str = "over the claim's own pairs", **numbers: Any
) -> Verdict:
    """Judge comparisons that are clear where they survive the widest pairing of items."""
    survive, depends, _ = ((cases.outcome == name) for name in audit.OUTCOMES)
    n, gap = cases.n, cases["items"].abs()
    high = np.maximum(cases.right, cases.right - cases["items"])
    apart = gap + 2 * np.minimum(high - gap, n - high)  # items that one model alone has right, at most
    half = 100 * norm.ppf(1 - alpha / 2 / cases.tests) * (apart - gap**2 / n) ** 0.5 / n
    ends = {"low": (cases.effect - half).clip(-100), "high": (cases.effect + half).clip(upper=100)}
    cases = cases.assign(clear=survive, **ends).drop(columns=["n", "right", "items", "claimed", "unpaired", "tests"])
    rule = (
        f"The difference in points, by {of}: clear where McNemar's exact $p$ is significant whatever the pairing of "
        f"items (Holm {over}), and at least {least} {'point' if least == 1 else 'points'}. Intervals are of the widest "
        "pairing, at Bonferroni's level."
    )
    return _depending(judge(cases, rule, least=least, unit="points", digits=1, **numbers), depends)


def _depending(verdict: Verdict, depends: pd.Series) -> Verdict:
    """With the number of cases that are clear in one pairing of items and not in another."""
    left = int((depends.to_numpy() & (verdict.cases.outcome == "open")).sum())
    may = f"of the open, {left} {'depends' if left == 1 else 'depend'} on the pairing" if left else ""
    return replace(verdict, why="; ".join(filter(None, [verdict.why, may])))


def _ways(cells: pd.DataFrame) -> dict[str, int]:
    """How many cells go which way, and how many of those survive."""
    return audit.survivors(cells).sum(numeric_only=True).astype(int).to_dict()


def rouge_gains(evidence: Evidence, least: float = 1) -> Verdict:
    """Whether fine-tuned models write better, by Table 8."""
    rows = evidence.averages.query("table == '8' and claimed")
    cases = rows.assign(effect=rows.points, low=rows.both_low, high=rows.both_high)
    cases = _corrected(cases, evidence.level, evidence.alpha, float(rows.df.iloc[0])).drop(columns="claimed")
    rule = (
        f"The mean of a model's ROUGE-1 over the sets less the pretrained model's, in points: at least {least}, with "
        f"Student's interval over the sets, which holds the noise of their items and more. {HOLM}"
    )
    return judge(cases, rule, least=least, unit="points", digits=1, points=cases.effect)


def text_percentages(percentages: pd.DataFrame) -> Verdict:
    """Whether the text's percentages are those of the tables; from `audit.percentages`."""
    wrong = percentages[percentages.agrees == ""]
    names = [
        f"{v.text:.0f}% ({v.number}, {v.of}), where Table {v.table} gives {v.relative:.0f}% or {v.points:.0f} points"
        for v in wrong.itertuples()
    ]
    rule = "Differs where any is given by none of the three readings in the section's table, within the cells' digits."
    return _agrees(rule, len(percentages), names, cases=percentages)


def ablation_percentages() -> Verdict:
    """The falls by ablation are not printed by benchmark; for scale, what guessing would be."""
    cells = paper.by_member(paper.accuracy()).query("family != 'Phi-3.5' and column not in ['Average', 'BioRED']")
    guess = 100 - 100 * 100 * audit.CHANCE / cells.groupby("row").value.mean()
    return unknown("", "the heat map's cells are not in the text", guess=guess)


def addition_gains(vectors: pd.DataFrame) -> Verdict:
    """The gains by addition are not printed; for scale, the lengths of both vectors."""
    table = vectors.set_index("vector")
    ratio, summed = ((table[r]["Q Math"] / table.r["Aloe β"]) for r in ("r", "r_summed"))
    return unknown("", "the figures' values are not in the text", ratio=ratio, summed=summed)


def figure_alone() -> Verdict:
    """What stands in a figure alone."""
    return unknown("", "the figure's values are not in the text")


def worked_example(text: pd.DataFrame) -> Verdict:
    """Whether the prompt's example is a test item; from `printed.text`."""
    row = text.query("row == 'prompt: worked examples'").iloc[0]
    rule = "Differs where the example's text is that of an item of the validation split, taken as the test's items."
    numbers = {"hits": int(row.value), "n": int(row.n), "points": 100 * row.value / row.n}
    return Verdict("differs" if row.value else "holds", rule, numbers=numbers)


def outputs_to_the_same_input(pairs: pd.DataFrame) -> Verdict:
    """Whether pairs of outputs share their subject; from `audit.output_pairs`."""
    names = [f"{v.member} {v.example}" for v in pairs[~pairs.same].itertuples()]
    rule = "Two texts about one thing are taken as of one input; two things tell nothing: a model may stray."
    verdict = _agrees(rule, len(pairs), names, cases=pairs, copied=int((pairs.copied & ~pairs.same).sum()))
    return replace(verdict, kind="cannot be known here", why="inputs are not printed") if names else verdict


def always_valid() -> Verdict:
    """Whether the printed example of a model whose outputs are all valid is valid (Tables 3, 11)."""
    cells = paper.by_member(paper.negation_instructions()).set_index(["member", "column"])
    valid = cells.value["Aloe-Beta", "Valid"]
    shown = bool(paper.outputs_of_aloe_beta().set_index("column").value["with T: valid answer"])
    rule = "Differs where all are printed as valid and the printed example is not, if the checker wants the brackets."
    form = "has" if shown else "lacks"
    return Verdict("differs" if valid == 100 and not shown else "holds", rule, numbers={"valid": valid, "form": form})


def _agrees(rule: str, total: int, wrong: list[str], **about: Any) -> Verdict:
    """A statement on all of `total`, of which the named ones contradict it."""
    cases = about.pop("cases")
    numbers = {"total": total, "agree": total - len(wrong), "count": len(wrong), "wrong": wrong, **about}
    return Verdict("differs" if wrong else "holds", rule, f"{total - len(wrong)} of {total}", cases, numbers)
