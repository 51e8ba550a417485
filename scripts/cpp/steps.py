"""The checks of the C++ library, each a function that says what it saw, or raises Failed."""

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

from cpp.dependencies import lay_out
from cpp.emulator import emulator
from cpp.place import Failed, Place

HERE: Final = "x86-64"

EMULATED: Final = ("nin_cifar10", "googlenet", "resnet18", "fractalnet20")
"""Families whose bundles an emulated processor is asked to run: it takes its time."""

EMULATED_TESTS: Final = "test_(bundle|c_api|files|image|manifest|npy|tensor)"
"""All but that of an engine's wrong use, which runs one for minutes there, and asks nothing of the processor."""

SANITIZERS: Final = {"ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


class Step(NamedTuple):
    """A check, what it is compiled with and for, and the steps that come before it."""

    name: str
    built_for: str
    act: Callable[[Place], str]
    needs: tuple[str, ...] = ("dependencies",)


def dependencies(place: Place) -> str:
    """What is built against, fetched where it is missing."""
    made = lay_out(place.found)
    return f"fetched {', '.join(made)}" if made else "all there"


def bundles(place: Place) -> str:
    """A network of each family at FP32, FP16 and INT8, each in parity with PyTorch here already."""
    path = {"PYTHONPATH": os.pathsep.join([str(place.checkout), str(place.checkout / "scripts")])}
    return place.run(sys.executable, "-m", "cpp.bundles", place.bundles, environment=path).splitlines()[-1]


def gcc(place: Place) -> str:
    """Warnings are errors; unit tests; every bundle's golden vectors."""
    folder = place.build("native", "gcc")
    return f"{unit_tests(place, folder)}; {agreed(place, folder, all_bundles(place))}"


def asan(place: Place) -> str:
    """The same under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer."""
    folder = place.build("asan", "asan")
    return f"{unit_tests(place, folder)}; {agreed(place, folder, all_bundles(place))}"


def style(place: Place) -> str:
    """Every C++ file is as clang-format would write it."""
    files = [file for root in (place.library, place.tests) for file in sorted(root.rglob("*")) if is_source(file)]
    place.run("clang-format", f"--style=file:{place.library / '.clang-format'}", "--dry-run", "-Werror", *files)
    return f"{len(files)} files"


def tidy(place: Place) -> str:
    """clang-tidy finds nothing in the library, with every runtime compiled in."""
    folder = place.output / "tidy"
    settings = (f"-DONNXRuntime_ROOT={place.found}/onnxruntime/x86_64", *tensorrt_settings(place))
    place.run("cmake", "--preset", "clang", "-S", place.library, "-B", folder, "-G", "Ninja", *settings)
    sources = sorted((place.library / "src").glob("*.cpp"))
    check = partial(place.run, "clang-tidy", "-p", folder, "--quiet", "--warnings-as-errors=*")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(check, sources))
    return f"{len(sources)} sources"


def aarch64(place: Place) -> str:
    """Cross-compiled and emulated: what is computed on Jetson's architecture, and nothing about its speed."""
    words = emulator(place.output / "emulated")
    roots = f"{place.found}/sysroot-aarch64;{place.found}/onnxruntime/aarch64"
    settings = (f"-DCMAKE_FIND_ROOT_PATH={roots}", f"-DCMAKE_CROSSCOMPILING_EMULATOR={';'.join(words)}")
    folder = place.build("tests-aarch64", "aarch64", *settings)
    some = [bundle for network in EMULATED for bundle in all_bundles(place, f"{network}-*")]
    with ThreadPoolExecutor() as pool:  # an emulator keeps one processor busy
        tests = pool.submit(unit_tests, place, folder, EMULATED_TESTS)
        bundles = pool.submit(agreed, place, folder, some, words)
        return f"{tests.result()}; {bundles.result()}; emulated by qemu-user, not a Jetson"


def tensorrt(place: Place) -> str:
    """Compiled against NVIDIA's headers, linked with its lean runtime; without a driver, that must end in our error."""
    targets = ("test_tensorrt", "test_tensorrt_gate", "test_tensorrt_double")
    roots = (f"-DONNXRuntime_ROOT={place.found}/onnxruntime/x86_64", *tensorrt_settings(place))
    folder = place.build("tensorrt", "tensorrt", *roots, targets=targets)
    seen = unit_tests(place, folder, "^test_tensorrt")
    return f"{seen}; {'there is a driver here' if find_library('cuda') else 'no driver: ends in our error'}"


def threads(place: Place) -> str:
    """8 threads of 1,000 runs on one engine, under ThreadSanitizer, each answer that of a single thread."""
    folder = place.build("tsan", "tsan", targets=("bundle_threads",))
    rules = {"TSAN_OPTIONS": f"suppressions={place.tests / 'tsan.supp'}:halt_on_error=1"}
    said = place.run(folder / "bundle_threads", place.bundles / "nin_cifar10-fp32", "8", "1000", environment=rules)
    return said.splitlines()[-1]


