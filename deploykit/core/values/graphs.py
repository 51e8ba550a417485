"""Graphs and files, by path and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from deploykit.core.values.base import DType, Origin, Precision, TensorLayout, Value
from deploykit.core.values.networks import BatchRange, WeightsRecord
from deploykit.core.values.quantization import Placement, Recipe


class FileRecord(Value, frozen=True):
    """A file with its size and digest; `path` is relative to the folder of the record."""

    path: str
    sha256: str
    bytes: int


def combine_digests(files: tuple[FileRecord, ...]) -> str:
    """One digest for all `files`: that of a single file, else SHA-256 over the paths and digests of all."""
    if len(files) == 1:
        return files[0].sha256
    lines = "".join(f"{file.path} {file.sha256}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


class TensorSpec(Value, frozen=True):
    """An input or output. `shape` holds sizes, and `batch` for the axis whose size is chosen at run time."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    layout: TensorLayout


def layout_of(shape: tuple[int | str, ...], dtype: str) -> TensorLayout:
    """The axis order of a tensor. Four axes are a batch of images: channels last if the data type is uint8, or if only
    the last axis has 3 elements.
    """
    if len(shape) == 4:
        return "NHWC" if dtype == "uint8" or (shape[3] == 3 and shape[1] != 3) else "NCHW"
    return "NC" if len(shape) == 2 else "ND"


class Rewrite(Value, frozen=True):
    """Result of one pass: how often it applied, and why it skipped candidates."""

    name: str
    applied: int
    skip_reasons: tuple[str, ...] = ()
    added_bytes: int = 0
    """Bytes by which the pass enlarged the weights: computed ones, and copies for readers that shared one."""


class ExportedGraph(Value, frozen=True):
    """An FP32 ONNX graph that satisfies `export/contract.py`."""

    files: tuple[FileRecord, ...]
    """The graph, followed by its external data file if it has one."""
    opset: int
    exporter: Origin
    fallback_reason: str | None
    """Reason why the default exporter was not used; None: it was."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    rewrites: tuple[Rewrite, ...]
    initializer_bytes: int
    weights: WeightsRecord
    notes: tuple[str, ...] = ()
    """How the graph's interface differs from what the network returns, and other facts about it, as sentences."""

    @property
    def sha256(self) -> str:
        """Digest of the graph and its weights: of all files."""
        return combine_digests(self.files)


class Fp32Node(Value, frozen=True):
    """A node that stays FP32, and the value that requires it."""

    node: str
    op_type: str
    reason: str


class PrecisionGraphRecord(Value, frozen=True):
    """A graph in FP16, BF16 or INT8; inputs and outputs as in the FP32 graph, except for the `io` data type."""

    files: tuple[FileRecord, ...]
    precision: Precision
    fp32_nodes: tuple[Fp32Node, ...]
    cast_nodes: int
    placement: Placement | None = None
    """Placement of the Q/DQ pairs of an INT8 graph."""
    recipe: Recipe | None = None

    @property
    def sha256(self) -> str:
        """Digest of the graph and its weights: of all files."""
        return combine_digests(self.files)


class Golden(Value, frozen=True):
    """Golden vectors: .npy files of inputs and eager PyTorch's outputs, by tensor name; every runtime's self-test."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    count: int


class LayerRow(Value, frozen=True):
    """One node of a graph, as shown by `deploykit inspect`."""

    name: str
    op_type: str
    module: str
    dtype: str
    shape: tuple[int | str, ...]
    weight_bytes: int
