"""The metrics: hand-computed values, identity, invariance to scaling, NaN."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from deploykit.evaluate.parity import metrics

Array = NDArray[np.float32]

REFERENCE = np.array([[1.0, 2.0, -4.0], [0.0, 3.0, 4.0]], np.float32)
CANDIDATE = np.array([[1.0, 2.5, -4.0], [1.0, 3.0, 4.0]], np.float32)

FIGURES = {
    "max_abs": metrics.max_abs,
    "mean_abs": metrics.mean_abs,
    "max_relative": metrics.max_relative,
    "cosine": metrics.cosine,
    "snr_db": metrics.snr_db,
    "kl_of_logits": metrics.kl_of_logits,
    "kl_of_probabilities": metrics.kl_of_probabilities,
    "top1_agreement": metrics.top1_agreement,
    "top5_overlap": metrics.top5_overlap,
}
PERFECT = {
    "max_abs": 0.0,
    "mean_abs": 0.0,
    "max_relative": 0.0,
    "cosine": 1.0,
    "snr_db": None,
    "kl_of_logits": 0.0,
    "kl_of_probabilities": 0.0,
    "top1_agreement": 1.0,
    "top5_overlap": 1.0,
}
WORST = {
    "max_abs": math.inf,
    "mean_abs": math.inf,
    "max_relative": math.inf,
    "cosine": -1.0,
    "snr_db": -math.inf,
    "kl_of_logits": math.inf,
    "kl_of_probabilities": math.inf,
}


def matrices() -> st.SearchStrategy[Array]:
    """N×C float32, without values so small that scaling them leaves float32's range."""
    element = st.integers(-(2**20), 2**20).map(lambda n: n / 256)
    return arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=element)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Array, Array]:
    reference = draw(matrices())
    seed = draw(st.integers(0, 2**32 - 1))
    size = draw(st.sampled_from([1e-4, 1e-1, 10.0]))
    return reference, reference + size * np.random.default_rng(seed).standard_normal(reference.shape).astype(np.float32)


def test_hand_computed_differences() -> None:
    assert metrics.max_abs(REFERENCE, CANDIDATE) == 1.0
    assert metrics.mean_abs(REFERENCE, CANDIDATE) == pytest.approx(1.5 / 6)
    assert metrics.max_relative(REFERENCE, CANDIDATE) == pytest.approx(1 / 4)
    assert metrics.snr_db(REFERENCE, CANDIDATE) == pytest.approx(10 * math.log10(46 / 1.25))


def test_cosine_is_that_of_the_worst_sample() -> None:
    first = (1 + 5 + 16) / math.sqrt(21 * 23.25)
    second = 25 / math.sqrt(25 * 26)
    assert metrics.cosine(REFERENCE, CANDIDATE) == pytest.approx(min(first, second))
    assert metrics.cosine(REFERENCE, -REFERENCE) == -1.0


def test_a_tenth_of_the_signal_is_20_db_and_a_thousandth_60() -> None:
    assert metrics.snr_db(REFERENCE, REFERENCE * np.float32(1.1)) == pytest.approx(20, abs=1e-4)
    assert metrics.snr_db(REFERENCE.astype(np.float64), REFERENCE.astype(np.float64) * 1.001) == pytest.approx(
        60, abs=1e-4
    )


