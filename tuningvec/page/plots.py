"""One function a figure, in one style: legible on a phone, in black and white, and on a white card in dark mode."""

import itertools
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tuningvec.measures.scores import PERCENT, in_percent, task_name
from tuningvec.stats import wilson
from tuningvec.weights.components import KINDS, MATRICES, SYMBOLS

MARKERS = "oDs^vP*"
WIDTH = 5.0  # inches; a phone shows this at about three quarters, so text stays readable


def style() -> None:
    """Set the style of all figures: SVG with fixed ids, colour-blind palette, one font size."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.95)
    plt.rcParams.update({"figure.dpi": 96, "svg.hashsalt": "tuningvec", "svg.fonttype": "path", "axes.grid": True,
                         "grid.alpha": 0.35, "figure.constrained_layout.use": True})  # fmt: skip
    set_matplotlib_formats("svg", metadata={"Date": None})


def _labels(kinds: list[str]) -> list[str]:
    return [SYMBOLS.get(kind, kind) for kind in kinds]


def _vectors(table: pd.DataFrame) -> dict[str, tuple[str, tuple[float, float, float]]]:
    """Marker and colour of each vector, in the table's order; the random one is always a grey cross."""
    looks = itertools.cycle(zip(MARKERS, sns.color_palette("colorblind"), strict=False))
    return {v: ("x", (0.35, 0.35, 0.35)) if v == "random" else next(looks) for v in table.vector.unique()}


