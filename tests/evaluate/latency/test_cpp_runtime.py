"""The output and exit codes of `deploykit-bench` as values and errors. A script stands in for the program."""

import json

import pytest

from deploykit.core.errors import BackendError, CheckFailed, InputError, InternalError, UsageError
from deploykit.core.values import Measurement
from deploykit.evaluate.latency.cpp_runtime import ReportedClock, measure_cpp, start_bench_process
from deploykit.evaluate.latency.measure import Settings

LATENCY = {
    "batch": 2,
    "iterations": 50,
    "warmup_iterations": 30,
    "p50_ms": 1.0,
    "p90_ms": 2.0,
    "p95_ms": 3.0,
    "p99_ms": 4.0,
    "mean_ms": 1.5,
    "deviation_ms": 0.5,
    "throughput_per_s": 1333.3,
    "settled": True,
}
ANSWER = {
    "runtime": "ONNX Runtime 1.31.1",
    "file": "model.onnx",
    "skipped_engines": ["tensorrt: no driver is installed."],
    "start_up": {"open_ms": 10.0, "load_ms": 20.0, "first_call_ms": 3.0},
    "latency": LATENCY,
    "peak_memory_bytes": 1 << 20,
}


HEAD = {name: ANSWER[name] for name in ("runtime", "file", "skipped_engines", "start_up")}
DURATIONS = [1_000_000, 2_000_000, 900_000]
PRINTS = (f"printf '{' '.join(map(str, DURATIONS))}' > $5", f"echo '{json.dumps(ANSWER)}'")  # $5 follows --raw
SETTINGS = Settings(iterations_at_least=7, seconds_at_least=3, seconds_at_most=40)


@pytest.fixture
def program(tmp_path):
    """Writes a program with these lines of shell."""

    def make(*lines):
        path = tmp_path / "deploykit-bench"
        path.write_text("\n".join(("#!/bin/sh", *lines)))
        path.chmod(0o755)
        return path

    return make


def test_the_program_output_is_parsed(program, tmp_path):
    result = measure_cpp(program(*PRINTS), tmp_path, 2, SETTINGS)
    assert (result.runtime, result.file) == ("ONNX Runtime 1.31.1", "model.onnx")
    assert result.skipped_engines == ("tensorrt: no driver is installed.",)
    assert (result.latency.batch, result.latency.p99_ms, result.latency.settled) == (2, 4.0, True)
    assert (result.start_up.load_ms, result.peak_memory_bytes) == (20.0, 1 << 20)
    assert result.measured == Measurement(result.latency, 2.0, tuple(DURATIONS))


def test_the_program_receives_the_bundle_the_batch_and_the_stopping_rule(program, tmp_path):
    log = tmp_path / "given"
    measure_cpp(program(f"echo \"$*\" > '{log}'", *PRINTS), tmp_path / "bundle", 8, SETTINGS)
    arguments = log.read_text().split()
    assert arguments[:3] == [str(tmp_path / "bundle"), "--batch", "8"]
    assert arguments[5:] == ["--iterations", "7", "--seconds", "3", "--seconds-at-most", "40"]


@pytest.mark.parametrize(
    ("code", "error"), [(1, CheckFailed), (2, UsageError), (3, InputError), (4, BackendError), (5, InternalError)]
)
def test_an_error_of_the_library_retains_kind_and_message(program, tmp_path, code, error):
    with pytest.raises(error) as raised:
        measure_cpp(program("echo 'model.onnx: it is\n a link. Copy it.' >&2", f"exit {code}"), tmp_path, 1, SETTINGS)
    assert type(raised.value) is error
    assert str(raised.value) == "model.onnx: it is a link. Copy it."


def test_a_signal_is_named(program, tmp_path):
    with pytest.raises(InternalError, match="was killed by SIGSEGV"):
        measure_cpp(program("kill -SEGV $$"), tmp_path, 1, SETTINGS)


def test_a_program_that_cannot_be_loaded_is_a_backend_that_is_not_usable(program, tmp_path):
    missing = "error while loading shared libraries: libonnxruntime.so.1"
    with pytest.raises(BackendError, match=missing):
        measure_cpp(program(f"echo '{missing}' >&2", "exit 127"), tmp_path, 1, SETTINGS)


@pytest.mark.parametrize("raw", ["", "1 2 three"])
def test_invalid_durations_are_an_invalid_measurement(program, tmp_path, raw):
    lines = (f"printf '{raw}' > $5", f"echo '{json.dumps(ANSWER)}'")
    with pytest.raises(InternalError, match="returned an invalid measurement"):
        measure_cpp(program(*lines), tmp_path, 1, SETTINGS)


@pytest.mark.parametrize("printed", ["", "{}", "ready", json.dumps({**ANSWER, "latency": None})])
def test_invalid_output_is_an_invalid_measurement(program, tmp_path, printed):
    with pytest.raises(InternalError, match="returned an invalid measurement"):
        measure_cpp(program(f"echo '{printed}'"), tmp_path, 1, SETTINGS)


# ── One request per call ──────────────────────────────────────────────────────────────────────────────────────────────

SERVES = f"echo '{json.dumps(HEAD)}'"


def test_a_serving_process_identifies_itself_and_answers_each_request(program, tmp_path):
    answers = "while read request; do case $request in run) echo 1500;; memory) echo 4096;; esac; done"
    with start_bench_process(program(SERVES, answers), tmp_path, 1) as process:
        assert (process.engine.runtime, process.engine.start_up.load_ms) == ("ONNX Runtime 1.31.1", 20.0)
        assert [process.request("run"), process.request("memory"), process.request("run")] == [1500, 4096, 1500]


def test_a_serving_process_receives_the_bundle_and_the_batch(program, tmp_path):
    with start_bench_process(program(f"echo \"$*\" > '{tmp_path}/given'", SERVES), tmp_path / "bundle", 4):
        pass
    assert (tmp_path / "given").read_text() == f"{tmp_path}/bundle --batch 4 --serve\n"


def test_only_the_reported_call_time_counts(program, tmp_path):
    time = ReportedClock()
    with start_bench_process(
        program(SERVES, "while read request; do sleep 0.01; echo 7; done"), tmp_path, 1
    ) as process:
        before = time()
        time.run(process)
        assert time() - before == 7


@pytest.mark.parametrize(
    ("lines", "error", "match"),
    [
        (("echo 'it has no such batch.' >&2", "exit 2"), UsageError, "it has no such batch"),
        (("echo '{}'",), InternalError, "returned an invalid measurement"),
        (("kill -SEGV $$",), InternalError, "was killed by SIGSEGV"),
    ],
)
def test_a_process_that_cannot_serve_reports_the_reason(program, tmp_path, lines, error, match):
    with pytest.raises(error, match=match), start_bench_process(program(*lines), tmp_path, 1):
        pass


@pytest.mark.parametrize(
    ("then", "error", "match"),
    [
        ("read request; echo 'out of memory.' >&2; exit 4", BackendError, "out of memory"),
        ("read request; echo soon", InternalError, "returned an invalid measurement"),
        ("exit 5", InternalError, "ended with exit code 5"),
    ],
)
def test_a_process_that_ends_or_prints_garbage_is_an_error(program, tmp_path, then, error, match):
    with start_bench_process(program(SERVES, then), tmp_path, 1) as process, pytest.raises(error, match=match):
        process.request("run")
