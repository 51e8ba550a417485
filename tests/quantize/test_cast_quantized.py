from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploykit.backends.onnxruntime import open_graph
from deploykit.core.errors import InputError
from deploykit.core.values import DataRecord, Fp32Node, Range, Ranges
from deploykit.quantize.cast import write_cast_graph

DATA = DataRecord("toys", "calibration", 2, True, False, "0" * 64)
SEEN = Range(-6, 6)
STEP = 2.0**-5
"""Scale of all activations: 127 of it are ±4."""


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


X = random(2, 8, 8, 8, seed=9)

NET = """g (float[N,8,8,8] x) => (float[N,8,8,8] y) {
    [xq] xq = QuantizeLinear (x, s, z)
    [xd] xd = DequantizeLinear (xq, s, z)
    [vd] vd = DequantizeLinear <axis = 0> (vq, vs, vz)
    [conv1] a = Conv (xd, vd, bias)
    [relu] b = Relu (a)
    [bq] bq = QuantizeLinear (b, bs, z)
    [bd] bd = DequantizeLinear (bq, bs, z)
    [wd] wd = DequantizeLinear <axis = 0> (wq, ws, vz)
    [conv2] c = Conv (bd, wd)
    [add] y = Add (c, bd)
}"""


def codes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, shape, np.int8)


CONSTANTS: dict[str, np.ndarray] = {
    "s": np.array(STEP, np.float32),
    "bs": np.array(STEP, np.float32),
    "z": np.array(0, np.int8),
    "vq": codes(8, 8, 1, 1, seed=1),
    "wq": codes(8, 8, 1, 1, seed=2),
    "vs": np.linspace(0.002, 0.004, 8).astype(np.float16).astype(np.float32),
    "ws": np.linspace(0.001, 0.003, 8).astype(np.float16).astype(np.float32),
    "vz": np.zeros(8, np.int8),
    "bias": random(8),
}


def write(path: Path, text: str, constants: dict[str, np.ndarray], opset: int) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(onnx.shape_inference.infer_shapes(proto, data_prop=True), path)


class Result:
    """A quantized graph before and after."""

    def __init__(self, folder: Path, text: str, opset: int, ranges: dict[str, Range], **options: Any) -> None:
        constants = {**CONSTANTS, **options.pop("constants", {})}
        used = {name: array for name, array in constants.items() if f"{name}," in text or f"{name})" in text}
        self.source, self.file = folder / "model.onnx", folder / "half" / "model.onnx"
        write(self.source, text, used, opset)
        tensors = {**dict.fromkeys("xabcy", SEEN), **ranges}  # no output of a DequantizeLinear
        self.record = write_cast_graph(self.source, Ranges(tensors, DATA), self.file.parent, **options)
        onnx.checker.check_model(self.file, full_check=True)
        self.graph = ir.load(self.file).graph
        self.fp32_nodes = [node.node for node in self.record.fp32_nodes]
        casts = [node for node in self.graph if node.op_type == "Cast"]
        self.casts = [tuple(value and value.name for value in (*node.inputs, *node.outputs)) for node in casts]

    def node(self, name: str) -> ir.Node:
        return next(node for node in self.graph if node.name == name)

    def reads(self, name: str) -> list[str | None]:
        return [value.dtype.name if value and value.dtype else None for value in self.node(name).inputs]

    def gives(self, name: str) -> str:
        return str(self.node(name).outputs[0].dtype)

    @property
    def error(self) -> float:
        """The largest difference from the FP32 graph, relative to its full scale."""
        exact, result = (open_graph(path).run({"x": X})["y"] for path in (self.source, self.file))
        return float(np.abs(exact - result).max() / np.abs(exact).max())


@pytest.fixture
def quantized(tmp_path: Path) -> Callable[..., Result]:
    return lambda text=NET, opset=20, ranges=None, **options: Result(tmp_path, text, opset, ranges or {}, **options)


# ── Everything in FP16 ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23, 24])
def test_layers_compute_in_fp16_at_every_opset_with_fp16_scales(quantized, opset):
    result = quantized(opset=opset)
    assert result.record.fp32_nodes == ()
    assert {result.gives(name) for name in ("conv1", "relu", "conv2", "add", "xd", "bd", "vd", "wd")} == {"FLOAT16"}


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_an_opset_whose_scales_are_float32_is_refused(quantized, opset):
    with pytest.raises(InputError, match=rf"supports float16 from opset 19; the graph has opset {opset}") as caught:
        quantized(opset=opset)
    assert "--opset 19" in caught.value.remedy


