"""A backend's own form of a graph, compared with what the backend makes of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploykit.backends import create_backend
from deploykit.backends.form_audit import audit_form, compare_graphs

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
    [q] xq = QuantizeLinear (x, scale, zero)
    [dq] xd = DequantizeLinear (xq, scale, zero)
    [wdq] wd = DequantizeLinear <axis = 0> (codes, steps, zeros)
    [conv] c = Conv <pads = [1, 1, 1, 1]> (xd, wd, b)
    [relu] y = Relu (c)
}"""


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def backend(request):
    pytest.importorskip(request.param)
    return create_backend(request.param)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    arrays = {
        "scale": np.float32(0.02),
        "zero": np.int8(0),
        "codes": random.integers(-127, 128, (4, 4, 3, 3), np.int8),
        "steps": np.full(4, 0.01, np.float32),
        "zeros": np.zeros(4, np.int8),
        "b": random.standard_normal(4).astype(np.float32),
    }
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items())
    onnx.save(onnx.shape_inference.infer_shapes(proto), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def form(backend, graph: Path) -> Path:
    """The form; the test may damage it."""
    path = graph.parent / backend.compile(graph, graph.parent).file.path
    assert path != graph
    return path


def rewrite(path: Path, change) -> None:
    model = ir.load(path)
    ir.external_data.load_to_model(model)
    change(model.graph)
    ir.save(model, path)


def test_a_form_as_it_was_written_has_no_difference(backend, graph, form):
    assert audit_form(backend, graph, form) == ()


def test_a_form_in_another_order_of_serialization_has_no_difference(backend, graph, form):
    def turn_round(inner):
        values = dict(reversed([*inner.initializers.items()]))
        inner.initializers.clear()
        inner.initializers.update(values)

    before = form.read_bytes()
    rewrite(form, turn_round)
    assert form.read_bytes() != before
    assert audit_form(backend, graph, form) == ()


def test_another_constant_is_named_with_the_share_of_its_values(backend, graph, form):
    def change(inner):
        bias = inner.initializers["b"]
        bias.const_value = ir.tensor(bias.const_value.numpy() * np.array([1, 1, 1, 2], np.float32), name="b")

    rewrite(form, change)
    assert audit_form(backend, graph, form) == (
        "b: 25.0% of this constant's values are not those of the form that the graph has",
    )


def test_another_operator_is_named(backend, graph, form):
    def change(inner):
        next(node for node in inner if node.name == "relu").op_type = "Abs"

    rewrite(form, change)
    [found] = audit_form(backend, graph, form)
    assert found == "relu: this Relu has another operator, other attributes or other tensors"


def test_the_form_of_another_graph_is_found(backend, graph, form):
    def widen(inner):
        value = inner.initializers["scale"]
        value.const_value = ir.tensor(np.float32(0.08), name="scale")

    rewrite(graph, widen)
    assert any("scale" in found for found in audit_form(backend, graph, form))


def test_the_graph_in_place_of_its_form_is_found(graph, form):
    assert compare_graphs(form, graph)
