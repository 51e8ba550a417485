"""The floor of a 16-bit type: every weight and activation rounded, and nothing lost that FP32 holds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import rounded_convnet
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploykit.backends.onnxruntime import open_graph
from deploykit.quantize.floor import write_floor_graph
from deploykit.quantize.formats import FormatName

WriteFloor = Callable[..., Path]


@pytest.fixture
def write_floor(tmp_path: Path) -> WriteFloor:
    """Write an FP32 graph's text and its floor."""

    def make(text: str, dtype: FormatName = "fp16", **weights: np.ndarray) -> Path:
        source, target = tmp_path / "source.onnx", tmp_path / "floor" / "floor.onnx"
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 20]>\n{text}')
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
        onnx.save(onnx.shape_inference.infer_shapes(proto, data_prop=True), source)
        write_floor_graph(source, dtype, target)
        onnx.checker.check_model(target, full_check=True)
        return target

    return make


def compute(target: Path, x: np.ndarray) -> np.ndarray:
    return np.asarray(next(iter(open_graph(target).run({"x": x}).values())))


IDENTITY = "g (float[N] x) => (float[N] z) { z = Identity (x) }"


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False)))
def test_no_finite_number_becomes_infinite_and_no_other_number_zero(tmp_path_factory, x):
    target = tmp_path_factory.getbasetemp() / "floor.onnx"
    if not target.exists():
        source = target.with_name("identity.onnx")
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 20]>\n{IDENTITY}'), source)
        write_floor_graph(source, "fp16", target)
    z = compute(target, x)
    with np.errstate(over="ignore"):
        rounded = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(z, np.where((rounded == 0) | np.isinf(rounded), x, rounded))


@pytest.mark.parametrize(("dtype", "want"), [("fp16", 0.33325195), ("bf16", 0.33398438)])
def test_inputs_are_rounded_to_the_type(write_floor, dtype, want):
    assert compute(write_floor(IDENTITY, dtype), np.float32([1 / 3])) == [np.float32(want)]


def test_weights_are_rounded(write_floor):
    target = write_floor("g (float[N] x) => (float[N] z) { z = Sub (x, w) }", w=np.float32([1 / 3]))
    assert compute(target, np.float32([1 / 3])) == [0.0]


def test_activations_are_rounded(write_floor):
    target = write_floor("g (float[N] x) => (float[N] z) { z = Add (x, w) }", w=np.float32([1.0]))
    assert compute(target, np.float32([2048.0])) == [2048.0]


def test_a_small_epsilon_survives(write_floor):
    target = write_floor("g (float[N] x) => (float[N] z) {y = Add (x, eps) z = Div (x, y)}", eps=np.float32([1e-12]))
    assert compute(target, np.float32([0.0])) == [0.0]


def test_a_large_sum_survives(write_floor):
    target = write_floor("g (float[N] x) => (float[N] z) {y = Mul (x, x) z = Sqrt (y)}")
    assert compute(target, np.float32([1000.0])) == [1000.0]


def test_statistics_of_a_batchnorm_are_not_rounded(write_floor):
    text = """g (float[1, 1, 1] x) => (float[1, 1, 1] z) {
        z = BatchNormalization <epsilon = 0.0> (x, one, zero, zero, variance)
    }"""
    weights = {"one": np.float32([1]), "zero": np.float32([0]), "variance": np.float32([2.0**-24 * 1.5])}
    z = compute(write_floor(text, **weights), np.ones((1, 1, 1), np.float32))
    assert z == pytest.approx(1 / np.sqrt(weights["variance"][0]), rel=2**-11)


def test_scales_of_a_resize_are_not_rounded(write_floor):
    """In float16, 100 · 0.57 would be 56.97: one pixel less."""
    text = "g (float[1, 1, 100, 100] x) => (float[1, 1, H, W] z) { z = Resize (x, roi, scales) }"
    weights = {"roi": np.empty(0, np.float32), "scales": np.float32([1, 1, 0.57001, 1])}
    assert compute(write_floor(text, **weights), np.ones((1, 1, 100, 100), np.float32)).shape == (1, 1, 57, 100)


def test_arithmetic_on_shapes_is_not_rounded(write_floor):
    """4099 is no float16: the sum over a row of ones must still be divided by its length."""
    text = """g (float[1, N] x) => (float[1, N] z) {
        s = Shape (x)
        f = Cast <to = 1> (s)
        i = Cast <to = 7> (f)
        z = Expand (x, i)
    }"""
    assert compute(write_floor(text), np.ones((1, 4099), np.float32)).shape == (1, 4099)


def test_names_of_inputs_and_outputs_stay(write_floor):
    graph = onnx.load(write_floor("g (float[N] x) => (float[N] z) { z = Add (x, x) }")).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["x", "z"]


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_convolutional_network_costs_what_rounding_in_pytorch_costs(tmp_path, dtype, torch_dtype):
    """Within 3 dB of hooks that round the weights and outputs of every module."""
    source, target = tmp_path / "net.onnx", tmp_path / "floor.onnx"
    rounded_convnet.write_graph(source)
    write_floor_graph(source, dtype, target)
    hooked = rounded_convnet.compute_snr(rounded_convnet.round_in_pytorch(torch_dtype))
    assert rounded_convnet.compute_snr(compute(target, rounded_convnet.X)) == pytest.approx(hooked, abs=3)
