"""Small numbers and hidden sums in FP16: the cast graph is as right as FP32 wherever FP32 is finite.

onnx's reference evaluator computes float16 as NumPy does, with every rounding: what is infinite there may be infinite
on a GPU. The graphs are cast on noise, and computed on what the noise did not show.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from deploykit.backends.onnxruntime import open_graph
from deploykit.core.values import DataRecord, PrecisionGraphRecord, Ranges
from deploykit.quantize.calibrate import add_graph_outputs, observe_ranges
from deploykit.quantize.cast import write_cast_graph
from deploykit.quantize.formats import FormatName

DATA = DataRecord("toys", "calibration", 2, True, False, "0" * 64)
NOISE = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
INPUTS = {
    "zeros": np.zeros_like(NOISE),
    "ones": np.ones_like(NOISE),
    "minus ones": -np.ones_like(NOISE),
    "noise": np.random.default_rng(1).standard_normal(NOISE.shape).astype(np.float32),
    "tiny noise": NOISE * np.float32(2e-3),
    "one pixel": np.where(np.arange(NOISE.size).reshape(NOISE.shape) == 0, np.float32(1), np.float32(0)),
}

Cast = Callable[..., tuple[Path, Path, PrecisionGraphRecord]]


@pytest.fixture
def cast(tmp_path: Path) -> Cast:
    """Write a graph from its nodes, which read float[2,4,8,8] i, the negative of x; observe it on noise, cast it."""

    def make(nodes: str, dtype: FormatName = "fp16", samples: np.ndarray = NOISE, opset: int = 20, **weights: object):
        source, exposed = tmp_path / "model.onnx", tmp_path / "exposed.onnx"
        header = f'<ir_version: {11 if opset > 20 else 8}, opset_import: ["" : {opset}]>\n'
        proto = onnx.parser.parse_model(f"{header}g (float[2, 4, 8, 8] x) => (float[] y) {{ i = Neg (x) {nodes} }}")
        for name, array in weights.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        onnx.save(onnx.shape_inference.infer_shapes(proto, data_prop=True), source)
        add_graph_outputs(source, exposed)
        ranges = observe_ranges(open_graph(exposed), [{"x": samples}], DATA)
        record = write_cast_graph(source, Ranges(ranges.tensors, DATA), tmp_path / "half", dtype)
        return source, tmp_path / "half" / "model.onnx", record

    return make


def eps(value: float) -> np.ndarray:
    return np.array([value], np.float32)


SPATIAL = {"hw": np.array([2, 3], np.int64)}
CHANNELS = {"c": np.array([1], np.int64)}
SQUARE = "s = Mul (i, i) "
SUM = SQUARE + "t = ReduceSum (s, c) "

FINITE: dict[str, tuple[str, dict[str, Any]]] = {
    "division by a norm above 1e-12": (
        "n = ReduceL2 (i, c) m = Clip (n, e) y = Div (i, m)",
        {**CHANNELS, "e": np.float32(1e-12)},
    ),
    "Max instead of Clip": ("n = ReduceL2 (i, c) m = Max (n, e) y = Div (i, m)", {**CHANNELS, "e": eps(1e-12)}),
    "moved elements between": (
        "n = ReduceL2 (i, c) m = Clip (n, e) k = Expand (m, z) y = Div (i, k)",
        {**CHANNELS, "e": np.float32(1e-12), "z": np.array([2, 4, 8, 8], np.int64)},
    ),
    "a written-out norm": (SUM + "n = Add (t, e) r = Sqrt (n) y = Div (i, r)", {**CHANNELS, "e": eps(1e-12)}),
    "a reciprocal root": (
        SUM + "n = Add (t, e) r = Sqrt (n) q = Reciprocal (r) y = Mul (i, q)",
        {**CHANNELS, "e": eps(1e-12)},
    ),
    "one divided by a root": (
        SUM + "n = Add (t, e) r = Sqrt (n) q = Div (o, r) k = Identity (q) y = Mul (i, k)",
        {**CHANNELS, "e": eps(1e-12), "o": eps(1.0)},
    ),
    "a negative power": (
        SUM + "n = Add (t, e) q = Pow (n, p) y = Mul (i, q)",
        {**CHANNELS, "e": eps(1e-12), "p": eps(-0.5)},
    ),
    "a root of squares": (SUM + "y = Sqrt (t)", CHANNELS),
    "the logarithm of a probability": ("s = Sigmoid (i) n = Add (s, e) y = Log (n)", {"e": eps(1e-10)}),
    "the logarithm of a norm": (SUM + "n = Add (t, e) y = Log (n)", {**CHANNELS, "e": eps(1e-8)}),
    "a chosen divisor": (
        "a = Abs (i) b = Less (a, e) d = Where (b, e, a) y = Div (i, d)",
        {"e": eps(1e-8)},
    ),
    "generalized-mean pooling": (
        "a = Clip (i, e) b = Pow (a, p) d = GlobalAveragePool (b) y = Pow (d, q)",
        {"e": np.float32(1e-6), "p": eps(3), "q": eps(1 / 3)},
    ),
    "a standard deviation": (
        "m = ReduceMean (i, hw) d = Sub (i, m) s = Mul (d, d) v = ReduceMean (s, hw) r = Sqrt (v) n = Add (r, e) "
        "y = Div (d, n)",
        {**SPATIAL, "e": eps(1e-8)},
    ),
    "LpNormalization": ("y = LpNormalization <axis = 1> (i)", {}),
    "LogSoftmax": ("k = Mul (i, f) y = LogSoftmax <axis = 1> (k)", {"f": eps(8.0)}),
    "LayerNormalization as in BERT": (
        "y = LayerNormalization <epsilon = 1e-12> (i, w)",
        {"w": np.ones(8, np.float32)},
    ),
    "InstanceNormalization": (
        "y = InstanceNormalization <epsilon = 1e-9> (i, w, b)",
        {"w": np.ones(4, np.float32), "b": np.zeros(4, np.float32)},
    ),
    "sums of squares": ("k = Mul (i, f) y = ReduceL2 (k, c)", {**CHANNELS, "f": eps(200.0)}),
    "the mean of a large map": (
        "k = Resize (i, , scales) l = Relu (k) m = Mul (l, f) y = ReduceMean (m, hw)",
        {**SPATIAL, "scales": np.array([1, 1, 4, 4], np.float32), "f": eps(1000.0)},
    ),
}


def compute_both(source: Path, target: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The FP32 graph's output, and the cast graph's with every rounding done."""
    want = open_graph(source).run({"x": x})["y"]
    with np.errstate(all="ignore"):
        results: Any = ReferenceEvaluator(str(target)).run(None, {"x": x})
    return want, np.asarray(results[0]).astype(np.float32)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", FINITE)
