"""Inputs and outputs of `deploykit-answer`. A script stands in for the program."""

import json
import sys

import numpy as np
import pytest

from deploykit.core.errors import BackendError, CheckFailed, InputError, InternalError, UsageError
from deploykit.evaluate.parity import cpp_outputs

SAID = {
    "runtime": "ONNX Runtime 1.31.1",
    "file": "model.onnx",
    "skipped_engines": ["tensorrt: no driver is installed."],
}
SAYS = f"print({json.dumps(SAID)!r})"


@pytest.fixture
def program(tmp_path):
    """Writes a program with these lines of Python; `bundle`, `batch`, `given` and `got` are its arguments."""

    def make(*lines):
        path = tmp_path / "deploykit-answer"
        head = (
            f"#!{sys.executable}",
            "import json, os, sys, numpy as np",
            "bundle, batch, *files = sys.argv[1:]",
            "given, got = files[0], files[-1]",
        )
        path.write_text("\n".join((*head, *lines)))
        path.chmod(0o755)
        return path

    return make


def batches(count, size):
    return [{"x": np.full((size, 3), number, np.float32)} for number in range(count)]


def run_program(program, bundle, given, size):
    """The outputs of a program for a bundle with the input `x` and the output `y`."""
    run, outputs = cpp_outputs.run_cpp_program(program, bundle, given, size, ["x"], ["y"])
    return run, outputs["y"]


def test_all_rows_are_returned_in_order(program, tmp_path):
    doubles = program("np.save(got, np.load(given) * 2)", SAYS)
    run, answers = run_program(doubles, tmp_path, batches(3, 2), 2)
    assert (run.runtime, run.file) == ("ONNX Runtime 1.31.1", "model.onnx")
    assert run.skipped_engines == ("tensorrt: no driver is installed.",)
    assert answers[:, 0].tolist() == [0, 0, 2, 2, 4, 4]


def test_the_program_receives_the_bundle_and_the_batch(program, tmp_path):
    log = tmp_path / "told"
    writes = f"open({str(log)!r}, 'w').write(f'{{bundle}} {{batch}}')"
    run_program(program("np.save(got, np.load(given))", writes, SAYS), tmp_path / "bundle", batches(1, 4), 4)
    assert log.read_text() == f"{tmp_path / 'bundle'} 4"


def test_several_inputs_and_outputs_are_exchanged_as_files_in_manifest_order(program, tmp_path):
    swaps = program("np.save(files[2], np.load(files[1]))", "np.save(files[3], np.load(files[0]))", SAYS)
    rows = [{"b/c:0": np.full((2, 1), number), "a": np.full((2, 3), -number)} for number in (1, 2)]
    _, outputs = cpp_outputs.run_cpp_program(swaps, tmp_path, rows, 2, ["a", "b/c:0"], ["first", "second"])
    assert outputs["first"][:, 0].tolist() == [1, 1, 2, 2]
    assert outputs["second"][:, 0].tolist() == [-1, -1, -2, -2]


def test_many_samples_are_passed_in_chunks(program, tmp_path, monkeypatch):
    monkeypatch.setattr(cpp_outputs, "CHUNK_BYTES", 2 * 4 * 3 * 4)  # two batches
    counts = program(f"open({str(tmp_path / 'rows')!r}, 'a').write(f'{{len(np.load(given))}} ')",
                     "np.save(got, np.load(given))", SAYS)  # fmt: skip
    _, answers = run_program(counts, tmp_path, [*batches(4, 4), {"x": np.full((1, 3), 4, np.float32)}], 4)
    assert (tmp_path / "rows").read_text() == "8 8 1 "
    assert answers[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4]


@pytest.mark.parametrize(
    ("code", "error"),
    [(1, CheckFailed), (2, UsageError), (3, InputError), (4, BackendError), (5, InternalError), (127, BackendError)],
)
def test_an_error_of_the_library_retains_kind_and_message(program, tmp_path, code, error):
    refuses = program("print('deploykit-answer: it is\\n a link. Copy it.', file=sys.stderr)", f"sys.exit({code})")
    with pytest.raises(error) as raised:
        run_program(refuses, tmp_path, batches(1, 1), 1)
    assert type(raised.value) is error
    assert str(raised.value) == "it is a link. Copy it."


def test_a_crash_names_the_signal(program, tmp_path):
    with pytest.raises(InternalError, match="deploykit-answer was killed by SIGSEGV"):
        run_program(program("os.kill(os.getpid(), 11)"), tmp_path, batches(1, 1), 1)


@pytest.mark.parametrize(
    "lines",
    [("print('{}')",), (SAYS,), ("open(got, 'w').write('no')", SAYS)],
    ids=["says nothing", "writes nothing", "writes nonsense"],
)
def test_invalid_program_output_is_an_error(program, tmp_path, lines):
    with pytest.raises(InternalError, match="returned invalid output"):
        run_program(program(*lines), tmp_path, batches(1, 1), 1)
