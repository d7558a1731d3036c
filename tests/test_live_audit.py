"""The audit in the browser computes what Python does, and a page with it keeps what a reader changed."""

import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tuningvec.errors import TuningVecError
from tuningvec.page import tables, text
from tuningvec.page.audited import Audit
from tuningvec.page.finding import CSS, lines
from tuningvec.paper import audit, closed, published
from tuningvec.paper import printed as paper

SCRIPT = Path(__file__).resolve().parent.parent / "book" / "_static" / "live_audit.js"
COLUMNS = {
    "energies": ["vector", "kind", "squared", "norms", "implied", "misprint"],
    "shapes": ["vector", "kind", "bound", "sd", "z", "excess"],
    "cosines": ["pretrained", "member", "cosine", "angle", "r", "r_low", "r_high"],
    "vectors": ["vector", "energy", "norm", "rounding", "r", "r_low", "r_high", "r_summed"],
}
AUDITED = """([data, every]) => every.map((texts) => {
  const cells = structuredClone(data.tables);
  for (const [table, row, column, text] of texts) cells[table][row][column] = text;
  for (const rows of Object.values(cells))
    for (const row of Object.values(rows))
      for (const [column, text] of Object.entries(row)) row[column] = tuningvecAudit.parse(text);
  const found = tuningvecAudit.audit(cells, data);
  const said = Object.entries(found.verdicts).map(([name, { numbers }]) =>
    [name, tuningvecAudit.filled(data.says[name], numbers)]);
  const plain = (_, value) => typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
  return JSON.parse(JSON.stringify({ ...found, said: Object.fromEntries(said) }, plain));
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, or no test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def inlined() -> dict[str, Any]:
    """What the page inlines."""
    says = {name: row.says for name, row in Audit().closed_rows().items()}
    return closed.inputs() | {"says": says, "colours": CSS, "examples": closed.examples()}


def edits(data: dict[str, Any], seed: int) -> list[tuple[str, str, str, str]]:
    """Some cells with other texts that a reader could type: (table, row, column, text)."""
    draw = random.Random(seed)
    cells = [(t, r, c) for t, rows in data["tables"].items() for r, row in rows.items() for c in row]
    found = []
    for table, row, column in draw.sample(cells, draw.choice([1, 2, 5, 20, len(cells)])):
        if table == "4":
            other = f"{draw.uniform(0.02, 1):.{draw.choice([2, 3])}f}"
        elif table == "15":
            other = f"{draw.choice([99.99, 99.9, 99, 95, 80]) - draw.random() / 200:.{draw.choice([2, 3])}f}"
        else:
            value = float(data["tables"][table][row][column]) * 10 ** draw.uniform(-1.5, 1.5)
            other = draw.choice([f"{value:.3f}", f"{value:.2e}".replace("e+0", "e")])
            other = other if float(other) > 0 else f"{value:.2e}"
        found.append((table, row, column, other))
    return found


def by_table(texts: list[tuple[str, str, str, str]]) -> dict[int, dict[tuple[str, str], str]]:
    changed: dict[int, dict[tuple[str, str], str]] = {}
    for table, row, column, other in texts:
        changed.setdefault(int(table), {})[row, column] = other
    return changed


def same(here: Any, there: Any) -> bool:
    """Whether a value of Python is what the browser returned for it."""
    if isinstance(here, str | bool):
        return here == there
    there = float(there.replace("Infinity", "inf")) if isinstance(there, str) else there
    return math.isnan(there) if math.isnan(here) else here == there or math.isclose(here, there, rel_tol=1e-9)


def test_the_browser_computes_what_python_does(browser: Any, inlined: dict[str, Any]) -> None:
    page = browser.new_page()
    page.add_script_tag(path=SCRIPT)
    every = [[], *(edits(inlined, seed) for seed in range(50))]
    kinds, measured = set(), published.weight_differences()
    measured = measured[measured.fine_tuned.isin(chain(*published.NEIGHBOURS.values()))]  # quicker
    for texts, there in zip(every, page.evaluate(AUDITED, [inlined, every]), strict=True):
        table = paper.changed(by_table(texts))
        here = dict(energies=audit.energies(table), shapes=audit.shape_bound(table))
        here |= dict(cosines=audit.cosines(table), vectors=audit.lengths(table))
        for name, columns in COLUMNS.items():
            rows = here[name][columns].astype(object).to_dict("records")
            for row, other in zip(rows, there[name], strict=True):
                assert all(same(row[column], other[column]) for column in columns), (texts, name, row, other)
        for name, verdict in closed.verdicts(table, measured).items():
            other = there["verdicts"][name]
            assert (verdict.kind, verdict.why) == (other["kind"], other["why"]), (texts, name)
            assert text.filled(inlined["says"][name], verdict.numbers) == there["said"][name], (texts, name)
            kinds.add((name, verdict.kind))
    assert len(kinds) > 1.5 * len(closed.JUDGES)  # the edits turn verdicts
    page.close()


def test_numbers_are_written_as_on_the_pages(browser: Any) -> None:
    values = [0, 0.00012, 0.5, 1, 12.345, 999.4, 1234.5678, 99999, 123456.7, 1.5e6, 2.5e-5, -0.0123]
    page = browser.new_page()
    page.add_script_tag(path=SCRIPT)
    there = page.evaluate("(values) => values.map((v) => [3, 4].map((d) => tuningvecAudit.number(v, d)))", values)
    assert there == [[text.number(value, digits) for digits in (3, 4)] for value in values]
    page.close()


@pytest.fixture(scope="module")
def file(inlined: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with the place and the tables that the script fills."""
    shown = {f"tab-live-{n}": tables.texts_of(n) for n in (4, 5, 6)}
    shown |= {"tab-live-15": tables.turns(audit.cosines()), "tab-live-implied": tables.implied(audit.energies())}
    shown |= {"tab-live-excess": tables.excess(audit.shape_bound())}
    shown |= {"tab-live-lengths": tables.relative_lengths(audit.lengths())}
    shown |= {"tab-live-verdicts": lines(list(Audit().closed_rows().values())).map(plain)}
    html = [digits(table).to_html(table_id=name, index=False) for name, table in shown.items()]
    place = f'<div class="live" data-part="audit"><script type="application/json">{json.dumps(inlined)}</script></div>'
    file = tmp_path_factory.mktemp("page") / "page.html"
    script = f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
    file.write_text("\n".join(["<!doctype html><meta charset=utf-8>", place, *html, script]), encoding="utf-8")
    return file


