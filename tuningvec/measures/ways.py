"""One model tuned in two ways on the same texts: what each claim is judged by, of both, and what the ways share."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import directions, evals, gains, models, neurons, scores
from tuningvec.stats import paired_shares
from tuningvec.store import Store
from tuningvec.verdict import Verdict, judge, unknown
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Combination, cosine_matrix, inner_products, rotation_null, weight_similarity
from tuningvec.weights.nulls import alignment_nulls
from tuningvec.weights.spectra import spectra
from tuningvec.weights.subspace import EDGE, over_layers, subspace_alignment

EPSILON = 0.05
LAST = 10  # steps over which a training loss is read


class Way(NamedTuple):
    """What the claims about one family are judged by; tables are those of the pages that are named."""

    reports: dict[str, dict[str, Any]]  # 01: what the recipe recorded
    similarity: pd.DataFrame  # 02_4
    cosines: pd.DataFrame  # 03_3: of all pairs, controls too
    means: pd.DataFrame  # 04_1: alignment, controls too, k at ε and at the edge
    nulls: pd.DataFrame  # 04_1: alignment beside its nulls
    distances: pd.DataFrame  # 02_2
    changes: pd.DataFrame  # 02_2
    shared: pd.DataFrame  # 02_2
    items: pd.DataFrame  # 03_1: scores of every item in the exam's form, without its text


def measured(
    family: Family, likelihood: Sequence[str], dtype: str, *, draws: int, batch: int, seed: int, store: Store
) -> Way:
    """What the pages of a family measure and its claims are judged by."""
    theta, T = members.checkpoint(family), members.tuning_vectors(family)
    everyone = members.tuning_vectors(family, controls=True)
    products = inner_products({"pretrained": Combination({theta: 1}), **T}, theta)
    cosines = cosine_matrix(inner_products(everyone, theta), rotation_null(everyone, theta, store))
    found, turned = neurons.profiles(family, dtype, store), neurons.rotated(family, dtype, seed, store)
    pretrained = family.pretrained.name
    return Way(
        members.training_reports(family),
        weight_similarity(products, "pretrained"),
        cosines,
        over_layers(subspace_alignment(theta, everyone, [EPSILON, EDGE], store)),
        alignment_nulls(theta, T, EPSILON, seed=seed, store=store),
        neurons.distances(found, turned, pretrained, draws, seed),
        neurons.changes(found, turned, pretrained, seed),
        neurons.shared_changes(neurons.profiles(family, dtype, store, controls=True), turned, family),
        _items(family, likelihood, dtype, batch, store),
    )


def _items(family: Family, likelihood: Sequence[str], dtype: str, batch: int, store: Store) -> pd.DataFrame:
    """Every member on the benchmarks that are scored right or wrong, in the form asked for and by likelihood."""
    asked = evals.together(evals.of_domains(family, "accuracy")) | evals.tasks(likelihood, family.prompt)
    everyone = [models.Opened(family, member.name, dtype) for member in family.members]
    items = evals.run(everyone, asked, batch=batch, store=store)
    return scores.with_sources(items, asked).drop(columns=["prompt", "reply"])


def verdicts(way: Way, family: Family, printed: pd.DataFrame, seed: int) -> dict[tuple[str, str], Verdict]:
    """The verdict on each claim that these tables judge, by page and claim; `printed` are the paper's cosines."""
    T = [member.name for member in family.studied[1:]]
    cosines = way.cosines[way.cosines.a.isin(T) & way.cosines.b.isin(T)]
    twins, domain = directions.pairs(way.cosines, family), directions.domains(family)
    edge = way.means[(way.means.epsilon == EDGE) & way.means.vector.isin(T)]
    beside = directions.beside_nulls(way.nulls, edge)
    aligned = way.means[way.means.epsilon == EPSILON]
    gaps, over_form = _own(way.items, family, seed)
    gate_up, attention = ["W_gate", "W_up"], ["W_Q", "W_K", "W_V", "W_O"]
    return {
        ("02_2", "Fine-tuning changes the pattern of active neurons little"): neurons.little_change(
            way.changes, way.distances
        ),
        ("02_2", "A rotated $T$ of the same spectrum changes it as much"): neurons.as_a_rotated_T(way.changes),
        ("02_2", "The neurons that change are those of the facts"): neurons.of_the_domain(way.shared),
        ("02_4", "The weights stay nearly parallel"): directions.nearly_parallel(way.similarity, printed),
        ("02_4", "The cosine says more than how short the move is"): directions.more_than_length(way.similarity),
        ("03_1", "Fine-tuning makes it better at its domain"): gains.domain_gain(gaps),
        ("03_1", "What it gives is more than words and form"): gains.beyond_form(over_form),
        ("03_3", "Vectors of medicine and maths are orthogonal"): directions.orthogonal(cosines, domain, twins),
        ("03_3", "One domain's share is more than words and form"): directions.facts_beyond_form(twins),
        ("04_1", "$W_\\text{gate}$, $W_\\text{up}$ get more new directions"): directions.against_nulls(
            beside, gate_up, [*attention, "W_down"]
        ),
        ("04_1", "The MLP gets more new directions than attention"): directions.against_nulls(
            beside, [*gate_up, "W_down"], attention
        ),
        ("04_1", "$W_\\text{Q}$, $W_\\text{O}$ get more than $W_\\text{K}$, $W_\\text{V}$"): directions.against_nulls(
            beside, ["W_Q", "W_O"], ["W_K", "W_V"]
        ),
        ("04_1", "A training on words and form alone is aligned likewise"): directions.as_any_training(aligned, family),
        ("04_2", "Most orthogonal energy is in gate and up"): directions.energy_concentrated(way.nulls),
        ("04_2", "Medical vectors have less energy"): directions.medicine_lowest(way.nulls, domain),
    }


