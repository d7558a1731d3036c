"""The paper's printed numbers against each other: one function a table of the audit. No model is read."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tuningvec import stats
from tuningvec.paper import printed as paper
from tuningvec.weights.components import ATTENTION, MATRICES, matrix_shapes

CHANCE = 0.25  # of a guess among the prompt's options A to D (A.5)
LARGEST_N = 2200  # sizes tried for a benchmark
MISPRINT = 3  # a cell so many times larger or smaller than its neighbours imply
EARLIER_FIRST = (1, 2, 3, 13)  # tables whose upper row is the one claimed to be better
CUT_OFF = (3, 9)  # tables whose digits fit when they are cut off and not rounded
CUT_OFF_TABLES = "Tables 3 and 9"
WITHOUT = "(−)T "
OUTCOMES = ("survives", "depends on the pairing", "within chance")  # of a compared pair of cells


def energies() -> pd.DataFrame:
    """Table 4 beside what Tables 5 and 6 give in two readings, and the E⊥ that Tables 4 and 5 imply.

    As squared norms SSA = E∥ / (E∥ + E⊥), as norms E∥ / √(E∥² + E⊥²); implied E⊥ = E∥ (1 − SSA) / SSA.
    """
    tables = {"SSA": paper.alignment(), "E_par": paper.parallel_energy(), "E_perp": paper.orthogonal_energy()}
    cells = pd.concat({k: t.set_index(["row", "column"]).value for k, t in tables.items()}, axis=1).reset_index()
    cells = cells.rename(columns={"row": "vector", "column": "kind"})
    cells["squared"] = cells.E_par / (cells.E_par + cells.E_perp)
    cells["norms"] = cells.E_par / np.hypot(cells.E_par, cells.E_perp)
    cells["implied"] = cells.E_par * (1 / cells.SSA - 1)
    cells["misprint"] = np.log(cells.E_perp / cells.implied).abs() > np.log(MISPRINT)
    return cells


def shape_bound() -> pd.DataFrame:
    """Table 4 beside the most that a random T's SSA can be in a matrix of that shape, min(1, d_in/d_out).

    `sd` is the most that the null's standard deviation can be, √(2k(d − k)/(d²(d + 2))) at the largest k and d = d_out:
    that of a T of rank one. `excess` is the least excess over the null, and `clear` says whether SSA is more than three
    sd above the bound. All three are defined for tall matrices alone.
    """
    ssa = paper.alignment().set_index(["row", "column"])
    rows = []
    for model in paper.architectures().to_dict("records"):
        for kind, (d_out, d_in) in matrix_shapes(model).items():
            cell, k = ssa.loc[(model["vector"], kind)], min(d_in, d_out / 2)
            rows.append(
                {
                    "vector": model["vector"],
                    "pretrained": model["pretrained"],
                    "kind": kind,
                    "d_out": d_out,
                    "d_in": d_in,
                    "SSA": cell.value,
                    "step": cell.step,
                    "bound": min(1, d_in / d_out),
                    "sd": (2 * k * (d_out - k) / (d_out**2 * (d_out + 2))) ** 0.5 if d_in < d_out else np.nan,
                }
            )
    cells = pd.DataFrame(rows)
    tall = cells.bound < 1
    cells["excess"] = ((cells.SSA - cells.bound) / (1 - cells.bound).where(tall)).where(tall)
    cells["clear"] = tall & (cells.SSA - cells.step / 2 - cells.bound > 3 * cells.sd)
    return cells


def variance_explained(cells: pd.DataFrame) -> pd.DataFrame:
    """How much of the variance of SSA over cells the bound accounts for, with nothing fitted and with a line.

    With nothing fitted 1 − Σ(SSA − bound)² / Σ(SSA − mean)²; with a line, the squared correlation.
    """
    parts = {"all": cells} | dict(list(cells.groupby("vector", sort=False)))
    rows = []
    for vector, part in parts.items():
        total = ((part.SSA - part.SSA.mean()) ** 2).sum()
        unfitted = 1 - ((part.SSA - part.bound) ** 2).sum() / total
        line = np.corrcoef(part.SSA, part.bound)[0, 1] ** 2
        rows.append({"vector": vector, "cells": len(part), "unfitted": unfitted, "line": line})
    return pd.DataFrame(rows)


def by_part() -> pd.DataFrame:
    """Mean SSA of attention, of the MLP's gate and up, and of its down matrix, for each vector."""
    ssa = paper.wide(paper.alignment())
    parts = {"attention": ssa[list(ATTENTION)].mean(axis=1), "gate_up": ssa[["W_gate", "W_up"]].mean(axis=1)}
    parts |= {"W_down": ssa.W_down, "MLP": ssa[list(MATRICES[len(ATTENTION) :])].mean(axis=1)}
    return pd.DataFrame(parts).rename_axis("vector").reset_index()


