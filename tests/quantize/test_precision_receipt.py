import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_int8 import KERNELS, calibrated, convolutional, parse, random

from deploykit.core.values import ExecutedPrecision, Recipe
from deploykit.quantize import int8
from deploykit.quantize.mac_count import count_macs
from deploykit.quantize.receipt import compute_int8_share, compute_precision_receipt

CATALOG = Path(__file__).resolve().parents[2] / "architectures" / "catalog.json"


def macs_by_node(model):
    return {node.name: count for node, count in count_macs(model).macs.items()}


def uncounted_by_node(model):
    return {node.name: reason for node, reason in count_macs(model).uncounted.items()}


# ── Multiply-accumulates ──────────────────────────────────────────────────────────────────────────────────────────────

COUNTS = {
    "Conv": ("Conv (x, w)", (6, 4, 3, 3), 6 * 6 * 6 * 4 * 9),
    "padded Conv": ("Conv <pads = [1, 1, 1, 1]> (x, w)", (6, 4, 3, 3), 8 * 8 * 6 * 4 * 9),
    "strided Conv": ("Conv <strides = [2, 2]> (x, w)", (6, 4, 1, 1), 4 * 4 * 6 * 4),
    "grouped Conv": ("Conv <group = 2> (x, w)", (6, 2, 1, 1), 8 * 8 * 6 * 2),
    "depthwise Conv": ("Conv <group = 4> (x, w)", (4, 1, 3, 3), 6 * 6 * 4 * 9),
    "ConvTranspose": ("ConvTranspose <strides = [2, 2]> (x, w)", (4, 6, 2, 2), 8 * 8 * 4 * 6 * 4),
    "MatMul over the last axis": ("MatMul (x, w)", (8, 5), 4 * 8 * 8 * 5),
}
"""For one image of 4×8×8: outputs times products for each, or inputs times outputs that each feeds (ConvTranspose)."""


@pytest.mark.parametrize(("text", "shape", "expected"), COUNTS.values(), ids=COUNTS)
def test_multiply_accumulates_of_one_image(text, shape, expected):
    assert macs_by_node(convolutional(f"[layer] y = {text}", w=random(*shape))) == {"layer": expected}


@pytest.mark.parametrize(("text", "shape"), [("Gemm", (4, 6)), ("Gemm <transB = 1>", (6, 4)), ("MatMul", (4, 6))])
def test_multiply_accumulates_of_a_matrix_product(text, shape):
    assert macs_by_node(
        parse(f"g (float[N,4] x) => (float[N,6] y) {{ [fc] y = {text} (x, w) }}", w=random(*shape))
    ) == {"fc": 24}


def test_a_fixed_batch_is_divided_out():
    assert macs_by_node(parse("g (float[5,4] x) => (float[5,6] y) { [fc] y = MatMul (x, w) }", w=random(4, 6))) == {
        "fc": 24
    }


def test_a_batch_on_the_second_axis_is_divided_out():
    text = """g (float[N,7,4] x) => (float[7,N,6] y) {
        a = Transpose <perm = [1, 0, 2]> (x)
        [fc] y = MatMul (a, w)
    }"""
    assert macs_by_node(parse(text, w=random(4, 6))) == {"fc": 7 * 24}


def test_windows_along_the_batch_axis_are_all_counted():
    text = """g (float[N,8,4] x) => (float[M,2,6] y) <int64[3] windows = {-1, 2, 4}> {
        a = Reshape (x, windows)
        [fc] y = MatMul (a, w)
    }"""
    assert macs_by_node(parse(text, w=random(4, 6))) == {"fc": 8 * 24}


def test_sizes_that_are_a_multiple_of_the_batch_count():
    """As written by torch.export, where shape inference alone does not give the number of windows."""
    text = """g (float[N,8,4] x, int64[3] windows) => (float[M,2,6] y) {
        a = Reshape (x, windows)
        [fc] y = MatMul (a, w)
    }"""
    model = parse(text, w=random(4, 6))
    for node in model.graph:
        node.outputs[0].shape = ir.Shape(["4*s31", 2, 6 if node.name == "fc" else 4])
    assert macs_by_node(model) == {"fc": 8 * 24}


