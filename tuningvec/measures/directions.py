"""How far and along which directions tuning vectors move the weights: what the paper says of it, judged.

Tables are those of `weights.delta` and `weights.subspace`. A tuning vector is known exactly, so nothing here is a
sample: a spread is that of the null, in which every matrix is rotated on its left by a random rotation of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from tuningvec.family.spec import Family, FineTuned
from tuningvec.verdict import NO_RUN, Verdict, judge, unknown
from tuningvec.weights.components import SYMBOLS
from tuningvec.weights.subspace import over_layers

GATE_UP = ("W_gate", "W_up")
OUTSIDE = ("embedding", "head")  # of the blocks
EDGE_CUT, MEMBERS = "edge", "members"  # another k, and no null of chance
CHANCE = ("rotation", "less W", "rows", "layers")  # nulls of a T that knows nothing of this W, as 04_1 tells
FEWEST_LAYERS = 8  # from which the orders of layers have a spread that tells something
MEDICINE, OTHERS = "medicine", ("math", "code")  # the domains that the paper compares, as families name them


def domains(family: Family) -> dict[str, str]:
    """The domain of each specialist."""
    return {m.name: m.domain for m in family.fine_tuned if m.role == "domain"}


def sds_of(cases: int, alpha: float = 0.05) -> float:
    """How many standard deviations of the null cover all of so many cases but for a chance of `alpha` (Bonferroni)."""
    return NormalDist().inv_cdf(1 - alpha / (2 * max(cases, 1)))


def spread(sds: float, alpha: float = 0.05) -> str:
    return f"± {sds:.1f} standard deviations of the null, {1 - alpha:.0%} for all together if it is normal. {NO_RUN}"


def nearly_parallel(similarity: pd.DataFrame, printed: pd.DataFrame) -> Verdict:
    """Whether every member's cosine with the pretrained weights is as high as the paper's smallest (A.8, Table 15)."""
    whole = similarity[similarity.kind == "all"]
    smallest = printed.loc[printed.value.idxmin()]
    least, half = smallest.value / 100, smallest.step / 200
    cases = whole.assign(effect=whole.cosine - least)
    cases = cases.assign(low=cases.effect - half, high=cases.effect + half)
    rule = (
        f"Effect: a member's cosine, whole model, minus the smallest that the paper prints, {least:g}. Interval: the "
        f"rounding of that value, ± {half:g}. Smallest effect that matters: any beyond it. Direction: up. " + NO_RUN
    )
    below = bool((cases.high < 0).any()) if cases.effect.notna().any() else None
    numbers = dict(smallest=least, largest=printed.value.max() / 100)
    return judge(cases, rule, least=0.0, unit="in cosine", digits=5, falsified=below, **numbers)


def more_than_length(similarity: pd.DataFrame, least: float = 1.1) -> Verdict:
    """Whether a cosine near 1 says more than how short the move is.

    gap = (1 − cos) / (1 − 1/√(1 + r²)), over what an orthogonal T of that length gives; the effect is |ln gap|.
    """
    whole = similarity[similarity.kind == "all"]
    gap = (1 - whole.cosine) / (1 - whole.orthogonal).where(whole.r > 0)
    effect = np.log(gap).abs()
    cases = whole.assign(gap=gap, effect=effect, low=effect, high=effect)
    rule = (
        "Effect: the cosine's gap to 1, as a multiple of that of a $T$ of the same length orthogonal to "
        f"$\\theta_\\text{{pre}}$, up or down. Interval: none, both are exact for these weights. Smallest ratio that "
        f"matters: {least:g}. Direction: away from 1. {NO_RUN}"
    )
    restated = bool((effect < math.log(least)).any()) if effect.notna().any() else None
    return judge(cases, rule, least=math.log(least), unit="in the logarithm", falsified=restated, ratio=least)


def pairs(cosines: pd.DataFrame, family: Family, alpha: float = 0.05) -> pd.DataFrame:
    """What two vectors share by their making, whole model, beside what two trainings on the same facts share.

    `common` is "facts" (a specialist and a control that keeps them, or two such), "form" (one of both is a control that
    keeps the form alone), "domain" (two specialists of one) or "neither". `twins` is the cosine of the pair with common
    facts, of the same domain as one of both, whose ceiling is nearest, since adapters with unlike A have less to share;
    share = cosine / twins, from `low` to `high` over the spread of the null in both cosines, NaN without such a pair or
    where its own cosine is not clearly above 0.
    """
    found = cosines[cosines.kind == "all"].reset_index(drop=True)
    member = {m.name: m for m in family.fine_tuned}
    found["common"] = [_common(member[a], member[b]) for a, b in zip(found.a, found.b, strict=True)]
    ends = [{member[a].domain, member[b].domain} for a, b in zip(found.a, found.b, strict=True)]
    facts = found[found.common == "facts"].assign(domain=lambda t: t.a.map(lambda name: member[name].domain))
    sds, rows = sds_of(len(found), alpha), []
    for row, domains_of in zip(found.itertuples(), ends, strict=True):
        like = facts[facts.domain.isin(domains_of)]
        twin = like.loc[(like.ceiling - row.ceiling).abs().idxmin()] if len(like) else None
        if twin is None or twin.cosine <= sds * twin.null_sd:
            rows.append(dict(twins=np.nan, share=np.nan, low=np.nan, high=np.nan))
            continue
        above, below = ([x.cosine - sds * x.null_sd, x.cosine + sds * x.null_sd] for x in (row, twin))
        corners = [x / y for x in above for y in below]
        rows.append(dict(twins=twin.cosine, share=row.cosine / twin.cosine, low=min(corners), high=max(corners)))
    shares = pd.DataFrame(rows, index=found.index, columns=["twins", "share", "low", "high"])
    return pd.concat([found, shares], axis=1)


def of_blocks(cosines: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Cosines of the blocks alone, without embedding and head, as rows of kind "all"; of pairs that changed those both.

    `cosines` and `null` are of `cosine_matrix` and `rotation_null`. A low-rank vector has no part in the embedding, so
    that both of such a pair are full, and reach is ‖T‖².
    """
    parts = cosines[cosines.kind != "all"].merge(null, on=["a", "b", "kind"])
    outside = parts.kind.isin(OUTSIDE)
    pairs = parts.loc[outside & (parts.reach_a * parts.reach_b > 0), ["a", "b"]].drop_duplicates()
    inside = pairs.merge(parts[~outside], on=["a", "b"])
    inside["inner"] = inside.cosine.fillna(0) * (inside.reach_a * inside.reach_b) ** 0.5
    sums = inside.groupby(["a", "b"], sort=False)[["inner", "null_variance", "reach_a", "reach_b"]].sum().reset_index()
    scale = (sums.reach_a * sums.reach_b) ** 0.5
    found = sums[["a", "b"]].assign(kind="all", cosine=sums.inner / scale, null_sd=sums.null_variance**0.5 / scale)
    return found.assign(z=found.cosine / found.null_sd, ceiling=1.0)


