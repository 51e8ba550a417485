import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_int8 import KERNELS, X, compute, convolutional, parse, random, require_rtx, snr

from deploykit.backends.onnxruntime import open_graph
from deploykit.backends.openvino import OpenVino
from deploykit.core.errors import InputError, InternalError
from deploykit.quantize import qdq
from deploykit.quantize.placement import place_qdq_pairs


def quantized(model, half=False, threshold=3.0, **thresholds):
    """The model with its pairs; every tensor is clipped at `threshold` by default."""
    placement = place_qdq_pairs(model)
    tensors = {edge.tensor for edge in placement.edges}
    qdq.insert_qdq_pairs(model, placement, {**dict.fromkeys(tensors, threshold), **thresholds}, half)
    return model


def constant(model, name):
    return model.graph.initializers[name].const_value.numpy()


def node(model, name):
    return next(candidate for candidate in model.graph if candidate.name == name)


def pairs(model):
    """Tensors before a QuantizeLinear, in the graph's order."""
    return [candidate.inputs[0].name for candidate in model.graph if candidate.op_type == "QuantizeLinear"]


def dequantize_weight(model, weight):
    """A weight dequantized from the graph's codes and scales."""
    dq = node(model, f"{weight}/DequantizeLinear")
    scale, axis = constant(model, f"{weight}/scale"), dq.attributes.get_int("axis", -1)
    codes = constant(model, f"{weight}/codes").astype(np.float32)
    return codes * scale.reshape([-1 if i == axis else 1 for i in range(codes.ndim)])


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LAYERS = {
    "Conv": ("Conv (x, w)", (6, 4, 3, 3), 0),
    "grouped Conv": ("Conv <group = 2> (x, w)", (6, 2, 3, 3), 0),
    "depthwise Conv": ("Conv <group = 4> (x, w)", (4, 1, 3, 3), 0),
    "MatMul": ("MatMul (x, w)", (8, 6), 1),
}


@pytest.mark.parametrize(("text", "shape", "axis"), LAYERS.values(), ids=LAYERS)
def test_weights_have_one_scale_per_output_channel(text, shape, axis):
    model = quantized(convolutional(f"[layer] y = {text}", w=random(*shape)))
    assert node(model, "w/DequantizeLinear").attributes.get_int("axis", -1) == axis
    assert constant(model, "w/scale").shape == (shape[axis],)


def test_the_weight_of_a_transposed_convolution_has_one_scale():
    """TensorRT 8 takes several scales for those of the input channels, along whichever axis they are."""
    weight = random(4, 6, 2, 2)
    model = quantized(convolutional("[layer] y = ConvTranspose (x, w)", w=weight))
    assert "axis" not in node(model, "w/DequantizeLinear").attributes
    assert constant(model, "w/scale") == pytest.approx(np.abs(weight).max() / 127)
    assert constant(model, "w/zero_point").shape == constant(model, "w/scale").shape == ()
    assert np.abs(dequantize_weight(model, "w") - weight).max() <= np.abs(weight).max() / 254 * 1.001


def test_a_bias_of_a_transposed_convolution_raises_the_only_scale_of_its_weights():
    bias = np.array([0, 0, 0, 3e5, 0, 0], np.float32)
    model = quantized(convolutional("[layer] y = ConvTranspose (x, w, b)", w=1e-6 * random(4, 6, 2, 2), b=bias))
    activation, weight = constant(model, "x/scale"), constant(model, "w/scale")
    assert 3e5 / (float(activation) * float(weight)) <= 2**30 * 1.001


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_a_gemms_axis_follows_transb(transposed, axis):
    shape = (6, 4) if transposed else (4, 6)
    text = f"g (float[N,4] x) => (float[N,6] y) {{ [fc] y = Gemm <transB = {transposed}> (x, w) }}"
    model = quantized(parse(text, w=random(*shape)))
    assert node(model, "w/DequantizeLinear").attributes.get_int("axis", -1) == axis
    assert constant(model, "w/scale").shape == (6,)


CODES = np.random.default_rng(1).integers(-60, 61, (6, 4, 3, 3))
"""Codes of a weight with one scale for all channels: no channel uses all of them."""


