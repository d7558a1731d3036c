"""What was measured on published models and benchmarks (`data/published/`), beside what the paper's tables give."""

import numpy as np
import pandas as pd
from scipy.stats import norm

from tuningvec.data import data_folder
from tuningvec.paper import audit
from tuningvec.paper import printed as paper
from tuningvec.verdict import Verdict, judge
from tuningvec.weights.components import SYMBOLS

TRAINING = {  # how the second model of a pair was made from the first
    "reinforced": "reinforcement", "preference": "preference tuning", "supervised": "supervised fine-tuning",
    "several": "several of these", "distilled": "distillation", "continued": "continued pretraining",
    "upgrade": "version upgrade",
}  # fmt: skip
KINDS = {  # ends of tensor names in the sources, by kind of matrix
    "q_proj": "W_Q", "k_proj": "W_K", "v_proj": "W_V", "o_proj": "W_O", "gate_proj": "W_gate", "up_proj": "W_up",
    "down_proj": "W_down",
}  # fmt: skip
IN_A_BLOCK, NO_MATRIX = r"\.(?:layers|h)\.\d+\..*\.weight$", "norm|ln_|visual|conv1d"
STEP_R, STEP_COSINE = 1e-4, 1e-5  # last digits
USABLE, LARGEST = 0.1, 2**24  # from what r, and up to how many entries, a cosine summed in float32 is near enough
BIAS = 0.015  # by how much of itself a cosine of a large matrix was seen to be too high, in matrices of gate's shape
SETS = {f"ACI {i}": f"tuningvec_aci{i}" for i in (1, 2, 3)}  # columns of Table 8, by task
NEIGHBOURS = {  # the paper's T, whose fine-tuned model is the third: others measured the two steps that lead there
    "Q Code": ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-Coder-7B-Instruct"),
    "Q Math": ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B-Instruct"),
}


def weight_differences() -> pd.DataFrame:
    """A row a tensor: the pair, tensor, parameters, r = ‖T‖/‖W‖, cosine, training, and `contradictions`.

    `matrix` says that it is one of a block's, `kind` which, where it lies in a tensor of its own; `parent` that the
    second model was made from the first, and not from a near relation of it.
    """
    folder = data_folder() / "published"
    table = pd.read_csv(folder / "weight_differences.csv.gz").drop(columns="effective_rank")
    table["matrix"] = table.tensor.str.contains(IN_A_BLOCK) & ~table.tensor.str.contains(NO_MATRIX)
    table["kind"] = table.tensor.str.extract(r"(\w+)\.weight$")[0].map(KINDS)
    pairs = pd.read_csv(folder / "pairs.csv", true_values=["yes"], false_values=["no"])
    return contradictions(table.merge(pairs, how="left", on=["pretrained", "fine_tuned"]))


def contradictions(table: pd.DataFrame) -> pd.DataFrame:
    """The table with two flags for a cosine c of W and W + T that goes ill with r, by more than both last digits.

    `impossible`: c < √(1 − r²), the smallest that r < 1 allows; `near`: 1 − c is less than half of what a T orthogonal
    to W would give, 1 − 1/√(1 + r²).
    """
    least = (1 - (table.r + STEP_R / 2) ** 2).clip(lower=0) ** 0.5
    orthogonal = 1 - (1 + (table.r - STEP_R / 2).clip(lower=0) ** 2) ** -0.5
    return table.assign(
        impossible=(table.r < 1) & (table.cosine + STEP_COSINE / 2 < least),
        near=1 - table.cosine + STEP_COSINE / 2 < orthogonal / 2,
    )


def usable(tensors: pd.DataFrame) -> pd.DataFrame:
    """The matrices whose cosine tells something: not too large, and moved far enough; from `weight_differences`."""
    return tensors[tensors.matrix & (tensors.r >= USABLE) & (tensors.parameters < LARGEST)]


def along_W(r: pd.Series, cosine: pd.Series) -> pd.Series:
    """cos(T, W) = (c² − 1 + c √(r² − 1 + c²)) / r from r = ‖T‖/‖W‖ and the cosine c of W and W + T.

    NaN where r < 1, for there two T have the same r and c.
    """
    root = (r**2 - 1 + cosine**2).where(r >= 1) ** 0.5
    return (cosine**2 - 1 + cosine * root) / r


def by_pair(table: pd.DataFrame) -> pd.DataFrame:
    """Each pair's r over all matrices as if W had one size of entries in all, √(Σ p r² / Σ p), and its range."""
    matrices = table[table.matrix].assign(squares=lambda t: t.parameters * t.r**2)
    keys = ["training", "pretrained", "fine_tuned", "parent"]
    groups = matrices.groupby(keys)
    found = groups.agg(matrices=("r", "size"), smallest=("r", "min"), largest=("r", "max"))
    found.insert(1, "r", (groups.squares.sum() / groups.parameters.sum()) ** 0.5)
    found = found.reset_index()
    return found.sort_values(["training", "r"], key=_in_order, ignore_index=True)


