"""ONNX Runtime's form of a Q/DQ graph: the same integers after its rewrites."""

import errno

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploykit.backends import onnxruntime_int8 as subject
from deploykit.backends.onnxruntime import OnnxRuntime, open_graph, open_unoptimized
from deploykit.core.errors import InputError
from deploykit.evaluate.parity.metrics import snr_db

NETWORK = """
<ir_version: 9, opset_import: ["" : 20]>
network (float[batch, 8, 6, 6] x) => (float[batch, 5] logits)
<float s = {0.125}, int8 z = {0}, float t = {0.0078125}, int64[2] axes = {2, 3},
 int8[16, 8, 3, 3] first_weight, float[16] first_bias_weight,
 int8[8, 16, 1, 1] second_weight, float[8] second_bias_weight, int8[8, 8, 1, 1] third_weight,
 int8[8, 8, 3, 3] last_weight, int8[5, 8] gemm_weight, float[5] gemm_bias_weight> {
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    w1 = DequantizeLinear (first_weight, t, z)
    [first] a = Conv <pads = [1, 1, 1, 1]> (xd, w1, first_bias_weight)
    [relu] b = Relu (a)
    bq = QuantizeLinear (b, s, z)
    bd = DequantizeLinear (bq, s, z)
    w2 = DequantizeLinear (second_weight, t, z)
    [second] c = Conv (bd, w2, second_bias_weight)
    d = Add (c, xd)
    e = Relu (d)
    eq = QuantizeLinear (e, s, z)
    ed = DequantizeLinear (eq, s, z)
    w3 = DequantizeLinear (third_weight, t, z)
    [third] f = Conv (ed, w3)
    fq = QuantizeLinear (f, s, z)
    fd = DequantizeLinear (fq, s, z)
    w4 = DequantizeLinear (last_weight, t, z)
    [last] g = Conv <pads = [1, 1, 1, 1]> (fd, w4)
    h = Relu (g)
    i = ReduceMax <keepdims = 0> (h, axes)
    iq = QuantizeLinear (i, s, z)
    id = DequantizeLinear (iq, s, z)
    w5 = DequantizeLinear (gemm_weight, t, z)
    [gemm] logits = Gemm <transB = 1> (id, w5, gemm_bias_weight)
}
"""


@pytest.fixture
def network(write_graph):
    """A Q/DQ network with power-of-two scales and biases that are multiples of their product: every sum is exact in
    float32 in any order. Its codes reach both ends of their range."""

    def write(text=NETWORK, exact=True):
        path = write_graph(text)
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            if exact and "bias" in tensor.name:
                rounded = np.round(onnx.numpy_helper.to_array(tensor) * 16) / 16
                tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))
        onnx.save(model, path)
        return path

    return write


@pytest.fixture
def x():
    return lambda batch: (4 * np.random.default_rng(batch).standard_normal((batch, 8, 6, 6))).astype(np.float32)


def build_engine(graph, folder):
    engine = OnnxRuntime().compile(graph, folder)
    return engine, OnnxRuntime().load(engine, folder)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_outputs_are_bit_identical_to_the_qdq_graph_where_sums_are_exact(network, tmp_path, x, batch):
    graph = network()
    _, runner = build_engine(graph, tmp_path)
    expected = open_graph(graph).run({"x": x(batch)})["logits"]
    assert len(np.unique(expected)) > batch
    assert np.array_equal(runner.run({"x": x(batch)})["logits"], expected)


def test_all_but_a_large_kernel_with_a_float_output_computes_in_int8(network, tmp_path):
    engine, _ = build_engine(network(), tmp_path)
    assert OnnxRuntime().read_executed_precision(engine, tmp_path).arithmetic == {
        "first": "int8",
        "second": "int8",
        "third": "int8",
        "last": "fp32",
        "gemm": "int8",
    }


def test_the_interface_is_that_of_the_graph(network, tmp_path):
    graph = network()
    engine, runner = build_engine(graph, tmp_path)
    plain = open_graph(graph)
    assert (engine.inputs, engine.outputs) == (plain.inputs, plain.outputs) == (runner.inputs, runner.outputs)


