"""scripts/verdicts: a fault changes what it says and nothing else, and leaves a bundle whose checksums are right."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import programs  # noqa: F401 - it tells Python where scripts/ are
import pytest
from onnx import numpy_helper
from verdicts import bundle_edit, faults

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files

GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
tiny (float[batch, 4] input) => (float[batch, 2] logits) {
    codes = QuantizeLinear(input, scale, zero)
    pixels = DequantizeLinear(codes, scale, zero)
    weight = DequantizeLinear(weight_codes, weight_scale, weight_zero)
    logits = Gemm(pixels, weight, bias)
}
"""

CONSTANTS = {
    "scale": np.array(0.5, np.float32),
    "zero": np.array(0, np.int8),
    "weight_codes": np.array([[127, -100], [30, 60], [-127, 5], [0, 90]], np.int8),
    "weight_scale": np.array(0.25, np.float32),
    "weight_zero": np.array(0, np.int8),
    "bias": np.array([1.5, -2], np.float32),
}


@pytest.fixture
def graph():
    """A quantized matrix product with a bias."""
    return make_model().graph


def make_model():
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in CONSTANTS.items())
    return model


def read_constants(graph):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def changed_constants(graph):
    return {name for name, array in read_constants(graph).items() if not np.array_equal(array, CONSTANTS[name])}


# ── Changes of a graph ────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_are_found_with_their_tensors(graph):
    (layer,) = faults.list_layers(graph)
    names = [tensor.name for tensor in (layer.weight, layer.weight_scale, layer.input_scale, layer.bias)]
    assert names == ["weight_codes", "weight_scale", "scale", "bias"]


@pytest.mark.parametrize(
    ("change", "constant", "factor"),
    [
        (faults.multiply_input_scale, "scale", 4),
        (faults.multiply_weight_scale, "weight_scale", 4),
        (faults.drop_bias, "bias", 0),
    ],
)
def test_a_change_multiplies_one_constant(graph, change, constant, factor):
    change(graph)
    assert changed_constants(graph) == {constant}
    np.testing.assert_array_equal(read_constants(graph)[constant], factor * CONSTANTS[constant])


def test_noise_changes_the_codes_of_the_weights_within_their_type(graph):
    faults.add_weight_noise(graph)
    assert changed_constants(graph) == {"weight_codes"}
    assert read_constants(graph)["weight_codes"].dtype == np.int8


def test_noise_has_five_percent_of_the_weights_deviation():
    weight = np.random.default_rng(1).standard_normal(100_000)
    difference = faults.make_noisy(weight) - weight
    assert difference.std() / weight.std() == pytest.approx(0.05, rel=0.01)


def test_the_middle_layer_is_chosen():
    nodes = [onnx.helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(5)]
    weights = [numpy_helper.from_array(np.eye(2, dtype=np.float32), f"w{i}") for i in range(5)]
    graph = onnx.helper.make_graph(nodes, "five", [], [], weights)
    assert faults.choose_layer(graph).weight.name == "w2"


def test_a_graph_without_a_bias_cannot_lose_one():
    graph = onnx.helper.make_graph([], "none", [], [])
    with pytest.raises(ValueError, match="no layer of the graph has a bias"):
        faults.drop_bias(graph)


# ── Bundles ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_bundle(folder, name):
    """As much of a bundle as the editing reads: a graph, an engine's file and a manifest with their digests."""
    bundle = folder / name
    (bundle / "engines").mkdir(parents=True)
    for file in ("model.onnx", "engines/own.onnx"):
        onnx.save(make_model(), bundle / file)
    records = {file: {"path": file, "sha256": "", "bytes": 0} for file in ("model.onnx", "engines/own.onnx")}
    manifest = {
        "files": records,
        "engine": {"backend": "onnxruntime", "file": records["engines/own.onnx"]},
        "model": {"preprocessing": {"channels": "rgb", "mean": [0.5, 0.5, 0.5]}},
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def read_manifest(bundle):
    return json.loads((bundle / "manifest.json").read_bytes())


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path, "bundle")


@pytest.mark.parametrize("file", ["model.onnx", "engines/own.onnx"])
def test_a_rewritten_file_has_its_new_digest_wherever_the_manifest_has_one(bundle, file):
    bundle_edit.rewrite_onnx(bundle, file, faults.drop_bias)
    content, manifest = (bundle / file).read_bytes(), read_manifest(bundle)
    expected = {"path": file, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert manifest["files"][file] == expected
    assert file == "model.onnx" or manifest["engine"]["file"] == expected


def test_a_fault_of_the_engine_leaves_the_graph_as_it_is(bundle):
    faults.in_engine(faults.drop_bias)(bundle, bundle)
    assert changed_constants(onnx.load(bundle / "model.onnx").graph) == set()
    assert changed_constants(onnx.load(bundle / "engines/own.onnx").graph) == {"bias"}


def test_another_networks_engine_takes_the_place_of_its_own(bundle, tmp_path):
    other = make_bundle(tmp_path, "other")
    bundle_edit.rewrite_onnx(other, "engines/own.onnx", faults.multiply_weight_scale)
    faults.swap_engine(bundle, other)
    assert (bundle / "engines/own.onnx").read_bytes() == (other / "engines/own.onnx").read_bytes()


def test_swapped_channels_and_a_wrong_mean_stand_in_the_manifest(bundle):
    faults.swap_channels(bundle, bundle)
    faults.zero_mean(bundle, bundle)
    assert read_manifest(bundle)["model"]["preprocessing"] == {"channels": "bgr", "mean": [0.0, 0.0, 0.0]}


def test_a_copy_takes_the_place_of_an_earlier_one(bundle, tmp_path):
    copy = bundle_edit.copy_bundle(bundle, tmp_path / "copy")
    (copy / "left_over").touch()
    bundle_edit.copy_bundle(bundle, copy)
    assert not (copy / "left_over").exists()


QUANTIZED = [fault for fault in faults.FAULTS if fault.precision == "int8"]


@pytest.mark.parametrize("fault", QUANTIZED, ids=lambda fault: fault.name)
def test_a_real_bundle_with_a_fault_passes_its_checksums(fault, int8_bundle, tmp_path):
    damaged = bundle_edit.copy_bundle(Path(int8_bundle), tmp_path / "damaged")
    fault.inject(damaged, Path(int8_bundle))
    check_files(damaged, manifests.read_manifest(damaged))


def test_a_fault_of_the_graph_reaches_the_engine(int8_bundle, tmp_path):
    damaged = bundle_edit.copy_bundle(Path(int8_bundle), tmp_path / "damaged")
    faults.in_graph(faults.multiply_weight_scale)(damaged, damaged)
    file = bundle_edit.find_engine_file(damaged)
    assert (damaged / file).read_bytes() != (int8_bundle / file).read_bytes()
