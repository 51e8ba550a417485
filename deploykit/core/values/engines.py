"""Engines: build options, build record, layers, and engines added to a bundle."""

from __future__ import annotations

from deploykit.core.values.base import Arithmetic, Value
from deploykit.core.values.graphs import FileRecord, TensorSpec
from deploykit.core.values.latencies import Fp32Comparison, Latency
from deploykit.core.values.networks import BatchRange
from deploykit.core.values.quantization import PrecisionReceipt
from deploykit.core.values.verdicts import Parity, Provenance


class BuildOptions(Value, frozen=True):
    """Options of an engine build. Backends that compile a graph while loading it ignore them."""

    batch: BatchRange = BatchRange()
    """Optimization profile: minimum, optimum and maximum batch size."""
    compute_capabilities: tuple[int, ...] = ()
    """TensorRT-RTX: compute capabilities to build for, 86 for 8.6; empty: one portable engine for 8.0, 8.6, 8.9, 12.0
    and later."""
    workspace_mib: int | None = None
    """Device memory available to a layer's tactic; None: no limit."""
    optimization_level: int | None = None
    """0 builds fastest, 5 searches longest; None: the library's default."""
    version_compatible: bool = False
    """Also loadable by later TensorRT versions, through the lean runtime."""
    hardware_compatible: bool = False
    """Runs on every GPU since Ampere, at some cost in speed."""
    strip_weights: bool = False
    """Store the engine without weights; they are refitted from the graph when it is loaded."""
    refittable: bool = False
    """Allow replacing weights in the built engine."""
    dla_core: int | None = None
    """Deep-learning accelerator (DLA) core to run layers on; unsupported layers run on the GPU."""


class BuildRecord(Value, frozen=True):
    """How an engine was built: the requirements that are checked before it is loaded."""

    graph: FileRecord
    """ONNX file that the engine was built from."""
    platform: str
    """Operating system and architecture, such as `Linux x86_64`; the engine runs on no other."""
    gpu: str | None
    """GPU of the build machine; None: built without a GPU."""
    driver: str | None
    compute_capabilities: tuple[int, ...]
    """Compute capabilities that the engine runs on, 86 for 8.6; with `open_ended`, also later ones."""
    open_ended: bool
    settings: tuple[str, ...]
    """Builder flags and limits under the library's own names, such as `STRONGLY_TYPED`."""
    seconds: float
    timing_cache_sha256: str | None
    """SHA-256 of the timing cache after the build; None: the library has no timing cache."""
    options: BuildOptions


class Engine(Value, frozen=True):
    """An engine file that its backend can load."""

    backend: str
    version: str
    file: FileRecord
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    caveats: tuple[str, ...] = ()
    """Restrictions that apply to its figures, such as arithmetic wider than the graph's types."""
    build: BuildRecord | None = None
    """None: the engine is a graph that its library compiles while loading it."""


class EngineLayer(Value, frozen=True):
    """One layer of a compiled engine, as reported by the library's engine inspector."""

    name: str
    kind: str
    """Layer type in the library's terms, such as `CaskConvolution` or `Reformat`."""
    arithmetic: Arithmetic | None
    """Arithmetic type; None: the layer computes nothing, or the inspector does not report it."""
    tactic: str
    inputs: tuple[str, ...]
    """Data type and format of each input, such as `Int8 NC/32HW32`."""
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    """Names of the ONNX nodes fused into this layer."""
    modules: tuple[str, ...]
    """Dotted names of the PyTorch modules that those nodes belong to."""
    time_us: float | None
    """Mean time per call on a GPU, median on a CPU; None: not profiled."""

    @property
    def is_reformat(self) -> bool:
        """Whether the layer only converts a tensor format, which corresponds to no node of the graph."""
        return self.kind.lower().startswith(("reformat", "nonneuralnetwork reformat"))


class EngineInspection(Value, frozen=True):
    """Layers of one engine in a bundle, as far as this machine can inspect it."""

    engine: Engine
    unavailable_reason: str | None
    """Reason why this machine cannot inspect the engine, as a sentence; None: `layers` is complete."""
    layers: tuple[EngineLayer, ...]


class SecondaryEngine(Value, frozen=True):
    """An additional engine in a bundle, next to its primary engine."""

    engine: Engine
    not_run_reason: str | None
    """Reason why the engine was not run; None: it was run, and the results follow."""
    parity: Parity | None = None
    receipt: PrecisionReceipt | None = None
    latency: Latency | None = None
    provenance: Provenance | None = None
    """Machine that built the engine, and ran it if it was run; None: the machine that exported the bundle."""
    fp32_latency: Fp32Comparison | None = None
    """The engine beside FP32 on the same backend; None: FP32 was not timed, as the bundle holds no FP32 graph."""

    def __post_init__(self) -> None:
        if (self.not_run_reason is None) == (self.parity is None):
            raise ValueError("an extra engine has either a parity result or a not_run_reason")

    @property
    def failures(self) -> tuple[str, ...]:
        """Failed checks, each as a sentence."""
        parity = self.parity.failures if self.parity is not None else ()
        receipt = self.receipt.failures if self.receipt is not None else ()
        return tuple(f"{self.engine.backend}: {failure}" for failure in (*parity, *receipt))
