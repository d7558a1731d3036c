"""What negation takes from a specialist whose training began with the form of the answer, and from one without it.

Four vectors T = θ_ft − θ_start, each a *leg*: of the form alone (a control's), of form and facts from θ_pre, of the
facts from a start that has the form, and of the facts stated alone. Scores are in percent, falls in points.
"""

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from lm_eval.api.task import Task
from scipy.special import logsumexp

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import evals, models, reply_parts, scores, turned
from tuningvec.measures.decoding import BATCH
from tuningvec.measures.models import Opened
from tuningvec.measures.reply_parts import PARTS
from tuningvec.measures.scores import ALPHA, LIKELIHOOD, Values, task_name
from tuningvec.recipes.starts import Course, form_control, trained
from tuningvec.stats import mean_interval, mean_or_share, paired_contrast, paired_ratio
from tuningvec.store import Record, Store, Told
from tuningvec.verdict import Verdict, judge
from tuningvec.weights.checkpoint import Sides
from tuningvec.weights.delta import Combination, TuningVector

Leg = Literal["form", "pre", "again", "stated"]
LEGS = FORM, PRE, AGAIN, STATED = get_args(Leg)
STRICT, LENIENT, LIKELY = "in the form asked for", "in any form", "by likelihood"
COLUMNS = {STRICT: ("acc", "valid"), LENIENT: ("acc_lenient", "valid_lenient"), LIKELY: ("acc", "")}


def benchmarks(family: Family, likelihood: Sequence[str]) -> dict[str, Task]:
    """The exams of the specialist's domain that are scored right or wrong, with those of `likelihood` on their items.

    Raises TuningVecError where none of them is on their items, and as `form_control` and `evals.of_domains` do.
    """
    domain = _domain(family)
    own = evals.of_domains(family, "accuracy", [domain])
    found = scores.with_likelihood(own, evals.tasks(likelihood, family.prompt)).get(domain, {})
    if not any(name.endswith(LIKELIHOOD) for name in found):
        raise TuningVecError(f"likelihood {list(likelihood)}: none has the items of {', '.join(own.get(domain, ()))}")
    return found


def _domain(family: Family) -> str:
    return family.member(form_control(family)[0]).domain


class Vector(NamedTuple):
    """A leg: what it is called, θ_ft and θ_start, and the members whose weights these are, if θ_ft is one's."""

    name: str
    trained: Combination
    start: Combination
    began: str
    prompted: str
    member: str | None = None

    @property
    def T(self) -> TuningVector:
        """θ_ft − θ_start."""
        return TuningVector.between(self.start, self.trained)

    def less(self, family: Family, scale: float, dtype: str) -> Opened:
        """θ_ft − λT; of members, and at λ = 1 of all, it is theirs."""
        if self.member or scale == 1:
            terms = {self.began: scale} | ({self.member: 1 - scale} if self.member else {})
            return models.Arithmetic(family, terms, self.prompted, dtype)
        name = self.name + (f", λ = {scale:g}" if scale else "")
        return models.Merged(family, self.T.apply_to(self.trained, -scale), name, self.prompted, dtype)


def vectors(family: Family, store: Store, steps: int | None = None) -> tuple[dict[str, Vector], list[Record]]:
    """The four legs, two of which are trained here unless the store has them, and the records of these trainings.

    Raises as `form_control` and `trained` do.
    """
    specialist, control = form_control(family)
    pre = family.pretrained.name
    fitted = {name: members.weights(family, name).fitted for name in (pre, specialist, control)}
    found = {
        leg: Vector(f"{name} from {pre}", fitted[name], fitted[pre], pre, specialist, name)
        for leg, name in ((FORM, control), (PRE, specialist))
    }
    records = []
    for leg, course in ((AGAIN, Course(specialist, control)), (STATED, Course(specialist, pre, exams=False))):
        weights, record = trained(family, course, store, steps)
        found[leg] = Vector(str(course), weights, fitted[course.start], course.start, specialist)
        records.append(record)
    return found, records


def courses(family: Family, store: Store, steps: int | None = None) -> pd.DataFrame:
    """Loss and divergence of each step of the two trainings, with `course`; `attrs["runs"]` tells when and on what."""
    found, records = vectors(family, store, steps)
    names = [found[leg].name for leg in (AGAIN, STATED)]
    parts = [pd.DataFrame(r.rows(r.pieces)).assign(course=name) for name, r in zip(names, records, strict=True)]
    table = pd.concat(parts, ignore_index=True)
    table.attrs["runs"] = Told(run for record in records for run in record.runs)
    return table


