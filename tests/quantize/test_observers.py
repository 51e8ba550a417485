import contextlib
import io
import math
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, calibrate

from deploykit.quantize import observers
from deploykit.quantize.observers import BINS, THRESHOLDS, Histogram, compute_threshold

FLOAT32_MAX = float(np.finfo(np.float32).max)
TOP = np.nextafter(np.float32(8), np.float32(0))
"""The largest value below a power of two: with it, all bins of ours are in use and end where onnxruntime's end."""

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MODERATE = st.one_of(st.just(0.0), st.floats(2**-60, 2**60, width=32), st.floats(-(2**60), -(2**-60), width=32))
BATCHES = st.lists(arrays.arrays(np.float32, st.integers(1, 40), elements=FINITE), min_size=1, max_size=5)


def histogram_of(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.add(np.asarray(batch))
    return histogram


def histogram_state(histogram):
    """The state of a histogram, for bitwise comparison."""
    return histogram.counts.tolist(), histogram.width, histogram.zeros, histogram.low, histogram.high


# ── One pass over the values ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_histogram_counts_magnitudes_in_bins_of_its_width():
    histogram = histogram_of([-3.0, 0.0, 1.5, 3.0, BINS - 1.0])
    assert histogram.width == 1
    assert np.flatnonzero(histogram.counts).tolist() == [0, 1, 3, BINS - 1]
    assert histogram.counts[3] == 2


def test_extremes_are_exact_and_signed():
    histogram = histogram_of([0.1, -0.3], [0.2])
    assert (histogram.low, histogram.high, histogram.largest) == (-0.3, 0.2, 0.3)


def test_exact_zeros_are_counted_whatever_their_sign():
    assert histogram_of([0.0, -0.0, 1e-30, 5.0]).zeros == 2


def test_a_value_too_small_for_its_bin_does_not_count_as_zero():
    assert histogram_of(np.array([1e-45, FLOAT32_MAX], np.float32)).zeros == 0


def test_a_larger_value_doubles_the_width_until_it_fits():
    histogram = histogram_of([1.0, BINS - 1.0])
    histogram.add(np.array([4.0 * BINS - 1]))
    assert histogram.width == 4
    assert np.flatnonzero(histogram.counts).tolist() == [0, BINS // 4 - 1, BINS - 1]


def test_leading_zeros_do_not_fix_the_bin_width():
    assert histogram_state(histogram_of(np.zeros(3), [1e-3])) == histogram_state(histogram_of([1e-3], np.zeros(3)))


def test_a_power_of_two_is_in_the_lower_half():
    assert np.flatnonzero(histogram_of([8.0]).counts).tolist() == [BINS // 2]


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1.0, 65504.0, FLOAT32_MAX, -FLOAT32_MAX])
def test_every_float_falls_into_the_right_bin(value):
    histogram = histogram_of(np.array([value], np.float32))
    (index,) = np.flatnonzero(histogram.counts)
    assert index * histogram.width <= histogram.largest < (index + 1) * histogram.width


def test_subnormal_and_huge_values_share_a_histogram():
    assert histogram_of(np.array([1e-45], np.float32), np.array([FLOAT32_MAX], np.float32)).count == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int8, np.int32])
def test_the_dtype_does_not_change_the_counts(dtype):
    values = np.array([-128, 0, 3, 127]) if dtype != np.uint8 else np.array([0, 3, 255])
    assert histogram_state(histogram_of(values.astype(dtype))) == histogram_state(
        histogram_of(values.astype(np.float32))
    )


def test_the_memory_layout_does_not_change_the_counts():
    array = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    assert histogram_state(histogram_of(array.transpose(2, 0, 1)[::-1])) == histogram_state(histogram_of(array))


def test_arrays_longer_than_a_chunk_are_counted_completely():
    array = np.random.default_rng(0).standard_normal(3 * observers.CHUNK + 5).astype(np.float32)
    assert histogram_state(histogram_of(array)) == histogram_state(histogram_of(*np.array_split(array, 7)))


def test_counts_exceed_32_bits():
    histogram = histogram_of(np.ones(2, np.float32))
    histogram.counts *= 2**31
    histogram.add(np.ones(2, np.float32))
    assert histogram.count == 2**32 + 2


