"""The Python API: its names, the arguments of its functions, and the results of a loaded bundle."""

import ast
import logging
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import deploykit
from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import read_golden
from deploykit.core.calibration import preprocess
from deploykit.core.extras import install_command, translate_import_errors
from deploykit.core.values import BatchRange, BudgetOptions, BuildOptions, CalibrationOptions, ImageOverrides
from deploykit.evaluate.parity.metrics import snr_db

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


# ── The package ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_importing_the_package_imports_no_other_package():
    program = "import sys; before = set(sys.modules); import deploykit; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {"deploykit", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", deploykit.__all__)
def test_every_public_name_exists_and_has_a_docstring(name):
    assert getattr(deploykit, name).__doc__
    assert name in dir(deploykit)


def test_type_checkers_see_exactly_the_public_names():
    """Type checkers do not run `__getattr__`; they read the imports under TYPE_CHECKING."""
    tree = ast.parse((ROOT / "deploykit" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name for _, name in imported} == set(deploykit.__all__)
    for module, name in imported:
        assert getattr(deploykit, name) is getattr(sys.modules[module], name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'deploykit' has no attribute 'exprot'"):
        _ = deploykit.exprot


def test_the_package_has_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", deploykit.__version__)


def test_the_guide_lists_every_function():
    named = set(re.findall(r"`(\w+)\(", GUIDE))
    functions = {name for name in deploykit.__all__ if name.islower()}
    assert functions <= named
    assert all(hasattr(deploykit, name) for name in named & set(re.findall(r"^\| `(\w+)\(", GUIDE, re.MULTILINE)))


# ── Requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CALIBRATED = ("--calibration", "digits", "--calibration-size", "64", "--observer", "minmax")
SAME = {
    "a name alone": ((), {}),
    "a precision": (("--bf16", "--opset", "22"), {"precision": "bf16", "opset": 22}),
    "int8": (
        ("--int8", "--fp16", *CALIBRATED, "--min-snr", "20"),
        {
            "precision": "int8-fp16",
            "calibration": CalibrationOptions("digits", 64, "minmax"),
            "budget": BudgetOptions(min_snr_db=20.0),
        },
    ),
    "a calibration set": (("--int8", "--calibration", "photos"), {"precision": "int8", "calibration": "photos"}),
    "weights": (("--seed", "7"), {"seed": 7}),
    "a checkpoint": (("--weights", "net.pth"), {"weights": "net.pth"}),
    "arguments": (("--model-arg", "num_classes=7"), {"arguments": {"num_classes": 7}}),
    "an image": (
        ("--input-size", "40x50", "--mean", "0.5,0.5,0.5", "--preprocess-in", "graph"),
        {"image": ImageOverrides(height=40, width=50, mean=(0.5, 0.5, 0.5)), "preprocess_in": "graph"},
    ),
    "a batch": (("--batch", "1:2:4", "--samples", "5"), {"batch": BatchRange(1, 2, 4), "samples": 5}),
    "a target": (("--target", "openvino", "--target", "onnxruntime"), {"target": ("openvino", "onnxruntime")}),
    "kinds of outputs": (("--output-kind", "logits=embedding"), {"output_kinds": {"logits": "embedding"}}),
    "a head": (("--head", "probabilities", "--fp16", "--io", "fp16"),
               {"head": "probabilities", "precision": "fp16", "io": "fp16"}),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), SAME.values(), ids=SAME)
def test_a_request_is_that_of_the_command_line(cli, monkeypatch, words, said):
    requests = []

    def export(request, *_):
        requests.append(request)
        raise deploykit.CheckFailed("seen enough.", "")

    monkeypatch.setattr("deploykit.workflows.export.export", export)
    assert cli("export", "nin_cifar10", *words).code == 1
    assert [deploykit.export_request("nin_cifar10", **said)] == requests


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"precision": "int8"}, "int8 and int8-fp16 require calibration"),
        ({"calibration": "photos"}, "int8 and int8-fp16 require calibration"),
        ({"budget": BudgetOptions(1.0)}, "an accuracy budget requires int8"),
        ({"head": "tail"}, "Invalid enum value 'tail'"),
        ({"samples": "many"}, "Expected `int`, got `str`"),
        ({"samples": 0}, "cannot be evaluated on 0 samples"),
        ({"io": "fp16"}, "need an FP16 graph"),
        ({"target": "onnxrunt"}, "did you mean onnxruntime or onnxruntime-cuda?"),
        ({"output_kinds": {"logits": "clases"}}, "unknown kind of output 'clases'; did you mean classes?"),
    ],
)
def test_invalid_arguments_are_refused(said, message):
    with pytest.raises(deploykit.UsageError, match=re.escape(message)):
        deploykit.export_request("nin_cifar10", **said)


