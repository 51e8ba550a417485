import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploykit.core.graph_edit import (
    add_initializer,
    bypass_node,
    drop_unused_initializers,
    find_single_reader,
    has_single_use,
    insert_node_before,
    is_constant,
    is_single_use_initializer,
    lift_constants,
    read_constant,
    set_initializer,
)

CHAIN = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x) => (float[2] y)
<float[2] w = {1.0, 2.0}, float[2] unused = {3.0, 4.0}>
{
    half = Constant<value_floats = [0.5, 0.5]>()
    axes = Constant<value_ints = [0]>()
    scaled = Mul(x, w)
    shifted = Add(scaled, half)
    y = Relu(shifted)
}
"""


@pytest.fixture
def graph() -> ir.Graph:
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(CHAIN))).graph


def values(graph: ir.Graph) -> dict[str, ir.Value]:
    outputs = [output for node in graph for output in node.outputs]
    return {value.name or "": value for value in (*graph.inputs, *graph.initializers.values(), *outputs)}


def test_constants_are_initializers_and_constant_nodes(graph):
    by_name = values(graph)
    assert read_constant(by_name["w"]).tolist() == [1, 2]
    assert read_constant(by_name["half"]).tolist() == [0.5, 0.5]
    assert is_constant(by_name["half"])
    for value in (by_name["x"], by_name["scaled"], None):
        assert read_constant(value) is None
        assert not is_constant(value)


def test_a_tensor_that_is_a_graph_output_has_no_single_use(graph):
    by_name = values(graph)
    assert has_single_use(by_name["scaled"])
    assert find_single_reader(by_name["scaled"]).op_type == "Add"
    graph.outputs.append(by_name["scaled"])
    assert not has_single_use(by_name["scaled"])
    assert find_single_reader(by_name["scaled"]) is None
    assert find_single_reader(by_name["y"]) is None


def test_only_an_initializer_with_one_reader_can_be_changed_in_place(graph):
    by_name = values(graph)
    assert is_single_use_initializer(by_name["w"])
    assert not is_single_use_initializer(by_name["scaled"])
    assert not is_single_use_initializer(None)
    by_name["y"].producer().replace_input_with(0, by_name["w"])
    assert not is_single_use_initializer(by_name["w"])


def test_a_new_initializer_gets_a_free_name(graph):
    names = [add_initializer(graph, name, np.zeros(3, np.float32)).name for name in ("new", "w", "w")]
    assert names == ["new", "w_1", "w_2"]
    assert read_constant(graph.initializers["w"]).tolist() == [1, 2]


@pytest.mark.parametrize("array", [np.float32(2), np.array(3, np.uint8), np.arange(6.0).reshape(2, 3).T])
def test_an_initializer_has_the_type_and_shape_of_the_array(graph, array):
    value = add_initializer(graph, "new", array)
    np.testing.assert_array_equal(read_constant(value), array, strict=True)
    assert tuple(value.shape) == array.shape
    assert value.dtype == ir.DataType.from_numpy(array.dtype)


def test_an_existing_initializer_is_replaced_and_a_new_one_is_added(graph):
    multiply = values(graph)["scaled"].producer()
    set_initializer(multiply, 1, np.ones(2, np.float32), "ignored")
    assert read_constant(graph.initializers["w"]).tolist() == [1, 1]
    set_initializer(multiply, 2, np.zeros(2, np.float32), "unused")
    assert multiply.inputs[2].name == "unused_1"


def test_unused_initializers_are_removed_unless_they_are_graph_outputs(graph):
    graph.outputs.append(add_initializer(graph, "output", np.zeros(2, np.float32)))
    drop_unused_initializers(graph)
    assert {*graph.initializers} == {"w", "output"}


def test_float_constants_become_initializers_that_are_not_inputs(graph):
    graph.inputs.append(graph.initializers["w"])
    lift_constants(graph)
    assert [value.name for value in graph.inputs] == ["x"]
    assert [node.op_type for node in graph] == ["Constant", "Mul", "Add", "Relu"]  # integers are preserved
    assert read_constant(graph.initializers["half"]).tolist() == [0.5, 0.5]


def test_bypassing_a_node_preserves_the_graph_output_name(graph):
    by_name = values(graph)
    bypass_node(by_name["y"].producer(), by_name["shifted"])
    assert graph.outputs[0].name == "y"
    assert graph.outputs[0].producer().op_type == "Add"
    assert list(graph.outputs[0].shape) == [2]


def test_an_inserted_node_belongs_to_the_module_of_its_successor(graph):
    relu = values(graph)["y"].producer()
    relu.metadata_props["module"] = "features.0"
    output = insert_node_before(relu, ir.node("Neg", [relu.inputs[0]]))
    assert [node.op_type for node in graph][-2:] == ["Neg", "Relu"]
    assert output.producer().metadata_props == {"module": "features.0"}
