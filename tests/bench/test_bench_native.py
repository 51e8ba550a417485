"""What `deploykit-bench` prints and how it ends, as our values and errors. A script stands for the program."""

import json

import pytest

from deploykit.bench.native import measure_native
from deploykit.errors import BackendError, CheckFailed, InputError, InternalError, UsageError

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
    "passed_over": ["tensorrt: no driver is installed."],
    "start_up": {"open_ms": 10.0, "load_ms": 20.0, "first_ms": 3.0},
    "latency": LATENCY,
    "peak_memory_bytes": 1 << 20,
}


@pytest.fixture
def program(tmp_path):
    """Makes a program of these lines of shell."""

    def make(*lines):
        path = tmp_path / "deploykit-bench"
        path.write_text("\n".join(("#!/bin/sh", *lines)))
        path.chmod(0o755)
        return path

    return make


def test_what_it_prints_becomes_a_value(program, tmp_path):
    found = measure_native(program(f"echo '{json.dumps(ANSWER)}'"), tmp_path, 2)
    assert (found.runtime, found.file) == ("ONNX Runtime 1.31.1", "model.onnx")
    assert found.passed_over == ("tensorrt: no driver is installed.",)
    assert (found.latency.batch, found.latency.p99_ms, found.latency.settled) == (2, 4.0, True)
    assert (found.start_up.load_ms, found.peak_memory_bytes) == (20.0, 1 << 20)


def test_it_is_given_the_bundle_and_the_batch(program, tmp_path):
    given = tmp_path / "given"
    measure_native(program(f"echo \"$*\" > '{given}'", f"echo '{json.dumps(ANSWER)}'"), tmp_path / "bundle", 8)
    assert given.read_text() == f"{tmp_path / 'bundle'} --batch 8\n"


@pytest.mark.parametrize(
    ("code", "error"), [(1, CheckFailed), (2, UsageError), (3, InputError), (4, BackendError), (5, InternalError)]
)
def test_an_error_of_the_library_is_ours_of_the_same_kind_in_its_own_words(program, tmp_path, code, error):
    with pytest.raises(error) as raised:
        measure_native(program("echo 'model.onnx: it is\n a link. Copy it.' >&2", f"exit {code}"), tmp_path, 1)
    assert type(raised.value) is error
    assert str(raised.value) == "model.onnx: it is a link. Copy it."


def test_a_signal_is_named(program, tmp_path):
    with pytest.raises(BackendError, match="died by SIGSEGV while it was measured"):
        measure_native(program("kill -SEGV $$"), tmp_path, 1)


def test_a_program_that_cannot_be_loaded_is_a_backend_that_is_not_usable(program, tmp_path):
    missing = "error while loading shared libraries: libonnxruntime.so.1"
    with pytest.raises(BackendError, match=missing):
        measure_native(program(f"echo '{missing}' >&2", "exit 127"), tmp_path, 1)


@pytest.mark.parametrize("printed", ["", "{}", "ready", json.dumps({**ANSWER, "latency": None})])
def test_anything_else_is_no_measurement(program, tmp_path, printed):
    with pytest.raises(InternalError, match="answered what is no measurement"):
        measure_native(program(f"echo '{printed}'"), tmp_path, 1)
