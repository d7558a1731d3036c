"""The paper's printed numbers against each other: one function a table of the audit. No model is read."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

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
# weights of the rows with T, pretrained and without
PARTS = {"of_T": (1, -1, 0), "rest": (0, 1, -1), "excess": (1, -2, 1), "fall": (1, 0, -1)}
OUTCOMES = ("survives", "depends on the pairing", "within chance")  # of a compared pair of cells
Printed = Callable[[int], pd.DataFrame]  # the cells of a table by its number, as the paper prints them or changed


def energies(table: Printed = paper.table) -> pd.DataFrame:
    """Table 4 beside what Tables 5 and 6 give in two readings, and the E⊥ that Tables 4 and 5 imply.

    As squared norms SSA = E∥ / (E∥ + E⊥), as norms E∥ / √(E∥² + E⊥²); implied E⊥ = E∥ (1 − SSA) / SSA. `step` is the
    sum of both energies' last digits.
    """
    tables = {"SSA": table(4), "E_par": table(5), "E_perp": table(6)}
    tables = {name: table.set_index(["row", "column"]) for name, table in tables.items()}
    cells = pd.concat({name: table.value for name, table in tables.items()}, axis=1)
    cells = cells.assign(step=tables["E_par"].step + tables["E_perp"].step).reset_index()
    cells = cells.rename(columns={"row": "vector", "column": "kind"})
    cells["squared"] = cells.E_par / (cells.E_par + cells.E_perp)
    cells["norms"] = cells.E_par / np.hypot(cells.E_par, cells.E_perp)
    cells["implied"] = cells.E_par * (1 / cells.SSA - 1)
    cells["misprint"] = np.log(cells.E_perp / cells.implied).abs() > np.log(MISPRINT)
    return cells


def shape_bound(table: Printed = paper.table) -> pd.DataFrame:
    """Table 4 beside the most that a random T's SSA can be in a matrix of that shape, min(1, d_in/d_out).

    `sd` is the most that the null's standard deviation can be for a mean over the N layers, if rotations of different
    layers are independent: √(2k(d − k)/(d²(d + 2))/N) at the largest k and d = d_out, a T of rank one in each layer.
    `z` is how many of those SSA, less its rounding, is above the bound; `excess` is the least excess over the null. All
    three are defined for tall matrices alone.
    """
    ssa = table(4).set_index(["row", "column"])
    rows = []
    for model in paper.architectures().to_dict("records"):
        for kind, (d_out, d_in) in matrix_shapes(model).items():
            cell, k = ssa.loc[(model["vector"], kind)], min(d_in, d_out / 2)
            variance = 2 * k * (d_out - k) / (d_out**2 * (d_out + 2)) if d_in < d_out else np.nan
            row = {name: model[name] for name in ("vector", "pretrained")} | dict(kind=kind, d_out=d_out, d_in=d_in)
            row |= dict(SSA=cell.value, step=cell.step, bound=min(1, d_in / d_out), layers=model["num_hidden_layers"])
            rows.append(row | {"sd": (variance / model["num_hidden_layers"]) ** 0.5})
    cells = pd.DataFrame(rows)
    tall = cells.bound < 1
    cells["z"] = (cells.SSA - cells.step / 2 - cells.bound) / cells.sd
    return cells.assign(excess=((cells.SSA - cells.bound) / (1 - cells.bound).where(tall)))


def variance_explained(cells: pd.DataFrame) -> pd.DataFrame:
    """How much of the variance of SSA the bound accounts for with nothing fitted, beside what any split would.

    `unfitted` is R² = 1 − Σ(SSA − bound)² / Σ(SSA − mean)², `factor` the R² of two fitted means, gate and up against
    the rest, which knows no shape, and `tall` that of the bound within gate and up, if there is more than one vector.
    """
    parts = {"all": cells} | dict(list(cells.groupby("vector", sort=False)))
    rows = []
    for vector, part in parts.items():
        tall = part[part.bound < 1]
        factor = part.groupby(part.bound < 1).SSA.transform("mean")
        row = {"vector": vector, "cells": len(part), "unfitted": _explained(part, part.bound)}
        row |= {"factor": _explained(part, factor)}
        rows.append(row | {"tall": _explained(tall, tall.bound) if tall.vector.nunique() > 1 else np.nan})
    return pd.DataFrame(rows)


def _explained(cells: pd.DataFrame, predicted: pd.Series) -> float:
    total = ((cells.SSA - cells.SSA.mean()) ** 2).sum()
    return 1 - ((cells.SSA - predicted) ** 2).sum() / total if total > 0 else np.nan


def by_part(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean SSA of attention, of the MLP, its gate and up, and its down matrix, and what shape leaves to a random T.

    Where k is the same share f of the full rank everywhere, the null of attention less that of the MLP is f `shape`,
    with `shape` the difference of the bounds; `rank_share` is the f at which that is the difference of SSA.
    """
    ssa, bound = (cells.pivot(index="vector", columns="kind", values=v) for v in ("SSA", "bound"))
    ssa, bound = (t.loc[cells.vector.unique()] for t in (ssa, bound))
    attention, mlp = list(ATTENTION), list(MATRICES[len(ATTENTION) :])
    table = pd.DataFrame({"attention": ssa[attention].mean(axis=1), "MLP": ssa[mlp].mean(axis=1)})
    table = table.assign(gate_up=ssa[["W_gate", "W_up"]].mean(axis=1), W_down=ssa.W_down)
    table["shape"] = bound[attention].mean(axis=1) - bound[mlp].mean(axis=1)
    return table.assign(rank_share=(table.attention - table.MLP) / table["shape"]).reset_index()


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


