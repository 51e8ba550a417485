import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_int8 import KERNELS, convolutional, parse, random

from deploykit.core.errors import InputError
from deploykit.quantize.placement import list_dense_blocks, place_qdq_pairs

IN = "layer input"
SKIP = "residual skip"
JOIN = "join"
BRANCH = "concat branch"
POOL = "max pool"
FEATURE = "dense feature"
NORM = "dense feature's BatchNorm"


def rules_by_input(model, *excluded):
    """The rule of each input that is read through a pair, by `node position`."""
    return {f"{e.node} {e.position}": e.rule for e in place_qdq_pairs(model, frozenset(excluded)).edges}


def shared_scales(model, *excluded):
    return place_qdq_pairs(model, frozenset(excluded)).shared


# ── Layers ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_convolutions_input_is_quantized_and_not_its_output():
    assert rules_by_input(convolutional("[conv] a = Conv (x, w0) [end] y = Sigmoid (a)")) == {"conv 0": IN}


def test_no_pair_separates_a_convolution_from_its_activation():
    placement = place_qdq_pairs(convolutional("[one] a = Conv (x, w0) [relu] b = Relu (a) [two] y = Conv (b, w1)"))
    assert [(edge.tensor, edge.node) for edge in placement.edges] == [("x", "one"), ("b", "two")]


@pytest.mark.parametrize(
    ("node", "kernel"),
    [
        ("Conv (x, w)", (4, 4, 3, 3)),
        ("Conv <group = 2> (x, w)", (4, 2, 3, 3)),
        ("Conv <group = 4> (x, w)", (4, 1, 3, 3)),
        ("ConvTranspose (x, w)", (4, 4, 2, 2)),
        ("MatMul (x, w)", (8, 3)),
    ],
    ids=["Conv", "grouped", "depthwise", "ConvTranspose", "MatMul"],
)
def test_layers_are_products_with_constant_weights(node, kernel):
    assert rules_by_input(convolutional(f"[layer] y = {node}", w=random(*kernel))) == {"layer 0": IN}


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_is_a_layer_with_either_weight_layout(transposed):
    text = f"g (float[N,4] x) => (float[N,4] y) {{ [fc] y = Gemm <transB = {transposed}> (x, w) }}"
    assert rules_by_input(parse(text, w=random(4, 4))) == {"fc 0": IN}


def test_weights_from_a_constant_node_are_constant():
    text = (
        "g (float[N,2] x) => (float[N,2] y) { w = Constant <value = float[2,2] {1,2,3,4}> () [fc] y = MatMul (x, w) }"
    )
    assert rules_by_input(parse(text)) == {"fc 0": IN}


@pytest.mark.parametrize("shape", ["2,3,8,8", "1,1,8,8"], ids=["four sizes", "two of them 1"])
def test_a_product_with_a_stack_of_matrices_is_not_a_layer(shape):
    sizes = tuple(map(int, shape.split(",")))
    text = "g (float[2,3,8,8] x) => (float[2,3,8,8] y) { a = MatMul (x, v) [fc] y = MatMul (a, w) }"
    assert rules_by_input(parse(text, v=random(*sizes), w=random(8, 8))) == {"fc 0": IN}


@pytest.mark.parametrize("changed", ["alpha = 2.0", "beta = 0.5", "transA = 1"])
def test_a_gemm_that_scales_or_transposes_its_data_is_not_a_layer(changed):
    text = f"g (float[4,4] x) => (float[4,4] y) {{ a = Gemm <{changed}> (x, w, b) [fc] y = Gemm (a, w) }}"
    assert rules_by_input(parse(text, w=random(4, 4), b=random(4))) == {"fc 0": IN}


def test_a_convolution_with_computed_weights_is_not_a_layer():
    text = """g (float[N,4,8,8] x, float[4,4,1,1] v) => (float[N,4,8,8] y) {
        [computed] a = Conv (x, v) [constant] y = Conv (a, w0) }"""
    assert rules_by_input(parse(text, w0=KERNELS["w0"])) == {"constant 0": IN}


