"""Formulas beside what is counted: operations, items asked, the pages' order; a trial and what a check says of it."""

from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tuningvec.book import checking, compendium, costs, scaling, trial
from tuningvec.book.compendium import Project
from tuningvec.book.costs import Case, Exam, Shape, Work
from tuningvec.data import data_folder
from tuningvec.family import described, members
from tuningvec.family.spec import Family
from tuningvec.measures import aim, evals, imported, models

SHAPE = Shape(2, ((64, 64), (32, 64), (32, 64), (64, 64), (96, 64), (96, 64), (64, 96)), 64, 300)
CASE = Case(SHAPE, [None, None], (), [1000, 1000], {"medicine": [Exam(40, 30, 100, 64)]}, ["medicine"])


@pytest.fixture(scope="module")
def tiny():
    return Family.load("tiny")


@pytest.fixture(scope="module")
def pages():
    return scaling.parameters()


def test_parameters_are_those_of_the_matrices_of_a_checkpoint(tiny):
    theta = members.checkpoint(tiny)
    matrices = [shape for shape in theta.shapes.values() if len(shape) == 2]
    assert Shape.of(theta.config).parameters == sum(rows * columns for rows, columns in matrices)


@pytest.mark.parametrize("head", [False, True])
def test_operations_of_a_forward_pass_are_those_that_torch_counts(tiny, head):
    model = models.Opened(tiny, "pretrained").model
    ids = torch.ones(1, 8, dtype=torch.long)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        (model if head else model.get_decoder())(ids)
    shape = Shape.of(members.checkpoint(tiny).config)
    attention = counted.get_flop_counts()["Global"]
    linear = sum(n for operation, n in attention.items() if operation is torch.ops.aten.mm or "mm" in str(operation))
    assert shape.forward(8, head) == pytest.approx(linear, rel=0.05)  # which holds attention too where it is products


@pytest.mark.parametrize(
    "page, known, drawn", [("03_1_benchmarks", 0, 0), ("03_2_negation", 2, 8), ("03_4_addition", 4, 0)]
)
def test_items_are_those_that_the_page_asks(tiny, pages, page, known, drawn):
    """Less those of `known` models, which pages before have asked; those of `drawn` turned T the list leaves out."""
    case, unknown = trial.case_of(tiny, pages[page].get("likelihood", ()))
    listed = imported.needed(tiny, "float32", {page: pages[page]}).values()
    limit = pages[page]["limit"] or 10**9
    asked = sum(min(len(task.eval_docs), limit) for need in listed for task in need.tasks.values())
    exams = [
        exam for domain in case.domains for exam in case.exams[domain] if exam.reply or "likelihood" in pages[page]
    ]
    own = sum(min(exam.items, limit) for exam in exams)
    (work,) = costs.of_pages({page: pages[page]}, case).values()
    assert not unknown and work.items - drawn * own == pytest.approx(asked - known * own, rel=0.1)


def test_what_two_pages_need_is_counted_on_the_first(pages):
    both = costs.of_pages({page: pages[page] for page in ("02_1_activated_neurons", "02_2_edit_distance")}, CASE)
    alone = costs.of_pages({"02_2_edit_distance": pages["02_2_edit_distance"]}, CASE)
    profiles = both["02_1_activated_neurons"].profiled
    assert profiles == 3 * SHAPE.forward(1000)
    assert alone["02_2_edit_distance"].profiled - both["02_2_edit_distance"].profiled == pytest.approx(profiles)


def test_what_is_counted_is_cut_as_the_measures_cut_it():
    assert (costs.WINDOW, costs.PARTS) == (evals.WINDOW, aim.SHARDS)


def test_work_grows_as_the_formulas_say(pages):
    by_page = costs.of_pages(pages, CASE)
    deeper = costs.of_pages(pages, replace(CASE, shape=replace(SHAPE, layers=4)))
    assert deeper["04_1_subspace_alignment"].eigen == 2 * by_page["04_1_subspace_alignment"].eigen
    thin = costs.of_pages(pages, replace(CASE, ranks=[8, 8]))
    assert thin["02_2_edit_distance"].turned == 0 < by_page["02_2_edit_distance"].turned
    wide = {rank: costs.projected((4096, 14336), rank) for rank in (None, 8)}
    assert wide[8] < wide[None] / 10
    fewer = costs.of_pages(pages | {"03_1_benchmarks": pages["03_1_benchmarks"] | {"limit": 8}}, CASE)
    assert fewer["03_1_benchmarks"].items == by_page["03_1_benchmarks"].items / 5
    assert set(by_page) == {page for page in pages if not page.startswith(("05", "06_lora", "07", "08"))}


def test_seconds_are_those_of_each_kind_of_work():
    rates = Work(*range(1, len(asdict(Work())) + 1))
    assert Work(pages=2, items=3).seconds(rates) == 2 * 1 + 3 * rates.items + 0 * rates.runs
    assert (2 * Work(read=1) + Work(read=3)).read == 5


def test_a_check_tells_what_each_page_takes_here(make_checkpoint, tmp_path):
    base, tuned = (make_checkpoint(name, seed=seed) for seed, name in enumerate(("base", "tuned")))
    file = described.write("mine", str(base), [f"law={tuned}"], lambda _: "MIT", tmp_path)
    found = checking.checked(Family.load(file, files=False))
    pages = [page for page in compendium.plan(Project.here(), [str(file)]) if page.family]
    lines = "\n".join(found.lines)
    assert not found.problems and all(page.notebook.stem in lines for page in pages)
    assert lines.count("a trial") == sum(page.notebook.stem in scaling.parameters() for page in pages)


def test_predictions_on_a_data_sheet_follow_it(pages):
    machines = scaling.hardware()
    works = costs.of_pages(pages, CASE)
    assumed = dict(share=0.4, eigen=0.02, qr=0.1, disk=2.0)
    table = scaling.hours(works, machines, **assumed).set_index("page")
    assert table.loc["all"].to_numpy() == pytest.approx(table.drop(index="all").sum().to_numpy())
    slow, fast = (scaling.rates(machines.loc[name].to_dict(), **assumed) for name in ("A100 80GB SXM", "H100 SXM"))
    assert fast.decoded / slow.decoded == pytest.approx(2.039 / 3.35)
    llama = scaling.models()["Llama-3-8B"]
    assert llama.parameters == pytest.approx(8.03e9, rel=0.001)  # as its card tells
    assert scaling.models()["Llama-3.1-405B"].parameters == pytest.approx(405e9, rel=0.01)
    fits = scaling.fits({"8B": llama}, machines, 0.25)
    assert fits["H100 SXM"][0] == 1 and fits["RTX 4090"][0] == 1


def test_what_was_recorded_was_predicted_within_a_factor_of_two():
    recorded = scaling.beside_recording()
    assert {"smollm2", "tiny"} <= set(recorded.page.str.partition("/")[0])
    assert recorded.ratio.between(0.5, 2).all(), recorded[~recorded.ratio.between(0.5, 2)].to_string()
    table = pd.read_csv(data_folder() / "times.csv")
    assert set(recorded.page) <= set(table.page)
