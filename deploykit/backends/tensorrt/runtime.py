"""Wraps the library's runtime: plans to engines, engines to execution contexts, contexts to work on a stream.

Callers check `driver` and `gate` first: without a driver, deserialize may end the process by SIGSEGV (observed in
11.4's lean runtime; TensorRT-RTX 1.7.1 returned None). All versions from 8.6 on have the tensor API that is used here:
tensors by name, addresses set once, execute_async_v3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deploykit.backends.tensorrt.dialect import Dialect, or_none, to_shape
from deploykit.core.errors import BackendError
from deploykit.core.shapes import format_shape
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
"""TensorRT's type names and ours; its other types are not supported as inputs and outputs."""

BUILD_AGAIN: Final = "Build it again here with `deploykit compile`."


class EngineTensor(NamedTuple):
    """An input or output of an engine; a dynamic size is −1."""

    name: str
    is_input: bool
    dtype: DType
    shape: tuple[int, ...]


class Context:
    """An execution context, with TensorRT-RTX's runtime configuration and kernel cache; None for TensorRT."""

    def __init__(self, handle: tensorrt.IExecutionContext, runtime_config: Any = None, jit_cache: Any = None) -> None:
        self.handle = handle
        self.runtime_config = runtime_config
        self.jit_cache = jit_cache

    def destroy(self) -> None:
        """Destroy the context, then the configuration and the cache that it was created with and may still use.

        Said here rather than left to the order in which Python drops attributes. The object is useless afterwards.
        """
        del self.handle
        self.runtime_config = None
        self.jit_cache = None


