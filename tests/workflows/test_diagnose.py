"""Diagnosis of a real bundle, intact and damaged: by stage, by layer and by sample."""

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from deploykit.cli.progress import TerminalProgress
from deploykit.core import cpp_programs
from deploykit.core.errors import BackendError, InputError, InternalError, UsageError
from deploykit.evaluate.parity import cpp_outputs as cpp
from deploykit.workflows import diagnose, diagnosed_bundle
from deploykit.workflows.diagnosed_bundle import DiagnosedBundle

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("openvino", reason="INT8 on a CPU is OpenVINO's: install the extra openvino")


@pytest.fixture
def bundle(int8_bundle, tmp_path):
    """A copy that the test may damage."""
    return Path(shutil.copytree(int8_bundle, tmp_path / "bundle"))


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine that cannot build the C++ library: a build takes half a minute."""

    def build(*_):
        raise BackendError("CMake is not installed.", "Install it.")

    monkeypatch.setattr(cpp_programs, "build_programs", build)


def make_bundle(folder, data=None, samples=None, weights=None):
    return DiagnosedBundle(folder, data, samples, weights, TerminalProgress())


def edit(bundle, change):
    """Let `change` rewrite the manifest as plain JSON."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def rewrite(bundle, change):
    """Let `change` rewrite the graph, and record its new digest in the manifest."""
    model = ir.load(bundle / "model.onnx")
    change(model.graph)
    ir.save(model, bundle / "model.onnx")
    content = (bundle / "model.onnx").read_bytes()
    record = {"path": "model.onnx", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    def enter(manifest):
        manifest["files"]["model.onnx"] = record
        manifest["engine"]["file"] = record

    edit(bundle, enter)


def coarsen_input(graph, tensor_of, factor=8):
    """Multiply the scale of one layer's input by `factor`, which coarsens its quantization as much."""
    layer = next(node for node in graph if node.name == tensor_of)
    scale = layer.inputs[0].producer().inputs[1]
    scale.const_value = ir.tensor(np.float32(scale.const_value.numpy() * factor), name=scale.name)


def shift_bias(graph, by):
    """Add to the bias of the last layer."""
    bias = next(node for node in graph if node.name == "classifier/Conv").inputs[2]
    bias.const_value = ir.tensor((bias.const_value.numpy() + by).astype(np.float32), name=bias.name)


# ── Stages ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("no_compiler")
def test_a_good_bundle_has_no_failing_stage(int8_bundle):
    account = diagnose.evaluate_stages(make_bundle(int8_bundle))
    assert account.failing_stage is None
    assert account.combined_failures == ()
    assert [stage.stage for stage in account.stages] == [
        "preprocessing",
        "export",
        "Q/DQ",
        "form",
        "engine",
        "C++",
    ]
    assert [stage.tolerance.name for stage in account.stages[:2]] == ["fp32", "fp32"]
    assert all(stage.stage_outputs for stage in account.stages[:5])


@pytest.mark.usefixtures("no_compiler")
def test_a_library_that_cannot_be_built_is_reported_as_not_run(int8_bundle):
    last = diagnose.evaluate_stages(make_bundle(int8_bundle)).stages[-1]
    assert (last.stage, last.not_run_reason) == ("C++", "CMake is not installed. Install it.")
    assert (last.stage_outputs, last.outputs, last.failures) == ((), (), ())


@pytest.mark.usefixtures("no_compiler")
def test_damaged_ranges_fail_the_precision_stage(bundle):
    rewrite(bundle, lambda graph: coarsen_input(graph, "features.4/Conv", 32))
    account = diagnose.evaluate_stages(make_bundle(bundle))
    assert account.failing_stage.stage == "Q/DQ"
    assert account.failing_stage.subject == "the graph with Q/DQ pairs, as written"
    assert [stage.stage for stage in account.stages if stage.failures] == ["Q/DQ"]


@pytest.mark.usefixtures("no_compiler")
def test_on_the_samples_of_the_export_the_graph_has_the_recorded_snr(bundle):
    rewrite(bundle, lambda graph: coarsen_input(graph, "features.4/Conv"))
    account = diagnose.evaluate_stages(make_bundle(bundle))
    assert account.failing_stage.stage == "Q/DQ"
    assert "on the same samples when it was exported" in " ".join(account.failing_stage.failures)


@pytest.mark.usefixtures("no_compiler")
def test_on_other_samples_nothing_is_compared_with_the_record(int8_bundle):
    account = diagnose.evaluate_stages(make_bundle(int8_bundle, data="digits", samples=4))
    assert account.failing_stage is None
    assert account.data.name == "digits"


@pytest.mark.usefixtures("no_compiler")
def test_a_changed_mean_fails_only_the_preprocessing_stage(bundle):
    edit(bundle, lambda manifest: manifest["model"]["preprocessing"].update(mean=[0.7, 0.7, 0.7]))
    account = diagnose.evaluate_stages(make_bundle(bundle))
    assert account.failing_stage.stage == "preprocessing"
    assert [stage.stage for stage in account.stages if stage.failures] == ["preprocessing"]
    assert any("preprocessing has mean 0.7, 0.7, 0.7, the network's own" in caveat for caveat in account.caveats)
    export = account.stages[1]
    assert export.stage_outputs[0].snr_db > 80 > export.outputs[0].snr_db


@pytest.mark.usefixtures("no_compiler")
def test_a_wrong_input_size_fails_preprocessing_and_later_stages_are_not_run(bundle):
    edit(bundle, lambda manifest: manifest["model"]["preprocessing"].update(height=24, width=24))
    (stage,) = diagnose.evaluate_stages(make_bundle(bundle)).stages
    assert stage.failures == ("it gives inputs of 3×24×24, float32, but the graph expects 3×32×32, float32",)


@pytest.mark.usefixtures("no_compiler")
def test_preprocessing_is_skipped_for_preprocessed_samples(int8_bundle, tmp_path):
    inputs = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    account = diagnose.evaluate_stages(make_bundle(int8_bundle, data=str(tmp_path / "inputs.npy"), samples=4))
    assert account.stages[0].not_run_reason == "the samples are already preprocessed inputs"
    assert account.failing_stage is None


@pytest.mark.usefixtures("no_compiler")
def test_an_fp32_bundle_has_no_precision_stage(fp32_bundle):
    account = diagnose.evaluate_stages(make_bundle(fp32_bundle))
    assert [stage.stage for stage in account.stages] == ["preprocessing", "export", "engine", "C++"]
    assert account.stages[1].subject.startswith("the FP32 graph, the bundle's own, in onnxruntime ")
    assert account.failing_stage is None


@pytest.mark.usefixtures("no_compiler")
def test_an_fp16_bundle_names_its_cast_and_the_skipped_roundings(fp16_bundle):
    account = diagnose.evaluate_stages(make_bundle(fp16_bundle))
    assert account.stages[2].subject == "the graph cast to FP16, as written"
    assert any("skips rounding of intermediate tensors" in caveat for caveat in account.caveats)


@pytest.mark.usefixtures("no_compiler")
def test_a_changed_weight_of_an_fp32_bundle_fails_the_export_stage(fp32_bundle, tmp_path):
    bundle = Path(shutil.copytree(fp32_bundle, tmp_path / "bundle"))

    def transpose(graph):
        weight = graph.initializers["features.2.weight"]
        weight.const_value = ir.tensor(np.ascontiguousarray(weight.const_value.numpy()[::-1]), name=weight.name)

    rewrite(bundle, transpose)
    assert diagnose.evaluate_stages(make_bundle(bundle)).failing_stage.stage == "export"


@pytest.mark.usefixtures("no_compiler")
def test_an_engine_that_cannot_be_loaded_is_reported_as_not_run(bundle, monkeypatch):
    def loaded(*_):
        raise BackendError("engine.plan cannot run here: no NVIDIA driver is installed.", "")

    monkeypatch.setattr(diagnosed_bundle, "load_engine", loaded)
    account = diagnose.evaluate_stages(make_bundle(bundle))
    engine = next(stage for stage in account.stages if stage.stage == "engine")
    assert "no NVIDIA driver is installed" in engine.not_run_reason
    assert account.failing_stage is None


def test_calibration_samples_are_refused(int8_bundle, tmp_path):
    """As in every other verdict."""
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{seed}.png")
    digests = [
        sample["sha256"] for sample in json.loads((int8_bundle / "manifest.json").read_text())["calibration"]["samples"]
    ]
    data = make_bundle(int8_bundle, data=str(images), samples=3).data
    copied = Path(shutil.copytree(int8_bundle, tmp_path / "bundle"))

    def claim(manifest):
        manifest["calibration"]["samples"][0]["sha256"] = data.digests[0].sha256

    edit(copied, claim)
    assert digests
    with pytest.raises(InputError, match="1 of 3 evaluation samples are also calibration samples"):
        make_bundle(copied, data=str(images), samples=3)


# ── C++ ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def library(monkeypatch, int8_bundle):
    """A C++ library with outputs defined by the test."""
    monkeypatch.setattr(cpp_programs, "build_programs", lambda *_: Path("/built"))

    def answers(function):
        def given(program, bundle, batches, size, inputs, outputs):
            assert (program, bundle, size) == (Path("/built/deploykit-answer"), int8_bundle, 4)
            run = cpp.CppRun("ONNX Runtime 9.9", "model.onnx", ("tensorrt: no driver is installed.",))
            (name,), (answered,) = inputs, outputs
            return run, {answered: function(np.concatenate([batch[name] for batch in batches]))}

        monkeypatch.setattr(cpp, "run_cpp_program", given)

    return answers


def test_a_cpp_library_with_other_outputs_is_the_failing_stage(int8_bundle, library):
    library(lambda inputs: np.random.default_rng(0).standard_normal((len(inputs), 10)))
    account = diagnose.evaluate_stages(make_bundle(int8_bundle))
    assert account.failing_stage.stage == "C++"
    assert account.failing_stage.subject == "ONNX Runtime 9.9 in C++, model.onnx"
    assert "the C++ library skipped tensorrt: no driver is installed." in account.caveats


def test_a_cpp_library_with_equal_outputs_passes(int8_bundle, library):
    diagnosed = make_bundle(int8_bundle)
    library(lambda _: diagnosed.engine_outputs["logits"])
    account = diagnose.evaluate_stages(diagnosed)
    assert account.failing_stage is None
    assert account.stages[-1].stage_outputs[0].snr_db is None
    assert diagnose.FROM_PYTHON in account.caveats


@pytest.mark.parametrize(
    ("error", "guilty"),
    [
        (BackendError("ONNX Runtime is not built in.", ""), None),
        (InternalError("deploykit-answer was killed by SIGSEGV.", "Report it."), "C++"),
    ],
    ids=["refuses", "dies"],
)
def test_a_cpp_library_that_refuses_is_not_run_and_one_that_crashes_fails(int8_bundle, library, error, guilty):
    def fails(_):
        raise error

    library(fails)
    account = diagnose.evaluate_stages(make_bundle(int8_bundle))
    assert (account.failing_stage and account.failing_stage.stage) == guilty
    last = account.stages[-1]
    assert error.what.rstrip(".") in (last.not_run_reason or last.failures[0])


@pytest.fixture
def toolchain(monkeypatch):
    """CMake, a compiler, and ONNX Runtime's headers where the tests of the C++ library keep them, or the system."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    own = Path(os.environ.get("DEPLOYKIT_CPP_DEPENDENCIES") or ROOT / ".cpp") / "onnxruntime" / platform.machine()
    if not any(list(place.glob("include/**/onnxruntime_c_api.h")) for place in (own, Path("/usr"), Path("/usr/local"))):
        pytest.skip("ONNX Runtime's headers are not installed; scripts/test_cpp fetches them")
    if own.is_dir() and "ONNXRuntime_ROOT" not in os.environ:
        monkeypatch.setenv("ONNXRuntime_ROOT", str(own))


@pytest.mark.slow
@pytest.mark.usefixtures("toolchain")
def test_the_cpp_library_agrees_with_python(fp32_bundle):
    last = diagnose.evaluate_stages(make_bundle(fp32_bundle, samples=6)).stages[-1]
    assert last.subject.startswith("ONNX Runtime ")
    assert last.subject.endswith(" in C++, model.onnx")
    assert last.stage_outputs[0].snr_db is None or last.stage_outputs[0].snr_db > 100
    assert last.failures == ()


@pytest.mark.slow
@pytest.mark.usefixtures("toolchain")
def test_the_cpp_program_explains_invalid_arguments(fp32_bundle, tmp_path):
    program = cpp_programs.build_programs(cpp_programs.BENCH, TerminalProgress()) / "deploykit-answer"
    good, out = tmp_path / "good.npy", tmp_path / "out.npy"
    np.save(good, np.zeros((3, 3, 32, 32), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((3, 3, 32, 32)))
    np.save(tmp_path / "empty.npy", np.zeros((0, 3, 32, 32), np.float32))
    np.save(tmp_path / "small.npy", np.zeros((3, 3, 31, 31), np.float32))
    for words, error, message in (
        ((fp32_bundle, 2, good), UsageError, "it needs four arguments or more"),
        ((fp32_bundle, "2x", good, out), UsageError, "'2x' is not a batch size"),
        ((fp32_bundle, 2, tmp_path / "double.npy", out), InputError, "its elements have the type '<f8'"),
        ((fp32_bundle, 2, tmp_path / "empty.npy", out), InputError, "it has no rows"),
        ((fp32_bundle, 2, tmp_path / "small.npy", out), UsageError, "it is 2×3×31×31, and the network needs 2×3×32×32"),
        ((fp32_bundle, 2, tmp_path / "none.npy", out), InputError, "No such file or directory"),
        ((fp32_bundle, 2, good, tmp_path / "nowhere" / "out.npy"), InputError, "it cannot be written"),
        ((tmp_path, 2, good, out), InputError, "it is not a bundle"),
    ):
        with pytest.raises(error, match=message):
            cpp_programs.run_program(program, *words)
    cpp_programs.run_program(program, fp32_bundle, 2, good, out)
    assert np.load(out).shape == (3, 10)


# ── Layers ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_are_ranked_by_added_error_under_module_names(int8_bundle):
    ranking = diagnose.rank_layer_errors(make_bundle(int8_bundle))
    assert len(ranking.layers) == 9
    assert [error.added_noise for error in ranking.layers] == sorted(
        (error.added_noise for error in ranking.layers), reverse=True
    )
    assert {error.module for error in ranking.layers} >= {"features.0", "features.4", "classifier"}
    assert all(error.op_type == "Conv" and error.snr_db > 10 for error in ranking.layers)


@pytest.mark.parametrize("layer", ["features.4", "features.16"])
def test_the_layer_with_a_damaged_range_ranks_first(bundle, layer):
    rewrite(bundle, lambda graph: coarsen_input(graph, f"{layer}/Conv", 32))
    worst, second, *_ = diagnose.rank_layer_errors(make_bundle(bundle)).layers
    assert worst.module == layer
    assert worst.added_noise > 10 * second.added_noise


def test_layers_of_fp16_are_ranked_too(fp16_bundle):
    ranking = diagnose.rank_layer_errors(make_bundle(fp16_bundle))
    assert len(ranking.layers) == 9
    assert all(1e-12 < error.added_noise < 1e-4 for error in ranking.layers[:5])


def test_reading_tensors_without_effect_is_not_reported(int8_bundle, monkeypatch):
    monkeypatch.setattr(diagnose, "_first_usable_backend", lambda _: None)  # computed as written: nothing is fused
    ranking = diagnose.rank_layer_errors(make_bundle(int8_bundle))
    assert ranking.instrumented_snr_db is None
    assert not any("changes the output" in caveat for caveat in ranking.caveats)
    assert any("ONNX Runtime, as it is written," in caveat for caveat in ranking.caveats)


def test_reading_tensors_that_changes_the_output_is_reported(int8_bundle, monkeypatch):
    add_outputs = diagnose.add_graph_outputs

    def moving(source, target, tensors):
        add_outputs(source, target, tensors)
        if source == int8_bundle / "model.onnx":
            model = ir.load(target)
            shift_bias(model.graph, 0.01)
            ir.save(model, target)

    monkeypatch.setattr(diagnose, "_first_usable_backend", lambda _: None)
    monkeypatch.setattr(diagnose, "add_graph_outputs", moving)
    ranking = diagnose.rank_layer_errors(make_bundle(int8_bundle))
    assert 0 < ranking.instrumented_snr_db < 60
    assert any(f"changes the output (SNR {ranking.instrumented_snr_db:.1f} dB" in caveat for caveat in ranking.caveats)


def test_layers_of_an_fp32_bundle_cannot_be_ranked(fp32_bundle):
    with pytest.raises(UsageError, match="is FP32: its graph is the exported one"):
        diagnose.rank_layer_errors(make_bundle(fp32_bundle))


# ── Samples ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_most_divergent_samples_come_first_with_thumbnails(int8_bundle):
    worst = diagnose.find_worst_samples(make_bundle(int8_bundle, data="digits", samples=12), 3)
    assert [sample.divergence for sample in worst.worst] == sorted(
        (sample.divergence for sample in worst.worst), reverse=True
    )
    assert len(worst.worst) == 3
    assert all(sample.thumbnail.startswith("data:image/jpeg;base64,") for sample in worst.worst)
    assert all(sample.label in {f"class {digit}" for digit in range(10)} for sample in worst.worst)


def test_changed_classes_are_reported_for_labelled_data(bundle):
    rewrite(bundle, lambda graph: shift_bias(graph, 1e3 * np.eye(10)[3]))
    worst = diagnose.find_worst_samples(make_bundle(bundle, data="digits", samples=40), 1)
    assert worst.classes
    assert {name for change in worst.classes for name in change.predicted_as} == {"class 3"}
    moved = [sum(change.predicted_as.values()) for change in worst.classes]
    assert moved == sorted(moved, reverse=True)
    assert worst.worst[0].candidate == "class 3"


def test_a_set_without_labels_has_no_classes(int8_bundle):
    worst = diagnose.find_worst_samples(make_bundle(int8_bundle), 2)
    assert worst.classes == ()
    assert [sample.label for sample in worst.worst] == [None, None]


def test_labels_outside_the_networks_classes_are_refused(int8_bundle, tmp_path):
    for label in range(12):
        folder = tmp_path / "images" / f"{label:02}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), label * 20, np.uint8)).save(folder / "image.png")
    with pytest.raises(InputError, match="the data has labels from 0 to 11, but the network has 10 classes"):
        diagnose.find_worst_samples(make_bundle(int8_bundle, data=str(tmp_path / "images"), samples=12), 1)


def test_fewer_samples_than_requested_are_noted(fp32_bundle, photograph, capfd):
    bundle = make_bundle(fp32_bundle, str(photograph.parent), 500)
    assert bundle.data.record.count == 1
    assert "has 1 sample, fewer than the 500 requested." in " ".join(capfd.readouterr().err.split())