def alignment_by_component(means: pd.DataFrame) -> Figure:
    """SSA of each vector in each kind of matrix, with the null k/d_out as a black bar (Table 4)."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.9))
    _alignment(axes, means, _vectors(means), "null $k/d_\\text{out}$")
    _legend_below(figure)
    return figure


def shape_bound(cells: pd.DataFrame) -> Figure:
    """Table 4 with the most that a random T can have in a matrix of that shape, one panel a pretrained model."""
    models = cells.pretrained.unique()
    figure, grid = plt.subplots(len(models), 1, figsize=(WIDTH, 2.9 * len(models)), sharex=True)
    for axes, model in zip(grid, models, strict=True):
        part = cells[cells.pretrained == model].assign(null=lambda t: t.bound)
        _alignment(axes, part, {v: look for v, look in _vectors(cells).items() if v in set(part.vector)}, None)
        axes.set_title(model, loc="left")
        axes.legend(loc="lower left", frameon=False)
    return figure


def _alignment(axes: Axes, means: pd.DataFrame, vectors: Mapping[str, tuple[str, Any]], null: str | None) -> None:
    """Marks of SSA by kind of matrix, over black bars of `means.null`."""
    offsets = np.linspace(-0.26, 0.26, len(vectors)) if len(vectors) > 1 else [0]
    for offset, (vector, (marker, colour)) in zip(offsets, vectors.items(), strict=True):
        rows = means[means.vector == vector].set_index("kind").reindex(MATRICES)
        axes.plot(np.arange(len(MATRICES)) + offset, rows.SSA, marker, color=colour, label=vector, ms=7, mew=2)
    bars = means.groupby("kind").null.first().reindex(MATRICES)
    axes.hlines(bars, np.arange(len(bars)) - 0.4, np.arange(len(bars)) + 0.4, "black", lw=1.6, label=null)
    axes.set(ylim=(0, 1.04), ylabel="SSA", xticks=range(len(MATRICES)))
    axes.set_xticklabels(_labels(list(MATRICES)))


def by_layer(table: pd.DataFrame, value: str, label: str, null: bool = False, log: bool = False) -> Figure:
    """`value` by layer, one panel a kind of matrix; with the null as a black line."""
    figure, grid = plt.subplots(4, 2, figsize=(WIDTH, 7.6), sharex=True, sharey=True)
    vectors = _vectors(table)
    for axes, kind in zip(grid.flat, MATRICES, strict=False):
        part = table[table.kind == kind]
        for vector, (marker, colour) in vectors.items():
            rows = part[part.vector == vector].sort_values("layer")
            axes.plot(rows.layer, rows[value], marker=marker, ms=3.5, lw=1.2, color=colour, label=vector)
        if null:
            rows = part[part.vector == part.vector.iloc[0]].sort_values("layer")
            axes.plot(rows.layer, rows.null, color="black", lw=1.6, label="null $k/d_\\text{out}$")
        axes.set_title(SYMBOLS[kind], loc="left")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axes.set_yscale("log")
    grid.flat[-1].set_axis_off()
    figure.supxlabel("layer")
    figure.supylabel(label)
    handles, names = grid.flat[0].get_legend_handles_labels()
    grid.flat[-1].legend(handles, names, loc="center", frameon=False)
    return figure


def energy_by_component(means: pd.DataFrame) -> Figure:
    """E∥ and E⊥ of each vector, mean over layers, on a logarithmic axis (Tables 5 and 6)."""
    vectors = _vectors(means)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.9))
    offsets = np.linspace(-0.26, 0.26, len(vectors))
    for offset, (vector, (marker, colour)) in zip(offsets, vectors.items(), strict=True):
        rows = means[means.vector == vector].set_index("kind").reindex(MATRICES)
        place = np.arange(len(MATRICES)) + offset
        axes.vlines(place, rows.E_perp, rows.E_par, color=colour, lw=1, alpha=0.6)
        axes.plot(place, rows.E_par, marker, color=colour, ms=7, label=rf"{vector} $E_\parallel$")
        axes.plot(place, rows.E_perp, marker, color=colour, ms=7, mfc="white", label=rf"{vector} $E_\perp$")
    axes.set(yscale="log", ylabel="squared Frobenius norm", xticks=range(len(MATRICES)))
    axes.set_xticklabels(_labels(list(MATRICES)))
    _legend_below(figure)
    return figure


def similarity(table: pd.DataFrame) -> Figure:
    """1 − cos(θ_pre, θ_ft) against ‖T‖/‖θ_pre‖, with the curve of a T orthogonal to θ_pre (Table 15)."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.9))
    moved = table[table.r > 0]
    for vector, (marker, colour) in _vectors(moved).items():
        rows = moved[moved.vector == vector]
        axes.plot(rows.r, 1 - rows.cosine, marker, color=colour, ms=6, mfc="white", label=f"{vector}, by component")
        whole = rows[rows.kind == "all"]
        axes.plot(whole.r, 1 - whole.cosine, marker, color=colour, ms=10, label=f"{vector}, whole model")
    r = np.geomspace(moved.r.min() * 0.8, moved.r.max() * 1.25, 100)
    axes.plot(r, 1 - 1 / np.sqrt(1 + r**2), color="black", lw=1.2, label=r"$T$ orthogonal to $\theta_\text{pre}$")
    axes.set(xscale="log", yscale="log", ylabel="1 − cosine")
    _plain_log(axes.xaxis)
    axes.set_xlabel(r"$\|T\| / \|\theta_\text{pre}\|$")
    _legend_below(figure)
    return figure


def cosine_heatmap(cosines: pd.DataFrame, names: list[str]) -> Figure:
    """Cosines of all pairs of tuning vectors, whole model (Fig. 3)."""
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for row in cosines[cosines.kind == "all"].itertuples():
        matrix.loc[row.a, row.b] = matrix.loc[row.b, row.a] = row.cosine
    figure, axes = plt.subplots(figsize=(WIDTH, 0.72 * len(names) + 1.2))
    sns.heatmap(matrix, annot=True, fmt=".3f", vmin=-1, vmax=1, cmap="PuOr", linewidths=1, ax=axes)
    axes.tick_params(rotation=0)
    axes.grid(False)
    return figure


