"""`deploykit bench` and `deploykit cmake-dir`: latency through Python and through the C++ library that is shipped."""

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from deploykit import bundles, native
from deploykit.bench.measure import Settings, measure
from deploykit.bench.native import NativeBench
from deploykit.cli.progress import TerminalProgress
from deploykit.errors import BackendError
from deploykit.values import Latency, StartUp

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


@pytest.fixture
def quick(monkeypatch):
    """A few calls: what they show is the concern of tests/bench."""
    few = Settings(window_s=0, agreement=1e9, iterations_at_least=3, seconds_at_least=0.001)
    monkeypatch.setattr(bundles, "measure", functools.partial(measure, settings=few))


@pytest.fixture
def built(monkeypatch):
    """A C++ library that was built before and answers this; a list of the calls it got."""
    calls = []

    def answer(program, folder, batch):
        calls.append((program, folder, batch))
        figures = Latency(batch, 50, 30, 1.0, 2.0, 3.0, 4.0, 1.5, 0.5, 666.7, settled=False)
        passed_over = ("tensorrt: no driver is installed.",)
        return NativeBench("ONNX Runtime 1.31.1", "model.onnx", passed_over, figures, StartUp(10, 20, 3), 3 << 20)

    monkeypatch.setattr(native, "build", lambda project, _: Path("/built", *project.programs).parent)
    monkeypatch.setattr(bundles, "measure_native", answer)
    return calls


@pytest.mark.usefixtures("quick")
def test_bench_prints_percentiles_spread_throughput_and_start_up(cli, fp32_bundle):
    result = cli("bench", fp32_bundle)
    assert result.code == 0, result.err
    assert result.out.startswith("nin_cifar10 fp32  onnxruntime ")
    for part in ("through Python, model.onnx", "batch 1, 3 calls", "p50", "p99", "mean", "±", "images/s", "first call"):
        assert part in result.text
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.usefixtures("quick")
def test_bench_as_json_is_one_versioned_document(cli, fp32_bundle):
    content = cli("bench", fp32_bundle, "--batch", 4, "--json").content
    latency = content["latency"]
    assert (content["model"], content["precision"], content["runtime"]) == ("nin_cifar10", "fp32", "python")
    assert (latency["batch"], latency["iterations"]) == (4, 3)
    assert 0 < latency["p50_ms"] <= latency["p99_ms"]
    assert min(content["start_up"].values()) > 0
    assert content["peak_memory_bytes"] > 1 << 20


@pytest.mark.usefixtures("quick")
def test_an_fp16_bundle_is_measured_too_and_says_what_that_means(cli, fp16_bundle):
    result = cli("bench", fp16_bundle)
    assert result.code == 0, result.err
    assert "ONNX Runtime's CPU provider computes in FP32" in result.text


@pytest.mark.parametrize("runtime", ["python", "cpp"])
@pytest.mark.parametrize("batch", [5, 64])
def test_a_batch_that_the_bundle_does_not_take_is_refused_with_those_it_takes(cli, fp32_bundle, built, runtime, batch):
    result = cli("bench", fp32_bundle, "--batch", batch, "--runtime", runtime)
    assert result.code == 2
    assert f"{fp32_bundle} takes batches of 1 to 4, not of {batch}." in result.text
    assert built == []


@pytest.mark.parametrize("words", [("--batch", 0), ("--batch", "many"), ("--runtime", "rust")])
def test_words_that_mean_nothing_are_wrong_usage(cli, fp32_bundle, words):
    assert cli("bench", fp32_bundle, *words).code == 2


def test_what_is_no_bundle_is_bad_input_before_anything_is_built(cli, tmp_path, built):
    result = cli("bench", tmp_path, "--runtime", "cpp")
    assert result.code == 3
    assert "is not a bundle" in result.text
    assert built == []


@pytest.mark.usefixtures("quick")
def test_a_damaged_bundle_is_not_measured(cli, bundle):
    (bundle / "model.onnx").write_bytes(b"short")
    result = cli("bench", bundle)
    assert result.code == 1
    assert "model.onnx has 5 bytes" in result.text