def by_size(table: pd.DataFrame) -> pd.DataFrame:
    """How many matrices that moved, r from USABLE to .5, have a cosine that goes ill with r, by size.

    Columns entries (up to so many), matrices, impossible and near, of those in percent.
    """
    moved = table[table.matrix & table.r.between(USABLE, 0.5)]
    upto = 2 ** np.ceil(np.log2(moved.parameters)).astype(int)
    groups = moved.groupby(upto.rename("entries"))
    return (100 * groups[["impossible", "near"]].mean()).assign(matrices=groups.size()).reset_index()


def by_training(table: pd.DataFrame) -> pd.DataFrame:
    """Median over pairs of the mean r of each kind of matrix, by training; pairs whose matrices have these names."""
    means = table.groupby(["training", "pretrained", "fine_tuned", "kind"]).r.mean().unstack("kind").dropna()
    found = means.groupby("training").median()[list(KINDS.values())]
    found.insert(0, "pairs", means.groupby("training").size())
    found = found.reset_index().sort_values("training", key=_in_order, ignore_index=True)
    return found.assign(training=found.training.map(TRAINING))


def _in_order(column: pd.Series) -> pd.Series:
    return column.map(list(TRAINING).index) if column.name == "training" else column


def beside_lengths(pairs: pd.DataFrame) -> pd.DataFrame:
    """r of the paper's T of code and maths by its own tables (`audit.lengths`), and of its neighbour as measured.

    `step` is the most that the neighbour's distance from the paper's model, r_step ‖W + T‖, is of ‖T‖ if T has no part
    along W.
    """
    inferred = audit.lengths().set_index("vector")
    known = pairs.set_index(["pretrained", "fine_tuned"]).r
    rows = []
    for vector, (first, middle, last) in NEIGHBOURS.items():
        r, own = known[first, middle], inferred.loc[vector]
        step = known[middle, last] * (1 + r**2) ** 0.5 / r
        row = dict(vector=vector, inferred=own.r, low=own.r_low, high=own.r_high, neighbour=middle, measured=r)
        rows.append(row | dict(step=step))
    return pd.DataFrame(rows)


def minus_W(table: pd.DataFrame, shapes: pd.DataFrame | None = None) -> pd.DataFrame:
    """What a multiple of W in the T of code and maths gives SSA in gate and up, beside that of `shapes`, Table 4's.

    Of each layer, with x = cos(T, W) of the neighbour (`along_W`), SSA is at most x² + (1 − x²) d_in/d_out if the rest
    of T knows nothing of W. The step from there to the paper's own model can turn T by arcsin(a) at most, with a its
    length over that of T, which gives the range; its upper end allows for a cosine too high by BIAS. `left` is what SSA
    has above that, of the room above it; `share_Q` the mean x² of W_Q, small enough for its cosine to be trusted.
    """
    tensors = table.set_index(["pretrained", "fine_tuned", "tensor"]).sort_index()
    cells = (audit.shape_bound() if shapes is None else shapes).set_index(["vector", "kind"])
    rows = []
    for vector, (first, middle, last) in NEIGHBOURS.items():
        layers = tensors.loc[first, middle].assign(step=tensors.loc[middle, last].r)
        query = layers[layers.kind == "W_Q"]
        share_Q = float((along_W(query.r, query.cosine) ** 2).mean())
        for kind in ("W_gate", "W_up"):
            part, cell = layers[layers.kind == kind], cells.loc[(vector, kind)]
            x = along_W(part.r, part.cosine)
            length = (1 + 2 * part.r * x + part.r**2) ** 0.5  # of the neighbour, in that of W
            turn, angle = np.arcsin((part.step * length / part.r).clip(upper=1)), np.arccos(-x)
            biased = np.arccos(-along_W(part.r, part.cosine * (1 - BIAS)))
            ends = angle + turn, angle, np.minimum(angle, biased) - turn
            shares = [np.cos(end.clip(0, np.pi / 2)) ** 2 for end in ends]
            low, predicted, high = (float((s + (1 - s) * cell.bound).mean()) for s in shares)
            row = dict(
                vector=vector, kind=kind, cos_W=x.mean(), share=shares[1].mean(), share_Q=share_Q, bound=cell.bound
            )
            row |= dict(predicted=predicted, low=low, high=high, SSA=cell.SSA, step=cell.step)
            rows.append(row | dict(left=(cell.SSA - predicted) / (1 - predicted)))
    return pd.DataFrame(rows)


