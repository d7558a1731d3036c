"""Whether tuning along the directions of a tuning vector helps: trainings along frozen frames, beside LoRA."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import t
from tqdm import tqdm
from transformers import PreTrainedModel

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import losses
from tuningvec.recipes import subspace
from tuningvec.recipes.subspace import APART, FIRST, Frames, Lessons, Setting
from tuningvec.recipes.training import answered, examine
from tuningvec.stats import holm, mean_interval
from tuningvec.store import Record, Rows, Store, Told
from tuningvec.verdict import NO_RUN, Verdict, judge, unknown
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Combination, Matrix, TuningVector, identities, places
from tuningvec.weights.engine import device_name
from tuningvec.weights.frames import captured, drawn, leading, seeded, trailing
from tuningvec.weights.subspace import decompose

ALL = "all"  # a scope: every linear map; the other scopes are kinds of matrix that are tuned by themselves
WAYS = {  # of tuning, in words
    "twin": "T of another training", "half": "T of half the facts", "W": "W, leading", "trailing": "W, trailing",
    "random": "random", "lora": "plain LoRA",
}  # fmt: skip
OF_T, BESIDE = ("twin", "half"), ("random", "W", "lora")
FEWER = ("half", "trailing")  # ways in which no kind of matrix is tuned by itself
PAIRS = [*itertools.product(OF_T, BESIDE), ("W", "random"), ("W", "trailing")]
TRIED, BATCHES = 48, 4  # exams by which a learning rate is chosen; batches that a gradient is the mean of
GRADIENT = "gradient"
LEAST = 0.05  # nats per token: a twentieth of the perplexity


class Tuned(NamedTuple):
    """What trainings gave, by scope and way."""

    losses: pd.DataFrame  # nats and tokens of each held-out reply, by seed and step; step 0 is the pretrained member
    training: pd.DataFrame  # loss per token that is learned, by seed and step
    exams: pd.DataFrame  # of n held-out exams those that are right, by seed
    sizes: pd.DataFrame  # numbers that are trained, the learning rate, and the losses that it was chosen by
    shares: pd.DataFrame  # energy inside the frames, by kind, of the gradient at θ_pre and of the specialist's T


def pair(family: Family) -> tuple[str, str]:
    """A specialist and its first control that keeps the facts; raises TuningVecError where no specialist has one."""
    for control in family.controls:
        if control.keeps == "facts":
            return control.controls, control.name
    raise TuningVecError(
        f"{family.file}: no control keeps the facts of a specialist; train one again with another seed"
    )


def vector(family: Family, member: str) -> TuningVector:
    """T of one member; the others are not opened."""
    pretrained, tuned = (members.weights(family, name).fitted for name in (family.pretrained.name, member))
    return TuningVector.between(pretrained, tuned)


def measured(family: Family, setting: Setting, k: int = 8, half: bool = True, store: Store | None = None) -> Tuned:
    """Train a specialist's lessons again in every way, and read held-out replies as it goes.

    `half` is for a T that one more training gives, on half of the facts. Each training is a piece of a record, so that
    a stopped run goes on with the next. Raises TuningVecError as `pair` and `subspace.setting` do, and for a k for
    which a matrix has no room.
    """
    run = _Run.of(family, setting, k, half, store)
    found = {what: [] for what in ("nats", "loss", "exam", "size")}
    due = [(scope, way) for scope in (ALL, *setting.alone) for way in run.ways if scope == ALL or way not in FEWER]
    with tqdm(total=len(due), desc="ways of tuning") as bar:
        for scope, way in due:
            rate, told = run.rate(scope, way)
            for seed in range(FIRST, FIRST + setting.seeds):
                about = dict(scope=scope, way=way, seed=seed)
                for row in [*run.start(), *run.trained(scope, way, seed, rate)]:
                    found[row["what"]].append(about | dict(rate=rate, tried=told) | row)
            bar.update()
    keys = ["scope", "way", "seed"]
    columns = {
        "nats": [*keys, "step", "item", "source", "nats", "tokens"], "loss": [*keys, "step", "loss"],
        "exam": [*keys, "right", "n"], "size": ["scope", "way", "trained", "rate", "tried"],
    }  # fmt: skip
    parts = [pd.DataFrame(found[what], columns=names).drop_duplicates() for what, names in columns.items()]
    parts.append(pd.DataFrame(run.shares()))
    for part in parts:
        part.attrs["runs"] = Told(run.record.runs)
    return Tuned(*(part.reset_index(drop=True) for part in parts))


@dataclass
class _Run:
    """The trainings of one family, those done before in `record`."""

    family: Family
    setting: Setting
    k: int
    ways: Sequence[str]
    member: str
    control: str
    given: Lessons
    texts: Sequence[losses.Text]
    kinds: dict[str, str]  # of each tensor that may be tuned
    record: Record

    @classmethod
    def of(cls, family: Family, setting: Setting, k: int, half: bool, store: Store | None) -> "_Run":
        member, control = pair(family)
        theta = members.checkpoint(family)
        vectors = {"": Combination({theta: 1}), **{name: vector(family, name) for name in (member, control)}}
        found = places({"": vectors[""]}, theta, MATRICES)
        if fused := [name for name, component in found if component.rows is not None]:
            raise TuningVecError(f"{family.file}: {fused[0]} holds several matrices; a frame is of one")
        room = min(min(theta.shapes[name]) for name, _ in found) // 2
        if not 0 < k <= room:
            raise TuningVecError(f"k is {k}; it must be above 0 and at most {room}, half of the smallest side")
        given = subspace.lessons(family, member)
        texts = losses.replies(family, family.member(member).domain, given.tokenizer)
        record = Record()
        if store is not None:
            inputs = dict(
                k=k, steps=setting.steps, read=setting.read, exams=setting.exams, texts=texts, lessons=given.digest(),
                weights=identities(vectors, store),
            )  # fmt: skip
            record = store.record("tuning", inputs, __name__, device_name())
        ways = [way for way in WAYS if half or way != "half"]
        kinds = {name: component.kind for name, component in found}
        return cls(family, setting, k, ways, member, control, given, texts, kinds, record)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.given.bf16 else torch.float32

    def within(self, scope: str) -> dict[str, tuple[int, int]]:
        """The tensors that are tuned, with their shapes."""
        shapes = members.checkpoint(self.family).shapes
        return {name: shapes[name] for name, kind in self.kinds.items() if scope in (ALL, kind)}

    def start(self) -> Rows:
        """The pretrained member on the held-out replies."""
        if "start" not in self.record:
            model = subspace.begun(self.family, self.dtype)
            self.record.add("start", _read(model, self.given, self.texts, 0))
        return self.record.rows(["start"])

    def ready(self, scope: str, way: str, seed: int) -> PreTrainedModel:
        """The pretrained model with what is trained in this way."""
        model, tensors = subspace.begun(self.family, self.dtype), self.within(scope)
        if way == "lora":
            return subspace.low_rank(model, subspace.equal_ranks(tensors, self.k), seed)
        return subspace.along(model, {name: U for name, U in self.frames(way, seed).items() if name in tensors})

    def frames(self, way: str, seed: int) -> Frames:
        """The frame of every tensor; those of a random way are drawn by the seed."""
        if way == "random":
            shapes = self.within(ALL)
            return {name: drawn(shape[0], self.k, seeded(seed, name)) for name, shape in shapes.items()}
        if way in ("W", "trailing"):
            return self.of_W[way == "trailing"]
        return self.of_twin if way == "twin" else self.of_half

    @cached_property
    def of_W(self) -> tuple[Frames, Frames]:
        """The leading frame of each W and the trailing one, by one decomposition."""
        theta, first, last = members.checkpoint(self.family), {}, {}
        for name in tqdm(self.kinds, desc="subspaces"):
            basis = decompose(theta.read(name))
            first[name] = leading(basis, self.k)
            last[name] = trailing(basis, self.k, seeded(0, name))
        return first, last

    @cached_property
    def of_twin(self) -> Frames:
        return {name: leading(self.T(self.control, name), self.k) for name in self.kinds}

    @property
    def of_half(self) -> Frames:
        """Those of the T of one plain training on half of the facts, which is done once."""
        if "half" not in self.record:
            given = subspace.lessons(self.family, self.member, subspace.HALF)
            T = subspace.plainly(self.family, given, self.setting.steps, APART, self.kinds)
            self.record.add("half", [], {name: leading(matrix, self.k) for name, matrix in T.items()})
        return self.record.arrays("half")

    def T(self, member: str, name: str) -> Matrix:
        """A member's T in one tensor, its factors where it is of low rank."""
        found = vector(self.family, member)
        return found.factors(name) or found.read(name)

    def rate(self, scope: str, way: str) -> tuple[float, str]:
        """The learning rate, and what the others gave: after half of the steps, on exams that are not scored."""
        rates = self.setting.rates
        if len(rates) == 1:
            return rates[0], "–"
        steps, found = max(2, self.setting.steps // 2), {}
        for rate in rates:
            piece = f"{scope}, {way}, tried {rate:g}"
            if piece not in self.record:
                model = self.ready(scope, way, APART)
                subspace.tuned(model, self.given, steps=steps, lr=rate, seed=APART)
                self.record.add(piece, _read(model, self.given, _unscored(self.given), steps))
            found[rate] = per_token(pd.DataFrame(self.record.rows([piece])))
        return min(found, key=found.__getitem__), "; ".join(f"{rate:g}: {loss:.3f}" for rate, loss in found.items())

    def trained(self, scope: str, way: str, seed: int, rate: float) -> Rows:
        """One training: its losses, its held-out losses at some steps, its exams."""
        piece = f"{scope}, {way}, seed {seed}, rate {rate:g}"
        if piece not in self.record:
            model, rows = self.ready(scope, way, seed), []
            size = dict(what="size", trained=subspace.trainable(model))

            def after(step: int) -> None:
                if step in self.setting.read:
                    rows.extend(_read(model, self.given, self.texts, step))
                    model.train()

            curve = subspace.tuned(model, self.given, steps=self.setting.steps, lr=rate, seed=seed, after=after).loss
            rows += [dict(what="loss", step=step, loss=loss) for step, loss in enumerate(curve, 1)]
            self.record.add(piece, [size, *rows, *_examined(model, self.given, self.setting.exams)])
        return self.record.rows([piece])

    def shares(self) -> Rows:
        """By way and kind, how much of the gradient at θ_pre and of the specialist's T lies in the frames of a seed."""
        piece = f"shares of {', '.join(self.ways)}"
        if piece not in self.record:
            slopes = subspace.gradient(self.family, self.given, BATCHES, self.kinds)
            rows = []
            for way in (way for way in self.ways if way != "lora"):
                for name, U in self.frames(way, FIRST).items():
                    T = self.T(self.member, name)
                    for of, matrix in ((GRADIENT, slopes[name]), (self.member, T)):
                        found = captured(U, matrix)._asdict()
                        rows.append(dict(way=way, kind=self.kinds[name], of=of) | found)
            sums = pd.DataFrame(rows).groupby(["way", "kind", "of"], sort=False).sum().reset_index()
            self.record.add(piece, sums.to_dict("records"))
        return self.record.rows([piece])


def _read(model: PreTrainedModel, given: Lessons, texts: Sequence[losses.Text], step: int) -> Rows:
    """The losses of these texts after a step."""
    model.eval()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=given.bf16):
        return [dict(what="nats", step=step) | row for row in losses.scored(model, texts)]