def test_a_request_for_a_network_that_does_not_exist_is_refused_before_any_work(tmp_path):
    with pytest.raises(deploykit.InputError, match="did you mean resnet18"):
        deploykit.export_bundle("resnt18", tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


# ── Progress and missing packages ─────────────────────────────────────────────────────────────────────────────────────


def test_progress_goes_to_the_logger_only(caplog, capfd, small_export, tmp_path):  # noqa: ARG001 - it is brief
    request = deploykit.export_request("nin_cifar10", data="synthetic", samples=4, batch=BatchRange(1, 2, 4))
    with caplog.at_level(logging.INFO, "deploykit"):
        deploykit.export_bundle(request, tmp_path / "bundle")
    assert "measuring latency" in [record.message for record in caplog.records if record.name == "deploykit"]
    assert capfd.readouterr().out == ""


def test_notes_are_warnings(caplog):
    from deploykit.core.progress import LoggedProgress

    LoggedProgress().note("The TorchScript exporter was used.")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "The TorchScript exporter was used.")
    ]


@pytest.mark.parametrize(("module", "extra"), [("torch", "export"), ("onnx_ir", "compile"), ("matplotlib", "compile")])
def test_a_missing_package_is_reported_with_its_install_command(module, extra):
    with pytest.raises(deploykit.BackendError, match=re.escape(install_command(extra))), translate_import_errors():
        raise ModuleNotFoundError(name=f"{module}.inner")


def test_an_import_error_of_a_users_module_is_not_translated():
    with pytest.raises(ModuleNotFoundError), translate_import_errors():
        raise ModuleNotFoundError(name="torch_of_mine")


def test_the_command_line_exits_with_4_for_a_missing_package(cli, fp32_bundle, monkeypatch):
    def report(_):
        raise ModuleNotFoundError(name="jinja2")

    monkeypatch.setattr("deploykit.workflows.reporting.collect_report", report)
    result = cli("report", fp32_bundle)
    assert result.code == 4
    assert f"This needs Jinja, which is not installed. Install it with: {install_command('compile')}" in result.text


def test_a_report_that_cannot_be_rendered_fails_before_any_work(cli, bundle, monkeypatch, snapshot):
    before = snapshot(bundle)
    monkeypatch.setattr("deploykit.backends.openvino.OpenVino.compile", None)  # compiling would raise another error
    monkeypatch.setattr("deploykit.core.extras.importlib.util.find_spec", lambda _: None)
    result = cli("compile", bundle, "--target", "openvino")
    assert result.code == 4
    assert "which is not installed" in result.text
    assert snapshot(bundle) == before


# ── A loaded bundle ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pixels():
    def make(seed=0, size=(60, 80)):
        return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def loaded_bundle(fp32_bundle):
    return deploykit.load(fp32_bundle)


def test_a_loaded_bundle_has_inputs_and_outputs(loaded_bundle, fp32_bundle):
    manifest = manifests.read_manifest(fp32_bundle)
    assert (loaded_bundle.inputs, loaded_bundle.outputs) == (manifest.inputs, manifest.outputs)
    assert (loaded_bundle.manifest, loaded_bundle.engine, loaded_bundle.batch) == (
        manifest,
        manifest.engine,
        BatchRange(1, 2, 4),
    )
    assert loaded_bundle.labels == loaded_bundle.skipped_engines == ()


@pytest.mark.parametrize("name", ["fp32_bundle", "fp16_bundle", "int8_bundle"])
def test_golden_inputs_give_golden_outputs(request, name):
    folder = request.getfixturevalue(name)
    bundle = deploykit.load(str(folder))
    inputs, outputs = read_golden(folder, bundle.manifest)
    answers = bundle.run(inputs)
    least = bundle.manifest.parity.tolerance.min_snr_db
    for name, expected in outputs.items():
        assert snr_db(expected, answers[name]) >= least
    assert bundle.self_test().passed


def test_a_loaded_bundle_is_thread_safe(loaded_bundle, fp32_bundle):
    inputs, _ = read_golden(fp32_bundle, loaded_bundle.manifest)
    [expected] = loaded_bundle.run(inputs).values()
    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(lambda _: loaded_bundle.run(inputs), range(16)):
            np.testing.assert_allclose(answers["logits"], expected, rtol=1e-5, atol=1e-5)