def test_float16_weights_are_not_quantized():
    text = "g (float16[N,4] x) => (float16[N,4] y) { y = MatMul (x, w) }"
    with pytest.raises(InputError, match="with constant FP32 weights"):
        place_qdq_pairs(parse(text, w=random(4, 4).astype("float16")))


def test_a_grouped_transposed_convolution_stays_out_because_no_axis_of_its_weight_counts_output_channels():
    body = "[grouped] a = ConvTranspose <group = 2> (x, w) [conv] y = Conv (a, w0)"
    assert rules_by_input(convolutional(body, w=random(4, 2, 1, 1))) == {"conv 0": IN}


def test_excluded_layers_get_no_pairs():
    body = "[one] a = Conv (x, w0) [two] b = Conv (a, w1) [three] y = Conv (b, w2)"
    assert place_qdq_pairs(convolutional(body), frozenset({"two"})).layers == ("one", "three")
    assert rules_by_input(convolutional(body), "two") == {"one 0": IN, "three 0": IN}


def test_a_tensor_that_several_layers_read_is_one_tensor_with_several_edges():
    placement = place_qdq_pairs(convolutional("[one] a = Conv (x, w0) [two] b = Conv (x, w1) y = Mul (a, b)"))
    assert [(edge.tensor, edge.node) for edge in placement.edges] == [("x", "one"), ("x", "two")]


def test_an_output_read_by_a_layer_gets_the_pair_of_that_layer():
    text = (
        "g (float[N,4,8,8] x) => (float[N,4,8,8] a, float[N,4,8,8] y) { [one] a = Conv (x, w0) [two] y = Conv (a, w1) }"
    )
    model = parse(text, w0=KERNELS["w0"], w1=KERNELS["w1"])
    assert [(edge.tensor, edge.node) for edge in place_qdq_pairs(model).edges] == [("x", "one"), ("a", "two")]


# ── Residual Adds ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("inputs", "skip"), [("b, x", "add 1"), ("x, b", "add 0")])
def test_of_an_identity_skip_and_a_convolution_only_the_skip_is_quantized(inputs, skip):
    body = f"[one] a = Conv (x, w0) r = Relu (a) [two] b = Conv (r, w1) [add] s = Add ({inputs}) y = Relu (s)"
    assert rules_by_input(convolutional(body)) == {"one 0": IN, "two 0": IN, skip: SKIP}


PROJECTION = """[one] a = Conv (x, w0) r = Relu (a) [two] b = Conv (r, w1)
    [side] c = Conv (x, w2) [add] s = Add ({inputs}) y = Relu (s)"""


@pytest.mark.parametrize(("inputs", "skip"), [("b, c", "add 1"), ("c, b", "add 0")])
def test_of_a_projection_and_a_deeper_branch_the_projection_is_quantized(inputs, skip):
    pairs = rules_by_input(convolutional(PROJECTION.format(inputs=inputs)))
    assert {edge for edge, rule in pairs.items() if rule == SKIP} == {skip}


def test_of_two_branches_of_one_depth_the_first_is_fused_with():
    pairs = rules_by_input(convolutional("[one] a = Conv (x, w0) [two] b = Conv (x, w1) [add] y = Add (a, b)"))
    assert {edge for edge, rule in pairs.items() if rule == SKIP} == {"add 1"}


def test_excluding_a_layer_does_not_swap_the_skip():
    """`b`, the main branch, was not observed: it is never read through a pair while all layers are quantized."""
    model = convolutional(PROJECTION.format(inputs="c, b"))
    assert "add 0" in rules_by_input(model, "one")
    assert not {"add 0", "add 1"} & rules_by_input(model, "two").keys()
    assert "add 0" in rules_by_input(model, "side")


def test_an_excluded_add_stays_in_floating_point():
    model = convolutional(PROJECTION.format(inputs="b, c"))
    assert rules_by_input(model, "add") == {"one 0": IN, "two 0": IN, "side 0": IN}


def test_a_convolution_with_several_readers_is_not_fused():
    assert rules_by_input(convolutional("[conv] a = Conv (x, w0) [add] b = Add (a, x) y = Mul (a, b)")) == {
        "conv 0": IN
    }


