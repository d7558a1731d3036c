"""What a person sees who waits for pages: one line on a terminal, plain lines in a log."""

import re
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

BAR = re.compile(r"([^\r\n|]*?):?\s+(\d+)%\|.*?\|\s*(\S+)(?: tokens)? \[")  # as tqdm draws a loop
CELLS, NO_LOOP = "Executing", ("", 0, "")  # papermill's name for its bar; no bar in a cell
LOADING = "Loading weights"  # of a model, by transformers: a second or two within a loop of ours
EVERY = 60  # seconds between two lines of a log
ENOUGH = 30  # seconds of pages that tell how fast this machine is today


class Progress:
    """Tells which page is executed, which of its cells, which loop in that, and about how long all of it still takes.

    `known` is how long each page may take in seconds, None where nobody can tell. It is a file to which the bars of
    papermill and of the kernel are written; what it says is added to `log`.
    """

    def __init__(
        self,
        pages: Sequence[str],
        known: Sequence[float | None],
        console: Console | None = None,
        log: Path | None = None,
    ):
        self._pages, self._known, self._file = pages, known, log
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._at, self._cells, self._loop, self._started = 0, "", NO_LOOP, time.monotonic()
        self._begun, self._took, self._promised = False, 0.0, 0.0  # seconds that pages took, and were to take
        self._live = Live(console=self._console, get_renderable=self._line, refresh_per_second=2, transient=True)
        self._log, self._over = threading.Thread(target=self._tell_now_and_then, daemon=True), threading.Event()

    def __enter__(self) -> "Progress":
        if self._pages:
            (self._live if self._console.is_terminal else self._log).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays, also in the log."""
        self._console.print(text, markup=False)
        if self._file:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")

    def start(self, page: int) -> None:
        """The page of this number is executed now."""
        if self._begun and self._known[self._at] is not None:
            self._took += time.monotonic() - self._started
            self._promised += self._known[self._at]
        self._begun = True
        self._at, self._cells, self._loop, self._started = page, "", NO_LOOP, time.monotonic()
        if not self._console.is_terminal:
            self.say(self._text())

    def write(self, text: str) -> None:
        """Take note of the last bar that is drawn in a text: papermill's one of cells, or one of a loop in a cell."""
        for name, percent, count in BAR.findall(text):
            if name.strip() == CELLS:
                done, cells = map(int, count.split("/"))
                self._cells, self._loop = f"{min(done + 1, cells)} of {cells}", NO_LOOP
            elif name.strip() != LOADING:
                self._loop = name.strip(), int(percent), count

    def flush(self) -> None:
        """Nothing is held back."""

    def kept(self) -> str:
        """What a run that is stopped now keeps, in a sentence."""
        at = f"page {self._at + 1} of {len(self._pages)}, {self._pages[self._at]}" if self._pages else "the start"
        return (
            f"stopped at {at}; the pages before it are kept, and what was measured for it up to the last whole piece; "
            "the same command goes on from there"
        )

    def left(self) -> float | None:
        """Seconds that the page and those after it may still take; None where that of one is unknown.

        Where the pages before took longer or less long than they were to, those to come are taken to do so too.
        """
        rest = self._known[self._at :] or [0]
        if any(seconds is None for seconds in rest):
            return None
        pace = self._took / self._promised if self._promised > ENOUGH else 1
        return max(pace * rest[0] - (time.monotonic() - self._started), 0) + pace * sum(rest[1:])

    def _text(self) -> str:
        if not self._pages:
            return ""
        parts = [f"page {self._at + 1} of {len(self._pages)}", self._pages[self._at]]
        if self._cells:
            parts.append(f"cell {self._cells}")
        name, percent, count = self._loop
        if name:
            parts.append(f"{name} {count}" if self._console.is_terminal else f"{name} {percent} % ({count})")
        return " · ".join(parts + ([] if self._console.is_terminal else [self._left()]))

    def _left(self) -> str:
        left = self.left()
        return "time left unknown" if left is None else f"{duration(left)} left"

    def _line(self) -> Table:
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        line.add_column(width=12)
        line.add_column(no_wrap=True)
        line.add_row(self._text(), ProgressBar(total=100, completed=self._loop[1], width=12), self._left())
        return line

    def _tell_now_and_then(self) -> None:
        while not self._over.wait(EVERY):
            self.say(self._text())


def duration(seconds: float) -> str:
    """About how long, in words: "about 3 min"."""
    if seconds >= 90 * 60:
        return f"about {seconds / 3600:.0f} h"
    return f"about {round(seconds / 60)} min" if seconds >= 90 else f"about {max(round(seconds, -1), 10):.0f} s"
