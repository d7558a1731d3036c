"""What T does beyond its length: draws of a turned T, measured and judged."""

import pandas as pd
import pytest
import torch

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import aim, models, turned
from tuningvec.measures.ablation import held_out
from tuningvec.store import Store

FEW = dict(draws=3, texts=2, words=12, seed=0)


@pytest.fixture(scope="module")
def moves(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    return aim.study(Family.load("tiny"), "float32", store=store, **FEW), store


def test_every_member_stands_beside_its_own_draws(moves):
    table, _ = moves
    members = [m.name for m in Family.load("tiny").studied[1:]]
    count = table.groupby(["member", "sides"], sort=False).draw.nunique()
    assert count.to_dict() == {(m, s): 1 if s == "none" else 3 for m in members for s in ("none", "left", "both")}
    assert set(table.what) == {"edit", "hamming", "nats, medical", "nats, general"}
    drawn = table[table.sides != "none"].groupby(["member", "sides", "what"]).value.nunique()
    assert (drawn > 1).all()
    distances = table[table.what.isin(["edit", "hamming"])].value
    assert distances.between(0, 1, inclusive="right").all()


def test_a_text_that_becomes_likelier_has_a_change_above_0(moves):
    table, family = moves[0], Family.load("tiny")
    held = held_out(family, "general", 0, FEW["texts"], FEW["words"])
    found = {}
    for name in ("pretrained", "medical"):
        one = models.Opened(family, name)
        start = torch.tensor([[one.tokenizer.bos_token_id or one.tokenizer.eos_token_id]])
        read = [one.tokenizer(text, return_tensors="pt")["input_ids"] for text in held]
        rows = [torch.cat([start, ids], 1).to(one.model.device) for ids in read]
        losses = [one.model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1) for ids in rows]
        found[name] = -sum(losses) / sum(ids.shape[1] - 1 for ids in rows)
    own = table[(table.member == "medical") & (table.sides == "none") & (table.what == "nats, general")]
    assert own.value.item() == pytest.approx(found["medical"] - found["pretrained"], abs=1e-4) != 0


def test_stored_draws_need_no_model(moves, monkeypatch):
    table, store = moves
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)
    again = aim.study(Family.load("tiny"), "float32", store=store, **FEW)
    pd.testing.assert_frame_equal(again, table)
    with pytest.raises(ZeroDivisionError):
        aim.study(Family.load("tiny"), "float32", store=store, **FEW | dict(seed=9))


def test_too_few_draws_are_refused():
    with pytest.raises(TuningVecError, match="draws is 2"):
        aim.study(Family.load("tiny"), "float32", **FEW | dict(draws=2))


def table(value, draws):
    rows = [
        dict(member="m", sides=sides, draw=i, what=what, value=scale * x)
        for what, scale in (("hamming", 1), ("edit", 1), ("nats, text", 1))
        for sides, some in (("none", [value]), ("left", draws), ("both", draws))
        for i, x in enumerate(some)
    ]
    return turned.against_draws(pd.DataFrame(rows))


NARROW, WIDE = [0.30 + 0.0005 * i for i in range(10)], [0.1, 0.5, 0.2, 0.45, 0.3]


@pytest.mark.parametrize(
    ("value", "draws", "kind", "falsified"),
    [(0.302, NARROW, "holds", False), (0.6, NARROW, "differs", True), (0.1, NARROW, "differs", True),
     (0.31, WIDE, "within chance", False)],
)  # fmt: skip
def test_T_is_judged_by_where_its_draws_lie(value, draws, kind, falsified):
    compared = table(value, draws)
    assert compared.no_more.unique() == [sum(x <= value for x in draws)]
    for judge in (aim.as_turned_changes, aim.as_turned_costs):
        verdict = judge(compared)
        assert (verdict.kind, verdict.falsified) == (kind, falsified)
    assert set(aim.as_turned_costs(compared).cases.text) == {"text"}
