"""Reading the documents of TensorRT's engine inspector.

The documents in `inspections` were not written by a GPU but composed manually for the network below, in the formats of
NVIDIA's documentation and public reports. They verify the parsing, not the engines that TensorRT builds."""

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from deploykit.backends.tensorrt import inspector
from deploykit.core.errors import BackendError
from deploykit.core.onnx_metadata import MODULE_KEY

INSPECTIONS = Path(__file__).parent / "inspections"

NODES = [
    ("Conv", "stem/Conv", ["x", "stem.weight"], "a0", "stem"),
    ("Relu", "relu/Relu", ["a0"], "a", "relu"),
    ("Conv", "block.conv1/Conv", ["a", "block.conv1.weight"], "b0", "block.conv1"),
    ("Relu", "block.relu/Relu", ["b0"], "b", "block.relu"),
    ("Conv", "block.shortcut/Conv", ["a", "block.shortcut.weight"], "s", "block.shortcut"),
    ("Conv", "block.conv2/Conv", ["b", "block.conv2.weight"], "c0", "block.conv2"),
    ("Add", "block/Add", ["c0", "s"], "c1", "block"),
    ("Relu", "block.relu/Relu_1", ["c1"], "c", "block.relu"),
    ("Sigmoid", "gate/Sigmoid", ["c"], "d0", ""),
    ("Mul", "gate/Mul", ["c", "d0"], "d", ""),
    ("GlobalAveragePool", "pool/GlobalAveragePool", ["d"], "p", "pool"),
    ("Flatten", "Flatten", ["p"], "f", ""),
    ("Gemm", "fc/Gemm", ["f", "fc.weight"], "y", "fc"),
]
SHAPES = {
    "stem.weight": [16, 3, 3, 3],
    "block.conv1.weight": [16, 16, 3, 3],
    "block.shortcut.weight": [16, 16, 1, 1],
    "block.conv2.weight": [16, 16, 3, 3],
    "fc.weight": [16, 10],
}
LAYERS = [name for kind, name, *_ in NODES if kind in ("Conv", "Gemm")]


@pytest.fixture(scope="module")
def graph():
    """The network that all inspections are of: a stem, a residual block with a projection, a gate, a classifier."""
    nodes = [helper.make_node(kind, inputs, [output], name=name) for kind, name, inputs, output, _ in NODES]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
            [
                onnx.numpy_helper.from_array(onnx.numpy_helper.np.ones(shape, "float32"), name)
                for name, shape in SHAPES.items()
            ],
        )
    )
    read = ir.from_proto(model).graph
    for node, (*_, module) in zip(read, NODES, strict=True):
        node.metadata_props[MODULE_KEY] = module
    return read


def inspection(name):
    return (INSPECTIONS / f"{name}.json").read_text()


def document(*layers):
    return json.dumps({"Layers": layers, "Bindings": []})


@pytest.fixture
def parse_by_name(graph):
    """The layers of an inspection, or of a list of dictionaries, by name."""

    def by_name(what, *more):
        text = inspection(what) if isinstance(what, str) else document(what, *more)
        return {layer.name: layer for layer in inspector.parse_layers(text, graph)}

    return by_name


@pytest.fixture
def find_layer(parse_by_name):
    """The layer of an inspection that has the node, and none but a layer that computes."""

    def having(name, node):
        [match] = [layer for layer in parse_by_name(name).values() if node in layer.nodes and layer.arithmetic]
        return match

    return having


# ── The join to the graph ─────────────────────────────────────────────────────────────────────────────────────────────


FOLDED = {"block.relu/Relu"}  # into the activation of block.conv1/Conv, for which 8.x has no name


@pytest.mark.parametrize(
    ("name", "unnamed"),
    [("tensorrt-8.6", FOLDED), ("names-only", FOLDED), ("tensorrt-10", set()), ("tensorrt-11", set())],
)
def test_every_node_named_in_a_document_is_found(graph, name, unnamed):
    layers = inspector.parse_layers(inspection(name), graph)
    assert {node for layer in layers for node in layer.nodes} == {name for _, name, *_ in NODES} - unnamed


