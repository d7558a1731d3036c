import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.utils.capture import capture_output
from matplotlib.colors import to_hex

from tuningvec.family import shipped
from tuningvec.family.spec import Family
from tuningvec.measures import evals, scores
from tuningvec.page import live, maps, plots, samples, tables
from tuningvec.page.text import cut, number

STATIC = Path(__file__).resolve().parent.parent / "book" / "_static"
SAID = {"excess": "excess", "SSA": "SSA", "null": "null", "z": "z"}


def stored(name: str, spec: Family) -> Any:
    return shipped.read(spec.shipped, name, shipped.provenance(spec.shipped))


@pytest.fixture(scope="module")
def measured() -> SimpleNamespace:
    """What ships of a family of thirty layers, with its tasks."""
    spec = Family.load("smollm2_full")
    by_likelihood = evals.tasks(["tuningvec_drugs_likelihood"], spec.prompt)
    asked = scores.with_likelihood(evals.of_domains(spec), by_likelihood)
    exams = evals.of_domains(spec, "accuracy", list(spec.specialist_of))
    alignment = stored("04_1-alignment", spec)
    return SimpleNamespace(
        asked=asked,
        exams=exams,
        tasks=evals.together(asked) | by_likelihood,
        negated=scores.with_sources(stored("03_2-items", spec), evals.together(asked)),
        added=scores.with_sources(stored("03_4-items", spec), evals.together(exams)),
        layers=alignment[(alignment.epsilon == 0.05) & alignment.vector.isin(["medical", "random"])],
    )


@pytest.fixture(scope="module")
def negation(measured: SimpleNamespace) -> dict[str, Any]:
    return live.negation(measured.negated, scores.all_curves(measured.negated, 0), measured.asked)


@pytest.fixture(scope="module")
def addition(measured: SimpleNamespace) -> dict[str, Any]:
    return live.addition(measured.added, measured.exams, 0)


@pytest.fixture(scope="module")
def excess(measured: SimpleNamespace) -> dict[str, Any]:
    return live.by_matrix(measured.layers, "excess", SAID, "fig-ssa-map-smollm2_full", null=0)


def test_scores_along_the_slider_are_those_of_the_figure(measured, negation):
    curves = scores.all_curves(measured.negated, 0)
    assert [panel["title"] for panel in negation["panels"]] == list(curves)
    for panel, curve in zip(negation["panels"], curves.values(), strict=True):
        table = curve.set_index(["what", "scale"])
        for line in panel["lines"]:
            what = next((w for w, (label, _) in plots.CURVES.items() if label == line["name"]), "acc")
            rows = table.loc[what].loc[panel["scales"], ["score", "low", "high"]]
            np.testing.assert_allclose(line["at"], rows, atol=0.005)
            assert line["said"] == [tables.SCORE.format(**row) for row in rows.to_dict("records")]


def test_replies_are_those_of_the_item_at_each_scale(measured, negation):
    panel = negation["panels"][0]
    assert panel["title"].startswith("medical, drugs,") and panel["judged"][0] == "right, in the form asked for"
    rows = measured.negated[(measured.negated.task == "tuningvec_drugs") & measured.negated.own]
    for shown in panel["items"]:
        doc = measured.tasks["tuningvec_drugs"].eval_docs[shown["item"] - 1]
        assert doc["question"] in shown["question"] and doc["options"][doc["answer"]] in shown["answer"]
        for scale, ((said, *values),) in zip(panel["scales"], shown["replies"], strict=True):
            (row,) = rows[(rows["item"] == shown["item"] - 1) & (rows.scale == scale)].to_dict("records")
            assert said == cut(row["reply"], 600)
            assert values[:2] == [100 * row["acc"], 100 * row["acc_lenient"]]


def test_items_that_change_along_the_slider_come_first(negation):
    changes = [len({reply[0][1] for reply in item["replies"]}) > 1 for item in negation["panels"][0]["items"]]
    assert all(changes)


def test_by_likelihood_the_options_have_their_log_p(measured, negation):
    panel = negation["panels"][1]
    assert panel["judged"] == ["right, by likelihood"] and "likelihood" in panel["title"]
    said = panel["items"][0]["replies"][0][0][0]
    rows = measured.negated[(measured.negated.task == "tuningvec_drugs_likelihood") & measured.negated.own]
    row = rows[(rows["item"] == panel["items"][0]["item"] - 1) & (rows.scale == 0)].iloc[0]
    for logp, _ in json.loads(row.reply):
        assert f"log p −{-logp:.1f}" in said


