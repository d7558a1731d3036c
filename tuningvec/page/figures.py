"""How figures are made: one style, the looks that names have, panels, and what an output carries beside its picture."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib_inline.backend_inline import set_matplotlib_formats

from tuningvec.family.spec import Family
from tuningvec.page.text import filled, number

Look = tuple[str, tuple[float, ...]]  # a marker and a colour

WIDTH = 7.4  # inches, as wide as an article; on a phone the figure scrolls
WIDEST_LEGEND, HANDLE = 104, 9  # characters beside one another, and what a mark takes
MARKERS = "oDs^vP*"
COLOURS = [colour for n, colour in enumerate(sns.color_palette("colorblind")) if n not in (6, 7, 8)]  # pale, grey, pale
COLOURS += sns.color_palette(["#332288", "#882255"])  # of Paul Tol's muted scheme
PRETRAINED, RANDOM = ("X", (0.0, 0.0, 0.0)), ("x", (0.35, 0.35, 0.35))
PAPER = {  # names that look alike in every family, and the paper's vectors of that kind
    "instruct": ["Instruct"],
    "medical": ["Aloe α", "Aloe β", "MediPhi"],
    "math": ["Q Math"],
    "code": ["Q Code"],
}
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
ALT = "tuningvec.alt"  # the key under which an output carries the alt text
_known: dict[Any, Look] = {}


def style(family: Family | None = None) -> None:
    """Set the style of all figures, and the looks of the family's members, domains and texts, the same on every page.

    Figures are transparent SVG with fixed ids; an output also carries what `bundle` gives.
    """
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.85)
    size = plt.rcParams["axes.labelsize"]
    plt.rcParams.update({"figure.dpi": 96, "svg.hashsalt": "tuningvec", "svg.fonttype": "path", "axes.grid": True,
                         "grid.alpha": 0.35, "figure.constrained_layout.use": True, "figure.facecolor": "none",
                         "axes.facecolor": "none", "figure.labelsize": size, "axes.titlesize": size})  # fmt: skip
    _known.clear()
    _known.update(_assigned(family))
    if shell := get_ipython():
        set_matplotlib_formats("svg", metadata={"Date": None})
        shell.display_formatter.mimebundle_formatter.for_type(Figure, bundle)


def told(figure: Figure, data: pd.DataFrame, alt: str) -> Figure:
    """The figure with the table that it draws, and its result in words for those who cannot see it."""
    figure.data, figure.alt = data.reset_index(drop=True), alt
    return figure


def bundle(figure: Figure) -> tuple[dict[str, str], dict[str, str]]:
    """What the output of a figure carries beside the picture: a PDF, its data as CSV, and the alt text in metadata."""
    if not hasattr(figure, "alt"):
        return {}, {}
    undated = dict.fromkeys(["CreationDate", "Creator", "Producer"])
    table = figure.data.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    pdf = print_figure(figure, "pdf", base64=True, metadata=undated)
    return {"application/pdf": pdf, "text/csv": table}, {ALT: figure.alt}


def look(place: int) -> Look:
    """Marker and colour of a name at this place; no two places look alike."""
    turn, colour = divmod(place, len(COLOURS))
    darker, shift = divmod(turn, len(MARKERS))
    marker = MARKERS[(colour + shift) % len(MARKERS)]
    return marker, tuple(round(0.75**darker * part, 6) for part in COLOURS[colour])


def looks(names: Iterable[Any]) -> dict[Any, Look]:
    """Marker and colour of each name: of the family's names their own, of others what is free, in this order."""
    names = list(dict.fromkeys(names))
    own = {name: _known[name] for name in names if name in _known}
    free = (one for one in map(look, itertools.count()) if one not in own.values())
    return {name: own[name] if name in own else next(free) for name in names}


def _assigned(family: Family | None) -> dict[Any, Look]:
    """Looks in the order of the family's file, after PAPER's; a domain and its replies look like its first specialist.

    The pretrained member is a black cross, a random vector a grey one.
    """
    members, controls, texts = (family.fine_tuned, family.controls, family.corpora) if family else ((), (), {})
    studied = (m.name for m in members if m not in controls)
    places = dict.fromkeys([*PAPER, *studied, *texts, *(control.name for control in controls)])
    found = {name: look(place) for place, name in enumerate(places)}
    for name, vectors in PAPER.items():
        found |= dict.fromkeys(vectors, found[name])
    for member in reversed([m for m in members if m.role == "domain"]):
        found[f"{member.domain} replies"] = found[member.name]
        if member.domain not in places:
            found[member.domain] = found[member.name]
    return found | ({family.pretrained.name: PRETRAINED} if family else {}) | {"random": RANDOM}


