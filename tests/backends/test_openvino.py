"""OpenVINO as a backend: its interface, its errors, no output to the terminal, and how it executes FP16 and BF16."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import ml_dtypes
import numpy as np
import onnx
import pytest

from deploykit.backends.onnxruntime import OnnxRuntime
from deploykit.backends.openvino import BF16_CAVEAT, FP16_CAVEAT, OpenVino
from deploykit.core.errors import BackendError, InputError
from deploykit.core.extras import install_remedy
from deploykit.core.values import TensorSpec

DOUBLING = """
<ir_version: 9, opset_import: ["" : 20]>
doubling (float[batch, 2] x) => (float[batch, 2] y) { y = Add (x, x) }
"""

PIXELS = """
<ir_version: 9, opset_import: ["" : 20]>
pixels (uint8[batch, 4, 5, 3] pixels, float[batch, 2] x) => (uint8[batch, 4, 5, 3] same, float16[batch, 2] half) {
    same = Identity (pixels)
    half = Cast <to = 10> (x)
}
"""

THROUGH = """
<ir_version: 10, opset_import: ["" : 22]>
through (float[batch, 2] x) => (float[batch, 2] y) {
    narrow = Cast <to = NUMBER> (x)
    size = Abs (narrow)
    y = Cast <to = 1> (size)
}
"""
FLOAT16, BFLOAT16 = THROUGH.replace("NUMBER", "10"), THROUGH.replace("NUMBER", "16")

SQUARE = """
<ir_version: 9, opset_import: ["" : 20]>
square (float[batch, 2] x) => (float[batch, 2] y) {
    half = Cast <to = 10> (x)
    square = Mul (half, half)
    y = Cast <to = 1> (square)
}
"""

FLOAT16_WEIGHT = """
<ir_version: 9, opset_import: ["" : 20]>
float16_weight (float[batch, 2] x) => (float[batch, 2] y) <float16[2, 2] weight> {
    half = Cast <to = 10> (x)
    part = MatMul (half, weight)
    y = Cast <to = 1> (part)
}
"""

X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


@pytest.fixture
def open_runner(write_graph, tmp_path):
    def load(text):
        return OpenVino().load(OpenVino().compile(write_graph(text), tmp_path), tmp_path)

    return load


# ── Interface ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_runner_has_names_types_shapes_and_layouts(open_runner):
    runner = open_runner(PIXELS)
    assert runner.inputs == (
        TensorSpec("pixels", "uint8", ("batch", 4, 5, 3), "NHWC"),
        TensorSpec("x", "float32", ("batch", 2), "NC"),
    )
    assert runner.outputs == (
        TensorSpec("same", "uint8", ("batch", 4, 5, 3), "NHWC"),
        TensorSpec("half", "float16", ("batch", 2), "NC"),
    )


@pytest.mark.parametrize("text", [DOUBLING, PIXELS, DOUBLING.replace("batch", "rows"), DOUBLING.replace("batch", "4")])
def test_the_interface_equals_that_of_onnxruntime(write_graph, tmp_path, text):
    graph = write_graph(text)
    ours, other = OpenVino().compile(graph, tmp_path), OnnxRuntime().compile(graph, tmp_path)
    assert (ours.inputs, ours.outputs) == (other.inputs, other.outputs)


def test_an_engine_is_the_graph_with_its_digest(write_graph, tmp_path):
    graph = write_graph(DOUBLING)
    engine = OpenVino().compile(graph, tmp_path)
    assert (engine.backend, engine.version) == ("openvino", OpenVino().version)
    assert (engine.file.path, engine.file.bytes) == ("model.onnx", graph.stat().st_size)
    assert list(tmp_path.iterdir()) == [graph]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_inference_works_at_any_batch_size(open_runner, batch):
    assert np.array_equal(open_runner(DOUBLING).run({"x": X[:batch]})["y"], 2 * X[:batch])


def test_outputs_are_returned_by_name_with_their_declared_types(open_runner):
    pixels = np.arange(60, dtype=np.uint8).reshape(1, 4, 5, 3)
    outputs = open_runner(PIXELS).run({"x": X[:1], "pixels": pixels})
    assert np.array_equal(outputs["same"], pixels)
    assert outputs["half"].dtype == np.float16


def test_outputs_are_owned_by_the_caller(open_runner):
    runner = open_runner(DOUBLING)
    first = runner.run({"x": X})["y"]
    runner.run({"x": 10 * X})
    assert np.array_equal(first, 2 * X)
    assert first.flags.writeable


@pytest.mark.parametrize(
    "make", [np.asfortranarray, lambda x: x[::-1][::-1], lambda x: np.frombuffer(x).view("f4").reshape(3, 2)]
)
def test_inputs_may_have_any_strides(open_runner, make):
    assert np.array_equal(open_runner(DOUBLING).run({"x": make(X)})["y"], 2 * X)


def test_a_runner_is_thread_safe(fp32_bundle):
    runner = OpenVino().load(OpenVino().compile(fp32_bundle / "model.onnx", fp32_bundle), fp32_bundle)
    inputs = [np.random.default_rng(seed).random((1, 3, 32, 32), np.float32) for seed in range(8)]
    alone = [runner.run({"input": array})["logits"] for array in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda array: runner.run({"input": array})["logits"], inputs * 4))
    assert all(np.array_equal(one, other) for one, other in zip(alone * 4, together, strict=True))


@pytest.mark.parametrize("opset", [OpenVino.opsets[0], 13, 17, 20, 23, OpenVino.opsets[-1]])
def test_the_supported_opsets_load(open_runner, opset):
    runner = open_runner(DOUBLING.replace('"" : 20', f'"" : {opset}').replace("ir_version: 9", "ir_version: 8"))
    assert np.array_equal(runner.run({"x": X})["y"], 2 * X)


def test_without_the_package_the_version_is_none(monkeypatch):
    def version(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(BackendError, match=re.escape(f"OpenVINO is not installed. {install_remedy('openvino')}")):
        _ = OpenVino().version


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": X.astype(np.float64)}, "x is float64, not float32"),
        ({"x": X.astype(np.float16)}, "x is float16, not float32"),
        ({"x": X[:, :1]}, "x is 3×1, not batch×2"),
        ({"x": X[0]}, "x is 2, not batch×2"),
        ({"z": X}, "the graph has no input 'z'"),
        ({}, "the input 'x' is missing"),
        ({"x": X, "z": X}, "the graph has no input 'z'"),
        ({"x": "a word"}, "x is a str, not an array"),
        ({"x": None}, "x is a NoneType, not an array"),
    ],
    ids=["doubles", "halves", "a column less", "no batch", "another name", "none", "one more", "a word", "nothing"],
)
def test_mismatched_inputs_are_refused_and_never_converted(open_runner, arrays, problem):
    with pytest.raises(InputError, match=f"^OpenVINO rejects these inputs: {problem}. Compare their names"):
        open_runner(DOUBLING).run(arrays)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x0a"], ids=["empty", "junk", "a version and no graph"])
def test_a_file_that_is_not_a_graph_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"OpenVINO cannot load model\.onnx: it [^\n]+\. Choose another"):
        OpenVino().compile(tmp_path / "model.onnx", tmp_path)


def test_a_truncated_graph_is_rejected(write_graph, tmp_path):
    path = write_graph(DOUBLING)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="cannot load"):
        OpenVino().compile(path, tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot load nowhere\.onnx: No such file"):
        OpenVino().compile(tmp_path / "nowhere.onnx", tmp_path)


def test_images_too_small_for_the_network_are_refused(tmp_path):
    pool = "MaxPool <kernel_shape = [3, 3], ceil_mode = 1, strides = [2, 2]> (input)"
    text = '<ir_version: 9, opset_import: ["": 20]> g (float[N,3,2,2] input) => (float[N,3,1,1] y) { y = ' + pool + "}"
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"size \(dim: 3\) larger than the data [^\n]+\. Choose another --target"):
        OpenVino().compile(tmp_path / "model.onnx", tmp_path)


def test_an_unsupported_operator_is_refused_in_one_line(write_graph, tmp_path):
    model = onnx.load(write_graph(DOUBLING))
    model.graph.node[0].op_type = "Magic"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"model\.onnx: [^\n]+ operations: Magic[^\n]*\. Choose "):
        OpenVino().compile(tmp_path / "model.onnx", tmp_path)


def test_inputs_of_a_type_that_is_not_served_are_refused(write_graph, tmp_path):
    with pytest.raises(InputError, match="The graph's tensor x has the unsupported type double"):
        OpenVino().compile(write_graph(DOUBLING.replace("float", "double")), tmp_path)


def test_a_failure_while_computing_is_a_backend_error(open_runner, monkeypatch):
    class Compiled:
        def create_infer_request(self):
            return self

        def infer(self, *_, **__):
            raise RuntimeError("Exception from src/x.cpp:1:\nno memory left.\n\n")

    runner = open_runner(DOUBLING)
    monkeypatch.setattr(runner, "_compiled", Compiled())
    with pytest.raises(BackendError, match="OpenVINO failed while computing: no memory left"):
        runner.run({"x": X})


# ── Silence ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_written_to_the_terminal(open_runner, tmp_path, capfd):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(InputError):
        OpenVino().compile(tmp_path / "junk.onnx", tmp_path)
    open_runner(DOUBLING).run({"x": X})
    assert tuple(capfd.readouterr()) == ("", "")


TELLTALE = """
import sys
from deploykit.backends.openvino import _import_openvino
_import_openvino().Core()
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


