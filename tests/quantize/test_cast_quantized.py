from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploykit.backends.onnxruntime import open_graph
from deploykit.core.errors import InputError
from deploykit.core.values import DataRecord, KeptNode, Range, Ranges
from deploykit.quantize.cast import cast

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

    def __init__(self, folder: Path, text: str, opset: int, seen: dict[str, Range], **options: Any) -> None:
        constants = {**CONSTANTS, **options.pop("constants", {})}
        used = {name: array for name, array in constants.items() if f"{name}," in text or f"{name})" in text}
        self.source, self.file = folder / "model.onnx", folder / "half" / "model.onnx"
        write(self.source, text, used, opset)
        tensors = {**dict.fromkeys("xabcy", SEEN), **seen}  # nothing that a DequantizeLinear gives
        self.record = cast(self.source, Ranges(tensors, DATA), self.file.parent, **options)
        onnx.checker.check_model(self.file, full_check=True)
        self.graph = ir.load(self.file).graph
        self.kept = [each.node for each in self.record.kept]
        self.casts = [(n.inputs[0].name, n.outputs[0].name) for n in self.graph if n.op_type == "Cast"]

    def node(self, name: str) -> ir.Node:
        return next(node for node in self.graph if node.name == name)

    def reads(self, name: str) -> list[str | None]:
        return [value and value.dtype and value.dtype.name for value in self.node(name).inputs]

    def gives(self, name: str) -> str:
        return self.node(name).outputs[0].dtype.name

    @property
    def error(self) -> float:
        """The largest difference from the FP32-typed graph, as a share of that one's full scale."""
        exact, found = (open_graph(path).run({"x": X})["y"] for path in (self.source, self.file))
        return float(np.abs(exact - found).max() / np.abs(exact).max())


@pytest.fixture
def quantized(tmp_path: Path) -> Callable[..., Result]:
    return lambda text=NET, opset=20, seen=None, **options: Result(tmp_path, text, opset, seen or {}, **options)


# ── Everything in FP16 ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23, 24])
def test_layers_compute_in_fp16_at_every_opset_that_has_it(quantized, opset):
    found = quantized(opset=opset)
    assert found.record.kept == ()
    assert {found.gives(name) for name in ("conv1", "relu", "conv2", "add", "xd", "bd", "vd", "wd")} == {"FLOAT16"}


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_an_opset_whose_scales_are_float32_is_refused(quantized, opset):
    with pytest.raises(InputError, match=rf"takes float16 from opset 19 on; the graph has {opset}") as caught:
        quantized(opset=opset)
    assert "--opset 19" in caught.value.remedy


def test_no_cast_but_at_the_output(quantized):
    assert quantized().casts == [("y/half", "y")]


def test_a_pair_shares_one_float16_scale(quantized):
    found = quantized()
    assert found.reads("bq") == ["FLOAT16", "FLOAT16", "INT8"]
    assert found.reads("bd") == ["INT8", "FLOAT16", "INT8"]
    assert found.node("bq").inputs[1] is found.node("bd").inputs[1]


def test_the_scale_is_exactly_what_it_was(quantized):
    found = quantized()
    np.testing.assert_array_equal(found.node("vd").inputs[1].const_value.numpy(), CONSTANTS["vs"])


@pytest.mark.parametrize("name", ["vq", "wq", "z", "vz"])
def test_codes_and_zero_points_are_left_alone(quantized, name):
    held = quantized().graph.initializers[name].const_value.numpy()
    assert held.dtype == np.int8
    np.testing.assert_array_equal(held, CONSTANTS[name])


def test_it_agrees_with_the_fp32_typed_graph(quantized):
    assert quantized().error < 0.02  # a value at the middle between two codes may turn: one step of 4 / 127


def test_the_record_says_both_precisions(quantized):
    assert quantized().record.precision == "int8-fp16"


def test_bf16_is_refused(quantized):
    with pytest.raises(InputError, match="INT8 is combined with FP16, not with BF16"):
        quantized(opset=22, dtype="bf16")


# ── Borders ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_float32_input_is_quantized_as_it_comes(quantized):
    found = quantized()
    assert found.node("xq").inputs[0] is found.graph.inputs[0]
    assert found.reads("xq") == ["FLOAT", "FLOAT", "INT8"]


def test_a_float16_input_is_quantized_as_it_comes(quantized):
    found = quantized(io="fp16")
    assert found.casts == []
    assert found.reads("xq") == ["FLOAT16", "FLOAT16", "INT8"]


def test_a_layer_that_stays_fp32_reads_float32_behind_its_pairs(quantized):
    found = quantized(seen={"c": Range(-1e5, 1)})
    assert found.kept == ["conv2", "add"]
    assert found.reads("conv2") == ["FLOAT", "FLOAT"]
    assert found.gives("bd") == found.gives("wd") == "FLOAT"


