"""Every claim against every family, from the verdicts that the pages recorded, and the page of open questions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbformat import NotebookNode

from tuningvec.book.compendium import Page, recorded, row
from tuningvec.book.reading import anchor
from tuningvec.page import finding
from tuningvec.page.finding import badge

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
    """The page of open questions: a row a claim and family, with the answer, its effect, and what stays undecided."""
    asked = [claim for claim in claims(notebooks) if claim.number in QUESTIONS]
    told = "The paper leaves these open. Each answer leads to the finding that it belongs to."
    lines, names = ["(page-overview)=", "# Open questions", "", told, ""], titles(asked)
    for number, question in QUESTIONS.items():
        if not (some := [claim for claim in asked if claim.number == number]):
            continue
        lines += [f"## {question}", "", "| Claim | Family | Answer | Not decided |", "|---|---|---|---|"]
        for claim in some:
            for folder, (page, one) in claim.found.items():
                cells = [claim.text, names[folder], with_effect(page, one), one["open"] or "nothing"]
                lines.append(row(*cells))
        lines.append("")
    return "\n".join(lines)


def table(some: Sequence[Claim]) -> list[str]:
    """A row a claim, a column a family, with verdicts and effects; those of the audit beside them."""
    families, audit = titles(some), any(claim.audited for claim in some)
    head = ["Claim", *["Its own numbers"] * audit, *families.values()]
    lines = [row(*head), "|---" * len(head) + "|"]
    for claim in some:
        own = " ".join(verdict(page, line) for page, line in claim.audited) or "–"
        cells = [claim.text, *[own] * audit]
        cells += [with_effect(*claim.found[name]) if name in claim.found else "" for name in families]
        lines.append(row(*cells))
    return lines


def verdict(page: Page, one: Mapping[str, Any]) -> str:
    """The verdict as a coloured link to where it stands: a finding, or a section of the audit."""
    label = f"sec-audit-{one['section']}" if "section" in one else anchor(page.folder, page.number, one["claim"])
    return badge(one["kind"], f"{{ref}}`{one['kind']} <{label}>`")


def with_effect(page: Page, one: Mapping[str, Any]) -> str:
    """The verdict with the effect that it rests on."""
    return "<br>".join(filter(None, [verdict(page, one), one["effect"]]))
