"""The interval in which another draw of a turned T would lie."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from tuningvec.measures import turned

DRAWS = [1.0, 2.0, 4.0, 5.0]


def compared(draws: list[float], **about: float) -> pd.Series:
    """One measure of T = 10 beside these draws, all on the left."""
    rows = [dict(member="m", what="w", sides="none", draw=0, value=10.0)]
    rows += [dict(member="m", what="w", sides="left", draw=i, value=x) for i, x in enumerate(draws)]
    return turned.against_draws(pd.DataFrame(rows).assign(**about)).iloc[0]


def test_without_items_it_is_the_prediction_interval_of_the_draws() -> None:
    row = compared(DRAWS)
    half = t.ppf(0.975, 3) * np.std(DRAWS, ddof=1) * (1 + 1 / 4) ** 0.5
    assert (row.effect, row.low, row.high) == pytest.approx((7, 7 - half, 7 + half)) and row.no_more == 4


def test_of_draws_that_are_equal_the_items_are_left() -> None:
    row = compared([3.0, 3.0, 3.0], error=0.5, items=32)
    assert row.high - row.effect == pytest.approx(t.ppf(0.975, 31) * 0.5)
    assert compared(DRAWS, error=0.0, items=32).low == pytest.approx(compared(DRAWS).low)
    assert compared([3.0, 3.0, 3.0]).low == 7
