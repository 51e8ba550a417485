import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploykit.backends.onnxruntime import open_graph
from deploykit.core.errors import InputError
from deploykit.core.files import find_damage
from deploykit.core.values import DataRecord, Fp32Node, PrecisionGraphRecord, Range, Ranges
from deploykit.quantize import batchnorm_affine
from deploykit.quantize.calibrate import add_graph_outputs, observe_ranges
from deploykit.quantize.cast import write_cast_graph
from deploykit.quantize.formats import HALF as FLOAT16

DATA = DataRecord("toys", "calibration", 2, True, False, "0" * 64)
HEADER = '<ir_version: 8, opset_import: ["" : 20, "com.microsoft" : 1]>\n'

HALF = 2.0**-9
"""Of full scale. Rounding to float16 costs each weight and each activation at most 2⁻¹¹ of itself; a few layers add
up, and errors of random sign cancel more than they add."""


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


X = random(2, 3, 8, 8, seed=9)


class CastResult(NamedTuple):
    record: PrecisionGraphRecord
    model: ir.Model
    error: dict[str, float]
    """By output: the largest difference from the FP32 graph, as a share of that one's full scale."""


@pytest.fixture
def cast_graph(tmp_path):
    """Write a graph's text, observe it on the inputs, cast it, check the file, run both.

    `ranges` replaces observed ranges: another Range, or None for an unobserved tensor.
    """

    def make(text: str, x: np.ndarray = X, ranges=None, **weights: np.ndarray) -> CastResult:
        source, half = tmp_path / "model.onnx", tmp_path / "half" / "model.onnx"
        write(source, text, weights)
        observed_ranges = {**observe(source, x), **(ranges or {})}
        present = {name: value_range for name, value_range in observed_ranges.items() if value_range is not None}
        record = write_cast_graph(source, Ranges(present, DATA), half.parent)
        onnx.checker.check_model(half, full_check=True)
        exact, rounded = (open_graph(path).run({"x": x}) for path in (source, half))
        assert {name: array.dtype for name, array in rounded.items()} == {n: a.dtype for n, a in exact.items()}
        error = {n: float(np.abs(rounded[n] - exact[n]).max() / (np.abs(exact[n]).max() or 1)) for n in exact}
        return CastResult(record, ir.load(half), error)

    return make


def write(path: Path, text: str, weights: dict[str, np.ndarray]) -> None:
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(onnx.shape_inference.infer_shapes(proto, data_prop=True), path)


def observe(source: Path, x: np.ndarray) -> dict[str, Range]:
    add_graph_outputs(source, source.with_name("exposed.onnx"))
    return dict(observe_ranges(open_graph(source.with_name("exposed.onnx")), [{"x": x}], DATA).tensors)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def fp32_names(result: CastResult) -> list[str]:
    return [node.node for node in result.record.fp32_nodes]


def dtypes(model: ir.Model) -> dict[str | None, str]:
    """The types of all node outputs."""
    return {output.name: str(output.dtype) for node in model.graph for output in node.outputs}


