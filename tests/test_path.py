"""Losses along planted curves, barriers and their intervals, the path of a planted training, and what is left out."""

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ARCHITECTURES

from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Family
from tuningvec.measures import path, turned
from tuningvec.page import plots, tables
from tuningvec.recipes.training import checkpoint
from tuningvec.store import Store
from tuningvec.weights import trajectory
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.delta import Combination

SCALES = [-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
INSIDE = [0.25, 0.5, 0.75]


def planted(shape, *, items=40, per_source=2, noise=0.0, seed=0, kind="T", a="pre", b="ft", text="medicine replies"):
    """Losses of items along a line: tokens · (shape(λ) + what each source adds at each λ)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(10, 40, items)
    added = noise * rng.standard_normal((items // per_source, len(SCALES)))
    rows = [
        dict(kind=kind, a=a, b=b, scale=scale, text=text, item=i, source=i // per_source, tokens=int(tokens[i]))
        | dict(nats=float(tokens[i] * (shape(scale) + added[i // per_source, j])))
        for i in range(items)
        for j, scale in enumerate(SCALES)
    ]
    return pd.DataFrame(rows)


def barrier(curves):
    return path.barriers(path.excess(curves)).iloc[0]


def bump(scale, height=0.3):
    return 3 - 2 * scale + height * max(0.0, 1 - 4 * abs(scale - 0.5))


def test_a_convex_loss_has_no_barrier_and_a_planted_bump_is_found_with_its_place():
    convex = barrier(planted(lambda x: 1 + 3 * (x - 0.8) ** 2, noise=0.01))
    assert (convex.barrier, convex.low, convex.high) == (0, 0, 0) and convex.excess < 0
    found = barrier(planted(bump, noise=0.01))
    assert found["at"] == 0.5 and found.low < 0.3 < found.high and found.barrier == pytest.approx(0.3, abs=0.01)
    assert (found["first"], found["last"]) == pytest.approx((3, 1), abs=0.01) and (found.n, found.sources) == (40, 20)


def test_the_excess_and_its_interval_are_those_computed_by_hand():
    curves = planted(bump, items=6, per_source=2, noise=0.1)
    wide = curves.pivot(index="item", columns="scale", values="nats")
    gap = (wide[0.25] - 0.75 * wide[0.0] - 0.25 * wide[1.0]).to_numpy()
    tokens = curves.drop_duplicates("item").tokens.to_numpy()
    mean = gap.sum() / tokens.sum()
    rest = gap - mean * tokens
    by_source = 3 / 2 * sum(rest[i : i + 2].sum() ** 2 for i in (0, 2, 4))
    by_item = 6 / 5 * sum(rest**2)
    half = path.t.ppf(1 - 0.05 / 2 / 3, 2) * max(by_source, by_item) ** 0.5 / tokens.sum()
    row = path.excess(curves).iloc[0]
    assert (row.scale, row.excess, row.low, row.high) == pytest.approx((0.25, mean, mean - half, mean + half))


@pytest.mark.parametrize(
    "shape, truth", [(lambda x: 2 - x, 0.0), (bump, 0.3), (lambda x: bump(x) + 0.3 * x * (1 - x), 0.375)]
)
def test_the_interval_of_a_barrier_covers_it_though_its_place_is_chosen(shape, truth):
    """On a line without a barrier the largest of several noisy excesses is above 0; its lower limit is not."""
    trials = [barrier(planted(shape, items=24, noise=0.2, seed=seed)) for seed in range(100)]
    covered = np.mean([one.low <= truth <= one.high for one in trials])
    assert covered >= 0.95 - 2 * (0.95 * 0.05 / 100) ** 0.5
    if truth == 0:
        assert np.mean([one.barrier for one in trials]) > 0.01  # what a reader of the largest alone would be told


def test_with_one_source_alone_nothing_is_known():
    curves = planted(bump, items=4, per_source=4)
    verdict = path.connected(path.barriers(path.excess(curves)), "T")
    assert verdict.kind == "cannot be known here"


def test_verdicts_of_planted_curves():
    lines = [planted(lambda x: 2 - x, noise=0.01), planted(bump, noise=0.01, kind="specialists", a="ft", b="other")]
    lines.append(planted(bump, noise=0.01, kind="form", a="ft", b="sham"))
    lines.append(planted(lambda x: 1.0, noise=0.01, kind="facts", a="ft", b="twin"))
    found = path.barriers(path.excess(pd.concat(lines)))
    holds, differs, facts = (path.connected(found, kind) for kind in ("T", "specialists", "facts"))
    assert (holds.kind, holds.falsified) == ("holds", False)
    assert (differs.kind, differs.falsified) == ("differs", True)
    assert facts.kind == "holds" and list(facts.cases.outcome) == ["for", "not judged"]
    assert path.connected(found[found.kind != "facts"], "facts").kind == "cannot be known here"


@pytest.fixture(scope="module")
def tiny():
    return Family.load("tiny")


def alone(tiny, *names):
    """The family with these of its fine-tuned members."""
    return tiny.model_copy(update={"fine_tuned": tuple(m for m in tiny.fine_tuned if m.name in names)})


def falling(tiny, slope):
    """Curves of `tiny`'s medical member that fall from 0 to 1 by 2 nats and go on from 1 by `slope`."""

    def shape(x):
        return 3 - 2 * min(x, 1) - slope * max(x - 1, 0)

    return planted(shape, noise=0.001, a="pretrained", b="medical")


@pytest.mark.parametrize("slope, kind", [(2.0, "holds"), (0.4, "null explains it"), (-2.0, "reversed")])
def test_what_lies_beyond_1_is_judged_by_the_slope_before(tiny, slope, kind):
    found = path.extrapolated(falling(tiny, slope), alone(tiny, "medical"))
    assert found.before[0] == pytest.approx(0.5, abs=0.01) and found.left[0] == pytest.approx(1, abs=0.01)
    assert found.effect[0] == pytest.approx(0.25 * slope, abs=0.01) and found.fall[0] == pytest.approx(2, abs=0.01)
    assert path.keeps_falling(found).kind == kind
    assert found.lowest[0] == (1.25 if slope > 0 else 1.0)
    assert path.keeps_falling(found.assign(before=-1.0)).kind == "cannot be known here"
    assert path.keeps_falling(found.assign(left=0.01)).kind == "cannot be known here"  # there is no more to fall


def drawn(slopes):
    """Turned T whose loss rises by these slopes, on the items of `planted`."""
    parts = [
        planted(lambda x, s=slope: 3 + s * x).assign(member="ft", sides="both", draw=i)
        for i, slope in enumerate(slopes)
    ]
    return pd.concat(parts).drop(columns=["kind", "a", "b"])


def test_moves_along_T_and_its_draws_are_the_planted_slopes():
    curves, turns = planted(lambda x: 3 - 2 * x), drawn([0.1, 0.2, 0.3])
    found = path.moves(curves, turns, 1.0)
    assert found.value.tolist() == pytest.approx([-2, 0.1, 0.2, 0.3]) and (found["items"].dropna() == 20).all()
    (row,) = turned.against_draws(found).itertuples()
    assert row.effect == pytest.approx(-2.2) and row.high < 0
    bent = path.turned_changes(planted(lambda x: 3 - 2 * x**2), turns)
    at_half = bent[(bent.scale == 0.5) & (bent.sides == "none")].iloc[0]
    assert (at_half.change, at_half.excess) == pytest.approx((-0.5, 0.5))
    assert bent[bent.sides == "both"].excess.dropna().to_numpy() == pytest.approx(0, abs=1e-9)


def test_verdicts_beside_turned_vectors():
    falls = path.moves(planted(lambda x: 3 - 2 * x), drawn([0.1, 0.11, 0.12]), 1.0)
    compared = turned.against_draws(falls.assign(value=-falls.value))
    assert path.special(compared).kind == "holds" and path.special(compared).falsified is False
    alike = path.moves(planted(lambda x: 3 + 0.11 * x), drawn([0.1, 0.11, 0.12, 0.11, 0.1]), 1.0)
    assert path.as_costly(turned.against_draws(alike)).kind == "holds"
    still = path.moves(planted(lambda x: 3 + 0.001 * x), drawn([0.01, 0.011, 0.012, 0.011, 0.01]), 1.0)
    verdict = path.as_costly(turned.against_draws(still))
    assert verdict.kind == "cannot be known here" and set(verdict.cases.outcome) == {"not judged"}
    both = path.as_costly(turned.against_draws(pd.concat([alike, still.assign(what="other")])))
    assert both.kind == "holds" and both.cases.outcome.tolist() == ["for", "not judged"]
    back = path.moves(planted(lambda x: 3 - 2 * x), drawn([0.1, 0.11, 0.12]), -0.5)
    assert path.negation(turned.against_draws(back), -0.5).kind == "holds"
    nothing = turned.against_draws(falls[:0])
    assert {judge.kind for judge in (path.special(nothing), path.as_costly(nothing))} == {"cannot be known here"}


@pytest.mark.parametrize("other, kind", [(-0.5, "holds"), (-1.99, "null explains it"), (-3.0, "reversed")])
def test_what_T_does_to_its_own_domain_is_held_against_the_others(tiny, other, kind):
    family, parts = alone(tiny, "medical", "math"), []
    for member, own, text in (
        ("medical", "medicine replies", "math replies"),
        ("math", "math replies", "medicine replies"),
    ):
        for slope, named in ((-2.0, own), (other, text)):
            parts.append(planted(lambda x, s=slope: 4 + s * x, noise=0.001, a="pretrained", b=member, text=named))
    found = path.own_and_others(pd.concat(parts), family, [1.0, -0.5])
    assert found.own.tolist() == pytest.approx([2, 2, 1, 1], abs=0.01)
    assert found.effect.tolist() == pytest.approx([2 + other, 2 + other, 1 + other / 2, 1 + other / 2], abs=0.01)
    assert path.of_its_own(found).kind == kind and (found.low < found.effect).all()
    assert (
        path.of_its_own(path.own_and_others(pd.concat(parts), alone(tiny, "medical"), [1.0])).kind
        == "cannot be known here"
    )


def gram(points):
    return np.asarray(points, dtype=float) @ np.asarray(points, dtype=float).T


def test_a_straight_path_has_distance_0_and_dimension_1():
    straight = gram([[1, 2], [3, 6], [4, 8]])
    assert trajectory.places(straight).distance == pytest.approx(0, abs=1e-7)
    assert trajectory.places(straight).cosine == pytest.approx(1) and trajectory.places(straight).onward[
        0
    ] == pytest.approx(1)
    assert trajectory.form(straight) == pytest.approx((1, 1))


def test_a_path_of_two_steps_at_a_right_angle_is_what_the_hand_computes():
    corner = gram([[3, 0], [3, 4]])
    found = trajectory.places(corner)
    assert found.cosine == pytest.approx([3 / 5, 1]) and found.distance == pytest.approx([3 / 5 * 4 / 5, 0])
    assert found.onward[0] == pytest.approx(0, abs=1e-12) and np.isnan(found.onward[1])
    assert trajectory.form(corner) == pytest.approx((7 / 5, 25**2 / (81 + 256)))
    assert trajectory.walk(corner) == pytest.approx(corner)


def test_a_random_walk_in_many_dimensions_is_on_its_null():
    rng, lengths = np.random.default_rng(0), [1.0, 3.0, 2.0, 2.0, 0.5]
    steps = rng.standard_normal((5, 100_000))
    walk = np.cumsum(steps / np.linalg.norm(steps, axis=1, keepdims=True) * np.array(lengths)[:, None], axis=0)
    found, null = gram(walk), trajectory.walk(gram(walk))
    for mine, theirs in zip(trajectory.places(found), trajectory.places(null), strict=True):
        assert mine[:-1] == pytest.approx(theirs[:-1], abs=0.02)
    assert trajectory.form(found) == pytest.approx(trajectory.form(null), rel=0.02)
    share = np.cumsum(np.square(lengths)) / np.square(lengths).sum()
    closed = trajectory.places(null)
    assert closed.cosine == pytest.approx(share**0.5)
    assert closed.distance == pytest.approx((share * (1 - share)) ** 0.5, abs=1e-6)
    assert closed.onward[:-1] == pytest.approx(0, abs=1e-9)


def adamw(steps, β, seed=0, size=20_000):
    """T after each step of Adam on white noise, which knows no loss."""
    rng, m, v, T, found = np.random.default_rng(seed), 0.0, 0.0, np.zeros(size), []
    for step in range(1, steps + 1):
        g = rng.standard_normal(size)
        m, v = β * m + (1 - β) * g, 0.999 * v + 0.001 * g**2
        T = T - m / (1 - β**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        found.append(T)
    return found


def test_momentum_alone_points_at_the_end_of_its_path_and_not_at_what_comes_much_later():
    kept = [5, 10, 20, 40, 60, 80, 100]
    path_of = adamw(100, 0.9)
    products = gram([path_of[step - 1] for step in kept])
    found, walk = trajectory.places(products), trajectory.places(trajectory.walk(products))
    assert found.cosine[1] - walk.cosine[1] > 0.1
    later = trajectory.later(products, kept, path.MEMORY)
    assert np.abs(later[:4]).max() < 0.06 and np.isnan(later[5:]).all()
    straight = trajectory.later(gram([[step] for step in kept]), kept, path.MEMORY)
    assert straight[:4] == pytest.approx(1) and np.isnan(trajectory.later(products[-2:, -2:], kept[-2:], 10)).all()


def test_nothing_that_moved_has_no_form():
    still = np.zeros((2, 2))
    assert np.isnan(trajectory.form(still)).all() and np.isnan(trajectory.places(still).cosine).all()


def write_checkpoints(family, member, shares):
    """Keep θ_pre + share · T of a member after the steps 10, 20, …"""
    pre, ft = (members.weights(family, name).like for name in (family.pretrained.name, member))
    for number, share in enumerate(shares):
        weights = Combination({pre: 1 - share, ft: share})
        weights.write(checkpoint(members.folder_of(family, family.member(member)), 10 * number), like=pre)


@pytest.fixture
def small(make_checkpoint, tmp_path):
    """A family of an architecture that no shipped family has, of one domain without held-out replies."""
    assert "gemma2" in ARCHITECTURES
    for seed, name in enumerate(("base", "tuned", "again")):
        make_checkpoint(name, "gemma2", seed)
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(f'{{"text": "{word} is a word"}}' for word in ("one", "two", "three")), encoding="utf-8")
    about = {
        name: dict(name=name, label=name, license="MIT", source=dict(kind="folder", path=name))
        for name in ("base", "tuned", "again")
    }
    spec = dict(
        title="Small", summary="Random.", limits="All.", pretrained=about["base"],
        fine_tuned=[about[name] | dict(role="domain", domain="notes") for name in ("tuned", "again")],
        prompt=dict(system=dict(notes="Write.")), corpora=dict(general=dict(kind="files", path=str(text))), replies={},
        benchmarks=dict(notes=["tuningvec_drugs"]),
    )  # fmt: skip
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return Family.load(file)


def test_a_straight_training_of_another_architecture_is_seen_as_one(small):
    write_checkpoints(small, "tuned", [0, 0.25, 0.4, 0.6, 0.8, 1])
    products, absent = path.training(small, Store())
    assert absent.member.tolist() == ["again"] and absent.why[0] == "no `step-…` in `again/checkpoints`"
    places, whole = path.on_the_way(products), path.whole(products)
    assert places.step.tolist() == [10, 20, 30, 40, 50]  # after step 0 there is no T
    assert places.norm.to_numpy() == pytest.approx([0.25, 0.4, 0.6, 0.8, 1], abs=0.01)
    assert places.cosine.min() > 0.99 and whole.dimension[0] == pytest.approx(1, abs=0.02)
    assert whole.distance[0] < 0.02 < whole.distance_walk[0] and whole.own[0] == pytest.approx(1, abs=1e-4)
    verdict = path.early_points_on(places, 0.1)
    assert verdict.kind == "holds" and verdict.cases.step.tolist() == [10] and verdict.cases.effect.item() > 0.95
    late = path.early_points_on(places[places.step > 10], 0.1)
    assert late.kind == "cannot be known here" and "30 steps after" in late.why
    again, _ = path.training(small, Store())
    pd.testing.assert_frame_equal(again, products)


def test_without_checkpoints_the_table_is_empty_and_says_why(small):
    products, absent = path.training(small, Store())
    assert products.empty and absent.member.tolist() == ["tuned", "again"]
    places = path.on_the_way(products)
    assert places.empty and path.whole(products).empty
    assert path.early_points_on(places, 0.1).why == "no checkpoint of a training is at hand"
    assert plots.trajectories(places).axes[0].texts[0].get_text() == "no checkpoint of a training is at hand"


def test_the_weights_of_a_member_end_a_path_that_was_kept_in_part(small):
    write_checkpoints(small, "tuned", [0, 0.5])
    (members.folder_of(small, small.member("tuned")) / "training.json").write_text('{"steps": 30}')
    places = path.on_the_way(path.training(small, Store())[0])
    assert places.step.tolist() == [10, 30] and places.norm.iloc[0] == pytest.approx(0.5, abs=0.01)


def test_checkpoints_of_other_shapes_are_refused_by_name(small, make_checkpoint):
    make_checkpoint("tuned/checkpoints/step-00010", "gemma2", 0, hidden_size=16)
    with pytest.raises(TuningVecError, match="step-00010"):
        path.training(small, Store())


def test_lines_lead_to_specialists_between_them_and_to_their_controls(tiny):
    kinds = pd.DataFrame(path.lines(tiny)).groupby("kind", sort=False).size().to_dict()
    assert kinds == {"T": 3, "specialists": 3, "facts": 1, "form": 1}
    assert path.Line("form", "medical", "placebo") in path.lines(tiny)


@pytest.mark.parametrize("scales", [[0, 1], [0.5, 1], [0, 0.5], [0, 0.5, 1, float("nan")]])
def test_scales_without_a_line_are_refused(tiny, scales):
    with pytest.raises(TuningVecError, match="scales are"):
        path.along(tiny, scales, "float32")


@pytest.mark.parametrize(
    "given, said",
    [(dict(draws=2), "draws is 2"), (dict(scales=[0.3]), "turned_at has 0.3"), (dict(sides=["up"]), "sides are")],
)
def test_turned_vectors_that_cannot_be_compared_are_refused(tiny, given, said):
    how = dict(scales=[1], among=[0, 0.5, 1], dtype="float32", sides=["both"], draws=3, seed=0) | given
    with pytest.raises(TuningVecError, match=said):
        path.along_turned(tiny, **how)


def test_a_family_without_replies_is_measured_on_documents_alone(small):
    how = dict(dtype="float32", texts=3, store=Store())
    curves = path.along(small, [0, 0.5, 1], **how)
    assert set(curves.text) == {"general"} and curves.groupby("kind").size().to_dict() == {"T": 18, "specialists": 9}
    turns = path.along_turned(small, [1], [0, 0.5, 1], sides=["both"], draws=3, seed=0, **how)
    assert path.special(path.against_turned(curves, turns, 1.0, small)).kind == "cannot be known here"
    documents = path.on_documents(curves, turns, [1.0], small)
    assert len(documents) == 2 and path.as_costly(documents).kind in {
        "within chance",
        "holds",
        "mixed",
        "cannot be known here",
    }
    assert path.of_its_own(path.own_and_others(curves, small, [1.0])).kind == "cannot be known here"
    assert path.keeps_falling(path.extrapolated(curves, small)).kind == "cannot be known here"
    found = path.barriers(path.excess(curves))
    assert len(tables.barriers(found, path.KINDS)) == 3
    figures = [plots.excess_over_chord(path.excess(curves), path.KINDS, path.LEAST)]
    figures.append(plots.loss_lines(path.changes(curves), path.turned_changes(curves, turns)))
    assert [len(figure.axes) for figure in figures] == [2, 2]


def test_the_ends_of_a_line_are_the_members_and_its_middle_is_half_of_T(small):
    from tuningvec.measures import losses, models

    curves = path.along(small, [0, 0.5, 1], "float32", texts=3)
    line = curves[(curves.kind == "T") & (curves.b == "tuned")]
    for scale, name in ((0.0, "base"), (1.0, "tuned")):
        own = losses.nats([models.Opened(small, name, "float32")], small, corpora={"general": 3})
        assert line[line.scale == scale].nats.tolist() == own.nats.tolist()
    middle = line[line.scale == 0.5].model.unique().tolist()
    assert middle == ["0.5 base + 0.5 tuned"]


def test_no_specialist_is_no_line(small):
    chat = small.model_copy(
        update={"fine_tuned": tuple(m.model_copy(update={"role": "instruct"}) for m in small.fine_tuned)}
    )
    chat._file = small.file
    with pytest.raises(TuningVecError, match="no member of role domain"):
        path.along(chat, [0, 0.5, 1], "float32")


def test_checkpoints_are_opened_as_the_member_is(small):
    write_checkpoints(small, "tuned", [0.5])
    folder = checkpoint(members.folder_of(small, small.member("tuned")), 0)
    weights = members.elsewhere(small, small.member("tuned"), folder)
    assert weights.like == Checkpoint(folder)
