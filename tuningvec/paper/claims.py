"""Judges of the paper's claims by its own printed numbers: tables of the audit in, a verdict out."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from tuningvec import stats
from tuningvec.paper import audit
from tuningvec.paper import printed as paper
from tuningvec.verdict import Verdict, judge, unknown
from tuningvec.weights.components import SYMBOLS

K_UNKNOWN = r"$k$ is not printed, so a random $T$ may have as much"
UNPAIRED = "an interval over items drawn for each model"
HOLM = "Clear where the $p$ that belongs to the interval is significant, Holm over the cases."
in_points = partial(judge, unit="points", digits=1)


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
    more, numbers = fits["norms"] - fits["squared"], fits | {"cells": len(cells)}
    if not more:
        return unknown(rule, "both readings fit as many cells", **numbers)
    return Verdict("holds" if more > 0 else "differs", rule, cases=cells, numbers=numbers)


def misprints(cells: pd.DataFrame) -> Verdict:
    """Whether Table 6 agrees with Tables 4 and 5; from `audit.energies`."""
    rule = (
        r"Table 4 as a share of squared norms and Table 5 give $E_\perp$. Differs where any cell is more than "
        f"{audit.MISPRINT} times larger or smaller."
    )
    cells = cells.assign(kind=cells.kind.map(SYMBOLS))
    return _agrees(rule, cells, ~cells.misprint, "{vector} {kind} {E_perp:,.0f} for {implied:,.0f}")


def least_aligned(cells: pd.DataFrame, explained: pd.DataFrame, sds: float = 3) -> Verdict:
    """Whether gate and up have less of T in old directions than chance; from `audit.shape_bound`."""
    tall = cells[cells.bound < 1]
    ends = {"low": (tall.z - sds) * tall.sd, "high": tall.SSA + tall.step / 2}
    cases = tall[["vector", "z"]].assign(kind=tall.kind.map(SYMBOLS), effect=tall.SSA - tall.bound, **ends)
    rule = (
        "New directions are SSA below its null, by vector and matrix. The null is at most the bound and at least 0, so "
        "SSA less the bound is the least excess: against the claim, of whatever size, where it is above 0 by more than "
        f"the rounding and {sds} standard deviations of a mean over layers (rotations of different layers taken as "
        "independent). Never for the claim, as nothing printed says how far the null is below its bound."
    )
    total, vectors = explained.set_index("vector").loc["all"], explained.query("vector != 'all'")
    above = _named(cases[cases.low > 0], "{vector} {kind} {z:.0f}")
    numbers = dict(by_vector=vectors.unfitted, above=above, clear=len(above), cells=len(cases))
    numbers |= total[["unfitted", "factor", "tall"]]
    return _no_null(judge(cases, rule, least=0, direction=-1, **numbers))


def attention_better_aligned(parts: pd.DataFrame, least: float = 0.05) -> Verdict:
    """Whether attention's SSA exceeds the MLP's by more than shape gives; from `audit.by_part`."""
    gap = parts.attention - parts.MLP
    cases = parts.assign(effect=gap, low=gap - parts["shape"], high=gap)
    rule = (
        "Mean SSA of attention less that of the MLP, by vector, against the null's. With $k$ the same share of the "
        "full rank in all matrices, the null's difference lies between 0 and that of the bounds. For the claim where "
        f"the difference is above both and at least {least}; against it where it is below both."
    )
    numbers = dict(gap=gap, above=int((parts.W_down > parts.attention).sum()), vectors=len(parts))
    return _no_null(judge(cases, rule, least=least, **numbers, **parts.drop(columns="vector")))


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
    cases = cosines.assign(effect=cosines.r, low=cosines.r_low, high=cosines.r_high)
    return judge(cases, _length_rule(least), least=least, direction=0, r=cosines.r)


def marginal_changes_elsewhere(vectors: pd.DataFrame, cosines: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether the vectors that §2 does not have are as short; from `audit.lengths`."""
    cases = vectors[~vectors.vector.isin(cosines.member)]
    cases = cases.assign(effect=cases.r, low=cases.r_low * cases.r_summed / cases.r, high=cases.r_high)
    rule = _length_rule(least) + " The range includes energies that are sums over layers."
    return judge(cases, rule, least=least, direction=0, summed=cases.r_summed)


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
    rule = f"Energy over the medical vector's, by vector: much more is {least} times or more, whatever the rounding."
    return judge(cases, rule, least=float(np.log10(least)), ratio=ratio, root=ratio**0.5)


