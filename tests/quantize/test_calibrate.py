import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploykit.backends.onnxruntime import open_graph
from deploykit.core.errors import InputError, InternalError
from deploykit.core.values import DataRecord, Range
from deploykit.quantize.calibrate import add_graph_outputs, calibrate, observe_ranges
from deploykit.quantize.observers import Histogram, compute_threshold

DATA = DataRecord("toys", "calibration", 4, True, False, "0" * 64)


class SquareRunner:
    """A runner that returns its input and its square."""

    inputs = outputs = ()

    def run(self, batch):
        return {"square": batch["x"] ** 2}


# ── Ranges ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_range_is_the_smallest_and_the_largest_value():
    ranges = observe_ranges(SquareRunner(), [{"x": np.array([[-3.0, 1.0], [2.0, 0.5]])}], DATA)
    assert ranges.tensors == {"x": Range(-3, 2), "square": Range(0.25, 9)}


def test_ranges_grow_from_batch_to_batch():
    batches = [{"x": np.array([0.5, 1.0])}, {"x": np.array([-3.0])}, {"x": np.array([2.0])}]
    assert observe_ranges(SquareRunner(), batches, DATA).tensors == {"x": Range(-3, 2), "square": Range(0.25, 9)}


def test_a_tensor_may_be_empty_in_a_batch():
    """A detector's boxes, where it finds none."""
    batches = [{"x": np.ones((0, 4), np.float32)}, {"x": np.array([[-3.0, 2.0]])}]
    assert observe_ranges(SquareRunner(), batches, DATA).tensors == {"x": Range(-3, 2), "square": Range(4, 9)}


def test_ranges_record_their_data():
    assert observe_ranges(SquareRunner(), [{"x": np.ones(1)}], DATA).data == DATA


def test_batches_are_streamed_once():
    alive = 0

    def batches():
        nonlocal alive
        for _ in range(3):
            alive += 1
            assert alive == 1
            yield {"x": np.ones(1)}
            alive -= 1

    observe_ranges(SquareRunner(), batches(), DATA)


@given(st.lists(arrays.arrays(np.float32, st.integers(1, 5), elements=st.floats(-1e6, 1e6, width=32)), min_size=1))
def test_the_range_is_tight(batches):
    observed = observe_ranges(SquareRunner(), [{"x": batch} for batch in batches], DATA).tensors["x"]
    everything = np.concatenate(batches)
    assert (observed.low, observed.high) == (everything.min(), everything.max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "square"])
def test_nan_and_infinity_are_refused(bad, name):
    class Broken:
        inputs = outputs = ()

        def run(self, _):
            return {"square": np.array([1.0, bad if name == "square" else 1.0])}

    batch = {"x": np.array([1.0, bad if name == "x" else 1.0])}
    with pytest.raises(InputError, match=f"The tensor {name} holds NaN or infinity on the samples of 'toys'"):
        observe_ranges(Broken(), [batch], DATA)


# ── Calibration ───────────────────────────────────────────────────────────────────────────────────────────────────────

IMAGES = np.random.default_rng(3).standard_normal((16, 3, 4, 4)).astype(np.float32)
SIXTEEN = DataRecord("toys", "calibration", 16, True, False, "0" * 64)


def batches(array=IMAGES, size=2):
    return [{"x": array[start : start + size]} for start in range(0, len(array), size)]


def calibrated(given=None, quantized=("x", "square"), inputs=(), observer="minmax", data=SIXTEEN):
    return calibrate(SquareRunner(), batches() if given is None else given, data, quantized, inputs, observer)


def test_quantized_tensors_get_thresholds_and_all_tensors_get_ranges():
    tensors = calibrated(quantized=["square"]).ranges.tensors
    assert tensors["x"] == Range(IMAGES.min(), IMAGES.max(), None)
    assert tensors["square"].threshold == (IMAGES**2).max()


@pytest.mark.parametrize("observer", ["entropy", "percentile", "mse", "minmax"])
def test_the_observer_computes_the_threshold(observer):
    histogram = Histogram()
    histogram.add(IMAGES)
    statistics = calibrated(observer=observer)
    assert statistics.observer == observer
    assert statistics.ranges.tensors["x"].threshold == compute_threshold(histogram, observer)


def test_means_of_images_are_per_channel():
    assert calibrated(inputs=["x"]).means == {
        "x": pytest.approx(IMAGES.mean(axis=(0, 2, 3), dtype=np.float64).tolist())
    }


def test_means_of_vectors_are_per_element():
    vectors = IMAGES[:, :, 0, 0].copy()
    expected = vectors.mean(axis=0, dtype=np.float64).tolist()
    assert calibrated(batches(vectors), inputs=["x"]).means == {"x": pytest.approx(expected)}


def test_only_the_tensors_that_layers_read_have_means():
    assert calibrated(inputs=["square"]).means.keys() == {"square"}


def test_convergence_is_recorded_at_an_eighth_a_quarter_and_a_half():
    convergence = calibrated(batches(np.linspace(1, 16, 16, dtype=np.float32)[:, None])).convergence
    assert [step.samples for step in convergence] == [2, 4, 8]
    assert [step.tensor for step in convergence] == ["square"] * 3
    assert [step.worst for step in convergence] == pytest.approx([1 - (samples / 16) ** 2 for samples in (2, 4, 8)])
    assert [step.median for step in convergence] == pytest.approx(
        [((1 - s / 16) + (1 - (s / 16) ** 2)) / 2 for s in (2, 4, 8)]
    )


