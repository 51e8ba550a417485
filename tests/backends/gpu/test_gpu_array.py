"""Arrays that other libraries read in place. NumPy and PyTorch read DLPack's capsule of host memory here."""

import ctypes
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deploykit.backends.gpu import gpu_array as subject
from deploykit.backends.gpu.gpu_array import GpuArray

CPU = (1, 0)
"""DLPack's device kDLCPU."""

DTYPES = ["float32", "float16", "uint8", "int8", "int32", "int64"]
"""All that engines have."""


class Block:
    """Host memory in place of a GPU's."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values
        self.address = values.ctypes.data


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "DEVICE", CPU)


def make_array(dtype: str = "float32", shape: tuple[int, ...] = (2, 3, 4)) -> tuple[GpuArray, Block]:
    block = Block(np.arange(np.prod(shape)).astype(dtype).reshape(shape))
    return GpuArray(block, shape, np.dtype(dtype)), block


READERS = [pytest.param(np.from_dlpack, id="numpy"), pytest.param(torch.from_dlpack, id="torch")]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_library_reads_the_same_memory(read: Callable[[Any], Any], dtype: str) -> None:
    array, block = make_array(dtype)
    result = read(array)
    assert np.array_equal(np.asarray(result), block.values)
    assert np.asarray(result).dtype == dtype
    block.values[1, 2, 3] = 77
    assert result[1, 2, 3] == 77, "it is no copy"


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("read", READERS)
def test_the_memory_lives_as_long_as_what_reads_it(read: Callable[[Any], Any]) -> None:
    array, block = make_array()
    alive = weakref.ref(block)
    result = read(array)
    del array, block
    gc.collect()
    assert alive() is not None
    assert float(result[1, 2, 3]) == 23.0
    del result
    gc.collect()
    assert alive() is None


@pytest.mark.usefixtures("on_cpu")
def test_a_capsule_that_nobody_reads_releases_the_memory() -> None:
    array, block = make_array()
    alive = weakref.ref(block)
    capsule = array.__dlpack__()
    del array, block
    assert alive() is not None
    del capsule
    gc.collect()
    assert alive() is None


class ManagedTensor(ctypes.Structure):
    """DLManagedTensor of dlpack.h, with its DLTensor in place."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


def test_a_capsule_is_of_the_first_gpu() -> None:
    array, block = make_array("float16")
    tensor = ManagedTensor.from_address(subject._read_capsule(capsule := array.__dlpack__(stream=7), b"dltensor"))
    assert array.__dlpack_device__() == (2, 0)
    assert (tensor.device_type, tensor.device_id) == (2, 0)
    assert tensor.data + tensor.byte_offset == block.address
    assert (tensor.ndim, tensor.shape[:3]) == (3, [2, 3, 4])
    assert not tensor.strides or tensor.strides[:3] == [12, 4, 1]
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 16, 1)
    assert tensor.deleter
    del capsule


def test_numpy_is_refused_memory_of_a_gpu() -> None:
    array, block = make_array()
    alive = weakref.ref(block)
    del block
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(array)
    assert not hasattr(array, "__array_interface__"), "NumPy would read the GPU's address as the host's"
    del array
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("wish", [{"dl_device": (2, 1)}, {"dl_device": CPU}, {"copy": True}])
def test_another_device_or_a_copy_is_refused(wish: dict[str, Any]) -> None:
    array, _ = make_array()
    with pytest.raises(BufferError):
        array.__dlpack__(**wish)


def test_the_array_interface_names_no_stream_to_wait_for() -> None:
    array, block = make_array("float16")
    assert array.__cuda_array_interface__ == {
        "shape": (2, 3, 4),
        "typestr": "<f2",
        "data": (block.address, False),
        "strides": None,
        "stream": None,
        "version": 3,
    }
    assert (array.address, array.nbytes) == (block.address, 48)
