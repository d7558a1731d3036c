"""How long the book of a family takes from empty caches, page by page, beside its budgets, and when nothing changed.

`python tests/benchmarks/bench_book.py [family] [--record]`; with `--record` the seconds go to `data/times.csv`, which
tells others about how long they are going to wait. TUNINGVEC_DTYPE and OMP_NUM_THREADS are heeded.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from tuningvec.book import checking, compendium
from tuningvec.book.compendium import Page, Project
from tuningvec.data import data_folder
from tuningvec.weights import engine

WHOLE = {"bfloat16": 8 * 60, "float32": 15 * 60}  # seconds on two cores
PAGE, AGAIN = 3 * 60, 10
FIELDS = ["page", "dtype", "gigaflops", "seconds", "predicted", "gigabytes", "gigabytes predicted"]


def timed(*command: str, **environment: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tuningvec", *command], check=True, env=os.environ | environment)
    return time.perf_counter() - start


def main() -> None:
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")] or ["smollm2"]
    dtype = engine.dtype_name()
    with tempfile.TemporaryDirectory() as empty:
        whole = timed("book", *names, "--fresh", XDG_CACHE_HOME=empty, TUNINGVEC_STORE=str(Path(empty, "store")))
        again = timed("book", *names, XDG_CACHE_HOME=empty, TUNINGVEC_STORE=str(Path(empty, "store")))
    pages = compendium.plan(Project.here(), names)
    rows = [(str(page), page.seconds(), PAGE) for page in pages]
    rows += [("all, with the book", whole, WHOLE[dtype]), ("again, nothing changed", again, AGAIN)]
    table = [(what, round(seconds), budget, "" if seconds <= budget else "over") for what, seconds, budget in rows]
    print(f"{engine.machine()}; {dtype}: {engine.gigaflops(dtype):.0f} GFLOP/s")
    print(tabulate(table, headers=["what", "seconds", "budget", ""], tablefmt="github"))
    if "--record" in sys.argv:
        record(pages, dtype)


def record(pages: Sequence[Page], dtype: str) -> None:
    """Put what these pages took in the place of what is recorded of them in that dtype, beside what was predicted."""
    file, speed = data_folder() / "times.csv", round(engine.gigaflops(dtype))
    predicted = {}
    for family in {page.family.name: page.family for page in pages if page.family}.values():
        predicted |= checking.predicted(family, [page for page in pages if page.family is family], dtype)[0]
    with file.open(encoding="utf-8", newline="") as stream:
        kept = [row for row in csv.DictReader(stream) if not (row["page"] in map(str, pages) and row["dtype"] == dtype)]
    for page in pages:
        row = dict(page=page, dtype=dtype, gigaflops=speed, seconds=round(page.seconds(), 1))
        if page.gigabytes():
            row["gigabytes"] = round(page.gigabytes(), 2)
        if known := predicted.get(str(page)):
            row |= {"predicted": round(known.seconds, 1), "gigabytes predicted": round(sum(known.gigabytes), 2)}
        kept.append(row)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept, key=lambda row: (row["dtype"], str(row["page"]))))


if __name__ == "__main__":
    main()
