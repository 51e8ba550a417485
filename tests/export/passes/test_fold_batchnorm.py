import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import operators, parse, positive, random, rewritten, weight

from deploykit.export.passes import fold_batchnorm

X = random(2, 4, 5, 5, seed=9)
STATISTICS = {"gamma": random(6), "beta": random(6, seed=1), "mean": random(6, seed=2), "variance": positive(6)}
WEIGHTS = {"w": random(6, 4, 3, 3), **STATISTICS}


def conv_batchnorm_graph(between: str = "", conv: str = "Conv (x, w)", norm: str = "BatchNormalization") -> str:
    """Convolution, something in between, BatchNormalization."""
    read = "a" if not between else "b"
    return f"""g (float[N,4,5,5] x) => (float[N,6,H,W] y) {{
        [conv] a = {conv}
        {between}
        [norm] y = {norm} ({read}, gamma, beta, mean, variance)
    }}"""


# ── Where it applies ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_convolution_without_bias_gets_one():
    model = parse(conv_batchnorm_graph(), **WEIGHTS)
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 1
    assert operators(model) == ["Conv"]
    assert len(next(iter(model.graph)).inputs) == 3


def test_a_bias_is_folded_too():
    model = parse(conv_batchnorm_graph(conv="Conv (x, w, b)"), b=random(6, seed=3), **WEIGHTS)
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 1
    assert operators(model) == ["Conv"]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("attributes", ["pads = [1,1,1,1]", "strides = [2,2]", "dilations = [2,2]"])
