"""Words that values are made of: the choices there are, and the base of every value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:  # `deploykit list` needs values and no array
    from numpy.typing import NDArray

Argument: TypeAlias = int | float | bool | str | tuple[int, ...]
"""What a network's constructor takes and `--arch KEY=VALUE` can say."""

Arrays: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Named tensors, as runners take and give them."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-fp16"]
"""What a graph's types say: `int8` leaves what is not quantized in FP32, `int8-fp16` in FP16."""
Arithmetic = Literal["int8", "fp16", "bf16", "fp32"]
"""What a layer is computed in."""
Observer = Literal["entropy", "percentile", "mse", "minmax"]
"""How a clipping threshold is chosen from the values that a tensor took."""
Measure = Literal["top-1 drop", "SNR dB"]
"""What an accuracy budget is counted in: points of 100, or decibels at the output."""
InOut = Literal["fp32", "fp16"]
"""Type of a graph's floating-point inputs and outputs."""
Head = Literal["logits", "probabilities", "embedding", "tensors"]
"""What a network gives; `tensors`: something that only the user knows."""
CLASSES: Final[tuple[Head, ...]] = ("logits", "probabilities")
"""Heads whose output tells classes apart."""
Preprocess = Literal["host", "graph"]
Exporter = Literal["auto", "dynamo", "torchscript"]
Origin = Literal["dynamo", "torchscript", "file"]
"""What wrote a graph: one of PyTorch's exporters, or whoever wrote the ONNX file that was brought."""
Runtime = Literal["python", "cpp"]
"""What an application runs a bundle with: this package, or the C++ library."""
ChannelOrder = Literal["rgb", "bgr"]
ImageLayout = Literal["NCHW", "NHWC"]
"""Order of a batch of images' axes: batch, channels, height, width."""
TensorLayout = Literal["NCHW", "NHWC", "NC", "ND"]
"""`NC`: one vector per sample; `ND`: a batch of anything else."""
DType = Literal["float32", "float16", "uint8", "int8", "int32", "int64"]


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every value: immutable, and strict about unknown fields when read from JSON."""
