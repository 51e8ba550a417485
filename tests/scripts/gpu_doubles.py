"""A GPU's double for scripts/gpu: PyTorch's CUDA on the host, and ONNX Runtime's CUDA provider on its CPU provider."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace


class Event:
    """A CUDA event on the host's clock."""

    def __init__(self, **_):
        self.time = None

    def record(self, _stream=None):
        self.time = time.perf_counter()

    def elapsed_time(self, other):
        return 1e3 * (other.time - self.time)

    def synchronize(self):
        assert self.time is not None


class Stream:
    cuda_stream = 7

    def synchronize(self):
        pass


class CudaGraph:
    """Replays the last call of `Network` before the capture ended, on the current stream; with `stale` it leaves the
    outputs as they are.
    """

    stale = False

    def __init__(self):
        self.call, self.captured_on = None, None

    def replay(self):
        assert CURRENT[-1] is self.captured_on, "timed on another stream than that on which it is replayed"
        if self.call is not None and not self.stale:
            network, pixels, output = self.call
            output.copy_(network.compute(pixels))


CURRENT = [None]
"""PyTorch's current stream, last."""


@contextlib.contextmanager
def use_stream(stream):
    CURRENT.append(stream)
    yield
    CURRENT.pop()


class Network:
    """A module that doubles its input's mean per channel, and remembers its last call."""

    last_call = None

    def compute(self, pixels):
        return 2 * pixels.mean((2, 3))

    def __call__(self, pixels):
        output = self.compute(pixels)
        Network.last_call = (self, pixels, output)
        return output


@contextlib.contextmanager
def capture(graph, stream=None):
    Network.last_call = None
    yield
    graph.call, graph.captured_on = Network.last_call, stream


def install(monkeypatch):
    """PyTorch's CUDA on the host."""
    import torch

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", use_stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CudaGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor.clone())
    monkeypatch.setattr(torch, "empty", lambda shape, **_: empty(shape))


def install_provider(monkeypatch, opened, refuse_graphs=False):
    """ONNX Runtime's CUDA provider on the CPU; `opened` collects the provider options of each session."""
    import onnxruntime as ort

    real = ort.InferenceSession

    class Session:
        def __init__(self, path, options, providers, disabled_optimizers):
            ((name, settings),) = providers
            assert name == "CUDAExecutionProvider"
            opened.append(settings)
            if refuse_graphs and settings.get("enable_cuda_graph") == "1":
                raise RuntimeError("This session cannot use the graph capture feature")
            self.real = real(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled_optimizers)

        def __getattr__(self, name):
            return getattr(self.real, name)

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def io_binding(self):
            binding = self.real.io_binding()
            return SimpleNamespace(
                real=binding,
                bind_input=lambda name, _device, *rest: binding.bind_input(name, "cpu", *rest),
                bind_output=lambda name, _device, *rest: binding.bind_output(name, "cpu", *rest),
            )

        def run_with_iobinding(self, binding, options):
            self.real.run_with_iobinding(binding.real, options)

    monkeypatch.setattr(ort, "InferenceSession", Session)
