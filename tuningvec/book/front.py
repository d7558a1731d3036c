"""The front page: the paper's five claims, what its own numbers say of each, what was measured, and a bottom line."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from IPython.core.pylabtools import print_figure
from nbformat import NotebookNode

from tuningvec.book import overview, reading
from tuningvec.book.compendium import Page
from tuningvec.book.overview import Claim
from tuningvec.page import figures, plots, tables
from tuningvec.page.text import listed
from tuningvec.paper import audit
from tuningvec.verdict import Kind

Executed = Iterable[tuple[Page, NotebookNode]]
UNDECIDED: dict[Kind, str] = {
    "within chance": "nothing is seen beyond chance",
    "cannot be known here": "it cannot be known",
}
CASES = re.compile(r" in \d+ cases$")
FIGURE = "fig-front"
CAPTION = (
    "Subspace alignment (SSA) of tuning vectors by kind of matrix, mean over layers, beside what a vector that knows "
    "nothing of $W$ has (bars; for the paper's models the most that the matrix's shape allows). What tells of "
    "fine-tuning is the distance from the bar, not the height."
)


@dataclass(frozen=True)
class Headline:
    """A finding that a bottom line rests on, in the words of its page, and what each verdict on it comes to."""

    claim: str
    says: Mapping[Kind, str]

    def clause(self, kind: Kind) -> str:
        """What a verdict of this kind comes to; a claim without a direction differs where another is reversed."""
        return self.says.get(kind) or UNDECIDED.get(kind) or self.says["reversed"]


@dataclass(frozen=True)
class Five:
    """One of the paper's five claims: its words, its chapter, the pages that measure it, and its headlines."""

    words: str
    chapter: str
    pages: tuple[str, ...]
    headlines: tuple[Headline, ...]


CLAIMS = (
    Five(
        "Fine-tuning moves the weights little",
        "{ref}`§2 <ch-neurons>`",
        ("02_4", "07"),
        (
            Headline(
                "Fine-tuning leaves the weights nearly parallel to the pretrained ones",
                {
                    "holds": "the weights stay nearly parallel",
                    "reversed": "the weights turn further than what counts as nearly parallel",
                    "mixed": "that the weights stay nearly parallel is shown for some models alone",
                    "null explains it": "the angles lie on the line that is drawn for nearly parallel",
                },
            ),
            Headline(
                "A cosine near 1 says more than how short the move is",
                {
                    "holds": "the cosine says more than how short the move is",
                    "reversed": "the cosine says less than the length of the move",
                    "mixed": "that a cosine says more than how short the move is, is shown for some models alone",
                    "null explains it": "a cosine near 1 says only that the move is short",
                },
            ),
        ),
    ),
    Five(
        "The same neurons are active before and after, and the most active ones decide",
        "{ref}`§2 <ch-neurons>`",
        ("02_1", "02_2", "02_3", "02_5"),
        (
            Headline(
                "Fine-tuning changes the pattern of active neurons little",
                {
                    "holds": "the pattern of active neurons changes little",
                    "reversed": "the pattern of active neurons changes much",
                    "mixed": "the pattern of active neurons is shown to change little in some cases alone",
                    "null explains it": "the pattern changes as much as counts as little",
                },
            ),
            Headline(
                "Ablating the most active neurons lowers performance",
                {
                    "holds": "without the most active neurons the scores fall",
                    "reversed": "without the most active neurons the scores rise",
                    "mixed": "that the most active neurons decide is shown for some scores alone",
                    "null explains it": "ablating the most active neurons costs no more than others at random",
                    "within chance": "ablating the most active neurons costs nothing that is seen beyond chance",
                    "cannot be known here": "what ablation costs cannot be known",
                },
            ),
        ),
    ),
    Five(
        "The tuning vector $T$ carries the gain: without it the scores fall",
        "{ref}`§3 <ch-tuning-vectors>`",
        ("03_1", "03_2"),
        (
            Headline(
                "Removing the tuning vector lowers the scores",
                {
                    "holds": "without $T$ the scores fall",
                    "reversed": "without $T$ the scores rise",
                    "mixed": "without $T$ some scores fall, and others are not shown to",
                    "null explains it": "without $T$ the scores stay within what matters",
                    "within chance": "no fall without $T$ is seen beyond chance",
                    "cannot be known here": "whether the scores fall without $T$ cannot be known",
                },
            ),
            Headline(
                "What is lost without the tuning vector is lost with the weights and not by the prompt",
                {
                    "holds": "it is the weights that lose them, and not the prompt",
                    "reversed": "it is the prompt that loses them, and not the weights",
                    "mixed": "that the weights lose them, and not the prompt, is shown in some cases alone",
                    "null explains it": "weights and prompt have equal parts in it",
                    "within chance": "whether weights or prompt lose them is not seen",
                    "cannot be known here": "so there is nothing to share out between weights and prompt",
                },
            ),
        ),
    ),
    Five(
        "Vectors of different domains are nearly orthogonal, and their sum serves both",
        "{ref}`§3 <ch-tuning-vectors>`",
        ("03_3", "03_4"),
        (
            Headline(
                "Vectors of medicine are orthogonal to those of maths and code",
                {
                    "holds": "they are orthogonal",
                    "reversed": "they are not orthogonal",
                    "differs": "they are not orthogonal: the cosine is larger than what counts as none",
                    "mixed": "some pairs are orthogonal, others are not shown to be",
                    "null explains it": "their cosines are within what matters",
                },
            ),
            Headline(
                "The sum is better on medicine than the vector of maths alone, and on maths than that of medicine",
                {
                    "holds": "the sum is better on each domain than the other domain's vector",
                    "reversed": "the sum is worse on each domain than the other domain's vector",
                    "mixed": "that the sum is better than the other domain's vector is shown in some cases alone",
                    "null explains it": "the sum is no better than the other domain's vector",
                    "within chance": "that the sum is better than the other domain's vector is not seen",
                    "cannot be known here": "whether the sum is better cannot be known",
                },
            ),
        ),
    ),
    Five(
        "Attention amplifies directions that $W$ has; the MLP writes new ones",
        "{ref}`§4 <ch-subspaces>`",
        ("04_1", "04_2"),
        (
            Headline(
                "Attention is better aligned than the MLP, which gets more new directions",
                {
                    "holds": "beyond chance, too, the MLP gets more new directions",
                    "reversed": "beyond chance it is attention that gets more new directions",
                    "mixed": "that the MLP gets more new directions than chance gives is shown for some vectors alone",
                    "null explains it": "the shapes of the matrices explain the difference",
                },
            ),
            Headline(
                r"Most orthogonal energy is concentrated in $W_\text{gate}$ and $W_\text{up}$",
                {
                    "holds": "and most orthogonal energy is in gate and up",
                    "reversed": "most orthogonal energy is elsewhere than in gate and up",
                    "differs": "most orthogonal energy is elsewhere than in gate and up",
                    "mixed": "that most orthogonal energy is in gate and up is shown for some vectors alone",
                    "null explains it": "but where the orthogonal energy lies follows from shape alone",
                    "within chance": "where orthogonal energy concentrates is not seen beyond chance",
                    "cannot be known here": "where orthogonal energy concentrates cannot be known",
                },
            ),
        ),
    ),
)


