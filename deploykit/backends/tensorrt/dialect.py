"""Differences between TensorRT 8.6, 10, 11 and TensorRT-RTX, detected from the module itself.

A feature exists if its class, attribute or enum member does; version numbers are used in messages only. `builder` uses
a Dialect for networks and plans, `runtime` for engines and execution contexts.

Both are type-checked against stubs made from NVIDIA's bindings of 10.13, where these are installed. What only other
versions have is looked up with `has_attribute` and `find_member` and used through names typed Any.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from deploykit.backends.tensorrt.log import get_log
from deploykit.core.errors import BackendError

if TYPE_CHECKING:
    import tensorrt

    class Api:
        """The part of the module that we use. A class, since mypy cannot type a module chosen at run time."""

        from tensorrt import (
            Builder,
            BuilderFlag,
            DeviceType,
            HardwareCompatibilityLevel,
            IProfiler,
            LayerInformationFormat,
            MemoryPoolType,
            OnnxParser,
            OnnxParserRefitter,
            ProfilingVerbosity,
            Refitter,
            Runtime,
            TensorIOMode,
        )

        __version__: str


T = TypeVar("T")


class Dialect:
    """One module with TensorRT's API: `tensorrt` of some version, or `tensorrt_rtx`."""

    def __init__(self, trt: Any) -> None:
        self.trt: Api = trt
        self.version = str(trt.__version__)
        self.log, self.logger = get_log(trt)

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX, the only one that builds without a GPU."""
        return hasattr(self.trt, "ComputeCapability")

    @property
    def title(self) -> str:
        """Name and version for messages: `TensorRT 10.3.0`."""
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"

    @property
    def strongly_typed(self) -> bool:
        """Whether the engine keeps the graph's types. 8.6 chooses types by itself, within what the flags allow."""
        return self.find_member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") is not None

    @property
    def builds_without_gpu(self) -> bool:
        """Whether building needs no GPU: TensorRT times kernels on the GPU, TensorRT-RTX chooses them at run time."""
        return self.is_rtx

    def has_attribute(self, kind: str, attribute: str) -> bool:
        """Whether the module has the class `kind` and it has that attribute."""
        return hasattr(getattr(self.trt, kind, None), attribute)

    def find_member(self, enum: str, name: str) -> Any:
        """A member of one of the module's enums; None where this version lacks the member or the enum."""
        return getattr(getattr(self.trt, enum, None), name, None)

    def member_names(self, enum: str) -> tuple[str, ...]:
        """The member names of one of the module's enums; empty where this version lacks the enum."""
        return tuple(getattr(getattr(self.trt, enum, None), "__members__", ()))

    def unsupported(self, what: str, remedy: str) -> BackendError:
        """The error for an option that this version lacks: `TensorRT 8.6.1 has no stripped plans.`, and the remedy."""
        return BackendError(f"{self.title} has no {what}.", remedy)


def or_none(result: T) -> T | None:
    """Retype a result as optional: the library returns None on failure, but the stubs promise an object."""
    return result


def to_dims(shape: tuple[int, ...]) -> tensorrt.Dims:
    """Retype a tuple as Dims: pybind11 converts tuples, but the stubs do not say so."""
    return cast("tensorrt.Dims", shape)


def to_shape(shape: tensorrt.Dims) -> tuple[int, ...]:
    """Convert Dims to a tuple: they are iterable, but the stubs do not say so."""
    return tuple(cast("Iterable[int]", shape))