def _common(one: FineTuned, other: FineTuned) -> str:
    if (one.controls or one.name) == (other.controls or other.name):
        return "form" if "form" in (one.keeps, other.keeps) else "facts"
    if one.domain == other.domain:
        return "form" if "form" in (one.keeps, other.keeps) else "domain"
    return "neither"


def orthogonal(
    cosines: pd.DataFrame,
    domain: Mapping[str, str],
    twins: pd.DataFrame | None = None,
    least: float = 0.1,
    alpha: float = 0.05,
) -> Verdict:
    """Whether vectors of medicine are orthogonal to those of maths and code (§3.1): no cosine that matters.

    What matters is `least` of what two trainings on the same facts share (`pairs`), or without such a pair of the
    ceiling, the largest cosine that low-rank factors allow, 1 without any. Vectors of one domain that are no more alike
    than the judged ones leave nothing for the domain to explain.
    """
    whole = cosines[cosines.kind == "all"]
    ends = pd.DataFrame({"a": whole.a.map(domain), "b": whole.b.map(domain)})
    medical = (ends == MEDICINE).any(axis=1) & ends.isin(OTHERS).any(axis=1)
    cases, same = whole[medical], whole[ends.a == ends.b]
    sds = sds_of(len(cases), alpha)
    half = sds * cases.null_sd
    cases = cases.assign(effect=cases.cosine, low=cases.cosine - half, high=cases.cosine + half, twins=np.nan)
    if twins is not None:
        cases["twins"] = cases[["a", "b"]].merge(twins, how="left", on=["a", "b"]).twins.to_numpy()
    scale = cases.twins.fillna(cases.ceiling).fillna(1)
    rule = (
        "Effect: the cosine, whole model, of a vector of medicine with one of maths or code. Interval: "
        f"{spread(sds, alpha)} Smallest cosine that matters: {least:g} of that of two trainings on the same facts; "
        "without any, of the largest that the adapters' input factors allow, which is 1 for full fine-tunes. "
        "No direction: the claim is that there is none that matters."
    )
    if cases.empty:
        return unknown(rule, "no vector of medicine stands beside one of maths or code")
    most = pd.concat([same.cosine, cases.twins]).max()
    alike = None if np.isnan(most) else bool(most <= cases.cosine.abs().max())
    found = judge(cases, rule, least=least * scale, direction=0, unit="in cosine", digits=3, falsified=alike)
    if alike and found.kind == "holds":
        return replace(found, kind="null explains it", why="vectors of one domain are no more alike")
    return found


