"""A claim of the paper, what was measured here, and the verdict, computed from the page's own tables."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from IPython.display import Markdown, display

from tuningvec.components import SYMBOLS
from tuningvec.family import Family
from tuningvec.scores import task_name

KEY = "tuningvec.finding"  # the key under which an output carries a finding, for the front page
VERDICTS = "tuningvec.verdicts"  # and that under which the audit's summary carries how many verdicts of each kind
CSS = {
    "holds": "holds",
    "differs": "differs",
    "null explains it": "null",
    "within chance": "null",
    "cannot be known": "unknown",
}
Verdict = Literal["holds", "differs", "null explains it", "within chance", "cannot be known"]
GATE_UP = ["W_gate", "W_up"]
NATS, PERCENT = "nats per token", "ΔP (%)"  # units of what an ablation costs


def show(claim: str, paper: str, here: str, verdict: Verdict) -> None:
    """Display a finding; the front page collects those of all pages."""
    record = dict(claim=claim, paper=paper, here=here, verdict=badge(verdict))
    text = f":::{{admonition}} {claim}\n**Paper.** {paper}\n\n**Here.** {here}\n\n**Verdict.** {badge(verdict)}\n:::"
    display(Markdown(text), metadata={KEY: json.dumps(record)})


def badge(verdict: Verdict) -> str:
    """The verdict as a coloured word."""
    return f"[{verdict}]{{.{CSS[verdict]}}}"


def similarity(table: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Holds when no member's cosine is below the smallest that the paper prints."""
    whole = table[table.kind == "all"]
    least = paper.value.min() / 100
    each = "; ".join(f"{row.vector} {row.cosine:.5f} ($r$ = {row.r:.4f})" for row in whole.itertuples())
    orthogonal = (1 - whole.cosine).div(1 - whole.orthogonal)
    show(
        "Fine-tuning leaves the weights nearly parallel to the pretrained ones",
        f"cosines from {least:.4f} to {paper.value.max() / 100:.4f}",
        f"{each}. The gap to 1 is {span(orthogonal, 2)} times what an orthogonal move of that length gives, "
        "so the cosine restates $r$",
        "holds" if whole.cosine.min() >= least else "differs",
    )


def cosines(family: Family, table: pd.DataFrame) -> None:
    """Holds when no cosine of two specialists (any two members if there is one) is over 2 sd from the null's 0."""
    specialists = {m.name for m in family.fine_tuned if m.role == "domain"}
    pairs = table[table.kind == "all"]
    if len(specialists) > 1:
        pairs = pairs[pairs.a.isin(specialists) & pairs.b.isin(specialists)]
    each = "; ".join(f"{row.a} · {row.b} {row.cosine:.3f} ($z$ = {row.z:.0f})" for row in pairs.itertuples())
    show(
        "Tuning vectors of different domains are orthogonal",
        "medical against maths and code read as orthogonal in Fig. 3; code and maths somewhat alike",
        f"{each}; $z$ counts standard deviations of a random left rotation",
        "holds" if pairs.z.abs().max() < 2 else "differs",
    )


def random_on_null(means: pd.DataFrame) -> None:
    """The control: holds when a random T is within three standard deviations of k/d_out in every component."""
    rows = means[means.vector == "random"]
    gap, z = (rows.SSA - rows.null).abs().max(), rows.z.abs().max()
    show(
        "Control: a random $T$ lies on the null line",
        "not reported",
        f"largest distance {gap:.5f}, largest $\\lvert z\\rvert$ {z:.1f}, over {len(rows)} components; its SSA runs "
        f"from {rows.SSA.min():.2f} to {rows.SSA.max():.2f}",
        "holds" if z < 3 else "differs",
    )


def alignment(means: pd.DataFrame, paper: pd.DataFrame, low: Sequence[str], high: Sequence[str]) -> None:
    """Whether `low` kinds of matrix hold more new directions than `high` ones, as their lower SSA is read to say.

    Explained by the null when SSA is lower in `low` and the excess over k/d_out is not; differs when SSA is not lower.
    """
    tuned = means[means.vector != "random"]
    raw, excess = (tuned.pivot(index="vector", columns="kind", values=v) for v in ("SSA", "excess"))
    null = tuned.groupby("kind").null.first()
    below, above = excess[list(low)].mean(axis=1), excess[list(high)].mean(axis=1)
    verdict: Verdict = "differs"
    if (raw[list(low)].max(axis=1) < raw[list(high)].min(axis=1)).all():
        verdict = "holds" if (below < above).all() else "null explains it"
    names = [", ".join(SYMBOLS[kind] for kind in kinds) for kinds in (low, high)]
    show(
        f"{names[0]} get more new directions than {names[1]}: their SSA is lower",
        f"SSA {span(paper[list(low)].stack(), 2)} against {span(paper[list(high)].stack(), 2)}",
        f"SSA {span(raw[list(low)].stack(), 2)} against {span(raw[list(high)].stack(), 2)}; a random $T$ has "
        f"{span(null[list(low)], 2)} against {span(null[list(high)], 2)}. Mean excess over the null: "
        f"{span(below, 2)} against {span(above, 2)}",
        verdict,
    )


