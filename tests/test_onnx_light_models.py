"""The networks that the onnx package ships, written by Caffe2 at opset 9, can be exported and keep their outputs.

Their weights are constant fills computed at run time: only the structure is tested.
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
        return manifests.read_manifest(tmp_path / "out")

    return export


def test_all_light_models_are_found():
    assert len(NAMES) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_light_model_is_exported(bundle, name):
    manifest = bundle(name, "--fp32", "--target", "onnxruntime")
    assert manifest.graph.exporter == "file"
    assert manifest.parity.passed


@pytest.mark.slow
def test_a_light_model_with_residuals_is_quantized(bundle):
    calibrated = ("--calibration", "synthetic", "--calibration-size", "8")
    manifest = bundle("light_resnet50", "--int8", *calibrated, "--target", "openvino")
    assert manifest.parity.passed
    assert manifest.receipt.shares["int8"] > 0.99
