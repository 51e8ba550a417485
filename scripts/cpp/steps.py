"""The checks of the C++ library, each a function that returns its result as a line, or raises CheckError."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes.util import find_library
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from cpp.dependencies import install_dependencies
from cpp.emulator import prepare_emulator
from cpp.place import CheckError, Place

HERE: Final = "x86-64"

EMULATED: Final = ("nin_cifar10", "googlenet", "resnet18", "fractalnet20")
"""Families whose bundles run on the emulated processor, which is slow."""

EMULATED_TESTS: Final = "test_(bundle|c_api|files|image|manifest|npy|tensor)"
"""All but that of an engine's wrong use, which takes minutes there and does not depend on the processor."""

SANITIZERS: Final = {"ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


class Step(NamedTuple):
    """A check, what it is compiled with and for, and the steps that it needs."""

    name: str
    built_for: str
    run: Callable[[Place], str]
    needs: tuple[str, ...] = ("dependencies",)


def fetch_dependencies(place: Place) -> str:
    """Fetch the missing libraries and headers."""
    fetched = install_dependencies(place.dependencies)
    return f"fetched {', '.join(fetched)}" if fetched else "nothing missing"


def export_bundles(place: Place) -> str:
    """A network of each family at FP32, FP16 and INT8, each within tolerance of PyTorch in Python."""
    path = {"PYTHONPATH": os.pathsep.join([str(place.checkout), str(place.checkout / "scripts")])}
    return place.run(sys.executable, "-m", "cpp.bundles", place.bundles, environment=path).splitlines()[-1]


def test_with_gcc(place: Place) -> str:
    """With warnings as errors: unit tests, and every bundle's golden vectors."""
    folder = place.build_tests("native", "gcc")
    return f"{run_unit_tests(place, folder)}; {compare_golden(place, folder, find_bundles(place))}"


def test_with_sanitizers(place: Place) -> str:
    """The same under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer."""
    folder = place.build_tests("asan", "asan")
    return f"{run_unit_tests(place, folder)}; {compare_golden(place, folder, find_bundles(place))}"


def check_format(place: Place) -> str:
    """Every C++ file is formatted as clang-format formats it."""
    files = [file for root in (place.library, place.tests) for file in sorted(root.rglob("*")) if is_source(file)]
    place.run("clang-format", f"--style=file:{place.library / '.clang-format'}", "--dry-run", "-Werror", *files)
    return f"{len(files)} files"


def run_clang_tidy(place: Place) -> str:
    """clang-tidy finds nothing in the library, with every runtime compiled in."""
    folder = place.output / "tidy"
    settings = (f"-DONNXRuntime_ROOT={place.dependencies}/onnxruntime/x86_64", *list_tensorrt_settings(place))
    place.run("cmake", "--preset", "clang", "-S", place.library, "-B", folder, "-G", "Ninja", *settings)
    sources = sorted((place.library / "src").glob("*.cpp"))
    check = partial(place.run, "clang-tidy", "-p", folder, "--quiet", "--warnings-as-errors=*")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(check, sources))
    return f"{len(sources)} sources"


def test_on_aarch64(place: Place) -> str:
    """Cross-compiled and emulated: checks results on Jetson's architecture, not speed."""
    emulator = prepare_emulator(place.output / "emulated")
    roots = f"{place.dependencies}/sysroot-aarch64;{place.dependencies}/onnxruntime/aarch64"
    settings = (f"-DCMAKE_FIND_ROOT_PATH={roots}", f"-DCMAKE_CROSSCOMPILING_EMULATOR={';'.join(emulator)}")
    folder = place.build_tests("tests-aarch64", "aarch64", *settings)
    subset = [bundle for network in EMULATED for bundle in find_bundles(place, f"{network}-*")]
    with ThreadPoolExecutor() as pool:  # an emulator keeps one processor busy
        tests = pool.submit(run_unit_tests, place, folder, EMULATED_TESTS)
        golden = pool.submit(compare_golden, place, folder, subset, emulator)
        return f"{tests.result()}; {golden.result()}; emulated by qemu-user, not a Jetson"


def test_tensorrt(place: Place) -> str:
    """Against NVIDIA's headers and its lean runtime; without a driver, loading fails with an error of ours."""
    targets = ("test_tensorrt", "test_tensorrt_gate", "test_tensorrt_double")
    roots = (f"-DONNXRuntime_ROOT={place.dependencies}/onnxruntime/x86_64", *list_tensorrt_settings(place))
    folder = place.build_tests("tensorrt", "tensorrt", *roots, targets=targets)
    summary = run_unit_tests(place, folder, "^test_tensorrt")
    driver = "with the driver of this machine" if find_library("cuda") else "no driver: fails with our error"
    return f"{summary}; {driver}"


def test_threads(place: Place) -> str:
    """8 threads of 1,000 runs on one engine, under ThreadSanitizer, with the results of a single thread."""
    folder = place.build_tests("tsan", "tsan", targets=("bundle_threads",))
    rules = {"TSAN_OPTIONS": f"suppressions={place.tests / 'tsan.supp'}:halt_on_error=1"}
    output = place.run(folder / "bundle_threads", place.bundles / "nin_cifar10-fp32", "8", "1000", environment=rules)
    return output.splitlines()[-1]