def test_what_is_finite_in_fp32_is_right_in_fp16(cast, name, kind):
    nodes, weights = FINITE[name]
    source, target, _ = cast(nodes + " ", **weights)
    want, got = compute_both(source, target, INPUTS[kind])
    assert np.isfinite(want).all()
    np.testing.assert_allclose(got, want, rtol=5e-3, atol=5e-3 * max(1.0, np.abs(want).max()))


# ── What stays FP32, and why ──────────────────────────────────────────────────────────────────────────────────────────


def fp32_operators(record: PrecisionGraphRecord) -> list[str]:
    return [node.op_type for node in record.fp32_nodes]


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("division by a norm above 1e-12", ["ReduceL2", "Clip", "Div"]),
        ("moved elements between", ["ReduceL2", "Clip", "Expand", "Div"]),
        ("a written-out norm", ["Mul", "ReduceSum", "Add", "Sqrt", "Div"]),
        ("a reciprocal root", ["Mul", "ReduceSum", "Add", "Sqrt", "Reciprocal", "Mul"]),
        ("the logarithm of a probability", ["Sigmoid", "Add", "Log"]),
    ],
)
def test_the_way_from_small_values_to_the_operator_stays_fp32(cast, name, operators):
    nodes, weights = FINITE[name]
    assert fp32_operators(cast(nodes, **weights)[2]) == operators


def reasons(record: PrecisionGraphRecord) -> dict[str, str]:
    return {node.op_type: node.reason for node in record.fp32_nodes}


def test_the_reason_names_the_constant_that_keeps_the_divisor_from_zero(cast):
    nodes, weights = FINITE["moved elements between"]
    assert reasons(cast(nodes, **weights)[2])["Div"] == (
        "divides by k, which 1e-12 keeps from zero, below float16's normal range (from 6.1e-05)"
    )


def test_the_reason_names_samples_that_came_near_zero(cast):
    nodes = "a = Abs (i) y = Sqrt (a)"
    assert reasons(cast(nodes, samples=NOISE * np.float32(1e-3))[2])["Sqrt"] == (
        "takes the root of a, which holds values below float16's normal range (from 6.1e-05)"
    )


def test_what_would_exceed_the_type_by_a_small_divisor_is_read_in_fp32(cast):
    nodes, weights = FINITE["one divided by a root"]
    assert reasons(cast(nodes, **weights)[2])["Identity"] == "reads q, which may reach 1e+06"


def test_a_layer_does_not_stay_fp32_because_its_result_is_divided_by(cast):
    nodes = "k = Conv (i, w) a = Relu (k) n = Add (a, e) y = Div (i, n)"
    weights = {"w": np.ones((4, 4, 1, 1), np.float32), "e": eps(1e-8)}
    assert fp32_operators(cast(nodes, **weights)[2]) == ["Add", "Div"]


