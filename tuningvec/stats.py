"""Intervals, tests and resampling for proportions of items and for averages over benchmarks.

Differences are in percentage points, first minus second; `level` is the confidence level of an interval. `sources`
names the source of each item; without it every item is its own. Items that share a source are one cluster: intervals
are those of n / `design_effect` independent items, tests flip and bootstraps draw whole sources. No interval is
narrower, and no p smaller, than that of independent items.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.stats import beta, binomtest, fisher_exact, norm, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from tuningvec.errors import TuningVecError


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    """A difference in points with its interval and the p value of no difference."""

    points: float
    low: float
    high: float
    p: float


def design_effect(values: ArrayLike, sources: ArrayLike | None) -> float:
    """Variance of a mean whose items share sources, over that of as many independent items; 1 where none do.

    Cluster-robust over independent, of residuals e and G sources, and not below 1:
    (G / (G − 1)) Σ_sources (Σ_items e)² / ((n / (n − 1)) Σ e²), as Rao and Scott 1992, Biometrics 48:577. Where all
    values are the same they do not tell how alike a source's items are, which are then taken for copies: Σ m² / n for
    sources of m items (Kish). Raises TuningVecError where there is not one source for each value.
    """
    x = np.asarray(values, dtype=float)
    source = _numbered(sources, len(x))
    sizes, residual = np.bincount(source), x - x.mean()
    n, groups = len(x), len(sizes)
    if groups == n:
        return 1.0
    if groups == 1 or np.ptp(x) == 0:
        return float(sizes @ sizes / n)
    sums = np.bincount(source, residual)
    return max(float(groups / (groups - 1) * (n - 1) / n * (sums @ sums) / (residual @ residual)), 1.0)


def _numbered(sources: ArrayLike | None, n: int) -> Int[np.ndarray, " items"]:
    """The source of each of n items as a number, in the order in which they first come."""
    if sources is None:
        return np.arange(n)
    names = np.asarray(sources)
    if names.shape != (n,) or pd.isna(names).any():
        raise TuningVecError(f"sources: {names.shape} names, some of them empty, for {n} items; each item needs one")
    return pd.factorize(names)[0]


def wilson(count: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion of `count` in `n`, which of clustered items are no whole numbers."""
    return Interval(*map(float, proportion_confint(count, n, alpha=1 - level, method="wilson")))


