"""What the pages would take on models and machines that are not at hand, and how far such predictions were off here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from tuningvec.book import compendium, costs
from tuningvec.book.costs import Case, Exam, Shape, Work
from tuningvec.data import data_folder
from tuningvec.page.text import number

OPERATIONS = "profiled", "read", "traced", "patched", "products", "eigen", "turned"
PARAMETERS = "decoded", "streamed", "loaded"


def models() -> dict[str, Shape]:
    """The sizes of some models, by name."""
    table = pd.read_csv(data_folder() / "scaling" / "models.csv")
    return {row["model"]: Shape.of(row) for row in table.to_dict("records")}


def hardware() -> pd.DataFrame:
    """GPUs by name: gigabytes, TFLOP/s in both types, terabytes a second, and where that is printed."""
    return pd.read_csv(data_folder() / "scaling" / "hardware.csv", index_col="hardware")


def case(shape: Shape, tokens: int, items: int, question: float, reply: int, domains: Sequence[str]) -> Case:
    """A family of full fine-tunes, a specialist of each domain with so many items, without controls."""
    exams = {domain: [Exam(items, question, question, reply)] for domain in domains}
    return Case(shape, [None] * len(domains), (), [tokens, tokens], exams, domains)


def parameters() -> dict[str, dict[str, Any]]:
    """The parameters of the pages that have a formula, by page."""
    numbered = {notebook.stem: notebook for notebook in compendium.Project.here().notebooks}
    return {
        stem: compendium.defaults(notebook)
        for stem, notebook in numbered.items()
        if any(stem.startswith(f"{number}_") for number in costs.FORMULAS)
    }


def work(works: Mapping[str, Work]) -> pd.DataFrame:
    """What each page does, in words: operations in 10¹⁵ (PFLOP), parameters that pass by in 10⁹ (G)."""

    def said(one: Work) -> str:
        amounts = asdict(one)
        parts = [f"{number(amounts[name] / 1e15, 2)} PFLOP {name}" for name in OPERATIONS if amounts[name] > 1e12]
        return ", ".join(parts + [f"{number(amounts[name] / 1e9, 2)} G {name}" for name in PARAMETERS if amounts[name]])

    return pd.DataFrame([dict(page=page, work=said(one)) for page, one in works.items()])


def rates(machine: Mapping[str, float], share: float, eigen: float, qr: float, disk: float) -> Work:
    """Seconds a unit of work on a GPU of `hardware` that reaches such a share of its limits, and `disk` GB/s from disk.

    `eigen` and `qr` are what eigen- and QR decompositions reach. Weights have two bytes.
    """
    slow, fast = (machine[f"{dtype}_tflops"] * 1e12 for dtype in ("float32", "bfloat16"))
    from_disk = 2 / (disk * 1e9)
    products, reading = 1 / (slow * share), 1 / (fast * share)
    return Work(
        pages=costs.PAGE, models=costs.MODEL, loaded=from_disk, streamed=from_disk, items=costs.ITEM, runs=costs.RUN,
        profiled=reading, read=reading, traced=products, patched=products, products=products,
        decoded=2 / (machine["terabytes_per_second"] * 1e12 * share), eigen=1 / (slow * eigen), turned=1 / (slow * qr),
    )  # fmt: skip


def hours(works: Mapping[str, Work], machines: pd.DataFrame, **assumed: float) -> pd.DataFrame:
    """Hours that each page takes on each machine, a row a page and a last one for all; `assumed` as in `rates`."""
    rates_of = {name: rates(row, **assumed) for name, row in machines.to_dict("index").items()}
    rows = [
        dict(page=page) | {name: one.seconds(each) / 3600 for name, each in rates_of.items()}
        for page, one in works.items()
    ]
    table = pd.DataFrame(rows)
    return pd.concat([table, table.drop(columns="page").sum().to_frame("all").T.rename_axis("page").reset_index()])


def totals(works: Mapping[str, Mapping[str, Work]], machines: pd.DataFrame, **assumed: float) -> pd.DataFrame:
    """Hours of all pages together, a row a model and a column a machine; `assumed` as in `rates`."""
    rows = [hours(pages, machines, **assumed).iloc[-1].rename(model) for model, pages in works.items()]
    return pd.DataFrame(rows).drop(columns="page").rename_axis("model").reset_index()


def fits(shapes: Mapping[str, Shape], machines: pd.DataFrame, room: float) -> pd.DataFrame:
    """Gigabytes of a model in bfloat16, and how many GPUs hold it where a share `room` of each is left for the rest."""
    return pd.DataFrame(
        dict(model=name, parameters=shape.parameters / 1e9, gigabytes=2 * shape.parameters / 1e9)
        | {
            machine: math.ceil(2 * shape.parameters / 1e9 / (size * (1 - room)))
            for machine, size in machines.gpu_gigabytes.items()
        }
        for name, shape in shapes.items()
    )


def beside_recording() -> pd.DataFrame:
    """Seconds and gigabytes of each recorded page beside what formulas and a trial told on that machine beforehand."""
    table = pd.read_csv(data_folder() / "times.csv").dropna(subset=["predicted"])
    columns = ["page", "dtype", "seconds", "predicted", "ratio", "gigabytes", "gigabytes predicted"]
    return table.assign(ratio=table.predicted / table.seconds)[columns]


def how_far(recorded: pd.DataFrame, factor: float = 2) -> pd.DataFrame:
    """Smallest, median and largest ratio of predicted to measured seconds, and how many pages lie within a factor."""
    family = recorded.page.str.partition("/")[0].rename("family")
    groups = recorded.groupby([family, "dtype"], sort=False).ratio
    table = groups.agg(["size", "min", "median", "max"]).rename(columns={"size": "pages"})
    return table.assign(within=groups.apply(lambda x: int(x.between(1 / factor, factor).sum()))).reset_index()
