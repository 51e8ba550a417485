"""Somebody else's ONNX file, from the command line to a bundle: interface, preprocessing, verdict."""

import numpy as np
import onnx
import pytest
from PIL import Image

from deploykit.bundle import load
from deploykit.bundle import manifest as manifests

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
TOLD = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
INT8 = ("--int8", "--calibration", "synthetic", "--calibration-size", "100")


def fixed(text, size):
    return text.replace("[N,", f"[{size},")


def manifest_of(bundle):
    return manifests.read(bundle)


# ── Interface ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_and_sizes_stay(taken_in):
    manifest = manifest_of(taken_in(NCHW))
    assert [(spec.name, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)] == [
        ("image", ("batch", 3, 16, 16)),
        ("scores", ("batch", 5)),
    ]


def test_a_graph_with_channels_last_keeps_them_last(taken_in):
    manifest = manifest_of(taken_in(NHWC, *TOLD))
    assert manifest.inputs[0].shape == ("batch", 16, 16, 3)
    assert manifest.inputs[0].layout == manifest.model.preprocessing.layout == "NHWC"


def test_several_inputs_and_outputs_stay(taken_in):
    bundle = taken_in(TWO)
    manifest = manifest_of(bundle)
    assert manifest.model.inputs == ("x", "z")
    assert [output.name for output in manifest.parity.outputs] == ["scores", "echo"]
    assert load.verify(bundle).parity.passed


def test_names_that_no_file_can_have_are_served(taken_in):
    bundle = taken_in(NCHW.replace("image", '"gpu_0/data:0"').replace("scores", '"out/prob"'))
    assert manifest_of(bundle).inputs[0].name == "gpu_0/data:0"
    assert load.verify(bundle).parity.passed


def test_a_fixed_batch_is_the_bundles(taken_in):
    batch = manifest_of(taken_in(fixed(NCHW, 2))).batch
    assert (batch.minimum, batch.maximum) == (2, 2)


def test_a_fixed_batch_is_freed_where_the_user_asks_for_it(taken_in):
    batch = manifest_of(taken_in(fixed(NCHW, 1), "--batch", "1:2:4")).batch
    assert (batch.minimum, batch.maximum) == (1, 4)


def test_a_batch_that_is_baked_in_is_refused(cli, saved):
    shape = np.array([1, 8])
    text = fixed(NCHW, 1).replace("d = Flatten (c)", "d = Reshape (c, shape)")
    result = cli("export", saved(text, shape=shape), "--batch", "1:2:4", "--target", "onnxruntime")
    assert result.code in (1, 3)
    assert "baked in" in result.text


def test_open_sizes_are_asked_for(cli, saved):
    result = cli("export", saved(NCHW.replace("16,16", "H,W")))
    assert result.code == 3
    assert "leaves sizes of its input 'image' open: N×3×?×?" in result.text


def test_open_sizes_may_be_said(taken_in):
    manifest = manifest_of(taken_in(NCHW.replace("16,16", "H,W"), "--input-size", "16x12"))
    assert manifest.inputs[0].shape == ("batch", 3, 16, 12)


def test_sizes_that_are_not_the_files_are_refused(cli, saved):
    result = cli("export", saved(NCHW), "--input", "image=3x8x8:float32")
    assert result.code == 2
    assert "'image' of" in result.text
    assert "is N×3×16×16 float32, and N×3×8×8 float32 was said" in result.text


# ── What the file says ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_graph_that_ends_in_softmax_gives_probabilities(taken_in):
    text = NCHW.replace("scores = Gemm (d, f)", "g = Gemm (d, f)\n scores = Softmax (g)")
    assert manifest_of(taken_in(text, *TOLD)).model.head == "probabilities"


@pytest.mark.parametrize(("words", "head"), [(TOLD, "logits"), ((), "tensors")], ids=["an image", "who knows"])
def test_scores_of_an_image_are_logits(taken_in, words, head):
    assert manifest_of(taken_in(NCHW, *words)).model.head == head


def test_the_oracle_is_the_file_itself(taken_in):
    assert manifest_of(taken_in(NCHW)).parity.oracle.startswith("the original file in ONNX Runtime ")


def test_an_old_opset_is_raised(taken_in):
    text = NCHW.replace("Gemm (d, f)", "Gemm (d, f, bias)")
    manifest = manifest_of(taken_in(text, opset=11, bias=np.ones(5, np.float32)))
    assert manifest.graph.opset == 20
    assert manifest.model.paper == "written by tf2onnx, opset 11"


def test_weights_beside_the_file_are_read(taken_in, tmp_path):
    taken_in(NCHW)
    model = onnx.load(tmp_path / "net.onnx")
    location = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, tmp_path / "net.onnx", **location)
    from deploykit.export.networks.onnx_source import open_source

    first = open_source(str(tmp_path / "net.onnx")).sha256
    (tmp_path / "weights.bin").write_bytes(bytes((tmp_path / "weights.bin").stat().st_size))
    (tmp_path / "net.onnx").touch()
    assert open_source(str(tmp_path / "net.onnx")).sha256 != first


# ── Preprocessing ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_guessed_of_images(taken_in):
    manifest = manifest_of(taken_in(NCHW))
    assert manifest.model.preprocessing is None
    assert manifest.parity.data.name == "normal noise"


def test_int8_of_images_wants_to_know_how_they_become_inputs(cli, saved):
    result = cli("export", saved(NCHW), *INT8, "--target", "onnxruntime")
    assert result.code == 2
    assert "how pixels become its inputs is not said" in result.text


