import numpy as np
import pytest
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import drop_dropout


@pytest.mark.parametrize("inputs", ["x", "x, ratio", "x, ratio, mode"])
def test_dropout_in_inference_mode_is_removed(inputs):
    text = f"g (float[N,4] x) => (float[N,4] y) {{ a = Dropout ({inputs})  y = Relu (a) }}"
    model = parse(text, ratio=np.float32(0.5), mode=np.bool_(False))
    assert rewritten(drop_dropout.apply, model, x=random(2, 4)).applied == 1
    assert operators(model) == ["Relu"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "g (float[N,4] x) => (float[N,4] y) { a = Dropout (x, ratio, mode)  y = Relu (a) }",
            "it may run in training mode",
        ),
        ("g (float[N,4] x) => (float[N,4] y, bool[N,4] m) { y, m = Dropout (x, ratio) }", "its mask is read"),
        (
            "g (float[N,4] x) => (float[N,4] y) { y = Dropout (x, ratio) }",
            "it directly connects a graph input to a graph output",
        ),
    ],
)
def test_dropout_that_does_something_stays(text, reason):
    model = parse(text, ratio=np.float32(0.5), mode=np.bool_(True))
    rewrite = drop_dropout.apply(model)
    assert rewrite.applied == 0
    assert rewrite.skip_reasons[0].endswith(reason)
