from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import operators, parse, positive, random, rewritten, weight

from deploykit.export.passes import clean, fold_scale

X = random(2, 4, 6, 6, seed=9)
CONVS = {"u": random(4, 4, 3, 3), "v": random(4, 4, 3, 3, seed=1), "w": random(4, 4, 3, 3, seed=2)}
HALF, THREE = np.array(0.5, np.float32), np.array(3, np.float32)


def scaled_graph(body: str, product: str = "[product] y = Mul (z, k)") -> str:
    """A convolution `a`, a body that computes `z` from it, and a product of `z`."""
    return f"""g (float[N,4,6,6] x) => (float[N,C,H,W] y) {{
        [conv] a = Conv <pads = [1,1,1,1]> (x, w)
        {body}
        {product}
    }}"""


def apply(text: str, k: np.ndarray = HALF, **weights: np.ndarray):
    """The pass on a graph that must compute the same afterwards; the reasons if the graph is unchanged."""
    read: dict[str, Any] = {
        name: array for name, array in {**CONVS, **weights}.items() if name in text.replace(",", " ")
    }
    model = parse(text, k=k, **read)
    rewrite = rewritten(fold_scale.apply, model, x=X)
    return model, rewrite


# ── Products ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("product", ["Mul (z, k)", "Mul (k, z)", "Div (z, k)"])
@pytest.mark.parametrize("k", [HALF, THREE, THREE.reshape(1), THREE.reshape(1, 1, 1, 1)], ids=str)
def test_a_product_with_a_positive_constant_moves_into_the_weights(product, k):
    model, rewrite = apply(scaled_graph("z = Relu (a)", f"y = {product}"), k)
    assert (rewrite.applied, rewrite.skip_reasons) == (1, ())
    assert operators(model) == ["Conv", "Relu"]


def test_the_weights_are_scaled_in_float64_and_rounded_once():
    model, _ = apply(scaled_graph("z = Relu (a)", "y = Div (z, k)"), THREE)
    np.testing.assert_array_equal(weight(model, "w"), (CONVS["w"].astype(np.float64) / 3).astype(np.float32))


def test_a_bias_is_scaled_with_its_weight():
    text = "g (float[N,4,6,6] x) => (float[N,4,H,W] y) { z = Conv (x, w, b)  y = Mul (z, k) }"
    model, rewrite = apply(text, b=random(4))
    assert rewrite.applied == 1
    np.testing.assert_array_equal(weight(model, "b"), random(4) / 2)


def test_two_products_in_a_row_both_move():
    model, rewrite = apply(scaled_graph("b = Mul (a, k)  z = Relu (b)", "y = Div (z, k)"))
    assert rewrite.applied == 2
    assert operators(model) == ["Conv", "Relu"]


@settings(max_examples=30, deadline=None)
@given(k=st.floats(2**-10, 2**10, width=32))
def test_any_positive_constant_will_do(k):
    assert apply(scaled_graph("z = Relu (a)"), np.float32(k))[1].applied == 1


# ── Operators a factor commutes with ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "function",
    [
        "Relu (a)",
        "LeakyRelu <alpha = 0.1> (a)",
        "MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (a)",
        "AveragePool <kernel_shape = [2,2], strides = [2,2]> (a)",
        "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (a)",
        "GlobalAveragePool (a)",
        "Identity (a)",
    ],
)
def test_a_factor_passes_positively_homogeneous_functions(function):
    model, rewrite = apply(scaled_graph(f"z = {function}"))
    assert rewrite.applied == 1
    assert "Mul" not in operators(model)


@pytest.mark.parametrize("function", ["Flatten (b)", "Reshape (b, shape)"])
def test_a_factor_passes_a_change_of_shape(function):
    text = f"""g (float[N,4,6,6] x) => (float[N,4] y) <int64[2] shape = {{-1, 4}}> {{
        a = Conv (x, w)
        b = GlobalAveragePool (a)
        z = {function}
        y = Mul (z, k)
    }}"""
    assert apply(text)[1].applied == 1


