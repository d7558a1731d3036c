"""Figures: each tells its data and its result, a name looks alike everywhere, an output carries what it should."""

import ast
import base64
import io
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tuningvec.family.spec import Family
from tuningvec.measures import path
from tuningvec.page import composed, figures, plots
from tuningvec.page.text import number
from tuningvec.paper import audit, claims, published
from tuningvec.weights.components import MATRICES

ROOT = Path(__file__).resolve().parent.parent
CALL = re.compile(r"\b(plots|composed)\.(\w+)\(")
NUMBER = re.compile(r"−?\d+(?:\.\d+)?")
rng = np.random.default_rng(0)
TINY = Family.load("tiny")


@pytest.fixture(autouse=True)
def _styled() -> Any:
    figures.style(TINY)
    yield
    plt.close("all")
    plt.rcdefaults()


def crossed(**columns: Any) -> pd.DataFrame:
    """All combinations of these values, with random numbers in the columns that are named by a string."""
    given_ = {name: values for name, values in columns.items() if not isinstance(values, tuple)}
    table = pd.MultiIndex.from_product(given_.values(), names=given_.keys()).to_frame(index=False)
    for name, (low, high) in ((n, v) for n, v in columns.items() if isinstance(v, tuple)):
        table[name] = rng.uniform(low, high, len(table))
    return table


def bounded(table: pd.DataFrame, value: str, low: str = "low", high: str = "high") -> pd.DataFrame:
    return table.assign(**{low: table[value] - 0.05, high: table[value] + 0.05})


VECTORS = ["instruct", "medical", "math", "random"]
MEMBERS = ["pretrained", "instruct", "medical", "math"]
SSA = dict(vector=VECTORS, kind=list(MATRICES), SSA=(0.2, 0.9), null=(0.2, 0.9), E_par=(1, 2), E_perp=(0.01, 0.1))
SCALES = [0.0, 0.5, 1.0, 1.5]


def layers() -> pd.DataFrame:
    table = crossed(**SSA | dict(layer=[0, 1, 2]))
    return table.assign(null=table.groupby(["kind", "layer"]).null.transform("first"))


def cosines() -> pd.DataFrame:
    pairs = pd.DataFrame({"a": ["instruct", "instruct", "medical"], "b": ["medical", "math", "math"]})
    kinds = crossed(kind=["all", *MATRICES], cosine=(-0.4, 0.9), null_sd=(0.01, 0.05))
    return pairs.merge(kinds, how="cross")


def moved() -> pd.DataFrame:
    return crossed(vector=VECTORS[:3], kind=["all", *MATRICES], r=(0.01, 0.3), cosine=(0.95, 0.99))


def effects() -> pd.DataFrame:
    table = crossed(member=MEMBERS, task=["general", "tuningvec_drugs"], ablated=["top", "random"],
                    share=[0.01, 0.05], change=(-60, 90))  # fmt: skip
    table["unit"] = np.where(table.task == "general", "nats per token", plots.PERCENT)
    return bounded(table, "change", "change_low", "change_high")


def differences(table: str) -> pd.DataFrame:
    return audit.corrected(claims.gather(0.95, 0.05, 0).comparisons, 0.05).query(f"table == '{table}'")


def patched() -> Any:
    columns = ["start", "drug", "is", "claim"]
    found = {(m, k): torch.randn(3, 3, 2, 4) for m in MEMBERS[:2] for k in ("wrong", "true")}
    return SimpleNamespace(columns=columns, effects=found)


def one_pair() -> Any:
    columns = ["start", "drug", "drug", "drug", "is", "a", "claim"]
    exact = torch.randn(3, 4, 7)
    exact[:, 1::2] = float("nan")  # layers that were not patched
    maps = dict(plain=torch.randn(3, 4, 7), integrated=torch.randn(3, 4, 7), exact=exact)
    return SimpleNamespace(corrupt=SimpleNamespace(columns=columns)), maps


def lines() -> pd.DataFrame:
    table = crossed(kind=["T"], a=["pretrained"], b=["medical", "math"],
                    text=["medicine replies", "math replies", "medical", "general"], scale=[-0.5, 0.0, 0.5, 1.0],
                    change=(-2, 2), excess=(-1, 1))  # fmt: skip
    return bounded(bounded(table, "change"), "excess")


def turned() -> pd.DataFrame:
    return crossed(member=["medical", "math"], text=["medicine replies", "general"], sides=["left"], draw=[0, 1],
                   scale=[-0.5, 0.0, 0.5, 1.0], change=(-1, 1))  # fmt: skip


def ways(**more: Any) -> pd.DataFrame:
    return bounded(crossed(scope=["all", "W_K"], way=["one", "random"], step=[0, 1, 2], loss=(1, 6)), "loss")


