"""The manifest: everything a runtime or a reader must know of a bundle, and the contract with C++."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.engines import Beside, Engine
from deploykit.core.values.graphs import FileRecord, Golden, KeptNode, Rewrite, TensorSpec
from deploykit.core.values.latencies import Latency
from deploykit.core.values.networks import BatchRange, ModelSpec, WeightsRecord
from deploykit.core.values.quantization import Budget, CalibrationReceipt, Placement, PrecisionReceipt, Recipe
from deploykit.core.values.requests import ExportRequest
from deploykit.core.values.samples import DataRecord
from deploykit.core.values.verdicts import Parity, Provenance
from deploykit.core.values.words import Origin, Precision, Value


class GraphRecord(Value, frozen=True):
    """The graph in the bundle and how it came about."""

    file: str
    precision: Precision
    opset: int
    exporter: Origin
    fallback: str | None
    rewrites: tuple[Rewrite, ...]
    kept_fp32: tuple[KeptNode, ...]
    """Nodes that stay FP32 in a graph of lower precision, each with the value that made it stay."""
    range_data: DataRecord | None
    """The samples on which values were checked against the precision's range, or calibrated."""
    placement: Placement | None
    """Where the Q/DQ pairs of an INT8 graph are, each with the rule that put it there."""
    recipe: Recipe | None


class Manifest(Value, frozen=True):
    """What `manifest.json` holds."""

    schema_version: Literal[4]
    request: ExportRequest
    """What the user asked for, word by word."""
    key: str
    """Digest of all that determined the bundle: a request with an equal key is answered by this bundle."""
    model: ModelSpec
    weights: WeightsRecord
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    graph: GraphRecord
    calibration: CalibrationReceipt | None
    budget: Budget | None
    receipt: PrecisionReceipt
    """In what arithmetic the engine that was judged really computes."""
    labels: str | None
    engine: Engine
    """The one that was judged and measured."""
    beside: tuple[Beside, ...]
    """Engines of other backends, or for other machines, each with what is known of it."""
    golden: Golden
    parity: Parity
    latency: Latency | None
    provenance: Provenance
    files: Mapping[str, FileRecord]

    def __post_init__(self) -> None:
        for path, file in self.files.items():
            if path != file.path:
                raise ValueError(f"the file {path!r} is recorded as {file.path!r}")
        for path in (*self.files, *self.named):
            if not stays_inside(path):
                raise ValueError(f"the path {path!r} leaves the bundle")

    @property
    def failures(self) -> tuple[str, ...]:
        """Every check that the bundle did not pass, as a sentence; none: it is good."""
        budget = self.budget
        over = (
            (f"the budget of {budget.bound:g} ({budget.measure}) does not hold: {budget.end:.2f}",)
            if budget is not None and not budget.kept
            else ()
        )
        beside = (failure for other in self.beside for failure in other.failures)
        return (*self.parity.failures, *self.receipt.failures, *over, *beside)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Every engine in the bundle, the one that was judged first."""
        return (self.engine, *(other.engine for other in self.beside))

    @property
    def named(self) -> tuple[str, ...]:
        """Every path that is spoken of outside `files`, where each must stand too once the bundle is written."""
        golden = (*self.golden.inputs.values(), *self.golden.outputs.values())
        engines = (engine.file.path for engine in self.engines)
        return (self.graph.file, *golden, *engines, *((self.labels,) if self.labels is not None else ()))


def stays_inside(path: str) -> bool:
    """Whether a recorded path is plain and relative: no `..`, no root, no backslash."""
    parts = path.split("/")
    return bool(path) and "\\" not in path and "\0" not in path and not {"", ".", ".."} & set(parts)
