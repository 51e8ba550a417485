import re

import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_text import parse, random, rewritten

from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.export.passes import names

RELU = "g (float[N,3] x) => (float[N,3] logits) { a = Relu (x)  logits = Neg (a) }"


def add_dynamo_metadata(model: ir.Model, *scopes: list[str]) -> ir.Model:
    """Note module scopes as torch.export does: full paths from the outermost inwards, then the function."""
    for position, (node, scope) in enumerate(zip(model.graph, scopes, strict=False)):
        node.name = f"node_{position}"
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(scope)
    return model


def first_path(model: ir.Model) -> str:
    names.apply(model)
    return next(iter(model.graph)).metadata_props[MODULE_KEY]


# ── Origin of a node ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("scopes", "path"),
    [
        (["", "conv1", "conv2d"], "conv1"),
        (["", "layer1", "layer1.0", "layer1.0.conv1", "conv2d"], "layer1.0.conv1"),
        (["", "network", "network.layer1", "network.layer1.0", "relu"], "layer1.0"),
        (["", "network", "network.network", "network.network.conv", "conv2d"], "network.conv"),
        (["", "networks", "networks.0", "conv2d"], "networks.0"),
        (["", "network", "add"], ""),
        (["", "softmax"], ""),
        (["softmax"], ""),
    ],
)
def test_the_default_exporter_notes_full_paths(scopes, path):
    assert first_path(add_dynamo_metadata(parse(RELU), scopes)) == path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/conv1/Conv", "conv1"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/a/a.0/a.0.1/Conv", "a.0.1"),
        ("/a/a.0/a.0.1/a.0.1.2/Conv", "a.0.1.2"),
        ("/blocks.0/blocks.0.1/Relu_2", "blocks.0.1"),
        ("/network/features/features.0/Conv", "features.0"),
        ("/network/blocks.1/conv/Conv", "blocks.1.conv"),
        ("/network/a/a.0/b/b.1/Conv", "a.0.b.1"),
        ("/network/Add_1", ""),
        ("/Softmax", ""),
        ("Softmax", ""),
        ("", ""),
    ],
)
def test_the_torchscript_exporter_names_nodes_after_relative_paths(name, path):
    model = parse(RELU)
    next(iter(model.graph)).name = name
    assert first_path(model) == path


def test_a_module_path_is_recorded_as_metadata():
    model = add_dynamo_metadata(parse(RELU), ["", "network", "network.conv1", "relu"])
    names.apply(model)
    assert first_path(model) == "conv1"


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nodes_and_tensors_are_called_after_module_and_operator():
    model = add_dynamo_metadata(parse(RELU), ["", "stem", "relu"], ["", "neg"])
    assert rewritten(names.apply, model, x=random(2, 3)).applied == 2
    relu, neg = model.graph
    assert (relu.name, relu.outputs[0].name) == ("stem/Relu", "stem/Relu")
    assert (neg.name, neg.outputs[0].name) == ("Neg", "logits")


def test_the_second_node_of_a_kind_in_a_module_has_a_number():
    text = "g (float[N,3] x) => (float[N,3] y) { a = Relu (x)  b = Neg (a)  c = Relu (b)  y = Relu (c) }"
    model = add_dynamo_metadata(parse(text), *[["", "act", "f"]] * 4)
    names.apply(model)
    assert [node.name for node in model.graph] == ["act/Relu", "act/Neg", "act/Relu_1", "act/Relu_2"]


def test_further_outputs_carry_their_position():
    text = "g (float[N,4] x) => (float[N,2] y) { a, b = Split <axis = 1, num_outputs = 2> (x)  y = Add (a, b) }"
    model = parse(text)
    rewritten(names.apply, model, x=random(2, 4))
    assert [output.name for output in next(iter(model.graph)).outputs] == ["Split", "Split:1"]


def test_parameters_are_called_as_in_the_state_dict():
    text = 'g (float[N,3] x) => (float[N,3] y) { a = Mul (x, "network.scale")  y = Add (a, "normalize.shift") }'
    model = parse(text, **{"network.scale": random(3), "normalize.shift": random(3)})
    rewritten(names.apply, model, x=random(2, 3))
    assert set(model.graph.initializers) == {"scale", "normalize.shift"}


@pytest.mark.parametrize("taken", ["x", "y", "other"])
def test_a_parameter_gets_no_name_that_is_in_use(taken):
    text = f'g (float[N,3] x) => (float[N,3] y) {{ a = Mul (x, "network.{taken}")  y = Add (a, other) }}'
    model = parse(text, **{f"network.{taken}": random(3), "other": random(3)})
    rewritten(names.apply, model, x=random(2, 3))
    assert set(model.graph.initializers) == {f"network.{taken}", "other"}


@given(paths=st.lists(st.sampled_from(["", "a", "a.b", "a.b_1", "network.a", "network"]), min_size=1, max_size=12))
def test_names_are_unique_whatever_the_modules(paths):
    nodes = "  ".join(f"t{i + 1} = {'Relu' if i % 3 else 'Neg'} (t{i})" for i in range(len(paths)))
    model = parse(f"g (float[N,3] t0) => (float[N,3] t{len(paths)}) {{ {nodes} }}")
    names.apply(add_dynamo_metadata(model, *[["", path, "f"] for path in paths]))
    assert len({node.name for node in model.graph}) == len(paths)
    assert len({node.outputs[0].name for node in model.graph}) == len(paths)


def test_a_second_run_changes_nothing():
    model = add_dynamo_metadata(parse(RELU), ["", "stem", "relu"], ["", "neg"])
    names.apply(model)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    names.apply(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once


# ── Removed metadata ──────────────────────────────────────────────────────────────────────────────────────────────────

PRIVATE = "/home/somebody/train.py"


def test_exporter_metadata_is_removed():
    text = """g (float[N,3] x, bool c) => (float[N,3] y) {
        a = Mul (x, w)
        y = If (c) <then_branch = t () => (float[N,3] p) { p = Relu (a) },
                    else_branch = e () => (float[N,3] q) { q = Neg (a) }>
    }"""
    model = parse(text, w=random(3))
    nodes = list(model.graph.all_nodes())
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(o for node in nodes for o in node.outputs)]
    for noted in (model, model.graph, *model.graph.subgraphs(), *nodes):
        noted.doc_string = PRIVATE
    for noted in (model, model.graph, *model.graph.subgraphs(), *nodes, *values):
        noted.metadata_props["pkg.torch.onnx.stack_trace"] = PRIVATE
    names.apply(model)
    text_form = onnx.printer.to_text(ir.to_proto(model)) + str(ir.to_proto(model))
    assert PRIVATE not in text_form
    assert re.findall(r'key: "(.*)"', text_form) == [MODULE_KEY] * 2


def test_the_graph_is_called_main():
    model = parse(RELU)
    names.apply(model)
    assert model.graph.name == "main"


def test_a_constant_retains_its_name_and_a_node_with_that_name_is_renamed():
    model = parse("g (float[N,3] x) => (float[N,3] y) { a = Relu (x)  b = Add (a, w)  y = Neg (b) }", w=random(3))
    model.graph.initializers["w"].name = "Relu"
    rewritten(names.apply, model, x=random(2, 3))
    assert [node.name for node in model.graph] == ["Relu_1", "Add", "Neg"]
