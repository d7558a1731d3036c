"""What negation takes from a specialist whose training began with the form of the answer, and from one without it.

Four vectors T = θ_ft − θ_start, each a *leg*: of the form alone (a control's), of form and facts from θ_pre, of the
facts from a start that has the form, and of the facts stated alone. Scores are in percent, falls in points.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from lm_eval.api.task import Task
from scipy.special import logsumexp
from scipy.stats import norm

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
from tuningvec.verdict import NO_RUN, Verdict, judge, unknown
from tuningvec.weights.checkpoint import Sides
from tuningvec.weights.delta import Combination, TuningVector

Leg = Literal["form", "pre", "again", "stated"]
LEGS = FORM, PRE, AGAIN, STATED = get_args(Leg)
STRICT, LENIENT, LIKELY = "in the form asked for", "in any form", "by likelihood"
PER_CHARACTER = "by likelihood per character"
COLUMNS = {STRICT: ("acc", "valid"), LENIENT: ("acc_lenient", "valid_lenient"), LIKELY: ("acc", ""),
           PER_CHARACTER: ("acc_norm", "")}  # fmt: skip
NO_FORM = (LIKELY, PER_CHARACTER)  # ways that ask for no reply, so that there is one prompt
FORMED = 0.95  # share of replies in the form from which on a form counts as kept


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
    return items.assign(choice=_of_options(items, benchmarks, lambda logp, right, _: logsumexp(logp) - logp[right]))


def with_per_character(items: pd.DataFrame, benchmarks: Mapping[str, Task]) -> pd.DataFrame:
    """Items with `acc_norm`, of those answered by likelihood: right by log p over the characters of an option."""

    def likeliest(logp: Values, right: int, options: Sequence[str]) -> bool:
        return int(np.argmax(logp / [len(option) for option in options])) == right

    return items.assign(acc_norm=_of_options(items, benchmarks, likeliest))


def _of_options(
    items: pd.DataFrame, benchmarks: Mapping[str, Task], value: Callable[[Values, int, Sequence[str]], Any]
) -> list[float]:
    """What `value` makes of an item's log p of the options, the right one and their texts; NaN of other items."""

    def of(name: str, item: int, reply: str) -> float:
        if not name.endswith(LIKELIHOOD):
            return np.nan
        task = benchmarks[name]
        doc, logp = task.eval_docs[item], np.array([p for p, _ in json.loads(reply)])
        return float(value(logp, int(task.doc_to_target(doc)), task.doc_to_choice(doc)))

    return [of(*one) for one in zip(items.task, items["item"], items.reply, strict=True)]


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
    name = task + LIKELIHOOD if way in NO_FORM else task
    rows = (items.leg == leg) & (items.task == name) & (items.scale == scale) & (items.own == (own or way in NO_FORM))
    return items[rows].sort_values("item")


def _values(items: pd.DataFrame, leg: str, task: str, way: str, scale: float, own: bool = True) -> Values:
    return _scores(items, leg, task, way, scale, own)[COLUMNS[way][0]].to_numpy(float)


def _guess(items: pd.DataFrame, task: str, way: str) -> float:
    return scores.guessing(items, task + LIKELIHOOD if way in NO_FORM else task)


def _known(items: pd.DataFrame, leg: str, task: str, way: str, scale: float, own: bool = True) -> Values:
    """Right answers, a reply that names no option as right as a guess is: where nothing is known the mean is that."""
    rows, (right, named) = _scores(items, leg, task, way, scale, own), COLUMNS[way]
    missing = 1 - rows[named].to_numpy(float) if named else 0.0
    return rows[right].to_numpy(float) + _guess(items, task, way) * missing


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
            if way in NO_FORM and not own:
                continue
            for scale in sorted(part[part.own == own].scale.unique()):
                found = _values(items, leg, task, way, scale, own)
                low, high = mean_or_share(found, seed, sources=_sources(items, leg, task))
                about = dict(member=member, task=task, way=way, own=own, scale=scale, n=len(found))
                rows.append(about | dict(score=100 * found.mean(), low=100 * low, high=100 * high))
    return pd.DataFrame(rows)


