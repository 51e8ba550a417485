"""Arrays of other libraries in GPU memory. The GPU is a double: only the order of calls and their contexts are
verified."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda_doubles
import numpy as np
import pytest
import torch
from cuda_doubles import Gpu, described

from deploykit.backends.gpu import device_arrays as subject
from deploykit.backends.gpu.device_arrays import DeviceArray, align_array, read_device_array, wait_for
from deploykit.backends.gpu.memory import DeviceBlock, on_gpu
from deploykit.core.errors import BackendError, InputError

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # a failed finalizer


@pytest.fixture(params=cuda_doubles.LIBRARIES)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    gpu = cuda_doubles.install(monkeypatch, request.param)
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


def waited(gpu: Gpu, writer: int | None) -> list[str]:
    """What waits for an array that the stream `writer` writes."""
    array = DeviceArray(4096, (3, 2), np.dtype(np.float32), writer, None)
    with on_gpu("testing") as library:
        stream = library.create_stream()
        wait_for("x", array, library, stream)
        del stream
    assert gpu.leaks == []
    return gpu.named("record", "wait_for_event", "synchronize everything")


@pytest.mark.parametrize(
    ("writer", "calls"),
    [
        (None, []),
        (subject.LEGACY_STREAM, ["record", "wait_for_event"]),
        (77, ["record", "wait_for_event"]),
        (subject.UNNAMED_STREAM, ["synchronize everything"]),
    ],
)
def test_only_an_unnamed_stream_is_waited_for_with_all_others(gpu: Gpu, writer: int | None, calls: list[str]) -> None:
    assert waited(gpu, writer) == calls


@pytest.mark.parametrize(
    ("writer", "calls"),
    [(subject.LEGACY_STREAM, ["record", "wait_for_event"]), (77, ["synchronize everything"])],
)
def test_without_cuda_bindings_pycuda_waits_for_all_of_a_foreign_stream(
    monkeypatch: pytest.MonkeyPatch, writer: int, calls: list[str]
) -> None:
    gpu = cuda_doubles.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert waited(gpu, writer) == calls


def test_a_stream_of_another_context_is_refused_with_the_way_out(gpu: Gpu) -> None:
    gpu.foreign_streams.add(77)
    with pytest.raises(InputError, match="x is written on a stream of another CUDA context") as caught:
        waited(gpu, 77)
    assert "pycuda.autoprimaryctx" in caught.value.remedy
    assert gpu.leaks == []


def test_a_misaligned_array_is_copied_to_an_aligned_buffer(gpu: Gpu) -> None:
    with on_gpu("testing") as library:
        stream, block = library.create_stream(), DeviceBlock(library, 512, "A block")
        gpu.memory[block.address][:] = np.arange(512, dtype=np.uint16).astype(np.uint8)
        there = DeviceArray(block.address, (3, 2), np.dtype(np.float32), None, None)
        assert align_array("x", there, library, stream) is there
        assert gpu.named("dtod") == []
        copy = align_array("x", there._replace(address=block.address + 8), library, stream)
        stream.synchronize()
        assert copy.address % subject.ALIGNMENT == 0
        assert gpu.bytes_at(copy.address, 24).tolist() == list(range(8, 32))
        del stream
