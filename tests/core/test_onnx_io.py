"""ONNX graphs as files: the bytes equal those of Protobuf, and files that onnx refuses are refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from deploykit.core import onnx_io
from deploykit.core.errors import InternalError


def graph(text: str) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 20]> {text}')


def matrix_product(rows: int) -> ir.Model:
    """y = x·w + b, with a weight of rows×4, too large for a small constant."""
    model = graph(
        "g (float[batch,ROWS] x) => (float[batch,4] y) { p = MatMul (x, w) y = Add (p, b) }".replace("ROWS", str(rows))
    )
    random = np.random.default_rng(0)
    for name, shape, reader, position in (("w", (rows, 4), 0, 1), ("b", (4,), 1, 1)):
        tensor = ir.tensor(random.standard_normal(shape).astype(np.float32), name=name)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(shape), type=ir.TensorType(tensor.dtype))
        model.graph.register_initializer(value)
        model.graph.node(reader).replace_input_with(position, value)
    return model


@pytest.mark.parametrize("rows", [3, 31, 32, 33, 500, 4096], ids=lambda rows: f"{16 * rows} bytes of weights")
def test_a_saved_file_equals_the_protobuf_serialization(rows, tmp_path):
    """At 128 bytes and 16 KiB the length prefix of a field grows by one byte."""
    model = matrix_product(rows)
    onnx_io.save_model(model, tmp_path / "ours.onnx")
    ir.save(model, tmp_path / "theirs.onnx")
    ours, theirs = onnx.load(tmp_path / "ours.onnx"), onnx.load(tmp_path / "theirs.onnx")
    assert {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in ours.graph.initializer} == {
        weight.name: onnx.numpy_helper.to_array(weight).tobytes() for weight in theirs.graph.initializer
    }
    for part in ("node", "input", "output"):
        assert getattr(ours.graph, part) == getattr(theirs.graph, part)
    assert (ours.ir_version, ours.opset_import) == (theirs.ir_version, theirs.opset_import)


def test_a_saved_file_runs(tmp_path):
    model = matrix_product(100)
    onnx_io.save_model(model, tmp_path / "model.onnx")
    x = np.ones((2, 100), np.float32)
    (y,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})
    w, b = (value.const_value.numpy() for value in model.graph.initializers.values())
    np.testing.assert_allclose(y, x @ w + b, rtol=1e-5)


# ── Weights in a second file ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def large_graph(tmp_path, monkeypatch):
    """A saved graph whose weights count as too large for one file."""
    monkeypatch.setattr(onnx_io, "LARGEST_SINGLE_FILE", 1024)
    path = tmp_path / "source" / "model.onnx"
    path.parent.mkdir()
    assert onnx_io.save_model(matrix_product(100), path) == ("model.onnx", "model.onnx.data")
    return path


def test_large_weights_are_written_beside_the_graph(large_graph):
    (loaded, _), (expected, _) = (
        [value.const_value.numpy() for value in model.graph.initializers.values()]
        for model in (ir.load(large_graph), matrix_product(100))
    )
    np.testing.assert_array_equal(loaded, expected)


def test_the_limit_is_below_protobufs():
    assert onnx_io.LARGEST_SINGLE_FILE < 2**31


def test_a_placed_graph_leaves_its_source_readable(large_graph, tmp_path):
    """onnx and onnx-ir refuse external data with several hard links."""
    placed = tmp_path / "model.onnx"
    onnx_io.place_graph(large_graph, placed)
    for path in (large_graph, placed):
        assert onnx.load(path).graph.initializer[0].raw_data
        ir.external_data.load_to_model(ir.load(path))


def test_both_files_of_a_graph_are_removed(large_graph):
    onnx_io.remove_graph(large_graph)
    assert list(large_graph.parent.iterdir()) == []


def test_saving_leaves_the_model_unchanged(tmp_path):
    model = matrix_product(100)
    onnx_io.save_model(model, tmp_path / "first.onnx")
    onnx_io.save_model(model, tmp_path / "second.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    assert list(model.graph.initializers) == ["w", "b"]


def test_a_good_graph_passes_the_check():
    onnx_io.check_model(matrix_product(500))


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2] x) => (int64[2] y) { y = Relu (x) }",
        "g (float[2,3] x) => (float[2,3] y) { y = Gemm (x) }",
        "g (float[2,3] x, float[4,5] w) => (float[2,5] y) { y = MatMul (x, w) }",
    ],
    ids=["an output of another type", "an input that is missing", "shapes that do not fit"],
)
def test_a_broken_graph_is_refused(text):
    with pytest.raises(InternalError, match=r"onnx\.checker refuses the graph"):
        onnx_io.check_model(graph(text))


def test_a_weight_with_a_mismatched_shape_is_refused():
    model = matrix_product(500)
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(np.zeros((400, 4), np.float32), name="w")
    with pytest.raises(InternalError, match=r"onnx\.checker refuses the graph"):
        onnx_io.check_model(model)