def test_hand_computed_divergence() -> None:
    p, q = np.array([[0.75, 0.25]]), np.array([[0.5, 0.5]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert metrics.kl_of_probabilities(p, q) == pytest.approx(expected)
    assert metrics.kl_of_logits(np.log(p), np.log(q)) == pytest.approx(expected)


def test_a_probability_rounded_to_zero_gives_a_finite_divergence() -> None:
    p = np.array([[1 - 1e-9, 1e-9]])
    assert 0 <= metrics.kl_of_probabilities(p, p.astype(np.float16)) < 1e-6


def test_hand_computed_ranks() -> None:
    reference = np.array([[9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 4, 3]], np.float32)
    candidate = np.array([[8, 9, 7, 6, 5, 4, 3], [9, 8, 7, 1, 2, 4, 3]], np.float32)
    assert metrics.top1_agreement(reference, candidate) == 0.5
    assert metrics.top5_overlap(reference, candidate) == pytest.approx((5 / 5 + 3 / 5) / 2)


def test_with_fewer_than_five_classes_all_count() -> None:
    assert metrics.top5_overlap(REFERENCE, -REFERENCE) == 1.0


def test_accuracy_counts_correct_labels_and_excludes_nan() -> None:
    scores = np.array([[1, 2], [2, 1], [np.nan, 1], [0, 5]], np.float32)
    assert metrics.top1_accuracy(scores, np.array([1, 0, 0, 0])) == 0.5


def test_variation_is_zero_for_a_constant_and_near_one_for_independent_samples() -> None:
    assert metrics.variation(np.ones((4, 10))) == 0.0
    assert metrics.variation(np.zeros((4, 10))) == 0.0
    assert metrics.variation(np.random.default_rng(0).standard_normal((100, 50))) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", FIGURES)
@given(reference=matrices())
def test_identity_is_perfect(name: str, reference: Array) -> None:
    if name == "kl_of_probabilities":
        reference = np.abs(reference) + 1
    figure = FIGURES[name](reference, reference.copy())
    assert figure == (PERFECT[name] if PERFECT[name] is None else pytest.approx(PERFECT[name], abs=1e-12))


@pytest.mark.parametrize("name", ["max_relative", "cosine", "snr_db", "top1_agreement", "top5_overlap"])
@given(pair=pairs(), exponent=st.integers(-20, 20))
def test_scaling_both_changes_nothing(name: str, pair: tuple[Array, Array], exponent: int) -> None:
    reference, candidate = pair
    scale = np.float32(2.0**exponent)  # scaling by a power of two is exact
    figure = FIGURES[name]
    assert figure(scale * reference, scale * candidate) == figure(reference, candidate)


@given(pair=pairs(), scale=st.floats(0.5, 4))
def test_cosine_ignores_the_candidates_scale_and_snr_does_not(pair: tuple[Array, Array], scale: float) -> None:
    reference, candidate = (array.astype(np.float64) for array in pair)
    assert metrics.cosine(reference, scale * candidate) == pytest.approx(metrics.cosine(reference, candidate), abs=1e-9)
    assume(abs(scale - 1) > 0.1 and reference.any())
    snr = metrics.snr_db(reference, scale * reference)
    assert snr == pytest.approx(-20 * math.log10(abs(scale - 1)))


@given(pair=pairs(), shift=st.floats(-100, 100))
def test_divergence_of_logits_ignores_a_common_shift(pair: tuple[Array, Array], shift: float) -> None:
    reference, candidate = (array.astype(np.float64) for array in pair)
    before = metrics.kl_of_logits(reference, candidate)
    assert metrics.kl_of_logits(reference + shift, candidate) == pytest.approx(before, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["max_abs", "mean_abs", "cosine", "top1_agreement", "top5_overlap"])
@given(pair=pairs())
def test_the_symmetric_metrics_do_not_depend_on_the_order_of_sides(name: str, pair: tuple[Array, Array]) -> None:
    figure = FIGURES[name]
    assert figure(*pair) == pytest.approx(figure(*reversed(pair)), abs=1e-12)


@given(pair=pairs())
def test_figures_stay_in_their_ranges(pair: tuple[Array, Array]) -> None:
    assert 0 <= metrics.mean_abs(*pair) <= metrics.max_abs(*pair) * (1 + 1e-12)
    assert -1 <= metrics.cosine(*pair) <= 1
    assert 0 <= metrics.top1_agreement(*pair) <= 1
    assert 0 <= metrics.top5_overlap(*pair) <= 1
    assert metrics.kl_of_logits(*pair) >= 0


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", WORST)
def test_one_bad_element_gives_the_worst_figure(name: str, poison: float) -> None:
    candidate = np.abs(REFERENCE)
    candidate[1, 2] = poison
    assert FIGURES[name](np.abs(REFERENCE), candidate) == WORST[name]


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_nan_sample_never_counts_as_agreement(poison: float) -> None:
    candidate = REFERENCE.copy()
    candidate[1, 0] = poison  # the top class of the sample is unchanged
    assert metrics.top1_agreement(REFERENCE, candidate) == 0.5
    assert metrics.top5_overlap(REFERENCE, candidate) == 0.5


def test_against_an_all_zero_reference_only_zero_passes() -> None:
    zero, other = np.zeros((2, 3)), np.full((2, 3), 1e-30)
    assert metrics.max_relative(zero, zero) == 0.0
    assert metrics.max_relative(zero, other) == math.inf
    assert metrics.cosine(zero, zero) == 1.0
    assert metrics.cosine(zero, other) == 0.0
    assert metrics.snr_db(zero, zero) is None
    assert metrics.snr_db(zero, other) == -math.inf


def test_the_largest_float32_does_not_overflow() -> None:
    largest = np.full((2, 3), np.finfo(np.float32).max)
    assert metrics.snr_db(largest, -largest) == pytest.approx(-20 * math.log10(2))
    assert metrics.cosine(largest, -largest) == -1.0
    assert metrics.kl_of_logits(largest, largest) == 0.0


def test_more_than_two_axes_are_flattened_per_sample() -> None:
    reference = np.arange(1, 13, dtype=np.float32).reshape(2, 3, 2)
    flat = reference.reshape(2, 6)
    candidate = reference[:, ::-1]
    assert metrics.cosine(reference, candidate) == metrics.cosine(flat, candidate.reshape(2, 6))


@pytest.mark.parametrize("name", FIGURES)
def test_arrays_that_cannot_be_compared_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="same shape"):
        FIGURES[name](REFERENCE, REFERENCE[:1])
    with pytest.raises(ValueError, match="same shape"):
        FIGURES[name](REFERENCE[:0], REFERENCE[:0])
    with pytest.raises(ValueError, match="reference contains NaN"):
        FIGURES[name](np.full((1, 2), math.nan), np.ones((1, 2)))
