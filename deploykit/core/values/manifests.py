"""The manifest of a bundle: the contract between Python, the C++ library and readers of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.base import Origin, Precision, Value
from deploykit.core.values.engines import Engine, SecondaryEngine
from deploykit.core.values.graphs import FileRecord, Fp32Node, Golden, Rewrite, TensorSpec
from deploykit.core.values.latencies import Fp32Comparison, Latency
from deploykit.core.values.networks import BatchRange, ModelSpec, WeightsRecord
from deploykit.core.values.quantization import (
    Budget,
    CalibrationReceipt,
    FileRangesReceipt,
    Placement,
    PrecisionReceipt,
    Recipe,
)
from deploykit.core.values.requests import ExportRequest
from deploykit.core.values.samples import DataRecord
from deploykit.core.values.verdicts import Parity, Provenance


class GraphRecord(Value, frozen=True):
    """The graph in the bundle and how it was produced."""

    file: str
    precision: Precision
    opset: int
    exporter: Origin
    fallback_reason: str | None
    rewrites: tuple[Rewrite, ...]
    fp32_nodes: tuple[Fp32Node, ...]
    """Nodes that stay FP32 in a graph of lower precision, each with the value that requires it."""
    range_data: DataRecord | None
    """Samples of the FP16 range check or of the INT8 calibration."""
    placement: Placement | None
    """Placement of the Q/DQ pairs of an INT8 graph, each with the rule that chose it."""
    recipe: Recipe | None


class Manifest(Value, frozen=True):
    """Content of `manifest.json`."""

    schema_version: Literal[6]
    request: ExportRequest
    """The export request, as the user gave it."""
    key: str
    """Digest of everything that determines the bundle; a request with the same key reuses this bundle."""
    model: ModelSpec
    weights: WeightsRecord
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    graph: GraphRecord
    calibration: CalibrationReceipt | None
    file_ranges: FileRangesReceipt | None
    """INT8 ranges taken from the Q/DQ pairs of an ONNX file; None: they were calibrated, or it is not INT8."""
    budget: Budget | None
    receipt: PrecisionReceipt
    """Executed precision of the primary engine."""
    labels: str | None
    engine: Engine
    """The primary engine: the one that `parity`, `receipt` and `latency` describe."""
    extra_engines: tuple[SecondaryEngine, ...]
    """Engines of other backends or for other machines, each with its own results."""
    golden: Golden
    parity: Parity
    latency: Latency | None
    fp32_latency: Fp32Comparison | None
    """The primary engine beside FP32 on the same backend; None: it is FP32 itself, or FP32 was not timed."""
    provenance: Provenance
    files: Mapping[str, FileRecord]

    def __post_init__(self) -> None:
        for path, file in self.files.items():
            if path != file.path:
                raise ValueError(f"the file {path!r} is recorded as {file.path!r}")
        for path in (*self.files, *self.referenced_paths):
            if not stays_inside(path):
                raise ValueError(f"the path {path!r} leaves the bundle")

    @property
    def failures(self) -> tuple[str, ...]:
        """Failed checks, each as a sentence; empty: the bundle passes. Extra engines have failures of their own."""
        budget = self.budget
        over_budget = (
            (f"the accuracy budget of {budget.limit:g} ({budget.metric}) is not met: {budget.end:.2f}",)
            if budget is not None and not budget.met
            else ()
        )
        return (*self.parity.failures, *self.receipt.failures, *over_budget)

    @property
    def named_engine_failures(self) -> tuple[str, ...]:
        """Failed checks of the extra engines that the request names."""
        named = [engine for engine in self.extra_engines if engine.engine.backend in self.request.extra_engines]
        return tuple(failure for engine in named for failure in engine.failures)

    def failures_of(self, engine: Engine) -> tuple[str, ...]:
        """Failed checks of one engine: of an extra engine its own, of the primary one those of the bundle."""
        for other in self.extra_engines:
            if (other.engine.backend, other.engine.file) == (engine.backend, engine.file):
                return other.failures
        return self.failures

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Every engine in the bundle, the primary engine first."""
        return (self.engine, *(other.engine for other in self.extra_engines))

    @property
    def referenced_paths(self) -> tuple[str, ...]:
        """Every path referenced outside `files`; in a complete bundle, each is also a key of `files`."""
        golden = (*self.golden.inputs.values(), *self.golden.outputs.values())
        engines = (engine.file.path for engine in self.engines)
        return (self.graph.file, *golden, *engines, *((self.labels,) if self.labels is not None else ()))


def stays_inside(path: str) -> bool:
    """Whether a recorded path stays inside the bundle: relative, without `..` or backslashes."""
    parts = path.split("/")
    return bool(path) and "\\" not in path and "\0" not in path and not {"", ".", ".."} & set(parts)
