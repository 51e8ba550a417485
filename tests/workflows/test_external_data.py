"""Networks whose weights do not fit into one ONNX file: every stage works with two, and keeps networks apart."""

import numpy as np
import onnx
import pytest

import deploykit
from deploykit.bundle import manifest as manifests
from deploykit.core import onnx_io

TEXT = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N,3,16,16] image) => (float[N,5] scores) {
    a = Conv <pads = [1, 1, 1, 1]> (image, w)
    b = Relu (a)
    p = Conv (b, v)
    r = Relu (p)
    s = GlobalAveragePool (r)
    t = Flatten (s)
    scores = Gemm (t, f)
}
"""
SHAPES = {"w": (8, 3, 3, 3), "v": (16, 8, 3, 3), "f": (16, 5)}
INT8 = ("--int8", "--calibration", "synthetic", "--calibration-size", "100")
PREPROCESSING = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--data", "synthetic", "--samples", "4")


@pytest.fixture(scope="module")
def large_limit(tmp_path_factory):
    """Weights of any size count as too large for one file, and the cache is empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_io, "LARGEST_SINGLE_FILE", 0)
        patch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def export_network(large_limit, quick_latency, tmp_path_factory):  # noqa: ARG001 - only their patches are needed
    """Exports the network with random weights of a seed, and returns the bundle."""
    folder, bundles = tmp_path_factory.mktemp("large"), {}

    def export(*words, seed=0, target="onnxruntime"):
        from deploykit.cli import run

        source = folder / f"{seed}.onnx"
        if not source.exists():
            proto, random = onnx.parser.parse_model(TEXT), np.random.default_rng(seed)
            weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
            proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
            onnx.save(proto, source)
        bundle = folder / "-".join([str(seed), target, *(word.strip("-") for word in words)])
        if bundle not in bundles:
            targets = ("--target", target, "-o", str(bundle))
            bundles[bundle] = run(["export", str(source), *PREPROCESSING, *words, *targets])
        assert bundles[bundle] == 0
        return bundle

    return export


def test_an_int8_bundle_holds_the_weights_of_both_graphs_and_runs(export_network):
    pytest.importorskip("openvino", reason="it has INT8 kernels for layers this small")
    bundle = export_network(*INT8, target="openvino")
    manifest = manifests.read_manifest(bundle)
    assert {"model.onnx.data", "engines/openvino/openvino.onnx.data"} <= manifest.files.keys()
    assert manifest.parity.passed
    for backend in ("onnxruntime", "openvino"):
        assert deploykit.load(bundle, backend=backend).self_test().passed


def test_two_networks_of_equal_graphs_share_no_weights(export_network):
    first, second = export_network(seed=0), export_network(seed=1)
    assert (first / "model.onnx").read_bytes() == (second / "model.onnx").read_bytes()
    assert (first / "model.onnx.data").read_bytes() != (second / "model.onnx.data").read_bytes()
    assert deploykit.verify(second).parity.passed


def test_two_casts_of_equal_graphs_share_no_weights(export_network):
    first, second = (export_network("--fp16", seed=seed) for seed in (0, 1))
    assert (first / "model.onnx.data").read_bytes() != (second / "model.onnx.data").read_bytes()
    assert deploykit.verify(second).parity.passed


def test_parity_is_attributed(export_network, cli):
    pytest.importorskip("openvino", reason="it has INT8 kernels for layers this small")
    result = cli("parity", export_network(*INT8, target="openvino"), "--stages", "--layers")
    assert result.code == 0, result.text