def test_the_total_is_that_of_the_catalog(fp32_bundle):
    rows = json.loads(CATALOG.read_text())
    expected = next(row["macs"] for row in rows if row["name"] == "nin_cifar10")
    assert sum(macs_by_node(ir.load(fp32_bundle / "model.onnx")).values()) == expected


def test_a_product_of_unknown_height_is_not_counted_and_says_why():
    model = parse("g (float[N,4,H,W] x) => (float[N,4,H,W] y) { [conv] y = Conv (x, w) }", w=KERNELS["w0"])
    assert uncounted_by_node(model) == {"conv": "the size H of y is dynamic"}


def test_a_product_of_unknown_shape_is_not_counted_and_says_why():
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "other" : 1]> g (float[N,4,8,8] x) => (float[N,4,8,8] y) '
        "{ a = other.Unknown (x) [conv] b = Conv (a, w) y = Relu (b) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(KERNELS["w0"], "w"))
    assert uncounted_by_node(ir.from_proto(proto)) == {"conv": "the graph does not say its shapes"}


EVERY_PRODUCT = {
    "two computed tensors": ("y = MatMul (x, x)", {}, 4 * 8 * 8 * 8),
    "weights on the left": ("y = MatMul (w, x)", {"w": random(5, 8)}, 4 * 5 * 8 * 8),
    "Einsum": ('y = Einsum <equation = "nchw,oc->nohw"> (x, w)', {"w": random(5, 4)}, 4 * 8 * 8 * 5),
    "Einsum of two computed tensors": ('y = Einsum <equation = "nchw,nchv->nhwv"> (x, x)', {}, 4 * 8 * 8 * 8),
    "Einsum with an ellipsis": ('y = Einsum <equation = "...w,vw->...v"> (x, w)', {"w": random(5, 8)}, 4 * 8 * 8 * 5),
    "DeformConv": (
        "y = DeformConv <kernel_shape = [1, 1]> (x, w, offset)",
        {"w": random(6, 4, 1, 1), "offset": np.zeros((1, 2, 8, 8), np.float32)},
        8 * 8 * 6 * 4,
    ),
}


@pytest.mark.parametrize(("text", "weights", "expected"), EVERY_PRODUCT.values(), ids=EVERY_PRODUCT)
def test_every_product_counts(text, weights, expected):
    assert macs_by_node(convolutional(f"[product] {text}", **weights)) == {"product": expected}