FITTING = np.zeros((2, 3, 32, 32), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "the input 'input' is missing"),
        ({"input": FITTING, "image": FITTING}, "the bundle has no input 'image'"),
        ({"input": FITTING.astype(np.float64)}, "input is float64, not float32"),
        ({"input": FITTING.tolist()}, "input is a list, not an array"),
        ({"input": FITTING[0]}, "input is 3×32×32, not batch×3×32×32"),
        ({"input": FITTING[..., :31]}, "input is 2×3×32×31, not batch×3×32×32"),
        ({"input": np.zeros((), np.float32)}, "input is a scalar, not batch×3×32×32"),
        ({"input": FITTING[:0]}, "input has a batch of 0, and the bundle accepts 1 to 4"),
        ({"input": np.concatenate([FITTING] * 3)}, "input has a batch of 6, and the bundle accepts 1 to 4"),
    ],
)
def test_mismatched_arrays_are_refused_and_never_converted(loaded_bundle, arrays, message):
    with pytest.raises(deploykit.InputError, match=f"^{message}. The inputs are input: float32, batch×3×32×32"):
        loaded_bundle.run(arrays)


def test_images_are_preprocessed_by_the_manifest(loaded_bundle, pixels, tmp_path):
    image = pixels()
    Image.fromarray(image).save(tmp_path / "one.png")
    encoded = (tmp_path / "one.png").read_bytes()
    batch = loaded_bundle.preprocess([image, tmp_path / "one.png", str(tmp_path / "one.png"), encoded])
    expected = preprocess.preprocess_image(image, loaded_bundle.manifest.model.preprocessing)
    np.testing.assert_array_equal(batch["input"], np.stack([expected] * 4))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"junk", "'image 1' cannot be decoded"),
        ("nowhere.png", "there is no file 'nowhere.png'"),
        (7, "image 1 is of type int"),
        (np.zeros((4, 4), np.uint8), "an image must be H×W×3 uint8"),
        (np.zeros((4, 4, 3), np.int64), "an image must be H×W×3 uint8"),
    ],
    ids=["junk", "no file", "a number", "grey", "another type"],
)
def test_invalid_images_are_refused(loaded_bundle, pixels, image, message):
    with pytest.raises(deploykit.InputError, match=message):
        loaded_bundle.preprocess([pixels(), image])


def test_an_empty_list_of_images_is_refused(loaded_bundle):
    with pytest.raises(deploykit.InputError, match="list of images is empty"):
        loaded_bundle.preprocess([])


def test_images_beyond_one_batch_predict_as_single_ones_do(loaded_bundle, pixels):
    images = [pixels(seed) for seed in range(6)]
    predictions = loaded_bundle.predict(images, best=2)
    assert [prediction.image for prediction in predictions] == [f"image {number}" for number in range(6)]
    for one, image in zip(predictions, images, strict=True):
        [alone] = loaded_bundle.predict([image], best=2)
        assert one.classes == alone.classes
        assert one.scores == pytest.approx(alone.scores, rel=1e-4)


def test_a_path_keeps_its_name(loaded_bundle, photograph):
    assert deploykit.predict(loaded_bundle.folder, [photograph])[0].image == str(photograph)
    assert loaded_bundle.predict([], 1) == ()


def test_a_float16_runner_accepts_float32(cli, small_export, tmp_path):
    assert cli(*small_export, "--fp16", "--io", "fp16", "-o", tmp_path / "b").code == 0
    bundle = deploykit.load(tmp_path / "b")
    inputs, _ = read_golden(tmp_path / "b", bundle.manifest)
    half = {name: array.astype(np.float16) for name, array in inputs.items()}
    assert bundle.inputs[0].dtype == "float16"
    np.testing.assert_array_equal(bundle.run(inputs)["logits"], bundle.run(half)["logits"])


# ── Selection of the engine ───────────────────────────────────────────────────────────────────────────────────────────


def edit_manifest(bundle, **changes):
    manifest = msgspec.structs.replace(manifests.read_manifest(bundle), **changes)
    (bundle / "manifest.json").write_bytes(manifests.encode_manifest(manifest))
    return manifest


def of_tensorrt(bundle):
    """The same engine, recorded as TensorRT's."""
    return msgspec.structs.replace(manifests.read_manifest(bundle).engine, backend="tensorrt")


