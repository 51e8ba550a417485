import numpy as np
import onnx_ir as ir
import pytest
from small_int8 import X, calibrated, compute, convolutional, parse, random, snr

from deploykit.core.values import Recipe
from deploykit.quantize import correction, int8, qdq
from deploykit.quantize.placement import place_qdq_pairs

POSITIVE = np.abs(X) + 1
"""Samples far from zero mean, as they are behind a ReLU: only these can be shifted."""


def mean_of(array):
    """Mean of each channel."""
    return tuple(array.mean(axis=tuple(i for i in range(array.ndim) if i != 1), dtype=np.float64).tolist())


def run_with_rounded_weights(model, x, corrected):
    """The model's output where weights are rounded to their codes, and activations hardly."""
    placement = place_qdq_pairs(model)
    if corrected:
        assert correction.correct_biases(model, placement, {"x": mean_of(x)}, half_scales=False)
    for name in placement.layers:
        layer = next(node for node in model.graph if node.name == name)
        weight, axis = layer.inputs[1], qdq.output_channel_axis(layer)
        scales = qdq.weight_scales(weight.const_value.numpy(), axis, half_scales=False)
        shape = [-1 if i == axis else 1 for i in range(len(weight.shape))]
        held = qdq.quantize_weight(weight.const_value.numpy(), scales, axis) * scales.reshape(shape)
        weight.const_value = ir.tensor(held, name=weight.name)
    return compute(model, x=x)["y"]


LAYERS = {
    "Conv": lambda: convolutional("[layer] y = Conv (x, w, b)", w=random(6, 4, 3, 3), b=random(6)),
    "Conv without bias": lambda: convolutional("[layer] y = Conv (x, w)", w=random(6, 4, 3, 3)),
    "grouped Conv": lambda: convolutional("[layer] y = Conv <group = 2> (x, w, b)", w=random(6, 2, 3, 3), b=random(6)),
    "depthwise Conv": lambda: convolutional("[layer] y = Conv <group = 4> (x, w)", w=random(4, 1, 3, 3)),
    "Gemm": lambda: matrix_graph("[layer] y = Gemm (x, w, b)", w=random(4, 6), b=random(6)),
    "Gemm transB": lambda: matrix_graph("[layer] y = Gemm <transB = 1> (x, w, b)", w=random(6, 4), b=random(6)),
    "Gemm without bias": lambda: matrix_graph("[layer] y = Gemm <transB = 1> (x, w)", w=random(6, 4)),
}


def matrix_graph(body, **weights):
    return parse(f"g (float[N,4] x) => (float[N,6] y) {{ {body} }}", **weights)


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_the_mean_of_the_output_is_restored(build):
    x = POSITIVE if len(build().graph.inputs[0].shape) == 4 else POSITIVE[:, :, 0, 0].copy()
    x = x.mean(axis=(2, 3), keepdims=True) + 0 * x if x.ndim == 4 else x  # the same mean at every kernel position
    exact = np.array(mean_of(compute(build(), x=x)["y"]))
    shifted, restored = (np.array(mean_of(run_with_rounded_weights(build(), x, half))) for half in (False, True))
    assert np.abs(shifted - exact).max() > 1e-3
    assert np.abs(restored - exact).max() < 2e-5


def test_a_layer_without_a_bias_gets_one():
    model = convolutional("[conv] y = Conv (x, w0)")
    assert correction.correct_biases(model, place_qdq_pairs(model), {"x": (1.0,) * 4}, half_scales=False) == ("conv",)
    layer = next(iter(model.graph))
    assert layer.inputs[2].shape == [4]
    assert layer.inputs[2].dtype == ir.DataType.FLOAT


def test_a_shared_bias_is_corrected_for_each_layer():
    bias = random(4)
    body = "[one] a = Conv (x, w0, b) [two] c = Conv (x, w1, b) y = Mul (a, c)"
    model = convolutional(body, b=bias)
    correction.correct_biases(model, place_qdq_pairs(model, frozenset({"two"})), {"x": (1.0,) * 4}, half_scales=False)
    one, two, _ = model.graph
    assert one.inputs[2] is not two.inputs[2]
    np.testing.assert_array_equal(two.inputs[2].const_value.numpy(), bias)


def test_only_layers_that_will_be_quantized_are_corrected():
    model = convolutional("[one] a = Conv (x, w0) [two] y = Conv (a, w1)")
    means = {"x": (1.0,) * 4, "a": (1.0,) * 4}
    assert correction.correct_biases(model, place_qdq_pairs(model, frozenset({"two"})), means, half_scales=False) == (
        "one",
    )


def test_weights_that_round_exactly_need_no_correction():
    weight = np.array([[127.0, -64.0], [0.0, 127.0]], np.float32)
    assert not correction.compute_mean_shift(weight, np.ones(2), 0, 1, half_scales=False).any()


def test_the_shift_uses_the_scales_of_the_quantized_graph():
    weight = random(4, 4)
    exact, half = (
        correction.compute_mean_shift(weight, np.ones(4), 0, 1, half_scales=half_scales)
        for half_scales in (False, True)
    )
    assert not np.array_equal(exact, half)


@pytest.mark.parametrize("means", [{}, {"x": (1.0,) * 3}], ids=["none", "of other channels"])
def test_without_a_mean_per_input_channel_nothing_is_changed(means):
    model = convolutional("[conv] y = Conv (x, w0)")
    assert correction.correct_biases(model, place_qdq_pairs(model), means, half_scales=False) == ()


def test_a_computed_bias_is_unchanged():
    text = "g (float[N,4,8,8] x, float[4] c) => (float[N,4,8,8] y) { b = Relu (c) [conv] y = Conv (x, w, b) }"
    model = parse(text, w=random(4, 4, 1, 1))
    assert correction.correct_biases(model, place_qdq_pairs(model), {"x": (1.0,) * 4}, half_scales=False) == ()


def test_bias_correction_reduces_the_output_error(tmp_path):
    """Weights with one large value per channel round coarsely, and the output of a ReLU has a mean."""
    weights = {f"v{i}": random(4, 4, 3, 3, seed=i) / 10 for i in range(3)}
    for weight in weights.values():
        weight[:, 0, 0, 0] = 3
    body = "[a] a = Conv (x, v0) r = Relu (a) [b] b = Conv (r, v1) s = Relu (b) [c] y = Conv (s, v2)"
    source = tmp_path / "source.onnx"
    ir.save(convolutional(body, **weights), source)
    statistics, exact, collected = calibrated(source, POSITIVE), compute(source, x=POSITIVE)["y"], []
    for correct in (False, True):
        int8.write_quantized_graph(source, statistics, Recipe(correct_bias=correct), tmp_path / str(correct))
        collected.append(snr(exact, compute(tmp_path / str(correct) / "model.onnx", x=POSITIVE)["y"]))
    assert collected[1] > collected[0] + 1
