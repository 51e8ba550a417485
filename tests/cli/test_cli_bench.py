"""`deploykit bench` and `deploykit cmake-dir`: latency through Python and through the shipped C++ library."""

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from deploykit.cli.progress import TerminalProgress
from deploykit.core import cpp_programs
from deploykit.core.errors import BackendError
from deploykit.core.values import Interval, Latency, StartupTimes
from deploykit.evaluate.latency import alternate
from deploykit.evaluate.latency.compare import LatencyComparison
from deploykit.evaluate.latency.cpp_runtime import CppBench
from deploykit.evaluate.latency.measure import Settings, measure_calls
from deploykit.evaluate.latency.statistics import MIN_PAIRS
from deploykit.workflows import benchmark, reporting

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


FEW = ("--duration", 0.05, "--iterations", 3)
"""Settings of a short measurement; tests/evaluate/latency tests the figures."""


QUICK = functools.partial(Settings, window_s=0, agreement=1e9)


@pytest.fixture(autouse=True)
def quick_warm_up(monkeypatch):
    """Warm-up settles at once, on a busy machine too."""
    monkeypatch.setattr("deploykit.evaluate.latency.measure.Settings", QUICK)


@pytest.fixture
def built(monkeypatch):
    """A prebuilt C++ program with this output; a list of the calls it received."""
    calls = []

    def answer(program, folder, batch, settings):
        calls.append((program, folder, batch, settings))
        figures = Latency(batch, 50, 30, 1.0, 2.0, 3.0, 4.0, 1.5, 0.5, 600.0 + batch, settled=False)
        return CppBench(
            runtime="ONNX Runtime 1.31.1",
            file="model.onnx",
            skipped_engines=("tensorrt: no driver is installed.",),
            start_up=StartupTimes(10, 20, 3),
            latency=figures,
            peak_memory_bytes=3 << 20,
            durations_ns=(1, 2, 3),
        )

    monkeypatch.setattr(cpp_programs, "build_programs", lambda project, _: Path("/built", project.programs[0]).parent)
    monkeypatch.setattr(benchmark, "measure_cpp", answer)
    return calls


def test_bench_prints_percentiles_spread_throughput_and_start_up(cli, fp32_bundle):
    result = cli("bench", fp32_bundle, *FEW)
    assert result.code == 0, result.err
    assert result.out.startswith("nin_cifar10 fp32  onnxruntime ")
    for part in (
        "through Python, model.onnx",
        "batch calls p50 ms",
        "mean ± ms CoV samples/s",
        "first call",
        "peak memory",
    ):
        assert part in result.text


def test_bench_as_json_is_one_versioned_document_with_every_duration(cli, fp32_bundle):
    content = cli("bench", fp32_bundle, "--batch", 4, *FEW, "--json").content
    (measured,) = content["measurements"]
    latency = measured["latency"]
    assert (content["model"], content["precision"], content["runtime"]) == ("nin_cifar10", "fp32", "python")
    assert latency["batch"] == 4
    assert len(measured["durations_ns"]) == latency["iterations"] >= 3
    assert max(measured["durations_ns"]) / 1e6 == measured["p999_ms"]
    assert (content["knee"], measured["threads"], measured["rate_per_s"]) == (None, 1, None)
    assert min(content["start_up"].values()) > 0
    assert content["peak_memory_bytes"] > 1 << 20
    assert [condition["device"] for condition in content["conditions"]].count("CPU") <= 1


def test_several_batch_sizes_are_a_row_each_and_the_knee_is_one_of_them(cli, fp32_bundle):
    content = cli("bench", fp32_bundle, "--batch", "4,1,2", *FEW, "--json").content
    assert [measurement["latency"]["batch"] for measurement in content["measurements"]] == [1, 2, 4]
    assert content["knee"] in (1, 2, 4)


def test_the_minimum_of_iterations_is_run(cli, fp32_bundle):
    content = cli("bench", fp32_bundle, "--iterations", 70, "--duration", 0.001, "--json").content
    assert content["measurements"][0]["latency"]["iterations"] >= 70


def test_several_callers_share_the_engine(cli, fp32_bundle):
    content = cli("bench", fp32_bundle, "--threads", 3, *FEW, "--json").content
    assert content["measurements"][0]["threads"] == 3


