"""The networks that onnx's own package holds, written by Caffe2 at opset 9, go in and come out the same.

Their weights are one number each, filled in when they run: structure is all that they have.
"""

from pathlib import Path

import onnx
import pytest

from deploykit.bundle import manifest as manifests

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
CAFFE = ("--scale", "1", "--mean", "104,117,123", "--channels", "bgr")
NAMES = sorted(path.stem for path in FOLDER.glob("light_*.onnx"))


@pytest.fixture
def bundle(quick_latency, cli, tmp_path):  # noqa: ARG001
    def export(name, *words):
        few = ("--samples", "2", "--data", "synthetic", "-o", tmp_path / "out")
        result = cli("export", FOLDER / f"{name}.onnx", *few, *CAFFE, *words)
        assert result.code == 0, result.text
        return manifests.read(tmp_path / "out")

    return export


def test_there_are_as_many_as_are_known():
    assert len(NAMES) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_goes_in(bundle, name):
    manifest = bundle(name, "--fp32", "--target", "onnxruntime")
    assert manifest.graph.exporter == "file"
    assert manifest.parity.passed


@pytest.mark.slow
def test_one_with_residuals_is_quantized(bundle):
    calibrated = ("--calibration", "synthetic", "--calibration-size", "8")
    manifest = bundle("light_resnet50", "--int8", *calibrated, "--target", "openvino")
    assert manifest.parity.passed
    assert manifest.receipt.shares["int8"] > 0.99
