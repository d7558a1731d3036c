"""Intervals, tests and resampling for proportions of items and for averages over benchmarks.

Differences are in percentage points, first minus second; `level` is the confidence level of an interval.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import beta, binomtest, fisher_exact, norm, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    """A difference in points with its interval and the p value of no difference."""

    points: float
    low: float
    high: float
    p: float


def wilson(count: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion of `count` in `n`."""
    return Interval(*map(float, proportion_confint(count, n, alpha=1 - level, method="wilson")))


def exact(count: int, n: int, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval for a proportion of `count` in `n`: covers at least `level`."""
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


def paired_difference(both: int, only_1: int, only_2: int, neither: int, level: float = 0.95) -> Difference:
    """Difference of two proportions on the same items: Newcombe's square-and-add interval, McNemar's exact p.

    Arguments count the items that both got right, that one alone got right, and that neither did.
    Newcombe 1998, Statistics in Medicine 17:2635, method 10: Wilson's limits of each and their correlation.
    """
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
    return Difference(points, points - 100 * down, points + 100 * up, _mcnemar(only_1, only_2))


def paired_contrast(scores: ArrayLike, weights: ArrayLike, level: float = 0.95) -> Difference:
    """Mean over items of a weighted sum of `scores` in [0, 1], a row a model, a column an item; p that it is 0.

    Two items are added, spread evenly over all that models could score, so that a few items that agree leave an
    interval (for two models: Agresti and Min 2005, Statistics in Medicine 24:729); t quantiles.
    """
    values, w = np.atleast_2d(np.asarray(scores, dtype=float)), np.asarray(weights, dtype=float)
    mean, covariance, freedom = _adjusted(values)
    error = float(w @ covariance @ w) ** 0.5
    middle, half = float(w @ mean), float(t.ppf((1 + level) / 2, freedom)) * error
    p = 2 * float(t.sf(abs(middle) / error, freedom))
    return Difference(100 * float(w @ values.mean(axis=1)), 100 * (middle - half), 100 * (middle + half), p)


def paired_ratio(
    above: ArrayLike, below: ArrayLike, level: float = 0.95, minus: ArrayLike | None = None
) -> tuple[float, float, float]:
    """Ratio of two means of scores in [0, 1] over the same items, with Fieller's interval.

    With `minus`, scores of a third, that of above − minus to below − minus. The interval holds each ratio c for which
    `paired_contrast` of above − c · below, less (1 − c) · minus, leaves 0 in. All are NaN where the lower mean, or
    difference, is not clearly above 0.
    """
    values = np.asarray([above, below] if minus is None else [above, below, minus], dtype=float)
    pair = np.eye(2) if minus is None else np.array([[1.0, 0, -1], [0, 1, -1]])
    mean, covariance, freedom = _adjusted(values)
    q = float(t.ppf((1 + level) / 2, freedom)) ** 2
    (a, b), ((aa, ab), (_, bb)) = pair @ mean, pair @ covariance @ pair.T
    square, middle, last = b**2 - q * bb, a * b - q * ab, a**2 - q * aa
    upper, lower = (pair @ values).mean(axis=1)
    if square <= 0 or b <= 0 or lower == 0:
        return np.nan, np.nan, np.nan
    half = max(middle**2 - square * last, 0.0) ** 0.5
    low, high = (middle - half) / square, (middle + half) / square
    return float(upper / lower), float(low) if minus is not None else max(float(low), 0.0), float(high)


def _adjusted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Means of the rows, their covariance and its degrees of freedom, with two items spread over all corners."""
    models, n = values.shape
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=models))).T
    mean = (values.sum(axis=1) + 2 * corners.mean(axis=1)) / (n + 2)
    second = (values @ values.T + 2 * corners @ corners.T / corners.shape[1]) / (n + 2)
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