def test_the_engine_is_a_separate_file_in_the_requested_folder(network, tmp_path):
    graph, folder = network(), tmp_path / "elsewhere"
    folder.mkdir()
    engine, _ = build_engine(graph, folder)
    assert engine.file.path == "onnxruntime.onnx"
    assert [path.name for path in folder.iterdir()] == ["onnxruntime.onnx"]


def test_the_graph_is_unchanged(network, tmp_path):
    graph = network()
    before = graph.read_bytes()
    build_engine(graph, tmp_path)
    assert graph.read_bytes() == before


def test_builds_are_deterministic(network, tmp_path):
    graph = network()
    assert build_engine(graph, tmp_path)[0] == build_engine(graph, tmp_path)[0]


def test_a_full_disk_is_explained_and_leaves_no_files(network, tmp_path, monkeypatch):
    def full(_, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    graph = network()
    monkeypatch.setattr("deploykit.core.onnx_io.save_model", full)
    with pytest.raises(InputError, match="is full"):
        OnnxRuntime().compile(graph, tmp_path)
    assert list(tmp_path.iterdir()) == [graph]


CHAIN = """
<ir_version: 9, opset_import: ["" : 20]>
chain (float[batch, 8, 6, 6] x) => (float[batch, 4, 6, 6] y)
<float s = {0.03}, int8 z = {0}, float t = {0.004}, int8[4, 8, 3, 3] weight, float[4] bias_weight> {
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    w = DequantizeLinear (weight, t, z)
    a = Conv <pads = [1, 1, 1, 1]> (xd, w, bias_weight)
    b = Relu (a)
    bq = QuantizeLinear (b, s, z)
    y = DequantizeLinear (bq, s, z)
}
"""


def test_where_sums_are_not_exact_few_codes_differ_and_by_at_most_one(write_graph, tmp_path, x):
    graph = write_graph(CHAIN)
    _, runner = build_engine(graph, tmp_path)
    expected = open_graph(graph).run({"x": x(8)})["y"]
    steps = np.abs(runner.run({"x": x(8)})["y"] - expected) / np.float32(0.03)
    assert (expected > 0).any()
    assert (expected == 0).any()
    assert steps.max() < 1.5
    assert (steps > 0.5).mean() < 0.01


# ── Unchanged nodes ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_relu_moves_after_the_quantization(write_graph):
    model = ir.load(write_graph(CHAIN))
    subject.adapt_graph(model)
    kinds = [node.op_type for node in model.graph if node.op_type != "DequantizeLinear"]
    assert kinds == ["QuantizeLinear", "Conv", "QuantizeLinear", "Max"]


CLIPPED = CHAIN.replace("b = Relu (a)", "b = Clip (a, low, high)").replace("<float s", "<float low = {-0.7}, float s")
CLIPPED = CLIPPED.replace("<float low", "<float high = {2.5}, float low")


@pytest.mark.parametrize("text", [CLIPPED, CLIPPED.replace("low, high", "low"), CLIPPED.replace("low, high", ", high")])
def test_a_clip_moves_after_the_quantization_and_bounds_the_same_codes(write_graph, tmp_path, x, text):
    graph = write_graph(text)
    engine, runner = build_engine(graph, tmp_path)
    form = ir.load(tmp_path / engine.file.path).graph
    kinds = [node.op_type for node in form if node.op_type != "DequantizeLinear"]
    assert kinds == ["QuantizeLinear", "Conv", "QuantizeLinear", "Clip"]
    expected, codes = (r.run({"x": x(8)})["y"] / np.float32(0.03) for r in (open_unoptimized(graph), runner))
    assert (np.abs(expected - codes) > 0.5).mean() < 0.01
    assert np.isclose([codes.min(), codes.max()], [expected.min(), expected.max()]).all()


def test_a_clip_between_computed_bounds_is_preserved(write_graph):
    text = CLIPPED.replace("b = Clip (a, low, high)", "top = ReduceMax <keepdims = 0> (x) b = Clip (a, low, top)")
    model = ir.load(write_graph(text))
    subject.adapt_graph(model)
    assert [node.op_type for node in model.graph if node.op_type != "DequantizeLinear"][-2:] == [
        "Clip",
        "QuantizeLinear",
    ]


def test_the_bias_of_a_convolution_in_int8_is_written_as_it_is_added(write_graph):
    """In int32, as multiples of scale · weight scale."""
    graph = write_graph(CHAIN)
    bias = next(onnx.numpy_helper.to_array(t) for t in onnx.load(graph).graph.initializer if t.name == "bias_weight")
    model = ir.load(graph)
    subject.adapt_graph(model)
    convolution = next(node for node in model.graph if node.op_type == "Conv")
    codes, scale = (ir.convenience.get_const_tensor(v).numpy() for v in convolution.inputs[2].producer().inputs)
    assert codes.dtype == np.int32
    assert scale == pytest.approx(0.03 * 0.004)
    assert np.abs(codes * scale - bias).max() <= 0.03 * 0.004 / 2 + 1e-7


def test_the_weights_of_a_convolution_that_stays_in_floating_point_are_used_as_they_are(write_graph, tmp_path, x):
    """Between a DQ and a Q, ONNX Runtime 1.31 quantizes them again, with one scale for all channels: 37 dB."""
    text = CHAIN.replace("float[batch, 4, 6, 6] y)", "float[batch, 4, 6, 6] y, float[batch, 4, 6, 6] b)")
    engine, runner = build_engine(write_graph(text), tmp_path)
    expected = open_unoptimized(tmp_path / engine.file.path).run({"x": x(8)})["b"]
    assert snr_db(expected, runner.run({"x": x(8)})["b"]) > 100


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("=> (float[batch, 4, 6, 6] y)", "=> (float[batch, 4, 6, 6] y, float[batch, 4, 6, 6] b)"),
        ("=> (float[batch, 4, 6, 6] y)", "=> (float[batch, 4, 6, 6] y, float[batch, 4, 6, 6] a)"),
        ("b = Relu (a)", "b = Sigmoid (a)"),
    ],
    ids=["its output is the network's", "its input is the network's output", "it is no Relu"],
)
def test_a_relu_with_other_readers_is_preserved(write_graph, old, new):
    model = ir.load(write_graph(CHAIN.replace(old, new)))
    subject.adapt_graph(model)
    assert "Max" not in [node.op_type for node in model.graph]


