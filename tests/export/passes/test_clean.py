import onnx
import onnx_ir as ir
import pytest
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import clean

X = random(2, 3, seed=9)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Identity (x)  y = Relu (a)", ["Relu"]),
        ("a = Relu (x)  y = Identity (a)", ["Relu"]),
        ("a = Relu (x)  b = Identity (a)  c = Identity (b)  y = Neg (c)", ["Relu", "Neg"]),
        ("a = Relu (x)  b = Relu (x)  y = Add (a, b)", ["Relu", "Add"]),
        ("a = Neg (x)  b = Neg (x)  c = Relu (a)  d = Relu (b)  y = Add (c, d)", ["Neg", "Relu", "Add"]),
        ("a = Neg (x)  b = Relu (a)  y = Relu (x)", ["Relu"]),
    ],
    ids=[
        "Identity",
        "Identity at the output",
        "Identities in a row",
        "same node twice",
        "same chain twice",
        "dead chain",
    ],
)
def test_redundant_operations_are_removed(body, left):
    model = parse(f"g (float[N,3] x) => (float[N,3] y) {{ {body} }}")
    before = len(model.graph)
    assert rewritten(clean.apply, model, x=X).applied == before - len(left)
    assert operators(model) == left


def test_nodes_that_differ_in_an_attribute_both_stay():
    body = "a = LeakyRelu <alpha = 0.1> (x)  b = LeakyRelu <alpha = 0.2> (x)  y = Add (a, b)"
    model = parse(f"g (float[N,3] x) => (float[N,3] y) {{ {body} }}")
    assert rewritten(clean.apply, model, x=X).applied == 0


def test_an_unread_weight_is_removed():
    model = parse("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }", w=random(3))
    rewritten(clean.apply, model, x=X)
    assert not model.graph.initializers


def test_nodes_are_in_the_order_of_computation():
    model = parse("g (float[N,3] x) => (float[N,3] y) { a = Neg (x)  y = Relu (a) }")
    neg, relu = model.graph
    model.graph.remove(neg)
    model.graph.insert_after(relu, neg)
    clean.apply(model)
    assert operators(model) == ["Neg", "Relu"]


def test_unused_operator_sets_are_removed():
    text = (
        '<ir_version: 8, opset_import: ["" : 20, "pkg.onnxscript" : 1]> g (float[3] x) => (float[3] y) {y = Relu (x)}'
    )
    model = ir.from_proto(onnx.parser.parse_model(text))
    clean.apply(model)
    assert dict(model.opset_imports) == {"": 20}


def test_an_identity_from_input_to_output_has_to_stay():
    model = parse("g (float[N,3] x) => (float[N,3] y) { y = Identity (x) }")
    assert rewritten(clean.apply, model, x=X).applied == 0
