"""How long pages take: as they last did, else as where `data/times.csv` was recorded, by this machine's speed."""

import csv
import os
from collections.abc import Sequence

from tuningvec.book.compendium import Page
from tuningvec.book.progress import duration
from tuningvec.data import data_folder


def expected(pages: Sequence[Page]) -> list[float | None]:
    """Seconds that each page may take; None where neither it nor its like was executed before."""
    last = [page.seconds() for page in pages]
    return (
        last
        if None not in last
        else [known if seconds is None else seconds for seconds, known in zip(last, _recorded(pages), strict=True)]
    )


def _recorded(pages: Sequence[Page]) -> list[float | None]:
    """By the recording of the family's page in the dtype that models have here, and a trial of both machines' speed."""
    from tuningvec.weights import engine

    dtype, found = engine.dtype_name(), {}
    file = data_folder() / "times.csv"
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["dtype"] == dtype]
    speed = engine.gigaflops(dtype) if rows else 1
    for row in rows:
        found[row["page"]] = float(row["seconds"]) * float(row["gigaflops"]) / speed
    return [found.get(str(page)) for page in pages]


def announced(pages: Sequence[Page], some: Sequence[Page], known: Sequence[float | None]) -> str:
    """What a run is going to do and about how long that will take, in a sentence."""
    if not some:
        return f"all {len(pages)} pages are as they were last executed"
    from tuningvec.weights import engine

    long = "a time not known yet" if None in known else duration(sum(known))
    threads = os.environ["OMP_NUM_THREADS"]
    return (
        f"{len(some)} of {len(pages)} pages are to be executed, on {threads} threads in {engine.dtype_name()}: {long}. "
        "Ctrl-C stops; what is measured is kept."
    )
