"""Protocols: the interfaces between stages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from deploykit.core.values.base import Arrays
from deploykit.core.values.engines import Engine, EngineLayer
from deploykit.core.values.graphs import TensorSpec
from deploykit.core.values.latencies import GpuTimes
from deploykit.core.values.quantization import ExecutedPrecision
from deploykit.core.values.samples import Sample, TensorSample

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Runner(Protocol):
    """Computes the exported function: eager PyTorch, ONNX Runtime or an engine."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Compute outputs by name. Each array has a leading batch axis within the runner's batch range."""
        ...


@runtime_checkable
class TimedRunner(Runner, Protocol):
    """A runner on a GPU that measures the parts of a call."""

    def gpu_times(self, arrays: Arrays, calls: int) -> tuple[GpuTimes, ...]:
        """Measure medians over `calls` calls: without a CUDA graph, and with one if it can be captured."""
        ...


class SampleSet(Protocol):
    """Samples for calibration or evaluation, decoded one at a time, in a fixed order."""

    @property
    def name(self) -> str: ...

    @property
    def real(self) -> bool: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty: labels have no names, or there are no labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample | TensorSample: ...


class Progress(Protocol):
    """Receives the progress of long work."""

    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Callable[[], None]]:
        """Start a step; the yielded function is called once per finished unit of `total`."""
        ...

    def note(self, text: str) -> None:
        """Show a message to the user now."""
        ...


@runtime_checkable
class FormWriter(Protocol):
    """A backend whose `compile` chooses between a graph and its form by their time, which may differ between calls."""

    def write_form(self, graph: Path, folder: Path) -> Path:
        """Write the form of `graph` into `folder`, whichever is faster; returns its path."""
        ...


class Backend(Protocol):
    """One inference library: compiles graphs to engines and loads engines."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def opsets(self) -> range:
        """Supported opsets of the default ONNX domain."""
        ...

    @property
    def identity(self) -> str:
        """Everything that determines the result of `compile`: name, version, GPU and settings."""
        ...

    def unavailable_reason(self) -> str | None:
        """Reason why this machine cannot run its engines, without a final period; None: it can."""
        ...

    def cannot_build_reason(self) -> str | None:
        """Reason why this machine cannot build its engines, without a final period; None: it can."""
        ...

    def compile(self, graph: Path, folder: Path, progress: Progress | None = None) -> Engine:
        """Build an engine in `folder`; the path in its record is relative to that folder.

        InputError for a graph that the library does not support, BackendError if the build fails or the library is not
        usable.
        """
        ...

    def load(self, engine: Engine, folder: Path) -> Runner:
        """Load the engine in `folder`. BackendError for an engine that was built for another machine or version, before
        the library reads any of it.
        """
        ...

    def read_layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:
        """List the layers of a compiled engine, with GPU times if `calls` > 0 calls are profiled; empty for an engine
        that is a graph.
        """
        ...

    def read_executed_precision(self, engine: Engine, folder: Path) -> ExecutedPrecision:
        """Read the arithmetic type in which the engine computes every Conv, ConvTranspose, Gemm and MatMul."""
        ...
