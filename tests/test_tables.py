from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from IPython.utils.capture import capture_output

from tuningvec.family import described
from tuningvec.family.spec import Family, family_names
from tuningvec.page import finding as finding_page
from tuningvec.page import tables
from tuningvec.paper import printed as paper
from tuningvec.verdict import MEANING, Verdict


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
    assert r"$W_\text{Q}$" in text and "0.512" in text


@pytest.mark.parametrize("name", family_names())
def test_every_member_is_listed_with_its_source(name):
    family = Family.load(name, files=False)
    if described.unpinned(family.file):
        pytest.skip("a family of the paper without a commit yet, which has no pages")
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
    averaged = tables.benchmarks(SCORES, means={"average": means})
    assert averaged.average.tolist() == ["25.0 (20, 30)", "59.0 (50, 68)"]
    assert averaged.columns.tolist() == ["model", "average", "drugs (n = 10)", "visits (n = 10)"]


def test_a_table_of_the_paper_begins_with_its_averages_and_keeps_the_other_columns_in_order():
    cells = paper.accuracy()
    assert tables.printed(cells).columns[:2].tolist() == ["model", paper.AVERAGE]
    assert tables.printed(cells).columns[2:].tolist() == [c for c in cells.column.unique() if c != paper.AVERAGE]


def test_effects_have_a_row_for_each_pair():
    gaps = GAPS.assign(compared="ft − pre", member="ft", n=10)
    both = pd.concat([gaps, gaps.assign(what="stopped_token", points=0.0), gaps.assign(what="valid")])
    table = tables.effects(both, ["score", "stopped_token"])
    assert table.columns.tolist() == ["member", "task", "n", "compared", "score", "stopped, token"]
    assert len(tables.effects(pd.concat([both, both.assign(member="other")]), ["score"])) == 4
    assert table.score.tolist() == ["[▲ +70.0 (+65.0, +75.0)]{.better}", "▽ −2.0 (−7.0, +3.0)"]
    assert table.compared.tolist() == ["ft − pre"] * 2 and table["stopped, token"].str.startswith("0").all()


def test_a_caption_tells_clusters_and_what_could_be_shown():
    items = pd.DataFrame(dict(task="tuningvec_drugs", item=[0, 1, 2], source=["a", "a", "b"]))
    assert tables.clusters(items) == " Items that share a source count as one cluster: drugs, 3 items of 2 sources."
    assert tables.clusters(items.assign(source=["a", "b", "c"])) == ""
    found = pd.DataFrame(dict(task=["tuningvec_drugs", "few"], corrected=[28.04, np.nan]))
    assert tables.could_show(found).endswith("in points: drugs 28.0, few –.")
    assert tables.could_show(found.head(0)).endswith("in points: –.")


def test_replies_are_quoted_as_they_are():
    replies = ["<think>x|y</think>\n**B**", "long " * 50]
    items = pd.DataFrame(dict(who=["a", "b"], task="tuningvec_t", item=0, reply=replies))
    task = SimpleNamespace(eval_docs=[{"question": "Which $x$?"}])
    table = tables.replies(items, {"medicine": {"tuningvec_t": task}}, {"with": "a", "without": "b"}, longest=20)
    assert table["with"][0] == "&lt;think&gt;x&#124;y&lt;/think&gt;<br>&#42; &#91;…&#93;"
    assert table.question[0] == "Which &#36;x&#36;?" and table.without[0].endswith("&#91;…&#93;")


def shown(table: pd.DataFrame, name: str) -> tuple[list[str], list[str]]:
    """The headers and the first row of a table as it is displayed."""
    with capture_output() as captured:
        tables.show(table, name, "A caption.")
    lines = [line for line in captured.outputs[0].data["text/markdown"].splitlines() if line.startswith("|")]
    headers, first = ([cell.strip() for cell in lines[i].strip("|").split("|")] for i in (0, 2))
    return headers, first


@pytest.mark.usefixtures("shell")
def test_a_name_is_no_symbol_of_another_table():
    assert shown(pd.DataFrame({"member": ["base"], "ρ": 0.9, "p": 0.01}), "tab-trends")[0] == ["member", "ρ", "p"]
    similarity = pd.DataFrame(dict(vector="T", kind=["all", "W_Q", "norm"], r=0.1))
    headers, _ = shown(tables.similarity_by_component(similarity), "tab-similarity-kind-tiny")
    assert headers == ["vector", "all", tables.SYMBOLS["W_Q"], "norm"]
    assert shown(pd.DataFrame(dict(N=[7], norm=2.0, p=0.1)), "tab-any")[0] == ["$N$", "norm", "p"]


@pytest.mark.usefixtures("shell")
def test_only_kinds_become_symbols_in_cells():
    table = pd.DataFrame(dict(kind=["W_Q"], said=["W_Q"], r=["r"]))
    assert shown(table, "tab-any")[1] == [tables.SYMBOLS["W_Q"], "W_Q", "r"]
    assert shown(pd.DataFrame(dict(kind=["norm"])), "tab-any")[1] == ["norm"]


