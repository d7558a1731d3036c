import pytest

from tuningvec.stats import wilson


def test_wilson_agrees_with_newcombes_published_examples():
    # Newcombe 1998, Statistics in Medicine 17, Table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
