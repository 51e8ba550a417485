"""Doubles of pycuda, cuda-bindings, TensorRT's runtime and libcuda.

They enforce the rules that our code must follow: work on a stream happens only when the stream is synchronized, or
another one that waits for it, every call needs the current context, pycuda frees memory only under the context object
it was allocated with, and a stream in capture mode executes nothing. The doubles of both memory libraries record the
same names of calls. They verify the order of calls and the buffers; that a GPU accepts them, and what TensorRT
computes, is verified by the tests that run on one.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploykit.backends.gpu import driver, memory
from deploykit.backends.gpu.driver import Driver

LIBCUDA = r"""
#include <stdlib.h>
#include <string.h>
static int asked(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
int cuInit(unsigned flags) { return asked("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGetCount(int *count) { *count = asked("FAKE_COUNT", 1); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, "NVIDIA Fake", size);
    return device == 7 ? 0 : 101;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)80 << 30; return device == 7 ? 0 : 101; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
    return device == 7 ? 0 : 101;
}
int cuCtxCreate_v2(void *context, unsigned flags, int device) { abort(); }
int cuDevicePrimaryCtxRetain(void *context, int device) { abort(); }
"""
"""A driver of one GPU. Making a context would end the process, and the test."""


def libcuda(folder: Path, source: str = LIBCUDA) -> None:
    """Compile that source as a driver; a process with `folder` in LD_LIBRARY_PATH finds it."""
    (folder / "cuda.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "cuda.c")]
    subprocess.run(command, check=True)


class Gpu:
    """Memory by address, streams, and all calls in order. `refuses` names calls that fail, `during` what happens once
    within a call.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.leaks: list[str] = []
        self.refuses: dict[str, int] = {}
        self.during: dict[str, Callable[[], object]] = {}
        self.streams: dict[int, Stream] = {}
        self.foreign_streams: set[int] = set()
        self.stacks = threading.local()
        self.contexts = 0
        self.seconds = 0.0
        """A clock that goes on by `seconds_per_call` whenever a stream is synchronized."""
        self.seconds_per_call = 0.1
        self.next_address = 1 << 20

    def note(self, name: str, *details: Any) -> None:
        """Record a call."""
        self.calls.append((name, *details))
        self.during.pop(name, lambda: None)()

    def call(self, name: str, *details: Any) -> None:
        """Record a call of pycuda's; raise the error configured for it."""
        self.note(name, *details)
        if code := self.refuses.get(name, 0):
            raise (MemoryError if code == OUT_OF_MEMORY else LogicError)(f"{name} failed: CUDA_ERROR_{code}")

    def named(self, *names: str) -> list[str]:
        """The calls of these names, in order."""
        return [call[0] for call in self.calls if call[0] in names]

    @property
    def stack(self) -> list[Any]:
        """The stack of contexts is one per thread."""
        if not hasattr(self.stacks, "contexts"):
            self.stacks.contexts = []
        contexts: list[Any] = self.stacks.contexts
        return contexts

    def current(self) -> Any:
        if not self.stack:
            raise LogicError("no currently active context?")
        return self.stack[-1]

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray[Any, Any]:
        """A view of memory that was allocated and is not freed."""
        base = max((start for start in self.memory if start <= address), default=-1)
        assert base >= 0, "an address of nothing"
        block = self.memory[base][address - base : address - base + nbytes]
        assert block.size == nbytes, "past the end of an allocation"
        return block

    def allocate(self, nbytes: int) -> int:
        address = self.next_address
        self.next_address += -(-nbytes // 4096) * 4096 + 4096
        self.memory[address] = np.full(nbytes, 0xEE, np.uint8)
        return address


OUT_OF_MEMORY = 2
INVALID_CONTEXT = 201
INVALID_HANDLE = 400


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):  # noqa: A001 - pycuda's name
    pass


class Context:
    """A primary context that was retained; each retaining gives another object, as pycuda's does."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        gpu.contexts += 1

    def push(self) -> None:
        self.gpu.stack.append(self)

    def pop(self) -> None:
        self.gpu.stack.pop()


class Owned:
    """A resource that is destroyed only under its own context; in pycuda, under its own context object."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.context = gpu.current()

    def __del__(self) -> None:
        if self.context is not None:
            self.free()

    def free(self) -> None:
        if not self.gpu.stack or self.gpu.stack[-1] is not self.context:
            self.gpu.leaks.append(type(self).__name__)
        self.context = None  # type: ignore[assignment]
        self.given_back()

    def given_back(self) -> None: ...


class DeviceAllocation(Owned):
    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        super().__init__(gpu)
        self.address = gpu.allocate(nbytes)

    def __int__(self) -> int:
        return self.address

    def given_back(self) -> None:
        self.gpu.calls.append(("free", self.address))
        del self.gpu.memory[self.address]


class PagelockedHostAllocation(Owned):
    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        super().__init__(gpu)
        self.held = np.full(nbytes, 0xEE, np.uint8)
        self.__array_interface__ = self.held.__array_interface__

    def given_back(self) -> None:
        self.gpu.calls.append(("free_host",))


class Stream(Owned):
    def __init__(self, gpu: Gpu, flags: int) -> None:
        super().__init__(gpu)
        self.flags = flags
        self.handle = 1000 + len(gpu.streams)
        self.work: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        gpu.streams[self.handle] = self

    def put(self, work: Callable[[], None]) -> None:
        (self.work if self.captured is None else self.captured).append(work)

    def finish(self) -> None:
        self.gpu.seconds += self.gpu.seconds_per_call
        for work in self.work:
            work()
        self.work.clear()

    def synchronize(self) -> None:
        self.gpu.call("synchronize")
        self.finish()

    def wait_for_event(self, event: Event) -> None:
        self.gpu.call("wait_for_event")
        if event.stream is not None:
            self.put(event.stream.finish)


class Event(Owned):
    clock = 0.0

    def __init__(self, gpu: Gpu, flags: int) -> None:
        super().__init__(gpu)
        self.flags = flags
        self.stream: Stream | None = None
        self.at = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self.gpu.call("record")
        self.stream = stream
        if stream is not None and self.flags == 0:
            stream.put(self.tick)

    def tick(self) -> None:
        Event.clock += 1.0
        self.at = Event.clock

    def time_till(self, other: Event) -> float:
        return other.at - self.at


def finish_all(gpu: Gpu) -> None:
    """Run the work of all streams."""
    for stream in gpu.streams.values():
        stream.finish()


def described(address: int, shape: tuple[int, ...], dtype: Any, **more: Any) -> dict[str, Any]:
    """A CUDA array interface of version 3."""
    plain = {"shape": shape, "typestr": np.dtype(dtype).str, "data": (address, False), "strides": None, "version": 3}
    return {**plain, "stream": None, **more}


def pycuda(gpu: Gpu) -> dict[str, ModuleType]:
    """The modules of pycuda that are imported, by name."""

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        gpu.current()
        gpu.call("alloc", nbytes)
        return DeviceAllocation(gpu, nbytes)

    def pagelocked_empty(size: int, dtype: Any) -> np.ndarray[Any, Any]:
        gpu.current()
        gpu.call("alloc_host", size)
        assert dtype == np.uint8
        return np.asarray(PagelockedHostAllocation(gpu, size))

    def htod(target: int, source: np.ndarray[Any, Any], stream: Stream) -> None:
        gpu.call("htod", source.nbytes)
        assert source.flags.c_contiguous
        stream.put(lambda: np.copyto(gpu.bytes_at(target, source.nbytes), source.reshape(-1).view(np.uint8)))

    def dtoh(target: np.ndarray[Any, Any], source: int, stream: Stream) -> None:
        gpu.call("dtoh", target.nbytes)
        stream.put(lambda: np.copyto(target.reshape(-1).view(np.uint8), gpu.bytes_at(source, target.nbytes)))

    def dtod(target: int, source: int, nbytes: int, stream: Stream) -> None:
        gpu.call("dtod", nbytes)
        stream.put(lambda: np.copyto(gpu.bytes_at(target, nbytes), gpu.bytes_at(source, nbytes)))

    def device(ordinal: int) -> SimpleNamespace:
        assert ordinal == 0
        time.sleep(0.005)  # concurrent threads synchronize here
        return SimpleNamespace(retain_primary_context=retain)

    def retain() -> Context:
        gpu.call("retain")
        return Context(gpu)

    def stream(flags: int = 0) -> Stream:
        gpu.call("stream", flags)
        return Stream(gpu, flags)

    def synchronize() -> None:
        gpu.call("synchronize everything")
        finish_all(gpu)

    package, calls = ModuleType("pycuda"), ModuleType("pycuda.driver")
    vars(calls).update(
        Error=Error,
        LogicError=LogicError,
        MemoryError=MemoryError,
        init=lambda: gpu.call("init"),
        Device=device,
        Context=SimpleNamespace(synchronize=synchronize),
        Stream=stream,
        Event=lambda flags=0: Event(gpu, flags),
        mem_alloc=mem_alloc,
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=htod,
        memcpy_dtoh_async=dtoh,
        memcpy_dtod_async=dtod,
        mem_get_info=lambda: (3000, 8000),
    )
    vars(package).update(driver=calls, VERSION_TEXT="2026.1")
    return {"pycuda": package, "pycuda.driver": calls}


class Code(int):
    """An error code of cuda-bindings: a number with a name."""

    @property
    def name(self) -> str:
        return f"CUDA_ERROR_{int(self)}"


def cuda_bindings(gpu: Gpu) -> dict[str, ModuleType]:
    """cuda.bindings with the functions of its module `driver` that are called. Each returns its error code first, and
    None in place of results where it fails.
    """
    owned: dict[int, Any] = {}
    handles = itertools.count(5000)
    primary = "the primary context"

    def answer(name: str, *results: Any) -> tuple[Any, ...]:
        gpu.note(name)
        refusal = gpu.refuses.get(name, 0)
        return (Code(refusal), *(None if refusal else result for result in results))

    def in_context(name: str, work: Callable[[], Any] | None, *details: Any) -> tuple[Any, ...]:
        """Record the call and do its work, which returns the result; no work: the function has no result."""
        gpu.note(name, *details)
        code = gpu.refuses.get(name, 0) if gpu.stack else INVALID_CONTEXT
        if work is None:
            return (Code(code),)
        return Code(code), None if code else work()

    def own(resource: Any, handle: int | None = None) -> int:
        handle = next(handles) if handle is None else handle
        owned[handle] = resource
        return handle

    def free(handle: Any) -> tuple[Any, ...]:
        owned.pop(int(handle)).free()
        return (Code(0),)

    def retain(device: int) -> tuple[Any, ...]:
        assert device == 0
        time.sleep(0.005)  # concurrent threads synchronize here
        gpu.contexts += 1
        return answer("retain", primary)

    def push(context: str) -> tuple[Any, ...]:
        assert context == primary
        gpu.stack.append(context)
        return (Code(0),)

    def allocate(nbytes: int) -> tuple[Any, ...]:
        def work() -> int:
            memory = DeviceAllocation(gpu, nbytes)
            return own(memory, memory.address)

        return in_context("alloc", work, nbytes)

    def allocate_host(nbytes: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0

        def work() -> int:
            memory = PagelockedHostAllocation(gpu, nbytes)
            return own(memory, memory.held.ctypes.data)

        return in_context("alloc_host", work, nbytes)

    def host(address: int, nbytes: int) -> np.ndarray[Any, Any]:
        held: np.ndarray[Any, Any] = owned[address].held
        assert nbytes <= held.size, "past the end of page-locked memory"
        return held[:nbytes]

    def htod(target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        gpu.streams[stream].put(lambda: np.copyto(gpu.bytes_at(target, nbytes), host(source, nbytes)))
        return in_context("htod", None, nbytes)

    def dtoh(target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        gpu.streams[stream].put(lambda: np.copyto(host(target, nbytes), gpu.bytes_at(source, nbytes)))
        return in_context("dtoh", None, nbytes)

    def dtod(target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        gpu.streams[stream].put(lambda: np.copyto(gpu.bytes_at(target, nbytes), gpu.bytes_at(source, nbytes)))
        return in_context("dtod", None, nbytes)

    def create_stream(flags: int) -> tuple[Any, ...]:
        def work() -> int:
            stream = Stream(gpu, flags)
            return own(stream, stream.handle)

        return in_context("stream", work, flags)

    def synchronize(stream: int) -> tuple[Any, ...]:
        gpu.streams[stream].finish()
        return in_context("synchronize", None)

    def synchronize_all() -> tuple[Any, ...]:
        finish_all(gpu)
        return in_context("synchronize everything", None)

    def record(event: int, stream: int) -> tuple[Any, ...]:
        if stream in gpu.foreign_streams:
            return (Code(INVALID_HANDLE),)
        owned[event].record(gpu.streams.get(stream))
        return (Code(0),)

    def wait(stream: int, event: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        gpu.streams[stream].wait_for_event(owned[event])
        return (Code(0),)

    def begin(stream: int, mode: str) -> tuple[Any, ...]:
        assert mode == "thread local"
        code = answer("begin capture")
        if code == (0,):
            gpu.streams[stream].captured = []
        return code

    def end(stream: int) -> tuple[Any, ...]:
        captured, gpu.streams[stream].captured = gpu.streams[stream].captured, None
        return answer("end capture", captured)

    def launch(executable: list[Callable[[], None]], stream: int) -> tuple[Any, ...]:
        code = answer("launch")
        if code == (0,):
            gpu.streams[stream].work.extend(executable)
        return code

    package, bindings, calls = (ModuleType(name) for name in ("cuda", "cuda.bindings", "cuda.bindings.driver"))
    vars(calls).update(
        CUstreamCaptureMode=SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread local"),
        cuInit=lambda _flags: answer("init"),
        cuDeviceGet=lambda ordinal: (Code(0), ordinal),
        cuDevicePrimaryCtxRetain=retain,
        cuCtxPushCurrent=push,
        cuCtxPopCurrent=lambda: (Code(0), gpu.stack.pop()),
        cuCtxSynchronize=synchronize_all,
        cuMemAlloc=allocate,
        cuMemFree=free,
        cuMemGetInfo=lambda: (Code(0), 3000, 8000),
        cuMemHostAlloc=allocate_host,
        cuMemFreeHost=free,
        cuMemcpyHtoDAsync=htod,
        cuMemcpyDtoHAsync=dtoh,
        cuMemcpyDtoDAsync=dtod,
        cuStreamCreate=create_stream,
        cuStreamDestroy=free,
        cuStreamSynchronize=synchronize,
        cuStreamWaitEvent=wait,
        cuEventCreate=lambda flags: in_context("event", lambda: own(Event(gpu, flags))),
        cuEventDestroy=free,
        cuEventRecord=record,
        cuEventElapsedTime=lambda start, end: (Code(0), owned[start].time_till(owned[end])),
        cuStreamBeginCapture=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiate=lambda graph, _flags: answer("instantiate", list(graph)),
        cuGraphDestroy=lambda _graph: answer("destroy graph"),
        cuGraphLaunch=launch,
        cuGraphExecDestroy=lambda _executable: answer("destroy executable"),
    )
    vars(package).update(bindings=bindings)
    vars(bindings).update(driver=calls, __version__="13.5.0")
    return {"cuda": package, "cuda.bindings": bindings, "cuda.bindings.driver": calls}


class Tensorrt:
    """The runtime half of a module `tensorrt`: every engine doubles its float input `x` of N×2 into `y`."""

    __version__ = "10.3.0"

    class ILogger:
        pass

    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    def __init__(self, gpu: Gpu, batches: tuple[int, int, int] = (1, 2, 4)) -> None:
        self.gpu = gpu
        self.batches = batches
        self.types = {"x": "FLOAT", "y": "FLOAT"}
        self.IExecutionContext = ExecutionContext
        self.Runtime = lambda logger: Runtime(self, logger)


class TensorrtRtx(Tensorrt):
    """The same of a module `tensorrt_rtx`, whose contexts have a configuration and a cache of kernels."""

    IRuntimeConfig = SimpleNamespace(create_runtime_cache=None)


class Runtime:
    def __init__(self, trt: Tensorrt, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        self.engine_host_code_allowed = False

    def __del__(self) -> None:
        self.trt.gpu.calls.append(("~runtime",))

    def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
        self.trt.gpu.call("deserialize", self.engine_host_code_allowed)
        if plan == b"a plan":
            return CudaEngine(self.trt)
        self.logger.log(SimpleNamespace(name="ERROR"), "the plan is damaged")
        return None


class CudaEngine:
    """It references no runtime, and no context references it, so that tests detect a wrong order of destruction."""

    num_io_tensors = 2

    def __init__(self, trt: Tensorrt) -> None:
        self.trt = trt
        self.making = threading.Lock()

    def __del__(self) -> None:
        self.trt.gpu.calls.append(("~engine",))

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.trt.types[name])

    def get_tensor_mode(self, name: str) -> str:
        return {"x": "input", "y": "output"}[name]

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return (-1, 2)

    def get_tensor_profile_shape(self, _name: str, _profile: int) -> list[tuple[int, ...]]:
        return [(batch, 2) for batch in self.trt.batches]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.trt.gpu)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector()

    def create_execution_context(self, _config: RuntimeConfig | None = None) -> ExecutionContext:
        self.trt.gpu.call("context")
        assert self.making.acquire(blocking=False), "two threads make contexts of one engine at once"
        time.sleep(0.005)
        self.making.release()
        return ExecutionContext(self.trt.gpu)


class EngineInspector:
    """Its document is the shape that is set in its context."""

    execution_context: ExecutionContext

    def get_engine_information(self, _layer_format: str) -> str:
        return f"layers for {self.execution_context.shape}"


class RuntimeConfig:
    """No context refers to it, nor it to its cache, so that tests detect a wrong order of destruction."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def __del__(self) -> None:
        self.gpu.calls.append(("~config",))

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self.gpu)

    def set_runtime_cache(self, _cache: RuntimeCache) -> bool:
        return True


class RuntimeCache:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def __del__(self) -> None:
        self.gpu.calls.append(("~cache",))

    def serialize(self) -> bytes:
        return b"kernels"


class ExecutionContext:
    active_optimization_profile = 0

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def __del__(self) -> None:
        self.gpu.calls.append(("~context",))

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> bool:
        self.gpu.call("shape", shape)
        self.shape = shape
        return True

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.gpu.call("bind", name)
        assert address % 256 == 0, "TensorRT asks for addresses that are multiples of 256"
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.gpu.current()
        self.gpu.note("enqueue")
        if self.gpu.refuses.get("enqueue"):
            return False
        source, target, nbytes = self.addresses["x"], self.addresses["y"], 4 * int(np.prod(self.shape))

        def double() -> None:
            doubled = 2 * self.gpu.bytes_at(source, nbytes).view(np.float32)
            np.copyto(self.gpu.bytes_at(target, nbytes), doubled.view(np.uint8))

        self.gpu.streams[stream].put(double)
        return True


@contextmanager
def pushed(gpu: Gpu) -> Iterator[Context]:
    """A separate context of the caller, current within the block."""
    context = Context(gpu)
    context.push()
    try:
        yield context
    finally:
        context.pop()


LIBRARIES = ("pycuda", "cuda-bindings")


def install(monkeypatch: pytest.MonkeyPatch, library: str = "pycuda") -> Gpu:
    """Doubles of a GPU, pycuda and cuda-bindings, installed until the test ends; pycuda only where it is `library`."""
    gpu = Gpu()
    without_pycuda: dict[str, Any] = {"pycuda": None}
    for name, module in {**(pycuda(gpu) if library == "pycuda" else without_pycuda), **cuda_bindings(gpu)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(memory, "query_driver", lambda: Driver(THE_GPU, None))
    monkeypatch.setattr(memory, "_PRIMARY_CONTEXT", memory._PrimaryContext())
    monkeypatch.setattr(memory, "load_memory_library", functools.cache(memory.load_memory_library.__wrapped__))
    return gpu


THE_GPU = driver.Gpu("NVIDIA Fake", 87, "580.65.06", 80 << 30)
