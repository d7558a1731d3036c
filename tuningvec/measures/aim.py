"""What T does beyond its length: the same T turned at random, with its spectrum, in its place.

A fine-tune moves neurons and losses. Any other T of the same spectrum would move them too; how far is drawn here.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from tuningvec.family.spec import Family
from tuningvec.measures import corpus, evals, models, neurons, turned
from tuningvec.measures.ablation import held_out
from tuningvec.measures.corpus import Tokens
from tuningvec.store import Record, Rows, Store, joined
from tuningvec.verdict import Verdict
from tuningvec.weights import cluster

SHARDS, PART = 16, 0  # each draw reads this part of so many of the first corpus


def study(
    family: Family, dtype: str, *, draws: int, texts: int, words: int, seed: int, store: Store | None = None
) -> pd.DataFrame:
    """Moves of θ_pre by T and by `draws` of T turned on the left and on both sides; a row a move and measure.

    Columns member, sides ("none" for T itself), draw, what, value. `what` is "hamming" and "edit", mean distance over
    layers from the pretrained pattern of neurons (mean activation > 0) on a part of the first corpus, and "nats,
    <corpus>", the change of log p per token from the pretrained member, above 0 for likelier text, on the first `words`
    words of `texts` documents that were not profiled. What the store holds is not measured again. Raises as
    `models.turned` and `ablation.held_out` do.
    """
    names = [member.name for member in family.studied[1:]]
    drawn = models.turned(family, names, draws, seed, dtype)
    own = next(iter(family.corpora))
    pretrained = models.Opened(family, family.pretrained.name, dtype)
    tokens = corpus.tokens(family, own, pretrained.tokenizer, store)
    held = {name: held_out(family, name, tokens.documents * (name == own), texts, words) for name in family.corpora}
    whole = [(dict(member=name, sides=turned.NONE, draw=0), models.Opened(family, name, dtype)) for name in names]
    moves = [(dict(member="", sides=turned.NONE, draw=0), pretrained), *whole, *drawn]
    records = _records([model for _, model in moves], tokens, held, store)
    found, runs = [], []
    for (about, _), record in zip(moves, records, strict=True):
        pattern, (nats,) = record.arrays("all")["pattern"].numpy(), record.rows(["all"])
        found.append((about, pattern, nats))
        runs += record.runs
    _, before, nats_before = found[0]
    rows = []
    for about, pattern, nats in found[1:]:
        layers = list(zip(before, pattern, strict=True))
        values = {what: float(np.mean([d(a, b) for a, b in layers])) for what, d in neurons.DISTANCES.items()}
        values |= {f"nats, {name}": nats[name] - nats_before[name] for name in held}
        rows += [about | dict(what=what, value=value) for what, value in values.items()]
    return joined([pd.DataFrame(rows)], runs)


def _records(
    asked: Sequence[models.Opened], tokens: Tokens, held: dict[str, list[str]], store: Store | None
) -> list[Record]:
    """The record of each model, with what `_measured` gives."""
    records: list[Record] = []
    bar = tqdm(total=len(asked), desc="turned T")

    def due() -> Iterator[cluster.Piece]:
        for number, model in enumerate(asked):
            records.append(model.record(store, "aim", __name__, tokens=tokens.digest(), held=held))
            if "all" in records[-1]:
                bar.update()
            else:
                yield (number, model.name), partial(_measured, tokens, held), model

    for (number, _), measured in cluster.each(due()):
        records[number].add("all", *measured)
        bar.update()
    bar.close()
    return records


def _measured(tokens: Tokens, held: dict[str, list[str]], model: models.Opened) -> tuple[Rows, dict[str, Tensor]]:
    """log p per token of each corpus as one row, and the pattern of neurons."""
    profile = neurons.activation_profile(model.model, tokens, shards=SHARDS, parts=[PART])[0]
    lm = evals.InMemory(model.model, model.tokenizer)
    scored = {name: evals.score_texts(lm, texts) for name, texts in held.items()}
    model.__dict__.pop("model")
    nats = {name: sum(r["nats"] for r in rows) / sum(r["tokens"] for r in rows) for name, rows in scored.items()}
    return [nats], {"pattern": profile.pattern("mean")}


def as_turned_changes(compared: pd.DataFrame, least: float = 0.2) -> Verdict:
    """Whether T changes the pattern of neurons as far as a turned T does; `compared` is of `turned.against_draws`."""
    cases = compared[compared.what == "hamming"]  # the edit distance of the same patterns is the same or a little less
    rule = (
        f"the Hamming distance that T makes is within {least:.0%} of the mean of the draws, turned on the left and on "
        f"both sides; {turned.intervals(compared)}"
    )
    return turned.judged(cases, rule, least * cases["mean"])


def as_turned_costs(compared: pd.DataFrame, least: float = 0.05) -> Verdict:
    """Whether T changes the likelihood of text as far as a turned T does; `compared` is of `turned.against_draws`."""
    cases = compared[~compared.what.isin(neurons.DISTANCES)]
    cases = cases.assign(text=cases.what.str.removeprefix("nats, "))
    rule = (
        f"the change of log p per token that T makes is within {least:g} of the mean of the draws, on every corpus, "
        f"turned on the left and on both sides; {turned.intervals(cases)}"
    )
    return turned.judged(cases, rule, pd.Series(least, index=cases.index))
