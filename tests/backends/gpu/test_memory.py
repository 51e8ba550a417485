"""Buffers in GPU memory, with either memory library. The GPU is a double: only the order of calls and their contexts
are verified."""

import gc
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cuda_doubles
import numpy as np
import pytest
from cuda_doubles import OUT_OF_MEMORY, Gpu, pushed

from deploykit.backends.gpu import memory as subject
from deploykit.backends.gpu import memory_bindings
from deploykit.backends.gpu.driver import Driver
from deploykit.backends.gpu.memory import DeviceBlock, TensorBuffer, on_gpu
from deploykit.backends.gpu.memory_library import MemoryLibrary
from deploykit.core.errors import BackendError
from deploykit.core.extras import pip_command
from deploykit.core.values import TensorSpec

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # a failed finalizer

X = TensorSpec("x", "float32", ("batch", 2), "NC")


@pytest.fixture(params=cuda_doubles.LIBRARIES)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    gpu = cuda_doubles.install(monkeypatch, request.param)
    yield gpu
    assert not gpu.stack, "a context was left behind"


def test_a_buffer_grows_to_the_largest_batch_and_is_reused(gpu: Gpu) -> None:
    buffer = TensorBuffer(X)
    addresses = []
    with on_gpu("testing") as library:
        for batch in (2, 1, 2, 5, 3):
            buffer.resize(library, (batch, 2))
            addresses.append(buffer.address)
            assert buffer.host.shape == (batch, 2)
            assert buffer.host.dtype == np.float32
    assert addresses[0] == addresses[1] == addresses[2] != addresses[3] == addresses[4]
    sizes = [call[1:] for call in gpu.calls if call[0] in ("alloc", "alloc_host")]
    assert sizes == [(16,), (16,), (40,), (40,)]
    assert gpu.named("alloc", "free") == ["alloc", "free", "alloc"], "the old one is freed before the new one is made"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_memory_is_freed_in_its_own_context_from_any_thread(gpu: Gpu, elsewhere: bool) -> None:
    with on_gpu("testing") as library:
        held: list[object] = [DeviceBlock(library, 64, "A block"), buffer := TensorBuffer(X)]
        buffer.resize(library, (4, 2))
        del buffer
    with pushed(gpu):  # another library's context is current at that time
        if elsewhere:
            thread = threading.Thread(target=held.clear)
            thread.start()
            thread.join()
        else:
            held.clear()
        gc.collect()
    assert gpu.memory == {}
    assert sorted(gpu.named("free", "free_host")) == ["free", "free", "free_host"]
    assert gpu.leaks == []


