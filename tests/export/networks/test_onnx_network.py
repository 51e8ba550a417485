"""A third-party ONNX file, from the command line to a bundle: interface, preprocessing, verdict."""

import numpy as np
import onnx
import pytest
from PIL import Image

from deploykit.bundle import load
from deploykit.bundle import manifest as manifests
from deploykit.export.networks.onnx_source import open_source

NCHW = """
agraph (float[N,3,16,16] image) => (float[N,5] scores) {
    a = Conv <pads = [1, 1, 1, 1]> (image, w)
    b = Relu (a)
    c = GlobalAveragePool (b)
    d = Flatten (c)
    scores = Gemm (d, f)
}
"""
NHWC = NCHW.replace("float[N,3,16,16] image", "float[N,16,16,3] image").replace(
    "a = Conv <pads = [1, 1, 1, 1]> (image, w)",
    "planes = Transpose <perm = [0, 3, 1, 2]> (image)\n a = Conv <pads = [1, 1, 1, 1]> (planes, w)",
)
TWO = """
agraph (float[N,8] x, float[N,4,6] z) => (float[N,5] scores, float[N,4,6] echo) {
    a = Gemm (x, m)
    s = ReduceMean <keepdims = 0> (z, axes)
    b = Gemm (s, v)
    c = Add (a, b)
    scores = Relu (c)
    echo = Tanh (z)
}
"""
PREPROCESSING = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
INT8 = ("--int8", "--calibration", "synthetic", "--calibration-size", "100")


def with_fixed_batch(text, size):
    return text.replace("[N,", f"[{size},")


def manifest_of(bundle):
    return manifests.read_manifest(bundle)


# ── Interface ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_and_sizes_stay(export_text):
    manifest = manifest_of(export_text(NCHW))
    assert [(spec.name, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)] == [
        ("image", ("batch", 3, 16, 16)),
        ("scores", ("batch", 5)),
    ]


def test_a_graph_with_channels_last_retains_the_layout(export_text):
    manifest = manifest_of(export_text(NHWC, *PREPROCESSING))
    assert manifest.inputs[0].shape == ("batch", 16, 16, 3)
    assert manifest.inputs[0].layout == manifest.model.preprocessing.layout == "NHWC"


def test_several_inputs_and_outputs_stay(export_text):
    bundle = export_text(TWO)
    manifest = manifest_of(bundle)
    assert manifest.model.inputs == ("x", "z")
    assert [output.name for output in manifest.parity.outputs] == ["scores", "echo"]
    assert load.verify(bundle).parity.passed


def test_names_that_no_file_can_have_are_supported(export_text):
    bundle = export_text(NCHW.replace("image", '"gpu_0/data:0"').replace("scores", '"out/prob"'))
    assert manifest_of(bundle).inputs[0].name == "gpu_0/data:0"
    assert load.verify(bundle).parity.passed


def test_a_fixed_batch_is_preserved(export_text):
    batch = manifest_of(export_text(with_fixed_batch(NCHW, 2))).batch
    assert (batch.minimum, batch.maximum) == (2, 2)


def test_a_fixed_batch_becomes_dynamic_on_request(export_text):
    batch = manifest_of(export_text(with_fixed_batch(NCHW, 1), "--batch", "1:2:4")).batch
    assert (batch.minimum, batch.maximum) == (1, 4)


def test_a_batch_written_as_minus_one_is_dynamic(save_graph):
    """As Paddle writes it."""
    path = save_graph(NCHW)
    proto = onnx.load(path)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(proto, path)
    source = open_source(str(path))
    assert source.batch is None
    assert source.is_score_vector


def test_a_hard_coded_batch_is_refused(cli, save_graph):
    shape = np.array([1, 8])
    text = with_fixed_batch(NCHW, 1).replace("d = Flatten (c)", "d = Reshape (c, shape)")
    result = cli("export", save_graph(text, shape=shape), "--batch", "1:2:4", "--target", "onnxruntime")
    assert result.code in (1, 3)
    assert "hard-coded batch size" in result.text


