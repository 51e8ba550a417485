"""Doubles of the Python modules of TensorRT 8.6, 10.3, 10.16 and 11.4, which cannot build without a GPU, and of
TensorRT-RTX, whose engines cannot run without one.

Each has exactly the classes, attributes and enum members of its version (`surfaces`): anything else raises
AttributeError, on assignment too, as in NVIDIA's module. They record calls in `calls`, read names and shapes from an
ONNX file, and return meaningless bytes. They verify that we use each version's API correctly, and nothing about
TensorRT's results: no kernel, number or plan is real.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import onnx
from surfaces import CLASSES, ENUMS, words

VERSIONS = {"8.6": "8.6.1", "10.3": "10.3.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}
RTX = "rtx"


class Refusal(NamedTuple):
    """A node that the double's parser refuses: its index, and the description as C++ has it."""

    node: int
    desc: str


class Double:
    """The module of one version. A test may set these attributes before the first use."""

    Builder: Any  # those of the names in `surfaces` that tests use directly
    BuilderFlag: Any
    DataType: Any
    IBuilderConfig: Any
    ICudaEngine: Any

    def __init__(self, version: str) -> None:
        self.__version__ = VERSIONS.get(version, "1.7.1.116")
        self.calls: list[str] = []
        """`IBuilderConfig.set_flag(FP16)`, `IBuilderConfig.DLA_core = 0`, in order."""
        self.failure: str | None = None
        """What the builder and runtime log as an error instead of answering."""
        self.refusals: list[Refusal] = []
        self.operators_lacking: set[str] = set()
        self.dla_cores = 0
        self.layers_off_dla: set[str] = set()
        self.during_build: Callable[[], None] = lambda: None
        self.most_workspace = 8 << 30
        self.cancelled = False
        """Whether a monitor stopped a build."""
        for name in ENUMS:
            if (members := words(ENUMS, name, version)) is not None:
                pairs = (member.split("=") for member in members)
                setattr(self, name, enum.IntEnum(name, {member: int(value) for member, value in pairs}))
        for name in CLASSES:
            if (attributes := words(CLASSES, name, version)) is not None:
                setattr(self, name, _made(self, name, attributes))
        self.ILogger = ILogger


class ILogger:
    """The base of loggers, equal in all versions."""

    Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


def _made(module: Double, name: str, attributes: list[str]) -> type:
    """The class `name` with exactly these attributes, some with the behaviour defined below."""
    behaviour = BEHAVIOUR.get(name, object).__dict__
    content = {attribute: behaviour.get(attribute, _Unknown(attribute)) for attribute in attributes}
    if "__init__" in behaviour:
        content["__init__"] = behaviour["__init__"]
    created = type(name, (_Surface,), content)
    created.trt = module  # type: ignore[attr-defined]
    created.attributes = frozenset(attributes)  # type: ignore[attr-defined]
    return created


class _Surface:
    """Base of all classes of a double: strict attributes, and a record of assignments."""

    trt: Double
    attributes: frozenset[str]

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif name in self.attributes:
            self._say(f"{name} = {_word(value)}")
            object.__setattr__(self, f"_{name}", value)
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _say(self, what: str) -> None:
        self.trt.calls.append(f"{type(self).__name__}.{what}")


