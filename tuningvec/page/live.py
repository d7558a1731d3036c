"""Parts of a page that a script makes alive: their data inlined, so that nothing is asked of a network."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from IPython.display import HTML, display

from tuningvec.measures import scores
from tuningvec.measures.evals import NONE, SUM
from tuningvec.page import maps, samples
from tuningvec.page.figures import MARKERS
from tuningvec.page.plots import CURVES
from tuningvec.page.tables import SCORE
from tuningvec.page.text import cut, formatted, number, texts
from tuningvec.weights.components import KINDS

MOST = 150_000  # bytes that the data of one part may have
SIZES = [(6, 600), (5, 500), (4, 400), (3, 300), (2, 300), (1, 200), (1, 80)]  # items a benchmark, signs of a reply


def embed(part: str, data: Mapping[str, Any]) -> None:
    """Display the place of a live part, empty until `_static/live_<part>.js` fills it from this data."""
    inlined = _json(data).replace("<", "\\u003c")  # in JSON a `<` stands in strings alone, and could end the script
    script = f'<script type="application/json">{inlined}</script>'
    display(HTML(f'<div class="live" data-part="{part}">{script}</div>'))


def _json(data: Any) -> str:
    return json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


class Swept(NamedTuple):
    """Replies of one series of models over λ, and their scores, of `scores.curves`."""

    name: str
    items: pd.DataFrame
    curve: pd.DataFrame


def negation(
    items: pd.DataFrame, curves: Mapping[str, pd.DataFrame], benchmarks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Data of the part "scale": scores over λ of θ_ft − λT and replies to items, a panel a member and benchmark.

    `items` are of `evals.negation_of_specialists`, `curves` of `scores.all_curves` of them; `benchmarks`, by domain,
    are lm-eval's tasks, those by likelihood too.
    """
    own = [(key, part) for key, part in items[items.own].groupby(["member", "task"], sort=False)]
    swept = [(key, part) for key, part in own if part.scale.nunique() > 2]
    panels = {
        title: (task, [Swept("", part, curve)])
        for ((_, task), part), (title, curve) in zip(swept, curves.items(), strict=True)
    }
    return _scale("θ_ft − λT", "specialist and benchmark", panels, benchmarks, mark=1)