def test_open_sizes_are_refused_without_a_value(cli, save_graph):
    result = cli("export", save_graph(NCHW.replace("16,16", "H,W")))
    assert result.code == 3
    assert "leaves sizes of its input 'image' open: N×3×?×?" in result.text


def test_open_sizes_may_be_given(export_text):
    manifest = manifest_of(export_text(NCHW.replace("16,16", "H,W"), "--input-size", "16x12"))
    assert manifest.inputs[0].shape == ("batch", 3, 16, 12)


def test_sizes_other_than_the_files_are_refused(cli, save_graph):
    result = cli("export", save_graph(NCHW), "--input", "image=3x8x8:float32")
    assert result.code == 2
    assert "The input 'image' of" in result.text
    assert "is N×3×16×16 float32, not N×3×8×8 float32" in result.text


# ── Metadata of the file ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_graph_that_ends_in_softmax_gives_probabilities(export_text):
    text = NCHW.replace("scores = Gemm (d, f)", "g = Gemm (d, f)\n scores = Softmax (g)")
    assert manifest_of(export_text(text, *PREPROCESSING)).model.head == "probabilities"


@pytest.mark.parametrize(("words", "head"), [(PREPROCESSING, "logits"), ((), "tensors")], ids=["an image", "who knows"])
def test_scores_of_an_image_are_logits(export_text, words, head):
    assert manifest_of(export_text(NCHW, *words)).model.head == head


def test_the_oracle_is_the_file_itself(export_text):
    assert manifest_of(export_text(NCHW)).parity.oracle.startswith("the original file in ONNX Runtime ")


def test_an_old_opset_is_raised(export_text):
    text = NCHW.replace("Gemm (d, f)", "Gemm (d, f, bias)")
    manifest = manifest_of(export_text(text, opset=11, bias=np.ones(5, np.float32)))
    assert manifest.graph.opset == 20
    assert manifest.model.paper == "written by tf2onnx, opset 11"


def test_external_data_is_read(export_text, tmp_path):
    export_text(NCHW)
    model = onnx.load(tmp_path / "net.onnx")
    location = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, tmp_path / "net.onnx", **location)
    from deploykit.export.networks.onnx_source import open_source

    first = open_source(str(tmp_path / "net.onnx")).sha256
    (tmp_path / "weights.bin").write_bytes(bytes((tmp_path / "weights.bin").stat().st_size))
    (tmp_path / "net.onnx").touch()
    assert open_source(str(tmp_path / "net.onnx")).sha256 != first


# ── Preprocessing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_preprocessing_is_guessed(export_text):
    manifest = manifest_of(export_text(NCHW))
    assert manifest.model.preprocessing is None
    assert manifest.parity.data.name == "normal noise"


def test_int8_of_images_needs_preprocessing(cli, save_graph):
    result = cli("export", save_graph(NCHW), *INT8, "--target", "onnxruntime")
    assert result.code == 2
    assert "its preprocessing is unknown" in result.text


@pytest.mark.parametrize("text", [NCHW, NHWC], ids=["NCHW", "NHWC"])
def test_int8_with_the_users_preprocessing(export_text, text):
    manifest = manifest_of(export_text(text, *INT8, *PREPROCESSING))
    assert manifest.parity.passed
    assert manifest.receipt.shares["int8"] == 1


