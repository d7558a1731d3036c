"""Replies whose worth is known: answers in every form, instructions kept and broken, text, functions."""

import threading

import pytest

from tuningvec.tasks import scoring
from tuningvec.tasks.scoring import CUT, ENDED

ITEM = dict(question="?", options=["one", "two", "three", "four"], answer=1)
NOTHING = dict(acc=0, acc_lenient=0, thought=0, valid=0, valid_lenient=0, stopped_text=0)
ALL = dict(acc=1, acc_lenient=1, thought=1, valid=1, valid_lenient=1, stopped_text=1, stopped_token=1)


@pytest.mark.parametrize(
    ("reply", "changed"),
    [
        ("<think>Since two.</think>\nAnswer: [B]" + ENDED, {}),
        ("\n<think>Since two.</think>Answer:[B] \n" + ENDED, {}),
        ("<think>Since two.</think>\nAnswer: [A]" + ENDED, dict(acc=0, acc_lenient=0)),
        # run on by the limit of tokens, right after the answer or with more text
        ("<think>Since two.</think>\nAnswer: [B]" + CUT, dict(stopped_token=0)),
        ("<think>x</think>\nAnswer: [B]\n\nQuestion: and" + CUT, dict(stopped_text=0, stopped_token=0)),
        # of several answers the first counts
        ("<think>x</think>Answer: [B] Answer: [C]" + ENDED, dict(stopped_text=0)),
        ("<think>x</think>Answer: [C] Answer: [B]" + ENDED, dict(acc=0, acc_lenient=0, stopped_text=0)),
        # a second question with a thought of its own
        ("<think>x</think>Answer: [B]\n<think>y</think>Answer: [A]" + CUT, dict(stopped_text=0, stopped_token=0)),
        # no thought, an empty one, one that is not closed, one that comes late
        ("Answer: [B]" + ENDED, dict(thought=0)),
        ("<think> </think>Answer: [B]" + ENDED, dict(thought=0)),
        ("<think>Since two. Answer: [B]" + CUT, dict(acc=0, thought=0, valid=0, stopped_text=0, stopped_token=0)),
        ("Answer: [B]<think>Since two.</think>" + ENDED, dict(acc=0, thought=0, valid=0, stopped_text=0)),
        ("Well.<think>Since two.</think>Answer: [B]" + ENDED, dict(thought=0)),
        # the answer in the thought as well, as the paper's Table 12 has it
        ("<think>x Answer: [B]</think>Answer: [B]" + ENDED, {}),
        # other forms
        ("<think>x</think>Answer: B" + ENDED, dict(acc=0, valid=0, stopped_text=0)),
        ("<think>x</think>The answer is (B)." + ENDED, dict(acc=0, valid=0, stopped_text=0)),
        ("<think>x</think>**Answer:** B) two" + ENDED, dict(acc=0, valid=0, stopped_text=0)),
        ("<think>x</think>$\\boxed{B}$" + ENDED, dict(acc=0, valid=0, stopped_text=0)),
        ("B. two" + ENDED, dict(acc=0, thought=0, valid=0, stopped_text=0)),
        # an option that is not offered, none at all, nothing
        ("<think>x</think>Answer: [E]" + ENDED, NOTHING | dict(thought=1)),
        ("A man goes home. Be well." + ENDED, NOTHING),
        (ENDED, NOTHING),
        ("Answer: [X]" + ENDED, NOTHING),
    ],
)
def test_multiple_choice(reply: str, changed: dict[str, int]) -> None:
    assert scoring.choice(ITEM, [reply]) == ALL | changed


def test_without_a_mark_nothing_is_said_of_end_tokens() -> None:
    found = scoring.choice(ITEM, ["<think>x</think>Answer: [B]"])
    assert found == {name: 1 for name in ALL if name != "stopped_token"}


@pytest.mark.parametrize(
    ("right", "reply", "acc", "lenient", "valid"),
    [
        ("\\frac{1}{2}", "<think>x</think>Answer: [0.5]", 1, 1, 1),
        ("\\frac{1}{2}", "<think>x</think>Answer: [$\\frac12$]", 1, 1, 1),
        ("1000", "<think>x</think>Answer: [1,000]", 1, 1, 1),
        ("[0, 1)", "<think>x</think>Answer: [[0,1)]", 1, 1, 1),
        ("(3, 4)", "<think>x</think>Answer: [(3,4)]", 1, 1, 1),
        ("2.98e5", "<think>x</think>Answer: [2.98 \\times 10^5]", 1, 1, 1),
        ("x^2+1", "<think>x</think>Answer: [1+x^2]", 1, 1, 1),
        ("72", "<think>x</think>Answer: [71]", 0, 0, 1),
        ("72", "<think>x</think>So there are 72 of them.", 0, 1, 0),
        ("72", "<think>x</think>\\boxed{72}", 0, 1, 0),
        ("72", "<think>x</think>I do not know.", 0, 0, 0),
    ],
)
def test_free_answers_are_compared_as_expressions(right: str, reply: str, acc: int, lenient: int, valid: int) -> None:
    found = scoring.maths(dict(question="?", answer=right), [reply + ENDED])
    assert (found["acc"], found["acc_lenient"], found["valid"]) == (acc, lenient, valid)


def test_expressions_are_compared_in_a_thread_too() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(scoring.equal("0.5", "$\\frac{1}{2}$")))
    thread.start()
    thread.join()
    assert found == [True]


def test_rouge_1_counts_unigrams_of_what_is_said() -> None:
    item = dict(question="?", reference="the patient has a cough")
    reply = "<think>a note about the patient</think>The patient has fever." + ENDED
    # 3 of 4 words said are in the reference, 3 of its 5 words were said
    precision, recall = 3 / 4, 3 / 5
    expected = 2 * precision * recall / (precision + recall)
    assert scoring.overlap(item, [reply]) == dict(rouge1=pytest.approx(expected), stopped_token=1)
    assert scoring.overlap(item, [CUT]) == dict(rouge1=0, stopped_token=0)


@pytest.mark.parametrize(
    ("reply", "passed"),
    [
        ("def add_2(x):\n    return x + 2", 1),
        ("Here it is:\n```python\ndef add_2(x):\n    return x + 2\n```\nIt adds 2.", 1),
        ("```\ndef helper(x):\n    return x\n\ndef add(x):\n    return helper(x) + 2", 1),
        ("def add_2(x):\n    return x + 3", 0),
        ("I cannot.", 0),
        ("def add_2(x:\n    return", 0),
    ],
)
def test_functions_are_run(reply: str, passed: int) -> None:
    item = dict(question="?", tests=["assert f(1) == 3", "assert f(-2) == 0"])
    assert scoring.function(item, [reply + ENDED])["passed"] == passed