def falls(items: pd.DataFrame, least: float = 5.0) -> pd.DataFrame:
    """What every leg loses from λ = 0 to 1, by task, prompt and way of scoring, and whether it has room to fall.

    Columns leg, member, task, own, way, before and after, floor and floor_after, points (before − after) with low, high
    and p (paired t), room, and left with left_low and left_high (Fieller) where there is room. The floor is what
    guessing gets right: a guess's share g of the replies that name an option, in the form or in any; by likelihood g.
    What is *left* is (after − its floor) / (before − its floor), and there is *room* where `before` is shown to be more
    than `least` points above its floor (one-sided exact binomial, a reply that names no option counted as g).
    """
    rows = []
    legs = _legs(items)
    for (task, own), leg, way in itertools.product(_asked(items), legs, COLUMNS):
        before, after = (_values(items, leg, task, way, scale, own) for scale in (0, 1))
        known = [_known(items, leg, task, way, scale, own) for scale in (0, 1)]
        source, guess = _sources(items, leg, task), _guess(items, task, way)
        room = scores.above_guessing(known[0], guess + least / 100, source)
        fall = paired_contrast([before, after], [1, -1], sources=source)
        left = (
            paired_ratio(known[1], known[0], minus=np.full_like(after, guess), sources=source) if room else [np.nan] * 3
        )
        about = dict(leg=leg, member=legs[leg], task=task, own=own, way=way) | scores.counted(before, source)
        floors = [100 * (guess - float((one - raw).mean())) for one, raw in zip(known, (before, after), strict=True)]
        about |= dict(before=100 * before.mean(), after=100 * after.mean(), floor=floors[0], floor_after=floors[1])
        left = dict(zip(("left", "left_low", "left_high"), left, strict=True))
        rows.append(about | dict(room=room) | fall._asdict() | left)
    return pd.DataFrame(rows)


def by_question(items: pd.DataFrame) -> pd.DataFrame:
    """Right answers of every leg at λ = 0 and 1 by what is asked, in the own prompt, where that is more than one thing.

    Questions that are alike but for their source ask the same. Columns member, task, asked, way, before, after, n.
    """
    rows = []
    for task in dict(_asked(items)):
        some = items[items.own & items.task.isin([task, task + LIKELIHOOD])]
        one = some[some.task == task].drop_duplicates("item")
        questions = one.prompt.map(lambda prompt: prompt.partition("\nOptions:")[0].rpartition("\n")[2])
        questions = questions.str.removeprefix("Question: ")
        asked = [q.replace(str(source), "…") for q, source in zip(questions, one.source, strict=True)]
        for question, kept in one["item"].groupby(np.asarray(asked), sort=False):
            part = some[some["item"].isin(kept)]
            for (leg, member), way in itertools.product(_legs(items).items(), COLUMNS):
                ends = [_values(part, leg, task, way, scale) for scale in (0, 1)]
                about = dict(member=member, task=task, asked=question, way=way, n=len(ends[0]))
                rows.append(about | dict(before=100 * ends[0].mean(), after=100 * ends[1].mean()))
    table = pd.DataFrame(rows)
    return table if 1 < table.asked.nunique() < 5 else table[:0]


def _legs(items: pd.DataFrame) -> dict[str, str]:
    return items.drop_duplicates("leg").set_index("leg").member.to_dict()


def lefts(
    items: pd.DataFrame,
    at: Sequence[tuple[str, float]] = tuple((leg, 1.0) for leg in LEGS),
    ways: Sequence[str] = (LENIENT, LIKELY, PER_CHARACTER),
    least: float = 5.0,
) -> pd.DataFrame:
    """What is left of a score that needs no form, less what is left in the form asked for (`falls`), of legs at some λ.

    Columns leg, member, task, own, way, scale, effect with low and high, left and left_form, room (whether both scores
    have room), n and sources; effect and left are NaN without room. The interval is that of the linearised difference
    of two ratios (`paired_contrast`), for all rows with room together (Bonferroni).
    """
    names = _legs(items)
    room = falls(items, least).set_index(["leg", "task", "own", "way"]).room
    cases = [
        dict(leg=leg, member=names[leg], task=task, own=own, way=way, scale=scale)
        | dict(room=bool(room[leg, task, own, way] and room[leg, task, own, STRICT]))
        for (leg, scale), (task, own), way in itertools.product(at, _asked(items), ways)
        if leg in names
    ]
    level = 1 - ALPHA / max(sum(case["room"] for case in cases), 1)
    return pd.DataFrame([case | _left(items, case, level) for case in cases])


