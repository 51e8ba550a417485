"""The C++ library as a consumer uses it: found by CMake in three ways, in the README's program, in the examples, in C.

The builds need a compiler, CMake, Ninja, and ONNX Runtime where DEPLOYKIT_CPP_DEPENDENCIES says:
scripts/test_cpp lays that out and sets it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deploykit.backends import create_backend
from deploykit.bundle import load as runtime
from deploykit.bundle import manifest as manifests
from deploykit.core.calibration.preprocess import preprocess_image
from deploykit.core.cpp_choice import choose_cpp_engine
from deploykit.core.values import Prediction
from deploykit.report.precision import RUNTIMES

ROOT: Final = Path(__file__).resolve().parent.parent
LIBRARY: Final = ROOT / "deploykit/cpp"
DEPENDENCIES: Final = os.environ.get("DEPLOYKIT_CPP_DEPENDENCIES")
EXAMPLES: Final = ("classify", "camera_loop", "serve_threads")
QUICK: Final = ("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1")

pytestmark = pytest.mark.skipif(
    DEPENDENCIES is None, reason="DEPLOYKIT_CPP_DEPENDENCIES is not set: scripts/test_cpp runs these"
)


def environment() -> dict[str, str]:
    """Where CMake finds ONNX Runtime, as a user would configure it once for all projects."""
    runtime = f"{DEPENDENCIES}/onnxruntime/{platform.machine()}"
    return {**os.environ, "ONNXRuntime_ROOT": runtime, "CMAKE_GENERATOR": "Ninja"}


def run_command(*words: str | Path, folder: Path | None = None, given: bytes = b"") -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    done = subprocess.run(words, cwd=folder, env=environment(), input=given, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def run_checked(*words: str | Path, folder: Path | None = None) -> str:
    code, out, err = run_command(*words, folder=folder)
    assert code == 0, f"{words} ended with {code}\n{out}\n{err}"
    return out


def build_project(source: Path, folder: Path, *settings: str) -> Path:
    """The project, configured and built in the folder. Neither may warn."""
    assert "warning" not in run_checked("cmake", "-S", source, "-B", folder, *settings).lower()
    assert "warning" not in run_checked("cmake", "--build", folder).lower()
    return folder


def block(language: str) -> str:
    """The README's code of that language in the section on C++."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## In C++\n")[1].split("\n## ")[0]
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return str(code)