def constant(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def initializer_dtypes(model: ir.Model) -> dict[str, str]:
    return {name: constant(value).dtype.name for name, value in model.graph.initializers.items()}


# ── Everything in FP16 ────────────────────────────────────────────────────────────────────────────────────────────────

NET = """g (float[N,3,8,8] x) => (float[N,5] logits) {
    [conv1] a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    [relu] b = Relu (a)
    [conv2] c = Conv <pads = [1,1,1,1]> (b, w2)
    [add] d = Add (b, c)
    [pool] e = GlobalAveragePool (d)
    [flat] f = Flatten (e)
    [fc] logits = Gemm <transB = 1> (f, w3, b3)
}"""
NET_WEIGHTS = {
    "w1": random(8, 3, 3, 3) / 5,
    "b1": random(8),
    "w2": random(8, 8, 3, 3) / 8,
    "w3": random(5, 8) / 3,
    "b3": random(5),
}


@pytest.fixture
def net(cast_graph):
    return cast_graph(NET, **NET_WEIGHTS)


def test_every_node_computes_in_fp16(net):
    assert net.record.fp32_nodes == ()
    names = ["conv1", "relu", "conv2", "add", "pool", "flat", "fc"]
    types = {node.name: node.outputs[0].dtype.name for node in net.model.graph if node.op_type != "Cast"}
    assert types == dict.fromkeys(names, "FLOAT16")


def test_every_weight_is_rounded_to_fp16(net):
    assert set(initializer_dtypes(net.model).values()) == {"FLOAT16"}
    assert len(net.model.graph.initializers) == len(NET_WEIGHTS)


def test_weights_are_rounded_to_nearest(net):
    half = next(node for node in net.model.graph if node.name == "conv1").inputs[1].const_value.numpy()
    np.testing.assert_array_equal(half, NET_WEIGHTS["w1"].astype(np.float16))


def test_inputs_and_outputs_retain_names_types_and_shapes(net):
    ends = [*net.model.graph.inputs, *net.model.graph.outputs]
    assert [(end.name, end.dtype.name) for end in ends] == [("x", "FLOAT"), ("logits", "FLOAT")]
    assert [str(end.shape) for end in ends] == ["[N,3,8,8]", "[N,5]"]


def test_casts_are_only_at_the_inputs_and_outputs(net):
    assert Counter(operators(net.model))["Cast"] == net.record.cast_nodes == 2
    assert operators(net.model)[0] == operators(net.model)[-1] == "Cast"


def test_the_fp16_graph_agrees_with_fp32(net):
    assert net.error["logits"] < HALF


def test_names_are_unique(net):
    names = [node.name for node in net.model.graph]
    assert len(set(names)) == len(names)


def test_the_record_describes_the_file(net, tmp_path):
    assert net.record.precision == "fp16"
    assert [find_damage(tmp_path / "half", file) for file in net.record.files] == [None]


def test_the_source_file_is_unchanged(net, tmp_path):
    assert net.record.cast_nodes
    assert set(initializer_dtypes(ir.load(tmp_path / "model.onnx")).values()) == {"FLOAT"}


def test_conversion_is_deterministic(cast_graph, tmp_path):
    cast_graph(NET, **NET_WEIGHTS)
    first = (tmp_path / "half" / "model.onnx").read_bytes()
    cast_graph(NET, **NET_WEIGHTS)
    assert (tmp_path / "half" / "model.onnx").read_bytes() == first


# ── Borders ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CHAIN = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
    [first] a = Relu (x)
    [second] b = Neg (a)
    [third] c = Sigmoid (b)
    [fourth] y = Tanh (c)
}"""


def test_a_node_with_an_output_beyond_the_range_stays_fp32_with_its_reader(cast_graph):
    result = cast_graph(CHAIN, ranges={"b": Range(-70000.0, 1.0)})
    reason = "b reached -7e+04, beyond ±65504"
    assert result.record.fp32_nodes == (Fp32Node("second", "Neg", reason), Fp32Node("third", "Sigmoid", reason))
    assert dtypes(result.model) == {
        "x/half": "FLOAT16",
        "a": "FLOAT16",
        "a/float": "FLOAT",
        "b": "FLOAT",
        "c": "FLOAT",
        "c/half": "FLOAT16",
        "y/half": "FLOAT16",
        "y": "FLOAT",
    }


@pytest.mark.parametrize("extreme", [FLOAT16.largest, -FLOAT16.largest])
def test_the_largest_fp16_number_is_within_the_range(cast_graph, extreme):
    assert cast_graph(CHAIN, ranges={"b": Range(min(extreme, 0), max(extreme, 0))}).record.fp32_nodes == ()


@pytest.mark.parametrize("extreme", [65505.0, -65505.0, 1e30])
def test_a_value_above_the_largest_fp16_number_is_out_of_range(cast_graph, extreme):
    result = cast_graph(CHAIN, ranges={"b": Range(min(extreme, 0), max(extreme, 0))})
    assert fp32_names(result) == ["second", "third"]


def test_an_input_beyond_the_range_keeps_its_reader_fp32(cast_graph):
    result = cast_graph(CHAIN, ranges={"x": Range(0, 1e6)})
    assert result.record.fp32_nodes == (Fp32Node("first", "Relu", "x reached 1e+06, beyond ±65504"),)
    assert "x/half" not in dtypes(result.model)


def test_an_unobserved_tensor_keeps_its_nodes_fp32(cast_graph):
    result = cast_graph(CHAIN, ranges={"b": None})
    assert [node.reason for node in result.record.fp32_nodes] == ["b was not observed on samples"] * 2
    assert fp32_names(result) == ["second", "third"]


def test_readers_of_one_type_share_a_cast(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        [a] a = Relu (x)
        [b] b = Neg (x)
        [c] c = Abs (x)
        [ab] ab = Add (a, b)
        [y] y = Add (ab, c)
    }"""
    result = cast_graph(text)
    assert [node.inputs[0].name for node in result.model.graph if node.op_type == "Cast"] == ["x", "y/half"]


