"""The executed precision that backends report: every layer is identified, however it was fused and renamed."""

import onnx
import onnx_ir as ir
import pytest

from deploykit.backends import create_backend, onnxruntime_receipt, openvino_receipt

ON_CPU = ("onnxruntime", "openvino")

NETWORK = """
<ir_version: 10, opset_import: ["" : 22]>
network (float[batch, 16, 8, 8] x) => (float[batch, 5] y, float[batch, 16, 8, 8] z)
<TYPE[16, 16, 3, 3] weight, TYPE[16] bias_weight, TYPE[16, 1, 3, 3] depth_weight, TYPE[16, 4, 3, 3] group_weight,
 TYPE[16, 16, 1, 1] projection_weight, TYPE[16, 16, 2, 2] up_weight, TYPE[1024, 10] matmul_weight,
 TYPE[10] added_weight, TYPE[5, 10] gemm_weight, TYPE[5] gemm_bias_weight> {
    h = Cast <to = NUMBER> (x)
    [plain] a = Conv <pads = [1, 1, 1, 1]> (h, weight, bias_weight)
    b = Relu (a)
    [depthwise] c = Conv <pads = [1, 1, 1, 1], group = 16> (b, depth_weight)
    [grouped] d = Conv <pads = [1, 1, 1, 1], group = 4> (c, group_weight, bias_weight)
    [projection] e = Conv (b, projection_weight, bias_weight)
    f = Add (d, e)
    g = Relu (f)
    [up] i = ConvTranspose <strides = [2, 2]> (g, up_weight, bias_weight)
    j = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (i)
    [writes_output] k = Conv (j, projection_weight, bias_weight)
    z = Cast <to = 1> (k)
    l = Flatten (j)
    [matmul] m = MatMul (l, matmul_weight)
    n = Add (m, added_weight)
    [gemm] o = Gemm <transB = 1> (n, gemm_weight, gemm_bias_weight)
    y = Cast <to = 1> (o)
}
"""
LAYERS = {"plain", "depthwise", "grouped", "projection", "up", "writes_output", "matmul", "gemm"}


def network_of_type(name, number):
    return NETWORK.replace("TYPE", name).replace("NUMBER", str(number))


QUANTIZED = """
<ir_version: 9, opset_import: ["" : 20]>
quantized (float[batch, 16, 8, 8] x) => (float[batch, 16, 8, 8] y)
<int8[16, 16, 3, 3] weight, float s = {0.02}, int8 zero = {0}, float[16, 16, 1, 1] other_weight> {
    q = QuantizeLinear (x, s, zero)
    d = DequantizeLinear (q, s, zero)
    w = DequantizeLinear (weight, s, zero)
    [quantized] a = Conv <pads = [1, 1, 1, 1]> (d, w)
    b = Relu (a)
    [floating] y = Conv (b, other_weight)
}
"""

OUTPUT_QUANTIZED = """
<ir_version: 9, opset_import: ["" : 20]>
output_quantized (float[batch, 16, 8, 8] x) => (float[batch, 16, 8, 8] y)
<int8[16, 16, 3, 3] weight, float s = {0.02}, int8 zero = {0}> {
    q = QuantizeLinear (x, s, zero)
    d = DequantizeLinear (q, s, zero)
    w = DequantizeLinear (weight, s, zero)
    [layer] a = Conv <pads = [1, 1, 1, 1]> (d, w)
    r = QuantizeLinear (a, s, zero)
    y = DequantizeLinear (r, s, zero)
}
"""


@pytest.fixture
def arithmetic(write_graph, tmp_path):
    def read(name, text):
        library = create_backend(name)
        return library.read_executed_precision(library.compile(write_graph(text), tmp_path), tmp_path).arithmetic

    return read


@pytest.mark.parametrize("name", ON_CPU)
def test_every_layer_of_a_float32_graph_is_found_and_is_float32(arithmetic, name):
    assert arithmetic(name, network_of_type("float", 1)) == dict.fromkeys(LAYERS, "fp32")


@pytest.mark.parametrize("name", ON_CPU)
def test_every_layer_of_a_float16_graph_is_found(arithmetic, name):
    assert arithmetic(name, network_of_type("float16", 10)).keys() == LAYERS


def test_openvino_computes_a_float16_graph_in_float32(arithmetic):
    assert set(arithmetic("openvino", network_of_type("float16", 10)).values()) == {"fp32"}