def panels(
    parts: Iterable[tuple[str, Any]], each: float, columns: int = 3, more: float = 0.3, **options: Any
) -> tuple[Figure, list[tuple[Axes, Any]]]:
    """Panels for these titles and parts, so many in a row, each so many inches high and the figure so many more."""
    titles, contents = zip(*parts, strict=True)
    rows = -(-len(titles) // columns)
    columns = -(-len(titles) // rows)  # four are two by two
    options = dict(sharex=True, squeeze=False, figsize=(WIDTH, more + each * rows)) | options
    figure, grid = plt.subplots(rows, columns, **options)
    for axes in grid.flat[len(titles) :]:
        axes.remove()
    for axes in grid.flat[len(titles) - columns : len(titles)]:
        axes.xaxis.set_tick_params(labelbottom=True)
    shown = list(zip(grid.flat, contents, strict=False))
    for (axes, _), title in zip(shown, titles, strict=True):
        axes.set_title(title, loc="left")
    return figure, shown


def outer(shown: Sequence[tuple[Axes, Any]], across: str = "", up: str = "") -> None:
    """Label the lowest panel of each column and the first one of each row."""
    columns = shown[0][0].get_subplotspec().get_gridspec().ncols
    for place, (axes, _) in enumerate(shown):
        if place >= len(shown) - columns:
            axes.set_xlabel(across)
        if up and place % columns == 0:
            axes.set_ylabel(up)


def split(table: pd.DataFrame, by: Any, title: Callable[[Any], str] = str) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each value of `by`, in the table's order, under a title."""
    return [(title(value), part) for value, part in table.groupby(by, sort=False)]


def legend(figure: Figure) -> Figure:
    """The figure with one legend for the marks of all panels, below them and higher by what it takes."""
    found = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    marks = {name: handle for handle, name in itertools.chain(*found)}
    lengths = np.array([len(name) + HANDLE for name in marks])
    widths = {n: sum(part.max() for part in np.array_split(lengths, n)) for n in range(1, len(marks) + 1)}
    ncols = max((n for n, width in widths.items() if width <= WIDEST_LEGEND), default=1)
    figure.set_figheight(figure.get_figheight() + 0.15 + 0.2 * -(-len(marks) // ncols))
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=ncols, frameon=False)
    return figure


def spread(count: int, most: float = 0.26) -> np.ndarray:
    """Places beside one another about 0."""
    return np.linspace(-most, most, count) if count > 1 else np.zeros(count)


def plain_log(axis: Axis) -> None:
    """Label a logarithmic axis in plain numbers, within two decades also at 2 and 5 of each."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def rows_from_above(axes: Axes, names: Iterable[Any]) -> None:
    """Names of rows, from the top downwards."""
    axes.set_yticks(range(len(names := list(names))), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def heatmap(axes: Axes, table: pd.DataFrame, form: str, colours: str, **options: Any) -> None:
    """Numbers in coloured cells."""
    sns.heatmap(table, annot=True, fmt=form, cmap=colours, linewidths=1, ax=axes, **options)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(rotation=0)
    axes.grid(False)


def empty(why: str, data: pd.DataFrame) -> Figure:
    """A line of text in the place of a figure that has no data."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6))
    axes.text(0.5, 0.5, why, ha="center", va="center")
    axes.axis("off")
    return told(figure, data, why)


def spans(table: pd.DataFrame, value: str, place: str, who: Any = None, digits: int = 3) -> str:
    """In words, of each of `who` the smallest and the largest `value`, each with `place` filled from its row."""
    return _between(table, value, place, who, digits, lambda rows: (rows[value].idxmin(), rows[value].idxmax()))


def courses(table: pd.DataFrame, value: str, place: str, who: Any = None, digits: int = 3) -> str:
    """In words, of each of `who` the first and the last `value`, each with `place` filled from its row."""
    return _between(table, value, place, who, digits, lambda rows: (rows.index[0], rows.index[-1]))


def _between(table: pd.DataFrame, value: str, place: str, who: Any, digits: int, ends: Callable[..., Any]) -> str:
    rows = table[table[value].notna()].reset_index(drop=True)
    if "kind" in rows:
        rows = rows.assign(kind=rows.kind.str.removeprefix("W_"))
    found = []
    for name, part in rows.groupby(who, sort=False) if who else [("", rows)] if len(rows) else []:
        both = [f"{number(part[value][i], digits)} ({filled(place, part.loc[i].to_dict())})" for i in ends(part)]
        name = ", ".join(map(str, name)) if isinstance(name, tuple) else name
        found.append(
            f"{name} from {both[0]} to {both[1]}".strip() if both[0] != both[1] else f"{name} {both[0]}".strip()
        )
    return "; ".join(found) or "nothing is known"
