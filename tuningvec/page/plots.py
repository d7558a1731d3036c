"""One function a figure; each tells what it draws: its data as a table, and its result in words."""

import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tuningvec.measures.scores import PERCENT, in_percent, task_name
from tuningvec.page.figures import (
    COLOURS,
    PAPER,
    PLAIN,
    WIDTH,
    Look,
    courses,
    empty,
    heatmap,
    legend,
    looks,
    outer,
    panels,
    plain_log,
    rows_from_above,
    spans,
    split,
    spread,
    style,
    told,
)
from tuningvec.page.text import each
from tuningvec.stats import wilson
from tuningvec.weights.components import KINDS, MATRICES, SYMBOLS

__all__ = ["style"]  # beside the figures, for pages to call

NULL = r"null $k/d_\text{out}$"
BOUND = "most that a random $T$ can have"
LENGTH = r"$\|T\| / \|\theta_\text{pre}\|$"
ALONG = r"$\lambda$ of $\theta_\text{pre} + \lambda T$"
AGAINST = r"$\lambda$ of $\theta_\text{ft} - \lambda T$"
REPLIES = " replies"  # ends the names of texts that are replies


def _by_kind(axes: Axes, means: pd.DataFrame, vectors: Mapping[Any, Look]) -> Iterator[tuple[Any, ...]]:
    """Name, marker, colour, places and rows of each vector, side by side over the kinds of matrix."""
    for offset, (vector, look) in zip(spread(len(vectors)), vectors.items(), strict=True):
        rows = means[means.vector == vector].set_index("kind").reindex(MATRICES)
        yield vector, *look, np.arange(len(MATRICES)) + offset, rows
    axes.set_xticks(range(len(MATRICES)), [SYMBOLS[kind] for kind in MATRICES])


