"""Figures and tables of ways to compose tuning vectors."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from tuningvec.measures.composition import SUM, per_token
from tuningvec.page.plots import WIDTH
from tuningvec.page.text import texts
from tuningvec.weights.components import MATRICES

METHODS = {SUM: "sum, λ chosen"}


def losses(grid: pd.DataFrame) -> Figure:
    """Nats per token on both domains by λ_a and λ_b, two panels a pair; members are at the ends of the axes."""
    found = list(per_token(grid).groupby(["a", "b"], sort=False))
    figure, panels = plt.subplots(2 * len(found), 1, squeeze=False, figsize=(WIDTH, 6.6 * len(found)))
    for number, ((a, b), part) in enumerate(found):
        for axes, domain in zip(panels[2 * number :, 0], (a, b), strict=False):
            mean = part[part.domain == domain].groupby(["scale_a", "scale_b"]).value.mean()
            table = -mean.unstack().sort_index(ascending=False)
            sns.heatmap(table, annot=True, fmt=".2f", cmap="viridis_r", linewidths=1, cbar=False, ax=axes)
            axes.set_title(f"replies of {domain}", loc="left")
            axes.set(xlabel=rf"$\lambda$ of {b}", ylabel=rf"$\lambda$ of {a}")
            axes.tick_params(rotation=0)
            axes.grid(False)
    return figure


def gaps(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Worst domain's normalised score less that of the sum, a panel a measure; filled where beyond chance."""
    known = {title: table[(table.who != SUM) & table.effect.notna()] for title, table in tables.items()}
    known = {title: table for title, table in known.items() if len(table)}
    rows, count = max((len(table) for table in known.values()), default=1), max(len(known), 1)
    figure, panels = plt.subplots(count, 1, squeeze=False, figsize=(WIDTH, (0.9 + 0.34 * rows) * count))
    for axes, (title, table) in zip(panels[:, 0], known.items(), strict=False):
        place = np.arange(len(table))
        axes.hlines(place, table.low, table.high, color="black", lw=1.4)
        for y, x, clear in zip(place, table.effect, table.clear, strict=True):
            axes.plot(x, y, "o", color="black", ms=7, mfc="black" if clear else "white")
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(place, table.who)
        axes.set(ylim=(len(table) - 0.5, -0.5), xlabel="worst normalised score minus the sum's")
        axes.set_title(title, loc="left")
    return figure


def settings(table: pd.DataFrame) -> pd.DataFrame:
    """All settings with their normalised scores, the chosen ones marked."""
    shown = table.drop(columns=["method", "chosen"]).rename(columns={"who": "setting"})
    return shown.assign(chosen=np.where(table.chosen, "✓", ""))


def standings(table: pd.DataFrame) -> pd.DataFrame:
    """Normalised score of each way by domain, their mean, the worst, and how far that is from the sum's."""
    between = table.columns[table.columns.get_loc("who") + 1 : table.columns.get_loc("mean")]
    shown = table[["who", *between, "mean"]].rename(columns={"who": "way"}).assign(
        worst=texts(table, "{worst:.3f} ({worst_low:.3f}, {worst_high:.3f})"),
    )  # fmt: skip
    shown["way"] = shown.way.replace(METHODS)
    judged = (table.who != SUM) & table.effect.notna()
    gap = np.where(judged, texts(table, "{effect:+.3f} ({low:+.3f}, {high:+.3f})"), "–")
    mark = np.where(judged & table.clear.astype(bool), " *", "")
    return shown.assign(**{"worst minus the sum's": gap.astype(object) + mark})


def answers(items: pd.DataFrame) -> pd.DataFrame:
    """Right answers in percent by way and domain, with the number of items."""
    means = items.groupby(["who", "domain"], sort=False).value.agg(["mean", "size"]).reset_index()
    means["right"] = texts(means.assign(mean=100 * means["mean"]), "{mean:.0f} % of {size}")
    wide = means.pivot(index="who", columns="domain", values="right")
    return wide.loc[items.who.unique(), items.domain.unique()].rename_axis("way").reset_index()


def added_losses(costs: pd.DataFrame) -> pd.DataFrame:
    """What another domain's T adds to a domain's loss, beside its turned draws and the gain of the domain's own."""
    return pd.DataFrame(
        {
            "replies": costs.domain,
            "added vector": costs.member,
            "adds": costs.value,
            "turned": texts(costs, "{mean:.3f} ± {sd:.3f} ({no_more} of {draws})"),
            "T minus turned": texts(costs, "{effect:+.3f} ({low:+.3f}, {high:+.3f})"),
            "own vector takes off": costs.gain,
        }
    )


def added(found: pd.DataFrame) -> pd.DataFrame:
    """What another vector adds as a share of the domain's gain, a row a domain and a column a λ of its own vector."""
    cells = found.assign(share=texts(found, "{share:+.2f}"), scale=found.scale.map("λ = {:g}".format))
    index = ["domain", "other"]
    wide = cells.pivot(index=index, columns="scale", values="share")[list(cells.scale.unique())]
    named = {"domain": "replies", "other": "added vector of"}
    return wide.reset_index().rename(columns=named).rename_axis(columns=None)


def shared(energies: pd.DataFrame) -> pd.DataFrame:
    """Share of each T's energy that it shares with the others, by kind of matrix, and over all; and of a turned T."""
    parts = ["energy", "shared", "turned"]
    by_kind = energies.groupby(["vector", "kind"], sort=False)[parts].sum()
    whole = energies.groupby("vector", sort=False)[parts].sum()
    share = (by_kind.shared / by_kind.energy).unstack("kind")[[kind for kind in MATRICES if kind in {*energies.kind}]]
    share = share.loc[whole.index].assign(all=whole.shared / whole.energy, turned=whole.turned / whole.energy)
    return share.rename_axis(columns=None).reset_index()