def test_int8_of_inputs_as_they_are(export_text, tmp_path):
    for name, seed in (("some", 1), ("others", 2)):
        images = np.random.default_rng(seed).standard_normal((120, 3, 16, 16)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", image=images)
    words = ("--int8", "--calibration", tmp_path / "some.npz", "--data", tmp_path / "others.npz")
    manifest = manifest_of(export_text(NCHW, *map(str, words)))
    assert manifest.calibration.data.name == "some.npz"
    assert manifest.parity.passed


def test_preprocessing_can_be_read_from_a_file(export_text, tmp_path):
    (tmp_path / "image.toml").write_text("resize = 20\nscale = 1.0\nmean = [104, 117, 123]\nchannels = 'bgr'\n")
    spec = manifest_of(export_text(NCHW, "--preprocessing-file", str(tmp_path / "image.toml"))).model.preprocessing
    assert (spec.resize, spec.height, spec.scale, spec.mean, spec.std, spec.channels) == (
        20, 16, 1.0, (104, 117, 123), (1, 1, 1), "bgr",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("means = [1, 2, 3]", "unknown field `means`"),
        ("mean = 'grey'", "at `$.mean`"),
        ("mean = [", "is not a preprocessing file"),
    ],
)
def test_an_invalid_preprocessing_file_is_refused(cli, save_graph, tmp_path, text, message):
    (tmp_path / "image.toml").write_text(text)
    result = cli("export", save_graph(NCHW), "--preprocessing-file", tmp_path / "image.toml")
    assert result.code == 3
    assert message in result.text


def test_images_run_through_a_bundle_with_preprocessing(export_text, cli, tmp_path):
    Image.fromarray(np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)).save(tmp_path / "a.png")
    result = cli("run", export_text(NHWC, *PREPROCESSING), tmp_path / "a.png")
    assert result.code == 0
    assert "class " in result.text


def test_scores_of_height_and_width_one_are_classes(export_text, tmp_path):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    text = NCHW.replace("float[N,5] scores", "float[N,8,1,1] scores").replace("c = Global", "scores = Global")
    text = text.replace("    d = Flatten (c)\n    scores = Gemm (d, f)\n", "")
    bundle = export_text(text, *PREPROCESSING)
    (predictions,) = load.predict(bundle, [tmp_path / "a.png"], 8)
    assert sorted(predictions.classes) == list(range(8))
    assert list(predictions.scores) == sorted(predictions.scores, reverse=True)


def test_images_are_refused_by_a_bundle_without_preprocessing(export_text, cli, tmp_path):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    result = cli("run", export_text(NCHW, "--head", "logits"), tmp_path / "a.png")
    assert result.code == 2
    assert "net was exported without image preprocessing" in result.text


# ── Refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "random"), "contains its weights"),
        (("--model-arg", "width=3"), "contains its weights"),
        (("--exporter", "dynamo"), "is exported already"),
        (("--preprocess-in", "graph"), "--preprocess-in graph would change the inputs"),
        (("--head", "embedding"), "--head embedding would change the outputs"),
        (("--input", "picture=3x16x16:float32"), "has no input 'picture'"),
    ],
)
def test_an_option_that_does_not_fit_an_onnx_file_is_refused(cli, save_graph, words, message):
    result = cli("export", save_graph(NCHW), *words)
    assert result.code == 2
    assert message in result.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NCHW.replace("Relu (a)", "com.acme.Swoosh (a)"), "not a standard ONNX operator"),
        (NCHW.replace("Relu (a)", "RandomNormalLike (a)"), "its output is random"),
        (NCHW.replace("float[N,3,16,16]", "float16[N,3,16,16]"), "the input 'image' is float16"),
    ],
    ids=["foreign", "chance", "half"],
)
def test_an_unsupported_graph_is_refused_with_the_reason(cli, save_graph, text, message):
    result = cli("export", save_graph(text, s=np.float32(0.1)))
    assert result.code == 3
    assert message in result.text


def test_a_file_that_is_not_a_graph_is_refused(cli, tmp_path):
    (tmp_path / "net.onnx").write_text("no graph")
    result = cli("export", tmp_path / "net.onnx")
    assert result.code == 3
    assert "cannot be read as ONNX" in result.text


def test_a_missing_file_is_refused(cli):
    result = cli("export", "gone.onnx")
    assert result.code == 3
    assert "there is no file 'gone.onnx'" in result.text