def test_sums_have_the_scores_of_their_table(measured, addition):
    found = scores.of_tasks(measured.added, 0).set_index(["task", "who"]).score
    for panel, task in zip(addition["panels"], measured.added.task.unique(), strict=True):
        assert panel["scales"][0] == 0 and panel["series"][0] == "all vectors"
        ours = next(line for line in panel["lines"] if line["name"] == "all vectors: right, in the form asked for")
        whole = panel["scales"].index(1)
        assert ours["at"][whole][0] == pytest.approx(found[task, "sum, λ = 1"], abs=0.005)
        assert [len(replies) for replies in panel["items"][0]["replies"]] == [3] * len(panel["scales"])


def test_columns_that_a_family_lacks_are_left_out(measured):
    fewer = measured.negated.drop(columns=["stopped_token", "thought", "prompt"])
    data = live.negation(fewer, scores.all_curves(fewer, 0), measured.asked)
    assert data["panels"][0]["judged"] == ["right, in the form asked for", "right, in any form"]


def test_many_replies_are_cut_and_fewer(measured, negation, monkeypatch):
    curves = scores.all_curves(measured.negated, 0)
    assert len(json.dumps(negation).encode()) < live.MOST
    monkeypatch.setattr(live, "MOST", 12_000)
    smaller = live.negation(measured.negated, curves, measured.asked)
    assert len(smaller["panels"][0]["items"]) < len(negation["panels"][0]["items"])
    assert len(json.dumps(smaller, ensure_ascii=False, separators=(",", ":")).encode()) <= 12_000


def test_cells_tell_what_the_table_has_in_the_colours_of_the_figure(measured, excess):
    rows = measured.layers.set_index(["vector", "layer", "kind"])
    figure = maps.by_matrix(measured.layers, "excess", "excess of SSA", null=0)
    images = dict(zip(excess["cells"], (axes.images[0] for axes in figure.axes if axes.images), strict=True))
    for vector, cells in excess["cells"].items():
        image = images[vector]
        drawn = image.cmap(image.norm(image.get_array()))
        for layer, kind in np.ndindex(len(excess["layers"]), len(excess["kinds"])):
            row = rows.loc[vector, excess["layers"][layer], excess["kinds"][kind]]
            assert cells[layer][kind] == [to_hex(drawn[layer, kind]), *(number(row[name], 4) for name in SAID)]
    plt.close(figure)
    assert excess["key"][2] == ("0", to_hex(image.cmap(image.norm(0.0))))


@pytest.mark.parametrize("layers", [1, 80])
def test_maps_of_any_depth_with_cells_that_are_not_known(layers):
    rows = [
        dict(vector=vector, layer=layer, kind=kind, E_perp=0.1 * (layer + 1))
        for vector in ("a", "b", "c", "d", "e") for layer in range(layers) for kind in ("W_Q", "W_down")
    ]  # fmt: skip
    table = pd.DataFrame(rows).iloc[1:]
    table.iloc[0, -1] = np.nan
    figure = maps.by_matrix(table, "E_perp", "energy")
    assert len([axes for axes in figure.axes if axes.images]) == 5
    data = live.by_matrix(table, "E_perp", {"energy": "E_perp"}, "fig")
    assert data["cells"]["a"][0] == [None, [maps.UNKNOWN, "–"]] and len(data["cells"]["b"]) == layers
    assert len(json.dumps(data).encode()) < live.MOST
    plt.close(figure)


@pytest.mark.usefixtures("shell")
def test_one_item_of_each_benchmark_with_its_answer(measured):
    with capture_output() as captured:
        samples.one_of_each(measured.tasks, "Items")
    text = captured.outputs[0].data["text/markdown"]
    assert text.count("Scored: ") == len(measured.tasks)
    for name, task in measured.tasks.items():
        doc = task.eval_docs[0]
        assert f"**{scores.task_name(name)}**" in text and doc["question"].splitlines()[-1] in text
    assert (
        samples.answer(measured.tasks["tuningvec_drugs"], measured.tasks["tuningvec_drugs"].eval_docs[0])[:3] == "A. "
    )


def test_nothing_in_an_item_ends_its_block():
    assert samples._fenced("a\n```\nb").splitlines()[0] == "``````text"


def test_what_cannot_be_seen_is_shown_and_a_cut_is_marked():
    assert cut(" a\r\nb\x07 ", 9) == "a\nb\\x07" and cut("abc", 2) == "ab […]" and cut(" ", 5) == "(nothing)"