def test_the_only_cast_is_at_the_output(quantized):
    assert quantized().casts == [("y/half", "y")]


def test_a_pair_shares_one_float16_scale(quantized):
    result = quantized()
    assert result.reads("bq") == ["FLOAT16", "FLOAT16", "INT8"]
    assert result.reads("bd") == ["INT8", "FLOAT16", "INT8"]
    assert result.node("bq").inputs[1] is result.node("bd").inputs[1]


def test_the_scales_value_is_unchanged(quantized):
    result = quantized()
    np.testing.assert_array_equal(result.node("vd").inputs[1].const_value.numpy(), CONSTANTS["vs"])


@pytest.mark.parametrize("name", ["vq", "wq", "z", "vz"])
def test_codes_and_zero_points_are_unchanged(quantized, name):
    held = quantized().graph.initializers[name].const_value.numpy()
    assert held.dtype == np.int8
    np.testing.assert_array_equal(held, CONSTANTS[name])


def test_the_cast_graph_agrees_with_the_fp32_graph(quantized):
    assert quantized().error < 0.02  # a value midway between two codes may round either way: one step of 4 / 127


def test_the_record_contains_both_precisions(quantized):
    assert quantized().record.precision == "int8-fp16"


def test_bf16_is_refused(quantized):
    with pytest.raises(InputError, match="INT8 is combined with FP16, not with BF16"):
        quantized(opset=22, dtype="bf16")


# ── Borders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_float32_input_is_quantized_without_a_cast(quantized):
    result = quantized()
    assert result.node("xq").inputs[0] is result.graph.inputs[0]
    assert result.reads("xq") == ["FLOAT", "FLOAT", "INT8"]


def test_a_float16_input_is_quantized_without_a_cast(quantized):
    result = quantized(io="fp16")
    assert result.casts == []
    assert result.reads("xq") == ["FLOAT16", "FLOAT16", "INT8"]


def test_the_pairs_of_an_fp32_layer_return_float32(quantized):
    result = quantized(ranges={"c": Range(-1e5, 1)})
    assert result.fp32_nodes == ["conv2", "add"]
    assert result.reads("conv2") == ["FLOAT", "FLOAT"]
    assert result.gives("bd") == result.gives("wd") == "FLOAT"


def test_the_precision_changes_across_a_pair_without_a_cast(quantized):
    result = quantized(ranges={"c": Range(-1e5, 1)})
    assert result.reads("bq") == ["FLOAT16", "FLOAT16", "INT8"]
    assert result.reads("bd") == ["INT8", "FLOAT", "INT8"]
    assert result.casts == []


def test_a_dequantize_read_in_both_types_is_duplicated(quantized):
    text = NET.replace("y) {", "y, float[N,8,8,8] h) {").replace("[add]", "[neg] h = Neg (bd)\n[add]")
    result = quantized(text, ranges={"c": Range(-1e5, 1), "h": SEEN})
    assert (result.reads("neg"), result.reads("conv2")) == (["FLOAT16"], ["FLOAT", "FLOAT"])
    assert result.casts == [("h/half", "h")]


def test_a_dequantized_output_needs_no_cast(quantized):
    text = NET.replace("y) {", "y, float[N,8,8,8] bd) {")
    result = quantized(text)
    assert result.graph.outputs[1].dtype.name == "FLOAT"
    assert [target for _, target in result.casts] == ["y"]
    assert result.graph.outputs[1].producer().op_type == "DequantizeLinear"


# ── Scales and bounds ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_scale_beyond_float16_keeps_its_reader_fp32(quantized):
    result = quantized(constants={"ws": np.full(8, 1e-9, np.float32)})
    reason = "ws is too small for float16: rounding it would change it by 100.00% (largest 1e-09)"
    assert result.record.fp32_nodes == (Fp32Node("conv2", "Conv", reason),)
    assert result.gives("wd") == "FLOAT"