def test_fp32_readers_share_one_cast_too(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        [a] a = Relu (x)
        [b] b = Mul (a, big)
        [c] c = Div (a, big)
        [y] y = Mul (b, c)
    }"""
    result = cast_graph(text, big=np.float32(1e5))
    assert fp32_names(result) == ["b", "c", "y"]
    assert [node.name for node in result.model.graph if node.op_type == "Cast"] == ["x/half", "a/float"]


def test_a_tensor_may_be_read_and_be_an_output(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z) {
        [first] y = Relu (x)
        [second] z = Neg (y)
    }"""
    result = cast_graph(text)
    second = next(node for node in result.model.graph if node.name == "second")
    assert second.inputs[0].dtype == ir.DataType.FLOAT16
    assert [output.name for output in result.model.graph.outputs] == ["y", "z"]
    assert max(result.error.values()) < HALF


def test_an_output_that_an_fp32_node_reads_is_cast_once(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z) {
        [first] y = Relu (x)
        [second] z = Mul (y, big)
    }"""
    result = cast_graph(text, big=np.float32(1e5))
    assert fp32_names(result) == ["second"]
    assert Counter(operators(result.model))["Cast"] == 2
    assert next(node for node in result.model.graph if node.name == "second").inputs[0].name == "y"


def test_a_node_with_two_graph_outputs_retains_both_names(cast_graph):
    text = """g (float[N,4] x) => (float[N,2] y, float[N,2] z) {
        [split] y, z = Split <axis = 1, num_outputs = 2> (x)
    }"""
    result = cast_graph(text, random(2, 4))
    assert [output.name for output in result.model.graph.outputs] == ["y", "z"]


def test_nodes_need_no_names(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        a = Relu (x)
        b = Mul (a, big)
        c = Div (b, big)
        y = Neg (c)
    }"""
    result = cast_graph(text, big=np.float32(1e5))
    assert [(node.node, node.op_type) for node in result.record.fp32_nodes] == [("", "Mul"), ("", "Div")]


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SCALED = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { [mul] a = Mul (x, w)  [neg] y = Neg (a) }"


def cast_with_weights(cast_graph, *values: float):
    return cast_graph(
        SCALED, w=np.array(values, np.float32).reshape(3, 1, 1), ranges={"a": Range(-9, 9), "y": Range(-9, 9)}
    )


def test_a_weight_beyond_the_range_keeps_its_node_fp32(cast_graph):
    result = cast_with_weights(cast_graph, 1, 2, 1e5)
    assert result.record.fp32_nodes == (Fp32Node("mul", "Mul", "w holds 1e+05, beyond ±65504"),)
    assert initializer_dtypes(result.model) == {"w": "FLOAT"}


def test_a_bias_too_small_for_fp16_beside_larger_outputs_is_rounded(cast_graph):
    """EfficientNet's folded BatchNorms leave such biases: rounded to zero, they change nothing."""
    text = "g (float[N,3,8,8] x) => (float[N,4,8,8] y) { y = Conv (x, w, b) }"
    result = cast_graph(text, w=random(4, 3, 1, 1), b=random(4) * np.float32(1e-8))
    assert result.record.fp32_nodes == ()


def test_a_bias_too_small_for_fp16_that_its_output_shows_keeps_the_layer_fp32(cast_graph):
    text = "g (float[N,3,8,8] x) => (float[N,4,8,8] y) { [conv] a = Conv (x, w, b) y = Mul (a, k) }"
    weights = {"w": np.full((4, 3, 1, 1), 2.0**-20, np.float32), "b": np.full(4, 1e-5, np.float32), "k": random(1)}
    assert fp32_names(cast_graph(text, **weights)) == ["conv"]