def energy(layers: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Explained by the null when the share of E⊥ in gate and up is no larger than that of randomly turned matrices."""
    table = layers.assign(total=layers.E_par + layers.E_perp)
    table["turned"] = table.total * (1 - table.null)
    table["variance"] = (table.total * table.null_sd) ** 2
    mlp = table[table.kind.isin(GATE_UP)].groupby("vector")[["E_perp", "turned", "variance"]].sum()
    every = table.groupby("vector")[["E_perp", "turned"]].sum()
    share, turned = mlp.E_perp / every.E_perp, mlp.turned / every.turned
    sd = mlp.variance**0.5 / every.turned
    verdict: Verdict = "differs"
    if (share > 0.5).all():
        verdict = "holds" if (share > turned + 2 * sd).all() else "null explains it"
    own = paper.loc[["Aloe α", "Aloe β"]]
    show(
        "Most orthogonal energy is concentrated in $W_{gate}$ and $W_{up}$",
        f"{span(own[GATE_UP].sum(axis=1) / own.sum(axis=1), 2)} of it for the two medical models of Table 6",
        f"{span(share, 2)} of it; matrices of the same norms turned at random would have {span(turned, 2)}",
        verdict,
    )


def first_layer(trends: pd.DataFrame) -> None:
    """Holds when the share falls after the first layer, beyond its interval and by more than between later layers."""
    each = "; ".join(f"{r.member} {r.first:.3f} → {r.second:.3f}" for r in trends.itertuples())
    show(
        "The share of active neurons drops sharply after the first layer",
        "read off Fig. 1 for all families; no values printed",
        f"{each}. The step is {span((trends.step / trends.others).abs(), 1)} times the mean step between later "
        "neighbouring layers",
        _of_signs((trends.high < 0) & (-trends.step > trends.others), trends.low > 0),
    )


def depth(trends: pd.DataFrame, alpha: float = 0.05) -> None:
    """Holds when the share of active neurons rises with the layer in every member, from the second layer on."""
    clear = trends.p < alpha
    show(
        "After that it grows with depth",
        "read off Fig. 1; no values printed",
        f"Spearman's ρ of share and layer, from the second layer on, is {span(trends.rho, 2)} "
        f"(p at most {trends.p.max():.2g})",
        _of_signs(clear & (trends.rho > 0), clear & (trends.rho < 0)),
    )


def _of_signs(holds: pd.Series, differs: pd.Series) -> Verdict:
    """Of what is clear in each member: that the claim holds there, or that the opposite does."""
    if holds.empty:
        return "cannot be known"
    return "holds" if holds.all() else "differs" if differs.any() else "within chance"


def similar_shares(trends: pd.DataFrame) -> None:
    """Holds when every member's mean gap from the pretrained one is below the mean step between neighbouring layers."""
    others = trends.iloc[1:]
    show(
        "Models of one family have similar shares of active neurons in each layer",
        "read off Fig. 1; no values printed",
        f"mean gap from the pretrained member {span(others.gap, 4)}; the mean step between neighbouring layers is "
        f"{trends.others.iloc[0]:.4f}",
        "holds" if (others.gap < trends.others.iloc[0]).all() else "differs",
    )


def edit_distance(distances: pd.DataFrame) -> None:
    """Explained by the null when a layer's distance is not below what places at random give."""
    rows = distances[distances.member != distances.member.iloc[0]]
    means = rows.groupby(["member", "criterion"])[["edit", "edit_null", "edit_floor", "hamming"]].mean()
    below = rows.edit < rows.edit_null - 2 * rows.edit_null_sd
    show(
        "Fine-tuning changes the pattern of active neurons little",
        "the edit distance stays small in all layers of Fig. 2; no values printed",
        f"mean over layers {span(means.edit, 3)}, random places would give {span(means.edit_null, 3)}. It is below "
        f"random in {below.sum()} of {len(rows)} layers and patterns. Another half of the text moves the pretrained "
        f"member by {span(means.edit_floor, 3)}, so fine-tuning changes the pattern "
        f"{span(means.edit / means.edit_floor, 1)} times as much as other documents do",
        "holds" if below.all() else "null explains it",
    )


def top_neurons(effects: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Holds when each share of top neurons costs more likelihood than as many at random, in every member and task."""
    rows = effects[(effects.ablated != "nothing") & (effects.unit == NATS)]
    wide = rows.pivot(index=["member", "task", "share"], columns="ablated")
    worse, better = (
        wide.change_low.top > wide.change_high.random,
        wide.change_high.top < wide.change_low.random,
    )
    choices = effects[(effects.ablated == "top") & (effects.unit != NATS)]
    known = choices[choices.change.notna()]  # ΔP is unknown where nothing was right
    falls = "; ".join(f"{share:.0%}: {span(part.change, 0)} %" for share, part in known.groupby("share"))
    printed = "; ".join(f"{row.column.removeprefix('top ')}: {row.value:g} %" for row in paper.itertuples())
    show(
        "Ablating the most active neurons lowers performance",
        f"mean fall of the benchmarks by share of neurons ablated: {printed}",
        f"ΔP of benchmarks: {falls or 'no member had a right answer'}. In nats per token the top neurons cost clearly "
        f"more than as many at random in {worse.sum()} of {len(worse)} cases, clearly less in {better.sum()}",
        "holds" if worse.all() else "differs" if better.any() else "within chance",
    )


def medical_neurons(effects: pd.DataFrame, domain: str) -> None:
    """Explained by the null when neurons that are most active on `domain` text cost as much on other text."""
    top = effects[(effects.ablated == "top") & (effects.share < 1) & (effects.unit == NATS)]
    wide = top.pivot(index=["member", "share"], columns="task")
    other = next(task for task in top.task.unique() if task != domain)
    shares = " to ".join(f"{share:.0%}" for share in sorted(top.share.unique()))
    more = wide.change_low[domain] > wide.change_high[other]
    show(
        f"Neurons active on {domain} text matter for {domain} tasks",
        f"ablated and scored on {domain} benchmarks alone, without another domain as control",
        f"ablating the top {shares} costs {span(wide.change[domain], 2)} nats per token of {domain} text and "
        f"{span(wide.change[other], 2)} of {other} text; clearly more on {domain} text in "
        f"{more.sum()} of {len(more)} cases",
        "holds" if more.all() else "null explains it" if not more.any() else "within chance",
    )


def resilience(differences: pd.DataFrame) -> None:
    """Holds when every fine-tuned member loses less than the pretrained one by the smallest ablation."""
    each = "; ".join(f"{r.member} {r.difference:+.3f} ({r.low:+.3f}, {r.high:+.3f})" for r in differences.itertuples())
    show(
        "Fine-tuned models withstand the smallest ablation better than the pretrained one",
        "so for Llama 3 and Qwen2.5 by Fig. 5; no values printed",
        f"loss minus that of the pretrained member, in nats per token: {each}".replace("-", "−"),
        _of_signs(differences.high < 0, differences.low > 0),
    )


def domain_gain(gaps: pd.DataFrame, printed: pd.DataFrame) -> None:
    """Holds when every specialist is clearly better than the pretrained member on each benchmark of its domain."""
    _gain("Fine-tuning makes a model better at the benchmarks of its domain", gaps, printed, "average accuracy", 1)


def text_gain(gaps: pd.DataFrame, printed: pd.DataFrame) -> None:
    """Holds when every specialist's texts are clearly nearer to the references than the pretrained member's."""
    _gain("Fine-tuning makes the texts better that a model writes in its domain", gaps, printed, "average ROUGE-1", 100)


def _gain(claim: str, gaps: pd.DataFrame, printed: pd.DataFrame, what: str, scale: float) -> None:
    """`printed` holds what the paper has of each member, `scale` brings it to points."""
    each = "; ".join(f"{r.who} {task_name(r.task)} {_points(r)}" for r in gaps.itertuples())
    rises = _rises(printed[printed.column == "Average"], scale)
    show(
        claim,
        f"{what} minus that of the first model of the family in Table {printed.table.iloc[0]}, in points: {rises}",
        f"score minus that of the pretrained member, in points: {each}",
        _of_signs(gaps.clear & (gaps.points > 0), gaps.clear & (gaps.points < 0)),
    )


def _rises(printed: pd.DataFrame, scale: float = 1) -> str:
    """The mean of the last member of each family minus that of its first, in cells of one of the paper's tables."""
    means = printed.groupby(["family", "member"], sort=False).value.mean() * scale
    ends = {family: part.droplevel("family") for family, part in means.groupby("family", sort=False)}
    return "; ".join(f"{part.index[-1]} {_sign(part.iloc[-1] - part.iloc[0])}" for part in ends.values())


def keeps_instructions(gaps: pd.DataFrame, kept: Sequence[str], printed: pd.DataFrame) -> None:
    """Holds when every specialist keeps each of these instructions clearly more often than the pretrained member."""
    rows = gaps[gaps.what.isin(kept)]
    up, down = rows.clear & (rows.points > 0), rows.clear & (rows.points < 0)
    show(
        "Fine-tuned models follow the instructions of the prompt better than the pretrained one",
        f"Table {printed.table.iloc[0]}, mean of its instructions minus that of the first model of the family, in "
        f"points: {_rises(printed)}; of the thought alone: {_rises(printed[printed.column == 'Thought'])}",
        f"clearly more often in {up.sum()} of {len(rows)} cases (specialist, benchmark, instruction), clearly less "
        f"often in {down.sum()}; the mean difference is {_sign(rows.points.mean())} points",
        _of_signs(up, down),
    )


def negation_falls(gaps: pd.DataFrame, printed: pd.DataFrame) -> None:
    """Holds when every specialist without T, prompted as with it, is clearly worse on each benchmark of its domain."""
    rows = gaps[gaps.what == "score"]
    each = "; ".join(f"{r.member} {task_name(r.task)} {_points(r)}" for r in rows.itertuples())
    falls = _rises(printed[printed.column == "Average"])
    show(
        "Removing the tuning vector lowers the scores",
        f"average of Table {printed.table.iloc[0]} without T minus with T, in points: {falls}",
        f"λ = 1 minus λ = 0 under one prompt, in points: {each}",
        _of_signs(rows.clear & (rows.points < 0), rows.clear & (rows.points > 0)),
    )


def weights_or_prompt(gaps: pd.DataFrame) -> None:
    """Holds when weights make a clear difference under both prompts, by the lenient score too; gaps of the 2 × 2."""
    gaps = gaps[gaps.what.isin(["score", "lenient"])]
    weights, prompt = gaps[gaps.effect == "weights"], gaps[gaps.effect == "prompt"]
    up, down = weights.clear & (weights.points > 0), weights.clear & (weights.points < 0)

    def spans(rows: pd.DataFrame) -> str:
        parts = rows.groupby("what", sort=False).points
        return ", ".join(f"{span(points, 0)} ({what})" for what, points in parts)

    show(
        "What is lost without the tuning vector is lost with the weights and not by the prompt",
        "one prompt alone; the same pretrained weights score otherwise in Tables 1 and 7",
        f"θ_ft minus θ_pre under either prompt, in points: {spans(weights)}; clear in {up.sum()} of {len(weights)} "
        f"cases. Chat format minus plain text with either weights: {spans(prompt)}; clear in {prompt.clear.sum()} of "
        f"{len(prompt)}",
        _of_signs(up, down),
    )


def negation_is_the_pretrained_model(same: Mapping[str, bool]) -> None:
    """The control: holds when θ_ft − 1·T has the pretrained coefficients and no other, in every member."""
    show(
        "Control: at λ = 1 negation evaluates the pretrained weights",
        "reported as a model of its own, (−)T",
        f"the sum of weights comes down to the pretrained member's in {sum(same.values())} of {len(same)} members: "
        + ", ".join(same),
        "holds" if all(same.values()) else "differs",
    )


def instructions_fall(gaps: pd.DataFrame, kept: Sequence[str], printed: pd.DataFrame) -> None:
    """Holds when every specialist without T keeps each of these instructions clearly less often."""
    rows = gaps[gaps.what.isin(kept)]
    up, down = rows.clear & (rows.points > 0), rows.clear & (rows.points < 0)
    each = "; ".join(
        f"{what.replace('_', ', ')} {span(part.points, 0)}" for what, part in rows.groupby("what", sort=False)
    )
    show(
        "Removing the tuning vector lowers instruction following",
        f"Table {printed.table.iloc[0]}, mean of its instructions without T minus with T, in points: {_rises(printed)}",
        f"λ = 1 minus λ = 0 under one prompt, in points: {each}; clearly lower in {down.sum()} of {len(rows)} cases",
        _of_signs(down, up),
    )


def across_domains(gaps: pd.DataFrame, printed: pd.DataFrame) -> None:
    """Holds when on every benchmark each specialist of another domain is clearly below the domain's own."""
    each = "; ".join(f"{r.who} on {task_name(r.task)} {_points(r)}" for r in gaps.itertuples())
    show(
        "What a domain model gained does not carry over to other domains",
        "; ".join(f"{row.row.split(' · ')[-1]} {row.value:g} (Table {row.table})" for row in printed.itertuples()),
        f"score minus that of the domain's own specialist, in points: {each}",
        _of_signs(gaps.clear & (gaps.points < 0), gaps.clear & (gaps.points > 0)),
    )


def sum_of_vectors(ratios: pd.DataFrame, gaps: pd.DataFrame, printed: pd.Series) -> None:
    """Holds when θ_pre + Σ T_d is clearly better than each vector of another domain alone, on every benchmark."""
    best = ratios[ratios.vectors == "sum"]
    whole = best[best.scale == 1]
    each = "; ".join(f"{task_name(r.task)} {r.ratio:.2f} ({r.low:.2f}, {r.high:.2f})" for r in whole.itertuples())
    top = best.loc[best.groupby("task", sort=False).ratio.idxmax()]
    where = "; ".join(f"{task_name(r.task)} {r.ratio:.2f} at λ = {r.scale:g}" for r in top.itertuples())
    show(
        "The sum of tuning vectors serves both domains",
        "better than the maths model on medicine, and than the medical one on "
        f"{printed['value']:g} of {printed['n']} maths benchmarks (Fig. 4, no values)",
        f"normalised score at λ = 1: {each}; largest over λ: {where}. Clearly above a vector of another domain alone "
        f"in {(gaps.clear & (gaps.points > 0)).sum()} of {len(gaps)} cases",
        _of_signs(gaps.clear & (gaps.points > 0), gaps.clear & (gaps.points < 0)),
    )


def _sign(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _points(row: Any) -> str:
    return f"{_sign(row.points)} ({_sign(row.low)}, {_sign(row.high)})"


def regions(table: pd.DataFrame, pretrained: str) -> None:
    """Holds when every member's maps agree with the pretrained one's more than shuffled maps do."""
    rows = table[table.member != pretrained]
    above = rows.low > rows.null
    alike = rows.correlation >= rows.halves
    show(
        "Analogous regions do the same work in all members",
        "read off Fig. 7, one pair of prompts; no values printed",
        f"correlation with the pretrained member's map {span(rows.correlation, 2)}, shuffled maps stay below "
        f"{span(rows.null, 2)}: clearly above in {above.sum()} of {len(rows)} maps. As alike as two halves of the "
        f"pretrained member's own pairs in {alike.sum()}",
        "holds" if above.all() else "within chance" if above.any() else "null explains it",
    )


def truth(table: pd.DataFrame, named: str, paired: str) -> None:
    """Explained by the null when only pairs with an unknown name raise the metric; differs when none do."""
    names, wrong = (table[table.kind == kind] for kind in (named, paired))
    verdict: Verdict = "within chance"
    if (wrong.low > 0).all():
        verdict = "holds"
    elif not (wrong.low > 0).any():
        verdict = "null explains it" if (names.low > 0).any() else "differs"
    show(
        "The metric tells whether the model knows the statement to be true",
        "a true statement against one with a drug name that the model does not know; no other pair",
        f"clean minus corrupt, mean over pairs: {named} {span(names.difference, 2)}, clearly above 0 in "
        f"{(names.low > 0).sum()} of {len(names)} members; {paired} {span(wrong.difference, 2)}, clearly above 0 in "
        f"{(wrong.low > 0).sum()}",
        verdict,
    )


def no_change(maps: Mapping[str, float]) -> None:
    """The control: holds when patching between identical prompts gives exactly 0."""
    show(
        "Control: identical prompts give no effect",
        "not reported",
        "largest absolute effect: " + "; ".join(f"{member} {value:g}" for member, value in maps.items()),
        "holds" if not any(maps.values()) else "differs",
    )


def span(values: pd.Series, digits: int) -> str:
    """The smallest and the largest of the values, as `0.12 to 0.34`."""
    low, high = f"{values.min():.{digits}f}", f"{values.max():.{digits}f}"
    return (low if low == high else f"{low} to {high}").replace("-", "−")
