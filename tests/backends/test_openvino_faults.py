"""Rewrites around OpenVINO's faults: which nodes they change, and that values stay the same where they say so."""

import numpy as np
import onnx_ir as ir
import pytest

from deploykit.backends import openvino_faults as subject
from deploykit.backends.onnxruntime import open_unoptimized
from deploykit.backends.openvino import OpenVino

NETWORK = """
<ir_version: 9, opset_import: ["" : 20]>
network (float[batch, 4, 6, 6] x) => (float[batch, a, b, c] y)
<float s = {{0.125}}, uint8 z = {{128}}, float t = {{0.0078125}}, int8 none = {{0}}, int8[4, 4, 1, 1] weight,
 int8[4, 4, 1, 1] other_weight, float[4] bias_weight, float[4] zeros = {{0, 0, 0, 0}}, int64[1] axis = {{2}},
 float[1, 4, 1, 1] factors = {{1, -2, 3, 4}}, float[1, 4, 1, 1] positive = {{1, 2, 3, 4}}> {{
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    w = DequantizeLinear (weight, t, none)
    v = DequantizeLinear (other_weight, t, none)
    {nodes}
}}
"""

PAIR = " bq = QuantizeLinear (b, s, z) bd = DequantizeLinear (bq, s, z) "


@pytest.fixture
def network(write_graph):
    return lambda nodes: write_graph(NETWORK.format(nodes=nodes))


def rewrite(path):
    model = ir.load(path)
    return subject.avoid_faults(model), model


def kinds(model):
    return [node.op_type for node in model.graph if node.op_type != "DequantizeLinear"]


def assert_same_values(path, model, tmp_path):
    ir.save(model, rewritten := tmp_path / "rewritten.onnx")
    x = (4 * np.random.default_rng(0).standard_normal((2, 4, 6, 6))).astype(np.float32)
    first, second = (open_unoptimized(graph).run({"x": x})["y"] for graph in (path, rewritten))
    assert np.ptp(first) > 0
    assert np.array_equal(first, second)


SAME_VALUES = {
    "no bias": ("y = Conv (xd, w)", 1),
    "a bias of zeros": ("y = Conv (xd, w, zeros)", 1),
    "a transposed convolution": ("y = ConvTranspose (xd, w)", 1),
    "negative factors": ("y = Mul (x, factors)", 1),
    "negative divisors": ("y = Div (x, factors)", 1),
    "a maximum": (f"b = ReduceMax (x, axis) {PAIR} y = Conv (bd, w, bias_weight)", 1),
    "a minimum": (f"b = ReduceMin (x, axis) {PAIR} y = Conv (bd, w, bias_weight)", 1),
    "strides of one element": ("y = Conv <strides = [2, 2]> (xd, w, bias_weight)", 1),
    "a global maximum, then a Relu": (f"a = GlobalMaxPool (x) b = Relu (a) {PAIR} y = Conv (bd, w, bias_weight)", 1),
}


@pytest.mark.parametrize(("nodes", "count"), SAME_VALUES.values(), ids=SAME_VALUES)
def test_values_stay_the_same(network, tmp_path, nodes, count):
    path = network(nodes)
    rewritten, model = rewrite(path)
    assert rewritten == count
    assert_same_values(path, model, tmp_path)


UNCHANGED = {
    "a bias": "y = Conv (xd, w, bias_weight)",
    "a convolution in floating point": "y = Conv (x, v)",
    "positive factors": "y = Mul (x, positive)",
    "a maximum that nothing quantizes": "y = ReduceMax (x, axis)",
    "a mean": f"b = ReduceMean (x, axis) {PAIR} y = Conv (bd, w, bias_weight)",
    "an Add of one pair": "a = Conv (xd, w, bias_weight) y = Add (a, xd)",
    "an Add fused with another convolution": f"b = Conv (xd, w, bias_weight) {PAIR} c = Conv (xd, v, bias_weight)"
    " y = Add (bd, c)",
    "strides beside a layer without": "a = Conv <strides = [2, 2]> (xd, w, bias_weight) b = Conv (xd, v, bias_weight)"
    " c = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (b) y = Add (a, c)",
    "an Add of pairs after no convolution": f"b = Sigmoid (x) {PAIR} y = Add (bd, xd)",
    "a pair that a layer reads too": f"b = Conv (xd, w, bias_weight) {PAIR} c = Add (bd, xd)"
    " d = Conv (bd, v, bias_weight) y = Add (c, d)",
}


@pytest.mark.parametrize("nodes", UNCHANGED.values(), ids=UNCHANGED)
def test_other_nodes_are_unchanged(network, nodes):
    assert rewrite(network(nodes))[0] == 0


def test_a_maximum_is_taken_among_codes(network):
    _, model = rewrite(network(f"b = ReduceMax (x, axis) {PAIR} y = Conv (bd, w, bias_weight)"))
    assert kinds(model) == ["QuantizeLinear", "ReduceMax", "QuantizeLinear", "Conv"]


def test_a_layer_behind_a_maximum_and_arithmetic_stays_in_floating_point(network, tmp_path):
    path = network(f"a = GlobalMaxPool (x) b = Sigmoid (a) {PAIR} [layer] y = Conv (bd, w, bias_weight)")
    assert kinds(rewrite(path)[1]) == ["GlobalMaxPool", "Sigmoid", "Conv"]
    engine = OpenVino().compile(path, tmp_path)
    assert OpenVino().read_executed_precision(engine, tmp_path).arithmetic == {"layer": "fp32"}


@pytest.mark.parametrize("activation", ["Identity", "Relu", "LeakyRelu"])
def test_an_add_rounds_one_of_two_branches(network, activation):
    nodes = f"a = Conv (xd, w, bias_weight) b = {activation} (a) {PAIR} y = Add (bd, xd)".replace(
        "b = Identity (a)", ""
    )
    nodes = nodes.replace("a = Conv", "b = Conv") if activation == "Identity" else nodes
    before = kinds(ir.load(network(nodes)))
    _, model = rewrite(network(nodes))
    assert before.count("QuantizeLinear") == 2
    assert kinds(model).count("QuantizeLinear") == 1


def test_convolutions_that_share_strides_read_one_pool_and_compute_in_int8(network, tmp_path):
    """Both paths of a block of Keras' ResNet-50: without the rewrite OpenVINO 2026.4.1 computes them in FP32."""
    path = network(
        "[path] a = Conv <strides = [2, 2]> (xd, w, bias_weight)"
        " [shortcut] b = Conv <strides = [2, 2]> (xd, v, bias_weight) y = Add (a, b)"
    )
    assert kinds(rewrite(path)[1]) == ["QuantizeLinear", "MaxPool", "Conv", "Conv", "Add"]
    engine = OpenVino().compile(path, tmp_path)
    assert OpenVino().read_executed_precision(engine, tmp_path).arithmetic == {"path": "int8", "shortcut": "int8"}
