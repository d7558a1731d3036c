"""A published page, built by Sphinx: verdicts first, what stands beside tables, folded code, provenance at the end."""

import io
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from IPython.core.pylabtools import print_figure
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tuningvec.book.reading import Files, Reading, anchor, without_captions
from tuningvec.page import figures, plots, tables
from tuningvec.page import finding as page_findings
from tuningvec.page.finding import badge, comparisons, finding
from tuningvec.verdict import judge
from tuningvec.weights.components import MATRICES

CONFIG = """
extensions = ["myst_nb", "sphinx_design"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
numfig = True
"""
PYTHON = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
CLAIM = "$W$ keeps what it has"
TABLE = pd.DataFrame(
    {"kind": ["W_Q", "W_K"], "SSA": [0.123456789, 12.5], "score": ["[▲ 1.0 (0, 2)]{.better}", "a<br>b"]}
)
MEANS = pd.DataFrame({"vector": "medical", "kind": MATRICES, "SSA": 0.875, "null": 0.5})
CODE = 'tables.show(\n    table,\n    "tab-x",\n    "A long "\n    f"caption {1 + 1}",\n)'


def shown(call):
    with capture_output() as captured:
        call()
    return [new_output("display_data", output.data, metadata=output.metadata) for output in captured.outputs]


def found(claim, control):
    cases = pd.DataFrame([dict(member="m", effect=9.0, low=8.0, high=10.0)])
    finding(claim, paper="p", here="h", verdict=judge(cases, "the rule", least=5), mind="Another.", control=control)


def measured():
    table = pd.DataFrame()
    run = dict(
        versions={"torch": "2"}, machine="here", device="cpu", measured="2026-01-02T03:04", inputs={"weights": {}}
    )
    table.attrs["runs"] = [run]
    tables.measured(table)


def drawn():
    """A cell with a figure, as the kernel displays it."""
    figures.style()
    figure = plots.alignment_by_component(MEANS)
    data, metadata = figures.bundle(figure)
    data["image/svg+xml"] = print_figure(figure, "svg", metadata={"Date": None})
    plt.close(figure)
    told = {"figure": {"name": "fig-x", "caption": "A caption: $x$ of `y`."}}
    return new_code_cell("draw()", outputs=[new_output("display_data", data, metadata=metadata)],
                         metadata={"mystnb": told})  # fmt: skip


@pytest.fixture
def cells(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(page_findings, "_judged", [])  # what other tests have shown is not of this page
    notebook = new_notebook(
        cells=[
            new_markdown_cell("(page-x)=\n# Title\n\n**Question.** Why?"),
            new_code_cell("import x"),
            new_code_cell("y = 1"),
            new_code_cell(CODE, outputs=shown(lambda: tables.show(TABLE, "tab-x", "A long caption 2"))),
            drawn(),
            new_code_cell("measured(x)", outputs=shown(measured)),
            new_code_cell("finding(1)", outputs=shown(lambda: found("A control", True))),
            new_code_cell("finding(2)", outputs=shown(lambda: found(CLAIM, False))),
            new_code_cell("comparisons()", outputs=shown(comparisons)),
        ]
    )
    return Reading(notebook, Files(tmp_path / "files", tmp_path), ("tiny", "03_2"), "**Run it again**: `now`.").cells()


def test_verdicts_stand_before_the_question_and_provenance_at_the_end(cells):
    texts = [cell.source for cell in cells]
    order = [
        "# Title",
        "## What was found",
        CLAIM,
        "A control",
        "2 findings",
        "**Question.**",
        "A long caption 2",
        "`now`",
    ]
    places = [next(i for i, text in enumerate(texts) if words in text) for words in order]
    assert places == sorted(places) and places[-1] == len(texts) - 1
    assert "Measured (UTC)" in texts[-1] and sum("Measured (UTC)" in text for text in texts) == 1


def test_code_that_shows_nothing_is_one_fold(cells):
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.source.count("\n\n") for cell in code] == [1, 0, 4]
    assert all("hide-input" in cell.metadata.tags for cell in code)
    assert "caption" not in "".join(cell.source for cell in code) and "    ...,\n" in code[1].source


def test_a_table_comes_as_csv_with_all_its_digits(cells, tmp_path):
    (text,) = (cell.source for cell in cells if "tab-x" in cell.source and cell.cell_type == "markdown")
    assert "{download}`CSV <files/tab-x.csv>`" in text
    kept = pd.read_csv(tmp_path / "files" / "tab-x.csv")
    assert kept.SSA.tolist() == TABLE.SSA.tolist() and kept.score.tolist() == ["▲ 1.0 (0, 2)", "a\nb"]
    (body,) = (line for line in text.splitlines() if "0.123 " in line)
    assert "0.123" in body and "▲ 1.0 (0, 2)" in body


def test_a_figure_has_its_result_as_alt_text_and_comes_with_data_and_pdf(cells, tmp_path):
    (text,) = (cell.source for cell in cells if "{figure}" in cell.source)
    assert "alt: " in text and "0.875" in text and "A caption: $x$ of `y`." in text
    assert "{download}`CSV <files/fig-x.csv>` {download}`PDF <files/fig-x.pdf>`" in text
    assert (tmp_path / "files" / "fig-x.pdf").read_bytes().startswith(b"%PDF")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "files" / "fig-x.csv")[[*MEANS]], MEANS, check_dtype=False)


def test_sphinx_builds_it_and_links_lead_to_the_finding(cells, tmp_path):
    (tmp_path / "conf.py").write_text(CONFIG)
    nbformat.write(new_notebook(cells=cells, metadata=PYTHON), tmp_path / "page.ipynb")
    label = anchor("tiny", "03_2", CLAIM)
    link = badge("holds", f"{{ref}}`holds <{label}>`")
    (tmp_path / "index.md").write_text(f"# Front\n\n| a |\n|---|\n| {link} |\n\n```{{toctree}}\npage\n```\n")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", str(tmp_path), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    front, page = (
        BeautifulSoup((tmp_path / "html" / f"{name}.html").read_text(), "lxml") for name in ("index", "page")
    )
    assert front.select_one("span.holds a")["href"] == f"page.html#{label}"
    box = page.find(id=label)
    assert "finding" in box["class"] and "W" in box.select_one(".admonition-title").text
    assert box.select_one(".admonition-title a[href]")["href"] == f"#{label}"
    image = page.select_one("figure#fig-x img")
    assert "0.875" in image["alt"] and "Fig. 1" in page.select_one("#fig-x figcaption").text
    rule = box.select_one("details")
    assert "the rule" in rule.text and rule.select_one("table")
    (file,) = (a["href"] for a in page.select("a.download") if a["href"].endswith("tab-x.csv"))
    assert pd.read_csv(io.StringIO((tmp_path / "html" / file).read_text())).SSA.tolist() == TABLE.SSA.tolist()
    assert all(not fold.has_attr("open") for fold in page.select(".cell details"))


def test_only_captions_of_tables_are_left_out():
    code = 'x = "é"; tables.show(t, "é", "ü" + y); show(1, 2, 3)\ntables.show(t, "name", caption)'
    assert without_captions(code) == 'x = "é"; tables.show(t, "é", ...); show(1, 2, 3)\ntables.show(t, "name", ...)'
    assert without_captions("%time tables.show(1, 2, 3)") == "%time tables.show(1, 2, 3)"
