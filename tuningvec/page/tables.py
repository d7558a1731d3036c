"""Tables as a page shows them: one function a table, and `show`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from tuningvec.family.spec import GGUF, Family, Hub, Member
from tuningvec.measures.scores import PERCENT, in_percent, task_name
from tuningvec.page.text import code, formatted, listed, number, plain, quoted, texts
from tuningvec.paper import printed as paper
from tuningvec.stats import mean_interval, wilson
from tuningvec.weights.components import KINDS, MATRICES, SYMBOLS

SHARE = "{share:.3f} ({low:.3f}, {high:.3f})"
SCORE = "{score:.1f} ({low:.0f}, {high:.0f})"  # in percent
CSV, NAME = "tuningvec.csv", "tuningvec.name"  # the keys under which an output carries its table and its label
PROVENANCE = "tuningvec.provenance"  # and that of when, where and from what a table was measured
RELATIVE = "{r:.3f} ({r_low:.3f} to {r_high:.3f})"  # a length, with the range of the rounding
LONGEST_IN_ONE_LINE = 45  # characters of a cell; tables without longer ones scroll and do not wrap
MATH = SYMBOLS | {  # names that mean one thing in every table, as in the book's table of symbols
    "E_par": r"$E_\parallel$", "E_perp": r"$E_\perp$", "epsilon": r"$\varepsilon$", "d_out": r"$d_\text{out}$",
    "d_in": r"$d_\text{in}$", "k": "$k$", "r": "$r$", "z": "$z$", "SSA_V": r"$\text{SSA}_V$",
    "SSA_UV": r"$\text{SSA}_{UV}$", "null_V": "null ($V$)", "null_UV": "null ($UV$)", "null_sd": "null sd",
    "naive": r"$1/\sqrt{N}$", "N": "$N$", "cos_W": r"$\cos(T, W)$",
    "θ_ft − T": r"$\theta_\text{ft} - T$", "θ_pre + T": r"$\theta_\text{pre} + T$",
}  # fmt: skip


def show(
    table: pd.DataFrame,
    name: str,
    caption: str,
    digits: int = 3,
    metadata: Mapping[str, str] | None = None,
    fold: str = "",
) -> None:
    """Display a numbered table with so many significant digits; `metadata` is kept with the output.

    The output carries the table as CSV too: numbers with all their digits, texts without the marks of the page.
    Columns named in MATH are shown as symbols, and so are the cells of a column `kind`. A table with a `fold`, which
    are the words on it, is folded up.
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
    about = {NAME: name, CSV: table.map(plain).to_csv(index=False, lineterminator="\n"), **(metadata or {})}
    shown = f":::{{table}} {caption}\n:name: {name}\n{style}\n{body}\n:::"
    display(Markdown(f"::::{{dropdown}} {fold}\n{shown}\n::::" if fold else shown), metadata=about)


def measured(table: pd.DataFrame) -> None:
    """Display when, on what machine, with which versions and from which weights a stored table was measured,
    and which benchmarks were left out since a member cannot read them."""
    times: dict[str, list[str]] = {}
    weights: dict[str, Any] = {}
    for run in table.attrs["runs"]:
        versions = (f"{name} {version}" for name, version in run["versions"].items())
        imported = f"imported from {code(run['imported'])}" if "imported" in run else None
        where = ", ".join(filter(None, [imported, run["machine"], run["device"], *versions]))
        times.setdefault(where, []).append(run["measured"][:16].replace("T", " "))
        weights |= run["inputs"]["weights"]
    lines = [f"- {' to '.join(dict.fromkeys([min(when), max(when)]))}, {where}" for where, when in times.items()]
    lines += ["", "from weights with these checksums", ""]
    for label, terms in weights.items():  # a random summand's name is kept whole
        sums = (f"{formatted(c, '+g')} `{name if '(' in name else name[:12]}`" for name, c in terms)
        lines.append(f"- {label or 'pretrained'}: {' '.join(sums)}")
    if unread := table.attrs.get("left_out"):
        each = {f"- {task_name(v['task'])}: {v['member']} {v['reason']}" for v in unread}
        lines += ["", "**Benchmarks left out**", "", *sorted(each)]
    if any("imported" in run for run in table.attrs["runs"]):
        lines += [
            "",
            "Imported replies do not say whether an end token stopped them, so that instruction is not judged.",
        ]
    display(Markdown("\n".join(["Measured (UTC)", "", *lines])), metadata={PROVENANCE: "true"})