def test_one_primary_context_serves_all_threads(gpu: Gpu) -> None:
    def push() -> None:
        with on_gpu("testing"):
            gpu.current()

    threads = [threading.Thread(target=push) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gpu.contexts == 1
    assert gpu.named("init") == ["init"]


class Garbage:
    """Only the garbage collector frees it, and calls `finalizer`."""

    def __init__(self, finalizer: Callable[[], object]) -> None:
        self.itself = self
        weakref.finalize(self, finalizer)


def finishes(work: Callable[[], object]) -> bool:
    """Whether `work` returns in a thread of its own, which is given up otherwise."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()


def test_a_finalizer_within_the_first_call_does_not_wait_for_that_call(gpu: Gpu) -> None:
    entered = []

    def enter() -> None:
        with on_gpu("testing"):
            entered.append("a context")

    Garbage(enter)
    gpu.during["init"] = gc.collect
    assert finishes(enter)
    assert entered == ["a context"] * 2


def test_running_out_of_gpu_memory_names_the_bytes_requested_and_free(gpu: Gpu) -> None:
    gpu.refuses["alloc"] = OUT_OF_MEMORY
    with pytest.raises(BackendError) as caught, on_gpu("testing") as library:
        TensorBuffer(X).resize(library, (1000, 2))
    assert caught.value.what == "The tensor x needs 8000 bytes of GPU memory; 3000 of 8000 bytes are free."
    assert "smaller batch" in caught.value.remedy


def test_running_out_of_page_locked_memory_is_a_separate_error(gpu: Gpu) -> None:
    gpu.refuses["alloc_host"] = OUT_OF_MEMORY
    with pytest.raises(BackendError, match="8000 bytes of page-locked host memory"), on_gpu("testing") as library:
        TensorBuffer(X).resize(library, (1000, 2))


FAILURES = [
    (OUT_OF_MEMORY, r"^The GPU ran out of memory while testing: \w+ failed: CUDA_ERROR_2\."),
    (700, r"^CUDA failed while testing: \w+ failed: CUDA_ERROR_700\."),
]


@pytest.mark.parametrize(("code", "message"), FAILURES)
def test_a_cuda_error_is_a_backend_error_and_the_context_is_popped(gpu: Gpu, code: int, message: str) -> None:
    gpu.refuses["stream"] = code
    with pytest.raises(BackendError, match=message), on_gpu("testing") as library:
        library.create_stream()
    assert not gpu.stack


@pytest.mark.parametrize("call", ["init", "retain"])
@pytest.mark.parametrize(("code", "message"), FAILURES)
def test_a_context_that_cannot_be_retained_is_a_backend_error(gpu: Gpu, call: str, code: int, message: str) -> None:
    gpu.refuses[call] = code
    with pytest.raises(BackendError, match=message), on_gpu("testing"):
        pass
    del gpu.refuses[call]
    with on_gpu("testing"):
        assert gpu.stack, "it is tried again"


def test_other_errors_pass_through_and_the_context_is_popped(gpu: Gpu) -> None:
    with pytest.raises(KeyError), on_gpu("testing"):
        raise KeyError
    assert not gpu.stack


def test_without_a_gpu_the_reason_is_quoted(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "query_driver", lambda: Driver(None, "no NVIDIA driver is installed"))
    with pytest.raises(BackendError, match="There is no GPU to run on: no NVIDIA driver is installed"), on_gpu("x"):
        pass
    assert gpu.calls == []


@pytest.mark.parametrize(
    ("installed", "name"), [("pycuda", "pycuda 2026.1"), ("cuda-bindings", "cuda-bindings 13.5.0")]
)
def test_pycuda_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, installed: str, name: str) -> None:
    cuda_doubles.install(monkeypatch, installed)
    with on_gpu("testing") as library:
        assert library.name == name


@pytest.mark.parametrize("error", [ImportError("libcurand.so.9: not found"), RuntimeError("compiled for NumPy 1")])
def test_a_pycuda_that_cannot_be_imported_is_passed_over_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse() -> MemoryLibrary:
        raise error

    cuda_doubles.install(monkeypatch, "cuda-bindings")
    monkeypatch.setitem(subject.LIBRARIES, "pycuda", refuse)
    library, refusals = subject.import_memory_library()
    assert library is not None
    assert (library.name, refusals) == ("cuda-bindings 13.5.0", {"pycuda": str(error)})


def test_without_any_library_the_error_names_both_and_the_one_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_doubles.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError) as caught, on_gpu("testing"):
        pass
    assert re.match(
        r"GPU memory needs cuda-bindings or pycuda.*\(pycuda: .*; cuda-bindings: .*\)\.$", caught.value.what
    )
    assert caught.value.remedy.endswith(pip_command("install", "cuda-bindings"))


def test_a_function_that_the_driver_lacks_is_a_backend_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(_bytesize: int) -> None:
        raise RuntimeError('Function "cuMemAlloc_v2" not found')

    cuda_doubles.install(monkeypatch, "cuda-bindings")
    monkeypatch.setattr(sys.modules["cuda.bindings.driver"], "cuMemAlloc", lacks)
    with (
        pytest.raises(BackendError, match='cuMemAlloc failed: Function "cuMemAlloc_v2" not found'),
        on_gpu("x") as library,
    ):
        library.allocate(1)


def test_streams_and_events_are_destroyed_with_their_last_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = cuda_doubles.install(monkeypatch, "cuda-bindings")
    destroyed: list[str] = []

    def spy(name: str, destroy: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def note(handle: Any) -> Any:
            destroyed.append(name)
            return destroy(handle)

        return note

    driver = sys.modules["cuda.bindings.driver"]
    for name in ("cuStreamDestroy", "cuEventDestroy"):
        monkeypatch.setattr(driver, name, spy(name, getattr(driver, name)))
    with on_gpu("testing") as library:
        library.create_stream()
        library.create_event()
    assert destroyed == ["cuStreamDestroy", "cuEventDestroy"]
    assert gpu.leaks == []


def test_the_real_cuda_bindings_have_all_functions_that_are_called() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    doubled = [
        name for name in vars(cuda_doubles.cuda_bindings(Gpu())["cuda.bindings.driver"]) if name.startswith("cu")
    ]
    assert [name for name in doubled if not hasattr(driver, name)] == []
    called = re.findall(r'call\("(cu\w+)"', Path(memory_bindings.__file__).read_text())
    assert set(called) <= set(doubled), "the double lacks a function"