@pytest.mark.parametrize("gains", [np.ones(6), np.array([0.3, 1, -2.7, 5, 0.01, 1])], ids=["alone", "BatchNorm folded"])
def test_a_weight_that_was_rounded_before_is_not_rounded_again(gains):
    weight = (CODES * 0.013 * gains.reshape(6, 1, 1, 1)).astype(np.float32)
    model = quantized(convolutional("[conv] y = Conv (x, w)", w=weight))
    np.testing.assert_allclose(dequantize_weight(model, "w"), weight, rtol=1e-5)


def test_the_code_minus_128_alone_is_clipped():
    codes = CODES.copy()
    codes[0, 0, 0, :2] = -128, 125
    model = quantized(convolutional("[conv] y = Conv (x, w)", w=(codes * 0.013).astype(np.float32)))
    assert (constant(model, "w/codes")[0] != codes[0]).sum() == 1


def test_a_weight_that_was_not_rounded_before_has_127_steps():
    assert (qdq.count_weight_steps(random(6, 4, 3, 3), 0) == 127).all()


def test_a_channel_of_zeros_has_127_steps():
    assert qdq.count_weight_steps(np.zeros((2, 4), np.float32), 0).tolist() == [127, 127]


def test_weights_are_int8_codes_without_a_quantizelinear():
    model = quantized(convolutional("[conv] y = Conv (x, w0)"))
    assert constant(model, "w0/codes").dtype == np.int8
    assert pairs(model) == ["x"]
    assert "w0" not in model.graph.initializers


@pytest.mark.parametrize("name", ["w0/zero_point", "x/zero_point"])
def test_zero_points_are_zero(name):
    zero = constant(quantized(convolutional("[conv] y = Conv (x, w0)")), name)
    assert zero.dtype == np.int8
    assert not zero.any()


def test_a_bias_is_unchanged():
    bias = random(4)
    model = quantized(convolutional("[conv] y = Conv (x, w0, b)", b=bias))
    np.testing.assert_array_equal(constant(model, "b"), bias)
    assert node(model, "conv").inputs[2].name == "b"


def test_weights_from_a_constant_node_are_stored_only_as_codes():
    text = (
        "g (float[N,2] x) => (float[N,2] y) { w = Constant <value = float[2,2] {1,2,3,4}> () [fc] y = MatMul (x, w) }"
    )
    model = quantized(parse(text))
    assert "Constant" not in [candidate.op_type for candidate in model.graph]
    assert "w" not in model.graph.initializers


def test_weights_listed_as_graph_inputs_become_initializers():
    text = "g (float[N,4] x, float[4,4] w) => (float[N,4] y) { [fc] y = MatMul (x, w) }"
    model = quantized(parse(text, w=random(4, 4)))
    assert [value.name for value in model.graph.inputs] == ["x"]
    compute(model, x=random(2, 4))


def test_layers_that_share_a_weight_share_its_codes():
    model = quantized(convolutional("[one] a = Conv (x, w0) r = Relu (a) [two] y = Conv (r, w0)"))
    assert node(model, "one").inputs[1] is node(model, "two").inputs[1]


def test_a_weight_read_along_both_axes_is_quantized_along_both():
    text = "g (float[N,4] x) => (float[N,4] y) { [one] a = Gemm (x, w) [two] y = Gemm <transB = 1> (a, w) }"
    exact, model = parse(text, w=random(4, 4)), quantized(parse(text, w=random(4, 4)), threshold=12.0)
    x = random(64, 4)
    assert snr(compute(exact, x=x)["y"], compute(model, x=x)["y"]) > 20