def fall_is_of_T(parts: pd.DataFrame, level: float, alpha: float, least: float = 1) -> Verdict:
    """Whether the fall without T lies between θ_ft and θ_pre; from `audit.parts_of_the_fall`."""
    rule = (
        r"$\theta_\text{ft} - T$ is $\theta_\text{pre}$, so what lies between the pretrained model's row "
        "(Table 7) and the one without $T$ (Table 1) is prompting or scoring. By family: $T$'s part of the fall less "
        f"the prompt's, over all items, with {UNPAIRED}; at least {least} point. {HOLM}"
    )
    return in_points(_corrected(parts, level, alpha), rule, least=least, n=int(parts.n.iloc[0]))


def _corrected(cases: pd.DataFrame, level: float, alpha: float, df: float = np.inf) -> pd.DataFrame:
    """The cases with `clear`: Holm's p ≤ α, each p by Student's t from the effect and its interval."""
    half = (cases.high - cases.low) / 2
    p = pd.Series(2 * t.sf(cases.effect.abs() / half * t.ppf((1 + level) / 2, df), df))
    return cases.assign(clear=stats.holm(p.fillna(1)) <= alpha)


def evaluations_agree(rows: pd.DataFrame, level: float, least: float = 5) -> Verdict:
    """Whether two evaluations of the same weights give the same; from `audit.same_weights`."""
    what = rows.column.where(rows.table == "3", "accuracy")
    sums = rows.assign(what=what).dropna(subset="items").groupby(["family", "what"], sort=False)
    cases = sums[["n", "right", "right_pre"]].sum().reset_index()
    cases[["effect", "low", "high"]] = _points(cases.right, cases.right_pre, cases.n, level)
    rule = (
        "Accuracy over all items, and each instruction, by family: the same where the difference, with "
        f"{UNPAIRED}, lies within {least} points, against it where it lies beyond."
    )
    worst = cases.loc[cases.effect.abs().idxmax()]
    numbers = dict(where=f"{worst.family} {worst.what}", apart=abs(worst.right - worst.right_pre), n=int(worst.n))
    return in_points(cases, rule, least=least, direction=0, **numbers)


def unharmed_without_T(comparisons: pd.DataFrame, family: str = "Phi-3.5", least: float = 2) -> Verdict:
    """Whether a family follows instructions no worse without T; from `audit.comparisons`."""
    rows = comparisons[(comparisons.table == "3") & (comparisons.family == family)]
    cases = rows.assign(effect=-rows.points, low=-rows.high, high=-rows.low)
    rule = (
        f"By instruction: no worse where the change without $T$, with {UNPAIRED}, is above −{least} points; against it "
        f"where it is below −{least}."
    )
    shifted = cases.assign(**{end: cases[end] + least for end in ("effect", "low", "high")})
    verdict = in_points(shifted, rule, least=0)
    return replace(verdict, cases=cases.assign(outcome=verdict.cases.outcome))


def lost_ability(chance: pd.DataFrame, level: float, alpha: float, least: float = 2) -> Verdict:
    """Whether the low scores of Tables 1 and 13 are lost ability; from `audit.below_chance`."""
    rows = chance.set_index("member")
    pairs = {low: better for table, better, low in audit.CLAIMED.values() if table in (1, 13)}
    cases, better = rows.loc[list(pairs)].reset_index(), rows.loc[list(pairs.values())].reset_index()
    cases[["effect", "low", "high"]] = _points(better.right, cases.right, cases.n, level)
    cases = cases.assign(lower=cases.effect, effect=cases.effect.mask(cases.below))
    rule = (
        "On the benchmarks with four options, by row: lower than the model compared with by at least "
        f"{least} points, with {UNPAIRED}. {HOLM} Unknown where the row is below guessing: an output without a valid "
        "answer counts as wrong, so it measures the form of the answers first."
    )
    below = _named(cases[cases.below], "{member} {right} of {n:,} ({share:.1%})")
    return in_points(_corrected(cases, level, alpha), rule, least=least, below=below)


def _points(first: pd.Series, second: pd.Series, n: pd.Series, level: float) -> list[tuple[float, ...]]:
    """Differences in points of counts of n items with their intervals, as if each had items of its own."""
    counts = zip(first, n, second, n, strict=True)
    return [stats.difference(*map(int, each), level)[:3] for each in counts]


def counts_of_items(sizes: pd.DataFrame) -> Verdict:
    """Whether accuracies are counts of the benchmarks' items; from `audit.sizes`."""
    table = sizes[sizes.digits == "rounded"]
    rule = "Differs where any value of a benchmark is no count of its split's items, or of 500, with two decimals."
    least = int(table.n.min())
    return _agrees(rule, table, table.fits, "{benchmark}", least=least, point=100 / least)


