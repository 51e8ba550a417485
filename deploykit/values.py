"""The glossary: every value that travels between stages.

All of them are frozen and checked where they are made; they hold numbers, names, paths and digests, never a live
handle (no module, session or open file). Stages are strangers to each other and share only what stands here.

Shapes are written `N×3×224×224` (batch, channels, height, width); units stand in the names (`latency_ms`, `bytes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:  # `deploykit list` needs these values and no array
    import numpy as np
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
Head = Literal["logits", "probabilities", "embedding"]
Preprocess = Literal["host", "graph"]
Exporter = Literal["auto", "dynamo", "torchscript"]
ChannelOrder = Literal["rgb", "bgr"]
DType = Literal["float32", "float16", "uint8", "int8", "int32", "int64"]


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every value: immutable, and strict about unknown fields when read from JSON."""


# ── Networks ────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    preprocessing: Preprocessing
    classifier: str
    """Dotted path of the last layer with parameters; `--head embedding` replaces it by the identity."""
    training_only: tuple[str, ...] = ()
    """Dotted paths of submodules that eval mode never runs; a checkpoint may lack them, an export must."""
    inferred: tuple[InferredArgument, ...] = ()
    pretrained: Pretrained | None = None


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
    """Where weights come from: `random` (with a seed), `imagenet` (torchvision's release) or `file`."""

    kind: Literal["random", "imagenet", "file"]
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


class ModelSpec(Value, frozen=True):
    """Which function is exported: the network, its arguments, its head and where preprocessing happens."""

    name: str
    family: str
    paper: str
    arguments: Mapping[str, Argument]
    preprocessing: Preprocessing
    head: Head = "logits"
    preprocess: Preprocess = "host"


class ExportOptions(Value, frozen=True):
    """How the graph is made."""

    batch: BatchRange = BatchRange()
    opset: int = 20
    exporter: Exporter = "auto"


# ── Files and graphs ────────────────────────────────────────────────────────────────────────────────────────────────


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
    layout: Literal["NCHW", "NHWC", "NC"]


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
    exporter: Literal["dynamo", "torchscript"]
    fallback: str | None
    """Why the default exporter was not the one used."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    rewrites: tuple[Rewrite, ...]
    initializer_bytes: int
    weights: WeightsRecord


class Range(Value, frozen=True):
    """The smallest and largest value that a tensor took."""

    low: float
    high: float
    threshold: float | None = None
    """Where an observer clips |x| for INT8; None: the tensor is not quantized."""


class Ranges(Value, frozen=True):
    """What calibration saw: one range per tensor, and on what."""

    tensors: Mapping[str, Range]
    data: DataRecord


class Convergence(Value, frozen=True):
    """How far the thresholds from the first `samples` were from those of all samples, as shares of these."""

    samples: int
    median: float
    worst: float
    tensor: str
    """The one that was worst."""


class Calibrated(Value, frozen=True):
    """Ranges with INT8 thresholds, and what a layer's inputs are on average: all that quantization needs to know."""

    ranges: Ranges
    observer: Observer
    convergence: tuple[Convergence, ...]
    means: Mapping[str, tuple[float, ...]]
    """Mean of each channel (axis 1) of the tensors that layers read."""


class Recipe(Value, frozen=True):
    """How a graph is quantized: what stays out, what becomes of the rest, and whether biases are corrected."""

    rest: Literal["fp32", "fp16"] = "fp32"
    excluded: tuple[str, ...] = ()
    """Nodes that stay in floating point: layers, or the Concats, Adds and MaxPools that would join in."""
    correct_bias: bool = False
    io: InOut = "fp32"


class Edge(Value, frozen=True):
    """An input of a node that is read through a Q/DQ pair, and the rule of `quantize/placement.py` that chose it."""

    tensor: str
    node: str
    position: int
    rule: str


class Placement(Value, frozen=True):
    """Where Q/DQ pairs go in one graph; names are those of its nodes and tensors."""

    layers: tuple[str, ...]
    """Nodes that will compute in INT8, in the graph's order."""
    edges: tuple[Edge, ...]
    shared: tuple[tuple[str, ...], ...]
    """Tensors whose pairs have one scale."""


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


class Engine(Value, frozen=True):
    """What a backend made of a graph and can load again."""

    backend: str
    version: str
    file: FileRecord
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    statements: tuple[str, ...] = ()
    """What a reader of its figures must know, such as arithmetic that is wider than the graph's types."""


class Sensitivity(Value, frozen=True):
    """What quantizing one layer, and no other, costs at the network's output."""

    layer: str
    error: float
    """Where every sample has a label, the cross-entropy that it adds, in nats; else noise over signal of the output, a
    power ratio: 10^(−SNR/10)."""


class BudgetStep(Value, frozen=True):
    """One layer taken out of INT8, and what that did."""

    layer: str
    error: float
    """Of the layer alone, as `Sensitivity` defines it."""
    before: float
    after: float
    int8_share: float
    """Of multiply-accumulates that the graph still quantizes."""