def items() -> pd.DataFrame:
    return crossed(a=["medicine"], b=["math"], domain=["medicine", "math"], source=[0, 1], item=[0],
                   scale_a=[0.0, 1.0], scale_b=[0.0, 1.0], nats=(10, 60)).assign(tokens=20)  # fmt: skip


def judged() -> dict[str, pd.DataFrame]:
    table = crossed(who=[composed.SUM, "sum, λ = 1", "TIES"], effect=(-0.2, 0.2))
    return {"replies": bounded(table, "effect").assign(clear=table.who == "TIES"), "right answers": table[:0].assign(
        low=0.0, high=0.0, clear=False)}  # fmt: skip


def reports() -> dict[str, Any]:
    return {m: {"loss": list(rng.uniform(1, 5, 20)), "divergence": list(rng.uniform(0.1, 0.5, 20))} for m in MEMBERS}


def published_pairs() -> tuple[Any, ...]:
    return published.by_pair(published.weight_differences()), published.TRAINING


def published_tensors() -> tuple[Any, ...]:
    return published.usable(published.weight_differences()), published.TRAINING


def negated() -> dict[str, pd.DataFrame]:
    table = bounded(crossed(what=["acc", "acc_lenient", "thought"], scale=SCALES, score=(5, 95)), "score")
    return {"medical, drugs, n = 32": table, "math, arithmetic, n = 32": table.assign(score=table.score + 1)}


def added() -> pd.DataFrame:
    table = crossed(task=["tuningvec_drugs"], vectors=["sum", "medical", "math"], scale=SCALES[1:], ratio=(0.1, 1))
    none = pd.DataFrame({"task": ["tuningvec_drugs"], "vectors": ["none"], "scale": [0.0], "ratio": [0.2]})
    return bounded(pd.concat([none, table], ignore_index=True), "ratio")


def gained() -> pd.DataFrame:
    table = crossed(task=["tuningvec_drugs", "tuningvec_arithmetic"], who=MEMBERS[1:], points=(-30, 30))
    return bounded(table, "points").assign(n=56, reference="pretrained", clear=table.points > 0)


def courses() -> pd.DataFrame:
    table = crossed(member=["medical from pretrained", "medical from placebo"], task=["tuningvec_drugs"],
                    way=["in the form asked for", "in any form"], own=[True, False],
                    scale=SCALES[:3], score=(5, 95))  # fmt: skip
    return bounded(table, "score")


TRAVELLED = dict(cosine=(0.1, 1), cosine_walk=(0.1, 1), onward=(0, 1), onward_walk=(0, 1))
FIGURES: dict[str, Callable[[], Figure]] = {
    "alignment_by_component": lambda: plots.alignment_by_component(crossed(**SSA)),
    "by_layer": lambda: plots.by_layer(layers(), "SSA", "SSA", null=True),
    "energy_by_component": lambda: plots.energy_by_component(crossed(**SSA)),
    "front": lambda: plots.front(layers().assign(family="Tiny"), audit.shape_bound()),
    "shape_bound": lambda: plots.shape_bound(audit.shape_bound()),
    "lengths": lambda: plots.lengths(audit.cosines(), audit.lengths()),
    "same_weights": lambda: plots.same_weights(audit.same_weights().query("table == '1' and items.notna()"), 0.95),
    "forest": lambda: plots.forest(differences("7")),
    "similarity": lambda: plots.similarity(moved(), published_tensors()[0]),
    "published_lengths": lambda: plots.published_lengths(*published_pairs()),
    "published_cosines": lambda: plots.published_cosines(*published_tensors()),
    "cosine_heatmap": lambda: plots.cosine_heatmap(cosines(), VECTORS[:3]),
    "cosine_by_component": lambda: plots.cosine_by_component(cosines()),
    "training_curves": lambda: plots.training_curves(reports(), ["math"]),
    "tuning_curves": lambda: plots.tuning_curves(ways(), ways()),
    "active_shares": lambda: plots.active_shares(bounded(crossed(
        member=MEMBERS, layer=[0, 1, 2], share=(0.2, 0.4), mean=(0.3, 0.6), half=(0.1, 0.4)), "share")),
    "edit_distances": lambda: plots.edit_distances(crossed(
        member=MEMBERS, criterion=["mean", "half"], layer=[0, 1, 2], edit=(0.01, 0.1), edit_rotated=(0.01, 0.1),
        edit_shuffled=(0.2, 0.3), edit_floor=(0.01, 0.02)), {"mean": "mean", "half": "half"}),
    "room_to_swap": lambda: plots.room_to_swap(
        crossed(member=MEMBERS[1:], layer=[0, 1], median=(5, 9), least=(2, 4), first=(10, 20)),
        crossed(member=MEMBERS[1:], layer=[0, 1], scale=[1, 4, 16], moved=(0, 1), nearest=(0, 1))),
    "ablation": lambda: plots.ablation(effects()),
    "ablation_heatmap": lambda: plots.ablation_heatmap(effects()),
    "negation": lambda: plots.negation(negated()),
    "starts": lambda: plots.starts(courses()),
    "addition": lambda: plots.addition(added()),
    "loss_lines": lambda: plots.loss_lines(lines(), turned()),
    "excess_over_chord": lambda: plots.excess_over_chord(lines(), path.KINDS, path.LEAST),
    "trajectories": lambda: plots.trajectories(crossed(
        member=["medical"], step=[10, 20, 30], distance=(0, 1), distance_walk=(0, 1), **TRAVELLED)),
    "score_differences": lambda: plots.score_differences(gained()),
    "patching_maps": lambda: plots.patching_maps(patched(), ("residual", "attention", "mlp"), "wrong"),
    "patching_example": lambda: plots.patching_example(one_pair(), ("residual", "attention", "mlp")),
    "losses": lambda: composed.losses(items()),
    "gaps": lambda: composed.gaps(judged()),
}  # fmt: skip


