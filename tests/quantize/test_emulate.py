"""The FP32 emulation of a 16-bit graph: onnx's reference evaluator, which rounds as NumPy does, is the oracle."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import rounded_convnet
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx.reference import ReferenceEvaluator

from deploykit.core.values import DataRecord, Range, Ranges
from deploykit.quantize import rounding
from deploykit.quantize.cast import write_cast_graph
from deploykit.quantize.emulate import write_rounded_graph

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 1 / 3, 6e-8, 2.9e-8, 1e-12, 6.1e-5, 65504, 65519, 65520, 7e4, -300, 2049], np.float32
)
PAIRS = np.stack([grid.ravel() for grid in np.meshgrid(SPECIAL, SPECIAL)])

Emulate = Callable[..., tuple[Path, Path]]


@pytest.fixture
def emulate(tmp_path: Path) -> Emulate:
    """Write a typed graph's text and its emulation."""

    def make(text: str, opset: int = 20, **weights: np.ndarray) -> tuple[Path, Path]:
        source, target = tmp_path / "typed.onnx", tmp_path / "emulation" / "rounded.onnx"
        ir_version = 13 if opset > 23 else 10
        proto = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{text}')
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
        onnx.save(onnx.shape_inference.infer_shapes(proto, data_prop=True), source)
        write_rounded_graph(source, target)
        onnx.checker.check_model(target, full_check=True)
        return source, target

    return make


def reference(source: Path, **inputs: np.ndarray) -> np.ndarray:
    """The first output of the typed graph with every rounding done, as float32."""
    with np.errstate(all="ignore"):
        results: Any = ReferenceEvaluator(str(source)).run(None, inputs)
        return np.asarray(results[0]).astype(np.float32)


def compute(target: Path, optimized: bool = True, **inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


# ── Every rounding is done ────────────────────────────────────────────────────────────────────────────────────────────

UNARY = ("Sqrt", "Reciprocal", "Abs", "Neg", "Relu", "Floor", "Sign", "Identity")
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min")


def elementwise(expression: str, dtype: str = "float16") -> str:
    return f"""g (float[N] x, float[N] y) => (float[N] z) {{
        a = Cast <to = {16 if dtype == "bfloat16" else 10}> (x)
        b = Cast <to = {16 if dtype == "bfloat16" else 10}> (y)
        c = {expression}
        z = Cast <to = 1> (c)
    }}"""


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("expression", [*(f"{op} (a)" for op in UNARY), *(f"{op} (a, b)" for op in BINARY)])
def test_elementwise_operators_are_bit_exact(emulate, expression, dtype, optimized):
    source, target = emulate(elementwise(expression, dtype), opset=22)
    x, y = PAIRS
    np.testing.assert_array_equal(compute(target, optimized, x=x, y=y), reference(source, x=x, y=y))


CHAIN = """g (float16[N] x, float16[N] y) => (float16[N] z) {
    a = Add (x, y)
    b = Mul (a, y)
    c = Relu (b)
    d = Sub (c, x)
    z = Div (d, y)
}"""


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.uint16, (2, 7), elements=st.integers(0, 2**16 - 1)))
def test_a_chain_is_bit_exact_for_any_input(tmp_path_factory, bits):
    source = tmp_path_factory.getbasetemp() / "chain.onnx"
    target = source.with_name("chain_rounded.onnx")
    if not target.exists():
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 20]>\n{CHAIN}')
        onnx.save(onnx.shape_inference.infer_shapes(proto), source)
        write_rounded_graph(source, target)
    x, y = bits.view(np.float16)
    rounded = compute(target, x=x.astype(np.float32), y=y.astype(np.float32))
    np.testing.assert_array_equal(rounded, reference(source, x=x, y=y))


def test_overflow_becomes_infinite(emulate):
    _, target = emulate(elementwise("Mul (a, b)"))
    assert compute(target, x=np.array([300.0], np.float32), y=np.array([300.0], np.float32)) == [np.inf]


def test_a_small_number_becomes_zero(emulate):
    _, target = emulate(elementwise("Mul (a, b)"))
    assert compute(target, x=np.array([1e-4], np.float32), y=np.array([1e-4], np.float32)) == [0.0]