@pytest.mark.parametrize("join", ["Add (a, b)", "Sum (a, b)", "Concat <axis = 1> (a, b)", "Concat <axis = 2> (a, b)"])
def test_a_factor_passes_joins_into_every_branch(join):
    model, rewrite = apply(scaled_graph(f"b = Conv <pads = [1,1,1,1]> (x, v)  z = {join}"))
    assert rewrite.applied == 1
    np.testing.assert_array_equal(weight(model, "w"), CONVS["w"] / 2)
    np.testing.assert_array_equal(weight(model, "v"), CONVS["v"] / 2)


def test_a_mean_of_three_becomes_sums():
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
        a = Conv <pads = [1,1,1,1]> (x, u)
        ra = Relu (a)
        b = Conv <pads = [1,1,1,1]> (x, v)
        rb = Relu (b)
        c = Conv <pads = [1,1,1,1]> (x, w)
        rc = Relu (c)
        ab = Add (ra, rb)
        abc = Add (ab, rc)
        y = Div (abc, k)
    }"""
    model, rewrite = apply(text, THREE)
    assert rewrite.applied == 1
    assert sorted(operators(model)) == sorted(["Conv", "Relu"] * 3 + ["Add"] * 2)


# ── Absorbing layers ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attributes", ["", "<transB = 1>", "<alpha = 0.5, beta = 2.0>"])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_scale_is_folded_into_weight_and_bias_of_gemm(attributes, bias):
    text = f"""g (float[N,4,6,6] x) => (float[N,4] y) {{
        p = GlobalMaxPool (x)
        f = Flatten (p)
        z = Gemm {attributes} (f, m{bias})
        y = Mul (z, k)
    }}"""
    model, rewrite = apply(text, m=random(4, 4), b=random(4)) if bias else apply(text, m=random(4, 4))
    assert rewrite.applied == 1
    assert "Mul" not in operators(model)


def test_a_scale_is_folded_into_a_remaining_batchnorm():
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
        n = BatchNormalization (x, gamma, beta, mean, variance)
        z = Relu (n)
        y = Mul (z, k)
    }"""
    statistics = {"gamma": random(4), "beta": random(4, seed=1), "mean": random(4, seed=2), "variance": positive(4)}
    model, rewrite = apply(text, **statistics)
    assert rewrite.applied == 1
    assert operators(model) == ["BatchNormalization", "Relu"]


# ── Where it refuses ──────────────────────────────────────────────────────────────────────────────────────────────────

PRODUCT = "not a product with one constant"