@pytest.mark.parametrize("name", ["tensorrt-8.6", "tensorrt-10", "tensorrt-11"])
def test_a_fused_convolution_has_all_its_nodes_and_their_modules(find_layer, name):
    layer = find_layer(name, "block.conv2/Conv")
    own = [node for node in layer.nodes if node != "block.shortcut/Conv"]  # in 11's document they are one kernel
    assert own == ["block.conv2/Conv", "block/Add", "block.relu/Relu_1"]
    assert layer.modules[-3:] == ("block.conv2", "block", "block.relu")


def test_nodes_of_no_module_give_no_empty_names(parse_by_name):
    layer = parse_by_name("tensorrt-8.6")["PWN(PWN(gate/Sigmoid), PWN(gate/Mul))"]
    assert layer.nodes == ("gate/Sigmoid", "gate/Mul")
    assert layer.modules == ()


@pytest.mark.parametrize("between", ["", "\x1e", "\x1f", " "])
def test_metadata_is_parsed_with_any_separator(graph, between):
    metadata = between.join(f"[ONNX Layer: {name}]" for name in ("stem/Conv", "folded/Constant", "relu/Relu"))
    [layer] = inspector.parse_layers(document({"Name": "anything", "Metadata": metadata}), graph)
    assert layer.nodes == ("stem/Conv", "relu/Relu")


def test_control_characters_may_be_unescaped_in_the_document(graph):
    text = '{"Layers": [{"Name": "n", "Metadata": "[ONNX Layer: stem/Conv]\x1f[ONNX Layer: relu/Relu]"}]}'
    assert inspector.parse_layers(text, graph)[0].nodes == ("stem/Conv", "relu/Relu")


def test_callers_of_a_local_function_are_not_part_of_a_node_name(parse_by_name):
    [layer] = parse_by_name({"Name": "n", "Metadata": "[ONNX Layer: stem/Conv | outer (stage) | main (body)]"}).values()
    assert layer.nodes == ("stem/Conv",)


def test_metadata_outweighs_the_name(parse_by_name):
    [layer] = parse_by_name({"Name": "stem/Conv + relu/Relu", "Metadata": "[ONNX Layer: stem/Conv]"}).values()
    assert layer.nodes == ("stem/Conv",)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("stem.weight + stem/QuantizeLinear_1 + stem/Conv + PWN(relu/Relu)", ("stem/Conv", "relu/Relu")),
        ("block.shortcut/Conv || block.conv1/Conv", ("block.conv1/Conv", "block.shortcut/Conv")),
        ("PWN(PWN(gate/Sigmoid), PWN(gate/Mul))", ("gate/Sigmoid", "gate/Mul")),
        ("Reformatting CopyNode for Input Tensor 0 to stem/Conv + relu/Relu", ()),
        ("a copy", ()),
        ("(Unnamed Layer* 14) [Shuffle] + Flatten", ("Flatten",)),
        ("__myl_AddMul_myl0_8", ()),
        ("stem/Convolution", ()),
    ],
)
def test_names_without_metadata_are_split(parse_by_name, name, nodes):
    [layer] = parse_by_name({"Name": name, "LayerType": "any"}).values()
    assert layer.nodes == nodes


def test_a_node_name_may_contain_brackets(graph):
    copy = graph.clone()
    next(iter(copy)).name = "stem(1)"
    [layer] = inspector.parse_layers(document({"Name": "PWN(PWN(stem(1)), relu/Relu)"}), copy)
    assert layer.nodes == ("stem(1)", "relu/Relu")


def test_a_foreign_node_contains_all_nodes_on_paths_between_its_ends(parse_by_name):
    [layer] = parse_by_name({"Name": "{ForeignNode[block.conv1/Conv...gate/Mul]}", "LayerType": "Myelin"}).values()
    assert layer.nodes == (
        "block.conv1/Conv",
        "block.relu/Relu",
        "block.conv2/Conv",  # and not the projection: it may have run before
        "block/Add",
        "block.relu/Relu_1",
        "gate/Sigmoid",
        "gate/Mul",
    )