def test_openvino_telemetry_is_never_imported():
    output = subprocess.run([sys.executable, "-c", TELLTALE], capture_output=True, text=True, check=True).stdout
    assert output == "[]\n"


# ── FP16 and BF16 ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        (DOUBLING, ()),
        (FLOAT16, (FP16_CAVEAT,)),
        (FLOAT16_WEIGHT, (FP16_CAVEAT,)),
        (BFLOAT16, (BF16_CAVEAT,)),
    ],
    ids=["fp32", "fp16", "fp16 weight", "bf16"],
)
def test_an_engine_of_an_fp16_or_bf16_graph_has_its_caveat(write_graph, tmp_path, text, statements):
    assert OpenVino().compile(write_graph(text), tmp_path).caveats == statements


def test_caveat_float16_activations_are_not_rounded(open_runner):
    between = np.array([[1 + 2**-12, 1 / 3]], np.float32)  # no float16 is either of these
    assert np.array_equal(open_runner(FLOAT16).run({"x": between})["y"], between)


def test_caveat_float16_activations_do_not_overflow(open_runner):
    large = np.array([[300, 60_000]], np.float32)  # 90,000 is infinite in float16
    assert np.isfinite(open_runner(SQUARE).run({"x": large})["y"]).all()


def test_caveat_float16_weights_are_those_of_the_graph(open_runner, tmp_path):
    runner = open_runner(FLOAT16_WEIGHT)
    weight = onnx.numpy_helper.to_array(onnx.load(tmp_path / "model.onnx").graph.initializer[0])
    assert np.array_equal(runner.run({"x": np.eye(2, dtype=np.float32)})["y"], weight.astype(np.float32))


