"""Networks: what is exported, from which weights, at which batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from deploykit.core.values.words import Argument, ChannelOrder, DType, Exporter, Head, ImageLayout, Preprocess, Value


class Preprocessing(Value, frozen=True):
    """From a decoded image (H×W×3, uint8, RGB) to one network input (3×height×width, float32).

    The shorter side is resized to `resize` pixels (bilinear with antialiasing, as Pillow does it), the centre
    `height`×`width` is cut out, and each channel becomes `(pixel · scale − mean) / std`, in `channels` order.
    """

    resize: int
    height: int
    width: int
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: ChannelOrder = "rgb"
    layout: ImageLayout = "NCHW"
    """`NHWC`: the network takes height×width×3, as networks from TensorFlow do."""

    def __post_init__(self) -> None:
        if min(self.resize, self.height, self.width) < 1:
            raise ValueError(f"image sizes are at least 1 pixel, not {self.resize}, {self.height}x{self.width}")
        if self.resize < max(self.height, self.width):
            raise ValueError(f"a shorter side of {self.resize} cannot hold a crop of {self.height}x{self.width}")
        if self.scale <= 0 or min(self.std) <= 0:
            raise ValueError(f"scale and std are positive, not {self.scale} and {self.std}")


class InferredArgument(Value, frozen=True):
    """A constructor argument that a checkpoint's shapes reveal: the size of `parameter` along `axis`."""

    argument: str
    parameter: str
    axis: int = 0


class Pretrained(Value, frozen=True):
    """Released weights: torchvision's enum member, what they were trained with, and the arguments they need."""

    enum: str
    preprocessing: Preprocessing
    arguments: Mapping[str, Argument] = {}


class Architecture(Value, frozen=True):
    """One network of the catalog: how to build it, where it is described, and what it eats.

    `build(**arguments)` gives an `nn.Module` that maps N×3×H×W float32 to N×classes logits in eval mode.
    """

    name: str
    family: str
    paper: str
    """Authors, year and arXiv number; the section or table that defines this member."""
    build: Callable[..., Any]
    arguments: Mapping[str, Argument]
    """What makes this member of its family; `--arch` may override any of them."""
    preprocessing: Preprocessing | None
    """None: only the user knows what it eats."""
    classifier: str
    """Dotted path of the last layer with parameters; `--head embedding` replaces it by the identity. Empty: unknown."""
    training_only: tuple[str, ...] = ()
    """Dotted paths of submodules that eval mode never runs; a checkpoint may lack them, an export must."""
    inferred: tuple[InferredArgument, ...] = ()
    pretrained: Pretrained | None = None
    inputs: tuple[InputSpec, ...] = ()
    """What it takes, where it says so itself and it is not said by `preprocessing`."""
    own_weights: bool = False
    """Whether `build` may bring weights of its own, as code does that loads a checkpoint."""
    notes: tuple[str, ...] = ()
    """What a user must know of the way in which it was taken in, as sentences."""


class CatalogRow(Value, frozen=True):
    """What `deploykit list` prints of one network. Generated from the code by scripts/update_generated, so that listing
    needs no torch; a test recomputes it.
    """

    name: str
    family: str
    paper: str
    parameters: int
    """Trainable parameters in eval mode: those of training-only submodules are not counted."""
    macs: int
    """Multiply-accumulates of convolutions and matrix products for one image."""
    height: int
    width: int
    classes: int
    pretrained: str | None


class WeightsSource(Value, frozen=True):
    """Where weights come from: `random` (with a seed), `imagenet` (as they were released), `file`, or `own`: those that
    the network's own file holds.
    """

    kind: Literal["random", "imagenet", "file", "own"]
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "file") != (self.path is not None):
            raise ValueError(f"a path belongs to weights from a file, not to {self.kind!r}")


class WeightsRecord(Value, frozen=True):
    """The weights that an export really holds."""

    source: str
    """`random, seed 0`, the name of torchvision's enum member, or the checkpoint's file name."""
    trained: bool
    sha256: str
    """Digest of the state dict: names, types, shapes and bytes, in the module's order."""


class BatchRange(Value, frozen=True):
    """Batch sizes a graph or an engine takes; `optimum` is what it is tuned for."""

    minimum: int = 1
    optimum: int = 8
    maximum: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ValueError(
                f"batch sizes go up from 1: MIN <= OPT <= MAX, not {self.minimum}:{self.optimum}:{self.maximum}"
            )

    @property
    def static(self) -> bool:
        """Whether there is only one batch size."""
        return self.minimum == self.maximum


class InputSpec(Value, frozen=True):
    """One input of a network, as `--input NAME=SHAPE:DTYPE` says it."""

    name: str
    shape: tuple[int, ...]
    """Of one sample, without the batch axis."""
    dtype: DType


class ModelSpec(Value, frozen=True):
    """Which function is exported: the network, its arguments, its head and where preprocessing happens."""

    name: str
    family: str
    paper: str
    arguments: Mapping[str, Argument]
    preprocessing: Preprocessing | None
    """From an image to the one input. None: inputs are tensors whose meaning only the user knows."""
    head: Head = "logits"
    preprocess: Preprocess = "host"
    inputs: tuple[str, ...] = ("input",)
    """Names of the inputs, in the graph's order."""
    oracle: str = "eager PyTorch"
    """What parity is judged beside."""


class ExportOptions(Value, frozen=True):
    """How the graph is made."""

    batch: BatchRange = BatchRange()
    opset: int = 20
    exporter: Exporter = "auto"