@pytest.mark.parametrize("text", [CHAIN.replace("{0}", "{3}"), CHAIN.replace("int8", "uint8")], ids=["3", "uint8"])
def test_pairs_of_another_zero_point_or_type_are_preserved(write_graph, text):
    model = ir.load(write_graph(text))
    assert subject.adapt_graph(model) == 0


def test_a_strided_or_grouped_or_padded_1x1_convolution_is_not_a_matrix_product(network):
    for attribute in ("strides = [2, 2]", "pads = [1, 1, 1, 1]", "group = 1, auto_pad = 'SAME_UPPER'"):
        text = NETWORK.replace("[second] c = Conv (", f"[second] c = Conv <{attribute}> (".replace("'", '"'))
        text = text.replace("d = Add (c, xd)", "d = Identity (c)")
        model = ir.load(network(text))
        subject.adapt_graph(model)
        kinds = {node.name: node.op_type for node in model.graph}
        assert kinds["second"] == "Conv", attribute


def test_a_floating_point_weight_is_dequantized_once_and_exactly(network):
    graph = network()
    codes = next(t for t in onnx.load(graph).graph.initializer if t.name == "last_weight")
    model = ir.load(graph)
    subject.adapt_graph(model)
    weight = model.graph.initializers["last/weight"].const_value.numpy()
    assert np.array_equal(weight, onnx.numpy_helper.to_array(codes).astype(np.float32) * np.float32(0.0078125))


def test_a_graph_without_qdq_pairs_is_used_unchanged(write_graph, tmp_path):
    graph = write_graph(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        plain (float[batch, 2] x) => (float[batch, 2] y) { y = Add (x, x) }
        """
    )
    assert build_engine(graph, tmp_path)[0].file.path == "model.onnx"