def facts_beyond_form(twins: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether two trainings on the same facts share more than one on words and form alone does with them (`pairs`)."""
    rule = (
        "Effect: 1 minus a ratio of two cosines: that of a specialist and its control of words and form alone, over "
        "that of two trainings on the same facts whose ceiling by input factors is nearest. Interval: from the spread "
        "of the null in both cosines, for all pairs together if it is normal. Smallest effect that matters: "
        f"{least:g}. Direction: up. {NO_RUN}"
    )
    cases = twins[(twins.common == "form") & twins.share.notna()]
    if cases.empty:
        why = "no specialist has a placebo and a twin whose vector is clearly like its own"
        return unknown(rule, why, smallest=least)
    cases = cases.assign(effect=1 - cases.share, low=1 - cases.high, high=1 - cases.low)
    return judge(cases, rule, least=least, falsified=bool((cases.high < least).any()), smallest=least)


def random_on_null(means: pd.DataFrame, alpha: float = 0.01) -> Verdict:
    """The control: whether a random T has an SSA of k/d_out in every kind of matrix."""
    rows = means[(means.vector == "random") & (means.null_sd > 0)]
    sds, gap = sds_of(len(rows), alpha), rows.SSA - rows.null
    cases = rows.assign(kind=rows.kind.map(SYMBOLS), effect=gap, low=gap, high=gap, size=gap.abs())
    rule = (
        f"Effect: SSA minus its null, mean over layers. Smallest that matters: {sds:.1f} standard deviations of the "
        f"null, so that a correct measure fails by chance with probability {alpha:g} over all kinds of matrix "
        "together, if the null is normal. No direction."
    )
    off = bool((cases["size"] > sds * cases.null_sd).any()) if len(cases) else None
    return judge(cases, rule, least=sds * cases.null_sd, direction=0, falsified=off, size=cases["size"].max())


def beside_nulls(table: pd.DataFrame, edge: pd.DataFrame) -> pd.DataFrame:
    """Means over layers by vector and kind against CHANCE, EDGE_CUT and MEMBERS: of `alignment_nulls`, and at the edge.

    Columns those of `over_layers` and against. The null of "layers" gives the T of all layers to each other's U_k in
    any order, that of MEMBERS is the mean of the others, which has no spread.
    """
    means = over_layers(table)
    groups = table.groupby(["vector", "kind"], sort=False)
    by = pd.MultiIndex.from_frame(means[["vector", "kind"]])
    taken = {name: groups[name].mean()[by].to_numpy() for name in ("SSA_less_W", "rows")}
    spread = {name: _of_mean(groups[name])[by].to_numpy() for name in ("null_sd_less_W", "rows_sd")}
    orders = pd.DataFrame([_in_any_order(groups.get_group(key)) for key in by])
    others = [means.SSA[(means.kind == kind) & (means.vector != vector)].mean() for vector, kind in by]
    parts = {
        "rotation": means,
        "less W": means.assign(SSA=taken["SSA_less_W"], null_sd=spread["null_sd_less_W"]),
        "rows": means.assign(null=taken["rows"], null_sd=spread["rows_sd"])[means.kind.isin(GATE_UP)],
        "layers": means.assign(null=orders[0], null_sd=orders[1]),
        EDGE_CUT: edge,
        MEMBERS: means.assign(null=others, null_sd=np.nan),
    }
    found = pd.concat([part.assign(against=name) for name, part in parts.items()], ignore_index=True)
    found["excess"] = (found.SSA - found.null) / (1 - found.null).where(found.null < 1)
    found["z"] = (found.SSA - found.null) / found.null_sd.where(found.null_sd > 0)
    return found


def _in_any_order(layers: pd.DataFrame) -> tuple[float, float]:
    """Mean and spread, over all permutations π, of the mean over l of SSA(T of layer π(l), U_k of layer l).

    With M the matrix of those SSA and N layers the mean is that of M, the variance Σ d² / (N² (N − 1)) with d what M
    has beside the means of its rows and columns (Hoeffding 1951). The spread is NaN below FEWEST_LAYERS.
    """
    layers = layers.sort_values("layer")
    N = len(layers)
    if layers.layers.map(len).ne(N - 1).any():  # a T that is 0 in some layer
        return np.nan, np.nan
    rows = [[SSA, *before] for SSA, before in zip(layers.SSA, layers.layers, strict=True)]
    M = np.array([np.roll(row[::-1], here + 1) for here, row in enumerate(rows)])
    d = M - M.mean(0) - M.mean(1)[:, None] + M.mean()
    sd = float((d**2).sum() / (N**2 * (N - 1))) ** 0.5 if N >= FEWEST_LAYERS else np.nan
    return float(M.mean()), sd


def _of_mean(sds: Any) -> pd.Series:
    """The spread of the mean of independent values with these."""
    return sds.apply(lambda sd: (sd**2).sum(min_count=1) ** 0.5 / max(sd.count(), 1))


def as_any_training(means: pd.DataFrame, family: Family, least: float = 0.1, alpha: float = 0.05) -> Verdict:
    """Whether a control that keeps words and form alone has the excess of SSA that its specialist has, kind by kind."""
    placebo = {c.controls: c.name for c in family.controls if c.keeps == "form"}
    rule = (
        "Effect: the excess of SSA of a specialist's $T$ minus that of the control that keeps words and form alone, "
        f"mean over layers, in each kind of matrix. Smallest difference that matters: {least:g} of the room above the "
        "null. No direction: the claim is that there is none that matters. Interval: "
    )
    if not placebo:
        return unknown(rule + "none", "no specialist has a placebo", smallest=least)
    room = means.assign(sd=means.null_sd / (1 - means.null).where(means.null < 1))
    own = room[room.vector.isin(placebo)].assign(placebo=lambda t: t.vector.map(placebo))
    theirs = room[["vector", "kind", "excess", "sd"]].rename(
        columns=dict(vector="placebo", excess="of_placebo", sd="sd_of_placebo")
    )
    cases = own.merge(theirs, on=["placebo", "kind"]).query("excess.notna() and of_placebo.notna()")
    sds = sds_of(len(cases), alpha)
    half = sds * (cases.sd**2 + cases.sd_of_placebo**2) ** 0.5
    effect = cases.excess - cases.of_placebo
    cases = cases.assign(effect=effect, low=effect - half, high=effect + half, kind=cases.kind.map(SYMBOLS))
    apart = bool(((cases.low > least) | (cases.high < -least)).any())
    rule += spread(sds, alpha)
    return judge(cases, rule, least=least, direction=0, falsified=apart, smallest=least)


def new_directions(
    means: pd.DataFrame, more: Sequence[str], than: Sequence[str], least: float = 0.1, alpha: float = 0.05
) -> Verdict:
    """Whether the matrices `more` get more new directions than the matrices `than`, in every vector (§4).

    E⊥ over chance is (1 − SSA) / (1 − k/d_out) = 1 − excess: 1 for a T that knows nothing of W, above 1 for one that
    avoids what W has. A kind where U_k is the whole space has no room for new directions and is left out of its mean.
    """
    tuned = means[means.vector != "random"]
    over, sd = 1 - tuned.excess, tuned.null_sd / (1 - tuned.null).where(tuned.null < 1)
    columns = dict(over=over, variance=sd**2, SSA=tuned.SSA, null=tuned.null)
    wide = tuned.assign(**columns).pivot(index="vector", columns="kind", values=list(columns))
    ours, theirs = (
        {name: wide[name].reindex(index=tuned.vector.unique(), columns=list(kinds)) for name in columns}
        for kinds in (more, than)
    )
    means_of = [side["over"].mean(axis=1) for side in (ours, theirs)]
    sds = sds_of(len(means_of[0]), alpha)
    half = sds * sum(side["variance"].mean(axis=1) / side["over"].count(axis=1) for side in (ours, theirs)) ** 0.5
    effect = means_of[0] - means_of[1]
    cases = pd.DataFrame(dict(zip(("more", "than"), means_of, strict=True), effect=effect))
    cases = cases.assign(low=effect - half, high=effect + half, **wide["over"]).rename_axis("vector").reset_index()
    rule = (
        f"Effect: $E_\\perp$ over chance, $(1 - \\mathrm{{SSA}})/(1 - k/d_\\text{{out}})$, mean over {_names(more)} "
        f"minus mean over {_names(than)}, in each vector. Interval: {spread(sds, alpha)} Smallest difference "
        f"that matters: {least:g} times chance. Direction: up."
    )
    other_way = bool((cases.high < -least).any()) if cases.effect.notna().any() else None
    numbers = {
        f"{x}_{end}": side[x].stack() for x in ("SSA", "null") for end, side in (("more", ours), ("than", theirs))
    }
    return judge(cases, rule, least=least, unit="times chance", falsified=other_way, **numbers)


def against_nulls(beside: pd.DataFrame, more: Sequence[str], than: Sequence[str]) -> Verdict:
    """`new_directions` against each null in CHANCE: its verdict where all agree, else which null says what.

    A null that is defined for some kinds alone stands for these, and the rotation for the others; one that is defined
    for none of them, or cannot be had, is passed over. Numbers are also `edge`, the differences with k at the edge, and
    `without`, those with W_K and W_V left out of both sides, where something is left of them.
    """
    each = {null: new_directions(_under(beside, null), more, than) for null in _known(beside, more, than)}
    found = each["rotation"]
    each = {n: verdict for n, verdict in each.items() if n == "rotation" or verdict.kind != "cannot be known here"}
    rule = (
        f"{found.rule} Against the rotation; the verdict stands if it is the same against {', '.join(CHANCE[1:])}, "
        "with the mean of each in the place of $k/d_\\text{out}$, as far as they are available."
    )
    falsified = None if found.falsified is None else any(verdict.falsified for verdict in each.values())
    others = [[kind for kind in kinds if kind not in ("W_K", "W_V")] for kinds in (more, than)]
    about = {"edge": new_directions(_under(beside, EDGE_CUT), more, than).cases.effect, "without": [np.nan]}
    if all(others):
        about["without"] = new_directions(_under(beside, "rotation"), *others).cases.effect
    found = replace(found, rule=rule, falsified=falsified, numbers={**found.numbers, **about})
    said: dict[str, list[str]] = {}
    for null, verdict in each.items():
        said.setdefault(verdict.kind, []).append(null)
    if len(said) == 1:
        return replace(found, why="; ".join(filter(None, [found.why, f"against {', '.join(each)}"])))
    return replace(found, kind="mixed", why="; ".join(f"{kind} against {', '.join(n)}" for kind, n in said.items()))


def _known(beside: pd.DataFrame, more: Sequence[str], than: Sequence[str]) -> list[str]:
    """The nulls of chance that are defined for one of these kinds."""
    there = beside[beside.kind.isin([*more, *than])].against.unique()
    return [null for null in CHANCE if null in there]


def _under(beside: pd.DataFrame, null: str) -> pd.DataFrame:
    rows = beside[beside.against == null]
    rotation = beside[(beside.against == "rotation") & ~beside.kind.isin(rows.kind)]
    return pd.concat([rows, rotation])


def survivors(beside: pd.DataFrame, claims: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> pd.DataFrame:
    """The verdict on each claim, {claim: (more, than)}, against each null and at the edge, with the differences."""
    rows = []
    for null in (*CHANCE, EDGE_CUT):
        row = dict(against=null)
        for claim, (more, than) in claims.items():
            row[claim] = "–"
            if null in (EDGE_CUT, *_known(beside, more, than)):
                verdict = new_directions(_under(beside, null), more, than)
                row[claim] = verdict.kind
                if verdict.cases.effect.notna().all():
                    ends = verdict.cases.effect.min(), verdict.cases.effect.max()
                    row[claim] += f" ({ends[0]:+.2f} to {ends[1]:+.2f})".replace("-", "−")
        rows.append(row)
    return pd.DataFrame(rows)


def _names(kinds: Sequence[str]) -> str:
    return ", ".join(SYMBOLS[kind] for kind in kinds)


def energy_concentrated(
    layers: pd.DataFrame, kinds: Sequence[str] = GATE_UP, least: float = 0.05, alpha: float = 0.05
) -> Verdict:
    """Whether most orthogonal energy of every vector is in these kinds, beyond what norms and shapes give (§4).

    turned = Σ ‖T‖² (1 − k/d_out) over these kinds, divided by the sum over all: the share if each matrix were rotated.
    """
    size = layers.E_par + layers.E_perp
    table = layers.assign(turned=size * (1 - layers.null), variance=(size * layers.null_sd) ** 2)
    parts = table.groupby(["vector", table.kind.isin(kinds)], sort=False)[["E_perp", "turned", "variance"]].sum()
    wide = parts.unstack().reindex(columns=pd.MultiIndex.from_product([parts.columns, [True, False]]))
    ours, rest = wide.xs(True, axis=1, level=1), wide.xs(False, axis=1, level=1)
    share, turned = (ours[x] / (ours[x] + rest[x]) for x in ("E_perp", "turned"))
    variance = (1 - turned) ** 2 * ours.variance + turned**2 * rest.variance
    sds = sds_of(len(share), alpha)
    half, effect = sds * variance**0.5 / (ours.turned + rest.turned), share - turned.clip(lower=0.5)
    cases = pd.DataFrame(dict(share=share, turned=turned, effect=effect, low=effect - half, high=effect + half))
    rule = (
        f"Effect: the share of $E_\\perp$ in {_names(kinds)}, minus one half or the share that the same $T$ has with "
        f"each matrix rotated at random, whichever is larger. Interval: {spread(sds, alpha)} Smallest difference that "
        f"matters: {least:g}. Direction: up."
    )
    less = bool((share < 0.5).any()) if share.notna().any() else None
    cases = cases.rename_axis("vector").reset_index()
    return judge(cases, rule, least=least, unit="of the energy", falsified=less)


def medicine_lowest(layers: pd.DataFrame, domain: Mapping[str, str], least: float = 1.5) -> Verdict:
    """Whether vectors of medicine have less energy Σ ‖T‖²_F than those of maths and code (§4)."""
    energy = (layers.E_par + layers.E_perp).groupby(layers.vector, sort=False).sum()
    known = {vector: domain[vector] for vector in energy.index if vector in domain}
    pairs = [(a, b) for a, b in product(known, known) if known[a] == MEDICINE and known[b] in OTHERS]
    rule = (
        "Effect: energy of a vector of maths or code over that of a vector of medicine, $\\sum \\lVert T\\rVert_F^2$ "
        "over all matrices and layers, on a logarithmic scale. Interval: none, it is exact for these weights. Smallest "
        f"ratio that matters: {least:g}. Direction: above 1. {NO_RUN} It grows with learning rate and steps too."
    )
    if not pairs:
        return unknown(rule, "no vector of medicine stands beside one of maths or code")
    cases = pd.DataFrame(pairs, columns=["medical", "other"])
    ratio = cases.other.map(energy) / cases.medical.map(energy)
    effect = np.log(ratio)
    cases = cases.assign(ratio=ratio, effect=effect, low=effect, high=effect)
    about = dict(unit="in the logarithm", falsified=bool((ratio < 1).any()))
    found = judge(cases, rule, least=math.log(least), **about)
    return replace(found, kind="differs") if found.kind == "null explains it" else found  # exact: there is no null
