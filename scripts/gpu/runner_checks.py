"""deploykit's TensorRT runner on a real driver without TensorRT: the engine is a double that copies input to output.

It proves, where there is a GPU: contexts, memory, streams and events of pycuda and of cuda-bindings as deploykit uses
them, cuda-bindings' graphs as capture.py uses them, threads, and tensors of PyTorch in the same process. It cannot
prove anything about TensorRT. Every check runs with each of the two memory libraries that can be imported.
"""

from __future__ import annotations

import gc
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from gpu.journal import Journal, last_line
from gpu.machine import find_gpu

WIDTH: Final = 3 * 224 * 224

Copy = Callable[[int, int, int, int], bool]
"""Copies so many bytes from one device address to another on a stream: target, source, bytes, stream."""


def check_runner(journal: Journal, order: str) -> None:
    """A row per check and memory library; one alone where there is no GPU. `order` is `torch-first`, `torch-last` or
    `without-torch`: whether PyTorch initializes CUDA before the runner, after it, or not at all.
    """
    if (absence := find_gpu()[1]) is not None:
        journal.add_row("check", check="runner", state="not run", why=absence)
        return
    libraries, missing = import_libraries()
    for name, reason in missing.items():
        journal.add_row("check", check=f"runner, {name}", state="not run", why=f"{name} cannot be imported: {reason}")
    for name, check in list_checks(order, libraries):
        start = time.perf_counter()
        try:
            with journal.activity(name):
                why, state = str(check()), "passed"
        except Exception as error:  # whatever a library raises is a finding here
            why, state = last_line(error), "failed"
        journal.add_row("check", check=name, state=state, why=why, seconds=round(time.perf_counter() - start, 2))


Check = Callable[[], object]


def list_checks(order: str, libraries: list[Any]) -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = [
        ("batches", check_batches),
        ("threads", check_threads),
        ("refused capture", check_refused_capture),
        ("GPU times", read_gpu_times),
    ]
    if order == "torch-first":
        checks += [("PyTorch tensors", check_torch_tensors)]
        return [("PyTorch initializes CUDA", initialize_torch), *with_each(libraries, checks)]
    if order == "torch-last":
        after: list[tuple[str, Check]] = [
            ("PyTorch tensors", check_torch_tensors),
            ("batches after PyTorch", check_batches),
        ]
        return [*with_each(libraries, checks), *with_each(libraries, after)]
    return with_each(libraries, checks)


# ── The memory libraries ────────────────────────────────────────────────────────────────────────────────────────────


def import_libraries() -> tuple[list[Any], dict[str, str]]:
    """The memory libraries that can be imported here, and the reasons why others cannot."""
    from deploykit.backends.gpu.memory import LIBRARIES
    from deploykit.backends.gpu.memory_library import REFUSED_IMPORT

    libraries, missing = [], {}
    for name, load in LIBRARIES.items():
        try:
            libraries.append(load())
        except REFUSED_IMPORT as error:
            missing[name] = last_line(error)
    return libraries, missing


def with_each(libraries: list[Any], checks: list[tuple[str, Check]]) -> list[tuple[str, Check]]:
    """The checks with the first library, then with the next."""
    return [
        (f"{name}, {library.name}", partial(run_with, library, check))
        for library in libraries
        for name, check in checks
    ]


def run_with(library: Any, check: Check) -> object:
    """Run the check while deploykit uses this library instead of the first that can be imported. What the check
    allocated is freed before: pycuda can only free it itself.
    """
    from deploykit.backends.gpu import memory

    with patch.multiple(memory, load_memory_library=lambda: library, _PRIMARY_CONTEXT=memory._PrimaryContext()):
        try:
            return check()
        finally:
            gc.collect()


# ── The double ──────────────────────────────────────────────────────────────────────────────────────────────────────


def copy_by_driver(target: int, source: int, nbytes: int, stream: int) -> bool:
    from cuda.bindings import driver as cuda

    (code,) = cuda.cuMemcpyDtoDAsync(target, source, nbytes, stream)
    return int(code) == 0


def allocate_by_driver() -> None:
    """A call that the driver refuses while a stream is captured."""
    from cuda.bindings import driver as cuda

    code, address = cuda.cuMemAlloc(1 << 20)
    if int(code) == 0:
        cuda.cuMemFree(address)


class TensorRtDouble:
    """As much of the module `tensorrt` as the runner uses. `disturb` runs within every call but the first."""

    __version__ = "10.3.0"

    class ILogger:
        def __init__(self) -> None:
            pass

    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    def __init__(self, copy: Copy = copy_by_driver, disturb: Callable[[], None] | None = None) -> None:
        self.Runtime = lambda _logger: RuntimeDouble(copy, disturb)


class RuntimeDouble:
    def __init__(self, copy: Copy, disturb: Callable[[], None] | None) -> None:
        self.copy, self.disturb, self.engine_host_code_allowed = copy, disturb, False

    def deserialize_cuda_engine(self, _plan: bytes) -> EngineDouble:
        return EngineDouble(self.copy, self.disturb)