def front(notebooks: Sequence[tuple[Page, NotebookNode]]) -> str:
    """What was run, and a row a claim of the paper's five."""
    found = {claim.text: claim for claim in overview.claims(notebooks) if not claim.control}
    names = overview.titles(list(found.values()))
    names = {page.folder: names[page.folder] for page, _ in notebooks if page.family and page.folder in names}
    head = ["The paper claims", "Its own numbers", *names.values(), "Bottom line"]
    lines = [_run(notebooks), "", ":::{container} front", "", _row(head), _row(["---"] * len(head))]
    for five in CLAIMS:
        shown = [found[headline.claim] for headline in five.headlines if headline.claim in found]
        cells = [f"**{five.words}** ({five.chapter})", _own(shown)]
        cells += [_measured(shown, folder, title) for folder, title in names.items()]
        lines.append(_row([*cells, _bottom(five, found, names)]))
    return "\n".join([*lines, "", ":::"]) + "\n"


def findings(notebooks: Sequence[tuple[Page, NotebookNode]]) -> str:
    """All findings under the claim that they are about, with their effects, then the controls; not open questions."""
    every = [claim for claim in overview.claims(notebooks) if claim.number not in overview.QUESTIONS]
    groups: dict[str, list[Claim]] = {five.words: [] for five in CLAIMS} | {"Further pages": []}
    for claim in (claim for claim in every if not claim.control):
        groups[next((five.words for five in CLAIMS if claim.number in five.pages), "Further pages")].append(claim)
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


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _run(notebooks: Executed) -> str:
    """What was run: the first sentence of each family's summary."""
    families = {page.family.title: page.family.summary for page, _ in notebooks if page.family}
    each = [f"**{title}**, {_first(summary)}" for title, summary in families.items()]
    return f"Measured here on {'; '.join(each)}."


def _first(text: str) -> str:
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:]


def _own(shown: Sequence[Claim]) -> str:
    """What the paper's own numbers say: its words on the first headline, and the audit's verdicts."""
    verdicts = [overview.verdict(page, line) for claim in shown for page, line in claim.audited]
    return "<br>".join(filter(None, [shown[0].paper if shown else "–", " ".join(verdicts)]))


def _measured(shown: Sequence[Claim], folder: str, title: str) -> str:
    """A family's verdicts on the headlines, with the effects; its name is for phones, where columns are no more."""
    found = [claim.found[folder] for claim in shown if folder in claim.found]
    cells = [f"{overview.verdict(page, one)} {CASES.sub('', one['effect'])}" for page, one in found]
    return f"[{title}]{{.on-phone}}" + ("<br>".join(cells) or "–")


def _bottom(five: Five, found: Mapping[str, Claim], names: Mapping[str, str]) -> str:
    """A sentence for all families that came to the same."""
    came: dict[str, list[str]] = {}
    for folder, title in names.items():
        clauses = [
            headline.clause(found[headline.claim].found[folder][1]["kind"])
            for headline in five.headlines
            if headline.claim in found and folder in found[headline.claim].found
        ]
        if clauses:
            came.setdefault("; ".join(clauses), []).append(title)
    if len(came) == 1:
        (sentence,) = came
        return f"{sentence[0].upper()}{sentence[1:]}."
    return "<br>".join(f"*{listed(titles)}*: {sentence}." for sentence, titles in came.items()) or "–"
