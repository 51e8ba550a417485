"""Which nodes of a graph are products."""

import onnx
import onnx_ir as ir
import pytest

from deploykit.core.errors import InputError
from deploykit.core.products import find_nested_products, find_products

GRAPH = """
<ir_version: 9, opset_import: ["" : 20]>
graph (float[batch, 4, 4] x, bool choice) => (float[batch, 4, 4] y)
<float[4, 4] m = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}> {
    [constant] c = MatMul (m, m)
    [right] a = MatMul (x, c)
    [left] b = MatMul (c, a)
    [computed] d = MatMul (a, b)
    [mixed] e = Einsum <equation = "bij,jk->bik"> (d, m)
    [moved] f = Einsum <equation = "bij->bji"> (e)
    [either] y = If (choice) <
        then_branch = yes () => (float[batch, 4, 4] t) { [inside] t = MatMul (f, m) },
        else_branch = no () => (float[batch, 4, 4] u) { u = Relu (f) }
    >
}
"""


@pytest.fixture
def graph():
    return ir.from_proto(onnx.parser.parse_model(GRAPH)).graph


def test_products_have_weights_on_either_side_or_none(graph):
    assert [node.name for node in find_products(graph)] == ["right", "left", "computed", "mixed"]


def test_products_inside_branches_are_found_with_the_node_that_holds_them(graph):
    assert [(holder.name, node.name) for holder, node in find_nested_products(graph)] == [("either", "inside")]


def test_two_products_of_one_name_are_refused(graph):
    next(node for node in graph if node.name == "left").name = "right"
    with pytest.raises(InputError, match="2 layers are named right"):
        find_products(graph)
