import pytest
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import canonical_sum


@pytest.mark.parametrize(("terms", "adds"), [("a, b", 1), ("a, b, c", 2)])
def test_a_sum_becomes_adds(terms, adds):
    text = f"g (float[N,4] a, float[N,4] b, float[N,4] c) => (float[N,4] y) {{ y = Sum ({terms}) }}"
    model = parse(text)
    inputs = {name: random(2, 4, seed=seed) for seed, name in enumerate("abc")}
    assert rewritten(canonical_sum.apply, model, **inputs).applied == 1
    assert operators(model) == ["Add"] * adds


def test_a_sum_of_one_tensor_is_removed():
    model = parse("g (float[N,4] x) => (float[N,4] y) { a = Sum (x)  y = Relu (a) }")
    assert rewritten(canonical_sum.apply, model, x=random(2, 4)).applied == 1
    assert operators(model) == ["Relu"]
