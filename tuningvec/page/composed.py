"""Figures and tables of ways to compose tuning vectors."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tuningvec.measures.composition import SUM, per_token
from tuningvec.page.figures import empty, heatmap, outer, panels, rows_from_above, spans, told
from tuningvec.page.text import each, texts
from tuningvec.weights.components import MATRICES

METHODS = {SUM: "sum, λ chosen"}


def losses(grid: pd.DataFrame) -> Figure:
    """Nats per token on both domains by λ_a and λ_b, a row of panels a pair; members are at the ends of the axes."""
    found = per_token(grid).assign(value=lambda rows: -rows.value)
    data = found.groupby(["a", "b", "domain", "scale_a", "scale_b"], sort=False).value.mean().reset_index()
    pairs = [(a, b, domain, rows) for (a, b), rows in data.groupby(["a", "b"], sort=False) for domain in (a, b)]
    parts = [(f"replies of {domain}", (a, b, rows[rows.domain == domain])) for a, b, domain, rows in pairs]
    figure, shown = panels(parts, 3, columns=2, more=0, sharex=False)
    for axes, (a, b, part) in shown:
        table = part.pivot(index="scale_a", columns="scale_b", values="value").sort_index(ascending=False)
        heatmap(axes, table, ".2f", "viridis_r", cbar=False)
        axes.set(xlabel=rf"$\lambda$ of {b}", ylabel=rf"$\lambda$ of {a}")
    words = spans(data, "value", "λ = {scale_a:g} of {a}, {scale_b:g} of {b}", "domain")
    data = data.rename(columns={"value": "nats_per_token"})
    return told(figure, data, f"Nats per token of replies by how much of each vector is added: {words}.")


def gaps(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Worst domain's normalised score less that of the sum, a panel a measure; filled where beyond chance."""
    judged = {title: table[(table.who != SUM) & table.effect.notna()] for title, table in tables.items()}
    columns = ["who", "effect", "low", "high", "clear"]
    data = pd.concat({title: table[columns] for title, table in judged.items()}, names=["measure", None])
    data = data.reset_index("measure")
    if data.empty:
        return empty("no way can be judged beside the sum", data)
    rows = max(len(table) for table in judged.values())
    known = [(title, table) for title, table in judged.items() if len(table)]
    figure, shown = panels(known, 0.2 + 0.3 * rows, columns=2, sharex=False)
    for axes, table in shown:
        place = np.arange(len(table))
        axes.hlines(place, table.low, table.high, color="black", lw=1.4)
        for y, x, clear in zip(place, table.effect, table.clear, strict=True):
            axes.plot(x, y, "o", color="black", ms=7, mfc="black" if clear else "white")
        axes.axvline(0, color="black", lw=0.8)
        rows_from_above(axes, table.who)
    outer(shown, "worst normalised score minus the sum's")
    words = [
        f"{title}: {each(table, '{who} {effect:+.3f} ({low:+.3f} to {high:+.3f})', ', ')}" for title, table in known
    ]
    return told(figure, data, f"Worst domain's normalised score less that of the sum with its λ. {'; '.join(words)}.")


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
