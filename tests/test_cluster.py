"""Pieces on the workers of a Dask cluster: the same bits, whatever ends a worker, and one sentence where it cannot be."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pandas as pd
import pytest
import torch

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import aim, ablation, evals, models, neurons, patching
from tuningvec.store import Store
from tuningvec.weights import cluster, delta, nulls, subspace


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
    return whole.model_copy(update=dict(fine_tuned=[m for m in whole.fine_tuned if m.name in ("medical", "math")]))


def aligned(family: Family, store: Store | None = None) -> pd.DataFrame:
    vectors = members.tuning_vectors(family)
    return subspace.subspace_alignment(members.checkpoint(family), vectors, (0.05, 0.5), store)


def shuffled(family: Family, store: Store | None = None) -> pd.DataFrame:
    return nulls.alignment_nulls(members.checkpoint(family), members.tuning_vectors(family), draws=5, store=store)


def rotated(family: Family, store: Store | None = None) -> pd.DataFrame:
    return delta.rotation_null(members.tuning_vectors(family), members.checkpoint(family), store)


def profiled(family: Family, store: Store | None = None) -> pd.DataFrame:
    found = neurons.profiles(family, "float32", store)
    parts = {name: [(p.tokens, *(x.tolist() for x in (p.active, p.A, p.Au))) for p in found.parts[name]] for name in found.parts}
    return found.read.assign(parts=found.read.member.map(parts))


def turned(family: Family, store: Store | None = None) -> pd.DataFrame:
    return neurons.by_part(neurons.rotated(family, "float32", seed=0, store=store)).reset_index()


def answered(family: Family, store: Store | None = None) -> pd.DataFrame:
    tasks = evals.tasks(["tuningvec_drugs", "tuningvec_drugs_likelihood"], family.prompt)
    asked = [*models.opened(family, "float32"), models.negated(family, "medical", 0.5)]
    return evals.run(asked, tasks, limit=40, store=store)


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
    t=time.time()
    alone = measure(tiny)
    a=time.time()-t
    monkeypatch.setenv(cluster.ADDRESS, two)
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)  # models are the workers'
    t=time.time()
    pd.testing.assert_frame_equal(measure(tiny), alone, check_exact=True)
    print("TIMES", measure.__name__, a, time.time()-t)
