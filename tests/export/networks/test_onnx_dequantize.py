"""Q/DQ pairs as their makers write them: what each says of ranges, and the FP32 graph without them."""

import numpy as np
import onnx
import onnxruntime
import pytest

from deploykit.core.errors import InputError
from deploykit.export.networks.onnx_dequantize import count_pairs, dequantize_model

ACTIVATION = "q = QuantizeLinear (a, s, z)\n d = DequantizeLinear (q, s, z)"
"""A pair behind a Conv, whose output is a."""


def graph(body, opset=20, head="(float[N,2,4,4] x) => (float[N,2,4,4] y)", **constants):
    """A model of the text; every constant that it reads is an initializer."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\nagraph {head} {{\n{body}\n}}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return proto


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def compute(proto, **inputs):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def after_conv(scale, zero, body=ACTIVATION, tail="y = Relu (d)", **constants):
    weight = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    held = {"w": weight, "s": np.float32(scale), "z": zero, **constants}
    return graph(f"a = Conv (x, w)\n {body}\n {tail}", **held)


SAMPLE = np.random.default_rng(0).uniform(-3, 3, (2, 2, 4, 4)).astype(np.float32)


# ── Ranges ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("zero", "low", "high", "threshold", "coarser"),
    [
        (np.int8(0), -12.8, 12.7, 12.7, False),  # ModelOpt, TensorRT, torchao: the scale stays what it is
        (np.uint8(128), -12.8, 12.7, 12.7, False),
        (np.uint8(0), 0, 25.5, 25.5, True),  # onnxruntime after a Relu
        (np.uint8(100), -10, 15.5, 15.5, True),  # NNCF and onnxruntime, asymmetric
        (np.int8(-128), 0, 25.5, 25.5, True),
    ],
)
def test_the_range_is_that_of_the_codes(zero, low, high, threshold, coarser):
    (found,) = dequantize_model(after_conv(0.1, zero), "net.onnx").values()
    assert (found.low, found.high, found.threshold) == pytest.approx((low, high, threshold), rel=1e-6)
    assert found.is_coarser == coarser


def test_a_symmetric_pair_gives_the_scale_of_the_file():
    (found,) = dequantize_model(after_conv(0.1, np.int8(0)), "net.onnx").values()
    assert np.float32(found.threshold / 127) == np.float32(0.1)


def test_channels_with_scales_of_their_own_give_the_widest_range():
    proto = after_conv(0, np.zeros(2, np.int8), s=np.array([0.1, 0.3], np.float32))
    (found,) = dequantize_model(proto, "net.onnx").values()
    assert found.threshold == pytest.approx(127 * 0.3)


def test_the_range_is_by_the_tensor_before_the_pair():
    assert [*dequantize_model(after_conv(0.1, np.int8(0)), "net.onnx")] == ["a"]


def test_fewer_codes_by_a_clip_between_the_pair_are_a_smaller_range():
    # PyTorch writes fake_quantize with quant_min 0 and quant_max 127 so.
    body = "q = QuantizeLinear (a, s, z)\n c = Clip (q, lo, hi)\n d = DequantizeLinear (c, s, z)"
    proto = after_conv(0.1, np.uint8(0), body, lo=np.uint8(0), hi=np.uint8(127))
    (found,) = dequantize_model(proto, "net.onnx").values()
    assert (found.low, found.high) == pytest.approx((0, 12.7))
    assert not found.is_coarser


# ── The graph without pairs ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_graph_without_its_pairs_computes_the_same_but_for_rounding():
    proto = after_conv(0.02, np.uint8(128))
    expected = compute(proto, x=SAMPLE.clip(-2.5, 2.5))
    dequantize_model(proto, "net.onnx")
    assert operators(proto) == ["Conv", "Relu"]
    np.testing.assert_allclose(compute(proto, x=SAMPLE.clip(-2.5, 2.5)), expected, atol=0.0101)


def test_a_relu_that_the_quantizer_removed_comes_back():
    # onnxruntime.quantization removes a Relu whose work the lower end of the codes does.
    proto = after_conv(0.02, np.uint8(0), tail="y = Sigmoid (d)")
    expected = compute(proto, x=SAMPLE)
    dequantize_model(proto, "net.onnx")
    assert operators(proto) == ["Conv", "Relu", "Sigmoid"]
    np.testing.assert_allclose(compute(proto, x=SAMPLE), expected, atol=0.0101)


@pytest.mark.parametrize("before", ["a = Relu (x)", "r = Relu (x)\n a = MaxPool <kernel_shape = [1, 1]> (r)"])
def test_no_relu_comes_where_values_are_not_negative_before(before):
    proto = graph(f"{before}\n {ACTIVATION}\n y = Tanh (d)", s=np.float32(0.02), z=np.uint8(0))
    dequantize_model(proto, "net.onnx")
    assert operators(proto).count("Relu") == 1


def test_codes_may_pass_through_what_moves_values():
    body = "q = QuantizeLinear (a, s, z)\n p = MaxPool <kernel_shape = [2, 2]> (q)\n d = DequantizeLinear (p, s, z)"
    proto = after_conv(0.1, np.int8(0), body)
    assert {*dequantize_model(proto, "net.onnx")} == {"a", "p"}
    assert operators(proto) == ["Conv", "MaxPool", "Relu"]


def test_the_output_of_a_last_pair_keeps_its_name():
    proto = after_conv(0.1, np.int8(0), ACTIVATION.replace("d =", "y ="), tail="")
    assert [*dequantize_model(proto, "net.onnx")] == ["y"]
    assert [(node.op_type, [*node.output]) for node in proto.graph.node] == [("Conv", ["y"])]


def test_an_input_that_a_pair_passes_through_becomes_an_identity():
    proto = graph(ACTIVATION.replace("(a,", "(x,").replace("d =", "y ="), s=np.float32(0.1), z=np.int8(0))
    dequantize_model(proto, "net.onnx")
    assert operators(proto) == ["Identity"]


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


CODES = np.array([[-127, 3], [64, 127]], np.int8).reshape(2, 2, 1, 1)


def weight_of(proto):
    dequantize_model(proto, "net.onnx")
    (conv,) = proto.graph.node
    return next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == conv.input[1])


def test_a_weight_stored_as_codes_becomes_fp32():
    scale = np.array([0.1, 0.2], np.float32)
    body = "w = DequantizeLinear <axis = 0> (c, s, z)\n y = Conv (x, w)"
    weight = weight_of(graph(body, c=CODES, s=scale, z=np.zeros(2, np.int8)))
    np.testing.assert_allclose(weight, CODES * scale.reshape(2, 1, 1, 1), rtol=1e-7)


def test_an_asymmetric_weight_becomes_fp32():
    scale, zero = np.array([0.1, 0.2], np.float32), np.array([7, 130], np.uint8)
    body = "w = DequantizeLinear <axis = 0> (c, s, z)\n y = Conv (x, w)"
    codes = CODES.view(np.uint8)
    weight = weight_of(graph(body, c=codes, s=scale, z=zero))
    expected = (codes.astype(int) - zero.reshape(2, 1, 1, 1)) * scale.reshape(2, 1, 1, 1)
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_a_weight_stored_in_fp32_is_rounded_as_its_pair_says():
    # As ModelOpt and pytorch-quantization write it.
    stored = (CODES * np.float32(0.1) + np.float32(0.03)).astype(np.float32)
    body = "q = QuantizeLinear <axis = 0> (v, s, z)\n w = DequantizeLinear <axis = 0> (q, s, z)\n y = Conv (x, w)"
    weight = weight_of(graph(body, v=stored, s=np.full(2, 0.1, np.float32), z=np.zeros(2, np.int8)))
    np.testing.assert_allclose(weight, CODES * np.float32(0.1), rtol=1e-6)


def test_a_bias_of_integers_becomes_fp32():
    body = "b = DequantizeLinear (c, s)\n y = Conv (x, w, b)"
    weight = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    proto = graph(body, w=weight, c=np.array([1000, -5], np.int32), s=np.float32(0.001))
    dequantize_model(proto, "net.onnx")
    bias = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}["b"]
    np.testing.assert_allclose(bias, [1, -0.005], rtol=1e-6)


def test_codes_of_weights_are_left_out_of_the_file():
    body = "w = DequantizeLinear (c, s)\n y = Conv (x, w)"
    proto = graph(body, c=CODES, s=np.float32(0.1))
    dequantize_model(proto, "net.onnx")
    assert [tensor.name for tensor in proto.graph.initializer] == ["w"]


# ── Refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (after_conv(0.1, np.int16(0)), "quantizes to int16"),
        (after_conv(0.1, np.int8(0), ACTIVATION.replace("q, s", "q, t"), t=np.float32(0.2)), "another scale"),
        (after_conv(0.1, np.int8(0), "q = QuantizeLinear (a, s, z)\n d = Cast <to = 1> (q)"),
         "computes on 8-bit codes"),
        (graph("s = ReduceMax <keepdims = 0> (x)\n q = QuantizeLinear (x, s)\n y = DequantizeLinear (q, s)"),
         "depends on the input"),
        (graph("y = DequantizeLinear (x, s)", head="(uint8[N,2,4,4] x) => (float[N,2,4,4] y)", s=np.float32(1)),
         "no QuantizeLinear wrote"),
        (graph("y = QuantizeLinear (x, s, z)", head="(float[N,2,4,4] x) => (int8[N,2,4,4] y)",
               s=np.float32(1), z=np.int8(0)), "the output 'y' is a tensor of 8-bit codes"),
    ],
)  # fmt: skip
def test_a_pair_whose_meaning_cannot_be_kept_is_refused(proto, message):
    with pytest.raises(InputError, match=message):
        dequantize_model(proto, "net.onnx")


def test_pairs_are_counted_by_quantize_nodes():
    assert count_pairs(after_conv(0.1, np.int8(0)).graph) == 1
