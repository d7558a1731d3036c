"""A claim of the paper, what was measured here, and the verdict, computed from the page's own tables."""

import json
from collections.abc import Sequence
from typing import Literal

import pandas as pd
from IPython.display import Markdown, display

from tuningvec.components import SYMBOLS
from tuningvec.family import Family

KEY = "tuningvec.finding"  # the key under which an output carries a finding, for the front page
VERDICTS = "tuningvec.verdicts"  # and that under which the audit's summary carries how many verdicts of each kind
CSS = {
    "holds": "holds",
    "differs": "differs",
    "null explains it": "null",
    "within chance": "null",
    "cannot be known": "unknown",
}
Verdict = Literal["holds", "differs", "null explains it", "within chance", "cannot be known"]
GATE_UP = ["W_gate", "W_up"]


def show(claim: str, paper: str, here: str, verdict: Verdict) -> None:
    """Display a finding; the front page collects those of all pages."""
    record = dict(claim=claim, paper=paper, here=here, verdict=badge(verdict))
    text = f":::{{admonition}} {claim}\n**Paper.** {paper}\n\n**Here.** {here}\n\n**Verdict.** {badge(verdict)}\n:::"
    display(Markdown(text), metadata={KEY: json.dumps(record)})


def badge(verdict: Verdict) -> str:
    """The verdict as a coloured word."""
    return f"[{verdict}]{{.{CSS[verdict]}}}"


def similarity(table: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Holds when no member's cosine is below the smallest that the paper prints."""
    whole = table[table.kind == "all"]
    least = paper.value.min() / 100
    each = "; ".join(f"{row.vector} {row.cosine:.5f} ($r$ = {row.r:.4f})" for row in whole.itertuples())
    orthogonal = (1 - whole.cosine).div(1 - whole.orthogonal)
    show(
        "Fine-tuning leaves the weights nearly parallel to the pretrained ones",
        f"cosines from {least:.4f} to {paper.value.max() / 100:.4f}",
        f"{each}. The gap to 1 is {span(orthogonal, 2)} times what an orthogonal move of that length gives, "
        "so the cosine restates $r$",
        "holds" if whole.cosine.min() >= least else "differs",
    )


def cosines(family: Family, table: pd.DataFrame) -> None:
    """Holds when no cosine of two specialists (any two members if there is one) is over 2 sd from the null's 0."""
    specialists = {m.name for m in family.fine_tuned if m.role == "domain"}
    pairs = table[table.kind == "all"]
    if len(specialists) > 1:
        pairs = pairs[pairs.a.isin(specialists) & pairs.b.isin(specialists)]
    each = "; ".join(f"{row.a} · {row.b} {row.cosine:.3f} ($z$ = {row.z:.0f})" for row in pairs.itertuples())
    show(
        "Tuning vectors of different domains are orthogonal",
        "medical against maths and code read as orthogonal in Fig. 3; code and maths somewhat alike",
        f"{each}; $z$ counts standard deviations of a random left rotation",
        "holds" if pairs.z.abs().max() < 2 else "differs",
    )


def random_on_null(means: pd.DataFrame) -> None:
    """The control: holds when a random T is within three standard deviations of k/d_out in every component."""
    rows = means[means.vector == "random"]
    gap, z = (rows.SSA - rows.null).abs().max(), rows.z.abs().max()
    show(
        "Control: a random $T$ lies on the null line",
        "not reported",
        f"largest distance {gap:.5f}, largest $\\lvert z\\rvert$ {z:.1f}, over {len(rows)} components; its SSA runs "
        f"from {rows.SSA.min():.2f} to {rows.SSA.max():.2f}",
        "holds" if z < 3 else "differs",
    )


def alignment(means: pd.DataFrame, paper: pd.DataFrame, low: Sequence[str], high: Sequence[str]) -> None:
    """Whether `low` kinds of matrix hold more new directions than `high` ones, as their lower SSA is read to say.

    Explained by the null when SSA is lower in `low` and the excess over k/d_out is not; differs when SSA is not lower.
    """
    tuned = means[means.vector != "random"]
    raw, excess = (tuned.pivot(index="vector", columns="kind", values=v) for v in ("SSA", "excess"))
    null = tuned.groupby("kind").null.first()
    below, above = excess[list(low)].mean(axis=1), excess[list(high)].mean(axis=1)
    verdict: Verdict = "differs"
    if (raw[list(low)].max(axis=1) < raw[list(high)].min(axis=1)).all():
        verdict = "holds" if (below < above).all() else "null explains it"
    names = [", ".join(SYMBOLS[kind] for kind in kinds) for kinds in (low, high)]
    show(
        f"{names[0]} get more new directions than {names[1]}: their SSA is lower",
        f"SSA {span(paper[list(low)].stack(), 2)} against {span(paper[list(high)].stack(), 2)}",
        f"SSA {span(raw[list(low)].stack(), 2)} against {span(raw[list(high)].stack(), 2)}; a random $T$ has "
        f"{span(null[list(low)], 2)} against {span(null[list(high)], 2)}. Mean excess over the null: "
        f"{span(below, 2)} against {span(above, 2)}",
        verdict,
    )


def energy(layers: pd.DataFrame, paper: pd.DataFrame) -> None:
    """Explained by the null when the share of E⊥ in gate and up is no larger than that of randomly turned matrices."""
    table = layers.assign(total=layers.E_par + layers.E_perp)
    table["turned"] = table.total * (1 - table.null)
    table["variance"] = (table.total * table.null_sd) ** 2
    mlp = table[table.kind.isin(GATE_UP)].groupby("vector")[["E_perp", "turned", "variance"]].sum()
    every = table.groupby("vector")[["E_perp", "turned"]].sum()
    share, turned = mlp.E_perp / every.E_perp, mlp.turned / every.turned
    sd = mlp.variance**0.5 / every.turned
    verdict: Verdict = "differs"
    if (share > 0.5).all():
        verdict = "holds" if (share > turned + 2 * sd).all() else "null explains it"
    own = paper.loc[["Aloe α", "Aloe β"]]
    show(
        "Most orthogonal energy is concentrated in $W_{gate}$ and $W_{up}$",
        f"{span(own[GATE_UP].sum(axis=1) / own.sum(axis=1), 2)} of it for the two medical models of Table 6",
        f"{span(share, 2)} of it; matrices of the same norms turned at random would have {span(turned, 2)}",
        verdict,
    )


def span(values: pd.Series, digits: int) -> str:
    """The smallest and the largest of the values, as `0.12 to 0.34`."""
    low, high = f"{values.min():.{digits}f}", f"{values.max():.{digits}f}"
    return (low if low == high else f"{low} to {high}").replace("-", "−")