def plain(cell: str) -> str:
    """A verdict's word without its mark-up."""
    return re.sub(r"^\[(.*)\]\{\.\w+\}$", r"\1", cell)


def digits(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as `tables.show` writes them."""
    return table.assign(**{c: [text.number(v, 3) for v in table[c]] for c in table.select_dtypes("number")})


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Any]:
    """Open the page at an address; what its script complains of is an error."""
    pages = []

    def at(address: str = "") -> Any:
        pages.append(browser.new_page())
        pages[-1].on("pageerror", lambda error: pytest.fail(str(error)))
        pages[-1].goto(f"file://{file}{address}")
        return pages[-1]

    yield at
    for page in pages:
        page.close()


def cell(page: Any, table: int, row: int, column: int) -> Any:
    return page.locator(f"#tab-live-{table} tbody tr").nth(row).locator("input").nth(column)


def verdicts(page: Any) -> list[str]:
    return page.locator("#tab-live-verdicts tbody tr td:nth-child(2)").all_inner_texts()


def test_what_follows_as_printed_is_what_the_page_says(opened: Any) -> None:
    page = opened()
    assert page.locator(".moved").count() == 0 and page.locator("input").count() == 3 * 28 + 5
    assert page.locator('[role="status"]').inner_text() == "No number is changed."
    assert page.locator("button").first.is_disabled()
    assert page.locator("input:not([aria-label])").count() == 0


def test_a_changed_cell_changes_what_follows_and_stays_in_the_address(opened: Any) -> None:
    page = opened()
    before = verdicts(page)
    for row, column, value in ((2, 4, "1.51e4"), (3, 4, "2.11e4"), (3, 5, "2.15e4")):
        cell(page, 6, row, column).fill(value)
    assert before[1] == "differs" and verdicts(page)[1] == "holds"
    assert "✗" not in page.locator("#tab-live-implied").inner_text()
    assert page.locator('[role="status"]').inner_text().startswith("3 numbers are changed, and 1 of 9 verdicts with")
    address = page.evaluate("location.hash")
    assert address == "#6.3.5=1.51e4&6.4.5=2.11e4&6.4.6=2.15e4"
    again = opened(address)
    assert cell(again, 6, 2, 4).input_value() == "1.51e4" and verdicts(again) == verdicts(page)
    assert again.locator("input.changed").count() == 3
    again.get_by_role("button", name="As printed").click()
    assert verdicts(again) == before and again.evaluate("location.hash") == ""
    assert again.locator(".moved, .changed").count() == 0


def test_what_is_no_number_is_told_and_the_printed_one_stands_in(opened: Any) -> None:
    page = opened()
    for value in ("0,7", "x<b>", "-1", "0", "1.2", ""):
        cell(page, 4, 0, 4).fill(value)
        assert cell(page, 4, 0, 4).get_attribute("aria-invalid") == "true"
        assert f"Table 4, Aloe α, gate: “{value}”" in page.locator('[role="alert"]').inner_text()
        assert page.locator(".moved").count() == 0 and page.evaluate("location.hash") == ""
    cell(page, 15, 0, 0).fill("100")
    assert "not below 100" in page.locator('[role="alert"]').inner_text()
    strange = opened("#4.9.9=1&4.1.1=%E0%A4%A&15.1.1=9")
    told = strange.locator('[role="alert"]').inner_text()
    assert "a cell 4.9.9, which is not there" in told and "“%E0%A4%A” is no number" in told
    assert cell(strange, 15, 0, 0).input_value() == "9"


def test_each_example_is_a_button(opened: Any, inlined: dict[str, Any]) -> None:
    page = opened()
    for name, texts in inlined["examples"].items():
        page.get_by_role("button", name=f"Try {name}").click()
        count = len(list(chain.from_iterable(row for rows in texts.values() for row in rows.values())))
        assert page.locator("input.changed").count() == count
    assert verdicts(page)[0] == "holds"  # norms


def test_a_cell_that_is_not_there_cannot_be_changed() -> None:
    assert paper.changed({4: {("Aloe α", "W_Q"): "0.5"}})(4).value[0] == 0.5
    assert paper.changed({})(15).equals(paper.weight_cosines())
    with pytest.raises(TuningVecError, match="no cell Aloe α, W_X"):
        paper.changed({4: {("Aloe α", "W_X"): "0.5"}})(4)