def write_consumer(folder: Path, how: str) -> Path:
    """The README's program, with find_package replaced."""
    folder.mkdir()
    (folder / "main.cpp").write_text(block("cpp"), encoding="utf-8")
    listed = block("cmake")
    assert "find_package(deploykit REQUIRED)" in listed
    (folder / "CMakeLists.txt").write_text(listed.replace("find_package(deploykit REQUIRED)", how), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The install folder of the shared library; the folder `build` next to it has the programs."""
    folder = tmp_path_factory.mktemp("shared")
    settings = ("-DBUILD_SHARED_LIBS=ON", "-DDEPLOYKIT_BENCH=ON", f"-DCMAKE_INSTALL_PREFIX={folder}/installed")
    build_project(LIBRARY, folder / "build", *settings, *QUICK)
    run_checked("cmake", "--install", folder / "build")
    return folder / "installed"


@pytest.fixture(scope="session")
def examples(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The programs, each a separate project that finds the installed library."""
    folder = tmp_path_factory.mktemp("examples")
    prefix = f"-DCMAKE_PREFIX_PATH={shared}"
    strict = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wpedantic -Wshadow -Wconversion"
    return {
        name: build_project(LIBRARY / "examples" / name, folder / name, prefix, strict, *QUICK) / name
        for name in EXAMPLES
    }


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of one size. Never change it."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        low = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(low).resize((90, 60), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    return folder


def in_python(bundle: Path, *images: Path) -> tuple[Prediction, ...]:
    return runtime.predict(bundle, images, 5)


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


# The README, and three ways to one target


def test_the_readme_shows_a_project_of_fifteen_lines() -> None:
    assert len((block("cmake") + block("cpp")).splitlines()) <= 15


def test_the_readme_works_as_printed(fp32_bundle: Path, tmp_path: Path, program: Callable[..., list[str]]) -> None:
    project, programs = write_consumer(tmp_path / "project", "find_package(deploykit REQUIRED)"), tmp_path / "bin"
    shutil.copytree(fp32_bundle, project / "build/densenet121-fp16")
    programs.mkdir()
    (python, c, start) = program()
    (programs / "deploykit").write_text(f'#!/bin/sh\nexec {python} {c} "{start}" "$@"\n')
    (programs / "deploykit").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    answer = subprocess.run(
        ["bash", "-e", "-c", block("sh")],
        cwd=project,
        env={**environment(), "PATH": path},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert "warning" not in (answer.stdout + answer.stderr).lower()
    grey = tmp_path / "grey.png"
    Image.new("RGB", (640, 480), (128, 128, 128)).save(grey)
    assert answer.stdout.splitlines()[-1] == in_python(fp32_bundle, grey)[0].labels[0]


def test_a_subdirectory_and_an_installed_static_library_work(fp32_bundle: Path, tmp_path: Path) -> None:
    inside = write_consumer(tmp_path / "inside", f"add_subdirectory({LIBRARY} deploykit)")
    shutil.copytree(fp32_bundle, inside / "build/densenet121-fp16")
    prefix = tmp_path / "installed"
    build_project(inside, inside / "out", "-DDEPLOYKIT_INSTALL=ON", f"-DCMAKE_INSTALL_PREFIX={prefix}", *QUICK)
    label = run_checked(inside / "out/app", folder=inside)
    run_checked("cmake", "--install", inside / "out")
    outside = write_consumer(tmp_path / "outside", "find_package(deploykit 0.1 REQUIRED)")
    (outside / "build").symlink_to(inside / "build")
    # The library's own headers do not name JSON's: an installed library is used without them.
    without_json = outside / "without.cmake"
    without_json.write_text("set(CMAKE_DISABLE_FIND_PACKAGE_nlohmann_json ON)\n")
    settings = (f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_PROJECT_INCLUDE={without_json}", *QUICK)
    build_project(outside, outside / "out", *settings)
    assert run_checked(outside / "out/app", folder=outside) == label


@pytest.mark.parametrize(
    ("version", "found"), [("0.1", True), ("0.1.0", True), ("0.1.1", False), ("0.2", False), ("1", False)]
)
@pytest.mark.parametrize("way", ["sources", "installed"])
def test_a_version_is_found_by_its_series(version: str, found: bool, way: str, shared: Path, tmp_path: Path) -> None:
    script = f"find_package(deploykit {version} QUIET)\nmessage(STATUS found=${{deploykit_FOUND}})"
    (tmp_path / "CMakeLists.txt").write_text(f"cmake_minimum_required(VERSION 3.16)\nproject(v CXX)\n{script}\n")
    folder = LIBRARY / "cmake" if way == "sources" else shared / "lib/cmake/deploykit"
    out = run_checked("cmake", "-S", tmp_path, "-B", tmp_path / "out", f"-Ddeploykit_DIR={folder}")
    assert f"found={int(found)}" in out


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        (["nlohmann_json"], "Install nlohmann-json3-dev"),
        (["OpenSSL"], "Install libssl-dev"),
        (["ONNXRuntime", "TensorRT"], "-DONNXRuntime_ROOT=/path"),
    ],
)
def test_a_missing_dependency_is_reported_with_its_install_command(
    missing: list[str], remedy: str, tmp_path: Path
) -> None:
    settings = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in missing]
    code, _, err = run_command("cmake", "-S", LIBRARY, "-B", tmp_path, *settings)
    assert code != 0
    assert remedy in " ".join(err.split())


# The examples


def test_classify_names_the_classes_that_python_names(
    examples: dict[str, Path], fp32_bundle: Path, pictures: Path
) -> None:
    images = sorted(pictures.iterdir())
    out = run_checked(examples["classify"], fp32_bundle, *images)
    expected = in_python(fp32_bundle, *images)
    lines = iter(out.splitlines())
    for prediction in expected:
        assert next(lines) == prediction.image
        for label, score in zip(prediction.labels, prediction.scores, strict=True):
            percent, name = next(lines).split(" %  ")
            assert name == label
            assert float(percent) == pytest.approx(100 * score, abs=0.02)
    assert not list(lines)