def test_a_folder_is_reported_as_a_folder(cli, tmp_path):
    (tmp_path / "net.onnx").mkdir()
    result = cli("export", tmp_path / "net.onnx")
    assert result.code == 3
    assert "is a folder" in result.text


def test_the_error_for_a_checkpoint_as_the_network_names_the_weights_option(cli, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"weights")
    result = cli("export", tmp_path / "net.pth")
    assert result.code == 3
    assert "give its checkpoint with --weights" in result.text


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("mean = [nan, 0.5, 0.5]", "mean holds nan, and must be finite."),
        ("std = [0.0, 1.0, 1.0]", "std holds 0.0, and must be finite and above 0."),
        ("scale = inf", "scale holds inf, and must be finite and above 0."),
    ],
)
def test_unusable_preprocessing_numbers_are_refused(cli, save_graph, tmp_path, said, message):
    (tmp_path / "image.toml").write_text(said)
    result = cli("export", save_graph(NCHW), "--preprocessing-file", tmp_path / "image.toml")
    assert result.code == 2
    assert message in result.text


def test_an_input_given_twice_is_refused(cli, save_graph):
    result = cli("export", save_graph(NCHW), *("--input", "x=3x8x8:float32") * 2)
    assert result.code == 2
    assert "the input 'x' is given more than once" in result.text


# ── Forms of files ────────────────────────────────────────────────────────────────────────────────────────────────────

OUTPUT = "d = Flatten (c)\n    scores = Gemm (d, f)"


def test_two_nodes_of_one_name_are_told_apart(save_graph, export_file):
    path = save_graph(NCHW)
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.name = "node"
    onnx.save(proto, path)
    names = {node.name for node in onnx.load(export_file(path) / "model.onnx").graph.node}
    assert len(names) > 1


def test_an_output_that_is_listed_twice_is_exported_once_and_said(save_graph, export_file):
    path = save_graph(NCHW)
    proto = onnx.load(path)
    proto.graph.output.append(proto.graph.output[0])
    onnx.save(proto, path)
    assert [spec.name for spec in manifest_of(export_file(path)).outputs] == ["scores"]
    assert "The output 'scores' is listed 2 times in the file, and once in the graph." in export_file.text