def test_a_convolution_that_is_an_output_is_not_fused_with():
    text = (
        "g (float[N,4,8,8] x) => (float[N,4,8,8] a, float[N,4,8,8] y) { [conv] a = Conv (x, w0) [add] y = Add (a, x) }"
    )
    assert rules_by_input(parse(text, w0=KERNELS["w0"])) == {"conv 0": IN}


def test_a_tensor_added_to_itself_is_not_a_residual():
    assert rules_by_input(convolutional("[conv] a = Conv (x, w0) [add] y = Add (a, a)")) == {"conv 0": IN}


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1,)])
def test_adding_a_bias_is_not_a_skip_connection(shape):
    assert rules_by_input(convolutional("[conv] a = Conv (x, w0) [add] y = Add (a, b)", b=random(*shape))) == {
        "conv 0": IN
    }


def test_adding_one_value_per_channel_is_not_a_skip_connection():
    body = "[conv] a = Conv (x, w0) p = GlobalAveragePool (x) [add] y = Add (a, p)"
    assert rules_by_input(convolutional(body)) == {"conv 0": IN}


def test_a_matrix_product_is_not_fused_with_an_add():
    text = "g (float[N,4] x) => (float[N,4] y) { [fc] a = MatMul (x, w) [add] y = Add (a, x) }"
    assert rules_by_input(parse(text, w=random(4, 4))) == {"fc 0": IN}


def test_a_preactivated_block_quantizes_its_untouched_skip():
    body = "r = Relu (x) [one] a = Conv (r, w0) s = Relu (a) [two] b = Conv (s, w1) [add] y = Add (b, x)"
    assert rules_by_input(convolutional(body)) == {"one 0": IN, "two 0": IN, "add 1": SKIP}


def test_squeeze_and_excite_multiplies_in_floating_point():
    body = """[conv] a = Conv (x, w0) r = Relu (a) p = GlobalAveragePool (r) [down] d = Conv (p, w1)
        e = Relu (d) [up] u = Conv (e, w2) g = Sigmoid (u) m = Mul (r, g) [last] y = Conv (m, w3)"""
    assert rules_by_input(convolutional(body)) == dict.fromkeys(["conv 0", "down 0", "up 0", "last 0"], IN)


# ── Joins of activations ──────────────────────────────────────────────────────────────────────────────────────────────

BRANCHES = "[one] a = Conv (x, w0) [two] b = Conv (x, w1) c = Relu (a) d = Relu (b)"


def test_a_join_of_activations_is_quantized_on_both_sides():
    assert rules_by_input(convolutional(f"{BRANCHES} [join] y = Add (c, d)")) == {
        "one 0": IN,
        "two 0": IN,
        "join 0": JOIN,
        "join 1": JOIN,
    }


def test_a_partial_sum_gets_no_pair():
    body = f"{BRANCHES} [three] e = Conv (x, w2) f = Relu (e) [join] s = Add (c, d) [more] y = Add (s, f)"
    pairs = rules_by_input(convolutional(body))
    assert {edge for edge, rule in pairs.items() if rule == JOIN} == {"join 0", "join 1", "more 1"}


def test_a_skip_that_layers_read_quantized_is_joined_quantized():
    """Darknet: x + act(conv(x)). A pair on one side only would round without benefit: the Add would still be FP32."""
    body = "[one] a = Conv (x, w0) r = LeakyRelu (a) [add] s = Add (x, r) [two] y = Conv (s, w1)"
    assert rules_by_input(convolutional(body)) == {"one 0": IN, "two 0": IN, "add 0": JOIN, "add 1": JOIN}


def test_an_activation_added_to_itself_is_one_tensor_with_two_edges():
    placement = place_qdq_pairs(convolutional("[conv] a = Conv (x, w0) r = Relu (a) [join] y = Add (r, r)"))
    assert [(edge.tensor, edge.position) for edge in placement.edges if edge.node == "join"] == [("r", 0), ("r", 1)]


