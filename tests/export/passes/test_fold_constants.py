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


# ── Weights of any size ───────────────────────────────────────────────────────────────────────────────────────────────

IMAGE = random(2, 64, 5, 5)
W = random(64, 64, 3, 3)
"""36,864 elements: more than onnxscript reads by default."""

COMPUTED = {
    "weight standardization": """
        mean = ReduceMean <keepdims = 1> (w, axes)
        centred = Sub (w, mean)
        square = Mul (centred, centred)
        variance = ReduceMean <keepdims = 1> (square, axes)
        deviation = Sqrt (variance)
        v = Div (centred, deviation)""",
    "a pruning mask": """
        zero = Constant <value_float = 0.0> ()
        kept = Less (zero, w)
        mask = Cast <to = 1> (kept)
        v = Mul (w, mask)""",
    "a low-rank update": "product = MatMul (low, rank) update = Reshape (product, shape) v = Add (w, update)",
    "a normalization of the weight": """
        flat = Reshape (w, flat_shape)
        normal, mean, variance = BatchNormalization <training_mode = 1> (flat, ones, zeros, past_mean, past_variance)
        v = Reshape (normal, shape)""",
    "two halves": "upper, lower = Split <axis = 0, num_outputs = 2> (w) v = Concat <axis = 0> (lower, upper)",
    "a constant fill": "filled = ConstantOfShape <value: tensor = float[1] {0.5}> (shape) v = Mul (filled, w)",
    "a weight of one channel": "channel = ReduceMean <keepdims = 1> (w, axes) v = Expand (channel, shape)",
}


@pytest.mark.parametrize("case", COMPUTED)
def test_a_weight_computed_from_constants_becomes_an_initializer(case):
    model = parse(
        f"g (float[N,64,5,5] x) => (float[N,64,3,3] y) {{ {COMPUTED[case]} y = Conv (x, v) }}",
        w=W,
        axes=np.array([1, 2, 3]),
        low=random(64, 4),
        rank=random(4, 576),
        shape=np.array([64, 64, 3, 3]),
        flat_shape=np.array([1, 64, -1]),
        ones=np.ones(64, np.float32),
        zeros=np.zeros(64, np.float32),
        past_mean=np.zeros(64, np.float32),  # not `zeros`: ONNX Runtime 1.31 writes the new mean into this constant
        past_variance=np.ones(64, np.float32),
    )
    rewritten(fold_constants.apply, model, x=IMAGE)
    assert operators(model) == ["Conv"]


def test_a_float16_weight_behind_a_cast_becomes_a_float32_initializer():
    text = "g (float[N,64,5,5] x) => (float[N,64,3,3] y) { v = Cast <to = 1> (w)  y = Conv (x, v) }"
    model = parse(text, w=W.astype(np.float16))
    assert rewritten(fold_constants.apply, model, x=IMAGE).added_bytes == W.nbytes // 2
    assert operators(model) == ["Conv"]


def test_a_large_tensor_that_is_merely_broadcast_is_not_written_out():
    text = "g (float[N,600,600] x) => (float[N,600,600] y) { big = Expand (one, shape)  y = Add (x, big) }"
    model = parse(text, one=np.ones((1, 1), np.float32), shape=np.array([600, 600]))
    rewritten(fold_constants.apply, model, x=random(1, 600, 600))
    assert operators(model) == ["Expand", "Add"]


def test_a_large_fill_that_is_merely_broadcast_is_not_written_out():
    text = "g (float[N,600,600] x) => (float[N,600,600] y) { big = ConstantOfShape (shape)  y = Add (x, big) }"
    model = parse(text, shape=np.array([600, 600]))
    rewritten(fold_constants.apply, model, x=random(1, 600, 600))
    assert operators(model) == ["ConstantOfShape", "Add"]


def test_a_fill_is_an_initializer():
    text = "g (float[N,4] x) => (float[N,4] y) { w = ConstantOfShape (shape)  y = Add (x, w) }"
    model = parse(text, shape=np.array([4]))
    rewritten(fold_constants.apply, model, x=random(2, 4))
    assert operators(model) == ["Add"]


def test_constant_outputs_of_the_graph_stay_outputs():
    text = """g (float[N,4] x) => (float[N,4] y, float[1,4] c, float[1,4] d) {
        c, d = Split <axis = 0, num_outputs = 2> (a)
        y = Relu (x)
    }"""
    rewritten(fold_constants.apply, parse(text, a=random(2, 4)), x=random(2, 4))


def test_a_node_that_cannot_be_evaluated_stays(monkeypatch):
    def fail(*_):
        raise NotImplementedError

    monkeypatch.setattr(fold_constants, "_evaluate", fail)
    text = (
        "g (float[N,4] x) => (float[N,4] y) { upper, lower = Split <axis = 0, num_outputs = 2> (a) y = Add (x, upper) }"
    )
    model = parse(text, a=random(2, 4))
    rewritten(fold_constants.apply, model, x=random(2, 4))
    assert operators(model) == ["Split", "Add"]


def test_random_numbers_are_not_folded():
    text = "g (float[N,4] x) => (float[N,4] y) { w = RandomNormalLike (a)  y = Add (x, w) }"
    model = parse(text, a=random(4))
    fold_constants.apply(model)
    assert operators(model) == ["RandomNormalLike", "Add"]
