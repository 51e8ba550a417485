"""`deploykit parity BUNDLE --stages --layers --worst`: the failing stage and layers, their messages, and refusals."""

import hashlib
import json
import shutil

import numpy as np
import onnx_ir as ir
import pytest

from deploykit.core import cpp_programs
from deploykit.core.errors import BackendError
from deploykit.core.values import Diagnosis

pytest.importorskip("openvino", reason="INT8 on a CPU is OpenVINO's: install the extra openvino")


@pytest.fixture
def copy(int8_bundle, tmp_path):
    """A copy that the test may damage."""
    return shutil.copytree(int8_bundle, tmp_path / "bundle")


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """Building the C++ library takes half a minute; tests/workflows/test_diagnose.py covers it."""

    def build(*_):
        raise BackendError("CMake is not installed.", cpp_programs.INSTALL_TOOLS)

    monkeypatch.setattr(cpp_programs, "build_programs", build)


def edit(bundle, change):
    """Let `change` rewrite the manifest as plain JSON."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def damage_ranges(bundle):
    """Multiply the scales of two Q/DQ pairs, and update the digests in the manifest."""
    model = ir.load(bundle / "model.onnx")
    for node in [node for node in model.graph if node.op_type == "QuantizeLinear"][2:4]:
        scale = node.inputs[1]
        scale.const_value = ir.tensor(scale.const_value.numpy() * np.float32(16), name=scale.name)
    ir.save(model, bundle / "model.onnx")
    content = (bundle / "model.onnx").read_bytes()
    record = {"path": "model.onnx", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    def enter(manifest):
        manifest["files"]["model.onnx"] = record
        manifest["engine"]["file"] = record

    edit(bundle, enter)


# ── Stages ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_undamaged_bundle_passes_at_every_stage(cli, int8_bundle):
    result = cli("parity", int8_bundle, "--stages")
    assert result.code == 0
    for line in (
        "nin_cifar10-int8 int8",
        "preprocessing the manifest's preprocessing ∞ ∞",
        "export the FP32 graph, in onnxruntime ",
        "Q/DQ the graph with Q/DQ pairs, as written ",
        "engine openvino ",
        "PASSED every stage that was tested is within its tolerance on 4 samples of synthetic",
        "note: C++, the C++ library, was not tested: CMake is not installed. On Debian and Ubuntu: apt install",
    ):
        assert line in result.text
    assert "FAIL" not in result.text


def test_damaged_int8_ranges_are_the_guilt_of_the_qdq_stage(cli, copy):
    damage_ranges(copy)
    result = cli("parity", copy, "--stages")
    assert result.code == 1
    assert "FAILED Q/DQ is the failing stage, the first beyond its tolerance on 4 samples of synthetic" in result.text
    assert "when it was exported" in result.text
    assert result.text.count(" FAIL ") == 1


def test_a_changed_mean_is_attributed_to_preprocessing(cli, copy):
    edit(copy, lambda manifest: manifest["model"]["preprocessing"].update(mean=[0.6, 0.6, 0.6]))
    result = cli("parity", copy, "--stages")
    assert result.code == 1
    assert "FAILED preprocessing is the failing stage" in result.text
    assert "the manifest's preprocessing has mean 0.6, 0.6, 0.6, the network's own" in result.text
    assert result.text.count(" FAIL ") == 1


def test_the_stage_of_fp16_is_the_cast(cli, fp16_bundle):
    result = cli("parity", fp16_bundle, "--stages")
    assert result.code == 0
    assert "cast the graph cast to FP16, as written" in result.text


def test_several_bundles_are_reported_in_turn_and_one_failure_fails_the_command(cli, fp32_bundle, copy):
    edit(copy, lambda manifest: manifest["model"]["preprocessing"].update(mean=[0.6, 0.6, 0.6]))
    result = cli("parity", copy, fp32_bundle, "--stages")
    assert result.code == 1
    assert "bundle int8" in result.text
    assert "nin_cifar10-fp32 fp32" in result.text
    assert (result.text.count("FAILED"), result.text.count("PASSED")) == (2, 1)


# ── Layers and samples ────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_are_ranked_under_the_names_of_modules(cli, int8_bundle):
    result = cli("parity", int8_bundle, "--layers")
    assert result.code == 0
    assert "layers by added noise (noise power / signal power), on 4 samples of synthetic" in result.text
    assert "module layer added noise SNR dB" in result.text
    assert "classifier Conv" in result.text
    assert "note: tensors are compared between openvino" in result.text


def test_worst_shows_the_requested_number_of_samples_and_their_predictions(cli, int8_bundle):
    result = cli("parity", int8_bundle, "--worst", 2, "--data", "digits", "--samples", 4)
    assert result.code == 0
    assert "sample label PyTorch bundle KL nats" in result.text
    assert "all 4 samples are classified as by PyTorch" in result.text
    assert sum("class" in line and "e-" in line for line in result.out.splitlines()) == 2


# ── Documents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_contains_exactly_what_was_requested(cli, int8_bundle):
    [document] = cli("parity", int8_bundle, "--stages", "--layers", "--worst", 1, "--json").content
    assert set(document) == set(Diagnosis.__struct_fields__)
    assert (document["bundle"], document["precision"]) == ("nin_cifar10-int8", "int8")
    assert len(document["stages"]["stages"]) == 6
    assert len(document["layers"]["layers"]) == 9
    assert len(document["samples"]["worst"]) == 1
    [alone] = cli("parity", int8_bundle, "--layers", "--json").content
    assert (alone["stages"], alone["samples"]) == (None, None)


def test_save_puts_the_records_into_the_bundle(cli, copy):
    result = cli("parity", copy, "--stages", "--layers", "--worst", 1, "--save", "--json")
    assert result.code == 0
    [document] = result.content
    for name in ("stages", "layers", "samples"):
        assert json.loads((copy / "records" / f"{name}.json").read_text()) == document[name]
    assert cli("verify", copy).code == 0
    assert cli("parity", copy, "--stages").code == 0


def test_without_save_the_bundle_is_unchanged(cli, int8_bundle, snapshot):
    before = snapshot(int8_bundle)
    cli("parity", int8_bundle, "--stages", "--layers", "--worst", 1)
    assert snapshot(int8_bundle) == before


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nin_cifar10", "--stages"), "and nin_cifar10 is a network: make a bundle with deploykit export nin_cifar10"),
        (("--layers",), "--layers needs a bundle: name its folder."),
        (("nowhere", "--worst", "3"), "--worst needs a bundle, and there is no folder 'nowhere'."),
        (("./nowhere", "--save"), "--save needs --stages, --layers or --worst."),
        (("./nowhere", "--worst", "0"), "'--worst': 0 is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_diagnosis_options_are_refused_without_a_bundle(cli, words, message):
    result = cli("parity", *words)
    assert result.code == 2
    assert message in result.text


def test_layers_of_an_fp32_bundle_are_refused(cli, fp32_bundle):
    result = cli("parity", fp32_bundle, "--layers")
    assert result.code == 2
    assert "is FP32: its graph is the exported one, so no layer adds an error." in result.text


def test_the_worst_of_an_embedding_are_refused(cli, small_export, tmp_path):
    assert cli(*small_export, "--head", "embedding", "-o", tmp_path / "bundle").code == 0
    result = cli("parity", tmp_path / "bundle", "--worst", 1)
    assert result.code == 2
    assert "outputs embeddings, which have no classes. Omit --worst." in result.text


def test_a_damaged_bundle_is_not_diagnosed(cli, copy):
    (copy / "model.onnx").write_bytes(b"short")
    result = cli("parity", copy, "--stages")
    assert result.code == 1
    assert "model.onnx has 5 bytes" in result.text