def ten_data_sets(sizes: pd.DataFrame) -> Verdict:
    """Whether Tables 3 and 9 count the outputs of all ten data sets; from `audit.sizes`."""
    outputs = sizes.set_index("benchmark").loc[audit.CUT_OFF_TABLES]
    n = paper.accuracy().drop_duplicates("column").set_index("column").n.dropna()
    left_out = [name for name in n.index if n.sum() - n[name] == outputs.smallest]
    rule = (
        f"The number of outputs that gives every printed value, of all up to {audit.LARGEST_N:,}, is that of the items."
    )
    numbers = dict(outputs[["fitting", "smallest"]], sets=len(n), items=int(n.sum()), left_out=left_out)
    if outputs.fitting != 1:
        return unknown(rule, f"{outputs.fitting} numbers give every printed value", **numbers)
    return Verdict("holds" if outputs.smallest == n.sum() else "differs", rule, numbers=numbers)


def printed_averages(averages: pd.DataFrame) -> Verdict:
    """Whether printed averages are those of their rows; from `audit.averages`."""
    rule = "Differs where any is not the plain mean of its row, rounded."
    return _agrees(rule, averages, averages.agrees, "Table {table}, {row}, {printed:g} for {mean:.3f}")


def ranks_by_average(evidence: Evidence, least: float = 1) -> Verdict:
    """Whether the average tells the better model of a pair; from `audit.average_differences` and `audit.pooled`."""
    keys = ["table", "family", "first", "second"]
    rows = evidence.averages.merge(evidence.pooled[[*keys, "points"]], on=keys, suffixes=("", "_weighted"))
    cases = _corrected(_better_first(rows, "items_low", "items_high"), evidence.level, evidence.alpha)
    rule = (
        f"By pair of models: the better average is ahead by at least {least} point, with {UNPAIRED} of the same "
        f"benchmarks. {HOLM}"
    )
    turned = rows[rows.points * rows.points_weighted < 0]
    up = turned.points > 0
    names = list(turned["first"].where(up, turned.second) + " over " + turned.second.where(up, turned["first"]))
    return in_points(cases, rule, least=least, turned=names, pairs=len(cases))


def compared_cells(evidence: Evidence, least: float = 1) -> Verdict:
    """Whether bold and shaded cells differ from what they are compared with; from `audit.comparisons`."""
    return _survivors(_better_first(evidence.comparisons, "low", "high"), evidence.alpha, "cell", least)


def _better_first(rows: pd.DataFrame, low: str, high: str) -> pd.DataFrame:
    """Each difference as the better one's lead, with its interval."""
    sign = np.where(rows.points < 0, -1, 1)
    ends = np.sort(sign[:, None] * rows[[low, high]].to_numpy(), axis=1)
    return rows.assign(effect=sign * rows.points, low=ends[:, 0], high=ends[:, 1])


def medical_accuracy(evidence: Evidence, least: float = 1) -> Verdict:
    """Whether fine-tuned models are better at medicine, by Table 7."""
    tables = evidence.comparisons, evidence.pooled, evidence.averages
    cells, pooled, averages = (rows.query("table == '7' and claimed") for rows in tables)
    numbers = {"points": pooled.points, "averages": averages.points, "models": len(pooled), "n": int(pooled.n.iloc[0])}
    numbers |= {f"above_{how}": int((averages[f"{how}_low"] > 0).sum()) for how in ("items", "nested")}
    numbers |= _ways(cells, evidence.alpha)
    verdict = _survivors(pooled, evidence.alpha, "model, over all items", least, **numbers)
    clear = verdict.cases.query("clear and points > 0")
    return replace(verdict, numbers=numbers | {"names": list(clear.family + " " + clear["first"])})


def instructions_without_T(
    evidence: Evidence, families: tuple[str, ...] = ("Meta-Llama-3-8B", "Qwen2.5-7B"), least: float = 2
) -> Verdict:
    """Whether models follow instructions worse without T, by Table 3."""
    rows = evidence.comparisons.query("table == '3'")
    return _instructions(rows[rows.family.isin(families)], evidence.alpha, least)


def instructions_of_fine_tuned(evidence: Evidence, least: float = 2) -> Verdict:
    """Whether fine-tuned models follow instructions better, by Table 9."""
    return _instructions(evidence.comparisons.query("table == '9' and claimed"), evidence.alpha, least)


