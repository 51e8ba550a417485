"""Which nodes count as layers with weights."""

import onnx
import onnx_ir as ir
import pytest

from deploykit.backends.weighted_layers import find_weighted_layers
from deploykit.core.errors import InputError

GRAPH = """
<ir_version: 9, opset_import: ["" : 20]>
graph (float[batch, 2, 4, 4] x) => (float[batch, 2, 4, 4] y)
<float[2, 2, 1, 1] w, int8[2, 2, 1, 1] codes, float scale = {0.5}, int8 zero = {0}, float[4, 4] m> {
    [plain] a = Conv (x, w)
    [dequantize] restored = DequantizeLinear (codes, scale, zero)
    [quantized] b = Conv (a, restored)
    [folded] c = MatMul (m, m)
    [product] d = MatMul (b, c)
    [attention] e = MatMul (d, b)
    y = Relu (e)
}
"""


@pytest.fixture
def graph():
    """The graph of a text; names without values in the text are initializers too."""

    def parsed(text):
        model = onnx.parser.parse_model(text)
        for value in model.graph.value_info:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if value.name in ("w", "codes", "m"):
                size = int(onnx.numpy_helper.np.prod(shape))
                dtype = value.type.tensor_type.elem_type
                model.graph.initializer.append(onnx.helper.make_tensor(value.name, dtype, shape, [1] * size))
        return ir.from_proto(model).graph

    return parsed


def test_layers_multiply_a_computed_tensor_by_a_constant(graph):
    assert [node.name for node in find_weighted_layers(graph(GRAPH))] == ["plain", "quantized", "product"]


@pytest.mark.parametrize(
    ("name", "complaint"), [("", "a layer has no name"), ("plain", "2 layers are named plain")], ids=["none", "twice"]
)
def test_a_layer_without_a_unique_name_is_refused(graph, name, complaint):
    nodes = graph(GRAPH)
    next(node for node in nodes if node.name == "quantized").name = name
    with pytest.raises(InputError, match=f"In this graph {complaint}"):
        find_weighted_layers(nodes)
