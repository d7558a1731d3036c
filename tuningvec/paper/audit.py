"""The paper's printed numbers against each other: one function a table of the audit. No model is read."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm

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

    As squared norms SSA = E∥ / (E∥ + E⊥), as norms E∥ / √(E∥² + E⊥²); implied E⊥ = E∥ (1 − SSA) / SSA. `step` is the
    sum of both energies' last digits.
    """
    tables = {"SSA": paper.alignment(), "E_par": paper.parallel_energy(), "E_perp": paper.orthogonal_energy()}
    known = pd.concat({name: t.set_index(["row", "column"])[["value", "step"]] for name, t in tables.items()}, axis=1)
    cells = known.xs("value", axis=1, level=1).assign(step=known["E_par", "step"] + known["E_perp", "step"])
    cells = cells.rename_axis(["vector", "kind"]).reset_index()
    cells["squared"] = cells.E_par / (cells.E_par + cells.E_perp)
    cells["norms"] = cells.E_par / np.hypot(cells.E_par, cells.E_perp)
    cells["implied"] = cells.E_par * (1 / cells.SSA - 1)
    cells["misprint"] = np.log(cells.E_perp / cells.implied).abs() > np.log(MISPRINT)
    return cells


def shape_bound() -> pd.DataFrame:
    """Table 4 beside the most that a random T's SSA can be in a matrix of that shape, min(1, d_in/d_out).

    `sd` is the most that the null's standard deviation can be for a mean over the N layers, if rotations of different
    layers are independent: √(2k(d − k)/(d²(d + 2))/N) at the largest k and d = d_out, a T of rank one in each layer.
    `z` is how many of those SSA, less its rounding, is above the bound; `excess` is the least excess over the null. All
    three are defined for tall matrices alone.
    """
    printed = paper.alignment().rename(columns={"row": "vector", "column": "kind", "value": "SSA"})
    shapes = [
        (model["vector"], model["pretrained"], model["num_hidden_layers"], kind, *shape)
        for model in paper.architectures().to_dict("records")
        for kind, shape in matrix_shapes(model).items()
    ]
    shapes = pd.DataFrame(shapes, columns=["vector", "pretrained", "layers", "kind", "d_out", "d_in"])
    cells = shapes.merge(printed[["vector", "kind", "SSA", "step"]], on=["vector", "kind"])
    d, k = cells.d_out, np.minimum(cells.d_in, cells.d_out / 2)
    cells["bound"] = np.minimum(1, cells.d_in / d)
    cells["sd"] = (2 * k * (d - k) / (d**2 * (d + 2)) / cells.pop("layers")).where(cells.bound < 1) ** 0.5
    cells["z"] = (cells.SSA - cells.step / 2 - cells.bound) / cells.sd
    return cells.assign(excess=((cells.SSA - cells.bound) / (1 - cells.bound).where(cells.bound < 1)))


def variance_explained(cells: pd.DataFrame) -> pd.DataFrame:
    """How much of the variance of SSA the bound accounts for with nothing fitted, beside what any split would.

    `unfitted` is R² = 1 − Σ(SSA − bound)² / Σ(SSA − mean)², `factor` the R² of two fitted means, gate and up against
    the rest, which knows no shape, and `tall` that of the bound within gate and up, if there is more than one vector.
    """
    rows = []
    for vector, part in [("all", cells), *cells.groupby("vector", sort=False)]:
        tall = part[part.bound < 1]
        means = part.groupby(part.bound < 1).SSA.transform("mean")
        row = dict(
            vector=vector, cells=len(part), unfitted=_explained(part, part.bound), factor=_explained(part, means)
        )
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
    wide = cells.pivot(index="vector", columns="kind", values=["SSA", "bound"]).loc[cells.vector.unique()]
    ssa, bound = wide.SSA, wide.bound
    attention, mlp = list(ATTENTION), list(MATRICES[len(ATTENTION) :])
    table = pd.DataFrame({"attention": ssa[attention].mean(axis=1), "MLP": ssa[mlp].mean(axis=1)})
    table = table.assign(gate_up=ssa[["W_gate", "W_up"]].mean(axis=1), W_down=ssa.W_down)
    table["shape"] = bound[attention].mean(axis=1) - bound[mlp].mean(axis=1)
    return table.assign(rank_share=(table.attention - table.MLP) / table["shape"]).reset_index()