@pytest.mark.parametrize("values", [(1e-9, 2e-9, 3e-9), (1e-7, 1e-7, 1e-7), (3.3e-6, 2.2e-6, 0.0)])
def test_weights_too_small_for_fp16_keep_their_node_fp32(cast_graph, values):
    result = cast_with_weights(cast_graph, *values)
    assert fp32_names(result) == ["mul"]
    assert result.record.fp32_nodes[0].reason.startswith("w is too small for float16: rounding it would change it by ")


@pytest.mark.parametrize("values", [(0, 0, 0), (1, 1e-9, 0), (65504, -65504, 1), (6.2e-5, -6.2e-5, 1e-4)])
def test_weights_representable_in_fp16_are_cast(cast_graph, values):
    assert cast_with_weights(cast_graph, *values).record.fp32_nodes == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_weights_keep_their_node_fp32(bad, tmp_path):
    write(tmp_path / "model.onnx", SCALED, {"w": np.array([1, 2, bad], np.float32).reshape(3, 1, 1)})
    ranges = Ranges(dict.fromkeys(("x", "a", "y"), Range(-1, 1)), DATA)
    record = write_cast_graph(tmp_path / "model.onnx", ranges, tmp_path)
    assert [node.node for node in record.fp32_nodes] == ["mul"]


def test_a_weight_read_in_both_types_is_stored_in_both(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z) {
        [half] y = Mul (x, w)
        [full] a = Add (x, w)
        [too] z = Mul (a, big)
    }"""
    result = cast_graph(text, w=random(3, 1, 1), big=np.float32(1e5), ranges={"a": Range(0, 1e6)})
    assert fp32_names(result) == ["full", "too"]
    assert initializer_dtypes(result.model) == {"w": "FLOAT", "w/float16": "FLOAT16", "big": "FLOAT"}


def test_a_weight_that_two_fp16_nodes_read_is_rounded_once(cast_graph):
    text = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { a = Mul (x, w)  y = Add (a, w) }"
    assert list(initializer_dtypes(cast_graph(text, w=random(3, 1, 1)).model).values()) == ["FLOAT16"]


def cast_weights(weights: np.ndarray) -> tuple[PrecisionGraphRecord, np.ndarray]:
    """A product with these weights, cast; the record, and the weights in the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = len(weights)
        text = f"g (float[{count}] x) => (float[{count}] y) {{ [mul] a = Mul (x, w)  [neg] y = Neg (a) }}"
        write(folder / "model.onnx", text, {"w": weights})
        record = write_cast_graph(
            folder / "model.onnx", Ranges(dict.fromkeys("xay", Range(-1, 1)), DATA), folder / "half"
        )
        (held,) = ir.load(folder / "half" / "model.onnx").graph.initializers.values()
        return record, constant(held).numpy()


NORMAL = st.floats(2**-14, FLOAT16.largest, width=32).flatmap(lambda value: st.sampled_from([value, -value]))


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 8), elements=NORMAL))
def test_normal_numbers_are_rounded_to_nearest(weights):
    record, held = cast_weights(weights)
    assert record.fp32_nodes == ()
    assert held.dtype == np.float16
    assert (np.abs(held.astype(np.float64) - weights) <= 2.0**-11 * np.abs(weights.astype(np.float64))).all()


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 8), elements=st.floats(-1e5, 1e5, width=32)))
def test_weights_are_cast_within_the_tolerance_or_stay_fp32(weights):
    record, held = cast_weights(weights)
    if record.fp32_nodes:
        np.testing.assert_array_equal(held, weights)
        assert held.dtype == np.float32
    else:
        exact = weights.astype(np.float64)
        assert np.linalg.norm(held - exact) <= FLOAT16.rounding_tolerance * np.linalg.norm(exact)


# ── BatchNormalization that is not folded ─────────────────────────────────────────────────────────────────────────────

