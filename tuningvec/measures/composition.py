"""Ways to compose tuning vectors of several domains: measured, chosen on some held-out items, judged on others.

Every table holds items, so that what is chosen of them (`choose`) and what is compared (`compared`) can be computed
again. A method has *settings*: how far along it goes, λ, and the parameter of its rule where it has one.
"""

import itertools
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from lm_eval.api.task import Task

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import evals, losses, models, scores, turned
from tuningvec.measures.decoding import BATCH
from tuningvec.measures.models import Opened
from tuningvec.stats import design_effect
from tuningvec.store import Store, Told, joined
from tuningvec.verdict import NO_RUN, Verdict, judge, unknown
from tuningvec.weights.delta import Combination
from tuningvec.weights.merging import TSV, Dare, Isotropic, Merge, Rule, Shared, Ties, matrix_rows

SUM, BY_DOMAIN, PLAIN = "sum", "sum by domain", "sum, λ = 1"
RULES: dict[str, tuple[str, Callable[[Any, int], Rule]]] = {  # the rule's parameter, and the rule
    "TIES": ("density", lambda value, _: Ties(value)),
    "DARE": ("dropped", lambda value, seed: Dare(value, seed)),
    "TSV-Merge": ("kept", lambda value, _: TSV(value)),
    "Iso-C": ("", lambda value, _: Isotropic()),
    "shared part": ("weight", lambda value, _: Shared(value)),
}
ALONE, PRETRAINED = "alone", "pretrained"  # instead of sides: θ_pre + T_a, and θ_pre
RESAMPLES = 10_000
ENDS = ("low", "high", "lowest", "p")
COMPARED = ["who", "mean", "worst", "effect", "mean_effect", "gain", "clear", "gain_clear"]
COMPARED += [f"{what}{end}" for what in ("", "mean_", "gain_") for end in ENDS]
ALPHA = 0.05
NUMBER = re.compile(r"\d+(?:\.\d+)?")

Row = Sequence[Any]  # of the page's parameter: method, λ of each setting, its rule's parameter or None
Sources = dict[str, list[int]]  # by domain
Means = dict[str, Float[np.ndarray, " resamples"]]  # by who; the first is that of the items themselves


@dataclass(frozen=True)
class Setting:
    """A method with its λ, one or one for each domain, and the parameter of its rule."""

    method: str
    scales: tuple[float, ...]
    detail: float | None = None

    @property
    def name(self) -> str:
        told = [self.method, "λ = " + " and ".join(f"{c:g}" for c in self.scales)]
        return ", ".join(told + ([f"{RULES[self.method][0]} {self.detail:g}"] if self.detail is not None else []))

    def rule(self, seed: int) -> Rule:
        return RULES[self.method][1](self.detail, seed)


def specialists(family: Family) -> dict[str, str]:
    """The first specialist of each domain with benchmarks and held-out replies, {domain: member}.

    Raises TuningVecError for fewer than two.
    """
    found = {domain: name for domain, name in family.specialist_of.items() if domain in family.replies}
    if len(found) < 2:
        raise TuningVecError(f"{family.file}: {len(found)} domain models with replies; to compose takes two")
    return found


def settings(rows: Sequence[Row], domains: int, seed: int) -> list[Setting]:
    """The settings of every method, from rows of method, its λ, and its rule's parameters or None.

    Of BY_DOMAIN the first domain's λ are those given and each other domain has the same in an order drawn for it.
    Raises TuningVecError for an unknown method, one named twice, a table without SUM, methods of unequal numbers of
    settings, and a parameter that its rule does not take.
    """
    names, known = [row[0] for row in rows], (SUM, BY_DOMAIN, *RULES)
    if odd := [name for name in names if name not in known or names.count(name) > 1]:
        raise TuningVecError(f"settings: method {odd[0]!r} is unknown or there twice; known are {', '.join(known)}")
    if SUM not in names or len({len(row[1]) for row in rows}) > 1:
        raise TuningVecError(f"settings: {SUM!r} must be there, and every method with the same number of settings")
    found = []
    for method, scales, details in rows:
        named = RULES[method][0] if method in RULES else ""
        if bool(named) != bool(details) or (details and len(details) != len(scales)):
            raise TuningVecError(f"settings: {method}: give {f'a {named} for each λ' if named else 'no parameter'}")
        each = [tuple([c] * (domains if method == BY_DOMAIN else 1)) for c in scales]
        if method == BY_DOMAIN:
            random = np.random.default_rng(seed)
            each = list(zip(scales, *(random.permutation(scales).tolist() for _ in range(domains - 1)), strict=True))
        some = [Setting(method, c, detail) for c, detail in zip(each, details or [None] * len(each), strict=True)]
        _ = [one.rule(seed) for one in some if method in RULES]  # raises for what its rule does not take
        found += some
    return found


