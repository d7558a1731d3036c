"""A claim of the paper, what was measured here, and the verdict with its rule, as a box on the page."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
from IPython.display import Markdown, display

from tuningvec.measures.scores import task_name
from tuningvec.page import tables
from tuningvec.page.text import each as each_row
from tuningvec.page.text import filled, formatted, number
from tuningvec.verdict import MEANING, Kind, Verdict

Basis = Literal["arithmetic", "inference", "not printed"]  # what a line of the audit rests on
KEY = "tuningvec.finding"  # the key under which an output carries a finding, for the front page
CSS: dict[Kind, str] = {
    "holds": "holds",
    "reversed": "differs",
    "mixed": "differs",
    "differs": "differs",
    "null explains it": "null",
    "within chance": "null",
    "cannot be known here": "unknown",
}
COMPARED = "tuningvec.comparisons"  # and that of the sentence on how many comparisons were made
VERDICTS = "tuningvec.verdicts"  # and that under which the audit's summary carries how many verdicts of each kind
AUDITED = "tuningvec.audited"  # and each of them
FEW = 3  # cases that the front page writes out
_judged: list[int] = []  # comparisons of each finding that this page has shown so far
FALSIFIED = {True: "Met.", False: "Not met.", None: "Cannot be decided here."}


def finding(
    claim: str,
    *,
    paper: str,
    here: str,
    verdict: Verdict,
    each: str = "",
    mind: str = "",
    made: str = "",
    control: bool = False,
    **numbers: Any,
) -> None:
    """Display a finding; the front page collects those of all pages.

    `paper`, `here` and `mind` may name `numbers` and those of the verdict, `{name:.2f}`, and `{each}`: its cases, each
    written by that template. `mind` is what would change our mind; the verdict says whether it was met. `made` is what
    of it follows from how the members were made, and ends the sentence. A control is no claim of the paper's.
    """
    cases, numbers = _told(verdict.cases), {**verdict.numbers, **numbers}
    here += f". *Of our own making*: {made}" if made else ""
    more = f"; and {len(cases) - FEW} more" if len(cases) > FEW else ""
    numbers["each"] = each_row(cases.head(FEW), each) + more or "–"
    paper, short = filled(paper, numbers), filled(here, numbers)
    numbers["each"] = each_row(cases, each) or "–"
    whole = filled(here, numbers)
    rule = [f"**Rule.** {verdict.rule}", *([f"**All cases.** {whole}"] if whole != short else [])]
    if mind:
        met = FALSIFIED[verdict.falsified]
        rule.append(f"**What would change our mind.** {filled(mind, numbers)} *{met}*")
    _judged.append((~cases.outcome.isin(["not judged", "unknown"])).sum() if "outcome" in cases else 0)
    record = dict(claim=claim, paper=paper, here=short, verdict=said(verdict), kind=verdict.kind, control=control)
    record |= dict(effect=effects(verdict), open=undecided(verdict))
    shown = [_with_effect(verdict), f"**Paper.** {paper}", f"**Here.** {short}"]
    fold = [f":::{{dropdown}} {_fold(verdict.cases)}", *rule, *_cases(verdict.cases), ":::"]
    text = "\n\n".join([f"::::{{admonition}} {claim}\n:class: finding", *shown, *fold, "::::"])
    display(Markdown(text), metadata={KEY: json.dumps(record)})


def _with_effect(verdict: Verdict) -> str:
    """The coloured word with the effect that it rests on."""
    return ": ".join(filter(None, [said(verdict), effects(verdict)]))


def _fold(cases: pd.DataFrame) -> str:
    """What the folded part of a finding is called."""
    return "Rule" if cases.empty else f"Rule and {len(cases)} case{'s' * (len(cases) > 1)}"


def _told(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases that a sentence tells: all but those not judged for want of a number, unless there are no others."""
    if not {"effect", "outcome"} <= set(cases):
        return cases
    told = cases[cases.effect.notna() | (cases.outcome != "not judged")]
    return told if len(told) else cases


def comparisons() -> None:
    """Display how many comparisons the findings above have made."""
    display(
        Markdown(
            f"**Comparisons.** The {len(_judged)} findings of this page judge {sum(_judged)} cases. Where a rule says "
            "so, the cases of one finding are corrected for their number; findings are not corrected for each other."
        ),
        metadata={COMPARED: "true"},
    )
    _judged.clear()


def _cases(cases: pd.DataFrame) -> list[str]:
    """What was judged, case by case, as a table."""
    if cases.empty:
        return []
    judged = [name for name in ("effect", "low", "high", "outcome") if name in cases]
    shown = cases[[*_names(cases.drop(columns=judged)), *judged]]
    shown = shown.map(lambda v: number(v, 3) if isinstance(v, float) else v).replace(tables.SYMBOLS)
    if "task" in shown:
        shown["task"] = shown.task.map(task_name)
    return [shown.to_markdown(index=False, disable_numparse=True)]


def _names(cases: pd.DataFrame) -> list[str]:
    """The columns that name the cases: neither numbers nor flags, nor one that says what one before it does."""
    said: dict[str, list[str]] = {}
    for name, column in cases.infer_objects().items():
        text = [task_name(str(value)) for value in column]
        if not pd.api.types.is_any_real_numeric_dtype(column) and column.dtype != bool and text not in said.values():
            said[name] = text
    return list(said)