def test_the_branch_of_an_excluded_layer_is_not_joined_quantized():
    pairs = rules_by_input(convolutional(f"{BRANCHES} [join] y = Add (c, d)"), "one")
    assert pairs == {"two 0": IN, "join 1": JOIN}


# ── Commuting operators ───────────────────────────────────────────────────────────────────────────────────────────────

CONCAT = "[one] a = Conv (x, w0) [two] b = Conv (x, w1) c = Relu (a) d = Relu (b) [cat] e = Concat <axis = 1> (c, d)"
WIDE = random(4, 8, 1, 1)


def test_a_concats_branches_and_its_output_share_a_scale():
    model = convolutional(f"{CONCAT} [last] y = Conv (e, w)", w=WIDE)
    assert rules_by_input(model) == {"one 0": IN, "two 0": IN, "last 0": IN, "cat 0": BRANCH, "cat 1": BRANCH}
    assert shared_scales(model) == (("c", "d", "e"),)


@pytest.mark.parametrize(("outputs", "more"), [("f", "f = Sigmoid (e)"), ("e", "")], ids=["a node", "an output"])
def test_a_concat_also_read_in_floating_point_gets_no_pairs(outputs, more):
    ends = f"(float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,8,8,8] {outputs})"
    text = f"g {ends} {{ {CONCAT} [last] y = Conv (e, w) {more} }}"
    model = parse(text, w=WIDE, w0=KERNELS["w0"], w1=KERNELS["w1"])
    assert rules_by_input(model) == {"one 0": IN, "two 0": IN, "last 0": IN}
    assert shared_scales(model) == ()


def test_the_branches_of_an_excluded_concat_have_separate_scales():
    assert shared_scales(convolutional(f"{CONCAT} [last] y = Conv (e, w)", w=WIDE), "cat") == ()


def test_nested_concats_are_one_group():
    body = f"{CONCAT} [outer] f = Concat <axis = 1> (e, x) [last] y = Conv (f, w)"
    assert shared_scales(convolutional(body, w=random(4, 12, 1, 1))) == (("c", "d", "e", "f", "x"),)


def test_concats_that_share_a_branch_are_one_group():
    body = """c = Relu (x) d = Tanh (x) [low] f = Concat <axis = 1> (x, c) [high] g = Concat <axis = 1> (c, d)
        [p] h = Conv (f, w) [q] i = Conv (g, w) y = Mul (h, i)"""
    assert shared_scales(convolutional(body, w=WIDE)) == (("c", "d", "f", "g", "x"),)


DENSE = """a = Relu (x) [bn] b = BatchNormalization (a, g4, g4, g4, g4) c = Relu (b) [one] d = Conv (c, w0)
    [cat] e = Concat <axis = 1> (a, d) [bn8] f = BatchNormalization (e, g8, g8, g8, g8) h = Relu (f)
    [two] i = Conv (h, w8)"""
DENSER = f"""{DENSE} [more] j = Concat <axis = 1> (a, d, i) [bn12] k = BatchNormalization (j, g12, g12, g12, g12)
    l = Relu (k) [last] y = Conv (l, w12)"""


def dense(body):
    factors = {f"g{width}": np.ones(width, np.float32) for width in (4, 8, 12) if f"g{width}," in body}
    kernels = {f"w{width}": random(4, width, 1, 1) for width in (8, 12) if f"w{width})" in body}
    return convolutional(body, **factors, **kernels)


def test_the_features_of_a_dense_block_share_a_scale_and_are_read_through_it_alone():
    rules = rules_by_input(dense(DENSER))
    concats = {"cat 0": FEATURE, "cat 1": FEATURE, "more 0": FEATURE, "more 1": FEATURE, "more 2": FEATURE}
    assert rules == {"one 0": IN, "two 0": IN, "last 0": IN, "bn 0": NORM, **concats}
    assert shared_scales(dense(DENSER)) == (("a", "d", "i"),)


def test_features_that_one_concat_copies_once_get_no_pairs():
    assert rules_by_input(dense(DENSE.replace("i = Conv", "y = Conv"))) == {"one 0": IN, "two 0": IN}


