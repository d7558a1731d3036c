"""Scores of a model in memory, by lm-eval: log-likelihood of text, multiple choice by log-likelihood."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from pydantic import Field, ValidationError, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tuningvec.errors import TuningVecError
from tuningvec.family import Spec, first_problem
from tuningvec.store import Rows

BATCH = 16


class Choice(Spec):
    """A multiple-choice question; `answer` is the index of the right option."""

    question: str
    options: list[str] = Field(min_length=2)
    answer: int = Field(ge=0)

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> "Choice":
        if self.answer >= len(self.options):
            raise ValueError(f"answer is {self.answer}; there are {len(self.options)} options, counted from 0")
        return self


def choices(file: Path) -> list[Choice]:
    """The questions of a JSONL file; raises TuningVecError naming file and line for one that is not as it must be."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(Choice.model_validate_json(line))
        except ValidationError as error:
            raise TuningVecError(f"{file}: line {number}: {first_problem(error)}") from None
    if not found:
        raise TuningVecError(f"{file}: no question in it")
    return found


def evaluator(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> HFLM:
    """lm-eval's view of a model in memory; probabilities are float32 whatever the weights are."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every model that is not named by a string
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, softmax_dtype="float32")


def score_choices(lm: HFLM, questions: Sequence[Choice]) -> Rows:
    """Whether the right option has the highest log p(option | question): a row each with `right` (0 or 1)."""
    requests = [
        Instance("loglikelihood", {}, (f"Question: {q.question}\nAnswer:", f" {option}"), i)
        for q in questions
        for i, option in enumerate(q.options)
    ]
    scores = iter(lm.loglikelihood(requests, disable_tqdm=True))
    rows = []
    for q in questions:
        each = [next(scores)[0] for _ in q.options]
        rows.append(dict(right=int(each.index(max(each)) == q.answer)))
    return rows


def score_texts(lm: HFLM, texts: Sequence[str]) -> Rows:
    """log p(text) in nats, a row each with `nats` and the number of `tokens`."""
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    found = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    return [dict(nats=nats, tokens=len(lm.tok_encode(text))) for nats, text in zip(found, texts, strict=True)]