class Runtime:
    """One library's runtime. It must outlive the engines that it created."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        logged = dialect.log.count
        try:
            self._runtime = dialect.trt.Runtime(dialect.logger)
        except TypeError as error:  # pybind11's error for a constructor that returned nullptr
            reasons = dialect.log.errors_since(logged)
            raise self._create_error("could not create a runtime", reasons, "Check it: deploykit doctor.") from error

    def deserialize(
        self, plan: bytes, version_compatible: bool = False, dla_core: int | None = None
    ) -> tensorrt.ICudaEngine:
        """Deserialize a plan. BackendError with the library's reason where it rejects the plan.

        `version_compatible` allows the host code (the runtime) that a version-compatible plan contains. `dla_core` is
        the accelerator core that the plan was built for: without it a plan runs on core 0, whichever that was.
        """
        self._runtime.engine_host_code_allowed = version_compatible
        if dla_core is not None:
            self._runtime.DLA_core = dla_core
        logged = self.dialect.log.count
        engine = or_none(self._runtime.deserialize_cuda_engine(plan))
        if engine is None:
            raise self._create_error("rejects this engine", self.dialect.log.errors_since(logged), BUILD_AGAIN)
        return engine

    def refit(self, engine: tensorrt.ICudaEngine, graph: Path) -> None:
        """Refit an engine that was built without weights from its source graph."""
        logged = self.dialect.log.count
        refitter = self.dialect.trt.Refitter(engine, self.dialect.logger)
        parser = self.dialect.trt.OnnxParserRefitter(refitter, self.dialect.logger)
        if not (parser.refit_from_file(str(graph)) and refitter.refit_cuda_engine()):
            raise self._create_error(
                f"cannot refit weights from {graph.name}", self.dialect.log.errors_since(logged), BUILD_AGAIN
            )

    def list_tensors(self, engine: tensorrt.ICudaEngine) -> tuple[EngineTensor, ...]:
        """Inputs and outputs in the engine's order. BackendError for an unsupported type."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return tuple(self._describe_tensor(engine, name) for name in names)

    def _describe_tensor(self, engine: tensorrt.ICudaEngine, name: str) -> EngineTensor:
        dtype = engine.get_tensor_dtype(name).name
        if dtype not in DTYPES:
            what = f"The engine's tensor {name} has the unsupported type {dtype}."
            raise BackendError(what, f"Export the graph with one of {', '.join(DTYPES.values())}.")
        is_input = engine.get_tensor_mode(name) == self.dialect.trt.TensorIOMode.INPUT
        return EngineTensor(name, is_input, DTYPES[dtype], to_shape(engine.get_tensor_shape(name)))

    def read_batch_range(self, engine: tensorrt.ICudaEngine) -> BatchRange | None:
        """The batch range of the engine's only optimization profile; None where shapes are static."""
        for tensor in self.list_tensors(engine):
            if tensor.is_input and tensor.shape[:1] == (-1,):
                minimum, optimum, maximum = engine.get_tensor_profile_shape(tensor.name, 0)
                return BatchRange(minimum[0], optimum[0], maximum[0])
        return None

    def create_context(self, engine: tensorrt.ICudaEngine, jit_cache: bytes | None = None) -> Context:
        """Create an execution context. TensorRT-RTX compiles kernels when a shape first occurs, starting from
        `jit_cache`; bytes from another GPU or driver are rejected, which only costs time.

        Kernels are compiled on first use of a shape, not in the background, so that CUDA graphs are captured and
        timings measured with the final kernels. TensorRT-RTX's own CUDA graphs stay off: the runner captures the
        stream.
        """
        logged = self.dialect.log.count
        config: Any = None  # the stubs are TensorRT's and lack what only TensorRT-RTX has
        cache: Any = None
        if self.dialect.has_attribute("IRuntimeConfig", "create_runtime_cache"):
            config = or_none(engine.create_runtime_config())
            cache = or_none(config.create_runtime_cache()) if config is not None else None
            if cache is None:
                reasons = self.dialect.log.errors_since(logged)
                raise self._create_error("could not create a kernel cache", reasons, "Check it: deploykit doctor.")
            if jit_cache:
                cache.deserialize(jit_cache)
            config.set_runtime_cache(cache)
            if (eager := self.dialect.find_member("DynamicShapesKernelSpecializationStrategy", "EAGER")) is not None:
                config.dynamic_shapes_kernel_specialization_strategy = eager
            handle = or_none(engine.create_execution_context(config))
        else:
            handle = or_none(engine.create_execution_context())
        if handle is None:
            remedy = "Free GPU memory, or build the engine with a smaller --workspace or maximum batch."
            raise self._create_error(
                "could not create an execution context", self.dialect.log.errors_since(logged), remedy
            )
        return Context(handle, config, cache)

    def serialize_kernels(self, context: Context) -> bytes | None:
        """The kernels that TensorRT-RTX has compiled so far; None for TensorRT, which compiles none at run time."""
        kernels = or_none(context.jit_cache.serialize()) if context.jit_cache is not None else None
        return bytes(memoryview(kernels)) if kernels is not None else None

    def choose_profile(self, context: Context, stream: int) -> bool:
        """Choose the engine's only optimization profile where the context has none: before 10, only an engine's first
        context has it by default. BackendError where TensorRT refuses.

        Returns whether there was work for the stream, which must be synchronized before the context is used.
        """
        if context.handle.active_optimization_profile >= 0:
            return False
        logged = self.dialect.log.count
        if not context.handle.set_optimization_profile_async(0, stream):
            what = "provides no optimization profile for another context of this engine"
            raise self._create_error(what, self.dialect.log.errors_since(logged), BUILD_AGAIN)
        return True

    def set_shape(self, context: Context, name: str, shape: tuple[int, ...]) -> None:
        """Set the shape of an input. BackendError where it is outside the optimization profile."""
        logged = self.dialect.log.count
        if not context.handle.set_input_shape(name, shape):
            what = f"rejects the shape {format_shape(shape)} for {name}"
            reasons = self.dialect.log.errors_since(logged)
            raise self._create_error(what, reasons, "Use a batch within the engine's range.")

    def read_shape(self, context: Context, name: str) -> tuple[int, ...]:
        """The shape of a tensor for the input shapes that are set."""
        return to_shape(context.handle.get_tensor_shape(name))

    def bind_tensor(self, context: Context, name: str, address: int) -> None:
        """Set the device address of a tensor."""
        if not context.handle.set_tensor_address(name, address):
            raise self._create_error(f"rejects the device address of {name}", (), "Report it.")

    def enqueue(self, context: Context, stream: int) -> None:
        """Enqueue one inference on the stream. All tensors are bound and all input shapes are set."""
        logged = self.dialect.log.count
        if not context.handle.execute_async_v3(stream):
            reasons = self.dialect.log.errors_since(logged)
            raise self._create_error("failed while computing", reasons, "Check the free GPU memory: nvidia-smi.")

    def can_capture(self, context: Context, stream: int) -> bool:
        """Whether TensorRT-RTX allows the capture of a CUDA graph. TensorRT cannot tell: the capture is tried.

        TensorRT-RTX answers no where inference may allocate memory, as it does where tensors outgrow the memory
        reserved beforehand. Its flag REQUIRE_USER_ALLOCATION would prevent that but is not set: contexts of such an
        engine need memory provided by the application (kUSER_MANAGED, says 1.7.1), which is not implemented here.
        """
        if not self.dialect.has_attribute("IExecutionContext", "is_stream_capturable"):
            return True
        handle: Any = context.handle  # the stubs are TensorRT's and lack what only TensorRT-RTX has
        return bool(handle.is_stream_capturable(stream))

    def attach_profiler(self, context: Context, report: Callable[[str, float], None]) -> None:
        """Call `report` with each layer's name and milliseconds after every inference, which then waits for the GPU.
        `report` must not raise: it is called from C++.
        """
        base: Any = self.dialect.trt.IProfiler

        class Profiler(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                report(layer_name, ms)

        context.handle.profiler = Profiler()

    def inspect_layers(self, engine: tensorrt.ICudaEngine, context: Context) -> str:
        """The engine inspector's JSON document of all layers, for the input shapes that are set in the context.

        Without a context the inspector does not know the formats of an engine with a dynamic batch, nor before 11 the
        types.
        """
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context.handle
        return str(inspector.get_engine_information(self.dialect.trt.LayerInformationFormat.JSON))

    def _create_error(self, what: str, reasons: tuple[str, ...], remedy: str) -> BackendError:
        reason = f": {'; '.join(reasons)}" if reasons else ""
        return BackendError(f"{self.dialect.title} {what}{reason}.", remedy)


def inspect_plan(
    dialect: Dialect, plan: bytes, shapes: Mapping[str, tuple[int, ...]], version_compatible: bool = False
) -> str:
    """The engine inspector's JSON document of a plan's layers for these input shapes; BackendError where it does not
    load.

    The execution context that the inspector needs computes nothing: no tensor needs GPU memory.
    """
    runtime = Runtime(dialect)
    engine = runtime.deserialize(plan, version_compatible)
    try:
        context = runtime.create_context(engine)
        try:
            for name, shape in shapes.items():
                runtime.set_shape(context, name, shape)
            return runtime.inspect_layers(engine, context)
        finally:
            context.destroy()
    finally:
        del engine  # before its runtime
