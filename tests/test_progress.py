import io
import time

import pytest
from rich.console import Console
from tqdm import tqdm

from tuningvec.book import progress
from tuningvec.book.progress import Progress, duration

PAGES = ["mine/01_one", "mine/02_two", "mine/03_three"]


def told(known, terminal=False):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False, color_system=None)
    return Progress(PAGES, known, console), stream


def draw(one, cells, loop):
    """Bars of papermill and of a cell, as tqdm draws them."""
    for name, (n, total) in {"Executing": cells, **loop}.items():
        bar = tqdm(total=total, desc=name, file=one, initial=n, unit=" tokens" if total > 1000 else "it")
        bar.refresh()


def test_a_log_gets_plain_lines():
    one, stream = told([60, 120, 240])
    with one:
        one.start(1)
        draw(one, (3, 9), {"ablation": (12, 39)})
        one.say(one._text())
    first, second = stream.getvalue().splitlines()
    assert first == "page 2 of 3 · mine/02_two · about 6 min left"
    assert second == "page 2 of 3 · mine/02_two · cell 4 of 9 · ablation 31 % (12/39) · about 6 min left"


def test_a_terminal_gets_one_line_with_the_bar_of_the_inner_loop():
    one, stream = told([60, 120, 240], terminal=True)
    with one:
        one.start(2)
        draw(one, (3, 9), {"profile": (12288, 24576)})
        time.sleep(0.8)
    said = stream.getvalue()
    assert "page 3 of 3 · mine/03_three · cell 4 of 9 · profile 12288/24576 ━━━━━━" in said
    assert "about 4 min left" in said and "\n\n" not in said


def test_the_next_cell_ends_the_loop():
    one, _ = told([1, 1, 1])
    draw(one, (3, 9), {"ablation": (12, 39)})
    draw(one, (4, 9), {})
    assert "ablation" not in one._text() and "cell 5 of 9" in one._text()


def test_what_is_left_falls_with_time_and_never_below_the_pages_to_come():
    one, _ = told([0.2, 120, 240])
    one.start(0)
    assert one.left() == pytest.approx(360.2, abs=0.1)
    time.sleep(0.3)
    assert one.left() == 360
    one, _ = told([20, None, 240])
    one.start(0)
    assert one.left() is None and one._text().endswith("time left unknown")
    one.start(2)
    assert one.left() == pytest.approx(240, abs=0.1)


def test_a_slow_day_is_seen_in_the_pages_before(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    one, _ = told([20, 40, 100])
    one.start(0)
    now[0] += 30
    one.start(1)
    assert one.left() == 140  # a page of 20 seconds tells little
    now[0] += 60
    one.start(2)
    assert one.left() == 150
    now[0] += 50
    assert one.left() == 100


def test_a_log_is_told_again_after_a_while(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.2)
    one, stream = told([60, 120, 240])
    with one:
        one.start(0)
        time.sleep(0.5)
    assert 2 <= stream.getvalue().count("page 1 of 3") <= 4


@pytest.mark.parametrize(("seconds", "words"), [(3, "about 10 s"), (67, "about 70 s"), (200, "about 3 min")])
def test_durations_are_round(seconds, words):
    assert duration(seconds) == words
