"""Tables as a page shows them: one function a table, and `show`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from tuningvec.family.spec import GGUF, Family, Hub
from tuningvec.measures.scores import PERCENT, in_percent, task_name
from tuningvec.page.text import formatted, number, quoted
from tuningvec.paper import printed as paper
from tuningvec.stats import wilson
from tuningvec.weights.components import KINDS, MATRICES, SYMBOLS

LONGEST_IN_ONE_LINE = 45  # characters of a cell; tables without longer ones scroll and do not wrap
MATH = SYMBOLS | {  # names that mean one thing in every table, as in the book's table of symbols
    "E_par": r"$E_\parallel$", "E_perp": r"$E_\perp$", "epsilon": r"$\varepsilon$", "d_out": r"$d_\text{out}$",
    "d_in": r"$d_\text{in}$", "k": "$k$", "r": "$r$", "z": "$z$", "SSA_V": r"$\text{SSA}_V$",
    "SSA_UV": r"$\text{SSA}_{UV}$", "null_V": "null ($V$)", "null_UV": "null ($UV$)", "null_sd": "null sd",
    "naive": r"$1/\sqrt{N}$", "N": "$N$",
    "θ_ft − T": r"$\theta_\text{ft} - T$", "θ_pre + T": r"$\theta_\text{pre} + T$",
}  # fmt: skip


def show(
    table: pd.DataFrame, name: str, caption: str, digits: int = 3, metadata: Mapping[str, str] | None = None
) -> None:
    """Display a numbered table with so many significant digits; `metadata` is kept with the output.

    Columns named in MATH are shown as symbols, and so are the cells of a column `kind`.
    """
    text = table.copy()
    for column in text.select_dtypes("number"):
        whole = pd.api.types.is_integer_dtype(text[column])
        text[column] = [number(v, 0 if whole else digits) for v in text[column]]
    if "kind" in text:
        text["kind"] = text.kind.replace(SYMBOLS)
    text = text.rename(columns=MATH)
    right = ["right" if pd.api.types.is_numeric_dtype(t) else "left" for t in table.dtypes]
    body = text.to_markdown(index=False, disable_numparse=True, colalign=right)
    longest = text.map(str).map(len).max(axis=None)
    style = ":class: compact\n" if longest <= LONGEST_IN_ONE_LINE else ""
    display(Markdown(f":::{{table}} {caption}\n:name: {name}\n{style}\n{body}\n:::"), metadata=metadata)


def measured(table: pd.DataFrame) -> None:
    """Display when, on what machine, with which versions and from which weights a stored table was measured,
    and which benchmarks were left out since a member cannot read them."""
    times: dict[str, list[str]] = {}
    weights: dict[str, Any] = {}
    for run in table.attrs["runs"]:
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        where = ", ".join(filter(None, [run["machine"], run["device"], versions]))
        times.setdefault(where, []).append(run["measured"][:16].replace("T", " "))
        weights |= run["inputs"]["weights"]
    lines = [f"- {' to '.join(dict.fromkeys([min(when), max(when)]))}, {where}" for where, when in times.items()]
    sums = [
        f"- {label or 'pretrained'}: " + " ".join(f"{formatted(c, '+g')} `{_short(identity)}`" for identity, c in terms)
        for label, terms in weights.items()
    ]
    said = ["Measured (UTC)", "", *lines, "", "from weights with these checksums", "", *sums]
    unread = {
        f"- {task_name(v['task'])}: {v['member']} cannot read {v['reason']}" for v in table.attrs.get("left_out", [])
    }
    said += ["", "**Benchmarks left out**", "", *sorted(unread)] if unread else []
    display(Markdown("\n".join(said)))


def _short(identity: str) -> str:
    """The first of a checksum; a random summand's name is kept whole."""
    return identity if "(" in identity else identity[:12]


def beside_paper(ours: pd.DataFrame, value: str, paper: pd.DataFrame) -> pd.DataFrame:
    """Rows of our vectors (mean `value` by kind) above the paper's rows of the same table."""
    own = ours.pivot(index="vector", columns="kind", values=value).loc[ours.vector.unique(), list(paper.columns)]
    both = pd.concat({"here": own, "paper": paper}, names=["source", "T"])
    return both.reset_index()


