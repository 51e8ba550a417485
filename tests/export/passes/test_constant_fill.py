import numpy as np
from onnx_text import operators, parse, random, rewritten, weight

from deploykit.export.passes import constant_fill

FILL = "ConstantOfShape <value: tensor = float[1] {0.5}> (shape)"


def test_a_filled_weight_becomes_an_initializer():
    text = f"g (float[N,3,5,5] x) => (float[N,4,3,3] y) {{ w = {FILL}  y = Conv (x, w) }}"
    model = parse(text, shape=np.array([4, 3, 3, 3]))
    assert rewritten(constant_fill.apply, model, x=random(2, 3, 5, 5)).applied == 1
    assert operators(model) == ["Conv"]
    np.testing.assert_array_equal(weight(model, "w"), np.full((4, 3, 3, 3), 0.5, np.float32))


def test_the_default_value_is_zero():
    text = "g (float[N,4] x) => (float[N,4] y) { w = ConstantOfShape (shape)  y = Add (x, w) }"
    model = parse(text, shape=np.array([4]))
    rewritten(constant_fill.apply, model, x=random(2, 4))
    assert not weight(model, "w").any()


def test_a_shape_that_depends_on_the_input_stays():
    text = f"g (float[N,4] x) => (float[N,4] y) {{ shape = Shape (x)  w = {FILL}  y = Add (x, w) }}"
    model = parse(text)
    assert rewritten(constant_fill.apply, model, x=random(2, 4)).applied == 0