def test_camera_loop_gives_equal_results_for_a_folder_and_a_raw_stream(
    examples: dict[str, Path], fp32_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    images = sorted(pictures.iterdir())
    stream = b"".join(pixels(path).tobytes() for path in images)
    (tmp_path / "frames.rgb").write_bytes(stream)
    loop = examples["camera_loop"]
    for words, given in (
        ((pictures,), b""),
        (("--raw", "90x60", tmp_path / "frames.rgb"), b""),
        (("--raw", "90x60"), stream),
    ):
        code, out, err = run_command(loop, fp32_bundle, *words, given=given)
        assert (code, err) == (0, "")
        frames, summary = out.split("frames: 3\n")
        labels = [line.split(" %  ")[1] for line in frames.splitlines()]
        assert labels == [prediction.labels[0] for prediction in in_python(fp32_bundle, *images)]
        header, *rows = (line.split() for line in summary.splitlines())
        assert header == ["p50", "ms", "p90", "ms", "p99", "ms"]
        assert [row[0] for row in rows] == ["decode", "preprocess", "run", "top-k", "all"]
        for _, p50, p90, p99 in rows:
            assert 0 <= float(p50) <= float(p90) <= float(p99)


def test_camera_loop_ends_with_its_summary_when_interrupted(
    examples: dict[str, Path], fp32_bundle: Path, pictures: Path
) -> None:
    words: list[str | Path] = [examples["camera_loop"], fp32_bundle, "--raw", "90x60"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(pixels(pictures / "0.png").tobytes())
        running.stdin.flush()
        assert running.stdout.readline().startswith(b"decode")
        running.send_signal(signal.SIGINT)  # now it waits for a second frame
        assert running.wait(timeout=60) == 0
        assert running.stdout.read().startswith(b"frames: 1\n")


def test_serve_threads_reports_the_gain_of_more_threads(
    examples: dict[str, Path], fp32_bundle: Path, pictures: Path
) -> None:
    out = run_checked(examples["serve_threads"], fp32_bundle, pictures / "0.png", "--threads", "3", "--seconds", "1")
    runtime, header, *rows = out.splitlines()
    assert runtime.startswith("ONNX Runtime ")
    assert header.split()[:2] == ["threads", "images/s"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    for _, throughput, p50, p90, p99 in map(str.split, rows):
        assert float(throughput) > 0
        assert 0 < float(p50) <= float(p90) <= float(p99)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_its_usage(name: str, examples: dict[str, Path]) -> None:
    usage, unasked = run_command(examples[name], "--help"), run_command(examples[name])
    assert usage[1].startswith(f"usage: {name} BUNDLE ")
    assert usage == (0, usage[1], "")
    assert unasked == (2, "", usage[1])


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        ("classify {nowhere} {image}", 3, "manifest.json"),
        ("classify {bundle}", 2, "usage: "),
        ("classify {bundle} {nowhere}", 3, "there is no such file"),
        ("classify {bundle} {pictures}", 3, "there is no such file"),
        ("classify {bundle} {damaged}", 3, "it cannot be decoded"),
        ("classify {bundle} {text}", 3, "it cannot be decoded"),
        ("camera_loop {nowhere} {pictures}", 3, "manifest.json"),
        ("camera_loop {bundle} {nowhere}", 3, "there is no such folder"),
        ("camera_loop {bundle} {empty}", 3, "it is empty"),
        ("camera_loop {bundle} --raw", 2, "one folder or one raw stream"),
        ("camera_loop {bundle} {pictures} {pictures}", 2, "one folder or one raw stream"),
        ("camera_loop {bundle} --raw 0x60", 2, "not a frame size"),
        ("camera_loop {bundle} --raw 90", 2, "not a frame size"),
        ("camera_loop {bundle} --raw 90x60x3", 2, "not a frame size"),
        ("camera_loop {bundle} --raw 90x99999999999", 2, "not a frame size"),
        ("camera_loop {bundle} --raw 90x60 {nowhere}", 3, "cannot be opened"),
        ("camera_loop {bundle} --raw 90x60", 3, "there is no frame"),
        ("camera_loop {bundle} --raw 9000x60 {text}", 3, "ends within a frame"),
        ("serve_threads {nowhere} {image}", 3, "manifest.json"),
        ("serve_threads {bundle}", 2, "a bundle and an image are needed"),
        ("serve_threads {bundle} {nowhere}", 3, "there is no such file"),
        ("serve_threads {bundle} {damaged}", 3, "it cannot be decoded"),
        ("serve_threads {bundle} {image} --threads 0", 2, "'0' is not a valid number"),
        ("serve_threads {bundle} {image} --threads two", 2, "'two' is not a valid number"),
        ("serve_threads {bundle} {image} --threads 99999999999", 2, "is not a valid number"),
        ("serve_threads {bundle} {image} --seconds -1", 2, "'-1' is not a valid number"),
        ("serve_threads {bundle} {image} --theads 2", 2, "it is an unknown option"),
    ],
)
def test_invalid_arguments_are_refused_in_one_sentence(
    words: str, code: int, problem: str, examples: dict[str, Path], fp32_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    image = pictures / "0.png"
    places = {name: tmp_path / name for name in ("nowhere", "empty", "damaged", "text")}
    places["empty"].mkdir()
    places["damaged"].write_bytes(image.read_bytes()[:200])
    places["text"].write_text("no image\n")
    name, *arguments = words.format(bundle=fp32_bundle, image=image, pictures=pictures, **places).split()
    answer = run_command(examples[name], *arguments)
    assert (answer[0], answer[1]) == (code, "")
    assert problem in answer[2]
    assert problem == "usage: " or answer[2].count("\n") == 1


# The C interface


def test_c99_opens_and_runs_a_bundle(shared: Path, fp32_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    strict = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror")
    run_checked(
        *("gcc", *strict, ROOT / "tests/cpp/c_api_c99.c", "-o", tmp_path / "c99", f"-I{shared}/include"),
        *(f"-L{shared}/lib", "-ldeploykit", f"-Wl,-rpath,{shared}/lib"),
    )
    image = pictures / "0.png"
    height, width, _ = pixels(image).shape
    code, out, err = run_command(tmp_path / "c99", fp32_bundle, str(height), str(width), given=pixels(image).tobytes())
    assert (code, err) == (0, "")
    first, second, *best = out.splitlines()
    assert first.split() == ["input", "input", "0", "NCHW", "-1", "3", "32", "32"]
    assert second.split()[:4] == ["output", "logits", "0", "NC"]
    assert tuple(int(line.split()[1]) for line in best) == in_python(fp32_bundle, image)[0].classes


class TensorSpec(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_size_t),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("layout", ctypes.c_char_p),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_size_t),
        ("shape", ctypes.c_int64 * 8),
    ]

    def floats(self) -> NDArray[np.float32]:
        shape = tuple(self.shape[: self.rank])
        read = ctypes.cast(self.data, ctypes.POINTER(ctypes.c_float * int(np.prod(shape))))
        return np.array(read.contents, np.float32).reshape(shape)


class ImageView(ctypes.Structure):
    _fields_ = [
        ("pixels", ctypes.c_void_p),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("order", ctypes.c_int32),
        ("stride", ctypes.c_ssize_t),
    ]


class BatchRange(ctypes.Structure):
    _fields_ = [("minimum", ctypes.c_int64), ("optimum", ctypes.c_int64), ("maximum", ctypes.c_int64)]


class ClassScore(ctypes.Structure):
    _fields_ = [("index", ctypes.c_size_t), ("label", ctypes.c_char_p), ("probability", ctypes.c_float)]


class CallRefused(Exception):
    """The message of a function of the C interface."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Library:
    """deploykit.h by ctypes: a nonzero code is raised with its message."""

    def __init__(self, path: Path) -> None:
        self.functions = ctypes.CDLL(str(path))
        for name in ("version", "error_message", "error_problem", "error_where", "error_remedy"):
            self.function(name).restype = ctypes.c_char_p
        for name in ("bundle", "engine", "context", "preprocessor", "error"):
            self.function(f"{name}_free").restype = None

    def function(self, name: str) -> Any:
        return getattr(self.functions, f"deploykit_{name}")

    def call(self, name: str, *arguments: Any) -> None:
        error = ctypes.c_void_p()
        code = self.function(name)(*arguments, ctypes.byref(error))
        if code != 0:
            message = self.function("error_message")(error).decode()
            parts = (self.function(f"error_{part}")(error).decode() for part in ("where", "problem", "remedy"))
            assert message == "{}: {} {}".format(*parts)
            self.function("error_free")(error)
            raise CallRefused(code, message)

    def made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle


@pytest.fixture(scope="session")
def library(shared: Path) -> Library:
    return Library(shared / "lib/libdeploykit.so")


def test_the_library_has_the_version_of_the_package(library: Library) -> None:
    version = library.function("version")().decode()
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()


def test_ctypes_opens_and_runs_a_bundle(library: Library, fp32_bundle: Path, pictures: Path) -> None:
    manifest = manifests.read_manifest(fp32_bundle)
    images = [pixels(path) for path in sorted(pictures.iterdir())]
    preprocessing = manifest.model.preprocessing
    assert preprocessing is not None
    batch = np.stack([preprocess_image(image, preprocessing) for image in images])

    bundle = library.made("bundle_open", bytes(fp32_bundle))
    engine = library.made("engine_load", bundle, None)
    library.call("self_test", bundle, engine)
    specs, count = ctypes.POINTER(TensorSpec)(), ctypes.c_size_t()
    library.call("engine_inputs", engine, ctypes.byref(specs), ctypes.byref(count))
    assert [specs[index].name.decode() for index in range(count.value)] == [tensor.name for tensor in manifest.inputs]
    assert specs[0].shape[: specs[0].rank] == [-1, *batch.shape[1:]]
    sizes = BatchRange()
    library.call("engine_batch", engine, ctypes.byref(sizes))
    assert (sizes.minimum, sizes.maximum) == (manifest.batch.minimum, manifest.batch.maximum)

    preprocessor, context = library.made("preprocessor_create", bundle), library.made("context_create", engine)
    views = (ImageView * len(images))(*(ImageView(image.ctypes.data, *image.shape[:2], 0, 0) for image in images))
    given, outputs = Tensor(), ctypes.POINTER(Tensor)()
    library.call("preprocessor_run", preprocessor, views, ctypes.c_size_t(len(images)), ctypes.byref(given))
    np.testing.assert_array_equal(given.floats(), batch)
    library.call(
        "context_run", context, ctypes.byref(given), ctypes.c_size_t(1), ctypes.byref(outputs), ctypes.byref(count)
    )
    runner = create_backend("onnxruntime").load(manifest.engine, fp32_bundle)
    (expected,) = runner.run({"input": batch}).values()
    # The same library on the same graph; the order of its sums may depend on the number of threads.
    np.testing.assert_allclose(outputs[0].floats(), expected, rtol=1e-4, atol=1e-5)

    best = (ClassScore * 5)()
    for sample, prediction in enumerate(in_python(fp32_bundle, *sorted(pictures.iterdir()))):
        words = (ctypes.byref(outputs[0]), ctypes.c_size_t(sample), ctypes.c_size_t(5), best, ctypes.byref(count))
        library.call("top_k", bundle, *words)
        assert tuple(score.index for score in best[: count.value]) == prediction.classes
        assert [score.probability for score in best] == pytest.approx(prediction.scores, abs=1e-4)
    for name, handle in (("context", context), ("preprocessor", preprocessor), ("engine", engine), ("bundle", bundle)):
        library.function(f"{name}_free")(handle)


def test_ctypes_reads_refusals(library: Library, bundle: Path) -> None:
    opened = library.made("bundle_open", bytes(bundle))
    engine = library.made("engine_load", opened, None)
    context = library.made("context_create", engine)
    scalar = ctypes.c_float()
    wrong = Tensor(ctypes.addressof(scalar), 0, 1, (1,))
    outputs, count = ctypes.POINTER(Tensor)(), ctypes.c_size_t()
    with pytest.raises(CallRefused, match="input") as refused:
        library.call(
            "context_run", context, ctypes.byref(wrong), ctypes.c_size_t(1), ctypes.byref(outputs), ctypes.byref(count)
        )
    assert refused.value.code == 2
    (bundle / "model.onnx").write_bytes(b"something else")
    with pytest.raises(CallRefused, match=r"model\.onnx") as refused:
        library.made("bundle_open", bytes(bundle))
    assert refused.value.code == 1
    for name, handle in (("context", context), ("engine", engine), ("bundle", opened)):
        library.function(f"{name}_free")(handle)


# Tensors instead of images


class Tensors(NamedTuple):
    """A bundle without image inputs, and rows for it."""

    bundle: Path
    rows: dict[str, NDArray[Any]]

    @property
    def answers(self) -> dict[str, NDArray[Any]]:
        """The Python outputs for the rows."""
        return runtime.load(self.bundle).run(self.rows)


@pytest.fixture(scope="session")
def tensors(quick_latency: None, tmp_path_factory: pytest.TempPathFactory) -> Tensors:  # noqa: ARG001 - it is the patch
    """Two inputs and four outputs, of two types and three ranks, with names invalid as file names. Never change it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from deploykit.cli import run

    folder, random = tmp_path_factory.mktemp("tensors"), np.random.default_rng(0)
    held = {"w": random.standard_normal((6, 5)), "table": random.standard_normal((50, 3))}
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in held.items()]
    nodes = (
        helper.make_node("MatMul", ["data/x:0", "w"], ["scores of x"]),
        helper.make_node("Gather", ["table", "token ids"], ["tokens/found:0"]),
        helper.make_node("ReduceMax", ["scores of x"], ["../best"], axes=[1], keepdims=0),
        helper.make_node("ArgMax", ["scores of x"], ["where"], axis=1, keepdims=0),
    )
    input_specs = (("data/x:0", TensorProto.FLOAT, ["N", 6]), ("token ids", TensorProto.INT64, ["N", 4]))
    output_specs = (
        *(("scores of x", TensorProto.FLOAT, ["N", 5]), ("tokens/found:0", TensorProto.FLOAT, ["N", 4, 3])),
        *(("../best", TensorProto.FLOAT, ["N"]), ("where", TensorProto.INT64, ["N"])),
    )
    inputs, outputs = ([helper.make_tensor_value_info(*one) for one in side] for side in (input_specs, output_specs))
    graph = helper.make_graph(nodes, "two", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "two.onnx")
    rows: dict[str, Any] = {
        "data/x:0": random.standard_normal((8, 6)).astype(np.float32),
        "token ids": random.integers(0, 50, (8, 4)),
    }
    np.savez(folder / "rows.npz", **rows)
    words = ("--fp32", "--target", "onnxruntime", "--data", folder / "rows.npz", "-o", folder / "bundle")
    assert run(["export", str(folder / "two.onnx"), *map(str, words)]) == 0
    return Tensors(folder / "bundle", rows)


