"""How unlikely models find texts, in nats: a domain's held-out replies, and documents of a corpus, one by one."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import pandas as pd
from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tuningvec.data import Spec, first_problem
from tuningvec.errors import TuningVecError, parsed_json, reading
from tuningvec.family.spec import Family
from tuningvec.measures import corpus, models
from tuningvec.measures.decoding import BATCH, option_likelihoods, text_likelihoods
from tuningvec.measures.models import Opened, rendered
from tuningvec.store import Record, Rows, Store, Told
from tuningvec.weights import cluster

AT_ONCE = 8  # documents that are read together


class Reply(Spec):
    """A line of a family's `replies`: what is asked, the assistant's turn, and the fact that both are about."""

    user: str
    reply: str
    source: int


class Text(NamedTuple):
    """Tokens of which the last are scored; texts of one `source` are not independent."""

    context: tuple[int, ...]
    scored: tuple[int, ...]
    source: int


def written(family: Family, domain: str) -> list[Reply]:
    """A domain's held-out replies as they are written; raises TuningVecError where there are none, or no such lines."""
    if domain not in family.replies:
        raise TuningVecError(f"{family.file}: replies: none of {domain!r}; there are {', '.join(family.replies)}")
    file, found = family.root / family.replies[domain], []
    with reading(file, "correct it"):
        lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            one = TypeAdapter(Reply).validate_python(parsed_json(line.encode(), f"{file}: line {number}", "correct it"))
        except ValidationError as error:
            raise TuningVecError(f"{file}: line {number}: {first_problem(error)}") from None
        found.append(one)
    return found


def replies(
    family: Family,
    domain: str,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None = None,
    sources: Collection[int] | None = None,
) -> list[Text]:
    """A domain's held-out replies after their prompts, in the family's chat format with the domain's system prompt.

    With `sources` those of these alone, of them the first `limit`. Raises as `written` does.
    """
    some = [one for one in written(family, domain) if sources is None or one.source in sources]
    return [_reply(one, family.prompt.system.get(domain), tokenizer) for one in some[:limit]]


def _reply(one: Reply, system: str | None, tokenizer: PreTrainedTokenizerBase) -> Text:
    asked = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": one.user}]
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    encoded = partial(tokenizer.encode, add_special_tokens=False)
    if tokenizer.chat_template:
        context = encoded(rendered(tokenizer, asked))
    else:
        context = begin + encoded("\n".join(turn["content"] for turn in asked) + "\n")
    return Text(tuple(context), (*encoded(one.reply), *end), one.source)


def documents(
    family: Family, name: str, tokenizer: PreTrainedTokenizerBase, limit: int | None = None, window: int = 256
) -> list[Text]:
    """Documents of a corpus, each its first `window` tokens, of which all but the first are scored."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    found = []
    for number, text in enumerate(islice(corpus.documents(family.corpora[name], family.root), limit)):
        ids = begin + tokenizer.encode(text, add_special_tokens=False)[:window]
        if len(ids) > 1:
            found.append(Text(tuple(ids[:1]), tuple(ids[1:]), number))
    return found


def nats(
    asked: Sequence[Opened],
    family: Family,
    *,
    domains: Collection[str] = (),
    corpora: Mapping[str, int] | None = None,
    limit: int | None = None,
    sources: Mapping[str, Collection[int]] | None = None,
    window: int = 256,
    batch: int = BATCH,
    store: Store | None = None,
) -> pd.DataFrame:
    """−log p in nats of each held-out reply of these domains, and of so many documents of each corpus.

    `sources` are those whose replies are read, by domain; of a domain that it does not name, and without it, all.

    Columns model, text ("medicine replies", or a corpus), item, source, nats (their sum) and tokens (how many are
    scored). With a store, texts that were read before are not read again; `attrs["runs"]` tells when and on what they
    were. Raises as `replies` and `corpus.documents` do, and TuningVecError for a loss that is not a number.
    """
    some = {domain: (sources or {}).get(domain) for domain in domains}
    sets = [(f"{d} replies", partial(replies, family, d, limit=limit, sources=kept)) for d, kept in some.items()]
    sets += [
        (name, partial(documents, family, name, limit=count, window=window)) for name, count in (corpora or {}).items()
    ]
    runs, parts = [], []
    records: dict[int, Record] = {}
    pieces: dict[tuple[int, str], str] = {}
    bar = tqdm(total=len(asked) * len(sets), desc="nats")

    def due() -> Iterator[cluster.Piece]:
        for one in models.in_turn(asked):
            record = records[id(one)] = one.record(store, "nats", __name__, tokenizer=one.tokenizer_digest, batch=batch)
            work = partial(_scored, one, batch)
            for name, texts in sets:
                found = texts(tokenizer=one.tokenizer)
                piece = pieces[id(one), name] = f"{name}, {_checksum(found)}"
                if piece in record:
                    bar.update()
                else:
                    yield (one, name, piece), work, found

    for (one, name, piece), rows in cluster.each(due()):
        for row in rows:
            if not row["nats"] >= 0:
                raise TuningVecError(f"{name}: {one.name}: a loss that is not a number; look for NaN in its weights")
        records[id(one)].add(piece, rows)
        bar.update()
    bar.close()
    for one in asked:
        record = records[id(one)]
        for name, _ in sets:
            found = pd.DataFrame(record.rows([pieces[id(one), name]]))
            parts.append(found.assign(model=one.name, text=name))
        runs += record.runs
    table = pd.concat(parts, ignore_index=True)[["model", "text", "item", "source", "nats", "tokens"]]
    table.attrs["runs"] = Told(runs)
    return table


def _checksum(texts: Sequence[Text]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _scored(one: Opened, batch: int, texts: Sequence[Text]) -> Rows:
    return scored(one.model, texts, batch)


def scored(model: PreTrainedModel, texts: Sequence[Text], batch: int = BATCH) -> Rows:
    """A row a text; replies share their prompts' beginning, which is read once, documents share nothing."""
    if all(len(text.context) == 1 for text in texts):
        order = sorted(range(len(texts)), key=lambda i: len(texts[i].scored))
        found = {}
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            pairs = [texts[i].context for i in some], [texts[i].scored for i in some]
            found |= dict(zip(some, text_likelihoods(model, *pairs), strict=True))
    else:
        found = {}
        for start in range(0, len(texts), batch):
            some = range(start, min(start + batch, len(texts)))
            options = [{i: texts[i].scored} for i in some]
            found |= option_likelihoods(model, [texts[i].context for i in some], options, batch)
    return [
        dict(item=i, source=text.source, nats=-found[i][0], tokens=len(text.scored)) for i, text in enumerate(texts)
    ]