def test_openvino_finds_every_layer_of_a_bfloat16_graph(arithmetic):
    precisions = arithmetic("openvino", network_of_type("bfloat16", 16))
    assert precisions.keys() == LAYERS
    assert set(precisions.values()) <= {"bf16", "fp32"}


def test_openvino_distinguishes_quantized_layers_from_others(arithmetic):
    assert arithmetic("openvino", QUANTIZED) == {"quantized": "int8", "floating": "fp32"}


@pytest.mark.parametrize("name", ON_CPU)
def test_a_layer_between_quantized_tensors_is_int8(arithmetic, name):
    assert arithmetic(name, OUTPUT_QUANTIZED) == {"layer": "int8"}


@pytest.mark.parametrize("name", ON_CPU)
def test_the_evidence_is_named(write_graph, tmp_path, name):
    library = create_backend(name)
    evidence = library.read_executed_precision(library.compile(write_graph(QUANTIZED), tmp_path), tmp_path).evidence
    assert evidence.endswith(("execution graph", "optimized graph"))


def test_onnxruntime_s_layer_without_a_kernel_has_no_arithmetic():
    model = ir.from_proto(onnx.parser.parse_model(network_of_type("float", 1)))
    layer = next(node for node in model.graph if node.name == "plain")
    assert onnxruntime_receipt.read_arithmetic(ir.Graph([], [], nodes=[]), [layer]) == {}


def test_onnxruntime_s_kernel_of_one_layer_is_not_given_to_another():
    graph = ir.from_proto(onnx.parser.parse_model(network_of_type("float", 1))).graph
    layer = next(node for node in graph if node.name == "plain")
    layer.inputs[1].type = ir.TensorType(ir.DataType.FLOAT)
    assert onnxruntime_receipt.read_arithmetic(graph, [layer]) == {"plain": "fp32"}
    assert onnxruntime_receipt.read_arithmetic(graph, [layer, layer]) == {}


def test_onnxruntime_products_with_a_fused_transpose_are_found(arithmetic):
    transposed = """
    <ir_version: 9, opset_import: ["" : 20]>
    transposed (float[batch, 16, 8] x) => (float[batch, 8, 4] y) <float[16, 4] weight> {
        a = Transpose <perm = [0, 2, 1]> (x)
        [product] b = MatMul (a, weight)
        y = Relu (b)
    }
    """
    assert arithmetic("onnxruntime", transposed) == {"product": "fp32"}


class Fact(str):
    """A value of OpenVINO's execution graph."""

    def astype(self, _):
        return str(self)


class Kernel:
    """A layer of OpenVINO's execution graph."""

    def __init__(self, layer_type, precision, originals):
        self.facts = {"layerType": layer_type, "runtimePrecision": precision, "originalLayersNames": originals}

    def get_rt_info(self):
        return {name: Fact(value) for name, value in self.facts.items()}


class Execution:
    def __init__(self, *kernels):
        self.get_ops = lambda: kernels


@pytest.mark.parametrize(
    "kernels",
    [
        (),
        (Kernel("Eltwise", "f32", "a"),),
        (Kernel("Convolution", "f32", "a"), Kernel("Convolution", "i8", "a")),
        (Kernel("Convolution", "f64", "a"),),
        (Kernel("Subgraph", "f32", "elementwise"),),
    ],
    ids=["none", "only its addition", "two", "of an unknown type", "of no product"],
)
def test_openvino_s_layer_without_a_single_kernel_has_no_arithmetic(kernels):
    assert openvino_receipt.read_arithmetic(Execution(*kernels), {"layer": ["a"]}) == {}


def test_openvino_s_unnamed_kernels_are_assigned_to_the_remaining_layers():
    named, spare = Kernel("Convolution", "f32", "a"), Kernel("FullyConnected", "i8", "made up")
    precisions = openvino_receipt.read_arithmetic(
        Execution(named, spare, spare), {"first": ["a"], "one": ["b"], "other": ["c"]}
    )
    assert precisions == {"first": "fp32", "one": "int8", "other": "int8"}


def test_openvino_s_kernel_of_an_unknown_type_is_not_guessed_from_an_unnamed_one():
    kernels = Kernel("Convolution", "f64", "a"), Kernel("FullyConnected", "i8", "made up")
    assert openvino_receipt.read_arithmetic(Execution(*kernels), {"layer": ["a"]}) == {}


