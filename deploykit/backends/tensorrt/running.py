"""The runtime side of the dialects: plans to engines, engines to contexts, contexts to work on a stream.

Whoever calls has asked `driver` and `gate` before: without a driver, deserialize may end the process by SIGSEGV (seen
in 11.4's lean runtime; TensorRT-RTX 1.7.1 gave None). All versions from 8.6 on have the tensor API that is used here:
tensors by name, addresses set once, execute_async_v3.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deploykit.backends.tensorrt.dialect import Dialect, perhaps, sizes
from deploykit.core.errors import BackendError
from deploykit.core.values import BatchRange, DType

if TYPE_CHECKING:
    import tensorrt

DTYPES: Final[dict[str, DType]] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
}
"""TensorRT's words in ours; the other types it has are not served at an engine's border."""

BUILD_AGAIN: Final = "Build it again here with `deploykit compile`."


class EngineTensor(NamedTuple):
    """An input or output of an engine; a size that is chosen at run time is −1."""

    name: str
    is_input: bool
    dtype: DType
    shape: tuple[int, ...]


class Context(NamedTuple):
    """An execution context, and what TensorRT-RTX compiles kernels with and into; None elsewhere."""

    handle: tensorrt.IExecutionContext
    runtime_config: Any = None
    jit_cache: Any = None


class Running:
    """One library's runtime. It must outlive the engines that it made."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        mark = dialect.log.count
        try:
            self._runtime = dialect.trt.Runtime(dialect.logger)
        except TypeError as error:  # pybind11's word for a constructor that gave nullptr
            raise self._failure(
                "gives no runtime", self.dialect.log.errors(mark), "See what `deploykit doctor` says."
            ) from error

    def deserialize(self, plan: bytes, version_compatible: bool = False) -> tensorrt.ICudaEngine:
        """The engine of a plan. BackendError with the library's own reason where it refuses.

        A version-compatible plan brings a runtime of its own: code, which runs only where that is allowed here.
        """
        self._runtime.engine_host_code_allowed = version_compatible
        mark = self.dialect.log.count
        engine = perhaps(self._runtime.deserialize_cuda_engine(plan))
        if engine is None:
            raise self._failure("does not take this engine", self.dialect.log.errors(mark), BUILD_AGAIN)
        return engine

    def refit(self, engine: tensorrt.ICudaEngine, graph: Path) -> None:
        """Give an engine that was built without weights those of the graph that it was built from."""
        mark = self.dialect.log.count
        refitter = self.dialect.trt.Refitter(engine, self.dialect.logger)
        parser = self.dialect.trt.OnnxParserRefitter(refitter, self.dialect.logger)
        if not (parser.refit_from_file(str(graph)) and refitter.refit_cuda_engine()):
            raise self._failure(f"cannot take weights from {graph.name}", self.dialect.log.errors(mark), BUILD_AGAIN)

    def tensors(self, engine: tensorrt.ICudaEngine) -> tuple[EngineTensor, ...]:
        """Inputs and outputs in the engine's order. BackendError for a type that is not served."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return tuple(self._tensor(engine, name) for name in names)

    def _tensor(self, engine: tensorrt.ICudaEngine, name: str) -> EngineTensor:
        word = engine.get_tensor_dtype(name).name
        if word not in DTYPES:
            raise BackendError(f"The engine's {name} is a {word}.", "Image and float tensors are served.")
        is_input = engine.get_tensor_mode(name) == self.dialect.trt.TensorIOMode.INPUT
        return EngineTensor(name, is_input, DTYPES[word], sizes(engine.get_tensor_shape(name)))

    def batch(self, engine: tensorrt.ICudaEngine) -> BatchRange | None:
        """The batch sizes of the engine's optimization profile, which is the first; None where shapes are fixed."""
        for tensor in self.tensors(engine):
            if tensor.is_input and tensor.shape[:1] == (-1,):
                smallest, best, largest = engine.get_tensor_profile_shape(tensor.name, 0)
                return BatchRange(smallest[0], best[0], largest[0])
        return None

    def context(self, engine: tensorrt.ICudaEngine, jit_cache: bytes | None = None) -> Context:
        """A context of the engine. TensorRT-RTX compiles kernels when shapes are first met, here with `jit_cache` to
        begin with: bytes that it refuses, since they come from another GPU or driver, cost time and nothing else.

        Kernels for a size are compiled when it is first met, not in the background meanwhile: a CUDA graph that is
        captured then, and the timings taken, are of the kernels that stay. CUDA graphs of TensorRT-RTX's own stay off:
        whoever runs captures the stream.
        """
        mark = self.dialect.log.count
        config: Any = None  # the stubs are TensorRT's: what TensorRT-RTX alone has is not in them
        cache: Any = None
        if self.dialect.has("IRuntimeConfig", "create_runtime_cache"):
            config = engine.create_runtime_config()
            cache = config.create_runtime_cache()
            if jit_cache:
                cache.deserialize(jit_cache)
            config.set_runtime_cache(cache)
            if (eager := self.dialect.member("DynamicShapesKernelSpecializationStrategy", "EAGER")) is not None:
                config.dynamic_shapes_kernel_specialization_strategy = eager
            handle = perhaps(engine.create_execution_context(config))
        else:
            handle = perhaps(engine.create_execution_context())
        if handle is None:
            remedy = "Free GPU memory, or build the engine with a smaller --workspace or largest batch."
            raise self._failure("gives no execution context", self.dialect.log.errors(mark), remedy)
        return Context(handle, config, cache)

    def compiled(self, context: Context) -> bytes | None:
        """What TensorRT-RTX has compiled so far, for the next start; None where nothing is compiled at run time."""
        if context.jit_cache is None:
            return None
        return bytes(memoryview(context.jit_cache.serialize()))

    def set_shape(self, context: Context, name: str, shape: tuple[int, ...]) -> None:
        """The size of an input from now on. BackendError where it is outside the optimization profile."""
        mark = self.dialect.log.count
        taken = context.handle.set_input_shape(name, shape)
        if not taken:
            said = "×".join(map(str, shape))
            raise self._failure(
                f"refuses {name} of {said}", self.dialect.log.errors(mark), "Keep within the engine's batch range."
            )

    def shape(self, context: Context, name: str) -> tuple[int, ...]:
        """The size of a tensor now that the inputs' are set."""
        return sizes(context.handle.get_tensor_shape(name))

    def bind(self, context: Context, name: str, address: int) -> None:
        """Where a tensor lies in device memory, until it is bound again."""
        if not context.handle.set_tensor_address(name, address):
            raise self._failure(f"refuses the memory of {name}", (), "Report it.")

    def enqueue(self, context: Context, stream: int) -> None:
        """Put one inference on the stream; every tensor is bound, every input has its size."""
        mark = self.dialect.log.count
        queued = context.handle.execute_async_v3(stream)
        if not queued:
            raise self._failure(
                "failed while computing", self.dialect.log.errors(mark), "See whether the GPU has memory left."
            )

    def capturable(self, context: Context, stream: int) -> bool:
        """Whether a CUDA graph may be captured. TensorRT-RTX tells; elsewhere one tries and may fail.

        TensorRT-RTX says no where inference allocates memory, as it may where tensors outgrow what is reserved
        beforehand. Its flag REQUIRE_USER_ALLOCATION forbids that, and is not set: contexts of such an engine are given
        out for memory of the application's own only (kUSER_MANAGED, says 1.7.1), which nothing here provides.
        """
        if not self.dialect.has("IExecutionContext", "is_stream_capturable"):
            return True
        handle: Any = context.handle  # not in the stubs, which are TensorRT's
        return bool(handle.is_stream_capturable(stream))

    def profile(self, context: Context, report: Callable[[str, float], None]) -> None:
        """From now on, call `report` with each layer's name and milliseconds after every inference, which then waits
        for the GPU. `report` must not raise: there is C++ above it.
        """
        base: Any = self.dialect.trt.IProfiler

        class Profiler(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                report(layer_name, ms)

        context.handle.profiler = Profiler()

    def inspect(self, engine: tensorrt.ICudaEngine, context: Context | None = None) -> str:
        """All layers as the inspector's JSON document; with a context, at the sizes that are set in it."""
        inspector = engine.create_engine_inspector()
        if context is not None:
            inspector.execution_context = context.handle
        return str(inspector.get_engine_information(self.dialect.trt.LayerInformationFormat.JSON))

    def _failure(self, what: str, reasons: tuple[str, ...], remedy: str) -> BackendError:
        told = f": {'; '.join(reasons)}" if reasons else ""
        return BackendError(f"{self.dialect.title} {what}{told}.", remedy)
