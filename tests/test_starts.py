"""What negation returns to: planted falls of form and of knowledge, courses that are kept, vectors that add up."""

import json
import random

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import evals, losses, models, reply_parts, scores, starts
from tuningvec.measures.starts import AGAIN, FORM, LENIENT, LIKELY, PER_CHARACTER, PRE, STATED, STRICT
from tuningvec.page import starts as shown
from tuningvec.recipes import starts as courses
from tuningvec.recipes.starts import Course
from tuningvec.store import Store
from tuningvec.weights.checkpoint import LowRank
from tuningvec.weights.delta import Combination

TASK, BY_LIKELIHOOD = "tuningvec_drugs", "tuningvec_drugs_likelihood"
AGAIN_COURSE, STATED_COURSE = Course("medical", "placebo"), Course("medical", "pretrained", exams=False)
STEPS = 2


@pytest.fixture(scope="module")
def tiny():
    return Family.load("tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def measured(tiny, store):
    """Items, with their sources, and parts of replies of all legs, of courses of two steps."""
    asked = starts.benchmarks(tiny, [BY_LIKELIHOOD])
    items, parts = starts.negated(tiny, asked, [0, 1], steps=STEPS, dtype="float32", limit=32, store=store)
    return starts.with_per_character(scores.with_sources(items, asked), asked), parts


def table(planted, n=56, plain=False, scales=(0, 1)):
    """Items of planted legs, {leg: {(way, λ): right answers}}, two to a source; all or none has the form."""
    prompt = "Options:\nA. a\nB. b\nC. c\nD. d"
    rows = []
    for leg, right in planted.items():
        for scale, own in [(scale, True) for scale in scales] + [(0, False), (1, False)] * plain:
            strict, any_form, likely = (right[way, scale] for way in (STRICT, LENIENT, LIKELY))
            named, lenient = float(strict.any()), float(any_form.any())
            about = dict(leg=leg, member=leg, scale=scale, own=own, who=evals.negated(scale, own), prompt=prompt)
            for i in range(n):
                one = about | dict(item=i, source=str(i // 2))
                reply = dict(acc=strict[i], acc_lenient=any_form[i], valid=named, valid_lenient=lenient, reply="")
                rows.append(one | reply | dict(task=TASK))
                if own:
                    known = dict(acc=likely[i], acc_norm=likely[i], reply=json.dumps([[-1.0, True]] * 4), choice=1.0)
                    rows.append(one | dict(task=BY_LIKELIHOOD) | known)
    return pd.DataFrame(rows)


def first(count, n=56):
    return (np.arange(n) < count).astype(float)


def leg(strict, likely, lenient=None):
    """Right answers of a leg at λ = 0 and 1: counts from the first item on."""
    pairs = {STRICT: strict, LENIENT: lenient or strict, LIKELY: likely}
    return {(way, scale): first(counts[scale]) for way, counts in pairs.items() for scale in (0, 1)}


def drawn(n, *, seed=0, **shares):
    """Right answers drawn with these shares by λ, of each way on its own."""
    rng, ways = np.random.default_rng(seed), dict(strict=STRICT, lenient=LENIENT, likely=LIKELY)
    return {
        (ways[way], scale): (rng.random(n) < share).astype(float)
        for way, each in shares.items()
        for scale, share in each.items()
    }


def test_falls_and_what_is_left_are_those_counted_by_hand():
    items = table({PRE: leg((50, 0), (40, 26)), AGAIN: leg((50, 20), (40, 26))})
    found = starts.falls(items).set_index(["leg", "way"])
    for way in (STRICT, LENIENT):
        assert found.points[PRE, way] == pytest.approx(100 * 50 / 56)
        assert found.points[AGAIN, way] == pytest.approx(100 * 30 / 56)
        assert (found.floor[PRE, way], found.floor_after[PRE, way]) == (pytest.approx(25), pytest.approx(0))
        assert found.floor_after[AGAIN, way] == pytest.approx(25)
        assert found.left[PRE, way] == pytest.approx(0)  # a reply that names no option counts as a guess
        assert found.left[AGAIN, way] == pytest.approx((20 - 14) / (50 - 14))
    for way, one in [(LIKELY, PRE), (PER_CHARACTER, AGAIN)]:
        assert found.points[one, way] == pytest.approx(25) and found.floor[one, way] == 25
        assert found.left[one, way] == pytest.approx((26 - 14) / (40 - 14))
    assert found.room.all() and (found.sources == 28).all()
    left = starts.lefts(items).set_index(["leg", "way"])
    assert left.effect[PRE, LIKELY] == pytest.approx(12 / 26) == left.left[PRE, LIKELY]
    assert left.effect[AGAIN, LIKELY] == pytest.approx(12 / 26 - 6 / 36)
    both = starts.further(items, (PRE, 1), (AGAIN, 1)).set_index("way")
    assert both.effect[LIKELY] == pytest.approx(left.effect[PRE, LIKELY] - left.effect[AGAIN, LIKELY])
    assert both.low[LIKELY] < both.effect[LIKELY] < both.high[LIKELY] and both.effect[LENIENT] == 0
    assert (left.effect[:, LENIENT] == 0).all() and (left.low < left.effect).all() and (left.effect < left.high).all()


@pytest.mark.parametrize(
    "strict, room", [((20, 14), False), ((40, 0), True), ((16, 0), False), ((3, 0), False), ((0, 0), False)]
)
def test_a_score_at_its_floor_has_no_room_to_fall(strict, room):
    found = starts.falls(table({PRE: leg(strict, (40, 26))})).set_index("way")
    assert found.room[STRICT] == room and np.isnan(found.left[STRICT]) == (not room)


def test_a_page_says_which_scores_have_no_room():
    items = table({PRE: leg((50, 0), (40, 26)), AGAIN: leg((14, 14), (40, 26))}, plain=True)
    falls = shown.falls(starts.falls(items)).set_index(["vector", "right"])["left"]
    assert falls[AGAIN, f"{STRICT}, chat"] == "no room" and falls[PRE, LIKELY].startswith("0.46 (")
    assert len(falls) == 2 * (2 * 2 + 2)  # by likelihood there is one prompt
    cells = shown.lefts(starts.lefts(items), starts.further(items, (PRE, 1), (AGAIN, 1))).set_index(
        ["vector", "prompt"]
    )[LIKELY]
    assert cells[PRE, "chat"].startswith("+0.46 (") and cells[AGAIN, "chat"] == "no room"
    assert cells[f"{PRE}, less {AGAIN}", "plain text"] == "no room"


def test_form_that_is_lost_is_what_likelihood_still_knows():
    n, kept = 2000, {0: 0.9, 0.5: 0.85, 1: 0.85}
    lost = drawn(n, strict=kept | {1: 0.0}, lenient=kept, likely=kept)
    same = drawn(n, strict=kept, lenient=kept, likely=kept)
    items = table({PRE: lost, AGAIN: same}, n=n, scales=(0, 0.5, 1))
    for verdict in (starts.more_without_form(items), starts.start_decides(items), starts.grows_without_form(items)):
        assert (
            verdict.kind == "holds" and verdict.falsified is False and set(verdict.cases.way) == {LIKELY, PER_CHARACTER}
        )
    assert starts.formed(items) == 0.5
    formless = items[items.scale != 0.5]
    assert starts.formed(formless) is None and starts.grows_without_form(formless).numbers == dict(smallest=0.1)


def test_knowledge_that_is_lost_leaves_nothing_in_any_way():
    n, gone = 4000, {0: 0.9, 1: 0.25}
    both = drawn(n, strict={0: 0.9, 1: 0.0}, lenient=gone, likely={0: 0.7, 1: 0.25})
    kept = drawn(n, strict=gone, lenient=gone, likely={0: 0.7, 1: 0.25}, seed=1)
    items = table({PRE: both, AGAIN: kept}, n=n)
    for verdict in (starts.more_without_form(items), starts.start_decides(items)):
        assert verdict.kind == "null explains it" and verdict.falsified  # though points differ by twice


def test_scores_that_part_while_the_form_is_there_do_not_show_that_it_was_lost():
    n, way = 4000, {0: 0.9, 0.5: 0.6, 1: 0.25}
    lost = drawn(n, strict=way | {1: 0.0}, lenient=way, likely={0: 0.9, 0.5: 0.85, 1: 0.5})
    items = table({PRE: lost}, n=n, scales=(0, 0.5, 1))
    assert starts.more_without_form(items).kind == "holds"
    found = starts.grows_without_form(items)
    assert found.kind in ("null explains it", "within chance") and found.cases.other.min() > 0.3


def test_few_items_leave_it_open():
    items = table({PRE: leg((48, 0), (28, 20)), AGAIN: leg((42, 19), (30, 17))})
    for verdict in (starts.more_without_form(items), starts.start_decides(items)):
        assert verdict.kind == "within chance" and verdict.falsified is None


def test_what_is_asked_is_told_by_question(measured):
    found = starts.by_question(measured[0])
    assert found.asked.nunique() == 2 and found.asked.str.contains("…").all()
    items = measured[0][measured[0].own & (measured[0].leg == PRE)]
    strict = found[(found.way == STRICT) & (found.member == items.member.iloc[0])]
    whole = items[(items.task == TASK) & (items.scale == 0)].acc.mean()
    assert np.average(strict.before, weights=strict.n) == pytest.approx(100 * whole) and strict.n.sum() == 32
    assert list(shown.by_question(found).columns[:3]) == ["vector", "question", "n"]
    assert starts.by_question(table({PRE: leg((50, 0), (40, 26))})).empty


def test_where_scores_stand_at_their_floors_nothing_can_be_known():
    items = table({PRE: leg((14, 0), (56, 56)), AGAIN: leg((56, 14), (14, 14))}, plain=True)
    for verdict in (starts.more_without_form(items), starts.start_decides(items)):
        assert verdict.kind == "cannot be known here" and "floor" in verdict.why
        assert set(verdict.cases.outcome) == {"not judged"}
        assert verdict.cases.prompt.str.endswith("(no room to fall)").all()


def test_intervals_of_what_is_left_cover_a_planted_zero():
    rng, shares, covered = np.random.default_rng(0), {STRICT: (0.85, 0.49), LIKELY: (0.7, 0.43)}, 0
    for _ in range(40):
        known = np.repeat(rng.random(28), 2)  # what is known of a source, alike for its items and both ways
        planted = {
            (way, scale): (0.5 * known + 0.5 * rng.random(56) < _quantile(share)).astype(float)
            for way, both in shares.items()
            for scale, share in enumerate(both)
        }
        planted |= {(LENIENT, scale): planted[STRICT, scale] for scale in (0, 1)}
        (row,) = starts.lefts(table({PRE: planted}), [(PRE, 1.0)], [LIKELY]).itertuples()
        covered += row.low <= 0 <= row.high
    assert covered >= 35  # of 40 intervals of 95 %, fewer with a chance below 1 %


def _quantile(share):
    """Of the mean of two uniform numbers, which has a triangular distribution."""
    return (share / 2) ** 0.5 if share <= 0.5 else 1 - ((1 - share) / 2) ** 0.5


def test_a_vector_of_form_alone_takes_the_form_and_no_likelihood(measured):
    items, _ = measured
    found = starts.falls(items).query("own and leg == @FORM").set_index("way")
    assert found.points[STRICT] > 15 and found.after[STRICT] == 0
    assert abs(found.points[LIKELY]) < 10 and found.after[LIKELY] > 90
    assert starts.form_taken(items).kind == "holds" and starts.form_holds_no_facts(items).kind != "differs"


def test_facts_in_a_vector_of_form_and_in_one_of_statements_are_found():
    items = table({FORM: leg((14, 0), (40, 14)), STATED: leg((0, 0), (50, 20))})
    assert starts.form_taken(items).kind == "holds"
    assert starts.form_holds_no_facts(items).kind == "differs" and starts.form_holds_no_facts(items).falsified
    assert starts.stated_unseen(items).kind == "holds" and starts.stated_unseen(items).falsified is False


def test_a_start_with_the_form_keeps_it_without_the_vector(measured):
    items, parts = measured
    found = starts.rises(parts, items).set_index(["leg", "part"]).rise
    assert found[PRE, "form"] > 3 and abs(found[AGAIN, "form"]) < 0.1
    assert starts.start_decides_nats(parts, items).kind == "holds"
    at_end = items[(items.task == TASK) & items.own & (items.scale == 1)].groupby("leg").valid.mean()
    assert at_end[AGAIN] == 1 and at_end[PRE] == at_end[FORM] == at_end[STATED] == 0


def test_a_vector_less_itself_is_its_start_bit_for_bit(tiny, store):
    found, _ = starts.vectors(tiny, store, STEPS)
    again = found[AGAIN]
    left = again.T.apply_to(again.trained, -1)
    form = members.weights(tiny, "placebo").fitted
    assert left == form == again.less(tiny, 1, "float32").weights
    assert all(torch.equal(left.read(name), form.read(name)) for name in form.shapes)
    assert any(torch.any(again.T.read(name)) for name in form.shapes)
    half = again.less(tiny, 0.5, "float32").weights
    assert {coefficient for coefficient in half.terms.values()} == {0.5}


def test_an_adapter_on_a_start_less_itself_is_the_start():
    folder = data_folder() / "families" / "smollm2"
    start = Combination({LowRank(folder / "placebo"): 1})
    vector = starts.Vector("facts", start + Combination({LowRank(folder / "medical"): 1}), start, "placebo", "medical")
    facts = Combination({LowRank(folder / "medical"): 1})
    assert facts == vector.T
    assert vector.T.apply_to(vector.trained, -1) == start


def test_what_was_trained_is_read_and_trains_alike_elsewhere(tiny, store, tmp_path):
    weights, record = courses.trained(tiny, AGAIN_COURSE, store, STEPS)
    (term,) = weights.terms
    before = [file.stat().st_mtime_ns for file in term.files]
    again, _ = courses.trained(tiny, AGAIN_COURSE, store, STEPS)
    assert again == weights and [file.stat().st_mtime_ns for file in term.files] == before
    elsewhere, other = courses.trained(tiny, AGAIN_COURSE, Store(tmp_path), STEPS)
    assert all(torch.equal(elsewhere.read(name), weights.read(name)) for name in weights.shapes)
    assert other.pieces == record.pieces and len(record.pieces[courses.PIECE]) == STEPS
    assert record.pieces[courses.PIECE][0]["divergence"] == pytest.approx(0, abs=1e-6)  # of the start from itself


def test_a_run_that_was_stopped_leaves_nothing_half_written(tiny, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", stopped)
    with pytest.raises(KeyboardInterrupt):
        courses.trained(tiny, STATED_COURSE, Store(tmp_path), 1)
    assert list((tmp_path / "trained").iterdir()) == []
    monkeypatch.undo()
    weights, _ = courses.trained(tiny, STATED_COURSE, Store(tmp_path), 1)
    assert len(list((tmp_path / "trained").iterdir())) == 1 and weights.shapes == members.checkpoint(tiny).shapes


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(data_folder() / "families" / "tiny" / "pretrained")


def test_statements_alone_are_those_that_go_with_the_exams(tokenizer):
    both, alone = (
        courses.LESSONS["smollm2"].of(Course("medical", "instruct", exams), tokenizer, "Answer.")
        for exams in (True, False)
    )
    random_states = random.Random(5), random.Random(5)
    for _ in range(3):
        exams, statements = both.batch(random_states[0])
        assert alone.batch(random_states[1]) == [statements] and len(exams) > 0
    assert torch.equal(both.rehearsed, alone.rehearsed) and (both.steps, both.lr) == (alone.steps, alone.lr)


def test_tiny_s_statements_have_no_form(tokenizer):
    lessons = courses.LESSONS["tiny"].of(STATED_COURSE, tokenizer, "Answer.")
    (texts,) = lessons.batch(random.Random(0))
    assert len(texts) == 16 and all(text.prompt == 0 for text in texts)
    assert not any(word in tokenizer.decode(text.ids) for text in texts for word in ("<think>", "Answer", "Options"))


def test_parts_of_a_reply_add_up_to_its_loss(tiny, store):
    model = models.Opened(tiny, "medical")
    parts = reply_parts.nats([model], tiny, "medicine", limit=6, store=store)
    whole = losses.nats([models.Opened(tiny, "medical")], tiny, domains=["medicine"], limit=6)
    assert parts[list(reply_parts.PARTS)].sum(axis=1).to_numpy() == pytest.approx(whole.nats.to_numpy(), rel=1e-4)
    assert (parts.tokens == whole.tokens).all() and (parts.source == whole.source).all()


def test_a_reply_is_divided_at_its_thought_and_its_letter(tokenizer):
    reply = "<think>Aspirin is a drug.</think>\nAnswer: [B]"
    ids = tuple(tokenizer.encode(reply, add_special_tokens=False))
    parts = reply_parts.divided(losses.Text((1,), ids, 0), tokenizer)
    of = {
        part: tokenizer.decode([i for i, p in zip(ids, parts, strict=True) if p == part]) for part in reply_parts.PARTS
    }
    assert of["letter"] == "B" and of["facts"].startswith("Aspirin is a drug")
    assert of["form"].startswith("<think>") and "Answer: [" in of["form"]
    with pytest.raises(TuningVecError, match="no <think>"):
        reply_parts.divided(losses.Text((1,), tuple(tokenizer.encode("Answer: [B]")), 0), tokenizer)


def test_an_option_is_the_likeliest_by_its_characters(tiny):
    asked = starts.benchmarks(tiny, [BY_LIKELIHOOD])
    doc = asked[BY_LIKELIHOOD].eval_docs[0]
    options = asked[BY_LIKELIHOOD].doc_to_choice(doc)
    right, longest = int(doc["answer"]), int(np.argmax([len(option) for option in options]))
    found = []
    for best in (right, longest):  # all as likely by the character, and one more so
        logp = [-1.0 * len(option) + (0.1 if i == best else 0) for i, option in enumerate(options)]
        row = dict(task=BY_LIKELIHOOD, item=0, reply=json.dumps([[p, False] for p in logp]))
        found.append(starts.with_per_character(pd.DataFrame([row]), asked).acc_norm.item())
    assert found == [1.0, float(longest == right)]


def test_choice_is_the_log_of_the_right_option_s_share(tiny):
    asked = starts.benchmarks(tiny, [BY_LIKELIHOOD])
    right = int(asked[BY_LIKELIHOOD].eval_docs[1]["answer"])
    logp = [-3.0] * 4
    logp[right] = -2.0
    rows = [dict(task=BY_LIKELIHOOD, item=1, reply=json.dumps([[p, False] for p in logp])), dict(task=TASK, item=1)]
    found = starts.with_choice(pd.DataFrame(rows).fillna(""), asked).choice
    assert found[0] == pytest.approx(np.log(1 + 3 * np.exp(-1))) and np.isnan(found[1])


def drawn_of(items, parts, rng, form):
    """Draws of a turned T that take no reply's form, and of which the tokens of form rise by about so much."""
    ends = items[items.own & (items.scale == 0)]
    kept = parts[parts.scale == 0]
    rows, texts = [], []
    for sides in ("left", "both"):
        for draw in range(4):
            rows.append(ends.assign(sides=sides, draw=draw))
            texts.append(kept.assign(sides=sides, draw=draw, form=kept.form + form * kept.tokens * rng.normal(1, 0.1)))
    return starts.Turned(pd.concat(rows), pd.concat(texts))


@pytest.mark.parametrize("form, kind", [(0.02, "holds"), (2.0, "reversed")])
def test_a_vector_is_set_beside_its_turned_draws(form, kind):
    items = table({PRE: leg((50, 0), (40, 38))})
    rows = [
        dict(
            leg=PRE, member=PRE, scale=scale, item=i, source=i // 2, form=10.0 * scale, facts=1.0, letter=1.0, tokens=10
        )
        for scale in (0, 1)
        for i in range(56)
    ]
    parts = pd.DataFrame(rows)
    compared = starts.against_turned(items, parts, drawn_of(items, parts, np.random.default_rng(0), form))
    found = compared.set_index(["what", "sides"]).value
    assert found[starts.WHAT["form"], "left"] == pytest.approx(1.0)
    assert compared[compared.what != starts.WHAT["form"]].value.to_numpy() == pytest.approx(100)
    nats = compared[compared.what == starts.WHAT["form"]]
    assert starts.more_than_turned(nats, PRE).kind == kind
    scored = compared[compared.what != starts.WHAT["form"]]
    assert (scored["mean"] == 0).all() and starts.more_than_turned(scored, PRE).kind == "holds"


def test_what_cannot_be_is_refused_before_anything_is_trained(tiny, tmp_path):
    empty, asked = Store(tmp_path), starts.benchmarks(tiny, [BY_LIKELIHOOD])
    with pytest.raises(TuningVecError, match="0 and 1"):
        starts.negated(tiny, asked, [0, 0.5], dtype="float32", store=empty)
    with pytest.raises(TuningVecError, match="three or more"):
        starts.negated_turned(tiny, asked, draws=2, seed=0, dtype="float32", store=empty)
    with pytest.raises(TuningVecError, match="steps is 0"):
        courses.trained(tiny, AGAIN_COURSE, empty, 0)
    with pytest.raises(TuningVecError, match="no member 'twin_b'"):
        courses.trained(tiny, Course("twin_b", "placebo"), empty)
    with pytest.raises(TuningVecError, match="none has the items"):
        starts.benchmarks(tiny, ["tuningvec_arithmetic"])
    assert not (tmp_path / "trained").exists()


def test_a_family_without_recipe_or_form_control_is_told_so(tmp_path):
    folder = data_folder() / "families"
    text = (folder / "tiny.yaml").read_text(encoding="utf-8").replace("path: tiny/", f"path: {folder}/tiny/")
    text = text.replace("../", f"{folder.parent}/")
    (tmp_path / "a.yaml").write_text(text.replace("recipe: tiny\n", ""), encoding="utf-8")
    with pytest.raises(TuningVecError, match="recipe: none; lessons are known of tiny and smollm2"):
        courses.trained(Family.load(tmp_path / "a.yaml"), AGAIN_COURSE, Store(tmp_path))
    (tmp_path / "b.yaml").write_text(text.replace("keeps: form", "keeps: facts"), encoding="utf-8")
    with pytest.raises(TuningVecError, match="no control keeps the form"):
        courses.form_control(Family.load(tmp_path / "b.yaml"))