def same_weights() -> pd.DataFrame:
    """θ_ft − T = θ_pre twice: as (−)T in Tables 1 to 3 and as the pretrained model in Tables 7 to 9.

    `items` is how many more items the (−)T row has right; not known for ROUGE-1.
    """
    removed, others = (
        paper.by_member(pd.concat(map(paper.table, t), ignore_index=True)) for t in ((1, 2, 3), (7, 8, 9))
    )
    pretrained = _pretrained(others).assign(table=lambda t: t.table.map({"7": "1", "8": "2", "9": "3"}))
    removed = removed[removed.member.str.startswith(WITHOUT)]
    both = removed.merge(pretrained, on=["table", "family", "column"], suffixes=("", "_pre"))
    both["n"] = both.n.mask(both.unit != "%")
    both["right"], both["right_pre"] = counts(both), counts(both.assign(value=both.value_pre))
    both = both.assign(points=both.value - both.value_pre, items=both.right - both.right_pre)
    return both[["table", "family", "column", "n", "value_pre", "value", "points", "right_pre", "right", "items"]]


def parts_of_the_fall(level: float) -> pd.DataFrame:
    """Accuracy with T, of the pretrained model (Table 7) and without T (Table 1), and whose the fall between is.

    From the pretrained model on, the weights are the same: that part of the fall is prompting or scoring,
    `prompt_share` of all. `effect` is T's part less the prompt's in points over all items, with a normal interval as if
    each of the three had items of its own; `share_of_averages` is the share in the mean over benchmarks.
    """
    tuned, pretrained = paper.measured(1), _pretrained(paper.measured(7))
    without = tuned.member.str.startswith(WITHOUT)
    sides = {"tuned": tuned[~without], "pretrained": pretrained, "without": tuned[without]}
    cells = pd.concat(sides, names=["side", None]).assign(right=counts).groupby(["family", "side"], sort=False)
    sums = cells[["right", "n"]].sum().astype(float).unstack()
    share = sums.right / sums.n
    variance = share * (1 - share) / sums.n
    table = (100 * share).assign(n=sums.n.tuned)
    table["prompt_share"] = (share.pretrained - share.without) / (share.tuned - share.without)
    table["share_of_averages"] = paper.prompted_share().set_index("family").share / 100
    table["effect"] = table.tuned + table.without - 2 * table.pretrained
    half = 100 * norm.ppf((1 + level) / 2) * (variance.tuned + variance.without + 4 * variance.pretrained) ** 0.5
    return table.assign(low=table.effect - half, high=table.effect + half).reset_index().rename_axis(columns=None)