def test_an_engine_that_cannot_run_here_is_skipped_with_the_reason(bundle, monkeypatch):
    from deploykit.core.values import SecondaryEngine

    monkeypatch.setattr("deploykit.backends.is_installed", lambda name: name != "tensorrt")
    other = SecondaryEngine(manifests.read_manifest(bundle).engine, "not run")
    edit_manifest(bundle, engine=of_tensorrt(bundle), extra_engines=(other,))
    loaded = deploykit.load(bundle)
    assert loaded.engine.backend == "onnxruntime"
    [reason] = loaded.skipped_engines
    assert reason.startswith("The backend tensorrt needs tensorrt, which is not installed.")


def test_an_engine_that_failed_at_export_is_replaced_by_one_that_passed(bundle):
    from deploykit.core.values import SecondaryEngine

    pytest.importorskip("openvino")
    manifest = manifests.read_manifest(bundle)
    other = SecondaryEngine(
        msgspec.structs.replace(manifest.engine, backend="openvino"), None, manifest.parity, manifest.receipt
    )
    failed = msgspec.structs.replace(manifest.parity, passed=False, failures=("the cosine is 0.1",))
    edit_manifest(bundle, parity=failed, extra_engines=(other,))
    loaded = deploykit.load(bundle)
    assert loaded.engine.backend == "openvino"
    assert [reason.partition(" failed at export: ")[2] for reason in loaded.skipped_engines] == ["the cosine is 0.1."]
    assert deploykit.load(bundle, "onnxruntime").engine.backend == "onnxruntime"


def test_without_a_runnable_engine_the_error_names_the_remedy(bundle, monkeypatch):
    monkeypatch.setattr("deploykit.backends.is_installed", lambda name: name != "tensorrt")
    edit_manifest(bundle, engine=of_tensorrt(bundle))
    with pytest.raises(
        deploykit.BackendError, match=r"In Python, load it with backend='onnxruntime' instead\. .*\n.*\[gpu\]'"
    ):
        deploykit.load(bundle)


def test_the_graph_runs_in_another_library_on_request(int8_bundle):
    primary = manifests.read_manifest(int8_bundle).engine.backend
    other = "onnxruntime" if primary == "openvino" else "openvino"
    loaded = deploykit.load(int8_bundle, other)
    assert loaded.engine.backend == other
    assert f"evaluated with {primary}, not with {other}" in loaded.engine.caveats[0]
    assert loaded.self_test().passed


def test_an_unknown_library_is_refused(fp32_bundle):
    with pytest.raises(deploykit.UsageError, match=r"did you mean onnxruntime or onnxruntime-cuda\?"):
        deploykit.load(fp32_bundle, "onnxrunt")


def test_an_engine_that_is_not_in_the_bundle_is_refused_with_the_command_that_builds_it(fp32_bundle, monkeypatch):
    monkeypatch.setattr("deploykit.bundle.open.find_backend", lambda _: None)  # as if it were installed
    with pytest.raises(
        deploykit.BackendError, match=r"no engine for tensorrt. Build it here: deploykit compile [^ ]+ --t"
    ):
        deploykit.load(fp32_bundle, "tensorrt")


def test_a_newer_library_loads_the_graph(fp32_bundle, monkeypatch, snapshot):
    from deploykit.backends.onnxruntime import OnnxRuntime

    before = snapshot(fp32_bundle)
    monkeypatch.setattr(OnnxRuntime, "version", "9.9")
    loaded = deploykit.load(fp32_bundle)
    assert loaded.engine.version == "9.9"
    assert loaded.self_test().passed
    assert snapshot(fp32_bundle) == before


def test_a_damaged_bundle_is_refused(bundle):
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(deploykit.CheckFailed, match=r"model\.onnx"):
        deploykit.load(bundle)


def test_a_folder_that_is_not_a_bundle_is_refused(tmp_path):
    with pytest.raises(deploykit.InputError, match="is not a bundle"):
        deploykit.load(tmp_path)


def test_verify_returns_the_verdict_of_this_machine(fp32_bundle):
    manifest = deploykit.verify(fp32_bundle)
    assert manifest.parity.passed
    assert manifest.parity.data.count == manifest.golden.count


# ── Module objects and reports ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def module():
    import torch
    from torch import nn

    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.noise = nn.Dropout()

        def forward(self, left, right):
            return self.noise(self.layer(left)) + right

    torch.manual_seed(0)
    return Sums()


def test_a_users_module_is_saved_as_a_file_that_can_be_exported(module, tmp_path):
    import torch

    path = deploykit.write_program(module, tmp_path / "sums.pt2", right=(3,), left=(4,))
    assert path == str(tmp_path / "sums.pt2")
    assert module.training
    again = torch.export.load(path).module()
    left, right = torch.ones(5, 4), torch.ones(5, 3)
    torch.testing.assert_close(again(left, right), module.eval()(left, right))