def test_excluding_the_concats_of_a_dense_block_leaves_its_features_in_floating_point():
    model = dense(DENSER)
    ((*concats,),) = list_dense_blocks(list(model.graph), place_qdq_pairs(model))
    assert concats == ["cat", "more"]
    assert rules_by_input(model, *concats) == {"one 0": IN, "two 0": IN, "last 0": IN}


def test_a_maxpool_commutes():
    model = convolutional("a = Tanh (x) [pool] b = MaxPool <kernel_shape = [2, 2]> (a) [conv] y = Conv (b, w0)")
    assert rules_by_input(model) == {"pool 0": POOL, "conv 0": IN}
    assert shared_scales(model) == (("a", "b"),)


@pytest.mark.parametrize("pool", ["AveragePool <kernel_shape = [2, 2]>", "GlobalAveragePool"])
def test_averages_stay_in_floating_point(pool):
    model = convolutional(f"[one] a = Conv (x, w0) [pool] b = {pool} (a) [two] y = Conv (b, w1)")
    assert rules_by_input(model) == {"one 0": IN, "two 0": IN}
    assert shared_scales(model) == ()


def test_a_concat_with_a_constant_gets_no_pairs():
    body = "[cat] e = Concat <axis = 0> (x, k) [conv] y = Conv (e, w0)"
    assert rules_by_input(convolutional(body, k=random(1, 4, 8, 8))) == {"conv 0": IN}


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def refusal_message(model, *excluded):
    with pytest.raises(InputError) as caught:
        place_qdq_pairs(model, frozenset(excluded))
    assert caught.value.remedy
    return caught.value.what


def test_a_graph_without_layers_is_refused():
    assert "no layer that INT8 could speed up" in refusal_message(convolutional("y = Relu (x)"))


def test_a_graph_whose_layers_are_all_excluded_is_refused():
    assert refusal_message(convolutional("[conv] y = Conv (x, w0)"), "conv").endswith("besides the excluded ones.")


def test_a_quantized_graph_is_refused():
    text = """g (float[N,4] x) => (float[N,4] y) <float s = {0.1}, int8 z = {0}>
        { q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = MatMul (d, w) }"""
    assert "quantized already" in refusal_message(parse(text, w=random(4, 4)))


def test_a_layer_without_a_name_is_refused():
    assert "without a name" in refusal_message(convolutional("y = Conv (x, w0)"))


def test_duplicate_node_names_are_refused():
    assert "two nodes with the name conv" in refusal_message(
        convolutional("[conv] a = Conv (x, w0) [conv] y = Conv (a, w1)")
    )


def test_nodes_without_pairs_need_no_name():
    assert rules_by_input(convolutional("a = Relu (x) [conv] b = Conv (a, w0) y = Relu (b)")) == {"conv 0": IN}


# ── Properties ────────────────────────────────────────────────────────────────────────────────────────────────────────

EVERYTHING = f"""{CONCAT} [outer] f = Concat <axis = 1> (e, x) [mix] g = Conv (f, w) [pool] p = MaxPool
    <kernel_shape = [1, 1]> (g) [deep] h = Conv (p, w2) [side] i = Conv (x, w3) [add] j = Add (i, h) k = Relu (j)
    [left] l = Conv (k, w4) m = Relu (l) [right] n = Conv (k, w5) o = Relu (n) [join] y = Add (m, o)"""


def large_graph():
    return convolutional(EVERYTHING, w=random(4, 12, 1, 1))


def test_placement_is_deterministic():
    assert place_qdq_pairs(large_graph()) == place_qdq_pairs(large_graph())


NODES = ["two", "cat", "outer", "mix", "pool", "deep", "side", "add", "left", "right", "join"]
"""But for one layer: all of them cannot be excluded."""


@given(st.sets(st.sampled_from(NODES)))
def test_excluding_layers_only_removes_edges(excluded):
    """Calibration observes the tensors of the full placement, which must suffice for any part."""
    whole, part = place_qdq_pairs(large_graph()), place_qdq_pairs(large_graph(), frozenset(excluded))
    assert set(part.edges) <= set(whole.edges)
    assert not {edge.node for edge in part.edges} & excluded