def read(corpus: pd.DataFrame) -> pd.DataFrame:
    """What a corpus gave each member, with a note where it was shorter than its budget."""
    short = [
        f"{n:,} of {asked:,} tokens" if n < asked else "" for n, asked in zip(corpus.tokens, corpus.asked, strict=True)
    ]
    table = corpus.drop(columns=["asked", "digest"])
    return table.assign(shorter=short).rename(columns={"shorter": "shorter than asked"}) if any(short) else table


def trends(table: pd.DataFrame) -> pd.DataFrame:
    """Share of active neurons through the layers, by member."""
    step, rho = (_changes(table, name, f"{name}_low", f"{name}_high", decimals=3) for name in ("step", "rho"))
    return table[["member", "first", "second", "last"]].assign(**{"first step": step, "ρ": rho})


def distances(table: pd.DataFrame) -> pd.DataFrame:
    """Distances averaged over layers, by criterion and member: on all text, and on half of it with null and floor."""
    means = table.drop(columns="layer").groupby(["criterion", "member"], sort=False).mean().reset_index()
    means = means.sort_values("criterion", ascending=False, kind="stable")
    for name, label in (("edit", "edit"), ("hamming", "Hamming")):
        for ends, kind in ((("", "_shuffled"), "all text"), (("_half", "_rotated", "_floor"), "half")):
            values = means[[f"{name}{end}" for end in ends]].to_numpy()
            means[f"{label}, {kind}"] = [" / ".join(f"{value:.3f}" for value in row) for row in values]
    return means[["criterion", "member", *means.columns[-4:]]]


def ablation(effects: pd.DataFrame) -> pd.DataFrame:
    """Changes with their intervals, of the top neurons and of as many at random, by task, member and share."""
    rows = effects[effects.ablated != "nothing"]
    text = _changes(rows, "change", "change_low", "change_high")
    index = ["task", "member", "share"]
    wide = rows.assign(text=text).pivot(index=index, columns="ablated", values="text")
    wide = wide.loc[
        list(dict.fromkeys(rows[index].itertuples(index=False, name=None))), ["top", "random"]
    ].reset_index()
    return wide.assign(share=wide.share.map(in_percent), task=wide.task.map(task_name))


def falls(effects: pd.DataFrame) -> list[str]:
    """ΔP of the benchmarks without the top neurons, the range over members and tasks, by share."""
    rows = effects[(effects.ablated == "top") & (effects.unit == PERCENT) & effects.change.notna()]
    return [f"{in_percent(share)}: {formatted(part.change, '.0f')} %" for share, part in rows.groupby("share")]


def whole(effects: pd.DataFrame) -> pd.DataFrame:
    """Scores of the members before anything is ablated."""
    rows = effects[effects.ablated == "nothing"]
    text = [f"{r.score:.3f} ({r.low:.3f}, {r.high:.3f})" for r in rows.itertuples()]
    wide = rows.assign(text=text).pivot(index="member", columns="task", values="text")
    return wide.loc[rows.member.unique(), rows.task.unique()].rename(columns=task_name).reset_index()


def _changes(rows: pd.DataFrame, value: str, low: str, high: str, decimals: int | None = None) -> list[str]:
    """`value (low, high)`, each with its sign, and with two decimals (one from 10 on) unless told."""

    def text(x: float) -> str:
        return formatted(x, f"+.{decimals or (1 if abs(x) >= 10 else 2)}f") if x else "0"

    values = rows[[value, low, high]].to_numpy(float)
    return ["–" if np.isnan(a) else f"{text(a)} ({text(b)}, {text(c)})" for a, b, c in values]


