import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploykit.backends.onnxruntime import open_graph
from deploykit.errors import InputError
from deploykit.quantize.observe import expose, observe
from deploykit.values import DataRecord, Range

DATA = DataRecord("toys", "calibration", 4, True, False, "0" * 64)


class Recorded:
    """A runner that answers its input and the input's square."""

    inputs = outputs = ()

    def run(self, batch):
        return {"square": batch["x"] ** 2}


# ── Ranges ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_range_is_the_smallest_and_the_largest_value():
    ranges = observe(Recorded(), [{"x": np.array([[-3.0, 1.0], [2.0, 0.5]])}], DATA)
    assert ranges.tensors == {"x": Range(-3, 2), "square": Range(0.25, 9)}


def test_ranges_grow_from_batch_to_batch():
    batches = [{"x": np.array([0.5, 1.0])}, {"x": np.array([-3.0])}, {"x": np.array([2.0])}]
    assert observe(Recorded(), batches, DATA).tensors == {"x": Range(-3, 2), "square": Range(0.25, 9)}


def test_the_data_is_named():
    assert observe(Recorded(), [{"x": np.ones(1)}], DATA).data == DATA


def test_batches_are_read_once_and_one_at_a_time():
    alive = 0

    def batches():
        nonlocal alive
        for _ in range(3):
            alive += 1
            assert alive == 1
            yield {"x": np.ones(1)}
            alive -= 1

    observe(Recorded(), batches(), DATA)


@given(st.lists(arrays.arrays(np.float32, st.integers(1, 5), elements=st.floats(-1e6, 1e6, width=32)), min_size=1))
def test_no_value_lies_outside_and_both_ends_occur(batches):
    seen = observe(Recorded(), [{"x": batch} for batch in batches], DATA).tensors["x"]
    everything = np.concatenate(batches)
    assert (seen.low, seen.high) == (everything.min(), everything.max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "square"])
def test_what_is_no_number_is_refused(bad, name):
    class Broken:
        inputs = outputs = ()

        def run(self, _):
            return {"square": np.array([1.0, bad if name == "square" else 1.0])}

    batch = {"x": np.array([1.0, bad if name == "x" else 1.0])}
    with pytest.raises(InputError, match=f"The tensor {name} holds NaN or infinity on the samples of 'toys'"):
        observe(Broken(), [batch], DATA)


# ── A graph that shows every tensor ─────────────────────────────────────────────────────────────────────────────────

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
    """A graph's file, and that of the exposed one, elsewhere."""
    onnx.save(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(TEXT)), tmp_path / "model.onnx")
    (tmp_path / "elsewhere").mkdir()
    expose(tmp_path / "model.onnx", tmp_path / "elsewhere" / "exposed.onnx")
    return tmp_path / "model.onnx", tmp_path / "elsewhere" / "exposed.onnx"


def test_the_graphs_own_outputs_stay_first(graphs):
    exposed = open_graph(graphs[1])
    assert [spec.name for spec in exposed.outputs][:2] == ["first", "second"]


def test_every_float_tensor_that_a_node_makes_is_shown_once(graphs):
    exposed = open_graph(graphs[1])
    assert sorted(spec.name for spec in exposed.outputs) == ["a", "b", "c", "first", "second", "top"]


def test_outputs_are_what_they_were(graphs):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    plain, exposed = (open_graph(graph).run({"x": x}) for graph in graphs)
    for name, array in plain.items():
        np.testing.assert_array_equal(exposed[name], array)


def test_both_together_give_every_tensors_range(graphs):
    x = np.array([[-1, 2, -3, 4]], np.float32)
    tensors = observe(open_graph(graphs[1]), [{"x": x}], DATA).tensors
    assert tensors["x"] == Range(-3, 4)
    assert tensors["a"] == Range(0, 4)
    assert tensors["c"] == Range(-4, 0)


def test_weights_that_lie_beside_the_graph_come_along(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 20]> g (float[2,64] x) => (float[2,64] y) { y = Mul (x, w) }'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((2, 64), 3, np.float32), "w"))
    ir.save(ir.from_proto(proto), tmp_path / "model.onnx", external_data="model.onnx.data")
    (tmp_path / "elsewhere").mkdir()
    expose(tmp_path / "model.onnx", tmp_path / "elsewhere" / "exposed.onnx")
    runner = open_graph(tmp_path / "elsewhere" / "exposed.onnx")
    assert runner.run({"x": np.ones((2, 64), np.float32)})["y"].max() == 3
