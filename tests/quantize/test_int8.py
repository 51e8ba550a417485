import itertools

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_int8 import KERNELS, X, calibrated, compute, convolutional, parse, random, require_rtx, snr

from deploykit.core.errors import InputError
from deploykit.core.values import Recipe
from deploykit.quantize import int8

BODY = """[one] a = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (a) [two] c = Conv (r, w0)
    [add] s = Add (c, x) t = Relu (s) [last] y = Conv (t, w1)"""


def model(opset=20):
    return convolutional(BODY, opset, w=random(4, 4, 3, 3) / 3, b=random(4))


@pytest.fixture
def source(tmp_path):
    ir.save(model(), tmp_path / "source.onnx")
    return tmp_path / "source.onnx"


@pytest.fixture
def fresh(tmp_path):
    """A new folder each time."""
    numbers = itertools.count()
    return lambda: tmp_path / f"quantized-{next(numbers)}"


def read_graph_bytes(folder):
    return (folder / "model.onnx").read_bytes()


RECIPES = pytest.mark.parametrize("recipe", [Recipe(), Recipe(rest="fp16", correct_bias=True)], ids=["fp32", "fp16"])


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@RECIPES
def test_two_runs_write_the_same_bytes(source, fresh, recipe):
    statistics = calibrated(source, half=True)
    one, other = fresh(), fresh()
    assert int8.write_quantized_graph(source, statistics, recipe, one) == int8.write_quantized_graph(
        source, statistics, recipe, other
    )
    assert read_graph_bytes(one) == read_graph_bytes(other)


@RECIPES
def test_the_order_of_ranges_changes_nothing(source, fresh, recipe):
    statistics = calibrated(source, half=True)
    ranges = msgspec.structs.replace(statistics.ranges, tensors=dict(reversed(statistics.ranges.tensors.items())))
    turned = msgspec.structs.replace(statistics, ranges=ranges, means=dict(reversed(statistics.means.items())))
    one, other = fresh(), fresh()
    int8.write_quantized_graph(source, statistics, recipe, one)
    int8.write_quantized_graph(source, turned, recipe, other)
    assert read_graph_bytes(one) == read_graph_bytes(other)


def test_int8_weights_need_a_quarter_of_the_space(tmp_path, fresh):
    ir.save(convolutional("[conv] y = Conv (x, w)", w=random(256, 4, 5, 5)), tmp_path / "large.onnx")
    folder = fresh()
    record = int8.write_quantized_graph(tmp_path / "large.onnx", calibrated(tmp_path / "large.onnx"), Recipe(), folder)
    assert record.files[0].bytes == pytest.approx((tmp_path / "large.onnx").stat().st_size / 4, rel=0.1)


def test_external_weights_of_the_source_are_included(tmp_path, fresh):
    ir.save(model(), tmp_path / "source.onnx", external_data="weights.data", size_threshold_bytes=0)
    statistics, folder = calibrated(tmp_path / "source.onnx"), fresh()
    int8.write_quantized_graph(tmp_path / "source.onnx", statistics, Recipe(), folder)
    (tmp_path / "weights.data").unlink()
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(folder / "model.onnx", full_check=True)


# ── Record and results ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_record_contains_the_placement_and_its_rules(source, fresh):
    record = int8.write_quantized_graph(source, calibrated(source), Recipe(), fresh())
    assert record.placement == int8.plan_placement(source)
    assert record.recipe == Recipe()
    assert (record.precision, record.fp32_nodes, record.cast_nodes) == ("int8", (), 0)


def test_excluded_layers_stay_in_floating_point(source, fresh):
    folder = fresh()
    record = int8.write_quantized_graph(source, calibrated(source), Recipe(excluded=("one",)), folder)
    assert record.placement.layers == ("two", "last")
    assert "w" in ir.load(folder / "model.onnx").graph.initializers


@pytest.mark.parametrize("excluded", ["one", "two", "last", "add"])
def test_one_calibration_serves_any_exclusion(source, fresh, excluded):
    int8.write_quantized_graph(source, calibrated(source), Recipe(excluded=(excluded,)), fresh())


@RECIPES
def test_the_graph_computes_nearly_the_same(source, fresh, recipe):
    folder = fresh()
    int8.write_quantized_graph(source, calibrated(source, half=True), recipe, folder)
    assert snr(compute(source, x=X)["y"], compute(folder / "model.onnx", x=X)["y"]) > 25


def test_the_rest_is_cast_to_fp16(source, fresh):
    folder = fresh()
    record = int8.write_quantized_graph(source, calibrated(source, half=True), Recipe(rest="fp16"), folder)
    graph = ir.load(folder / "model.onnx").graph
    assert record.precision == "int8-fp16"
    bias = next(node for node in graph if node.name == "one").inputs[2]
    assert bias.dtype == ir.DataType.FLOAT16
    assert {value.dtype for value in (*graph.inputs, *graph.outputs)} == {ir.DataType.FLOAT}
    assert record.cast_nodes == sum(1 for node in graph if node.op_type == "Cast")


