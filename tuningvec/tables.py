"""Tables as a page shows them: one function a table, and `show`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from pandas.api.typing import NAType

from tuningvec.components import KINDS, MATRICES, SYMBOLS
from tuningvec.family import GGUF, Family
from tuningvec.stats import wilson

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MATH = SYMBOLS | {
    "E_par": r"$E_\parallel$", "E_perp": r"$E_\perp$", "epsilon": "ε", "d_out": "$d_{out}$",
    "d_in": "$d_{in}$", "k": "$k$", "SSA_V": "$SSA_V$", "SSA_UV": "$SSA_{UV}$", "null_V": "null (V)",
    "null_UV": "null (UV)", "null_sd": "null sd", "naive": r"$1/\sqrt{N}$", "r": "$r$", "z": "$z$",
    "θ_ft − T": r"$\theta_{ft} - T$", "θ_pre + T": r"$\theta_{pre} + T$",
}  # fmt: skip


def show(table: pd.DataFrame, name: str, caption: str, digits: int = 3) -> None:
    """Display a numbered table with so many significant digits."""
    text = table.copy()
    for column in text.select_dtypes("number"):
        whole = pd.api.types.is_integer_dtype(text[column])
        text[column] = [number(v, 0 if whole else digits) for v in text[column]]
    text = text.rename(columns=MATH).replace(MATH)
    right = ["right" if pd.api.types.is_numeric_dtype(t) else "left" for t in table.dtypes]
    body = text.to_markdown(index=False, disable_numparse=True, colalign=right)
    display(Markdown(f":::{{table}} {caption}\n:name: {name}\n\n{body}\n:::"))


def number(value: float | np.number | NAType, digits: int) -> str:
    """`value` with so many significant digits, none for an integer; a dash for what is not known."""
    if pd.isna(value):
        return "–"
    if digits == 0:
        text = f"{value:,}"
    elif value != 0 and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = mantissa + "·10" + str(int(exponent)).translate(SUPERSCRIPT)
    elif abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "−")


def beside_paper(ours: pd.DataFrame, value: str, paper: pd.DataFrame) -> pd.DataFrame:
    """Rows of our vectors (mean `value` by kind) above the paper's rows of the same table."""
    own = ours.pivot(index="vector", columns="kind", values=value).loc[ours.vector.unique(), list(paper.columns)]
    both = pd.concat({"here": own, "paper": paper}, names=["source", "T"])
    return both.reset_index()


def members(family: Family) -> pd.DataFrame:
    """Members with role, domain, source and licence."""
    rows = []
    for member in family.members:
        source = member.source
        origin = f"`{source.package}` {source.version}" if isinstance(source, GGUF) else f"`{source.path}`"
        rows.append(
            {
                "member": member.name,
                "model": member.label,
                "role": getattr(member, "role", "pretrained"),
                "domain": getattr(member, "domain", "–"),
                "weights": f"{source.kind}: {origin}",
                "licence": member.license,
            }
        )
    return pd.DataFrame(rows)


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
    """Whole-model cosines with the null's standard deviation, z and the naive 1/√N."""
    whole = table[table.kind == "all"]
    return whole[["a", "b", "cosine", "null_sd", "z"]].assign(naive=parameters**-0.5)


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
