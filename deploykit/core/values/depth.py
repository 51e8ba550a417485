"""Parity in depth: at which stage, in which layer, for which class and sample answers part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.samples import DataRecord
from deploykit.core.values.verdicts import OutputParity, Tolerance
from deploykit.core.values.words import Precision, Value

Stage = Literal["preprocessing", "export", "typing", "form", "engine", "C++"]
"""Where an error can enter, in order: pixels to input, PyTorch to ONNX, cast or Q/DQ, a backend's own form of the
graph, compiler, C++."""


class StageParity(Value, frozen=True):
    """What one stage did to the answers."""

    stage: Stage
    subject: str
    """What gave the answers, such as `the graph with Q/DQ pairs` or `openvino 2026.4.1`."""
    outputs: tuple[OutputParity, ...]
    """Beside eager PyTorch, all stages so far together."""
    own: tuple[OutputParity, ...]
    """Beside the answers of the stage before."""
    tolerance: Tolerance | None
    """What `own` is judged by."""
    failures: tuple[str, ...] = ()
    unchecked: str | None = None
    """Why it could not be looked at here, as a sentence; then there are no figures."""


class Stages(Value, frozen=True):
    """Every stage from pixels to an application's answer, and the first that is guilty."""

    stages: tuple[StageParity, ...]
    data: DataRecord
    statements: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    """Bounds that the stages break together though each keeps its own, as sentences."""

    @property
    def guilty(self) -> StageParity | None:
        """The first whose own error is above its bound."""
        return next((stage for stage in self.stages if stage.failures), None)


class LayerError(Value, frozen=True):
    """A tensor behind one layer, in the typed graph beside the exported one."""

    node: str
    op_type: str
    module: str
    """Dotted name in PyTorch."""
    tensor: str
    snr_db: float | None
    """Of the tensor; None: identical."""
    added: float
    """Noise over signal that this layer adds to what came in: a power ratio, 0 where it adds none."""


class LayerErrors(Value, frozen=True):
    """Layers by how much error each adds, the worst first, at tensors that stay whole when a compiler fuses."""

    layers: tuple[LayerError, ...]
    data: DataRecord
    moved_db: float | None
    """SNR of the final output with all tensors looked at, beside the one without; None: looking moved nothing."""
    statements: tuple[str, ...] = ()


class ClassChange(Value, frozen=True):
    """Samples of one class, and how many both sides get right."""

    label: int
    name: str
    count: int
    reference_right: int
    candidate_right: int
    went_to: Mapping[str, int]
    """Classes that the candidate gives where PyTorch gave another, by name."""


class WorstSample(Value, frozen=True):
    """A sample whose answers differ most, with its picture."""

    name: str
    label: str | None
    reference: str
    """The class that eager PyTorch gives, by name."""
    candidate: str
    divergence: float
    """KL(reference ‖ candidate) in nats."""
    thumbnail: str
    """A JPEG of at most 96×96, as a data URI; empty where the sample has no picture."""


class SampleAccount(Value, frozen=True):
    """Answers class by class and the samples that differ most."""

    classes: tuple[ClassChange, ...]
    """Those in which something changed, the largest change first; none without labels."""
    worst: tuple[WorstSample, ...]
    data: DataRecord


class Depth(Value, frozen=True):
    """What was looked at of one bundle; None: nobody asked."""

    bundle: str
    """The folder's name."""
    precision: Precision
    stages: Stages | None = None
    layers: LayerErrors | None = None
    samples: SampleAccount | None = None

    @property
    def passed(self) -> bool:
        """Whether no stage is guilty, nor all of them together."""
        return self.stages is None or (self.stages.guilty is None and not self.stages.together)
