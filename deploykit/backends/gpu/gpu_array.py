"""An array in GPU memory that deploykit owns, for PyTorch, CuPy, pycuda and other libraries to read in place."""

from __future__ import annotations

import ctypes
import math
from typing import Any, Final, Protocol

import numpy as np

DEVICE: Final = (2, 0)
"""DLPack's device type kDLCUDA, and the number of the GPU: the first visible one."""


class Memory(Protocol):
    """Memory that is freed with the last reference to this object."""

    @property
    def address(self) -> int: ...


class GpuArray:
    """A complete array in C order on the first visible GPU; the memory is freed with the last reference to it.

    Libraries read it through `__cuda_array_interface__` (version 3) or DLPack without a copy, on any stream: what
    computed it has finished. `torch.from_dlpack(array)`, `cupy.asarray(array)`.
    """

    __slots__ = ("_memory", "dtype", "shape")

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._memory = memory
        self.shape = shape
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"<GpuArray of {self.dtype} {self.shape}>"

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def address(self) -> int:
        """The GPU address."""
        return self._memory.address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. No stream: there is nothing to wait for."""
        described = {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "strides": None}
        return {**described, "stream": None, "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return DEVICE

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule `dltensor` that keeps the memory. BufferError for another device or a copy.

        The array is complete, so that no `stream` of the reader's has to wait. Any `max_version` allows a capsule
        without a version.
        """
        if dl_device is not None and tuple(map(int, dl_device)) != DEVICE:
            raise BufferError(f"this array is on DLPack's device {DEVICE}, not {tuple(dl_device)}")
        if copy:
            raise BufferError("this array is exported without a copy only")
        # NumPy makes the capsule, its release and its reference to the memory, but for a host array at that address,
        # which nothing reads; only the device is put right.
        capsule: object = np.asarray(_HostArray(self)).__dlpack__()
        tensor = ctypes.cast(_read_capsule(capsule, b"dltensor"), ctypes.POINTER(_TensorHead)).contents
        tensor.device_type, tensor.device_number = DEVICE
        return capsule


class _HostArray:
    """The array's memory as NumPy's array interface describes host memory. NumPy keeps a reference to it."""

    def __init__(self, array: GpuArray) -> None:
        self._array = array
        described = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.address, False)}
        self.__array_interface__ = {**described, "version": 3}


class _TensorHead(ctypes.Structure):
    """The first members of DLPack's DLTensor, with which its DLManagedTensor begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_number", ctypes.c_int32),
    )


_read_capsule = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