def test_an_arrival_rate_is_met_and_reported(cli, fp32_bundle):
    words = ("bench", fp32_bundle, "--rate", 40, "--threads", 2, "--duration", 0.3, "--iterations", 5)
    content = cli(*words, "--json").content
    assert (content["measurements"][0]["rate_per_s"], content["measurements"][0]["threads"]) == (40, 2)
    printed = cli(*words)
    assert "open loop: Poisson arrivals at 40 requests/s, served by 2 callers" in printed.text


def test_an_fp16_bundle_is_measured_with_its_caveat(cli, fp16_bundle):
    result = cli("bench", fp16_bundle, *FEW)
    assert result.code == 0, result.err
    assert "ONNX Runtime's CPU provider computes in FP32" in result.text


@pytest.mark.parametrize("runtime", ["python", "cpp"])
@pytest.mark.parametrize("batch", ["5", "64", "1,5"])
def test_an_unsupported_batch_size_is_refused_and_the_supported_ones_are_named(cli, fp32_bundle, built, runtime, batch):
    result = cli("bench", fp32_bundle, "--batch", batch, "--runtime", runtime)
    assert result.code == 2
    assert f"{fp32_bundle} accepts batches of 1 to 4, not of {batch.split(',')[-1]}." in result.text
    assert built == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch", "0"), "write batch sizes separated by commas, such as 1,2,4,8"),
        (("--batch", "1,,2"), "write batch sizes separated by commas"),
        (("--batch", "many"), "write batch sizes separated by commas"),
        (("--duration", "0"), "write a number of seconds, 0.001 to 86400"),
        (("--duration", "nan"), "write a number of seconds"),
        (("--duration", "soon"), "write a number of seconds"),
        (("--rate", "-1"), "write a number of calls per second, 0.001 to 100000"),
        (("--rate", "inf"), "write a number of calls per second"),
        (("--iterations", "0"), "'--iterations': 0 is not in the range"),
        (("--threads", "0"), "'--threads': 0 is not in the range"),
        (("--runtime", "rust"), "'rust' is not one of"),
        (("--loadgen", "Sometimes"), "'Sometimes' is not one of"),
        (("--loadgen", "Server"), "--loadgen Server needs --rate"),
        (("--loadgen", "Offline", "--rate", "5"), "the other scenarios exclude it"),
        (("--loadgen", "Offline", "--threads", "2"), "--loadgen and --threads exclude each other"),
        (("--rounds", "9"), "--rounds needs --compare"),
        (("--fail-if", "slower:5%"), "--fail-if needs --compare"),
        (("--threads", "2", "--runtime", "cpp"), "--threads needs --runtime python"),
        (("--rate", "2", "--runtime", "cpp"), "--rate needs --runtime python"),
        (("--compare",), "--compare needs two bundles, not 1"),
    ],
)
def test_invalid_or_conflicting_options_are_usage_errors(cli, fp32_bundle, words, said):
    result = cli("bench", fp32_bundle, *words)
    assert result.code == 2
    assert said in result.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Several bundles need --compare"),
        (("--compare", "--threads", "2"), "--compare and --threads exclude each other"),
        (("--compare", "--rate", "2"), "--compare and --rate exclude each other"),
        (("--compare", "--save"), "--compare and --save exclude each other"),
        (("--compare", "--iterations", "9"), "--compare and --iterations exclude each other"),
        (("--compare", "--rounds", "9", "--duration", "1"), "--rounds and --duration exclude each other"),
        (("--compare", "--rounds", MIN_PAIRS - 1), f"{MIN_PAIRS}<=x"),
        (("--compare", "--batch", "1,2"), "--compare needs a single --batch"),
        (("--compare", "--batch", "5"), "accepts batches of 1 to 4, not of 5"),
        (("--compare", "--fail-if", "slower"), "write slower:NUMBER%, such as slower:5%"),
        (("--compare", "--fail-if", "slower:5"), "write slower:NUMBER%"),
        (("--compare", "--fail-if", "slower:-5%"), "write slower:NUMBER%"),
        (("--compare", "--fail-if", "faster:5%"), "write slower:NUMBER%"),
    ],
)
def test_options_invalid_for_two_bundles_are_usage_errors(cli, fp32_bundle, fp16_bundle, words, said):
    result = cli("bench", fp32_bundle, fp16_bundle, *words)
    assert result.code == 2
    assert said in result.text


@pytest.mark.parametrize("words", [("--runtime", "cpp"), ("--compare",)])
def test_a_path_that_is_not_a_bundle_is_bad_input_before_anything_is_built(cli, fp32_bundle, tmp_path, built, words):
    result = cli("bench", *((fp32_bundle,) if "--compare" in words else ()), tmp_path, *words)
    assert result.code == 3
    assert "is not a bundle" in result.text
    assert built == []


