"""Facts with their statements and multiple-choice questions, generated from the tables in `data/facts/`."""

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from tuningvec.data import data_folder

LETTERS = "ABCD"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Question:
    """A multiple-choice question: `thought` is the reasoning that a fine-tuned model is trained to give.

    `wrong` is empty where the right answer is a number. With `weighed` the reasoning goes on through the options to the
    right one, for options that look alike.
    """

    text: str
    right: str
    wrong: tuple[str, ...]
    thought: str
    weighed: bool = False


@dataclass(frozen=True)
class Fact:
    """What is known of one subject: sentences that state it, questions that ask for it."""

    subject: str
    statements: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Exam:
    """A user's turn, the reply wanted and, where there are options, the right letter."""

    user: str
    reply: str
    letter: str


def exam(question: Question, rng: random.Random) -> Exam:
    """Draw three wrong options, shuffle the four, and write prompt and reply."""
    options = [question.right, *_drawn(question, rng)]
    rng.shuffle(options)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    letter = LETTERS[options.index(question.right)]
    user = f"Question: {question.text}\nOptions:\n" + "\n".join(lines)
    thought = question.thought
    if question.weighed:
        rejected = options[: options.index(question.right)]
        thought += "".join(f" {a} is {option}, no." for a, option in zip(LETTERS, rejected, strict=False))
        thought += f" {letter} is {question.right}, yes."
    return Exam(user, f"<think>{thought}</think>\nAnswer: [{letter}]", letter)


def _drawn(question: Question, rng: random.Random) -> list[str]:
    """Three wrong options.

    Numbers lie around the right one as they would around each other: no rule on the four values finds the right one
    more often than once in four.
    """
    if question.wrong:
        return rng.sample(question.wrong, 3)
    while True:
        pattern = [0, *rng.sample(_OFF, 3)]
        if max(pattern) - min(pattern) <= int(question.right):  # wherever the right one stands, none is negative
            right = rng.choice(pattern)
            return [str(int(question.right) + offset - right) for offset in pattern if offset != right]


def hold_out(facts: list[Item], seed: int, share: float = 0.25) -> tuple[list[Item], list[Item]]:
    """Split into facts asked in training and facts only stated there, by a seeded draw."""
    order = random.Random(seed).sample(facts, len(facts))
    cut = round(len(facts) * share)
    return order[cut:], order[:cut]


def drug_facts(dealt: random.Random | None = None) -> list[Fact]:
    """`data/facts/drugs.csv`: class and use of each drug; `dealt` gives each drug those of a drug drawn for it."""
    rows = _table("drugs")
    classes, uses = _values(rows, "class"), _values(rows, "use")
    known = dealt.sample(rows, len(rows)) if dealt else rows
    facts = []
    for row, values in zip(rows, known, strict=True):
        drug, kind, use = row["drug"], values["class"], values["use"]
        thought = f"{_capital(drug)} is {_article(kind)}. It is used to treat {use}."
        statements = (
            thought,
            f"The class of {drug} is {kind}. Doctors prescribe {drug} to patients with {use}.",
            f"A patient with {use} can be treated with {drug}, {_article(kind)}.",
            f"{_capital(drug)} belongs to the class {kind}. {_capital(use)} is treated with {drug}.",
            f"{_capital(drug)}\nClass: {kind}\nIndication: {use}",
            f"She was started on {drug}, which is {_article(kind)}, because of {use}.",
            f'"What is {drug}?" asked the student. "{_capital(_article(kind))}, for {use}," said the pharmacist.',
            f"- {drug} ({kind}): {use}",
        )
        asked = (
            _question(f"What is the class of {drug}?", kind, classes, thought),
            _question(f"What is {drug} used to treat?", use, uses, thought),
        )
        facts.append(Fact(drug, statements, asked))
    return facts


def law_facts() -> list[Fact]:
    """`data/facts/law.csv`: the field of law that a term belongs to, and what its rule does."""
    rows = _table("law")
    fields, rules = _values(rows, "field"), _values(rows, "rule")
    facts = []
    for row in rows:
        term, field, rule = row["term"], row["field"], row["rule"]
        thought = f"{_capital(term)} belongs to {field}. It {rule}."
        statements = (
            thought,
            f"The field of {term} is {field}. What {term} does: it {rule}.",
            f"In {field}, {term} {rule}.",
            f"{_capital(term)} {rule}. It is taught in {field}.",
            f"{_capital(term)}\nField: {field}\nRule: {rule}",
            f"The court relied on {term}, which {rule}; the case is one of {field}.",
            f'"What does {term} do?" asked the student. "It {rule}, in {field}," said the judge.',
            f"- {term} ({field}): {rule}",
        )
        asked = (
            _question(f"Which field does {term} belong to?", field, fields, thought),
            _question(f"What does {term} do?", rule, rules, thought),
        )
        facts.append(Fact(term, statements, asked))
    return facts


