"""What texts score in ROUGE-1 that were written without reading the item: a floor at which a score says nothing."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from lm_eval.api.task import Task

from tuningvec.measures import scores
from tuningvec.measures.scores import ALPHA, holm_known, task_name
from tuningvec.tasks import scoring
from tuningvec.verdict import Verdict, judge, unknown

ANOTHER, EXAMPLE = "another item's text", "the worked example"
OTHERS = 20  # items whose references are taken for an item's text: those that follow it


def with_floors(items: pd.DataFrame, benchmarks: Mapping[str, Task]) -> pd.DataFrame:
    """who, task, item and rouge1 of the benchmarks that have it, with two writers that have read nothing of the item.

    ANOTHER hands in the reference of another item; its score is the mean over the OTHERS that follow. EXAMPLE hands in
    the text of the prompt's worked example, where it has one. Where items are told by member, each has both.
    """
    columns = [column for column in ("member", "who", "task", "item", "source") if column in items]
    if "rouge1" not in items:
        return pd.DataFrame(columns=[*columns, "rouge1"])
    texts = items.dropna(subset=["rouge1"])[[*columns, "rouge1"]]
    asked = {name: part["item"].unique() for name, part in texts.groupby("task")}
    rows = [row for name, some in asked.items() for row in _floors(name, benchmarks[name], some)]
    if not rows:
        return texts
    written = texts.drop(columns=["who", "rouge1"]).drop_duplicates()
    return pd.concat([texts, written.merge(pd.DataFrame(rows), on=["task", "item"])], ignore_index=True)


def of_tasks(benchmarks: Mapping[str, Task]) -> pd.DataFrame:
    """The floor of benchmarks that are scored by ROUGE-1, over all of their items.

    Columns task, items, another and another_sd, its mean and standard deviation over items, and example.
    """
    rows = []
    for name, task in benchmarks.items():
        found = pd.DataFrame(_floors(name, task, np.arange(len(task.eval_docs)))).groupby("who").rouge1
        about = dict(another=found.mean()[ANOTHER], another_sd=found.std()[ANOTHER], example=found.mean().get(EXAMPLE))
        rows.append(dict(task=name, items=len(task.eval_docs)) | about)
    return pd.DataFrame(rows)


def _floors(name: str, task: Task, asked: np.ndarray) -> Iterator[dict[str, object]]:
    references = [task.doc_to_target(doc) for doc in task.eval_docs]
    others = range(1, min(OTHERS, len(references) - 1) + 1)
    examples = task.sampler.fewshot_docs() if task.config.num_fewshot else []
    for item in asked:
        texts = {ANOTHER: [references[(item + step) % len(references)] for step in others]}
        texts[EXAMPLE] = [task.doc_to_target(doc, task.fewshot_cfg.doc_to_target) for doc in examples[:1]]
        for who, written in texts.items():
            if written:
                found = [scoring.overlap(dict(reference=references[item]), [text])["rouge1"] for text in written]
                yield dict(who=who, task=name, item=item, rouge1=np.mean(found))


def above(texts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Every writer minus ANOTHER on the same items, as `scores.differences`, by member if told; from `with_floors`."""

    def of(part: pd.DataFrame, seed: int) -> pd.DataFrame:
        found = scores.differences(part, scores.against(part, ANOTHER), seed)
        return found[found.what == "score"].reset_index(drop=True)

    return scores.by_member(texts, of, seed) if "member" in texts and len(texts) else of(texts, seed)


def floored(cases: pd.DataFrame, found: pd.DataFrame) -> list[bool]:
    """Whether the better side of each difference is not clearly above ANOTHER; from `differences` and `above`."""
    keys = [*(["member"] if "member" in found else []), "who", "task"]
    low = set(found.loc[~(found.clear & (found.points > 0)), keys].itertuples(index=False, name=None))
    better = cases.assign(who=cases.who.where(cases.points > 0, cases.reference))
    return [key in low for key in better[keys].itertuples(index=False, name=None)]


def texts_are_read(found: pd.DataFrame, least: float = 2.0) -> Verdict:
    """The control: whether every member's texts are nearer to their references than another item's text is."""
    rule = (
        "Effect: ROUGE-1 minus the mean of the references of other items, on the same items, in points. Beyond chance "
        f"by random signs, Holm over members and tasks at {ALPHA:g}. Smallest that matters: {least:g}. Direction: up. "
        "A text at the floor may have the words that any such text has, and none that belong to its item"
    )
    members = found[found.who != EXAMPLE]
    if members.empty:
        return unknown(rule, "no benchmark is scored by ROUGE-1")
    cases = members[["low", "high", "n", "sources"]].assign(
        member=members.who, benchmark=members.task.map(task_name), effect=members.points, floor=members.before,
        clear=holm_known(members.p) < ALPHA,
    )  # fmt: skip
    below = bool((cases.clear & (cases.effect < 0)).any())
    return judge(cases, rule, least=least, unit="points", digits=1, falsified=below)
