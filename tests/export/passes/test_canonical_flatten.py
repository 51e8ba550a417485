import pytest
from onnx_text import operators, parse, random, rewritten

from deploykit.export.passes import canonical_flatten, clean

X = random(2, 3, 4, 5, seed=9)


def reshape_graph(target: str, output: str) -> str:
    count = target.count(",") + 1
    return f"""g (float[N,3,4,5] x) => ({output} y) <int64[{count}] target = {{{target}}}> {{
        a = Relu (x)
        [reshape] y = Reshape (a, target)
    }}"""


@pytest.mark.parametrize("target", ["0, 60", "0, -1", "-1, 60"])
def test_joining_all_axes_after_the_batch_is_flatten(target):
    model = parse(reshape_graph(target, "float[N,60]"))
    assert rewritten(canonical_flatten.apply, model, x=X).applied == 1
    assert operators(model) == ["Relu", "Flatten"]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_shape_arithmetic_of_the_batch_is_removed_too(batch):
    text = """g (float[N,3,4,5] x) => (float[N,60] y) <int64[1] rest = {60}, int64[1] first = {0}> {
        shape = Shape (x)
        batch = Gather (shape, first)
        target = Concat <axis = 0> (batch, rest)
        y = Reshape (x, target)
    }"""
    model = parse(text)
    assert rewritten(canonical_flatten.apply, model, x=random(batch, 3, 4, 5)).applied == 1
    clean.apply(model)
    assert operators(model) == ["Flatten"]


def test_a_reshape_with_a_static_batch_becomes_flatten_too():
    text = "g (float[2,3,4,5] x) => (float[2,60] y) <int64[2] t = {2, 60}> { y = Reshape (x, t) }"
    assert rewritten(canonical_flatten.apply, parse(text), x=X).applied == 1


@pytest.mark.parametrize(
    ("target", "output"),
    [("0, 3, 20", "float[N,3,20]"), ("0, 12, -1", "float[N,12,5]"), ("-1, 5", "float[M,5]"), ("-1", "float[M]")],
)
def test_a_reshape_that_does_something_else_stays(target, output):
    model = parse(reshape_graph(target, output))
    rewrite = rewritten(canonical_flatten.apply, model, x=X)
    assert (rewrite.applied, rewrite.skip_reasons) == (
        0,
        ("reshape: does more than join the axes after the batch",),
    )
    assert operators(model) == ["Relu", "Reshape"]


def test_a_reshape_that_moves_the_batch_stays():
    text = "g (float[2,3,4,5] x) => (float[4,30] y) <int64[2] t = {4, 30}> { y = Reshape (x, t) }"
    assert rewritten(canonical_flatten.apply, parse(text), x=X).applied == 0


def test_a_reshape_to_another_rank_is_preserved():
    text = "g (float[N,3,4] x) => (float[N,12] y) <int64[2] t = {0, 12}> { y = Reshape (x, t) }"
    rewrite = rewritten(canonical_flatten.apply, parse(text), x=random(2, 3, 4))
    assert (rewrite.applied, rewrite.skip_reasons) == (0, ())