def test_caveat_a_cast_to_bfloat16_truncates(open_runner):
    between = np.array([[1 + 3 * 2**-9, 1 + 2**-7]], np.float32)  # the first is nearer to the second than to 1
    assert np.array_equal(open_runner(BFLOAT16).run({"x": between})["y"], np.array([[1, 1 + 2**-7]], np.float32))


CONVOLUTION = """
<ir_version: 10, opset_import: ["" : 22]>
convolution (float[batch, 8, 6, 6] x) => (float[batch, 8, 6, 6] y) <bfloat16[8, 8, 3, 3] weight> {
    narrow = Cast <to = 16> (x)
    [layer] product = Conv <pads = [1, 1, 1, 1]> (narrow, weight)
    y = Cast <to = 1> (product)
}
"""


def test_caveat_bfloat16_is_summed_in_float32_and_rounded_where_the_processor_supports_it(open_runner, tmp_path):
    torch = pytest.importorskip("torch")
    runner = open_runner(CONVOLUTION)
    engine = OpenVino().compile(tmp_path / "model.onnx", tmp_path)
    if OpenVino().read_executed_precision(engine, tmp_path).arithmetic["layer"] != "bf16":
        pytest.skip("this processor has no BF16 instructions")
    x = np.random.default_rng(1).standard_normal((2, 8, 6, 6)).astype(ml_dtypes.bfloat16).astype(np.float32)
    weight = onnx.numpy_helper.to_array(onnx.load(tmp_path / "model.onnx").graph.initializer[0]).astype(np.float32)
    exact = torch.nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=1)
    rounded = exact.numpy().astype(ml_dtypes.bfloat16).astype(np.float32)
    different = runner.run({"x": x})["y"] != rounded
    assert different.mean() < 0.01  # FP32 sums in another order fall to the other side of a tie now and then