def further(
    items: pd.DataFrame,
    first: tuple[str, float],
    second: tuple[str, float],
    ways: Sequence[str] = (LENIENT, LIKELY, PER_CHARACTER),
    least: float = 5.0,
) -> pd.DataFrame:
    """The effect of `lefts` of a leg at a λ, less that of another leg or λ, on the same items; with room in both.

    Columns as of `lefts`, with one and other, both effects, in the place of left and left_form; intervals are those of
    its own rows together.
    """
    found = lefts(items, [first, second], ways, least)
    keys = ["task", "own", "way"]
    parts = [found[(found.leg == leg) & (found.scale == scale)] for leg, scale in (first, second)]
    pairs = parts[0].merge(parts[1], on=keys, suffixes=("", "_other"))
    pairs["room"] &= pairs.room_other
    level, rows = 1 - ALPHA / max(int(pairs.room.sum()), 1), []
    for pair in pairs.to_dict("records"):
        about = {name: pair[name] for name in (*keys, "room", "n", "sources")}
        told = f"less {pair['member_other']}" if first[0] != second[0] else f"λ = {first[1]:g} less λ = {second[1]:g}"
        about |= dict(member=f"{pair['member']}, {told}", one=pair["effect"], other=pair["effect_other"])
        terms = [_terms(items, pair | dict(leg=leg, scale=scale)) for leg, scale in (first, second)]
        values = [*terms[0].values, *terms[1].values]
        weights = [*terms[0].weights, *(-w for w in terms[1].weights)]
        half = _half(values, weights, level, _sources(items, first[0], pair["task"])) if pair["room"] else np.nan
        effect = about["one"] - about["other"]
        rows.append(about | dict(effect=effect, low=effect - half, high=effect + half))
    return pd.DataFrame(rows)


class _Terms(NamedTuple):
    """Scores of a case, the weights of their means in the linearised difference, and what is left of either score."""

    values: list[Values]
    weights: list[float]
    left: tuple[float, float]


def _terms(items: pd.DataFrame, case: Mapping[str, Any]) -> _Terms:
    """Of (a₁ − g) / (b₁ − g) − (a₂ − g) / (b₂ − g)."""
    leg, task, own = case["leg"], case["task"], case["own"]
    values, weights, left = [], [], []
    for sign, way in ((1, case["way"]), (-1, STRICT)):
        before, after = (_known(items, leg, task, way, scale, own) for scale in (0, case["scale"]))
        above = before.mean() - _guess(items, task, way) if case["room"] else np.nan
        left.append(float(after.mean() - _guess(items, task, way)) / above)
        values += [after, before]
        weights += [sign / above, -sign * left[-1] / above]
    return _Terms(values, weights, (left[0], left[1]))


def _half(values: Sequence[Values], weights: Sequence[float], level: float, source: np.ndarray) -> float:
    """Half the width of `paired_contrast`'s interval, which two added items make wider; around what is measured."""
    spread = paired_contrast(values, weights, level, source)
    return (spread.high - spread.low) / 200


def _left(items: pd.DataFrame, case: Mapping[str, Any], level: float) -> dict[str, float]:
    """A row of `lefts`."""
    terms, source = _terms(items, case), _sources(items, case["leg"], case["task"])
    effect = terms.left[0] - terms.left[1]
    half = _half(terms.values, terms.weights, level, source) if case["room"] else np.nan
    about = scores.counted(terms.values[0], source) | dict(left=terms.left[0], left_form=terms.left[1])
    return about | dict(effect=effect, low=effect - half, high=effect + half)


PROMPTS = {True: "chat", False: "plain text"}
NO_ROOM = "a score at its floor, where guessing puts it, has no room to fall, and in no case have both scores room"


