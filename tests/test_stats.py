import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar

from tuningvec import stats
from tuningvec.errors import TuningVecError


def test_wilson_agrees_with_newcombes_published_examples():
    # Newcombe 1998, Statistics in Medicine 17:857, Table I, method 3
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert stats.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert stats.wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_exact_agrees_with_newcombes_published_examples():
    # the same table, method 5
    assert stats.exact(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert stats.exact(0, 20) == pytest.approx((0.0, 0.1684), abs=5e-5)
    assert stats.exact(1, 29) == pytest.approx((0.0009, 0.1776), abs=5e-5)


@pytest.mark.parametrize(
    "counts, low, high",
    [  # Newcombe 1998, Statistics in Medicine 17:873, Table II, method 10
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_unpaired_difference_agrees_with_newcombes_published_examples(counts, low, high):
    found = stats.difference(*counts)
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), abs=5e-3)


def test_fishers_tea():
    # Fisher 1935: three of four cups right; the one-sided probability is 17/70, the two-sided one twice that
    assert stats.difference(3, 4, 1, 4).p == pytest.approx(34 / 70)


def test_paired_difference_agrees_with_a_published_example():
    # Bentur et al. 2009 in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, ch. 8
    found = stats.paired_difference(1, 1, 7, 12)
    assert (found.points, found.low, found.high) == pytest.approx((-28.6, -50.7, -2.6), abs=0.05)
    assert found.p == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize("counts", [(10, 0, 0, 0), (0, 0, 0, 10), (5, 0, 0, 5)])
def test_models_that_agree_on_every_item_do_not_differ(counts):
    found = stats.paired_difference(*counts)
    assert found.points == 0 and found.p == 1 and found.low <= 0 <= found.high


@given(st.integers(1, 14).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_bounds_are_the_extremes_over_all_pairings(counts):
    count_1, count_2, n = counts
    found = []
    for both in range(max(0, count_1 + count_2 - n), min(count_1, count_2) + 1):
        b, c = count_1 - both, count_2 - both
        found.append(mcnemar([[both, b], [c, n - both - b - c]], exact=True).pvalue if b + c else 1.0)
    assert stats.paired_p_bounds(count_1, count_2, n) == pytest.approx((min(found), max(found)))


def test_bounds_of_several_benchmarks_add_up_what_each_allows():
    assert stats.paired_p_bounds([3, 1], [1, 3], [4, 4]) == pytest.approx((stats.paired_difference(0, 2, 2, 0).p, 1))
    least = stats.paired_difference(0, 9, 2, 0).p
    assert stats.paired_p_bounds([9, 5], [0, 7], [9, 7]) == pytest.approx((least, least))


def test_holm_agrees_with_a_worked_example():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_below_is_the_binomial_tail():
    assert stats.below(1, 10, 0.25) == pytest.approx(0.75**10 + 10 * 0.25 * 0.75**9)


def answers(count, n):
    return np.repeat([1.0, 0.0], [count, n - count])


def test_bootstrap_of_one_benchmark_agrees_with_scipys():
    items = np.random.default_rng(1).normal(size=60)
    ours = stats.bootstrap_difference([items], [np.zeros(60)], seed=0, benchmarks=False, paired=True)
    scipys = scipy.stats.bootstrap((items,), np.mean, method="percentile", rng=np.random.default_rng(2))
    assert ours == pytest.approx(tuple(scipys.confidence_interval), abs=0.02)


def test_bootstrap_over_items_has_the_binomial_width():
    first, second = [answers(40, 100), answers(10, 50)], [answers(30, 100), answers(10, 50)]
    low, high = stats.bootstrap_difference(first, second, seed=0, benchmarks=False)
    sd = np.sqrt(0.4 * 0.6 / 100 + 0.3 * 0.7 / 100 + 2 * 0.2 * 0.8 / 50) / 2
    assert (low + high) / 2 == pytest.approx(0.05, abs=0.005)
    assert high - low == pytest.approx(2 * 1.96 * sd, rel=0.05)


def test_bootstrap_over_benchmarks_alone_keeps_each_mean():
    first, second = [[0.1], [0.2], [0.3]], [[0.0], [0.0], [0.0]]
    low, high = stats.bootstrap_difference(first, second, seed=0, items=False)
    assert (low, high) == pytest.approx((0.1, 0.3), abs=0.035)


def test_pairing_takes_away_what_items_share():
    hard = answers(50, 100)
    better = hard.copy()
    better[50:55] = 1
    paired = stats.bootstrap_difference([better], [hard], seed=0, benchmarks=False, paired=True)
    alone = stats.bootstrap_difference([better], [hard], seed=0, benchmarks=False)
    assert paired.low > 0 > alone.low


def test_the_same_seed_gives_the_same_interval():
    first, second = [answers(4, 10)], [answers(3, 10)]
    assert stats.bootstrap_difference(first, second, seed=3) == stats.bootstrap_difference(first, second, seed=3)


def test_mean_interval_is_students():
    samples = np.random.default_rng(0).normal(size=(12, 3))
    low, high = stats.mean_interval(samples)
    scipys = scipy.stats.ttest_1samp(samples, 0).confidence_interval()
    np.testing.assert_allclose([low, high], scipys)
    assert np.isnan(stats.mean_interval(samples[:1])).all()


def test_a_relative_drop_has_an_interval_over_items():
    whole, ablated = answers(80, 100), answers(40, 100)
    low, high = stats.relative_drop(whole, ablated, seed=0)
    assert low < 50 < high and 10 < high - low < 40
    assert stats.relative_drop(whole, whole, seed=0) == (0, 0)
    assert stats.relative_drop(whole, ablated, seed=0) == (low, high)


@pytest.mark.parametrize(("n", "alpha"), [(24, 0.05), (56, 0.05), (500, 0.05), (24, 0.05 / 12)])
def test_the_least_difference_seen_is_seen_so_often(n, alpha):
    share = stats.least_seen(n, alpha) / 100
    counts = np.random.default_rng(0).binomial(n, share, 20_000)
    found = {count: stats.paired_difference(0, int(count), 0, n - int(count)).p <= alpha for count in np.unique(counts)}
    assert np.mean([found[count] for count in counts]) == pytest.approx(0.8, abs=0.01)


def test_too_few_items_see_no_difference():
    assert np.isnan(stats.least_seen(5)) and stats.least_seen(6) == pytest.approx(100 * 0.8 ** (1 / 6))


def test_the_least_mean_seen_is_seen_so_often():
    least = stats.least_seen_of_mean(3.0, 400)
    means = np.random.default_rng(0).normal(least, 3 / 20, 20_000)
    assert np.mean(np.abs(means) > 1.959964 * 3 / 20) == pytest.approx(0.8, abs=0.01)


PAIRS = np.repeat(np.arange(28), 2)  # two items of each of 28 sources
RANDOM = np.random.default_rng(4)
FIRST, SECOND, THIRD = (RANDOM.random((3, 28)) < np.array([[0.8], [0.4], [0.3]])).astype(float)


def test_the_design_effect_is_the_robust_variance_over_the_independent_one():
    sources = RANDOM.integers(12, size=60)
    values = RANDOM.random(12)[sources] + RANDOM.random(60)
    fit = OLS(values, np.ones(60))
    robust = fit.fit(cov_type="cluster", cov_kwds=dict(groups=sources)).bse[0]
    assert stats.design_effect(values, sources) == pytest.approx((robust / fit.fit().bse[0]) ** 2)
    assert stats.design_effect([1.0, 0.0] * 28, PAIRS) == 1  # opposite items, whose variance would be 0


def test_values_that_do_not_differ_are_taken_for_copies():
    assert stats.design_effect(np.ones(56), PAIRS) == 2
    assert stats.design_effect(np.zeros(6), [0, 0, 0, 1, 1, 2]) == pytest.approx((9 + 4 + 1) / 6)
    assert stats.design_effect([0.0, 1.0, 1.0], ["a", "a", "a"]) == 3
    assert stats.mean_or_share(np.ones(56), 0, sources=PAIRS) == stats.wilson(28, 28)


@pytest.mark.parametrize("sources", [["a", "b"], ["a", "b", None], [["a", "b", "c"]]])
def test_every_item_needs_one_source(sources):
    with pytest.raises(TuningVecError, match="for 3 items; each item needs one"):
        stats.design_effect([0.0, 1.0, 1.0], sources)


MEASURES = {
    "share": lambda x, y, z, **of: stats.mean_or_share(x, 0, **of),
    "mean": lambda x, y, z, **of: stats.mean_or_share(0.3 + x / 2, 0, **of),
    "shares": lambda x, y, z, **of: stats.paired_shares(x, y, **of),
    "contrast": lambda x, y, z, **of: stats.paired_contrast([x, y, z], [1, -0.5, -0.5], **of),
    "ratio": lambda x, y, z, **of: stats.paired_ratio(y, x, **of),
    "ratio of differences": lambda x, y, z, **of: stats.paired_ratio(y, x, minus=z, **of),
    "drop": lambda x, y, z, **of: stats.relative_drop(x, y, 0, **of),
    "flips": lambda x, y, z, **of: (stats.sign_flips(x - y, 0, **of),),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_sources_of_one_item_change_nothing(measure):
    own = [f"item {i}" for i in range(28)]
    assert tuple(measure(FIRST, SECOND, THIRD, sources=own)) == tuple(measure(FIRST, SECOND, THIRD))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_copies_count_once(measure):
    copies = [np.repeat(x, 2) for x in (FIRST, SECOND, THIRD)]
    once = measure(FIRST, SECOND, THIRD)
    like = pytest.approx(tuple(once), abs=0.03 * np.abs(once).max())
    assert tuple(measure(*copies, sources=PAIRS)) == like and tuple(measure(*copies)) != like


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_items_that_have_nothing_in_common_count_nearly_all(measure):
    many = np.random.default_rng(5).random((3, 1000)) < np.array([[0.8], [0.4], [0.39]])
    sources = np.repeat(np.arange(500), 2)
    found, alone = measure(*many.astype(float), sources=sources), measure(*many.astype(float))
    assert found == pytest.approx(alone, rel=0.1, abs=0.02)


def test_intervals_are_no_narrower_and_p_no_smaller_than_of_independent_items():
    first, second = np.tile([1.0, 0.0], 28), np.tile([0.0, 1.0], 28)  # most sources have one of each
    first[:12], second[:12] = 1, 0
    assert stats.paired_shares(first, second, PAIRS) == stats.paired_shares(first, second)
    assert stats.flipped(np.bincount(PAIRS, first - second)) < stats.paired_shares(first, second).p
    assert stats.sign_flips(first - second, 0, sources=PAIRS) == stats.sign_flips(first - second, 0)
    apart = np.linspace(0, 1, 28)
    gaps = np.column_stack([apart, 1 - apart]).ravel()  # of a source they have the same mean
    assert stats.bootstrap_mean([gaps], 0, sources=[PAIRS]) == stats.bootstrap_mean([gaps], 0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_flips_of_whole_sources_agree_with_all_of_them(sums):
    every = [abs(np.dot(signs, sums)) for signs in itertools.product([1, -1], repeat=len(sums))]
    assert stats.flipped(sums) == pytest.approx(np.mean(np.array(every) >= abs(sum(sums))))


@pytest.mark.parametrize(("only_1", "only_2"), [(9, 2), (3, 3), (0, 0), (30, 12)])
def test_flips_of_single_items_are_mcnemars(only_1, only_2):
    sums = np.repeat([1, -1], [only_1, only_2])
    assert stats.flipped(sums) == pytest.approx(stats.paired_difference(0, only_1, only_2, 5).p)


def drawn(rng, p, alike=0.8, groups=40, size=3):
    """Right answers, of each source mostly the same."""
    shared = rng.random((groups, 1)) < p
    return (
        np.where(rng.random((groups, size)) < alike**0.5, shared, rng.random((groups, size)) < p).astype(float).ravel()
    )


def test_intervals_cover_where_sources_share_their_answers():
    """300 draws of 40 sources with 3 items each; of 95 % intervals those of independent items miss the truth often."""
    rng, sources, hits = np.random.default_rng(0), np.repeat(np.arange(40), 3), []
    for _ in range(300):
        first, second = drawn(rng, 0.6), drawn(rng, 0.6)
        for known in (None, sources):
            share = stats.mean_or_share(first, 0, sources=known)
            gap = stats.paired_shares(first, second, known)
            contrast = stats.paired_contrast([first, second], [1, -1], sources=known)
            hits.append((share.low <= 0.6 <= share.high, gap.low <= 0 <= gap.high, gap.p > 0.05, contrast.p > 0.05))
    alone, clustered = np.mean(hits[::2], axis=0), np.mean(hits[1::2], axis=0)
    assert (alone < 0.88).all() and (clustered > 0.93).all(), (alone, clustered)
