"""The front page: the paper's five claims, what its own numbers say of each, what was measured, and a bottom line."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from IPython.core.pylabtools import print_figure
from nbformat import NotebookNode
from pydantic import BaseModel, TypeAdapter

from tuningvec.book import overview, reading
from tuningvec.book.compendium import Page, row
from tuningvec.book.overview import Claim
from tuningvec.page import figures, plots, tables
from tuningvec.page.finding import badge
from tuningvec.page.text import listed
from tuningvec.paper import audit
from tuningvec.verdict import Kind

Executed = Iterable[tuple[Page, NotebookNode]]
CASES = re.compile(r" in \d+ cases$")
FIGURE = "fig-front"
CAPTION = (
    "Subspace alignment (SSA) of tuning vectors by kind of matrix, mean over layers, beside what a vector that knows "
    "nothing of $W$ has (bars; for the paper's models the most that the matrix's shape allows). What tells of "
    "fine-tuning is the distance from the bar, not the height."
)


class Headline(BaseModel, extra="forbid", frozen=True):
    """A finding that a bottom line rests on, in the words of its page, its name, and what each verdict comes to."""

    finding: str
    name: str
    says: dict[Kind, str]

    def clause(self, kind: Kind) -> str:
        """What a verdict of this kind comes to; a claim without a direction differs where another is reversed."""
        return self.says.get(kind) or self.says["reversed"]


class Five(BaseModel, extra="forbid", frozen=True):
    """One of the paper's five claims: its words, its chapter, the pages that measure it, and its headlines."""

    claim: str
    chapter: str
    pages: list[str]
    headlines: list[Headline]


@cache
def five_claims() -> list[Five]:
    """The claims of `claims.yaml`."""
    file = Path(__file__).with_name("claims.yaml")
    return TypeAdapter(list[Five]).validate_python(yaml.safe_load(file.read_text(encoding="utf-8")))


def front(notebooks: Sequence[tuple[Page, NotebookNode]]) -> str:
    """What was run, and a row a claim of the paper's five."""
    found = {claim.text: claim for claim in overview.claims(notebooks)}
    names = overview.titles(list(found.values()))
    names = {page.folder: names[page.folder] for page, _ in notebooks if page.family and page.folder in names}
    head = ["The paper claims", "Its own numbers", *names.values(), "Bottom line"]
    lines = [_run(notebooks), "", ":::{container} front", "", row(*head), row(*["---"] * len(head))]
    for five in five_claims():
        shown = {h.name: found[h.finding] for h in five.headlines if h.finding in found}
        cells = [f"**{five.claim}** ({five.chapter})", _own(list(shown.values()))]
        cells += [_measured(shown, folder, title) for folder, title in names.items()]
        lines.append(row(*cells, _bottom(five, found, names)))
    return "\n".join([*lines, "", ":::"]) + "\n"


def findings(notebooks: Sequence[tuple[Page, NotebookNode]]) -> str:
    """All findings under the claim that they are about, with their effects, then the controls; not open questions."""
    every = [claim for claim in overview.claims(notebooks) if claim.number not in overview.QUESTIONS]
    groups: dict[str, list[Claim]] = {five.claim: [] for five in five_claims()} | {"Further pages": []}
    for claim in (claim for claim in every if not claim.control):
        groups[next((five.claim for five in five_claims() if claim.number in five.pages), "Further pages")].append(
            claim
        )
    lines = []
    for title, some in groups.items():
        lines += [f"### {title}", "", *overview.table(some), ""] if some else []
    if controls := [claim for claim in every if claim.control]:
        told = "What the paper does not ask, and what its claims have to stand beside."
        body = overview.table(controls)
        lines += ["### Controls", "", told, "", f"::::{{dropdown}} Controls: {len(controls)}", *body, "::::"]
    return "\n".join(lines) + "\n"


def figure(notebooks: Executed, files: reading.Files) -> str:
    """SSA beside its nulls, the paper's and each family's, written into the files; empty where no page measures it."""
    ours = []
    for page, notebook in notebooks:
        for about in (output.get("metadata", {}) for cell in notebook.cells for output in cell.get("outputs", [])):
            if page.family and about.get(tables.NAME) == f"tab-ssa-{page.folder}":
                ours.append(pd.read_csv(io.StringIO(about[tables.CSV])).assign(family=page.family.title))
    if not ours:
        return ""
    figures.style()
    drawn = plots.front(pd.concat(ours), audit.shape_bound())
    data, about = figures.bundle(drawn)
    data |= {reading.SVG: print_figure(drawn, "svg", metadata={"Date": None})}
    return f"\n{files.figure(FIGURE, CAPTION, about[figures.ALT], data)}\n"


def _run(notebooks: Executed) -> str:
    """What was run: the first sentence of each family's summary."""
    families = {page.family.title: page.family.summary for page, _ in notebooks if page.family}
    each = [f"**{title}**, {_first(summary)}" for title, summary in families.items()]
    return f"Measured here on {'; '.join(each)}."


def _first(text: str) -> str:
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:]


def _own(shown: Sequence[Claim]) -> str:
    """What the paper's own numbers say of the headlines that the audit judges: its words, and the verdicts."""
    audited = {
        claim.paper: " ".join(overview.verdict(page, line) for page, line in claim.audited)
        for claim in shown
        if claim.audited
    }
    return "<br>".join(f"{paper} {verdicts}" for paper, verdicts in audited.items()) or "–"


def _measured(shown: Mapping[str, Claim], folder: str, title: str) -> str:
    """A family's verdicts on the headlines, with the effects; its name is for phones, where columns are no more."""
    found = {name: claim.found[folder] for name, claim in shown.items() if folder in claim.found}
    cells = [f"{name} {overview.verdict(page, one)} {_told(one)}" for name, (page, one) in found.items()]
    return f"[{title}]{{.on-phone}}" + ("<br>".join(cells) or "–")


def _told(one: Mapping[str, Any]) -> str:
    """The effect that a verdict rests on; of a mixed one how many cases go which way."""
    counts = one["verdict"].removeprefix(badge(one["kind"])).strip()[1:-1].removeprefix("for the claim: ")
    return counts if one["kind"] == "mixed" and counts else CASES.sub("", one["effect"])


def _bottom(five: Five, found: Mapping[str, Claim], names: Mapping[str, str]) -> str:
    """What all families came to, then of each family, or of those that came to the same, what they did not share."""
    came: dict[str, list[str]] = {title: [] for title in names.values()}
    shared = []
    for headline in (headline for headline in five.headlines if headline.finding in found):
        of = found[headline.finding].found
        said = {title: headline.clause(of[name][1]["kind"]) for name, title in names.items() if name in of}
        if len({*said.values()}) == 1 and len(said) == len(names):
            shared += {*said.values()}
            continue
        for title, clause in said.items():
            came[title].append(clause)
    apart: dict[str, list[str]] = {}
    for title, clauses in came.items():
        apart.setdefault("; ".join(clauses), []).append(title)
    own = [f"*{listed(titles)}*: {clauses}." for clauses, titles in apart.items() if clauses]
    return " ".join([*map(_sentence, shared), *own]) or "–"


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
