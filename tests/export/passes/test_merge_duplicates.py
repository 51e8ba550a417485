import numpy as np
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import fold_constants, merge_duplicates

W = random(64, 64)


def test_equal_weights_become_one():
    text = "g (float[N,64] x) => (float[N,64] y) { a = MatMul (x, first)  y = MatMul (a, second) }"
    model = parse(text, first=W, second=W.copy())
    assert rewritten(merge_duplicates.apply, model, x=random(2, 64)).applied == 1
    assert list(model.graph.initializers) == ["first"]


def test_small_constants_keep_their_names():
    text = "g (float[N,64] x) => (float[N,64] y) { a = Add (x, first)  y = Add (a, second) }"
    model = parse(text, first=np.zeros(64, np.float32), second=np.zeros(64, np.float32))
    assert rewritten(merge_duplicates.apply, model, x=random(2, 64)).applied == 0
    assert list(model.graph.initializers) == ["first", "second"]


def test_weights_that_differ_in_one_element_stay_apart():
    text = "g (float[N,64] x) => (float[N,64] y) { a = MatMul (x, first)  y = MatMul (a, second) }"
    changed = W.copy()
    changed[-1, -1] += 1
    assert rewritten(merge_duplicates.apply, parse(text, first=W, second=changed), x=random(2, 64)).applied == 0


def test_a_weight_computed_twice_is_stored_once():
    text = """g (float[N,64] x) => (float[N,64] y) {
        v = Mul (first, scale)
        a = MatMul (x, v)
        w = Mul (second, scale)
        y = MatMul (a, w)
    }"""
    model = parse(text, first=W, second=W.copy(), scale=random(1))
    rewritten(merge_duplicates.apply, model, x=random(2, 64))
    rewritten(fold_constants.apply, model, x=random(2, 64))
    assert operators(model) == ["MatMul", "MatMul"]
    assert len(model.graph.initializers) == 1