def fuzz(place: Place) -> str:
    """Every reader of files, at once, on mutations of real ones: no crash, no leak, nothing read beyond the end."""
    folder = place.build("fuzz", "fuzz", targets=("fuzzers",))
    fuzzers = [folder / source.stem for source in sorted((place.tests / "fuzz").glob("fuzz_*.cpp"))]
    seconds = place.fuzz_seconds // len(fuzzers)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return f"{'; '.join(pool.map(partial(fuzzed, place, seconds), fuzzers))}; no finding"


def package(place: Place) -> str:
    """What Python's tests say of the C++ library: consumers, the README's code, Python's preprocessing beside ours."""
    files = sorted((place.checkout / "tests").glob("test_cpp_*.py"))
    built = {"DEPLOYKIT_CPP_BUILD": str(place.output / "gcc"), "DEPLOYKIT_CPP_DEPENDENCIES": str(place.found)}
    said = place.run(sys.executable, "-m", "pytest", "-q", *files, environment=built)
    return said.splitlines()[-1].strip("= ")


BOTH: Final = ("dependencies", "bundles")

STEPS: Final = {
    step.name: step
    for step in (
        Step("dependencies", HERE, dependencies, needs=()),
        Step("bundles", "Python", bundles, needs=()),
        Step("gcc", f"g++, {HERE}", gcc, needs=BOTH),
        Step("asan", f"clang++, {HERE}", asan, needs=BOTH),
        Step("style", "clang-format", style),
        Step("tidy", "clang-tidy", tidy),
        Step("aarch64", "g++, aarch64", aarch64, needs=BOTH),
        Step("tensorrt", f"g++, {HERE}", tensorrt, needs=BOTH),
        Step("threads", f"clang++, {HERE}", threads, needs=BOTH),
        Step("fuzz", f"clang++, {HERE}", fuzz),
        Step("package", f"g++, {HERE}", package, needs=("dependencies", "bundles", "gcc")),
    )
}


# ── What several steps do ───────────────────────────────────────────────────────────────────────────────────────────


def unit_tests(place: Place, folder: Path, which: str = ".") -> str:
    """The unit tests whose names match: how many programs, cases and assertions. Those of engines have a bundle."""
    bundle = {"DEPLOYKIT_TEST_BUNDLE": str(all_bundles(place, "nin_cifar10-fp32")[0])}
    words = ("ctest", "--test-dir", folder, "--verbose", "--tests-regex", which)
    said = place.run(*words, environment={**SANITIZERS, **bundle})
    counted = re.findall(r"test cases: +(\d+) \| +(\d+) passed.*\n.*assertions: +(\d+)", said)
    if not counted:
        raise Failed(f"ctest ran no test in {folder}")
    cases, assertions = sum(int(one[1]) for one in counted), sum(int(one[2]) for one in counted)
    return f"{cases} tests of {len(counted)} programs, {assertions} assertions"


def agreed(place: Place, folder: Path, asked: Sequence[Path], emulator: Sequence[str] = ()) -> str:
    """The golden vectors of the bundles."""
    said = place.run(*emulator, folder / "bundle_self_test", *asked, environment=SANITIZERS)
    return f"{len(re.findall(': passed, ', said))} of {len(asked)} bundles agree with PyTorch"


def all_bundles(place: Place, which: str = "*") -> list[Path]:
    found = sorted(path.parent for path in place.bundles.glob(f"{which}/manifest.json"))
    if not found:
        raise Failed(f"there is no bundle {place.bundles}/{which}")
    return found


def tensorrt_settings(place: Place) -> Iterable[str]:
    yield "-DDEPLOYKIT_TENSORRT=ON"
    yield f"-DTensorRT_ROOT={place.found}/tensorrt"
    yield f"-DCUDAToolkit_ROOT={place.found}/cuda"


def is_source(file: Path) -> bool:
    return file.suffix in (".cpp", ".hpp", ".h", ".c")


def fuzzed(place: Place, seconds: int, fuzzer: Path) -> str:
    """One fuzzer, with its seeds: what it finds and learns stays out of the checkout."""
    name = fuzzer.name.removeprefix("fuzz_")
    corpus, findings = (fuzzer.parent / kind / name for kind in ("corpus", "findings"))
    for folder in (corpus, findings):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    words = place.tests / "fuzz" / f"{name}.dict"
    options = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]
    options += [f"-artifact_prefix={findings}/", *([f"-dict={words}"] if words.is_file() else [])]
    said = place.run(fuzzer, *options, corpus, place.tests / "fuzz/corpus" / name, environment=SANITIZERS)
    (inputs,) = re.findall(r"stat::number_of_executed_units: (\d+)", said)
    return f"{name}: {int(inputs):,} inputs in {seconds} s"