def same_weights() -> pd.DataFrame:
    """θ_ft − T = θ_pre twice: as (−)T in Tables 1 to 3 and as the pretrained model in Tables 7 to 9.

    `items` is how many more items the (−)T row has right; not known for ROUGE-1.
    """
    rows = []
    for number, other in ((1, 7), (2, 8), (3, 9)):
        removed = paper.by_member(paper.table(number))
        removed = removed[removed.member.str.startswith(WITHOUT)]
        pretrained = _pretrained(paper.by_member(paper.table(other)))
        both = removed.merge(pretrained, on=["family", "column"], suffixes=("", "_pre"))
        both["n"] = both.n.mask(both.unit != "%")
        both["right"], both["right_pre"] = counts(both), counts(both.assign(value=both.value_pre))
        both["items"] = both.right - both.right_pre
        rows.append(both.assign(points=both.value - both.value_pre))
    columns = ["table", "family", "column", "n", "value_pre", "value", "points", "right_pre", "right", "items"]
    return pd.concat(rows, ignore_index=True)[columns]


def _pretrained(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of each family's first member."""
    return cells[cells.member == cells.groupby("family").member.transform("first")]


def counts(cells: pd.DataFrame) -> pd.Series:
    """The number of items behind each percentage; missing where n is not known."""
    return (cells.value * cells.n / 100).round().astype("Int64")


def sizes() -> pd.DataFrame:
    """For each benchmark, and for the outputs of Tables 3 and 9, the numbers of items that give every printed value."""
    accuracies = pd.concat([paper.table(i) for i in (1, 7, 13, 14)])
    groups = dict(list(accuracies[accuracies.column != "Average"].groupby("column", sort=False)))
    groups[CUT_OFF_TABLES] = pd.concat([paper.table(i) for i in CUT_OFF])
    rows = []
    for name, cells in groups.items():
        n, cut_off = int(cells.n.iloc[0]), name == CUT_OFF_TABLES
        fitting = fitting_sizes(cells, cut_off)
        row = {"benchmark": name, "values": cells.value.nunique(), "n": n, "fits": n in fitting}
        row |= {"smallest": fitting[0] if len(fitting) else pd.NA, "fitting": len(fitting)}
        rows.append(row | {"digits": "cut off" if cut_off else "rounded"})
    return pd.DataFrame(rows)


def fitting_sizes(cells: pd.DataFrame, cut_off: bool) -> np.ndarray:
    """The numbers of items up to LARGEST_N of which every percentage is a count, rounded or with digits cut off."""
    sizes = np.arange(1, LARGEST_N + 1)
    value, step = (cells[c].to_numpy()[:, None] for c in ("value", "step"))
    low = value - (0 if cut_off else step / 2)
    count = np.ceil(low * sizes / 100 - 1e-9)  # (cell, size)
    above = count - (low + step) * sizes / 100
    return sizes[(above < -1e-9 if cut_off else above <= 1e-9).all(axis=0)]


def averages() -> pd.DataFrame:
    """Each printed average, the plain mean of its row, and for accuracies the mean weighted by the number of items."""
    rows = []
    for number in (1, 2, 7, 8, 13, 14):
        for name, cells in paper.table(number).groupby("row", sort=False):
            printed, parts = cells[cells.column == "Average"].iloc[0], cells[cells.column != "Average"]
            known = parts.n.notna().all()
            weighted = np.average(parts.value, weights=parts.n.astype(float)) if known else np.nan
            row = {"table": str(number), "row": name, "printed": printed.value, "mean": parts.value.mean()}
            agrees = abs(row["mean"] - row["printed"]) <= printed.step / 2 + 1e-9
            rows.append(row | {"weighted": weighted, "agrees": agrees})
    return pd.DataFrame(rows)


def comparisons(level: float, alpha: float) -> pd.DataFrame:
    """Every pair of rows of one family in Tables 1, 3, 7, 9, 13, 14, benchmark by benchmark.

    `points` is the difference with Newcombe's interval and Fisher's p, as if each model had its own sample of items;
    p_min and p_max bound McNemar's p, since the items are the same and their pairing is not printed. All p are Holm's,
    within a table. `outcome` is survives when p_max ≤ alpha, depends on the pairing when only p_min is, else within
    chance.
    """
    rows = []
    for number in (1, 3, 7, 9, 13, 14):
        for names, first, second in _row_pairs(number):
            for a, b in zip(first.itertuples(), second.itertuples(), strict=True):
                rows.append(names | {"column": a.column} | _compared(a.count_, b.count_, a.n, level))
    return _judged(pd.DataFrame(rows), alpha)


def pooled(level: float, alpha: float) -> pd.DataFrame:
    """The same for all items of a row's benchmarks together, Tables 1, 7, 13, 14.

    `probability` is the posterior probability that the first row's model is the better one (Beta-binomial, Jeffreys).
    """
    rows = []
    for number in (1, 7, 13, 14):
        for names, first, second in _row_pairs(number):
            rows.append(names | _compared(first.count_, second.count_, first.n, level))
    table = _judged(pd.DataFrame(rows), alpha)
    return table.assign(
        probability=[
            stats.probability_greater(row.right, row.n, row.right - row.items, row.n) for row in table.itertuples()
        ]
    )


def _row_pairs(number: int) -> Iterator[tuple[dict[str, str], pd.DataFrame, pd.DataFrame]]:
    """Pairs of rows of one family: the names of the table, the family and both rows, and their cells."""
    cells = paper.by_member(paper.table(number))
    cells = cells[cells.column != "Average"].assign(count_=counts)
    for family, part in cells.groupby("family", sort=False):
        rows = dict(list(part.groupby("member", sort=False)))
        for upper, lower in combinations(rows, 2):
            first, second = (upper, lower) if number in EARLIER_FIRST else (lower, upper)
            yield dict(table=str(number), family=family, first=first, second=second), rows[first], rows[second]


def _compared(count_1: ArrayLike, count_2: ArrayLike, n: ArrayLike, level: float) -> dict[str, float]:
    """The difference of two models over all items of these benchmarks."""
    right_1, right_2, items = (int(np.sum(x)) for x in (count_1, count_2, n))
    p_min, p_max = stats.paired_p_bounds(count_1, count_2, n)
    found = stats.difference(right_1, items, right_2, items, level)
    return {"n": items, "right": right_1, "items": right_1 - right_2, **found._asdict(), "p_min": p_min, "p_max": p_max}


def _judged(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Holm's correction within a table, and what survives it."""
    for p in ("p", "p_min", "p_max"):
        table[p] = table.groupby("table")[p].transform(stats.holm)
    survive, depends, chance = OUTCOMES
    outcome = np.where(table.p_max <= alpha, survive, np.where(table.p_min <= alpha, depends, chance))
    return table.assign(unpaired=table.p <= alpha, outcome=outcome)


def survivors(cells: pd.DataFrame) -> pd.DataFrame:
    """How many comparisons of each pair of rows go which way, and how many of them survive."""
    keys = ["table", "family", "first", "second"]
    survive = cells.outcome == OUTCOMES[0]
    flags = cells[keys].assign(
        cells=1,
        higher=cells["items"] > 0,
        equal=cells["items"] == 0,
        lower=cells["items"] < 0,
        higher_survive=survive & (cells["items"] > 0),
        lower_survive=survive & (cells["items"] < 0),
        depends=cells.outcome == OUTCOMES[1],
        unpaired=cells.unpaired,
    )
    return flags.groupby(keys, sort=False).sum().reset_index()


def average_differences(level: float, seed: int) -> pd.DataFrame:
    """Differences of averages between the rows of a family, in points, with bootstrap intervals.

    items: as if other questions of the same benchmarks had been drawn, for each model its own; nested: the same for
    both, with the narrowest pairing, in which one model's right answers include the other's; both: as if other
    benchmarks had been drawn as well. For ROUGE-1, whose items are not printed, over benchmarks alone.
    """
    rows = []
    for number in (1, 7, 13, 14, 2, 8):
        scale = 100 if number in (2, 8) else 1  # ROUGE-1 in points, too
        for names, first, second in _row_pairs(number):
            points = scale * (first.value.mean() - second.value.mean())
            rows.append(names | {"points": points} | _intervals(first, second, level, seed))
    return pd.DataFrame(rows)


def _intervals(first: pd.DataFrame, second: pd.DataFrame, level: float, seed: int) -> dict[str, float]:
    """Bootstrap intervals of the difference of two rows' averages."""
    if first.n.isna().any():
        scores = [[[100 * v] for v in part.value] for part in (first, second)]
        drawn = {"both": dict(items=False)}
    else:
        scores = [[_items(c, n) for c, n in zip(part.count_, part.n, strict=True)] for part in (first, second)]
        drawn = {"items": dict(benchmarks=False), "nested": dict(benchmarks=False, paired=True), "both": {}}
    found = {name: stats.bootstrap_difference(*scores, seed=seed, level=level, **how) for name, how in drawn.items()}
    return {f"{name}_{end}": getattr(interval, end) for name, interval in found.items() for end in ("low", "high")}


def _items(count: np.integer, n: np.integer) -> np.ndarray:
    """One score for each item, 100 for a right one; right ones first, so that two models' are nested."""
    return np.repeat([100.0, 0.0], [count, n - count])


READINGS = {  # of a fall from the values a to the values b of two rows
    "relative": lambda a, b: 100 * (1 - b.mean() / a.mean()),
    "points": lambda a, b: a.mean() - b.mean(),
    "mean_relative": lambda a, b: 100 * (1 - b / a).mean(),
}
CLAIMED = {  # row and column of the text's number → table, row that is said to be better, row it is compared with
    ("negation: fall of accuracy", "Aloe-Alpha"): (1, "Aloe-Alpha", WITHOUT + "Aloe-Alpha"),
    ("negation: fall of accuracy", "Aloe-Beta"): (1, "Aloe-Beta", WITHOUT + "Aloe-Beta"),
    ("negation: fall of ROUGE-1", "Aloe-Alpha"): (2, "Aloe-Alpha", WITHOUT + "Aloe-Alpha"),
    ("negation: fall of ROUGE-1", "Aloe-Beta"): (2, "Aloe-Beta", WITHOUT + "Aloe-Beta"),
    ("negation: fall of instruction following", "Aloe-Alpha"): (3, "Aloe-Alpha", WITHOUT + "Aloe-Alpha"),
    ("negation: fall of instruction following", "Aloe-Beta"): (3, "Aloe-Beta", WITHOUT + "Aloe-Beta"),
    ("cross domain: below the specialist", "Math-Instruct on medicine"): (13, "Aloe-Beta", "Math-Instruct"),
    ("cross domain: below the specialist", "Aloe-Beta on maths"): (14, "Math-Instruct", "Aloe-Beta"),
}


def percentages() -> pd.DataFrame:
    """Each percentage of the running text that a table could give, in four readings, and whether one agrees.

    The fall of the averages, relative and in points; the mean over columns of the relative fall; and the relative fall
    of the averages as printed. A reading agrees when it rounds to the text's number, or is within 2.5 of it where the
    text says approximately.
    """
    text = paper.text().set_index(["row", "column"])
    rows = []
    for claim, (number, first, second) in CLAIMED.items():
        values = paper.by_member(paper.table(number)).pivot(index="column", columns="member", values="value")
        if number == 2:
            values = 100 * values  # ROUGE-1 in points
        averages, parts = values.loc[values.index == "Average"], values.drop(index="Average", errors="ignore")
        found = {name: float(read(parts[first], parts[second])) for name, read in READINGS.items()}
        if len(averages):
            found["as_printed"] = float(READINGS["relative"](averages[first], averages[second]))
        printed = text.loc[claim]
        tolerance = 2.5 if "approximately" in printed.note else printed.step / 2
        agree = [name for name, value in found.items() if abs(value - printed.value) <= tolerance]
        row = {"number": claim[0], "of": claim[1], "table": str(number), "text": printed.value, **found}
        rows.append(row | {"agrees": ", ".join(agree)})
    return pd.DataFrame(rows)


def below_chance(level: float, alpha: float) -> pd.DataFrame:
    """Each row's right answers on the nine benchmarks with four options, against guessing.

    The exact interval of the share, and Holm's p of the one-sided binomial test against a quarter. `valid` counts
    outputs with a valid answer in Tables 3 and 9, which are of the same items.
    """
    cells = pd.concat([paper.by_member(paper.table(i)) for i in (7, 1, 13)])
    cells = cells[~cells.column.isin(["Average", "BioRED"])].drop_duplicates(["family", "member", "column"])
    keys = ["family", "member"]
    table = cells.assign(right=counts).groupby(keys, sort=False)[["right", "n"]].sum().reset_index()
    outputs = pd.concat([paper.by_member(paper.table(i)) for i in CUT_OFF])
    valid = outputs[outputs.column == "Valid"].assign(valid=counts).drop_duplicates(keys)
    table = table.merge(valid[[*keys, "valid"]], how="left", on=keys)
    table["share"] = table.right / table.n
    limits = [stats.exact(int(right), int(n), level) for right, n in zip(table.right, table.n, strict=True)]
    p = [stats.below(int(right), int(n), CHANCE) for right, n in zip(table.right, table.n, strict=True)]
    table[["low", "high"]] = limits
    return table.assign(of_valid=table.right / table.valid, below=stats.holm(p) <= alpha)


def cosines() -> pd.DataFrame:
    """Table 15 as angles and as relative lengths r = ‖T‖/‖θ_pre‖ of a T orthogonal to θ_pre, within the rounding.

    tan(angle) = r. Any T with that cosine has r of at least sin(angle).
    """
    table = paper.weight_cosines()
    low, cosine, high = ((table.value + shift * table.step / 2) / 100 for shift in (-1, 0, 1))
    found = {"pretrained": table.row, "member": table.column, "cosine": cosine, "angle": np.degrees(np.arccos(cosine))}
    found |= {name: np.sqrt(c**-2 - 1) for name, c in (("r", cosine), ("r_low", high), ("r_high", low))}
    return pd.DataFrame(found)


def lengths() -> pd.DataFrame:
    """‖T‖ over the seven kinds and all layers from Tables 5 and 6, and its ratio r to ‖θ_pre‖.

    ‖T‖² = layers · Σ (E∥ + E⊥), with the implied E⊥ in misprinted cells. The medical T's cosine in Table 15 gives
    ‖θ_pre‖ = ‖T‖/r within its rounding, and that serves every T of the same pretrained model. `r_summed` is r if the
    printed energies were sums over layers and not means.
    """
    cells, models = energies(), paper.architectures().set_index("vector")
    energy = (cells.E_par + cells.E_perp.mask(cells.misprint, cells.implied)).groupby(cells.vector).sum()
    table = models[["pretrained"]].assign(energy=energy, norm=(models.num_hidden_layers * energy) ** 0.5)
    known = cosines().drop(columns="pretrained").merge(table.reset_index(), left_on="member", right_on="vector")
    anchor = known.set_index("pretrained").loc[table.pretrained].set_axis(table.index)
    table["theta"] = anchor.norm / anchor.r
    for column in ("r", "r_low", "r_high"):
        table[column] = anchor[column] * table.norm / anchor.norm
    return table.assign(
        r_summed=table.r.where(table.index.isin(known.member), table.r / models.num_hidden_layers**0.5)
    ).reset_index()


def orthogonality() -> pd.DataFrame:
    """The standard deviation 1/√N of the cosine of two unrelated vectors of N weights, and what it is to a 0.00."""
    models = paper.architectures().drop_duplicates("pretrained")
    layer = [sum(d_out * d_in for d_out, d_in in matrix_shapes(m).values()) for m in models.to_dict("records")]
    weights = models.num_hidden_layers.to_numpy() * np.array(layer)
    return pd.DataFrame(
        {"pretrained": models.pretrained, "N": weights, "naive": weights**-0.5, "ratio": 0.005 * weights**0.5}
    )


def output_pairs() -> pd.DataFrame:
    """The nine pairs of outputs of Tables 10 to 12: their subjects, and whether the two texts share it."""
    cells = pd.concat([paper.outputs_of_aloe_alpha(), paper.outputs_of_aloe_beta(), paper.outputs_of_mediphi()])
    notes = cells.pivot(index="row", columns="column", values="note")
    values = cells.pivot(index="row", columns="column", values="value").loc[cells.row.unique()]
    names = values.index.str.rsplit(paper.SEPARATOR, n=2, expand=True)
    table = pd.DataFrame({"member": names.get_level_values(-2), "example": names.get_level_values(-1)})
    for side in ("with T", "without T"):
        table[side] = notes.loc[values.index, side].to_numpy()
    return table.assign(same=values["same subject"].to_numpy() == 1)
