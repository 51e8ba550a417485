import numpy as np
import pytest
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import clean, drop_zero_bias

X = random(2, 4, 5, 5, seed=9)
W = random(4, 4, 3, 3)


def biased_graph(operator: str = "Conv") -> str:
    return f"g (float[N,4,5,5] x) => (float[N,4,H,W] y) {{ y = {operator} (x, w, b) }}"


def inputs_of_last(model) -> int:
    return len(list(model.graph)[-1].inputs)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_zero_bias_is_removed(operator, zero):
    model = parse(biased_graph(operator), w=W, b=np.full(4, zero, np.float32))
    assert rewritten(drop_zero_bias.apply, model, x=X).applied == 1
    assert inputs_of_last(model) == 2


def test_the_initializer_of_a_zero_bias_is_removed_if_unused():
    model = parse(biased_graph(), w=W, b=np.zeros(4, np.float32))
    drop_zero_bias.apply(model)
    clean.apply(model)
    assert set(model.graph.initializers) == {"w"}


def test_a_shared_zero_bias_is_removed_from_all_convolutions():
    text = "g (float[N,4,5,5] x) => (float[N,4,H,W] y) { a = Conv (x, w, b)  y = Conv (a, w, b) }"
    model = parse(text, w=W, b=np.zeros(4, np.float32))
    assert rewritten(drop_zero_bias.apply, model, x=X).applied == 2


@pytest.mark.parametrize("b", [random(4), np.array([0, 0, 1e-30, 0], np.float32)], ids=["random", "one tiny value"])
def test_a_bias_with_any_other_value_stays(b):
    model = parse(biased_graph(), w=W, b=b)
    assert rewritten(drop_zero_bias.apply, model, x=X).applied == 0
    assert inputs_of_last(model) == 3


def test_a_bias_that_is_an_input_stays():
    text = "g (float[N,4,5,5] x, float[4] b) => (float[N,4,H,W] y) { y = Conv (x, w, b) }"
    model = parse(text, w=W)
    assert rewritten(drop_zero_bias.apply, model, x=X, b=np.zeros(4, np.float32)).applied == 0


def test_a_zero_bias_of_gemm_is_preserved():
    model = parse(
        "g (float[N,4] x) => (float[N,4] y) { y = Gemm (x, w, b) }", w=random(4, 4), b=np.zeros(4, np.float32)
    )
    assert rewritten(drop_zero_bias.apply, model, x=random(2, 4)).applied == 0
    assert operators(model) == ["Gemm"]
