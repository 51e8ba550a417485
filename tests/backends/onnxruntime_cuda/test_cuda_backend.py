"""Compiling, loading and refusing; the session computes on the CPU, and times are set where the choice is tested."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from cuda_doubles import THE_GPU, Gpu

from deploykit.backends import create_backend
from deploykit.backends.choice import resolve_target
from deploykit.backends.form_audit import audit_form
from deploykit.backends.gpu.driver import Driver
from deploykit.backends.onnxruntime import open_graph
from deploykit.backends.onnxruntime_cuda import backend as backends
from deploykit.backends.onnxruntime_cuda import session
from deploykit.backends.onnxruntime_cuda.backend import ENGINE_FILE, Candidate, OnnxRuntimeCuda
from deploykit.core.errors import BackendError, CheckFailed


def prefer(monkeypatch: pytest.MonkeyPatch, fastest: Callable[[Candidate], bool]) -> None:
    """Give the candidate for which `fastest` holds the shortest time."""
    monkeypatch.setattr(OnnxRuntimeCuda, "_time_candidate", lambda _self, candidate, *_: 1.0 - fastest(candidate))


def test_without_a_driver_it_is_refused_in_one_sentence_with_the_remedy() -> None:
    backend = OnnxRuntimeCuda()
    if backend.unavailable_reason() is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"onnxruntime-cuda cannot build engines here: [^.]*\.") as caught:
        backend.compile(Path("model.onnx"), Path())
    assert caught.value.remedy


def test_a_build_without_the_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "query_driver", lambda: Driver(THE_GPU, None))
    monkeypatch.setattr(session, "PROVIDER", "NoExecutionProvider")
    reason = OnnxRuntimeCuda().unavailable_reason()
    assert reason is not None
    assert "has no CUDA provider" in reason
    assert "[cuda]" in reason


def test_an_engine_is_the_graph_where_that_is_fastest(
    gpu: Gpu,  # noqa: ARG001
    convolution: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefer(monkeypatch, lambda candidate: candidate.graph == convolution and "prefer_nhwc=1" in candidate.settings)
    engine = OnnxRuntimeCuda().compile(convolution, tmp_path)
    assert engine.file.path == "model.onnx"
    assert engine.build is not None
    assert engine.build.settings == (
        "use_tf32=0",
        "cudnn_conv_algo_search=EXHAUSTIVE",
        "prefer_nhwc=1",
        "disabled_optimizers=WeightBiasQuantization",
    )
    assert (engine.build.gpu, engine.build.compute_capabilities) == ("NVIDIA Fake", (87,))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_an_engine_is_the_form_where_that_is_fastest(
    gpu: Gpu,  # noqa: ARG001
    convolution: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefer(monkeypatch, lambda candidate: candidate.settings[-1].endswith("ConvAddFusion"))
    backend = OnnxRuntimeCuda()
    engine = backend.compile(convolution, tmp_path)
    assert engine.file.path == ENGINE_FILE
    x = {"x": np.random.default_rng(2).standard_normal((3, 3, 8, 8)).astype(np.float32)}
    expected = open_graph(convolution).run(x)["y"]
    np.testing.assert_allclose(backend.load(engine, tmp_path).run(x)["y"], expected, rtol=1e-5)


def test_the_audit_of_a_form_does_not_depend_on_which_candidate_is_faster_now(
    gpu: Gpu,  # noqa: ARG001
    convolution: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefer(monkeypatch, lambda candidate: candidate.settings[-1].endswith("ConvAddFusion"))
    backend = OnnxRuntimeCuda()
    engine = backend.compile(convolution, tmp_path)
    prefer(monkeypatch, lambda candidate: candidate.graph.name == "model.onnx")
    assert audit_form(backend, convolution, tmp_path / engine.file.path) == ()


def test_the_time_of_a_candidate_is_that_of_its_calls_on_the_gpu(gpu: Gpu, convolution: Path, tmp_path: Path) -> None:
    OnnxRuntimeCuda().compile(convolution, tmp_path)
    opened = [call[1:] for call in gpu.calls if call[0] == "open"]
    assert [(graph.name, settings[2:]) for graph, settings in opened] == [
        ("model.onnx", ("prefer_nhwc=0", "disabled_optimizers=WeightBiasQuantization")),
        ("model.onnx", ("prefer_nhwc=1", "disabled_optimizers=WeightBiasQuantization")),
        (ENGINE_FILE, ("prefer_nhwc=0", "disabled_optimizers=WeightBiasQuantization,ConvAddFusion")),
        (ENGINE_FILE, ("prefer_nhwc=1", "disabled_optimizers=WeightBiasQuantization,ConvAddFusion")),
    ]


def test_the_executed_precision_of_every_product_is_read(
    gpu: Gpu,  # noqa: ARG001
    convolution: Path,
    tmp_path: Path,
) -> None:
    backend = OnnxRuntimeCuda()
    engine = backend.compile(convolution, tmp_path)
    executed = backend.read_executed_precision(engine, tmp_path)
    assert executed.evidence == "session profile"
    assert executed.arithmetic == {"conv": "fp32", "fc": "fp32"}


def test_layers_name_the_provider_that_ran_them(gpu: Gpu, convolution: Path, tmp_path: Path) -> None:  # noqa: ARG001
    backend = OnnxRuntimeCuda()
    layers = backend.read_layers(backend.compile(convolution, tmp_path), tmp_path, 0)
    assert {layer.tactic for layer in layers} == {"CPUExecutionProvider"}


def test_a_graph_with_quantized_tensors_says_that_nothing_of_it_is_int8(
    gpu: Gpu,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[batch,3] x) => (float[batch,3] y) <float step = {0.1}, int8 zero = {0}> {
            q = QuantizeLinear (x, step, zero)
            y = DequantizeLinear (q, step, zero)
        }""")
    onnx.save(model, tmp_path / "model.onnx")
    engine = OnnxRuntimeCuda().compile(tmp_path / "model.onnx", tmp_path)
    assert "nothing of it is INT8" in engine.caveats[0]


