"""Where a bundle's error comes from: every stage, every layer and every sample of a real one, as it is and damaged."""

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
from deploykit.evaluate.parity import cpp_answers as cpp
from deploykit.workflows import diagnose
from deploykit.workflows.diagnose import DiagnosedBundle

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("openvino", reason="INT8 on a CPU is OpenVINO's: pip install 'deploykit[openvino]'")


@pytest.fixture
def bundle(int8_bundle, tmp_path):
    """A copy that the test may damage."""
    return Path(shutil.copytree(int8_bundle, tmp_path / "bundle"))


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine on which the C++ library cannot be built: elsewhere that takes half a minute."""

    def build(*_):
        raise BackendError("CMake is not installed.", "Install it.")

    monkeypatch.setattr(cpp_programs, "build", build)


def subject(folder, data=None, samples=None, weights=None):
    return DiagnosedBundle(folder, data, samples, weights, TerminalProgress())


def edit(bundle, change):
    """Let `change` rewrite the manifest as plain JSON."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def rewrite(bundle, change):
    """Let `change` rewrite the graph, and the manifest say that this is how it was written."""
    model = ir.load(bundle / "model.onnx")
    change(model.graph)
    ir.save(model, bundle / "model.onnx")
    content = (bundle / "model.onnx").read_bytes()
    record = {"path": "model.onnx", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    def enter(manifest):
        manifest["files"]["model.onnx"] = record
        manifest["engine"]["file"] = record

    edit(bundle, enter)


def widen(graph, tensor_of, factor=8):
    """Make the range of what one layer reads so many times as wide: its codes become as much coarser."""
    layer = next(node for node in graph if node.name == tensor_of)
    scale = layer.inputs[0].producer().inputs[1]
    scale.const_value = ir.tensor(np.float32(scale.const_value.numpy() * factor), name=scale.name)


def favour(graph, by):
    """Add to the bias of the last layer."""
    bias = next(node for node in graph if node.name == "classifier/Conv").inputs[2]
    bias.const_value = ir.tensor((bias.const_value.numpy() + by).astype(np.float32), name=bias.name)


# ── Stages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("no_compiler")
def test_of_a_good_bundle_no_stage_is_guilty(int8_bundle):
    found = diagnose.stages(subject(int8_bundle))
    assert found.guilty is None
    assert found.together == ()
    assert [stage.stage for stage in found.stages] == ["preprocessing", "export", "typing", "form", "engine", "C++"]
    assert [stage.tolerance.name for stage in found.stages][:2] == ["fp32", "fp32"]
    assert all(stage.own for stage in found.stages[:5])


@pytest.mark.usefixtures("no_compiler")
def test_what_cannot_be_built_here_is_told_and_no_error(int8_bundle):
    last = diagnose.stages(subject(int8_bundle)).stages[-1]
    assert (last.stage, last.unchecked) == ("C++", "CMake is not installed. Install it.")
    assert (last.own, last.outputs, last.failures) == ((), (), ())


@pytest.mark.usefixtures("no_compiler")
def test_ranges_that_were_damaged_are_the_typings_guilt(bundle):
    rewrite(bundle, lambda graph: widen(graph, "features.4/Conv", 32))
    found = diagnose.stages(subject(bundle))
    assert found.guilty.stage == "typing"
    assert found.guilty.subject == "the graph with Q/DQ pairs, as written"
    assert [stage.stage for stage in found.stages if stage.failures] == ["typing"]


@pytest.mark.usefixtures("no_compiler")
def test_on_the_samples_of_the_export_the_graph_may_not_be_much_worse_than_recorded(bundle):
    """An SNR that the bounds of INT8 would let pass."""
    rewrite(bundle, lambda graph: widen(graph, "features.4/Conv"))
    found = diagnose.stages(subject(bundle))
    assert found.guilty.stage == "typing"
    assert "below the int8 (as recorded) bound" in " ".join(found.guilty.failures)
    assert "twice that error is allowed" in found.guilty.tolerance.reasons["min_snr_db"]


@pytest.mark.usefixtures("no_compiler")
def test_beside_the_record_of_a_finer_form_the_graph_may_lose_twice_as_much(int8_bundle):
    whole = subject(int8_bundle)
    recorded = whole.manifest.parity.outputs[0].snr_db
    typing = next(stage for stage in diagnose.stages(whole).stages if stage.stage == "typing")
    assert typing.tolerance.min_snr_db == pytest.approx(recorded - 12)


@pytest.mark.usefixtures("no_compiler")
def test_on_other_samples_the_bounds_of_the_precision_hold(int8_bundle):
    found = diagnose.stages(subject(int8_bundle, data="digits", samples=4))
    assert found.stages[2].tolerance.name == "int8"
    assert found.data.name == "digits"


@pytest.mark.usefixtures("no_compiler")
def test_a_mean_that_was_changed_is_the_preprocessings_guilt_and_nobody_elses(bundle):
    edit(bundle, lambda manifest: manifest["model"]["preprocessing"].update(mean=[0.7, 0.7, 0.7]))
    found = diagnose.stages(subject(bundle))
    assert found.guilty.stage == "preprocessing"
    assert [stage.stage for stage in found.stages if stage.failures] == ["preprocessing"]
    assert any("preprocessing has mean 0.7, 0.7, 0.7, the network's own" in each for each in found.statements)
    export = found.stages[1]
    assert export.own[0].snr_db > 80 > export.outputs[0].snr_db


@pytest.mark.usefixtures("no_compiler")
def test_a_size_that_the_graph_does_not_take_ends_the_walk_at_preprocessing(bundle):
    edit(bundle, lambda manifest: manifest["model"]["preprocessing"].update(height=24, width=24))
    (stage,) = diagnose.stages(subject(bundle)).stages
    assert stage.failures == ("it makes inputs of 3×24×24, float32, and the graph takes 3×32×32, float32",)


@pytest.mark.usefixtures("no_compiler")
def test_the_preprocessing_of_samples_that_are_inputs_already_is_not_looked_at(int8_bundle, tmp_path):
    inputs = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    found = diagnose.stages(subject(int8_bundle, data=str(tmp_path / "inputs.npy"), samples=4))
    assert found.stages[0].unchecked == "the samples are inputs already, preprocessed elsewhere"
    assert found.guilty is None


@pytest.mark.usefixtures("no_compiler")
def test_an_fp32_bundle_has_no_typing_and_is_its_own_export(fp32_bundle):
    found = diagnose.stages(subject(fp32_bundle))
    assert [stage.stage for stage in found.stages] == ["preprocessing", "export", "engine", "C++"]
    assert found.stages[1].subject.startswith("the FP32 graph, the bundle's own, in onnxruntime ")
    assert found.guilty is None


@pytest.mark.usefixtures("no_compiler")
def test_an_fp16_bundle_is_cast_and_says_where_that_was_not_computed(fp16_bundle):
    found = diagnose.stages(subject(fp16_bundle))
    assert found.stages[2].subject == "the graph cast to FP16, as written"
    assert any("leaves out nearly all roundings in between" in each for each in found.statements)


@pytest.mark.usefixtures("no_compiler")
def test_a_weight_of_an_fp32_bundle_that_was_changed_is_the_exports_guilt(fp32_bundle, tmp_path):
    bundle = Path(shutil.copytree(fp32_bundle, tmp_path / "bundle"))

    def transpose(graph):
        weight = graph.initializers["features.2.weight"]
        weight.const_value = ir.tensor(np.ascontiguousarray(weight.const_value.numpy()[::-1]), name=weight.name)

    rewrite(bundle, transpose)
    assert diagnose.stages(subject(bundle)).guilty.stage == "export"


@pytest.mark.usefixtures("no_compiler")
def test_an_engine_that_cannot_be_loaded_here_is_told(bundle, monkeypatch):
    def loaded(*_):
        raise BackendError("engine.plan cannot run here: no NVIDIA driver is installed.", "")

    monkeypatch.setattr(diagnose, "loaded", loaded)
    found = diagnose.stages(subject(bundle))
    engine = next(stage for stage in found.stages if stage.stage == "engine")
    assert "no NVIDIA driver is installed" in engine.unchecked
    assert found.guilty is None


def test_the_samples_must_not_be_those_of_calibration(int8_bundle, tmp_path):
    """The rule of every other verdict, whatever is looked at."""
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{seed}.png")
    seen = [
        each["sha256"] for each in json.loads((int8_bundle / "manifest.json").read_text())["calibration"]["samples"]
    ]
    taken = subject(int8_bundle, data=str(images), samples=3).data
    copied = Path(shutil.copytree(int8_bundle, tmp_path / "bundle"))

    def claim(manifest):
        manifest["calibration"]["samples"][0]["sha256"] = taken.digests[0].sha256

    edit(copied, claim)
    assert seen
    with pytest.raises(InputError, match="1 of 3 samples that parity is judged on are calibrated on too"):
        subject(copied, data=str(images), samples=3)


# ── C++ ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def library(monkeypatch, int8_bundle):
    """A C++ library that answers what the test says."""
    monkeypatch.setattr(cpp_programs, "build", lambda *_: Path("/built"))

    def answers(function):
        def given(program, bundle, batches, size, inputs, outputs):
            assert (program, bundle, size) == (Path("/built/deploykit-answer"), int8_bundle, 4)
            said = cpp.Answered("ONNX Runtime 9.9", "model.onnx", ("tensorrt: no driver is installed.",))
            (name,), (answered,) = inputs, outputs
            return said, {answered: function(np.concatenate([batch[name] for batch in batches]))}

        monkeypatch.setattr(cpp, "answers", given)

    return answers


def test_a_cpp_library_that_answers_otherwise_is_guilty(int8_bundle, library):
    library(lambda inputs: np.random.default_rng(0).standard_normal((len(inputs), 10)))
    found = diagnose.stages(subject(int8_bundle))
    assert found.guilty.stage == "C++"
    assert found.guilty.subject == "ONNX Runtime 9.9 in C++, model.onnx"
    assert "the C++ library passed over tensorrt: no driver is installed." in found.statements


def test_a_cpp_library_that_answers_alike_is_not(int8_bundle, library):
    asked = subject(int8_bundle)
    library(lambda _: asked.judged["logits"])
    found = diagnose.stages(asked)
    assert found.guilty is None
    assert found.stages[-1].own[0].snr_db is None
    assert diagnose.FROM_PYTHON in found.statements


@pytest.mark.parametrize(
    ("error", "guilty"),
    [
        (BackendError("ONNX Runtime is not built in.", ""), None),
        (InternalError("deploykit-answer died by SIGSEGV.", "Report it."), "C++"),
    ],
    ids=["refuses", "dies"],
)
def test_a_cpp_library_that_refuses_is_told_and_one_that_dies_is_guilty(int8_bundle, library, error, guilty):
    def fails(_):
        raise error

    library(fails)
    found = diagnose.stages(subject(int8_bundle))
    assert (found.guilty and found.guilty.stage) == guilty
    last = found.stages[-1]
    assert error.what.rstrip(".") in (last.unchecked or last.failures[0])


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
def test_the_shipped_library_answers_as_the_same_library_does_in_python(fp32_bundle):
    last = diagnose.stages(subject(fp32_bundle, samples=6)).stages[-1]
    assert last.subject.startswith("ONNX Runtime ")
    assert last.subject.endswith(" in C++, model.onnx")
    assert last.own[0].snr_db is None or last.own[0].snr_db > 100
    assert last.failures == ()


@pytest.mark.slow
@pytest.mark.usefixtures("toolchain")
def test_the_program_says_what_it_does_not_take(fp32_bundle, tmp_path):
    program = cpp_programs.build(cpp_programs.BENCH, TerminalProgress()) / "deploykit-answer"
    good, out = tmp_path / "good.npy", tmp_path / "out.npy"
    np.save(good, np.zeros((3, 3, 32, 32), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((3, 3, 32, 32)))
    np.save(tmp_path / "empty.npy", np.zeros((0, 3, 32, 32), np.float32))
    np.save(tmp_path / "small.npy", np.zeros((3, 3, 31, 31), np.float32))
    for words, error, message in (
        ((fp32_bundle, 2, good), UsageError, "it takes four words"),
        ((fp32_bundle, "2x", good, out), UsageError, "'2x' is no batch size"),
        ((fp32_bundle, 2, tmp_path / "double.npy", out), InputError, "its elements are of the type '<f8'"),
        ((fp32_bundle, 2, tmp_path / "empty.npy", out), InputError, "it has no rows"),
        ((fp32_bundle, 2, tmp_path / "small.npy", out), UsageError, "it is 2×3×31×31, and the network takes 2×3×32×32"),
        ((fp32_bundle, 2, tmp_path / "none.npy", out), InputError, "No such file or directory"),
        ((fp32_bundle, 2, good, tmp_path / "nowhere" / "out.npy"), InputError, "it cannot be written"),
        ((tmp_path, 2, good, out), InputError, "it is not a bundle"),
    ):
        with pytest.raises(error, match=message):
            cpp_programs.run(program, *words)
    cpp_programs.run(program, fp32_bundle, 2, good, out)
    assert np.load(out).shape == (3, 10)


# ── Layers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_layer_is_ranked_by_what_it_adds_under_its_modules_name(int8_bundle):
    found = diagnose.layers(subject(int8_bundle))
    assert len(found.layers) == 9
    assert [error.added for error in found.layers] == sorted((error.added for error in found.layers), reverse=True)
    assert {error.module for error in found.layers} >= {"features.0", "features.4", "classifier"}
    assert all(error.op_type == "Conv" and error.snr_db > 10 for error in found.layers)


@pytest.mark.parametrize("layer", ["features.4", "features.16"])
def test_the_layer_whose_range_was_damaged_is_the_worst(bundle, layer):
    rewrite(bundle, lambda graph: widen(graph, f"{layer}/Conv", 32))
    worst, second, *_ = diagnose.layers(subject(bundle)).layers
    assert worst.module == layer
    assert worst.added > 10 * second.added


def test_layers_of_fp16_are_ranked_too(fp16_bundle):
    found = diagnose.layers(subject(fp16_bundle))
    assert len(found.layers) == 9
    assert all(1e-12 < error.added < 1e-4 for error in found.layers[:5])


def test_looking_that_moves_nothing_is_not_mentioned(int8_bundle, monkeypatch):
    monkeypatch.setattr(diagnose, "_compiler", lambda _: None)  # as written: nothing is fused, nothing can move
    found = diagnose.layers(subject(int8_bundle))
    assert found.moved_db is None
    assert not any("moves the output" in each for each in found.statements)
    assert any("ONNX Runtime, as it is written," in each for each in found.statements)


def test_looking_that_moves_the_output_is_told(int8_bundle, monkeypatch):
    expose = diagnose.expose

    def moving(source, target, tensors):
        expose(source, target, tensors)
        if source == int8_bundle / "model.onnx":
            model = ir.load(target)
            favour(model.graph, 0.01)
            ir.save(model, target)

    monkeypatch.setattr(diagnose, "_compiler", lambda _: None)
    monkeypatch.setattr(diagnose, "expose", moving)
    found = diagnose.layers(subject(int8_bundle))
    assert 0 < found.moved_db < 60
    assert any(f"moves the output (SNR {found.moved_db:.1f} dB" in each for each in found.statements)


def test_an_fp32_bundle_has_no_layer_to_blame(fp32_bundle):
    with pytest.raises(UsageError, match="is FP32: its graph is the exported one"):
        diagnose.layers(subject(fp32_bundle))


# ── Samples ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_samples_that_differ_most_come_first_with_their_pictures(int8_bundle):
    found = diagnose.samples(subject(int8_bundle, data="digits", samples=12), 3)
    assert [sample.divergence for sample in found.worst] == sorted(
        (sample.divergence for sample in found.worst), reverse=True
    )
    assert len(found.worst) == 3
    assert all(sample.thumbnail.startswith("data:image/jpeg;base64,") for sample in found.worst)
    assert all(sample.label in {f"class {digit}" for digit in range(10)} for sample in found.worst)


def test_classes_that_changed_are_told_where_there_are_labels(bundle):
    rewrite(bundle, lambda graph: favour(graph, 1e3 * np.eye(10)[3]))
    found = diagnose.samples(subject(bundle, data="digits", samples=40), 1)
    assert found.classes
    assert {name for change in found.classes for name in change.went_to} == {"class 3"}
    moved = [sum(change.went_to.values()) for change in found.classes]
    assert moved == sorted(moved, reverse=True)
    assert found.worst[0].candidate == "class 3"


def test_a_set_without_labels_has_no_classes(int8_bundle):
    found = diagnose.samples(subject(int8_bundle), 2)
    assert found.classes == ()
    assert [sample.label for sample in found.worst] == [None, None]


def test_labels_that_the_network_has_no_class_for_are_refused(int8_bundle, tmp_path):
    for label in range(12):
        folder = tmp_path / "images" / f"{label:02}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), label * 20, np.uint8)).save(folder / "image.png")
    with pytest.raises(InputError, match="the data has labels from 0 to 11, the network 10 classes"):
        diagnose.samples(subject(int8_bundle, data=str(tmp_path / "images"), samples=12), 1)
