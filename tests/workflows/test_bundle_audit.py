"""Damage that rounding hides in the outputs of a bundle is named, at the stage that it belongs to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from deploykit.bundle.manifest import read_manifest
from deploykit.cli.progress import TerminalProgress
from deploykit.core.files import record_file
from deploykit.workflows import bundle_audit
from deploykit.workflows.bundle_audit import audit_engine_form, audit_precision_graph
from deploykit.workflows.diagnose import evaluate_stages
from deploykit.workflows.diagnosed_bundle import DiagnosedBundle

pytest.importorskip("openvino", reason="the engine of the bundle has a form of its own with OpenVINO")

LAYER = "features.4/Conv"


@pytest.fixture
def bundle(int8_bundle, tmp_path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(int8_bundle, tmp_path / "bundle"))


def diagnosed(folder: Path) -> DiagnosedBundle:
    return DiagnosedBundle(folder, None, None, None, TerminalProgress())


def rewrite(folder: Path, file: str, change) -> None:
    """Let `change` edit a graph of the bundle, and record its new digest wherever the manifest has it."""
    old = record_file(folder, file)
    model = ir.load(folder / file)
    ir.external_data.load_to_model(model)
    change(model.graph)
    ir.save(model, folder / file)
    new = record_file(folder, file)
    path = folder / "manifest.json"
    text = path.read_text().replace(old.sha256, new.sha256)
    path.write_text(text.replace(f'"bytes": {old.bytes}', f'"bytes": {new.bytes}'))


def form_of(folder: Path) -> str:
    return read_manifest(folder).engine.file.path


def export_elsewhere(folder: Path, **fields) -> None:
    """Record other provenance."""
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    content["provenance"].update(fields)
    path.write_text(json.dumps(content))


def add_noise(graph):
    """Add 5 % noise to the weights of one layer."""
    layer = next(node for node in graph if node.name == LAYER)
    codes = layer.inputs[1].producer().inputs[0]
    array = codes.const_value.numpy()
    noise = np.random.default_rng(0).standard_normal(array.shape) * 0.05 * array.std()
    codes.const_value = ir.tensor(np.clip(np.rint(array + noise), -127, 127).astype(np.int8), name=codes.name)


def test_noise_on_a_layer_is_named_at_the_stage_of_q_dq(bundle):
    rewrite(bundle, "model.onnx", add_noise)
    stages = {stage.stage: stage for stage in evaluate_stages(diagnosed(bundle)).stages}
    assert any(failure.startswith(f"{LAYER}: its weights are not") for failure in stages["Q/DQ"].failures)
    assert [name for name, stage in stages.items() if stage.failures] == ["Q/DQ"]


def test_a_damaged_form_is_named_at_its_own_stage(bundle):
    rewrite(bundle, form_of(bundle), add_noise)
    stages = {stage.stage: stage for stage in evaluate_stages(diagnosed(bundle)).stages}
    assert "of this constant's values are not those of the form" in stages["form"].failures[0]
    assert [name for name, stage in stages.items() if stage.failures] == ["form"]


def test_an_intact_bundle_has_no_finding(int8_bundle):
    diagnosis = diagnosed(int8_bundle)
    assert diagnosis.graph_findings == ((), ())
    assert audit_engine_form(int8_bundle, diagnosis.manifest, diagnosis.manifest.engine) == ((), ())


def test_an_intact_fp16_bundle_has_no_finding(fp16_bundle):
    assert diagnosed(fp16_bundle).graph_findings == ((), ())


def test_differences_from_an_export_by_other_code_are_a_caveat(bundle):
    fp32_graph = diagnosed(bundle).fp32_graph
    rewrite(bundle, "model.onnx", add_noise)
    export_elsewhere(bundle, code_sha256="0" * 64)
    differences, [caveat] = audit_precision_graph(bundle, read_manifest(bundle), fp32_graph)
    assert differences == ()
    assert caveat.startswith("the bundle was exported with another deploykit (")
    assert f": {LAYER}: its weights are not the FP32 graph's, rounded" in caveat


def test_another_exporter_explains_other_nodes_and_no_other_weights(bundle):
    fp32_graph = diagnosed(bundle).fp32_graph
    libraries = {**read_manifest(bundle).provenance.libraries, "torch": "1.0"}
    export_elsewhere(bundle, libraries=libraries)
    rewrite(bundle, "model.onnx", add_noise)
    assert audit_precision_graph(bundle, read_manifest(bundle), fp32_graph).differences

    def rename(graph):
        next(node for node in graph if node.name == LAYER).name = "conv"

    rewrite(bundle, "model.onnx", rename)
    differences, [caveat] = audit_precision_graph(bundle, read_manifest(bundle), fp32_graph)
    assert differences == ()
    assert caveat.startswith("the bundle was exported with torch 1.0, so that its graph was not compared")


def test_a_form_of_another_version_of_its_backend_is_a_caveat(bundle):
    rewrite(bundle, form_of(bundle), add_noise)
    manifest = read_manifest(bundle)
    engine = msgspec.structs.replace(manifest.engine, version="1.0")
    differences, [caveat] = audit_engine_form(bundle, manifest, engine)
    assert differences == ()
    assert caveat.startswith(
        f"{engine.backend}'s form was written by {engine.backend} 1.0, so that it was not compared"
    )


def test_a_form_whose_backend_is_not_installed_is_a_caveat(bundle, monkeypatch):
    monkeypatch.setattr(bundle_audit, "is_installed", lambda _: False)
    manifest = read_manifest(bundle)
    name = manifest.engine.backend
    assert audit_engine_form(bundle, manifest, manifest.engine) == (
        (),
        (f"{name}'s form was not compared with the graph: it is not installed",),
    )


def test_many_differences_are_counted(bundle):
    def damage_all(graph):
        for name, value in graph.initializers.items():
            if name.endswith("/codes"):
                value.const_value = ir.tensor(np.negative(value.const_value.numpy()), name=name)

    fp32_graph = diagnosed(bundle).fp32_graph
    rewrite(bundle, "model.onnx", damage_all)
    differences = audit_precision_graph(bundle, read_manifest(bundle), fp32_graph).differences
    assert len(differences) == 4
    assert differences[-1] == "and 6 more differences"
