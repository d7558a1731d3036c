"""How far a table depends on what should not matter: threads, batch sizes, the order of members, a second run.

The order of members and a second run change no bit. Threads and batch sizes change the order of float32 sums; what that
may come to is stated here, by measure.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import pytest
import torch

from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import corpus, evals, models, neurons, patching
from tuningvec.weights.delta import inner_products
from tuningvec.weights.subspace import subspace_alignment

# name: (relative, absolute); what is not named here is equal, such as counts and replies
TOLERANCES = {
    "A": (1e-5, 1e-5), "Au": (1e-5, 1e-5),  # per token
    "SSA": (1e-5, 1e-6), "SSA_V": (1e-5, 1e-6), "SSA_UV": (1e-5, 1e-6), "E_par": (1e-5, 1e-6), "E_perp": (1e-5, 1e-6),
    "z": (1e-3, 1e-3), "z_V": (1e-3, 1e-3), "z_UV": (1e-3, 1e-3),
    "nats": (1e-6, 1e-4),  # log p of an item's options, in all
    "effect": (1e-3, 1e-5), "clean": (1e-5, 1e-5), "corrupt": (1e-5, 1e-5),
}  # fmt: skip
AT_ZERO = 1e-4  # share of activations so near 0 that their sign depends on the order of a sum


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def short() -> Family:
    """Of `tiny` the pretrained member and two specialists."""
    whole = Family.load("tiny")
    return whole.model_copy(update=dict(fine_tuned=[m for m in whole.fine_tuned if m.name in ("medical", "math")]))


def alike(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Raise unless tables agree within `TOLERANCES`."""
    assert list(one) == list(other)
    for name in one:
        relative, absolute = TOLERANCES.get(name, (0, 0))
        texts = one[name].dtype == object and not relative
        compare = dict(check_exact=True) if texts else dict(check_exact=False, rtol=relative, atol=absolute)
        pd.testing.assert_series_equal(one[name], other[name], **compare)


def profile(batch: int) -> list[neurons.Profile]:
    family = Family.load("tiny")
    one = models.Opened(family, "medical")
    read = corpus.tokens(family, "medical", one.tokenizer)
    return neurons.activation_profile(one.model, read, batch)


def same_profiles(one: list[neurons.Profile], other: list[neurons.Profile]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.tokens == b.tokens
        differ = (a.active - b.active).abs().sum().item()
        assert differ <= AT_ZERO * a.active.numel() * a.tokens
        for name in ("A", "Au"):
            relative, absolute = TOLERANCES[name]
            left, right = getattr(a, name) / a.tokens, getattr(b, name) / b.tokens
            torch.testing.assert_close(left, right, rtol=relative, atol=absolute)


def aligned(family: Family) -> pd.DataFrame:
    found = subspace_alignment(members.checkpoint(family), members.tuning_vectors(family, controls=True), (0.05, 0.5))
    return found.sort_values(["vector", "layer", "kind", "epsilon"], ignore_index=True)


def multiplied(family: Family) -> pd.DataFrame:
    found = inner_products(members.tuning_vectors(family, controls=True), members.checkpoint(family))
    pair = found[["a", "b"]].apply(lambda row: " ".join(sorted(row)), axis=1)
    return found.drop(columns=["a", "b"]).assign(pair=pair).sort_values(["pair", "kind"], ignore_index=True)


def answered(family: Family, batch: int = 8) -> pd.DataFrame:
    tasks = evals.tasks(["tuningvec_drugs", "tuningvec_drugs_likelihood", "tuningvec_arithmetic"], family.prompt)
    found = evals.run(list(models.opened(family, "float32")), tasks, limit=6, batch=batch)
    found = found.sort_values(["model", "task", "item"], ignore_index=True)
    chosen = found.task == "tuningvec_drugs_likelihood"
    options = found.reply.where(chosen).map(json.loads, na_action="ignore")
    nats = options.map(lambda each: sum(logp for logp, _ in each), na_action="ignore").astype(float)
    greedy = options.map(lambda each: [top for _, top in each], na_action="ignore")
    return found.assign(reply=found.reply.where(~chosen), greedy=greedy, nats=nats)


def patched(family: Family) -> pd.DataFrame:
    maps = patching.study(family, patching.Plan(pairs=2, steps=2, layers=2))
    sums = pd.Series({key: effect.double().sum().item() for key, effect in maps.effects.items()}, name="effect")
    sums.index.names = ["member", "kind"]
    return maps.metrics.join(sums, on=["member", "kind"]).sort_values(["member", "kind", "pair"], ignore_index=True)


MEASURES = [aligned, multiplied, answered, patched]


@pytest.mark.parametrize("measure", MEASURES)
def test_neither_a_second_run_nor_the_order_of_members_changes_a_bit(measure: Callable[[Family], pd.DataFrame]) -> None:
    family = short()
    reversed_ = family.model_copy(update=dict(fine_tuned=family.fine_tuned[::-1]))
    first = measure(family)
    pd.testing.assert_frame_equal(measure(family), first, check_exact=True)
    pd.testing.assert_frame_equal(measure(reversed_), first, check_exact=True)


@pytest.mark.parametrize("measure", MEASURES)
def test_threads_change_no_more_than_the_order_of_sums_does(measure: Callable[[Family], pd.DataFrame]) -> None:
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(measure(short()))
    alike(*found)


@pytest.mark.parametrize("batch", [1, 5])
def test_replies_are_those_of_any_batch_size(batch: int) -> None:
    family = short()
    alike(answered(family), answered(family, batch))


def test_profiles_are_those_of_any_batch_size_and_number_of_threads() -> None:
    with threads(1):
        first = profile(8)
        for batch in (1, 32):
            same_profiles(first, profile(batch))
    with threads(2):
        same_profiles(first, profile(8))