def cosine_by_component(cosines: pd.DataFrame) -> Figure:
    """Cosine of each pair by component; the grey bar is two standard deviations of the null about 0."""
    table = cosines.assign(pair=cosines.a + " · " + cosines.b)
    kinds = [k for k in ("all", *KINDS) if k in set(table.kind)]
    pairs = list(table.pair.unique())
    figure, grid = plt.subplots(
        len(pairs), 1, figsize=(WIDTH, 1.3 + 1.6 * len(pairs)), sharex=True, sharey=True, squeeze=False
    )
    for axes, pair in zip(grid[:, 0], pairs, strict=True):
        rows = table[table.pair == pair].set_index("kind").reindex(kinds)
        place = np.arange(len(kinds))
        axes.bar(place, 4 * rows.null_sd, bottom=-2 * rows.null_sd, color="0.8", width=0.7, label="null ± 2 sd")
        _stems(axes, place, rows.cosine)
        axes.set_title(pair, loc="left")
        axes.set_xticks(place, _labels(kinds), rotation=45, ha="right")
    figure.supylabel("cosine")
    figure.legend(handles=grid[0, 0].containers, loc="outside lower center", frameon=False)
    return figure


FACES = {"survives": "full", "depends on the pairing": "left", "within chance": "none"}


def forest(comparisons: pd.DataFrame) -> Figure:
    """Differences in points with their intervals, one panel a table and family, one mark a pair of rows.

    Filled marks differ whatever the pairing of items, half-filled ones may, open ones are within chance.
    """
    panels = dict(list(comparisons.groupby(["table", "family"], sort=False)))
    pairs = [len(part) // part.column.nunique() for part in panels.values()]
    heights = [0.6 + len(part) * (0.14 + 0.13 / n) for n, part in zip(pairs, panels.values(), strict=True)]
    figure, grid = plt.subplots(len(panels), 1, figsize=(WIDTH, sum(heights) + 0.5), sharex=True, height_ratios=heights)
    for axes, ((table, family), part) in zip(np.atleast_1d(grid), panels.items(), strict=True):
        _forest(axes, part)
        axes.legend(
            title=f"Table {table}, {family}", ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False,
            alignment="left", fontsize="small", handletextpad=0.3, borderpad=0, borderaxespad=0.2,
        )  # fmt: skip
    figure.supxlabel("difference in points")
    return figure


def _forest(axes: Axes, part: pd.DataFrame) -> None:
    columns, pairs = part.column.unique(), dict(list(part.groupby(["first", "second"], sort=False)))
    offsets = np.linspace(-0.26, 0.26, len(pairs)) if len(pairs) > 1 else [0]
    for (names, cells), offset, marker, colour in zip(
        pairs.items(), offsets, MARKERS, sns.color_palette("colorblind"), strict=False
    ):
        place = np.arange(len(cells)) + offset
        axes.hlines(place, cells.low, cells.high, color=colour, lw=1.4)
        for x, y, outcome in zip(cells.points, place, cells.outcome, strict=True):
            axes.plot(x, y, marker, color=colour, ms=6, fillstyle=FACES[outcome], markerfacecoloralt="white")
        axes.plot([], [], marker, color=colour, ms=6, label=" − ".join(names))
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(np.arange(len(columns)), columns)
    axes.set_ylim(len(columns) - 0.5, -0.5)


def same_weights(rows: pd.DataFrame, level: float) -> Figure:
    """Accuracy of the pretrained weights twice: as (−)T in Table 1 and under their own name in Table 7."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    axes.plot([0, 100], [0, 100], color="black", lw=1, label="same value")
    looks = zip(rows.family.unique(), MARKERS, sns.color_palette("colorblind"), strict=False)
    for family, marker, colour in looks:
        part = rows[rows.family == family]
        for row in part.itertuples():
            across, up = (np.array(wilson(count, row.n, level)) * 100 for count in (row.right_pre, row.right))
            axes.plot(across, [row.value, row.value], color=colour, lw=0.8, alpha=0.5)
            axes.plot([row.value_pre, row.value_pre], up, color=colour, lw=0.8, alpha=0.5)
        axes.plot(part.value_pre, part.value, marker, color=colour, ms=6, label=family)
    axes.set(xlim=(40, 101), ylim=(0, 101), xlabel="pretrained model, Table 7 (%)", ylabel="(−)T, Table 1 (%)")
    _legend_below(figure)
    return figure


def lengths(cosines: pd.DataFrame, vectors: pd.DataFrame) -> Figure:
    """‖T‖/‖θ_pre‖ with its range by rounding: pairs of Table 15, and the vectors of Tables 5 and 6."""
    pairs = cosines.assign(name=cosines.pretrained + ", " + cosines.member, source="from its cosine, Table 15")
    others = vectors[~vectors.vector.isin(cosines.member)]
    others = others.assign(name=others.pretrained + ", " + others.vector, source="from energies, Tables 5 and 6")
    rows = pd.concat([pairs, others], ignore_index=True)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.36 * len(rows) + 1.7))
    for (source, part), marker, colour in zip(
        rows.groupby("source", sort=False), MARKERS, sns.color_palette("colorblind"), strict=False
    ):
        axes.hlines(part.index, part.r_low, part.r_high, color=colour, lw=2)
        axes.plot(part.r, part.index, marker, color=colour, ms=7, label=source)
    axes.axvline(2**0.5, color="black", lw=1.2, ls="--", label="two unrelated models of one norm")
    axes.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), xlabel=r"$\|T\| / \|\theta_\text{pre}\|$")
    axes.set_yticks(rows.index, rows.name)
    _plain_log(axes.xaxis)
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def _stems(axes: Axes, place: np.ndarray, height: pd.Series) -> None:
    axes.vlines(place, 0, height, color="black", lw=1)
    axes.plot(place, height, "o", color="black", ms=5)
    axes.axhline(0, color="black", lw=0.8)


def training_curves(reports: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Training loss per token of each fine-tuned member, as its recipe recorded it."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    for line, (member, report) in zip(itertools.cycle(["-", "--", "-.", ":"]), reports.items(), strict=False):
        axes.plot(range(1, len(report["loss"]) + 1), report["loss"], line, label=member, lw=1.4)
    axes.set(xlabel="step", ylabel="loss per token", yscale="log")
    _plain_log(axes.yaxis)
    _legend_below(figure)
    return figure


def _plain_log(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each decade, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2, frameon=False)


SHARES = {  # columns of `neurons.shares`
    "share": "share of tokens × neurons",
    "mean": "share of neurons,\nmean activation > 0",
    "half": "share of neurons, active\non over half the tokens",
}


def _members(table: pd.DataFrame) -> dict[str, tuple[str, Any]]:
    """Marker and colour of each member; the first, the pretrained one, is black."""
    first, *others = table.member.unique()
    looks = zip(MARKERS, sns.color_palette("colorblind"), strict=False)
    return {first: ("X", "black"), **dict(zip(others, itertools.cycle(looks), strict=False))}


def active_shares(shares: pd.DataFrame) -> Figure:
    """Share of active neurons by layer and member, in three readings (Fig. 1); bands are 95 % intervals."""
    figure, grid = plt.subplots(len(SHARES), 1, figsize=(WIDTH, 7.4), sharex=True)
    for axes, (column, label) in zip(grid, SHARES.items(), strict=True):
        for member, (marker, colour) in _members(shares).items():
            rows = shares[shares.member == member]
            if column == "share":
                axes.fill_between(rows.layer, rows.low, rows.high, color=colour, alpha=0.25, lw=0)
            axes.plot(rows.layer, rows[column], marker=marker, ms=3.5, lw=1.2, color=colour, label=member)
        axes.set(ylim=(0, 1), ylabel=label)
    grid[-1].set_xlabel("layer")
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    _legend_of(figure, grid[0])
    return figure


def edit_distances(distances: pd.DataFrame, criteria: Mapping[str, str]) -> Figure:
    """Edit distance from the pretrained pattern by layer (Fig. 2), one panel a criterion, with nulls and floor."""
    others = distances[distances.member != distances.member.iloc[0]]
    figure, grid = plt.subplots(len(criteria), 1, figsize=(WIDTH, 3.2 * len(criteria)), sharex=True)
    for axes, (criterion, label) in zip(grid, criteria.items(), strict=True):
        part = others[others.criterion == criterion]
        for member, (marker, colour) in _members(distances).items():
            rows = part[part.member == member]
            if len(rows):
                axes.plot(rows.layer, rows.edit, marker=marker, ms=3.5, lw=1.2, color=colour, label=member)
                axes.plot(rows.layer, rows.edit_rotated, ls="--", lw=1.2, color=colour, label=f"{member}, $T$ rotated")
        layers = part.groupby("layer")
        axes.plot(layers.edit_shuffled.mean(), color="black", lw=1.6, label="places at random")
        axes.plot(layers.edit_floor.first(), color="black", lw=1.6, ls=":", label="pretrained, two halves of the text")
        axes.set(ylabel="edit distance / $d_m$", ylim=(0, None))
        axes.set_title(label, loc="left")
    grid[-1].set_xlabel("layer")
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    _legend_of(figure, grid[0])
    return figure


def ablation(effects: pd.DataFrame) -> Figure:
    """What ablating the top neurons costs (Fig. 5), filled, beside as many at random, open; a panel a task."""
    tasks, shares = effects.task.unique(), sorted(effects.share[effects.ablated != "nothing"].unique())
    figure, grid = plt.subplots(len(tasks), 1, figsize=(WIDTH, 2.6 * len(tasks)), sharex=True, squeeze=False)
    members = _members(effects)
    offsets = dict(zip(members, np.linspace(-0.25, 0.25, len(members)), strict=True))
    for axes, task in zip(grid[:, 0], tasks, strict=True):
        for (member, (marker, colour)), kind in itertools.product(members.items(), ("top", "random")):
            rows = effects[(effects.task == task) & (effects.member == member) & (effects.ablated == kind)]
            place = np.array([shares.index(share) for share in rows.share]) + offsets[member]
            axes.vlines(place, rows.change_low, rows.change_high, color=colour, lw=1, alpha=0.7)
            fill = dict(color=colour, label=member) if kind == "top" else dict(mec=colour, mfc="white")
            axes.plot(place, rows.change, marker, ls="none", ms=6, **fill)
        axes.axhline(0, color="black", lw=0.8)
        (unit,) = effects.unit[effects.task == task].unique()
        axes.set_ylabel(unit)
        if unit == PERCENT:
            axes.set_ylim(-110, 110)
        else:
            axes.set_yscale("symlog", linthresh=0.1)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.margins(y=0.15)
        axes.set_title(task_name(task), loc="left")
    grid[-1, 0].set_xticks(range(len(shares)), [in_percent(share) for share in shares])
    grid[-1, 0].set_xlabel("share of active neurons")
    _legend_of(figure, grid[0, 0])
    return figure


def ablation_heatmap(effects: pd.DataFrame) -> Figure:
    """ΔP of each member on each benchmark, a panel each share of neurons ablated (Fig. 5)."""
    rows = effects[(effects.ablated == "top") & (effects.unit == PERCENT)]
    if rows.empty:
        figure, axes = plt.subplots(figsize=(WIDTH, 0.6))
        axes.text(0.5, 0.5, "no benchmark was asked", ha="center", va="center")
        axes.axis("off")
        return figure
    shares, tasks = sorted(rows.share.unique()), rows.task.unique()
    figure, grid = plt.subplots(len(shares), 1, figsize=(WIDTH, 1.1 + len(shares) * (0.5 + 0.42 * len(tasks))))
    for axes, share in zip(np.atleast_1d(grid), shares, strict=True):
        wide = rows[rows.share == share].pivot(index="task", columns="member", values="change")
        wide = wide.loc[tasks, rows.member.unique()].rename(index=task_name)
        sns.heatmap(wide, annot=True, fmt=".0f", vmin=-100, vmax=100, cmap="RdBu_r", linewidths=1, ax=axes, cbar=False)
        for y, x in np.argwhere(wide.isna().to_numpy()):  # which the heat map leaves empty
            axes.text(x + 0.5, y + 0.5, "P = 0", ha="center", va="center", fontsize="small")
        axes.set(xlabel="", ylabel="")
        axes.set_title(f"top {in_percent(share)} of active neurons", loc="left")
        axes.tick_params(rotation=0)
        axes.grid(False)
    return figure


CURVES = {  # columns of items, how they are called and drawn
    "acc": ("right, in the form asked for", "o", "-"),
    "acc_lenient": ("right, in any form", "s", "--"),
    "thought": ("thought encapsulated", "^", ":"),
    "stopped_token": ("stopped by end token", "D", "-."),
    "passed": ("passes its tests", "o", "-"),
    "rouge1": ("ROUGE-1", "o", "-"),
}


def negation(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy and instructions kept against λ of θ_ft − λT, a panel a member and task; bars are 95 % intervals.

    `curves` holds by title rows of scale, what, score, low and high.
    """
    figure, grid = plt.subplots(len(curves), 1, figsize=(WIDTH, 3.1 * len(curves)), sharex=True, squeeze=False)
    colours = dict(zip(CURVES, sns.color_palette("colorblind"), strict=False))
    for axes, (title, rows) in zip(grid[:, 0], curves.items(), strict=True):
        for number, (what, (label, marker, line)) in enumerate(CURVES.items()):
            part = rows[rows.what == what].sort_values("scale")
            place = part.scale + 0.01 * (number - 1.5)
            if part.empty:
                continue
            axes.vlines(place, part.low, part.high, color=colours[what], lw=1, alpha=0.7)
            axes.plot(place, part.score, line, marker=marker, ms=5, lw=1.3, color=colours[what], label=label)
        axes.axvline(1, color="black", lw=0.8)
        axes.set(ylim=(-4, 104), ylabel="% of items", xticks=sorted(rows.scale.unique()))
        axes.set_title(title, loc="left")
    grid[-1, 0].set_xlabel(r"$\lambda$ of $\theta_\text{ft} - \lambda T$")
    _legend_of(figure, *grid[:, 0])
    return figure


def addition(ratios: pd.DataFrame) -> Figure:
    """Normalised accuracy against λ (Figs. 4, 6), a panel a benchmark: all vectors, and each alone; 95 % intervals."""
    tasks = ratios.task.unique()
    figure, grid = plt.subplots(len(tasks), 1, figsize=(WIDTH, 3.0 * len(tasks)), sharex=True, squeeze=False)
    for axes, task in zip(grid[:, 0], tasks, strict=True):
        part = ratios[ratios.task == task]
        vectors = [one for one in part.vectors.unique() if one != "none"]
        looks = zip(vectors, MARKERS, sns.color_palette("colorblind"), np.linspace(-1, 1, len(vectors)), strict=False)
        for one, marker, colour, shift in looks:
            rows = pd.concat([part[part.vectors == "none"], part[part.vectors == one]]).sort_values("scale")
            place = rows.scale + 0.012 * shift
            axes.vlines(place, rows.low, rows.high, color=colour, lw=1, alpha=0.7)
            axes.plot(place, rows.ratio, marker=marker, ms=5, lw=1.3, color=colour, label=_vector_label(one))
        axes.axhline(1, color="black", lw=0.8)
        axes.set(ylabel="normalised score", ylim=(-0.05, None), xticks=sorted(part.scale.unique()))
        axes.set_title(task_name(task), loc="left")
    grid[-1, 0].set_xlabel(r"$\lambda$ of $\theta_\text{pre} + \lambda \sum_i T_i$")
    _legend_of(figure, grid[0, 0])
    return figure


def _vector_label(vectors: str) -> str:
    return "all vectors" if vectors == "sum" else f"$T$ of {vectors} alone"


def score_differences(gaps: pd.DataFrame) -> Figure:
    """Differences from one model in points with their intervals, filled where beyond chance; a panel a benchmark."""
    tasks, whos = gaps.task.unique(), list(gaps.who.unique())
    figure, grid = plt.subplots(
        len(tasks), 1, figsize=(WIDTH, len(tasks) * (0.55 + 0.32 * len(whos)) + 0.6), sharex=True, squeeze=False
    )
    for axes, task in zip(grid[:, 0], tasks, strict=True):
        part = gaps[gaps.task == task]
        place = [whos.index(who) for who in part.who]
        axes.hlines(place, part.low, part.high, color="black", lw=1.4)
        for x, y, clear in zip(part.points, place, part.clear, strict=True):
            axes.plot(x, y, "o", color="black", ms=7, mfc="black" if clear else "white")
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(whos)), whos)
        axes.set_ylim(len(whos) - 0.5, -0.5)
        axes.set_title(f"{task_name(task)}, n = {part.n.iloc[0]}", loc="left")
    grid[-1, 0].set_xlabel("difference in points")
    return figure