def knowledge(table: pd.DataFrame) -> pd.DataFrame:
    """How clean and corrupt prompts differ, by kind of pair and member."""
    text = _changes(table, "difference", "low", "high")
    shown = table.assign(difference=text, above=[f"{a} of {n}" for a, n in zip(table.above, table.pairs, strict=True)])
    kinds = list(dict.fromkeys(table.kind))
    shown = shown.sort_values("kind", key=lambda c: c.map(kinds.index), kind="stable")
    shown = shown[["kind", "member", "clean", "corrupt", "difference", "above"]]
    return shown.rename(columns={"difference": "clean − corrupt", "above": "clean above"})


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How both kinds of attribution agree with exact patching, by kind of pair and site: the range over members."""
    long = table.melt(["kind", "site", "method"], ["pearson", "spearman"], "correlation", "value")
    ranges = long.groupby(["kind", "site", "correlation", "method"], sort=False).value.agg(
        lambda v: formatted(v, ".2f")
    )
    wide = ranges.unstack(["correlation", "method"])
    wide.columns = [f"{correlation}, {method}" for correlation, method in wide.columns]
    order = list(dict.fromkeys(table[["kind", "site"]].itertuples(index=False, name=None)))
    return wide.loc[order].reset_index()


def regions(table: pd.DataFrame) -> pd.DataFrame:
    """How each member's maps agree with the pretrained one's, and what stands beside it, where there is a map."""
    known = table[table.left_out == ""]
    text = _changes(known, "corrected", "low", "high", decimals=2)
    shown = known.assign(corrected=text)[["kind", "site", "member", "agreement", "halves", "own", "corrected", "null"]]
    shown = shown.sort_values("kind", key=lambda c: c.map(list(dict.fromkeys(known.kind)).index), kind="stable")
    return shown.rename(columns={"halves": "pretrained's halves", "own": "its own halves", "null": "shuffled"})


def members(family: Family) -> pd.DataFrame:
    """Members with role, domain, source and licence."""
    rows = [
        {
            "member": member.name,
            "model": member.label,
            "role": getattr(member, "role", "pretrained"),
            "domain": getattr(member, "domain", "–"),
            "weights": f"{member.source.kind}: {_origin(member.source)}",
            "licence": member.license,
        }
        for member in family.members
    ]
    return pd.DataFrame(rows)


def _origin(source: Any) -> str:
    if isinstance(source, GGUF):
        return f"`{source.package}` {source.version}" if source.package else f"`{source.file}`"
    return f"`{source.repo}` at `{source.revision[:10]}`" if isinstance(source, Hub) else f"`{source.path}`"


EXAMS_CAPTION = (
    "Held-out exams before and after fine-tuning, greedy decoding, as the recipe recorded them: answers that are right "
    "(with Wilson's 95 % interval), end in a valid `Answer: [X]`, hold a thought, and end by themselves."
)


def exams(reports: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Held-out exams of each member, before and after, from its training report."""
    rows = []
    for member, report in reports.items():
        for when in ("before", "after"):
            if counts := report.get(when):
                low, high = wilson(counts["right"], counts["n"])
                row = {"member": member, "when": when, "right": f"{counts['right']} of {counts['n']}"}
                row["share"] = f"{counts['right'] / counts['n']:.2f} ({low:.2f}, {high:.2f})"
                rows.append(row | {what: counts[what] for what in ("valid", "thought", "stopped")})
    return pd.DataFrame(rows)