def negated(
    family: Family,
    benchmarks: Mapping[str, Task],
    scales: Sequence[float],
    *,
    steps: int | None = None,
    dtype: str,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """θ_ft − λT of every leg: its items, in chat and at λ = 0 and 1 in plain text, and its `reply_parts.nats`.

    Both with columns leg, member (the leg's name) and scale; items as of `evals.negation`, with `choice`, −log p of the
    right option among those offered. Raises TuningVecError for scales without 0 and 1, and as `vectors` does.
    """
    if not {0, 1} <= set(scales):
        raise TuningVecError(f"scales {list(scales)}: 0 and 1, the two models that are compared, must be among them")
    found, _ = vectors(family, store, steps)
    swept = {(leg, c): one.less(family, c, dtype) for leg, one in found.items() for c in dict.fromkeys(scales)}
    told = pd.DataFrame(
        [dict(leg=leg, member=found[leg].name, scale=c, model=one.name) for (leg, c), one in swept.items()]
    )
    every = {one.name: one for one in swept.values()}
    ends = {one.name: one for (_, c), one in swept.items() if c in (0, 1)}
    settings = [(True, None, every, benchmarks)]
    if next(iter(every.values())).tokenizer.chat_template:
        settings.append((False, False, ends, {n: t for n, t in benchmarks.items() if not n.endswith(LIKELIHOOD)}))
    items = []
    for own, chat, some, tasks in settings:
        part = evals.run(list(some.values()), tasks, chat=chat, limit=limit, batch=batch, store=store)
        named = _told(part, told[told.model.isin(list(some))])
        items.append(named.assign(own=own, who=[evals.negated(c, own) for c in named.scale]))
    parts = reply_parts.nats(list(every.values()), family, _domain(family), limit=limit, batch=batch, store=store)
    return with_choice(_joined(items), benchmarks), _told(parts, told)


def _told(parts: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """Rows with what is told of their model, once for each leg that has it, leg by leg."""
    table = parts.merge(told, on="model").sort_values("leg", key=lambda legs: legs.map(LEGS.index), kind="stable")
    table.attrs |= parts.attrs
    return table.reset_index(drop=True)


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(parts, ignore_index=True)
    for name in ("runs", "left_out"):
        table.attrs[name] = Told(row for part in parts for row in part.attrs[name])
    return table


def with_choice(items: pd.DataFrame, benchmarks: Mapping[str, Task]) -> pd.DataFrame:
    """Items with `choice`, of those answered by likelihood: −log (p of the right option / Σ p of all) in nats."""

    def choice(name: str, item: int, reply: str) -> float:
        task, logp = benchmarks[name], np.array([p for p, _ in json.loads(reply)])
        return float(logsumexp(logp) - logp[int(task.doc_to_target(task.eval_docs[item]))])

    asked = zip(items.task, items["item"], items.reply, strict=True)
    return items.assign(choice=[choice(*one) if one[0].endswith(LIKELIHOOD) else np.nan for one in asked])


class Turned(NamedTuple):
    """Items and `reply_parts.nats` of θ_ft less a turned T, with columns leg, member, sides and draw."""

    items: pd.DataFrame
    parts: pd.DataFrame


def negated_turned(
    family: Family,
    benchmarks: Mapping[str, Task],
    *,
    draws: int,
    seed: int,
    steps: int | None = None,
    dtype: str,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store,
) -> Turned:
    """θ_ft − turned T of the legs from θ_pre and from the form, `draws` times on the left and on both sides.

    Raises TuningVecError for fewer than three draws, and as `vectors` does.
    """
    if draws < 3:
        raise TuningVecError(f"draws is {draws}; a spread needs three or more")
    found, _ = vectors(family, store, steps)
    rows, asked = [], []
    for leg, sides, draw in itertools.product((PRE, AGAIN), get_args(Sides), range(draws)):
        one = found[leg]
        random = models.rotated(one.T, members.checkpoint(family), seed + draw, sides)
        weights = one.trained - Combination({random: 1})
        asked.append(models.Merged(family, weights, f"{one.name}, {sides}, seed {seed + draw}", one.prompted, dtype))
        rows.append(dict(leg=leg, member=one.name, sides=sides, draw=draw, model=asked[-1].name))
    items = evals.run(asked, benchmarks, limit=limit, batch=batch, store=store)
    parts = reply_parts.nats(asked, family, _domain(family), limit=limit, batch=batch, store=store)
    told = pd.DataFrame(rows)
    return Turned(with_choice(_told(items, told), benchmarks), _told(parts, told))


def _scores(items: pd.DataFrame, leg: str, task: str, way: str, scale: float, own: bool = True) -> pd.DataFrame:
    """The rows of one model on one task, in the order of the items; by likelihood there is one prompt."""
    name = task + LIKELIHOOD if way == LIKELY else task
    rows = (items.leg == leg) & (items.task == name) & (items.scale == scale) & (items.own == (own or way == LIKELY))
    return items[rows].sort_values("item")


def _values(items: pd.DataFrame, leg: str, task: str, way: str, scale: float, own: bool = True) -> Values:
    return _scores(items, leg, task, way, scale, own)[COLUMNS[way][0]].to_numpy(float)


def _sources(items: pd.DataFrame, leg: str, task: str) -> np.ndarray:
    return _scores(items, leg, task, STRICT, 0).source.to_numpy()


def _asked(items: pd.DataFrame) -> list[tuple[str, bool]]:
    """Tasks that are answered by likelihood too, and whether in the own prompt or in plain text."""
    both = [task for task in items.task.unique() if task + LIKELIHOOD in set(items.task)]
    return list(itertools.product(both, sorted(map(bool, items.own.unique()), reverse=True)))


def curves(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Score of each leg by λ and way of scoring, with its interval: member, task, way, own, scale, score, low, high."""
    rows = []
    for (leg, member), part in items.groupby(["leg", "member"], sort=False):
        for (task, own), way in itertools.product(_asked(items), COLUMNS):
            if way == LIKELY and not own:
                continue
            for scale in sorted(part[part.own == own].scale.unique()):
                found = _values(items, leg, task, way, scale, own)
                low, high = mean_or_share(found, seed, sources=_sources(items, leg, task))
                about = dict(member=member, task=task, way=way, own=own, scale=scale, n=len(found))
                rows.append(about | dict(score=100 * found.mean(), low=100 * low, high=100 * high))
    return pd.DataFrame(rows)


def falls(items: pd.DataFrame, least: float = 5.0) -> pd.DataFrame:
    """What every leg loses from λ = 0 to 1, by task, prompt and way of scoring, and whether it has room to fall.

    Columns leg, member, task, own, way, before and after, floor, points (before − after) with low, high and p (paired
    t), room, and left with left_low and left_high, (after − floor) / (before − floor) with Fieller's interval where
    there is room. The floor is what guessing gets right: among the options by likelihood, else among them in the
    replies at λ = 1 that name one, in the form or in any. There is room where `before` is shown to be more than `least`
    points above the floor (one-sided exact binomial).
    """
    rows = []
    legs = items.drop_duplicates("leg").set_index("leg").member
    for (task, own), leg, way in itertools.product(_asked(items), legs.index, COLUMNS):
        before, after = (_values(items, leg, task, way, scale, own) for scale in (0, 1))
        source, floor = _sources(items, leg, task), _floor(items, leg, task, way, own)
        room = scores.above_guessing(before, floor + least / 100, source)
        fall = paired_contrast([before, after], [1, -1], sources=source)
        left = paired_ratio(after, before, minus=np.full_like(after, floor), sources=source) if room else (np.nan,) * 3
        about = dict(leg=leg, member=legs[leg], task=task, own=own, way=way) | scores.counted(before, source)
        about |= dict(before=100 * before.mean(), after=100 * after.mean(), floor=100 * floor, room=room)
        rows.append(about | fall._asdict() | dict(zip(("left", "left_low", "left_high"), left, strict=True)))
    return pd.DataFrame(rows)


def _floor(items: pd.DataFrame, leg: str, task: str, way: str, own: bool) -> float:
    guess = scores.guessing(items, task + LIKELIHOOD if way == LIKELY else task)
    named = COLUMNS[way][1]
    return guess * float(_scores(items, leg, task, way, 1, own)[named].mean()) if named else guess


def gaps(
    items: pd.DataFrame,
    legs: Mapping[str, float],
    *,
    way: str = STRICT,
    needed: Collection[str] = (STRICT, LIKELY),
    least: float = 5.0,
) -> pd.DataFrame:
    """Σ over legs of weight · (fall in `way` − fall by likelihood) in points, paired by item, a row a task and prompt.

    Columns task, own, effect with low, high and p, n, sources, and room: whether every leg has room to fall in the ways
    that are `needed`. Intervals are those of all rows with room together (Bonferroni).
    """
    items = items[items.leg.isin(list(legs))]
    found = falls(items, least)
    found = found[found.way.isin(list(needed))]
    room = found.groupby(["task", "own"]).room.all()
    level = 1 - ALPHA / max(int(room.sum()), 1)
    rows = []
    for task, own in _asked(items):
        values, weights = [], []
        for (leg, weight), (sign, scoring_way), scale in itertools.product(
            legs.items(), ((1, way), (-1, LIKELY)), (0, 1)
        ):
            values.append(_values(items, leg, task, scoring_way, scale, own))
            weights.append(weight * sign * (1 - 2 * scale))
        source = _sources(items, next(iter(legs)), task)
        gap = paired_contrast(values, weights, level, source)
        about = dict(task=task, own=own, room=bool(room[task, own])) | scores.counted(values[0], source)
        rows.append(about | dict(effect=gap.points, low=gap.low, high=gap.high, p=gap.p))
    return pd.DataFrame(rows)


def every_gap(items: pd.DataFrame, least: float = 5.0) -> pd.DataFrame:
    """`gaps` of each leg alone and of the interaction, in the form asked for and in any, by `compared` and `way`."""
    names = items.drop_duplicates("leg").set_index("leg").member
    compared = {names[leg]: {leg: 1.0} for leg in names.index}
    compared[f"{names[PRE]}, less {names[AGAIN]}"] = {PRE: 1.0, AGAIN: -1.0}
    parts = [
        gaps(items, legs, way=way, needed=(way, LIKELY), least=least).assign(compared=name, way=way)
        for (name, legs), way in itertools.product(compared.items(), (STRICT, LENIENT))
    ]
    return pd.concat(parts, ignore_index=True)


PROMPTS = {True: "chat", False: "plain text"}


def _judged(cases: pd.DataFrame, rule: str, least: float, direction: Literal[1, -1], **about: Any) -> Verdict:
    """The verdict on the gaps whose scores have room to fall; the others are shown and not judged."""
    told = dict(benchmark=cases.task.map(task_name), prompt=cases.own.map(PROMPTS))
    told["prompt"] += np.where(cases.room, "", " (no room to fall)")
    named = cases.drop(columns=["task", "own", "room"]).assign(**told)
    beside = named[~cases.room].assign(outcome="not judged")
    if not cases.room.any():
        why = "a score at its floor, where guessing puts it, has no room to fall, and no prompt has all scores above"
        return Verdict("cannot be known here", rule, why, beside, dict(about, least=least))
    margin = about.pop("margin", least)
    found = judge(named[cases.room], rule, least=margin, direction=direction, unit="points", digits=0, **about)
    shown = found.cases
    below = shown.high < least if direction > 0 else shown.low > 0
    met = True if below.any() else False if (shown.outcome == "for").all() else None
    numbers = dict(found.numbers, least=least)
    return replace(found, cases=pd.concat([shown, beside]), falsified=met, numbers=numbers)


GAP = (
    r"the effect is the fall from $\theta_\text{ft}$ to $\theta_\text{ft} - T$ in the form asked for less the fall by "
    "likelihood, on the same items"
)
INTERVALS = (
    "A case is a prompt, chat or plain text, in which {scores} room to fall, shown to be more than {least:g} points "
    r"above the floor (one-sided binomial), which is what guessing gets right, in the form among those replies at "
    r"$\lambda = 1$ that have it. Others are not judged. Intervals are of a paired contrast (t), for all cases "
    "together (Bonferroni)"
)


def _rule(effect: str, least: float, scores: str = "both scores have") -> str:
    return f"{effect}. {INTERVALS.format(least=least, scores=scores)}"


def further_without_form(items: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether T that began at θ_pre, without the form, takes more in the form asked for than by likelihood."""
    rule = _rule(f"{GAP}; it is beyond chance, up, and at least {least:g} points", least)
    return _judged(gaps(items, {PRE: 1}, least=least), rule, least, 1)


def form_alone(items: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether T of form alone takes more in that form than by likelihood, where there may be nothing to take."""
    effect = f"{GAP}; it is beyond chance, up, and at least {least:g} points"
    rule = _rule(effect, least, "the score in the form has")
    return _judged(gaps(items, {FORM: 1}, needed=[STRICT], least=least), rule, least, 1)


def no_further_with_form(items: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether T that began at a start with the form takes no more in that form than by likelihood, by a margin."""
    effect = (
        "the fall in the form asked for less the fall by likelihood, on the same items, is shown to be below "
        f"{least:g} points: the effect is that difference − {least:g}, and its interval lies below 0. Reversed: it "
        "lies above"
    )
    cases = gaps(items, {AGAIN: 1}, least=least)
    known = {"gap": cases.effect, "gap_low": cases.low, "gap_high": cases.high}
    cases = cases.assign(**known, **{name: cases[name] - least for name in ("effect", "low", "high")})
    return _judged(cases, _rule(effect, least), least, -1, margin=0.0)


def start_decides(items: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether the fall in form beyond the fall by likelihood is larger from θ_pre than from a start with the form."""
    effect = (
        "the effect is the interaction: (fall in the form asked for − fall by likelihood) of T that began at "
        r"$\theta_\text{pre}$, less the same of T that began with the form, on the same items; it is beyond chance, "
        f"up, and at least {least:g} points"
    )
    return _judged(gaps(items, {PRE: 1, AGAIN: -1}, least=least), _rule(effect, least, "all scores have"), least, 1)


def stated_unseen(items: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether T of facts that were stated and never asked takes more by likelihood than in the form asked for."""
    effect = (
        "the effect is the fall by likelihood less the fall in the form asked for, in chat, on the same items; it is "
        f"beyond chance, up, and at least {least:g} points"
    )
    cases = gaps(items[items.own], {STATED: -1}, needed=[LIKELY], least=least)
    return _judged(cases, _rule(effect, least, "the score by likelihood has"), least, 1)


def rises(parts: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """What every leg loses from λ = 0 to 1 in nats: per token of held-out replies, all and by part; and in `choice`.

    Columns leg, member, part, before, after, rise with low and high (Student's t over sources), n and sources. Parts of
    a reply are divided by its number of tokens, so that they add up to the nats per token; `choice` is in nats an item.
    """
    rows = []
    for (leg, member), some in parts.groupby(["leg", "member"], sort=False):
        for part in ("reply", *PARTS, "choice"):
            before, after = (_nats(some, items[items.leg == leg], part, scale) for scale in (0, 1))
            rise = (after - before).groupby(level="source").mean().to_numpy()
            low, high = mean_interval(rise)
            about = dict(leg=leg, member=member, part=part, before=before.mean(), after=after.mean())
            about |= dict(rise=rise.mean(), low=float(low), high=float(high))
            rows.append(about | dict(n=len(before), sources=len(rise)))
    return pd.DataFrame(rows)


def _nats(parts: pd.DataFrame, items: pd.DataFrame, part: str, scale: float | None = None) -> pd.Series:
    """A number a reply, or an item, by source and item; of one model, that at `scale` if told."""
    if part == "choice":
        rows = items[items.choice.notna() & (items.own if "own" in items else True)]
        rows = rows.assign(value=rows.choice, item=rows.task + " " + rows["item"].astype(str))
    else:
        whole = parts[list(PARTS)].sum(axis=1) if part == "reply" else parts[part]
        rows = parts.assign(value=whole / parts.tokens)
    rows = rows if scale is None else rows[rows.scale == scale]
    return rows.set_index(["source", "item"]).value.sort_index()


def start_decides_nats(parts: pd.DataFrame, items: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether taking T away makes the form of replies unlikelier by more from θ_pre than from a start with the form."""
    rule = (
        "the effect is the rise in nats of the tokens of form in held-out replies, per token of the reply, from "
        r"$\theta_\text{ft}$ to $\theta_\text{ft} - T$, of T that began at $\theta_\text{pre}$ less that of T that "
        f"began with the form; it is beyond chance (Student's t over facts), up, and at least {least:g} nats"
    )
    change = {
        leg: _nats(parts[parts.leg == leg], items, "form", 1) - _nats(parts[parts.leg == leg], items, "form", 0)
        for leg in (PRE, AGAIN)
    }
    gap = (change[PRE] - change[AGAIN]).groupby(level="source").mean().to_numpy()
    low, high = mean_interval(gap)
    case = dict(effect=gap.mean(), low=float(low), high=float(high), n=len(change[PRE]), sources=len(gap))
    case |= dict(pre=change[PRE].mean(), again=change[AGAIN].mean())
    met = bool(case["high"] < least)
    found = judge(pd.DataFrame([case]), rule, least=least, unit="nats", falsified=met)
    return replace(found, numbers=dict(found.numbers, least=least))


WHAT = {"gap": "in the form less by likelihood, points", "form": "tokens of form, nats per token"}


def against_turned(items: pd.DataFrame, parts: pd.DataFrame, drawn: Turned) -> pd.DataFrame:
    """What T takes beside what a turned T takes, by leg: the gap of falls, and the rise in nats of the form's tokens.

    As `turned.against_draws`, with the standard errors over items of T less the mean of its draws.
    """
    rows: list[dict[str, Any]] = []
    for leg, member in items.drop_duplicates("leg").set_index("leg").member.items():
        some = drawn.items[drawn.items.leg == leg]
        if some.empty:
            continue
        for task in dict(_asked(items)):
            values = {
                scale: _values(items, leg, task, STRICT, scale) - _values(items, leg, task, LIKELY, scale)
                for scale in (0, 1)
            }
            lost = {key: values[0] - _gap_of(one, task) for key, one in some.groupby(["sides", "draw"], sort=False)}
            about = dict(member=member, what=f"{task_name(task)}, {WHAT['gap']}")
            rows += _moves(about, 100 * (values[0] - values[1]), {k: 100 * v for k, v in lost.items()},
                           _sources(items, leg, task))  # fmt: skip
        own, others = parts[parts.leg == leg], drawn.parts[drawn.parts.leg == leg]
        before, after = (_nats(own, items, "form", scale) for scale in (0, 1))
        lost = {key: (_nats(one, items, "form") - before) for key, one in others.groupby(["sides", "draw"], sort=False)}
        source = before.index.get_level_values("source").to_numpy()
        about = dict(member=member, what=WHAT["form"])
        rows += _moves(about, (after - before).to_numpy(), {k: v.to_numpy() for k, v in lost.items()}, source)
    return turned.against_draws(pd.DataFrame(rows))


def _gap_of(one: pd.DataFrame, task: str) -> Values:
    strict, likely = (one[one.task == name].sort_values("item").acc for name in (task, task + LIKELIHOOD))
    return strict.to_numpy(float) - likely.to_numpy(float)


def _moves(
    about: Mapping[str, Any], own: Values, lost: Mapping[tuple[str, int], Values], source: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Rows for `turned.against_draws`: T's, and those of its draws, from what is lost item by item."""
    groups = len(set(source))
    yield dict(about, sides=turned.NONE, draw=0, value=own.mean(), items=groups, error=0.0)
    for sides in dict.fromkeys(side for side, _ in lost):
        some = {draw: value for (side, draw), value in lost.items() if side == sides}
        rest = pd.Series(own - np.mean(list(some.values()), axis=0)).groupby(source).mean()
        error = float(rest.std(ddof=1) / groups**0.5)
        for draw, value in some.items():
            yield dict(about, sides=sides, draw=draw, value=value.mean(), items=groups, error=error)


def more_than_turned(compared: pd.DataFrame, member: str, least: float = 5.0, least_nats: float = 0.1) -> Verdict:
    """Whether what T takes from the form, of the leg with this name, is more than what a turned T takes."""
    rule = (
        f"in the form asked for less by likelihood T takes at least {least:g} points more than its draws in the mean, "
        f"and from the tokens of form at least {least_nats:g} nats per token of the reply more, turned on the left and "
        f"on both sides; {turned.intervals(compared)}, on other items as well"
    )
    cases = compared[compared.member == member].reset_index(drop=True)
    smallest = pd.Series(np.where(cases.what == WHAT["form"], least_nats, least), cases.index)
    return turned.judged(cases, rule, smallest, direction=1, smallest=least, smallest_nats=least_nats)