def test_a_foreign_node_of_parallel_branches_has_its_ends_only(parse_by_name):
    [layer] = parse_by_name(
        {"Name": "{ForeignNode[block.conv1/Conv...block.shortcut/Conv]}", "LayerType": "Myelin"}
    ).values()
    assert layer.nodes == ("block.conv1/Conv", "block.shortcut/Conv")


def test_a_foreign_node_starting_with_weights_starts_at_their_reader(parse_by_name):
    [layer] = parse_by_name(
        {"Name": "{ForeignNode[block.conv2.weight + (Unnamed Layer* 1) [Shuffle]...block/Add]}"}
    ).values()
    assert layer.nodes == ("block.conv2/Conv", "block/Add")


def test_a_foreign_node_starting_with_shared_weights_does_not_start_at_their_readers(graph):
    copy = graph.clone()
    second = next(node for node in copy if node.name == "block.conv2/Conv")
    second.replace_input_with(1, copy.initializers["block.conv1.weight"])
    name = "{ForeignNode[block.conv1.weight...block.conv2/Conv]}"
    assert inspector.parse_layers(document(name), copy)[0].nodes == ("block.conv2/Conv",)


def test_a_foreign_node_with_unknown_ends_contains_no_nodes(parse_by_name):
    [layer] = parse_by_name(
        {"Name": "{ForeignNode[(Unnamed Layer* 1) [Constant]...(Unnamed Layer* 9) [ElementWise]]}"}
    ).values()
    assert layer.nodes == ()


# ── Precision of a layer ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tensorrt-8.6", ["int8", "int8", "fp16", "int8", "fp32"]),
        ("tensorrt-10", ["int8", "int8", "int8", "int8", "fp16"]),
        ("tensorrt-11", ["bf16", "int8", "int8", "int8", "fp16"]),
    ],
)
def test_every_convolution_and_product_has_its_arithmetic(graph, name, expected):
    layers = inspector.parse_layers(inspection(name), graph)
    assert inspector.arithmetic_by_node(layers, LAYERS) == dict(zip(LAYERS, expected, strict=True))


def test_the_type_of_an_addition_is_not_that_of_its_convolution(find_layer):
    for name in ("tensorrt-8.6", "tensorrt-10", "tensorrt-11"):
        layer = find_layer(name, "block.conv2/Conv")
        assert {tensor.split()[0] for tensor in layer.inputs} == {"Int8", "FP16"}
        assert layer.arithmetic == "int8"


def tensor(*types):
    return [{"Name": "t", "Dimensions": [1], "Format/Datatype": datatype} for datatype in types]


@pytest.mark.parametrize(
    ("kind", "types", "tactic", "expected"),
    [
        ("CaskConvolution", ["Int8", "Half"], "tells_nothing", "int8"),
        ("CaskConvolution", ["Half", "Int8"], "tells_nothing", "fp16"),
        ("fusion", ["Half", "Int8"], "sm80_xmma_gemm_i8f16_i8i32_f32_tn", "int8"),
        ("CaskConvolution", ["Float"], "sm80_xmma_gemm_i8f16_i8i32_f32_tn", "fp32"),
        ("CaskConvolution", ["Int8", "Half"], "ampere_scudnn_128x64", "int8"),
        ("kgen", ["Int8", "Half"], "", "fp16"),
        ("PointWiseV2", ["Row major linear FP32", "Row major linear Int32"], "", "fp32"),
        ("CaskPooling", ["Channel major BFloat16 format where channel % 8 == 0"], "", "bf16"),
        ("CaskConvolution", ["Row major linear UInt8 format"], "", None),
        ("CaskConvolution", [], "", None),
    ],
)
def test_the_input_types_give_the_precision_and_the_tactic_decides_where_they_differ(
    parse_by_name, kind, types, tactic, expected
):
    [layer] = parse_by_name({"Name": "n", "LayerType": kind, "Inputs": tensor(*types), "TacticName": tactic}).values()
    assert layer.arithmetic == expected


