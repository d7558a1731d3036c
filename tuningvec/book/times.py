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
    if None not in last:  # the trial of speed needs torch, which takes long to import
        return last
    return [known if seconds is None else seconds for seconds, known in zip(last, recorded(pages), strict=True)]


def recorded(pages: Sequence[Page]) -> list[float | None]:
    """By the recording of the family's page in the dtype that models have here, and a trial of both machines' speed."""
    from tuningvec.weights import engine

    dtype, file = engine.dtype_name(), data_folder() / "times.csv"
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines())) if file.is_file() else []
    rows = [row for row in rows if row["dtype"] == dtype]
    speed = engine.gigaflops(dtype) if rows else 1
    known = {row["page"]: float(row["seconds"]) * float(row["gigaflops"]) / speed for row in rows}
    return [known.get(str(page)) for page in pages]


def announced(pages: Sequence[Page], some: Sequence[Page], known: Sequence[float | None]) -> str:
    """What a run is going to do and about how long that will take, in a sentence."""
    if not some:
        return f"all {len(pages)} pages are as they were last executed"
    from tuningvec.weights import engine

    told = [seconds for seconds in known if seconds is not None]
    missing = len(known) - len(told)
    more = f", and {missing} page{'s' * (missing != 1)} of which no time is known" if missing else ""
    long = duration(sum(told)) + more if told else "a time not known yet"
    threads = f"{os.environ['OMP_NUM_THREADS']} thread{'s' * (os.environ['OMP_NUM_THREADS'] != '1')}"
    return (
        f"{len(some)} of {len(pages)} pages are to be executed, on {threads} in {engine.dtype_name()}: {long}. "
        "Ctrl-C stops; what is measured is kept."
    )