def test_ctypes_runs_several_inputs_and_reads_all_outputs(library: Library, tensors: Tensors) -> None:
    bundle = library.made("bundle_open", bytes(tensors.bundle))
    engine = library.made("engine_load", bundle, None)
    library.call("self_test", bundle, engine)
    context = library.made("context_create", engine)
    kinds = {"float32": 0, "int64": 5}
    inputs = (Tensor * 2)(
        *(
            Tensor(array.ctypes.data, kinds[array.dtype.name], array.ndim, array.shape)
            for array in tensors.rows.values()
        )
    )
    outputs, count = ctypes.POINTER(Tensor)(), ctypes.c_size_t()
    library.call("context_run", context, inputs, ctypes.c_size_t(2), ctypes.byref(outputs), ctypes.byref(count))
    specs = ctypes.POINTER(TensorSpec)()
    library.call("engine_outputs", engine, ctypes.byref(specs), ctypes.byref(count))
    assert count.value == 4
    for index, (name, expected) in enumerate(tensors.answers.items()):
        assert specs[index].name.decode() == name
        output, read = outputs[index], np.empty(expected.shape, np.float32)
        assert (tuple(output.shape[: output.rank]), output.type) == (expected.shape, kinds[expected.dtype.name])
        pointer = read.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        library.call("tensor_floats", ctypes.byref(output), pointer, ctypes.c_size_t(read.size))
        np.testing.assert_allclose(read, expected, rtol=1e-5, atol=1e-6)
    for kind, handle in (("context", context), ("engine", engine), ("bundle", bundle)):
        library.function(f"{kind}_free")(handle)