@pytest.mark.parametrize("text", [NCHW, NHWC], ids=["NCHW", "NHWC"])
def test_int8_with_what_the_user_told(taken_in, text):
    manifest = manifest_of(taken_in(text, *INT8, *TOLD))
    assert manifest.parity.passed
    assert manifest.receipt.shares["int8"] == 1


def test_int8_of_inputs_as_they_are(taken_in, tmp_path):
    for name, seed in (("some", 1), ("others", 2)):
        images = np.random.default_rng(seed).standard_normal((120, 3, 16, 16)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", image=images)
    words = ("--int8", "--calibration", tmp_path / "some.npz", "--data", tmp_path / "others.npz")
    manifest = manifest_of(taken_in(NCHW, *map(str, words)))
    assert manifest.calibration.data.name == "some.npz"
    assert manifest.parity.passed


def test_a_file_may_tell_it(taken_in, tmp_path):
    (tmp_path / "image.toml").write_text("resize = 20\nscale = 1.0\nmean = [104, 117, 123]\nchannels = 'bgr'\n")
    found = manifest_of(taken_in(NCHW, "--preprocessing", str(tmp_path / "image.toml"))).model.preprocessing
    assert (found.resize, found.height, found.scale, found.mean, found.std, found.channels) == (
        20, 16, 1.0, (104, 117, 123), (1, 1, 1), "bgr",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("means = [1, 2, 3]", "unknown field `means`"),
        ("mean = 'grey'", "at `$.mean`"),
        ("mean = [", "does not say how images become inputs"),
    ],
)
def test_a_file_that_tells_something_else_is_refused(cli, saved, tmp_path, text, said):
    (tmp_path / "image.toml").write_text(text)
    result = cli("export", saved(NCHW), "--preprocessing", tmp_path / "image.toml")
    assert result.code == 3
    assert said in result.text


def test_images_run_through_a_bundle_that_was_told(taken_in, cli, tmp_path):
    Image.fromarray(np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)).save(tmp_path / "a.png")
    result = cli("run", taken_in(NHWC, *TOLD), tmp_path / "a.png")
    assert result.code == 0
    assert "class " in result.text


def test_classes_that_keep_a_height_and_width_of_one_are_told_apart(taken_in, tmp_path):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    text = NCHW.replace("float[N,5] scores", "float[N,8,1,1] scores").replace("c = Global", "scores = Global")
    text = text.replace("    d = Flatten (c)\n    scores = Gemm (d, f)\n", "")
    bundle = taken_in(text, *TOLD)
    (found,) = load.predict(bundle, [tmp_path / "a.png"], 8)
    assert sorted(found.classes) == list(range(8))
    assert list(found.scores) == sorted(found.scores, reverse=True)


def test_images_are_refused_by_one_that_was_not(taken_in, cli, tmp_path):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    result = cli("run", taken_in(NCHW, "--head", "logits"), tmp_path / "a.png")
    assert result.code == 2
    assert "how images become inputs of net was not said" in result.text


# ── Refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--weights", "random"), "holds its weights itself"),
        (("--arch", "width=3"), "holds its weights itself"),
        (("--exporter", "dynamo"), "is exported already"),
        (("--preprocess", "graph"), "keeps the inputs that it has"),
        (("--head", "embedding"), "keeps its outputs"),
        (("--input", "picture=3x16x16:float32"), "has no input 'picture'"),
    ],
)
def test_what_makes_no_sense_for_a_file_is_refused(cli, saved, words, said):
    result = cli("export", saved(NCHW), *words)
    assert result.code == 2
    assert said in result.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NCHW.replace("Relu (a)", "com.acme.Swoosh (a)"), "none of ONNX's own operators"),
        (NCHW.replace("Relu (a)", "RandomNormalLike (a)"), "drawn by chance"),
        (NCHW.replace("float[N,3,16,16]", "float16[N,3,16,16]"), "the input 'image' is float16"),
        (NCHW.replace("b = Relu (a)", "q = QuantizeLinear (a, s)\n b = DequantizeLinear (q, s)"), "quantized already"),
    ],
    ids=["foreign", "chance", "half", "quantized"],
)
def test_graphs_that_cannot_be_taken_in_are_refused_with_the_reason(cli, saved, text, said):
    result = cli("export", saved(text, s=np.float32(0.1)))
    assert result.code == 3
    assert said in result.text


def test_a_file_that_is_no_graph_is_refused(cli, tmp_path):
    (tmp_path / "net.onnx").write_text("no graph")
    result = cli("export", tmp_path / "net.onnx")
    assert result.code == 3
    assert "cannot be read as ONNX" in result.text


def test_a_file_that_is_not_there_is_refused(cli):
    result = cli("export", "gone.onnx")
    assert result.code == 3
    assert "there is no file 'gone.onnx'" in result.text


def test_a_folder_is_said_to_be_one(cli, tmp_path):
    (tmp_path / "net.onnx").mkdir()
    result = cli("export", tmp_path / "net.onnx")
    assert result.code == 3
    assert "is a folder" in result.text


def test_a_checkpoint_in_the_place_of_a_network_is_told_where_it_goes(cli, tmp_path):
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
def test_numbers_that_no_pixel_can_be_computed_with_are_refused(cli, saved, tmp_path, said, message):
    (tmp_path / "image.toml").write_text(said)
    result = cli("export", saved(NCHW), "--preprocessing", tmp_path / "image.toml")
    assert result.code == 2
    assert message in result.text


def test_an_input_that_is_said_twice_is_refused(cli, saved):
    result = cli("export", saved(NCHW), *("--input", "x=3x8x8:float32") * 2)
    assert result.code == 2
    assert "the input 'x' is said more than once" in result.text