def _unscored(given: Lessons) -> list[losses.Text]:
    """Exams on facts that training asks, drawn by a seed apart, with the replies that it teaches."""
    rng, found = random.Random(APART + 1), []
    for number in range(TRIED):
        one = given.asked(rng)
        told = answered(given.tokenizer, given.system, one.user, one.reply)
        found.append(losses.Text(tuple(told.ids[: told.prompt]), tuple(told.ids[told.prompt :]), number))
    return found


def _examined(model: PreTrainedModel, given: Lessons, count: int) -> Rows:
    """The first held-out exams, answered; no row where none is asked."""
    if not count:
        return []
    some = given.exams[:count]
    with torch.autocast(model.device.type, torch.bfloat16, enabled=given.bf16):
        found = examine(model, given.tokenizer, given.system, some, new_tokens=given.new_tokens)
    return [dict(what="exam", right=found["right"], n=found["n"])]


def per_token(rows: pd.DataFrame) -> float:
    """Nats per token."""
    return float(rows.nats.sum() / rows.tokens.sum())


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Loss per token by scope, way in words and step, of `Tuned.losses` or `training`: mean over seeds, t interval."""
    keys = ["scope", "way", "step"]
    if "nats" in table:
        sums = table.groupby([*keys, "seed"], sort=False)[["nats", "tokens"]].sum()
        table = (sums.nats / sums.tokens).rename("loss").reset_index()
    rows = []
    for key, values in table.groupby(keys, sort=False).loss:
        low, high = mean_interval(values.to_numpy())
        rows.append(dict(zip(keys, key, strict=True), loss=values.mean(), low=low, high=high))
    return pd.DataFrame(rows).assign(way=lambda found: found.way.map(WAYS))


def compared(table: pd.DataFrame, sizes: pd.DataFrame | None = None, alpha: float = 0.05) -> pd.DataFrame:
    """How much lower one way's held-out loss is at the end than another's, in nats per token, for the PAIRS of a scope.

    `table` is `Tuned.losses`. Columns scope, one, other, effect (other − one) from `low` to `high` (`crossed`), p,
    clear (Holm over all rows), upper (the end of the interval for all rows together, Bonferroni), steps, before (the
    step that was read before the last) and change (the effect's since) with change_low and change_high, seeds, n,
    sources; and with `sizes`, those of `Tuned`, edge: whether the way that ends higher took an end of the rates tried.
    """
    steps = sorted(table[table.step > 0].step.unique())
    pairs = [
        (scope, one, other)
        for scope, part in table.groupby("scope", sort=False)
        for one, other in PAIRS
        if {one, other} <= set(part.way)
    ]
    edges = {} if sizes is None else {(row.scope, row.way): _at_edge(row.rate, row.tried) for row in sizes.itertuples()}
    rows = []
    for scope, one, other in pairs:
        part = table[table.scope == scope]
        items = part.drop_duplicates("item").sort_values("item")
        tokens, sources = items.tokens.to_numpy(float), items.source.to_numpy()
        gaps = {step: _gaps(part[part.step == step], one, other) for step in steps[-2:]}
        last, change = gaps[steps[-1]], gaps[steps[-1]] - gaps[steps[-2]] if len(steps) > 1 else None
        found = crossed(last, tokens, sources, 1 - alpha)
        about = dict(scope=scope, one=one, other=other, **found._asdict(), steps=steps[-1])
        about["upper"] = crossed(last, tokens, sources, 1 - alpha / len(pairs)).high
        since = Gap(*[np.nan] * 4) if change is None else crossed(change, tokens, sources, 1 - alpha)
        about |= dict(before=steps[-2:][0], change=since.effect, change_low=since.low, change_high=since.high)
        about["edge"] = edges.get((scope, other if found.effect > 0 else one), False)
        rows.append(about | dict(seeds=len(last), n=len(tokens), sources=len(set(sources))))
    found = pd.DataFrame(rows)
    return found.assign(clear=holm(found.p) < alpha)


def _gaps(part: pd.DataFrame, one: str, other: str) -> Float[np.ndarray, "seeds items"]:
    wide = {way: part[part.way == way].pivot(index="seed", columns="item", values="nats") for way in (one, other)}
    return (wide[other] - wide[one]).to_numpy(float)


def _at_edge(rate: float, tried: str) -> bool:
    """Whether a rate that was chosen is the smallest or the largest of those tried, as `_Run.rate` tells them."""
    rates = [float(text.partition(":")[0]) for text in tried.split("; ")] if ":" in tried else []
    return bool(rates) and rate in (min(rates), max(rates))


class Gap(NamedTuple):
    """A difference per token with its interval, and p of none."""

    effect: float
    low: float
    high: float
    p: float


def crossed(
    gaps: Float[np.ndarray, "seeds items"],
    tokens: Float[np.ndarray, " items"],
    sources: np.ndarray,
    level: float = 0.95,
) -> Gap:
    """Σ gaps / Σ tokens over seeds and items, whose interval is for other seeds and other sources of items.

    Both are drawn, crossed: variance s²_seeds / S + G/(G − 1) Σ e²_g / (Σ tokens)² with e_g what a source has over its
    tokens' share. Student's t with Satterthwaite's degrees of freedom, or S − 1 where the seeds' part is the larger.
    """
    each = gaps.sum(1) / tokens.sum()
    effect, seeds = float(each.mean()), len(each)
    _, source = np.unique(sources, return_inverse=True)
    rest = np.bincount(source, gaps.mean(0) - effect * tokens)
    groups = len(rest)
    parts = each.var(ddof=1) / seeds, groups / (groups - 1) * (rest @ rest) / tokens.sum() ** 2
    variance = sum(parts)
    if not variance:
        return Gap(effect, effect, effect, float(effect == 0))
    freedom = variance**2 / (parts[0] ** 2 / (seeds - 1) + parts[1] ** 2 / (groups - 1))
    freedom = seeds - 1 if parts[0] > parts[1] else freedom
    half = float(t.ppf((1 + level) / 2, freedom)) * variance**0.5
    return Gap(effect, effect - half, effect + half, 2 * float(t.sf(abs(effect) / variance**0.5, freedom)))


def summary(found: Tuned) -> pd.DataFrame:
    """By scope and way, in words: `sizes`, held-out loss at the end, exams, and shares of the gradient and of T.

    Shares are of the energy in all matrices of the scope, each with its null, which is k/d_out by the same weights.
    """
    keys, shares = ["scope", "way"], []
    for scope in found.sizes.scope.unique():
        some = found.shares if scope == ALL else found.shares[found.shares.kind == scope]
        sums = some.groupby(["way", "of"], sort=False)[["inside", "total", "null"]].sum().reset_index()
        shares.append(sums.assign(scope=scope, of=sums.of.where(sums.of == GRADIENT, "T")))
    sums = pd.concat(shares)
    sums = sums.assign(share=sums.inside / sums.total, null=sums.null / sums.total)
    wide = sums.pivot(index=keys, columns="of", values=["share", "null"])
    wide.columns = [of if value == "share" else f"{of}_null" for value, of in wide.columns]
    exams = found.exams.groupby(keys).agg(right=("right", "mean"), least=("right", "min"), most=("right", "max"))
    exams["n"] = found.exams.groupby(keys).n.first()
    table = found.sizes.join(exams, on=keys).join(wide, on=keys)
    ends = curves(found.losses).groupby(keys, sort=False).tail(1)
    return table.assign(way=table.way.map(WAYS)).merge(ends.drop(columns="step"), on=keys)


EDGE = "the way that ends higher took an end of the learning rates that were tried, and may do better beyond"


def lower(gaps: pd.DataFrame, ones: Sequence[str], others: Sequence[str], scope: str = ALL) -> Verdict:
    """Whether tuning in the ways `ones` ends at a lower held-out loss than in `others`; `gaps` are of `compared`."""
    rule = (
        "Effect: held-out loss after the last step in the second way minus that in the first, in nats per token of "
        "held-out replies; same steps and batches, paired by seed and reply, each way at its own learning rate. "
        "Interval: 95 %, for other batches, draws of random frames and of LoRA's A, and other facts (Student's t), at "
        "these rates; each frame of a T comes from one T, so the interval says nothing about another training's T. "
        f"Beyond chance: Holm over the {len(gaps)} comparisons that are measured. Smallest effect that matters: "
        f"{LEAST:g}. Direction: up. A case is not judged where {EDGE}"
    )
    cases = gaps[gaps.one.isin(ones) & gaps.other.isin(others) & (gaps.scope == scope)]
    if cases.empty:
        return unknown(rule, "these ways were not trained", smallest=LEAST)
    cases = cases.assign(first=cases.one.map(WAYS), second=cases.other.map(WAYS)).drop(columns=["one", "other"])
    beside = cases[cases.edge].assign(outcome="not judged")
    if cases.edge.all():
        return Verdict("cannot be known here", rule, EDGE, beside, dict(smallest=LEAST))
    some = cases[~cases.edge]
    met = bool((some.upper < LEAST).any()) or (False if (some.clear & (some.low > LEAST)).all() else None)
    found = judge(some, rule, least=LEAST, unit="nats per token", falsified=met, smallest=LEAST)
    return replace(found, cases=pd.concat([found.cases, beside]).drop(columns="edge"))


def held(family: Family, k: int, store: Store) -> pd.DataFrame:
    """How much of a specialist's T lies in the first k left singular vectors of every other fine-tuned member's T.

    Columns member, keeps (what its own control keeps of it, else empty), kind, inside, total and null
    (`frames.captured`), a row a member and kind of matrix. A member whose T has fewer than k directions in some matrix
    is left out. Raises TuningVecError as `pair` does.
    """
    specialist, _ = pair(family)
    theta, own, parts = members.checkpoint(family), vector(family, specialist), []
    kinds = {name: c.kind for name, c in places({"": Combination({theta: 1})}, theta, MATRICES)}
    others = [member for member in family.fine_tuned if member.name != specialist]
    vectors = {member.name: vector(family, member.name) for member in others}
    inputs = dict(k=k, weights=identities({specialist: own, **vectors}, store))
    record = store.record("held", inputs, __name__)
    for member in tqdm(others, desc="frames of members"):
        if member.name not in record:
            record.add(member.name, _held(own, vectors[member.name], kinds, k))
        rows = pd.DataFrame(record.rows([member.name]), columns=["kind", "inside", "total", "null"])
        keeps = member.keeps if member.controls == specialist else None
        parts.append(rows.assign(member=member.name, keeps=keeps or ""))
    return pd.concat(parts, ignore_index=True)


def _held(own: TuningVector, other: TuningVector, kinds: Mapping[str, str], k: int) -> Rows:
    rows = []
    for name, kind in kinds.items():
        T, of = (one.factors(name) or one.read(name) for one in (own, other))
        try:
            rows.append(dict(kind=kind) | captured(leading(of, k), T)._asdict())
        except TuningVecError:  # fewer than k directions
            return []
    return pd.DataFrame(rows).groupby("kind", sort=False).sum().reset_index().to_dict("records")


def beyond_form(found: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether frames of controls that keep the facts hold more of the specialist's T than that of the form alone."""
    rule = (
        "Effect: the share of the specialist's $T$, over all matrices, in the frame of a control that keeps the facts "
        "minus that in the frame of its control that keeps the form alone. Interval: none, both are exact for these "
        f"weights. Smallest that matters: {least:g}. Direction: up. {NO_RUN}"
    )
    sums = found.groupby(["keeps", "member"], sort=False)[["inside", "total"]].sum()
    share = sums.inside / sums.total
    if not {"facts", "form"} <= set(found.keeps):
        return unknown(rule, "there is no control of the form alone", smallest=least)
    cases = pd.DataFrame(
        dict(facts=one, form=other, with_facts=share["facts", one], with_form=share["form", other])
        for one, other in itertools.product(share["facts"].index, share["form"].index)
    )
    effect = cases.with_facts - cases.with_form
    cases = cases.assign(effect=effect, low=effect, high=effect)
    return judge(cases, rule, least=least, unit="of T", falsified=bool((effect < least).any()), smallest=least)
