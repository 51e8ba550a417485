"""A trial of a plan in a child process, which may crash. The library in the child is a double on its path; NVIDIA's
library was seen to crash without a driver, which is the reason for the trial.
"""

import sys
from pathlib import Path

import pytest
from cuda_doubles import THE_GPU

from deploykit.backends import is_installed
from deploykit.backends.gpu.driver import Driver, query_driver
from deploykit.backends.tensorrt import gate as subject
from deploykit.backends.tensorrt.gate import try_in_child
from deploykit.core.errors import BackendError

LIBRARY = """
import os, signal, sys
from types import SimpleNamespace
__version__ = "10.3.0"
class Builder: pass
class ILogger: pass
class Runtime:
    def __init__(self, logger):
        self.logger = logger
    def deserialize_cuda_engine(self, plan):
        with open(TRIED, "a") as file:
            file.write(f"{self.engine_host_code_allowed}\\n")
        sys.stderr.write("a last word.\\n")
        sys.stderr.flush()
        if plan == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if plan == b"exit":
            os._exit(7)
        if plan == b"hang":
            import time
            time.sleep(60)
        if plan == b"refused":
            self.logger.log(SimpleNamespace(name="ERROR"), "the plan is damaged.")
            return None
        return object()
"""


@pytest.fixture
def trial_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library `tensorrt` for child processes and a driver; the file names every deserialization."""
    file = tmp_path / "tried.txt"
    (tmp_path / "tensorrt.py").write_text(f"TRIED = {str(file)!r}\n{LIBRARY}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(subject, "query_driver", lambda: Driver(THE_GPU, None))
    monkeypatch.setattr(subject, "version_of", lambda _: "10.3.0")
    monkeypatch.setattr(subject, "_PASSED", set())
    return file


def plan(folder: Path, content: bytes) -> Path:
    path = folder / "engine.plan"
    path.write_bytes(content)
    return path


def test_a_plan_that_deserializes_passes_and_the_result_is_cached(trial_log: Path, tmp_path: Path) -> None:
    try_in_child("tensorrt", plan(tmp_path, b"good"))
    try_in_child("tensorrt", plan(tmp_path, b"good"))
    assert trial_log.read_text() == "False\n"
    try_in_child("tensorrt", plan(tmp_path, b"another"), host_code=True)
    assert trial_log.read_text() == "False\nTrue\n"


def test_the_next_process_skips_the_trial_only_with_the_same_library(
    trial_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    try_in_child("tensorrt", plan(tmp_path, b"good"), marks)
    monkeypatch.setattr(subject, "_PASSED", set())  # as in another process
    try_in_child("tensorrt", plan(tmp_path, b"good"), marks)
    assert len(trial_log.read_text().splitlines()) == 1
    monkeypatch.setattr(subject, "version_of", lambda _: "10.4.0")
    try_in_child("tensorrt", plan(tmp_path, b"good"), marks)
    assert len(trial_log.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"crash", "the child process that tried it died of SIGSEGV, its last output: a last word"),
        (b"exit", "a last word"),
        (b"refused", "TensorRT 10.3.0 rejects this engine: the plan is damaged"),
    ],
)
def test_a_plan_that_does_not_deserialize_is_refused_with_the_reason(
    trial_log: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    for _ in range(2):
        with pytest.raises(BackendError) as caught:
            try_in_child("tensorrt", plan(tmp_path, content), tmp_path / "marks")
        assert caught.value.what == f"engine.plan cannot be loaded by tensorrt 10.3.0: {reason}."
        assert "deploykit compile BUNDLE --target tensorrt" in caught.value.remedy
    assert len(trial_log.read_text().splitlines()) == 2, "a failure is no verdict for ever"


@pytest.mark.usefixtures("trial_log")
def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "TIMEOUT_S", 2.0)
    with pytest.raises(BackendError, match="did not finish within 2 s"):
        try_in_child("tensorrt", plan(tmp_path, b"hang"))


def test_a_child_process_that_cannot_start_is_reported(
    trial_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with pytest.raises(BackendError, match="the child process for a trial could not be started: No such file"):
        try_in_child("tensorrt", plan(tmp_path, b"good"))
    assert not trial_log.exists()


def test_markers_that_cannot_be_written_are_ignored(trial_log: Path, tmp_path: Path) -> None:
    (tmp_path / "marks").write_text("a file where a folder should be")
    try_in_child("tensorrt", plan(tmp_path, b"good"), tmp_path / "marks")
    assert trial_log.read_text() == "False\n"


@pytest.mark.usefixtures("trial_log")
def test_a_library_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    with pytest.raises(BackendError, match=r"libnvinfer.so.10: cannot open shared object file"):
        try_in_child("tensorrt", plan(tmp_path, b"good"))


def test_the_child_process_does_not_import_from_the_current_folder(
    trial_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tensorrt.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    try_in_child("tensorrt", plan(tmp_path, b"good"))
    assert trial_log.read_text() == "False\n"


@pytest.mark.skipif(
    query_driver().gpu is not None, reason="where there is a GPU, NVIDIA's library refuses for other reasons"
)
@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="TensorRT-RTX is not installed")
def test_the_real_library_without_a_driver_fails_in_the_child_process_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the missing driver is simulated: the library and its failure are real."""
    monkeypatch.setattr(subject, "query_driver", lambda: Driver(THE_GPU, None))
    with pytest.raises(BackendError, match=r"^engine.plan cannot be loaded by tensorrt-rtx"):
        try_in_child("tensorrt-rtx", plan(tmp_path, b"no plan"))


def test_without_a_driver_no_process_is_spawned(
    trial_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "query_driver", lambda: Driver(None, "the NVIDIA driver finds no GPU"))
    with pytest.raises(BackendError) as caught:
        try_in_child("tensorrt", plan(tmp_path, b"good"))
    assert caught.value.what == "engine.plan cannot be loaded: the NVIDIA driver finds no GPU."
    assert not trial_log.exists()
