from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploykit.backends.onnxruntime import open_graph
from deploykit.core.errors import InputError
from deploykit.core.values import DataRecord, Fp32Node, Range, Ranges
from deploykit.quantize.cast import cast_model, write_cast_graph
from deploykit.quantize.formats import FORMATS

DATA = DataRecord("toys", "calibration", 2, True, False, "0" * 64)

BRAIN = 2.0**-6
"""Of full scale. Rounding to bfloat16 costs each number at most 2⁻⁸ of itself; a few layers add up."""

HALF = 2.0**-9
"""The same for float16, whose roundings cost at most 2⁻¹¹."""


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


X = random(2, 3, 8, 8, seed=9)

NET = """g (float[N,3,8,8] x) => (float[N,5] y) {
    [conv] a = Conv <pads = [1,1,1,1]> (x, w, bias)
    [norm] b = BatchNormalization (a, gamma, beta, mean, variance)
    [relu] c = Relu (b)
    [pool] d = GlobalAveragePool (c)
    [flat] e = Flatten (d)
    [fc] y = Gemm <transB = 1> (e, v)
}"""
WEIGHTS = {
    "w": random(8, 3, 3, 3) / 5,
    "bias": random(8),
    "gamma": random(8, seed=1),
    "beta": random(8, seed=2),
    "mean": random(8, seed=3),
    "variance": np.full(8, 1e-8, np.float32) + random(8, seed=4) ** 2,
    "v": random(5, 8) / 3,
}
CHAIN = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { [first] a = Relu (x)  [second] b = Neg (a)  [last] y = Tanh (b) }"


class Result:
    """A graph before and after."""

    def __init__(self, folder: Path, text: str, opset: int, ranges: dict[str, Range], **options: Any) -> None:
        weights = options.pop("weights", WEIGHTS if text == NET else {})
        self.source, self.file = folder / "model.onnx", folder / "cast_graph" / "model.onnx"
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
        onnx.save(onnx.shape_inference.infer_shapes(proto, data_prop=True), self.source)
        tensors = Ranges({**dict.fromkeys("xabcdey", Range(-9, 9)), **ranges}, DATA)
        self.record = write_cast_graph(self.source, tensors, self.file.parent, **options)
        onnx.checker.check_model(self.file, full_check=True)
        self.graph = ir.load(self.file).graph
        self.fp32_nodes = [node.node for node in self.record.fp32_nodes]
        casts = [node for node in self.graph if node.op_type == "Cast"]
        self.casts = [tuple(value and value.name for value in (*node.inputs, *node.outputs)) for node in casts]
        self.ends = [str(value.dtype) for value in (*self.graph.inputs, *self.graph.outputs)]

    def types(self) -> dict[str | None, str]:
        """The output types of named nodes."""
        return {node.name: str(node.outputs[0].dtype) for node in self.graph if node.op_type != "Cast"}


@pytest.fixture
def cast_graph(tmp_path: Path) -> Callable[..., Result]:
    return lambda text=NET, opset=22, ranges=None, **options: Result(tmp_path, text, opset, ranges or {}, **options)


# ── BF16 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_node_computes_in_bf16(cast_graph):
    result = cast_graph(dtype="bf16")
    assert result.record.fp32_nodes == ()
    assert result.types() == dict.fromkeys(["conv", "norm", "relu", "pool", "flat", "fc"], "BFLOAT16")


def test_the_record_contains_bf16(cast_graph):
    assert cast_graph(dtype="bf16").record.precision == "bf16"


def test_inputs_and_outputs_of_bf16_stay_float32(cast_graph):
    result = cast_graph(dtype="bf16")
    assert result.ends == ["FLOAT", "FLOAT"]
    assert result.casts == [("x", "x/bfloat"), ("y/bfloat", "y")]


