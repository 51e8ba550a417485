"""ONNX Runtime as a backend: its interface, its errors, and how its CPU provider executes FP16."""

import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest

from deploykit.backends.onnxruntime import FP16_CAVEAT, OnnxRuntime, open_graph
from deploykit.core.errors import InputError
from deploykit.core.values import TensorSpec

FLOAT32 = """
<ir_version: 9, opset_import: ["" : 20]>
float32 (float[batch, 2] x) => (float[batch, 2] y) { y = Add (x, x) }
"""

FLOAT16_INSIDE = """
<ir_version: 9, opset_import: ["" : 20]>
float16_inside (float[batch, 2] x) => (float[batch, 2] y) <float16[batch, 2] half> {
    half = Cast <to = 10> (x)
    size = Abs (half)
    y = Cast <to = 1> (size)
}
"""

BEYOND_FLOAT16 = """
<ir_version: 9, opset_import: ["" : 20]>
beyond_float16 (float[batch, 2] x) => (float[batch, 2] y) {
    half = Cast <to = 10> (x)
    square = Mul (half, half)
    y = Cast <to = 1> (square)
}
"""

FLOAT16_WEIGHTS = """
<ir_version: 9, opset_import: ["" : 20]>
float16_weights (float[batch, 2] x) => (float[batch, 2] y) <float16 two = {2}> {
    half = Cast <to = 10> (x)
    twice = Mul (half, two)
    y = Cast <to = 1> (twice)
}
"""

PIXELS = """
<ir_version: 9, opset_import: ["" : 20]>
pixels (uint8[batch, 4, 5, 3] pixels, float[batch, 2] x) => (uint8[batch, 4, 5, 3] same, float16[batch, 2] half) {
    same = Identity (pixels)
    half = Cast <to = 10> (x)
}
"""

DOUBLES = """
<ir_version: 9, opset_import: ["" : 20]>
doubles (double[batch, 2] x) => (double[batch, 2] y) { y = Add (x, x) }
"""


@pytest.fixture
def graph(tmp_path):
    """An ONNX file from its text."""

    def write(text):
        model = onnx.parser.parse_model(text)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


@pytest.fixture
def open_runner(graph):
    return lambda text: open_graph(graph(text))


X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


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


def test_the_interface_of_a_bundle_is_that_of_its_manifest(fp16_bundle):
    from deploykit.bundle.manifest import read_manifest

    runner = open_graph(fp16_bundle / "model.onnx")
    assert (runner.inputs, runner.outputs) == (read_manifest(fp16_bundle).inputs, read_manifest(fp16_bundle).outputs)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_inference_works_at_any_batch_size(open_runner, batch):
    assert np.array_equal(open_runner(FLOAT32).run({"x": X[:batch]})["y"], 2 * X[:batch])


def test_outputs_are_returned_by_name_with_their_declared_types(open_runner):
    pixels = np.zeros((1, 4, 5, 3), np.uint8)
    outputs = open_runner(PIXELS).run({"x": X[:1], "pixels": pixels})
    assert {name: array.dtype for name, array in outputs.items()} == {"same": np.uint8, "half": np.float16}


def test_an_engine_is_the_graph_with_its_digest(graph, tmp_path):
    path = graph(FLOAT32)
    before = path.read_bytes()
    engine = OnnxRuntime().compile(path, tmp_path)
    assert (engine.backend, engine.version) == ("onnxruntime", OnnxRuntime().version)
    assert (engine.file.path, engine.file.bytes) == ("model.onnx", len(before))
    assert list(tmp_path.iterdir()) == [path]
    assert np.array_equal(OnnxRuntime().load(engine, tmp_path).run({"x": X})["y"], 2 * X)


@pytest.mark.parametrize("opset", [OnnxRuntime.opsets[0], 17, 20, 23])
def test_the_supported_opsets_load(graph, opset):
    assert opset in OnnxRuntime.opsets
    open_graph(graph(FLOAT32.replace('"" : 20', f'"" : {opset}').replace("ir_version: 9", "ir_version: 8")))


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": X.astype(np.float64)},
        {"x": X.astype(np.float16)},
        {"x": X[:, :1]},
        {"x": X[0]},
        {"z": X},
        {},
        {"x": X, "z": X},
        {"x": "a word"},
        {"x": None},
    ],
    ids=["doubles", "halves", "a column less", "no batch", "another name", "none", "one more", "a word", "nothing"],
)
def test_mismatched_inputs_are_refused_in_one_sentence(open_runner, arrays):
    with pytest.raises(InputError, match=r"^ONNX Runtime rejects these inputs: [^\n]+[^.]\. Compare their names"):
        open_runner(FLOAT32).run(arrays)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x0a"], ids=["empty", "junk", "a version and no graph"])