def test_auto_takes_it_where_there_is_no_tensorrt_and_not_for_int8(
    gpu: Gpu,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deploykit.backends.choice.is_installed", lambda name: not name.startswith("tensorrt"))
    assert resolve_target("auto", "fp16") == "onnxruntime-cuda"
    assert resolve_target("auto", "int8") == "openvino"


class TestLoading:
    """What is compared with the record before anything is loaded."""

    @pytest.fixture
    def engine(self, gpu: Gpu, convolution: Path, tmp_path: Path):  # noqa: ARG002
        return OnnxRuntimeCuda().compile(convolution, tmp_path)

    def test_an_engine_of_another_version_is_refused(self, engine, tmp_path: Path) -> None:
        other = msgspec.structs.replace(engine, version="1.2.3")
        with pytest.raises(BackendError, match=r"was built for onnxruntime-cuda 1\.2\.3; this machine has"):
            OnnxRuntimeCuda().load(other, tmp_path)

    def test_an_engine_of_another_gpu_is_refused(self, engine, tmp_path: Path) -> None:
        build = msgspec.structs.replace(engine.build, compute_capabilities=(90,))
        with pytest.raises(BackendError, match=r"was built for compute capability 9\.0; this machine's NVIDIA Fake"):
            OnnxRuntimeCuda().load(msgspec.structs.replace(engine, build=build), tmp_path)

    def test_a_damaged_file_is_refused(self, engine, tmp_path: Path) -> None:
        (tmp_path / engine.file.path).write_bytes(b"damaged")
        with pytest.raises(CheckFailed):
            OnnxRuntimeCuda().load(engine, tmp_path)

    def test_without_a_gpu_it_cannot_run(self, engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backends, "query_driver", lambda: Driver(None, "no NVIDIA driver is installed"))
        with pytest.raises(BackendError, match="cannot run here: no NVIDIA driver is installed"):
            create_backend("onnxruntime-cuda").load(engine, tmp_path)
