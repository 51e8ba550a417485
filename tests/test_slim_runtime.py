"""A service that runs a bundle needs NumPy, a few small packages and one backend; neither PyTorch nor onnx."""

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "onnx", "onnx_ir", "onnxscript", "safetensors", "matplotlib", "jinja2")

ANSWERS = """
import sys
from pathlib import Path
import numpy as np
import deploykit

folder, image, heavy = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split()
bundle = deploykit.load(folder)
for kind in ("in", "out"):
    names = [spec.name for spec in (bundle.inputs if kind == "in" else bundle.outputs)]
    arrays = {name: np.load(folder / "golden" / f"{kind}.{name}.npy") for name in names}
    if kind == "in":
        answers = bundle.run(arrays)
for name, expected in arrays.items():
    np.testing.assert_allclose(answers[name], expected, rtol=0, atol=1e-3 * np.abs(expected).max())
assert bundle.self_test().passed
[predicted] = bundle.predict([image], 3)
assert len(predicted.classes) == 3
print("loaded:", *sorted(set(heavy) & {name.partition(".")[0] for name in sys.modules}))
"""


def run(*words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a process outside the checkout, which sees only installed packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    called = list(map(str, words))
    return subprocess.run(called, capture_output=True, text=True, check=False, env=environment, **options)


def test_loading_and_running_a_bundle_imports_no_export_dependency(fp16_bundle, photograph):
    done = run(sys.executable, "-c", ANSWERS, fp16_bundle, photograph, " ".join(HEAVY), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "loaded:\n"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_runs_without_onnx(int8_bundle, backend):
    program = f"""
import sys
import deploykit
bundle = deploykit.load(sys.argv[1], {backend!r})
assert bundle.self_test().passed
print("loaded:", *sorted({{*{HEAVY!r}}} & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = run(sys.executable, "-c", program, int8_bundle, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "loaded:\n"


RUNNING = (
    *("deploykit.bundle.load", "deploykit.workflows.benchmark", "deploykit.workflows.doctor"),
    *("deploykit.backends.onnxruntime", "deploykit.backends.openvino", "deploykit.backends.tensorrt.backend"),
    *(f"deploykit.cli.{verb}" for verb in ("verify", "running", "bench", "listing", "doctor", "cache", "cmake_dir")),
)


@pytest.mark.parametrize("module", RUNNING)
def test_runtime_modules_import_without_export_dependencies(module):
    done = run(
        sys.executable, "-c", f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); import {module}", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", ["deploykit.workflows.bundles", "deploykit.workflows.reporting", "deploykit.report.html.page"]
)
def test_compile_and_report_modules_import_without_pytorch(module):
    missing = ("torch", "torchvision", "onnxscript", "safetensors")
    done = run(
        sys.executable, "-c", f"import sys; sys.modules.update(dict.fromkeys({missing})); import {module}", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


# ── A whole installation ──────────────────────────────────────────────────────────────────────────────────────────────


def core_requirements() -> list[str]:
    """Requirements of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["cpu"]])
    return [str(requirement) for requirement in wanted if requirement.marker is None or requirement.marker.evaluate()]


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program folder of an environment with deploykit and the extra `cpu`, installed from a wheel."""
    folder = tmp_path_factory.mktemp("slim")
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    pip = (programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    installed = run(*pip, "--constraint", ROOT / "constraints.txt", *core_requirements())
    if installed.returncode != 0 and "No matching distribution" in installed.stderr + installed.stdout:
        pytest.skip("no package index is reachable")
    assert installed.returncode == 0, installed.stderr
    ours = run(*pip, "--no-deps", wheel)
    assert ours.returncode == 0, ours.stderr
    return programs


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_a_slim_installation_has_no_export_dependency(slim, name):
    done = run(slim / "python", "-c", f"import {name}")
    assert f"No module named '{name}'" in done.stderr


@pytest.mark.slow
def test_a_slim_installation_reproduces_the_golden_outputs(slim, fp32_bundle, photograph, tmp_path):
    done = run(slim / "python", "-c", ANSWERS, fp32_bundle, photograph, "", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_slim_installation_runs_int8(slim, int8_bundle, tmp_path):
    program = "import sys, deploykit; assert deploykit.load(sys.argv[1], 'onnxruntime').self_test().passed"
    done = run(slim / "python", "-c", program, int8_bundle, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["verify", "run", "bench"])
def test_a_slim_installation_has_the_verbs_that_a_device_needs(slim, fp32_bundle, photograph, tmp_path, verb):
    words = {"verify": (), "run": (photograph,), "bench": ("--iterations", "5", "--duration", "0.01")}[verb]
    done = run(slim / "deploykit", verb, fp32_bundle, *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "measuring onnxruntime\n" if verb == "bench" else "")
    expected = {"verify": "PASSED", "run": "class ", "bench": "p50"}[verb]
    assert expected in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("export", "nin_cifar10"), "export"),
        (("parity", "nin_cifar10"), "export"),
        (("inspect", "BUNDLE"), "compile"),
        (("compile", "BUNDLE", "--target", "openvino"), "compile"),
        (("report", "BUNDLE"), "compile"),
        (("bench", "BUNDLE", "--save"), "compile"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else given,
)
def test_the_other_verbs_name_the_install_command_they_need(slim, fp32_bundle, tmp_path, words, extra):
    called = [str(fp32_bundle) if word == "BUNDLE" else word for word in words]
    done = run(slim / "deploykit", *called, cwd=tmp_path)
    assert done.returncode == 4
    assert f".whl[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_doctor_finds_a_slim_installation_incomplete_but_not_broken(slim, tmp_path):
    done = run(slim / "deploykit", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert ".whl[export]'" in "".join(done.stdout.split())


@pytest.mark.slow
def test_a_function_that_needs_an_extra_names_its_install_command(slim, tmp_path):
    program = """
import deploykit
try:
    deploykit.export_bundle("nin_cifar10", "bundle")
except deploykit.BackendError as error:
    print(error)
"""
    done = run(slim / "python", "-c", program, cwd=tmp_path)
    assert ".whl[export]'" in done.stdout, done.stderr