@cache
def figure_of(name: str) -> Figure:
    figures.style(TINY)
    figure = FIGURES[name]()
    plt.close(figure)
    return figure


def returning_a_figure(module: Any) -> set[str]:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return {f.name for f in functions if isinstance(f.returns, ast.Name) and f.returns.id == "Figure"}


def test_every_figure_of_a_page_is_drawn_here() -> None:
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "notebooks").glob("*.md")]
    called = {name for text in texts for _, name in CALL.findall(text)}
    there = returning_a_figure(plots) | returning_a_figure(composed)
    assert called & there <= there == FIGURES.keys()
    assert len(called & there) >= len(there) - 1  # the front page's is called by the book


def known_numbers(data: pd.DataFrame) -> set[str]:
    """The data's numbers as alt texts write them."""
    values = data.select_dtypes("number").to_numpy(float, na_value=np.nan).ravel()
    values = np.unique(values[~np.isnan(values)])
    forms = (lambda v: number(v, 2), lambda v: number(v, 3), "{:.1f}".format, "{:.3f}".format, "{:.0f}".format)
    return {form(value).replace("-", "−") for value in values for form in forms}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_numbers_of_its_data_and_its_csv_is_what_it_draws(name: str) -> None:
    figure = figure_of(name)
    table, metadata = figures.bundle(figure)
    found = pd.read_csv(io.StringIO(table["text/csv"]))
    pd.testing.assert_frame_equal(
        found, pd.read_csv(io.StringIO(figure.data.to_csv(index=False))), rtol=1e-5, check_dtype=False
    )
    said = {text for text in NUMBER.findall(metadata["tuningvec.alt"]) if "." in text}
    assert len(found) and said & known_numbers(figure.data)
    assert "nan" not in figure.alt and "\n" not in figure.alt and len(figure.alt) < 1500


def marks(figure: Figure) -> np.ndarray:
    """All coordinates of the lines of a figure's panels, and all values of its images and meshes."""
    lines = [line.get_xydata().ravel() for axes in figure.axes for line in axes.lines]
    cells = [np.ma.filled(np.ma.asarray(found.get_array(), dtype=float), np.nan).ravel()
             for axes in figure.axes for found in [*axes.images, *axes.collections]
             if found.get_array() is not None]  # fmt: skip
    return np.concatenate([*lines, *cells]).astype(float)


@pytest.mark.parametrize(
    ("name", "columns"),
    {
        "alignment_by_component": ["SSA"], "by_layer": ["SSA", "null"], "energy_by_component": ["E_par", "E_perp"],
        "front": ["SSA"], "shape_bound": ["SSA"], "lengths": ["r"], "same_weights": ["value_pre", "value"],
        "forest": ["points"], "published_lengths": ["r"], "published_cosines": ["r"], "cosine_by_component": ["cosine"],
        "cosine_heatmap": ["cosine"], "training_curves": ["value"], "tuning_curves": ["loss"],
        "active_shares": ["share", "mean", "half"], "edit_distances": ["edit", "edit_rotated"],
        "room_to_swap": ["median", "least", "first", "moved", "nearest"], "ablation": ["change"], "negation": ["score"],
        "addition": ["ratio"], "loss_lines": ["change"], "excess_over_chord": ["excess"],
        "score_differences": ["points"],
        "trajectories": ["distance", "cosine_walk"], "patching_maps": ["effect"], "patching_example": ["effect"],
        "losses": ["nats_per_token"], "gaps": ["effect"], "similarity": ["r"], "starts": ["score"],
    }.items(),
)  # fmt: skip
def test_the_values_of_the_csv_are_those_drawn(name: str, columns: list[str]) -> None:
    figure = figure_of(name)
    drawn = np.sort(marks(figure))
    for column in columns:
        values = figure.data[column].dropna().to_numpy(float)
        near = np.searchsorted(drawn, values).clip(1, len(drawn) - 1)
        distance = np.minimum(abs(drawn[near] - values), abs(drawn[near - 1] - values))
        assert len(values) and distance.max() <= 1e-6 * max(1, abs(values).max()), column