@pytest.mark.parametrize(
    ("tactic", "expected"),
    [
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32", "int8"),
        ("ampere_fp32_icudnn_int8x4_128x64_relu_medium_nn_v1", "int8"),
        ("turing_h1688cudnn_256x128_ldg8_relu_exp_medium_nhwc_tn_v1", "fp16"),
        ("sm80_xmma_gemm_f16f16_f16f32_f32_nn_n", "fp16"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_nn_n", "bf16"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "fp32"),
        ("ampere_scudnn_128x64_relu_interior_nn_v1", "fp32"),
        ("0x00000000000003ea", None),
    ],
)
def test_the_tactic_gives_the_precision_if_no_type_is_known(parse_by_name, tactic, expected):
    layer = {"Name": "n", "LayerType": "CaskConvolution", "Inputs": tensor("N/A due to dynamic shapes")}
    [parsed] = parse_by_name({**layer, "TacticName": tactic}).values()
    assert parsed.arithmetic == expected
    assert parsed.inputs == ("?",)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("stem/QuantizeLinear", "Reformat"),
        ("n", "NoOp"),
        ("n", "Shuffle"),
        ("n", "Constant"),
        ("n", "constant"),
        ("n", "Slice"),
        ("n", "Concatenation"),
        ("__myl_MovSliSliTra_myl109_1", "kgen"),
        ("__myl_Move_myl0_0", "kgen"),
    ],
)
def test_layers_that_move_data_have_no_arithmetic(parse_by_name, name, kind):
    [layer] = parse_by_name({"Name": name, "LayerType": kind, "Inputs": tensor("Half")}).values()
    assert layer.arithmetic is None


def test_a_generated_kernel_with_one_operator_that_computes_does_compute(parse_by_name):
    [layer] = parse_by_name(
        {"Name": "__myl_DivMulTra_myl109_4", "LayerType": "kgen", "Inputs": tensor("Half")}
    ).values()
    assert layer.arithmetic == "fp16"


def test_an_engine_with_layer_names_only_has_no_arithmetic(graph):
    layers = inspector.parse_layers(inspection("names-only"), graph)
    assert {layer.arithmetic for layer in layers} == {None}
    assert inspector.arithmetic_by_node(layers, ["stem/Conv"]) == {}


def test_without_a_context_only_unambiguous_tactics_are_used(graph):
    layers = inspector.parse_layers(inspection("dynamic-without-context"), graph)
    expected = {"stem/Conv": "fp16", "block.conv1/Conv": "int8"}
    assert inspector.arithmetic_by_node(layers, [*expected, "block.conv2/Conv"]) == expected


def test_a_node_without_a_layer_has_no_arithmetic(graph):
    layers = inspector.parse_layers(inspection("tensorrt-10"), graph)
    assert inspector.arithmetic_by_node(layers, ["elsewhere/Conv"]) == {}


def test_a_layer_with_several_convolutions_counts_for_each(graph):
    region = {"Name": "{ForeignNode[stem/Conv...block/Add]}", "LayerType": "Myelin", "Inputs": tensor("Half")}
    layers = inspector.parse_layers(document(region), graph)
    inside = [name for name in LAYERS if name != "fc/Gemm"]
    assert inspector.arithmetic_by_node(layers, inside) == dict.fromkeys(inside, "fp16")


def test_kernels_that_cannot_multiply_do_not_determine_the_precision_of_a_product(graph):
    metadata = {"Metadata": "[ONNX Layer: fc/Gemm]"}
    product = {"Name": "fc/Gemm_myl0_1", "LayerType": "gemm", "Inputs": tensor("Int8"), **metadata}
    bias = {"Name": "__myl_Add_myl0_2", "LayerType": "kgen", "Inputs": tensor("Float"), **metadata}
    assert inspector.arithmetic_by_node(inspector.parse_layers(document(product, bias), graph), ["fc/Gemm"]) == {
        "fc/Gemm": "int8"
    }