def test_terms_that_cancel_are_not_followed(cast):
    nodes = "a = Tanh (i) b = Sigmoid (i) k = Sub (a, b) l = Add (k, a) y = Div (b, l)"
    assert fp32_operators(cast(nodes)[2]) == ["Add", "Div"]


UNCHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "division by a constant": ("y = Div (i, e)", {"e": eps(3.0)}),
    "division by a softmax's sum": ("a = Exp (i) s = ReduceSum (a, c) y = Div (a, s)", CHANNELS),
    "an epsilon of FP16's normal range": (
        SUM + "n = Add (t, e) r = Sqrt (n) y = Div (i, r)",
        {**CHANNELS, "e": eps(1e-3)},
    ),
    "a small root guards a large divisor": ("a = Abs (i) n = Max (a, e) y = Div (i, n)", {"e": eps(1e-3)}),
    "a square": ("y = Pow (i, p)", {"p": eps(2.0)}),
    "Softmax": ("y = Softmax <axis = 1> (i)", {}),
    "LayerNormalization": ("y = LayerNormalization (i, w)", {"w": np.ones(8, np.float32)}),
    "GlobalAveragePool": ("y = GlobalAveragePool (i)", {}),
    "a mean over a large map": (
        "k = Resize (i, , scales) l = Relu (k) y = ReduceMean (l, hw)",
        {**SPATIAL, "scales": np.array([1, 1, 16, 16], np.float32)},
    ),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_ordinary_operators_compute_in_fp16(cast, name):
    nodes, weights = UNCHANGED[name]
    assert cast(nodes, **weights)[2].fp32_nodes == ()


@pytest.mark.parametrize("name", ["a written-out norm", "division by a norm above 1e-12", "LpNormalization"])
def test_bfloat16_holds_what_float32_holds(cast, name):
    nodes, weights = FINITE[name]
    assert cast(nodes, dtype="bf16", opset=22, **weights)[2].fp32_nodes == ()


def test_the_mean_of_a_large_map_is_bounded_by_the_means_that_were_observed(cast):
    """16384 values of at most 4 might add up to 65,536; their means say that they do not."""
    nodes = "k = Resize (i, , scales) l = Clip (k, zero, four) y = ReduceMean (l, hw)"
    weights = {**SPATIAL, "scales": np.array([1, 1, 16, 16], np.float32), "zero": np.float32(0), "four": np.float32(4)}
    samples = np.where(np.arange(NOISE.size).reshape(NOISE.shape) % 2, NOISE, np.float32(-5))
    assert cast(nodes, samples=samples, **weights)[2].fp32_nodes == ()


def test_a_sum_that_may_leave_the_type_on_the_way_names_its_bound(cast):
    """128 times 600 on the way to a sum of 0."""
    nodes = "k = Mul (i, f) y = ReduceSum (k, a)"
    samples = np.broadcast_to(np.where(np.arange(8) % 2, np.float32(1), np.float32(-1)), NOISE.shape).copy()
    weights = {"f": eps(600.0), "a": np.array([1, 2, 3], np.int64)}
    assert reasons(cast(nodes, samples=samples, **weights)[2])["ReduceSum"] == (
        "its sum of 256 terms may reach 1.536e+05, beyond ±65504"
    )


NORM_WEIGHTS = {"w": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}

HIDDEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "InstanceNormalization": (
        "y = InstanceNormalization (i, w, b)",
        NORM_WEIGHTS,
        "its epsilon 1e-05 is below float16's normal range (from 6.1e-05)",
    ),
    "LayerNormalization": (
        "y = LayerNormalization <stash_type = 10> (i, w)",
        {"w": np.ones(8, np.float32)},
        "LayerNormalization would normalize in float16",
    ),
    "LRN": (
        "k = Clip (i, m, m) y = LRN <size = 5> (k)",
        {"m": np.float32(200)},
        "its sum of 5 terms may reach 2e+05, beyond ±65504",
    ),
    "Softmax": (
        "k = Resize (i, , scales) l = Reshape (k, s) y = Softmax <axis = 1> (l)",
        {"scales": np.array([1, 1, 40, 40], np.float32), "s": np.array([8, -1], np.int64)},
        "its sum of 102400 terms may reach 1.024e+05, beyond ±65504",
    ),
    "AveragePool": (
        "k = Clip (i, m, m) y = AveragePool <kernel_shape = [8, 8]> (k)",
        {"m": np.float32(2000)},
        "its sum of 64 terms may reach 1.28e+05, beyond ±65504",
    ),
}


@pytest.mark.parametrize("operator", HIDDEN)
def test_the_reason_names_what_the_operator_hides(cast, operator):
    nodes, weights, reason = HIDDEN[operator]
    assert reasons(cast(nodes, **weights)[2]) == {operator: reason}
