"""FP32 beside every engine of lower precision, in the manifest of an export."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from test_export_workflow import FP16, FP32, RecordedProgress

from deploykit.bundle import manifest as manifests
from deploykit.core.errors import InputError
from deploykit.core.values import Interval
from deploykit.evaluate.latency.fp32_beside import GPU_BLOCKS, TimedPair
from deploykit.workflows import export as pipeline
from deploykit.workflows import fp32_beside
from deploykit.workflows.stages import PrecisionGraph


@pytest.fixture
def progress():
    return RecordedProgress()


def test_an_fp16_export_has_fp32_beside_it(fp16_bundle, fp32_bundle):
    manifest, fp32 = manifests.read_manifest(fp16_bundle), manifests.read_manifest(fp32_bundle)
    beside = manifest.fp32_latency
    assert beside.bytes == fp32.engine.file.bytes
    assert beside.size_ratio == manifest.engine.file.bytes / fp32.engine.file.bytes
    assert 0.4 < beside.size_ratio < 0.7
    assert beside.engine_p50_ms == manifest.latency.p50_ms
    assert beside.speedup.low <= beside.speedup.estimate <= beside.speedup.high


def test_an_int8_export_has_fp32_of_its_own_backend_beside_it(int8_bundle):
    beside = manifests.read_manifest(int8_bundle).fp32_latency
    assert beside.size_ratio < 0.5
    assert beside.p50_ms > 0


def test_an_fp32_export_has_nothing_beside_it(fp32_bundle):
    assert manifests.read_manifest(fp32_bundle).fp32_latency is None


@pytest.mark.usefixtures("small_export", "fp16_bundle")
def test_every_engine_that_runs_here_has_fp32_beside_it(tmp_path, progress):
    pytest.importorskip("openvino")
    request = msgspec.structs.replace(FP16, extra_engines=("openvino",))
    (extra,) = pipeline.export(request, tmp_path / "bundle", False, progress).manifest.extra_engines
    assert extra.fp32_latency.engine_p50_ms == extra.latency.p50_ms
    assert "preparing FP32 on openvino to time beside fp16" in progress.titles


@pytest.mark.usefixtures("small_export", "fp32_bundle")
def test_latency_is_measured_again_though_all_else_is_cached(tmp_path, progress):
    pipeline.export(FP32, tmp_path / "bundle", False, progress)
    assert progress.titles == ["measuring latency", "writing the bundle"]


def test_a_backend_that_refuses_fp32_is_noted_and_its_engine_measured_alone(monkeypatch, progress):
    class Backend:
        name = "picky"

    class Session:
        backend = Backend()
        graph = None
        progress = None

    def refuse(*_):
        raise InputError("It has no FP32 kernels.", "")

    Session.progress = progress
    monkeypatch.setattr(fp32_beside.stages, "as_fp32", lambda _: "the FP32 graph")
    monkeypatch.setattr(fp32_beside.stages, "compile_engine", refuse)
    monkeypatch.setattr(fp32_beside.stages, "measure_latency", lambda *_: "alone")
    graph = PrecisionGraph(Path(), "model.onnx", "0" * 64, "int8", None, None)
    assert fp32_beside.time_engine(Session(), graph, "engine") == ("alone", None)
    assert progress.notes == ["FP32 was not timed beside int8 on picky: It has no FP32 kernels."]


class Runner:
    """A runner that computes nothing."""

    def __init__(self, on_gpu):
        self.inputs = self.outputs = ()
        if on_gpu:
            self.gpu_times = lambda arrays, calls: ()  # noqa: ARG005 - the protocol's words

    def run(self, arrays):  # noqa: ARG002 - the protocol's words
        return {}


@pytest.mark.parametrize(("on_gpu", "options"), [(True, {"blocks": GPU_BLOCKS}), (False, {})])
def test_only_engines_on_a_gpu_are_warmed_up_by_the_clock_in_each_block(monkeypatch, progress, on_gpu, options):
    runner, given = Runner(on_gpu), []
    timed = TimedPair(SimpleNamespace(latency=SimpleNamespace(p50_ms=1.0)), SimpleNamespace(), Interval(2, 2, 2), 6)
    timed = timed._replace(fp32=timed.engine)
    monkeypatch.setattr(fp32_beside, "time_beside_fp32", lambda *_, **words: given.append(words) or timed)
    monkeypatch.setattr(fp32_beside.stages, "first_call_inputs", lambda *_: {"x": [0]})
    monkeypatch.setattr(fp32_beside.stages, "engine_bytes", lambda _: 1)
    backend = SimpleNamespace(load=lambda *_: runner)
    session = SimpleNamespace(backend=backend, oracle=None, progress=progress)
    built = SimpleNamespace(engine=None, folder=None)
    fp32_beside._time_pair(session, SimpleNamespace(precision="fp16"), built, built, runner)
    assert given == [options]
