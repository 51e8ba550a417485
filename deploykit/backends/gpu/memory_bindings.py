"""GPU memory, streams and events through cuda-bindings: NVIDIA's own wheels, which need no compiler."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import numpy as np

from deploykit.backends.gpu.memory_library import (
    DISABLE_TIMING,
    NON_BLOCKING,
    Allocation,
    Context,
    Event,
    ForeignContext,
    HostMemory,
    Stream,
)


class CudaError(Exception):
    """A driver function that failed: `cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY`."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class CudaOutOfMemory(CudaError):
    """CUDA_ERROR_OUT_OF_MEMORY: of the GPU, or of page-locked memory."""


OUT_OF_MEMORY: Final = 2
UNKNOWN: Final = 999
FOREIGN_CONTEXT: Final = (201, 400)
"""CUDA_ERROR_INVALID_CONTEXT and CUDA_ERROR_INVALID_HANDLE: an event and the stream are of different contexts."""


class CudaDriver:
    """The functions of `cuda.bindings.driver` by name. ImportError where cuda-bindings is not installed."""

    def __init__(self) -> None:
        import cuda.bindings
        from cuda.bindings import driver

        self._functions: Any = driver
        self.version: str = cuda.bindings.__version__

    def call(self, name: str, *arguments: object) -> Any:
        """Call a function that has one result or none.

        cuda-bindings returns a tuple with the error code first, and raises RuntimeError where the driver has no such
        function.
        """
        try:
            code, *results = getattr(self._functions, name)(*arguments)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise CudaError(f"{name} failed: {reason}", UNKNOWN) from error
        if int(code) != 0:
            message = f"{name} failed: {getattr(code, 'name', code)}"
            raise (CudaOutOfMemory if int(code) == OUT_OF_MEMORY else CudaError)(message, int(code))
        return results[0] if len(results) == 1 else results

    def order_streams(self, first: int, second: int) -> None:
        """Make the stream `second` wait for what is enqueued on the stream `first`, without waiting itself.

        ForeignContext where `first` is not a stream of the current context.
        """
        event = self.call("cuEventCreate", DISABLE_TIMING)
        try:
            self.call("cuEventRecord", event, first)
            self.call("cuStreamWaitEvent", second, event, 0)
        except CudaError as error:
            if error.code in FOREIGN_CONTEXT:
                raise ForeignContext from error
            raise
        finally:
            self.call("cuEventDestroy", event)  # the driver keeps what the stream still waits for


class CudaBindings:
    """The calls of MemoryLibrary. ImportError where cuda-bindings is not installed."""

    errors: tuple[type[Exception], ...] = (CudaError,)
    out_of_memory: tuple[type[Exception], ...] = (CudaOutOfMemory,)

    def __init__(self) -> None:
        self._driver = CudaDriver()
        self.name = f"cuda-bindings {self._driver.version}"

    def retain_context(self) -> Context:
        self._driver.call("cuInit", 0)
        device = self._driver.call("cuDeviceGet", 0)
        return _PrimaryContext(self._driver, self._driver.call("cuDevicePrimaryCtxRetain", device))

    def allocate(self, nbytes: int) -> Allocation:
        return _DeviceMemory(self._driver, int(self._driver.call("cuMemAlloc", nbytes)))

    def read_memory_info(self) -> tuple[int, int]:
        free, total = self._driver.call("cuMemGetInfo")
        return free, total

    def allocate_page_locked(self, nbytes: int) -> HostMemory:
        address = int(self._driver.call("cuMemHostAlloc", nbytes, 0))
        owner = _PageLockedMemory(self._driver, address, nbytes)
        return HostMemory(np.asarray(owner), address, owner)

    def copy_to_gpu(self, target: int, source: HostMemory, nbytes: int, stream: _Stream) -> None:
        self._driver.call("cuMemcpyHtoDAsync", target, source.address, nbytes, stream.cuda_stream)

    def copy_to_host(self, target: HostMemory, source: int, nbytes: int, stream: _Stream) -> None:
        self._driver.call("cuMemcpyDtoHAsync", target.address, source, nbytes, stream.cuda_stream)

    def copy_on_gpu(self, target: int, source: int, nbytes: int, stream: _Stream) -> None:
        self._driver.call("cuMemcpyDtoDAsync", target, source, nbytes, stream.cuda_stream)

    def create_stream(self) -> Stream:
        return _Stream(self._driver, self._driver.call("cuStreamCreate", NON_BLOCKING))

    def create_event(self) -> Event:
        return _Event(self._driver, self._driver.call("cuEventCreate", 0))

    def wait_for_stream(self, stream: _Stream, writer: int) -> None:
        self._driver.order_streams(writer, stream.handle)

    def wait_for_all_streams(self) -> None:
        self._driver.call("cuCtxSynchronize")


class _PrimaryContext:
    def __init__(self, driver: CudaDriver, context: Any) -> None:
        self._driver = driver
        self._context = context

    def push(self) -> None:
        self._driver.call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        self._driver.call("cuCtxPopCurrent")


class _DeviceMemory:
    def __init__(self, driver: CudaDriver, address: int) -> None:
        self._driver = driver
        self._address = address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._driver.call("cuMemFree", self._address)


class _PageLockedMemory:
    """NumPy reads its address, and keeps a reference to it."""

    def __init__(self, driver: CudaDriver, address: int, nbytes: int) -> None:
        self._driver = driver
        self._address = address
        self.__array_interface__ = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}

    def free(self) -> None:
        self._driver.call("cuMemFreeHost", self._address)


class _Stream:
    def __init__(self, driver: CudaDriver, stream: Any) -> None:
        self._driver = driver
        self.cuda_stream = stream
        """A CUstream, which is passed on without a conversion."""
        self.handle = int(stream)

    def synchronize(self) -> None:
        self._driver.call("cuStreamSynchronize", self.cuda_stream)

    def __del__(self) -> None:
        with contextlib.suppress(CudaError):  # after a failed launch every call fails
            self._driver.call("cuStreamDestroy", self.cuda_stream)


class _Event:
    def __init__(self, driver: CudaDriver, event: Any) -> None:
        self._driver = driver
        self._event = event

    def record(self, stream: _Stream) -> None:
        self._driver.call("cuEventRecord", self._event, stream.cuda_stream)

    def time_till(self, end: _Event) -> float:
        return float(self._driver.call("cuEventElapsedTime", self._event, end._event))

    def __del__(self) -> None:
        with contextlib.suppress(CudaError):
            self._driver.call("cuEventDestroy", self._event)