def run_fuzzers(place: Place) -> str:
    """Every file parser, all at once, on mutations of real files: no crash, no leak, no read out of bounds."""
    folder = place.build_tests("fuzz", "fuzz", targets=("fuzzers",))
    fuzzers = [folder / source.stem for source in sorted((place.tests / "fuzz").glob("fuzz_*.cpp"))]
    seconds = place.fuzz_seconds // len(fuzzers)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return f"{'; '.join(pool.map(partial(run_fuzzer, place, seconds), fuzzers))}; no finding"


def test_package(place: Place) -> str:
    """Python's tests of the C++ library: consumers, the README's code, its preprocessing against Python's."""
    files = sorted((place.checkout / "tests").glob("test_cpp_*.py"))
    built = {"DEPLOYKIT_CPP_BUILD": str(place.output / "gcc"), "DEPLOYKIT_CPP_DEPENDENCIES": str(place.dependencies)}
    output = place.run(sys.executable, "-m", "pytest", "-q", *files, environment=built)
    return output.splitlines()[-1].strip("= ")


BOTH: Final = ("dependencies", "bundles")

STEPS: Final = {
    step.name: step
    for step in (
        Step("dependencies", HERE, fetch_dependencies, needs=()),
        Step("bundles", "Python", export_bundles, needs=()),
        Step("gcc", f"g++, {HERE}", test_with_gcc, needs=BOTH),
        Step("asan", f"clang++, {HERE}", test_with_sanitizers, needs=BOTH),
        Step("style", "clang-format", check_format),
        Step("tidy", "clang-tidy", run_clang_tidy),
        Step("aarch64", "g++, aarch64", test_on_aarch64, needs=BOTH),
        Step("tensorrt", f"g++, {HERE}", test_tensorrt, needs=BOTH),
        Step("threads", f"clang++, {HERE}", test_threads, needs=BOTH),
        Step("fuzz", f"clang++, {HERE}", run_fuzzers),
        Step("package", f"g++, {HERE}", test_package, needs=("dependencies", "bundles", "gcc")),
    )
}


# ── Shared by several steps ───────────────────────────────────────────────────────────────────────────────────────────


def run_unit_tests(place: Place, folder: Path, which: str = ".") -> str:
    """Run the unit tests whose names match; those of engines get a bundle. Returns the counts."""
    bundle = {"DEPLOYKIT_TEST_BUNDLE": str(find_bundles(place, "nin_cifar10-fp32")[0])}
    words = ("ctest", "--test-dir", folder, "--verbose", "--tests-regex", which)
    output = place.run(*words, environment={**SANITIZERS, **bundle})
    counts = re.findall(r"test cases: +(\d+) \| +(\d+) passed.*\n.*assertions: +(\d+)", output)
    if not counts:
        raise CheckError(f"ctest ran no tests in {folder}")
    cases, assertions = sum(int(one[1]) for one in counts), sum(int(one[2]) for one in counts)
    return f"{cases} tests of {len(counts)} programs, {assertions} assertions"


def compare_golden(place: Place, folder: Path, bundles: Sequence[Path], emulator: Sequence[str] = ()) -> str:
    """Check the golden vectors of the bundles."""
    output = place.run(*emulator, folder / "bundle_self_test", *bundles, environment=SANITIZERS)
    return f"{len(re.findall(': passed, ', output))} of {len(bundles)} bundles agree with PyTorch"


def find_bundles(place: Place, which: str = "*") -> list[Path]:
    bundles = sorted(path.parent for path in place.bundles.glob(f"{which}/manifest.json"))
    if not bundles:
        raise CheckError(f"there is no bundle {place.bundles}/{which}")
    return bundles


def list_tensorrt_settings(place: Place) -> Iterable[str]:
    yield "-DDEPLOYKIT_TENSORRT=ON"
    yield f"-DTensorRT_ROOT={place.dependencies}/tensorrt"
    yield f"-DCUDAToolkit_ROOT={place.dependencies}/cuda"


def is_source(file: Path) -> bool:
    return file.suffix in (".cpp", ".hpp", ".h", ".c")


def run_fuzzer(place: Place, seconds: int, fuzzer: Path) -> str:
    """One fuzzer with its seeds; its corpus and findings stay outside of the checkout."""
    name = fuzzer.name.removeprefix("fuzz_")
    corpus, findings = (fuzzer.parent / kind / name for kind in ("corpus", "findings"))
    for folder in (corpus, findings):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dictionary = place.tests / "fuzz" / f"{name}.dict"
    options = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]
    options += [f"-artifact_prefix={findings}/", *([f"-dict={dictionary}"] if dictionary.is_file() else [])]
    output = place.run(fuzzer, *options, corpus, place.tests / "fuzz/corpus" / name, environment=SANITIZERS)
    (inputs,) = re.findall(r"stat::number_of_executed_units: (\d+)", output)
    return f"{name}: {int(inputs):,} inputs in {seconds} s"