def _named(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases as a page shows them."""
    told = dict(benchmark=cases.task.map(task_name), prompt=cases.own.map(PROMPTS))
    return cases.drop(columns=["task", "own", "leg"], errors="ignore").assign(**told)


def _judged(cases: pd.DataFrame, rule: str, least: float) -> Verdict:
    """The verdict on the cases in which both scores have room to fall; the others are shown and not judged."""
    named = _named(cases)
    named["prompt"] += np.where(cases.room, "", " (no room to fall)")
    beside = named[~cases.room].drop(columns="room").assign(outcome="not judged")
    if not cases.room.any():
        return Verdict("cannot be known here", rule, NO_ROOM, beside, dict(smallest=least))
    found = judge(named[cases.room].drop(columns="room"), rule, least=least, unit="of the room")
    shown = found.cases
    met = True if (shown.high < least).any() else False if (shown.outcome == "for").all() else None
    return replace(found, cases=pd.concat([shown, beside]), falsified=met, numbers=dict(smallest=least))


LEFT = (
    r"what is left at $\lambda = 1$ of what $\theta_\text{ft}$ knows beyond guessing, by likelihood or by likelihood "
    "per character, less what is left of it in the form asked for, where a reply that names no option counts as a guess"
)
FROM_PRE = r"of the vector that began at $\theta_\text{pre}$"
ROOM = (
    "A case is a score where both are shown to be more than {points:g} points above guessing before (one-sided "
    "binomial); others are not judged. Intervals are of the linearised difference of ratios (t) on the same items, for "
    "all cases together (Bonferroni). "
) + NO_RUN


def more_without_form(items: pd.DataFrame, least: float = 0.1, points: float = 5.0) -> Verdict:
    """Whether without T that began at θ_pre, more is left by likelihood than in the form asked for."""
    rule = f"the effect is {LEFT}; it is beyond chance, up, and at least {least:g}. {ROOM.format(points=points)}"
    return _judged(lefts(items, [(PRE, 1.0)], NO_FORM, points), rule, least)


def start_decides(items: pd.DataFrame, least: float = 0.1, points: float = 5.0) -> Verdict:
    """Whether that difference is larger from θ_pre than from a start with the form: the interaction."""
    rule = (
        f"the effect is the interaction of start and score: {LEFT}, {FROM_PRE}, minus the same of the one that began "
        f"with the form; it is beyond chance, up, and at least {least:g}. {ROOM.format(points=points)}"
    )
    return _judged(further(items, (PRE, 1.0), (AGAIN, 1.0), NO_FORM, points), rule, least)


def formed(items: pd.DataFrame) -> float | None:
    """The largest λ between 0 and 1 at which θ_ft − λT from θ_pre keeps the form in its replies, if there is one."""
    chat = items[items.own & (items.leg == PRE) & items.scale.between(0, 1, inclusive="neither")]
    share = chat.groupby("scale").valid.mean()
    return float(share.index[share >= FORMED].max()) if (share >= FORMED).any() else None


def grows_without_form(items: pd.DataFrame, least: float = 0.1, points: float = 5.0) -> Verdict:
    """Whether that difference grows from a λ at which replies have the form to λ = 1, where they have lost it."""
    rule = (
        f"the effect is {LEFT}, {FROM_PRE}, minus the same at the largest measured $\\lambda$ below 1 at which at "
        f"least {FORMED:.0%} of the replies have the form; it is beyond chance, up, and at least {least:g}. "
        + ROOM.format(points=points)
    )
    if (half := formed(items)) is None:
        return unknown(rule, "at no λ between 0 and 1 do the replies have the form", smallest=least)
    return _judged(further(items[items.own], (PRE, 1.0), (PRE, half), NO_FORM, points), rule, least)


def form_taken(items: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether taking a vector of form alone away takes the form: the manipulation that all else rests on."""
    rule = (
        "the effect is the share of replies that have the form, with the vector of form alone minus that without it, "
        f"in points; it is beyond chance (paired t), up, and at least {least:g} points, in chat. {NO_RUN}"
    )
    cases = []
    for task in dict(_asked(items)):
        ends = (_scores(items, FORM, task, STRICT, scale).valid.to_numpy(float) for scale in (0, 1))
        cases.append(_fall(*ends, _sources(items, FORM, task)) | dict(task=task, own=True))
    return _points(pd.DataFrame(cases), rule, least, 1)


def _fall(before: Values, after: Values, source: np.ndarray, level: float = 1 - ALPHA) -> dict[str, Any]:
    """What is lost, in points."""
    fall = paired_contrast([before, after], [1, -1], level, source)
    about = dict(effect=fall.points, low=max(fall.low, -100.0), high=min(fall.high, 100.0))
    return about | dict(before=100 * before.mean(), after=100 * after.mean()) | scores.counted(before, source)


def _by_likelihood(items: pd.DataFrame, leg: str) -> pd.DataFrame:
    """What a leg loses by likelihood, in points, by either way; intervals for all together (Bonferroni)."""
    asked = list(itertools.product(dict(_asked(items)), NO_FORM))
    cases = []
    for task, way in asked:
        ends = (_values(items, leg, task, way, scale) for scale in (0, 1))
        fall = _fall(*ends, _sources(items, leg, task), 1 - ALPHA / len(asked))
        cases.append(fall | dict(task=task, own=True, way=way))
    return pd.DataFrame(cases)


def _points(cases: pd.DataFrame, rule: str, least: float, direction: Literal[1, 0]) -> Verdict:
    away = cases.high < least if direction else (cases.low > least) | (cases.high < -least)
    found = judge(_named(cases), rule, least=least, direction=direction, unit="points", digits=0, smallest=least)
    met = True if away.any() else False if (found.cases.outcome == "for").all() else None
    return replace(found, falsified=met)


def form_holds_no_facts(items: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether taking a vector of form alone away leaves the scores by likelihood as they are."""
    rule = (
        "the effect is the fall by likelihood, or by likelihood per character, without the vector of form alone, in "
        f"points; it is shown to be within ±{least:g} points (paired t, Bonferroni). {NO_RUN}"
    )
    return _points(_by_likelihood(items, FORM), rule, least, 0)


def stated_unseen(items: pd.DataFrame, least: float = 5.0) -> Verdict:
    """Whether T of facts that were stated and never asked takes something by likelihood."""
    rule = (
        "the effect is the fall by likelihood, or by likelihood per character, without the vector, in points; it is "
        f"beyond chance (paired t, Bonferroni), up, and at least {least:g} points. {NO_RUN}"
    )
    return _points(_by_likelihood(items, STATED), rule, least, 1)


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


WHAT = {"valid": "replies in the form, points", "form": "tokens of form, nats per token"}


def against_turned(items: pd.DataFrame, parts: pd.DataFrame, drawn: Turned) -> pd.DataFrame:
    """What T takes of the form beside what a turned T takes, by leg: replies in it, and the rise in nats of its tokens.

    As `turned.against_draws`, with the standard errors over items of T less the mean of its draws.
    """
    rows: list[dict[str, Any]] = []
    for leg, member in _legs(items).items():
        some = drawn.items[drawn.items.leg == leg]
        if some.empty:
            continue
        for task in dict(_asked(items)):
            before, after = (_scores(items, leg, task, STRICT, scale).valid.to_numpy(float) for scale in (0, 1))
            kept = {
                key: one[one.task == task].sort_values("item").valid.to_numpy(float)
                for key, one in some.groupby(["sides", "draw"], sort=False)
            }
            about = dict(member=member, what=f"{task_name(task)}, {WHAT['valid']}")
            lost = {key: 100 * (before - one) for key, one in kept.items()}
            source = _sources(items, leg, task)
            spread = paired_contrast([np.mean(list(kept.values()), axis=0), after], [1, -1], sources=source)
            error = (spread.high - spread.low) / 2 / norm.ppf(1 - ALPHA / 2)  # above 0 where all items agree as well
            rows += _moves(about, 100 * (before - after), lost, source, error)
        own, others = parts[parts.leg == leg], drawn.parts[drawn.parts.leg == leg]
        before, after = (_nats(own, items, "form", scale) for scale in (0, 1))
        lost = {key: (_nats(one, items, "form") - before) for key, one in others.groupby(["sides", "draw"], sort=False)}
        source = before.index.get_level_values("source").to_numpy()
        about = dict(member=member, what=WHAT["form"])
        rows += _moves(about, (after - before).to_numpy(), {k: v.to_numpy() for k, v in lost.items()}, source)
    return turned.against_draws(pd.DataFrame(rows))


def _moves(
    about: Mapping[str, Any],
    own: Values,
    lost: Mapping[tuple[str, int], Values],
    source: np.ndarray,
    least_error: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """Rows for `turned.against_draws`: T's, and those of its draws, from what is lost item by item."""
    groups = len(set(source))
    yield dict(about, sides=turned.NONE, draw=0, value=own.mean(), items=groups, error=0.0)
    for sides in dict.fromkeys(side for side, _ in lost):
        some = {draw: value for (side, draw), value in lost.items() if side == sides}
        rest = pd.Series(own - np.mean(list(some.values()), axis=0)).groupby(source).mean()
        error = max(float(rest.std(ddof=1) / groups**0.5), least_error)
        for draw, value in some.items():
            yield dict(about, sides=sides, draw=draw, value=value.mean(), items=groups, error=error)


def more_than_turned(compared: pd.DataFrame, member: str, least: float = 5.0, least_nats: float = 0.1) -> Verdict:
    """Whether what T takes from the form, of the leg with this name, is more than what a turned T takes."""
    rule = (
        f"T takes the form from at least {least:g} points more of the replies than its draws do in the mean, and makes "
        f"its tokens unlikelier by at least {least_nats:g} nats per token of the reply more, turned on the left and on "
        f"both sides; {turned.intervals(compared)}, on other items as well"
    )
    cases = compared[compared.member == member].reset_index(drop=True)
    smallest = pd.Series(np.where(cases.what == WHAT["form"], least_nats, least), cases.index)
    return turned.judged(cases, rule, smallest, direction=1, smallest=least, smallest_nats=least_nats)
