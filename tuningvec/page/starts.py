"""Tables of the page on where training began, as it shows them."""

import numpy as np
import pandas as pd

from tuningvec.measures.scores import task_name
from tuningvec.measures.starts import NO_FORM, PROMPTS
from tuningvec.page.text import texts

LAST = 20  # steps whose losses are averaged
POINTS = "{points:+.1f} ({low:+.0f}, {high:+.0f})"


def courses(table: pd.DataFrame) -> pd.DataFrame:
    """What the trainings came to: loss per token at first and last, and the divergence from the start at last."""
    groups = table.groupby("course", sort=False)
    last = groups[["loss", "divergence"]].agg(lambda values: values.tail(LAST).mean())
    first = groups.agg(steps=("step", "max"), first=("loss", "first"))
    named = {"first": "loss, first step", "loss": f"loss, last {LAST}", "divergence": f"divergence, last {LAST}"}
    return first.join(last).rename(columns=named).reset_index()


def falls(found: pd.DataFrame) -> pd.DataFrame:
    """Falls of every vector by prompt and way of scoring, with the floor and what is left of the room above it."""
    rows = found[found.own | ~found.way.isin(NO_FORM)]
    rows = rows.sort_values(["leg", "task"], key=lambda v: v.map(list(v.unique()).index), kind="stable")
    prompt = np.where(rows.way.isin(NO_FORM), "", ", " + rows.own.map(PROMPTS))
    left = np.where(rows.left.notna(), texts(rows, "{left:.2f} ({left_low:.2f}, {left_high:.2f})"), "–")
    shown = pd.DataFrame(
        {
            "vector": rows.member,
            "benchmark": rows.task.map(task_name),
            "right": rows.way + prompt,
            "λ = 0 → 1": texts(rows, "{before:.1f} → {after:.1f}"),
            "floor": texts(rows, "{floor:.0f} → {floor_after:.0f}"),
            "fall": texts(rows, POINTS),
            "left": np.where(rows.room, left, "no room"),
        }
    )
    return shown if shown.benchmark.nunique() > 1 else shown.drop(columns="benchmark")


def by_question(found: pd.DataFrame) -> pd.DataFrame:
    """Right answers of every vector by what is asked, a column a way of scoring."""
    cells = found.assign(text=texts(found, "{before:.0f} → {after:.0f}"), vector=found.member, question=found.asked)
    index = ["vector", "question", "n"]
    order = cells.drop_duplicates(index).set_index(index).index
    wide = cells.pivot(index=index, columns="way", values="text").loc[order, list(cells.way.unique())]
    return wide.reset_index().rename_axis(columns=None)


def lefts(*tables: pd.DataFrame) -> pd.DataFrame:
    """What is left by scores that need no form less what is left in the form, a column a way."""
    found = pd.concat(tables, ignore_index=True)
    text = texts(found, "{effect:+.2f} ({low:+.2f}, {high:+.2f})")
    cells = found.assign(text=np.where(found.room, text, "no room"), prompt=found.own.map(PROMPTS))
    cells = cells.assign(benchmark=cells.task.map(task_name)).rename(columns={"member": "vector"})
    index = ["vector", "benchmark", "prompt"]
    order = cells.drop_duplicates(index).set_index(index).index
    wide = cells.pivot(index=index, columns="way", values="text").loc[order, list(cells.way.unique())]
    wide = wide.reset_index().rename_axis(columns=None)
    return wide if wide.benchmark.nunique() > 1 else wide.drop(columns="benchmark")


def rises(found: pd.DataFrame) -> pd.DataFrame:
    """Nats with the vector and without it, a row a vector and a column a part of the reply."""
    text = texts(found, "{before:.2f} → {after:.2f}: {rise:+.2f} ({low:+.2f}, {high:+.2f})")
    wide = found.assign(text=text).pivot(index="member", columns="part", values="text")
    return wide.loc[found.member.unique(), list(found.part.unique())].reset_index().rename_axis(columns=None)
