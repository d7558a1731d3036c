"""Items of benchmarks as a reader sees them: the question as it is asked, the right answer, how replies are scored."""

import json
import re
from collections.abc import Mapping
from typing import Any

from IPython.display import Markdown, display

from tuningvec.measures.scores import task_name
from tuningvec.page.text import code, cut, formatted
from tuningvec.tasks.scoring import LETTERS, main

SCORING = {  # by the score of a task
    "acc": "the first `Answer: [X]` after the thought is compared with the right answer",
    "rouge1": "ROUGE-1 with this reference",
    "passed": "the function that is written must pass these assertions",
}
BY_LIKELIHOOD = "no reply is written: the likeliest of these texts after the question is the answer"
IN_ANY_FORM = "; the lenient score takes an answer that is given in another way as well"
LONGEST = 1500  # signs of a question or a reference


def question(task: Any, doc: Mapping[str, Any]) -> str:
    """The question that lm-eval's `task` asks about an item; by likelihood with the texts that can be the answer."""
    asked = str(task.doc_to_text(doc)).strip()
    return "\n".join([asked, *(f"- {text}" for text in options(task, doc))])


def options(task: Any, doc: Mapping[str, Any]) -> list[str]:
    """The texts of which the likeliest is the answer; none where a reply is written."""
    return [str(text) for text in task.doc_to_choice(doc)] if task.config.doc_to_choice is not None else []


def answer(task: Any, doc: Mapping[str, Any]) -> str:
    """The right answer to an item, an option with its letter and its text."""
    right, texts = task.doc_to_target(doc), options(task, doc)
    if texts:
        return texts[int(right)] if str(right).isdecimal() else str(right)
    offered, letter = doc.get("options"), str(right).strip()
    if isinstance(offered, list) and letter in tuple(LETTERS[: len(offered)]):
        return f"{letter}. {offered[LETTERS.index(letter)]}"
    return str(right).strip()


def reply(task: Any, doc: Mapping[str, Any], said: str) -> str:
    """What a model replied; by likelihood, log p of each text in nats."""
    if not (texts := options(task, doc)):
        return said
    found = zip(texts, json.loads(said), strict=True)
    return "\n".join(f"{text}: log p {formatted(logp, '.1f')}" for text, (logp, *_) in found)


def scoring(task: Any) -> str:
    """How replies to a task are scored, in words."""
    metrics = [metric["metric"] for metric in task.config.metric_list]
    if task.config.doc_to_choice is not None:
        return BY_LIKELIHOOD
    return SCORING[main(metrics)] + (IN_ANY_FORM if "acc_lenient" in metrics else "")


def _fenced(text: str) -> str:
    """Text as it is, in a block that nothing in it ends."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 3)
    return f"{fence}text\n{cut(text, LONGEST)}\n{fence}"


def one_of_each(tasks: Mapping[str, Any], title: str) -> None:
    """Display a folded section with the first item of each of lm-eval's tasks, {name: task}."""
    parts = []
    for name, task in tasks.items():
        doc = task.eval_docs[0]
        right = answer(task, doc)
        short = "\n" not in right and len(right) < 80
        told = f"Right: {code(right)}" if short else f"Right:\n\n{_fenced(right)}"
        parts.append(f"**{task_name(name)}**\n\n{_fenced(question(task, doc))}\n\n{told}\n\nScored: {scoring(task)}.")
    body = "\n\n".join(parts)
    display(Markdown(f"::::::{{dropdown}} {title}\n\n{body}\n::::::"))