FORMS = {
    "copied": (
        "=> (float[N,5] scores",
        "=> (float[N,5] scores, float[N,5] again",
        "again = Identity (scores)",
        "scores",
    ),
    "bool": ("=> (float[N,5] scores", "=> (bool[N,5] mask", "mask = Cast <to = 9> (scores)", "mask"),
    "double": ("=> (float[N,5] scores", "=> (double[N,5] high", "high = Cast <to = 11> (scores)", "high"),
    "sequence": (
        *("=> (float[N,5] scores", "=> (float[5,N,1] steps"),
        *("u = Unsqueeze (scores, two)\n    steps = Transpose <perm = [1, 0, 2]> (u)", "steps"),
    ),
}
SAID = {
    "copied": "The output 'again' is a copy of 'scores', and is left out.",
    "bool": "The output 'mask' is bool, and is cast to int32.",
    "double": "The output 'high' is float64, and is cast to float32.",
    "sequence": "The output 'steps' is 5×N×1, with the batch on axis 1; in the graph it is N×5×1.",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", ["1:2:4", "1"])
def test_outputs_that_engines_do_not_return_so_are_changed_and_said(form, batch, save_graph, export_file):
    before, after, nodes, name = FORMS[form]
    text = NCHW.replace(before, after).replace("(d, f)", f"(d, f)\n    {nodes}")
    weights = {"two": np.array([2])} if form == "sequence" else {}
    bundle = export_file(save_graph(text, **weights), "--batch", batch)
    assert SAID[form] in export_file.text
    manifest = manifest_of(bundle)
    assert [spec.name for spec in manifest.outputs] == [name]
    assert manifest.outputs[0].shape[0] == (1 if batch == "1" else "batch")
    assert load.verify(bundle).parity.passed


@pytest.mark.parametrize(("kind", "said", "graph"), [("bool", "bool", "int32"), ("double", "float64", "float32")])
def test_inputs_that_engines_do_not_take_so_are_cast_and_said(kind, said, graph, save_graph, export_file, tmp_path):
    text = NCHW.replace("image) =>", f"image, {kind}[N,8] on) =>").replace(
        "scores = Gemm (d, f)", "g = Cast <to = 1> (on)\n    e = Mul (d, g)\n    scores = Gemm (e, f)"
    )
    random = np.random.default_rng(0)
    images = random.standard_normal((20, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", image=images, on=random.integers(0, 2, (20, 8)).astype(graph))
    bundle = export_file(save_graph(text), "--data", str(tmp_path / "samples.npz"))
    assert f"The input 'on' is {said}; in the graph it is {graph}." in export_file.text
    assert manifest_of(bundle).inputs[1].dtype == graph


ONE_ROW = ("d = Flatten (c)", "d = Reshape (c, shape)")


def test_a_file_that_takes_one_row_is_exported_at_batch_1(export_file, save_graph):
    """The batch is open in the interface, and 1 in a Reshape."""
    path = save_graph(NCHW.replace(*ONE_ROW), shape=np.array([1, 8]))
    manifest = manifest_of(export_file(path, "--batch", "1"))
    assert manifest.outputs[0].shape == (1, 5)
    assert manifest.parity.passed


@pytest.mark.parametrize("shape", [(1, 8), (1, -1)], ids=["fails at 2", "loses rows at 2"])
def test_a_file_that_takes_one_row_is_sent_to_batch_1(shape, cli, save_graph):
    result = cli("export", save_graph(NCHW.replace(*ONE_ROW), shape=np.array(shape)), "--target", "onnxruntime")
    assert result.code == 3
    assert "--batch 1" in result.text


def test_rows_that_depend_on_the_data_are_refused_by_name(cli, save_graph):
    text = NCHW.replace("float[N,5] scores", "int64[N,M] found").replace(OUTPUT, "found = NonZero (a)")
    result = cli("export", save_graph(text), "--target", "onnxruntime", "--batch", "1:2:4")
    assert result.code == 3
    assert "The output 'found' of" in result.text


FUNCTION = """
<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
agraph (float[N,8] x) => (float[N,8] y)
{
    y = own.block (x)
}
<domain: "own", opset_import: ["" : 17]>
block (a) => (b)
{
BODY
}
"""

BODIES = {
    "quantized": (
        "q, s, z = DynamicQuantizeLinear (a)\n b = DequantizeLinear (q, s, z)",
        "it computes on 8-bit codes",
    ),
    "random": ("n = RandomNormalLike (a)\n b = Add (a, n)", "its output is random"),
    "half": ("h = Constant <value = float16 {15360}> ()\n c = CastLike (a, h)\n b = CastLike (c, a)", "is FLOAT16"),
    "subgraph": (
        "m = ReduceMax <keepdims = 0> (a)\n z = Constant <value = float {0.0}> ()\n t = Greater (m, z)\n"
        " b = If (t) <then_branch = yes () => (float[N,8] u) { u = Relu (a) }, "
        "else_branch = no () => (float[N,8] v) { v = Neg (a) }>",
        "with a subgraph",
    ),
}


@pytest.mark.parametrize("body", BODIES)
def test_what_is_refused_is_found_inside_of_functions(body, cli, tmp_path):
    nodes, message = BODIES[body]
    path = tmp_path / "functions.onnx"
    onnx.save(onnx.parser.parse_model(FUNCTION.replace("BODY", nodes)), path)
    result = cli("export", path)
    assert result.code == 3
    assert message in result.text


def test_qdq_pairs_inside_of_functions_are_taken_out(tmp_path, export_file):
    body = "s = Constant <value = float {0.1}> ()\n z = Constant <value = int8 {0}> ()\n"
    body += "q = QuantizeLinear (a, s, z)\n d = DequantizeLinear (q, s, z)\n b = Relu (d)"
    path = tmp_path / "functions.onnx"
    onnx.save(onnx.parser.parse_model(FUNCTION.replace("BODY", body)), path)
    graph = onnx.load(export_file(path) / "model.onnx").graph
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in graph.node}


CONSTANT_IF = """
<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
agraph (float[N,8] x) => (float[N,8] y)
{
    y = own.block (x)
}
<domain: "own", opset_import: ["" : 17]>
block (a) => (b)
{
    c = Constant <value = bool {CONDITION}> ()
    b = If (c) <
        then_branch = yes () => (float[N,8] u) {
            one = Constant <value = float {1.0}> ()
            d = Constant <value = bool {0}> ()
            e = If (d) <then_branch = p () => (float[N,8] q) { q = Abs (a) },
                        else_branch = r () => (float[N,8] s) { s = Add (a, one) }>
            u = Relu (e)
        },
        else_branch = no () => (float[N,8] v) {
            one = Constant <value = float {2.0}> ()
            v = Mul (a, one)
        }
    >
}
"""


@pytest.mark.parametrize(("condition", "operators"), [(1, ["Add", "Relu"]), (0, ["Mul"])])
def test_an_if_on_a_constant_is_the_branch_that_it_takes(condition, operators, export_file, tmp_path):
    path = tmp_path / "branches.onnx"
    onnx.save(onnx.parser.parse_model(CONSTANT_IF.replace("CONDITION", str(condition))), path)
    bundle = export_file(path)
    assert [node.op_type for node in onnx.load(bundle / "model.onnx").graph.node] == operators
    assert manifest_of(bundle).parity.passed


def test_weights_in_fp16_are_named_with_the_way_out(cli, save_graph):
    path = save_graph(NCHW)
    proto = onnx.load(path)
    (weight,) = (one for one in proto.graph.initializer if one.name == "w")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), "half"))
    proto.graph.node.insert(0, onnx.helper.make_node("Cast", ["half"], ["w"], to=1))
    onnx.save(proto, path)
    result = cli("export", path)
    assert result.code == 3
    assert "the weight 'half' is FLOAT16" in result.text
    assert "Give the FP32 graph that it was made from" in result.text


