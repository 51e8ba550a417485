import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse, random

from deploykit.core.errors import InternalError
from deploykit.core.values import BatchRange, TensorSpec
from deploykit.export import contract

KEPT = contract.Contract(opset=20, batch=BatchRange(), training_only=("aux",), parameter_bytes=4 * 4 * 3 * 3 * 4)
W = random(4, 4, 3, 3)


def graph(body: str, header: str = "float[batch,4,8,8] x", output: str = "float[batch,4,8,8] y", opset: int = 20):
    return parse(f"g ({header}) => ({output}) {{ {body} }}", opset, w=W)


def valid_graph() -> ir.Model:
    return graph("[conv] a = Conv <pads = [1,1,1,1]> (x, w)  [relu] y = Relu (a)")


def violation_message(model: ir.Model, promise: contract.Contract = KEPT) -> str:
    with pytest.raises(InternalError) as caught:
        contract.check_contract(model, promise)
    return caught.value.what


def test_a_good_graph_passes():
    contract.check_contract(valid_graph(), KEPT)


# ── Violations, one at a time ─────────────────────────────────────────────────────────────────────────────────────────

CONV = "[conv] a = Conv <pads = [1,1,1,1]> (x, w)"


@pytest.mark.parametrize(
    ("node", "complaint_made"),
    [
        ("[n] y = Dropout (a)", "n is a Dropout"),
        ("[n] y = Identity (a)", "n is a Identity"),
        ("[n] r = RandomNormalLike (a)  [add] y = Add (a, r)", "n is a RandomNormalLike"),
        ("[n] r = RandomUniformLike (a)  [add] y = Add (a, r)", "n is a RandomUniformLike"),
        ("[n] r = RandomNormal <shape = [1,4,8,8]> ()  [add] y = Add (a, r)", "n is a RandomNormal"),
        ("[n] r = RandomUniform <shape = [1,4,8,8]> ()  [add] y = Add (a, r)", "n is a RandomUniform"),
        ("[p] p = Sigmoid (a)  [n] r = Bernoulli (p)  [add] y = Add (a, r)", "n is a Bernoulli"),
        ("[n] r = Constant <value_float = 1.0> ()  [add] y = Add (a, r)", "n is a Constant"),
    ],
)
def test_training_random_and_idle_nodes_are_violations(node, complaint_made):
    assert violation_message(graph(f"{CONV}  {node}")) == f"The exported graph breaks its contract: {complaint_made}."


def batchnorm(attributes: str, outputs: str) -> ir.Model:
    body = f"{CONV}  [norm] {outputs} = BatchNormalization {attributes} (a, s, s, s, s)"
    return parse(f"g (float[batch,4,8,8] x) => (float[batch,4,8,8] y) {{ {body} }}", w=W, s=np.ones(4, np.float32))


def test_batchnorm_in_training_mode_is_a_violation():
    assert "norm is in training mode" in violation_message(batchnorm("<training_mode = 1>", "y, m, v"))


def test_batchnorm_in_eval_mode_passes():
    contract.check_contract(batchnorm("<training_mode = 0>", "y"), KEPT)


def test_a_dead_node_is_a_violation():
    assert "nothing reads dead" in violation_message(graph(f"{CONV}  [dead] d = Neg (x)  [relu] y = Relu (a)"))


def test_an_unread_weight_is_a_violation():
    assert "nothing reads the weight w" in violation_message(graph("[relu] y = Relu (x)"))


def test_a_training_only_weight_is_a_violation():
    body = '[add] b = Add (x, "aux.bias")  [conv] y = Conv <pads = [1,1,1,1]> (b, w)'
    model = parse(
        f"g (float[batch,4,8,8] x) => (float[batch,4,8,8] y) {{ {body} }}", w=W, **{"aux.bias": random(1, 4, 1, 1)}
    )
    assert violation_message(model).endswith(": aux.bias belongs to a training-only part.")


def test_a_weight_whose_name_only_starts_like_a_training_only_module_passes():
    body = '[add] b = Add (x, "auxiliary.bias")  [conv] y = Conv <pads = [1,1,1,1]> (b, w)'
    model = parse(
        f"g (float[batch,4,8,8] x) => (float[batch,4,8,8] y) {{ {body} }}",
        w=W,
        **{"auxiliary.bias": random(1, 4, 1, 1)},
    )
    contract.check_contract(model, KEPT)


def test_too_many_bytes_are_a_violation():
    promise = KEPT._replace(parameter_bytes=W.nbytes - contract.SHAPE_BYTES - 1)
    assert f"initializers hold {W.nbytes} bytes, the module's eval-mode state" in violation_message(
        valid_graph(), promise
    )