def addition(items: pd.DataFrame, benchmarks: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Data of the part "scale": scores over λ of θ_pre + λΣT and replies to items, a panel a benchmark.

    `items` are of `evals.addition`; each panel has the sum of all vectors and each vector alone.
    """
    panels = {}
    for task, part in items.groupby("task", sort=False):
        series = []
        for vectors in [name for name in part.vectors.unique() if name != NONE]:
            rows = part[part.vectors.isin([NONE, vectors])].assign(own=True)
            name = "all vectors" if vectors == SUM else f"T of {vectors} alone"
            series.append(Swept(name, rows, scores.curves(rows, task, seed)))
        panels[f"{scores.task_name(task)}, n = {part['item'].nunique()}"] = (task, series)
    return _scale("θ_pre + λΣT", "benchmark", panels, benchmarks, whats=("acc", "acc_lenient", "passed", "rouge1"))


def _scale(
    symbol: str,
    chosen: str,
    panels: Mapping[str, tuple[str, Sequence[Swept]]],
    benchmarks: Mapping[str, Mapping[str, Any]],
    whats: Collection[str] = tuple(CURVES),
    mark: float | None = None,
) -> dict[str, Any]:
    """All panels, with as many items and as much of their replies as have room in MOST bytes."""
    tasks = {name: task for some in benchmarks.values() for name, task in some.items()}
    for count, longest in SIZES:
        found = [_panel(title, tasks[task], series, whats, count, longest) for title, (task, series) in panels.items()]
        data = dict(symbol=symbol, chosen=chosen, mark=mark, panels=found)
        if len(_json(data).encode()) <= MOST:
            break
    return data


def _panel(
    title: str, task: Any, series: Sequence[Swept], whats: Collection[str], count: int, longest: int
) -> dict[str, Any]:
    """Lines of scores over λ, and some items with what every series of models replied at each λ."""
    scales = sorted(series[0].curve.scale.unique())
    main = scores.metric(series[0].items, series[0].items.task.iloc[0])
    judged = [main, *(what for what in CURVES if what in whats and what != main and what in {*series[0].curve.what})]
    shown = [_item(task, item, series, scales, judged, longest) for item in _telling(series, main, count)]
    return dict(
        title=title,
        scales=[float(scale) for scale in scales],
        lines=[
            line for number, one in enumerate(series) for line in _lines(task, one, judged, number, len(series) > 1)
        ],
        series=[one.name for one in series],
        judged=[_label(task, what) for what in judged],
        of=int(series[0].items["item"].nunique()),
        items=shown,
    )


def _label(task: Any, what: str) -> str:
    """How a score is called; no form is asked for where the answer is the likeliest text."""
    return "right, by likelihood" if what == "acc" and samples.options(task, task.eval_docs[0]) else CURVES[what][0]


def _lines(task: Any, one: Swept, judged: Sequence[str], number: int, several: bool) -> Iterator[dict[str, Any]]:
    """A line of each score over λ; a colour each score, or of several series a colour each and a dash each score."""
    for place, what in enumerate(judged):
        label, form = _label(task, what), CURVES[what][1]
        rows = one.curve[one.curve.what == what].sort_values("scale")
        look = dict(colour=list(CURVES).index(what), marker=form[0], dashed=form[1:] != "-")
        if several:
            look = dict(colour=number, marker=MARKERS[number % len(MARKERS)], dashed=place > 0)
        at = [[None if pd.isna(v) else round(v, 2) for v in row] for row in rows[["score", "low", "high"]].to_numpy()]
        said = texts(rows, SCORE)
        yield dict(name=f"{one.name}: {label}" if several else label, at=at, said=said) | look


def _telling(series: Sequence[Swept], what: str, count: int) -> list[int]:
    """Some items, those first on which this score changes along λ; in their order."""
    every = pd.concat([one.items for one in series])
    spread = pd.concat([one.items.groupby("item")[what].nunique() for one in series], axis=1).max(axis=1)
    order = sorted(every["item"].unique(), key=lambda item: (spread[item] < 2, item))
    return sorted(int(item) for item in order[:count])


def _item(
    task: Any, item: int, series: Sequence[Swept], scales: Sequence[float], judged: Sequence[str], longest: int
) -> dict[str, Any]:
    """An item, its right answer, and by λ and series a reply with each of its scores."""
    doc = task.eval_docs[item]

    def replied(one: Swept, scale: float) -> list[Any]:
        row = one.items[(one.items["item"] == item) & (one.items.scale == scale)].iloc[0]
        said = cut(samples.reply(task, doc, row.reply), longest)
        return [said, *(None if pd.isna(row[what]) else round(100 * float(row[what]), 1) for what in judged)]

    return dict(
        item=item + 1,
        question=cut(samples.question(task, doc), 2 * longest),
        answer=cut(samples.answer(task, doc), longest),
        replies=[[replied(one, scale) for one in series] for scale in scales],
    )


def by_matrix(
    table: pd.DataFrame, value: str, said: Mapping[str, str], figure: str, null: float | None = None
) -> dict[str, Any]:
    """Data of the part "map": a cell a layer and kind of matrix, coloured as `maps.by_matrix` of the same table is.

    `said`, {label: column}, is what a cell tells; `figure` names the figure whose image the part replaces.
    """
    kinds = [kind for kind in KINDS if kind in set(table.kind)]
    layers = sorted(int(layer) for layer in table.layer.unique())
    colours = maps.colours(table[value], null)
    told = [[number(value, 4) for value in row] for row in table[list(said.values())].itertuples(index=False)]
    cells: dict[str, Any] = {vector: [[None] * len(kinds) for _ in layers] for vector in table.vector.unique()}
    for row, words, colour in zip(table.itertuples(), told, colours, strict=True):
        cells[row.vector][layers.index(row.layer)][kinds.index(row.kind)] = [colour, *words]
    ticks = maps.ticks(table[value], null)
    key = list(zip([formatted(tick, ".2g") for tick in ticks], maps.colours(table[value], null, ticks), strict=True))
    return dict(figure=figure, layers=layers, kinds=kinds, said=list(said), key=key, cells=cells)