def test_a_sequence_as_output_is_refused_by_name(cli, save_graph):
    path = save_graph(NCHW)
    proto = onnx.load(path)
    proto.graph.node.append(onnx.helper.make_node("SequenceConstruct", ["scores"], ["list"]))
    value = onnx.helper.make_tensor_sequence_value_info("list", onnx.TensorProto.FLOAT, None)
    proto.graph.output.append(value)
    onnx.save(proto, path)
    result = cli("export", path)
    assert result.code == 3
    assert "the output 'list' is a sequence, not a tensor" in result.text


def test_a_sparse_weight_is_refused_by_name(cli, save_graph):
    path = save_graph(NCHW)
    proto = onnx.load(path)
    values = onnx.helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [1], [1.0])
    indices = onnx.helper.make_tensor("at", onnx.TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [8]))
    onnx.save(proto, path)
    result = cli("export", path)
    assert result.code == 3
    assert "the weight 'sparse' is stored as a sparse tensor" in result.text


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("operator", ["Resize", "Upsample"])
def test_coordinates_of_old_files_stay_as_they_were(operator, mode, export_file, tmp_path):
    """Until opset 10 a resized pixel is read at x / scale; the default of later opsets is another."""
    text = f"""
    <ir_version: 4, opset_import: ["" : {10 if operator == "Resize" else 9}]>
    agraph (float[N,2,5,5] x) => (float[N,2,12,12] y)
    <float[4] scales = {{1.0, 1.0, 2.5, 2.5}}>
    {{ y = {operator} <mode = "{mode}"> (x, scales) }}
    """
    path = tmp_path / "old.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    manifest = manifest_of(export_file(path))
    assert manifest.parity.passed
    assert manifest.parity.outputs[0].max_relative < 1e-5