def parts_of_the_fall(level: float) -> pd.DataFrame:
    """Right answers in percent with T, of the pretrained model (Table 7) and without T (Table 1), and the fall's parts.

    From the pretrained model on, the weights are the same: `rest` is prompting or scoring, `of_T` what lies above it,
    `excess` is of_T less rest. Each in points over all items, with the interval of the widest pairing of the items.
    `prompt_share` is the rest as a share of a fall that is clear whatever the pairing, `share_of_averages` that in the
    mean over benchmarks.
    """
    tuned, pretrained = paper.by_member(paper.negation_accuracy()), _pretrained(paper.by_member(paper.accuracy()))
    without = tuned.member.str.startswith(WITHOUT)
    sides = {"tuned": tuned[~without], "pretrained": pretrained, "without": tuned[without]}
    rows = []
    for family in tuned.family.unique():
        cells = [side[(side.family == family) & (side.column != paper.AVERAGE)] for side in sides.values()]
        n = int(cells[0].n.sum())
        row = {"family": family, "n": n, **{k: 100 * counts(c).sum() / n for k, c in zip(sides, cells, strict=True)}}
        for name, weights in PARTS.items():
            row |= {f"{name}_{key}": value for key, value in _widest(cells, weights, level)._asdict().items()}
        rows.append(row)
    table = pd.DataFrame(rows)
    table["prompt_share"] = table.rest_points / table.fall_points
    table["share_of_averages"] = paper.prompted_share().share / 100
    table.loc[table.fall_low <= 0, ["prompt_share", "share_of_averages"]] = np.nan
    return table


def _widest(rows: list[pd.DataFrame], weights: tuple[int, ...], level: float) -> stats.Difference:
    """A weighted sum of rows' accuracies when those of opposite signs are right on other items, as far as can be."""
    scores = [
        np.concatenate([_items(c, n)[:: 1 if w > 0 else -1] for c, n in zip(counts(cells), cells.n, strict=True)]) / 100
        for cells, w in zip(rows, weights, strict=True)
    ]
    return stats.paired_contrast(scores, np.array(weights), level)


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
        rows.append(row | {"digits": "cut off" if cut_off else "rounded", "rounded": len(fitting_sizes(cells, False))})
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
    """Each printed average, the plain mean of its row, and for accuracies the mean weighted by the number of items.

    `equal`: the mean of the cells as printed rounds to it; `agrees`: a mean within the rounding of the cells does.
    Accuracies are counts, whose mean is known.
    """
    rows = []
    for number in (1, 2, 7, 8, 13, 14):
        for name, cells in paper.table(number).groupby("row", sort=False):
            printed, parts = cells[cells.column == "Average"].iloc[0], cells[cells.column != "Average"]
            known = parts.n.notna().all()
            weighted = np.average(parts.value, weights=parts.n.astype(float)) if known else np.nan
            row = {"table": str(number), "row": name, "printed": printed.value, "mean": parts.value.mean()}
            away, open_ = abs(row["mean"] - row["printed"]) - printed.step / 2 - 1e-9, 0 if known else parts.step.mean()
            rows.append(row | {"weighted": weighted, "equal": away <= 0, "agrees": away <= open_ / 2})
    return pd.DataFrame(rows)


def comparisons(level: float, tables: Sequence[int] = (1, 3, 7, 9, 13, 14)) -> pd.DataFrame:
    """Every pair of rows of one family in these tables, benchmark by benchmark.

    `points` is the difference with Newcombe's interval and Fisher's p, as if each model had its own sample of items;
    p_min and p_max bound McNemar's p, since the items are the same and their pairing is not printed. `claimed` pairs
    are those with the family's first row, the others compare two fine-tuned models. No p is corrected yet.
    """
    rows = []
    for number in tables:
        for names, first, second in _row_pairs(number):
            for a, b in zip(first.itertuples(), second.itertuples(), strict=True):
                rows.append(names | {"column": a.column} | _compared(a.count_, b.count_, a.n, level))
    return pd.DataFrame(rows)


