import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.evaluate.latency.statistics import mean, median_ratio, percentile, standard_deviation

DURATIONS = st.lists(st.integers(1, 10**9), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(0, 1), (50, 50), (90, 90), (95, 95), (99, 99), (99.9, 100), (100, 100)],
)
def test_percentiles_of_one_to_a_hundred(percent: float, expected: int) -> None:
    # ascending[100 − 1 − ⌊(1 − p/100)·100⌋]
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 101)).tolist()
    assert percentile(shuffled, percent) == expected


def test_binary_fractions_do_not_move_a_percentile() -> None:
    # 10·(1 − 0.9) is 0.9999999999999998 in float64, and would be floored to 0.
    assert percentile(list(range(10)), 90) == 8


def test_a_percentile_of_one_duration_is_that_one() -> None:
    assert {percentile([7], percent) for percent in (0, 50, 99.9, 100)} == {7}


@given(durations=DURATIONS, percent=st.floats(0, 100))
def test_a_percentile_is_a_duration_exceeded_by_at_most_its_share(durations: list[int], percent: float) -> None:
    value = percentile(durations, percent)
    assert value in durations
    assert sum(duration > value for duration in durations) <= (1 - percent / 100) * len(durations) + 1e-6


@given(durations=DURATIONS)
def test_percentiles_are_monotonic(durations: list[int]) -> None:
    values = [percentile(durations, percent) for percent in (0, 50, 90, 95, 99, 99.9, 100)]
    assert values == sorted(values)
    assert values[-1] == max(durations)


@pytest.mark.parametrize(("durations", "percent"), [([], 50), ([1], -1), ([1], 101), ([1], math.nan)])
def test_percentiles_that_do_not_exist_are_refused(durations: list[int], percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(durations, percent)


@given(durations=DURATIONS)
def test_moments_are_those_of_the_standard_library(durations: list[int]) -> None:
    assert mean(durations) == pytest.approx(statistics.fmean(durations))
    assert standard_deviation(durations) == pytest.approx(statistics.pstdev(durations), abs=1e-6)


def noisy_durations(median: float, count: int, seed: int) -> list[int]:
    return [int(duration) for duration in median * np.random.default_rng(seed).lognormal(0, 0.1, count)]


def test_a_known_ratio_is_estimated_and_inside_its_interval() -> None:
    interval = median_ratio(noisy_durations(1.2e6, 400, seed=1), noisy_durations(1e6, 400, seed=2))
    assert interval.low <= interval.estimate <= interval.high
    assert interval.low < 1.2 < interval.high
    assert interval.low > 1
    assert interval.high - interval.low < 0.06


def test_the_interval_covers_the_truth_about_19_times_of_20() -> None:
    trials = 100
    covered = 0
    for trial in range(trials):
        interval = median_ratio(
            noisy_durations(1e6, 40, seed=2 * trial), noisy_durations(1e6, 40, seed=2 * trial + 1), seed=trial
        )
        covered += interval.low <= 1 <= interval.high
    assert covered >= 0.88 * trials


def test_a_machine_that_slows_down_does_not_change_the_ratio() -> None:
    drift = np.linspace(1, 5, 200)
    fast, slow = (np.array(noisy_durations(median, 200, seed)) * drift for median, seed in [(1e6, 5), (2e6, 6)])
    interval = median_ratio(slow.astype(int).tolist(), fast.astype(int).tolist())
    assert interval.low < 2 < interval.high
    assert interval.high - interval.low < 0.15


def test_the_same_seed_gives_the_same_interval() -> None:
    one, two = noisy_durations(1e6, 50, 1), noisy_durations(1e6, 50, 2)
    assert median_ratio(one, two) == median_ratio(one, two)


def test_the_ratio_of_a_candidate_to_itself_is_one() -> None:
    durations = noisy_durations(1e6, 20, 1)
    interval = median_ratio(durations, durations)
    assert (interval.low, interval.estimate, interval.high) == (1.0, 1.0, 1.0)


def test_pairs_without_an_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="pair up"):
        median_ratio([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="at least 6 rounds, not 5"):
        median_ratio([1] * 5, [1] * 5)