NORM = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
    [relu] a = Relu (x)
    [norm] y = BatchNormalization <epsilon = 1e-12> (a, gamma, beta, mean, variance)
}"""


def statistics(variance: float) -> dict[str, np.ndarray]:
    names = {"gamma": 0, "beta": 1, "mean": 2}
    return {**{n: random(3, seed=s) for n, s in names.items()}, "variance": np.full(3, variance, np.float32)}


@pytest.mark.parametrize("variance", [1e-8, 1.0, 1e6])
def test_a_variance_too_small_for_fp16_is_folded_first(cast_graph, variance):
    scale = np.float32(np.sqrt(variance))
    weights = statistics(variance)
    weights["mean"] = weights["mean"] * scale
    result = cast_graph(NORM, X * scale, **weights)
    assert result.record.fp32_nodes == ()
    assert result.error["y"] < 2 * HALF  # mean and beta are in one constant now, and cancel against the product


def test_batchnorm_statistics_become_trivial(cast_graph):
    result = cast_graph(NORM, **statistics(0.5))
    norm = next(node for node in result.model.graph if node.op_type == "BatchNormalization")
    assert norm.attributes["epsilon"].as_float() == 0
    np.testing.assert_array_equal(norm.inputs[3].const_value.numpy(), np.zeros(3))
    np.testing.assert_array_equal(norm.inputs[4].const_value.numpy(), np.ones(3))


def test_unnamed_batchnorms_that_share_weights_stay_correct(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        a = BatchNormalization (x, gamma, beta, mean, variance)
        b = Relu (a)
        c = BatchNormalization (b, gamma, beta, mean, variance)
        d = Relu (c)
        y = BatchNormalization <epsilon = 0.1> (d, gamma, beta, mean, variance)
    }"""
    assert cast_graph(text, **statistics(0.5)).error["y"] < 2 * HALF


def test_the_search_for_batchnorms_converts_no_other_weight():
    proto = onnx.parser.parse_model(HEADER + "g (float[2,1024] x) => (float[2,1024] y) { y = MatMul (x, w) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(random(1024, 1024), "w"))
    model = ir.from_proto(proto)
    tracemalloc.start()
    try:
        batchnorm_affine.fold_statistics(model.graph, FLOAT16)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**20  # w in float64 has 8 MiB


def test_a_batchnorm_scale_beyond_fp16_keeps_it_fp32(cast_graph):
    result = cast_graph(NORM, X * np.float32(1e-6), **{**statistics(1e-12), "mean": np.zeros(3, np.float32)})
    assert fp32_names(result) == ["norm"]
    assert result.error["y"] < HALF


# ── Operators ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        "y = Softmax <axis = 1> (x)",
        "y = LeakyRelu <alpha = 0.1> (x)",
        "y = Clip (x, w, top)",
        "y = Concat <axis = 1> (x, x)",
        "y = MaxPool <kernel_shape = [2,2]> (x)",
        "y, i = MaxPool <kernel_shape = [2,2]> (x)",
        "y = AveragePool <kernel_shape = [2,2]> (x)",
        "y = PRelu (x, w)",
        "y = Pad <mode = \"reflect\"> (x, pads)",
        "y = HardSwish (x)",
        "y = Transpose <perm = [0,2,3,1]> (x)",
        "y = Resize <mode = \"linear\"> (x, , scales)",
        "y = Resize <mode = \"nearest\"> (x, , , sizes)",
        "y = ConvTranspose (x, filter)",
        "y = CumSum (x, axis)",
        "y, i = TopK (x, two)",
        "c = Greater (x, w)  y = Where (c, x, top)",
        "y = Pow (x, square)",
        "y = LayerNormalization (x, row)",
        "y = InstanceNormalization <epsilon = 0.001> (x, channel, channel)",
        "y = Gelu (x)",
        "y = ScatterND (x, place, update)",
    ],
)  # fmt: skip
def test_an_operator_runs_in_fp16(cast_graph, body):
    constants = {
        "w": np.float32(-0.5),
        "top": np.float32(0.5),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "sizes": np.array([2, 3, 4, 4]),
        "filter": random(3, 4, 3, 3) / 3,
        "axis": np.array(2),
        "two": np.array([2]),
        "square": np.array(2),
        "row": random(8),
        "channel": random(3),
        "place": np.array([[1]]),
        "update": random(1, 3, 8, 8),
    }
    read = {
        name: array for name, array in constants.items() if name in body.replace(",", " ").replace(")", " ").split()
    }
    result = cast_graph(f"g (float[N,3,8,8] x) => (float[A,B,C,D] y) {{ {body} }}", **read)
    assert result.record.fp32_nodes == ()
    assert result.error["y"] < HALF