def family(names: list[str], controls: int, domain: str = "law") -> Family:
    """`tiny` with these fine-tuned members, of which the last ones are controls."""
    tiny = TINY
    like = next(m for m in tiny.fine_tuned if m.role == "domain")
    control = next(m for m in tiny.fine_tuned if m.role == "control")
    first = len(names) - controls
    found = [like.model_copy(update=dict(name=name, domain=domain)) for name in names[:first]]
    found += [control.model_copy(update=dict(name=name)) for name in names[first:]]
    return tiny.model_copy(update=dict(fine_tuned=tuple(found)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.from_regex(r"\A[a-z][a-z0-9]{0,5}\Z"), min_size=1, max_size=150, unique=True), st.integers(0, 40))
def test_no_two_members_of_a_family_look_alike_however_many_there_are(names: list[str], controls: int) -> None:
    spec = family(names, min(controls, len(names) - 1))
    figures.style(spec)
    found = figures.looks([spec.pretrained.name, "random", *(n for n in names if n != "pretrained")])
    assert len({(marker, to_hex(colour)) for marker, colour in found.values()}) == len(found)
    assert figures.looks(reversed(found)) == found  # whatever the order, and a part of them
    assert all(figures.looks([name]) == {name: look} for name, look in found.items())
    assert figures.looks([spec.pretrained.name])[spec.pretrained.name] == ("X", (0, 0, 0))


def test_a_name_looks_alike_in_every_family_and_the_paper() -> None:
    seen = []
    for spec in (None, *map(Family.load, ("tiny", "smollm2"))):
        figures.style(spec)
        seen.append(figures.looks(["medical", "math", "Aloe β", "Q Math", "random"]))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["Aloe β"] == seen[0]["medical"] != seen[0]["math"] == seen[0]["Q Math"]


def test_a_domain_and_its_replies_look_like_its_first_specialist() -> None:
    figures.style(family(["one", "two", "twin"], 1))
    found = figures.looks(["law", "law replies", "one"])
    assert len(set(found.values())) == 1 and figures.looks(["two"])["two"] not in found.values()


def test_names_that_no_family_has_take_what_is_free_in_their_order() -> None:
    medical = figures.looks(["medical"])["medical"]
    found = figures.looks(["first way", "medical", "second way", "third way"])
    assert found["medical"] == medical and len(set(found.values())) == 4


def test_style_twice_is_style_once() -> None:
    before = dict(plt.rcParams), figures.looks(MEMBERS)
    figures.style(TINY)
    assert (dict(plt.rcParams), figures.looks(MEMBERS)) == before


@pytest.mark.usefixtures("shell")
def test_an_output_carries_picture_pdf_data_and_alt_text() -> None:
    formatter = InteractiveShell.instance().display_formatter
    plots.style(TINY)
    plots.style(TINY)
    figure = figure_of("alignment_by_component")
    outputs, metadata = formatter.format(figure)
    again, _ = formatter.format(figure)
    plain, _ = formatter.format(plt.figure())
    assert outputs.keys() == {"text/plain", "image/svg+xml", "application/pdf", "text/csv"}
    assert metadata["tuningvec.alt"] == figure.alt
    assert outputs == again  # without dates
    pdf = base64.b64decode(outputs["application/pdf"])
    assert pdf.startswith(b"%PDF") and len(pdf) < 60_000 and b"Date" not in pdf
    assert "fill: #ffffff" not in outputs["image/svg+xml"].split("axes_1")[0]  # transparent
    assert "application/pdf" not in plain


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_as_wide_as_an_article_and_no_text_is_small(name: str) -> None:
    figure = figure_of(name)
    width, height = figure.get_size_inches() * figure.dpi
    assert width == pytest.approx(figures.WIDTH * figure.dpi) and height < 900
    labels = {axis.label.get_size() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)}
    assert labels == {plt.rcParams["axes.labelsize"]}
    sizes = [
        text.get_size() for axes in figure.axes for text in [*axes.texts, *axes.get_yticklabels()] if text.get_text()
    ]
    assert min(sizes, default=9) >= 6.5


def test_names_below_an_example_do_not_overlap() -> None:
    figure = figure_of("patching_example")
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.x0)
        assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(boxes))
