"""Numbers as a page writes them."""

import numpy as np
import pandas as pd
import pytest

from tuningvec.errors import TuningVecError
from tuningvec.page import text


@pytest.mark.parametrize(
    ("value", "form", "said"),
    [
        (0.126, ".2f", "0.13"),
        (-3, "+d", "−3"),
        (3.0, "+.1f", "+3.0"),
        (-0.001, ".2f", "0.00"),
        (-0.001, "+.2f", "−0.00"),
        (0.934, ".0%", "93%"),
        (float("nan"), ".2f", "–"),
        (pd.NA, "d", "–"),
        (None, "", "–"),
        (True, "", "True"),
        ("as it is", ".2f", "as it is"),
        (pd.Series([0.31, float("nan"), -0.2]), ".2f", "−0.20 to 0.31"),
        (np.array([0.301, 0.299]), ".1f", "0.3"),
        ([float("nan")], ".1f", "–"),
        (["a", "b", "c"], "", "a, b and c"),
    ],
)
def test_a_value_is_written_with_a_real_minus_and_many_as_their_range(value, form, said):
    assert text.formatted(value, form) == said


def test_a_template_names_numbers_and_leaves_formulas_alone():
    numbers = {"share": 0.126, "n": 7, "all": pd.Series([1, 3])}
    template = r"{share:.2f} of {n}, $W_{gate}$, $x^{n}$, $\text{n}$, {all:d}"
    assert text.filled(template, numbers) == r"0.13 of 7, $W_{gate}$, $x^{n}$, $\text{n}$, 1 to 3"


def test_a_number_that_is_not_there_is_an_error_that_names_those_that_are():
    with pytest.raises(TuningVecError, match=r"no number 'shore'; there are share, n"):
        text.filled("{shore:.2f}", {"share": 1, "n": 2})


def test_each_row_fills_the_template_once():
    table = pd.DataFrame(dict(member=["a", "b"], effect=[0.5, -0.25]))
    assert text.each(table, "{member} {effect:+.2f}") == "a +0.50; b −0.25"
    assert text.each(table, "{member}", " | ") == "a | b"
    assert text.each(table.head(0), "{member}") == ""


@pytest.mark.parametrize(
    ("parts", "said"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c"), (["a, b", "c"], "a, b; c")],
)
def test_parts_are_listed(parts, said):
    assert text.listed(parts) == said
    assert text.listed(iter(parts)) == said


def test_quoted_text_shows_no_markup_and_where_it_was_cut():
    assert text.quoted("<b>*x*</b>\ny|z", 99) == "&lt;b&gt;&#42;x&#42;&lt;/b&gt;<br>y&#124;z"
    assert text.quoted("  ", 9) == "(nothing)"
    assert text.quoted("abcdef", 3) == "abc &#91;…&#93;"


def test_a_reply_with_any_sign_stays_in_its_cell_and_line():
    shown = text.quoted("a\r\nb\x0bc\x0cd\x85e\u2028f\ud800g|<script>\x00", 99)
    assert len(shown.splitlines()) == 1 and "|" not in shown and "<script" not in shown
    assert shown.startswith("a<br>b") and "u2028" in shown and "ud800" in shown
    shown.encode()


def test_code_ends_where_it_ends():
    assert text.code("a`b|c\nd é") == "`a_b_c_d é`"
