from types import SimpleNamespace

import pandas as pd
import pytest
from IPython.utils.capture import capture_output

from tuningvec.family.spec import Family, family_names
from tuningvec.page import tables


@pytest.mark.parametrize(
    "value, text",
    [
        (0.36512, "0.365"),
        (-0.5, "−0.500"),
        (1.0, "1.00"),
        (0.0, "0.00"),
        (12400.0, "12,400"),
        (1.5e7 + 0.5, "1.50·10⁷"),
        (-3.2e-6, "−3.20·10⁻⁶"),
        (481.23, "481"),
        (float("nan"), "–"),
    ],
)
def test_numbers_have_significant_digits(value, text):
    assert tables.number(value, 3) == text


@pytest.mark.usefixtures("shell")
def test_integers_are_shown_whole():
    with capture_output() as captured:
        tables.show(pd.DataFrame({"n": pd.array([134515008, None], dtype="Int64")}), "tab-n", "N.")
    assert "134,515,008" in captured.outputs[0].data["text/markdown"]


@pytest.mark.usefixtures("shell")
def test_a_table_is_numbered_and_labelled():
    with capture_output() as captured:
        tables.show(pd.DataFrame({"kind": ["W_Q"], "SSA": [0.5123]}), "tab-x", "A caption.")
    text = captured.outputs[0].data["text/markdown"]
    assert text.startswith(":::{table} A caption.\n:name: tab-x\n")
    assert "$W_Q$" in text and "0.512" in text


@pytest.mark.parametrize("name", family_names())
def test_every_member_is_listed_with_its_source(name):
    family = Family.load(name)
    table = tables.members(family)
    assert list(table.member) == [m.name for m in family.members]
    assert table.role.iloc[0] == "pretrained" and table.weights.str.contains("`").all()


def test_a_corpus_that_ends_early_is_said():
    row = dict(member="base", documents=3, tokens=90, asked=90, rows=4, window=32, digest="0")
    whole = tables.read(pd.DataFrame([row]))
    assert list(whole) == ["member", "documents", "tokens", "rows", "window"]
    short = tables.read(pd.DataFrame([row | dict(asked=1000)]))
    assert short["shorter than asked"].tolist() == ["90 of 1,000 tokens"]


SCORES = pd.DataFrame(
    dict(who=who, task=f"tuningvec_{task}", metric="acc", n=10, score=score, low=score - 9, high=score + 9)
    for who, (drugs, visits) in {"pre": (20.0, 30.0), "ft": (90.0, 28.0)}.items()
    for task, score in (("drugs", drugs), ("visits", visits))
)
GAPS = pd.DataFrame(
    dict(who="ft", reference="pre", task=f"tuningvec_{task}", what="score", points=points, low=points - 5,
         high=points + 5, p=0.01, clear=clear)
    for task, points, clear in [("drugs", 70.0, True), ("visits", -2.0, False)]
)  # fmt: skip


def test_scores_are_shaded_with_a_sign_and_only_beyond_chance():
    table = tables.benchmarks(SCORES, GAPS).set_index("model")
    assert table["drugs (n = 10)"]["pre"] == "20.0 (11, 29)"
    assert table["drugs (n = 10)"]["ft"] == "[▲ 90.0 (81, 99)]{.better}"
    assert table["visits (n = 10)"]["ft"] == "▽ 28.0 (19, 37)"
    worse = tables.benchmarks(SCORES, GAPS.assign(points=-70.0)).set_index("model")
    assert worse["drugs (n = 10)"]["ft"] == "[▼ 90.0 (81, 99)]{.worse}"
    means = pd.DataFrame(dict(who=["pre", "ft"], score=[25.0, 59.0], low=[20.0, 50.0], high=[30.0, 68.0]))
    assert tables.benchmarks(SCORES, means={"average": means}).average.tolist() == ["25.0 (20, 30)", "59.0 (50, 68)"]


def test_effects_have_a_row_for_each_pair():
    gaps = GAPS.assign(compared="ft − pre", member="ft", n=10)
    both = pd.concat([gaps, gaps.assign(what="stopped_token", points=0.0), gaps.assign(what="valid")])
    table = tables.effects(both, ["score", "stopped_token"])
    assert table.columns.tolist() == ["member", "task", "n", "compared", "score", "stopped, token"]
    assert len(tables.effects(pd.concat([both, both.assign(member="other")]), ["score"])) == 4
    assert table.score.tolist() == ["[▲ +70.0 (+65.0, +75.0)]{.better}", "▽ −2.0 (−7.0, +3.0)"]
    assert table.compared.tolist() == ["ft − pre"] * 2 and table["stopped, token"].str.startswith("0").all()


def test_replies_are_quoted_as_they_are():
    replies = ["<think>x|y</think>\n**B**", "long " * 50]
    items = pd.DataFrame(dict(who=["a", "b"], task="tuningvec_t", item=0, reply=replies))
    task = SimpleNamespace(eval_docs=[{"question": "Which $x$?"}])
    table = tables.replies(items, {"medicine": {"tuningvec_t": task}}, {"with": "a", "without": "b"}, longest=20)
    assert table["with"][0] == "&lt;think&gt;x&#124;y&lt;/think&gt;<br>&#42; &#91;…&#93;"
    assert table.question[0] == "Which &#36;x&#36;?" and table.without[0].endswith("&#91;…&#93;")