def test_shapes_and_axes_may_add_a_little():
    contract.check_contract(valid_graph(), KEPT._replace(parameter_bytes=W.nbytes - contract.SHAPE_BYTES))


def test_another_opset_is_a_violation():
    assert "the opset is {'': 20}, not 17" in violation_message(valid_graph(), KEPT._replace(opset=17))


def test_a_static_batch_instead_of_a_dynamic_one_is_a_violation():
    body = "[conv] a = Conv <pads = [1,1,1,1]> (x, w)  [relu] y = Relu (a)"
    model = graph(body, "float[8,4,8,8] x", "float[8,4,8,8] y")
    assert "x has shape (8, 4, 8, 8), not (batch, sizes)" in violation_message(model)


def test_a_dynamic_batch_instead_of_a_static_one_is_a_violation():
    promise = KEPT._replace(batch=BatchRange(8, 8, 8))
    assert "y has shape ('batch', 4, 8, 8), not (8, sizes)" in violation_message(valid_graph(), promise)


def test_an_open_image_size_is_a_violation():
    body = "[conv] a = Conv <pads = [1,1,1,1]> (x, w)  [relu] y = Relu (a)"
    model = graph(body, "float[batch,4,H,8] x", "float[batch,4,H,8] y")
    assert "x has shape ('batch', 4, 'H', 8), not (batch, sizes)" in violation_message(model)


@pytest.mark.parametrize("name", ["conv", ""])
def test_generic_node_names_are_a_violation(name):
    model = valid_graph()
    list(model.graph)[1].name = name
    assert "node names are not unique" in violation_message(model)


def test_a_nonstandard_operator_is_reported():
    model = valid_graph()
    list(model.graph)[1].domain = "com.microsoft"
    assert "relu is com.microsoft::Relu, outside the standard operators" in violation_message(model)


def test_all_violations_are_reported_at_once():
    model = graph(f"{CONV}  [drop] y = Dropout (a)  [dead] d = Neg (x)")
    assert violation_message(model, KEPT._replace(opset=17)).count(";") == 2


# ── Between passes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unchanged_graph_has_no_violation():
    model = valid_graph()
    contract.check_invariants(model, contract.graph_interface(model), "nothing")


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_a_renamed_input_or_output_is_a_violation(end):
    model = valid_graph()
    before = contract.graph_interface(model)
    getattr(model.graph, end)[0].name = "renamed"
    with pytest.raises(InternalError, match="The pass careless changed the graph's interface"):
        contract.check_invariants(model, before, "careless")


def test_a_changed_shape_is_a_violation():
    model = valid_graph()
    before = contract.graph_interface(model)
    model.graph.outputs[0].shape = ir.Shape([8, 4, 8, 8])
    with pytest.raises(InternalError, match="changed the graph's interface"):
        contract.check_invariants(model, before, "careless")


def test_a_value_read_before_its_definition_is_a_violation():
    model = valid_graph()
    conv, relu = model.graph
    model.graph.remove(conv)
    model.graph.insert_after(relu, conv)
    with pytest.raises(InternalError, match="After careless, relu reads a before it is defined"):
        contract.check_invariants(model, contract.graph_interface(model), "careless")


def test_an_undefined_output_is_a_violation():
    model = valid_graph()
    model.graph.remove(list(model.graph)[1])
    with pytest.raises(InternalError, match="After careless, nothing defines the output y"):
        contract.check_invariants(model, contract.graph_interface(model), "careless")


# ── The interface, as applications see it ─────────────────────────────────────────────────────────────────────────────


def test_images_are_nchw_pixels_nhwc_and_classes_nc():
    text = """g (float[batch,4,8,8] x, uint8[batch,8,8,4] p) => (float[batch,4] y) {
        c = Cast <to = 1> (p)
        t = Transpose <perm = [0,3,1,2]> (c)
        s = Add (x, t)
        m = GlobalMaxPool (s)
        y = Flatten (m)
    }"""
    assert contract.graph_interface(parse(text)) == (
        (
            TensorSpec("x", "float32", ("batch", 4, 8, 8), "NCHW"),
            TensorSpec("p", "uint8", ("batch", 8, 8, 4), "NHWC"),
        ),
        (TensorSpec("y", "float32", ("batch", 4), "NC"),),
    )


def test_an_unsupported_interface_type_is_a_violation():
    with pytest.raises(InternalError, match="The graph's y has type"):
        contract.graph_interface(parse("g (float[2,4] x) => (bool[2,4] y) { y = IsNaN (x) }"))