def similarity_beside_paper(similarity: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Whole-model cosine and r of each member, above the paper's cosines with the r of an orthogonal move."""
    whole = similarity[similarity.kind == "all"]
    own = pd.DataFrame({"source": "here", "model": whole.vector, "cosine": whole.cosine, "r": whole.r})
    cosine = paper.value / 100
    model = paper.column + " (" + paper.row + ")"
    printed = pd.DataFrame({"source": "paper", "model": model, "cosine": cosine, "r": (cosine**-2 - 1) ** 0.5})
    return pd.concat([own, printed], ignore_index=True)


def similarity_by_component(similarity: pd.DataFrame) -> pd.DataFrame:
    """r of each tuning vector by component; a dash where it changes nothing."""
    wide = similarity.pivot(index="vector", columns="kind", values="r")
    kinds = [k for k in ("all", *KINDS) if k in wide]
    return wide.loc[similarity.vector.unique(), kinds].reset_index()


def cosines(table: pd.DataFrame, parameters: int) -> pd.DataFrame:
    """Whole-model cosines with the null's standard deviation, z, the naive 1/√N and the most that factors allow."""
    whole = table[table.kind == "all"]
    return whole[["a", "b", "cosine", "null_sd", "z"]].assign(**{"naive": parameters**-0.5, "at most": whole.ceiling})


def alignment(means: pd.DataFrame) -> pd.DataFrame:
    """SSA with its null by vector and kind."""
    return means[["vector", "kind", "d_out", "d_in", "k", "SSA", "null", "excess", "z"]]


def by_epsilon(means: pd.DataFrame) -> pd.DataFrame:
    """SSA by ε, a row each vector and one for the null."""
    nulls = means.drop_duplicates(["epsilon", "kind"]).assign(vector="null", SSA=lambda t: t.null)
    order = [*means.vector.unique(), "null"]
    wide = pd.concat([means, nulls]).pivot(index=["epsilon", "vector"], columns="kind", values="SSA")
    index = pd.MultiIndex.from_product([means.epsilon.unique(), order], names=["epsilon", "vector"])
    return wide.loc[index, list(MATRICES)].reset_index().assign(epsilon=lambda t: t.epsilon.map("{:g}".format))


def sides(means: pd.DataFrame) -> pd.DataFrame:
    """Right-sided and two-sided alignment with their nulls."""
    return means[["vector", "kind", "SSA_V", "null_V", "SSA_UV", "null_UV"]]


AUDIT = {
    "step": "last digit", "bound": "$d_\\text{in}/d_\\text{out}$", "sd": "sd of null", "z": "sd above",
    "unfitted": "by the bound", "factor": "by gate and up, or not", "tall": "bound within gate and up",
    "gate_up": "$W_\\text{gate}$, $W_\\text{up}$",
    "shape": "most by shape", "rank_share": "$k$ / full rank", "r_low": "$r$ from", "r_high": "to",
    "r_summed": "$r$ if summed", "norm": r"$\lVert T\rVert$", "theta": r"$\lVert\theta_\text{pre}\rVert$",
    "smallest": "smallest that fits", "fitting": "how many fit", "of_valid": "right of valid", "p_min": "$p$ nested",
    "p_max": "$p$ disjoint", "p": "$p$ unpaired", "mean_relative": "mean of relative",
    "of_T": "$T$'s part", "rest": "the other part", "prompt_share": "its share",
    "share_of_averages": "of the averages",
}  # fmt: skip


def audit(rows: pd.DataFrame, *left_out: str) -> pd.DataFrame:
    """A table of the audit under its page's headers, yes or nothing for flags."""
    table = rows.drop(columns=list(left_out))
    flags = table.select_dtypes("bool").columns
    return table.assign(**{f: table[f].map({True: "yes", False: ""}) for f in flags}).rename(columns=AUDIT)


def readings(cells: pd.DataFrame) -> pd.DataFrame:
    """Table 4 above what Tables 5 and 6 give as squared norms and as norms."""
    names = {"SSA": "Table 4", "squared": "as squared norms", "norms": "as norms"}
    both = pd.concat({name: cells.pivot(index="vector", columns="kind", values=c) for c, name in names.items()})
    index = pd.MultiIndex.from_product([cells.vector.unique(), names.values()])
    return both.swaplevel().loc[index, list(MATRICES)].rename_axis(["vector", "reading"]).reset_index()


def misprints(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells of Table 6 that contradict Tables 4 and 5, with E⊥ = E∥ (1 − SSA) / SSA."""
    wrong = cells[cells.misprint]
    return wrong[["vector", "kind"]].assign(printed=wrong.E_perp, implied=wrong.implied)


def same_weights(rows: pd.DataFrame) -> pd.DataFrame:
    """Each pretrained value → its value as (−)T, with the difference in items where they are counted."""
    change = [
        f"{a:.2f} → {b:.2f}" + ("" if pd.isna(items) else f" ({_signed(items)})")
        for a, b, items in zip(rows.value_pre, rows.value, rows["items"], strict=True)
    ]
    names = dict(zip(("1", "2", "3"), ("1, 7", "2, 8", "3, 9"), strict=True))
    wide = rows.assign(change=change).pivot(index=["table", "column"], columns="family", values="change")
    order = rows.drop_duplicates(["table", "column"]).set_index(["table", "column"]).index
    wide = wide.loc[order, rows.family.unique()].reset_index()
    return wide.assign(table=wide.table.map(names)).rename(columns={"table": "tables", "column": "benchmark"})


def fall(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with T, of the pretrained model and without T, and the parts of the fall with their intervals."""
    parts = {part: _interval(rows, f"{part}_", f"{part}_points") for part in ("of_T", "rest")}
    values, shares = ["family", "n", "tuned", "pretrained", "without"], ["prompt_share", "share_of_averages"]
    return audit(rows[values].assign(**parts).join(rows[shares]))


def below_chance(rows: pd.DataFrame) -> pd.DataFrame:
    """Right answers on the nine benchmarks with four options, and those of valid outputs."""
    text = [f"{v.share:.3f} ({v.low:.3f}, {v.high:.3f})" for v in rows.itertuples()]
    table = rows[["family", "member", "right", "n"]].assign(share=text, valid=rows.valid, of_valid=rows.of_valid)
    return audit(table.assign(below=rows.below))


def sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Sizes of benchmarks that fit the printed values."""
    return audit(rows[["benchmark", "values", "n", "smallest", "fitting", "digits"]])


def averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Printed averages of accuracies with both means, and all that are not the mean of their row's rounded cells."""
    shown = rows[(rows.weighted.notna() | ~rows.equal) & ~rows.duplicated(["row", "printed"])]
    return shown[["table", "row", "printed", "mean", "weighted"]]


def survivors(rows: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each pair of rows go which way; in brackets those that differ whatever the pairing."""
    ways = {w: [f"{a} ({b})" for a, b in zip(rows[w], rows[f"{w}_survive"], strict=True)] for w in ("higher", "lower")}
    table = rows[["table", "family"]].assign(compared=_pair(rows), cells=rows["cells"], **ways)
    return table.assign(equal=rows.equal, depends=rows.depends, unpaired=rows.unpaired)


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences over all items of a table together."""
    table = rows[["table", "family"]].assign(compared=_pair(rows), n=rows.n, points=_interval(rows, "", "points"))
    p = {name: rows[name].map(lambda v: f"{v:.4f}" if v >= 1e-4 else "< 0.0001") for name in ("p", "p_min", "p_max")}
    return audit(table.assign(**p))


def average_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences of averages with their bootstrap intervals."""
    table = rows[["table", "family"]].assign(compared=_pair(rows), points=rows.points.map(_signed))
    return table.assign(**{name: _interval(rows, f"{name}_") for name in ("items", "nested", "both")})


def percentages(rows: pd.DataFrame) -> pd.DataFrame:
    """Percentages of the text and what the tables give for them."""
    return audit(rows.assign(agrees=rows.agrees.str.replace("_", " ")))


def benchmarks(
    found: pd.DataFrame, gaps: pd.DataFrame | None = None, means: Mapping[str, pd.DataFrame] | None = None
) -> pd.DataFrame:
    """Scores with their intervals, a row each `who`, a column a task, with n; marked where `gaps` compares them.

    `found` is of `scores.of_tasks`, `gaps` of `scores.differences`, `means`, further columns, of `scores.averages`.
    """
    marks = _marks(gaps[gaps.what == "score"], "task") if gaps is not None else {}
    cells = [_marked(_percent(row), marks.get((row.who, row.task))) for row in found.itertuples()]
    wide = found.assign(cell=cells).pivot(index="who", columns="task", values="cell")
    wide = wide.loc[found.who.unique(), found.task.unique()].fillna("–")
    n = found.groupby("task", sort=False).n.unique()
    wide.columns = [f"{task_name(task)} (n = {' or '.join(map(str, n[task]))})" for task in wide]
    for name, mean in (means or {}).items():
        wide[name] = pd.Series({row.who: _percent(row) for row in mean.itertuples()})
    return wide.fillna("–").rename_axis("model").reset_index()


def instructions(found: pd.DataFrame, gaps: pd.DataFrame | None = None) -> pd.DataFrame:
    """Shares of replies that keep each instruction, a row each `who`, with n; marked as in `benchmarks`."""
    if found.empty:
        return pd.DataFrame({"model": ["no benchmark here asks for an answer in a form"]})
    marks = _marks(gaps, "what") if gaps is not None else {}
    cells = [_marked(_percent(row), marks.get((row.who, row.instruction))) for row in found.itertuples()]
    wide = found.assign(cell=cells).pivot(index="who", columns="instruction", values="cell")
    wide = wide.loc[found.who.unique(), found.instruction.unique()]
    wide.insert(0, "n", found.groupby("who").n.first())
    return wide.rename(columns=lambda name: name.replace("_", ", ")).rename_axis("model").reset_index()


def effects(gaps: pd.DataFrame, whats: Sequence[str]) -> pd.DataFrame:
    """Differences in points, a row each member, task and `compared`, a column each of `whats`; marked as above."""
    gaps = gaps[gaps.what.isin(whats)]
    if gaps.empty:
        return pd.DataFrame({"member": ["prompted in plain text alone"]})
    cells = [
        _marked(text, (row.points, row.clear))
        for text, row in zip(_changes(gaps, "points", "low", "high", decimals=1), gaps.itertuples(), strict=True)
    ]
    index = ["member", "task", "n", "compared"]
    wide = gaps.assign(cell=cells).pivot(index=index, columns="what", values="cell")
    order = list(dict.fromkeys(gaps[index].itertuples(index=False, name=None)))
    wide = wide.loc[order, gaps.what.unique()].fillna("–").reset_index()
    return wide.assign(task=wide.task.map(task_name)).rename(columns=lambda name: name.replace("_", ", "))


def _marks(gaps: pd.DataFrame, column: str) -> dict[tuple[str, str], tuple[float, bool]]:
    return {(row["who"], row[column]): (row["points"], row["clear"]) for row in gaps.to_dict("records")}


def _marked(text: str, change: tuple[float, bool] | None) -> str:
    """With ▲ or ▼ and a shade where a change is beyond chance, with △ or ▽ where it is not."""
    if change is None or change[0] == 0:
        return text
    points, clear = change
    if not clear:
        return f"{'△' if points > 0 else '▽'} {text}"
    return f"[▲ {text}]{{.better}}" if points > 0 else f"[▼ {text}]{{.worse}}"


def _percent(row: Any) -> str:
    return f"{row.score:.1f} ({row.low:.0f}, {row.high:.0f})"


def replies(
    items: pd.DataFrame, benchmarks: Mapping[str, Mapping[str, Any]], whos: Mapping[str, str], longest: int
) -> pd.DataFrame:
    """What each `who`, {column: who}, replied to the first item of each task of a domain, cut after `longest`."""
    tasks = {name: task for some in benchmarks.values() for name, task in some.items()}
    rows = []
    for name, part in items[items["item"] == items["item"].min()].groupby("task", sort=False):
        asked = tasks[name].eval_docs[int(part["item"].iloc[0])]
        question = asked.get("question") or str(tasks[name].doc_to_text(asked))
        said = {column: quoted(part[part.who == who].reply.iloc[0], longest) for column, who in whos.items()}
        rows.append({"benchmark": task_name(name), "question": quoted(question, longest), **said})
    return pd.DataFrame(rows)


def printed(cells: pd.DataFrame) -> pd.DataFrame:
    """A table of the paper in its own shape, with the digits that it prints."""
    text = [f"{row.value:.{max(0, round(-math.log10(row.step)))}f}" for row in cells.itertuples()]
    wide = paper.wide(cells.assign(value=text))
    return wide.rename_axis("model").rename_axis(None, axis=1).reset_index()


def printed_averages(cells: pd.DataFrame) -> str:
    """The averages of a table of the paper with a row a model, in words."""
    rows = cells[cells.column == "Average"]
    each = ", ".join(f"{row.row.split(' · ')[-1]} {row.value:g}" for row in rows.itertuples())
    return f"Table {rows.table.iloc[0]}, average of {cells.column.nunique() - 1} benchmarks: {each}"


def data_sources(benchmarks: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Where the items of each benchmark come from, {domain: {task: lm-eval's task}}."""
    rows = []
    for domain, some in benchmarks.items():
        for name, task in some.items():
            source = (task.config.dataset_kwargs or {}).get("source", {})
            where = f"`data/tasks/{source['file']}`" if "file" in source else f"`{source.get('path', '')}`"
            commit = source.get("revision", "")[:10]
            rows.append(
                {
                    "domain": domain,
                    "benchmark": task_name(name),
                    "items": len(task.eval_docs),
                    "from": where + (f" at `{commit}`" if commit else ""),
                    "worked examples": task.config.num_fewshot,
                }
            )
    return pd.DataFrame(rows)


def _pair(rows: pd.DataFrame) -> pd.Series:
    return rows["first"] + " − " + rows.second


def _interval(rows: pd.DataFrame, prefix: str, value: str | None = None) -> list[str]:
    """`value (low, high)` with one decimal, or the interval alone; a dash where it is not known."""
    limits = rows[[f"{prefix}low", f"{prefix}high"]].map(formatted, form=".1f").to_numpy()
    starts = [f"{_signed(v)} " for v in rows[value]] if value else [""] * len(rows)
    return [low if low == "–" else f"{start}({low}, {high})" for start, (low, high) in zip(starts, limits, strict=True)]


def _signed(value: float | np.number) -> str:
    """With a sign: an integer whole, another number with one decimal."""
    return formatted(value, "+.0f" if float(value).is_integer() else "+.1f") if value else "0"
