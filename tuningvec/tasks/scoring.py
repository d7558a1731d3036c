"""What a generated reply is worth: its answer, which instructions it kept, its overlap with a reference.

The functions that tasks name in `process_results` take an item and the model's replies and return a value a metric. The
last character of a reply says whether an end token stopped the model; other programs than this package do not add one,
and then there is no `stopped_token`.
"""

import re
import threading
from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from tuningvec.tasks.sandbox import passes

ENDED, CUT = "\N{SYMBOL FOR END OF TEXT}", "\N{SYMBOL FOR CANCEL}"  # by an end token, by the limit of tokens
MAIN = ("acc", "passed", "rouge1")  # the score of a task is the first of these that it has
LETTERS = "ABCDEFGHIJ"
THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
CHOICE = re.compile(r"Answer:[ \t]*\[([A-J])\]")  # the form that the prompt asks for
FREE = re.compile(r"Answer:[ \t]*\[(.+)\]")  # an interval has brackets of its own
LOOSE = (  # other ways to name an option, in order of trust
    re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-J])\b"),
    re.compile(r"(?i:answer|option|choice)(?i:\s+is)?\s*:?[\s*_]*[\[(]?([A-J])\b(?!')"),
    re.compile(r"^\W*([A-J])\s*(?:[.):\],]|$)", re.MULTILINE),
)
FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
NAME = re.compile(r"^def (\w+)\(", re.MULTILINE)
POWER = re.compile(r"(?<=\d)e([+-]?\d+)\b")  # 2e5, as in code

Scores = dict[str, float]


def main(row: Container[str]) -> str:
    """The first of MAIN that a row has."""
    return next(name for name in MAIN if name in row)


class Reply(NamedTuple):
    """A reply taken apart; `ended` is None where it is not known whether an end token stopped it."""

    text: str
    said: str  # what follows the thought
    thought: bool
    ended: bool | None


def taken_apart(raw: str) -> Reply:
    """The parts of a reply.

    A thought counts when the reply begins with it and it is not empty. Of several, as in a reply that goes on with
    other questions, the first is the one. After a thought that was opened and never closed nothing is said.
    """
    ended = {ENDED: True, CUT: False}.get(raw[-1:])
    text = raw if ended is None else raw[:-1]
    match = THOUGHT.match(text)
    if match:
        said = text[match.end() :]
    elif "</think>" in text:
        said = text.split("</think>", 1)[1]
    else:
        said = "" if "<think>" in text else text
    return Reply(text, said, bool(match and match[1].strip()), ended)


def choice(item: Mapping[str, Any], replies: Sequence[str]) -> Scores:
    """A multiple-choice reply: `acc` by the form asked for, `acc_lenient` by any way to name an option; instructions.

    Of several answers the first after the thought counts.
    """
    reply, offered = taken_apart(replies[0]), LETTERS[: len(item["options"])]
    form = next((match for match in CHOICE.finditer(reply.said) if match[1] in offered), None)
    named = form[1] if form else _named(reply, offered)
    right = LETTERS[item["answer"]]
    accuracy = dict(acc=float(form is not None and named == right), acc_lenient=float(named == right))
    return accuracy | _instructions(reply, form, named is not None)


def _named(reply: Reply, offered: str) -> str | None:
    """The option that is named without the form: after the thought, else anywhere."""
    for text in (reply.said, reply.text):
        for pattern in (CHOICE, *LOOSE):
            for match in pattern.finditer(text):
                if match[1] in offered:
                    return match[1]
    return None


def maths(item: Mapping[str, Any], replies: Sequence[str]) -> Scores:
    """A free answer, compared as an expression by math_verify; the lenient one is the last expression; instructions."""
    reply = taken_apart(replies[0])
    form = FREE.search(reply.said)
    right = form is not None and equal(item["answer"], f"${form[1].strip('$')}$")
    last = reply.said or reply.text
    lenient = right or (form is None and equal(item["answer"], last))
    return dict(acc=float(right), acc_lenient=float(lenient)) | _instructions(reply, form, bool(_expressions(last)))


def _instructions(reply: Reply, form: re.Match[str] | None, answered: bool) -> Scores:
    """The paper's three instructions (Tables 3, 9): thought encapsulated; answer valid; stopped, by text and token."""
    scores = dict(
        thought=float(reply.thought),
        valid=float(form is not None),
        valid_lenient=float(answered),
        stopped_text=float(form is not None and not reply.said[form.end() :].strip()),
    )
    return scores | _ended(reply)


def _ended(reply: Reply) -> Scores:
    return {} if reply.ended is None else dict(stopped_token=float(reply.ended))


def equal(right: str, answer: str) -> bool:
    """Whether some expression of `answer` equals the expression `right`, written in LaTeX."""
    from math_verify import verify

    timeout = dict(timeout_seconds=None) if _in_a_thread() else {}
    return bool(verify(_expressions(f"${right}$"), _expressions(answer), **timeout))


def _expressions(text: str) -> list[Any]:
    from math_verify import parse

    timeout = dict(parsing_timeout=None) if _in_a_thread() else {}
    return parse(POWER.sub(r" \\times 10^{\1}", text), **timeout)


def _in_a_thread() -> bool:
    """Whether a time limit, which is a signal, cannot be set."""
    return threading.current_thread() is not threading.main_thread()


def overlap(item: Mapping[str, Any], replies: Sequence[str]) -> Scores:
    """ROUGE-1 of what is said with the reference: F1 of the unigrams, lower case, no stemming (paper A.3)."""
    reply = taken_apart(replies[0])
    return dict(rouge1=_rouge().score(item["reference"], reply.said)["rouge1"].fmeasure) | _ended(reply)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"])


def function(item: Mapping[str, Any], replies: Sequence[str]) -> Scores:
    """Whether the function that was written passes the item's assertions, in which it is called `f`, in a sandbox."""
    reply = taken_apart(replies[0])
    fenced = FENCE.search(reply.said)
    code = fenced[1] if fenced else reply.said
    names = NAME.findall(code)
    passed = bool(names) and passes(f"{code}\nf = {names[-1]}", item["tests"])
    return dict(passed=float(passed)) | _ended(reply)
