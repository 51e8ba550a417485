"""Networks: architecture, weights, preprocessing, inputs and batch sizes of an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from deploykit.core.values.base import Argument, ChannelOrder, DType, Exporter, Head, ImageLayout, PreprocessIn, Value


class Preprocessing(Value, frozen=True):
    """Preprocessing of a decoded image (H×W×3, uint8, RGB) to a network input (3×height×width, float32).

    Resize the shorter side to `resize` pixels (bilinear with antialiasing, as Pillow does it), crop the center
    `height`×`width`, and compute `(pixel · scale − mean) / std` per channel, in `channels` order.
    """

    resize: int
    height: int
    width: int
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: ChannelOrder = "rgb"
    layout: ImageLayout = "NCHW"
    """`NHWC`: the network's input is height×width×3, as in networks from TensorFlow."""

    def __post_init__(self) -> None:
        if min(self.resize, self.height, self.width) < 1:
            raise ValueError(f"image sizes are at least 1 pixel, not {self.resize}, {self.height}x{self.width}")
        if self.resize < max(self.height, self.width):
            raise ValueError(f"a shorter side of {self.resize} cannot hold a crop of {self.height}x{self.width}")
        if self.scale <= 0 or min(self.std) <= 0:
            raise ValueError(f"scale and std are positive, not {self.scale} and {self.std}")


class InferredArgument(Value, frozen=True):
    """A constructor argument inferred from a checkpoint: the size of `parameter` along `axis`."""

    argument: str
    parameter: str
    axis: int = 0


class Pretrained(Value, frozen=True):
    """Released weights: torchvision's enum member, their preprocessing, and the constructor arguments they need."""

    enum: str
    preprocessing: Preprocessing
    arguments: Mapping[str, Argument] = {}


class Architecture(Value, frozen=True):
    """One network: how to build it, the paper that describes it, and its inputs.

    In the catalog, `build(**arguments)` returns an `nn.Module` that maps N×3×H×W float32 to N×classes logits in eval
    mode.
    """

    name: str
    family: str
    paper: str
    """Authors, year and arXiv number; the section or table that defines this member."""
    build: Callable[..., Any]
    arguments: Mapping[str, Argument]
    """Constructor arguments of this member of its family; `--model-arg` can override each."""
    preprocessing: Preprocessing | None
    """None: not known for this network."""
    classifier: str
    """Dotted path of the last layer with parameters, which `--head embedding` replaces with the identity; empty:
    unknown."""
    training_only: tuple[str, ...] = ()
    """Dotted paths of submodules unused in eval mode; optional in a checkpoint, never part of an export."""
    inferred_arguments: tuple[InferredArgument, ...] = ()
    pretrained: Pretrained | None = None
    inputs: tuple[InputSpec, ...] = ()
    """Inputs that the network itself declares, if they are not given by `preprocessing`."""
    own_weights: bool = False
    """Whether `build` may load weights itself, for example from a checkpoint."""
    notes: tuple[str, ...] = ()
    """Notes for the user about how the network was loaded, as sentences."""


class CatalogRow(Value, frozen=True):
    """One row of `deploykit list`. scripts/update_generated computes the rows, so that listing does not import torch; a
    test recomputes them.
    """

    name: str
    family: str
    paper: str
    parameters: int
    """Trainable parameters in eval mode, without those of training-only submodules."""
    macs: int
    """Multiply-accumulates (MACs) of convolutions and matrix products per image."""
    height: int
    width: int
    classes: int
    pretrained: str | None


class WeightsSource(Value, frozen=True):
    """Source of the weights: `random` (with a seed), `imagenet` (released weights), `file` (a checkpoint), or `own`
    (contained in the network's file).
    """

    kind: Literal["random", "imagenet", "file", "own"]
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "file") != (self.path is not None):
            raise ValueError(f"weights of kind 'file' need a path, and only they; the kind is {self.kind!r}")


class WeightsRecord(Value, frozen=True):
    """The weights that an export contains."""

    source: str
    """`random, seed 0`, torchvision's enum member, or the checkpoint's file name."""
    trained: bool
    sha256: str
    """Digest of the state dict: names, data types, shapes and bytes, in the module's order."""


class BatchRange(Value, frozen=True):
    """Batch sizes that a graph or an engine accepts; `optimum` is the one it is tuned for."""

    minimum: int = 1
    optimum: int = 8
    maximum: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ValueError(
                f"batch sizes must satisfy 1 <= MIN <= OPT <= MAX, not {self.minimum}:{self.optimum}:{self.maximum}"
            )

    @property
    def static(self) -> bool:
        """Whether only one batch size is accepted."""
        return self.minimum == self.maximum

    @property
    def checked_sizes(self) -> tuple[int, ...]:
        """Batch sizes at which a network and its graph must run and agree: the smallest, 2 and the largest."""
        sizes = {self.minimum, 2, self.maximum}
        return tuple(sorted(size for size in sizes if self.minimum <= size <= self.maximum))


class InputSpec(Value, frozen=True):
    """One input of a network, as given by `--input NAME=SHAPE:DTYPE`."""

    name: str
    shape: tuple[int, ...]
    """Shape of one sample, without the batch axis."""
    dtype: DType


class ModelSpec(Value, frozen=True):
    """The exported function: the network, its arguments, its head and where preprocessing happens."""

    name: str
    family: str
    paper: str
    arguments: Mapping[str, Argument]
    preprocessing: Preprocessing | None
    """Preprocessing from an image to the only input; None: the inputs are not images."""
    head: Head = "logits"
    preprocess_in: PreprocessIn = "host"
    inputs: tuple[str, ...] = ("input",)
    """Input names in the graph's order."""
    oracle: str = "eager PyTorch"
    """Reference that parity compares with."""


class ExportOptions(Value, frozen=True):
    """Options of the ONNX export."""

    batch: BatchRange = BatchRange()
    opset: int = 20
    exporter: Exporter = "auto"