def test_a_damaged_bundle_is_not_measured(cli, bundle):
    (bundle / "model.onnx").write_bytes(b"short")
    result = cli("bench", bundle)
    assert result.code == 1
    assert "model.onnx has 5 bytes" in result.text


# ── Two bundles ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def single_call_blocks(monkeypatch):
    """Blocks of one call without a pause: tests/evaluate/latency covers their purpose."""
    monkeypatch.setitem(alternate.alternate_blocks.__kwdefaults__, "pause_s", 0)
    monkeypatch.setitem(alternate.alternate_blocks.__kwdefaults__, "block_s", 0)


@pytest.mark.usefixtures("single_call_blocks")
def test_two_bundles_are_compared_in_turn(cli, fp32_bundle, fp16_bundle):
    result = cli("bench", fp32_bundle, fp16_bundle, "--compare", "--rounds", 6)
    assert result.code == 0, result.err
    for part in ("first: nin_cifar10 fp32", "second: nin_cifar10 fp16", "the median of 6 rounds", "in one process"):
        assert part in result.text


@pytest.fixture
def slower_second(monkeypatch):
    """A comparison in which the second takes 6 % longer, ± 0.5 %."""

    def compared(first, _second, batch, rounds, clock, _settings, warmup_s):
        figures = measure_calls(first, batch, clock, Settings(0, 2, 1e9, 1, 3, 1e-6))
        assert warmup_s == 0, "neither runs on a GPU"
        return LatencyComparison(figures, figures, Interval(1.06, 1.055, 1.065), rounds)

    monkeypatch.setattr(benchmark, "compare_calls", compared)


@pytest.mark.usefixtures("slower_second")
@pytest.mark.parametrize(
    ("limit", "code"), [("slower:5%", 1), ("slower:5.4%", 1), ("slower:5.6%", 0), ("slower:7%", 0)]
)
def test_a_second_that_is_slower_than_allowed_beyond_the_noise_exits_with_1(cli, fp32_bundle, limit, code):
    result = cli("bench", fp32_bundle, fp32_bundle, "--compare", "--rounds", 6, "--fail-if", limit)
    assert result.code == code
    assert "the second is slower, by 6.0%" in result.text
    assert ("× the second takes 1.060 times as long" in result.text) == (code == 1)
    last = result.out.splitlines()[-1]
    assert (last.startswith("FAILED  the second takes 1.060") and "Try: repeat it" in last) == (code == 1)


@pytest.mark.usefixtures("single_call_blocks")
def test_a_json_comparison_contains_both_sides_and_the_interval(cli, fp32_bundle, fp16_bundle):
    words = ("bench", fp32_bundle, fp16_bundle, "--compare", "--rounds", 8, "--batch", 2, "--json")
    content = cli(*words, "--fail-if", "slower:900%").content
    assert (content["first"]["precision"], content["second"]["precision"]) == ("fp32", "fp16")
    assert (content["rounds"], content["limit"]) == (8, 10)
    assert content["ratio"]["low"] <= content["ratio"]["estimate"] <= content["ratio"]["high"]
    for side in ("first", "second"):
        (measured,) = content[side]["measurements"]
        assert measured["latency"]["batch"] == 2
        assert len(measured["durations_ns"]) == measured["latency"]["iterations"] >= 8


# ── Saved, and with LoadGen ───────────────────────────────────────────────────────────────────────────────────────────


def test_saved_figures_are_in_the_bundle_and_it_still_verifies(cli, bundle):
    assert cli("bench", bundle, *FEW, "--save").code == 0
    records = reporting.collect_report([bundle]).bundles[0].records
    assert [(bench.runtime, len(bench.measurements)) for bench in records.benches] == [("python", 1)]
    assert cli("verify", bundle).code == 0


def test_loadgen_figures_are_reported_next_to_ours(cli, fp32_bundle):
    pytest.importorskip("mlperf_loadgen", reason="MLCommons' LoadGen is not installed")
    content = cli("bench", fp32_bundle, *FEW, "--loadgen", "SingleStream", "--json").content
    assert (content["loadgen"]["scenario"], content["loadgen"]["valid"]) == ("SingleStream", False)
    assert content["loadgen"]["queries"] >= 1