class EngineDouble:
    num_io_tensors = 2

    def __init__(self, copy: Copy, disturb: Callable[[], None] | None) -> None:
        self.copy, self.disturb = copy, disturb

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_dtype(self, _name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_mode(self, name: str) -> str:
        return {"x": "input", "y": "output"}[name]

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return (-1, WIDTH)

    def get_tensor_profile_shape(self, _name: str, _profile: int) -> list[tuple[int, ...]]:
        return [(batch, WIDTH) for batch in (1, 4, 8)]

    def create_execution_context(self) -> ContextDouble:
        return ContextDouble(self.copy, self.disturb)


class ContextDouble:
    active_optimization_profile = 0

    def __init__(self, copy: Copy, disturb: Callable[[], None] | None) -> None:
        self.copy, self.disturb, self.calls = copy, disturb, 0
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 256 == 0

    def execute_async_v3(self, stream: int) -> bool:
        self.calls += 1
        if self.disturb is not None and self.calls > 1:
            self.disturb()  # refused within a capture, which then is void
        return self.copy(self.addresses["y"], self.addresses["x"], 4 * int(np.prod(self.shape)), stream)


# ── The checks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def make_runner(**options: Any) -> Any:
    """Deploykit's runner on the double, which takes the options."""
    from deploykit.backends.tensorrt.dialect import Dialect
    from deploykit.backends.tensorrt.runner import TensorRtRunner
    from deploykit.core.values import TensorSpec

    x, y = (TensorSpec(name, "float32", ("batch", WIDTH), "NC") for name in "xy")
    plan = Path(tempfile.mkdtemp()) / "double.plan"
    plan.write_bytes(b"a plan")
    return TensorRtRunner(Dialect(TensorRtDouble(**options)), plan, (x,), (y,))


def make_images(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), dtype=np.float32)


def require_equal(actual: Any, expected: Any, what: str) -> None:
    if not np.array_equal(actual, expected):
        raise AssertionError(f"{what}: the output differs from the input")


def require_graphs(runner: Any) -> None:
    """The runner says where it gave up CUDA graphs."""
    if runner.caveats:
        raise AssertionError("; ".join(runner.caveats))


def check_batches(copy: Copy = copy_by_driver) -> str:
    """Batch sizes in turn. The second call of a size is captured, and its CUDA graph serves the later ones: of 9 calls,
    7 execute the engine.
    """
    executed: list[int] = []

    def copy_counted(target: int, source: int, nbytes: int, stream: int) -> bool:
        executed.append(nbytes)
        return copy(target, source, nbytes, stream)

    runner, enqueue_ms = make_runner(copy=copy_counted), []
    for count in (1, 1, 1, 8, 8, 8, 3, 3, 1):
        x = make_images(count, count)
        outputs, times = runner.run_timed({"x": x})
        require_equal(outputs["y"], x, f"batch {count}")
        enqueue_ms.append(round(times.enqueue_ms, 4))
    require_graphs(runner)
    if len(executed) != 7:
        raise AssertionError(f"9 calls executed the engine {len(executed)} times; with CUDA graphs it is 7")
    return f"9 calls at batch 1, 8 and 3, CUDA graphs used; enqueue {enqueue_ms} ms"


def check_threads(**options: Any) -> str:
    """4 threads of 40 calls at changing batch sizes."""
    runner = make_runner(**options)
    errors: list[str] = []

    def work(worker: int) -> None:
        try:
            for call in range(40):
                x = make_images(1 + (worker + call // 10) % 8, 100 * worker + call)
                require_equal(runner.run({"x": x})["y"], x, f"thread {worker}, call {call}")
        except Exception as error:
            errors.append(last_line(error))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise AssertionError("; ".join(errors[:3]))
    require_graphs(runner)
    return "4 threads of 40 calls"


def check_refused_capture(disturb: Callable[[], None] = allocate_by_driver, **options: Any) -> str:
    """A capture that the driver refuses leaves the runner working, and it says so."""
    runner, x = make_runner(disturb=disturb, **options), make_images(2, 7)
    for call in range(4):
        require_equal(runner.run({"x": x})["y"], x, f"call {call}")
    if not runner.caveats:
        raise AssertionError("the driver did not refuse the capture")
    return "; ".join(runner.caveats)


def read_gpu_times(**options: Any) -> str:
    times = make_runner(**options).gpu_times({"x": make_images(8)}, 50)
    return "; ".join(map(str, times))


def initialize_torch() -> str:
    import torch

    torch.zeros(1, device="cuda")
    return str(torch.__version__)


def check_torch_tensors() -> str:
    """Inputs on the GPU, written by PyTorch on the default stream and on another one, aligned or not; outputs read by
    PyTorch through both interfaces.
    """
    import torch

    runner, x = make_runner(), make_images(5, 3)

    def read(output: Any) -> Any:
        return torch.as_tensor(output, device="cuda").cpu().numpy()

    require_equal(read(runner.run_device({"x": torch.from_numpy(x).cuda()})["y"]), x, "default stream")
    side, late = torch.cuda.Stream(), torch.zeros(5, WIDTH, device="cuda")
    source = torch.from_numpy(x).cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # about 0.1 s before the input is written
        late.copy_(source)
        start = time.perf_counter()
        output = runner.run_device({"x": late})["y"]
        waited_ms = 1e3 * (time.perf_counter() - start)
    require_equal(read(output), x, "side stream, which must be waited for")
    require_equal(torch.utils.dlpack.from_dlpack(output).cpu().numpy(), x, "DLPack")
    again = runner.run_device({"x": output})["y"]
    require_equal(read(again), x, "an output as the next input")
    flat = torch.zeros(5 * WIDTH + 2, device="cuda")
    flat[2:] = source.reshape(-1)
    require_equal(read(runner.run_device({"x": flat[2:].view(5, WIDTH)})["y"]), x, "unaligned address")
    del runner
    gc.collect()
    require_equal(read(output), x, "output after the runner was released")
    if float((torch.ones(4, device="cuda") + 1).sum()) != 8.0:
        raise AssertionError("PyTorch computes wrongly afterwards")
    return (
        f"default stream, side stream (waited {waited_ms:.0f} ms for it), unaligned address, DLPack, output as input, "
        "output outlives the runner"
    )
