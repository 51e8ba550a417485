"""Parity in depth: which stage, layer, class and samples deviate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.base import Precision, Value
from deploykit.core.values.samples import DataRecord
from deploykit.core.values.verdicts import OutputParity, Tolerance

Stage = Literal["preprocessing", "export", "cast", "Q/DQ", "form", "engine", "C++"]
"""Stage that can introduce an error, in order: pixels to network input, PyTorch to ONNX, to FP16 or BF16, or to INT8,
the backend's form of the graph, the compiled engine, the C++ library."""


class StageParity(Value, frozen=True):
    """Parity before and after one stage."""

    stage: Stage
    subject: str
    """What computed the outputs, such as `the graph with Q/DQ pairs` or `openvino 2026.4.1`."""
    outputs: tuple[OutputParity, ...]
    """Compared with eager PyTorch: cumulative error of all stages so far."""
    stage_outputs: tuple[OutputParity, ...]
    """Compared with the previous stage's outputs: error of this stage alone."""
    tolerance: Tolerance | None
    """Bounds on `stage_outputs`; None: not judged."""
    failures: tuple[str, ...] = ()
    not_run_reason: str | None = None
    """Reason why the stage was not run on this machine, as a sentence; then there are no figures."""


class Stages(Value, frozen=True):
    """Parity of every stage from pixels to the application's output."""

    stages: tuple[StageParity, ...]
    data: DataRecord
    caveats: tuple[str, ...] = ()
    combined_failures: tuple[str, ...] = ()
    """Bounds that the cumulative error exceeds although every stage passes alone, as sentences."""

    @property
    def failing_stage(self) -> StageParity | None:
        """The first stage whose own error exceeds its bound; None: every stage passes."""
        return next((stage for stage in self.stages if stage.failures), None)


class LayerError(Value, frozen=True):
    """Error at the output of one layer: the FP16 or INT8 graph compared with the FP32 graph."""

    node: str
    op_type: str
    module: str
    """Dotted name of the PyTorch module."""
    tensor: str
    snr_db: float | None
    """SNR of the tensor; None: identical."""
    added_noise: float
    """Noise that this layer adds to the noise of its inputs, as noise power over signal power; 0: none."""


class LayerErrors(Value, frozen=True):
    """Layers by added error, worst first, measured at tensors that survive the compiler's fusion."""

    layers: tuple[LayerError, ...]
    data: DataRecord
    instrumented_snr_db: float | None
    """SNR of the final output with all these tensors exposed as outputs, compared with the engine that exposes none;
    None: identical."""
    caveats: tuple[str, ...] = ()


class ClassChange(Value, frozen=True):
    """Correct predictions for samples of one class, before and after."""

    label: int
    name: str
    count: int
    reference_correct: int
    candidate_correct: int
    predicted_as: Mapping[str, int]
    """Number of samples by the class name that the candidate predicts where PyTorch predicts another."""


class WorstSample(Value, frozen=True):
    """A sample with one of the largest output differences, with a thumbnail."""

    name: str
    label: str | None
    reference: str
    """Name of the class that eager PyTorch predicts."""
    candidate: str
    divergence: float
    """KL(reference ‖ candidate) in nats."""
    thumbnail: str
    """JPEG of at most 96×96 pixels as a data URI; empty if the sample is not an image."""


class SampleDifferences(Value, frozen=True):
    """Changes by class, and the samples whose outputs differ most."""

    classes: tuple[ClassChange, ...]
    """Classes with a change, largest change first; empty without labels."""
    worst: tuple[WorstSample, ...]
    data: DataRecord


class Diagnosis(Value, frozen=True):
    """Results of the in-depth checks of one bundle; None: not requested."""

    bundle: str
    """The folder's name."""
    precision: Precision
    stages: Stages | None = None
    layers: LayerErrors | None = None
    samples: SampleDifferences | None = None

    @property
    def passed(self) -> bool:
        """Whether every stage passes, alone and cumulatively."""
        return self.stages is None or (self.stages.failing_stage is None and not self.stages.combined_failures)
