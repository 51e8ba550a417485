"""The base class of all values, and the literal types that their fields use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:  # `deploykit list` needs values and no array
    from numpy.typing import NDArray

Argument: TypeAlias = int | float | bool | str | tuple[int, ...]
"""A constructor argument of a network, as `--model-arg KEY=VALUE` can give it."""

Arrays: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Tensors by name: the inputs and outputs of a runner."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-fp16"]
"""Precision of a graph: `int8` leaves layers that are not quantized in FP32, `int8-fp16` in FP16."""
Arithmetic = Literal["int8", "fp16", "bf16", "fp32"]
"""Arithmetic type in which a layer is computed."""
Observer = Literal["entropy", "percentile", "mse", "minmax"]
"""Method that chooses a clipping threshold from a tensor's observed values."""
BudgetMetric = Literal["top-1 drop", "SNR dB"]
"""Metric of an accuracy budget: percentage points of top-1, or decibels of output SNR."""
IoType = Literal["fp32", "fp16"]
"""Data type of a graph's floating-point inputs and outputs."""
Head = Literal["logits", "probabilities", "embedding", "tensors"]
"""Kind of a network's output; `tensors`: outputs without a meaning known to deploykit."""
CLASSIFIER_HEADS: Final[tuple[Head, ...]] = ("logits", "probabilities")
"""Heads whose output holds one score per class."""
PreprocessIn = Literal["host", "graph"]
"""Where images are preprocessed: by the application, or by nodes of the graph."""
Exporter = Literal["auto", "dynamo", "torchscript"]
Origin = Literal["dynamo", "torchscript", "file"]
"""Source of a graph: one of PyTorch's exporters, or an ONNX file that the user supplied."""
Runtime = Literal["python", "cpp"]
"""Library that an application runs a bundle with: this package, or the C++ library."""
ChannelOrder = Literal["rgb", "bgr", "grey"]
ImageLayout = Literal["NCHW", "NHWC"]
"""Axis order of a batch of images: N batch, C channels, H height, W width."""
TensorLayout = Literal["NCHW", "NHWC", "NC", "ND"]
"""Axis order of a tensor. `NC`: one vector per sample; `ND`: any other batch."""
DType = Literal["float32", "float16", "uint8", "int8", "int32", "int64"]


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of all values: immutable, and strict about unknown fields when decoded from JSON."""
