import numpy as np
import pytest
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import fold_constants


def test_constant_expressions_are_computed_once():
    model = parse(
        """g (float[N,3] x) => (float[N,3] y) <float[3] a = {1.0, 2.0, 3.0}> {
            twice = Add (a, a)
            square = Mul (twice, twice)
            y = Add (x, square)
        }"""
    )
    assert rewritten(fold_constants.apply, model, x=random(2, 3)).applied == 2
    assert operators(model) == ["Add"]


def test_constant_nodes_become_initializers():
    model = parse("g (float[N,3] x) => (float[N,3] y) { one = Constant <value_float = 1.5> ()  y = Add (x, one) }")
    rewritten(fold_constants.apply, model, x=random(2, 3))
    assert operators(model) == ["Add"]
    assert [value.const_value.numpy() for value in model.graph.initializers.values()] == [np.float32(1.5)]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_expressions_of_the_batch_size_are_preserved(batch):
    model = parse(
        """g (float[N,3,4,4] x) => (float[N,48] y) <int64[1] rest = {48}, int64[1] first = {0}> {
            shape = Shape (x)
            batch = Gather (shape, first)
            target = Concat <axis = 0> (batch, rest)
            y = Reshape (x, target)
        }"""
    )
    rewritten(fold_constants.apply, model, x=random(batch, 3, 4, 4))
    assert operators(model)[-1] == "Reshape"
    assert "Concat" in operators(model)