@pytest.mark.usefixtures("shell")
def test_a_page_tells_with_what_its_numbers_were_measured():
    run = dict(device="CPU", machine="Linux x86_64, 2 cores", versions={"torch": "2.13.0", "numpy": "2.4.1"})
    weights = {"": [("0123456789abcdef", 1.0)], "medical": [("fedcba9876543210", -0.5)]}
    table = pd.DataFrame()
    table.attrs["runs"] = [
        run | dict(measured=time, inputs=dict(weights=weights))
        for time in ("2026-01-02T10:30+00:00", "2026-01-02T10:00+00:00")
    ]
    table.attrs["runs"].append(table.attrs["runs"][0] | dict(device="GPU"))
    with capture_output() as captured:
        tables.measured(table)
    lines = captured.outputs[0].data["text/markdown"].splitlines()
    assert lines[2:4] == [
        "- 2026-01-02 10:00 to 2026-01-02 10:30, Linux x86_64, 2 cores, CPU, torch 2.13.0, numpy 2.4.1",
        "- 2026-01-02 10:30, Linux x86_64, 2 cores, GPU, torch 2.13.0, numpy 2.4.1",
    ]
    assert lines[-2:] == ["- pretrained: +1 `0123456789ab`", "- medical: −0.5 `fedcba987654`"]


def test_intervals_have_a_real_minus_and_none_before_a_zero():
    rows = pd.DataFrame(dict(points=[-2.0, 0.04, 0.0, float("nan")], low=[-3.25, -0.04, 0, float("nan")],
                             high=[-1, 0.5, 0, float("nan")]))  # fmt: skip
    assert tables._interval(rows, "", "points") == ["−2 (−3.2, −1.0)", "+0.0 (0.0, 0.5)", "0 (0.0, 0.0)", "–"]
    assert tables._changes(rows, "points", "low", "high")[0] == "−2.00 (−3.25, −1.00)"


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr(finding_page, "_judged", [])  # pages that ran in this process have findings of their own
    for module in (finding_page, tables):
        monkeypatch.setattr(module, "display", lambda text, **_: shown.append(text.data))
    return shown


def test_a_page_counts_its_comparisons_and_says_what_is_of_our_own_making(displayed):
    cases = pd.DataFrame(dict(effect=[1.0, 2.0, np.nan], outcome=["for", "against", "unknown"]))
    finding_page.finding(
        "One", paper="p", here="{each}", each="{effect:.0f}", verdict=Verdict("mixed", "r", cases=cases)
    )
    finding_page.finding(
        "Two", paper="p", here="so", verdict=Verdict("holds", "r", cases=cases[:1]), made="we chose it"
    )
    finding_page.comparisons()
    assert "so. *Of our own making*: we chose it" in displayed[1] and "our own making" not in displayed[0]
    assert "The 2 findings of this page judge 3 cases" in displayed[2]
    finding_page.comparisons()
    assert "The 0 findings of this page judge 0 cases" in displayed[3]


def test_a_sentence_leaves_out_what_has_no_number_and_was_not_judged(displayed):
    cases = pd.DataFrame(dict(effect=[1.0, np.nan], outcome=["for", "not judged"]))
    for number, some in enumerate((cases, cases[1:])):
        finding_page.finding(
            "One", paper="p", here="{each}", each="{effect:.0f}", verdict=Verdict("mixed", "r", cases=some)
        )
        assert f"**Here.** {['1', '–'][number]}\n" in displayed[number] and "not judged" in displayed[number]


def test_language_before_and_after_is_shown_where_it_was_measured():
    reports = {
        "base": dict(loss=[1.0]),
        "tuned": dict(
            steps=3,
            divergence=[0.2, 0.1],
            before=dict(n=1, nats=dict(medical=4.0)),
            after=dict(n=1, nats=dict(medical=4.1)),
        ),
    }
    (row,) = tables.language(reports).to_dict("records")
    assert row == {"member": "tuned", "medical": "4.000 → 4.100 (+0.100)", "steps": 3, "divergence, last step": 0.1}


def test_cases_are_named_once_and_without_flags_or_numbers():
    cases = pd.DataFrame(
        dict(who=["a", "b"], task="tuningvec_drugs", benchmark="drugs", what=["score", "valid"], clear=True, n=9,
             p=pd.Series([0.1, 0.2], dtype=object), effect=[1.0, 2.0], outcome="for")
    )  # fmt: skip
    header, _, first, _ = "\n".join(finding_page._cases(cases)).splitlines()[-4:]
    assert [word for word in header.split() if word != "|"] == ["who", "task", "what", "effect", "outcome"]
    assert [word for word in first.split() if word != "|"] == ["a", "drugs", "score", "1.00", "for"]


def test_every_kind_of_verdict_is_a_term_of_the_glossary():
    lines = finding_page.glossary().splitlines()
    assert lines[0] == "```{glossary}" and lines[-1] == "```"
    assert [line for line in lines[1:-1] if line and not line.startswith(" ")] == list(MEANING)