def test_a_weight_with_other_readers_is_preserved_for_them():
    body = "[conv] a = Conv (x, w0) b = ReduceSum <keepdims = 0> (w0) y = Mul (a, b)"
    np.testing.assert_array_equal(constant(quantized(convolutional(body)), "w0"), KERNELS["w0"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_weights_are_refused(bad):
    weight = random(4, 4, 1, 1)
    weight[1, 2] = bad
    with pytest.raises(InputError, match="The weight w holds NaN or infinity"):
        quantized(convolutional("[conv] y = Conv (x, w)", w=weight))


@given(arrays.arrays(np.float32, (3, 2, 2, 2), elements=st.floats(-1e3, 1e3, width=32)), st.booleans())
def test_weights_change_by_at_most_half_a_step(weight, half):
    text = "g (float[N,2,4,4] x) => (float[N,3,A,B] y) { [conv] y = Conv (x, w) }"
    model = quantized(parse(text, w=weight), half)
    steps = constant(model, "w/scale").reshape(3, 1, 1, 1)
    assert (np.abs(dequantize_weight(model, "w") - weight) <= steps * (0.5 + 1e-4)).all()


# ── Scales ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_scale_is_the_largest_weight_over_127():
    weight = random(6, 4, 3, 3)
    expected = np.abs(weight).max(axis=(1, 2, 3)) / 127
    np.testing.assert_allclose(qdq.weight_scales(weight, 0, half_scales=False), expected, rtol=1e-7)


def test_a_channel_of_zeros_gets_the_smallest_scale_of_the_others():
    weight = np.array([[1.27], [0.0], [0.254]], np.float32)
    np.testing.assert_allclose(qdq.weight_scales(weight, 0, half_scales=False), [0.01, 0.002, 0.002], rtol=1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_a_weight_of_zeros_stays_zero(half):
    model = quantized(convolutional("[conv] y = Conv (x, w)", w=np.zeros((4, 4, 1, 1), np.float32)), half)
    assert (constant(model, "w/scale") > 0).all()
    assert not dequantize_weight(model, "w").any()


@pytest.mark.parametrize("smallest", [1e-45, 1e-38, 1e-30])
def test_no_scale_is_subnormal(smallest):
    weight = np.full((2, 1), smallest, np.float32)
    assert (qdq.weight_scales(weight, 0, half_scales=False) >= np.finfo(np.float32).tiny).all()
    scales = qdq.activation_scales(place_qdq_pairs(convolutional("[conv] y = Conv (x, w0)")), {"x": smallest})
    assert scales["x"] >= np.finfo(np.float32).tiny


@given(arrays.arrays(np.float32, (8, 1), elements=st.floats(2.0**-100, 65504 * 127, width=32)))
def test_half_scales_are_exact_in_float16_and_never_smaller(weight):
    weight[0] = max(weight[0], 1)
    exact, half = (qdq.weight_scales(weight, 0, half_scales=half_scales) for half_scales in (False, True))
    np.testing.assert_array_equal(half.astype(np.float16).astype(np.float32), half)
    assert (half >= exact).all()


@given(arrays.arrays(np.float32, (8, 1), elements=st.floats(2.0**-7, 65504, width=32)))
def test_half_scales_are_at_most_a_thousandth_larger(weight):
    exact, half = (qdq.weight_scales(weight, 0, half_scales=half_scales) for half_scales in (False, True))
    assert (half <= exact * (1 + 2.0**-10)).all()


@pytest.mark.parametrize("largest", [1e8, 1e-5])
def test_scales_beyond_float16_stay_exact(largest):
    half = qdq.weight_scales(np.array([[largest], [largest / 2]], np.float32), 0, half_scales=True)
    assert half[0] == np.float32(largest / 127)


@pytest.mark.parametrize("tiny", [1e-7, 1e-12, 1e-20])
def test_the_bias_of_a_channel_that_training_switched_off_fits_32_bits(tmp_path, tiny):
    """ONNX Runtime rounds it to multiples of both scales' product; without a bound it would wrap around."""
    weight = random(4, 4, 3, 3)
    weight[1] *= tiny
    text = "[one] a = Conv (x, w, b) r = Relu (a) [two] y = Conv (r, w0)"
    model = convolutional(text, w=weight, b=np.ones(4, np.float32))
    exact = compute(model, x=X)["y"]
    ir.save(quantized(model, x=4.0, r=25.0), tmp_path / "model.onnx")
    assert snr(exact, open_graph(tmp_path / "model.onnx").run({"x": X})["y"]) > 30


# ── Activations ───────────────────────────────────────────────────────────────────────────────────────────────────────

ONE = "[conv] y = Conv (x, w0)"


def test_readers_of_one_tensor_share_its_pair():
    model = quantized(convolutional("[one] a = Conv (x, w0) [two] b = Conv (x, w1) [other] y = Add (a, b)"))
    assert pairs(model) == ["x", "b"]
    assert node(model, "one").inputs[0] is node(model, "two").inputs[0]


def test_inputs_without_an_edge_read_the_original_tensor():
    model = quantized(convolutional("[conv] a = Conv (x, w0) [mul] y = Mul (a, x)"))
    assert node(model, "mul").inputs[1].name == "x"


def test_shared_tensors_get_the_largest_scale_among_them():
    body = "a = Tanh (x) [cat] e = Concat <axis = 1> (x, a) [conv] y = Conv (e, w)"
    model = quantized(convolutional(body, w=random(4, 8, 1, 1)), x=1.27, a=12.7, e=2.54)
    assert {constant(model, f"{name}/scale").item() for name in "xae"} == {np.float32(0.1).item()}


def test_an_all_zero_tensor_has_a_scale():
    assert constant(quantized(convolutional(ONE), x=0.0), "x/scale") == np.float32(1 / 127)


def test_a_missing_threshold_is_an_internal_error_that_names_the_tensor():
    model = convolutional(ONE)
    with pytest.raises(InternalError, match="no threshold for x"):
        qdq.insert_qdq_pairs(model, place_qdq_pairs(model), {}, half_scales=False)


def test_a_placement_of_another_graph_is_refused():
    placement = place_qdq_pairs(convolutional("a = Relu (x) [conv] y = Conv (a, w0)"))
    with pytest.raises(InternalError, match="conv does not read a at input 0"):
        qdq.insert_qdq_pairs(convolutional(ONE), placement, {"a": 1.0}, half_scales=False)


IDENTITY = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1) * 127
"""Behind a scale of 1, a convolution that only multiplies by 127."""


@given(arrays.arrays(np.float32, (1, 4, 8, 8), elements=st.floats(-8, 8, width=32)), st.floats(0.5, 4))
def test_values_are_rounded_to_half_a_step_or_clipped(x, threshold):
    scale = np.float32(threshold / 127)
    given_back = compute(quantized(convolutional("[conv] y = Conv (x, w)", w=IDENTITY), x=threshold), x=x)["y"] / 127
    inside = np.abs(x) <= scale * 127
    assert (np.abs(given_back - x)[inside] <= scale * (0.5 + 1e-4)).all()
    assert (np.abs(given_back)[~inside] >= scale * 127 * (1 - 1e-6)).all()
    assert (np.abs(given_back) <= scale * 128 * (1 + 1e-6)).all()


# ── The whole graph ───────────────────────────────────────────────────────────────────────────────────────────────────

NET = """g (float[N,4,8,8] x) => (float[N,4] y) {
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w3, b) r = Relu (a)
    [pool] p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    [main] c = Conv (p, w0) [add] s = Add (c, p) t = Relu (s)
    [left] d = Conv (t, w1) e = Relu (d) [right] f = Conv (t, w2) h = Relu (f)
    [cat] i = Concat <axis = 1> (e, h) [mix] j = Conv (i, wide) k = GlobalAveragePool (j) l = Flatten (k)
    [fc] y = Gemm <transB = 1> (l, m, b) }"""


def full_graph(opset=20):
    used = {name: KERNELS[name] for name in ("w0", "w1", "w2")}
    return parse(NET, opset, **used, w3=random(4, 4, 3, 3) / 3, wide=random(4, 8, 1, 1), m=random(4, 4), b=random(4))


@pytest.fixture
def file(tmp_path):
    """The full graph, quantized for the range of its values, and its exact output on `X`."""
    model = full_graph()
    exact = compute(model, x=X)["y"]
    ir.save(quantized(model, threshold=10.0), tmp_path / "model.onnx")
    return tmp_path / "model.onnx", exact


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("opset", range(17, 24))
def test_the_graph_is_valid_at_every_opset(opset, half):
    onnx.checker.check_model(ir.to_proto(quantized(full_graph(opset), half)), full_check=True)


def test_onnx_runtime_computes_nearly_the_same(file):
    path, exact = file
    assert snr(exact, compute(path, x=X)["y"]) > 20


def test_openvino_computes_nearly_the_same(file):
    path, exact = file
    backend = OpenVino()
    given_back = backend.load(backend.compile(path, path.parent), path.parent).run({"x": X})["y"]
    assert snr(exact, given_back) > 20


def test_tensorrt_rtx_builds_the_graph(file):
    require_rtx(file[0], 4, 8, 8)