PAGE = """<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>live</title>
<link rel="stylesheet" href="live.css"><script src="live_scale.js" defer></script>
<script src="live_map.js" defer></script></head><body>
<figure id="fig-ssa-map-smollm2-full"><img src="map.svg" alt="map"><figcaption>A map.</figcaption></figure>
{parts}</body></html>"""


@pytest.fixture
def page(tmp_path: Path, shell: None, negation: Any, addition: Any, excess: Any) -> Iterator[Any]:
    """A page with the real scripts, styles and data in Chromium; what it asked for and what went wrong in `seen`."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not (chromium := shutil.which("chromium")):
        pytest.skip("there is no Chromium here")
    with capture_output() as captured:
        live.embed("scale", negation)
        live.embed("scale", addition)
        live.embed("map", excess)
    for file in ("live.css", "live_scale.js", "live_map.js"):
        shutil.copy(STATIC / file, tmp_path)
    (tmp_path / "map.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    parts = "".join(output.data["text/html"] for output in captured.outputs)
    (tmp_path / "page.html").write_text(PAGE.format(parts=parts), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport=dict(width=390, height=844))
        asked, wrong = [], []
        opened.on("request", lambda request: asked.append(request.url))
        opened.on("console", lambda message: wrong.append(message.text))
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.goto((tmp_path / "page.html").as_uri())
        yield opened
        browser.close()
    assert wrong == [] and all(url.startswith("file://") for url in asked), (wrong, asked)


def test_the_slider_moved_by_keyboard_shows_scores_and_reply_at_that_scale(page, negation):
    part, panel = page.locator('.live[data-part="scale"]').first, negation["panels"][0]
    slider = part.get_by_role("slider")
    slider.focus()
    for at, scale in enumerate(panel["scales"]):
        assert slider.get_attribute("aria-valuetext") == f"λ = {scale:g}"
        told = part.locator("tbody tr").all_inner_texts()
        assert [row.split("\t")[-1].strip() for row in told] == [line["said"][at] for line in panel["lines"]]
        (said, *values) = panel["items"][0]["replies"][at][0]
        assert part.locator(".reply").text_content() == said
        verdicts = part.locator(".judged strong").all_inner_texts()
        assert verdicts == ["yes" if value == 100 else "no" for value in values]
        slider.press("ArrowRight")


def test_another_panel_and_item_are_picked(page, addition):
    part, panel = page.locator('.live[data-part="scale"]').nth(1), addition["panels"][1]
    first, second = part.locator("select").all()
    first.select_option(label=panel["title"])
    second.select_option("2")
    assert panel["items"][2]["answer"] in part.locator(".asked").inner_text()
    assert part.locator(".reply").all_text_contents() == [panel["items"][2]["replies"][0][0][0]]  # of one model
    part.get_by_role("slider").press("End")
    said = [reply[0] for reply in panel["items"][2]["replies"][-1]]
    assert part.locator(".reply").all_text_contents() == said
    assert part.locator("svg[role=img] polyline").count() == len(panel["lines"])


def test_arrow_keys_tell_the_value_and_the_null_of_a_cell(page, excess):
    part = page.locator('figure .live[data-part="map"]')
    part.get_by_role("gridcell").first.focus()
    for key, (layer, kind) in dict(ArrowDown=(1, 0), ArrowRight=(1, 1), End=(1, 6), PageDown=(6, 6)).items():
        page.keyboard.press(key)
        colour, *told = excess["cells"]["medical"][layer][kind]
        assert part.locator("[role=status] dd").all_inner_texts() == told
        cell = page.locator(":focus")
        assert cell.get_attribute("aria-label").endswith(
            f"excess {told[0]}, SSA {told[1]}, null {told[2]}, z {told[3]}"
        )
        assert cell.evaluate("one => getComputedStyle(one).backgroundColor") == _rgb(colour)
    part.get_by_text("random", exact=True).click()
    assert part.locator("[role=status] dd").first.inner_text() == excess["cells"]["random"][6][6][1]


def test_a_cell_is_pointed_at_and_the_image_gives_way_to_the_map(page, excess):
    part = page.locator('figure .live[data-part="map"]')
    assert not page.locator("figure img").is_visible() and page.locator("figcaption").is_visible()
    part.locator('[data-layer="29"][data-kind="3"]').hover()
    assert part.locator("[role=status] dd").first.inner_text() == excess["cells"]["medical"][29][3][1]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(part, 16)) for part in re.findall('..', colour[1:]))})"
