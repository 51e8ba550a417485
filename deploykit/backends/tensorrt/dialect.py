"""What sets one TensorRT apart from another, asked of the module itself: 8.6, 10, 11 and TensorRT-RTX.

A feature is there if its class, attribute or enum member is; version numbers are for messages. What a Dialect knows
is used from two sides: `building` makes networks and plans of it, `running` engines and execution contexts.

Both are checked by mypy against type stubs made from NVIDIA's bindings of 10.13, where these are installed. What other
versions alone have is asked for by `has` and `member`, and used through names typed Any.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from deploykit.backends.tensorrt.log import log_of
from deploykit.core.errors import BackendError

if TYPE_CHECKING:
    import tensorrt

    class Api:
        """What we use of the module. A class, since mypy knows no module whose name it does not see imported."""

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
        self.log, self.logger = log_of(trt)

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT-RTX: the only one whose engines are built for GPUs that need not be there."""
        return hasattr(self.trt, "ComputeCapability")

    @property
    def title(self) -> str:
        """`TensorRT 10.3.0`, as messages call it."""
        return f"{'TensorRT-RTX' if self.rtx else 'TensorRT'} {self.version}"

    @property
    def strongly_typed(self) -> bool:
        """Whether the graph's own types are the engine's. 8.6 chooses types by itself, within what flags allow."""
        return self.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") is not None

    @property
    def builds_without_gpu(self) -> bool:
        """TensorRT times kernels on the GPU it builds for; TensorRT-RTX leaves that to the machine that runs."""
        return self.rtx

    def has(self, kind: str, attribute: str) -> bool:
        """Whether the module's class `kind` is there and has that attribute."""
        return hasattr(getattr(self.trt, kind, None), attribute)

    def member(self, enum: str, name: str) -> Any:
        """A member of one of the module's enums; None where this version has no such member, or no such enum."""
        return getattr(getattr(self.trt, enum, None), name, None)

    def members(self, enum: str) -> tuple[str, ...]:
        """The names that an enum of the module has; none where it has no such enum."""
        return tuple(getattr(getattr(self.trt, enum, None), "__members__", ()))

    def lacks(self, what: str, remedy: str) -> BackendError:
        """The refusal of an option: `TensorRT 8.6.1 has no stripped plans.`, and what to do."""
        return BackendError(f"{self.title} has no {what}.", remedy)


def perhaps(made: T) -> T | None:
    """What the library made, or None where it failed: the stubs promise an object."""
    return made


def dims(shape: tuple[int, ...]) -> tensorrt.Dims:
    """A shape as an argument: pybind11 converts tuples, and the stubs do not say so."""
    return cast("tensorrt.Dims", shape)


def sizes(shape: tensorrt.Dims) -> tuple[int, ...]:
    """A shape that the library gave: it can be iterated over, and the stubs do not say so."""
    return tuple(cast("Iterable[int]", shape))
