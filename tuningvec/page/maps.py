"""Maps of all matrices of a model: a cell a layer and kind of matrix, a panel a vector."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, FuncNorm, LogNorm, Normalize, to_hex
from matplotlib.figure import Figure

from tuningvec.page.figures import PLAIN, WIDTH, spans, told
from tuningvec.weights.components import KINDS, SYMBOLS

UNKNOWN = "#bdbdbd"
ABREAST = 4  # panels in a row


def by_matrix(table: pd.DataFrame, value: str, label: str, null: float | None = None) -> Figure:
    """`value` of each matrix, layers downwards and kinds across, a panel a vector; colours as in `colours`.

    `table` has a row a vector, layer and kind.
    """
    vectors, kinds = list(table.vector.unique()), [kind for kind in KINDS if kind in set(table.kind)]
    layers = sorted(table.layer.unique())
    rows = -(-len(vectors) // ABREAST)
    columns = -(-len(vectors) // rows)
    size = (WIDTH, rows * (1.1 + min(0.17 * len(layers), 4.2)) + 0.7)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    norm, colourmap = _scale(table[value], null)
    colourmap = colourmap.with_extremes(bad=UNKNOWN)
    for axes, vector in zip(grid.flat, vectors, strict=False):
        wide = table[table.vector == vector].pivot(index="layer", columns="kind", values=value)
        cells = wide.reindex(index=layers, columns=kinds).to_numpy(float)
        axes.imshow(np.ma.masked_invalid(cells), norm=norm, cmap=colourmap, aspect="auto", interpolation="nearest")
        axes.set_title(vector, loc="left", fontsize="small")
        axes.set_xticks(range(len(kinds)), [SYMBOLS.get(kind, kind) for kind in kinds], rotation=90, fontsize="small")
        axes.tick_params(labelbottom=True)
        axes.grid(False)
    step = max(1, -(-len(layers) // 12))
    for axes in grid[:, 0]:
        axes.set_yticks(range(0, len(layers), step), layers[::step])
        axes.set_ylabel("layer")
    for axes in grid.flat[len(vectors) :]:
        axes.set_axis_off()
    _bar(figure, grid, norm, colourmap, label, table[value], null)
    drawn = table[["vector", "layer", "kind", value]]
    return told(figure, drawn, f"{label} of each matrix. {spans(drawn, value, '{kind}, layer {layer}', 'vector')}.")


def _bar(
    figure: Figure,
    grid: np.ndarray,
    norm: Normalize,
    colourmap: Colormap,
    label: str,
    values: pd.Series,
    null: float | None,
) -> None:
    """A colour bar below all panels, pointed where values lie beyond it."""
    beyond = "neither" if null is None else _beyond(values, norm)
    image = ScalarMappable(norm, colourmap)
    bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.9, aspect=30, label=label, extend=beyond)
    if null is not None:
        bar.set_ticks(ticks(values, null))
        bar.ax.xaxis.set_major_formatter(PLAIN)


def _beyond(values: pd.Series, norm: Normalize) -> str:
    """Which ends of a colour bar values lie beyond, as matplotlib names them."""
    below, above = bool((values < norm.vmin).any()), bool((values > norm.vmax).any())
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")


def _scale(values: pd.Series, null: float | None) -> tuple[Normalize, Colormap]:
    """About a null, orange below and purple above up to 1 from it, by the root of the distance; else logarithmic."""
    if null is None:
        known = values[values > 0]
        low, high = (known.min(), known.max()) if len(known) else (1, 1)
        return LogNorm(low, high if high > low else low * 1.01, clip=True), plt.get_cmap("cividis")
    root = (lambda x: np.sign(x - null) * np.abs(x - null) ** 0.5, lambda y: null + np.sign(y) * y**2)
    return FuncNorm(root, null - 1, null + 1, clip=True), plt.get_cmap("PuOr")


def ticks(values: pd.Series, null: float | None = None) -> np.ndarray:
    """Values for a key of the colours of these `values`: about a null, else from the smallest to the largest."""
    norm, _ = _scale(values, null)
    return np.geomspace(norm.vmin, norm.vmax, 5) if null is None else null + np.array([-1, -0.25, 0, 0.25, 1])


def colours(values: pd.Series, null: float | None = None, of: Iterable[float] | None = None) -> list[str]:
    """The colour in `by_matrix` of each of the values, or of these others, as #rrggbb; grey where it is not known."""
    norm, colourmap = _scale(values, null)
    some = pd.Series(values if of is None else list(of))
    known = some.notna() & (some > 0 if null is None else True)
    return [to_hex(colourmap(norm(value))) if ok else UNKNOWN for value, ok in zip(some, known, strict=True)]
