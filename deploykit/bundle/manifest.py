"""The manifest: everything a runtime or a reader must know of a bundle, and the contract with C++.

Its JSON Schema (`schema.json`, beside this file) is generated from these types.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from deploykit.errors import InputError
from deploykit.values import (
    BatchRange,
    Beside,
    Budget,
    CalibrationReceipt,
    DataRecord,
    Engine,
    ExportRequest,
    FileRecord,
    Golden,
    KeptNode,
    Latency,
    ModelSpec,
    Parity,
    Placement,
    Precision,
    PrecisionReceipt,
    Provenance,
    Recipe,
    Rewrite,
    TensorSpec,
    Value,
    WeightsRecord,
)

MANIFEST: Final = "manifest.json"
SCHEMA_VERSION: Final = 3


class GraphRecord(Value, frozen=True):
    """The graph in the bundle and how it came about."""

    file: str
    precision: Precision
    opset: int
    exporter: Literal["dynamo", "torchscript"]
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

    schema_version: Literal[3]
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


def read(folder: Path) -> Manifest:
    """The manifest of a bundle. InputError for a folder that is none, and for a manifest of another version."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a bundle: it has no {MANIFEST}.", "Make one with deploykit export."
        ) from None
    except OSError as error:
        raise InputError(f"{folder / MANIFEST} cannot be read: {error.strerror}.", "Check its permissions.") from error
    return decode(content, folder)


class _Version(msgspec.Struct):
    schema_version: int


def decode(content: bytes, folder: Path) -> Manifest:
    """The manifest in `content`; its version is looked at before anything else."""
    where = folder / MANIFEST
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version == SCHEMA_VERSION:
            manifest = msgspec.json.decode(content, type=Manifest)
            if unlisted := set(manifest.named) - set(manifest.files):
                raise msgspec.ValidationError(f"it names {min(unlisted)!r}, which is not among its files")
            return manifest
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where} is damaged: {error}.", "Export the bundle again.") from error
    raise InputError(
        f"{where} has schema version {version}, and this deploykit reads version {SCHEMA_VERSION}.",
        "Use the deploykit that wrote it, or export the bundle again.",
    )


class _Mark(msgspec.Struct):
    """What every manifest of ours has had, and will have, whatever its version."""

    schema_version: int
    key: str
    provenance: dict[str, Any]


def is_ours(folder: Path) -> bool:
    """Whether the folder holds a manifest that some deploykit wrote: other tools call their files manifest.json too."""
    try:
        msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Mark)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def encode(manifest: Manifest) -> bytes:
    """Pretty-printed JSON with a final newline; equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def schema() -> str:
    """The JSON Schema of the manifest, as `schema.json` holds it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Manifest)), indent=2).decode() + "\n"