def test_sums_accumulate_in_fp32(emulate):
    """4096 ones and a half: float16 partial sums would stop at 2048."""
    text = """g (float[1, 4097] x) => (float[1, 1] z) {
        a = Cast <to = 10> (x)
        b = MatMul (a, w)
        z = Cast <to = 1> (b)
    }"""
    _, target = emulate(text, w=np.ones((4097, 1), np.float16))
    assert compute(target, x=np.ones((1, 4097), np.float32)) == [[4096.0]]


def test_fp32_nodes_are_not_rounded(emulate):
    text = """g (float[N] x) => (float[N] z) {
        a = Mul (x, x)
        b = Cast <to = 10> (x)
        c = Cast <to = 1> (b)
        z = Add (a, c)
    }"""
    _, target = emulate(text)
    x = np.array([1e4], np.float32)
    assert compute(target, x=x) == x * x + x


def test_rounding_follows_a_relu_so_that_it_is_fused(emulate):
    text = """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] z) {
        a = Cast <to = 10> (x)
        b = Conv (a, w)
        c = Relu (b)
        z = Cast <to = 1> (c)
    }"""
    _, target = emulate(text, w=np.ones((2, 2, 1, 1), np.float16))
    assert " ".join(operators(target)).count("Conv Relu Cast Cast") == 1


def test_a_tensor_that_two_nodes_read_is_rounded_itself(emulate):
    text = """g (float[N] x) => (float[N] z) {
        a = Cast <to = 10> (x)
        b = Mul (a, a)
        c = Relu (b)
        d = Sub (b, c)
        z = Cast <to = 1> (d)
    }"""
    source, target = emulate(text)
    x = np.array([1 / 3, -1 / 3], np.float32)
    np.testing.assert_array_equal(compute(target, x=x), reference(source, x=x))


# ── INT8 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

QDQ = """g (float[N] x) => (float[N] z) {
    a = Cast <to = 10> (x)
    q = QuantizeLinear (a, scale, zero)
    b = DequantizeLinear (q, scale, zero)
    z = Cast <to = 1> (b)
}"""
SCALE = {"scale": np.array(0.0123, np.float16), "zero": np.array(0, np.int8)}


def test_quantize_and_dequantize_stay_and_the_result_is_rounded(emulate):
    _, target = emulate(QDQ, **SCALE)
    x = np.linspace(-2, 2, 101, dtype=np.float32)
    codes = np.clip(np.rint(x.astype(np.float16).astype(np.float32) / np.float32(SCALE["scale"])), -128, 127)
    want = (codes * np.float32(SCALE["scale"])).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(compute(target, x=x), want)


def test_codes_keep_their_type(emulate):
    _, target = emulate(QDQ, **SCALE)
    model = ir.load(target)
    dtypes = {node.op_type: str(node.outputs[0].dtype) for node in model.graph if node.op_type != "Cast"}
    assert dtypes == {"QuantizeLinear": "INT8", "DequantizeLinear": "FLOAT"}


# ── Interface, opsets, files ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_float16_interface_becomes_float32_and_rounds_inside(emulate):
    _, target = emulate("g (float16[N] x) => (float16[N] z) { z = Add (x, x) }")
    assert compute(target, x=np.array([2049.0], np.float32)) == [4096.0]


def test_names_of_inputs_and_outputs_stay(emulate):
    _, target = emulate("g (float16[N] x, float16[N] y) => (float16[N] z) { z = Add (x, y) }")
    graph = onnx.load(target).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["x", "y", "z"]


def test_names_of_tensors_between_nodes_stay(emulate):
    """So that stages and layers are compared tensor by tensor."""
    source, target = emulate(elementwise("Add (a, b)"))
    names = [{output for node in onnx.load(path).graph.node for output in node.output} for path in (source, target)]
    assert names[0] <= names[1]


