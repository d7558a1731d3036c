"""One function a figure, in one style: legible on a phone, in black and white, and on a white card in dark mode."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
NULL = r"null $k/d_\text{out}$"
LENGTH = r"$\|T\| / \|\theta_\text{pre}\|$"
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def style() -> None:
    """Set the style of all figures: SVG with fixed ids, colour-blind palette, one font size."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.95)
    plt.rcParams.update({"figure.dpi": 96, "svg.hashsalt": "tuningvec", "svg.fonttype": "path", "axes.grid": True,
                         "grid.alpha": 0.35, "figure.constrained_layout.use": True})  # fmt: skip
    set_matplotlib_formats("svg", metadata={"Date": None})


def _panels(
    parts: Iterable[tuple[str, Any]], each: float, more: float = 0, titles: bool = True, **options: Any
) -> tuple[Figure, list[tuple[Axes, Any]]]:
    """Panels for these titles and parts, one above the other, each so many inches high and the figure so many more."""
    names, parts = zip(*parts, strict=True)
    options = dict(sharex=True, squeeze=False, figsize=(WIDTH, more + each * len(parts))) | options
    figure, grid = plt.subplots(len(parts), 1, **options)
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_title(name if titles else "", loc="left")
    return figure, list(zip(grid[:, 0], parts, strict=True))


def _split(table: pd.DataFrame, by: Any, title: Callable[[Any], str] = str) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each value of `by`, in the table's order, under a title."""
    return [(title(value), part) for value, part in table.groupby(by, sort=False)]


def _legend(figure: Figure, ncols: int = 2) -> Figure:
    """The figure with one legend below for the marks of all panels."""
    panels = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    marks = {name: handle for handle, name in itertools.chain(*panels)}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=ncols, frameon=False)
    return figure


def _looks(names: Iterable[Any], own: Mapping[Any, Any] | None = None) -> dict[Any, tuple[str, Any]]:
    """Marker and colour of each name, in this order, but for those that have their own."""
    others = itertools.cycle(zip(MARKERS, sns.color_palette("colorblind"), strict=False))
    return {name: (own or {}).get(name) or next(others) for name in names}


def _vectors(table: pd.DataFrame) -> dict[Any, tuple[str, Any]]:
    """Marker and colour of each vector; the random one is always a grey cross."""
    return _looks(table.vector.unique(), {"random": ("x", (0.35, 0.35, 0.35))})


def _members(table: pd.DataFrame) -> dict[Any, tuple[str, Any]]:
    """Marker and colour of each member; the first, the pretrained one, is black."""
    return _looks(table.member.unique(), {table.member.iloc[0]: ("X", "black")})


def _spread(count: int, most: float = 0.26) -> np.ndarray:
    """Places beside one another about 0."""
    return np.linspace(-most, most, count) if count > 1 else np.zeros(count)


def _by_kind(axes: Axes, means: pd.DataFrame, vectors: Mapping[Any, Any]) -> Iterator[tuple[Any, ...]]:
    """Name, marker, colour, places and rows of each vector, side by side over the kinds of matrix."""
    for offset, (vector, look) in zip(_spread(len(vectors)), vectors.items(), strict=True):
        rows = means[means.vector == vector].set_index("kind").reindex(MATRICES)
        yield vector, *look, np.arange(len(MATRICES)) + offset, rows
    axes.set_xticks(range(len(MATRICES)), [SYMBOLS[kind] for kind in MATRICES])