class Budget(Value, frozen=True):
    """What INT8 may cost, and the way to a graph that keeps within it."""

    measure: Measure
    bound: float
    """The largest drop in points of 100, or the smallest SNR in decibels."""
    start: float
    """With every layer quantized."""
    steps: tuple[BudgetStep, ...]
    kept: bool

    @property
    def end(self) -> float:
        """With the layers of all steps out."""
        return self.steps[-1].after if self.steps else self.start


class Executed(Value, frozen=True):
    """In what arithmetic a backend really computes the layers that multiply, by the ONNX node's name."""

    evidence: str
    """What it was read from, such as `OpenVINO's execution graph`."""
    arithmetic: Mapping[str, Arithmetic]


class LayerArithmetic(Value, frozen=True):
    """One Conv, ConvTranspose, Gemm or MatMul: its multiply-accumulates for one image, and what computes them."""

    node: str
    op_type: str
    macs: int
    asked: Arithmetic
    """What the graph's types say."""
    ran: Arithmetic


MISSED_AT_MOST = 0.05
"""Share of the multiply-accumulates that a graph quantizes which a backend may still compute in floating point."""


class PrecisionReceipt(Value, frozen=True):
    """What really ran: the share of multiply-accumulates at each arithmetic, from the backend's own account."""

    backend: str
    version: str
    evidence: str
    shares: Mapping[Arithmetic, float]
    """Of all multiply-accumulates, as shares of 1."""
    layers: tuple[LayerArithmetic, ...]

    @property
    def missed(self) -> tuple[LayerArithmetic, ...]:
        """Layers that the graph quantizes and the backend computes in floating point all the same."""
        return tuple(layer for layer in self.layers if layer.asked == "int8" and layer.ran != "int8")

    @property
    def failures(self) -> tuple[str, ...]:
        """INT8 that was asked for and not computed, as a sentence, where it is more than a twentieth."""
        missed = self.missed
        asked = sum(layer.macs for layer in self.layers if layer.asked == "int8")
        if sum(layer.macs for layer in missed) <= MISSED_AT_MOST * asked:
            return ()
        return (
            f"{len(missed)} of {len(self.layers)} layers are INT8 in the graph and {missed[0].ran.upper()} in "
            f"{self.backend} (such as {missed[0].node}): choose another --target",
        )


# ── Data ────────────────────────────────────────────────────────────────────────────────────────────────────────────


Pixels: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""A decoded image, H×W×3, uint8, RGB; or a network input that was preprocessed elsewhere, 3×H×W, float32."""


class Sample(Value, frozen=True):
    """One image and its class."""

    name: str
    image: Pixels
    label: int | None = None


class Batch(NamedTuple):
    """Samples to run at once: inputs by name, each with a leading batch axis, and one label (or None) per sample."""

    inputs: Arrays
    labels: tuple[int | None, ...]


class DataRecord(Value, frozen=True):
    """Which samples were used. `real` is False for synthetic input, which proves less and says so."""

    name: str
    split: str
    count: int
    real: bool
    labelled: bool
    sha256: str
    """Digest of the decoded samples, in order."""
    seed: int = 0
    """What the choice among the split's samples was drawn with."""
    skipped: int = 0
    """Images that could not be decoded; others were drawn in their place, as far as the split had any."""
    constant: int = 0
    """How many of the samples are one colour all over: no range can be learnt from these."""


class SampleRecord(Value, frozen=True):
    """One sample of a receipt: equal digests are equal pixels, whatever the names and labels."""

    name: str
    sha256: str
    """Digest of its size and pixels."""
    constant: bool = False
    """Whether it is one colour all over."""


class Disjointness(Value, frozen=True):
    """Proof that no image was both calibrated on and judged on: pixel digests of one set looked for in the other."""

    calibration_sha256: str
    evaluation_sha256: str
    compared: int
    """Digests of the evaluation samples that were looked for among the calibration samples'."""
    common: int


class CalibrationReceipt(Value, frozen=True):
    """What the INT8 ranges rest on."""

    data: DataRecord
    samples: tuple[SampleRecord, ...]
    observer: Observer
    thresholds: Mapping[str, float]
    """Where |x| is clipped, by tensor; tensors that share a scale take the largest among them."""
    convergence: tuple[Convergence, ...]
    disjoint: Disjointness
    images_per_s: float | None = None
    """Of the calibration pass, decoding included, when it was made."""


# ── Verdicts and figures ────────────────────────────────────────────────────────────────────────────────────────────


class Tolerance(Value, frozen=True):
    """The bounds a candidate must keep, each with its reason; None: not judged."""

    name: str
    max_relative: float
    min_cosine: float
    min_snr_db: float
    min_top1_agreement: float | None
    reasons: Mapping[str, str]


class OutputParity(Value, frozen=True):
    """One output of a candidate against the oracle's, over all samples."""

    name: str
    max_abs: float
    mean_abs: float
    max_relative: float
    """max |Δ| over the largest magnitude of the reference: 1e-3 is a thousandth of full scale."""
    cosine: float
    """The worst sample's."""
    snr_db: float | None
    """10·log10(Σ reference² / Σ Δ²); None: the outputs are identical."""
    kl: float | None
    """Mean KL(reference ‖ candidate) of the class distributions, in nats; None for an embedding."""
    top1_agreement: float | None
    top5_overlap: float | None