def pooled(level: float, tables: Sequence[int] = (1, 7, 13, 14)) -> pd.DataFrame:
    """The same for all items of a row's benchmarks together."""
    rows = []
    for number in tables:
        for names, first, second in _row_pairs(number):
            rows.append(names | _compared(first.count_, second.count_, first.n, level))
    return pd.DataFrame(rows)


def _row_pairs(number: int) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Pairs of rows of one family: the names of the table, the family and both rows, and their cells."""
    cells = paper.by_member(paper.table(number))
    cells = cells[cells.column != "Average"].assign(count_=counts)
    for family, part in cells.groupby("family", sort=False):
        rows = dict(list(part.groupby("member", sort=False)))
        for upper, lower in combinations(rows, 2):
            first, second = (upper, lower) if number in EARLIER_FIRST else (lower, upper)
            names = dict(table=str(number), family=family, first=first, second=second)
            yield names | {"claimed": upper == next(iter(rows))}, rows[first], rows[second]


def _compared(count_1: ArrayLike, count_2: ArrayLike, n: ArrayLike, level: float) -> dict[str, float]:
    """The difference of two models over all items of these benchmarks."""
    right_1, right_2, items = (int(np.sum(x)) for x in (count_1, count_2, n))
    p_min, p_max = stats.paired_p_bounds(count_1, count_2, n)
    found = stats.difference(right_1, items, right_2, items, level)
    return {"n": items, "right": right_1, "items": right_1 - right_2, **found._asdict(), "p_min": p_min, "p_max": p_max}


def corrected(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """These comparisons with Holm's p, within each table over the claimed pairs among them and over the others.

    `tests` is how many those are. `outcome` is survives when p_max ≤ alpha, depends on the pairing when only p_min is,
    else within chance.
    """
    families = rows.groupby(["table", "claimed"])
    holm = families[["p", "p_min", "p_max"]].transform(stats.holm).assign(tests=families.points.transform("size"))
    survive, depends, chance = OUTCOMES
    outcome = np.where(holm.p_max <= alpha, survive, np.where(holm.p_min <= alpha, depends, chance))
    return rows.assign(**holm, unpaired=holm.p <= alpha, outcome=outcome)


def survivors(cells: pd.DataFrame) -> pd.DataFrame:
    """How many comparisons of each pair of rows go which way, and how many of them survive."""
    keys = ["table", "family", "first", "second"]
    ways = {"higher": cells["items"] > 0, "equal": cells["items"] == 0, "lower": cells["items"] < 0}
    ways |= {f"{way}_survive": ways[way] & (cells.outcome == OUTCOMES[0]) for way in ("higher", "lower")}
    flags = cells[keys].assign(cells=1, **ways, depends=cells.outcome == OUTCOMES[1], unpaired=cells.unpaired)
    return flags.groupby(keys, sort=False).sum().reset_index()


def average_differences(level: float, seed: int, tables: Sequence[int] = (1, 7, 13, 14, 2, 8)) -> pd.DataFrame:
    """Differences of averages between the rows of a family, in points, with bootstrap intervals.

    items: as if other questions of the same benchmarks had been drawn, for each model its own; nested: the same for
    both, with the narrowest pairing, in which one model's right answers include the other's; both: as if other
    benchmarks had been drawn as well. For ROUGE-1, whose items are not printed, Student's t over its sets.
    """
    rows = []
    for number in tables:
        scale = 100 if number in (2, 8) else 1  # ROUGE-1 in points, too
        for names, first, second in _row_pairs(number):
            points = scale * (first.value.mean() - second.value.mean())
            rows.append(names | {"points": points} | _intervals(first, second, level, seed))
    return pd.DataFrame(rows)


def _intervals(first: pd.DataFrame, second: pd.DataFrame, level: float, seed: int) -> dict[str, float]:
    """Intervals of the difference of two rows' averages."""
    if first.n.isna().any():
        low, high = stats.mean_interval(100 * (first.value.to_numpy() - second.value.to_numpy()), level)
        return {"both_low": float(low), "both_high": float(high), "df": len(first) - 1}
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
    """Each percentage of the running text that a table could give, in three readings, and whether one agrees.

    The fall of the averages, relative and in points, and the mean over columns of the relative fall. A reading agrees
    when it rounds to the text's number somewhere within the rounding of its cells, or is within 2.5 of it where the
    text says approximately.
    """
    text = paper.text().set_index(["row", "column"])
    rows = []
    for claim, (number, first, second) in CLAIMED.items():
        cells = paper.by_member(paper.table(number)).query("column != @paper.AVERAGE").set_index("member")
        cells = cells[["value", "step"]] * (100 if number == 2 else 1)  # ROUGE-1 in points
        found = {name: _fall(read, cells.loc[first], cells.loc[second]) for name, read in READINGS.items()}
        printed = text.loc[claim]
        tolerance = 2.5 if "approximately" in printed.note else printed.step / 2
        agree = [k for k, (low, _, high) in found.items() if low - tolerance <= printed.value <= high + tolerance]
        found = {name: middle for name, (_, middle, _) in found.items()}
        row = {"number": claim[0], "of": claim[1], "table": str(number), "text": printed.value, **found}
        rows.append(row | {"agrees": ", ".join(agree)})
    return pd.DataFrame(rows)


