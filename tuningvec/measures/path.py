"""Whether fine-tuning is linearly connected: losses along lines between weights, and the path that training took.

A line leads from the weights of one member at λ = 0 to those of another at λ = 1, (1 − λ) θ_i + λ θ_j; from the
pretrained one that is θ_pre + λT. Losses are nats per token over all tokens of a text's items.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t
from tqdm import tqdm

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Adapter, Family, FineTuned, Folder
from tuningvec.measures import losses, models, turned
from tuningvec.measures.decoding import BATCH
from tuningvec.recipes.training import checkpoint
from tuningvec.store import Store, Told, joined
from tuningvec.verdict import NO_RUN, Verdict, judge, unknown
from tuningvec.weights import trajectory
from tuningvec.weights.checkpoint import Sides
from tuningvec.weights.delta import TuningVector, identities, inner_products

Kind = Literal["T", "specialists", "facts", "form"]
KINDS: dict[Kind, str] = {
    "T": "a specialist and its pretrained model",
    "specialists": "two specialists",
    "facts": "two trainings on the same facts",
    "form": "a specialist and its placebo",
}
LEAST = 0.05  # nats per token
MEMORY = 30  # steps after which AdamW with β₁ = 0.9 has forgotten a gradient: 0.9³⁰ is 0.04
MATTERS = f"{LEAST:g} nats per token, a perplexity {np.expm1(LEAST):.0%} higher"
CLUSTERS = "texts of one source, such as two questions on one drug, count as one cluster"
NO_REPLIES = "no specialist's domain has held-out replies"
OWN = "own"  # T of the member's own weights, among those that its training kept


class Line(NamedTuple):
    """From member `a`, λ = 0, to member `b`, λ = 1; `kind` says what the two share."""

    kind: Kind
    a: str
    b: str


def specialists(family: Family) -> list[FineTuned]:
    """The members of role domain, whether or not their domain has benchmarks."""
    return [member for member in family.fine_tuned if member.role == "domain"]


def lines(family: Family) -> list[Line]:
    """From θ_pre to each specialist, between every two of these, and from each to its controls and between them."""
    some, pretrained = specialists(family), family.pretrained.name
    found = [Line("T", pretrained, member.name) for member in some]
    found += [Line("specialists", a.name, b.name) for a, b in itertools.combinations(some, 2)]
    for member in some:
        own = {
            keeps: [c.name for c in family.controls if (c.controls, c.keeps) == (member.name, keeps)] for keeps in KINDS
        }
        found += [Line("facts", *pair) for pair in itertools.combinations([member.name, *own["facts"]], 2)]
        found += [Line("form", member.name, name) for name in own["form"]]
    return found


def read_replies(family: Family) -> list[str]:
    """The domains of the specialists that have held-out replies."""
    return [d for d in dict.fromkeys(m.domain for m in specialists(family)) if d in family.replies]


def own_replies(family: Family) -> dict[str, str]:
    """The text of each specialist's own domain, of those that have one, as `losses.nats` names it."""
    return {m.name: f"{m.domain} replies" for m in specialists(family) if m.domain in family.replies}


