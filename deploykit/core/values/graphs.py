"""Graphs and engines: files, by path and digest, with what they promise."""

from __future__ import annotations

from collections.abc import Mapping

from deploykit.core.values.networks import BatchRange, WeightsRecord
from deploykit.core.values.quantization import Placement, Recipe
from deploykit.core.values.words import DType, Origin, Precision, TensorLayout, Value


class FileRecord(Value, frozen=True):
    """A file and its digest; `path` is relative to the folder that holds the record."""

    path: str
    sha256: str
    bytes: int


class TensorSpec(Value, frozen=True):
    """An input or output: `shape` holds sizes, or `batch` where the size is chosen at run time."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    layout: TensorLayout


def layout_of(shape: tuple[int | str, ...], dtype: str) -> TensorLayout:
    """How a tensor's axes are read. Four of them are those of images, with the channels last where there are three of
    them there and not at the second place, and in bytes.
    """
    if len(shape) == 4:
        return "NHWC" if dtype == "uint8" or (shape[3] == 3 and shape[1] != 3) else "NCHW"
    return "NC" if len(shape) == 2 else "ND"


class Rewrite(Value, frozen=True):
    """What one pass did: how often it applied, and why it did not where it might have."""

    name: str
    applied: int
    refused: tuple[str, ...] = ()


class ExportedGraph(Value, frozen=True):
    """An ONNX graph in FP32 that keeps the promises of `export/contract.py`."""

    files: tuple[FileRecord, ...]
    """The graph first; its external data, if it needs any, behind it."""
    opset: int
    exporter: Origin
    fallback: str | None
    """Why the default exporter was not the one used."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    rewrites: tuple[Rewrite, ...]
    initializer_bytes: int
    weights: WeightsRecord


class KeptNode(Value, frozen=True):
    """A node that stayed FP32, and the value that made it stay."""

    node: str
    op_type: str
    reason: str


class TypedGraph(Value, frozen=True):
    """A graph at a precision other than FP32; inputs and outputs as in the graph it was made from, but for `io`."""

    files: tuple[FileRecord, ...]
    precision: Precision
    kept: tuple[KeptNode, ...]
    cast_nodes: int
    placement: Placement | None = None
    """Where the Q/DQ pairs of an INT8 graph are."""
    recipe: Recipe | None = None


class Golden(Value, frozen=True):
    """Inputs and eager PyTorch's outputs for them, as .npy files in the bundle: the self-test of every runtime."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    count: int


class LayerRow(Value, frozen=True):
    """One node of a graph, as `inspect` shows it."""

    name: str
    op_type: str
    module: str
    dtype: str
    shape: tuple[int | str, ...]
    weight_bytes: int
