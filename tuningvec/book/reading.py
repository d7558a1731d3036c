"""An executed page as a reader wants it: verdicts first, code folded, data beside each table and figure."""

import ast
import base64
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from docutils.nodes import make_id
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from tuningvec.page import figures, finding, tables

HEADING = re.compile(r"^# .+$", re.MULTILINE)
ADMONITION = "::::{admonition} "
SVG, PDF, DATA = "image/svg+xml", "application/pdf", "text/csv"
WORDS = 48  # characters of a claim in the label of its finding
CAPTION = 2  # which argument of `tables.show` is the caption
MARKS = re.compile(r"\\[a-z]+|[^\w\s-]")  # commands and signs of formulas


def anchor(folder: str, number: str, claim: str) -> str:
    """The label of a finding: folder and number of its page, the first words of its claim, and a checksum of it."""
    words = make_id(MARKS.sub("", claim))[:WORDS].rstrip("-")
    return f"{make_id(f'finding {folder} {number}')}-{words}-{hashlib.sha256(claim.encode()).hexdigest()[:4]}"


@dataclass(frozen=True)
class Files:
    """A folder of what is written beside the texts in the folder `base`."""

    folder: Path
    base: Path

    def written(self, name: str, kind: str, data: bytes) -> str:
        """The file of that name and kind, relative to the base, after writing it."""
        file = self.folder / f"{name}.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file.relative_to(self.base).as_posix()

    def figure(self, name: str, caption: str, alt: str, data: Mapping[str, str]) -> str:
        """A figure of a picture, with links to its data and to it as PDF where an output carries them."""
        picture = self.written(name, "svg", data[SVG].encode())
        links = [self.written(name, "csv", data[DATA].encode())] if DATA in data else []
        links += [self.written(name, "pdf", base64.b64decode(data[PDF]))] if PDF in data else []
        options = yaml.safe_dump(dict(name=name, alt=" ".join(alt.split())), allow_unicode=True, width=math.inf)
        return f":::{{figure}} {picture}\n---\n{options}---\n{caption}\n:::\n\n{reach(*links)}"


def reach(*files: str) -> str:
    """Links to what is written beside a table or a figure."""
    named = (f"{{download}}`{Path(file).suffix[1:].upper()} <{file}>`" for file in files)
    return f"::::{{container}} reach\n{' '.join(named)}\n::::" if files else ""