def _fall(read: Callable[[np.ndarray, np.ndarray], float], first: pd.DataFrame, second: pd.DataFrame) -> list[float]:
    """A reading of the fall: the least within the rounding of the cells, as printed, and the most."""
    (a, a_step), (b, b_step) = (row[["value", "step"]].to_numpy().T for row in (first, second))
    return [float(read(a + sign * a_step / 2, b - sign * b_step / 2)) for sign in (-1, 0, 1)]


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


def cosines(table: Printed = paper.table) -> pd.DataFrame:
    """Table 15 as angles and as relative lengths r = ‖T‖/‖θ_pre‖ of a T orthogonal to θ_pre, within the rounding.

    tan(angle) = r. Any T with that cosine has r of at least sin(angle).
    """
    cells = table(15)
    low, cosine, high = ((cells.value + shift * cells.step / 2) / 100 for shift in (-1, 0, 1))
    found = {"pretrained": cells.row, "member": cells.column, "cosine": cosine, "angle": np.degrees(np.arccos(cosine))}
    found |= {name: np.sqrt(c**-2 - 1) for name, c in (("r", cosine), ("r_low", high), ("r_high", low))}
    return pd.DataFrame(found)


def lengths(table: Printed = paper.table) -> pd.DataFrame:
    """‖T‖ over the seven kinds and all layers from Tables 5 and 6, and its ratio r to ‖θ_pre‖.

    ‖T‖² = layers · Σ (E∥ + E⊥), with the implied E⊥ in misprinted cells (`printed`: without that). The medical T's
    cosine in Table 15 gives ‖θ_pre‖ = ‖T‖/r within its rounding, and that serves every T of the same pretrained model.
    `r_summed` is r if the printed energies were sums over layers and not means. `rounding` is what the last digits
    leave open of the energy.
    """
    cells, models = energies(table), paper.architectures().set_index("vector")
    energy = (cells.E_par + cells.E_perp.mask(cells.misprint, cells.implied)).groupby(cells.vector).sum()
    found = models[["pretrained"]].assign(energy=energy, norm=(models.num_hidden_layers * energy) ** 0.5)
    found["printed"] = (cells.E_par + cells.E_perp).groupby(cells.vector).sum()
    found["rounding"] = cells.step.groupby(cells.vector).sum() / 2
    known = cosines(table).drop(columns="pretrained").merge(found.reset_index(), left_on="member", right_on="vector")
    anchor = known.set_index("pretrained").loc[found.pretrained].set_axis(found.index)
    found["theta"] = anchor.norm / anchor.r
    for column in ("r", "r_low", "r_high"):
        found[column] = anchor[column] * found.norm / anchor.norm
    return found.assign(
        r_summed=found.r.where(found.index.isin(known.member), found.r / models.num_hidden_layers**0.5)
    ).reset_index()


def output_pairs() -> pd.DataFrame:
    """The nine pairs of outputs of Tables 10 to 12: their subjects, and whether the two texts share it.

    `copied`: the output without T is the prompt's worked example.
    """
    cells = pd.concat([paper.outputs_of_aloe_alpha(), paper.outputs_of_aloe_beta(), paper.outputs_of_mediphi()])
    notes = cells.pivot(index="row", columns="column", values="note")
    values = cells.pivot(index="row", columns="column", values="value").loc[cells.row.unique()]
    names = values.index.str.rsplit(paper.SEPARATOR, n=2, expand=True)
    table = pd.DataFrame({"member": names.get_level_values(-2), "example": names.get_level_values(-1)})
    for side in ("with T", "without T"):
        table[side] = notes.loc[values.index, side].to_numpy()
    copied = values["without T: worked example"].to_numpy() == 1
    return table.assign(same=values["same subject"].to_numpy() == 1, copied=copied)
