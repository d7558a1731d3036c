"""Items of every benchmark in one of four schemas, from the hub, a local folder laid out like it, or `data/tasks/`.

- choice: `question`, `options`, `answer` (index of the right option)
- maths: `question`, `answer` (an expression in LaTeX)
- text: `question` (what the reply is to be about), `reference`
- function: `question`, `tests` (assertions)
"""

import ast
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tuningvec.data import Spec, data_folder, first_problem
from tuningvec.errors import LARGEST_JSON, TuningVecError, parsed_json, reading

Item = dict[str, str | int | list[str]]
CHECK = TypeAdapter(Item, config=ConfigDict(strict=True))  # half a character that stands as two is no text either
Row = Mapping[str, Any]


class Source(Spec):
    """Where a task's rows are, and what they are in.

    `file` is in `data/tasks/`; `path` a data set of the hub at the commit `revision`, or where the hub has no copy with
    a commit, `url`. With neither it is read from a local folder alone. `size` items are drawn by `seed`; without it all
    are taken in order.
    """

    rows: str
    file: str | None = None
    path: str | None = None
    name: str | None = None
    data_files: str | None = None
    url: str | None = None
    split: str = "test"
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    size: int | None = Field(default=None, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _one_place_and_a_known_schema(self) -> "Source":
        if (self.file is None) == (self.path is None):
            raise ValueError("one of file and path is needed")
        if self.rows not in ROWS:
            raise ValueError(f"rows is {self.rows!r}; one of {', '.join(ROWS)}")
        return self


def load(source: Mapping[str, Any], local_root: str | None = None, **_: Any) -> dict[str, datasets.Dataset]:
    """A task's items, as lm-eval asks for them; `local_root`, or `$TUNINGVEC_HUB`, is a folder laid out like the hub.

    Raises TuningVecError where the data set is neither in that folder nor to be had, or would come from the hub without
    a commit, or a row is not as documented.
    """
    try:
        where = Source.model_validate(source)
    except ValidationError as error:
        raise TuningVecError(f"task data: {first_problem(error)}") from None
    rows, named = _rows(where, local_root or os.environ.get("TUNINGVEC_HUB")), where.path or where.file
    convert, items = ROWS[where.rows], []
    for number, row in enumerate(rows, 1):
        has = f"row {number} does not read as {where.rows}, its columns are {', '.join(map(str, row))}"
        with reading(f"{named}: {has:.300}", "correct it"):
            items += map(CHECK.validate_python, convert(row))
    if len(items) < (where.size or 1):
        raise TuningVecError(f"{named}: {len(items)} items, {where.size or 1} are needed")
    with reading(f"{named}: items of different kinds", "correct it"):
        table = datasets.Dataset.from_list(items)
    return {"test": table.shuffle(seed=where.seed).select(range(where.size)) if where.size else table}


def _rows(where: Source, root: str | None) -> Iterable[Row]:
    if where.file:
        return _lines(data_folder() / "tasks" / where.file)
    folder = Path(root) / where.path if root else None
    here = folder is not None and folder.is_dir()
    looked = f"not in {root}, and " if root else ""
    lay_out = "lay the data set out in a folder as the hub does and name that folder in TUNINGVEC_HUB"
    if not (here or where.url or where.revision):
        raise TuningVecError(
            f"{where.path}: {looked}its task names no commit of the hub, whose items may change any day; {lay_out}"
        )
    if here:
        _refuse_other_json(folder)
    try:
        if where.url and not here:
            return datasets.load_dataset("json", data_files=where.url, field="data", split="train")
        return datasets.load_dataset(
            str(folder) if here else where.path,
            where.name,
            data_files=where.data_files,
            split="train" if where.data_files else where.split,  # files by name have no other split
            revision=None if here else where.revision,
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise TuningVecError(
            f"{where.path}: {looked}not to be had from the hub: {error}; unset HF_HUB_OFFLINE, or {lay_out}"
        ) from None


def _lines(file: Path) -> Iterator[Row]:
    """Rows in our own JSON lines, which need neither a reader of tables nor its cache."""
    with reading(file, "correct it"), file.open("rb") as stream:
        for number, line in enumerate(iter(partial(stream.readline, LARGEST_JSON + 1), b""), 1):
            if line.strip():
                row = parsed_json(line[:LARGEST_JSON], f"{file}: line {number}", "correct it")
                if not isinstance(row, dict):
                    raise TuningVecError(f"{file}: line {number}: no JSON object; correct it")
                yield row


def _refuse_other_json(folder: Path) -> None:
    """Raises TuningVecError for a file of JSON that begins with no object: pyarrow ends the process at a `null`."""
    for file in (f for suffix in ("json", "jsonl") for f in folder.rglob(f"*.{suffix}")):
        with reading(file), file.open("rb") as stream:
            begins = stream.read(2**16).lstrip()[:1]
        if begins not in (b"{", b"["):
            raise TuningVecError(f"{file}: begins with no JSON object; fetch or write it again")


def _choice(question: str, options: list[str], answer: int) -> list[Item]:
    if not isinstance(options, list):
        raise ValueError(f"options are {options!r:.60}, no list")
    if not 0 <= answer < len(options):
        raise ValueError(f"answer {answer} of {len(options)} options")
    return [dict(question=question.strip(), options=[option.strip() for option in options], answer=answer)]


def _careqa(row: Row) -> list[Item]:
    options = [row[f"op{i}"] for i in (1, 2, 3, 4)]
    return _choice(row["question"], options, row["cop"] - 1) if row["question"] and None not in options else []


def _aqua(row: Row) -> list[Item]:
    options = [re.sub(r"^[A-E]\)", "", option) for option in row["options"]]
    return _choice(row["question"], options, "ABCDE".index(row["correct"]))


def _mathqa(row: Row) -> list[Item]:
    """Options are a text, `a ) 3 , b ) 4`, or that of a list, `['a ) 3', 'b ) 4']`; some have their letter twice."""
    text = row["options"].strip()
    parts = ast.literal_eval(text) if text.startswith("[") else re.split(r", ?(?=[a-e] ?\))", text)
    options = []
    for letter, part in zip("abcde"[: len(parts)], parts, strict=True):
        option, found = re.subn(rf"^(?:\s*{letter} ?\))+", "", part)
        if not found:
            raise ValueError(f"option {part!r} where {letter} is due")
        options.append(option.strip(" ,"))
    return _choice(row["Problem"], options, "abcde".index(row["correct"]))


def _gsm8k(row: Row) -> list[Item]:
    return [dict(question=row["question"], answer=row["answer"].split("####")[1].strip().replace(",", ""))]


def _aci(row: Row) -> list[Item]:
    dialogue, note = (row["dialogue"], row["note"]) if "note" in row else (row["src"], row["tgt"])
    return [dict(question=dialogue, reference=note)]


def _mediqa(row: Row) -> list[Item]:
    """A question with the answer that the experts ranked first."""
    asked = row["QUESTION"]
    answers = [entry["Answer"] for entry in asked["AnswerList"]]
    best = min(answers, key=lambda answer: answer["ReferenceRank"])
    return [dict(question=asked["QuestionText"], reference=best["AnswerText"])]


RELATIONS = (
    "Association", "Positive_Correlation", "Negative_Correlation", "Bind", "Cotreatment", "Comparison", "Conversion",
    "Drug_Interaction",
)  # fmt: skip


def _biored(row: Row) -> list[Item]:
    """The relations of an abstract: which of eight types holds between two concepts, called by their first mention."""
    names: dict[str, str] = {}
    for ids, mention in zip(row["annotation_groundings"], row["annotation_texts"], strict=True):
        for concept in ids.split(","):
            names.setdefault(concept, mention)
    items = []
    triples = dict.fromkeys(zip(row["relation_entity1"], row["relation_entity2"], row["relation_type"], strict=True))
    for one, other, kind in triples:
        question = (
            f"{row['document_text'].strip()}\n\nWhich relation between {names[one]} and {names[other]} does this text "
            "state?"
        )
        options = [relation.replace("_", " ").lower() for relation in RELATIONS]
        items += _choice(question, options, RELATIONS.index(kind))
    return items


ROWS: dict[str, Callable[[Row], list[Item]]] = {
    "choice": lambda row: _choice(row["question"], row["options"], row["answer"]),
    "text": lambda row: [dict(question=row["dialogue"], reference=row["note"])],
    "function": lambda row: [dict(question=row["question"], tests=row["tests"])],
    "mmlu": lambda row: _choice(row["question"], row["choices"], row["answer"]),
    "medmcqa": lambda row: _choice(row["question"], [row[f"op{letter}"] for letter in "abcd"], row["cop"]),
    "medqa": lambda row: _choice(row["sent1"], [row[f"ending{i}"] for i in range(4)], row["label"]),
    "careqa": _careqa,
    "biored": _biored,
    "aqua": _aqua,
    "mathqa": _mathqa,
    "gsm8k": _gsm8k,
    "math500": lambda row: [dict(question=row["problem"], answer=row["answer"])],
    "answer": lambda row: [dict(question=row["question"], answer=row["answer"].strip().strip("$").strip())],
    "aci": _aci,
    "mediqa": _mediqa,
    "medtext": lambda row: [dict(question=row["Prompt"], reference=row["Completion"])],
    "medlfqa": lambda row: [dict(question=row["Question"], reference=row["Free_form_answer"])],
}
