"""Requests: all options of one export."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deploykit.core.values.base import ChannelOrder, Head, IoType, Observer, Precision, PreprocessIn, Value
from deploykit.core.values.costs import OutputKind
from deploykit.core.values.engines import BuildOptions
from deploykit.core.values.networks import ExportOptions, InputSpec, WeightsSource


class ImageOverrides(Value, frozen=True):
    """Preprocessing given by `--input-size`, `--scale`, `--mean`, `--std`, `--channels` and `--resize`, or by
    `--preprocessing-file`; None: as in training.
    """

    height: int | None = None
    width: int | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    """One number per channel, as in `std`."""
    std: tuple[float, ...] | None = None
    channels: ChannelOrder | None = None
    resize: int | None = None

    @property
    def normalises(self) -> bool:
        """Whether it sets the normalization or channel order, and not only sizes."""
        return any(option is not None for option in (self.scale, self.mean, self.std, self.channels))


class CalibrationOptions(Value, frozen=True):
    """Calibration data and observer for INT8."""

    data: str
    """Data set or path, whose calibration split is used."""
    count: int = 256
    observer: Observer = "mse"


class BudgetOptions(Value, frozen=True):
    """Accuracy budget of INT8: sensitive layers stay in floating point until it is met. Exactly one limit is given."""

    max_drop: float | None = None
    """Largest top-1 drop in percentage points, on the labelled evaluation samples."""
    min_snr_db: float | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.min_snr_db is None):
            raise ValueError("an accuracy budget has either max_drop or min_snr_db")


class ExportRequest(Value, frozen=True):
    """All options of one export; equal requests on one installation give equal graphs."""

    model: str
    """A catalog name, `torchvision:NAME`, `timm:NAME`, `module:callable`, or the path of an .onnx or .pt2 file."""
    precision: Precision
    weights: WeightsSource
    arguments: tuple[str, ...] = ()
    """Constructor arguments as `KEY=VALUE`; types follow from the architecture's constructor."""
    head: Head | None = None
    """None: logits, or the outputs of the file's graph."""
    preprocess_in: PreprocessIn = "host"
    image: ImageOverrides | None = None
    inputs: tuple[InputSpec, ...] = ()
    """Inputs of a network without image input, in the order of its arguments; empty: as the network declares."""
    options: ExportOptions = ExportOptions()
    data: str | None = None
    """Data set or path: the calibration split gives the ranges for FP16, the evaluation split the parity samples. None:
    `photos`, or noise for a network without image input.
    """
    samples: int = 16
    """Number of evaluation samples for parity."""
    target: str = "onnxruntime"
    """Backend of the primary engine, which is evaluated and measured."""
    fallback_targets: tuple[str, ...] = ()
    """Backends to take instead, in order, where the engine of `target` does not compute its graph."""
    extra_engines: tuple[str, ...] = ()
    """Backends of additional engines, evaluated if this machine can run them."""
    optional_engines: tuple[str, ...] = ()
    """Backends of additional engines that are left out if they do not support the graph."""
    build: BuildOptions = BuildOptions()
    """Build options of compiled engines; their batch sizes are replaced by those of `options`."""
    io: IoType = "fp32"
    calibration: CalibrationOptions | None = None
    budget: BudgetOptions | None = None
    output_kinds: Mapping[str, OutputKind] = {}
    """Kinds of outputs by name, where they are not to be inferred."""

    @property
    def build_options(self) -> BuildOptions:
        """`build` with the batch sizes of the graph."""
        return msgspec.structs.replace(self.build, batch=self.options.batch)

    def __post_init__(self) -> None:
        quantized = self.precision in ("int8", "int8-fp16")
        has_ranges = self.model.lower().endswith(".onnx")  # perhaps: of a file with Q/DQ pairs
        if quantized != (self.calibration is not None) and not (quantized and has_ranges):
            raise ValueError(
                f"int8 and int8-fp16 require calibration, and only they; the precision is {self.precision}"
            )
        if self.budget is not None and not quantized:
            raise ValueError(f"an accuracy budget requires int8 or int8-fp16, not {self.precision}")
