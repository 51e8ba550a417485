"""The form computes what the graph computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deploykit.backends.graph_form import write_form
from deploykit.backends.onnxruntime import open_graph
from deploykit.backends.onnxruntime_cuda.form import separate_biases


def compute(graph: Path, batch: int = 2) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((batch, 3, 8, 8)).astype(np.float32)
    (output,) = open_graph(graph).run({"x": x}).values()
    return output


def test_a_bias_becomes_an_add_of_its_own(convolution: Path, tmp_path: Path) -> None:
    model = ir.load(convolution)
    assert separate_biases(model.graph) == 1
    operators = [node.op_type for node in model.graph]
    assert operators == ["Conv", "Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert len(model.graph.node(0).inputs) == 2
    write_form(model, tmp_path / "form.onnx")
    np.testing.assert_allclose(compute(tmp_path / "form.onnx"), compute(convolution), rtol=1e-5)


ENDS_WITH_CONV = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch,3,8,8] x) => (float[batch,4,6,6] y) <float[4,3,3,3] weight_0, float[4] weight_1> {
    [conv] y = Conv (x, weight_0, weight_1)
}
"""


def test_an_output_keeps_its_name_where_a_convolution_writes_it(
    write_graph: Callable[[str], Path], tmp_path: Path
) -> None:
    graph = write_graph(ENDS_WITH_CONV)
    model = ir.load(graph)
    separate_biases(model.graph)
    write_form(model, tmp_path / "form.onnx")
    assert [output.name for output in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(compute(tmp_path / "form.onnx"), compute(graph), rtol=1e-5, atol=1e-6)


def test_without_biases_nothing_changes(write_graph: Callable[[str], Path]) -> None:
    model = ir.load(write_graph(ENDS_WITH_CONV.replace(", weight_1)", ")").replace(", float[4] weight_1", "")))
    assert separate_biases(model.graph) == 0
