"""ONNX files with Q/DQ pairs, from the command line to a bundle."""

import numpy as np
import onnx
import pytest

from deploykit.bundle import manifest as manifests

QDQ = """
agraph (float[N,3,16,16] image) => (float[N,5] scores) {
    qi = QuantizeLinear (image, si, i8)
    di = DequantizeLinear (qi, si, i8)
    w0 = DequantizeLinear (codes, sw)
    [conv] a = Conv <pads = [1, 1, 1, 1]> (di, w0)
    qa = QuantizeLinear (a, sa, u8)
    da = DequantizeLinear (qa, sa, u8)
    c = GlobalAveragePool (da)
    d = Flatten (c)
    [fc] scores = Gemm (d, f)
}
"""
"""As onnxruntime.quantization writes it, with one scale per weight: the Relu behind the Conv is the pair's."""

CODES = np.random.default_rng(0).integers(-90, 91, (8, 3, 3, 3)).astype(np.int8)
CONSTANTS = {
    "codes": CODES,
    "sw": np.float32(0.01),
    "si": np.float32(0.05),
    "sa": np.float32(0.04),
    "i8": np.int8(0),
    "u8": np.uint8(0),
}
PREPROCESSING = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")


def constants_of(bundle):
    graph = onnx.load(bundle / "model.onnx").graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.fixture
def bundle(export_text):
    return export_text(QDQ, "--int8", *PREPROCESSING, **CONSTANTS)


def test_int8_needs_no_calibration(bundle, export_file):
    manifest = manifests.read_manifest(bundle)
    assert manifest.calibration is None
    assert manifest.graph.placement.layers == ("conv/Conv", "fc/Gemm")
    assert "INT8 ranges: 2 tensors, from the file's 2 Q/DQ pairs; 1 with larger steps than in the file" in (
        export_file.text
    )


def test_the_files_scales_are_kept(bundle):
    held = constants_of(bundle)
    assert held["image/scale"] == np.float32(0.05)
    (codes,) = (array for array in held.values() if array.dtype == np.int8 and array.ndim == 4)
    steps = [scale for name, scale in held.items() if scale.shape == (8,) and scale.dtype == np.float32]
    values = (codes * scale.reshape(8, 1, 1, 1) for scale in steps)
    assert any(np.allclose(value, CODES * 0.01, rtol=1e-5) for value in values)


def test_a_pooled_tensor_takes_the_range_before_the_pool(bundle):
    ranges = manifests.read_manifest(bundle).file_ranges
    assert sorted(ranges.thresholds.values()) == pytest.approx([127 * 0.05, 255 * 0.04])
    assert len(ranges.inferred) == len(ranges.coarser) == 1


def test_a_bundle_of_a_quantized_file_is_verified_whole(bundle, cli):
    result = cli("parity", bundle, "--stages")
    assert result.code == 0, result.text


def test_without_int8_the_pairs_are_left_out(export_text, export_file):
    graph = onnx.load(export_text(QDQ, *PREPROCESSING, **CONSTANTS) / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert "net.onnx is quantized: its 2 Q/DQ pairs are taken out" in export_file.text


def test_a_calibration_set_is_not_used(export_text, export_file):
    export_text(QDQ, "--int8", "--calibration", "synthetic", *PREPROCESSING, **CONSTANTS)
    assert "--calibration synthetic is not used" in export_file.text


def test_a_budget_needs_calibration_samples(cli, save_graph):
    result = cli("export", save_graph(QDQ, **CONSTANTS), "--int8", "--min-snr", "20")
    assert result.code == 2
    assert "--min-snr needs --calibration" in result.text


def test_a_file_without_pairs_needs_calibration(cli, save_graph):
    result = cli("export", save_graph("agraph (float[N,8] x) => (float[N,5] y) { y = Gemm (x, m) }"), "--int8")
    assert result.code == 2
    assert "--calibration FOLDER" in result.text


def test_operators_on_codes_are_refused_with_the_form_that_is_taken(cli, save_graph):
    text = "agraph (uint8[N,3,16,16] x) => (int32[N,8,14,14] y) { y = ConvInteger (x, codes) }"
    result = cli("export", save_graph(text, codes=CODES), "--int8")
    assert result.code == 3
    assert "QuantFormat.QDQ" in result.text