@pytest.mark.parametrize(("operator", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_layers_count_input_and_hidden_products_of_every_step_and_direction(operator, gates):
    text = f"""g (float[N,9,6] x) => (float[9,2,N,5] y) {{
        steps = Transpose <perm = [1, 0, 2]> (x)
        [recurrent] y = {operator} <hidden_size = 5, direction = "bidirectional"> (steps, w, r)
    }}"""
    model = parse(text, w=random(2, gates * 5, 6), r=random(2, gates * 5, 5))
    assert macs_by_node(model) == {"recurrent": 9 * 2 * gates * 5 * (6 + 5)}


def test_a_sum_of_one_tensor_is_no_product():
    assert macs_by_node(convolutional('y = Einsum <equation = "nchw->nhwc"> (x)')) == {}


def test_a_product_with_a_vector():
    text = "g (float[N,4,8] x) => (float[N,4] y) { [product] y = MatMul (x, w) }"
    assert macs_by_node(parse(text, w=random(8))) == {"product": 4 * 8}


BRANCHES = """
    answer = ReduceMax <keepdims = 0> (x)
    zero = Constant <value_float = 0.0> ()
    positive = Greater (answer, zero)
    [choice] y = If (positive) <
        then_branch = left () => (float[N,4,8,8] a) { [inner] a = MatMul (x, x) },
        else_branch = right () => (float[N,4,8,8] b) { b = Relu (x) }
    >
"""


def test_a_product_inside_a_branch_is_named_as_not_counted(tmp_path):
    ir.save(convolutional(BRANCHES), tmp_path / "branches.onnx")
    (product,) = compute_receipt(tmp_path / "branches.onnx").uncounted
    assert (product.node, product.op_type) == ("inner", "MatMul")
    assert product.reason == "it is computed inside choice, a If, as often as the data decide"


# ── Against a backend's report ────────────────────────────────────────────────────────────────────────────────────────

BODY = "[one] a = Conv (x, w) r = Relu (a) [two] b = Conv (r, w0) [three] y = Conv <group = 4> (b, v)"
WEIGHTS = {"w": random(4, 4, 3, 3), "v": random(4, 1, 1, 1)}
WORK = {"one": 36 * 4 * 4 * 9, "two": 36 * 4 * 4, "three": 36 * 4}
TOTAL = sum(WORK.values())


@pytest.fixture
def graph(tmp_path):
    """Three layers of which `two` stays in floating point."""
    source = tmp_path / "source.onnx"
    ir.save(convolutional(BODY, **WEIGHTS), source)
    int8.write_quantized_graph(source, calibrated(source), Recipe(excluded=("two",)), tmp_path)
    return tmp_path / "model.onnx"


def compute_receipt(graph, **arithmetic):
    return compute_precision_receipt(graph, ExecutedPrecision("kernel list", arithmetic), "toy", "1.0")


def test_shares_are_weighted_by_macs(graph):
    receipt = compute_receipt(graph, one="int8", two="fp32", three="int8")
    assert receipt.shares == {"int8": (WORK["one"] + WORK["three"]) / TOTAL, "fp32": WORK["two"] / TOTAL}
    assert sum(receipt.shares.values()) == pytest.approx(1)


def test_requested_and_executed_arithmetic_are_recorded(graph):
    layers = compute_receipt(graph, one="int8", two="fp32", three="fp32").layers
    assert [(layer.node, layer.op_type, layer.macs, layer.requested, layer.executed) for layer in layers] == [
        ("one", "Conv", WORK["one"], "int8", "int8"),
        ("two", "Conv", WORK["two"], "fp32", "fp32"),
        ("three", "Conv", WORK["three"], "int8", "fp32"),
    ]


def test_int8_that_did_not_run_is_a_failure(graph):
    receipt = compute_receipt(graph, one="fp32", two="fp32", three="int8")
    assert [int8_fallback.node for int8_fallback in receipt.int8_fallbacks] == ["one"]
    assert receipt.failures == (
        "1 of 3 layers are INT8 in the graph and FP32 in toy (such as one): choose another --target",
    )


def test_missing_int8_on_a_fortieth_of_the_work_passes(graph):
    """`three` is 144 of 5328 multiply-accumulates that were to be INT8."""
    receipt = compute_receipt(graph, one="int8", two="fp32", three="fp32")
    assert [int8_fallback.node for int8_fallback in receipt.int8_fallbacks] == ["three"]
    assert receipt.failures == ()


def test_higher_precision_than_requested_passes_without_int8(graph):
    assert compute_receipt(graph, one="int8", two="int8", three="int8").failures == ()


def test_the_receipt_names_its_evidence(graph):
    receipt = compute_receipt(graph, one="int8", two="fp32", three="int8")
    assert (receipt.backend, receipt.version, receipt.evidence) == ("toy", "1.0", "kernel list")


def test_an_unreported_layer_counts_for_no_arithmetic(graph):
    receipt = compute_receipt(graph, one="int8", two="fp32")
    assert [layer.node for layer in receipt.unreported] == ["three"]
    assert receipt.int8_fallbacks == ()
    assert sum(receipt.shares.values()) == pytest.approx(1 - WORK["three"] / TOTAL)


def test_an_unreported_fortieth_of_the_work_passes(graph):
    assert compute_receipt(graph, one="int8", two="fp32").failures == ()


def test_unreported_int8_fails(graph):
    assert compute_receipt(graph, two="fp32", three="int8").failures == (
        "1 of 3 layers are INT8 in the graph, and toy's kernel list does not show what computes them (such as one): "
        "choose another --target, or report it with the graph",
    )


def test_the_graphs_types_are_the_requested_arithmetic(tmp_path):
    text = "g (float16[N,4] x) => (float16[N,4] y) { [fc] y = MatMul (x, w) }"
    ir.save(parse(text, w=random(4, 4).astype("float16")), tmp_path / "half.onnx")
    assert compute_receipt(tmp_path / "half.onnx", fc="fp16").layers[0].requested == "fp16"


def test_the_rest_of_an_int8_fp16_graph_requests_fp16(tmp_path):
    source = tmp_path / "source.onnx"
    ir.save(convolutional(BODY, **WEIGHTS), source)
    int8.write_quantized_graph(source, calibrated(source, half=True), Recipe(rest="fp16", excluded=("two",)), tmp_path)
    receipt = compute_receipt(tmp_path / "model.onnx", one="int8", two="fp16", three="int8")
    assert [layer.requested for layer in receipt.layers] == ["int8", "fp16", "int8"]


def test_a_network_without_layers_has_no_shares(tmp_path):
    ir.save(convolutional("y = Relu (x)"), tmp_path / "none.onnx")
    receipt = compute_receipt(tmp_path / "none.onnx")
    assert (receipt.shares, receipt.layers) == ({}, ())


# ── Layers to be quantized ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("excluded", "expected"),
    [(set(), TOTAL), ({"two"}, WORK["one"] + WORK["three"]), ({"one", "two", "three"}, 0)],
    ids=["nothing out", "one out", "all out"],
)
def test_the_share_that_a_recipe_quantizes(tmp_path, excluded, expected):
    ir.save(convolutional(BODY, **WEIGHTS), tmp_path / "source.onnx")
    assert compute_int8_share(tmp_path / "source.onnx", frozenset(excluded)) == expected / TOTAL


def test_layers_that_cannot_be_quantized_count_among_all(tmp_path):
    text = "g (float[4,4] x) => (float[4,4] y) { [scaled] a = Gemm <alpha = 2.0> (x, w) [plain] y = Gemm (a, w) }"
    ir.save(parse(text, w=random(4, 4)), tmp_path / "source.onnx")
    assert compute_int8_share(tmp_path / "source.onnx", frozenset()) == 1 / 2


# ── What an INT8 graph leaves in floating point ───────────────────────────────────────────────────────────────────────


def test_the_largest_products_outside_int8_come_first(graph):
    receipt = compute_receipt(graph, one="fp32", two="fp32", three="int8")
    assert [layer.node for layer in receipt.left_floating] == ["one", "two"]


def test_a_graph_without_int8_leaves_nothing_in_floating_point(tmp_path):
    ir.save(convolutional(BODY, **WEIGHTS), tmp_path / "source.onnx")
    assert compute_receipt(tmp_path / "source.onnx", one="fp32").left_floating == ()


def test_the_shares_that_the_graph_requests(graph):
    assert compute_receipt(graph).requested_shares["int8"] == (WORK["one"] + WORK["three"]) / TOTAL


def test_a_graph_that_is_nearly_all_int8_has_no_shortfall(graph):
    assert compute_receipt(graph, one="int8", two="fp32", three="int8").int8_shortfall is None


def test_a_graph_that_is_int8_only_in_part_says_so(tmp_path):
    source = tmp_path / "source.onnx"
    ir.save(convolutional(BODY, **WEIGHTS), source)
    int8.write_quantized_graph(source, calibrated(source), Recipe(excluded=("one",)), tmp_path)
    shortfall = compute_receipt(tmp_path / "model.onnx", one="fp32", two="int8", three="int8").int8_shortfall
    share = 100 * (WORK["two"] + WORK["three"]) / TOTAL
    assert shortfall == f"only {share:.1f} % of the network is INT8 by MACs; in floating point: one"


def test_products_carry_the_module_that_issued_them(tmp_path):
    model = convolutional(BODY, **WEIGHTS)
    next(node for node in model.graph if node.name == "two").metadata_props["deploykit.module"] = "head.proj"
    ir.save(model, tmp_path / "source.onnx")
    assert [layer.title for layer in compute_receipt(tmp_path / "source.onnx").layers] == ["one", "head.proj", "three"]
