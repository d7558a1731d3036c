"""Whether what ships of a family can have been measured: ranges, identities, the tasks' items, replies scored again.

None of it proves a measurement; a slip, a unit, a file of another family or an edited cell ends here.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from tqdm import tqdm

from tuningvec.errors import TuningVecError, reading
from tuningvec.family import shipped
from tuningvec.family.spec import Family
from tuningvec.measures import evals
from tuningvec.tasks.scoring import CUT, ENDED

ROUNDING = 1e-6
DIGEST = re.compile(r"\b[0-9a-f]{24}\b")  # of a file of weights, as it stands in a run
ASKED = ["model", "who", "member", "scale", "chat", "task"]  # what tells the runs of a table of items apart
ITEM = {"task", "item", "prompt", "reply"}


class Rule(NamedTuple):
    """What holds in each row of a table that has these columns."""

    columns: tuple[str, ...]
    words: str
    holds: Callable[[pd.DataFrame], Any]


def _between(columns: tuple[str, ...], low: float, high: float) -> Rule:
    words = f"{', '.join(columns)} from {low:g} to {high:g}"
    return Rule(columns, words, lambda t: t[list(columns)].apply(_within, low=low, high=high).all(axis=1))


def _within(values: pd.Series, low: float, high: float) -> pd.Series:
    return values.isna() | values.between(low - ROUNDING, high + ROUNDING)


RULES = (
    Rule(
        ("E_par", "E_perp"), "no energy below 0",
        lambda t: (t.E_par >= 0) & (t.E_perp >= -ROUNDING * t.E_par),
    ),
    Rule(
        ("layer", "E_par", "E_perp", "SSA"), "SSA = E∥ / (E∥ + E⊥), which is ‖T‖²",
        lambda t: np.isclose(t.SSA * (t.E_par + t.E_perp), t.E_par, rtol=ROUNDING),
    ),
    Rule(("k", "null"), "k at least 0 and k / d_out at most 1", lambda t: (t.k >= 0) & t.null.between(0, 1)),
    _between(("SSA",), 0, 1),
    _between(("cosine",), -1, 1),
    Rule(("cosine", "ceiling"), "|cosine| at most its ceiling", lambda t: t.cosine.abs() <= t.ceiling + ROUNDING),
    Rule(("r", "orthogonal"), "orthogonal = 1 / √(1 + r²)", lambda t: np.isclose(t.orthogonal, (1 + t.r**2) ** -0.5)),
    Rule(
        ("cosine", "r"), "cosine at least √(1 − r²)",
        lambda t: t.cosine >= np.sqrt((1 - t.r**2).clip(0)) - ROUNDING,
    ),
    Rule(("low", "high"), "low at most high", lambda t: ~(t.low > t.high)),
    _between(("share", "mean", "half"), 0, 1),
    _between(("edit", "hamming"), 0, 1),
    _between(("phi",), -1, 1),
)  # fmt: skip


def problems(family: Family) -> Iterator[str]:
    """What cannot be in the folder that ships of a family, a sentence each; none where all is as it may be.

    Raises TuningVecError where nothing ships, and as `shipped.provenance` and `shipped.read` do.
    """
    folder = shipped.folder(family)
    about = shipped.provenance(folder)
    yield from shipped.changes(family, about)
    names = {file.name.removesuffix(".json.xz") for file in folder.glob("*.json.xz")}
    yield from (f"{name}: not in {shipped.PROVENANCE}" for name in sorted(names - about["tables"].keys()))
    known = {digest[:24] for files in about["weights"].values() for digest in files.values()}
    tasks: dict[str, Task] = {}
    for name in tqdm(about["tables"], desc="check"):
        try:
            with reading(name, "no page could have written it"):
                some = list(shipped.tables(shipped.read(folder, name, about)))
                found = [f"{name}: {what}" for table in some for what in _of_table(table, known, family, tasks)]
        except TuningVecError as error:
            found = [str(error)]
        yield from found


def _of_table(table: pd.DataFrame, known: set[str], family: Family, tasks: dict[str, Task]) -> Iterator[str]:
    numbers = table.select_dtypes("number")
    yield from (f"{column}: not finite" for column in numbers if np.isinf(numbers[column].astype(float)).any())
    for rule in RULES:
        if set(rule.columns) <= set(table.columns):
            rows = table[table[list(rule.columns)].notna().all(axis=1)]
            wrong = len(rows) - int(np.sum(rule.holds(rows))) if len(rows) else 0
            if wrong:
                yield f"{wrong} of {len(rows)} rows are not so: {rule.words}"
    strange = {d for run in table.attrs.get("runs", ()) for d in DIGEST.findall(json.dumps(run["inputs"]))} - known
    if strange:
        yield f"measured from weights that are none of the family's: {', '.join(sorted(strange))}"
    if set(table.columns) >= ITEM:
        yield from _of_items(table, family, tasks)


def _of_items(table: pd.DataFrame, family: Family, tasks: dict[str, Task]) -> Iterator[str]:
    """The same items of a task for all, with the task's texts in their prompts, and scores that follow from replies."""
    keys = [column for column in ASKED if column in table]
    asked: dict[str, set[int]] = {}
    for key, rows in table.groupby(keys, dropna=False, sort=False):
        name = rows.task.iloc[0]
        if name not in tasks:
            tasks |= evals.tasks([name], family.prompt)
        where = " ".join(map(str, key))
        if rows["item"].duplicated().any():
            yield f"{where}: an item twice"
        elif asked.setdefault(name, set(rows["item"])) != set(rows["item"]):
            yield f"{where}: other items than the others were asked"
        else:
            yield from (f"{where}: {what}" for what in _scored_again(tasks[name], rows))


def _scored_again(task: Task, rows: pd.DataFrame) -> Iterator[str]:
    docs, groups = list(task.eval_docs), []
    for row in rows.to_dict("records"):
        if row["item"] >= len(docs):
            yield f"there is no item {row['item']}"
            return
        doc = docs[row["item"]]
        if (text := str(task.doc_to_text(doc)).strip()) not in row["prompt"]:
            yield f"item {row['item']}: the prompt lacks the task's {text[:40]!r}"
        replies = _replies(row)
        kind = "generate_until" if isinstance(replies[0], str) else "loglikelihood"
        calls = [
            Instance(kind, doc, (row["prompt"], {}), i, (task.task_name, row["item"], 1)) for i in range(len(replies))
        ]
        groups.append((calls, replies))
    again = evals.answer(
        evals.Given([reply for _, replies in groups for reply in replies]), task, [calls for calls, _ in groups]
    )
    for row, one in zip(rows.to_dict("records"), again, strict=True):
        for metric in one.keys() - {"item", "prompt", "reply", "ended"}:
            if metric in row and not np.isclose(row[metric], one[metric], equal_nan=True):
                yield f"item {row['item']}: {metric} is {row[metric]:g}, the reply scores {one[metric]:g}"


def _replies(row: dict[str, Any]) -> list[Any]:
    ended = row.get("ended")
    if isinstance(ended, bool):
        return [row["reply"] + (ENDED if ended else CUT)]
    return [tuple(one) for one in json.loads(row["reply"])]