def test_one_channels_scale_beyond_float16_keeps_the_reader_fp32(quantized):
    scales = CONSTANTS["ws"].copy()
    scales[3] = 1e-8  # less than 2⁻²⁴: float16 would make it 0
    assert quantized(constants={"ws": scales}).fp32_nodes == ["conv2"]


def test_small_scales_representable_in_float16_are_cast(quantized):
    assert quantized(constants={"ws": np.full(8, 3 * 2.0**-24, np.float32)}).fp32_nodes == []


def test_a_coarse_pair_of_activations_stays_fp32_on_both_sides(quantized):
    result = quantized(constants={"bs": np.array(1e-9, np.float32)})
    assert result.fp32_nodes == ["bq", "conv2", "add"]
    assert result.reads("bq") == ["FLOAT", "FLOAT", "INT8"]
    assert result.casts == [("b", "b/float")]


def test_a_pairs_output_is_bounded_by_128_times_its_scale(quantized):
    result = quantized(constants={"bs": np.array(512, np.float32)})
    assert result.record.fp32_nodes[0] == Fp32Node("conv2", "Conv", "bd may reach 6.554e+04, beyond ±65504")


def test_the_largest_scale_within_the_range(quantized):
    assert quantized(constants={"bs": np.array(511, np.float32)}).fp32_nodes == []


def test_the_bound_of_constant_codes_uses_their_values(quantized):
    result = quantized(constants={"ws": np.full(8, 1024, np.float32), "wq": np.ones((8, 8, 1, 1), np.int8)})
    assert result.fp32_nodes == []


# ── Nodes between pairs ───────────────────────────────────────────────────────────────────────────────────────────────

CARRY = """g (float[N,8,8,8] x) => (float[N,A,B,C] y) {
    [a] a = Relu (x)
    [b] b = Neg (x)
    aq = QuantizeLinear (a, s, z)
    [ad] ad = DequantizeLinear (aq, s, z)
    bq = QuantizeLinear (b, s, z)
    [bd] bd = DequantizeLinear (bq, s, z)
    [carry] c = BODY
    cq = QuantizeLinear (c, s, z)
    [cd] cd = DequantizeLinear (cq, s, z)
    [last] d = Neg (cd)
    [sum] e = GlobalAveragePool (ad)
    [end] y = Add (d, e)
}"""


def cast_passthrough(quantized, body: str) -> Result:
    text = CARRY.replace("BODY", body)
    if "bd" not in body:
        text = "\n".join(line for line in text.splitlines() if not {"b", "bq", "[bd]"} & set(line.split()))
    return quantized(text, ranges={"d": SEEN, "e": SEEN})


@pytest.mark.parametrize("body", ["Concat <axis = 2> (ad, bd)", "MaxPool <kernel_shape = [2,2]> (ad)"])
def test_a_passthrough_of_codes_is_unchanged(quantized, body):
    result = cast_passthrough(quantized, body)
    assert result.record.fp32_nodes == ()
    assert set(result.reads("carry")) == {"FLOAT"}
    assert result.casts == [("x", "x/half"), ("y/half", "y")]


@pytest.mark.parametrize("body", ["Concat <axis = 2> (ad, bd)", "MaxPool <kernel_shape = [2,2]> (ad)"])
def test_onnx_runtime_runs_the_graph(quantized, body):
    assert cast_passthrough(quantized, body).error < 0.02


# ── Other runtimes ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ranges", [{}, {"c": Range(-1e5, 1)}])
def test_openvino_runs_the_graph(quantized, ranges):
    openvino = pytest.importorskip("openvino")
    result = quantized(ranges=ranges)
    model = openvino.Core().compile_model(str(result.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    exact = open_graph(result.source).run({"x": X})["y"]
    assert np.abs(model([X])[0] - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("ranges", [{}, {"c": Range(-1e5, 1)}])
def test_tensorrt_builds_the_graph(quantized, ranges):
    tensorrt = pytest.importorskip("tensorrt_rtx")
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network, config = builder.create_network(0), builder.create_builder_config()
    parser = tensorrt.OnnxParser(network, tensorrt.Logger(tensorrt.Logger.ERROR))
    assert parser.parse_from_file(str(quantized(ranges=ranges).file)), parser.get_error(0).desc()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 8, 8, 8), (2, 8, 8, 8), (4, 8, 8, 8))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