def _instructions(rows: pd.DataFrame, alpha: float, least: float) -> Verdict:
    verdict = _survivors(rows, alpha, "cell", least, **_ways(rows, alpha))
    against = verdict.cases[verdict.cases.outcome == "against"]
    names = _named(against.assign(by=-against.points), "{first} {column} by {by:.2f} points")
    return replace(verdict, numbers=verdict.numbers | {"against": names})


def _survivors(rows: pd.DataFrame, alpha: float, of: str, least: float, **numbers: Any) -> Verdict:
    """Judge comparisons, by `effect` or in points, that are clear where they survive the widest pairing of items."""
    cases = audit.corrected(rows, alpha).assign(effect=rows.get("effect", rows.points))
    survive, depends, _ = ((cases.outcome == name) for name in audit.OUTCOMES)
    cases = cases.drop(columns=["n", "right", "items", "claimed", "unpaired"])
    rule = (
        f"The difference in points, by {of}: clear where McNemar's exact $p$ is significant whatever the pairing of "
        f"items (Holm over the claim's own pairs), and at least {least} {'point' if least == 1 else 'points'}."
    )
    verdict = in_points(cases.assign(clear=survive), rule, least=least, **numbers)
    may = f"for {depends.sum()} it depends on the pairing" if depends.any() else ""
    return replace(verdict, why=", ".join(filter(None, [verdict.why, may])))


def _ways(cells: pd.DataFrame, alpha: float) -> dict[str, int]:
    """How many cells go which way, and how many of those survive."""
    return audit.survivors(audit.corrected(cells, alpha)).sum(numeric_only=True).astype(int).to_dict()


def rouge_gains(evidence: Evidence, least: float = 1) -> Verdict:
    """Whether fine-tuned models write better, by Table 8."""
    rows = evidence.averages.query("table == '8' and claimed")
    cases = rows.assign(effect=rows.points, low=rows.both_low, high=rows.both_high)
    cases = _corrected(cases, evidence.level, evidence.alpha, float(rows.df.iloc[0])).drop(columns="claimed")
    rule = (
        f"The mean of a model's ROUGE-1 over the sets less the pretrained model's, in points: at least {least}, with "
        f"Student's interval over the sets, which holds the noise of their items and more. {HOLM}"
    )
    return in_points(cases, rule, least=least)


def text_percentages(percentages: pd.DataFrame) -> Verdict:
    """Whether the text's percentages are those of the tables; from `audit.percentages`."""
    name, found = "{text:.0f}% ({number}, {of})", percentages.agrees
    wrong = name + ", where Table {table} gives {relative:.0f}% or {points:.0f} points"
    rule = "Differs where any is given by none of the four readings in the section's table."
    return _agrees(rule, percentages, found != "", wrong, only=_named(percentages[found == "as_printed"], name))


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
    rule = "Differs where the example's text is that of an item of the split."
    numbers = dict(hits=int(row.value), n=int(row.n), points=100 * row.value / row.n)
    return Verdict("differs" if row.value else "holds", rule, numbers=numbers)


def outputs_to_the_same_input(pairs: pd.DataFrame) -> Verdict:
    """Whether pairs of outputs share their subject; from `audit.output_pairs`."""
    rule = (
        "Outputs to one input are about one thing. Differs where any pair is about two, by the reading in the section."
    )
    return _agrees(rule, pairs, pairs.same, "{member} {example}")


def always_valid() -> Verdict:
    """Whether the printed example of a model whose outputs are all valid is valid (Tables 3, 11)."""
    cells = paper.by_member(paper.negation_instructions()).set_index(["member", "column"])
    valid = cells.value["Aloe-Beta", "Valid"]
    shown = bool(paper.outputs_of_aloe_beta().set_index("column").value["with T: valid answer"])
    rule = "Differs where all are printed as valid and the printed example lacks the form that the prompt asks for."
    numbers = dict(valid=valid, form="has" if shown else "lacks")
    return Verdict("differs" if valid == 100 and not shown else "holds", rule, numbers=numbers)


def _agrees(rule: str, cases: pd.DataFrame, agrees: pd.Series, name: str, **about: Any) -> Verdict:
    """A statement on all cases, contradicted by those that do not agree, which are named by the template."""
    wrong, total = _named(cases[~agrees], name), len(cases)
    agree = total - len(wrong)
    numbers = dict(total=total, agree=agree, count=len(wrong), wrong=wrong, **about)
    return Verdict("differs" if wrong else "holds", rule, f"{agree} of {total}", cases, numbers)


def _named(rows: pd.DataFrame, template: str) -> list[str]:
    return [template.format(**row) for row in rows.to_dict("records")]