def least_seen(n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest difference of paired shares, in points, that McNemar's exact test of n items finds with this power.

    At best: where all items that differ do so one way. b of those are needed, 2 / 2ᵇ ≤ α, and n items have as many with
    that probability at the share δ of P(Binomial(n, δ) ≥ b) = power. NaN where even n of them are too few.
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
    original: ArrayLike, ablated: ArrayLike, seed: int, level: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Interval of ΔP = (P − P_ablated) / P in percent, P a mean over the same items: bootstrap over items (A.2).

    Percentiles over the draws in which P is not 0; there must be a P above 0.
    """
    before, after = np.asarray(original, dtype=float), np.asarray(ablated, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(before), size=(resamples, len(before)))
    sums = before[drawn].sum(axis=1)
    drops = 100 * (1 - after[drawn].sum(axis=1)[sums > 0] / sums[sums > 0])
    return Interval(*map(float, np.quantile(drops, [(1 - level) / 2, (1 + level) / 2])))


def sign_flips(differences: ArrayLike, seed: int, resamples: int = 10_000) -> float:
    """The p value of a mean of 0: how often random signs give a mean as far from it, counting the one found."""
    gaps = np.asarray(differences, dtype=float)
    sizes, counts = np.unique(np.abs(gaps), return_counts=True)  # so many of each size get a plus
    plus = np.random.default_rng(seed).binomial(counts, 0.5, size=(resamples, len(counts)))
    as_far = np.abs((2 * plus - counts) @ sizes) >= abs(gaps.sum()) - 1e-9
    return float((as_far.sum() + 1) / (resamples + 1))


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
) -> Interval:
    """Percentile interval of the difference of two averages over benchmarks, each a mean over its items.

    `first` and `second` hold the scores of each benchmark's items; the interval is in the scores' unit. `items` and
    `benchmarks` say what is drawn again with replacement; `paired` draws the same items for both.
    """
    random = np.random.default_rng(seed)
    gaps = np.stack(
        [
            _resampled_gap(np.asarray(a), np.asarray(b), random, items, paired, resamples)
            for a, b in zip(first, second, strict=True)
        ]
    )  # (benchmark, resample)
    if benchmarks:
        drawn = random.integers(len(gaps), size=gaps.shape)
        gaps = np.take_along_axis(gaps, drawn, axis=0)
    low, high = np.quantile(gaps.mean(axis=0), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def mean_or_share(values: ArrayLike, seed: int, level: float = 0.95) -> Interval:
    """Interval of the mean over items: Wilson's where every value is 0 or 1, else a bootstrap."""
    found = np.asarray(values, dtype=float)
    if set(np.unique(found)) <= {0.0, 1.0}:
        return wilson(int(found.sum()), len(found), level)
    return bootstrap_mean([found], seed, level)


def bootstrap_mean(samples: Sequence[ArrayLike], seed: int, level: float = 0.95, resamples: int = 10_000) -> Interval:
    """Percentile interval of an average over benchmarks, each a mean over its items: items are drawn again."""
    zeros = [np.zeros(len(np.asarray(one))) for one in samples]
    return bootstrap_difference(samples, zeros, seed, benchmarks=False, paired=True, level=level, resamples=resamples)


def _resampled_gap(
    a: np.ndarray, b: np.ndarray, random: np.random.Generator, items: bool, paired: bool, resamples: int
) -> Float[np.ndarray, " resamples"]:
    """Means of resampled items of one benchmark, first minus second."""
    if not items:
        return np.full(resamples, a.mean() - b.mean())
    if paired:
        return _resampled_means(a - b, random, resamples)
    return _resampled_means(a, random, resamples) - _resampled_means(b, random, resamples)


def _resampled_means(x: np.ndarray, random: np.random.Generator, resamples: int) -> Float[np.ndarray, " resamples"]:
    """Means of as many draws with replacement as there are items; only how often each value is drawn matters."""
    values, counts = np.unique(x, return_counts=True)
    return random.multinomial(len(x), counts / len(x), size=resamples) @ values / len(x)