class _Unknown:
    """An attribute of the version: the assigned value, or an error if no behaviour is defined."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        if f"_{self.name}" not in instance.__dict__:
            raise NotImplementedError(f"the double does not know how {owner.__name__}.{self.name} behaves")
        return instance.__dict__[f"_{self.name}"]

    def __set__(self, instance: Any, value: Any) -> None:
        raise AssertionError("written through __setattr__ of the class")


def _word(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, (int, str)) else type(value).__name__


class Builder:
    def __init__(self: Any, logger: Any) -> None:
        self._logger = logger
        if self.trt.failure == "no builder":
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self: Any, flags: int = 0) -> Any:
        names = [flag.name for flag in self.trt.NetworkDefinitionCreationFlag if flags & 1 << int(flag)]
        assert sum(1 << int(self.trt.NetworkDefinitionCreationFlag[name]) for name in names) == flags
        self._say(f"create_network({' '.join(names)})")
        return self.trt.INetworkDefinition()

    def create_builder_config(self: Any) -> Any:
        return self.trt.IBuilderConfig()

    def create_optimization_profile(self: Any) -> Any:
        return self.trt.IOptimizationProfile()

    @property
    def num_DLA_cores(self: Any) -> int:  # noqa: N802 - NVIDIA's name
        return int(self.trt.dla_cores)

    def build_serialized_network(self: Any, network: Any, config: Any) -> Any:
        self._say(f"build_serialized_network({len(network._layers)} layers)")
        monitor = getattr(config, "_progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 2)
            monitor.phase_start("Timing graph nodes", "Building Engine", 9)
        self.trt.during_build()
        going = monitor is None or all(monitor.step_complete("Building Engine", step) for step in range(2))
        if monitor is not None:
            monitor.phase_finish("Timing graph nodes")
            monitor.phase_finish("Building Engine")
        self.trt.cancelled = not going
        if self.trt.failure is not None or not going:
            self._logger.log(ILogger.Severity.ERROR, self.trt.failure or "Error Code 7: BuildCanceled (Build canceled)")
            return None
        if getattr(config, "_timing", None) is not None:
            config._timing._timed.add(b"new")
        return b"a plan of " + self.trt.__version__.encode()


class INetworkDefinition:
    def __init__(self: Any) -> None:
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))

    def get_input(self: Any, index: int) -> Any:
        return self._inputs[index]

    def get_layer(self: Any, index: int) -> Any:
        return self._layers[index]


class ITensor:
    def __init__(self: Any, name: str, shape: tuple[int, ...]) -> None:
        self._name, self._shape = name, shape

    name = property(lambda self: self._name)
    shape = property(lambda self: self._shape)


class ILayer:
    def __init__(self: Any, name: str) -> None:
        self._name = name

    name = property(lambda self: self._name)


class OnnxParser:
    def __init__(self: Any, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[Any] = []

    def parse_from_file(self: Any, path: str) -> bool:
        graph = onnx.load(path).graph
        weights = {tensor.name for tensor in graph.initializer}
        for value in graph.input:
            if value.name not in weights:
                shape = tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)
                self._network._inputs.append(self.trt.ITensor(value.name, shape))
        self._network._layers.extend(self.trt.ILayer(node.name) for node in graph.node)
        self._network._outputs.extend(value.name for value in graph.output)
        for refusal in self.trt.refusals:
            node = graph.node[refusal.node]
            self._errors.append(self.trt.ParserError(refusal, node.name, node.op_type))
        return not self._errors

    num_errors = property(lambda self: len(self._errors))

    def get_error(self: Any, index: int) -> Any:
        return self._errors[index]

    def supports_operator(self: Any, operator: str) -> bool:
        return operator not in self.trt.operators_lacking


class ParserError:
    def __init__(self: Any, refusal: Refusal, name: str, operator: str) -> None:
        self._refusal, self._node_name, self._node_operator = refusal, name, operator

    def node(self: Any) -> int:
        return int(self._refusal.node)

    def desc(self: Any) -> str:
        return str(self._refusal.desc)

    def code(self: Any) -> Any:
        return self.trt.ErrorCode.UNSUPPORTED_NODE

    def node_name(self: Any) -> str:
        return str(self._node_name)

    def node_operator(self: Any) -> str:
        return str(self._node_operator)


class IBuilderConfig:
    def __init__(self: Any) -> None:
        self._limits: dict[Any, int] = {}
        self._timing = None

    def set_flag(self: Any, flag: Any) -> None:
        self._say(f"set_flag({flag.name})")

    def clear_flag(self: Any, flag: Any) -> None:
        self._say(f"clear_flag({flag.name})")

    def set_preview_feature(self: Any, feature: Any, enable: bool) -> None:
        self._say(f"set_preview_feature({feature.name}, {enable})")

    def set_memory_pool_limit(self: Any, pool: Any, size: int) -> None:
        self._say(f"set_memory_pool_limit({pool.name}, {size})")
        if size <= self.trt.most_workspace:
            self._limits[pool] = size

    def get_memory_pool_limit(self: Any, pool: Any) -> int:
        return int(self._limits.get(pool, self.trt.most_workspace))

    def add_optimization_profile(self: Any, profile: Any) -> int:
        self._say(f"add_optimization_profile({profile._shapes})")
        return 0

    @property
    def builder_optimization_level(self: Any) -> int:
        return min(int(self.__dict__.get("_builder_optimization_level", 3)), 5)

    def can_run_on_DLA(self: Any, layer: Any) -> bool:  # noqa: N802 - NVIDIA's name
        return layer.name not in self.trt.layers_off_dla

    def set_compute_capability(self: Any, compute_capability: Any, index: int) -> bool:
        self._say(f"set_compute_capability({compute_capability.name}, {index})")
        return bool(index < self._num_compute_capabilities)

    def create_timing_cache(self: Any, blob: bytes) -> Any:
        return None if blob.startswith(b"damaged") else self.trt.ITimingCache(blob)

    def set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if b"another GPU" in cache._timed:
            return False
        self._say(f"set_timing_cache({b' '.join(sorted(cache._timed)).decode()})")
        self._timing = cache
        return True

    def get_timing_cache(self: Any) -> Any:
        return self._timing


class ITimingCache:
    """A set of words; a blob is the words with bars between them."""

    def __init__(self: Any, blob: bytes) -> None:
        self._timed = set(filter(None, blob.split(b"|")))

    def combine(self: Any, other: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if b"another GPU" in other._timed:
            return False
        self._timed |= other._timed
        return True

    def serialize(self: Any) -> bytes:
        return b"|".join(sorted(self._timed))


class IOptimizationProfile:
    def __init__(self: Any) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self: Any, name: str, smallest: Any, best: Any, largest: Any) -> None:
        self._shapes[name] = (smallest, best, largest)


class IProgressMonitor:
    """The base of monitors."""

    def phase_start(self: Any, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self: Any, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self: Any, phase_name: str) -> None:
        raise NotImplementedError


class IProfiler:
    """The base of profilers."""

    def report_layer_time(self: Any, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class Runtime:
    def __init__(self: Any, logger: Any) -> None:
        self._logger = logger
        if self.trt.failure == "no runtime":
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def deserialize_cuda_engine(self: Any, plan: bytes) -> Any:
        self._say(f"deserialize_cuda_engine({len(plan)} bytes)")
        if self.trt.failure is not None:
            self._logger.log(ILogger.Severity.ERROR, self.trt.failure)
            return None
        return self.trt.ICudaEngine()


class ICudaEngine:
    """An engine from float32 x, N×4×8×8 with N from 1 to 4, to float16 y."""

    num_io_tensors = property(lambda _: 2)

    def get_tensor_name(self: Any, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self: Any, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name == "x" else self.trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self: Any, name: str) -> Any:
        return self.trt.DataType.FLOAT if name == "x" else self.trt.DataType.HALF

    def get_tensor_shape(self: Any, name: str) -> tuple[int, ...]:
        return (-1, 4, 8, 8) if name == "x" else (-1, 10)

    def get_tensor_profile_shape(self: Any, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert (name, profile_index) == ("x", 0)
        return [(1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8)]

    def create_execution_context(self: Any, runtime_config: Any = None) -> Any:
        self._say(f"create_execution_context({_word(runtime_config) if runtime_config is not None else ''})")
        if self.trt.failure is not None:
            return None
        return self.trt.IExecutionContext()

    def create_runtime_config(self: Any) -> Any:
        return self.trt.IRuntimeConfig()

    def create_engine_inspector(self: Any) -> Any:
        return self.trt.EngineInspector()


class IRuntimeConfig:
    def create_runtime_cache(self: Any) -> Any:
        return self.trt.IRuntimeCache()

    def set_runtime_cache(self: Any, cache: Any) -> bool:
        self._say(f"set_runtime_cache({cache._kernels.decode()})")
        return True


class IRuntimeCache:
    def __init__(self: Any) -> None:
        self._kernels = b""

    def deserialize(self: Any, blob: bytes) -> bool:
        accepted = blob.startswith(b"kernels")
        self._kernels = blob if accepted else self._kernels
        return accepted

    def serialize(self: Any) -> bytes:
        return self._kernels + b" and more"


class IExecutionContext:
    def __init__(self: Any) -> None:
        self._shape = None

    def set_input_shape(self: Any, name: str, shape: tuple[int, ...]) -> bool:
        self._say(f"set_input_shape({name}, {shape})")
        self._shape = shape
        return bool(1 <= shape[0] <= 4)

    def get_tensor_shape(self: Any, name: str) -> tuple[int, ...]:
        return self._shape if name == "x" else (self._shape[0], 10)

    def set_tensor_address(self: Any, name: str, memory: int) -> bool:
        self._say(f"set_tensor_address({name}, {memory})")
        return memory % 256 == 0

    def is_stream_capturable(self: Any, stream: int) -> bool:
        return stream == 77

    def execute_async_v3(self: Any, stream_handle: int) -> bool:
        self._say(f"execute_async_v3({stream_handle})")
        if (profiler := self.__dict__.get("_profiler")) is not None:
            profiler.report_layer_time("conv", 0.5)
        return self.trt.failure is None


class EngineInspector:
    def get_engine_information(self: Any, layer_format: Any) -> str:
        self._say(f"get_engine_information({layer_format.name})")
        return '{"Layers": []}'


class Refitter:
    def __init__(self: Any, engine: Any, logger: Any) -> None:
        pass

    def refit_cuda_engine(self: Any) -> bool:
        self._say("refit_cuda_engine()")
        return self.trt.failure is None


class OnnxParserRefitter:
    def __init__(self: Any, refitter: Any, logger: Any) -> None:
        pass

    def refit_from_file(self: Any, path: str) -> bool:
        self._say(f"refit_from_file({path})")
        return True


BEHAVIOUR: dict[str, type] = {
    each.__name__: each
    for each in (
        Builder,
        INetworkDefinition,
        ITensor,
        ILayer,
        OnnxParser,
        ParserError,
        IBuilderConfig,
        ITimingCache,
        IOptimizationProfile,
        IProgressMonitor,
        IProfiler,
        Runtime,
        ICudaEngine,
        IRuntimeConfig,
        IRuntimeCache,
        IExecutionContext,
        EngineInspector,
        Refitter,
        OnnxParserRefitter,
    )
}
