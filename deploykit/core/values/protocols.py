"""Protocols: what stages ask of each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from deploykit.core.values.engines import Engine, EngineLayer
from deploykit.core.values.graphs import TensorSpec
from deploykit.core.values.latencies import GpuTimes
from deploykit.core.values.quantization import Executed
from deploykit.core.values.samples import Sample, TensorSample
from deploykit.core.values.words import Arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Runner(Protocol):
    """Anything that computes the exported function: eager PyTorch, ONNX Runtime, an engine."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name. The arrays carry a leading batch axis that is within the runner's batch range."""
        ...


@runtime_checkable
class TimedRunner(Runner, Protocol):
    """A runner on a GPU that can tell where the time of a call goes."""

    def gpu_times(self, arrays: Arrays, calls: int) -> tuple[GpuTimes, ...]:
        """Medians of so many calls with these arrays: without a CUDA graph, and with one where it can be captured."""
        ...


class SampleSet(Protocol):
    """Samples to calibrate or judge with, decoded one at a time, in an order that never changes."""

    @property
    def name(self) -> str: ...

    @property
    def real(self) -> bool: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty where labels have no names, or there are none."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample | TensorSample: ...


class Progress(Protocol):
    """Where long work says how far it is."""

    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Callable[[], None]]:
        """Enter a step; what it yields is called once per finished unit of `total`."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should read now."""
        ...


class Backend(Protocol):
    """One inference library: graphs in, engines out, engines loaded."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def opsets(self) -> range:
        """The opsets of the default domain that it takes."""
        ...

    @property
    def identity(self) -> str:
        """All that determines what `compile` makes of a graph: name and version, and the GPU and settings if any."""
        ...

    def obstacle(self) -> str | None:
        """Why this machine cannot run its engines, as half a sentence; None where it can."""
        ...

    def build_obstacle(self) -> str | None:
        """Why this machine cannot build its engines, as half a sentence; None where it can."""
        ...

    def compile(self, graph: Path, folder: Path, progress: Progress | None = None) -> Engine:
        """Build an engine into `folder`; its record's path is relative to that folder.

        InputError for a graph that the library does not take, BackendError where it fails or is not there.
        """
        ...

    def load(self, engine: Engine, folder: Path) -> Runner:
        """A runner of the engine in `folder`. BackendError where it was made for another machine or version, before
        a byte of it is given to the library.
        """
        ...

    def layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:
        """The layers of a compiled engine, with their GPU times where some `calls` are profiled; none of an engine that
        is a graph.
        """
        ...

    def executed(self, engine: Engine, folder: Path) -> Executed:
        """What the engine computes in: every Conv, ConvTranspose, Gemm and MatMul of the graph has a word."""
        ...
