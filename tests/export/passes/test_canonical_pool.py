import pytest
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import canonical_pool

X = random(2, 3, 4, 5, seed=9)


def mean_graph(axes: str, keepdims: int = 1, output: str = "float[N,3,1,1]") -> str:
    count = axes.count(",") + 1
    return f"""g (float[N,3,4,5] x) => ({output} y) <int64[{count}] axes = {{{axes}}}> {{
        [mean] m = ReduceMean <keepdims = {keepdims}> (x, axes)
        y = Relu (m)
    }}"""


# ── Means ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("axes", ["2, 3", "3, 2", "-2, -1", "2, -1"])
def test_a_mean_over_height_and_width_becomes_global_pooling(axes):
    model = parse(mean_graph(axes))
    assert rewritten(canonical_pool.apply, model, x=X).applied == 1
    assert operators(model) == ["GlobalAveragePool", "Relu"]


def test_without_keepdims_the_mean_is_flattened():
    model = parse(mean_graph("2, 3", keepdims=0, output="float[N,3]"))
    assert rewritten(canonical_pool.apply, model, x=X).applied == 1
    assert operators(model) == ["GlobalAveragePool", "Flatten", "Relu"]


@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_may_be_an_attribute_as_before_opset_18(keepdims):
    output = "float[N,3,1,1]" if keepdims else "float[N,3]"
    text = f"g (float[N,3,4,5] x) => ({output} y) {{ y = ReduceMean <axes = [2,3], keepdims = {keepdims}> (x) }}"
    model = parse(text, opset=17)
    assert rewritten(canonical_pool.apply, model, x=X).applied == 1
    assert "ReduceMean" not in operators(model)


def test_a_mean_at_the_output_retains_its_name_and_shape():
    text = """g (float[N,3,4,5] x) => (float[N,3] logits) <int64[2] axes = {2, 3}> {
        logits = ReduceMean <keepdims = 0> (x, axes)
    }"""
    assert rewritten(canonical_pool.apply, parse(text), x=X).applied == 1


@pytest.mark.parametrize(
    ("axes", "named"), [("1", "[1]"), ("2", "[2]"), ("3", "[3]"), ("1, 2, 3", "[1, 2, 3]"), ("0, 1", "[0, 1]")]
)
def test_a_mean_over_other_axes_is_preserved(axes, named):
    model = parse(mean_graph(axes, output="float[A,B,C,D]"))
    rewrite = rewritten(canonical_pool.apply, model, x=X)
    assert rewrite.applied == 0
    assert rewrite.skip_reasons == (f"mean: reduces axes {named}, not height and width of N×C×H×W",)
    assert operators(model) == ["ReduceMean", "Relu"]


def test_a_mean_over_all_axes_is_preserved():
    text = "g (float[N,3,4,5] x) => (float[1,1,1,1] y) { [mean] y = ReduceMean (x) }"
    assert rewritten(canonical_pool.apply, parse(text), x=X).applied == 0


def test_a_mean_of_another_rank_is_preserved():
    text = """g (float[N,3,4] x) => (float[N,1,1] y) <int64[2] axes = {1, 2}> { [mean] y = ReduceMean (x, axes) }"""
    rewrite = rewritten(canonical_pool.apply, parse(text), x=random(2, 3, 4))
    assert (rewrite.applied, len(rewrite.skip_reasons)) == (0, 1)


def test_a_mean_over_computed_axes_is_preserved():
    text = """g (float[N,3,4,5] x) => (float[A,B,C,D] y) <int64[2] two = {2, 3}> {
        s = Shape <start = 0, end = 1> (x)
        zero = Sub (s, s)
        axes = Add (two, zero)
        [mean] y = ReduceMean (x, axes)
    }"""
    assert rewritten(canonical_pool.apply, parse(text), x=X).applied == 0


# ── Averages over one position ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attributes", ["kernel_shape = [1,1]", "kernel_shape = [1,1], strides = [1,1]"])
def test_an_average_over_one_position_vanishes(attributes):
    text = f"""g (float[N,3,4,5] x) => (float[N,3,4,5] y) {{
        a = Relu (x)
        p = AveragePool <{attributes}> (a)
        y = Relu (p)
    }}"""
    model = parse(text)
    assert rewritten(canonical_pool.apply, model, x=X).applied == 1
    assert operators(model) == ["Relu", "Relu"]


def test_an_average_over_one_position_at_the_output_vanishes():
    text = "g (float[N,3,4,5] x) => (float[N,3,4,5] y) { a = Relu (x)  y = AveragePool <kernel_shape = [1,1]> (a) }"
    model = parse(text)
    assert rewritten(canonical_pool.apply, model, x=X).applied == 1
    assert operators(model) == ["Relu"]


@pytest.mark.parametrize(
    "attributes",
    ["kernel_shape = [2,2]", "kernel_shape = [1,2]", "kernel_shape = [1,1], strides = [2,2]"],
)
def test_an_average_that_does_something_stays(attributes):
    text = f"g (float[N,3,4,5] x) => (float[N,3,H,W] y) {{ y = AveragePool <{attributes}> (x) }}"
    rewrite = rewritten(canonical_pool.apply, parse(text), x=X)
    assert (rewrite.applied, rewrite.skip_reasons) == (0, ())


OWN_NAMES = ("pool: its input and output are both part of the graph's interface",)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,3,4,5] x) => (float[N,3,4,5] y) { [pool] y = AveragePool <kernel_shape = [1,1]> (x) }",
        """g (float[N,3,4,5] x) => (float[N,3,4,5] a, float[N,3,4,5] y) {
            a = Relu (x)
            [pool] y = AveragePool <kernel_shape = [1,1]> (a)
        }""",
    ],
)
def test_an_average_between_two_ends_of_the_graph_stays(text):
    model = parse(text)
    assert rewritten(canonical_pool.apply, model, x=X).skip_reasons == OWN_NAMES
    assert "AveragePool" in operators(model)