def effects(verdict: Verdict) -> str:
    """The effect with its interval, or the smallest and the largest of several; empty where there is none."""
    cases = verdict.cases
    if not {"effect", "low", "high"} <= set(cases):
        return ""
    judged = ~cases.outcome.isin(["not judged", "unknown"]) if "outcome" in cases else slice(None)
    known = cases[judged].dropna(subset=["effect", "low", "high"])
    if known.empty:
        return ""
    form, ends = f"+.{verdict.digits}f", known.iloc[0]
    if len(known) == 1:
        between = "" if ends.low == ends.high else f" ({formatted(ends.low, form)}, {formatted(ends.high, form)})"
        return f"{formatted(ends.effect, form)}{between} {verdict.unit}".rstrip()
    return f"{formatted(known.effect, form)} {verdict.unit}".rstrip() + f" in {len(known)} cases"


def undecided(verdict: Verdict) -> str:
    """What the cases leave undecided, in words; empty where nothing is."""
    if verdict.kind == "cannot be known here":
        return verdict.why
    if "outcome" not in verdict.cases:
        return ""
    judged = verdict.cases.outcome[verdict.cases.outcome != "not judged"]
    left = judged.isin(["open", "unknown"]).sum()
    return f"{left} of {len(judged)} cases" if left else ""


def badge(kind: Kind, text: str = "") -> str:
    """The kind of a verdict as a coloured word, or a text of its own in that colour."""
    return f"[{text or kind}]{{.{CSS[kind]}}}"


def said(verdict: Verdict) -> str:
    """The coloured word, and what goes with it."""
    return badge(verdict.kind) + (f" ({verdict.why})" if verdict.why else "")


def meanings() -> str:
    """What each kind of verdict says, as a list."""
    return "\n".join(f"- {badge(kind)}: {text}" for kind, text in MEANING.items())


def glossary() -> str:
    """Each kind of verdict as a term of the glossary, so that a page may link it."""
    terms = [f"{kind}\n  {text[0].upper()}{text[1:]}." for kind, text in MEANING.items()]
    return "\n\n".join(["```{glossary}", *terms, "```"])


class Row(NamedTuple):
    """A claim in the audit's summary: `says` is a template over the verdict's numbers, with `{each}` its cases.

    `more` is said where its evidence stands. A row that is not `claimed` says what the audit found beside the paper's
    claims, and is not counted as judged. `of` is the claim, in the words of the page that measures it on models, that
    it is about.
    """

    claim: str
    says: str
    verdict: Verdict
    section: str
    basis: Basis
    each: str = ""
    claimed: bool = True
    of: str = ""
    more: str = ""

    def said(self, whole: bool = False) -> str:
        """The template filled; the `whole` of it with `more`."""
        cases = each_row(self.verdict.cases, self.each) if self.each else ""
        return filled(
            f"{self.says} {self.more}".strip() if whole else self.says, {**self.verdict.numbers, "each": cases}
        )

    def folded(self) -> str:
        """The rule and the cases, folded up; empty where nothing was judged."""
        if not self.verdict.rule:
            return ""
        cases = self.verdict.cases if "outcome" in self.verdict.cases else pd.DataFrame()
        return "\n\n".join([f":::{{dropdown}} {_fold(cases)}", self.verdict.rule, *_cases(cases), ":::"])

    def where(self) -> str:
        """The section of the audit that shows it, and what it rests on."""
        return f"{{ref}}`sec-audit-{self.section}`, {self.basis}" + ("" if self.claimed else ", no claim")


def summary(rows: Sequence[Row], name: str, caption: str) -> None:
    """Display the claims with their verdicts, a row each, and links to their evidence.

    The front page tells how many there are of each kind; neither what is not printed nor what the paper does not claim
    is counted.
    """
    counted = Counter(row.verdict.kind for row in rows if row.claimed and row.basis != "not printed")
    audited = [dict(claim=row.claim, of=row.of, kind=row.verdict.kind, section=row.section) for row in rows]
    metadata = {VERDICTS: json.dumps(counted), AUDITED: json.dumps(audited)}
    tables.show(lines(rows), name, caption, metadata=metadata)


def lines(rows: Sequence[Row]) -> pd.DataFrame:
    """The claims with their evidence, verdicts, and what the paper's own numbers say, a row each."""
    shown = [(f"{row.claim}<br><small>{row.where()}</small>", badge(row.verdict.kind), row.said()) for row in rows]
    return pd.DataFrame(shown, columns=["claim, and its evidence", "verdict", "by the paper's own numbers"])


def evidence(rows: Sequence[Row]) -> None:
    """Display these lines of the audit as boxes, with all that is said of each, its rule and its cases."""
    boxes = []
    for row in rows:
        basis = f"{row.basis}, no claim of the paper" if not row.claimed else row.basis
        body = f"{said(row.verdict)}, {basis}\n\n{row.said(whole=True)}"
        boxes.append(f"::::{{admonition}} {row.claim}\n:class: finding\n\n{body}\n\n{row.folded()}\n::::")
    display(Markdown("\n\n".join(boxes)))