def test_the_widest_of_different_kernels_of_one_product_is_reported(graph):
    halves = [
        {"Name": str(datatype), "LayerType": "gemm", "Inputs": tensor(datatype), "Metadata": "[ONNX Layer: fc/Gemm]"}
        for datatype in ("Int8", "Half", "Int8")
    ]
    assert inspector.arithmetic_by_node(inspector.parse_layers(document(*halves), graph), ["fc/Gemm"]) == {
        "fc/Gemm": "fp16"
    }


# ── Formats, tactics, documents ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("Row major linear FP32", "FP32 linear"),
        ("Row major linear FP16 format", "FP16 linear"),
        ("Row major Int8 format", "Int8 linear"),
        ("Channel major FP16 format where channel % 8 == 0", "FP16 NHWC8"),
        ("Channel major INT8 format where channel == 4 and column stride % 32 == 0", "Int8 NHWC4"),
        ("Four wide channel vectorized row major Int8 format", "Int8 NC/4HW4"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "Int8 NC/32HW32"),
        ("Two wide channel vectorized row major BFloat16 format", "BF16 NC/2HW2"),
        ("Eight channel FP16 format (kHWC8) where C is padded to a multiple of 8", "FP16 NHWC8"),
        ("Non-vectorized channel-last UINT8 format", "UINT8 NHWC"),
        ("Half", "FP16"),
        ("FP8", "FP8"),
        ("N/A due to dynamic shapes", "?"),
    ],
)
def test_tensor_descriptions_are_parsed_to_type_and_layout(parse_by_name, sentence, shown):
    [layer] = parse_by_name({"Name": "n", "LayerType": "kgen", "Outputs": tensor(sentence)}).values()
    assert layer.outputs == (shown,)


def test_type_and_layout_are_read_from_separate_fields(find_layer):
    layer = find_layer("tensorrt-11", "block.conv1/Conv")
    assert (layer.inputs, layer.outputs) == (("Int8 NC/32HW32",), ("Int8 NC/32HW32",))


def test_the_type_is_used_even_if_the_layout_is_unknown(parse_by_name):
    unknown = {"Name": "t", "Datatype": "Half", "Format": "Format not available due to dynamic shapes"}
    [layer] = parse_by_name({"Name": "n", "LayerType": "correlation", "Inputs": [unknown]}).values()
    assert (layer.arithmetic, layer.inputs) == ("fp16", ("FP16",))


def test_a_layer_without_a_tactic_s_name_has_its_number(parse_by_name):
    assert parse_by_name("tensorrt-8.6")["block.conv1/QuantizeLinear"].tactic == "0x00000000000003ea"


@pytest.mark.parametrize(
    "text",
    ["", "Layers: none", "[]", "{}", '{"Layers": [{"LayerType": "Reformat"}]}', '{"Layers": [{"Name": 1}]}'],
)
def test_a_document_of_another_kind_is_refused(graph, text):
    with pytest.raises(BackendError, match="deploykit cannot read the output of TensorRT's engine inspector"):
        inspector.parse_layers(text, graph)


def test_an_engine_with_hidden_layers_has_no_layers(graph):
    assert inspector.parse_layers(document(), graph) == ()


# ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_layer_times_are_joined_by_name_without_loss(graph):
    layers = inspector.parse_layers(inspection("tensorrt-10"), graph)
    timed = inspector.add_times(layers, {"block.conv1/Conv": 30.0, "somewhere else": 5.0})
    assert {layer.name: layer.time_us for layer in timed if layer.time_us} == {
        "block.conv1/Conv": 30.0,
        "somewhere else": 5.0,
    }
    assert [layer.name for layer in timed] == [*(layer.name for layer in layers), "somewhere else"]


def test_two_layers_with_one_name_are_timed_once(graph):
    twice = inspector.parse_layers(document("n", "n"), graph)
    assert [layer.time_us for layer in inspector.add_times(twice, {"n": 7.0})] == [7.0, None]


def test_recorded_inspections_do_not_claim_to_come_from_a_gpu():
    for path in INSPECTIONS.glob("*.json"):
        assert json.loads(path.read_text())["Comment"].endswith("no GPU and no TensorRT wrote it.")