def test_scales_stay_fp32_where_the_operator_requires_it(cast_graph):
    text = "g (float[N,3,8,8] x) => (float[A,B,C,D] y) { [resize] y = Resize (x, , scales) }"
    result = cast_graph(text, scales=np.array([1, 1, 2, 2], np.float32))
    resize = next(node for node in result.model.graph if node.name == "resize")
    assert [value and value.dtype.name for value in resize.inputs] == ["FLOAT16", None, "FLOAT"]


def test_an_output_whose_type_does_not_follow_the_input_stays_fp32(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,1,1] m) {
        [norm] a, m = LayerNormalization <axis = 2> (x, scale)
        [last] y = Neg (a)
    }"""
    result = cast_graph(text, scale=random(8, 8))
    assert result.record.fp32_nodes == ()
    assert (dtypes(result.model)["a"], dtypes(result.model)["m"]) == ("FLOAT16", "FLOAT")


def test_integer_arithmetic_on_shapes_is_unchanged(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[A,B,C,D] y) {
        [relu] a = Relu (x)
        shape = Shape (a)
        batch = Slice (shape, zero, one)
        size = Concat <axis = 0> (batch, rest)
        [resize] b = Resize <mode = "nearest"> (a, , , size)
        [last] y = Neg (b)
    }"""
    weights = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([3, 4, 4])}
    result = cast_graph(text, **weights)
    assert result.record.fp32_nodes == ()
    shape = next(node for node in result.model.graph if node.op_type == "Shape")
    assert shape.inputs[0].name == "a"
    assert {initializer_dtypes(result.model)[name] for name in weights} == {"INT64"}


def test_a_float_computed_from_a_shape_is_cast_where_fp16_reads_it(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        shape = Shape <start = 1, end = 2> (x)
        [number] n = Cast <to = 1> (shape)
        [mul] y = Mul (x, n)
    }"""
    result = cast_graph(text)
    assert fp32_names(result) == ["number"]
    assert dtypes(result.model)["n/half"] == "FLOAT16"


def test_both_sides_of_a_comparison_have_one_type(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        [relu] a = Relu (x)
        [big] b = Mul (a, factor)
        [less] c = Less (a, b)
        [where] y = Where (c, a, x)
    }"""
    result = cast_graph(text, factor=np.float32(1e5))
    less = next(node for node in result.model.graph if node.name == "less")
    assert {value.dtype.name for value in less.inputs} == {"FLOAT"}


IF = """g (float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,8,8] z) {
    [relu] a = Relu (x)
    [sum] s = ReduceSum <keepdims = 0> (a)
    [test] c = Greater (s, zero)
    [if] b = If (c) <then_branch = t () => (float[N,3,8,8] p) { p = Mul (a, w) },
                     else_branch = e () => (float[N,3,8,8] q) { q = Neg (x) }>
    [last] y = Neg (b)
    [other] z = Mul (a, w)
}"""


def test_control_flow_stays_fp32_with_what_its_branches_read(cast_graph):
    result = cast_graph(IF, zero=np.float32(0), w=random(3, 1, 1))
    assert result.record.fp32_nodes == (Fp32Node("if", "If", "control flow keeps the types of its branches"),)
    inner = {
        value.name: value.dtype.name for node in result.model.graph.subgraphs() for n in node for value in n.inputs
    }
    assert inner == {"a/float": "FLOAT", "w": "FLOAT", "x": "FLOAT"}
    assert max(result.error.values()) < HALF


def test_an_operator_without_a_schema_stays_fp32(cast_graph):
    text = """g (float[2,3,8,8] x) => (float[2,3,8,8] y) <float[2,3,8,8] b> {
        [relu] a = Relu (x)
        [gelu] b = com.microsoft.Gelu (a)
        [last] y = Neg (b)
    }"""
    result = cast_graph(text)
    assert result.record.fp32_nodes == (Fp32Node("gelu", "Gelu", "Gelu does not support float16"),)


