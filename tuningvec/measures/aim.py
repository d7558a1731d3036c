"""What T does beyond its length: the same T turned at random, with its spectrum, in its place.

A fine-tune moves neurons and losses. Any other T of the same spectrum would move them too; how far is drawn here.
"""

import itertools

import numpy as np
import pandas as pd
from scipy.stats import t
from torch import Tensor
from tqdm import tqdm

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import corpus, evals, models, neurons
from tuningvec.measures.ablation import held_out
from tuningvec.measures.corpus import Tokens
from tuningvec.store import Rows, Store, joined
from tuningvec.verdict import Verdict, judge

SIDES = ("left", "both")
SHARDS, PART = 16, 0  # each draw reads this part of so many of the first corpus


def study(
    family: Family, dtype: str, *, draws: int, texts: int, words: int, seed: int, store: Store | None = None
) -> pd.DataFrame:
    """Moves of θ_pre by T and by `draws` of T turned on the left and on both sides; a row a move and measure.

    Columns member, sides ("none" for T itself), draw, what, value. `what` is "hamming" and "edit", mean distance over
    layers from the pretrained pattern of neurons (mean activation > 0) on a part of the first corpus, and "nats,
    <corpus>", the rise of −log p per token over the pretrained member on the first `words` words of `texts` documents
    that were not profiled. Draw i has the seed `seed` + i. What the store holds is not measured again. Raises
    TuningVecError for fewer than three draws, and as `ablation.held_out` does.
    """
    if draws < 3:
        raise TuningVecError(f"draws is {draws}; a spread needs three or more")
    own = next(iter(family.corpora))
    pretrained = models.Opened(family, family.pretrained.name, dtype)
    tokens = corpus.tokens(family, own, pretrained.tokenizer, store)
    held = {name: held_out(family, name, tokens.documents * (name == own), texts, words) for name in family.corpora}
    moves = [("", "none", 0, pretrained)]
    for name in [member.name for member in family.studied[1:]]:
        moves.append((name, "none", 0, models.Opened(family, name, dtype)))
        turned = itertools.product(SIDES, range(draws))
        moves += [(name, sides, i, models.Turned(family, name, seed + i, dtype, sides)) for sides, i in turned]
    found, runs = [], []
    for name, sides, draw, model in tqdm(moves, desc="turned T"):
        about = dict(tokens=tokens.digest(), held=held, turned=[sides, seed + draw] if sides != "none" else [])
        record = model.record(store, "aim", __name__, **about)
        if "all" not in record:
            record.add("all", *_measured(model, tokens, held))
        pattern, (nats,) = record.arrays("all")["pattern"].numpy(), record.rows(["all"])
        found.append((dict(member=name, sides=sides, draw=draw), pattern, nats))
        runs += record.runs
    _, before, nats_before = found[0]
    rows = []
    for about, pattern, nats in found[1:]:
        layers = list(zip(before, pattern, strict=True))
        values = {what: float(np.mean([d(a, b) for a, b in layers])) for what, d in neurons.DISTANCES.items()}
        values |= {f"nats, {name}": nats[name] - nats_before[name] for name in held}
        rows += [about | dict(what=what, value=value) for what, value in values.items()]
    return joined([pd.DataFrame(rows)], runs)


def _measured(model: models.Opened, tokens: Tokens, held: dict[str, list[str]]) -> tuple[Rows, dict[str, Tensor]]:
    """−log p per token of each corpus as one row, and the pattern of neurons."""
    profile = neurons.activation_profile(model.model, tokens, shards=SHARDS, parts=[PART])[0]
    lm = evals.InMemory(model.model, model.tokenizer)
    scored = {name: evals.score_texts(lm, texts) for name, texts in held.items()}
    model.__dict__.pop("model")
    nats = {name: sum(r["nats"] for r in rows) / sum(r["tokens"] for r in rows) for name, rows in scored.items()}
    return [nats], {"pattern": profile.pattern("mean")}


def against_draws(moves: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """What T does beside what its draws do, by member, measure and sides.

    Columns value, mean and sd of the draws, draws (their number), `no_more` (how many of them do no more than T), and
    effect = value − mean, from `low` to `high`: the interval that leaves out 0 where T is no further draw of a normal
    distribution with unknown mean and spread, Student's t, for all rows together (Bonferroni).
    """
    own = moves[moves.sides == "none"].set_index(["member", "what"]).value
    groups = moves[moves.sides != "none"].groupby(["member", "what", "sides"], sort=False)
    rows = []
    for (member, what, sides), drawn in groups:
        value, values = own[member, what], drawn.value.to_numpy()
        n, mean, sd = len(values), values.mean(), values.std(ddof=1)
        half = t.ppf(1 - alpha / groups.ngroups / 2, n - 1) * sd * (1 + 1 / n) ** 0.5
        about = dict(member=member, what=what, sides=sides, value=value, mean=mean, sd=sd, draws=n)
        about |= dict(no_more=int((values <= value).sum()), effect=value - mean)
        rows.append(about | dict(low=value - mean - half, high=value - mean + half))
    return pd.DataFrame(rows)


def as_turned_changes(compared: pd.DataFrame, least: float = 0.2) -> Verdict:
    """Whether T changes the pattern of neurons (`against_draws`) as far as a turned T of the same spectrum does."""
    cases = compared[compared.what.isin(neurons.DISTANCES)]
    rule = (
        f"the distance that T makes is within {least:.0%} of the mean of the draws, by both distances, turned on the "
        f"left and on both sides; {_interval(cases)}"
    )
    return _as_turned(cases, rule, least * cases["mean"])


def as_turned_costs(compared: pd.DataFrame, least: float = 0.05) -> Verdict:
    """Whether T raises the loss of text (`against_draws`) as far as a turned T of the same spectrum does."""
    cases = compared[~compared.what.isin(neurons.DISTANCES)]
    cases = cases.assign(text=cases.what.str.removeprefix("nats, "))
    rule = (
        f"the rise of nats per token that T makes is within {least:g} of the mean of the draws, on every corpus, "
        f"turned on the left and on both sides; {_interval(cases)}"
    )
    return _as_turned(cases, rule, pd.Series(least, index=cases.index))


def _interval(cases: pd.DataFrame) -> str:
    return (
        f"intervals are those in which another of {cases.draws.min()} draws would lie (Student's t, 95 % for all "
        "together if draws are normal)"
    )


def _as_turned(cases: pd.DataFrame, rule: str, least: pd.Series) -> Verdict:
    further = bool(((cases.low > least) | (cases.high < -least)).any())
    named = cases.assign(sides=cases.sides.map({"left": "on the left", "both": "on both sides"}))
    return judge(named, rule, least=least, direction=0, digits=3, falsified=further)
