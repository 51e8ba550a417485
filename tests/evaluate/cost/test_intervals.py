"""Intervals of shares: known values, coverage, and what they do at 0 and 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deploykit.evaluate.cost.intervals import share_interval, student_quantile, wilson_interval


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (0, 16), (8, 16), (15, 16), (16, 16), (433, 500)])
def test_wilson_is_scipys(successes, count):
    expected = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson_interval(successes / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.floats(0, 1), st.floats(0.5, 1e6))
def test_wilson_contains_the_share_and_stays_within_0_and_1(share, count):
    low, high = wilson_interval(share, count)
    assert 0 <= low <= share <= high <= 1


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 15, 499])
def test_the_quantile_of_students_t_is_right_to_a_hundredth(degrees):
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.011)


def test_a_share_is_of_all_wholes_together():
    share, low, high = share_interval(np.array([1, 8]), np.array([10, 10]))
    assert share == 0.45
    assert low < share < high


def test_samples_without_a_whole_do_not_count():
    with_empty = share_interval(np.array([3, 0, 4, 0]), np.array([9, 0, 8, 0]))
    assert with_empty == share_interval(np.array([3, 4]), np.array([9, 8]))


@pytest.mark.parametrize("value", [0, 1])
def test_samples_that_all_agree_are_as_many_observations_as_samples(value):
    pixels = np.full(4, 1_000_000)
    assert share_interval(value * pixels, pixels)[1:] == wilson_interval(value, 4)


def test_pixels_that_agree_within_their_sample_are_one_observation():
    pixels = np.full(40, 10_000)
    _, low, high = share_interval(pixels * (np.arange(40) < 20), pixels)
    assert (low, high) == pytest.approx(wilson_interval(0.5, 40), abs=0.01)


def test_the_interval_covers_the_mean_of_clustered_shares():
    """Samples of 16 beta-distributed IoUs around 0.75: of 2000 intervals 95 % should contain it."""
    draws = np.random.default_rng(0).beta(6, 2, (2000, 16))
    intervals = np.array([share_interval(overlaps, np.ones(16))[1:] for overlaps in draws])
    assert 0.93 <= ((intervals[:, 0] <= 0.75) & (intervals[:, 1] >= 0.75)).mean() <= 0.98
