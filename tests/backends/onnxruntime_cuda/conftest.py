"""The backend on doubles of a driver, with the real CPU provider in place of the CUDA provider.

GPU memory is host memory at its real address, and a session's work runs when its stream is synchronized: outputs are
right only if copies and calls stand on one stream in the right order, on the right addresses.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cuda_doubles
import numpy as np
import pytest
from cuda_doubles import Gpu

from deploykit.backends.gpu.driver import Driver
from deploykit.backends.onnxruntime_cuda import backend, runner, session
from deploykit.backends.onnxruntime_cuda.session import Settings
from deploykit.core.errors import InputError


class SessionOnStream:
    """A session whose bound calls are work of a stream."""

    def __init__(self, real: Any, gpu: Gpu, stream: int) -> None:
        self.real, self.gpu, self.stream = real, gpu, stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.gpu.call("enqueue", options.get_run_config_entry("gpu_graph_id"))
        self.gpu.streams[self.stream].put(lambda: self.real.run_with_iobinding(binding, options))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """The doubles; `refuses["capture"]` makes sessions refuse CUDA graphs, as for a node that runs on the CPU."""
    gpu = cuda_doubles.install(monkeypatch)
    driver = Driver(cuda_doubles.THE_GPU, None)
    open_real = session.open_session

    def allocate(nbytes: int) -> int:
        memory = np.full(nbytes + 256, 0xEE, np.uint8)
        start = -memory.ctypes.data % 256
        gpu.memory[memory.ctypes.data + start] = memory[start : start + nbytes]
        return int(memory.ctypes.data + start)

    def open_on_stream(graph: Path, settings: Settings, stream: int, *, cuda_graphs: bool = False) -> SessionOnStream:
        if cuda_graphs and "capture" in gpu.refuses:
            raise InputError(f"ONNX Runtime cannot load it: This session {runner.CAPTURE_REFUSED}.", "")
        gpu.call("open", graph, settings)
        return SessionOnStream(open_real(graph, settings), gpu, stream)

    monkeypatch.setattr(gpu, "allocate", allocate)
    monkeypatch.setattr(session, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(session, "provider_options", lambda _settings, _stream, _cuda_graphs: {})
    monkeypatch.setattr(session, "find_missing_provider", lambda: None)
    monkeypatch.setattr(runner, "open_session", open_on_stream)
    monkeypatch.setattr(runner, "DEVICE", "cpu")
    monkeypatch.setattr(runner, "WARM_UP_S", 0.0)
    monkeypatch.setattr(backend, "query_driver", lambda: driver)
    yield gpu
    assert not gpu.stack, "a context was left behind"


CONVOLUTION = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch,3,8,8] x) => (float[batch,4] y)
<float[4,3,3,3] weight_0, float[4] weight_1, float[4,4] weight_2> {
    [conv] c = Conv <pads = [1, 1, 1, 1]> (x, weight_0, weight_1)
    [relu] r = Relu (c)
    [pool] p = GlobalAveragePool (r)
    [flatten] f = Flatten (p)
    [fc] y = Gemm (f, weight_2)
}
"""


@pytest.fixture
def convolution(write_graph: Callable[[str], Path]) -> Path:
    """A graph of a convolution with bias and a classifier."""
    return write_graph(CONVOLUTION)