def _pretrained(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of each family's first member."""
    return cells[cells.member == cells.groupby("family").member.transform("first")]


def counts(cells: pd.DataFrame) -> pd.Series:
    """The number of items behind each percentage; missing where n is not known."""
    return (cells.value * cells.n / 100).round().astype("Int64")


def sizes() -> pd.DataFrame:
    """For each benchmark, and for the outputs of Tables 3 and 9, the numbers of items that give every printed value."""
    rows = []
    for name, cells in [*paper.measured(1, 7, 13, 14).groupby("column", sort=False), (None, paper.measured(*CUT_OFF))]:
        n, cut_off = int(cells.n.iloc[0]), name is None
        fitting = fitting_sizes(cells, cut_off)
        row = {"benchmark": name or CUT_OFF_TABLES, "values": cells.value.nunique(), "n": n, "fits": n in fitting}
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
    tables = pd.concat(map(paper.table, (1, 2, 7, 8, 13, 14)))
    for (number, name), cells in tables.groupby(["table", "row"], sort=False):
        printed, parts = cells[cells.column == paper.AVERAGE].iloc[0], cells[cells.column != paper.AVERAGE]
        mean, known = parts.value.mean(), parts.n.notna().all()
        weighted = np.average(parts.value, weights=parts.n.astype(float)) if known else np.nan
        row = {"table": number, "row": name, "printed": printed.value, "mean": mean, "weighted": weighted}
        rows.append(row | {"agrees": abs(mean - printed.value) <= printed.step / 2 + 1e-9})
    return pd.DataFrame(rows)


def comparisons(level: float, tables: Sequence[int] = (1, 3, 7, 9, 13, 14)) -> pd.DataFrame:
    """Every pair of rows of one family in these tables, benchmark by benchmark.

    `points` is the difference with Newcombe's interval and Fisher's p, as if each model had its own sample of items;
    p_min and p_max bound McNemar's p, since the items are the same and their pairing is not printed. `claimed` pairs
    are those with the family's first row, the others compare two fine-tuned models. No p is corrected yet.
    """
    return pd.DataFrame(
        names | {"column": a.column} | _compared(a.right, b.right, a.n, level)
        for names, first, second in _row_pairs(tables)
        for a, b in zip(first.itertuples(), second.itertuples(), strict=True)
    )


def pooled(level: float, tables: Sequence[int] = (1, 7, 13, 14)) -> pd.DataFrame:
    """The same for all items of a row's benchmarks together.

    `probability` is the posterior probability that the first row's model is the better one (Beta-binomial, Jeffreys).
    """
    pairs = _row_pairs(tables)
    table = pd.DataFrame(names | _compared(first.right, second.right, first.n, level) for names, first, second in pairs)
    better = [stats.probability_greater(v.right, v.n, v.right - v.items, v.n) for v in table.itertuples()]
    return table.assign(probability=better)


def _row_pairs(tables: Sequence[int]) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Pairs of rows of one family: the names of the table, the family and both rows, and their cells."""
    for number in tables:
        for family, part in paper.measured(number).assign(right=counts).groupby("family", sort=False):
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

    `outcome` is survives when p_max ≤ alpha, depends on the pairing when only p_min is, else within chance.
    """
    holm = rows.groupby(["table", "claimed"])[["p", "p_min", "p_max"]].transform(stats.holm)
    survive, depends, chance = OUTCOMES
    outcome = np.where(holm.p_max <= alpha, survive, np.where(holm.p_min <= alpha, depends, chance))
    return rows.assign(**holm, unpaired=holm.p <= alpha, outcome=outcome)


def survivors(cells: pd.DataFrame) -> pd.DataFrame:
    """How many comparisons of each pair of rows go which way, and how many of them survive."""
    keys = ["table", "family", "first", "second"]
    survives, depends, _ = (cells.outcome == outcome for outcome in OUTCOMES)
    up, down = cells["items"] > 0, cells["items"] < 0
    flags = cells[keys].assign(cells=1, higher=up, equal=~(up | down), lower=down, depends=depends)
    flags = flags.assign(higher_survive=survives & up, lower_survive=survives & down, unpaired=cells.unpaired)
    return flags.groupby(keys, sort=False).sum().reset_index()


def average_differences(level: float, seed: int, tables: Sequence[int] = (1, 7, 13, 14, 2, 8)) -> pd.DataFrame:
    """Differences of averages between the rows of a family, in points, with bootstrap intervals.

    items: as if other questions of the same benchmarks had been drawn, for each model its own; nested: the same for
    both, with the narrowest pairing, in which one model's right answers include the other's; both: as if other
    benchmarks had been drawn as well. For ROUGE-1, whose items are not printed, Student's t over its sets.
    """
    pairs = _row_pairs(tables)
    return pd.DataFrame(names | _averages_apart(first, second, level, seed) for names, first, second in pairs)


def _averages_apart(first: pd.DataFrame, second: pd.DataFrame, level: float, seed: int) -> dict[str, float]:
    """The difference of two rows' averages with its intervals."""
    if first.n.isna().any():
        gaps = 100 * (first.value.to_numpy() - second.value.to_numpy())  # ROUGE-1 in points, too
        low, high = map(float, stats.mean_interval(gaps, level))
        return {"points": gaps.mean(), "both_low": low, "both_high": high, "df": len(gaps) - 1}
    scores = [[_items(c, n) for c, n in zip(part.right, part.n, strict=True)] for part in (first, second)]
    drawn = {"items": dict(benchmarks=False), "nested": dict(benchmarks=False, paired=True), "both": {}}
    found = {name: stats.bootstrap_difference(*scores, seed=seed, level=level, **how) for name, how in drawn.items()}
    ends = {f"{name}_{end}": limit for name, both in found.items() for end, limit in both._asdict().items()}
    return {"points": first.value.mean() - second.value.mean()} | ends


def _items(count: np.integer, n: np.integer) -> np.ndarray:
    """One score for each item, 100 for a right one; right ones first, so that two models' are nested."""
    return np.repeat([100.0, 0.0], [count, n - count])


READINGS = {  # of a fall from the values a to the values b of two rows
    "relative": lambda a, b: 100 * (1 - b.mean() / a.mean()),
    "points": lambda a, b: a.mean() - b.mean(),
    "mean_relative": lambda a, b: 100 * (1 - b / a).mean(),
}
CLAIMED = {  # row and column of the text's number → table, row that is said to be better, row it is compared with
    **{
        (f"negation: fall of {what}", member): (number, member, WITHOUT + member)
        for number, what in enumerate(("accuracy", "ROUGE-1", "instruction following"), 1)
        for member in ("Aloe-Alpha", "Aloe-Beta")
    },
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
        values *= 100 if number == 2 else 1  # ROUGE-1 in points
        averages, parts = values.loc[values.index == paper.AVERAGE], values.drop(index=paper.AVERAGE, errors="ignore")
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
    keys = ["family", "member"]
    cells = paper.measured(7, 1, 13).query("column != 'BioRED'").drop_duplicates([*keys, "column"])
    table = cells.assign(right=counts).groupby(keys, sort=False)[["right", "n"]].sum().reset_index()
    valid = paper.measured(*CUT_OFF).query("column == 'Valid'").assign(valid=counts).drop_duplicates(keys)
    table = table.merge(valid[[*keys, "valid"]], how="left", on=keys)
    table["share"] = table.right / table.n
    totals = [(int(v.right), int(v.n)) for v in table.itertuples()]
    table[["low", "high"]] = [stats.exact(*total, level) for total in totals]
    p = [stats.below(*total, CHANCE) for total in totals]
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
    printed energies were sums over layers and not means. `rounding` is what the last digits leave open of the energy.
    """
    cells, models = energies(), paper.architectures().set_index("vector")
    energy = (cells.E_par + cells.E_perp.mask(cells.misprint, cells.implied)).groupby(cells.vector).sum()
    table = models[["pretrained"]].assign(energy=energy, norm=(models.num_hidden_layers * energy) ** 0.5)
    table["rounding"] = cells.step.groupby(cells.vector).sum() / 2
    known = cosines().drop(columns="pretrained").merge(table.reset_index(), left_on="member", right_on="vector")
    anchor = known.set_index("pretrained").loc[table.pretrained].set_axis(table.index)
    table["theta"] = anchor.norm / anchor.r
    for column in ("r", "r_low", "r_high"):
        table[column] = anchor[column] * table.norm / anchor.norm
    table["r_summed"] = table.r.where(table.index.isin(known.member), table.r / models.num_hidden_layers**0.5)
    return table.reset_index()


def output_pairs() -> pd.DataFrame:
    """The nine pairs of outputs of Tables 10 to 12: their subjects, and whether the two texts share it."""
    cells = pd.concat(map(paper.table, (10, 11, 12))).set_index(["row", "column"])
    rows = cells.index.unique("row")
    names = rows.str.rsplit(paper.SEPARATOR, n=2)
    notes, values = (cells[what].unstack().loc[rows] for what in ("note", "value"))
    sides = {side: notes[side].to_numpy() for side in ("with T", "without T")}
    same = (values["same subject"] == 1).to_numpy()
    return pd.DataFrame({"member": names.str[-2], "example": names.str[-1], **sides, "same": same})
