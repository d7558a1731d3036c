"""How unlikely models find the parts of held-out replies: the tokens of their form, their facts, the letter."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import losses, models
from tuningvec.measures.decoding import BATCH, option_likelihoods
from tuningvec.measures.models import Opened
from tuningvec.store import Record, Rows, Store, Told
from tuningvec.tasks import scoring
from tuningvec.weights import cluster

PARTS = ("form", "facts", "letter")


def nats(
    asked: Sequence[Opened],
    family: Family,
    domain: str,
    *,
    limit: int | None = None,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """−log p in nats of the tokens of form, facts and letter of each of a domain's held-out replies.

    A row a model and reply with columns model, item, source, a column for each of PARTS, and tokens, how many the reply
    has; the parts add up to `losses.nats`. Raises as `losses.replies` and `divided` do.
    """
    runs, tables = [], []
    records: dict[int, tuple[Record, str]] = {}
    bar = tqdm(total=len(asked), desc="parts of replies")

    def due() -> Iterator[cluster.Piece]:
        for one in models.in_turn(asked):
            texts = losses.replies(family, domain, one.tokenizer, limit)
            piece = f"{domain} replies, {hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]}"
            about = dict(tokenizer=one.tokenizer_digest, batch=batch)
            record, _ = records[id(one)] = one.record(store, "reply parts", __name__, **about), piece
            if piece in record:
                bar.update()
            else:
                yield (one, piece), partial(_parts, one, batch), [(t, divided(t, one.tokenizer)) for t in texts]

    for (one, piece), rows in cluster.each(due()):
        records[id(one)][0].add(piece, rows)
        bar.update()
    bar.close()
    for one in asked:
        record, piece = records[id(one)]
        tables.append(pd.DataFrame(record.rows([piece])).assign(model=one.name))
        runs += record.runs
    table = pd.concat(tables, ignore_index=True)
    table.attrs["runs"] = Told(runs)
    return table


def divided(text: losses.Text, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each scored token of a reply is of: `facts`, the thought; the `letter`; else, as where two meet, `form`.

    Raises TuningVecError for a reply without a thought and an answer.
    """
    reply = tokenizer.decode(text.scored)
    thought, letter = scoring.THOUGHT.match(reply), scoring.CHOICE.search(reply)
    if not thought or not letter:
        raise TuningVecError(f"replies: {reply[:60]!r}: no <think>…</think> with Answer: [X] after it; correct it")
    ends = [len(tokenizer.decode(text.scored[:i])) for i in range(len(text.scored) + 1)]
    spans = {"facts": thought.span(1), "letter": letter.span(1)}
    return [
        next((part for part, (first, last) in spans.items() if first <= begin and end <= last), "form")
        for begin, end in itertools.pairwise(ends)
    ]


def _parts(one: Opened, batch: int, texts: Sequence[tuple[losses.Text, Sequence[str]]]) -> Rows:
    """A row a reply; log p of its beginnings, up to where each part ends, tells that of the parts."""
    runs = [[(part, len(list(some))) for part, some in itertools.groupby(parts)] for _, parts in texts]
    ends = [list(itertools.accumulate(count for _, count in run)) for run in runs]
    keys = itertools.count()
    options = [{next(keys): t.scored[:end] for end in some} for (t, _), some in zip(texts, ends, strict=True)]
    rows = []
    for start in range(0, len(texts), batch):
        some = slice(start, start + batch)
        found = option_likelihoods(one.model, [text.context for text, _ in texts[some]], options[some], batch)
        for i, ((text, _), run, asked) in enumerate(zip(texts[some], runs[some], options[some], strict=True), start):
            steps = -np.diff([0.0, *(found[key][0] for key in asked)])
            of = {part: float(sum(x for x, (p, _) in zip(steps, run, strict=True) if p == part)) for part in PARTS}
            if not np.isfinite(list(of.values())).all():
                raise TuningVecError(f"replies: {one.name}: a loss that is not a number; look for NaN in its weights")
            rows.append(dict(item=i, source=text.source) | of | dict(tokens=len(text.scored)))
    return rows