def test_a_batch_that_passes_several_checkpoints_is_recorded_once():
    assert [step.samples for step in calibrated(batches(size=8)).convergence] == [8]


def test_one_batch_has_no_convergence():
    assert calibrated(batches(size=16)).convergence == ()


@pytest.mark.parametrize("observer", ["entropy", "minmax"])
def test_the_order_of_batches_changes_nothing(observer):
    forward, other = (calibrated(given, inputs=["x"], observer=observer) for given in (batches(), batches()[::-1]))
    assert forward.ranges == other.ranges
    assert other.means["x"] == pytest.approx(forward.means["x"], rel=1e-9)


def test_the_size_of_batches_changes_nothing():
    ranges = [calibrated(batches(size=size), observer="entropy").ranges for size in (1, 3, 16)]
    assert all(one == other for one, other in itertools.pairwise(ranges))


def test_calibration_is_deterministic():
    assert calibrated(inputs=["x"], observer="mse") == calibrated(inputs=["x"], observer="mse")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_calibration_refuses_nan_and_infinity(bad):
    broken = IMAGES.copy()
    broken[5, 1, 2, 3] = bad
    with pytest.raises(InputError, match="The tensor x holds NaN or infinity on the samples of 'toys'"):
        calibrated(batches(broken))


def test_samples_with_only_zero_activations_are_refused():
    with pytest.raises(
        InputError, match=r"2 of 2 tensors .* are all zeros on the 16 samples of 'toys', for example square"
    ):
        calibrated(batches(np.zeros((16, 1), np.float32)))


def test_a_single_dead_tensor_is_accepted():
    class HalfDead:
        inputs = outputs = ()

        def run(self, batch):
            return {"alive": batch["x"] + 9, "dead": 0 * batch["x"]}

    statistics = calibrate(HalfDead(), batches(), SIXTEEN, ["x", "alive", "dead"], [], "entropy")
    assert statistics.ranges.tensors["dead"].threshold == 0


def test_a_tensor_missing_from_the_runners_outputs_is_an_internal_error():
    with pytest.raises(InternalError, match="did not see the tensor unknown") as caught:
        calibrated(quantized=["x", "unknown"])
    assert caught.value.remedy


# ── A graph that shows every tensor ───────────────────────────────────────────────────────────────────────────────────

TEXT = """<ir_version: 8, opset_import: ["" : 20]>
g (float[N,4] x) => (float[N,2] first, float[N,2] second) <int64[1] axis = {1}> {
    a = Relu (x)
    first, b = Split <axis = 1, num_outputs = 2> (a)
    size = Shape (a)
    c = Neg (b)
    top, where = TopK (c, axis)
    second = Mul (c, top)
}"""


@pytest.fixture
def graphs(tmp_path):
    """A graph's file, and that of the extended one in another folder."""
    onnx.save(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(TEXT)), tmp_path / "model.onnx")
    (tmp_path / "elsewhere").mkdir()
    add_graph_outputs(tmp_path / "model.onnx", tmp_path / "elsewhere" / "exposed.onnx")
    return tmp_path / "model.onnx", tmp_path / "elsewhere" / "exposed.onnx"


def test_the_graph_outputs_are_first(graphs):
    exposed = open_graph(graphs[1])
    assert [spec.name for spec in exposed.outputs][:2] == ["first", "second"]


def test_every_float_tensor_of_a_node_becomes_one_output(graphs):
    exposed = open_graph(graphs[1])
    assert sorted(spec.name for spec in exposed.outputs) == ["a", "b", "c", "first", "second", "top"]


def test_existing_outputs_are_unchanged(graphs):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    plain, exposed = (open_graph(graph).run({"x": x}) for graph in graphs)
    for name, array in plain.items():
        np.testing.assert_array_equal(exposed[name], array)


def test_observing_the_extended_graph_returns_every_tensors_range(graphs):
    x = np.array([[-1, 2, -3, 4]], np.float32)
    tensors = observe_ranges(open_graph(graphs[1]), [{"x": x}], DATA).tensors
    assert tensors["x"] == Range(-3, 4)
    assert tensors["a"] == Range(0, 4)
    assert tensors["c"] == Range(-4, 0)


def test_external_weights_are_included(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 20]> g (float[2,64] x) => (float[2,64] y) { y = Mul (x, w) }'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((2, 64), 3, np.float32), "w"))
    ir.save(ir.from_proto(proto), tmp_path / "model.onnx", external_data="model.onnx.data")
    (tmp_path / "elsewhere").mkdir()
    add_graph_outputs(tmp_path / "model.onnx", tmp_path / "elsewhere" / "exposed.onnx")
    runner = open_graph(tmp_path / "elsewhere" / "exposed.onnx")
    assert runner.run({"x": np.ones((2, 64), np.float32)})["y"].max() == 3


def test_only_the_requested_tensors_become_outputs(graphs, tmp_path):
    add_graph_outputs(graphs[0], tmp_path / "some.onnx", ["b", "top"])
    assert [spec.name for spec in open_graph(tmp_path / "some.onnx").outputs] == ["first", "second", "b", "top"]


def test_a_requested_tensor_that_is_an_output_already_is_not_duplicated(graphs, tmp_path):
    add_graph_outputs(graphs[0], tmp_path / "some.onnx", ["x", "first"])
    assert [spec.name for spec in open_graph(tmp_path / "some.onnx").outputs] == ["first", "second"]
