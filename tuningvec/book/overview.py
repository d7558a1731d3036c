"""Every claim against every family, from the verdicts that the pages recorded: a row a claim, a column a family."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbformat import NotebookNode

from tuningvec.book.compendium import Page, recorded
from tuningvec.book.reading import anchor
from tuningvec.page import finding
from tuningvec.page.finding import badge

GROUPS = {
    "02": "Neurons (§2)",
    "03": "Tuning vectors (§3)",
    "04": "Subspaces (§4)",
    "06": "Ways of tuning",
    "07": "Pairs that others measured",
}
QUESTIONS = {
    "06_1": "Is fine-tuning linearly connected?",
    "06_2": "Would matching neurons show more agreement?",
    "06_3": "What composes better than a sum?",
    "06_4": "Does it help to tune along the directions of T?",
    "06_5": "Why do vectors from instruct models resist negation?",
}
Executed = Iterable[tuple[Page, NotebookNode]]


@dataclass
class Claim:
    """A claim on the pages of one number: what the paper says, and what was found, by family."""

    number: str
    text: str
    paper: str
    control: bool
    found: dict[str, tuple[Page, dict[str, Any]]] = field(default_factory=dict)
    audited: list[tuple[Page, dict[str, Any]]] = field(default_factory=list)


def claims(notebooks: Executed) -> list[Claim]:
    """The claims of all pages in the pages' order; those of the audit's lines that are about one stand beside it."""
    notebooks = list(notebooks)
    found: dict[tuple[str, str], Claim] = {}
    for page, one in recorded(notebooks, finding.KEY):
        new = Claim(page.number, one["claim"], one["paper"], one["control"])
        found.setdefault((page.number, one["claim"]), new).found[page.folder] = page, one
    for page, lines in recorded(notebooks, finding.AUDITED):
        for line in (line for line in lines if line["of"]):
            for claim in (claim for (_, text), claim in found.items() if text == line["of"]):
                claim.audited.append((page, line))
    return sorted(found.values(), key=lambda claim: claim.number)


def titles(some: Sequence[Claim]) -> dict[str, str]:
    """The families that some claim was judged on, by name, as the reader knows them."""
    pages = [page for claim in some for page, _ in claim.found.values()]
    return {page.folder: page.family.title if page.family else "the paper's own models" for page in pages}


def overview(notebooks: Executed) -> str:
    """The page: the open questions with their answers, then every claim, then every control, each by family."""
    found = claims(notebooks)
    asked, every = ([c for c in found if (c.number in QUESTIONS) == is_open] for is_open in (True, False))
    lines = ["(page-overview)=", "# Every claim, every family", ""]
    if asked:
        lines += ["## Open questions and their answers", "", *_answers(asked)]
    told = "Each cell holds the verdict, a link to where it stands, and the effect that it rests on. "
    lines += ["## Claims", "", told + "An empty cell: the family cannot be asked, and its page says why.", ""]
    lines += _by_group([claim for claim in every if not claim.control], with_effect, paper=True)
    lines += ["## Controls", "", "What the paper does not ask, and what its claims have to stand beside.", ""]
    lines += _by_group([claim for claim in every if claim.control], with_effect, paper=False)
    return "\n".join(lines) + "\n"


def _answers(asked: Sequence[Claim]) -> list[str]:
    """A row a claim and family, by question: the answer, what it rests on, and what stays undecided."""
    names, lines = titles(asked), []
    for number, question in QUESTIONS.items():
        if not (some := [claim for claim in asked if claim.number == number]):
            continue
        lines += [
            f"### {question}",
            "",
            "| Claim | Family | Answer | Evidence | Not decided |",
            "|---|---|---|---|---|",
        ]
        for claim in some:
            for folder, (page, one) in claim.found.items():
                evidence = "; ".join(filter(None, [one["effect"], one["here"]]))
                cells = [claim.text, names[folder], verdict(page, one), evidence, one["open"] or "nothing"]
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _by_group(some: Sequence[Claim], cell: Any, paper: bool) -> list[str]:
    lines = []
    for prefix, title in GROUPS.items():
        if of := [claim for claim in some if claim.number.startswith(prefix)]:
            lines += [f"### {title}", "", *table(of, cell, paper), ""]
    return lines


def table(some: Sequence[Claim], cell: Any, paper: bool) -> list[str]:
    """A row a claim, a column a family, each cell by `cell`; the paper's words and the audit's verdicts beside it."""
    families, audit = titles(some), any(claim.audited for claim in some)
    head = ["Claim", *["Paper"] * paper, *["Its own numbers"] * audit, *families.values()]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for claim in some:
        own = ", ".join(verdict(page, line) for page, line in claim.audited) or "–"
        cells = [claim.text, *[claim.paper] * paper, *[own] * audit]
        cells += [cell(*claim.found[name]) if name in claim.found else "" for name in families]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdict(page: Page, one: Mapping[str, Any]) -> str:
    """The verdict as a coloured link to where it stands: a finding, or a section of the audit."""
    label = f"sec-audit-{one['section']}" if "section" in one else anchor(page.folder, page.number, one["claim"])
    return badge(one["kind"], f"{{ref}}`{one['kind']} <{label}>`")


def with_effect(page: Page, one: Mapping[str, Any]) -> str:
    """The verdict with the effect that it rests on."""
    return "<br>".join(filter(None, [verdict(page, one), one["effect"]]))