def test_the_cpp_path_gives_the_bundle_and_batch_to_the_program_and_prints_its_figures(cli, fp32_bundle, built):
    result = cli("bench", fp32_bundle, "--runtime", "cpp", "--batch", 2)
    assert result.code == 0, result.err
    assert built == [(Path("/built/deploykit-bench"), fp32_bundle, 2)]
    for part in (
        "nin_cifar10 fp32 ONNX Runtime 1.31.1 through the C++ library, model.onnx",
        "batch 2, 50 calls, warm-up never settled",
        "p50 1.00 ms, p90 2.00 ms, p95 3.00 ms, p99 4.00 ms",
        "mean 1.50 ± 0.50 ms, 666.7 images/s",
        "opened in 10 ms, loaded in 20 ms, first call 3.00 ms, peak memory 3.0 MiB",
        "note: the machine was busy, and these figures are of that moment",
        "note: tensorrt: no driver is installed.",
    ):
        assert part in result.text


def test_a_machine_that_cannot_build_says_what_to_install(cli, fp32_bundle, monkeypatch):
    def build(*_):
        raise BackendError("CMake is not installed.", native.TOOLS)

    monkeypatch.setattr(native, "build", build)
    result = cli("bench", fp32_bundle, "--runtime", "cpp")
    assert result.code == 4
    assert "CMake is not installed. On Debian and Ubuntu: apt install cmake" in result.text


# ── cmake-dir ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cmake_dir_prints_the_folder_that_find_package_wants_and_nothing_else(process):
    result = process("cmake-dir")
    assert (result.code, result.err) == (0, "")
    (line,) = result.out.splitlines()
    assert Path(line).is_absolute()
    assert (Path(line) / "deploykitConfig.cmake").is_file()


# ── The library itself ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def toolchain():
    """CMake, a compiler, and ONNX Runtime's headers where the tests of the C++ library keep them, or the system."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    laid_out = Path(os.environ.get("DEPLOYKIT_CPP_DEPENDENCIES") or ROOT / ".cpp")
    own = laid_out / "onnxruntime" / platform.machine()
    places = (own, *map(Path, ("/usr", "/usr/local")))
    if not any(list(place.glob("include/**/onnxruntime_c_api.h")) for place in places):
        pytest.skip("ONNX Runtime's headers are not installed; scripts/test_cpp fetches them")
    with pytest.MonkeyPatch.context() as patch:
        if own.is_dir() and "ONNXRuntime_ROOT" not in os.environ:
            patch.setenv("ONNXRuntime_ROOT", str(own))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("toolchain")
def test_the_shipped_library_is_built_once_and_measures(cli, fp32_bundle, bundle):
    content = cli("bench", fp32_bundle, "--runtime", "cpp", "--json").content
    latency = content["latency"]
    assert content["library"].startswith("ONNX Runtime ")
    assert (content["runtime"], content["file"]) == ("cpp", "model.onnx")
    assert (latency["batch"], latency["iterations"] >= 50) == (1, True)
    assert sorted(figures := [latency[name] for name in FIGURES]) == figures
    assert 0 < latency["throughput_per_s"] <= 1000 / latency["mean_ms"] * 1.001
    assert 1 << 20 < content["peak_memory_bytes"] < 1 << 32

    again = cli("bench", fp32_bundle, "--runtime", "cpp", "--batch", 4)
    assert again.code == 0, again.err
    assert "batch 4" in again.text

    (bundle / "model.onnx").write_bytes(b"short")
    refused = cli("bench", bundle, "--runtime", "cpp")
    assert refused.code == 1
    assert "model.onnx" in refused.text


@pytest.mark.slow
@pytest.mark.usefixtures("toolchain")
def test_the_program_answers_requests_one_by_one(fp32_bundle):
    program = native.build(native.BENCH, TerminalProgress()) / "deploykit-bench"
    words = (program, fp32_bundle, "--serve", "--threads", "1")
    done = subprocess.run(words, input="run\nrun\nmemory\n", capture_output=True, text=True, check=True)
    head, *answers = done.stdout.splitlines()
    assert '"runtime":"ONNX Runtime' in head
    first, second, peak = map(int, answers)
    assert min(first, second) > 1000
    assert peak > 1 << 20

    for wrong in (("--batch", "0"), ("--batch", "5"), ("--runtime", "rust"), ("--nope", "1"), ("--seconds", "1e99")):
        refused = subprocess.run((program, fp32_bundle, *wrong), capture_output=True, text=True, check=False)
        assert refused.returncode == 2, wrong
        assert refused.stdout == ""