def test_openvino_s_unnamed_kernels_fewer_than_layers_are_not_assigned():
    spare = Kernel("FullyConnected", "i8", "made up")
    assert openvino_receipt.read_arithmetic(Execution(spare), {"one": ["b"], "other": ["c"]}) == {}


def test_openvino_s_unnamed_kernels_of_different_types_are_not_assigned():
    kernels = Kernel("FullyConnected", "i8", "made up"), Kernel("FullyConnected", "f32", "made up, too")
    assert openvino_receipt.read_arithmetic(Execution(*kernels), {"one": ["b"], "other": ["c"]}) == {}


# ── Products without weights, and recurrent layers ────────────────────────────────────────────────────────────────────

EVERY_PRODUCT = """
<ir_version: 9, opset_import: ["" : 20]>
every_product (float[batch, 16, 8] x) => (float[batch, 4, 16] y)
<float[8, 8] query_weight, float[8, 8] key_weight, float[4, 16] left_weight, float[8, 8] einsum_weight,
 float[2, 32, 8] lstm_weight, float[2, 32, 8] lstm_recurrent_weight, float[1, 24, 16] gru_weight,
 float[1, 24, 8] gru_recurrent_weight, float[1, 4, 8] rnn_weight, float[1, 4, 4] rnn_recurrent_weight,
 int64[3] joined = {16, -1, 16}, int64[1] first = {1}> {
    [query] q = MatMul (x, query_weight)
    [key] k = MatMul (x, key_weight)
    t = Transpose <perm = [0, 2, 1]> (k)
    [scores] s = MatMul (q, t)
    p = Softmax (s)
    [context] c = MatMul (p, x)
    [einsum] e = Einsum <equation = "btc,dc->btd"> (c, einsum_weight)
    steps = Transpose <perm = [1, 0, 2]> (e)
    [lstm] l = LSTM <hidden_size = 8, direction = "bidirectional"> (steps, lstm_weight, lstm_recurrent_weight)
    both = Transpose <perm = [0, 2, 1, 3]> (l)
    flat = Reshape (both, joined)
    [gru] g = GRU <hidden_size = 8> (flat, gru_weight, gru_recurrent_weight)
    u = Squeeze (g, first)
    [rnn] r, last = RNN <hidden_size = 4> (u, rnn_weight, rnn_recurrent_weight)
    v = Squeeze (r, first)
    w = Transpose <perm = [1, 0, 2]> (v)
    o = Tanh (w)
    [left] m = MatMul (left_weight, o)
    z = Transpose <perm = [0, 2, 1]> (o)
    [outer] y = MatMul (m, z)
}
"""


@pytest.mark.parametrize("name", ON_CPU)
def test_every_product_is_found_and_is_float32(arithmetic, name):
    expected = {"query", "key", "scores", "context", "einsum", "lstm", "gru", "rnn", "left", "outer"}
    assert arithmetic(name, EVERY_PRODUCT) == dict.fromkeys(expected, "fp32")


def test_openvino_s_attention_kernel_computes_the_products_it_contains():
    kernel = Kernel("Subgraph", "f32", "scores,softmax,context")
    marks = {"first": ["scores", "softmax"], "second": ["context"]}
    assert openvino_receipt.read_arithmetic(Execution(kernel), marks) == {"first": "fp32", "second": "fp32"}


def test_openvino_s_elementwise_kernel_behind_a_product_is_not_the_product():
    kernel = Kernel("Subgraph", "f32", "activation")
    assert openvino_receipt.read_arithmetic(Execution(kernel), {"product": ["product", "activation"]}) == {}


def test_openvino_s_attention_kernel_computes_a_product_of_which_it_names_only_the_factor():
    kernel = Kernel("Subgraph", "f32", ",factor,softmax,context")
    marks = {"first": ["scores", "factor", "softmax"], "second": ["context"]}
    assert openvino_receipt.read_arithmetic(Execution(kernel), marks) == {"first": "fp32", "second": "fp32"}


def test_onnxruntime_products_with_a_fused_factor_are_found(arithmetic):
    scaled = """
    <ir_version: 9, opset_import: ["" : 20]>
    scaled (float[batch, 16, 8] x) => (float[batch, 16, 16] y) <float half = {0.5}> {
        t = Transpose <perm = [0, 2, 1]> (x)
        [scores] s = MatMul (x, t)
        h = Mul (s, half)
        y = Softmax (h)
    }
    """
    assert arithmetic("onnxruntime", scaled) == {"scores": "fp32"}
