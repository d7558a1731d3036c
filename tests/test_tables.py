import pandas as pd
import pytest
from IPython.utils.capture import capture_output

from tuningvec import tables
from tuningvec.family import Family, family_names


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
