"""Intervals for what is counted."""

from statsmodels.stats.proportion import proportion_confint


def wilson(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion of `count` in `n`."""
    low, high = proportion_confint(count, n, alpha=1 - level, method="wilson")
    return float(low), float(high)
