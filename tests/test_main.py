"""The commands that score and write members and sums of members."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuningvec.__main__ import main
from tuningvec.data import data_folder


def test_a_sum_is_scored_and_its_items_are_written(tmp_path, capsys):
    items = tmp_path / "items.jsonl"
    terms = ["medical=0.5", "pretrained=0.5"]
    options = ["--tasks", "tuningvec_drugs,tuningvec_drugs_likelihood", "--limit", "4", "--items", str(items)]
    assert main(["evaluate", "tiny", *terms, *options]) == 0
    table = capsys.readouterr().out
    assert "0.5 pretrained + 0.5 medical" in table and "stopped_token" in table
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    assert len(rows) == 8 and {row["task"] for row in rows} == set(options[1].split(","))
    assert all("Question:" in row["prompt"] for row in rows)
    assert [row["chat"] for row in rows] == [True] * 4 + [False] * 4


def test_other_prompts_can_be_given(tmp_path, capsys):
    prompts, items = tmp_path / "p.yaml", tmp_path / "items.jsonl"
    example = "{question: 1 and 1, options: ['2', '3'], answer: 0, thought: One more.}"
    prompts.write_text(f"system: {{math: Count.}}\nworked: {{math: [{example}]}}\n")
    options = ["--tasks", "tuningvec_arithmetic", "--limit", "1", "--tokens", "5", "--plain", "--prompts", str(prompts)]
    assert main(["evaluate", "tiny", "math", *options, "--items", str(items)]) == 0
    (row,) = [json.loads(line) for line in items.read_text().splitlines()]
    asked = "Count.\n\nQuestion: 1 and 1\nOptions:\nA. 2\nB. 3\n<think>One more.</think>\nAnswer: [A]\n\nQuestion: "
    assert row["prompt"].startswith(asked)
    assert len(AutoTokenizer.from_pretrained(data_folder() / "families/tiny/math")(row["reply"])["input_ids"]) <= 5


def test_a_sum_is_written_for_other_programs(tmp_path, capsys):
    assert main(["write", "tiny", "medical=0.25", "pretrained=0.75", "--to", str(tmp_path / "sum")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sum")
    assert AutoTokenizer.from_pretrained(tmp_path / "sum").chat_template
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "sum").num_parameters() > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny", "medical=much"], "medical=much: 'much' is no number"),
        (["tiny", "medical=0.5"], "add up to 0.5"),
        (["tiny", "law"], "no member 'law'"),
        (["none", "law"], "no family 'none'"),
        (["tiny", "medical", "--dtype", "int8"], "dtype is 'int8'"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(capsys, arguments, said):
    assert main(["evaluate", *arguments, "--tasks", "tuningvec_drugs", "--limit", "2"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("tuningvec: ") and said in error