def _wide(rows: pd.DataFrame, index: str | list[str], columns: str, values: str) -> pd.DataFrame:
    """A row each `index` and a column each of `columns`, in the order in which they first stand in `rows`."""
    order = rows.drop_duplicates(index).set_index(index).index
    return rows.pivot(index=index, columns=columns, values=values).loc[order, rows[columns].unique()]


def _together(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows of one value of `column` after one another, in the order in which the values first stand in `rows`."""
    return rows.sort_values(column, key=lambda values: values.map(list(values.unique()).index), kind="stable")


def beside_paper(ours: pd.DataFrame, value: str, paper: pd.DataFrame) -> pd.DataFrame:
    """Rows of our vectors (mean `value` by kind) above the paper's rows of the same table."""
    own = _wide(ours, "vector", "kind", value)[list(paper.columns)]
    return pd.concat({"here": own, "paper": paper}, names=["source", "T"]).reset_index()


def read(corpus: pd.DataFrame) -> pd.DataFrame:
    """What a corpus gave each member, with a note where it was shorter than its budget."""
    table, ended = corpus.drop(columns=["asked", "digest"]), corpus.tokens < corpus.asked
    short = np.where(ended, texts(corpus, "{tokens:,} of {asked:,} tokens"), "")
    return table.assign(**{"shorter than asked": short}) if ended.any() else table


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
            means[f"{label}, {kind}"] = texts(means, " / ".join(f"{{{name}{end}:.3f}}" for end in ends))
    return means[["criterion", "member", *means.columns[-4:]]]


def turned(compared: pd.DataFrame, digits: int = 4) -> pd.DataFrame:
    """What T does beside draws of T turned on either kind of side, by member and measure."""
    rows = compared.assign(
        drawn=texts(compared, f"{{mean:.{digits}f}} ± {{sd:.{digits}f}} ({{no_more}} of {{draws}})"),
        sides=compared.sides.map({"left": "turned on the left", "both": "on both sides"}),
    )
    wide = _wide(rows, ["member", "what"], "sides", "drawn")
    wide.insert(0, "T", rows.drop_duplicates(["member", "what"]).set_index(["member", "what"]).value)
    return wide.reset_index()


def shared_changes(shared: pd.DataFrame) -> pd.DataFrame:
    """φ of the neurons that two members change, by what they have in common."""
    keys = ["member", "other", "keeps", "criterion"]
    rows = []
    for key, part in shared.groupby(keys, sort=False):
        low, high = mean_interval(part.phi.to_numpy())
        row = dict(zip(keys, key, strict=True), parts=len(part))
        rows.append(row | dict(phi=SHARE.format(share=part.phi.mean(), low=low, high=high)))
    found = pd.DataFrame(rows)
    found["in common"] = found.keeps.map({**COMMON, "": "neither", "spectrum": "spectrum"})
    return _wide(found, ["member", "other", "in common", "parts"], "criterion", "phi").reset_index()


def ablation(effects: pd.DataFrame) -> pd.DataFrame:
    """Changes with their intervals by what was ablated, by task, member and share."""
    rows = effects[effects.ablated != "nothing"]
    rows = rows.assign(text=_changes(rows, "change", "change_low", "change_high"))
    wide = _wide(rows, ["task", "member", "share"], "ablated", "text").reset_index()
    return wide.assign(share=wide.share.map(in_percent), task=wide.task.map(task_name))


def in_common(table: pd.DataFrame) -> pd.DataFrame:
    """Which part of the neurons that changed most in a member changed most in others."""
    return table.assign(share=table.share.map(in_percent), common=table.common.map(in_percent))


def falls(effects: pd.DataFrame) -> list[str]:
    """ΔP of the benchmarks without the top neurons, the range over members and tasks, by share."""
    rows = effects[(effects.ablated == "top") & (effects.unit == PERCENT) & effects.change.notna()]
    return [f"{in_percent(share)}: {formatted(part.change, '.0f')} %" for share, part in rows.groupby("share")]


def whole(effects: pd.DataFrame) -> pd.DataFrame:
    """Scores of the members before anything is ablated."""
    rows = effects[effects.ablated == "nothing"].assign(share=lambda t: t.score)
    return _wide(rows.assign(text=texts(rows, SHARE)), "member", "task", "text").rename(columns=task_name).reset_index()


def _changes(rows: pd.DataFrame, value: str, low: str, high: str, decimals: int | None = None) -> list[str]:
    """`value (low, high)`, each with its sign, and with two decimals (one from 10 on) unless told."""

    def text(x: float) -> str:
        return formatted(x, f"+.{decimals or (1 if abs(x) >= 10 else 2)}f") if x else "0"

    values = rows[[value, low, high]].to_numpy(float)
    return ["–" if np.isnan(a) else f"{text(a)} ({text(b)}, {text(c)})" for a, b, c in values]


def knowledge(table: pd.DataFrame) -> pd.DataFrame:
    """How clean and corrupt prompts differ, by kind of pair and member."""
    text = {"clean − corrupt": _changes(table, "difference", "low", "high")}
    shown = _together(table.assign(**text, **{"clean above": texts(table, "{above} of {pairs}")}), "kind")
    return shown[["kind", "member", "clean", "corrupt", "clean − corrupt", "clean above"]]


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How both kinds of attribution agree with exact patching, by kind of pair and site: the range over members."""
    long = table.melt(["kind", "site", "method"], ["pearson", "spearman"], "correlation")
    long["which"] = long.correlation + ", " + long.method
    ranges = long.groupby(["kind", "site", "which"], sort=False).value.agg(lambda v: formatted(v, ".2f"))
    return _wide(ranges.reset_index(), ["kind", "site"], "which", "value").reset_index()


def regions(table: pd.DataFrame) -> pd.DataFrame:
    """How each member's maps agree with the pretrained one's, and what stands beside it, where there is a map."""
    known = table[table.left_out == ""]
    shown = _together(known.assign(corrected=_changes(known, "corrected", "low", "high", decimals=2)), "kind")
    shown = shown[["kind", "site", "member", "agreement", "halves", "own", "corrected", "null"]]
    return shown.rename(columns={"halves": "pretrained's halves", "own": "its own halves", "null": "shuffled"})


def members(family: Family) -> pd.DataFrame:
    """Members with role, domain, source and licence."""
    rows = [
        (m.name, m.label, _role(m), getattr(m, "domain", "–"), _origin(m.source), m.license) for m in family.members
    ]
    return pd.DataFrame(rows, columns=["member", "model", "role", "domain", "weights", "licence"])


def _role(member: Member) -> str:
    role = getattr(member, "role", "pretrained")
    return f"control of {member.controls}" if role == "control" else role


def _origin(source: Any) -> str:
    if isinstance(source, GGUF):
        where = f"{code(source.package)} {code(source.version)}" if source.package else code(source.file)
    else:
        where = f"`{source.repo}` at `{source.revision[:10]}`" if isinstance(source, Hub) else code(source.path)
    return f"{source.kind}: {where}"


EXAMS_CAPTION = (
    "Held-out exams before and after fine-tuning, greedy decoding, as the recipe recorded them: replies that are right "
    "(with Wilson's 95 % interval), end in a valid `Answer: [X]`, contain a thought, and end by themselves."
)


def exams(reports: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Held-out exams of each member, before and after, from its training report."""
    rows = []
    for member, report in reports.items():
        for when in ("before", "after"):
            if counts := report.get(when):
                low, high = wilson(counts["right"], counts["n"])
                share = f"{counts['right'] / counts['n']:.2f} ({low:.2f}, {high:.2f})"
                row = dict(member=member, when=when, right=f"{counts['right']} of {counts['n']}", share=share)
                rows.append(row | {what: counts[what] for what in ("valid", "thought", "stopped")})
    return pd.DataFrame(rows)


def language(reports: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Nats per token of held-out text before and after fine-tuning, a row a member, from its training report."""
    rows = []
    for member, report in reports.items():
        if "nats" in report.get("after", {}):
            row = dict(member=member)
            for text, after in report["after"]["nats"].items():
                before = report["before"]["nats"][text]
                row[text] = f"{before:.3f} → {after:.3f} ({formatted(after - before, '+.3f')})"
            rows.append(row | {"steps": report["steps"], "divergence, last step": report["divergence"][-1]})
    return pd.DataFrame(rows)


def tuned(summary: pd.DataFrame) -> pd.DataFrame:
    """Ways of tuning: numbers that are trained, rate, held-out loss, exams, and shares with k/d_out in brackets."""
    shown = summary.assign(
        scope=summary.scope.replace({"all": "every matrix", **SYMBOLS}),
        loss=texts(summary, "{loss:.3f} ({low:.3f}, {high:.3f})"),
        exams=np.where(
            summary.n.notna(), texts(summary, "{right:.1f} of {n:.0f} ({least:.0f} to {most:.0f})"), "not asked"
        ),
        gradient=_beside_null(summary, "gradient"),
        T=_beside_null(summary, "T"),
        rate=texts(summary, "{rate:g}"),
    )
    columns = ["scope", "way", "trained", "rate", "loss", "exams", "gradient", "T"]
    return shown[columns].rename(columns=dict(T="$T$", loss="held-out loss"))


def rates(summary: pd.DataFrame) -> pd.DataFrame:
    """The learning rate that each way of tuning took, and what each rate gave."""
    shown = summary.assign(
        scope=summary.scope.replace({"all": "every matrix", **SYMBOLS}), rate=texts(summary, "{rate:g}")
    )
    return shown[["scope", "way", "rate", "tried"]]


def held(found: pd.DataFrame) -> pd.DataFrame:
    """Share of a specialist's T in the frame of each member's T, of `tuning.held`, with k/d_out in brackets."""
    parts = ["inside", "total", "null"]
    kinds = [kind for kind in MATRICES if kind in set(found.kind)]
    by_kind = found.groupby(["member", "kind"], sort=False)[parts].sum().reset_index()
    whole = found.groupby("member", sort=False)[parts].sum().reset_index().assign(kind="all")
    rows = pd.concat([whole, by_kind])
    rows = rows.assign(share=rows.inside / rows.total, share_null=rows.null / rows.total)
    wide = rows.assign(text=_beside_null(rows, "share")).pivot(index="member", columns="kind", values="text")
    keeps = found.drop_duplicates("member").set_index("member").keeps.replace("", "–")
    wide = wide.loc[whole.sort_values("inside", ascending=False).member, ["all", *kinds]]
    wide.insert(0, "keeps", keeps)
    return wide.rename(columns=SYMBOLS).reset_index().rename_axis(columns=None)


def _beside_null(table: pd.DataFrame, share: str) -> np.ndarray:
    return np.where(table[share].notna(), texts(table, f"{{{share}:.3f}} ({{{share}_null:.3f}})"), "–")


def similarity_beside_paper(similarity: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Whole-model cosine and r of each member, above the paper's cosines with the r of an orthogonal move."""
    whole = similarity[similarity.kind == "all"]
    own = pd.DataFrame({"source": "here", "model": whole.vector, "cosine": whole.cosine, "r": whole.r})
    model, cosine = texts(paper, "{column} ({row})"), paper.value / 100
    printed = pd.DataFrame({"source": "paper", "model": model, "cosine": cosine, "r": (cosine**-2 - 1) ** 0.5})
    return pd.concat([own, printed], ignore_index=True)


def similarity_by_component(similarity: pd.DataFrame) -> pd.DataFrame:
    """r of each tuning vector by component; a dash where it changes nothing."""
    wide = _wide(similarity, "vector", "kind", "r")
    return wide[[k for k in ("all", *KINDS) if k in wide]].reset_index()


def cosines(table: pd.DataFrame, parameters: int) -> pd.DataFrame:
    """Whole-model cosines with the null's standard deviation, z, the naive 1/√N and the most that factors allow."""
    whole = table[table.kind == "all"]
    return whole[["a", "b", "cosine", "null_sd", "z"]].assign(**{"naive": parameters**-0.5, "at most": whole.ceiling})


COMMON = {  # of two vectors, as `directions.pairs` names it
    "facts": "facts, words, form", "form": "words and form", "domain": "domain", "neither": "neither",
}  # fmt: skip


def pairs(twins: pd.DataFrame) -> pd.DataFrame:
    """Cosines by what the two have in common, beside those of two trainings on the same facts."""
    rows = twins.sort_values("common", key=lambda common: common.map(list(COMMON).index), kind="stable")
    share = texts(rows, "{share:.2f} ({low:.2f}, {high:.2f})")
    named = rows.assign(**{"in common": rows.common.map(COMMON), "at most": rows.ceiling})
    named["share of twins"] = np.where(rows.share.notna(), share, "–")
    return named[["a", "b", "in common", "cosine", "null_sd", "at most", "twins", "share of twins"]]


def barriers(found: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """Losses at both ends of each line, its largest excess with its λ, and its barrier, by text (`path.barriers`)."""
    names = {"kind": "the ends", "a": "from", "b": "to", "first": "loss at λ = 0", "last": "at 1", "at": "at λ"}
    limits = texts(found, "{barrier:.3f} ({low:.3f}, {high:.3f})")
    shown = found.assign(kind=found.kind.map(kinds), barrier=limits)
    return shown[["kind", "a", "b", "text", "first", "last", "excess", "at", "barrier"]].rename(columns=names)


def paths(found: pd.DataFrame) -> pd.DataFrame:
    """Each training's path beside a walk of orthogonal increments (`path.whole`)."""
    rows = {"member": found.member, "increments": found.increments}
    for name, label in (
        ("distance", "mean distance"),
        ("largest", "largest"),
        ("length", "length"),
        ("dimension", "dimension"),
    ):
        rows[label] = texts(found, f"{{{name}:.3f}} ({{{name}_walk:.3f}})")
    return pd.DataFrame(rows | {"cos with member": found.own})


def alignment(means: pd.DataFrame) -> pd.DataFrame:
    """SSA with its null by vector and kind."""
    return means[["vector", "kind", "d_out", "d_in", "k", "SSA", "null", "excess", "z"]]


def wide_excess(means: pd.DataFrame) -> pd.DataFrame:
    """Excess of SSA, a row a vector and a column a kind."""
    return _wide(means, "vector", "kind", "excess")[[k for k in MATRICES if k in set(means.kind)]].reset_index()


def by_epsilon(means: pd.DataFrame) -> pd.DataFrame:
    """SSA by ε, a row each vector and one for the null."""
    nulls = means.drop_duplicates(["epsilon", "kind"]).assign(vector="null", SSA=lambda t: t.null)
    rows = pd.concat([means, nulls])
    rows = _together(rows.assign(epsilon=[formatted(epsilon, "g") for epsilon in rows.epsilon]), "epsilon")
    return _wide(rows, ["epsilon", "vector"], "kind", "SSA")[list(MATRICES)].reset_index()


def beside_nulls(found: pd.DataFrame) -> pd.DataFrame:
    """SSA and what each null at the same k has, by vector and kind, with z; less W, the SSA that is left."""
    cells = np.where(found.z.isna(), texts(found, "{null:.3f}"), texts(found, "{null:.3f} ({z:+.1f})"))
    rows = found.assign(cell=np.where(found.against == "less W", texts(found, "{SSA:.3f} ({z:+.1f})"), cells))
    own = rows[rows.against == "rotation"].set_index(["vector", "kind"])
    wide = rows[rows.against != "edge"].pivot(index=["vector", "kind"], columns="against", values="cell")
    wide = wide.reindex(own.index)[[null for null in rows.against.unique() if null in wide]].fillna("–")
    wide.insert(0, "SSA", own.SSA)
    return wide.reset_index()


def less_W(layers: pd.DataFrame) -> pd.DataFrame:
    """Energies of T and of T less its part along W, means over layers, with the share of ‖T‖² that this part has."""
    rows = layers.assign(share=layers.cos_W**2)
    columns = ["E_par", "E_par_less_W", "E_perp", "E_perp_less_W", "SSA", "SSA_less_W"]
    means = rows.groupby(["vector", "kind"], sort=False)[["share", "cos_W", *columns]].mean()
    means = means.sort_index(level="kind", key=lambda kinds: kinds.map(MATRICES.index), sort_remaining=False)
    return means.rename(
        columns={"share": "along $W$"} | {f"{name}_less_W": f"{MATH.get(name, name)} less $W$" for name in columns}
    ).reset_index()


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


def minus_W(cells: pd.DataFrame) -> pd.DataFrame:
    """What a multiple of W in T gives SSA, with its range, beside the printed one."""
    shown = cells[["vector", "kind", "cos_W", "share", "share_Q", "bound"]]
    shown = shown.rename(columns={"share": "$T$ along $W$", "share_Q": "in $W_\\text{Q}$"})
    ranges = texts(cells, "{predicted:.3f} ({low:.3f}, {high:.3f})")
    return shown.assign(**{"with $-W$": ranges, "SSA": cells.SSA, "left": cells.left})


def notes(cells: pd.DataFrame) -> pd.DataFrame:
    """Printed ROUGE-1 of each model and set beside its floor."""
    gap = texts(cells, "{points:+.1f} ({low:+.1f}, {high:+.1f})")
    shown = cells[["family", "member", "set", "score", "floor"]]
    return shown.rename(columns={"floor": "another's note"}).assign(difference=gap)


def readings(cells: pd.DataFrame) -> pd.DataFrame:
    """Table 4 above what Tables 5 and 6 give as squared norms and as norms."""
    names = {"SSA": "Table 4", "squared": "as squared norms", "norms": "as norms"}
    rows = cells.rename(columns=names).melt(["vector", "kind"], list(names.values()), "reading")
    return _wide(_together(rows, "vector"), ["vector", "reading"], "kind", "value")[list(MATRICES)].reset_index()


def misprints(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells of Table 6 that contradict Tables 4 and 5, with E⊥ = E∥ (1 − SSA) / SSA."""
    wrong = cells[cells.misprint]
    return wrong[["vector", "kind"]].assign(printed=wrong.E_perp, implied=wrong.implied)


def texts_of(number: int) -> pd.DataFrame:
    """A table of the paper in its own shape, its cells as they are printed."""
    return paper.texts(number).rename_axis("vector").rename_axis(None, axis=1).reset_index()


def implied(cells: pd.DataFrame) -> pd.DataFrame:
    """The E⊥ that Tables 4 and 5 imply, with a mark where Table 6 contradicts it."""
    marks = cells.misprint.map({True: " ✗", False: ""})
    shown = cells.assign(text=[number(value, 4) for value in cells.implied] + marks)
    return _wide(shown, "vector", "kind", "text").rename_axis(None, axis=1).reset_index()


def excess(cells: pd.DataFrame) -> pd.DataFrame:
    """Gate and up beside the bound of a random T: SSA, the bound, standard deviations above it, and the excess."""
    return audit(cells[cells.bound < 1][["vector", "kind", "SSA", "bound", "z", "excess"]])


def turns(cells: pd.DataFrame) -> pd.DataFrame:
    """Cosines as printed, times 100, with their angles and r; from `audit.cosines`."""
    printed, shown = paper.texts(15), cells[["pretrained", "member", "angle"]].assign(r=texts(cells, RELATIVE))
    shown.insert(2, "cosine × 100", [printed.loc[row.pretrained, row.member] for row in cells.itertuples()])
    return shown


def relative_lengths(rows: pd.DataFrame) -> pd.DataFrame:
    """Energy of a layer, length and relative length of each vector; from `audit.lengths`."""
    return audit(rows[["vector", "energy", "norm"]].assign(r=texts(rows, RELATIVE), r_summed=rows.r_summed))


def same_weights(rows: pd.DataFrame) -> pd.DataFrame:
    """Each pretrained value → its value as (−)T, with the difference in items where they are counted."""
    items = ["" if pd.isna(count) else f" ({_signed(count)})" for count in rows["items"]]
    rows = rows.assign(change=texts(rows.assign(count=items), "{value_pre:.2f} → {value:.2f}{count}"))
    wide = _wide(rows, ["table", "column"], "family", "change").reset_index()
    names = {"1": "1, 7", "2": "2, 8", "3": "3, 9"}
    return wide.assign(table=wide.table.map(names)).rename(columns={"table": "tables", "column": "benchmark"})


def fall(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with T, of the pretrained model and without T, and the parts of the fall with their intervals."""
    parts = {part: _interval(rows, f"{part}_", f"{part}_points") for part in ("of_T", "rest")}
    values, shares = ["family", "n", "tuned", "pretrained", "without"], ["prompt_share", "share_of_averages"]
    return audit(rows[values].assign(**parts).join(rows[shares]))


def below_chance(rows: pd.DataFrame) -> pd.DataFrame:
    """Right answers on the nine benchmarks with four options, and those of valid outputs."""
    shown = ["family", "member", "right", "n", "share", "valid", "of_valid", "below"]
    return audit(rows.assign(share=texts(rows, SHARE))[shown])


def sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Sizes of benchmarks that fit the printed values."""
    return audit(rows[["benchmark", "values", "n", "smallest", "fitting", "digits"]])


def averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Printed averages of accuracies with both means, and all that are not the mean of their row's rounded cells."""
    shown = rows[(rows.weighted.notna() | ~rows.equal) & ~rows.duplicated(["row", "printed"])]
    return shown[["table", "row", "printed", "mean", "weighted"]]


def survivors(rows: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each pair of rows go which way; in brackets those that differ whatever the pairing."""
    ways = {way: texts(rows, f"{{{way}}} ({{{way}_survive}})") for way in ("higher", "lower")}
    return _compared(rows, cells=rows["cells"], **ways, **rows[["equal", "depends", "unpaired"]])


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences over all items of a table together."""
    p = {name: rows[name].map(lambda v: f"{v:.4f}" if v >= 1e-4 else "< 0.0001") for name in ("p", "p_min", "p_max")}
    return audit(_compared(rows, n=rows.n, points=_interval(rows, "", "points"), **p))


def average_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences of averages with their bootstrap intervals."""
    intervals = {name: _interval(rows, f"{name}_") for name in ("items", "nested", "both")}
    return _compared(rows, points=rows.points.map(_signed), **intervals)


def percentages(rows: pd.DataFrame) -> pd.DataFrame:
    """Percentages of the text and what the tables give for them."""
    return audit(rows.assign(agrees=rows.agrees.str.replace("_", " ")))


def benchmarks(
    found: pd.DataFrame, gaps: pd.DataFrame | None = None, means: Mapping[str, pd.DataFrame] | None = None
) -> pd.DataFrame:
    """Scores with their intervals, a row each `who`, a column a task, with n; marked where `gaps` compares them.

    `found` is of `scores.of_tasks`, `gaps` of `scores.differences`, `means`, columns before the tasks', of
    `scores.averages`.
    """
    wide = _scores(found, "task", None if gaps is None else gaps[gaps.what == "score"])
    n = found.groupby("task", sort=False).n.unique()
    wide.columns = [f"{task_name(task)} (n = {' or '.join(map(str, n[task]))})" for task in wide]
    for place, (name, mean) in enumerate((means or {}).items()):
        wide.insert(place, name, pd.Series(texts(mean, SCORE), mean.who))
    return wide.fillna("–").rename_axis("model").reset_index()


def seen(found: pd.DataFrame) -> pd.DataFrame:
    """The smallest differences that could be seen, by benchmark."""
    return found.assign(task=found.task.map(task_name)).rename(columns={"task": "benchmark"})


def could_show(found: pd.DataFrame) -> str:
    """The sentence of a caption with the smallest differences that could be seen; `found` is of `scores.seen`."""
    each = [f"{task_name(row.task)} {number(row.corrected, 3)}" for row in found.itertuples()]
    return (
        " The smallest difference that would be seen with a probability of 80 %, at the first step of Holm's "
        f"correction, in points: {', '.join(each) or '–'}."
    )


def clusters(items: pd.DataFrame) -> str:
    """The sentence of a caption on tasks with items that share a source; empty where there are none."""
    counts = items.groupby("task", sort=False)[["item", "source"]].nunique()
    shared = counts[counts.source < counts["item"]]
    each = [f"{task_name(row.Index)}, {row[1]} items of {row.source} sources" for row in shared.itertuples()]
    return f" Items that share a source count as one cluster: {listed(each)}." if each else ""


def instructions(found: pd.DataFrame, gaps: pd.DataFrame | None = None) -> pd.DataFrame:
    """Shares of replies that keep each instruction, a row each `who`, with n; marked as in `benchmarks`."""
    if found.empty:
        return pd.DataFrame({"model": ["no benchmark here asks for a form of the answer"]})
    wide = _scores(found.rename(columns={"instruction": "what"}), "what", gaps)
    wide.insert(0, "n", found.groupby("who").n.first())
    return wide.rename(columns=lambda name: name.replace("_", ", ")).rename_axis("model").reset_index()


def _scores(found: pd.DataFrame, column: str, gaps: pd.DataFrame | None) -> pd.DataFrame:
    """Scores with their intervals, a row each `who` and a column each `column`; marked where `gaps` compares them."""
    gaps = pd.DataFrame(columns=["who", column, "points", "clear"]) if gaps is None else gaps
    marks = {(row["who"], row[column]): (row["points"], row["clear"]) for row in gaps.to_dict("records")}
    compared = map(marks.get, zip(found.who, found[column], strict=True))
    return _wide(found.assign(cell=list(map(_marked, texts(found, SCORE), compared))), "who", column, "cell")


def effects(gaps: pd.DataFrame, whats: Sequence[str]) -> pd.DataFrame:
    """Differences in points, a row each member, task and `compared`, a column each of `whats`; marked as above."""
    gaps = gaps[gaps.what.isin(whats)]
    if gaps.empty:
        return pd.DataFrame({"member": ["prompted only in plain text"]})
    changes = zip(gaps.points, gaps.clear, strict=True)
    cells = list(map(_marked, _changes(gaps, "points", "low", "high", decimals=1), changes))
    wide = _wide(gaps.assign(cell=cells), ["member", "task", "n", "compared"], "what", "cell").fillna("–").reset_index()
    return wide.assign(task=wide.task.map(task_name)).rename(columns=lambda name: name.replace("_", ", "))


def _marked(text: str, change: tuple[float, bool] | None) -> str:
    """With ▲ or ▼ and a shade where a change is beyond chance, with △ or ▽ where it is not."""
    if change is None or change[0] == 0:
        return text
    points, clear = change
    if not clear:
        return f"{'△' if points > 0 else '▽'} {text}"
    return f"[▲ {text}]{{.better}}" if points > 0 else f"[▼ {text}]{{.worse}}"


def replies(
    items: pd.DataFrame, benchmarks: Mapping[str, Mapping[str, Any]], whos: Mapping[str, str], longest: int
) -> pd.DataFrame:
    """What each `who`, {column: who}, replied to the first item of each task of a domain, cut after `longest`."""
    tasks = {name: task for some in benchmarks.values() for name, task in some.items()}
    rows = []
    first = items[(items["item"] == items["item"].min()) & items.task.isin(tasks)]
    for name, part in first.groupby("task", sort=False):
        asked = tasks[name].eval_docs[int(part["item"].iloc[0])]
        question = asked.get("question") or str(tasks[name].doc_to_text(asked))
        said = {column: quoted(part[part.who == who].reply.iloc[0], longest) for column, who in whos.items()}
        rows.append({"benchmark": task_name(name), "question": quoted(question, longest), **said})
    return pd.DataFrame(rows)


def printed(cells: pd.DataFrame) -> pd.DataFrame:
    """A table of the paper with the digits that it prints, its averages first, which a narrow window cuts off else."""
    text = [f"{row.value:.{max(0, round(-math.log10(row.step)))}f}" for row in cells.itertuples()]
    wide = paper.wide(cells.assign(value=text))
    wide = wide[sorted(wide, key=lambda column: column != paper.AVERAGE)]
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
            where += f" at `{source['revision'][:10]}`" if source.get("revision") else ""
            rows.append((domain, task_name(name), len(task.eval_docs), where, task.config.num_fewshot))
    return pd.DataFrame(rows, columns=["domain", "benchmark", "items", "from", "worked examples"])


def _compared(rows: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """These columns of compared rows, after the table, the family and the names of the pair."""
    return rows[["table", "family"]].assign(compared=rows["first"] + " − " + rows.second, **columns)


def _interval(rows: pd.DataFrame, prefix: str, value: str | None = None) -> list[str]:
    """`value (low, high)` with one decimal, or the interval alone; a dash where it is not known."""
    limits = rows[[f"{prefix}low", f"{prefix}high"]].map(formatted, form=".1f").to_numpy()
    starts = [f"{_signed(v)} " for v in rows[value]] if value else [""] * len(rows)
    return [low if low == "–" else f"{start}({low}, {high})" for start, (low, high) in zip(starts, limits, strict=True)]


def _signed(value: float | np.number) -> str:
    """With a sign: an integer whole, another number with one decimal."""
    return formatted(value, "+.0f" if float(value).is_integer() else "+.1f") if value else "0"
