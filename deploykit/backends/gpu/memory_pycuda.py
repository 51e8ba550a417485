"""GPU memory, streams and events through pycuda, which is compiled with the CUDA toolkit where it is installed.

pycuda frees memory only in the thread that created the context object, or with that same object current: so there is
one object per process, and the thread that drops the last reference to a buffer pushes it. It ends the process if a
thread ends with a context on its stack: so every push has its pop.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from deploykit.backends.gpu.memory_bindings import CudaDriver, CudaError, CudaOutOfMemory
from deploykit.backends.gpu.memory_library import (
    DISABLE_TIMING,
    LEGACY_STREAM,
    NON_BLOCKING,
    REFUSED_IMPORT,
    Allocation,
    Context,
    Event,
    HostMemory,
    Stream,
)


class Pycuda:
    """The calls of MemoryLibrary. ImportError where pycuda is not installed, or was compiled for other libraries."""

    def __init__(self) -> None:
        import pycuda
        import pycuda.driver

        self._cuda: Any = pycuda.driver
        self.name = f"pycuda {pycuda.VERSION_TEXT}"
        self.errors: tuple[type[Exception], ...] = (self._cuda.Error, CudaError)
        self.out_of_memory: tuple[type[Exception], ...] = (self._cuda.MemoryError, CudaOutOfMemory)
        try:
            self._driver: CudaDriver | None = CudaDriver()
        except REFUSED_IMPORT:
            self._driver = None

    def retain_context(self) -> Context:
        self._cuda.init()
        context: Context = self._cuda.Device(0).retain_primary_context()
        # Never destroyed: at the interpreter's end its destructor calls cuCtxDetach, which is not for primary contexts.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
        return context

    def allocate(self, nbytes: int) -> Allocation:
        allocation: Allocation = self._cuda.mem_alloc(nbytes)
        return allocation

    def read_memory_info(self) -> tuple[int, int]:
        free, total = self._cuda.mem_get_info()
        return free, total

    def allocate_page_locked(self, nbytes: int) -> HostMemory:
        array = self._cuda.pagelocked_empty(nbytes, np.uint8)
        return HostMemory(array, array.ctypes.data, array.base)

    def copy_to_gpu(self, target: int, source: HostMemory, nbytes: int, stream: Any) -> None:
        self._cuda.memcpy_htod_async(target, source.array[:nbytes], stream)

    def copy_to_host(self, target: HostMemory, source: int, nbytes: int, stream: Any) -> None:
        self._cuda.memcpy_dtoh_async(target.array[:nbytes], source, stream)

    def copy_on_gpu(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._cuda.memcpy_dtod_async(target, source, nbytes, stream)

    def create_stream(self) -> Stream:
        stream: Stream = self._cuda.Stream(NON_BLOCKING)
        return stream

    def create_event(self) -> Event:
        event: Event = self._cuda.Event()
        return event

    def wait_for_stream(self, stream: Any, writer: int) -> None:
        """By cuda-bindings where that is installed. Pycuda records events on its own streams and the default one only:
        for any other, it waits for the whole context.
        """
        if self._driver is not None:
            self._driver.order_streams(writer, stream.handle)
        elif writer == LEGACY_STREAM:
            event = self._cuda.Event(DISABLE_TIMING)
            event.record()
            stream.wait_for_event(event)
        else:
            self.wait_for_all_streams()

    def wait_for_all_streams(self) -> None:
        self._cuda.Context.synchronize()