def test_inputs_and_outputs_are_fp16_on_request(source, fresh):
    folder = fresh()
    int8.write_quantized_graph(source, calibrated(source, half=True), Recipe(rest="fp16", io="fp16"), folder)
    graph = ir.load(folder / "model.onnx").graph
    assert {value.dtype for value in (*graph.inputs, *graph.outputs)} == {ir.DataType.FLOAT16}


def test_scales_are_the_same_codes_in_fp16(source, fresh):
    """Conversion must not change a scale: else the FP16 graph would quantize to other codes than those evaluated."""
    statistics, folder = calibrated(source, half=True), fresh()
    int8.write_quantized_graph(source, statistics, Recipe(rest="fp16"), folder)
    quantize = next(node for node in ir.load(folder / "model.onnx").graph if node.name == "r/QuantizeLinear")
    scale, exact = quantize.inputs[1].const_value.numpy(), int8.clip_thresholds(statistics)["r"] / 127
    assert scale.dtype == np.float16
    assert exact <= scale <= exact * (1 + 2.0**-10)


# ── Networks of other kinds ───────────────────────────────────────────────────────────────────────────────────────────

UNET = """g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
    [down] a = Conv <pads = [1, 1, 1, 1]> (x, w) s = Relu (a)
    [pool] p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s)
    [low] b = Conv (p, w0) r = Relu (b) [up] u = ConvTranspose <strides = [2, 2]> (r, v)
    [cat] c = Concat <axis = 1> (s, u) [last] y = Conv (c, wide) }"""
MOBILE = """g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float low = {0}, float high = {6}> {
    [expand] a = Conv (x, w0) b = Clip (a, low, high) [depthwise] c = Conv <group = 4, pads = [1, 1, 1, 1]> (b, d, bias)
    e = HardSwish (c) p = GlobalAveragePool (e) [squeeze] q = Conv (p, w1) g = HardSigmoid (q) m = Mul (e, g)
    [project] f = Conv (m, w2) [add] y = Add (f, x) }"""
TRANSFORMER = """g (float[N,4,8] x) => (float[N,4,8] y) {
    n = LayerNormalization (x, ones) [query] q = MatMul (n, m0) [key] k = MatMul (n, m1)
    t = Transpose <perm = [0, 2, 1]> (k)
    s = MatMul (q, t) a = Softmax (s) v = MatMul (a, n) [out] o = MatMul (v, m2) [skip] y = Add (o, x) }"""
HEADS = """g (float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,4,4] z) {
    [one] a = Conv (x, w0) r = Relu (a) [box] y = Conv (r, w1) [two] b = Conv <strides = [2, 2]> (r, w2)
    s = Relu (b) [class] z = Conv (s, w1) }"""
VOLUME = """g (float[N,4,4,8,8] x) => (float[N,4,4,8,8] y) {
    [one] a = Conv (x, v3) r = Relu (a) [two] b = Conv (r, v3) [add] y = Add (b, r) }"""

NETWORKS = {"U-Net": UNET, "MobileNet": MOBILE, "transformer": TRANSFORMER, "two heads": HEADS, "volume": VOLUME}
WEIGHTS = {
    **{name: KERNELS[name] for name in ("w0", "w1", "w2")},
    **{f"m{i}": random(8, 8, seed=i) / 3 for i in range(3)},
    "w": random(4, 4, 3, 3) / 3,
    "v": random(4, 4, 2, 2),
    "v3": random(4, 4, 1, 1, 1),
    "d": random(4, 1, 3, 3),
    "bias": random(4),
    "wide": random(4, 8, 1, 1),
    "ones": np.ones(8, np.float32),
}


@RECIPES
@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
def test_other_networks_are_close_to_fp32_and_are_built_by_tensorrt_rtx(tmp_path, fresh, text, recipe):
    read = {name: array for name, array in WEIGHTS.items() if f" {name})" in text or f" {name}," in text}
    model, source, folder = parse(text, **read), tmp_path / "source.onnx", fresh()
    shape = [size for size in model.graph.inputs[0].shape if isinstance(size, int)]
    x = random(16, *shape)
    ir.save(model, source)
    int8.write_quantized_graph(source, calibrated(source, x, half=True), recipe, folder)
    exact, quantized = compute(source, x=x), compute(folder / "model.onnx", x=x)
    assert min(snr(exact[name], quantized[name]) for name in exact) > 25
    require_rtx(folder / "model.onnx", *shape)


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("opset", [17, 18])
def test_fp16_scales_before_opset_19_are_refused(tmp_path, fresh, opset):
    ir.save(model(opset), tmp_path / "old.onnx")
    folder = fresh()
    with pytest.raises(InputError, match=f"Opset {opset} does not support FP16 scales") as caught:
        int8.write_quantized_graph(
            tmp_path / "old.onnx", calibrated(tmp_path / "old.onnx", half=True), Recipe(rest="fp16"), folder
        )
    assert "--opset 19" in caught.value.remedy
    assert not folder.exists()


@pytest.mark.parametrize("opset", [17, 23])
def test_int8_without_fp16_is_valid_at_the_first_and_the_last_opset(tmp_path, fresh, opset):
    ir.save(model(opset), tmp_path / "source.onnx")
    folder = fresh()
    int8.write_quantized_graph(tmp_path / "source.onnx", calibrated(tmp_path / "source.onnx"), Recipe(), folder)
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