REFUSED = {
    "a negative constant": (scaled_graph("z = Relu (a)"), np.float32(-2), "-2 is not positive"),
    "zero": (scaled_graph("z = Relu (a)"), np.float32(0), "0 is not positive"),
    "one factor per channel": (scaled_graph("z = Relu (a)"), positive(4, 1, 1), PRODUCT),
    "a constant divided": (scaled_graph("z = Exp (a)", "[product] y = Div (k, z)"), HALF, PRODUCT),
    "a product of two tensors": (scaled_graph("z = Relu (a)", "[product] y = Mul (z, x)"), HALF, PRODUCT),
    "a constant of higher rank": (
        scaled_graph("z = Relu (a)", "[product] r = Mul (z, k)  y = Squeeze (r, axis)"),
        HALF.reshape(1, 1, 1, 1, 1),
        "the constant has more axes than the tensor",
    ),
    "a saturating function": (scaled_graph("z = Sigmoid (a)"), HALF, "Sigmoid does not commute with a factor"),
    "a clipped function": (scaled_graph("z = Clip (a, low, high)"), HALF, "Clip does not commute with a factor"),
    "the graph's input": (
        "g (float[N,4,6,6] x) => (float[N,4,6,6] y) { [product] y = Mul (x, k) }",
        HALF,
        "the graph's input x has no weights",
    ),
    "an added constant": (scaled_graph("z = Add (a, low)"), HALF, "the graph's constant low has no weights"),
    "another reader": (
        scaled_graph("z = Relu (a)", "[product] r = Mul (z, k)  y = Add (r, z)"),
        HALF,
        "z has other readers",
    ),
    "another reader on the way": (
        scaled_graph("z = Relu (a)", "[product] r = Mul (z, k)  y = Add (r, a)"),
        HALF,
        "a has other readers",
    ),
    "a tensor added to itself": (scaled_graph("z = Add (a, a)"), HALF, "a has other readers"),
    "shared weights": (
        scaled_graph("z = Relu (a)", "[product] r = Mul (z, k)  c = Conv <pads = [1,1,1,1]> (r, w)  y = Relu (c)"),
        HALF,
        "the weights of conv are shared or computed",
    ),
    "a shared bias": (
        "g (float[N,4,6,6] x) => (float[N,4,H,W] y) {"
        " [conv] z = Conv (x, w, b)  [product] r = Mul (z, k)  y = Conv (r, v, b) }",
        HALF,
        "the weights of conv are shared or computed",
    ),
    "a branch that cannot carry it": (scaled_graph("z = Add (a, x)"), HALF, "the graph's input x has no weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_product_stays(case):
    text, k, reason = REFUSED[case]
    axis = np.array([0], np.int64)
    model, rewrite = apply(text, k, low=np.float32(-1), high=np.float32(1), axis=axis, b=random(4))
    assert rewrite.applied == 0
    assert rewrite.skip_reasons[0].startswith(f"product: {reason}")
    if "w" in model.graph.initializers:
        np.testing.assert_array_equal(weight(model, "w"), CONVS["w"])


@pytest.mark.parametrize("k", [np.nan, np.inf])
def test_a_non_finite_constant_is_preserved(k):
    model = parse(scaled_graph("z = Relu (a)"), k=np.float32(k), w=CONVS["w"])
    assert fold_scale.apply(model).applied == 0
    np.testing.assert_array_equal(weight(model, "w"), CONVS["w"])


def test_an_intermediate_graph_output_retains_its_value():
    text = """g (float[N,4,6,6] x) => (float[N,4,H,W] y, float[N,4,H,W] a) {
        a = Conv (x, w)
        z = Relu (a)
        [product] y = Mul (z, k)
    }"""
    assert apply(text)[1].skip_reasons == ("product: a has other readers",)


def test_a_scale_is_preserved_unless_every_branch_can_absorb_it():
    body = "b = Conv <pads = [1,1,1,1]> (x, v)  s = Sigmoid (b)  z = Add (a, s)"
    model, rewrite = apply(scaled_graph(body))
    assert rewrite.skip_reasons == ("product: Sigmoid does not commute with a factor",)
    np.testing.assert_array_equal(weight(model, "w"), CONVS["w"])
    np.testing.assert_array_equal(weight(model, "v"), CONVS["v"])


def test_nested_means_become_sums_after_cleaning():
    """FractalNet's f₃: an inner mean of two whose result enters another mean."""
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) {
        a = Conv <pads = [1,1,1,1]> (x, u)
        b = Conv <pads = [1,1,1,1]> (x, v)
        ab = Add (a, b)
        inner = Div (ab, k)
        deep = Conv <pads = [1,1,1,1]> (inner, w)
        shallow = Conv <pads = [1,1,1,1]> (inner, t)
        both = Add (deep, shallow)
        y = Div (both, k)
    }"""
    model, rewrite = apply(text, np.float32(2), t=random(4, 4, 3, 3, seed=3))
    clean.apply(model)
    assert rewrite.applied == 2
    assert sorted(operators(model)) == ["Add"] * 2 + ["Conv"] * 4
    assert "k" not in model.graph.initializers
