"""The audit of converted graphs: it names each damage, and finds none in graphs as they were converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_int8 import X, calibrated, parse, random

from deploykit.backends.onnxruntime import open_graph
from deploykit.core.values import Precision, PrecisionGraphRecord, Range, Ranges, Recipe
from deploykit.quantize import int8
from deploykit.quantize.calibrate import add_graph_outputs, observe_ranges
from deploykit.quantize.cast import write_cast_graph
from deploykit.quantize.conversion_audit import GraphDifferences, Int8Account, audit_conversion

TEXT = """g (float[N,4,8,8] x) => (float[N,10] y) {
    [first] c0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    [relu] r0 = Relu (c0)
    [norm] n0 = BatchNormalization (r0, gamma, beta, mean, variance)
    [clip] k0 = Clip (n0, low, high)
    [second] c1 = Conv (k0, w1, b1)
    [skip] s0 = Add (c1, r0)
    [join] j0 = Concat <axis = 1> (s0, k0)
    [up] u0 = ConvTranspose <strides = [2, 2]> (j0, w2)
    [pool] p0 = GlobalAveragePool (u0)
    [flat] f0 = Flatten (p0)
    [product] m0 = MatMul (f0, w3)
    [last] y = Gemm <transB = 1> (m0, w4, b4)
}"""
"""A layer of every kind, BatchNormalization that follows no layer, a Clip without upper bound, a skip and a Concat."""


def weights() -> dict[str, np.ndarray]:
    normalization = {"gamma": random(4, seed=2), "beta": random(4, seed=3), "mean": random(4, seed=4)}
    kernels = {"w0": random(4, 4, 3, 3), "w1": random(4, 4, 1, 1), "w2": random(8, 6, 2, 2)}
    kernels["w1"][3] *= 1e-12  # training has switched this channel off: its bias sets its scale
    matrices = {"w3": random(6, 12), "w4": random(10, 12)}
    biases = {"b0": random(4), "b1": random(4, seed=1), "b4": random(10)}
    bounds = {"low": np.float32(-2), "high": np.float32(3.4e38)}
    return {**kernels, **matrices, **biases, **bounds, **normalization, "variance": np.abs(random(4, seed=5))}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "fp32.onnx"
    ir.save(parse(TEXT, opset=22, **weights()), path)
    return path


class Converted:
    """The source at one precision, and what its manifest would record."""

    def __init__(self, source: Path, precision: Precision, record: PrecisionGraphRecord, folder: Path) -> None:
        self.source, self.precision, self.path = source, precision, folder / record.files[0].path
        self.record = record

    def audit(self, graph: Path | None = None) -> GraphDifferences:
        placement, recipe = self.record.placement, self.record.recipe
        account = None
        if placement is not None and recipe is not None:
            thresholds = int8.clip_thresholds(calibrated(self.source, half=recipe.rest == "fp16"))
            account = Int8Account(placement, thresholds, recipe)
        return audit_conversion(self.source, graph or self.path, self.precision, account)

    def damage(self, folder: Path, change: Callable[[ir.Graph], None]) -> tuple[str, ...]:
        """What the audit finds in the graph after `change`."""
        model = ir.load(self.path)
        change(model.graph)
        ir.save(model, folder / "damaged.onnx")
        return sum(self.audit(folder / "damaged.onnx"), ())


def convert(source, folder, words):
    """`words`: a precision, then `corrected` for corrected biases, `io16` for an FP16 interface."""
    precision, *options = words.split()
    if precision in ("fp16", "bf16"):
        exposed = folder / "exposed.onnx"
        add_graph_outputs(source, exposed, None)
        ranges = observe_ranges(open_graph(exposed), [{"x": X}], calibrated(source).ranges.data)
        io = "fp16" if "io16" in options else "fp32"
        return Converted(source, precision, write_cast_graph(source, ranges, folder, precision, io), folder)
    half = precision == "int8-fp16"
    recipe = Recipe(rest="fp16" if half else "fp32", correct_bias="corrected" in options)
    record = int8.write_quantized_graph(source, calibrated(source, half=half), recipe, folder)
    return Converted(source, precision, record, folder)


@pytest.fixture(scope="module")
def quantized(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return convert(source, tmp_path_factory.mktemp("int8"), "int8")


@pytest.fixture(scope="module")
def corrected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return convert(source, tmp_path_factory.mktemp("corrected"), "int8 corrected")


@pytest.fixture(scope="module")
def half(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return convert(source, tmp_path_factory.mktemp("fp16"), "fp16")


def edit(graph, name, change):
    """Change an initializer."""
    value = graph.initializers[name]
    array = value.const_value.numpy()
    value.const_value = ir.tensor(np.asarray(change(array)).astype(array.dtype), name=name)


def find_node(graph: ir.Graph, name: str) -> ir.Node:
    return next(node for node in graph if node.name == name)


# ── As converted ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words", ["fp16", "fp16 io16", "bf16", "int8", "int8 corrected", "int8-fp16", "int8-fp16 corrected"]
)
def test_a_graph_as_it_was_converted_has_no_difference(source, tmp_path, words):
    assert convert(source, tmp_path, words).audit() == ((), ())


def test_a_layer_that_stays_fp32_keeps_its_weights(source, tmp_path):
    data = calibrated(source).ranges.data
    exposed = tmp_path / "exposed.onnx"
    add_graph_outputs(source, exposed, None)
    ranges = observe_ranges(open_graph(exposed), [{"x": X}], data)
    wide = Ranges({**ranges.tensors, "c1": Range(-1e6, 1e6)}, data)
    converted = Converted(source, "fp16", write_cast_graph(source, wide, tmp_path), tmp_path)
    assert "second" in {node.node for node in converted.record.fp32_nodes}
    assert converted.audit() == ((), ())


def test_another_export_of_the_same_weights_may_differ_by_float32_noise(source, quantized, tmp_path):
    model = ir.load(source)
    edit(model.graph, "w1", lambda weight: weight * np.float32(1 + 2e-6))
    ir.save(model, tmp_path / "again.onnx")
    again = Converted(tmp_path / "again.onnx", "int8", quantized.record, quantized.path.parent)
    thresholds = int8.clip_thresholds(calibrated(source))
    account = Int8Account(quantized.record.placement, thresholds, quantized.record.recipe)
    assert audit_conversion(again.source, again.path, "int8", account) == ((), ())


# ── Damaged INT8 graphs ───────────────────────────────────────────────────────────────────────────────────────────────


def test_noise_of_5_percent_on_one_layers_codes_is_found(quantized, tmp_path):
    def add_noise(codes):
        noise = np.random.default_rng(0).standard_normal(codes.shape) * 0.05 * codes.std()
        return np.clip(np.rint(codes + noise), -127, 127)

    [found] = quantized.damage(tmp_path, lambda graph: edit(graph, "w1/codes", add_noise))
    assert found.startswith("second: its weights are not the FP32 graph's, rounded: ")


def test_swapped_channels_of_a_weight_are_found(quantized, tmp_path):
    swap = [1, 0, 2, 3]
    [found] = quantized.damage(tmp_path, lambda graph: edit(graph, "w1/codes", lambda codes: codes[:, swap]))
    assert found.startswith("second: its weights are not the FP32 graph's, rounded: ")


def test_a_weight_scale_four_times_too_wide_is_found(quantized, tmp_path):
    [found] = quantized.damage(tmp_path, lambda graph: edit(graph, "w3/scale", lambda scale: scale * 4))
    assert found.startswith("product: 12 of the 12 scales of its weights are wrong: that of channel 0 is 4 times")


def test_a_weight_quantized_with_a_scale_four_times_too_wide_is_found(quantized, tmp_path):
    """Every weight is within half of its step: only the step is wrong."""

    def widen(graph):
        edit(graph, "w1/scale", lambda scale: scale * 4)
        edit(graph, "w1/codes", lambda codes: np.rint(codes / 4))

    [found] = quantized.damage(tmp_path, widen)
    assert found.startswith("second: 4 of the 4 scales of its weights are wrong: that of channel 0 is 4 times")


def test_the_only_scale_of_a_transposed_convolution_is_compared(quantized, tmp_path):
    [found] = quantized.damage(tmp_path, lambda graph: edit(graph, "w2/scale", lambda scale: scale * 4))
    assert found.startswith("up: 1 of the 1 scales of its weights are wrong: that of channel 0 is 4 times")


def test_codes_of_a_transposed_convolution_that_are_not_its_weights_are_found(quantized, tmp_path):
    [found] = quantized.damage(tmp_path, lambda graph: edit(graph, "w2/codes", lambda codes: codes[:, ::-1]))
    assert found.startswith("up: its weights are not the FP32 graph's, rounded: ")


def test_an_activation_scale_four_times_too_wide_is_found(quantized, tmp_path):
    [found] = quantized.damage(tmp_path, lambda graph: edit(graph, "m0/scale", lambda scale: scale * 4))
    assert found.startswith("m0: the scale of its Q/DQ pair is ")
    assert "4 times threshold / 127 of the calibration" in found


def test_a_dropped_bias_is_found(quantized, tmp_path):
    [found] = quantized.damage(tmp_path, lambda graph: find_node(graph, "first").replace_input_with(2, None))
    assert found == "first: its bias is missing"


def test_a_bias_that_no_correction_explains_is_found(corrected, tmp_path):
    [found] = corrected.damage(tmp_path, lambda graph: edit(graph, "first/corrected_bias", np.zeros_like))
    assert found.startswith("first: its bias is not the FP32 graph's, corrected: ")


def test_a_missing_pair_is_found(quantized, tmp_path):
    def bypass(graph):
        last = find_node(graph, "last")
        last.replace_input_with(0, last.inputs[0].producer().inputs[0].producer().inputs[0])

    assert quantized.damage(tmp_path, bypass) == (
        "last: its input m0 has no Q/DQ pair, which the manifest places otherwise",
    )


def test_a_pair_that_the_placement_has_not_is_found(quantized, tmp_path):
    def quantize_skip_twice(graph):
        pair = next(use.node for use in graph.initializers["f0/scale"].uses() if use.node.op_type == "QuantizeLinear")
        flat = find_node(graph, "flat").outputs[0]
        scale, zero = pair.inputs[1:]
        quantize = ir.node("QuantizeLinear", [flat, scale, zero], name="more/Q")
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero], name="more/DQ")
        quantize.outputs[0].name, dequantize.outputs[0].name = "more/q", "more/dq"
        graph.insert_before(pair, [quantize, dequantize])
        pair.replace_input_with(0, dequantize.outputs[0])

    assert quantized.damage(tmp_path, quantize_skip_twice) == (
        "product: its input f0 has 2 Q/DQ pairs, which the manifest places otherwise",
    )


def test_codes_that_are_not_symmetric_are_found(quantized, tmp_path):
    [found] = quantized.damage(tmp_path, lambda graph: edit(graph, "w1/zero_point", lambda zero: zero + 1))
    assert found == "second: its weights are not symmetric int8 codes"


# ── Damaged 16-bit graphs ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_16_bit_weight_that_is_not_rounded_to_nearest_is_found(half, tmp_path):
    """Rounding toward zero is a step of the type away from half of the weights."""

    def truncate(weight):
        exact = weights()["w1"]
        return np.where(np.abs(weight) > np.abs(exact), np.nextafter(weight, np.float16(0)), weight)

    [found] = half.damage(tmp_path, lambda graph: edit(graph, "w1/float16", truncate))
    assert found.startswith(
        "second: its weights are not the FP32 graph's, rounded to float16: the difference is up to "
    )


def test_noise_of_5_percent_on_one_16_bit_layer_is_found(half, tmp_path):
    noise = random(12, 10, seed=9).T * 0.05
    [found] = half.damage(tmp_path, lambda graph: edit(graph, "w4/float16", lambda weight: weight + noise))
    assert found.startswith("last: its weights are not the FP32 graph's, rounded to float16")


@pytest.mark.parametrize(
    ("position", "sentence"),
    [
        (1, "norm: its scale is not γ/√(σ² + ε) of the FP32 graph, rounded to float16: "),
        (2, "norm: its bias is not β − scale · μ of the FP32 graph, rounded to float16: "),
    ],
)
def test_a_batchnorm_with_other_folded_statistics_is_found(half, tmp_path, position, sentence):
    def halve(graph):
        edit(graph, find_node(graph, "norm").inputs[position].name, lambda array: array / 2)

    assert half.damage(tmp_path, halve)[0].startswith(sentence)


def test_a_bound_of_a_clip_that_goes_missing_is_found(half, tmp_path):
    found = half.damage(tmp_path, lambda graph: find_node(graph, "clip").replace_input_with(1, None))
    assert found == ("clip: its constant at input 1 is missing",)


# ── Structure ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_other_attributes_are_found(half, tmp_path):
    def stride(graph):
        find_node(graph, "up").attributes["strides"] = ir.AttrInt64s("strides", [2, 1])

    assert half.damage(tmp_path, stride) == ("up: its attributes differ from the FP32 graph's: strides",)


def test_another_operator_is_found(half, tmp_path):
    def replace(graph):
        find_node(graph, "relu").op_type = "Abs"

    assert half.damage(tmp_path, replace) == ("relu: its operator is Abs, and Relu in the FP32 graph",)


def test_a_node_that_reads_another_tensor_is_found(half, tmp_path):
    def connect(graph):
        find_node(graph, "skip").replace_input_with(1, find_node(graph, "clip").outputs[0])

    assert half.damage(tmp_path, connect) == ("skip: its input 1 is k0, and r0 in the FP32 graph",)


def test_a_bypassed_node_is_found(half, tmp_path):
    def bypass(graph):
        relu = find_node(graph, "relu")
        ir.convenience.replace_all_uses_with(relu.outputs[0], relu.inputs[0])
        graph.remove(relu, safe=True)

    found = half.damage(tmp_path, bypass)
    assert found[0] == "relu: this Relu of the FP32 graph is missing"
