"""Requests: all that a user says of one export."""

from __future__ import annotations

import msgspec

from deploykit.core.values.engines import BuildOptions
from deploykit.core.values.networks import ExportOptions, InputSpec, WeightsSource
from deploykit.core.values.words import ChannelOrder, Head, InOut, Observer, Precision, Preprocess, Value


class ImageOverrides(Value, frozen=True):
    """What `--input-size`, `--scale`, `--mean`, `--std` and `--channels` say, or a file of such lines; None: as the
    network was trained.
    """

    height: int | None = None
    width: int | None = None
    scale: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channels: ChannelOrder | None = None
    resize: int | None = None

    @property
    def normalises(self) -> bool:
        """Whether it says what pixels become, and not only how many there are."""
        return any(said is not None for said in (self.scale, self.mean, self.std, self.channels))


class CalibrationOptions(Value, frozen=True):
    """What INT8 ranges are taken from."""

    data: str
    """Set or path; its calibration split."""
    count: int = 256
    observer: Observer = "mse"


class BudgetOptions(Value, frozen=True):
    """What INT8 may cost; layers stay out of it until that holds. One of the two is given."""

    max_drop: float | None = None
    """Points of top-1, of 100, on the labelled samples that parity is judged on."""
    min_snr_db: float | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.min_snr_db is None):
            raise ValueError("a budget is a largest drop or a smallest SNR, one of the two")


class ExportRequest(Value, frozen=True):
    """All that a user says of one export; equal requests on one installation give equal graphs."""

    model: str
    """A name of the catalog, `torchvision:NAME`, `timm:NAME`, `module:callable`, or the path of an .onnx or .pt2."""
    precision: Precision
    weights: WeightsSource
    arguments: tuple[str, ...] = ()
    """`KEY=VALUE`, as typed; the architecture's constructor gives them their types."""
    head: Head | None = None
    """None: logits, or what the file's graph ends in."""
    preprocess: Preprocess = "host"
    image: ImageOverrides | None = None
    inputs: tuple[InputSpec, ...] = ()
    """Of a network that takes no image, in the order of its arguments; none: what is known of the network."""
    options: ExportOptions = ExportOptions()
    data: str | None = None
    """Set or path: its calibration split shows the ranges for FP16, its evaluation split is what parity is on. None:
    `photos`, or noise for a network that takes no image.
    """
    samples: int = 16
    """How many samples parity is judged on."""
    target: str = "onnxruntime"
    """The backend whose engine is judged and measured."""
    beside: tuple[str, ...] = ()
    """Backends whose engines are packed beside it, judged where this machine can run them."""
    offered: tuple[str, ...] = ()
    """Backends whose engines are packed beside it too, where they take the graph."""
    build: BuildOptions = BuildOptions()
    """What compilers are told; the batch sizes are those of `options`, whatever it says."""
    io: InOut = "fp32"
    calibration: CalibrationOptions | None = None
    budget: BudgetOptions | None = None

    @property
    def build_options(self) -> BuildOptions:
        """`build`, for the batch sizes that the graph is exported for."""
        return msgspec.structs.replace(self.build, batch=self.options.batch)

    def __post_init__(self) -> None:
        quantized = self.precision in ("int8", "int8-fp16")
        if quantized != (self.calibration is not None):
            raise ValueError("calibration belongs to INT8, and INT8 to calibration")
        if self.budget is not None and not quantized:
            raise ValueError("a budget is for INT8")