def test_an_empty_array_changes_nothing():
    assert histogram_state(histogram_of(np.zeros((0, 3)))) == histogram_state(Histogram())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_and_not_counted(bad):
    histogram = histogram_of([1.0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        histogram.add(np.array([2.0, bad, 3.0]))
    assert histogram_state(histogram) == histogram_state(histogram_of([1.0]))


@given(BATCHES)
def test_widening_loses_no_count(batches):
    assert histogram_of(*batches).count == sum(batch.size for batch in batches)


@given(BATCHES)
def test_counts_equal_those_at_the_final_width(batches):
    histogram = histogram_of(*batches)
    bins = np.floor(np.abs(np.concatenate(batches).astype(np.float64)) / histogram.width).astype(int)
    assert histogram.counts.tolist() == np.bincount(bins, minlength=BINS).tolist()


@given(BATCHES, st.randoms())
def test_order_does_not_matter(batches, random):
    shuffled = list(np.concatenate(batches))
    random.shuffle(shuffled)
    assert histogram_state(histogram_of(np.array(shuffled))) == histogram_state(histogram_of(*batches))


@given(BATCHES, st.data())
def test_the_split_into_arrays_does_not_matter(batches, data):
    whole = np.concatenate(batches)
    cut = data.draw(st.integers(0, whole.size))
    assert histogram_state(histogram_of(whole[:cut], whole[cut:])) == histogram_state(histogram_of(whole))


# Thresholds


@pytest.mark.parametrize("observer", THRESHOLDS)
@pytest.mark.parametrize("batches", [[], [np.zeros(9)]])
def test_all_zeros_have_threshold_zero(observer, batches):
    assert compute_threshold(histogram_of(*batches), observer) == 0


@pytest.mark.parametrize("observer", THRESHOLDS)
@pytest.mark.parametrize("value", [1e-45, 1e-30, 0.3, -5.0, FLOAT32_MAX])
def test_a_single_magnitude_is_its_own_threshold_to_a_bin(observer, value):
    histogram = histogram_of(np.array([value] * 3, np.float32))
    assert histogram.largest - histogram.width <= compute_threshold(histogram, observer) <= histogram.largest


@pytest.mark.parametrize("observer", THRESHOLDS)
@given(batches=BATCHES)
@settings(max_examples=30, deadline=None)
def test_thresholds_are_positive_and_at_most_the_largest_magnitude(observer, batches):
    histogram = histogram_of(*batches)
    assume(histogram.largest > 0)
    assert 0 < compute_threshold(histogram, observer) <= histogram.largest


@pytest.mark.parametrize("observer", THRESHOLDS)
@given(values=arrays.arrays(np.float32, st.integers(1, 40), elements=MODERATE), doublings=st.integers(-20, 20))
@settings(max_examples=30, deadline=None)
def test_thresholds_scale_with_the_values(observer, values, doublings):
    factor = np.float32(2.0**doublings)
    assert compute_threshold(histogram_of(values * factor), observer) == compute_threshold(
        histogram_of(values), observer
    ) * float(factor)


@pytest.mark.parametrize("observer", ["entropy", "mse"])
def test_exact_zeros_do_not_move_the_threshold(observer):
    values = samples("gaussian")
    assert compute_threshold(histogram_of(values, np.zeros(10 * values.size)), observer) == compute_threshold(
        histogram_of(values), observer
    )


@given(BATCHES, st.floats(0.01, 100), st.floats(0.01, 100))
def test_percentiles_are_monotone(batches, a, b):
    histogram = histogram_of(*batches)
    assert observers.percentile_threshold(histogram, min(a, b)) <= observers.percentile_threshold(histogram, max(a, b))


@given(BATCHES, st.floats(0.01, 100))
def test_a_percentile_covers_its_share_of_the_values(batches, percent):
    histogram = histogram_of(*batches)
    inside = np.abs(np.concatenate(batches)) <= observers.percentile_threshold(histogram, percent)
    assert inside.mean() >= percent / 100 * (1 - 1e-12)


def test_the_hundredth_percentile_is_the_maximum():
    assert observers.percentile_threshold(histogram_of([1.0, 2.0, 7.7]), 100) == 7.7


@pytest.mark.parametrize("percent", [0, -1, 100.1, math.nan])
def test_an_invalid_percentile_is_refused(percent):
    with pytest.raises(ValueError, match="above 0 and at most 100"):
        observers.percentile_threshold(histogram_of([1.0]), percent)


@pytest.mark.parametrize("observer", THRESHOLDS)
@given(values=arrays.arrays(np.float32, st.integers(1, 200), elements=MODERATE))
@settings(max_examples=30, deadline=None)
def test_values_inside_the_range_are_off_by_half_a_step_at_most(observer, values):
    assume(np.any(values))
    clip = compute_threshold(histogram_of(values), observer)
    inside = values[np.abs(values) <= clip].astype(np.float64)
    assert np.all(np.abs(inside - quantized(inside, clip)) <= clip / 127 / 2 * (1 + 1e-9))


# ── Mean squared error against real quantization ──────────────────────────────────────────────────────────────────────


def quantized(values, clip):
    """To symmetric INT8 and back."""
    scale = clip / 127
    return np.clip(np.rint(values / scale), -127, 127) * scale


@pytest.mark.parametrize("end", [300, 4000, 5000, 8192])
def test_the_predicted_error_is_that_of_quantizing(end):
    counts = np.bincount((np.abs(samples("laplace")) * 1024).astype(int), minlength=BINS)
    spread = (np.repeat(np.arange(BINS), counts)[:, None] + (np.arange(32) + 0.5) / 32).ravel()
    actual = np.sum((spread - quantized(spread, end)) ** 2) / 32
    assert observers.squared_errors(counts, np.array([end]))[0] == pytest.approx(actual, rel=2e-3)


@pytest.mark.parametrize("kind", ["relu", "gaussian", "laplace", "student", "bimodal"])
def test_no_other_threshold_quantizes_noticeably_better(kind):
    values = samples(kind).astype(np.float64)
    ours = np.mean((values - quantized(values, compute_threshold(histogram_of(values), "mse"))) ** 2)
    best = min(np.mean((values - quantized(values, clip)) ** 2) for clip in np.linspace(0.05, 8, 400))
    assert ours <= best * 1.01


# ── Entropy against its definition ────────────────────────────────────────────────────────────────────────────────────


def divergence(counts, end, levels):
    """KL of clipping after `end` bins, as defined in the docstring of `divergences`, step by step."""
    p, q = counts[:end].astype(float), np.zeros(end)
    p[-1] += counts[end:].sum()
    bounds = [run * end // levels for run in range(levels + 1)]
    for low, high in pairwise(bounds):
        occupied = p[low:high] > 0
        q[low:high][occupied] = counts[low:high].sum() / max(occupied.sum(), 1)
    if q.sum() == 0 or np.any((p > 0) & (q == 0)):
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@given(arrays.arrays(np.int64, st.integers(8, 60), elements=st.sampled_from([0, 0, 1, 2, 7, 100])))
def test_running_sums_give_the_divergence_of_the_definition(counts):
    counts[-1] += 1
    expected = [divergence(counts, end, 8) for end in range(8, counts.size + 1)]
    np.testing.assert_allclose(observers.kl_divergences(counts, 8), expected, rtol=1e-9, atol=1e-12)


def test_a_far_outlier_is_clipped():
    values = samples("gaussian")
    assert compute_threshold(histogram_of(values * 0.5, [TOP]), "entropy") < 4


# ── Against onnxruntime ───────────────────────────────────────────────────────────────────────────────────────────────


def samples(kind):
    """30,000 values of that distribution, 8 or less, zero and `TOP` among them."""
    rng = np.random.default_rng(7)
    values = {
        "relu": lambda: np.maximum(rng.standard_normal(30_000), 0),
        "gaussian": lambda: rng.standard_normal(30_000),
        "laplace": lambda: rng.laplace(size=30_000),
        "student": lambda: rng.standard_t(4, 30_000) / 2,
        "bimodal": lambda: np.concatenate([rng.normal(1, 0.2, 20_000), rng.normal(-5, 0.5, 10_000)]),
    }[kind]()
    return np.append(np.clip(values.astype(np.float32), -TOP, TOP), [np.float32(0), TOP])


KINDS = pytest.mark.parametrize("kind", ["relu", "gaussian", "laplace", "student", "bimodal"])


@KINDS
def test_minmax_is_that_of_onnxruntime(kind, tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 20]> g (float[N] x) => (float[N] y) { y = Neg (x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    batches = np.array_split(samples(kind), 3)

    class Reader(CalibrationDataReader):
        left = iter([{"x": batch} for batch in batches])

        def get_next(self):
            return next(self.left, None)

    calibrator = calibrate.create_calibrator(
        tmp_path / "model.onnx",
        None,
        str(tmp_path / "augmented.onnx"),
        CalibrationMethod.MinMax,
        extra_options={"symmetric": True},
    )
    calibrator.collect_data(Reader())
    assert compute_threshold(histogram_of(*batches), "minmax") == calibrator.compute_data()["x"].range_value[1].item()


@KINDS
@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9, 99.99])
def test_percentiles_are_within_the_bin_of_onnxruntime_or_at_its_upper_edge(kind, percent):
    """Its 2048 bins of |x| are coarser: each is four of ours, and it returns the lower edge, in float32."""
    values = samples(kind)
    collector = calibrate.HistogramCollector("percentile", True, 2048, 128, percent, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": values})
        theirs = float(collector.compute_collection_result()["x"][1])
    ours = observers.percentile_threshold(histogram_of(values), percent)
    assert -1e-5 < ours - theirs <= 8 / 2048 + 1e-5


@KINDS
def test_entropys_divergences_are_those_of_onnxruntime(kind, monkeypatch):
    """For every end that is a multiple of the levels: there, both use the same equal runs.

    Our one-sided counts are the left half of its two-sided histogram. It spreads Q over empty bins and truncates it to
    integers, so the test fills every bin with large counts."""
    levels, recorded = 16, []
    counts = histogram_of(samples(kind)).counts.reshape(512, -1).sum(axis=1) * 1_000_000 + 1_000
    original = calibrate.entropy
    monkeypatch.setattr(calibrate, "entropy", lambda p, q: recorded.append(float(original(p, q))) or recorded[-1])
    edges = np.linspace(-8, 8, 1025, dtype=np.float32)
    mirrored = np.concatenate([counts[::-1], np.zeros(512, np.int64)])
    collector = calibrate.HistogramCollector("entropy", True, 1024, 2 * levels, None, "same")
    collector.get_entropy_threshold((mirrored, edges, edges[0], edges[-1]), 2 * levels)

    ours, theirs = (np.array(found)[::levels] for found in (observers.kl_divergences(counts, levels), recorded))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    assert np.argmin(ours) == np.argmin(theirs)
