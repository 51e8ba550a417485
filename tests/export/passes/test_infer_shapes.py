from onnx_text import parse, random, rewritten

from deploykit.export.passes import infer_shapes

TEXT = "g (float[N,5,3] x) => (float[N,5,4] y) { a = MatMul (x, w)  y = Relu (a) }"


def test_a_tensor_without_a_shape_gets_the_one_that_follows():
    model = parse(TEXT, w=random(3, 4))
    product = next(iter(model.graph)).outputs[0]
    product.shape = None
    assert rewritten(infer_shapes.apply, model, x=random(2, 5, 3)).applied == 1
    assert next(iter(model.graph)).outputs[0].shape[1:] == (5, 4)


def test_a_graph_with_all_shapes_known_is_unchanged():
    assert rewritten(infer_shapes.apply, parse(TEXT, w=random(3, 4)), x=random(2, 5, 3)).applied == 0
