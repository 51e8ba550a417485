"""Checks before a plan is loaded: its record, and a child process that may crash. The library in the child is a double
on its path; NVIDIA's library was seen to crash without a driver, which is the reason for these checks.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cuda_doubles import THE_GPU

from deploykit.backends import is_installed
from deploykit.backends.tensorrt import gate as subject
from deploykit.backends.tensorrt.driver import Driver, query_driver
from deploykit.backends.tensorrt.gate import reject_foreign_engine, try_in_child
from deploykit.core.errors import BackendError, InputError
from deploykit.core.values import BuildOptions, BuildRecord, Engine, FileRecord, TensorSpec

HERE = "Linux aarch64"


def engine(
    backend: str = "tensorrt",
    version: str = "10.3.0.26",
    capabilities: tuple[int, ...] = (87,),
    open_ended: bool = False,
    **options: Any,
) -> Engine:
    """An engine of this machine, except for the given fields."""
    file = FileRecord("engines/tensorrt/engine.plan", "0" * 64, 1)
    record = BuildRecord(
        graph=FileRecord("model.onnx", "0" * 64, 1),
        platform=HERE,
        gpu="Orin",
        driver="540.4.0",
        compute_capabilities=capabilities,
        open_ended=open_ended,
        settings=(),
        seconds=1.0,
        timing_cache_sha256=None,
        options=BuildOptions(**options),
    )
    spec = TensorSpec("x", "float32", ("batch", 2), "NC")
    return Engine(backend, version, file, (spec,), (spec,), build=record)


def refusal_reason(made: Engine, version: str = "10.3.0.26", platform: str = HERE, capability: int = 87) -> str | None:
    """The reason that an engine is refused on this machine, except for the given fields."""
    try:
        reject_foreign_engine(made, version, THE_GPU._replace(compute_capability=capability), platform)
    except BackendError as refused:
        what, _, remedy = str(refused).partition(" Build it here: ")
        return what if remedy == f"deploykit compile BUNDLE --target {made.backend}." else "no remedy is told"
    return None


def test_an_engine_of_this_machine_passes() -> None:
    assert refusal_reason(engine()) is None


def test_another_platform_is_refused_with_both_named() -> None:
    error = refusal_reason(engine(), platform="Linux x86_64")
    assert error == "engines/tensorrt/engine.plan was built for Linux aarch64; this machine is Linux x86_64."


@pytest.mark.parametrize("running", ["10.3.1.26", "10.2.0.26", "11.4.0.106", "8.6.2"])
def test_another_version_is_refused_with_both_named(running: str) -> None:
    error = refusal_reason(engine(), running)
    assert error == f"engines/tensorrt/engine.plan was built for tensorrt 10.3.0.26; this machine has {running}."


@pytest.mark.parametrize(
    ("built", "running", "passes"),
    [
        ("10.3.0.26", "10.3.0.26", True),
        ("10.3.0.26", "10.16.2.10", True),
        ("10.3.0.26", "10.2.9.99", False),
        ("10.3.0.26", "11.0.0.114", True),
        ("8.6.2", "10.3.0.26", True),
        ("8.6.2", "11.0.0.114", False),
        ("11.0.0.114", "10.16.2.10", False),
        ("11.4.0.106", "12.0.0.1", False),
    ],
)
def test_a_version_compatible_engine_runs_in_the_later_versions_that_nvidia_supports(
    built: str, running: str, passes: bool
) -> None:
    error = refusal_reason(engine(version=built, version_compatible=True), running)
    assert (error is None) == passes
    assert error is None or "version-compatible engines run" in error


def test_another_gpu_is_refused_with_both_named() -> None:
    error = refusal_reason(engine(), capability=90)
    assert error == (
        "engines/tensorrt/engine.plan was built for compute capability 8.7; this machine's NVIDIA Fake has 9.0."
    )


@pytest.mark.parametrize(("capability", "passes"), [(75, False), (80, True), (90, True), (120, True)])
def test_a_hardware_compatible_engine_runs_from_ampere_on(capability: int, passes: bool) -> None:
    error = refusal_reason(engine(capabilities=(86,), hardware_compatible=True), capability=capability)
    assert (error is None) == passes
    assert error is None or "8.6 or 8.0 and above" in error


@pytest.mark.parametrize(
    ("capability", "passes"), [(75, False), (80, True), (86, True), (89, True), (90, False), (120, True), (130, True)]
)
def test_a_portable_engine_runs_on_its_listed_gpus_and_newer_ones(capability: int, passes: bool) -> None:
    built = engine("tensorrt-rtx", "1.7.1.116", capabilities=(80, 86, 89, 120), open_ended=True)
    error = refusal_reason(built, "1.7.1.116", capability=capability)
    assert (error is None) == passes
    assert error is None or "compute capability 8.0, 8.6, 8.9, 12.0 or above;" in error


def test_an_engine_without_a_record_is_a_damaged_manifest() -> None:
    built = msgspec.structs.replace(engine(), build=None)
    with pytest.raises(InputError, match=r"it has no build record for engines/tensorrt/engine.plan"):
        reject_foreign_engine(built, "10.3.0.26", THE_GPU, HERE)


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