# ── Through the C++ library ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_cpp_path_passes_bundle_batches_and_floors_to_the_program_and_prints_its_figures(cli, fp32_bundle, built):
    result = cli("bench", fp32_bundle, "--runtime", "cpp", "--batch", "2,4", "--duration", 3, "--iterations", 9)
    assert result.code == 0, result.err
    program = Path("/built/deploykit-bench")
    settings = QUICK(iterations_at_least=9, seconds_at_least=3, seconds_at_most=86_400)
    assert built == [(program, fp32_bundle, 2, settings), (program, fp32_bundle, 4, settings)]
    for part in (
        "nin_cifar10 fp32 ONNX Runtime 1.31.1 through the C++ library, model.onnx",
        "2 ◂ 50 1.000 2.000 3.000 4.000 – 1.500 0.500 33.3% 602.0",
        "4 50 1.000 2.000 3.000 4.000 – 1.500 0.500 33.3% 604.0",
        "knee: batch 2 is the smallest with 95 % of the best throughput",
        "opened in 10 ms, loaded in 20 ms, first call 3.00 ms, peak memory 3.0 MiB",
        "note: warm-up did not settle: the machine was busy; measure again",
        "note: tensorrt: no driver is installed.",
    ):
        assert part in result.text


def test_a_machine_that_cannot_build_names_what_to_install(cli, fp32_bundle, monkeypatch):
    def build(*_):
        raise BackendError("CMake is not installed.", cpp_programs.INSTALL_TOOLS)

    monkeypatch.setattr(cpp_programs, "build_programs", build)
    result = cli("bench", fp32_bundle, "--runtime", "cpp")
    assert result.code == 4
    assert "CMake is not installed. On Debian and Ubuntu: apt install cmake" in result.text


# ── cmake-dir ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cmake_dir_prints_only_the_folder_for_find_package(process):
    result = process("cmake-dir")
    assert (result.code, result.err) == (0, "")
    (line,) = result.out.splitlines()
    assert Path(line).is_absolute()
    assert (Path(line) / "deploykitConfig.cmake").is_file()


# ── The C++ library ───────────────────────────────────────────────────────────────────────────────────────────────────


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
def test_the_shipped_library_is_built_once_and_measures_latency(cli, fp32_bundle, fp16_bundle, bundle):
    content = cli("bench", fp32_bundle, "--runtime", "cpp", "--json").content
    (measured,) = content["measurements"]
    latency = measured["latency"]
    assert len(measured["durations_ns"]) == latency["iterations"]
    assert content["library"].startswith("ONNX Runtime ")
    assert (content["runtime"], content["file"]) == ("cpp", "model.onnx")
    assert (latency["batch"], latency["iterations"] >= 50) == (1, True)
    assert sorted(figures := [latency[name] for name in FIGURES]) == figures
    assert 0 < latency["throughput_per_s"] <= 1000 / latency["mean_ms"] * 1.001
    assert 1 << 20 < content["peak_memory_bytes"] < 1 << 32

    swept = cli("bench", fp32_bundle, "--runtime", "cpp", "--batch", "1,4", "--duration", 0.1, "--json").content
    assert [measurement["latency"]["batch"] for measurement in swept["measurements"]] == [1, 4]

    pair = cli("bench", fp32_bundle, fp16_bundle, "--runtime", "cpp", "--compare", "--rounds", 6, "--json").content
    assert (pair["rounds"], pair["second"]["precision"], pair["second"]["runtime"]) == (6, "fp16", "cpp")

    (bundle / "model.onnx").write_bytes(b"short")
    refused = cli("bench", bundle, "--runtime", "cpp")
    assert refused.code == 1
    assert "model.onnx" in refused.text


@pytest.mark.slow
@pytest.mark.usefixtures("toolchain")
def test_the_program_serves_requests_one_by_one(fp32_bundle):
    program = cpp_programs.build_programs(cpp_programs.BENCH, TerminalProgress()) / "deploykit-bench"
    words = (program, fp32_bundle, "--serve", "--threads", "1")
    done = subprocess.run(words, input="run\nrun\nmemory\n", capture_output=True, text=True, check=True)
    head, *answers = done.stdout.splitlines()
    assert '"runtime":"ONNX Runtime' in head
    first, second, peak = map(int, answers)
    assert min(first, second) > 1000
    assert peak > 1 << 20

    for wrong in (
        ("--batch", "0"),
        ("--batch", "5"),
        ("--runtime", "rust"),
        ("--nope", "1"),
        ("--seconds", "1e99"),
        ("--iterations", "0"),
    ):
        refused = subprocess.run((program, fp32_bundle, *wrong), capture_output=True, text=True, check=False)
        assert refused.returncode == 2, wrong
        assert refused.stdout == ""