def test_groups_strides_and_padding_do_not_matter(group, attributes):
    weights = {**WEIGHTS, "w": random(6, 4 // group, 3, 3)}
    model = parse(conv_batchnorm_graph(conv=f"Conv <group = {group}, {attributes}> (x, w)"), **weights)
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 1
    assert operators(model) == ["Conv"]


def test_a_depthwise_convolution_folds():
    weights = {name: array[:4] for name, array in STATISTICS.items()}
    text = """g (float[N,4,5,5] x) => (float[N,4,H,W] y) {
        [conv] a = Conv <group = 4> (x, w)
        [norm] y = BatchNormalization (a, gamma, beta, mean, variance)
    }"""
    model = parse(text, w=random(4, 1, 3, 3), **weights)
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 1


def test_a_batchnorm_in_the_middle_of_a_graph_is_folded():
    text = """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
        [first] a = Relu (x)
        [conv] b = Conv (a, w)
        [norm] c = BatchNormalization (b, gamma, beta, mean, variance)
        [last] y = Relu (c)
    }"""
    model = parse(text, **WEIGHTS)
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 1
    assert operators(model) == ["Relu", "Conv", "Relu"]


def test_one_convolution_after_the_other_folds():
    text = """g (float[N,6,5,5] x) => (float[N,6,H,W] y) {
        a = Conv (x, w)
        b = BatchNormalization (a, gamma, beta, mean, variance)
        c = Conv (b, v)
        y = BatchNormalization (c, gamma, beta, mean, variance)
    }"""
    model = parse(text, w=random(6, 6, 3, 3), v=random(6, 6, 3, 3, seed=4), **STATISTICS)
    assert rewritten(fold_batchnorm.apply, model, x=random(2, 6, 5, 5)).applied == 2
    assert operators(model) == ["Conv", "Conv"]


def test_the_new_bias_is_named_after_the_weight():
    model = parse(conv_batchnorm_graph(conv='Conv (x, "conv.weight")'), **STATISTICS, **{"conv.weight": WEIGHTS["w"]})
    fold_batchnorm.apply(model)
    assert next(iter(model.graph)).inputs[2].name == "conv.bias"


def test_the_new_bias_has_a_unique_name():
    text = """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
        a = Conv (x, weight)
        b = BatchNormalization (a, gamma, beta, mean, variance)
        y = Add (b, bias)
    }"""
    model = parse(text, weight=WEIGHTS["w"], bias=random(1, 6, 1, 1), **STATISTICS)
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 1
    assert next(iter(model.graph)).inputs[2].name == "bias_1"


def test_epsilon_is_that_of_the_node():
    model = parse(conv_batchnorm_graph(norm="BatchNormalization <epsilon = 0.5>"), **WEIGHTS)
    rewritten(fold_batchnorm.apply, model, x=X)
    s = STATISTICS["gamma"].astype(np.float64) / np.sqrt(STATISTICS["variance"].astype(np.float64) + 0.5)
    np.testing.assert_array_equal(weight(model, "w"), (WEIGHTS["w"] * s[:, None, None, None]).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    gamma=st.floats(-4, 4, width=32),
    beta=st.floats(-4, 4, width=32),
    mean=st.floats(-4, 4, width=32),
    variance=st.floats(2**-20, 16, width=32),
)
def test_folding_is_correct_for_any_statistics(gamma, beta, mean, variance):
    values = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    model = parse(
        conv_batchnorm_graph(),
        w=WEIGHTS["w"],
        **{name: np.full(6, value, np.float32) for name, value in values.items()},
    )
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 1


# ── Shared weights ────────────────────────────────────────────────────────────────────────────────────────────────────


HEADS = """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
    [high] a = Conv (x, w, c)
    [high_norm] b = BatchNormalization (a, gamma, beta, mean, variance)
    pooled = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)
    [low] d = Conv (pooled, w, c)
    [low_norm] e = BatchNormalization (d, gamma, beta, variance, variance)
    y = Add (b, e)
}"""
"""One convolution at two scales, with a BatchNorm for each, as in the heads of RTMDet and EfficientDet."""


def test_a_convolution_shared_by_several_batchnorms_gets_a_weight_for_each():
    model = parse(HEADS, c=random(6, seed=3), **WEIGHTS)
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 2
    assert operators(model) == ["Conv", "MaxPool", "Conv", "Add"]


def test_the_copies_of_a_shared_weight_are_accounted_for():
    model = parse(HEADS, c=random(6, seed=3), **WEIGHTS)
    assert fold_batchnorm.apply(model).added_bytes == WEIGHTS["w"].nbytes + 6 * 4


def test_a_reader_without_batchnorm_keeps_the_weight():
    text = """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
        a = Conv (x, w)
        [norm] b = BatchNormalization (a, gamma, beta, mean, variance)
        c = Conv (x, w)
        y = Add (b, c)
    }"""
    model = parse(text, **WEIGHTS)
    assert rewritten(fold_batchnorm.apply, model, x=X).applied == 1
    np.testing.assert_array_equal(weight(model, "w"), WEIGHTS["w"])


def test_a_bias_that_something_else_reads_is_copied():
    text = """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
        a = Conv (x, w, beta)
        [norm] y = BatchNormalization (a, gamma, beta, mean, variance)
    }"""
    assert rewritten(fold_batchnorm.apply, parse(text, **WEIGHTS), x=X).applied == 1


# ── Where it refuses ──────────────────────────────────────────────────────────────────────────────────────────────────

OTHER_READERS = "the convolution's output has other readers"
COMPUTED = "the convolution's weights depend on the input"

REFUSED = {
    "of the graph's input": (
        "g (float[N,6,5,5] x) => (float[N,6,5,5] y) { [norm] y = BatchNormalization (x, gamma, beta, mean, variance) }",
        "its input comes from the graph input, not from a convolution",
    ),
    "behind an activation": (conv_batchnorm_graph("b = Relu (a)"), "its input comes from Relu, not from a convolution"),
    "behind a transposed convolution": (
        """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
            a = ConvTranspose (x, v)
            [norm] y = BatchNormalization (a, gamma, beta, mean, variance)
        }""",
        "its input comes from ConvTranspose, not from a convolution",
    ),
    "with another reader of the convolution": (
        """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
            a = Conv (x, w)
            [norm] b = BatchNormalization (a, gamma, beta, mean, variance)
            y = Add (a, b)
        }""",
        OTHER_READERS,
    ),
    "with the convolution as an output": (
        """g (float[N,4,5,5] x) => (float[N,6,H,W] y, float[N,6,H,W] a) {
            a = Conv (x, w)
            [norm] y = BatchNormalization (a, gamma, beta, mean, variance)
        }""",
        OTHER_READERS,
    ),
    "with computed weights": (
        """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
            s = ReduceMax <keepdims = 0> (x)
            v = Mul (w, s)
            a = Conv (x, v)
            [norm] y = BatchNormalization (a, gamma, beta, mean, variance)
        }""",
        COMPUTED,
    ),
    "in training mode": (
        """g (float[N,4,5,5] x) => (float[N,6,H,W] y) {
            a = Conv (x, w)
            [norm] y, m, v = BatchNormalization <training_mode = 1> (a, gamma, beta, mean, variance)
        }""",
        "it is in training mode and normalizes with the statistics of each batch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_batchnorm_stays(case):
    text, reason = REFUSED[case]
    weights = {**WEIGHTS, "v": random(4, 6, 3, 3)} if "ConvTranspose" in text else WEIGHTS
    model = parse(text, **weights)
    before = operators(model)
    inputs = random(2, 6, 5, 5) if "float[N,6,5,5] x" in text else X
    rewrite = rewritten(fold_batchnorm.apply, model, x=inputs)
    assert (rewrite.applied, rewrite.skip_reasons) == (0, (f"norm: {reason}",))
    assert operators(model) == before


def test_a_batchnorm_with_statistics_from_an_input_is_preserved():
    text = """g (float[N,4,5,5] x, float[6] mean) => (float[N,6,H,W] y) {
        a = Conv (x, w)
        [norm] y = BatchNormalization (a, gamma, beta, mean, variance)
    }"""
    model = parse(text, **{name: array for name, array in WEIGHTS.items() if name != "mean"})
    rewrite = rewritten(fold_batchnorm.apply, model, x=X, mean=STATISTICS["mean"])
    assert rewrite.skip_reasons == ("norm: its statistics are not constants",)


def test_a_batchnorm_that_cannot_fold_does_not_stop_the_others():
    text = """g (float[N,6,5,5] x) => (float[N,6,H,W] y) {
        [norm] n = BatchNormalization (x, gamma, beta, mean, variance)
        a = Conv (n, w)
        y = BatchNormalization (a, gamma, beta, mean, variance)
    }"""
    model = parse(text, w=random(6, 6, 3, 3), **STATISTICS)
    rewrite = rewritten(fold_batchnorm.apply, model, x=random(2, 6, 5, 5))
    assert (rewrite.applied, len(rewrite.skip_reasons)) == (1, 1)


def test_a_second_run_changes_nothing():
    model = parse(conv_batchnorm_graph(), **WEIGHTS)
    fold_batchnorm.apply(model)
    assert fold_batchnorm.apply(model).applied == 0