def split(family: Family, count: int, seed: int) -> tuple[Sources, Sources]:
    """The sources of at least `count` replies of each domain to choose on, drawn at random, and the others to score on.

    No source is in both. Raises TuningVecError where fewer than four replies, of two sources, are left of either.
    """
    tuning, scoring = {}, {}
    for domain in specialists(family):
        lines = pd.Series([one.source for one in losses.written(family, domain)])
        sizes, random = lines.value_counts(), np.random.default_rng([seed, zlib.crc32(domain.encode())])
        order = random.permutation(np.sort(lines.unique())).tolist()
        taken = int(np.searchsorted(sizes[order].cumsum().to_numpy(), count)) + 1
        tuning[domain], scoring[domain] = sorted(order[:taken]), sorted(order[taken:])
        for part in (tuning[domain], scoring[domain]):
            if len(part) < 2 or lines.isin(part).sum() < 4:
                total = f"{len(lines)} {domain} replies of {len(order)} sources"
                raise TuningVecError(f"{family.file}: {count} replies to choose on of {total}; ask for fewer")
    return tuning, scoring


def model(family: Family, setting: Setting, seed: int, prompted: str, dtype: str) -> Opened:
    """θ_pre with the specialists' vectors composed as the setting says, prompted as one of them; not yet loaded."""
    named, pretrained = specialists(family), family.pretrained.name
    if setting.method in (SUM, BY_DOMAIN):
        scales = setting.scales if len(setting.scales) > 1 else setting.scales * len(named)
        terms = dict(zip(named.values(), scales, strict=True))
        return models.Arithmetic(family, {pretrained: 1 - sum(scales), **terms}, prompted, dtype)
    every = members.tuning_vectors(family)
    vectors = {name: every[name] for name in named.values()}
    merged = Merge(vectors, setting.rule(seed), matrix_rows(vectors, members.checkpoint(family)))
    weights = members.weights(family, pretrained).fitted + Combination({merged: setting.scales[0]})
    return models.Merged(family, weights, setting.name, prompted, dtype)


def _prompted(family: Family) -> Iterator[tuple[str, list[str]]]:
    """A specialist for all domains whose specialists are prompted alike, with these domains."""
    groups: dict[str, list[str]] = {}
    named = specialists(family)
    for domain, name in named.items():
        one = models.Opened(family, name)
        told = [one.tokenizer_digest, one.tokenizer.chat_template, one.generation.to_diff_dict()]
        groups.setdefault(json.dumps(told, sort_keys=True), []).append(domain)
    for domains in groups.values():
        yield named[domains[0]], domains


Ask = Callable[[str], Mapping[str, Opened]]  # models by who, prompted as a member


def _read(family: Family, ask: Ask, sources: Sources, batch: int, store: Store | None) -> pd.DataFrame:
    """Nats of the replies of these sources, {domain: sources}, each prompted as the domain's specialist."""
    parts, runs = [], []
    for prompted, alike in _prompted(family):
        if not (domains := [domain for domain in alike if domain in sources]):
            continue
        asked = ask(prompted)
        each = list({one.name: one for one in asked.values()}.values())
        table = losses.nats(each, family, domains=domains, sources=sources, batch=batch, store=store)
        runs += table.attrs["runs"]
        for who, one in asked.items():
            part = table[table.model == one.name]
            domain = part.text.str.removesuffix(" replies")
            parts.append(part.assign(who=who, domain=domain)[["who", "domain", "source", "item", "nats", "tokens"]])
    return joined(parts, runs)


def _references(family: Family, prompted: str, dtype: str) -> dict[str, Opened]:
    """The pretrained member and the specialists, all prompted as one."""
    names = [family.pretrained.name, *specialists(family).values()]
    return {name: models.Arithmetic(family, {name: 1.0}, prompted, dtype) for name in names}