def test_a_sequence_of_tensors_stays_fp32(tmp_path):
    text = """g (float[2,4] x) => (float[2,2] y) {
        [relu] a = Relu (x)
        [split] s = SplitToSequence <axis = 1> (a, two)
        [at] b = SequenceAt (s, zero)
        [last] y = Neg (b)
    }"""
    write(tmp_path / "model.onnx", text, {"two": np.array(2), "zero": np.array(0)})
    ranges = Ranges(dict.fromkeys("xaby", Range(-9, 9)), DATA)
    record = write_cast_graph(tmp_path / "model.onnx", ranges, tmp_path / "half")
    assert [node.node for node in record.fp32_nodes] == ["at"]
    assert list(observe(tmp_path / "model.onnx", random(2, 4))) == ["x", "y", "a", "b"]
    x = random(2, 4)
    exact, result = (open_graph(p / "model.onnx").run({"x": x})["y"] for p in (tmp_path, tmp_path / "half"))
    np.testing.assert_allclose(result, exact, rtol=HALF)


# ── Constants ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bounds", ["0.0, 3.4e38", "-3.4e38, 0.5", "-3.4e38, 3.4e38"])
def test_an_unreachable_clip_bound_is_removed(cast_graph, bounds):
    low, high = map(np.float32, bounds.split(", "))
    result = cast_graph(
        "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { [clip] y = Clip (x, low, high) }", low=low, high=high
    )
    clip = next(node for node in result.model.graph if node.name == "clip")
    assert [value is None for value in clip.inputs] == [False, low < -1, high > 1]
    assert result.record.fp32_nodes == ()
    assert result.error["y"] < HALF


def test_an_infinite_clip_bound_is_removed(cast_graph):
    text = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Clip (x, low) }"
    assert cast_graph(text, low=np.float32(-np.inf)).record.fp32_nodes == ()


@pytest.mark.parametrize("low", [1e5, np.inf, np.nan, 1e-12])
def test_a_bound_that_changes_values_keeps_its_node_fp32(low, tmp_path):
    text = "g (float[N,4] x) => (float[N,4] y) { [clip] a = Clip (x, low)  [neg] y = Neg (a) }"
    write(tmp_path / "model.onnx", text, {"low": np.float32(low)})
    ranges = Ranges(dict.fromkeys("xay", Range(-9, 9)), DATA)
    assert [node.node for node in write_cast_graph(tmp_path / "model.onnx", ranges, tmp_path / "half").fp32_nodes] == [
        "clip"
    ]


def test_a_large_bound_of_an_fp32_node_stays(cast_graph):
    text = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { [clip] a = Clip (x, , top)  [neg] y = Neg (a) }"
    result = cast_graph(text, ranges={"x": Range(0, 1e6)}, top=np.float32(1e5))
    assert fp32_names(result) == ["clip"]
    assert next(node for node in result.model.graph if node.name == "clip").inputs[2].name == "top"


def test_a_constant_node_is_rounded_for_fp16_readers_unless_it_is_beyond_the_range(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        k = Constant <value = float {2.5}> ()
        big = Constant <value_float = 100000.0> ()
        [half] a = Mul (x, k)
        [up] b = Mul (a, big)
        [both] c = Add (b, k)
        [down] y = Div (c, big)
    }"""
    result = cast_graph(text)
    assert result.record.fp32_nodes[0] == Fp32Node("up", "Mul", "big holds 1e+05, beyond ±65504")
    assert initializer_dtypes(result.model) == {"k": "FLOAT", "k/float16": "FLOAT16", "big": "FLOAT"}
    assert result.error["y"] < HALF


def test_constant_nodes_are_not_reported_as_fp32_nodes(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y, float[1] k) {
        k = Constant <value = float[1] {2.5}> ()
        y = Mul (x, k)
    }"""
    assert cast_graph(text).record.fp32_nodes == ()


def test_weights_that_are_listed_as_inputs_become_constants(tmp_path):
    text = "g (float[N,4] x, float[4] w) => (float[N,4] y) { y = Mul (x, w) }"
    write(tmp_path / "model.onnx", text, {"w": random(4)})
    write_cast_graph(tmp_path / "model.onnx", Ranges(dict.fromkeys("xy", Range(-9, 9)), DATA), tmp_path / "half")
    graph = ir.load(tmp_path / "half" / "model.onnx").graph
    assert [value.name for value in graph.inputs] == ["x"]
    assert [value.const_value.dtype.name for value in graph.initializers.values()] == ["FLOAT16"]


