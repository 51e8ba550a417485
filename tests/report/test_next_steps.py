"""The last line of a failed check names the failure and a command that works from the current folder."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.core.values import (
    DataRecord,
    Diagnosis,
    LayerArithmetic,
    MatrixRow,
    OutputParity,
    PrecisionReceipt,
    SecondaryEngine,
    Stage,
    StageParity,
    Stages,
)
from deploykit.core.values.sweeps import Cell, CellResult, SweepResult
from deploykit.report import next_steps
from deploykit.report.formatting import fill_bundle_path, format_path

DATA = DataRecord("photos", "evaluation", 16, real=True, labelled=True, sha256="0" * 64)
OUTPUTS = (OutputParity("logits", 0.1, 0.1, 0.1, 0.9, 3.0, 0.1, 0.875, 0.9),)


@pytest.fixture(scope="module")
def manifest(fp16_bundle):
    return manifests.read_manifest(fp16_bundle)


@pytest.fixture
def failed_parity(manifest):
    return msgspec.structs.replace(manifest.parity, passed=False, failures=("the SNR is 3 dB.", "another"))


@pytest.fixture(autouse=True)
def current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_path_is_relative_below_the_current_folder_and_absolute_elsewhere(current_folder):
    assert format_path(current_folder / "build" / "x") == "build/x"
    assert format_path(Path("build/a b")) == "'build/a b'"
    assert format_path(Path("/elsewhere/x")) == "/elsewhere/x"


def test_only_commands_get_the_bundles_path():
    text = "BUNDLE is broken: deploykit compile BUNDLE --target openvino, or deploykit export"
    assert fill_bundle_path(text, "b/x") == (
        "BUNDLE is broken: deploykit compile b/x --target openvino, or deploykit export"
    )


def test_a_failed_export_points_to_its_stages(manifest, failed_parity, current_folder):
    manifest = msgspec.structs.replace(manifest, parity=failed_parity)
    assert next_steps.conclude_export(manifest, current_folder / "build" / "x").plain == (
        "FAILED  the SNR is 3 dB (and 1 more). Try: deploykit parity build/x --stages --layers"
    )


@pytest.fixture
def added_engine(manifest):
    """An engine that `compile` added; its outputs agree."""
    file = msgspec.structs.replace(manifest.engine.file, path="engines/openvino/openvino.onnx")
    engine = msgspec.structs.replace(manifest.engine, backend="openvino", file=file)
    return SecondaryEngine(engine, None, manifest.parity)


def test_an_engine_that_differs_points_to_the_stages(added_engine, failed_parity):
    failed = msgspec.structs.replace(added_engine, parity=failed_parity)
    line = next_steps.conclude_compile([failed], Path("b")).plain
    assert (
        line == "FAILED  openvino: the SNR is 3 dB (and 1 more). Try: deploykit parity b --stages, or another --target"
    )


def test_an_engine_that_ran_in_another_precision_can_be_taken_out(added_engine):
    layer = LayerArithmetic("conv1/Conv", "Conv", 100, "int8", "fp32")
    receipt = PrecisionReceipt("openvino", "2026.4.1", "execution graph", {"fp32": 1.0}, (layer,))
    failed = msgspec.structs.replace(added_engine, receipt=receipt)
    line = next_steps.conclude_compile([failed], Path("b")).plain
    assert line.endswith("Try: another --target, and deploykit compile b --remove openvino")


def test_a_failed_bundle_in_a_matrix_is_named_with_its_folder(manifest, failed_parity, current_folder):
    rows = [
        MatrixRow("a", "fp16", "onnxruntime", manifest.parity),
        MatrixRow("b", "int8", "onnxruntime", failed_parity),
    ]
    line = next_steps.conclude_matrix(rows, [current_folder / "a", current_folder / "b"]).plain
    assert line == "FAILED  1 of 2 rows: b int8. Try: deploykit parity b --stages --layers"


def test_a_failed_network_in_a_matrix_is_to_be_exported(failed_parity):
    line = next_steps.conclude_matrix([MatrixRow("resnet18", "int8-fp16", "onnxruntime", failed_parity)], []).plain
    assert line.endswith("deploykit export resnet18 --int8 --fp16 --calibration photos")


@pytest.mark.parametrize("stage", get_args(Stage))
def test_every_stage_has_a_remedy(stage):
    failing = StageParity(stage, "x", OUTPUTS, OUTPUTS, None, ("too noisy",))
    diagnosis = Diagnosis("x", "int8", stages=Stages((failing,), DATA))
    line = next_steps.conclude_diagnosis(diagnosis, Path("build/x")).plain
    assert " stage. Try: " in line
    assert "BUNDLE" not in line


def test_stages_that_fail_only_together_point_to_the_layers():
    diagnosis = Diagnosis("x", "int8", stages=Stages((), DATA, combined_failures=("9 dB",)))
    assert next_steps.conclude_diagnosis(diagnosis, Path("b")).plain == (
        "FAILED  x: all stages together exceed the tolerance. Try: deploykit parity b --layers"
    )


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        ("marked", "deploykit parity /there/a --stages --layers"),
        ("failed", "correct what the errors above name"),
        ("refused", "leave these cells out with [[exclude]]"),
    ],
)
def test_a_failed_sweep_names_its_cells_and_the_next_command(state, remedy):
    cells = tuple(CellResult(Cell(name, ("x",)), "key", at) for name, at in (("a", state), ("b", "passed")))
    line = next_steps.conclude_sweep(SweepResult("/there", None, cells, 0, 1.0)).plain
    assert line.startswith("FAILED  1 of 2 cells: a. Try: ")
    assert remedy in line
