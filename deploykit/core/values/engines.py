"""Engines: what a backend made of a graph, how it was asked to, and where it runs."""

from __future__ import annotations

from deploykit.core.values.graphs import FileRecord, TensorSpec
from deploykit.core.values.latencies import Latency
from deploykit.core.values.networks import BatchRange
from deploykit.core.values.quantization import PrecisionReceipt
from deploykit.core.values.verdicts import Parity, Provenance
from deploykit.core.values.words import Arithmetic, Value


class BuildOptions(Value, frozen=True):
    """What a compiler is told. Backends that compile while they load heed none of it."""

    batch: BatchRange = BatchRange()
    """The optimization profile: smallest, best served and largest batch."""
    compute_capabilities: tuple[int, ...] = ()
    """TensorRT-RTX: GPUs to build for, 86 for 8.6; none: one portable engine for 8.0, 8.6, 8.9, 12.0 and later."""
    workspace_mib: int | None = None
    """Device memory that a layer's tactic may take; None: all there is."""
    optimization_level: int | None = None
    """0 builds fastest, 5 searches longest; None: the library's own choice."""
    version_compatible: bool = False
    """Runs on later versions too, through the lean runtime."""
    hardware_compatible: bool = False
    """Runs on every GPU from Ampere on, at some cost in speed."""
    strip_weights: bool = False
    """The engine comes without weights and is refitted from the graph before it runs."""
    refittable: bool = False
    """Weights can be replaced in the finished engine."""
    dla_core: int | None = None
    """The deep-learning accelerator that layers are given to; those that it cannot take run on the GPU."""


class BuildRecord(Value, frozen=True):
    """How an engine was compiled: what a machine must be asked before it loads it."""

    graph: FileRecord
    """The ONNX file that it was built from."""
    platform: str
    """`Linux x86_64`: engines run on no other."""
    gpu: str | None
    """The GPU that it was built on; None: no GPU was at hand."""
    driver: str | None
    compute_capabilities: tuple[int, ...]
    """GPUs that it runs on, 86 for 8.6. With `open_ended`, also those above the last."""
    open_ended: bool
    settings: tuple[str, ...]
    """Flags and limits that the builder was given, each as the library calls it, such as `STRONGLY_TYPED`."""
    seconds: float
    timing_cache_sha256: str | None
    """Of the tactic timings that the build ended with; None where the library keeps none."""
    options: BuildOptions


class Engine(Value, frozen=True):
    """What a backend made of a graph and can load again."""

    backend: str
    version: str
    file: FileRecord
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    statements: tuple[str, ...] = ()
    """What a reader of its figures must know, such as arithmetic that is wider than the graph's types."""
    build: BuildRecord | None = None
    """None where the engine is a graph that its library compiles while loading it."""


class EngineLayer(Value, frozen=True):
    """One layer of a compiled engine, as its library's inspector tells it."""

    name: str
    kind: str
    """The library's word, such as `CaskConvolution` or `Reformat`."""
    arithmetic: Arithmetic | None
    """What it computes in; None where it computes nothing, or the inspector does not say."""
    tactic: str
    inputs: tuple[str, ...]
    """Type and format of each input, such as `Int8 NC/32HW32`."""
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    """Names of the ONNX nodes that went into it."""
    modules: tuple[str, ...]
    """Dotted names of the PyTorch modules that these come from."""
    time_us: float | None
    """Mean GPU time of one call; None before a profiled run."""

    @property
    def moves_data_only(self) -> bool:
        """Whether it is a reformat: time that no node of the graph asked for."""
        return self.kind.lower().startswith(("reformat", "nonneuralnetwork reformat"))


class EngineAccount(Value, frozen=True):
    """What is known of an engine in a bundle, here and now."""

    engine: Engine
    unseen: str | None
    """Why this machine cannot look into it, as a sentence; None: `layers` are what it is made of."""
    layers: tuple[EngineLayer, ...]


class Beside(Value, frozen=True):
    """An engine packed beside the one that a bundle was judged by."""

    engine: Engine
    unchecked: str | None
    """Why this machine could not run it; None: it did, and here is what came of it."""
    parity: Parity | None = None
    receipt: PrecisionReceipt | None = None
    latency: Latency | None = None
    provenance: Provenance | None = None
    """The machine that built it, and ran it where it was run; None: the one that exported the bundle."""

    def __post_init__(self) -> None:
        if (self.unchecked is None) == (self.parity is None):
            raise ValueError("an engine was either run and judged, or is said why not")

    @property
    def failures(self) -> tuple[str, ...]:
        """Every check that it did not pass, as a sentence."""
        parity = self.parity.failures if self.parity is not None else ()
        receipt = self.receipt.failures if self.receipt is not None else ()
        return tuple(f"{self.engine.backend}: {failure}" for failure in (*parity, *receipt))