class Accuracy(Value, frozen=True):
    """Top-1 on labelled samples, of both, as shares of 1."""

    reference: float
    candidate: float
    count: int

    @property
    def drop(self) -> float:
        """Points of top-1 that the candidate lost, as a share of 1."""
        return self.reference - self.candidate


class Parity(Value, frozen=True):
    """The verdict: does the candidate compute what eager PyTorch computes?"""

    passed: bool
    failures: tuple[str, ...]
    outputs: tuple[OutputParity, ...]
    accuracy: Accuracy | None
    tolerance: Tolerance
    data: DataRecord
    statements: tuple[str, ...]
    """What the verdict does not cover."""


class Latency(Value, frozen=True):
    """Wall time of one call on one thread of callers, inputs and outputs in host memory."""

    batch: int
    iterations: int
    warmup_iterations: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    deviation_ms: float
    throughput_per_s: float
    """Images per second: batch · iterations / elapsed."""
    settled: bool
    """Whether warm-up ended because the last windows agreed."""


# ── Protocols: what stages ask of each other ────────────────────────────────────────────────────────────────────────


class Runner(Protocol):
    """Anything that computes the exported function: eager PyTorch, ONNX Runtime, an engine."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name. The arrays carry a leading batch axis that is within the runner's batch range."""
        ...


class SampleSet(Protocol):
    """Images to calibrate or judge with, decoded one at a time, in an order that never changes."""

    @property
    def name(self) -> str: ...

    @property
    def real(self) -> bool: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty where labels have no names, or there are none."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Progress(Protocol):
    """Where long work says how far it is."""

    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Callable[[], None]]:
        """Enter a step; what it yields is called once per finished unit of `total`."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should read now."""
        ...


class Backend(Protocol):
    """One inference library: graphs in, engines out, engines loaded."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def opsets(self) -> range:
        """The opsets of the default domain that it takes."""
        ...

    def compile(self, graph: Path, folder: Path) -> Engine:
        """Build an engine into `folder`; its record's path is relative to that folder."""
        ...

    def load(self, engine: Engine, folder: Path) -> Runner: ...

    def executed(self, engine: Engine, folder: Path) -> Executed:
        """What the engine computes in: every Conv, ConvTranspose, Gemm and MatMul of the graph has a word."""
        ...


# ── What a finished export is ───────────────────────────────────────────────────────────────────────────────────────


class Provenance(Value, frozen=True):
    """The machine, the versions and the moment."""

    created: str
    """UTC, ISO 8601."""
    deploykit: str
    code_sha256: str
    libraries: Mapping[str, str]
    python: str
    system: str
    host: str
    processor: str
    cores: int


class ImageOverrides(Value, frozen=True):
    """What `--input-size`, `--scale`, `--mean`, `--std` and `--channels` say; None: as the network was trained."""

    height: int | None = None
    width: int | None = None
    scale: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channels: ChannelOrder | None = None


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
    precision: Precision
    weights: WeightsSource
    arguments: tuple[str, ...] = ()
    """`KEY=VALUE`, as typed; the architecture's constructor gives them their types."""
    head: Head = "logits"
    preprocess: Preprocess = "host"
    image: ImageOverrides | None = None
    options: ExportOptions = ExportOptions()
    data: str = "photos"
    """Set or folder: its calibration split shows the ranges for FP16, its evaluation split is what parity is on."""
    samples: int = 16
    """How many samples parity is judged on."""
    target: str = "onnxruntime"
    io: InOut = "fp32"
    calibration: CalibrationOptions | None = None
    budget: BudgetOptions | None = None

    def __post_init__(self) -> None:
        quantized = self.precision in ("int8", "int8-fp16")
        if quantized != (self.calibration is not None):
            raise ValueError("calibration belongs to INT8, and INT8 to calibration")
        if self.budget is not None and not quantized:
            raise ValueError("a budget is for INT8")


class Golden(Value, frozen=True):
    """Inputs and eager PyTorch's outputs for them, as .npy files in the bundle: the self-test of every runtime."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    count: int


class Prediction(Value, frozen=True):
    """One image's best classes, best first."""

    image: str
    classes: tuple[int, ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    """Probabilities."""


class LayerRow(Value, frozen=True):
    """One node of a graph, as `inspect` shows it."""

    name: str
    op_type: str
    module: str
    dtype: str
    shape: tuple[int | str, ...]
    weight_bytes: int


class MatrixRow(Value, frozen=True):
    """One network at one precision on one backend, as `parity` shows it."""

    model: str
    precision: Precision
    backend: str
    parity: Parity
    receipt: PrecisionReceipt | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """Of parity, and of INT8 that was asked for and not computed."""
        return (*self.parity.failures, *(self.receipt.failures if self.receipt else ()))

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return self.parity.passed and not self.failures


class Finding(Value, frozen=True):
    """One line of `doctor`."""

    subject: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    remedy: str | None = None