# ── Graphs with mixed types ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attribute", ["", "<dtype = 1>"])
def test_an_operator_that_sets_its_own_type_stays_fp32(cast_graph, attribute):
    text = f"""g (float[8,8] x) => (float[8,8] y) {{
        [relu] a = Relu (x)
        [eye] e = EyeLike {attribute} (a)
        [add] y = Add (a, e)
    }}"""
    result = cast_graph(text, random(8, 8))
    assert result.record.fp32_nodes == (Fp32Node("eye", "EyeLike", "no float32 input sets the output type of EyeLike"),)
    assert result.error["y"] < HALF


def test_tensors_that_are_float16_already_are_unchanged(cast_graph):
    text = """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
        h = Cast <to = 10> (x)
        [mine] r = Relu (h)
        f = Cast <to = 1> (r)
        [last] y = Neg (f)
    }"""
    result = cast_graph(text)
    assert dtypes(result.model)["r"] == "FLOAT16"
    assert next(node for node in result.model.graph if node.name == "mine").inputs[0].name == "h"


def test_a_tensor_without_a_type_keeps_its_nodes_fp32(tmp_path):
    text = "g (float[N,4] x) => (float[N,4] y) { [a] a = Relu (x)  [b] b = Neg (a)  [c] c = Abs (b)  [d] y = Relu (c) }"
    write(tmp_path / "model.onnx", text, {})
    proto = onnx.load(tmp_path / "model.onnx")
    stored_info = [info for info in proto.graph.value_info if info.name != "b"]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(stored_info)
    onnx.save(proto, tmp_path / "model.onnx")
    record = write_cast_graph(
        tmp_path / "model.onnx", Ranges(dict.fromkeys("xabcy", Range(-9, 9)), DATA), tmp_path / "half"
    )
    assert [(node.node, node.reason) for node in record.fp32_nodes] == [
        ("b", "b has no type in the graph"),
        ("c", "b has no type in the graph"),
    ]


LOOP = """g (float[2,3,8,8] x) => (float[2,3,8,8] y) {
    [relu] a = Relu (x)
    [loop] b = Loop (count, go, a) <body = body (int64 i, bool ci, float[2,3,8,8] v) => (bool co, float[2,3,8,8] w) {
        co = Identity (ci)
        w = Mul (v, a)
    }>
    [last] y = Neg (b)
}"""


def test_a_loop_carries_fp32(cast_graph):
    result = cast_graph(LOOP, count=np.array(2), go=np.array(True))
    assert fp32_names(result) == ["loop"]
    assert [node.op_type for node in result.model.graph if node.op_type == "Cast"] == ["Cast"] * 4
    assert result.error["y"] < 2 * HALF


# ── Files and refusals ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_graph_without_castable_nodes_is_refused(tmp_path):
    write(tmp_path / "model.onnx", CHAIN, {})
    ranges = Ranges(dict.fromkeys("xabcy", Range(-1e6, 1e6)), DATA)
    with pytest.raises(InputError, match=r"No node of the graph can compute in float16") as caught:
        write_cast_graph(tmp_path / "model.onnx", ranges, tmp_path / "half")
    assert "FP32" in caught.value.remedy
    assert not (tmp_path / "half").exists()


def test_external_weights_are_included(tmp_path):
    text = "g (float[2,64] x) => (float[2,64] y) { [big] a = Mul (x, w)  b = Div (a, w)  y = Mul (b, v) }"
    write(tmp_path / "plain.onnx", text, {"w": np.full((2, 64), 1e5, np.float32), "v": random(2, 64)})
    ir.save(ir.load(tmp_path / "plain.onnx"), tmp_path / "model.onnx", external_data="model.onnx.data")
    x = random(2, 64)
    record = write_cast_graph(
        tmp_path / "model.onnx", Ranges(observe(tmp_path / "plain.onnx", x), DATA), tmp_path / "half"
    )
    assert [file.path for file in record.files] == ["model.onnx"]
    exact, result = (
        open_graph(path).run({"x": x})["y"] for path in (tmp_path / "plain.onnx", tmp_path / "half/model.onnx")
    )
    np.testing.assert_allclose(result, exact, rtol=0, atol=HALF * np.abs(exact).max())