def tuned(
    family: Family, rows: Sequence[Row], *, replies: int, seed: int, dtype: str, batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Nats of every setting, of the pretrained member and of the specialists on the replies to choose on.

    A row an item: who, domain, source, item, nats, tokens, and method (empty for members). Raises as `settings` and
    `split` do.
    """
    some = settings(rows, len(specialists(family)), seed)
    tuning, _ = split(family, replies, seed)

    def ask(prompted: str) -> dict[str, Opened]:
        built = {one.name: model(family, one, seed, prompted, dtype) for one in some}
        return _references(family, prompted, dtype) | built

    table = _read(family, ask, tuning, batch, store)
    return table.assign(method=table.who.map({one.name: one.method for one in some}).fillna(""))


def _asked(family: Family, chosen: Sequence[Row], seed: int, dtype: str, prompted: str) -> dict[str, Opened]:
    """The members, the sum at λ = 1, and each method as it was chosen, by method."""
    some = {method: Setting(method, tuple(scales), detail) for method, scales, detail in chosen}
    some = {PLAIN: Setting(SUM, (1.0,)), **some}
    built = {name: model(family, one, seed, prompted, dtype) for name, one in some.items()}
    return _references(family, prompted, dtype) | built


def scored(
    family: Family, chosen: Sequence[Row], *, replies: int, seed: int, dtype: str, batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Nats of the methods as they were chosen, beside members and PLAIN, on the replies that nothing was chosen on.

    As `tuned`, `who` being the method; raises as `split` does.
    """
    _, scoring = split(family, replies, seed)
    return _read(family, partial(_asked, family, chosen, seed, dtype), scoring, batch, store)


def examined(
    family: Family,
    chosen: Sequence[Row],
    *,
    replies: int,
    seed: int,
    dtype: str,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """Right answers of the same models on the benchmarks of their domains, on items that nothing was chosen on.

    A row an item: who, domain, task, item, source, value, 1 for right, and guess, the share of right guesses. Left
    out are items on a fact of a reply to choose on (`apart`). Where a member's domain cannot be read, or its specialist
    is not above guessing, there is no worst domain, and members alone are asked. `limit` takes the first items of each
    benchmark.
    """
    tuning, _ = split(family, replies, seed)
    answers = partial(_answers, family, tuning, limit=limit, batch=batch, store=store)
    found = answers(partial(_references, family, dtype=dtype))
    return answers(partial(_asked, family, chosen, seed, dtype)) if _able(family, found) else found


def _answers(
    family: Family, tuning: Sources, ask: Ask, limit: int | None, batch: int, store: Store | None
) -> pd.DataFrame:
    """The items of `examined` by these models; raises TuningVecError where no domain can be read."""
    benchmarks = evals.of_domains(family, "accuracy", list(tuning))
    parts, runs, left_out = [], [], []
    for prompted, domain in [(name, domain) for name, domains in _prompted(family) for domain in domains]:
        asked = ask(prompted)
        each = list({one.name: one for one in asked.values()}.values())
        try:
            items = evals.run(each, benchmarks[domain], limit=limit, batch=batch, store=store)
        except evals.Unreadable as error:
            left_out += error.left_out
            continue
        runs, left_out = [*runs, *items.attrs["runs"]], [*left_out, *items.attrs["left_out"]]
        items = scores.with_sources(items, benchmarks[domain])
        known = apart(items, benchmarks[domain], _questions(family, domain, tuning))
        parts += [_right(known[known.model == one.name], who, domain) for who, one in asked.items()]
    if not parts:
        raise evals.Unreadable(left_out=left_out)
    table = joined(parts, runs)
    table.attrs["left_out"] = Told(left_out)
    return table


def _able(family: Family, items: pd.DataFrame) -> bool:
    """Whether the specialist of every domain is above guessing in it."""
    own = [items[(items.who == name) & (items.domain == domain)] for domain, name in specialists(family).items()]
    return all(
        len(part) and scores.above_guessing(part.value.to_numpy(), float(part.guess.mean()), part.source.to_numpy())
        for part in own
    )


def _right(items: pd.DataFrame, who: str, domain: str) -> pd.DataFrame:
    """What of a model's items is compared: whether each is right, and how often a guess would be."""
    value = pd.concat([part[scores.metric(part, task)] for task, part in items.groupby("task")])
    guess = items.task.map({task: scores.guessing(items, task) for task in items.task.unique()})
    columns = ["who", "domain", "task", "item", "source", "value", "guess"]
    return items.assign(
        who=who, domain=domain, guess=guess, value=value.astype(float), source=items.task + " " + items.source
    )[columns]


def _questions(family: Family, domain: str, tuning: Sources) -> list[str]:
    return [one.user for one in losses.written(family, domain) if one.source in tuning[domain]]


def apart(items: pd.DataFrame, benchmarks: Mapping[str, Task], questions: Sequence[str]) -> pd.DataFrame:
    """The items, `with_sources`, that are about no fact of these questions.

    Such an item asks one of them, has the same numbers in its question, or has a source that one of them names.
    """
    texts = [_question(text) for text in questions]
    same, numbers = {*texts}, {tuple(sorted(NUMBER.findall(text))) for text in texts} - {()}

    def seen(task: str, item: int, source: str) -> bool:
        text = _question(str(benchmarks[task].doc_to_text(benchmarks[task].eval_docs[item])))
        named = source != str(item) and any(re.search(rf"\b{re.escape(source)}\b", one) for one in texts)
        return named or text in same or tuple(sorted(NUMBER.findall(text))) in numbers

    asked = items[["task", "item", "source"]].drop_duplicates()
    gone = {(row.task, row.item): seen(row.task, row.item, row.source) for row in asked.itertuples()}
    return items[[not gone[key] for key in zip(items.task, items["item"], strict=True)]]


def _question(text: str) -> str:
    return text.partition("\nOptions:")[0].strip()


def per_token(items: pd.DataFrame) -> pd.DataFrame:
    """Items with `value`: −nats per token, so that more is better."""
    return items.assign(value=-items.nats / items.tokens)


def _means(values: pd.DataFrame, seed: int, clustered: bool) -> dict[str, Means]:
    """Mean of every `who` by domain: of the items, then of RESAMPLES samples of as many sources, or of items."""
    found = {}
    for domain, part in values.groupby("domain", sort=False):
        by = part.source if clustered else part.source.astype(str) + part.get("task", "") + part["item"].astype(str)
        sums = part.assign(value=part.value, by=by).pivot_table(
            index="by", columns="who", values="value", aggfunc="sum"
        )
        sizes = part[part.who == part.who.iloc[0]].groupby(by).size().reindex(sums.index).to_numpy()
        random, n = np.random.default_rng([seed, zlib.crc32(domain.encode())]), len(sums)
        times = np.vstack([np.ones(n), random.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)])
        found[domain] = {who: times @ sums[who].to_numpy() / (times @ sizes) for who in sums}
    return found


def normalised(values: pd.DataFrame, family: Family, seed: int, clustered: bool = True) -> dict[str, Means]:
    """(mean − θ_pre's) / (the specialist's − θ_pre's) by domain and who; NaN where that gain is not clear.

    `values` are rows of who, domain, source and value, and of right answers guess, which is in the place of θ_pre's
    where that is lower. Arrays as in `_means`.
    """
    named, found = specialists(family), {}
    for domain, means in _means(values, seed, clustered).items():
        before = means[family.pretrained.name]
        if "guess" in values:
            before = np.maximum(before, values[values.domain == domain].guess.mean())
        gain = means[named[domain]] - before
        clear = np.quantile(gain[1:], ALPHA / 2) > 0
        gain = np.where((gain > 0) & clear, gain, np.nan)
        found[domain] = {who: (mean - before) / gain for who, mean in means.items()}
    return found


def by_setting(items: pd.DataFrame, family: Family) -> pd.DataFrame:
    """Normalised score of every setting of `tuned` by domain, their mean, nats, and whether it is its method's best.

    `nats` is the mean over domains of the nats per token. The best has the highest mean, the first of equals; where a
    specialist gains nothing on these items its domain and the mean are NaN, and the best has the fewest nats.
    """
    means = per_token(items).groupby(["domain", "who"], sort=False).value.mean()
    rows = items[items.method != ""].drop_duplicates("who")[["method", "who"]].reset_index(drop=True)
    domains = list(specialists(family))
    for domain, name in specialists(family).items():
        before = means[domain, family.pretrained.name]
        gain = means[domain, name] - before
        rows[domain] = [(means[domain, who] - before) / gain if gain > 0 else np.nan for who in rows.who]
    rows["mean"] = rows[domains].mean(axis=1, skipna=False)
    rows["nats"] = [-float(np.mean([means[domain, who] for domain in domains])) for who in rows.who]
    return rows.assign(chosen=rows.index.isin(_value(rows).groupby(rows.method, sort=False).idxmax()))


def _value(rows: pd.DataFrame) -> pd.Series:
    """By which settings are chosen."""
    return rows["mean"] if rows["mean"].notna().all() else -rows.nats


def choose(items: pd.DataFrame, rows: Sequence[Row], family: Family, seed: int) -> list[list[Any]]:
    """Of each method the best setting on the items to choose on (`by_setting`): method, λ and the rule's parameter."""
    table = by_setting(items, family)
    some = {one.name: one for one in settings(rows, len(specialists(family)), seed)}
    picked = [some[who] for who in table[table.chosen].who]
    return [[one.method, list(one.scales), one.detail] for one in picked]


def favourite(items: pd.DataFrame, family: Family) -> str:
    """The method other than the sum that did best on the items to choose on."""
    table = by_setting(items, family)
    others = table[table.method != SUM]
    return str(others.loc[_value(others).idxmax(), "method"])


def compared(values: pd.DataFrame, family: Family, seed: int, against: str = SUM) -> pd.DataFrame:
    """Every method, PLAIN and the sum: normalised score by domain, their mean and the smallest, and beside `against`.

    Columns who, one for each domain, mean, worst; effect = worst − that of `against`, low, high, lowest, the lower end
    for all methods together (Bonferroni), p, and `clear`, by Holm over methods, of PLAIN alone; mean_effect and its
    like, of the mean; gain, the mean's distance from θ_pre, and its like; n and sources. Intervals and p are of a
    bootstrap over sources that draws the same for all methods and takes the smallest of the domains anew in each draw;
    none is narrower than that of one over items.
    """
    whos = [who for who in values.who.unique() if who not in {family.pretrained.name, *specialists(family).values()}]
    if not whos:
        return pd.DataFrame(columns=COMPARED)
    drawn = [_smallest(normalised(values, family, seed, clustered), whos) for clustered in (True, False)]
    sizes = values[values.who == whos[0]]
    rows = []
    for who in whos:
        known = {domain: mean[0] for domain, mean in drawn[0][who]["domains"].items()}
        row = dict(who=who, **known, mean=drawn[0][who]["mean"][0], worst=drawn[0][who]["worst"][0])
        for prefix, what in (("", "worst"), ("mean_", "mean")):
            row |= _widest([each[who][what] - each[against][what] for each in drawn], prefix, len(whos))
        row |= _widest([each[who]["mean"] for each in drawn], "gain_", len(whos))
        ends = _widest([each[who]["worst"] for each in drawn], "")
        rows.append(row | dict(worst_low=ends["low"], worst_high=ends["high"], n=len(sizes), sources=_count(sizes)))
    table = pd.DataFrame(rows).rename(columns={"gain_effect": "gain"})
    plain = table.who == PLAIN  # which is no way of its own and is judged alone
    clear = scores.holm_known(table.p.where((table.who != against) & ~plain)) < ALPHA
    return table.assign(
        clear=clear | (plain & (table.p < ALPHA)),
        gain_clear=scores.holm_known(table.gain_p) < ALPHA,
    )


def elsewhere(values: pd.DataFrame, family: Family, seed: int) -> pd.DataFrame:
    """Normalised score of each specialist in every domain, 1 in its own: columns who and one for each domain."""
    found = normalised(values, family, seed)
    rows = [
        dict(who=who, **{domain: means[who][0] for domain, means in found.items()})
        for who in specialists(family).values()
    ]
    return pd.DataFrame(rows)


def _count(items: pd.DataFrame) -> int:
    return len(items[["domain", "source"]].drop_duplicates())


def _smallest(found: Mapping[str, Means], whos: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By who: what each domain gives, their mean and the smallest of them."""
    stacked = {who: np.stack([each[who] for each in found.values()]) for who in whos}
    return {
        who: dict(domains=dict(zip(found, array, strict=True)), mean=array.mean(axis=0), worst=array.min(axis=0))
        for who, array in stacked.items()
    }


def _widest(draws: Sequence[Float[np.ndarray, " resamples"]], prefix: str, of: int = 1) -> dict[str, float]:
    """The value of the items, with the widest of the percentile intervals and the largest p of several bootstraps.

    `lowest` is the lower end of the interval for so many together (Bonferroni).
    """
    ends, p = [], []
    for each in draws:
        some = each[1:][np.isfinite(each[1:])]
        if not len(some) or not np.isfinite(each[0]):
            return {f"{prefix}{name}": np.nan for name in ("effect", "low", "high", "lowest", "p")}
        ends.append(np.quantile(some, [ALPHA / 2, 1 - ALPHA / 2, ALPHA / 2 / of]))
        tail = (min((some <= 0).sum(), (some >= 0).sum()) + 1) / (len(some) + 1)
        p.append(min(2 * float(tail), 1.0))
    (low, _, lowest), high = np.min(ends, axis=0), np.max(ends, axis=0)[1]
    found = dict(effect=draws[0][0], low=low, high=high, lowest=lowest, p=max(p))
    return {f"{prefix}{name}": float(value) for name, value in found.items()}


def pairs(family: Family, count: int) -> list[tuple[str, str]]:
    """The first `count` pairs of domains; raises TuningVecError for fewer than one."""
    if count < 1:
        raise TuningVecError(f"pairs is {count}; it is a number of pairs of domains, at least 1")
    return list(itertools.combinations(specialists(family), 2))[:count]


def grid(
    family: Family, *, shares: Sequence[float], count: int, replies: int, seed: int, dtype: str, batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Nats of θ_pre + λ_a T_a + λ_b T_b on replies to choose on of both domains, for all λ of `shares`.

    A row an item: a and b (domains), scale_a, scale_b, domain, source, item, nats, tokens, for the first `count` pairs.
    Raises TuningVecError for shares without 0 and 1.
    """
    if not {0, 1} <= set(shares):
        raise TuningVecError(f"shares {list(shares)}: 0 and 1, members as they are, must be among them")
    named, (tuning, _) = specialists(family), split(family, replies, seed)
    parts, runs = [], []
    for a, b in pairs(family, count):
        cells = {json.dumps(cell): cell for cell in itertools.product(shares, shares)}

        def ask(prompted: str, a: str = a, b: str = b, cells: Mapping[str, Any] = cells) -> dict[str, Opened]:
            terms = {
                who: {named[a]: x, named[b]: y, family.pretrained.name: 1 - x - y} for who, (x, y) in cells.items()
            }
            return {who: models.Arithmetic(family, each, prompted, dtype) for who, each in terms.items()}

        table = _read(family, ask, {a: tuning[a], b: tuning[b]}, batch, store)
        runs += table.attrs["runs"]
        scale_a, scale_b = zip(*table.who.map(cells), strict=True)
        parts.append(table.assign(a=a, b=b, scale_a=scale_a, scale_b=scale_b).drop(columns="who"))
    return joined(parts, runs)


def added(grid: pd.DataFrame) -> pd.DataFrame:
    """What another domain's whole T adds to a domain's loss, as a share of the domain's own gain, by λ of its own T.

    Of `grid`; columns domain, other, scale (λ of the own T) and share. The gain is L(θ_pre) − L(θ_pre + T).
    """
    rows = []
    for (a, b), part in per_token(grid).groupby(["a", "b"], sort=False):
        loss = -part.groupby(["domain", "scale_a", "scale_b"]).value.mean()
        for domain, other, own_first in ((a, b, True), (b, a, False)):
            table = loss[domain].unstack("scale_b" if own_first else "scale_a")  # a row a λ of the own T
            gain = table[0][0] - table[0][1]
            cost = (table[1] - table[0]) / gain if gain > 0 else table[1] * np.nan
            rows += [dict(domain=domain, other=other, scale=scale, share=share) for scale, share in cost.items()]
    return pd.DataFrame(rows)


def diagonal(grid: pd.DataFrame, family: Family, seed: int) -> pd.DataFrame:
    """Two vectors added with one λ, the best for the worst of their domains, less λ = 1, on the replies chosen on.

    A row a pair of `grid`: method, effect with low and high, n and sources. The λ is chosen on the items that it is
    scored on, which flatters it.
    """
    named, rows = specialists(family), []
    for (a, b), part in per_token(grid).groupby(["a", "b"], sort=False):
        members_at = {(0.0, 0.0): family.pretrained.name, (1.0, 0.0): named[a], (0.0, 1.0): named[b]}
        cells = list(zip(part.scale_a.astype(float), part.scale_b.astype(float), strict=True))
        who = [members_at.get(cell, f"{cell[0]:g}" if cell[0] == cell[1] else None) for cell in cells]
        values = part.assign(who=who).dropna(subset=["who"])
        whos = [one for one in values.who.unique() if one not in members_at.values()]
        drawn = [_smallest(normalised(values, family, seed, clustered), whos) for clustered in (True, False)]
        best = max(whos, key=lambda one: np.nan_to_num(drawn[0][one]["worst"][0], nan=-np.inf))
        found = _widest([each[best]["worst"] - each["1"]["worst"] for each in drawn], "")
        one = values[values.who == whos[0]]
        about = dict(method=f"{a} and {b}, λ = {best}", n=len(one), sources=_count(one))
        rows.append(about | {name: found[name] for name in ("effect", "low", "high")})
    return pd.DataFrame(rows)


def beside_turned(
    family: Family, *, draws: int, count: int, seed: int, dtype: str, batch: int = BATCH, store: Store | None = None
) -> pd.DataFrame:
    """Nats of domain a's replies, all of them, by θ_pre + T_a + T_b and by θ_pre + T_a + a turned T_b, both ways round.

    A row an item: domain (a), member (whose T is added), sides (`turned.NONE` for T_b itself, "left", ALONE for
    θ_pre + T_a, PRETRAINED), draw, source, item, nats, tokens; draw i of T_b, turned on its left, has the seed
    `seed` + i. Raises TuningVecError for fewer than three draws.
    """
    if draws < 3:
        raise TuningVecError(f"draws is {draws}; a spread needs three or more")
    named, pretrained, parts, runs = specialists(family), family.pretrained.name, [], []
    for a, b in [order for pair in pairs(family, count) for order in (pair, pair[::-1])]:
        own, other = named[a], named[b]
        fixed = {
            PRETRAINED: {pretrained: 1.0},
            ALONE: {own: 1.0},
            turned.NONE: {own: 1.0, other: 1.0, pretrained: -1.0},
        }
        asked = {(sides, 0): models.Arithmetic(family, terms, own, dtype) for sides, terms in fixed.items()}
        asked |= {("left", i): models.Turned(family, other, seed + i, dtype, "left", own) for i in range(draws)}
        table = losses.nats(list(asked.values()), family, domains=[a], batch=batch, store=store)
        about = {one.name: key for key, one in asked.items()}
        sides, draw = zip(*table.model.map(about), strict=True)
        parts.append(table.assign(domain=a, member=other, sides=sides, draw=draw).drop(columns=["model", "text"]))
        runs += table.attrs["runs"]
    return joined(parts, runs)


def costs(items: pd.DataFrame) -> pd.DataFrame:
    """What T_b adds to domain a's loss beside what its turned draws add (`turned.against_draws`), in nats per token.

    `items` are of `beside_turned`. With the columns domain, and gain: what T_a takes off the loss of θ_pre.
    """
    rows, gains = [], {}
    for (domain, member), part in items.groupby(["domain", "member"], sort=False):
        value = part.assign(value=part.nats / part.tokens)
        wide = value.pivot(index="item", columns=["sides", "draw"], values="value")
        source = part.drop_duplicates("item").set_index("item").source.loc[wide.index].to_numpy()
        alone, drawn = wide[ALONE, 0], wide["left"]
        gap = (wide[turned.NONE, 0] - drawn.mean(axis=1)).to_numpy()
        error = float(np.std(gap, ddof=1)) * (design_effect(gap, source) / len(gap)) ** 0.5
        about = dict(member=member, what=domain, items=len(set(source)))
        rows.append(about | dict(sides=turned.NONE, draw=0, value=(wide[turned.NONE, 0] - alone).mean(), error=0.0))
        rows += [about | dict(sides="left", draw=i, value=(drawn[i] - alone).mean(), error=error) for i in drawn]
        gains[domain, member] = (wide[PRETRAINED, 0] - alone).mean()
    found = turned.against_draws(pd.DataFrame(rows)).rename(columns={"what": "domain"})
    return found.assign(gain=[gains[key] for key in zip(found.domain, found.member, strict=True)])


RUNS = f"{NO_RUN} Of what DARE drops there is one draw"


def conflict(found: pd.DataFrame, pairs: int, share: float = 0.05) -> Verdict:
    """Whether another domain's T costs a domain more than a turned T of the same length and spectrum; of `costs`.

    `pairs` is how many pairs of domains there are; those of `costs` were measured.
    """
    rule = (
        "added to a domain's own vector, both with λ = 1, another domain's vector raises the loss on the domain's "
        f"replies, in nats per token; this rise exceeds the mean rise by its turned draws by at least {share:g} of "
        "what the domain's own vector takes off the loss of the pretrained model, in both directions of "
        f"{len(found) // 2} of {pairs} pairs of domains; {turned.intervals(found)}, on other facts as well. {NO_RUN}"
    )
    cases = found.assign(least=share * found.gain)
    unmeasured = cases.gain <= 0
    cases.loc[unmeasured, ["effect", "low", "high"]] = np.nan
    least = cases.least.where(~unmeasured, 0)
    found = turned.judged(cases, rule, least, direction=1, unit="nats per token", share=share)
    return replace(found, falsified=None) if unmeasured.all() else found


NO_WORST = "a domain's specialist is not above guessing on its benchmarks, so that there is no worst domain"
OVER = "Holm over the methods at 0.05; bootstrap over facts, the worst domain taken anew in each draw"


def _cases(table: pd.DataFrame, whos: Collection[str]) -> pd.DataFrame:
    kept = ["who", "worst", "mean", "effect", "low", "high", "lowest", "clear", "n", "sources"]
    return table.loc[table.who.isin(whos), kept].rename(columns={"who": "method"})


def better_than_sum(table: pd.DataFrame, method: str, part: float = 0.25) -> Verdict:
    """Whether the method that did best where settings were chosen is better than the tuned sum; of `compared`."""
    rule = (
        "of the methods other than the sum, the one with the highest mean on the items used for the choice is taken. "
        "On the other items its normalised score (two cases: the mean of the domains, and the worst domain) minus that "
        f"of the sum with its own chosen λ is above 0, and at least {part:g} of what the sum lacks of the specialists' "
        "1; "
        f"bootstrap over facts, the worst domain taken anew in each draw. {RUNS}"
    )
    if table.empty:
        return unknown(rule, NO_WORST, part=part, method=method)
    own, of_sum = (table[table.who == who].iloc[0] for who in (method, SUM))
    cases = pd.DataFrame(
        dict(domains=name, effect=own[f"{prefix}effect"], low=own[f"{prefix}low"], high=own[f"{prefix}high"],
             least=max(part * (1 - of_sum[name]), 0.01), score=own[name], n=own.n, sources=own.sources)
        for name, prefix in (("mean", "mean_"), ("worst", ""))
    )  # fmt: skip
    met = bool((cases.high < cases.least).any()) if cases.effect.notna().all() else None
    about = dict(unit="of the normalised score", falsified=met, method=method, part=part)
    return judge(cases, rule, least=cases.least.fillna(0.05), **about)


def worse_than_sum(table: pd.DataFrame, least: float = 0.05) -> Verdict:
    """Whether the methods other than the sum are worse than the tuned sum on the worst domain; of `compared`.

    BY_DOMAIN, of which the sum is a case, is not judged.
    """
    rule = (
        "the normalised score on the worst domain, minus that of the sum with its own chosen λ, is clearly below 0 and "
        f"at least {least:g} below, for every method; the sum by domain, of which the sum is a case, is not judged. "
        f"{OVER}. {RUNS}"
    )
    if table.empty:
        return unknown(rule, NO_WORST, smallest=least)
    cases = _cases(table, set(table.who) - {SUM, PLAIN, BY_DOMAIN})
    worse = cases.clear & (cases.effect <= -least)
    met = True if (cases.lowest > -least).any() else False if worse.all() and len(worse) else None
    about = dict(least=least, direction=-1, unit="of the normalised score")
    return judge(cases.drop(columns="lowest"), rule, falsified=met, smallest=least, **about)


def tuned_beats_plain(table: pd.DataFrame, pairs: pd.DataFrame | None = None, least: float = 0.05) -> Verdict:
    """Whether a λ chosen on other items is better than λ = 1 on the worst domain; of `compared` with the sum.

    With `pairs`, of `diagonal`, those are cases too.
    """
    rule = (
        "the normalised score of the sum on the worst domain with λ chosen on other items, minus that at λ = 1, is "
        f"above 0 and at least {least:g}; bootstrap over facts, the worst domain taken anew in each draw. Of two "
        f"vectors alone λ is chosen on the items that it is scored on, which flatters it. {NO_RUN}"
    )
    if table.empty:
        return unknown(rule, NO_WORST, smallest=least)
    cases = _cases(table, [PLAIN]).drop(columns=["clear", "lowest", "mean", "worst"])
    low, high = -cases.high, -cases.low
    cases = cases.assign(effect=-cases.effect, low=low, high=high, method="all vectors")
    cases = cases if pairs is None else pd.concat([cases, pairs], ignore_index=True)
    met = bool((cases.high < least).any()) if cases.effect.notna().all() else None
    return judge(cases, rule, least=least, unit="of the normalised score", falsified=met, smallest=least)


def only_the_sum_gains(table: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether, where the sum gains over the pretrained member, every other method loses; of `compared`.

    The effect is the others' loss. Unknown where the sum does not clearly gain.
    """
    rule = (
        "where the sum with its chosen λ clearly gains, the normalised score of every other method, the mean of the "
        f"domains, is clearly below 0, the pretrained member's, by at least {least:g}; Holm over all at 0.05, "
        f"bootstrap over facts. The effect is that loss. {RUNS}"
    )
    if table.empty:
        return unknown(rule, NO_WORST, smallest=least)
    of_sum = table[table.who == SUM].iloc[0]
    if not (of_sum.gain_clear and of_sum.gain >= least):
        return unknown(rule, "the sum itself is not shown to gain", smallest=least)
    rows = table[~table.who.isin([SUM, PLAIN])].rename(columns={"who": "method"})
    cases = rows[["method", "gain", "n", "sources"]].assign(
        effect=-rows.gain, low=-rows.gain_high, high=-rows.gain_low, clear=rows.gain_clear
    )
    gains = cases.clear & (cases.gain >= least)
    met = True if gains.any() else False if (-cases.low < least).all() else None
    return judge(cases, rule, least=least, unit="of the normalised score", falsified=met, smallest=least)