def test_a_bundle_of_tensors_refuses_images(library: Library, tensors: Tensors) -> None:
    bundle, takes_images = library.made("bundle_open", bytes(tensors.bundle)), ctypes.c_int(1)
    library.call("bundle_takes_images", bundle, ctypes.byref(takes_images))
    assert takes_images.value == 0
    with pytest.raises(CallRefused, match="this bundle takes no images") as refused:
        library.made("preprocessor_create", bundle)
    assert refused.value.code == 2
    library.function("bundle_free")(bundle)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_refuses_a_bundle_without_image_inputs(
    example: str, examples: dict[str, Path], tensors: Tensors, pictures: Path
) -> None:
    shown = pictures if example == "camera_loop" else pictures / "0.png"
    code, out, err = run_command(examples[example], tensors.bundle, shown)
    assert code == 2
    assert " %  " not in out
    assert "this bundle takes no images" in err


@pytest.mark.parametrize("example", ["classify", "camera_loop"])
def test_an_example_that_prints_classes_refuses_outputs_without_classes(
    example: str, examples: dict[str, Path], bundle: Path, pictures: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["model"]["head"] = "tensors"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = run_command(
        examples[example], bundle, pictures if example == "camera_loop" else pictures / "0.png"
    )
    assert (code, out) == (2, "")
    assert "it outputs tensors that are not declared as class scores" in err


def save_inputs(folder: Path, rows: dict[str, NDArray[Any]]) -> list[Path]:
    """A file for each input, in their order."""
    paths = [folder / f"in{index}.npy" for index in range(len(rows))]
    for path, array in zip(paths, rows.values(), strict=True):
        np.save(path, array)
    return paths


def test_deploykit_answer_reads_a_file_per_input_and_writes_one_per_output(
    shared: Path, tensors: Tensors, tmp_path: Path
) -> None:
    answer, outputs = shared.parent / "build/deploykit-answer", [tmp_path / f"out{index}.npy" for index in range(4)]
    said_of_itself = json.loads(
        run_checked(answer, tensors.bundle, "3", *save_inputs(tmp_path, tensors.rows), *outputs)
    )
    assert said_of_itself["file"] == "model.onnx"
    for path, expected in zip(outputs, tensors.answers.values(), strict=True):
        output = np.load(path)
        assert output.dtype == expected.dtype
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_deploykit_answer_reports_the_number_of_files(shared: Path, tensors: Tensors, tmp_path: Path) -> None:
    answer = shared.parent / "build/deploykit-answer"
    code, _, err = run_command(answer, tensors.bundle, "3", *save_inputs(tmp_path, tensors.rows), tmp_path / "out.npy")
    assert code == 2
    assert "it has 2 inputs and 4 outputs, and 3 files were given" in err


def test_deploykit_answer_refuses_inputs_of_different_lengths(shared: Path, tensors: Tensors, tmp_path: Path) -> None:
    answer, outputs = shared.parent / "build/deploykit-answer", [tmp_path / f"out{index}.npy" for index in range(4)]
    files = save_inputs(tmp_path, {**tensors.rows, "token ids": tensors.rows["token ids"][:5]})
    code, _, err = run_command(answer, tensors.bundle, "3", *files, *outputs)
    assert code == 3
    assert "it has 5 rows" in err


def test_deploykit_bench_measures_a_bundle_of_tensors(shared: Path, tensors: Tensors) -> None:
    quick = ("--seconds", "0.01", "--seconds-at-most", "0.1", "--iterations", "3")
    said_of_it = json.loads(
        run_checked(shared.parent / "build/deploykit-bench", tensors.bundle, "--batch", "3", *quick)
    )
    assert said_of_it["latency"]["batch"] == 3
    assert said_of_it["latency"]["p50_ms"] > 0


# The engine that the library loads


@pytest.fixture(scope="session")
def bundle_with_two_engines(int8_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The INT8 bundle with an engine of ONNX Runtime besides."""
    from deploykit.cli import run

    folder = Path(shutil.copytree(int8_bundle, tmp_path_factory.mktemp("engines") / "bundle"))
    run(["compile", str(folder), "--target", "onnxruntime"])  # 1 where ONNX Runtime has no INT8 kernels
    return folder


@pytest.mark.parametrize("name", ["fp32_bundle", "int8_bundle", "bundle_with_two_engines"])
def test_the_library_loads_the_engine_that_python_names(
    shared: Path, name: str, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(name)
    quick = ("--seconds", "0.01", "--seconds-at-most", "0.1", "--iterations", "3")
    loaded = json.loads(run_checked(shared.parent / "build/deploykit-bench", bundle, "--batch", "1", *quick))
    choice = choose_cpp_engine(manifests.read_manifest(bundle))
    assert loaded["file"] == choice.file
    assert loaded["runtime"].startswith(f"{RUNTIMES[choice.backend]} ")
    assert (choice.file == "model.onnx") == (name != "bundle_with_two_engines")
