"""Pieces on the workers of a Dask cluster: the same bits, whatever ends a worker, and one sentence where none are."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import distributed
import pandas as pd
import pytest
import torch
import yaml

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import ablation, aim, evals, models, neurons, patching
from tuningvec.store import Store
from tuningvec.weights import cluster, delta, nulls, subspace
from tuningvec.weights.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def two() -> Iterator[str]:
    """The address of two workers on this machine."""
    with cluster.started("local:2"):
        where = cluster.address()
        os.environ.pop(cluster.ADDRESS)
        yield where


@pytest.fixture(scope="module")
def tiny() -> Family:
    whole = Family.load("tiny")
    some = [member for member in whole.fine_tuned if member.name in ("medical", "math")]
    short = {name: corpus.model_copy(update=dict(tokens=2048)) for name, corpus in whole.corpora.items()}
    return whole.model_copy(update=dict(fine_tuned=some, corpora=short))


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evals, "WINDOW", 4)


def aligned(family: Family, store: Store | None = None) -> pd.DataFrame:
    vectors = members.tuning_vectors(family)
    return subspace.subspace_alignment(members.checkpoint(family), vectors, (0.05, 0.5), store)


def shuffled(family: Family, store: Store | None = None) -> pd.DataFrame:
    return nulls.alignment_nulls(members.checkpoint(family), members.tuning_vectors(family), draws=5, store=store)


def rotated(family: Family, store: Store | None = None) -> pd.DataFrame:
    return delta.rotation_null(members.tuning_vectors(family), members.checkpoint(family), store)


def profiled(family: Family, store: Store | None = None) -> pd.DataFrame:
    found = neurons.profiles(family, "float32", store)
    parts = found.parts.items()
    told = {
        name: str([(p.tokens, p.active.tolist(), p.A.tolist(), p.Au.tolist()) for p in some]) for name, some in parts
    }
    return found.read.assign(parts=found.read.member.map(told))


def turned(family: Family, store: Store | None = None) -> pd.DataFrame:
    return neurons.by_part(neurons.rotated(family, "float32", seed=0, store=store)).reset_index()


def answered(family: Family, store: Store | None = None) -> pd.DataFrame:
    tasks = evals.tasks(["tuningvec_drugs", "tuningvec_drugs_likelihood"], family.prompt)
    asked = [models.Opened(family, "medical"), models.negated(family, "medical", 0.5)]
    return evals.run(asked, tasks, limit=12, store=store)


def ablated(family: Family, store: Store | None = None) -> pd.DataFrame:
    options = dict(shares=[0.1], scope="layer", texts=2, words=20, draws=2, seed=0, dtype="float32", limit=4)
    found = neurons.profiles(family, "float32")
    return ablation.study(family, found, **options, benchmarks=["tuningvec_drugs_likelihood"], store=store)


def patched(family: Family, store: Store | None = None) -> pd.DataFrame:
    maps = patching.study(family, patching.Plan(pairs=2, steps=2, layers=2), store=store)
    effects = {key: effect.tolist() for key, effect in maps.effects.items()}
    return maps.metrics.assign(effects=[str(effects[row.member, row.kind]) for row in maps.metrics.itertuples()])


def moved(family: Family, store: Store | None = None) -> pd.DataFrame:
    return aim.study(family, "float32", draws=3, texts=2, words=20, seed=0, store=store)


MEASURES = [aligned, shuffled, rotated, profiled, turned, answered, ablated, patched, moved]


@pytest.mark.parametrize("measure", MEASURES)
def test_two_workers_give_the_same_bits(
    measure: Callable[..., pd.DataFrame], tiny: Family, two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = measure(tiny)
    monkeypatch.setenv(cluster.ADDRESS, two)
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)  # models are the workers'
    pd.testing.assert_frame_equal(measure(tiny), alone, check_exact=True)


def ending(worker: int, store: Store, what: str) -> threading.Thread:
    """A thread that ends a process as soon as the store holds a first piece."""

    def end() -> None:
        while not any(b'"rows"' in file.read_bytes() for file in store.folder.glob(f"{what}-*.jsonl")):
            time.sleep(0.01)
        os.kill(worker, signal.SIGKILL)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("measure", "what"), [(aligned, "alignment"), (answered, "evals")])
def test_a_killed_worker_changes_the_time_alone(
    measure: Callable[..., pd.DataFrame],
    what: str,
    tiny: Family,
    two: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone, store = measure(tiny), Store(tmp_path)
    monkeypatch.setenv(cluster.ADDRESS, two)
    with cluster.connected(two) as client:
        before = set(client.run(os.getpid).values())
        thread = ending(min(before), store, what)
        found = measure(tiny, store)
        thread.join()
        client.wait_for_workers(2, timeout=60)
        assert len(before & set(client.run(os.getpid).values())) == 1
    pd.testing.assert_frame_equal(found, alone, check_exact=True)
    monkeypatch.delenv(cluster.ADDRESS)
    kept = [file.read_bytes().count(b'"rows"') for file in sorted(tmp_path.glob(f"{what}-*.jsonl"))]
    assert measure(tiny, store).equals(found)  # all of it is in the store, each piece once
    assert kept == [file.read_bytes().count(b'"rows"') for file in sorted(tmp_path.glob(f"{what}-*.jsonl"))]


def test_threads_and_settings_are_those_of_the_process_that_asks(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.ADDRESS, two)
    monkeypatch.setenv("HF_HUB_OFFLINE", "asked")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = list(cluster.each([("threads", eval, "__import__('torch').get_num_threads()")]))
    finally:
        torch.set_num_threads(before)
    assert found == [("threads", 3)]
    names = ("HF_HUB_OFFLINE", cluster.ADDRESS, "TQDM_DISABLE")
    found = dict(cluster.each((name, os.getenv, name) for name in names))
    assert found == dict(zip(names, ("asked", None, "1"), strict=True))


def test_a_piece_may_be_large(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.ADDRESS, two)
    assert list(cluster.each([("tokens", len, bytes(20_000_000))])) == [("tokens", 20_000_000)]


def test_an_error_names_its_piece(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.ADDRESS, two)
    with pytest.raises(TuningVecError, match=r"the third: ValueError: .*'three'"):
        list(cluster.each([("the first", int, "1"), ("the second", int, "2"), ("the third", int, "three")]))
    with pytest.raises(TuningVecError, match=r"^/nowhere/model.safetensors: no such file$"):
        list(cluster.each([("weights", Checkpoint, "/nowhere")]))
    assert sorted(cluster.each([(i, int, str(i)) for i in range(20)])) == [(i, i) for i in range(20)]


def test_a_piece_that_ends_every_worker_is_given_up(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.ADDRESS, two)
    with pytest.raises(TuningVecError, match="a large one: KilledWorker"):
        list(cluster.each([("a large one", os._exit, 1)]))


def test_workers_with_other_code_are_refused(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.ADDRESS, two)
    made_of = cluster._made_of()
    monkeypatch.setattr(cluster, "_made_of", lambda: made_of | {"torch": "1.0"})
    with pytest.raises(TuningVecError, match="a worker has another torch than this process"):
        list(cluster.each([("one", int, "1")]))


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:9", "nonsense", "local:none", "slurm:"])
def test_where_there_is_no_cluster_it_is_said_soon(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER", 2)
    begun = time.monotonic()
    with pytest.raises(TuningVecError, match=f"{where}: "), cluster.started(where):
        pass
    assert time.monotonic() - begun < 15 and not cluster.address()


def test_without_workers_it_is_said_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WORKER", 1)
    options = dict(host="127.0.0.1", dashboard_address="127.0.0.1:0")
    with distributed.SpecCluster(scheduler=dict(cls=distributed.Scheduler, options=options)) as empty:
        monkeypatch.setenv(cluster.ADDRESS, empty.scheduler_address)
        with pytest.raises(TuningVecError, match="no worker was there for 1 seconds"):
            list(cluster.each([("one", int, "1")]))


SBATCH = """#!/bin/sh
# In the place of SLURM: the job runs on this machine at once.
cp "$1" {jobs}/job.sh
setsid bash {jobs}/job.sh >{jobs}/said 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -- "-$1"
"""


def test_slurm_jobs_have_a_gpu_and_give_the_same_bits(
    tiny: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text.format(jobs=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    alone, here = rotated(tiny), {"interface": "lo", "local-directory": str(tmp_path), "log-directory": str(tmp_path)}
    given = yaml.safe_load((data_folder() / "cluster" / "slurm.yaml").read_text())
    jobs = {f"jobqueue.slurm.{name}": value for name, value in (given["jobqueue"]["slurm"] | here).items()}
    cluster._package("dask_jobqueue")  # whose settings are there before some are changed
    with dask.config.set(jobs), cluster.started("slurm:1"):
        pd.testing.assert_frame_equal(rotated(tiny), alone, check_exact=True)
    script = (tmp_path / "job.sh").read_text()
    assert "#SBATCH --gres=gpu:1" in script and re.search(r"^#SBATCH --mem=\d+G$", script, re.M)
    assert "--nthreads 1 --memory-limit 0" in script and "--nworkers" not in script


def test_without_a_description_of_jobs_it_is_said_where_one_is() -> None:
    with pytest.raises(TuningVecError, match="copy data/cluster/slurm"), cluster.started("slurm:2"):
        pass