@pytest.mark.parametrize("opset", range(18, 27))
def test_every_opset_of_an_export_works(emulate, opset):
    source, target = emulate(elementwise("Div (a, b)"), opset=opset)
    x, y = np.array([1.0, 5e-5], np.float32), np.array([3.0, 7.0], np.float32)
    unoptimized = ReferenceEvaluator(str(target)).run(None, {"x": x, "y": y})[0]
    np.testing.assert_array_equal(unoptimized, reference(source, x=x, y=y))


def test_constants_and_attributes_that_name_the_type_change_with_it(emulate):
    """The text format writes float16 as its bits: 15872 is 1.5, 16384 is 2."""
    text = """g (float[N] x) => (float[N] z) {
        a = Cast <to = 10> (x)
        s = Shape (x)
        ones = ConstantOfShape <value = float16[1] {15872}> (s)
        two = Constant <value = float16[1] {16384}> ()
        b = Add (a, ones)
        c = Mul (b, two)
        d = CastLike (x, two)
        e = Add (c, d)
        z = Cast <to = 1> (e)
    }"""
    source, target = emulate(text)
    x = np.array([1 / 3, 2049.0], np.float32)
    np.testing.assert_array_equal(compute(target, x=x), reference(source, x=x))


def test_branches_are_rounded_too(emulate):
    text = """g (float[2] x, bool c) => (float[2] z) {
        a = Cast <to = 10> (x)
        b = If (c) <
            then_branch = t () => (float16[2] p) { p = Mul (a, a) },
            else_branch = e () => (float16[2] q) { q = Add (a, a) }
        >
        z = Cast <to = 1> (b)
    }"""
    source, target = emulate(text)
    x = np.array([1 / 3, 2049.0], np.float32)
    for condition in (True, False):
        c = np.array(condition)
        np.testing.assert_array_equal(compute(target, x=x, c=c), reference(source, x=x, c=c))


def test_weights_of_more_than_two_gibibytes_go_to_a_file_beside_the_graph(emulate, monkeypatch):
    monkeypatch.setattr(rounding, "LARGEST_SINGLE_FILE", 0)
    weight = np.full((1024, 1), 1 / 3, np.float16)
    text = "g (float16[1, 1024] x) => (float16[1, 1] z) { z = MatMul (x, w) }"
    source, target = emulate(text, w=weight)
    source.unlink()
    assert (target.parent / f"{target.name}.data").exists()
    assert compute(target, x=np.ones((1, 1024), np.float32)) == np.float16(1024 * np.float32(weight[0, 0]))


def test_weights_beside_the_typed_graph_are_read_from_there(emulate, tmp_path):
    text = "g (float16[1, 1024] x) => (float16[1, 1] z) { z = MatMul (x, w) }"
    source, _ = emulate(text, w=np.ones((1024, 1), np.float16))
    (tmp_path / "large").mkdir()
    ir.save(ir.load(source), tmp_path / "large" / "model.onnx", external_data="weights.data")
    write_rounded_graph(tmp_path / "large" / "model.onnx", tmp_path / "rounded.onnx")
    shutil.rmtree(tmp_path / "large")
    assert compute(tmp_path / "rounded.onnx", x=np.ones((1, 1024), np.float32)) == [[1024.0]]


# ── A network, beside PyTorch ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_convolutional_network_costs_what_rounding_in_pytorch_costs(tmp_path):
    """Within 3 dB of hooks that round the weights and outputs of every module."""
    source = tmp_path / "net.onnx"
    rounded_convnet.write_graph(source)
    names = [output.name or "" for node in ir.load(source).graph for output in node.outputs]
    ranges = Ranges(dict.fromkeys(names, Range(-10, 10)), DataRecord("toys", "calibration", 4, True, False, "0" * 64))
    write_cast_graph(source, ranges, tmp_path / "half")
    write_rounded_graph(tmp_path / "half" / "model.onnx", tmp_path / "rounded.onnx")
    emulated = rounded_convnet.compute_snr(compute(tmp_path / "rounded.onnx", x=rounded_convnet.X))
    hooked = rounded_convnet.compute_snr(rounded_convnet.round_in_pytorch(torch.float16))
    assert emulated == pytest.approx(hooked, abs=3)
