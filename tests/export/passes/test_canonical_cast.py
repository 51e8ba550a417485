import numpy as np
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import canonical_cast

X = random(2, 3, seed=4)


def test_a_cast_to_the_same_type_is_removed():
    model = parse("g (float[N,3] x) => (float[N,3] y) { a = Relu (x)  b = CastLike (a, x)  y = Neg (b) }")
    assert rewritten(canonical_cast.apply, model, x=X).applied == 1
    assert operators(model) == ["Relu", "Neg"]


def test_a_cast_to_another_tensors_type_is_a_cast():
    model = parse("g (float[N,3] x, int32[N,3] n) => (float[N,3] y) { a = CastLike (n, x)  y = Add (a, x) }")
    assert rewritten(canonical_cast.apply, model, x=X, n=np.arange(6, dtype=np.int32).reshape(2, 3)).applied == 1
    assert operators(model) == ["Cast", "Add"]


def test_a_weight_is_cast_like_anything_else():
    text = "g (float[N,3] x) => (float[N,3] y) { a = CastLike (w, x)  y = Add (a, x) }"
    model = parse(text, w=np.ones(3, np.float32))
    assert rewritten(canonical_cast.apply, model, x=X).applied == 1
    assert operators(model) == ["Add"]


def test_an_output_that_is_only_cast_retains_its_name():
    model = parse("g (float[N,3] x) => (float[N,3] y) { a = Relu (x)  y = CastLike (a, x) }")
    assert rewritten(canonical_cast.apply, model, x=X).applied == 1
    assert operators(model) == ["Relu"]


def test_a_cast_from_an_unknown_type_is_preserved():
    model = parse("g (float[N,3] x) => (float[N,3] y) { a = Relu (x)  b = CastLike (a, x)  y = Neg (b) }")
    next(node for node in model.graph if node.op_type == "CastLike").inputs[0].type = None
    rewrite = canonical_cast.apply(model)
    assert rewrite.applied == 0
    assert rewrite.skip_reasons[0].endswith("its types are not known")