def _line(axes: Axes, rows: pd.DataFrame, value: str, marker: str, colour: Any, label: str) -> None:
    """`value` by layer."""
    axes.plot(rows.layer, rows[value], marker=marker, ms=3.5, lw=1.2, color=colour, label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _curve(
    axes: Axes, rows: pd.DataFrame, value: str, shift: float, form: str, colour: Any, label: str, **options: Any
) -> None:
    """`value` with its intervals by the scale λ, moved aside by `shift`."""
    place = rows.scale + shift
    axes.vlines(place, rows.low, rows.high, color=colour, lw=1, alpha=0.7)
    axes.plot(place, rows[value], form, ms=5, lw=1.3, color=colour, label=label, **options)


def alignment_by_component(means: pd.DataFrame) -> Figure:
    """SSA of each vector in each kind of matrix, with the null k/d_out as a black bar (Table 4)."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.1))
    _alignment(axes, means, looks(means.vector), NULL)
    axes.set_ylabel("SSA")
    data = means[["vector", "kind", "SSA", "null"]]
    return told(legend(figure), data, f"SSA by kind of matrix beside its null, mean over layers. {_beside_null(data)}")


def shape_bound(cells: pd.DataFrame) -> Figure:
    """Table 4 with the most that a random T can have in a matrix of that shape, one panel a pretrained model."""
    data = cells.rename(columns={"bound": "null"})[["pretrained", "vector", "kind", "SSA", "null"]]
    figure, shown = panels(split(data, "pretrained"), 2.6, sharey=True)
    for axes, part in shown:
        _alignment(axes, part, looks(part.vector), BOUND)
    outer(shown, up="SSA")
    alt = "The paper's SSA by kind of matrix beside the most that a random T can have there."
    return told(legend(figure), data.rename(columns={"null": "bound"}), f"{alt} {_beside_null(data)}")


def front(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """SSA by kind of matrix on black bars of what a random T would have: the paper's vectors, and each family's.

    `ours` has columns family, vector, kind, SSA and null, a row a matrix or a kind; `paper` is `audit.shape_bound()`.
    """
    cells = ["family", "vector", "kind"]
    means = ours[ours.vector != "random"].groupby(cells, sort=False)[["SSA", "null"]].mean().reset_index()
    printed = paper.rename(columns={"bound": "null"}).assign(family="the paper's models")
    data = pd.concat([printed[means.columns], means], ignore_index=True)
    kinds_of_vector = {vector: kind for kind, vectors in PAPER.items() for vector in vectors}
    figure, shown = panels(split(data, "family"), 2.1, columns=4, sharey=True)
    for axes, part in shown:
        for vector, marker, colour, place, rows in _by_kind(axes, part, looks(part.vector)):
            half = 0.26 / max(part.vector.nunique() - 1, 1) + 0.03
            axes.hlines(rows.null, place - half, place + half, "black", lw=2, label="null (the paper's: its bound)")
            label = kinds_of_vector.get(vector, vector)
            axes.plot(place, rows.SSA, marker, color=colour, label=label, ms=5, mew=1.4, alpha=0.85)
        axes.tick_params(axis="x", labelrotation=90 if len(shown) > 2 else 0)
        axes.set_title(textwrap.fill(axes.get_title(loc="left"), 60 // len(shown)), loc="left")
        axes.set(ylim=(0, 1.06))
    outer(shown, up="SSA")
    alts = [f"{family}: {_beside_null(part, None)}" for family, part in split(data, "family")]
    return told(legend(figure), data, f"SSA by kind of matrix beside what shape and spectrum give. {' '.join(alts)}")


def _alignment(axes: Axes, means: pd.DataFrame, vectors: Mapping[Any, Look], null: str) -> None:
    """Marks of SSA by kind of matrix, over black bars of `means.null`."""
    for vector, marker, colour, place, rows in _by_kind(axes, means, vectors):
        axes.plot(place, rows.SSA, marker, color=colour, label=vector, ms=7, mew=2)
    bars = means.groupby("kind").null.first().reindex(MATRICES)
    axes.hlines(bars, np.arange(len(bars)) - 0.4, np.arange(len(bars)) + 0.4, "black", lw=1.6, label=null)
    axes.set_ylim(0, 1.04)


def _beside_null(cells: pd.DataFrame, who: str | None = "vector") -> str:
    """SSA of each vector, the null, and how far SSA lies from it, in words."""
    gaps = spans(cells.assign(gap=cells.SSA - cells.null), "gap", "{vector}, {kind}", digits=2)
    return f"SSA {spans(cells, 'SSA', '{kind}', who)}. Null {spans(cells, 'null', '{kind}')}. SSA less null {gaps}."


NAMED = {"E_perp": "Orthogonal energy"}  # what alt texts call a column


def by_layer(table: pd.DataFrame, value: str, label: str, null: bool = False, log: bool = False) -> Figure:
    """`value` by layer, one panel a kind of matrix; with the null as a black line."""
    figure, grid = plt.subplots(2, 4, figsize=(WIDTH, 4), sharex=True, sharey=True)
    for axes, kind in zip(grid.flat, MATRICES, strict=False):
        part = table[table.kind == kind].sort_values("layer", kind="stable")
        for vector, look in looks(table.vector).items():
            _line(axes, part[part.vector == vector], value, *look, vector)
        if null:
            rows = part.drop_duplicates("layer")
            axes.plot(rows.layer, rows.null, color="black", lw=1.6, label=NULL)
        axes.set_title(SYMBOLS[kind], loc="left")
        if log:
            axes.set_yscale("log")
    outer([(axes, None) for axes in grid.flat], "layer", label)
    grid[0, -1].xaxis.set_tick_params(labelbottom=True)
    grid.flat[-1].set_axis_off()
    grid.flat[-1].legend(*grid.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
    data = table[["vector", "kind", "layer", value, *(["null"] if null else [])]]
    place = "{kind}, layer {layer}"
    alt = f"{NAMED.get(value, value)} by layer and kind of matrix: {spans(data, value, place, 'vector')}."
    return told(figure, data, alt + (f" Null {spans(data, 'null', place)}." if null else ""))


def energy_by_component(means: pd.DataFrame) -> Figure:
    """E∥ and E⊥ of each vector, mean over layers, on a logarithmic axis (Tables 5 and 6)."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    for vector, marker, colour, place, rows in _by_kind(axes, means, looks(means.vector)):
        axes.vlines(place, rows.E_perp, rows.E_par, color=colour, lw=1, alpha=0.6)
        axes.plot(place, rows.E_par, marker, color=colour, ms=7, label=rf"{vector} $E_\parallel$")
        axes.plot(place, rows.E_perp, marker, color=colour, ms=7, mfc="white", label=rf"{vector} $E_\perp$")
    axes.set(yscale="log", ylabel="squared Frobenius norm")
    inside, outside = (spans(means, energy, "{kind}", "vector", 2) for energy in ("E_par", "E_perp"))
    alt = (
        f"Energy by kind of matrix, mean over layers. Inside the pretrained subspace: {inside}. Outside it: {outside}."
    )
    return told(legend(figure), means[["vector", "kind", "E_par", "E_perp"]], alt)


def similarity(table: pd.DataFrame, others: pd.DataFrame) -> Figure:
    """1 − cos(θ_pre, θ_ft) against ‖T‖/‖θ_pre‖, with the curve of a T orthogonal to θ_pre (Table 15).

    `others` are matrices of other pairs, with r and cosine.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.3))
    axes.plot(others.r, 1 - others.cosine, ".", color="0.7", ms=3, zorder=0, label="matrices of published pairs")
    moved = table[table.r > 0]
    for vector, (marker, colour) in looks(moved.vector).items():
        rows = moved[moved.vector == vector]
        axes.plot(rows.r, 1 - rows.cosine, marker, color=colour, ms=6, mfc="white", label=f"{vector}, by component")
        whole = rows[rows.kind == "all"]
        axes.plot(whole.r, 1 - whole.cosine, marker, color=colour, ms=10, label=f"{vector}, whole model")
    _orthogonal(axes, pd.concat([moved.r, others.r]))
    data = pd.concat([moved, others.assign(vector="published pairs")])[["vector", "kind", "r", "cosine"]]
    whole = each(moved[moved.kind == "all"], "{vector} moved by r = {r:.3f}, cosine {cosine:.4f}")
    off = spans(_off_the_curve(moved), "off", "{vector}, {kind}")
    alt = f"1 minus the cosine against the relative length r of T. Whole models: {whole}."
    return told(legend(figure), data, f"{alt} Components have, times what an orthogonal T gives: {off}.")


def _off_the_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """With a column `off`: 1 − cosine as a multiple of what a T orthogonal to θ_pre gives."""
    return rows.assign(off=(1 - rows.cosine) / (1 - 1 / np.sqrt(1 + rows.r**2)))


def _orthogonal(axes: Axes, r: pd.Series) -> None:
    """The curve of a T orthogonal to θ_pre over these r, and its axes."""
    r = np.geomspace(r.min() * 0.8, r.max() * 1.25, 100)
    axes.plot(r, 1 - 1 / np.sqrt(1 + r**2), color="black", lw=1.2, label=r"$T$ orthogonal to $\theta_\text{pre}$")
    axes.set(xscale="log", yscale="log", xlabel=LENGTH, ylabel="1 − cosine")
    plain_log(axes.xaxis)


def published_lengths(pairs: pd.DataFrame, trainings: Mapping[str, str]) -> Figure:
    """r of published pairs over all matrices, with the range of their matrices, by training, in two columns."""
    least, half = pairs.r.min() / 2, -(-len(pairs) // 2)
    halves = [("", pairs.iloc[:half]), ("", pairs.iloc[half:])]
    figure, shown = panels([one for one in halves if len(one[1])], 0.19 * half + 0.2)
    for axes, rows in shown:
        for training, (marker, colour) in looks(trainings).items():
            place = np.flatnonzero(rows.training == training)
            part = rows.iloc[place]
            axes.hlines(place, part.smallest.clip(lower=least), part.largest, color=colour, lw=1.5)
            axes.plot(part.r, place, marker, color=colour, ms=5, label=trainings[training])
        axes.axvline(2**0.5, color="black", lw=1.2, ls="--", label="two unrelated models of one norm")
        axes.set(xscale="log")
        rows_from_above(axes, rows.fine_tuned.str.split("/").str[-1].str.slice(0, 30))
        axes.tick_params(axis="y", labelsize=7.5)
    outer(shown, LENGTH)
    data = pairs[["training", "pretrained", "fine_tuned", "r", "smallest", "largest"]]
    named = pairs.assign(training=pairs.training.map(trainings), model=pairs.fine_tuned.str.split("/").str[-1])
    alt = f"Relative length r of the tuning vectors of {len(pairs)} published pairs by training"
    return told(legend(figure), data, f"{alt}: {spans(named, 'r', '{model}', 'training', 2)}.")


def published_cosines(tensors: pd.DataFrame, trainings: Mapping[str, str]) -> Figure:
    """1 − cosine against r of the matrices of published pairs, with the curve of an orthogonal T."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    for training, (_, colour) in looks(trainings).items():
        part = tensors[tensors.training == training]
        if len(part):
            axes.plot(part.r, 1 - part.cosine, ".", color=colour, ms=3)
            axes.plot([], [], "o", color=colour, ms=6, label=trainings[training])
    _orthogonal(axes, tensors.r)
    found = _off_the_curve(tensors).groupby("training", sort=False)
    medians = found.agg(r=("r", "median"), off=("off", "median"), count=("r", "size")).reset_index()
    medians["training"] = medians.training.map(trainings)
    words = each(medians, "{training} {off:.2f} times at r {r:.2f} ({count} matrices)")
    alt = f"1 minus the cosine against r, beside the curve of an orthogonal T; medians over matrices: {words}."
    return told(legend(figure), tensors[["training", "fine_tuned", "kind", "r", "cosine"]], alt)


def cosine_heatmap(cosines: pd.DataFrame, names: list[str]) -> Figure:
    """Cosines of all pairs of tuning vectors, whole model (Fig. 3)."""
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    data = cosines.loc[cosines.kind == "all", ["a", "b", "cosine"]]
    for row in data.itertuples():
        matrix.loc[row.a, row.b] = matrix.loc[row.b, row.a] = row.cosine
    figure, axes = plt.subplots(figsize=(WIDTH, 0.5 * len(names) + 0.8))
    heatmap(axes, matrix, ".3f", "PuOr", vmin=-1, vmax=1)
    alt = f"Cosines of the tuning vectors, whole model, {spans(data, 'cosine', '{a} and {b}')}."
    return told(figure, data, alt)


def cosine_by_component(cosines: pd.DataFrame) -> Figure:
    """Cosine of each pair by component; the grey bar is two standard deviations of the null about 0."""
    kinds = [k for k in ("all", *KINDS) if k in set(cosines.kind)]
    data = cosines[["a", "b", "kind", "cosine", "null_sd"]].assign(pair=cosines.a + " · " + cosines.b)
    figure, shown = panels(split(data, "pair"), 1.4, more=0.8, sharey=True)
    place = np.arange(len(kinds))
    for axes, part in shown:
        rows = part.set_index("kind").reindex(kinds)
        axes.bar(place, 4 * rows.null_sd, bottom=-2 * rows.null_sd, color="0.8", width=0.7, label="null ± 2 sd")
        axes.vlines(place, 0, rows.cosine, color="black", lw=1)
        axes.plot(place, rows.cosine, "o", color="black", ms=5)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xticks(place, [SYMBOLS.get(kind, kind) for kind in kinds], rotation=90)
    outer(shown, up="cosine")
    beyond = (data.cosine.abs() > 2 * data.null_sd).sum()
    alt = f"Cosines by component: {spans(data, 'cosine', '{kind}', 'pair', 2)}."
    alt += f" {beyond} of {len(data)} are beyond two standard deviations of the null."
    return told(legend(figure), data.drop(columns="pair"), alt)


FACES = {"survives": "full", "depends on the pairing": "left", "within chance": "none"}


def forest(comparisons: pd.DataFrame) -> Figure:
    """Differences in points with their intervals, one panel a table and family, one mark a pair of rows.

    Filled marks differ whatever the pairing of items, half-filled ones may, open ones are within chance.
    """
    parts = split(comparisons, ["table", "family"], lambda names: "Table {}, {}".format(*names))
    heights = [0.9 + len(part) * 0.1 + part.column.nunique() * 0.1 for _, part in parts]
    heights = [max(heights[row : row + 3]) for row in range(0, len(heights), 3)]
    options = dict(sharex="all", height_ratios=heights, figsize=(WIDTH, sum(heights) + 0.4))
    figure, shown = panels([("", part) for _, part in parts], 0, **options)
    for (title, _), (axes, part) in zip(parts, shown, strict=True):
        pairs = dict(list(part.groupby(["first", "second"], sort=False)))
        rows = list(part.column.unique())
        for (names, (marker, colour)), offset in zip(looks(pairs).items(), spread(len(pairs)), strict=True):
            cells = pairs[names]
            place = np.array([rows.index(column) for column in cells.column]) + offset
            axes.hlines(place, cells.low, cells.high, color=colour, lw=1.4)
            for x, y, outcome in zip(cells.points, place, cells.outcome, strict=True):
                axes.plot(x, y, marker, color=colour, ms=5, fillstyle=FACES[outcome], markerfacecoloralt="white")
            axes.plot([], [], marker, color=colour, ms=5, label=" − ".join(names))
        axes.axvline(0, color="black", lw=1)
        rows_from_above(axes, rows)
        axes.legend(
            title=title, loc="lower left", bbox_to_anchor=(-0.5 if len(shown) > 2 else 0, 1), frameon=False,
            alignment="left", fontsize="small", handletextpad=0.2, labelspacing=0.2, borderpad=0, borderaxespad=0.2,
        )  # fmt: skip
    outer(shown, "difference in points")
    counts = ", ".join(f"{one} {(comparisons.outcome == one).sum()}" for one in FACES)
    ends = spans(comparisons, "points", "{first} − {second}, {column}, Table {table}")
    data = comparisons[["table", "family", "first", "second", "column", "points", "low", "high", "outcome"]]
    return told(figure, data, f"{len(data)} differences in points {ends}. Outcomes: {counts}.")


def same_weights(rows: pd.DataFrame, level: float) -> Figure:
    """Accuracy of the pretrained weights twice: as (−)T in Table 1 and under their own name in Table 7."""
    table = rows.copy()
    for side, right in (("pre", rows.right_pre), ("without", rows.right)):
        both = [wilson(float(count), float(n), level) for count, n in zip(right, rows.n, strict=True)]
        table[[f"low_{side}", f"high_{side}"]] = 100 * np.array(both)
    figure, shown = panels(split(table, "family"), 2.6, sharey=True)
    for axes, part in shown:
        axes.plot([0, 100], [0, 100], color="black", lw=1, label="same value")
        axes.hlines(part.value, part.low_pre, part.high_pre, color="0.6", lw=0.8)
        axes.vlines(part.value_pre, part.low_without, part.high_without, color="0.6", lw=0.8)
        axes.plot(part.value_pre, part.value, "o", color="black", ms=5)
        axes.set(xlim=(40, 101), ylim=(0, 101))
    outer(shown, "pretrained, Table 7 (%)", "(−)T, Table 1 (%)")
    alt = "Accuracy of the same weights twice, as (−)T in Table 1 less as pretrained in Table 7, in points"
    data = table[
        ["family", "column", "n", "points", "value_pre", "low_pre", "high_pre", "value", "low_without", "high_without"]
    ]
    return told(legend(figure), data, f"{alt}: {spans(table, 'points', '{column}', 'family')}.")


def lengths(cosines: pd.DataFrame, vectors: pd.DataFrame) -> Figure:
    """‖T‖/‖θ_pre‖ with its range by rounding: pairs of Table 15, and the vectors of Tables 5 and 6."""
    others = vectors[~vectors.vector.isin(cosines.member)].rename(columns={"vector": "member"})
    sources = {"from its cosine, Table 15": cosines, "from energies, Tables 5 and 6": others}
    rows = pd.concat(sources, names=["source", None]).reset_index("source").reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.3 * len(rows) + 0.6))
    for source, (marker, colour) in looks(sources).items():
        part = rows[rows.source == source]
        axes.hlines(part.index, part.r_low, part.r_high, color=colour, lw=2)
        axes.plot(part.r, part.index, marker, color=colour, ms=7, label=source)
    axes.axvline(2**0.5, color="black", lw=1.2, ls="--", label="two unrelated models of one norm")
    axes.set(xscale="log", xlabel=LENGTH)
    rows_from_above(axes, rows.pretrained + ", " + rows.member)
    plain_log(axes.xaxis)
    words = each(rows, "{member} on {pretrained} {r:.3f}")
    data = rows[["source", "pretrained", "member", "r", "r_low", "r_high"]]
    return told(legend(figure), data, f"Relative lengths of T by the paper's numbers: {words}. √2 = {2**0.5:.2f}.")