def test_a_border_runs_through_a_pair_without_a_cast(quantized):
    found = quantized(seen={"c": Range(-1e5, 1)})
    assert found.reads("bq") == ["FLOAT16", "FLOAT16", "INT8"]
    assert found.reads("bd") == ["INT8", "FLOAT", "INT8"]
    assert found.casts == []


def test_what_both_sides_read_is_restored_twice(quantized):
    text = NET.replace("y) {", "y, float[N,8,8,8] h) {").replace("[add]", "[neg] h = Neg (bd)\n[add]")
    found = quantized(text, seen={"c": Range(-1e5, 1), "h": SEEN})
    assert (found.reads("neg"), found.reads("conv2")) == (["FLOAT16"], ["FLOAT", "FLOAT"])
    assert found.casts == [("h/half", "h")]


def test_a_restored_output_needs_no_cast(quantized):
    text = NET.replace("y) {", "y, float[N,8,8,8] bd) {")
    found = quantized(text)
    assert found.graph.outputs[1].dtype.name == "FLOAT"
    assert [target for _, target in found.casts] == ["y"]
    assert found.graph.outputs[1].producer().op_type == "DequantizeLinear"


# ── Scales and bounds ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_scale_that_float16_cannot_hold_keeps_its_reader_fp32(quantized):
    found = quantized(constants={"ws": np.full(8, 1e-9, np.float32)})
    reason = "ws is too small for float16: rounding it would change it by 100.00% (largest 1e-09)"
    assert found.record.kept == (KeptNode("conv2", "Conv", reason),)
    assert found.gives("wd") == "FLOAT"


def test_one_channel_is_enough(quantized):
    scales = CONSTANTS["ws"].copy()
    scales[3] = 1e-8  # less than 2⁻²⁴: float16 would make it 0
    assert quantized(constants={"ws": scales}).kept == ["conv2"]


def test_small_scales_that_float16_holds_exactly_are_taken(quantized):
    assert quantized(constants={"ws": np.full(8, 3 * 2.0**-24, np.float32)}).kept == []


def test_a_coarse_pair_of_activations_stays_fp32_on_both_sides(quantized):
    found = quantized(constants={"bs": np.array(1e-9, np.float32)})
    assert found.kept == ["bq", "conv2", "add"]
    assert found.reads("bq") == ["FLOAT", "FLOAT", "INT8"]
    assert found.casts == [("b", "b/float")]


def test_what_a_pair_may_give_is_128_times_its_scale(quantized):
    found = quantized(constants={"bs": np.array(512, np.float32)})
    assert found.record.kept[0] == KeptNode("conv2", "Conv", "bd may reach 6.554e+04, beyond ±65504")


def test_the_largest_scale_within_the_range(quantized):
    assert quantized(constants={"bs": np.array(511, np.float32)}).kept == []


def test_constant_codes_are_taken_as_they_are(quantized):
    found = quantized(constants={"ws": np.full(8, 1024, np.float32), "wq": np.ones((8, 8, 1, 1), np.int8)})
    assert found.kept == []


# ── Nodes between pairs ─────────────────────────────────────────────────────────────────────────────────────────────

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


def carrying(quantized, body: str) -> Result:
    text = CARRY.replace("BODY", body)
    if "bd" not in body:
        text = "\n".join(line for line in text.splitlines() if not {"b", "bq", "[bd]"} & set(line.split()))
    return quantized(text, seen={"d": SEEN, "e": SEEN})


@pytest.mark.parametrize("body", ["Concat <axis = 2> (ad, bd)", "MaxPool <kernel_shape = [2,2]> (ad)"])
def test_what_only_carries_codes_needs_no_type(quantized, body):
    found = carrying(quantized, body)
    assert found.record.kept == ()
    assert set(found.reads("carry")) == {"FLOAT"}
    assert found.casts == [("x", "x/half"), ("y/half", "y")]


@pytest.mark.parametrize("body", ["Concat <axis = 2> (ad, bd)", "MaxPool <kernel_shape = [2,2]> (ad)"])
def test_onnx_runtime_runs_it(quantized, body):
    assert carrying(quantized, body).error < 0.02


# ── Other runtimes ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seen", [{}, {"c": Range(-1e5, 1)}])
def test_openvino_runs_it(quantized, seen):
    openvino = pytest.importorskip("openvino")
    found = quantized(seen=seen)
    model = openvino.Core().compile_model(str(found.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    exact = open_graph(found.source).run({"x": X})["y"]
    assert np.abs(model([X])[0] - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("seen", [{}, {"c": Range(-1e5, 1)}])
def test_tensorrt_builds_it(quantized, seen):
    tensorrt = pytest.importorskip("tensorrt_rtx")
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network, config = builder.create_network(0), builder.create_builder_config()
    parser = tensorrt.OnnxParser(network, tensorrt.Logger(tensorrt.Logger.ERROR))
    assert parser.parse_from_file(str(quantized(seen=seen).file)), parser.get_error(0).desc()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 8, 8, 8), (2, 8, 8, 8), (4, 8, 8, 8))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