def test_weights_are_rounded_to_the_nearest_bfloat16(cast_graph):
    conv = next(node for node in cast_graph(dtype="bf16").graph if node.name == "conv")
    np.testing.assert_array_equal(conv.inputs[1].const_value.numpy(), WEIGHTS["w"].astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("opset", [13, 17, 20, 21])
def test_an_opset_whose_layers_do_not_support_bf16_is_refused(cast_graph, opset):
    with pytest.raises(
        InputError, match=rf"Conv supports bfloat16 from opset 22; the graph has opset {opset}"
    ) as caught:
        cast_graph(opset=opset, dtype="bf16")
    assert "--opset 22" in caught.value.remedy


def test_an_operator_that_supports_bf16_only_later_stays_fp32(cast_graph):
    text = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { a = Relu (x)  [swish] b = HardSwish (a)  y = Neg (b) }"
    result = cast_graph(text, opset=20, dtype="bf16")
    assert result.record.fp32_nodes == (
        Fp32Node("swish", "HardSwish", "HardSwish does not support bfloat16 before opset 22"),
    )


@pytest.mark.parametrize(("extreme", "fp32_nodes"), [(1e38, []), (3.39e38, ["second", "last"])])
def test_the_range_of_bf16_is_that_of_its_type(cast_graph, extreme, fp32_nodes):
    assert cast_graph(CHAIN, ranges={"b": Range(0, extreme)}, dtype="bf16").fp32_nodes == fp32_nodes


@pytest.mark.parametrize("value", [1e-12, 1e30])
def test_constants_beyond_fp16_are_cast_to_bf16(cast_graph, value):
    text = "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { [mul] a = Mul (x, w)  [neg] y = Neg (a) }"
    weights = {"w": np.float32(value)}
    assert (
        cast_graph(text, weights=weights, dtype="bf16").fp32_nodes,
        cast_graph(text, weights=weights).fp32_nodes,
    ) == ([], ["mul"])


def test_openvino_runs_bf16(cast_graph):
    openvino = pytest.importorskip("openvino")
    result = cast_graph(dtype="bf16")
    exact = open_graph(result.source).run({"x": X})["y"]
    assert np.abs(openvino.Core().compile_model(str(result.file), "CPU")([X])[0] - exact).max() < BRAIN * exact.max()


def test_tensorrt_builds_bf16(cast_graph):
    tensorrt = pytest.importorskip("tensorrt_rtx")
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network, config = builder.create_network(0), builder.create_builder_config()
    parser = tensorrt.OnnxParser(network, tensorrt.Logger(tensorrt.Logger.ERROR))
    assert parser.parse_from_file(str(cast_graph(dtype="bf16").file)), parser.get_error(0).desc()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


# ── Figures of the types ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "largest", "rounding"), [("fp16", 65504, 2**-10), ("bf16", 3.3895314e38, 2**-7)])
def test_format_limits_match_the_type(name, largest, rounding):
    assert FORMATS[name].largest == pytest.approx(largest)
    assert FORMATS[name].rounding_tolerance == rounding


# ── Float16 inputs and outputs ────────────────────────────────────────────────────────────────────────────────────────


def test_float16_inputs_and_outputs_need_no_cast(cast_graph):
    result = cast_graph(opset=20, io="fp16")
    assert result.ends == ["FLOAT16", "FLOAT16"]
    assert result.casts == []
    assert [value.name for value in (*result.graph.inputs, *result.graph.outputs)] == ["x", "y"]


def test_a_graph_with_float16_inputs_and_outputs_agrees_with_fp32(cast_graph):
    result = cast_graph(opset=20, io="fp16")
    exact = open_graph(result.source).run({"x": X})["y"]
    half = open_graph(result.file).run({"x": X.astype(np.float16)})["y"]
    assert half.dtype == np.float16
    assert np.abs(half - exact).max() < HALF * np.abs(exact).max()


def test_a_first_node_that_stays_fp32_gets_a_cast_after_the_input(cast_graph):
    text = (
        "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { [up] a = Mul (x, w)  [down] b = Div (a, w)  [neg] y = Neg (b) }"
    )
    result = cast_graph(text, ranges={"a": Range(0, 1e6)}, weights={"w": np.float32(1e5)}, io="fp16")
    assert result.fp32_nodes == ["up", "down"]
    assert result.casts == [("x", "x/float"), ("b", "b/half")]


def test_a_last_node_that_stays_fp32_gets_its_cast_before_the_output(cast_graph):
    result = cast_graph(CHAIN, ranges={"b": Range(0, 1e6)}, io="fp16")
    assert result.casts == [("a", "a/float"), ("y/float", "y")]
    assert result.ends == ["FLOAT16", "FLOAT16"]


def test_pixels_stay_uint8(cast_graph):
    text = "g (uint8[N,3,8,8] x) => (float[N,3,8,8] y) { [pixels] a = Cast <to = 1> (x)  [neg] y = Neg (a) }"
    assert cast_graph(text, io="fp16").ends == ["UINT8", "FLOAT16"]


@pytest.mark.parametrize("end", ["x", "y"])
def test_an_input_or_output_beyond_float16_is_refused(cast_graph, end):
    with pytest.raises(InputError, match=rf"{end} cannot be float16: {end} reached 1e\+06, beyond ±65504") as caught:
        cast_graph(CHAIN, ranges={end: Range(0, 1e6)}, io="fp16")
    assert "--io fp32" in caught.value.remedy


def test_bf16_with_float16_inputs_and_outputs(cast_graph):
    result = cast_graph(dtype="bf16", io="fp16")
    assert result.ends == ["FLOAT16", "FLOAT16"]
    assert result.casts == [("x", "x/bfloat"), ("y/bfloat", "y")]


# ── In memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_graph_in_memory_is_typed_in_place(cast_graph):
    result = cast_graph(CHAIN)
    model = ir.load(result.source)
    fp32_nodes = cast_model(model, dict.fromkeys("xaby", Range(-9, 9)), "fp16", "fp16")
    assert fp32_nodes == ()
    assert {node.outputs[0].dtype.name for node in model.graph} == {"FLOAT16"}