def along(
    family: Family,
    scales: Sequence[float],
    dtype: str,
    *,
    limit: int | None = None,
    texts: int = 24,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """Losses of every text along all `lines`, at these λ; beyond 0 and 1 from θ_pre to a specialist alone.

    Texts are the held-out replies (the first `limit`) of the domains of all specialists, and the first `texts`
    documents of each corpus. Columns kind, a, b, scale and those of `losses.nats`. Raises TuningVecError for λ that
    leave out 0, 1 or all between, and for a family without specialists.
    """
    asked = checked(family, scales)
    domains, how = read_replies(family), dict(limit=limit, batch=batch, store=store)
    parts = []
    for line in tqdm(lines(family), desc="lines"):
        some = [scale for scale in asked if line.kind == "T" or 0 <= scale <= 1]
        here = {s: models.Arithmetic(family, {line.a: 1 - s, line.b: s}, line.b, dtype) for s in some}
        parts.append(_losses(here, family, domains, texts, **how).assign(**line._asdict()))
    return joined(parts)


def checked(family: Family, scales: Sequence[float]) -> list[float]:
    """These λ in order; raises as `along` does."""
    found = sorted({float(scale) for scale in scales})
    if not np.isfinite(found).all() or not {0.0, 1.0} <= set(found) or not any(0 < scale < 1 for scale in found):
        raise TuningVecError(f"scales are {list(scales)}; a line needs 0, 1 and some λ between them")
    if not specialists(family):
        raise TuningVecError(f"{family.file}: no member of role domain, from whose weights a line would start")
    return found


def _losses(
    asked: Mapping[float, models.Opened], family: Family, domains: Sequence[str], texts: int, **how: Any
) -> pd.DataFrame:
    """The losses of models, {λ: model}, with a column scale."""
    corpora = dict.fromkeys(family.corpora, texts)
    found = losses.nats(list(asked.values()), family, domains=domains, corpora=corpora, **how)
    return found.assign(scale=found.model.map({one.name: scale for scale, one in asked.items()}))


def along_turned(
    family: Family,
    scales: Sequence[float],
    among: Sequence[float],
    dtype: str,
    *,
    sides: Sequence[str],
    draws: int,
    seed: int,
    limit: int | None = None,
    texts: int = 24,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """The same along θ_pre + λ · turned T of each specialist, on its own domain's replies and the documents.

    T is turned `draws` times on these sides, from `seed` on, at each λ in `scales`. Columns member, sides, draw, scale
    and those of `losses.nats`. Raises TuningVecError for fewer than three draws, sides that there are not, and for λ
    that are not `among` those of T itself.
    """
    if odd := sorted(set(map(float, scales)) - set(checked(family, among))):
        raise TuningVecError(f"turned_at has {odd[0]:g}, where T itself is not measured; take some of {list(among)}")
    if draws < 3:
        raise TuningVecError(f"draws is {draws}; a spread needs three or more")
    if not sides or not set(sides) <= set(get_args(Sides)):
        raise TuningVecError(f"sides are {list(sides)}; name {' or '.join(get_args(Sides))}, or each")
    parts, how = [], dict(limit=limit, batch=batch, store=store)
    each = list(itertools.product(specialists(family), sides, range(draws)))
    for member, side, draw in tqdm(each, desc="turned"):
        here = {float(s): _turned(family, member.name, seed + draw, side, float(s), dtype) for s in scales}
        domains = [member.domain] if member.domain in family.replies else []
        found = _losses(here, family, domains, texts, **how)
        parts.append(found.assign(member=member.name, sides=side, draw=draw))
    return joined(parts)


def _turned(family: Family, member: str, seed: int, sides: Sides, scale: float, dtype: str) -> models.Merged:
    """θ_pre + λ · turned T, prompted as the member."""
    one = models.Turned(family, member, seed, dtype, sides, start=family.pretrained.name, scale=scale)
    return models.Merged(family, one.weights, one.name, member, dtype)


class PerToken(NamedTuple):
    """Means per token of several quantities of the same items, their standard errors, and the number of sources."""

    mean: Float[np.ndarray, " quantities"]
    error: Float[np.ndarray, " quantities"]
    sources: int


def per_token(
    sums: Float[np.ndarray, "items quantities"], tokens: Float[np.ndarray, " items"], sources: np.ndarray
) -> PerToken:
    """Σ sums / Σ tokens, with the standard error of that ratio by linearisation, clustered by source.

    With residuals e = sums − mean · tokens and G sources its square is (G / (G − 1)) Σ_sources (Σ_items e)² /
    (Σ tokens)², no smaller than that of independent items; NaN of one source alone. W. G. Cochran 1977, Sampling
    Techniques, 3rd ed., §6.
    """
    total = tokens.sum()
    mean = sums.sum(0) / total
    residual = sums - np.outer(tokens, mean)
    source = pd.factorize(sources)[0]
    groups = np.zeros((source.max() + 1, sums.shape[1]))
    np.add.at(groups, source, residual)
    variances = [
        len(e) / (len(e) - 1) * (e**2).sum(0) if len(e) > 1 else np.full_like(mean, np.nan) for e in (groups, residual)
    ]
    return PerToken(mean, np.sqrt(np.max(variances, axis=0)) / total, len(groups))


def interval(found: PerToken, together: int, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Student's t intervals that hold for so many means together with 1 − `alpha` (Bonferroni)."""
    half = t.ppf(1 - alpha / (2 * together), max(found.sources - 1, 1)) * found.error
    return found.mean - half, found.mean + half


class _Curve(NamedTuple):
    nats: pd.DataFrame  # a row an item, a column a λ
    tokens: np.ndarray
    sources: np.ndarray


def _curve(rows: pd.DataFrame) -> _Curve:
    """One text along one line."""
    items = rows.drop_duplicates("item").set_index("item")
    nats = rows.pivot(index="item", columns="scale", values="nats").loc[items.index]
    return _Curve(nats, items.tokens.to_numpy(float), items.source.to_numpy())


def changes(curves: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """The loss at each λ of each text and line, and its difference from that at λ = 0 with its interval.

    Columns kind, a, b, text, scale, loss, change, low, high; each interval is for itself.
    """
    rows = []
    for (kind, a, b, text), part in curves.groupby(["kind", "a", "b", "text"], sort=False):
        curve = _curve(part)
        found = per_token(curve.nats.sub(curve.nats[0.0], axis=0).to_numpy(), curve.tokens, curve.sources)
        loss, (low, high) = curve.nats.sum().to_numpy() / curve.tokens.sum(), interval(found, 1, alpha)
        rows += [
            dict(kind=kind, a=a, b=b, text=text, scale=scale, loss=level, change=change, low=below, high=above)
            for scale, level, change, below, above in zip(curve.nats, loss, found.mean, low, high, strict=True)
        ]
    return pd.DataFrame(rows)


def excess(curves: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """How far each text's loss lies above the chord, L(λ) − (1 − λ) L(0) − λ L(1), at each λ between 0 and 1.

    Intervals hold for all λ, texts and lines of a kind together. Columns kind, a, b, text, scale, excess, low, high,
    first and last (the losses of both ends), n and sources.
    """
    rows = []
    for kind, some in curves.groupby("kind", sort=False):
        groups = some.groupby(["a", "b", "text"], sort=False)
        for (a, b, text), part in groups:
            curve = _curve(part)
            inside = [scale for scale in curve.nats if 0 < scale < 1]
            over = _over_chord(curve.nats, inside)
            found = per_token(over, curve.tokens, curve.sources)
            low, high = interval(found, len(inside) * groups.ngroups, alpha)
            first, last = (float(curve.nats[end].sum() / curve.tokens.sum()) for end in (0.0, 1.0))
            about = dict(kind=kind, a=a, b=b, text=text, first=first, last=last, n=len(over), sources=found.sources)
            rows += [
                about | dict(scale=scale, excess=mean, low=below, high=above)
                for scale, mean, below, above in zip(inside, found.mean, low, high, strict=True)
            ]
    return pd.DataFrame(rows)


def _over_chord(nats: pd.DataFrame, inside: Sequence[float]) -> Float[np.ndarray, "items scales"]:
    chord = [(1 - scale) * nats[0.0] + scale * nats[1.0] for scale in inside]
    return nats[list(inside)].to_numpy() - np.array(chord).T


def barriers(over: pd.DataFrame) -> pd.DataFrame:
    """The largest excess of each text and line, 0 where there is none, with an interval that covers where it lies.

    `over` is of `excess`, whose intervals hold for all λ together: the largest lower limit is below the largest excess,
    and that below the largest upper limit, wherever it lies. `excess` is the largest on the mean curve, which may be
    below 0, and `at` its λ.
    """
    rows = []
    for (kind, a, b, text), part in over.groupby(["kind", "a", "b", "text"], sort=False):
        most = part.loc[part.excess.idxmax()]
        ends = {name: float(np.maximum(part[name].to_numpy(), 0).max()) for name in ("low", "high")}  # NaN stays
        about = dict(
            kind=kind, a=a, b=b, text=text, barrier=max(0.0, most.excess), **ends, excess=most.excess, at=most.scale
        )
        rows.append(about | {name: most[name] for name in ("first", "last", "n", "sources")})
    columns = ["kind", "a", "b", "text", "barrier", "low", "high", "excess", "at", "first", "last", "n", "sources"]
    return pd.DataFrame(rows, columns=columns)


def moves(curves: pd.DataFrame, drawn: pd.DataFrame, scale: float) -> pd.DataFrame:
    """L(θ_pre + λT) − L(θ_pre) at one λ, along T and along each turned T, as `turned.against_draws` takes them.

    `drawn` is of `along_turned`. `error` is the standard error over texts of T less the mean of its draws, `items` the
    number of sources.
    """
    rows = []
    for (member, text), part in drawn[drawn.scale == scale].groupby(["member", "text"], sort=False):
        curve = _curve(curves[(curves.kind == "T") & (curves.b == member) & (curves.text == text)])
        total, start = curve.tokens.sum(), curve.nats[0.0]
        about = dict(member=member, what=text)
        rows.append(about | dict(sides=turned.NONE, draw=0, value=(curve.nats[scale] - start).sum() / total))
        for sides, some in part.groupby("sides", sort=False):
            each = some.pivot(index="item", columns="draw", values="nats").loc[start.index]
            gap = (curve.nats[scale] - each.mean(axis=1)).to_numpy()[:, None]
            found = per_token(gap, curve.tokens, curve.sources)
            beside = dict(error=found.error[0], items=found.sources)
            rows += [
                about | beside | dict(sides=sides, draw=draw, value=(each[draw] - start).sum() / total) for draw in each
            ]
    columns = ["member", "what", "sides", "draw", "value", "error", "items"]
    return pd.DataFrame(rows, columns=columns)


def turned_changes(curves: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """`moves` at every λ of the turned ones, and where 1 is among them the excess over the chord between 0 and 1.

    Columns member, text, sides, draw, scale, change, excess.
    """
    scales = sorted(drawn.scale.unique())
    found = pd.concat([moves(curves, drawn, scale).assign(scale=scale) for scale in scales], ignore_index=True)
    found = found.rename(columns={"what": "text", "value": "change"})
    keys = ["member", "text", "sides", "draw"]
    ends = found[found.scale == 1].set_index(keys).change.rename("end")
    found = found.join(ends, on=keys)
    found["excess"] = (found.change - found.scale * found.end).where(found.scale.between(0, 1, inclusive="neither"))
    return found[[*keys, "scale", "change", "excess"]]


def against_turned(
    curves: pd.DataFrame, drawn: pd.DataFrame, scale: float, family: Family, sign: Literal[1, -1] = 1
) -> pd.DataFrame:
    """`turned.against_draws` of the rises (`sign` −1: falls) at one λ, on replies of the own domain."""
    found = moves(curves, drawn, scale)
    some = found[found.what == found.member.map(own_replies(family))]
    return turned.against_draws(some.assign(value=sign * some.value))


def own_and_others(curves: pd.DataFrame, family: Family, scales: Sequence[float], alpha: float = 0.05) -> pd.DataFrame:
    """What T at some λ does to its own domain's replies, less what it does to those of the domain it does most to else.

    Columns member, scale, other (that text), own and others (the falls of both for λ > 0, rises for λ < 0, in nats per
    token), effect = own − others with an interval for all members, λ and other domains together (Welch), n and sources.
    """
    rows, texts = [], own_replies(family)
    pairs = [(scale, member, text) for scale in scales for member, own in texts.items() for text in texts.values()
             if text != own]  # fmt: skip
    for scale, (member, own) in itertools.product(scales, texts.items()):
        sign, line = (-1 if scale > 0 else 1), curves[(curves.kind == "T") & (curves.b == member)]
        found = {}
        for text in dict.fromkeys(texts.values()):
            curve = _curve(line[line.text == text])
            gap = sign * (curve.nats[scale] - curve.nats[0.0]).to_numpy()[:, None]
            found[text] = per_token(gap, curve.tokens, curve.sources)
        others = {text: one for text, one in found.items() if text != own}
        if not others:
            continue
        other = max(others, key=lambda text: others[text].mean[0])
        error = float(np.hypot(found[own].error[0], others[other].error[0]))
        half = t.ppf(1 - alpha / 2 / len(pairs), max(min(found[own].sources, others[other].sources) - 1, 1)) * error
        about = dict(member=member, scale=scale, other=other, own=found[own].mean[0], others=others[other].mean[0])
        effect = about["own"] - about["others"]
        sizes = dict(n=int((line.text == own).sum() / line.scale.nunique()), sources=found[own].sources)
        rows.append(about | dict(effect=effect, low=effect - half, high=effect + half) | sizes)
    return pd.DataFrame(rows)


def of_its_own(found: pd.DataFrame, least: float = LEAST) -> Verdict:
    """Whether T moves its own domain's replies by more than those of any other domain; of `own_and_others`."""
    rule = (
        r"Effect: the fall of the loss on held-out replies of the own domain at $\lambda > 0$, its rise at "
        r"$\lambda < 0$, less that on replies of the other domain that moves most, in nats per token. Interval: "
        f"Welch's t over texts ({CLUSTERS}), 95 % for all members, λ and other domains together (Bonferroni). Smallest "
        f"that matters: {least:g}. Direction: up. {NO_RUN}"
    )
    if found.empty:
        return unknown(rule, f"there is one domain alone, or {NO_REPLIES}", smallest=least)
    met = True if (found.high < least).any() else False if (found.low > least).all() else None
    return judge(found, rule, least=least, unit="nats", falsified=met, smallest=least)


def on_documents(curves: pd.DataFrame, drawn: pd.DataFrame, scales: Sequence[float], family: Family) -> pd.DataFrame:
    """`turned.against_draws` of the rises on documents at all these λ together, which `what` names."""
    texts, parts = own_replies(family), []
    for scale in scales:
        found = moves(curves, drawn, scale)
        found = found[found.what != found.member.map(texts)]
        parts.append(found.assign(what=found.what + f", λ = {scale:g}".replace("-", "−")))
    return turned.against_draws(pd.concat(parts, ignore_index=True))


def connected(found: pd.DataFrame, kind: Kind, least: float = LEAST) -> Verdict:
    """Whether no loss along the lines of this kind has a barrier that matters; `found` is of `barriers`.

    Lines to a placebo stand beside those between trainings on the same facts, not judged.
    """
    rule = (
        "Effect: the largest excess of the loss over the chord between both ends, in nats per token, at the measured "
        r"$\lambda$ between 0 and 1; 0 where there is none. Interval: Student's t of the means over texts, "
        r"95 % for all of these $\lambda$ and cases together (Bonferroni), so that it also holds for the place of the "
        f"largest. Smallest that matters: {MATTERS}. No direction: the claim is that there is none that matters. "
        + NO_RUN
    )
    found = found.rename(columns={"barrier": "effect"}).assign(unseen=least - found.excess)
    cases, beside = found[found.kind == kind], found[found.kind == "form"].assign(outcome="not judged")
    numbers = dict(smallest=least, apart=(cases["last"] - cases["first"]).abs())
    if cases.empty:
        return unknown(rule, f"there is no such line, between {KINDS[kind]}", **numbers)
    met = True if (cases.low > least).any() else False if (cases.high < least).all() else None
    verdict = judge(cases, rule, least=least, direction=0, unit="nats", falsified=met, **numbers)
    if kind != "facts" or beside.empty:
        return verdict
    return Verdict(**{**vars(verdict), "cases": pd.concat([verdict.cases, beside], ignore_index=True)})


def special(compared: pd.DataFrame, least: float = LEAST) -> Verdict:
    """Whether the loss of a specialist's own domain falls further along T than along turned T (`against_turned`)."""
    rule = (
        r"Effect: the fall of the loss on held-out replies of the own domain from $\theta_\text{pre}$ to "
        r"$\theta_\text{pre} + T$, less the mean fall to $\theta_\text{pre}$ plus turned $T$, in nats per token; "
        + _beside_draws(compared, least, "up")
    )
    return _judged(compared, rule, least, 1, NO_REPLIES)


def as_costly(compared: pd.DataFrame, least: float = LEAST) -> Verdict:
    """Whether T changes the loss of documents as a random direction of its length does (`on_documents`).

    Where neither changes it by as much as matters there is nothing to compare.
    """
    rule = (
        r"Effect: the rise of the loss on documents from $\theta_\text{pre}$ to $\theta_\text{pre} + \lambda T$, less "
        r"the mean rise to $\theta_\text{pre} + \lambda$ times turned $T$, in nats per token; "
        + _beside_draws(compared, least, "none, the claim is that there is no difference that matters")
        + f" A case in which both change it by less than {least:g} is not judged"
    )
    small = compared[["value", "mean"]].abs().max(axis=1) < least
    beside = compared[small].assign(sides=compared.sides.map(turned.WORDS), outcome="not judged")
    if len(compared) and small.all():
        why = f"neither T nor turned T changes the loss of documents by {least:g} nats per token"
        return Verdict("cannot be known here", rule, why, beside, dict(smallest=least))
    found = _judged(compared[~small], rule, least, 0, "no document was read there")
    return replace(found, cases=pd.concat([found.cases, beside], ignore_index=True))


def negation(compared: pd.DataFrame, scale: float, least: float = LEAST) -> Verdict:
    """Whether going against T harms the own domain more than a turned T of that length (`against_turned`)."""
    rule = (
        rf"Effect: the rise of the loss on held-out replies of the own domain from $\theta_\text{{pre}}$ to "
        rf"$\theta_\text{{pre}} + \lambda T$ at $\lambda = {scale:g}$, less the mean rise along turned $T$ at the same "
        r"$\lambda$, in nats per token; " + _beside_draws(compared, least, "up")
    )
    return _judged(compared, rule, least, 1, NO_REPLIES)


def _beside_draws(compared: pd.DataFrame, least: float, direction: str) -> str:
    of = f"{turned.intervals(compared)}, on other texts as well ({CLUSTERS})" if len(compared) else "Student's t"
    return f"{of}. Smallest that matters: {least:g} nats per token. Direction: {direction}. {NO_RUN}"


def _judged(compared: pd.DataFrame, rule: str, least: float, direction: Literal[1, 0], absent: str) -> Verdict:
    if compared.empty:
        return unknown(rule, absent, smallest=least)
    known = compared[["effect", "low", "high"]].notna().all(axis=1)
    if not known.any():
        return unknown(rule, "too few sources for an interval", smallest=least)
    return turned.judged(compared[known], rule, least, direction=direction, unit="nats", smallest=least)


def extrapolated(curves: pd.DataFrame, family: Family, alpha: float = 0.05) -> pd.DataFrame:
    """What the first measured λ beyond 1 adds to the fall of the loss on each specialist's own replies.

    Columns member, scale, effect = L(1) − L(λ) with its interval, for all members together; fall = L(0) − L(1); before,
    what the slope over the last measured step up to 1 would give; `left` = L(1); `lowest`, the measured λ with the
    smallest loss; n and sources. Empty where no λ lies beyond 1.
    """
    rows, texts = [], own_replies(family)
    for member, text in texts.items():
        curve = _curve(curves[(curves.kind == "T") & (curves.b == member) & (curves.text == text)])
        beyond = [scale for scale in curve.nats if scale > 1]
        if not beyond:
            break
        gaps = np.stack([curve.nats[1.0] - curve.nats[beyond[0]], curve.nats[0.0] - curve.nats[1.0]], 1)
        found = per_token(gaps, curve.tokens, curve.sources)
        low, high = interval(found, len(texts), alpha)
        about = dict(member=member, text=text, scale=beyond[0], effect=found.mean[0], low=low[0], high=high[0])
        last = max(scale for scale in curve.nats if scale < 1)
        slope = (curve.nats[last] - curve.nats[1.0]).sum() / curve.tokens.sum() / (1 - last)
        about |= dict(fall=found.mean[1], before=slope * (beyond[0] - 1))
        about |= dict(left=curve.nats[1.0].sum() / curve.tokens.sum(), lowest=float(curve.nats.sum().idxmin()))
        rows.append(about | dict(n=len(gaps), sources=found.sources))
    columns = ["member", "text", "scale", "effect", "low", "high", "fall", "before", "left", "lowest", "n", "sources"]
    return pd.DataFrame(rows, columns=columns)


def keeps_falling(found: pd.DataFrame, share: float = 0.5) -> Verdict:
    """Whether the loss of the own domain keeps falling beyond λ = 1, by a share of its last slope before."""
    rule = (
        r"Effect: the loss on held-out replies of the own domain at $\lambda = 1$ less that at the first measured "
        r"$\lambda$ beyond, in nats per token. Interval: Student's t over texts, 95 % for all members together "
        f"(Bonferroni). Smallest that matters: {share:.0%} of what the slope over the last measured step up to 1 would "
        "give. Direction: down. Where the loss does not fall there, or what is left of it is less than what would "
        f"matter, a case cannot be judged. {NO_RUN}"
    )
    if found.empty:
        return unknown(rule, f"no λ beyond 1 was measured, or {NO_REPLIES}", share=share)
    least = share * found.before
    cases = found.assign(least=least)
    known = (found.before > 0) & (least < found.left)
    cases[["effect", "low", "high"]] = cases[["effect", "low", "high"]].where(known)
    met = bool((cases.high < cases.least).any()) if cases.high.notna().any() else None
    return judge(cases, rule, least=least, unit="nats", digits=3, falsified=met, share=share)


def training(family: Family, store: Store) -> tuple[pd.DataFrame, pd.DataFrame]:
    """⟨T_t, T_u⟩ of the weights that the training of each fine-tuned member kept, and the members without any.

    The first table has columns member, a, b (steps as texts; "own" are the member's own weights) and inner, in the
    order of steps; the second member and why. Steps end with the last that was kept, or with the member's own weights
    where its training report tells of more steps. `attrs["runs"]` of the first tells when and on what it was measured.
    """
    theta, parts, absent = members.checkpoint(family), [], []
    for member in family.fine_tuned:
        if not (vectors := _kept(family, member)):
            absent.append(dict(member=member.name, why=_why(member)))
            continue
        record = store.record("training", {"weights": identities(vectors, store)}, __name__)
        if member.name not in record:
            products = inner_products(vectors, theta).groupby(["a", "b"], sort=False).inner.sum().reset_index()
            record.add(member.name, products.to_dict("records"))
        rows = pd.DataFrame(record.rows([member.name])).assign(member=member.name)
        rows.attrs["runs"] = Told(record.runs)
        parts.append(rows[["member", "a", "b", "inner"]])
    found = joined(parts)
    return found.reindex(columns=["member", "a", "b", "inner"]), pd.DataFrame(absent, columns=["member", "why"])


def _why(member: FineTuned) -> str:
    if not isinstance(member.source, Folder | Adapter):
        return "its weights are not a folder's; what its training kept is not known"
    return f"no `step-…` in `{member.source.path / 'checkpoints'}`"


def _kept(family: Family, member: FineTuned) -> dict[str, TuningVector]:
    """T after each step that was kept, in order, and of the member's own weights."""
    if not isinstance(member.source, Folder | Adapter):
        return {}
    folder = checkpoint(members.folder_of(family, member), 0).parent
    steps = {int(found.name.removeprefix("step-")): found for found in folder.glob("step-[0-9]*")}
    if not steps:
        return {}
    start = members.weights(family, family.pretrained.name).fitted
    T = partial(TuningVector.between, start)
    found = {str(step): T(members.elsewhere(family, member, steps[step]).fitted) for step in sorted(steps)}
    own = T(members.weights(family, member.name).fitted)
    last = members.training_reports(family).get(member.name, {}).get("steps", 0)
    return found | ({str(last): own} if last > max(steps) else {}) | {OWN: own}


def _gram(products: pd.DataFrame) -> tuple[list[int], np.ndarray, float]:
    """Steps of one member after which T is not 0, ⟨T_t, T_u⟩ of these, and cos(T_end, T) with its own weights' T."""
    labels = list(dict.fromkeys(products.a))
    upper = products.pivot(index="a", columns="b", values="inner").loc[labels, labels].to_numpy()
    whole = np.where(np.isnan(upper), upper.T, upper)
    rows = [i for i, label in enumerate(labels) if label != OWN and whole[i, i] > 0]
    own, end = labels.index(OWN), rows[-1] if rows else 0
    alike = whole[end, own] / np.sqrt(whole[end, end] * whole[own, own]) if rows and whole[own, own] > 0 else np.nan
    return [int(labels[i]) for i in rows], whole[np.ix_(rows, rows)], float(alike)


def on_the_way(products: pd.DataFrame) -> pd.DataFrame:
    """Where each checkpoint lies to the straight line from θ_pre to the end, beside a walk of orthogonal increments.

    Columns member, step, norm = ‖T_t‖ / ‖T_end‖, later (`trajectory.later`, MEMORY steps apart), own = cos(T_end, T),
    those of `trajectory.Places`, and the same of `trajectory.walk` with `_walk`; steps after which T is 0 are left out.
    """
    parts = []
    for member, part in products.groupby("member", sort=False):
        steps, gram, own = _gram(part)
        if not steps:
            continue
        found, null = (trajectory.places(one)._asdict() for one in (gram, trajectory.walk(gram)))
        about = dict(member=member, step=steps, norm=np.sqrt(np.diag(gram) / gram[-1, -1]), own=own)
        about |= dict(later=trajectory.later(gram, steps, MEMORY))
        parts.append(pd.DataFrame(about | found | {f"{name}_walk": values for name, values in null.items()}))
    places = trajectory.Places._fields
    columns = ["member", "step", "norm", "own", "later", *places, *(f"{name}_walk" for name in places)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def whole(products: pd.DataFrame) -> pd.DataFrame:
    """Each member's path as a whole beside its walk: mean and largest distance from the line, length, dimension.

    Columns member, increments (their number, the most that dimension can be), distance, largest, length, dimension,
    each also of the walk with `_walk`, and own = cos(T_end, T), 1 where the last checkpoint is the member itself.
    """
    rows = []
    for member, part in products.groupby("member", sort=False):
        steps, gram, own = _gram(part)
        row: dict[str, Any] = dict(member=member, increments=len(steps), own=own)
        for end, one in (("", gram), ("_walk", trajectory.walk(gram))) if steps else ():
            distance = trajectory.places(one).distance[:-1]
            row[f"distance{end}"] = distance.mean() if len(distance) else np.nan
            row[f"largest{end}"] = distance.max(initial=np.nan if not len(distance) else 0)
            row |= {f"{name}{end}": value for name, value in trajectory.form(one)._asdict().items()}
        rows.append(row)
    ends = ["distance", "largest", "length", "dimension"]
    columns = ["member", "increments", *(f"{name}{end}" for name in ends for end in ("", "_walk")), "own"]
    return pd.DataFrame(rows, columns=columns)


def early_points_on(places: pd.DataFrame, early: float, least: float = 0.1) -> Verdict:
    """Whether T after the share `early` of the steps points where training still goes much later (`on_the_way`)."""
    rule = (
        rf"Effect: $\cos(T_t, T_\text{{end}} - T_u)$ at the kept step $t$ nearest to {early:.0%} of all steps, $u$ the "
        f"first kept step at least {MEMORY} later, by when momentum has forgotten $t$; 0 for steps that know nothing "
        f"of each other. Interval: none, it is exact for these weights. Smallest that matters: {least:g}. Direction: "
        f"up. {NO_RUN}"
    )
    if places.empty:
        return unknown(rule, "no checkpoint of a training is at hand", smallest=least)
    known = places[places.later.notna()]
    if known.empty:
        return unknown(
            rule, f"no checkpoint was kept {MEMORY} steps after another one and before the end", smallest=least
        )
    gap = (known.step - early * known.member.map(places.groupby("member").step.max())).abs()
    cases = known.loc[gap.groupby(known.member, sort=False).idxmin()]
    cases = cases.assign(effect=cases.later, low=cases.later, high=cases.later)
    return judge(cases, rule, least=least, falsified=bool((cases.later < least).any()), smallest=least)