def _own(items: pd.DataFrame, family: Family, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Differences of each specialist on its own domain from the pretrained member, and from its placebo."""
    placebo = [(control.controls, control.name) for control in family.controls if control.keeps == "form"]
    found = [scores.differences(items, some, seed) for some in (scores.against(items, family.pretrained.name), placebo)]
    return tuple(scores.own_domain(gaps, family, family.benchmarks) for gaps in found)


def beside(judged: Mapping[str, Mapping[tuple[str, str], Verdict]]) -> pd.DataFrame:
    """The verdicts of each way, a row a claim: page, claim, a column a way (mixed ones with counts), and same."""
    ways = list(judged)
    rows = []
    for page, claim in judged[ways[0]]:
        found = [judged[way][page, claim] for way in ways]
        told = [f"{v.kind}: {v.why}" if v.kind == "mixed" else v.kind for v in found]
        rows.append(dict(page=page, claim=claim, **dict(zip(ways, told, strict=True)), same=len(set(told)) == 1))
    return pd.DataFrame(rows)


def across(
    one: Family, other: Family, labels: tuple[str, str], store: Store | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cosines of the tuning vectors of two families on one θ_pre, and their `spectra`; a vector is "member, label".

    Raises TuningVecError where the families have different pretrained weights.
    """
    theta = members.checkpoint(one)
    if members.checkpoint(other).folder != theta.folder:
        raise TuningVecError(f"{one.file} and {other.file}: two ways start from one pretrained member; give the same")
    vectors = {
        f"{name}, {label}": T
        for family, label in zip((one, other), labels, strict=True)
        for name, T in members.tuning_vectors(family, controls=True).items()
    }
    domain = [f"{m.name}, {label}" for f, label in zip((one, other), labels, strict=True) for m in f.specialists]
    cosines = cosine_matrix(inner_products(vectors, theta), rotation_null(vectors, theta, store))
    return cosines, spectra(theta, {name: vectors[name] for name in domain}, store=store)


def trained(ways: Mapping[str, Way], one: Family) -> pd.DataFrame:
    """What the recipes recorded of the specialists after training, and r of the whole model, a row a way."""
    rows = []
    for member, (label, way) in itertools.product(one.specialists, ways.items()):
        report, moved = way.reports[member.name], way.similarity
        before, after = report["before"], report["after"]
        row = dict(member=member.name, way=label, lr=report["lr"], loss=float(np.mean(report["loss"][-LAST:])))
        row["r"] = moved[(moved.vector == member.name) & (moved.kind == "all")].r.item()
        row["right"] = f"{after['right']} of {after['n']}"
        rows.append(row | {f"{text} text": nats - before["nats"][text] for text, nats in after["nats"].items()})
    return pd.DataFrame(rows)


def pairs(cosines: pd.DataFrame, one: Family) -> pd.DataFrame:
    """Whole-model cosines (`across`) of specialists, and of each with the controls of its way that keep its facts."""
    domain = {m.name for m in one.specialists}
    twins = {c.name: c.controls for c in one.controls if c.keeps == "facts"}

    def told(a: str, b: str) -> bool:
        (a, way_a), (b, way_b) = (end.rsplit(", ", 1) for end in (a, b))
        return {a, b} <= domain or (way_a == way_b and (twins.get(b) == a or twins.get(a) == b))

    whole = cosines[cosines.kind == "all"]
    kept = [told(a, b) for a, b in zip(whole.a, whole.b, strict=True)]
    return whole.loc[kept, ["a", "b", "cosine", "null_sd", "z", "ceiling"]].rename(columns={"ceiling": "at most"})


def by_kind(found: pd.DataFrame) -> pd.DataFrame:
    """Means of `spectra` over the matrices of a kind."""
    means = found.groupby(["vector", "kind"], sort=False)[["leading", "stable", "intruders"]].mean().reset_index()
    return means.sort_values("kind", key=lambda kinds: kinds.map(MATRICES.index), kind="stable")


def differences(ways: Mapping[str, Way], one: Family, other: Family) -> pd.DataFrame:
    """Score of each training run on facts the second way minus the first, where both met the same batches.

    `one` is tuned the first way, `other` the second. A specialist stands beside the specialist, a control that keeps
    its facts beside those of the same order. Items are the same, and those of the specialist's domain. Columns those of
    `scores.differences` with intervals for all rows together (Bonferroni), where who and reference are training runs.
    """
    first, second = ways
    runs = {label: _runs(family, ways[label]) for label, family in ((first, one), (second, other))}
    pairs = [
        (f"{b}, {second}", f"{a}, {first}")
        for (b, of_b), (a, of_a) in itertools.product(runs[second].items(), runs[first].items())
        if of_a == of_b
    ]
    tasks = {f"{m.name}, {second}": other.benchmarks.get(m.domain, ()) for m in other.fine_tuned}
    items = pd.concat([w.items.assign(who=w.items.who + f", {n}") for n, w in ways.items()], ignore_index=True)
    rows = []
    for (who, reference), task in itertools.product(pairs, items.task.unique()):
        both = [scores.values(items, name, task) for name in (who, reference)]
        if task.removesuffix(scores.LIKELIHOOD) in tasks[who] and all(map(len, both)):
            source = scores.sources(items, who, task)
            about = dict(who=who, reference=reference, task=scores.task_name(task))
            rows.append(about | scores.counted(both[0], source) | dict(both=(*both, source)))
    found = [paired_shares(*row.pop("both"), level=1 - scores.ALPHA / len(rows)) for row in rows]
    return pd.DataFrame(rows).assign(**{name: [getattr(d, name) for d in found] for name in ("points", "low", "high")})


def _runs(family: Family, way: Way) -> dict[str, tuple[str, bool, Any]]:
    """The runs on facts of a family: domain, whether it is the specialist itself, and the order of its batches."""
    studied = {m.name for m in family.specialists}
    some = [m for m in family.fine_tuned if m.name in studied or (m.controls in studied and m.keeps == "facts")]
    return {m.name: (m.domain, m.name in studied, way.reports.get(m.name, {}).get("order")) for m in some}


def alike_in_score(gaps: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether both ways score alike on what they were trained for; `gaps` are of `differences`."""
    rule = (
        "Effect: score of the second way minus that of the first on the same items, in points, of two training runs "
        "that met the same batches. Interval: Newcombe's, 95 % for all pairs of runs together. Smallest effect that "
        f"matters: {least:g}. No direction: the claim is that there is none that matters."
    )
    if gaps.empty:
        return unknown(rule, "no benchmark was asked of both", smallest=least)
    cases = gaps.assign(effect=gaps.points)
    return judge(
        cases,
        rule,
        least=least,
        direction=0,
        unit="points",
        digits=0,
        smallest=least,
        falsified=bool(((cases.low > least) | (cases.high < -least)).any()),
    )


def same_direction(cosines: pd.DataFrame, one: Family, labels: tuple[str, str], least: float = 0.5) -> Verdict:
    """Whether a specialist's T of the first way points where its T of the second does, as far as its factors allow.

    `cosines` are of `across`. Effect: cosine of a specialist's two T over its ceiling, the share of the second T in the
    rows that the adapter reads. Beside it stands what two trainings of the second way on its facts share.
    """
    whole = cosines[cosines.kind == "all"]
    by_pair = {frozenset(pair): row for *pair, row in zip(whole.a, whole.b, whole.itertuples(), strict=True)}
    rows = []
    for name in (member.name for member in one.specialists):
        own, again = (f"{name}, {label}" for label in labels[::-1])
        twins = [f"{c.name}, {labels[1]}" for c in one.controls if c.controls == name and c.keeps == "facts"]
        shared = [by_pair[pair].cosine for twin in twins if (pair := frozenset([own, twin])) in by_pair]
        if both := by_pair.get(frozenset([own, again])):
            about = dict(member=name, cosine=both.cosine, twins=max(shared, default=np.nan), ceiling=both.ceiling)
            rows.append(about | dict(sd=both.null_sd / both.ceiling))
    cases = pd.DataFrame(rows, columns=["member", "cosine", "twins", "ceiling", "sd"])
    sds = directions.sds_of(len(cases))
    effect, half = cases.cosine / cases.ceiling, sds * cases.sd
    cases = cases.assign(effect=effect, low=effect - half, high=effect + half)
    rule = (
        "Effect: the cosine of a specialist's two vectors, over the largest that any adapter with these input factors "
        "has with that of the second way. "
        f"Interval: {directions.spread(sds)} Smallest effect that matters: {least:g}. Direction: up."
    )
    return judge(cases, rule, least=least, falsified=bool((cases.high < least).any()), smallest=least)


def more_intruders(found: pd.DataFrame, one: Family, labels: tuple[str, str], least: float = 0.5) -> Verdict:
    """Whether weights tuned the first way have more intruder dimensions than those tuned the second (`spectra`)."""
    means = found.groupby("vector").intruders.mean()
    rows = [
        dict(member=m.name, first=means[f"{m.name}, {labels[0]}"], second=means[f"{m.name}, {labels[1]}"])
        for m in one.specialists
    ]
    cases = pd.DataFrame(rows)
    if not cases[["first", "second"]].to_numpy().any():
        why = "neither way has one: no T is long enough beside the leading singular values of W"
        return unknown(
            "Effect: intruder dimensions per matrix, of the first way minus the second.", why, smallest=least
        )
    effect = cases["first"] - cases["second"]
    cases = cases.assign(effect=effect, low=effect, high=effect)
    rule = (
        "Effect: intruder dimensions per matrix, mean over matrices, of the first way minus the second. Interval: "
        f"none, both are exact for these weights. Smallest effect that matters: {least:g}. Direction: up. It says "
        "nothing about other training runs."
    )
    found = judge(cases, rule, least=least, falsified=bool((effect < least).any()), smallest=least)
    return replace(found, kind="differs") if found.kind == "null explains it" else found  # exact: there is no null