def _joined(cells: Iterable[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells, with code that follows on code and shows nothing as one fold."""
    last = None
    for cell in cells:
        if (
            last is not None
            and all(one.cell_type == "code" and _folds(one) for one in (last, cell))
            and not last.outputs
        ):
            last.source, last.outputs = f"{last.source}\n\n{cell.source}", cell.outputs
            continue
        if last is not None:
            yield last
        last = cell
    if last is not None:
        yield last


def _folds(cell: NotebookNode) -> bool:
    return cell.metadata.get("mystnb", {}).get("code_prompt_show") == "Code"


class Reading:
    """One page: `notebook` is as it was executed, `files` what is written beside it.

    `label` is a page's folder and number, and `about` the lines on how it was run.
    """

    def __init__(self, notebook: NotebookNode, files: Files, label: tuple[str, str], about: str) -> None:
        self.notebook, self.files, self.label, self.about = notebook, files, label, about
        self.findings: list[tuple[dict[str, Any], str]] = []
        self.compared: list[str] = []
        self.provenance: list[str] = []

    def cells(self) -> list[NotebookNode]:
        """Heading and notices, verdicts, the page with its code folded, and at the end how it was made."""
        first, *rest = self.notebook.cells
        heading = HEADING.search(first.source)
        head, question = (
            (first.source[: heading.end()], first.source[heading.end() :]) if heading else ("", first.source)
        )
        shown = list(itertools.chain.from_iterable(map(self._shown, rest)))  # which finds the findings
        body = [new_markdown_cell(question.strip()), *shown] if question.strip() else shown
        cells = [new_markdown_cell(head.strip()), *map(new_markdown_cell, self._verdicts()), *body]
        return [*_joined(cell for cell in cells if cell.source), new_markdown_cell(self._made())]

    def _shown(self, cell: NotebookNode) -> Iterator[NotebookNode]:
        """A cell as the page shows it: what it displays, and its code folded below."""
        if cell.cell_type != "code":
            yield cell
            return
        figure, left = cell.metadata.get("mystnb", {}), []
        for output in cell.outputs:
            text = output.get("data", {}).get("text/markdown")
            if output.get("name") == "stderr" or self._elsewhere(output, text):
                continue
            if text is not None:
                yield new_markdown_cell(text + self._beside_table(output))
            elif SVG in output.get("data", {}) and "figure" in figure:
                yield new_markdown_cell(self._figure(output, figure))
            else:
                left.append(output)
        cell.outputs, cell.source = left, without_captions(cell.source)
        tags, gone = cell.metadata.get("tags", []), {"remove-cell", "remove-input"}
        if not gone & set(tags):
            cell.metadata["tags"] = [*tags, "hide-input"]
            cell.metadata["mystnb"] = {"code_prompt_show": "Parameters" if "injected-parameters" in tags else "Code"}
        if left or "remove-cell" not in tags:
            yield cell

    def _elsewhere(self, output: NotebookNode, text: str | None) -> bool:
        """Whether an output stands at another place of the page, for which it is kept."""
        about = output.get("metadata", {})
        if finding.KEY in about:
            self.findings.append((json.loads(about[finding.KEY]), text))
        elif finding.COMPARED in about:
            self.compared.append(text)
        elif tables.PROVENANCE in about:
            self.provenance.append(text)
        return bool({finding.KEY, finding.COMPARED, tables.PROVENANCE} & set(about))

    def _beside_table(self, output: NotebookNode) -> str:
        """A link to the table as CSV."""
        about = output.get("metadata", {})
        if tables.CSV not in about:
            return ""
        return f"\n\n{reach(self.files.written(about[tables.NAME], 'csv', about[tables.CSV].encode()))}"

    def _figure(self, output: NotebookNode, told: NotebookNode) -> str:
        alt = output.metadata.get(figures.ALT, "")
        return self.files.figure(told.figure.name, told.figure.caption, alt, output.data)

    def _verdicts(self) -> list[str]:
        """The paper's claims in full, the other findings folded, and how many comparisons they all made."""
        if not self.findings:
            return []
        claims, others = ([text for control, text in self._labelled() if control is which] for which in (False, True))
        if claims and others:
            others = ["\n\n".join([f":::::{{dropdown}} Controls: {len(others)}", *others, ":::::"])]
        return ["## What was found", *claims, *others, *self.compared]

    def _labelled(self) -> Iterator[tuple[bool, str]]:
        """Each finding with an anchor that its title links to; one that is no claim of the paper's is a fold."""
        for record, text in self.findings:
            name, claim, control = anchor(*self.label, record["claim"]), record["claim"], record["control"]
            head, (_, _, body) = f"{ADMONITION}{claim}", text.partition("\n:class: finding\n")
            told = " ".join([finding.badge(record["kind"]), record["effect"]]).strip()
            title = f"::::{{dropdown}} {claim} {told}" if control else f"{head} [¶](#{name}){{.headerlink}}"
            named = f":name: {name}\n:class-container: finding" if control else f":name: {name}\n:class: finding"
            yield control, f"{title}\n{named}\n{body}"

    def _made(self) -> str:
        """When and from what the page was computed, and how to run it again, folded."""
        return "\n\n".join([":::::{dropdown} How this page was made", self.about, *self.provenance, ":::::"])


def without_captions(code: str) -> str:
    """Code with `...` for the captions of `tables.show`, which stand at their tables; with magics, code as it is."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return code
    lines = code.encode().splitlines(keepends=True)
    starts = [0, *itertools.accumulate(map(len, lines))]
    text = b"".join(lines)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) > CAPTION]
    shows = [call for call in calls if ast.unparse(call.func) == "tables.show"]
    for call in sorted(shows, key=lambda call: -call.lineno):
        caption = call.args[CAPTION]
        start = starts[caption.lineno - 1] + caption.col_offset
        text = text[:start] + b"..." + text[starts[caption.end_lineno - 1] + caption.end_col_offset :]
    return text.decode()