def exact(count: float, n: float, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval for a proportion of `count` in `n`: covers at least `level`.

    Of clustered items both are divided by their `design_effect` (Korn and Graubard 1998, Survey Methodology 24:193).
    """
    return Interval(*map(float, proportion_confint(count, n, alpha=1 - level, method="beta")))


def below(count: int, n: int, chance: float) -> float:
    """One-sided exact p value that `count` in `n` is no less than guessing right with probability `chance`."""
    return float(binomtest(count, n, chance, alternative="less").pvalue)


def difference(count_1: int, n_1: int, count_2: int, n_2: int, level: float = 0.95) -> Difference:
    """Difference of two proportions from two samples of items: Newcombe's hybrid score interval, Fisher's exact p."""
    low, high = confint_proportions_2indep(
        count_1, n_1, count_2, n_2, method="newcomb", compare="diff", alpha=1 - level
    )
    p = fisher_exact([[count_1, n_1 - count_1], [count_2, n_2 - count_2]]).pvalue
    return Difference(100 * (count_1 / n_1 - count_2 / n_2), 100 * float(low), 100 * float(high), float(p))


def paired_difference(
    both: int, only_1: int, only_2: int, neither: int, level: float = 0.95, deff: float = 1.0
) -> Difference:
    """Difference of two proportions on the same items: Newcombe's square-and-add interval, McNemar's exact p.

    Arguments count the items that both got right, that one alone got right, and that neither did; the interval is that
    of 1 / `deff` as many. Newcombe 1998, Statistics in Medicine 17:2635, method 10: Wilson's limits of each and their
    correlation.
    """
    p = _mcnemar(only_1, only_2)
    both, only_1, only_2, neither = (count / deff for count in (both, only_1, only_2, neither))
    n = both + only_1 + only_2 + neither
    count_1, count_2 = both + only_1, both + only_2
    p_1, p_2 = count_1 / n, count_2 / n
    (low_1, high_1), (low_2, high_2) = wilson(count_1, n, level), wilson(count_2, n, level)
    covariance = both * neither - only_1 * only_2
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)
    scale = (count_1 * (n - count_1) * count_2 * (n - count_2)) ** 0.5
    phi = covariance / scale if scale else 0.0
    below_1, above_1, below_2, above_2 = p_1 - low_1, high_1 - p_1, p_2 - low_2, high_2 - p_2
    down = max(below_1**2 - 2 * phi * below_1 * above_2 + above_2**2, 0) ** 0.5
    up = max(below_2**2 - 2 * phi * below_2 * above_1 + above_1**2, 0) ** 0.5
    points = 100 * (p_1 - p_2)
    return Difference(points, points - 100 * down, points + 100 * up, p)


def paired_shares(
    first: ArrayLike, second: ArrayLike, sources: ArrayLike | None = None, level: float = 0.95
) -> Difference:
    """Difference of two shares of right answers, 0 or 1, to the same items: `paired_difference` by sources.

    Where sources have several items p is the larger one of McNemar's and of `flipped`, by the sources' summed
    differences, which is smaller where items of one source go opposite ways.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    gap, source = a.astype(float) - b, _numbered(sources, len(a))
    counts = (int(some.sum()) for some in (a & b, a & ~b, ~a & b, ~a & ~b))
    found = paired_difference(*counts, level=level, deff=design_effect(gap, sources))
    return found._replace(p=max(found.p, flipped(np.bincount(source, gap)))) if sources is not None else found


def flipped(sums: ArrayLike) -> float:
    """Exact p value of a sum of 0: the chance that whole numbers with random signs add up to as much in size.

    Numbers of size 1, differences of single items, have McNemar's exact p.
    """
    whole, chances = np.asarray(sums, dtype=float).round().astype(int), np.ones(1)
    for size in np.abs(whole[whole != 0]):
        chances = np.convolve(chances, np.r_[0.5, np.zeros(2 * size - 1), 0.5])
    distance = np.abs(np.arange(len(chances)) - len(chances) // 2)
    return min(float(chances[distance >= abs(whole.sum())].sum()), 1.0)


def paired_contrast(
    scores: ArrayLike, weights: ArrayLike, level: float = 0.95, sources: ArrayLike | None = None
) -> Difference:
    """Mean over items of a weighted sum of `scores` in [0, 1], a row a model, a column an item; p that it is 0.

    Two items are added, spread evenly over all that models could score, so that a few items that agree leave an
    interval (for two models: Agresti and Min 2005, Statistics in Medicine 24:729); t quantiles.
    """
    values, w = np.atleast_2d(np.asarray(scores, dtype=float)), np.asarray(weights, dtype=float)
    mean, covariance, freedom = _adjusted(values, design_effect(w @ values, sources))
    error = float(w @ covariance @ w) ** 0.5
    middle, half = float(w @ mean), float(t.ppf((1 + level) / 2, freedom)) * error
    p = 2 * float(t.sf(abs(middle) / error, freedom))
    return Difference(100 * float(w @ values.mean(axis=1)), 100 * (middle - half), 100 * (middle + half), p)


def paired_ratio(
    above: ArrayLike,
    below: ArrayLike,
    level: float = 0.95,
    minus: ArrayLike | None = None,
    sources: ArrayLike | None = None,
) -> tuple[float, float, float]:
    """Ratio of two means of scores in [0, 1] over the same items, with Fieller's interval.

    With `minus`, scores of a third, that of above − minus to below − minus. The interval holds each ratio c for which
    `paired_contrast` of above − c · below, less (1 − c) · minus, leaves 0 in. All are NaN where the lower mean, or
    difference, is not clearly above 0. The design effect is that of above − ratio · below.
    """
    values = np.asarray([above, below] if minus is None else [above, below, minus], dtype=float)
    pair = np.eye(2) if minus is None else np.array([[1.0, 0, -1], [0, 1, -1]])
    upper, lower = (pair @ values).mean(axis=1)
    if lower == 0:
        return np.nan, np.nan, np.nan
    rest = np.array([1, -upper / lower]) @ pair @ values
    mean, covariance, freedom = _adjusted(values, design_effect(rest, sources))
    q = float(t.ppf((1 + level) / 2, freedom)) ** 2
    (a, b), ((aa, ab), (_, bb)) = pair @ mean, pair @ covariance @ pair.T
    square, middle, last = b**2 - q * bb, a * b - q * ab, a**2 - q * aa
    if square <= 0 or b <= 0:
        return np.nan, np.nan, np.nan
    half = max(middle**2 - square * last, 0.0) ** 0.5
    low, high = (middle - half) / square, (middle + half) / square
    return float(upper / lower), float(low) if minus is not None else max(float(low), 0.0), float(high)


def _adjusted(values: np.ndarray, deff: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Means of the rows, their covariance and its degrees of freedom, with two items spread over all corners."""
    models, n = len(values), values.shape[1] / deff
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=models))).T
    mean = (values.sum(axis=1) / deff + 2 * corners.mean(axis=1)) / (n + 2)
    second = (values @ values.T / deff + 2 * corners @ corners.T / corners.shape[1]) / (n + 2)
    return mean, (second - np.outer(mean, mean)) / (n + 2), n + 1


def paired_p_bounds(count_1: ArrayLike, count_2: ArrayLike, n: ArrayLike) -> Interval:
    """The smallest and largest exact McNemar p that two counts on the same `n` items allow, whatever the pairing.

    McNemar's p depends on the items that one model alone got right, b and c. Their difference is known,
    b − c = count_1 − count_2; their sum lies between |b − c|, when one model's right answers include the other's, and
    |b − c| + 2 min(count_1, count_2, n − count_1, n − count_2), when they overlap least. Several benchmarks may be
    given, whose b and c add up.
    """
    first, second, size = (np.atleast_1d(np.asarray(x, dtype=int)) for x in (count_1, count_2, n))
    b, c = (int(np.maximum(gap, 0).sum()) for gap in (first - second, second - first))
    shared = int(np.min([first, second, size - first, size - second], axis=0).sum())
    return Interval(_mcnemar(b, c), _mcnemar(b + shared, c + shared))


def _mcnemar(only_1: int, only_2: int) -> float:
    return float(mcnemar([[0, only_1], [only_2, 0]], exact=True).pvalue) if only_1 + only_2 else 1.0


def least_seen(n: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest difference of paired shares, in points, that McNemar's exact test of n items finds with this power.

    At best: where all items that differ do so one way. b of those are needed, 2 / 2ᵇ ≤ α, and n items have as many with
    that probability at the share δ of P(Binomial(n, δ) ≥ b) = power. NaN where even n of them are too few. Of clustered
    items n is divided by their `design_effect`.
    """
    b = math.ceil(1 - math.log2(alpha))
    return 100 * float(beta.ppf(power, b, n - b + 1)) if b <= n else math.nan


def least_seen_of_mean(sd: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The same of a mean of n differences with this standard deviation, (z₁₋α/₂ + z_power) sd / √n, in its unit."""
    return float((norm.isf(alpha / 2) + norm.ppf(power)) * sd / n**0.5)


def mean_interval(
    samples: Float[np.ndarray, "..."], level: float = 0.95
) -> tuple[Float[np.ndarray, "..."] | np.floating, Float[np.ndarray, "..."] | np.floating]:
    """Student's t interval of the mean over the first axis, for each of the others; NaN for a single sample."""
    n, mean = len(samples), np.mean(samples, axis=0)
    half = t.ppf((1 + level) / 2, n - 1) * np.std(samples, axis=0, ddof=1) / n**0.5 if n > 1 else np.nan
    return mean - half, mean + half


def relative_drop(
    original: ArrayLike,
    ablated: ArrayLike,
    seed: int,
    level: float = 0.95,
    resamples: int = 10_000,
    sources: ArrayLike | None = None,
) -> Interval:
    """Interval of ΔP = (P − P_ablated) / P in percent, P a mean over the same items: bootstrap over items (A.2).

    Percentiles over the draws in which P is not 0; there must be a P above 0.
    """
    both = (np.asarray(each, dtype=float) for each in (original, ablated))
    before, after = (np.bincount(_numbered(sources, len(each)), each) for each in both)
    drawn = np.random.default_rng(seed).integers(len(before), size=(resamples, len(before)))
    sums = before[drawn].sum(axis=1)
    drops = 100 * (1 - after[drawn].sum(axis=1)[sums > 0] / sums[sums > 0])
    found = Interval(*map(float, np.quantile(drops, [(1 - level) / 2, (1 + level) / 2])))
    return found if sources is None else _widest(found, relative_drop(original, ablated, seed, level, resamples))


def _widest(one: Interval, other: Interval) -> Interval:
    return Interval(min(one.low, other.low), max(one.high, other.high))


def sign_flips(differences: ArrayLike, seed: int, resamples: int = 10_000, sources: ArrayLike | None = None) -> float:
    """The p value of a mean of 0: how often random signs give a mean as far from it, counting the one found."""
    each = np.asarray(differences, dtype=float)
    gaps = np.bincount(_numbered(sources, len(each)), each)
    sizes, counts = np.unique(np.abs(gaps), return_counts=True)  # so many of each size get a plus
    plus = np.random.default_rng(seed).binomial(counts, 0.5, size=(resamples, len(counts)))
    as_far = np.abs((2 * plus - counts) @ sizes) >= abs(gaps.sum()) - 1e-9
    p = float((as_far.sum() + 1) / (resamples + 1))
    return p if sources is None else max(p, sign_flips(differences, seed, resamples))


def holm(p: ArrayLike) -> Float[np.ndarray, " tests"]:
    """Holm's adjusted p values: rejecting those ≤ α errs in any of the tests with probability at most α."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return adjusted


def bootstrap_difference(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    seed: int,
    items: bool = True,
    benchmarks: bool = True,
    paired: bool = False,
    level: float = 0.95,
    resamples: int = 10_000,
    sources: Sequence[ArrayLike | None] | None = None,
) -> Interval:
    """Percentile interval of the difference of two averages over benchmarks, each a mean over its items.

    `first` and `second` hold the scores of each benchmark's items; the interval is in the scores' unit. `items` and
    `benchmarks` say what is drawn again with replacement; `paired` draws the same items for both. `sources` has those
    of each benchmark, None where every item is its own.
    """
    random, known = np.random.default_rng(seed), sources or [None] * len(first)
    gaps = np.stack(
        [
            _resampled_gap(np.asarray(a), np.asarray(b), source, random, items, paired, resamples)
            for a, b, source in zip(first, second, known, strict=True)
        ]
    )  # (benchmark, resample)
    if benchmarks:
        drawn = random.integers(len(gaps), size=gaps.shape)
        gaps = np.take_along_axis(gaps, drawn, axis=0)
    found = Interval(*map(float, np.quantile(gaps.mean(axis=0), [(1 - level) / 2, (1 + level) / 2])))
    if all(source is None for source in known):
        return found
    how = dict(items=items, benchmarks=benchmarks, paired=paired, level=level, resamples=resamples)
    return _widest(found, bootstrap_difference(first, second, seed, **how))


def mean_or_share(values: ArrayLike, seed: int, level: float = 0.95, sources: ArrayLike | None = None) -> Interval:
    """Interval of the mean over items: Wilson's where every value is 0 or 1, else a bootstrap."""
    found = np.asarray(values, dtype=float)
    if set(np.unique(found)) <= {0.0, 1.0}:
        deff = design_effect(found, sources)
        return wilson(found.sum() / deff, len(found) / deff, level)
    return bootstrap_mean([found], seed, level, sources=[sources])


def bootstrap_mean(
    samples: Sequence[ArrayLike],
    seed: int,
    level: float = 0.95,
    resamples: int = 10_000,
    sources: Sequence[ArrayLike | None] | None = None,
) -> Interval:
    """Percentile interval of an average over benchmarks, each a mean over its items: items are drawn again."""
    zeros = [np.zeros(len(np.asarray(one))) for one in samples]
    how = dict(level=level, resamples=resamples, sources=sources)
    return bootstrap_difference(samples, zeros, seed, benchmarks=False, paired=True, **how)


def _resampled_gap(
    a: np.ndarray,
    b: np.ndarray,
    sources: ArrayLike | None,
    random: np.random.Generator,
    items: bool,
    paired: bool,
    resamples: int,
) -> Float[np.ndarray, " resamples"]:
    """Means of resampled items of one benchmark, first minus second."""
    if not items:
        return np.full(resamples, a.mean() - b.mean())
    if paired:
        return _resampled_means(a - b, sources, random, resamples)
    first, second = (_resampled_means(x, sources, random, resamples) for x in (a, b))
    return first - second


def _resampled_means(
    x: np.ndarray, sources: ArrayLike | None, random: np.random.Generator, resamples: int
) -> Float[np.ndarray, " resamples"]:
    """Means of as many draws of sources with replacement as there are; only how often each sum is drawn matters."""
    source = _numbered(sources, len(x))
    drawn = np.stack([np.bincount(source, x), np.bincount(source)])
    (sums, sizes), counts = np.unique(drawn, axis=1, return_counts=True)
    times = random.multinomial(drawn.shape[1], counts / drawn.shape[1], size=resamples)
    return times @ sums / (times @ sizes)