def _line(axes: Axes, rows: pd.DataFrame, value: str, marker: str, colour: Any, label: str) -> None:
    """`value` by layer."""
    axes.plot(rows.layer, rows[value], marker=marker, ms=3.5, lw=1.2, color=colour, label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _curve(axes: Axes, rows: pd.DataFrame, value: str, shift: float, form: str, colour: Any, label: str) -> None:
    """`value` with its intervals by the scale λ, moved aside by `shift`."""
    place = rows.scale + shift
    axes.vlines(place, rows.low, rows.high, color=colour, lw=1, alpha=0.7)
    axes.plot(place, rows[value], form, ms=5, lw=1.3, color=colour, label=label)


def _plain_log(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each decade, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def _heatmap(axes: Axes, table: pd.DataFrame, form: str, most: float, colours: str, **options: Any) -> None:
    """Numbers in cells coloured from −most to most."""
    sns.heatmap(table, annot=True, fmt=form, vmin=-most, vmax=most, cmap=colours, linewidths=1, ax=axes, **options)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(rotation=0)
    axes.grid(False)


def _empty(why: str) -> Figure:
    """A line of text in the place of a figure."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6))
    axes.text(0.5, 0.5, why, ha="center", va="center")
    axes.axis("off")
    return figure


def _rows(axes: Axes, names: Iterable[Any]) -> None:
    """Names of rows, from the top downwards."""
    axes.set_yticks(range(len(names := list(names))), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def alignment_by_component(means: pd.DataFrame) -> Figure:
    """SSA of each vector in each kind of matrix, with the null k/d_out as a black bar (Table 4)."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.9))
    _alignment(axes, means, _vectors(means), NULL)
    return _legend(figure)


def shape_bound(cells: pd.DataFrame) -> Figure:
    """Table 4 with the most that a random T can have in a matrix of that shape, one panel a pretrained model."""
    figure, panels = _panels(_split(cells.assign(null=cells.bound), "pretrained"), 2.9)
    for axes, part in panels:
        looks = {vector: look for vector, look in _vectors(cells).items() if vector in part.vector.values}
        _alignment(axes, part, looks, None)
        axes.legend(loc="lower left", frameon=False)
    return figure


def _alignment(axes: Axes, means: pd.DataFrame, vectors: Mapping[Any, Any], null: str | None) -> None:
    """Marks of SSA by kind of matrix, over black bars of `means.null`."""
    for vector, marker, colour, place, rows in _by_kind(axes, means, vectors):
        axes.plot(place, rows.SSA, marker, color=colour, label=vector, ms=7, mew=2)
    bars = means.groupby("kind").null.first().reindex(MATRICES)
    axes.hlines(bars, np.arange(len(bars)) - 0.4, np.arange(len(bars)) + 0.4, "black", lw=1.6, label=null)
    axes.set(ylim=(0, 1.04), ylabel="SSA")


def by_layer(table: pd.DataFrame, value: str, label: str, null: bool = False, log: bool = False) -> Figure:
    """`value` by layer, one panel a kind of matrix; with the null as a black line."""
    figure, grid = plt.subplots(4, 2, figsize=(WIDTH, 7.6), sharex=True, sharey=True)
    for axes, kind in zip(grid.flat, MATRICES, strict=False):
        part = table[table.kind == kind].sort_values("layer", kind="stable")
        for vector, look in _vectors(table).items():
            _line(axes, part[part.vector == vector], value, *look, vector)
        if null:
            rows = part.drop_duplicates("layer")
            axes.plot(rows.layer, rows.null, color="black", lw=1.6, label=NULL)
        axes.set_title(SYMBOLS[kind], loc="left")
        if log:
            axes.set_yscale("log")
    figure.supxlabel("layer")
    figure.supylabel(label)
    grid.flat[-1].set_axis_off()
    grid.flat[-1].legend(*grid.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
    return figure


def energy_by_component(means: pd.DataFrame) -> Figure:
    """E∥ and E⊥ of each vector, mean over layers, on a logarithmic axis (Tables 5 and 6)."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.9))
    for vector, marker, colour, place, rows in _by_kind(axes, means, _vectors(means)):
        axes.vlines(place, rows.E_perp, rows.E_par, color=colour, lw=1, alpha=0.6)
        axes.plot(place, rows.E_par, marker, color=colour, ms=7, label=rf"{vector} $E_\parallel$")
        axes.plot(place, rows.E_perp, marker, color=colour, ms=7, mfc="white", label=rf"{vector} $E_\perp$")
    axes.set(yscale="log", ylabel="squared Frobenius norm")
    return _legend(figure)


def similarity(table: pd.DataFrame, others: pd.DataFrame) -> Figure:
    """1 − cos(θ_pre, θ_ft) against ‖T‖/‖θ_pre‖, with the curve of a T orthogonal to θ_pre (Table 15).

    `others` are matrices of other pairs, with r and cosine.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.9))
    axes.plot(others.r, 1 - others.cosine, ".", color="0.7", ms=3, zorder=0, label="matrices of published pairs")
    moved = table[table.r > 0]
    for vector, (marker, colour) in _vectors(moved).items():
        rows = moved[moved.vector == vector]
        axes.plot(rows.r, 1 - rows.cosine, marker, color=colour, ms=6, mfc="white", label=f"{vector}, by component")
        whole = rows[rows.kind == "all"]
        axes.plot(whole.r, 1 - whole.cosine, marker, color=colour, ms=10, label=f"{vector}, whole model")
    _orthogonal(axes, pd.concat([moved.r, others.r]))
    return _legend(figure)


def _orthogonal(axes: Axes, r: pd.Series) -> None:
    """The curve of a T orthogonal to θ_pre over these r, and its axes."""
    r = np.geomspace(r.min() * 0.8, r.max() * 1.25, 100)
    axes.plot(r, 1 - 1 / np.sqrt(1 + r**2), color="black", lw=1.2, label=r"$T$ orthogonal to $\theta_\text{pre}$")
    axes.set(xscale="log", yscale="log", xlabel=LENGTH, ylabel="1 − cosine")
    _plain_log(axes.xaxis)


def published_lengths(pairs: pd.DataFrame, trainings: Mapping[str, str]) -> Figure:
    """r of published pairs over all matrices, with the range of their matrices, by training."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.21 * len(pairs) + 1.7))
    for training, (marker, colour) in _looks(trainings).items():
        part = pairs[pairs.training == training]
        axes.hlines(part.index, part.smallest.clip(lower=pairs.r.min() / 2), part.largest, color=colour, lw=1.5)
        axes.plot(part.r, part.index, marker, color=colour, ms=5, label=trainings[training])
    axes.axvline(2**0.5, color="black", lw=1.2, ls="--", label="two unrelated models of one norm")
    axes.set(xscale="log", xlabel=LENGTH)
    _rows(axes, pairs.fine_tuned.str.split("/").str[-1].str.slice(0, 34))
    axes.tick_params(axis="y", labelsize=7)
    return _legend(figure)


def published_cosines(tensors: pd.DataFrame, trainings: Mapping[str, str]) -> Figure:
    """1 − cosine against r of the matrices of published pairs, with the curve of an orthogonal T."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.9))
    for training, (_, colour) in _looks(trainings).items():
        part = tensors[tensors.training == training]
        if len(part):
            axes.plot(part.r, 1 - part.cosine, ".", color=colour, ms=3)
            axes.plot([], [], "o", color=colour, ms=6, label=trainings[training])
    _orthogonal(axes, tensors.r)
    return _legend(figure)


def cosine_heatmap(cosines: pd.DataFrame, names: list[str]) -> Figure:
    """Cosines of all pairs of tuning vectors, whole model (Fig. 3)."""
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for row in cosines[cosines.kind == "all"].itertuples():
        matrix.loc[row.a, row.b] = matrix.loc[row.b, row.a] = row.cosine
    figure, axes = plt.subplots(figsize=(WIDTH, 0.72 * len(names) + 1.2))
    _heatmap(axes, matrix, ".3f", 1, "PuOr")
    return figure


def cosine_by_component(cosines: pd.DataFrame) -> Figure:
    """Cosine of each pair by component; the grey bar is two standard deviations of the null about 0."""
    kinds = [k for k in ("all", *KINDS) if k in set(cosines.kind)]
    figure, panels = _panels(_split(cosines, cosines.a + " · " + cosines.b), 1.6, 1.3, sharey=True)
    place = np.arange(len(kinds))
    for axes, part in panels:
        rows = part.set_index("kind").reindex(kinds)
        axes.bar(place, 4 * rows.null_sd, bottom=-2 * rows.null_sd, color="0.8", width=0.7, label="null ± 2 sd")
        axes.vlines(place, 0, rows.cosine, color="black", lw=1)
        axes.plot(place, rows.cosine, "o", color="black", ms=5)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xticks(place, [SYMBOLS.get(kind, kind) for kind in kinds], rotation=45, ha="right")
    figure.supylabel("cosine")
    return _legend(figure, ncols=1)


FACES = {"survives": "full", "depends on the pairing": "left", "within chance": "none"}


def forest(comparisons: pd.DataFrame) -> Figure:
    """Differences in points with their intervals, one panel a table and family, one mark a pair of rows.

    Filled marks differ whatever the pairing of items, half-filled ones may, open ones are within chance.
    """
    parts = _split(comparisons, ["table", "family"], lambda names: "Table {}, {}".format(*names))
    heights = [0.6 + len(part) * 0.14 + part.column.nunique() * 0.13 for _, part in parts]
    figure, panels = _panels(parts, 0, sum(heights) + 0.5, titles=False, height_ratios=heights)
    for (title, _), (axes, part) in zip(parts, panels, strict=True):
        pairs = dict(list(part.groupby(["first", "second"], sort=False)))
        for (names, (marker, colour)), offset in zip(_looks(pairs).items(), _spread(len(pairs)), strict=True):
            cells = pairs[names]
            place = np.arange(len(cells)) + offset
            axes.hlines(place, cells.low, cells.high, color=colour, lw=1.4)
            for x, y, outcome in zip(cells.points, place, cells.outcome, strict=True):
                axes.plot(x, y, marker, color=colour, ms=6, fillstyle=FACES[outcome], markerfacecoloralt="white")
            axes.plot([], [], marker, color=colour, ms=6, label=" − ".join(names))
        axes.axvline(0, color="black", lw=1)
        _rows(axes, part.column.unique())
        axes.legend(
            title=title, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, alignment="left",
            fontsize="small", handletextpad=0.3, borderpad=0, borderaxespad=0.2,
        )  # fmt: skip
    figure.supxlabel("difference in points")
    return figure


def same_weights(rows: pd.DataFrame, level: float) -> Figure:
    """Accuracy of the pretrained weights twice: as (−)T in Table 1 and under their own name in Table 7."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    axes.plot([0, 100], [0, 100], color="black", lw=1, label="same value")
    for family, (marker, colour) in _looks(rows.family.unique()).items():
        part = rows[rows.family == family]
        for row in part.itertuples():
            across, up = (np.array(wilson(count, row.n, level)) * 100 for count in (row.right_pre, row.right))
            axes.plot(across, [row.value, row.value], color=colour, lw=0.8, alpha=0.5)
            axes.plot([row.value_pre, row.value_pre], up, color=colour, lw=0.8, alpha=0.5)
        axes.plot(part.value_pre, part.value, marker, color=colour, ms=6, label=family)
    axes.set(xlim=(40, 101), ylim=(0, 101), xlabel="pretrained model, Table 7 (%)", ylabel="(−)T, Table 1 (%)")
    return _legend(figure)


def lengths(cosines: pd.DataFrame, vectors: pd.DataFrame) -> Figure:
    """‖T‖/‖θ_pre‖ with its range by rounding: pairs of Table 15, and the vectors of Tables 5 and 6."""
    others = vectors[~vectors.vector.isin(cosines.member)].rename(columns={"vector": "member"})
    sources = {"from its cosine, Table 15": cosines, "from energies, Tables 5 and 6": others}
    rows = pd.concat(sources, names=["source", None]).reset_index("source").reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.36 * len(rows) + 1.7))
    for source, (marker, colour) in _looks(sources).items():
        part = rows[rows.source == source]
        axes.hlines(part.index, part.r_low, part.r_high, color=colour, lw=2)
        axes.plot(part.r, part.index, marker, color=colour, ms=7, label=source)
    axes.axvline(2**0.5, color="black", lw=1.2, ls="--", label="two unrelated models of one norm")
    axes.set(xscale="log", xlabel=LENGTH)
    _rows(axes, rows.pretrained + ", " + rows.member)
    _plain_log(axes.xaxis)
    return _legend(figure, ncols=1)


def training_curves(reports: Mapping[str, Mapping[str, Any]], controls: Collection[str] = ()) -> Figure:
    """Training loss per token of each member, and its divergence in rehearsal, as its recipe recorded them.

    Controls are grey.
    """
    panels = {"loss": "loss per token", "divergence": "divergence\nper token"}
    shown = {name: label for name, label in panels.items() if any(report.get(name) for report in reports.values())}
    figure, parts = _panels(shown.items(), 2.4, 0.8, titles=False)
    dashes, colours = itertools.cycle(["-", "--", "-.", ":"]), itertools.cycle(sns.color_palette("colorblind"))
    looks = {m: (next(dashes), "0.6" if m in controls else next(colours)) for m in reports}
    for name, (axes, label) in zip(shown, parts, strict=True):
        for member, (dash, colour) in looks.items():
            curve = reports[member].get(name, [])
            axes.plot(range(1, len(curve) + 1), curve, dash, color=colour, label=member, lw=1.4)
        axes.set(ylabel=label, yscale="log")
        _plain_log(axes.yaxis)
    parts[-1][0].set_xlabel("step")
    return _legend(figure)


def tuning_curves(held_out: pd.DataFrame, training: pd.DataFrame) -> Figure:
    """Loss per token against the step by way of tuning: of held-out replies with intervals over seeds, and in training.

    How ways differ in training is less than how batches do, which all ways share: there the mean stands alone.
    """
    looks = _looks(held_out.way.unique(), {"random": ("x", (0.35, 0.35, 0.35))})
    shift = dict(zip(looks, _spread(len(looks), 0.012 * held_out.step.max()), strict=True))
    parts = []
    for scope, rows in _split(held_out, "scope"):
        where = "every matrix" if scope == "all" else f"{SYMBOLS[scope]} alone"
        parts += [(f"{where}, held-out replies", rows), (f"{where}, training", training[training.scope == scope])]
    figure, panels = _panels(parts, 2.7, 0.9)
    for number, (axes, rows) in enumerate(panels):
        for way, (marker, colour) in looks.items():
            one, style = rows[rows.way == way], dict(color=colour, lw=1.3)
            if number % 2:
                axes.plot(one.step, one.loss, **style)
                continue
            axes.vlines(one.step + shift[way], one.low, one.high, color=colour, lw=1, alpha=0.7)
            axes.plot(one.step + shift[way], one.loss, marker=marker, ms=5, label=way, **style)
        axes.set(ylabel="nats per token", yscale="log")
        _plain_log(axes.yaxis)
    panels[-1][0].set_xlabel("step")
    panels[-1][0].xaxis.get_major_locator().set_params(integer=True)
    return _legend(figure)


SHARES = {  # columns of `neurons.shares`
    "share": "share of tokens × neurons",
    "mean": "share of neurons,\nmean activation > 0",
    "half": "share of neurons, active\non over half the tokens",
}


def active_shares(shares: pd.DataFrame) -> Figure:
    """Share of active neurons by layer and member, in three readings (Fig. 1); bands are 95 % intervals."""
    figure, panels = _panels(SHARES.items(), 0, 7.4, titles=False)
    for column, (axes, label) in zip(SHARES, panels, strict=True):
        for member, look in _members(shares).items():
            rows = shares[shares.member == member]
            if column == "share":
                axes.fill_between(rows.layer, rows.low, rows.high, color=look[1], alpha=0.25, lw=0)
            _line(axes, rows, column, *look, member)
        axes.set(ylim=(0, 1), ylabel=label)
    axes.set_xlabel("layer")
    return _legend(figure)


def edit_distances(distances: pd.DataFrame, criteria: Mapping[str, str]) -> Figure:
    """Edit distance from the pretrained pattern by layer (Fig. 2), one panel a criterion, with nulls and floor."""
    pretrained, *looks = _members(distances).items()
    others = distances[distances.member != pretrained[0]]
    figure, panels = _panels([(label, others[others.criterion == name]) for name, label in criteria.items()], 3.2)
    for axes, part in panels:
        for member, (marker, colour) in looks:
            rows = part[part.member == member]
            _line(axes, rows, "edit", marker, colour, member)
            axes.plot(rows.layer, rows.edit_rotated, ls="--", lw=1.2, color=colour, label=f"{member}, $T$ rotated")
        layers = part.groupby("layer")
        axes.plot(layers.edit_shuffled.mean(), color="black", lw=1.6, label="random places")
        axes.plot(layers.edit_floor.first(), color="black", lw=1.6, ls=":", label="pretrained, two halves of the text")
        axes.set(ylabel="edit distance / $d_m$", ylim=(0, None))
    axes.set_xlabel("layer")
    return _legend(figure)


def room_to_swap(margins: pd.DataFrame, scaled: pd.DataFrame) -> Figure:
    """How many times as long T may be by layer, and the share of neurons with another match when it is so long."""
    looks = _looks(margins.member.unique())
    figure, ((above, layers), (below, longer)) = _panels([("by layer", margins), ("all compared layers", scaled)], 3.2,
                                                         0.8, sharex=False)  # fmt: skip
    for member, (marker, colour) in looks.items():
        rows = layers[layers.member == member]
        _line(above, rows, "median", marker, colour, f"{member}, bound, median")
        above.plot(rows.layer, rows.least, ls=":", lw=1.4, color=colour, label=f"{member}, bound, smallest")
        above.plot(rows.layer, rows["first"], ls="--", lw=1.2, color=colour, label=f"{member}, first swap")
        means = longer[longer.member == member].groupby("scale")[["moved", "nearest"]].mean()
        below.plot(means.index, means.moved, marker, ls="-", ms=6, lw=1.2, color=colour)
        below.plot(means.index, means.nearest, ls="--", lw=1.2, color=colour)
    for axes in (above, below):
        (axes.axhline if axes is above else axes.axvline)(1, color="black", lw=0.8)
    above.set(yscale="log", xlabel="layer", ylabel=r"$\lambda$")
    below.set(xscale="log", xlabel=r"$\lambda$ of $\theta_\text{pre} + \lambda T$", ylabel="share of neurons that move")
    for axis in (above.yaxis, below.xaxis):
        _plain_log(axis)
    return _legend(figure)


def ablation(effects: pd.DataFrame) -> Figure:
    """What ablating the top neurons costs (Fig. 5), filled, beside as many at random, open; a panel a task."""
    shares, members = sorted(effects.share[effects.ablated != "nothing"].unique()), _members(effects)
    figure, panels = _panels(_split(effects, "task", task_name), 2.6)
    for axes, part in panels:
        for (member, (marker, colour)), offset in zip(members.items(), _spread(len(members), 0.25), strict=True):
            for kind, fill in (("top", dict(color=colour, label=member)), ("random", dict(mec=colour, mfc="white"))):
                rows = part[(part.member == member) & (part.ablated == kind)]
                place = rows.share.map(shares.index) + offset
                axes.vlines(place, rows.change_low, rows.change_high, color=colour, lw=1, alpha=0.7)
                axes.plot(place, rows.change, marker, ls="none", ms=6, **fill)
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
    axes.set_xlabel("share of active neurons")
    return _legend(figure)


def ablation_heatmap(effects: pd.DataFrame) -> Figure:
    """ΔP of each member on each benchmark, a panel each share of neurons ablated (Fig. 5)."""
    rows = effects[(effects.ablated == "top") & (effects.unit == PERCENT)]
    if rows.empty:
        return _empty("no benchmark was asked")
    parts = _split(rows.sort_values("share"), "share", lambda share: f"top {in_percent(share)} of active neurons")
    figure, panels = _panels(parts, 0.5 + 0.42 * rows.task.nunique(), 1.1, sharex=False)
    for axes, part in panels:
        wide = part.pivot(index="task", columns="member", values="change")
        wide = wide.loc[rows.task.unique(), rows.member.unique()].rename(index=task_name)
        _heatmap(axes, wide, ".0f", 100, "RdBu_r", cbar=False)
        for y, x in np.argwhere(wide.isna().to_numpy()):  # which the heat map leaves empty
            axes.text(x + 0.5, y + 0.5, "P = 0", ha="center", va="center", fontsize="small")
    return figure


CURVES = {  # columns of items, how they are called and drawn
    "acc": ("right, in the form asked for", "o-"),
    "acc_lenient": ("right, in any form", "s--"),
    "thought": ("thought encapsulated", "^:"),
    "stopped_token": ("stopped by end token", "D-."),
    "passed": ("passes its tests", "o-"),
    "rouge1": ("ROUGE-1", "o-"),
}


def negation(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy and instructions kept against λ of θ_ft − λT, a panel a member and task; bars are 95 % intervals.

    `curves` holds by title rows of scale, what, score, low and high.
    """
    figure, panels = _panels(curves.items(), 3.1)
    for axes, rows in panels:
        for number, (what, (label, form)) in enumerate(CURVES.items()):
            part = rows[rows.what == what].sort_values("scale")
            if len(part):
                _curve(axes, part, "score", 0.01 * (number - 1.5), form, sns.color_palette("colorblind")[number], label)
        axes.axvline(1, color="black", lw=0.8)
        axes.set(ylim=(-4, 104), ylabel="% of items", xticks=sorted(rows.scale.unique()))
    axes.set_xlabel(r"$\lambda$ of $\theta_\text{ft} - \lambda T$")
    return _legend(figure)


def starts(curves: pd.DataFrame) -> Figure:
    """Scores against λ of θ_ft − λT, a panel a vector: in the form asked for, in any form, by likelihood in two ways.

    Crosses are scores in the form in plain text. Bars are 95 % intervals. `curves` are of `starts.curves`.
    """
    figure, panels = _panels(_split(curves, "member"), 2.3, 0.9)
    for axes, rows in panels:
        for number, (way, form) in enumerate(zip(curves.way.unique(), ("o-", "s--", "D-.", "^:"), strict=False)):
            for task, part in rows[rows.own & (rows.way == way)].groupby("task", sort=False):
                colour, shift = sns.color_palette("colorblind")[number], 0.012 * (number - 1)
                _curve(axes, part, "score", shift, form, colour, f"right, {way}" if task == rows.task.iloc[0] else "")
        plain = rows[~rows.own & (rows.way == curves.way.iloc[0])]
        axes.plot(plain.scale, plain.score, "x", color="black", ms=7, mew=1.6, label="in the form, plain text")
        axes.set(ylim=(-4, 104), ylabel="% of items", xticks=sorted(rows.scale.unique()))
    axes.set_xlabel(r"$\lambda$ of $\theta_\text{ft} - \lambda T$")
    return _legend(figure)


def addition(ratios: pd.DataFrame) -> Figure:
    """Normalised accuracy against λ (Figs. 4, 6), a panel a benchmark: all vectors, and each alone; 95 % intervals."""
    figure, panels = _panels(_split(ratios, "task", task_name), 3.0)
    for axes, part in panels:
        looks = _looks(one for one in part.vectors.unique() if one != "none")
        for (one, (marker, colour)), shift in zip(looks.items(), np.linspace(-0.012, 0.012, len(looks)), strict=True):
            rows = part[part.vectors.isin(["none", one])].sort_values("scale")
            label = "all vectors" if one == "sum" else f"$T$ of {one} alone"
            _curve(axes, rows, "ratio", shift, f"{marker}-", colour, label)
        axes.axhline(1, color="black", lw=0.8)
        axes.set(ylabel="normalised score", ylim=(-0.05, None), xticks=sorted(part.scale.unique()))
    axes.set_xlabel(r"$\lambda$ of $\theta_\text{pre} + \lambda \sum_i T_i$")
    return _legend(figure)


def loss_lines(changes: pd.DataFrame, drawn: pd.DataFrame) -> Figure:
    """Change of the loss of each text along θ_pre + λT, and dotted along each turned T; a panel a specialist.

    `changes` are of `path.changes`, `drawn` of `path.turned_changes`.
    """
    looks, beside = _looks(changes.text.unique()), drawn[drawn.sides != "none"]
    figure, panels = _panels(_split(changes[changes.kind == "T"], "b"), 2.6, 0.8)
    for axes, part in panels:
        for text, (marker, colour) in looks.items():
            _curve(axes, part[part.text == text], "change", 0, f"{marker}-", colour, text)
            rows = beside[(beside.member == part.b.iloc[0]) & (beside.text == text)]
            for _, one in rows.groupby(["sides", "draw"]):
                axes.plot(one.scale, one.change, ":", color=colour, lw=1, alpha=0.8)
        axes.plot([], [], ":", color="0.4", label="turned $T$")
        _near_zero(axes, "change in\nnats per token")
    panels[-1][0].xaxis.set_major_formatter(PLAIN)
    panels[-1][0].set_xlabel(r"$\lambda$ of $\theta_\text{pre} + \lambda T$")
    return _legend(figure)


def excess_over_chord(over: pd.DataFrame, kinds: Mapping[str, str], least: float) -> Figure:
    """How far losses lie above the chord between both ends against λ (`path.excess`), a panel a kind of line.

    Bars are the intervals that hold for all of a kind together; the band is ± `least`.
    """
    looks = _looks(over.text.unique())
    figure, panels = _panels(_split(over, "kind", lambda kind: kinds[kind]), 2.4, 0.8)
    for axes, part in panels:
        shifts = _spread(part[["a", "b"]].drop_duplicates().shape[0], 0.02)
        for shift, (_, line) in zip(shifts, part.groupby(["a", "b"], sort=False), strict=True):
            for text, rows in line.groupby("text", sort=False):
                marker, colour = looks[text]
                _curve(axes, rows.assign(value=rows.excess), "value", shift, f"{marker}-", colour, text)
        axes.axhspan(-least, least, color="0.85", zorder=0)
        _near_zero(axes, "excess,\nnats per token")
        axes.set_xlim(0, 1)
    panels[-1][0].set_xlabel(r"$\lambda$")
    return _legend(figure)


def _near_zero(axes: Axes, label: str, linear: float = 0.1) -> None:
    """An axis that is linear to ± `linear`, which it shows, and logarithmic beyond."""
    low, high = axes.get_ylim()
    axes.axhline(0, color="black", lw=0.8)
    axes.set_yscale("symlog", linthresh=linear)
    axes.yaxis.set_major_formatter(PLAIN)
    axes.set(ylabel=label, ylim=(min(low, -1.2 * linear), max(high, 1.2 * linear)))


TRAVELLED = {  # columns of `path.on_the_way`
    "cosine": r"$\cos(T_t, T_\text{end})$",
    "onward": r"$\cos(T_t, T_\text{end} - T_t)$",
    "distance": "distance from\nthe straight line",
}


def trajectories(places: pd.DataFrame) -> Figure:
    """Where checkpoints lie to the straight line to the end, by step; dashed, a walk of orthogonal increments."""
    if places.empty:
        return _empty("no checkpoint of a training is at hand")
    figure, panels = _panels(TRAVELLED.items(), 2.1, 0.8, titles=False)
    for column, (axes, label) in zip(TRAVELLED, panels, strict=True):
        for member, (marker, colour) in _looks(places.member.unique()).items():
            rows = places[places.member == member]
            axes.plot(rows.step, rows[column], f"{marker}-", ms=4, color=colour, label=member)
            axes.plot(rows.step, rows[f"{column}_walk"], "--", color=colour, lw=1.2, label=f"{member}, walk")
        axes.set(ylabel=label, ylim=(-0.05 if column == "onward" else 0, None))
    panels[-1][0].set_xlabel("step")
    return _legend(figure)


def score_differences(gaps: pd.DataFrame) -> Figure:
    """Differences from one model in points with their intervals, filled where beyond chance; a panel a benchmark."""
    whos = list(gaps.who.unique())
    first = gaps.drop_duplicates("task").set_index("task")
    parts = _split(gaps, "task", lambda task: f"{task_name(task)}, n = {first.n[task]}")
    figure, panels = _panels(parts, 0.55 + 0.32 * len(whos), 0.6)
    for axes, part in panels:
        place = [whos.index(who) for who in part.who]
        axes.hlines(place, part.low, part.high, color="black", lw=1.4)
        for x, y, clear in zip(part.points, place, part.clear, strict=True):
            axes.plot(x, y, "o", color="black", ms=7, mfc="black" if clear else "white")
        axes.axvline(0, color="black", lw=0.8)
        _rows(axes, whos)
    axes.set_xlabel("difference in points")
    return figure


def _map(axes: Axes, values: np.ndarray, colours: str, **limits: Any) -> Any:
    """A heat map of effects, layers upwards."""
    axes.grid(False)
    return axes.imshow(values, origin="lower", aspect="auto", cmap=colours, **limits)


def patching_maps(maps: Any, sites: tuple[str, ...], kind: str) -> Figure:
    """Mean |effect| over the pairs of a kind: layer × column, a row of panels a member, a column a site (Fig. 7)."""
    means = {member: found.abs().mean(0).numpy() for (member, k), found in maps.effects.items() if k == kind}
    size = (WIDTH, 2.3 * len(means) + 0.9)
    figure, grid = plt.subplots(len(means), len(sites), figsize=size, sharex=True, sharey=True)
    most = np.max([found.max(axis=(1, 2)) for found in means.values()], axis=0)
    for row, (member, found) in zip(grid, means.items(), strict=True):
        images = [_map(*one, "magma_r", vmin=0, vmax=top) for *one, top in zip(row, found, most, strict=True)]
        row[0].set_ylabel(f"{member}\nlayer")
    for column, site, image in zip(grid.T, sites, images, strict=True):
        column[0].set_title(site)
        figure.colorbar(image, ax=column, location="bottom", shrink=0.9)
        column[-1].set_xticks(range(len(maps.columns)), maps.columns, rotation=90, fontsize="small")
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
        for axes, found in zip(row, maps.values(), strict=True):
            axes.set_facecolor("0.8")
            values = found[i].numpy()
            known = np.flatnonzero(~np.isnan(values).all(axis=1))
            nearest = known[np.abs(known - np.arange(len(values))[:, None]).argmin(axis=1)]
            image = _map(axes, values[nearest], "PuOr", vmin=-limit, vmax=limit)
        row[0].set_ylabel(f"{site}\nlayer")
        figure.colorbar(image, ax=row, shrink=0.85)
    parts = pd.Series(range(len(pair.corrupt.columns))).groupby(pair.corrupt.columns, sort=False).mean()
    for top, axes, method in zip(grid[0], grid[-1], maps, strict=True):
        top.set_title(method)
        axes.set_xticks(parts, parts.index, rotation=90, fontsize="x-small")
    return figure
