"""Buffers, and arrays of other libraries. The GPU is a double: only the order of calls and their contexts are
verified."""

import gc
import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda_doubles
import numpy as np
import pytest
import torch
from cuda_doubles import Gpu, described, pushed

from deploykit.backends.tensorrt import memory as subject
from deploykit.backends.tensorrt.driver import Driver
from deploykit.backends.tensorrt.memory import (
    DeviceArray,
    DeviceBlock,
    TensorBuffer,
    align_array,
    on_gpu,
    read_device_array,
    wait_for,
)
from deploykit.core.errors import BackendError, InputError
from deploykit.core.extras import install_command
from deploykit.core.values import TensorSpec

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # a failed finalizer

X = TensorSpec("x", "float32", ("batch", 2), "NC")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    gpu = cuda_doubles.install(monkeypatch)
    yield gpu
    assert not gpu.stack, "a context was left behind"


class Array:
    """An object with a CUDA array interface."""

    def __init__(self, **interface: Any) -> None:
        self.__cuda_array_interface__ = {**described(4096, (3, 2), np.float32), **interface}


class Dlpack:
    """An object with DLPack only, on a device."""

    def __init__(self, device: tuple[int, int] = (2, 0)) -> None:
        self.device = device

    def __dlpack__(self, **_: Any) -> object:
        raise BufferError("no capsule")

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_a_buffer_grows_to_the_largest_batch_and_is_reused(gpu: Gpu) -> None:
    buffer = TensorBuffer(X)
    addresses = []
    with on_gpu("testing"):
        for batch in (2, 1, 2, 5, 3):
            buffer.resize((batch, 2))
            addresses.append(buffer.address)
            assert buffer.host.shape == (batch, 2)
            assert buffer.host.dtype == np.float32
    assert addresses[0] == addresses[1] == addresses[2] != addresses[3] == addresses[4]
    sizes = [call[1:] for call in gpu.calls if call[0] in ("alloc", "alloc_host")]
    assert sizes == [(16,), (16,), (40,), (40,)]
    assert gpu.named("alloc", "free") == ["alloc", "free", "alloc"], "the old one is freed before the new one is made"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_memory_is_freed_in_its_own_context_from_any_thread(gpu: Gpu, elsewhere: bool) -> None:
    with on_gpu("testing"):
        held: list[object] = [DeviceBlock(64, "A block"), TensorBuffer(X)]
        held[1].resize((4, 2))  # type: ignore[attr-defined]
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


def test_running_out_of_gpu_memory_names_the_bytes_requested_and_free(gpu: Gpu) -> None:
    gpu.refuses["alloc"] = cuda_doubles.MemoryError("cuMemAlloc failed: out of memory")
    with pytest.raises(BackendError) as caught, on_gpu("testing"):
        TensorBuffer(X).resize((1000, 2))
    assert caught.value.what == "The tensor x needs 8000 bytes of GPU memory; 3000 of 8000 bytes are free."
    assert "smaller batch" in caught.value.remedy


def test_running_out_of_page_locked_memory_is_a_separate_error(gpu: Gpu) -> None:
    gpu.refuses["alloc_host"] = cuda_doubles.MemoryError("cuMemHostAlloc failed: out of memory")
    with pytest.raises(BackendError, match="8000 bytes of page-locked host memory"), on_gpu("testing"):
        TensorBuffer(X).resize((1000, 2))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (cuda_doubles.MemoryError("full"), "The GPU ran out of memory while testing: full."),
        (cuda_doubles.LogicError("invalid"), "CUDA failed while testing: invalid."),
    ],
)
def test_a_cuda_error_is_a_backend_error_and_the_context_is_popped(gpu: Gpu, error: Exception, message: str) -> None:
    with pytest.raises(BackendError) as caught, on_gpu("testing"):
        raise error
    assert caught.value.what == message
    assert not gpu.stack


def test_other_errors_pass_through_and_the_context_is_popped(gpu: Gpu) -> None:
    with pytest.raises(KeyError), on_gpu("testing"):
        raise KeyError
    assert not gpu.stack


def test_without_a_gpu_the_reason_is_quoted(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "query_driver", lambda: Driver(None, "no NVIDIA driver is installed"))
    with pytest.raises(BackendError, match="There is no GPU to run on: no NVIDIA driver is installed"), on_gpu("x"):
        pass
    assert gpu.calls == []


def test_a_missing_pycuda_gives_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(BackendError) as caught:
        subject.import_pycuda()
    assert install_command("gpu") in caught.value.remedy
    assert "CUDA toolkit" in caught.value.remedy


def test_a_device_array_is_read_without_a_copy() -> None:
    array = Array(stream=7)
    assert read_device_array("x", array) == DeviceArray(4096, (3, 2), np.dtype(np.float32), 7, array)