def patching_maps(maps: Any, sites: tuple[str, ...], kind: str) -> Figure:
    """Mean |effect| over the pairs of a kind: layer × column, a row of panels a member, a column a site (Fig. 7)."""
    means = {member: found.abs().mean(0).numpy() for (member, k), found in maps.effects.items() if k == kind}
    size = (WIDTH, 2.3 * len(means) + 0.9)
    figure, grid = plt.subplots(len(means), len(sites), figsize=size, sharex=True, sharey=True)
    most = [max(found[i].max() for found in means.values()) for i in range(len(sites))]
    for row, (member, found) in zip(grid, means.items(), strict=True):
        for axes, site, values, top in zip(row, sites, found, most, strict=True):
            image = axes.imshow(values, origin="lower", aspect="auto", cmap="magma_r", vmin=0, vmax=top)
            axes.grid(False)
            if member == next(iter(means)):
                axes.set_title(site)
            if member == list(means)[-1]:
                figure.colorbar(image, ax=grid[:, list(sites).index(site)], location="bottom", shrink=0.9)
        row[0].set_ylabel(f"{member}\nlayer")
    for axes in grid[-1]:
        axes.set_xticks(range(len(maps.columns)), maps.columns, rotation=90, fontsize="small")
    return figure


def patching_example(example: tuple[Any, Mapping[str, Any]], sites: tuple[str, ...]) -> Figure:
    """One pair: plain and integrated attribution and exact patching, layer × token; grey where nothing is known.

    Layers that were not patched exactly show the nearest one that was.
    """
    pair, maps = example
    size = (WIDTH, 2.3 * len(sites) + 1)
    figure, grid = plt.subplots(len(sites), len(maps), figsize=size, sharex=True, sharey=True)
    for i, (row, site) in enumerate(zip(grid, sites, strict=True)):
        limit = np.nanmax(np.abs(maps["exact"][i].numpy()))
        for axes, (method, found) in zip(row, maps.items(), strict=True):
            axes.set_facecolor("0.8")
            axes.grid(False)
            values = found[i].numpy()
            known = np.flatnonzero(~np.isnan(values).all(axis=1))
            nearest = known[np.abs(known - np.arange(len(values))[:, None]).argmin(axis=1)]
            image = axes.imshow(values[nearest], origin="lower", aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit)
            if i == 0:
                axes.set_title(method)
        row[0].set_ylabel(f"{site}\nlayer")
        figure.colorbar(image, ax=row, shrink=0.85)
    parts = pd.Series(range(len(pair.corrupt.columns))).groupby(pair.corrupt.columns, sort=False).mean()
    for axes in grid[-1]:
        axes.set_xticks(parts, parts.index, rotation=90, fontsize="x-small")
    return figure


def _legend_of(figure: Figure, *panels: Axes) -> None:
    """One legend below for the marks of all these panels."""
    marks = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=2, frameon=False)
