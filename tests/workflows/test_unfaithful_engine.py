"""An engine that does not compute its graph is caught; `auto` goes on to the next backend, a named one fails."""

import msgspec
import pytest

from deploykit.backends.openvino import OpenVinoRunner
from deploykit.core.progress import LoggedProgress
from deploykit.core.values import CalibrationOptions, ExportOptions, ExportRequest, WeightsSource
from deploykit.workflows import export

REQUEST = ExportRequest(
    "nin_cifar10",
    "int8",
    WeightsSource("random"),
    options=ExportOptions(),
    data="synthetic",
    samples=4,
    target="openvino",
    calibration=CalibrationOptions("synthetic", 8),
)


class Notes(LoggedProgress):
    """Keeps what a user is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def progress():
    return Notes()


@pytest.fixture
def lying_openvino(monkeypatch, cache_without):
    """OpenVINO whose outputs are those of another network."""
    cache_without("verdict")
    run = OpenVinoRunner.run
    monkeypatch.setattr(
        OpenVinoRunner, "run", lambda self, arrays: {name: -array for name, array in run(self, arrays).items()}
    )


@pytest.mark.usefixtures("lying_openvino")
def test_the_next_backend_is_taken_and_the_fault_said(progress, tmp_path):
    request = msgspec.structs.replace(REQUEST, fallback_targets=("onnxruntime",))
    manifest = export.export(request, tmp_path / "bundle", force=False, progress=progress).manifest
    assert manifest.engine.backend == "onnxruntime"
    assert manifest.parity.passed
    (caveat,) = [caveat for caveat in manifest.parity.caveats if "was not chosen" in caveat]
    assert caveat.startswith("openvino")
    assert "the engine does not compute its graph" in caveat
    assert caveat in progress.notes


@pytest.mark.usefixtures("lying_openvino")
def test_a_named_backend_fails(progress, tmp_path):
    manifest = export.export(REQUEST, tmp_path / "bundle", force=False, progress=progress).manifest
    assert manifest.engine.backend == "openvino"
    assert "the engine does not compute its graph" in manifest.failures[0]