@pytest.mark.parametrize(
    ("shape", "strides", "dense"),
    [
        ((3, 2), None, True),
        ((3, 2), (8, 4), True),
        ((1, 2), (999, 4), True),
        ((3, 1), (4, 999), True),
        ((0, 2), (1, 1), True),
        ((), (), True),
        ((3, 2), (4, 12), False),
        ((3, 2), (16, 4), False),
        ((3, 2), (8, -4), False),
    ],
)
def test_only_dense_arrays_in_c_order_are_accepted(
    shape: tuple[int, ...], strides: tuple[int, ...] | None, dense: bool
) -> None:
    array = Array(shape=shape, strides=strides)
    if dense:
        assert read_device_array("x", array).shape == shape
    else:
        with pytest.raises(InputError, match="x is not contiguous in C order"):
            read_device_array("x", array)


def test_density_equals_the_numpy_definition_of_c_contiguous() -> None:
    whole = np.zeros((4, 6, 5), np.float32)
    for view in (
        whole,
        whole[1:3],
        whole[:, 2:4],
        whole[..., ::2],
        whole.T,
        whole[:1, :, :1],
        whole[::2],
        whole[:, :1],
    ):
        assert subject._is_contiguous(view.shape, view.strides, 4) == view.flags.c_contiguous


def test_masked_arrays_are_refused() -> None:
    with pytest.raises(InputError, match="x has a mask"):
        read_device_array("x", Array(mask=object()))


@pytest.mark.parametrize("array", [np.zeros((3, 2), np.float32), torch.zeros(3, 2), [1.0], None])
def test_host_arrays_are_rejected_with_a_hint(array: object) -> None:
    with pytest.raises(InputError, match="x is not an array in GPU memory") as caught:
        read_device_array("x", array)
    assert "host arrays to run" in caught.value.remedy


def test_an_array_that_does_not_expose_its_memory_is_rejected_with_its_own_message() -> None:
    class Grudging:
        @property
        def __cuda_array_interface__(self) -> object:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.\nUse detach.")

    with pytest.raises(InputError, match=r"on Variable that requires grad\. Pass the result of \.detach"):
        read_device_array("x", Grudging())


def test_an_array_on_another_gpu_is_refused() -> None:
    with pytest.raises(InputError, match="x is on GPU 1"):
        read_device_array("x", Dlpack((2, 1)))


def test_arrays_with_dlpack_only_are_converted_by_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = ModuleType("cupy")
    cupy.from_dlpack = lambda _: Array(stream=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    array = read_device_array("x", Dlpack())
    assert (array.address, array.stream) == (4096, 1)


def test_an_array_that_no_library_can_convert_is_rejected_with_all_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_dlpack(array: Dlpack) -> object:
        return array.__dlpack__()

    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch, "from_dlpack", from_dlpack)  # the real one looks for a driver first
    with pytest.raises(BackendError, match=r"x only supports DLPack.*\(cupy is not installed; torch: no capsule\)"):
        read_device_array("x", Dlpack())


def test_pytorchs_current_stream_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        device = "cuda:0"
        __cuda_array_interface__ = described(4096, (3, 2), np.float32)

    del Tensor.__cuda_array_interface__["stream"]
    streams = {"cuda:0": 0}
    cuda = SimpleNamespace(current_stream=lambda device: SimpleNamespace(cuda_stream=streams[device]))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=Tensor, cuda=cuda))
    assert read_device_array("x", Tensor()).stream == subject.LEGACY_STREAM
    streams["cuda:0"] = 77
    assert read_device_array("x", Tensor()).stream == 77


def test_an_array_that_names_no_stream_may_be_written_on_any() -> None:
    array = Array()
    del array.__cuda_array_interface__["stream"]
    assert read_device_array("x", array).stream == subject.UNNAMED_STREAM


@pytest.mark.parametrize(
    ("writer", "calls"),
    [
        (None, []),
        (subject.LEGACY_STREAM, ["record", "wait_for_event"]),
        (77, ["synchronize everything"]),
        (subject.UNNAMED_STREAM, ["synchronize everything"]),
    ],
)
def test_an_event_or_a_full_synchronization_waits_for_the_writing_stream(
    gpu: Gpu, writer: int | None, calls: list[str]
) -> None:
    with on_gpu("testing") as cuda:
        wait_for(writer, cuda.Stream())
    assert gpu.named("record", "wait_for_event", "synchronize everything") == calls
    assert gpu.leaks == []


def test_a_misaligned_array_is_copied_to_an_aligned_buffer(gpu: Gpu) -> None:
    with on_gpu("testing") as cuda:
        stream, block = cuda.Stream(), DeviceBlock(512, "A block")
        gpu.memory[block.address][:] = np.arange(512, dtype=np.uint16).astype(np.uint8)
        there = DeviceArray(block.address, (3, 2), np.dtype(np.float32), None, None)
        assert align_array("x", there, stream) is there
        assert gpu.named("dtod") == []
        copy = align_array("x", there._replace(address=block.address + 8), stream)
        stream.synchronize()
        assert copy.address % subject.ALIGNMENT == 0
        assert gpu.bytes_at(copy.address, 24).tolist() == list(range(8, 32))
        del stream