def test_a_file_that_is_not_a_graph_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"ONNX Runtime cannot load model\.onnx: [^\n]+\. The file may be damaged"):
        open_graph(tmp_path / "model.onnx")


def test_a_truncated_graph_is_rejected(graph):
    path = graph(FLOAT32)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="cannot load"):
        open_graph(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot load nowhere\.onnx"):
        open_graph(tmp_path / "nowhere.onnx")


def test_an_unsupported_operator_is_refused(graph):
    text = FLOAT32.replace('["" : 20]', '["" : 20, "com.example" : 1]').replace("Add (x, x)", "com.example.Magic (x)")
    model = onnx.parser.parse_model(text)
    path = graph(FLOAT32)
    onnx.save(model, path)
    with pytest.raises(InputError, match="Magic"):
        open_graph(path)


def test_inputs_of_a_type_that_is_not_served_are_refused(open_runner):
    with pytest.raises(InputError, match="The graph's tensor x has the unsupported type float64"):
        open_runner(DOUBLES)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_a_failure_unrelated_to_the_inputs_is_not_an_input_error(open_runner, monkeypatch, error):
    class Session:
        def run(self, *_):
            raise error

    runner = open_runner(FLOAT32)
    monkeypatch.setattr(runner, "_session", Session())
    with pytest.raises(type(error)):
        runner.run({"x": X})


def test_nothing_is_written_to_the_terminal(open_runner, capfd):
    with pytest.raises(InputError):
        open_runner(FLOAT32).run({"x": X[:, :1]})
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_runner_is_thread_safe(fp32_bundle):
    runner = open_graph(fp32_bundle / "model.onnx")
    inputs = [np.random.default_rng(seed).random((1, 3, 32, 32), np.float32) for seed in range(8)]
    alone = [runner.run({"input": array})["logits"] for array in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda array: runner.run({"input": array})["logits"], inputs * 4))
    assert all(np.array_equal(one, other) for one, other in zip(alone * 4, together, strict=True))


# ── FP16 on a CPU ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "statements"),
    [(FLOAT32, ()), (FLOAT16_INSIDE, (FP16_CAVEAT,)), (FLOAT16_WEIGHTS, (FP16_CAVEAT,))],
    ids=["fp32", "fp16", "fp16 weights"],
)
def test_an_engine_of_an_fp16_graph_has_the_fp16_caveat(graph, tmp_path, text, statements):
    assert OnnxRuntime().compile(graph(text), tmp_path).caveats == statements


def test_an_fp16_bundle_contains_the_caveat_and_an_fp32_bundle_does_not(fp16_bundle, fp32_bundle):
    from deploykit.bundle.manifest import read_manifest

    assert FP16_CAVEAT in read_manifest(fp16_bundle).parity.caveats
    assert FP16_CAVEAT not in read_manifest(fp32_bundle).parity.caveats


on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere ONNX Runtime has FP16 kernels")


@on_x86
def test_caveat_activations_are_not_rounded(open_runner):
    between = np.array([[1 + 2**-12, 1 / 3]], np.float32)  # no float16 is either of these
    assert np.array_equal(open_runner(FLOAT16_INSIDE).run({"x": between})["y"], between)


@on_x86
def test_caveat_activations_do_not_overflow(open_runner):
    large = np.array([[300, 60_000]], np.float32)  # 90,000 is infinite in float16
    assert np.isfinite(open_runner(BEYOND_FLOAT16).run({"x": large})["y"]).all()


@on_x86
def test_caveat_all_arithmetic_is_in_float32(fp16_bundle, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(fp16_bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "optimized.onnx"))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    computing = [node for node in model.graph.node if node.op_type in {"Conv", "Relu", "MaxPool", "AveragePool"}]
    assert len(computing) > 18
    assert {types[node.output[0]] for node in computing} == {onnx.TensorProto.FLOAT}
    assert {types.get(node.input[0], onnx.TensorProto.FLOAT) for node in computing} == {onnx.TensorProto.FLOAT}


@on_x86
def test_caveat_weights_are_rounded(fp16_bundle):
    weights = [tensor for tensor in onnx.load(fp16_bundle / "model.onnx").graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