@pytest.mark.parametrize(
    ("name", "shapes", "error", "message"),
    [
        ("sums.pt2", {}, deploykit.UsageError, "no input shapes were given"),
        ("sums.pt2", {"left": (4,)}, deploykit.UsageError, "missing a required argument: 'right'"),
        ("sums.pt2", {"left": (4,), "middle": (3,)}, deploykit.UsageError, "Sums has other arguments"),
        ("sums.onnx", {"left": (4,), "right": (3,)}, deploykit.UsageError, "does not end in .pt2"),
        ("sums.pt2", {"left": (9,), "right": (3,)}, deploykit.InputError, "torch.export cannot trace Sums"),
        ("no/sums.pt2", {"left": (4,), "right": (3,)}, deploykit.InputError, "cannot be written"),
    ],
)
def test_a_module_that_cannot_be_traced_is_refused_with_the_reason(module, tmp_path, name, shapes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        deploykit.write_program(module, tmp_path / name, **shapes)
    assert list(tmp_path.iterdir()) == []
    assert module.training


@pytest.mark.parametrize(
    ("name", "mark"), [("r.html", "<!doctype html>"), ("r.md", "# "), ("r.json", '"kind": "report"')]
)
def test_the_suffix_selects_the_report_format(fp32_bundle, tmp_path, name, mark):
    deploykit.write_report(fp32_bundle, tmp_path / name)
    assert mark in (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("bundles", "name", "message"), [(["."], "r.pdf", "Choose one of .html, .md, .json"), ([], "r.md", "no bundle")]
)
def test_an_unknown_report_format_is_refused(tmp_path, bundles, name, message):
    with pytest.raises(deploykit.UsageError, match=re.escape(message)):
        deploykit.write_report(bundles, tmp_path / name)


def test_an_extra_engine_is_built_and_evaluated(bundle):
    beside = deploykit.compile_engine(bundle, "openvino", BuildOptions())
    assert beside.failures == ()
    assert deploykit.load(bundle, "openvino").engine.caveats == beside.engine.caveats
    assert deploykit.read_manifest(bundle).extra_engines == (beside,)


def test_a_graph_is_inspected_node_by_node(fp32_bundle):
    rows = deploykit.inspect_graph(fp32_bundle)
    assert rows == deploykit.inspect_graph(str(fp32_bundle / "model.onnx"))
    assert "Conv" in {row.op_type for row in rows}


def test_the_layers_of_an_engine_on_a_cpu_have_times(fp32_bundle):
    (inspection,) = deploykit.inspect_engines(fp32_bundle, calls=3)
    convolutions = [layer for layer in inspection.layers if layer.arithmetic == "fp32"]
    assert convolutions
    assert all(layer.time_us > 0 and layer.nodes for layer in convolutions)


# ── The guide ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_guide_works_as_printed(int8_bundle, photograph, tmp_path, monkeypatch, capsys, quick_latency):  # noqa: ARG001
    """With a smaller network, to save time."""
    shutil.copytree(int8_bundle, tmp_path / "build" / "nin_cifar10-int8")
    Image.open(photograph).save(tmp_path / "cat.jpg")
    (tmp_path / "dog.jpg").write_bytes((tmp_path / "cat.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    space = {}
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block.replace("resnet18", "nin_cifar10"), "docs/python.md", "exec"), space)
    output = capsys.readouterr().out
    assert re.search(r"^cat.jpg \[\('class \d+', 0\.\d+\)", output, re.MULTILINE)
    assert space["outputs"]["logits"].shape[0] == 2
    assert space["parity"].passed
    assert space["manifest"].parity.passed
    assert [measurement.latency.batch for measurement in space["bench"].measurements] == [1, 4]
    assert (tmp_path / "build" / "report.html").is_file()


def test_a_single_array_instead_of_arrays_by_name_is_refused(fp32_bundle):
    with pytest.raises(deploykit.InputError, match="the inputs are a ndarray, not a dictionary of arrays by name"):
        deploykit.load(fp32_bundle).run(np.zeros((1, 3, 32, 32), np.float32))


def test_a_single_image_instead_of_a_list_is_refused(fp32_bundle):
    with pytest.raises(deploykit.InputError, match="Give a list"):
        deploykit.load(fp32_bundle).predict("cat.jpg")


def test_zero_classes_cannot_be_requested(fp32_bundle):
    with pytest.raises(deploykit.UsageError, match="the number of classes to predict is 0"):
        deploykit.load(fp32_bundle).predict([np.zeros((32, 32, 3), np.uint8)], best=0)