def training_curves(reports: Mapping[str, Mapping[str, Any]], controls: Collection[str] = ()) -> Figure:
    """Training loss per token of each member, and its divergence in rehearsal, as its recipe recorded them.

    Controls are dashed.
    """
    named = {"loss": "loss per token", "divergence": "divergence per token"}
    kept = {name: label for name, label in named.items() if any(report.get(name) for report in reports.values())}
    figure, shown = panels([(label, name) for name, label in kept.items()], 2.6)
    curves = []
    for axes, name in shown:
        for member, (marker, colour) in looks(reports).items():
            curve = reports[member].get(name) or []
            step = np.arange(1, len(curve) + 1)
            every = (max(1, len(curve) // 14), max(1, len(curve) // 7))
            axes.plot(step, curve, "--" if member in controls else "-", marker=marker, ms=4, markevery=every,
                      color=colour, label=member, lw=1.2)  # fmt: skip
            curves.append(pd.DataFrame({"measure": name, "member": member, "step": step, "value": curve}))
        axes.set(yscale="log")
        plain_log(axes.yaxis)
    outer(shown, "step")
    data = pd.concat(curves).astype({"value": float})
    words = [
        f"{kept[name]}: {courses(rows, 'value', 'step {step}', 'member')}." for name, rows in split(data, "measure")
    ]
    return told(legend(figure), data, f"Training by step, {' '.join(words)}")


def tuning_curves(held_out: pd.DataFrame, training: pd.DataFrame) -> Figure:
    """Loss per token against the step by way of tuning: of held-out replies with intervals over seeds, and in training.

    How ways differ in training is less than how batches do, which all ways share: there the mean stands alone.
    """
    ways = looks(held_out.way)
    shift = dict(zip(ways, spread(len(ways), 0.012 * held_out.step.max()), strict=True))
    parts = []
    for scope, rows in split(held_out, "scope"):
        where = "every matrix" if scope == "all" else f"{SYMBOLS[scope]} alone"
        parts += [(f"{where}, held-out replies", rows), (f"{where}, training", training[training.scope == scope])]
    figure, shown = panels(parts, 2.5, columns=2)
    for place, (axes, rows) in enumerate(shown):
        for way, (marker, colour) in ways.items():
            one, style = rows[rows.way == way], dict(color=colour, lw=1.3)
            if place % 2:
                axes.plot(one.step, one.loss, **style)
                continue
            axes.vlines(one.step + shift[way], one.low, one.high, color=colour, lw=1, alpha=0.7)
            axes.plot(one.step + shift[way], one.loss, marker=marker, ms=5, label=way, **style)
        axes.set(yscale="log")
        plain_log(axes.yaxis)
    outer(shown, "step", "nats per token")
    shown[-1][0].xaxis.get_major_locator().set_params(integer=True)
    data = pd.concat({"held-out": held_out, "training": training}, names=["replies", None]).reset_index("replies")
    words = courses(held_out, "loss", "step {step}", ["scope", "way"])
    data = data[["replies", "scope", "way", "step", "loss", "low", "high"]]
    return told(legend(figure), data, f"Loss of held-out replies in nats per token by way: {words}.")


SHARES = {  # columns of `neurons.shares`
    "share": "tokens × neurons",
    "mean": "neurons, mean above 0",
    "half": "neurons, over half the tokens",
}


def active_shares(shares: pd.DataFrame) -> Figure:
    """Share of active neurons by layer and member, in three readings (Fig. 1); bands are 95 % intervals."""
    figure, shown = panels([(label, column) for column, label in SHARES.items()], 2.6, sharey=True)
    for axes, column in shown:
        for member, look in looks(shares.member).items():
            rows = shares[shares.member == member]
            if column == "share":
                axes.fill_between(rows.layer, rows.low, rows.high, color=look[1], alpha=0.25, lw=0)
            _line(axes, rows, column, *look, member)
        axes.set(ylim=(0, 1))
    outer(shown, "layer", "share that is active")
    words = (f"Of {label}: {spans(shares, column, '{member}, layer {layer}')}." for column, label in SHARES.items())
    data = shares[["member", "layer", *SHARES, "low", "high"]]
    return told(legend(figure), data, f"Share that is active by layer. {' '.join(words)}")


def edit_distances(distances: pd.DataFrame, criteria: Mapping[str, str]) -> Figure:
    """Edit distance from the pretrained pattern by layer (Fig. 2), one panel a criterion, with nulls and floor."""
    pretrained, *members = looks(distances.member).items()
    others = distances[distances.member != pretrained[0]]
    parts = [(label, others[others.criterion == name]) for name, label in criteria.items()]
    figure, shown = panels(parts, 2.6, sharey=True)
    for axes, part in shown:
        for member, (marker, colour) in members:
            rows = part[part.member == member]
            _line(axes, rows, "edit", marker, colour, member)
            axes.plot(rows.layer, rows.edit_rotated, ls="--", lw=1.2, color=colour, label=f"{member}, $T$ rotated")
        layers = part.groupby("layer")
        axes.plot(layers.edit_shuffled.mean(), color="black", lw=1.6, label="random places")
        axes.plot(layers.edit_floor.first(), color="black", lw=1.6, ls=":", label="pretrained, two halves of the text")
    axes.set_ylim(0, None)
    outer(shown, "layer", "edit distance / $d_m$")
    means = others.groupby("member", sort=False)[["edit", "edit_rotated"]].mean().reset_index()
    words = each(means, "{member} {edit:.3f}, with T rotated {edit_rotated:.3f}")
    alt = f"Edit distance from the pretrained pattern per neuron, means: {words}; places at random"
    alt += f" {others.edit_shuffled.mean():.3f}. By layer {spans(others, 'edit', '{member}, layer {layer}')}."
    data = others[["criterion", "member", "layer", "edit", "edit_rotated", "edit_shuffled", "edit_floor"]]
    return told(legend(figure), data, alt)


def room_to_swap(margins: pd.DataFrame, scaled: pd.DataFrame) -> Figure:
    """How many times as long T may be by layer, and the share of neurons with another match when it is so long."""
    titles = ("by layer", "all compared layers")
    figure, ((left, layers), (right, longer)) = panels(zip(titles, (margins, scaled), strict=True), 2.8, sharex=False)
    means = longer.groupby(["member", "scale"], sort=False)[["moved", "nearest"]].mean().reset_index()
    for member, (marker, colour) in looks(margins.member).items():
        rows, ours = layers[layers.member == member], means[means.member == member].sort_values("scale")
        _line(left, rows, "median", marker, colour, f"{member}, bound, median")
        left.plot(rows.layer, rows.least, ls=":", lw=1.4, color=colour, label=f"{member}, bound, smallest")
        left.plot(rows.layer, rows["first"], ls="--", lw=1.2, color=colour, label=f"{member}, first swap")
        right.plot(ours.scale, ours.moved, marker, ls="-", ms=6, lw=1.2, color=colour)
        right.plot(ours.scale, ours.nearest, ls="--", lw=1.2, color=colour)
    left.axhline(1, color="black", lw=0.8)
    right.axvline(1, color="black", lw=0.8)
    left.set(yscale="log", xlabel="layer", ylabel=r"$\lambda$")
    right.set(xscale="log", xlabel=ALONG, ylabel="share of neurons that move")
    for axis in (left.yaxis, right.xaxis):
        plain_log(axis)
    bound = spans(margins, "median", "layer {layer}", "member")
    swap = spans(margins, "first", "layer {layer}", "member")
    alt = f"How many times as long as it is T may be. Bound for the median neuron: {bound}. First swap: {swap}."
    alt += f" Share that the best assignment moves {spans(means, 'moved', '{member}, λ = {scale:g}')}."
    sides = {"by layer": margins[["member", "layer", "median", "least", "first"]], "all compared layers": means}
    return told(legend(figure), pd.concat(sides, names=["panel", None]).reset_index("panel"), alt)


def ablation(effects: pd.DataFrame) -> Figure:
    """What ablating the top neurons costs (Fig. 5), filled, beside as many at random, open; a panel a task."""
    shares, members = sorted(effects.share[effects.ablated != "nothing"].unique()), looks(effects.member)
    figure, shown = panels(split(effects, "task", task_name), 2.3)
    for axes, part in shown:
        for (member, (marker, colour)), offset in zip(members.items(), spread(len(members), 0.3), strict=True):
            for kind, fill in (("top", dict(color=colour, label=member)), ("random", dict(mec=colour, mfc="white"))):
                rows = part[(part.member == member) & (part.ablated == kind)]
                place = rows.share.map(shares.index) + offset
                axes.vlines(place, rows.change_low, rows.change_high, color=colour, lw=1, alpha=0.7)
                axes.plot(place, rows.change, marker, ls="none", ms=4.5, **fill)
        axes.axhline(0, color="black", lw=0.8)
        (unit,) = part.unit.unique()
        axes.set_ylabel(unit)
        if unit == PERCENT:
            axes.set_ylim(-110, 110)
        else:
            axes.set_yscale("symlog", linthresh=0.1)
            axes.yaxis.set_major_formatter(PLAIN)
            axes.margins(y=0.15)
    axes.set_xticks(range(len(shares)), [in_percent(share) for share in shares])
    outer(shown, "share of active neurons")
    columns = ["task", "member", "ablated", "share", "change", "change_low", "change_high", "unit"]
    data = effects.loc[effects.ablated.isin(["top", "random"]), columns]
    named = data.assign(task=data.task.map(task_name), share=data.share.map(in_percent))
    words = spans(named, "change", "{member}, {share}", ["task", "ablated"])
    return told(legend(figure), data, f"What ablating neurons costs, of the top ones and at random: {words}.")


def ablation_heatmap(effects: pd.DataFrame) -> Figure:
    """ΔP of each member on each benchmark, a panel each share of neurons ablated (Fig. 5)."""
    rows = effects[(effects.ablated == "top") & (effects.unit == PERCENT)]
    data = rows[["task", "member", "share", "change"]]
    if rows.empty:
        return empty("no benchmark was asked", data)
    parts = split(rows.sort_values("share"), "share", lambda share: f"top {in_percent(share)} of active neurons")
    figure, shown = panels(parts, 0.8 + 0.34 * rows.task.nunique(), sharey=True)
    for axes, part in shown:
        wide = part.pivot(index="task", columns="member", values="change")
        wide = wide.loc[rows.task.unique(), rows.member.unique()].rename(index=task_name)
        heatmap(axes, wide, ".0f", "RdBu_r", vmin=-100, vmax=100, cbar=False, annot_kws={"size": "small"})
        axes.tick_params(axis="x", labelrotation=90)
        axes.tick_params(length=0)
        for y, x in np.argwhere(wide.isna().to_numpy()):  # which the heat map leaves empty
            axes.text(x + 0.5, y + 0.5, "P = 0", ha="center", va="center", fontsize="x-small", rotation=45)
    named = data.assign(task=data.task.map(task_name), share="top " + data.share.map(in_percent))
    words = spans(named, "change", "{member}, {task}", "share")
    return told(figure, data, f"ΔP in percent when the top neurons are ablated: {words}.")


CURVES = {  # columns of items, how they are called and drawn
    "acc": ("right, in the form asked for", "o-"),
    "acc_lenient": ("right, in any form", "s--"),
    "thought": ("thought encapsulated", "^:"),
    "stopped_token": ("stopped by end token", "D-."),
    "passed": ("passes its tests", "o-"),
    "rouge1": ("ROUGE-1", "o-"),
}
SCORES = ("acc", "passed", "rouge1")


def negation(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy and instructions kept against λ of θ_ft − λT, a panel a member and task; bars are 95 % intervals.

    `curves` holds by title rows of scale, what, score, low and high.
    """
    figure, shown = panels([(textwrap.fill(title, 24), rows) for title, rows in curves.items()], 2.4, sharey=True)
    for axes, rows in shown:
        for place, (what, (label, form)) in enumerate(CURVES.items()):
            part = rows[rows.what == what].sort_values("scale")
            if len(part):
                _curve(axes, part, "score", 0.01 * (place - 1.5), form, COLOURS[place], label)
        axes.axvline(1, color="black", lw=0.8)
        axes.set(ylim=(-4, 104), xticks=sorted(rows.scale.unique()))
    outer(shown, AGAINST, "% of items")
    data = pd.concat(curves, names=["panel", None]).reset_index("panel")
    right = data[data.what.isin(SCORES)].sort_values("scale", kind="stable").sort_values("panel", kind="stable")
    words = courses(right, "score", "λ = {scale:g}", "panel")
    data = data[["panel", "scale", "what", "score", "low", "high"]]
    return told(legend(figure), data, f"Percent of items that are right along θ_ft − λT: {words}.")


def starts(curves: pd.DataFrame) -> Figure:
    """Scores against λ of θ_ft − λT, a panel a vector: in the form asked for, in any form, by likelihood in two ways.

    Crosses are scores in the form in plain text. Bars are 95 % intervals. `curves` are of `starts.curves`.
    """
    curves = curves[curves.own | (curves.way == curves.way.iloc[0])]
    figure, shown = panels(split(curves, "member"), 2.2, columns=2, sharey=True)
    for axes, rows in shown:
        for place, (way, form) in enumerate(zip(curves.way.unique(), ("o-", "s--", "D-.", "^:"), strict=False)):
            for task, part in rows[rows.own & (rows.way == way)].groupby("task", sort=False):
                label = f"right, {way}" if task == rows.task.iloc[0] else ""
                _curve(axes, part, "score", 0.012 * (place - 1), form, COLOURS[place], label)
        plain = rows[~rows.own]
        axes.plot(plain.scale, plain.score, "x", color="black", ms=7, mew=1.6, label="in the form, plain text")
        axes.set(ylim=(-4, 104), xticks=sorted(rows.scale.unique()))
    outer(shown, AGAINST, "% of items")
    ends = curves[curves.own].sort_values("scale", kind="stable").groupby(["member", "way"], sort=False)
    ends = ends.agg(first=("score", "first"), last=("score", "last")).reset_index()
    words = [f"{member}, {each(rows, '{way} {first:.1f} and {last:.1f}')}" for member, rows in split(ends, "member")]
    data = curves[["member", "task", "way", "own", "scale", "score", "low", "high"]]
    return told(legend(figure), data, f"Percent of items that are right at the ends of θ_ft − λT: {'; '.join(words)}.")


def addition(ratios: pd.DataFrame) -> Figure:
    """Normalised accuracy against λ (Figs. 4, 6), a panel a benchmark: all vectors, and each alone; 95 % intervals."""
    figure, shown = panels(split(ratios, "task", task_name), 2.6, sharex=False)
    drawn = []
    for axes, part in shown:
        own = looks(one for one in part.vectors.unique() if one not in ("none", "sum"))
        own = {
            one: ("h", (0.0, 0.0, 0.0)) if one == "sum" else own[one] for one in part.vectors.unique() if one != "none"
        }
        for (one, (marker, colour)), shift in zip(own.items(), np.linspace(-0.012, 0.012, len(own)), strict=True):
            rows = part[part.vectors.isin(["none", one])].sort_values("scale")
            label = "all vectors" if one == "sum" else f"$T$ of {one} alone"
            _curve(axes, rows, "ratio", shift, f"{marker}-", colour, label)
            drawn.append(rows.assign(vectors=label.replace("$", "")))
        axes.axhline(1, color="black", lw=0.8)
        axes.set(ylim=(-0.05, None), xticks=sorted(part.scale.unique()))
    outer(shown, r"$\lambda$ of $\theta_\text{pre} + \lambda \sum_i T_i$", "normalised score")
    named = pd.concat(drawn).assign(task=lambda rows: rows.task.map(task_name))
    words = courses(named, "ratio", "λ = {scale:g}", ["task", "vectors"])
    data = named[["task", "vectors", "scale", "ratio", "low", "high"]]
    return told(legend(figure), data, f"Score as a multiple of the specialist's: {words}.")


def _of_text(axes: Axes, rows: pd.DataFrame, value: str, shift: float, text: str, look: Look) -> None:
    """`value` of a text by λ; texts other than replies, which share the colour of a member of their name, are open."""
    marker, colour = look
    form, inside = ("-", colour) if text.endswith(REPLIES) else ("--", "white")
    _curve(axes, rows, value, shift, marker + form, colour, text, mfc=inside)


def loss_lines(changes: pd.DataFrame, drawn: pd.DataFrame) -> Figure:
    """Change of the loss of each text along θ_pre + λT, and dotted along each turned T; a panel a specialist.

    Replies are above, other texts below. `changes` are of `path.changes`, `drawn` of `path.turned_changes`.
    """
    lines, beside = changes[changes.kind == "T"], drawn[drawn.sides != "none"]
    replies = lines.text.str.endswith(REPLIES)
    parts = split(lines[replies], "b", "{}, replies".format) + split(lines[~replies], "b", "{}, other texts".format)
    count = lines.b.nunique()
    figure, shown = panels(parts, 2.3, columns=count if count < 4 else 3, sharey=True)
    for axes, part in shown:
        for text, look in looks(changes.text).items():
            rows = part[part.text == text]
            if rows.empty:
                continue
            _of_text(axes, rows, "change", 0, text, look)
            turned = beside[(beside.member == part.b.iloc[0]) & (beside.text == text)]
            for _, one in turned.groupby(["sides", "draw"]):
                axes.plot(one.scale, one.change, ":", color=look[1], lw=1, alpha=0.8)
        axes.plot([], [], ":", color="0.4", label="turned $T$")
        axes.xaxis.set_major_formatter(PLAIN)
    for axes, _ in shown:
        _near_zero(axes)
    outer(shown, ALONG, "change in nats per token")
    both = pd.concat([lines.rename(columns={"b": "member"}), beside])
    words = spans(lines, "change", "λ = {scale:g}", ["b", "text"])
    data = both[["member", "text", "sides", "draw", "scale", "change", "low", "high"]]
    return told(legend(figure), data, f"Change of the loss along T in nats per token: {words}.")


def excess_over_chord(over: pd.DataFrame, kinds: Mapping[str, str], least: float) -> Figure:
    """How far losses lie above the chord between both ends against λ (`path.excess`), a panel a kind of line.

    Bars are the intervals that hold for all of a kind together; the band is ± `least`.
    """
    figure, shown = panels(split(over, "kind", lambda kind: kinds[kind]), 2.3, columns=2)
    for axes, part in shown:
        shifts = spread(part[["a", "b"]].drop_duplicates().shape[0], 0.02)
        for shift, (_, line) in zip(shifts, part.groupby(["a", "b"], sort=False), strict=True):
            for text, rows in line.groupby("text", sort=False):
                _of_text(axes, rows, "excess", shift, text, looks(over.text)[text])
        axes.axhspan(-least, least, color="0.85", zorder=0)
        _near_zero(axes)
        axes.set_xlim(0, 1)
    outer(shown, r"$\lambda$", "excess, nats per token")
    words = spans(over.assign(line=over.kind.map(kinds)), "excess", "{a} to {b}, {text}, λ = {scale:g}", "line")
    data = over[["kind", "a", "b", "text", "scale", "excess", "low", "high"]]
    return told(
        legend(figure), data, f"Excess of the loss over the chord in nats per token, {words}; ±{least:g} matters."
    )


def _near_zero(axes: Axes, linear: float = 0.1) -> None:
    """An axis that is linear to ± `linear`, which it shows, and logarithmic beyond."""
    low, high = axes.get_ylim()
    axes.axhline(0, color="black", lw=0.8)
    axes.set_yscale("symlog", linthresh=linear)
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set(ylim=(min(low, -1.2 * linear), max(high, 1.2 * linear)))


TRAVELLED = {  # columns of `path.on_the_way`
    "cosine": r"$\cos(T_t, T_\text{end})$",
    "onward": r"$\cos(T_t, T_\text{end} - T_t)$",
    "distance": "distance from the straight line",
}


def trajectories(places: pd.DataFrame) -> Figure:
    """Where checkpoints lie to the straight line to the end, by step; dashed, a walk of orthogonal increments."""
    columns = [f"{column}{walk}" for column in TRAVELLED for walk in ("", "_walk")]
    data = places[["member", "step", *columns]]
    if places.empty:
        return empty("no checkpoint of a training is at hand", data)
    figure, shown = panels([(label, column) for column, label in TRAVELLED.items()], 2.5)
    for axes, column in shown:
        for member, (marker, colour) in looks(places.member).items():
            rows = places[places.member == member]
            axes.plot(rows.step, rows[column], f"{marker}-", ms=4, color=colour, label=member)
            axes.plot(rows.step, rows[f"{column}_walk"], "--", color=colour, lw=1.2, label=f"{member}, walk")
        axes.set(ylim=(-0.05 if column == "onward" else 0, None))
    outer(shown, "step")
    toward, onward = (courses(places, column, "step {step:g}", "member") for column in ("cosine", "onward"))
    far = spans(places, "distance", "step {step:g}", "member")
    alt = (
        f"Cosine with the end: {toward}. With what is still to come: {onward}. Distance from the straight line: {far}."
    )
    return told(legend(figure), data, alt)


def score_differences(gaps: pd.DataFrame) -> Figure:
    """Differences from one model in points with their intervals, filled where beyond chance; a panel a benchmark."""
    whos = list(gaps.who.unique())
    first = gaps.drop_duplicates("task").set_index("task")
    parts = split(gaps, "task", lambda task: f"{task_name(task)}, n = {first.n[task]}")
    figure, shown = panels(parts, 0.5 + 0.27 * len(whos), more=0.4, sharey=True)
    for axes, part in shown:
        place = [whos.index(who) for who in part.who]
        axes.hlines(place, part.low, part.high, color="black", lw=1.4)
        for x, y, clear in zip(part.points, place, part.clear, strict=True):
            axes.plot(x, y, "o", color="black", ms=7, mfc="black" if clear else "white")
        axes.axvline(0, color="black", lw=0.8)
        rows_from_above(axes, whos)
    outer(shown, "difference in points")
    known = gaps[gaps.points.notna()].assign(beyond=np.where(gaps[gaps.points.notna()].clear, ", beyond chance", ""))
    words = [f"{task_name(task)}: {each(rows, '{who} {points:+.1f} ({low:+.1f} to {high:+.1f}){beyond}', ', ')}"
             for task, rows in split(known, "task")]  # fmt: skip
    data = gaps[["task", "who", "n", "points", "low", "high", "clear"]]
    return told(figure, data, f"Differences in points from {gaps.reference.iloc[0]}. {'; '.join(words)}.")


def _map(axes: Axes, values: np.ndarray, colours: str, **limits: Any) -> Any:
    """A heat map of effects, layers upwards."""
    axes.grid(False)
    return axes.imshow(values, origin="lower", aspect="auto", cmap=colours, **limits)


def _tidy(values: np.ndarray, **along: Any) -> pd.DataFrame:
    """The effects that are known, with the names along each of the array's axes."""
    index = pd.MultiIndex.from_product(along.values(), names=along.keys())
    return pd.Series(values.ravel(), index, name="effect").dropna().reset_index()


def patching_maps(maps: Any, sites: tuple[str, ...], kind: str) -> Figure:
    """Mean |effect| over the pairs of a kind: layer × column, a row of panels a member, a column a site (Fig. 7)."""
    means = {member: found.abs().mean(0).numpy() for (member, k), found in maps.effects.items() if k == kind}
    size = (WIDTH, 1.25 * len(means) + 1.5)
    figure, grid = plt.subplots(len(means), len(sites), figsize=size, sharex=True, sharey=True, squeeze=False)
    most = np.max([found.max(axis=(1, 2)) for found in means.values()], axis=0)
    for row, (member, found) in zip(grid, means.items(), strict=True):
        images = [_map(*one, "magma_r", vmin=0, vmax=top) for *one, top in zip(row, found, most, strict=True)]
        row[0].set_ylabel(f"{member}\nlayer")
    for column, site, image in zip(grid.T, sites, images, strict=True):
        column[0].set_title(site)
        figure.colorbar(image, ax=list(column), location="bottom", shrink=0.9, aspect=30, pad=0.02)
        column[-1].set_xticks(range(len(maps.columns)), maps.columns, rotation=90)
    tables = [_tidy(found, site=sites, layer=range(found.shape[1]), column=maps.columns).assign(member=member)
              for member, found in means.items()]  # fmt: skip
    data = pd.concat(tables, ignore_index=True)[["member", "site", "layer", "column", "effect"]]
    largest = data.loc[data.groupby("member", sort=False).effect.idxmax()]
    words = each(largest, "{member} {effect:.3f} ({site}, {column}, layer {layer})")
    return told(figure, data, f"Mean size of effects by layer and part of the statement; largest: {words}.")


def patching_example(example: tuple[Any, Mapping[str, Any]], sites: tuple[str, ...]) -> Figure:
    """One pair: plain and integrated attribution and exact patching, layer × token; grey where nothing is known.

    Layers that were not patched exactly show the nearest one that was.
    """
    pair, maps = example
    size = (WIDTH, 1.6 * len(sites) + 1.2)
    figure, grid = plt.subplots(len(sites), len(maps), figsize=size, sharex=True, sharey=True, squeeze=False)
    for i, (row, site) in enumerate(zip(grid, sites, strict=True)):
        limit = np.nanmax(np.abs(maps["exact"][i].numpy()))
        for axes, found in zip(row, maps.values(), strict=True):
            axes.set_facecolor("0.8")
            values = found[i].numpy()
            known = np.flatnonzero(~np.isnan(values).all(axis=1))
            nearest = known[np.abs(known - np.arange(len(values))[:, None]).argmin(axis=1)]
            image = _map(axes, values[nearest], "PuOr", vmin=-limit, vmax=limit)
        row[0].set_ylabel(f"{site}\nlayer")
        figure.colorbar(image, ax=list(row), shrink=0.9, pad=0.01, aspect=14)
    columns = pair.corrupt.columns
    for top, axes, method in zip(grid[0], grid[-1], maps, strict=True):
        top.set_title(method)
        _parts_of_the_text(axes, columns)
    tokens = [f"{place} {column}" for place, column in enumerate(columns)]
    tables = [_tidy(found.numpy(), site=sites, layer=range(found.shape[1]), token=tokens).assign(method=method)
              for method, found in maps.items()]  # fmt: skip
    data = pd.concat(tables)[["method", "site", "layer", "token", "effect"]]
    words = spans(data, "effect", "{site}, token {token}, layer {layer}", "method", 2)
    return told(figure, data, f"Effects of one pair by layer and token: {words}.")


def _parts_of_the_text(axes: Axes, columns: Any) -> None:
    """Names of the parts below the middle of their tokens, moved apart so that each can be read, with a line to it."""
    parts = pd.Series(range(len(columns))).groupby(list(columns), sort=False).mean()
    width = axes.get_position().width * axes.figure.get_figwidth() * 72 * 0.95
    apart = min(9.5 / width * len(columns), (len(columns) - 1) / max(len(parts) - 1, 1))  # in tokens, 9.5 points
    ranks = np.arange(len(parts)) * apart
    places = np.maximum.accumulate(parts.to_numpy() - ranks) + ranks  # pushed to the right
    last = len(columns) - 1 - ranks[::-1]
    places = np.minimum(places, last)  # and back from the end
    axes.set_xticks(range(len(columns)), [""] * len(columns))
    axes.tick_params(axis="x", length=2)
    below = dict(xycoords=axes.get_xaxis_transform(), textcoords=axes.get_xaxis_transform())
    line = dict(arrowstyle="-", lw=0.6, color="0.3", shrinkA=0, shrinkB=0)
    for place, (name, token) in zip(places, parts.items(), strict=True):
        axes.annotate(name, (token, -0.01), (place, -0.16), ha="center", va="top", rotation=90, fontsize=8,
                      arrowprops=line, **below)  # fmt: skip
