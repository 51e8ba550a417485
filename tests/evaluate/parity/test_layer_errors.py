"""Tensors that survive fusion, and the error that each layer adds, on small graphs."""

import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploykit.backends.onnxruntime import open_graph
from deploykit.backends.weighted_layers import find_weighted_layers
from deploykit.evaluate.parity.layer_errors import error_power, fusion_boundaries, input_for, rank_layers, split_at
from deploykit.export.layer_rows import read_layer_rows as rows
from deploykit.quantize.calibrate import add_graph_outputs

X = np.random.default_rng(9).standard_normal((8, 4, 6, 6)).astype(np.float32)


def model(body, **weights):
    """Nodes from float[N,4,6,6] x to y, with 1×1 kernels w0 to w3 that keep four channels."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[N,4,6,6] x) => (float[N,A,B,C] y) {{ {body} }}'
    )
    kernels = {f"w{i}": np.random.default_rng(i).standard_normal((4, 4, 1, 1)).astype(np.float32) for i in range(4)}
    used = {name: array for name, array in {**kernels, **weights}.items() if name in body}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in used.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def find_boundaries(body):
    """Tensor to layer."""
    graph = model(body).graph
    return {
        point.tensor: point.node
        for point in fusion_boundaries(graph, {node.name for node in find_weighted_layers(graph)})
    }


def test_the_boundary_of_a_layer_is_after_its_activation():
    assert find_boundaries("[a] t = Conv (x, w0) [r] u = Relu (t) [b] y = Conv (u, w1)") == {"u": "a", "y": "b"}


def test_the_boundary_of_a_layer_is_after_its_pooling():
    body = "[a] t = Conv (x, w0) [r] u = Relu (t) [p] v = MaxPool <kernel_shape=[2, 2]> (u) [b] y = Conv (v, w1)"
    assert find_boundaries(body) == {"v": "a", "y": "b"}


def test_a_tensor_with_several_readers_survives_fusion():
    body = "[a] t = Conv (x, w0) [r] u = Relu (t) [s] v = Sigmoid (t) [m] y = Mul (u, v)"
    assert find_boundaries(body) == {"t": "a", "v": "s", "y": "m"}


def test_a_residual_sum_ends_the_deeper_branch_and_reads_the_other():
    body = """[a] s = Conv (x, w0) [b] t = Conv (x, w1) [r] u = Relu (t) [c] v = Conv (u, w2)
              [add] z = Add (v, s) [end] y = Relu (z)"""
    assert find_boundaries(body) == {"s": "a", "u": "b", "y": "c"}


def test_which_branch_is_deeper_does_not_depend_on_the_order_of_the_sum():
    body = """[a] s = Conv (x, w0) [b] t = Conv (x, w1) [r] u = Relu (t) [c] v = Conv (u, w2)
              [add] z = Add (s, v) [end] y = Relu (z)"""
    assert find_boundaries(body) == {"s": "a", "u": "b", "y": "c"}


def test_every_branch_of_a_concat_survives_fusion():
    body = """[a] s = Conv (x, w0) [b] t = Conv (x, w1) [q] u = Relu (t)
              [cat] y = Concat <axis=1> (s, u)"""
    assert find_boundaries(body) == {"s": "a", "u": "b", "y": "cat"}


def test_a_constant_input_is_not_a_branch():
    assert find_boundaries("[a] t = Conv (x, w0) [m] u = Mul (t, w1) [b] y = Conv (u, w2)") == {"u": "a", "y": "b"}


def test_tensors_without_readers_do_not_survive():
    assert find_boundaries("[a] y = Conv (x, w0) [b] t = Conv (x, w1)") == {"y": "a"}


# ── Added error ───────────────────────────────────────────────────────────────────────────────────────────────────────

CHAIN = """[a] t = Conv (x, w0) [ra] u = Relu (t) [b] v = Conv (u, w1) [rb] w = Relu (v)
           [c] s = Conv (w, w2) [rc] r = Relu (s) [d] y = Conv (r, w3)"""


@pytest.fixture
def errors(tmp_path):
    """Errors by layer, of a graph with other kernels in its converted form."""

    def find(body, names, **typed):
        for name, made in {"exported": model(body), "typed": model(body, **typed)}.items():
            ir.save(made, tmp_path / f"{name}.onnx")
        source = tmp_path / "exported.onnx"
        graph = ir.load(source).graph
        where = fusion_boundaries(graph, {node.name for node in find_weighted_layers(graph)})
        tensors = [point.tensor for point in where]
        for name in ("exported", "typed"):
            add_graph_outputs(tmp_path / f"{name}.onnx", tmp_path / f"{name}-exposed.onnx", tensors)
        split_at(source, tmp_path / "pieces.onnx", tensors)
        exported, candidate = (
            open_graph(tmp_path / f"{name}-exposed.onnx").run({"x": X}) for name in ("exported", "typed")
        )
        pieces = open_graph(tmp_path / "pieces.onnx")
        inputs = {
            spec.name: X if spec.name == "x" else candidate[spec.name.removesuffix("/given")] for spec in pieces.inputs
        }
        ranking = rank_layers(
            where, error_power([(exported, candidate, pieces.run(inputs))]), {row.name: row for row in rows(source)}
        )
        assert {error.node for error in ranking} == set(names)
        return ranking

    return find


def perturbed_kernel(name, share):
    """A kernel with a relative error of this size, in a random direction."""
    kernel = np.random.default_rng(int(name[1:])).standard_normal((4, 4, 1, 1)).astype(np.float32)
    return (kernel + share * np.random.default_rng(7).standard_normal(kernel.shape)).astype(np.float32)


def test_a_single_noisy_layer_is_named_and_the_others_add_no_error(errors):
    first, *others = errors(CHAIN, "abcd", w1=perturbed_kernel("w1", 0.1))
    assert (first.node, first.op_type, first.tensor) == ("b", "Conv", "w")
    assert first.added_noise > 1e-3
    assert max(error.added_noise for error in others) < 1e-12


def test_incoming_noise_shows_in_the_snr_of_all_later_layers(errors):
    snr = {error.node: error.snr_db for error in errors(CHAIN, "abcd", w1=perturbed_kernel("w1", 0.1))}
    assert snr["a"] is None  # the same kernel of the same library
    assert max(snr["b"], snr["c"], snr["d"]) < 40


def test_the_error_added_by_the_first_noisy_layer_is_the_error_of_its_tensor(errors):
    worst = errors(CHAIN, "abcd", w0=perturbed_kernel("w0", 0.1))[0]
    assert worst.node == "a"
    assert -10 * np.log10(worst.added_noise) == pytest.approx(worst.snr_db, abs=1e-3)


def test_two_noisy_layers_are_ranked_by_the_error_each_adds(errors):
    layer_errors = errors(CHAIN, "abcd", w1=perturbed_kernel("w1", 0.02), w3=perturbed_kernel("w3", 0.2))
    assert [error.node for error in layer_errors[:2]] == ["d", "b"]


def test_a_layers_added_error_excludes_the_incoming_noise_that_it_averages_out(errors):
    """The SNR of its output is better than that of its input, although the layer adds an error."""
    body = """[a] t = Conv (x, w0) [ra] u = Relu (t) [b] v = Conv (u, w1)
              [p] y = GlobalAveragePool (v)"""
    layer_errors = {
        error.node: error
        for error in errors(body, "ab", w0=perturbed_kernel("w0", 0.3), w1=perturbed_kernel("w1", 0.05))
    }
    assert layer_errors["b"].added_noise > 1e-5


def test_a_nan_tensor_has_the_largest_noise(errors):
    layer_errors = errors(CHAIN, "abcd", w1=np.full((4, 4, 1, 1), np.nan, np.float32))
    worst = next(error for error in layer_errors if error.node == "b")
    assert worst.added_noise == sys.float_info.max
    assert worst.snr_db < -3000


def test_equal_graphs_differ_only_by_summation_order(errors):
    assert max(error.added_noise for error in errors(CHAIN, "abcd")) < 1e-12


def test_split_graphs_read_their_new_inputs(tmp_path):
    ir.save(model("[a] t = Conv (x, w0) [r] u = Relu (t) [b] y = Conv (u, w1)"), tmp_path / "whole.onnx")
    split_at(tmp_path / "whole.onnx", tmp_path / "pieces.onnx", ["u", "y"])
    pieces = open_graph(tmp_path / "pieces.onnx")
    assert {spec.name for spec in pieces.inputs} == {"x", input_for("u")}
    assert {spec.name for spec in pieces.outputs} == {"u", "y"}
    zeros = pieces.run({"x": X, input_for("u"): np.zeros_like(X)})
    assert not zeros["y"].any()
    assert zeros["u"].any()