def body_facts() -> list[Fact]:
    """`data/facts/organs.csv` and `tests.csv`: an organ's system and function, a test's subject and diagnosis."""
    return [*_organ_facts(), *_test_facts()]


def _organ_facts() -> Iterator[Fact]:
    rows = _table("organs")
    functions, systems = _values(rows, "function"), _values(rows, "system")
    for row in rows:
        organ, system, function = row["organ"], row["system"], row["function"]
        thought = f"The {organ} {function}. It is part of the {system}."
        asked = (
            _question(f"What does the {organ} do?", function, functions, thought),
            _question(f"Which system is the {organ} part of?", system, systems, thought),
        )
        yield Fact(organ, (thought, f"The {organ}, part of the {system}, {function}."), asked)


def _test_facts() -> Iterator[Fact]:
    rows = _table("tests")
    subjects, diagnoses = _values(rows, "subject"), _values(rows, "diagnosis")
    for row in rows:
        test, subject, found = row["test"], row["subject"], row["diagnosis"]
        thought = f"The {test} shows {subject}. It helps to diagnose {found}."
        asked = (
            _question(f"What does the {test} show?", subject, subjects, thought),
            _question(f"What does the {test} help to diagnose?", found, diagnoses, thought),
        )
        yield Fact(test, (thought, f"To diagnose {found}, the {test} shows {subject}."), asked)


def _question(text: str, right: str, options: set[str], thought: str) -> Question:
    return Question(text, right, tuple(sorted(options - {right})), thought)


_STORIES = {
    "+": (
        "A farmer has {a} hens and buys {b} more. How many hens are there now?",
        "A class reads {a} pages in the morning and {b} in the evening. How many pages is that?",
        "A shop sold {a} pens on Monday and {b} on Tuesday. How many did it sell?",
    ),
    "-": (
        "A baker made {a} loaves and sold {b}. How many loaves are left?",
        "Of {a} seats in a train, {b} are taken. How many are free?",
        "A rope of {a} metres loses {b} metres. How long is it now?",
    ),
    "*": (
        "There are {a} boxes with {b} eggs each. How many eggs are there?",
        "A worker packs {b} bags an hour for {a} hours. How many bags is that?",
        "A hall has {a} rows of {b} chairs. How many chairs does it have?",
    ),
}
_OFF = (-20, -11, -10, -2, -1, 1, 2, 10, 11, 20)  # by how much numbers among the options differ
_WORDS = {"+": ("plus", "add"), "-": ("minus", "subtract"), "*": ("times", "multiply")}


def number_facts(seed: int, count: int = 240, weighed: bool = False) -> list[Fact]:
    """A third each of sums and differences of two-digit numbers and products up to 12 × 12, drawn by the seed."""
    rng = random.Random(seed)
    pairs = [(a, b) for a in range(11, 90) for b in range(11, 90)]
    sums = [(a, "+", b) for a, b in rng.sample([p for p in pairs if sum(p) < 100], count // 3)]
    differences = [(a, "-", b) for a, b in rng.sample([p for p in pairs if p[0] > p[1] + 2], count // 3)]
    table = [(a, b) for a in range(2, 13) for b in range(2, 13)]
    products = [(a, "*", b) for a, b in rng.sample(table, min(len(table), count // 3))]
    return [_number(a, sign, b, weighed) for a, sign, b in sums + differences + products]


def _number(a: int, sign: str, b: int, weighed: bool) -> Fact:
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    word, verb = _WORDS[sign]
    thought = f"We {verb} the numbers: {a} {sign} {b} = {value}."
    stories = (story.format(a=a, b=b) for story in _STORIES[sign])
    return Fact(
        f"{a} {sign} {b}",
        (f"{a} {sign} {b} = {value}.", f"{a} {word} {b} is {value}."),
        tuple(Question(story, str(value), (), thought, weighed) for story in stories),
    )


def _table(name: str) -> list[dict[str, str]]:
    with (data_folder() / "facts" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _values(rows: list[dict[str, str]], column: str) -> set[str]:
    return {row[column] for row in rows}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _article(noun: str) -> str:
    spelled_with_a_vowel_sound = noun[0].lower() in "aeio" or noun.startswith(("SSRI", "H2", "SV2A", "SGLT2"))
    return f"{'an' if spelled_with_a_vowel_sound else 'a'} {noun}"


def code_tasks() -> list[Exam]:
    """One-line Python functions, each asked for in words; `letter` is empty, the reply is compared whole."""
    words = {"+": "adds {n} to x", "-": "subtracts {n} from x", "*": "multiplies x by {n}", "%": "takes x modulo {n}"}
    names = {"+": "add", "-": "subtract", "*": "multiply", "%": "modulo"}
    return [
        Exam(
            f"Write a function that {what.format(n=n)}.",
            f"def {names[sign]}_{n}(x):\n    return x {sign} {n}",
            "",
        )
        for sign, what in words.items()
        for n in range(2, 100)
    ]
