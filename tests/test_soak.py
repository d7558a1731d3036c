"""Long trials, for `make soak`: pages of `tiny` killed again and again, a full disk, models taken up and let go."""

import gc
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from bs4 import BeautifulSoup

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import models
from tuningvec.store import Store, _lines

KILLS = int(os.environ.get("TUNINGVEC_KILLS") or 0)
ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not KILLS, reason="a long trial: `make soak`")


def tree(folder: Path) -> Path:
    """A copy of the project without what was made in it."""
    for name in ("tuningvec", "notebooks", "data", "book", "CITATION.cff", "_config.yml", "_toc.yml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results", "smollm2*"))
        else:
            shutil.copy(source, folder / name)
    return folder


def run(what: str, folder: Path, store: Path) -> subprocess.Popen:
    about = dict(os.environ, TUNINGVEC_STORE=str(store), PYTHONPATH=str(folder), HF_ALLOW_CODE_EVAL="1")
    command = [sys.executable, "-m", "tuningvec", what, "tiny"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, env=about, stdout=quiet, stderr=quiet, start_new_session=True)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def rows(store: Path) -> dict[str, dict[str, object]]:
    return {
        file.stem: {line["piece"]: line["rows"] for line in _lines(file) if "rows" in line}
        for file in store.glob("*-*.jsonl")
    }


def test_killed_pages_lose_nothing_and_give_the_same_tables(tmp_path):
    """Page after page is killed while it runs; when the last was, the run is finished and its tables are compared."""
    whole = tree(tmp_path / "whole")
    assert run("run", whole, tmp_path / "expected").wait() == 0
    made = whole / "build" / "pages"
    order = [file.relative_to(whole) for name in ("paper", "tiny") for file in sorted((made / name).iterdir())]
    folder, store, expected = tree(tmp_path / "tree"), tmp_path / "store", rows(tmp_path / "expected")
    killed, rng = Counter(), random.Random(0)
    for turn in itertools.count():
        if turn % (len(order) + 1) == len(order) or killed.total() >= KILLS:
            assert run("run", folder, store).wait() == 0
            assert not list(folder.rglob("*.unfinished.*"))
            assert rows(store) == expected
            if killed.total() >= KILLS:
                break
            shutil.rmtree(folder / "build")
            shutil.rmtree(store)
            continue
        page = folder / order[turn % (len(order) + 1)]
        running = run("run", folder, store)
        while running.poll() is None and not page.with_suffix(".unfinished.ipynb").exists():
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 12))
        if running.poll() is not None:
            assert running.returncode == 0
            continue
        kernels = _children(running.pid)
        os.killpg(running.pid, signal.SIGKILL)
        for kernel in kernels:  # in sessions of their own
            with suppress(ProcessLookupError):
                os.kill(kernel, signal.SIGKILL)
        running.wait()
        killed.update(file.name.split(".")[0] for file in folder.rglob("*.unfinished.ipynb"))
    print("killed in", dict(killed))


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_is_said_and_what_was_kept_stays(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        record, kept = Store(small).record("table", {}, "tuningvec.errors"), []
        with pytest.raises(TuningVecError, match=r"No space left on device|written in part"):
            for i in range(1000):
                record.add(str(i), [{"v": i, "text": "x" * 1000}])
                kept.append(str(i))
        again = Store(small).record("table", {}, "tuningvec.errors")
        assert len(kept) > 10 and [row["v"] for row in again.rows(kept)] == list(range(len(kept)))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_memory_does_not_grow_with_models_and_batches():
    family, peaks = Family.load("tiny"), []
    ids = torch.arange(64).reshape(4, 16)
    for i in range(40):
        one = models.Opened(family, "medical")
        for _ in range(50):
            one.model(input_ids=ids.to(one.model.device))
        del one
        gc.collect()
        if i in (9, 39):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] - peaks[0] < 50 * 1024  # kilobytes, after 2,000 batches


BAD = """<script>document.title=1</script><img src=x onerror=document.title=1> [x](javascript:document.title=1)
$\\href{javascript:document.title=1}{x}$ ```{raw} html
<script>document.title=1</script>
``` {{ 7*7 }} ]]> |a|b|"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_words_of_a_family_do_nothing_in_a_browser(tmp_path):
    folder, spec = tree(tmp_path / "tree"), yaml.safe_load((ROOT / "data/families/tiny.yaml").read_text())
    spec |= {field: f"{spec[field]} {BAD}" for field in ("summary", "limits")}
    spec["title"] = BAD.translate(str.maketrans("", "", "<>&"))
    spec["made"] = dict.fromkeys(spec["made"], BAD)
    spec["left_out"] = dict.fromkeys(("02_2_edit_distance", "02_3_ablation", "03_2_negation", "03_4_addition"), BAD)
    for member in (spec["pretrained"], *spec["fine_tuned"]):
        member |= dict(label=BAD, license=BAD) | ({"differs": BAD} if "differs" in member else {})
    (folder / "data" / "families" / "tiny.yaml").write_text(yaml.safe_dump(spec))
    assert run("book", folder, tmp_path / "store").wait() == 0
    pages = [*(folder / "_build" / "html").rglob("results/*/*.html")]
    assert len(pages) > 8
    for page in (*pages, folder / "_build" / "html" / "index.html"):
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
        command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = BeautifulSoup(shown, "html.parser")
        assert found.title.text != "1", page
        assert not found.select("[onerror], [href^='javascript:'], [src^='javascript:']"), page
        assert not [script for script in found.find_all("script") if "title=1" in script.text], page