def is_minus_W(cells: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether a multiple of W accounts for the excess of code and maths in gate and up; from `minus_W`."""
    ends = {
        "low": (cells.SSA - cells.step / 2 - cells.high) / (1 - cells.high),
        "high": (cells.SSA + cells.step / 2 - cells.low) / (1 - cells.low),
    }
    cases = cells[["vector", "share", "predicted"]].assign(kind=cells.kind.map(SYMBOLS), effect=cells.left, **ends)
    rule = (
        "Effect: how far SSA is above what a $T$ with this multiple of $W$ and nothing else of it has at most, as a "
        "share of the room above that. Interval: rounding, all that the step from the measured model to the "
        f"paper's can turn, and cosines {BIAS:.1%} too high, as float32 sums of this size were. Smallest effect that "
        f"matters: {least}. No direction: the statement is that none is left."
    )
    bound = cells.bound
    explained = (cells.predicted - bound) / (cells.SSA - bound)
    return judge(cases, rule, least=least, direction=0, share=cells.share, predicted=cells.predicted, part=explained)


def lengths_agree(rows: pd.DataFrame, least: float = 1.25) -> Verdict:
    """Whether the lengths that the paper's tables give are those of the models that others measured."""
    ends = {"effect": rows.inferred, "low": rows.low * (1 - rows.step), "high": rows.high * (1 + rows.step)}
    ratios = {name: value / rows.measured for name, value in ends.items()}
    cases = rows[["vector", "neighbour", "measured"]].assign(
        ratio=ratios["effect"], low_ratio=ratios["low"], high_ratio=ratios["high"],
        **{name: np.log(ratio) for name, ratio in ratios.items()},
    )  # fmt: skip
    rule = (
        "Effect: $r$ by the paper's Tables 5, 6 and 15 over that measured on its neighbour, on a logarithmic scale. "
        "Interval: rounding, and the neighbour's distance from the paper's model. Smallest ratio that matters: "
        f"{least:g}. No direction: the statement is that they agree."
    )
    off = bool(((cases.low > 0) | (cases.high < 0)).any())
    return judge(cases, rule, least=np.log(least), direction=0, falsified=off)


def fine_tunes_are_short(pairs: pd.DataFrame, least: float = 0.1) -> Verdict:
    """Whether fine-tuning, of any kind, moves weights by less than `least` of their length; from `by_pair`."""
    cases = pairs[pairs.parent & ~pairs.training.isin(["continued", "upgrade"])]
    cases = cases.assign(effect=cases.r, low=cases.r, high=cases.r, training=cases.training.map(TRAINING))
    others = pairs[pairs.training.isin(["continued", "upgrade"])].r
    rule = (
        "Effect: $r$ of each pair of a model and its fine-tune, all matrices together. Interval: none, as it was "
        f"measured. Smallest that matters: {least:g}, as in the audit. No direction: the claim is that the change is "
        "marginal."
    )
    met = bool((cases.effect > least).any())
    return judge(cases, rule, least=least, direction=0, falsified=met, others=others, r=cases.effect)


def notes_above_floor() -> pd.DataFrame:
    """Table 8 on ACI-Bench beside the floor of its sets: what another patient's note scores (`measures.floors`).

    `points` is the printed score less the floor; `low` and `high` allow for rounding and for the noise of both over the
    items, taken as independent and as large as the floor's.
    """
    floors = pd.read_csv(data_folder() / "published" / "rouge_floors.csv").set_index("task")
    cells = paper.measured(8)
    cells = cells[cells.column.isin(SETS)].reset_index(drop=True)
    own = floors.loc[cells.column.map(SETS)].reset_index(drop=True)
    points = 100 * (cells.value - own.another)
    half = 100 * (cells.step / 2 + norm.ppf(0.975) * (2 / own["items"]) ** 0.5 * own.another_sd)
    about = dict(floor=100 * own.another, example=100 * own.example, score=100 * cells.value)
    found = cells[["family", "member", "column"]].rename(columns={"column": "set"})
    return found.assign(**about, points=points, low=points - half, high=points + half)


def notes_are_read(cells: pd.DataFrame, least: float = 2.0) -> Verdict:
    """Whether the notes of Table 8 are nearer to their references than another patient's; from `notes_above_floor`."""
    cases = cells[["family", "member", "set", "low", "high"]].assign(effect=cells.points)
    rule = (
        "Effect: the printed ROUGE-1 less the mean score of the references of other items of the same set, in points. "
        "Interval: rounding, and 95 % for the noise of both over the set's items. Smallest that matters: "
        f"{least:g}. Direction: up."
    )
    numbers = dict(above=int((cells.points > 0).sum()), cells=len(cells), most=cells.points.max(), floor=cells.floor)
    return judge(cases, rule, least=least, unit="points", digits=0, **numbers)
