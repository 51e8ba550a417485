"""A bundle, the network that it came from, and the samples to evaluate it on: what a diagnosis works with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from deploykit.backends.choice import reference_backend
from deploykit.bundle import manifest as manifests
from deploykit.bundle.open import first_runnable, load_engine
from deploykit.bundle.verify import check_files
from deploykit.core.calibration.batches import open_data, tensor_inputs
from deploykit.core.errors import BackendError, InputError, UsageError
from deploykit.core.values import (
    CLASSIFIER_HEADS,
    Arrays,
    Engine,
    ModelSpec,
    OutputKind,
    Parity,
    PrecisionCost,
    Progress,
    Runner,
    TensorSample,
    Tolerance,
)
from deploykit.evaluate.cost import resolve_kinds
from deploykit.evaluate.parity.graph_outputs import GraphOutputs
from deploykit.evaluate.parity.precision_cost import measure_half_precision_cost, measure_int8_cost
from deploykit.evaluate.parity.tolerances import for_fp32
from deploykit.workflows import precision, stages
from deploykit.workflows.as_written import open_as_written, open_floor
from deploykit.workflows.bundle_audit import Findings, audit_precision_graph
from deploykit.workflows.source_network import rebuild_source_network
from deploykit.workflows.verdict import JudgedBundle, LoadedEngine, judge


class DiagnosedBundle:
    """A bundle, the network that it was exported from, and the samples to evaluate it on. It keeps outputs.

    InputError where the weights are not the bundle's, or where samples were calibrated on; CheckFailed where files are
    damaged.
    """

    def __init__(
        self, folder: Path, data: str | None, samples: int | None, weights: str | None, progress: Progress
    ) -> None:
        manifest = manifests.read_manifest(folder)
        check_files(folder, manifest)
        self.folder = folder
        self.manifest = manifest
        self.network = rebuild_source_network(folder, manifest, weights, progress)
        request, inputs = manifest.request, tensor_inputs(manifest.model, manifest.inputs)
        self.data = open_data(
            data or request.data, "evaluation", samples or request.samples, manifest.batch, inputs, note=progress.note
        )
        if (calibration := manifest.calibration) is not None:
            precision.require_disjoint(calibration.data, calibration.samples, self.data)
        self.progress = progress
        self.labels: tuple[int | None, ...] = ()
        """Labels of the samples; known after the first run, since an image is decoded for its label too."""
        self._engine_outputs: dict[tuple[str, str], tuple[Engine, Arrays]] = {}

    def require_layers(self) -> None:
        """UsageError for a graph without a precision stage, or whose tensors no runtime can output."""
        if self.manifest.precision == "fp32":
            raise UsageError(
                f"{self.folder} is FP32: its graph is the exported one, so no layer adds an error.",
                "Give --layers a bundle of another precision.",
            )
        if self.manifest.precision == "bf16":
            raise UsageError(f"{self.folder} is BF16, and no runtime outputs BF16 tensors.", "Use --stages instead.")

    def require_classes(self) -> None:
        """UsageError for a network that is not a classifier."""
        head = self.manifest.model.head
        if head not in CLASSIFIER_HEADS:
            outputs = "embeddings" if head == "embedding" else "tensors"
            raise UsageError(f"{self.folder} outputs {outputs}, which have no classes.", "Omit --worst.")

    @property
    def fp32_tolerance(self) -> Tolerance:
        """The tolerance of FP32 for this network."""
        return for_fp32(self.manifest.weights.trained)

    @cached_property
    def kinds(self) -> Mapping[str, OutputKind]:
        """The kind of every output."""
        request = self.manifest.request
        return resolve_kinds(self.oracle_outputs, self.manifest.model.head, request.output_kinds)

    def measure_cost(self, graph: GraphOutputs) -> PrecisionCost:
        """The cost of a graph of the bundle's precision, computed as written on the samples or on the first of them."""
        precision, oracle = self.manifest.precision, self.manifest_oracle_outputs
        if precision in ("fp16", "bf16"):
            return measure_half_precision_cost(oracle, graph, self.floor_outputs, self.kinds, precision)
        return measure_int8_cost(oracle, graph, self.kinds, self.manifest.weights.trained)

    @cached_property
    def floor_outputs(self) -> Arrays:
        """Outputs of the FP32 graph with every weight and activation rounded to the bundle's 16-bit type."""
        precision = self.manifest.precision
        assert precision in ("fp16", "bf16")
        with open_floor(self.fp32_graph, precision) as runner:
            return self.run_samples(runner, f"running the FP32 graph rounded to {precision.upper()}")

    def run_as_written(self, graph: Path, name: str) -> Arrays:
        """Outputs of a graph of the bundle's precision, every rounding done."""
        with open_as_written(graph, self.manifest.precision) as runner:
            return self.run_samples(runner, f"running {name},")

    def judge_engine(self) -> Parity:
        """The verdict on the primary engine, or on the next one that runs here."""
        loaded = first_runnable(self.folder, self.manifest, self.manifest.engines)
        engine = loaded.engine
        form = self.folder / engine.file.path if stages.is_own_form(engine, self.manifest.graph.file) else None
        bundle = JudgedBundle(
            self.manifest.model,
            self.manifest.precision,
            self.manifest.weights,
            self.manifest.request.output_kinds,
            self.manifest.golden.count,
            self.data,
            self.fp32_graph,
            self.precision_graph,
        )
        judged = LoadedEngine(engine, loaded.runner, form)
        return judge(bundle, self.manifest_oracle_outputs, judged, self.progress).parity

    @cached_property
    def oracle_outputs(self) -> Arrays:
        """The reference outputs, with the network's own preprocessing. InputError where they hold NaN or infinity:
        nothing can be compared with that.
        """
        outputs = self.run_samples(self._oracle, self._oracle_title, self.network.model)
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise InputError(
                f"The network that {self.folder} was exported from gives NaN or infinity on {self.data.record.name}.",
                "Check its weights and the samples: there is nothing that the bundle could be compared with.",
            )
        return outputs

    @property
    def has_own_preprocessing(self) -> bool:
        """Whether the manifest's preprocessing is the network's own."""
        return self.manifest.model.preprocessing == self.network.model.preprocessing

    @cached_property
    def manifest_oracle_outputs(self) -> Arrays:
        """The reference outputs, with the manifest's preprocessing."""
        if self.has_own_preprocessing:
            return self.oracle_outputs
        return self.run_samples(self._oracle, f"{self._oracle_title} with the manifest's preprocessing")

    @cached_property
    def fp32_graph(self) -> Path:
        """The FP32 graph: an FP32 bundle's own, else exported again or from the cache."""
        if self.manifest.precision == "fp32":
            return self.precision_graph
        return stages.export_graph(self.network.request, self.network, reference_backend(), self.progress).path

    @cached_property
    def graph_findings(self) -> Findings:
        """How the bundle's own graph differs from the FP32 graph beyond its conversion."""
        return audit_precision_graph(self.folder, self.manifest, self.fp32_graph)

    @property
    def precision_graph(self) -> Path:
        """The bundle's own graph."""
        return self.folder / self.manifest.graph.file

    @property
    def has_ready_inputs(self) -> bool:
        """Whether the samples are preprocessed inputs instead of images."""
        first = self.data.samples[0]
        return isinstance(first, TensorSample) or first.image.dtype == np.float32

    @property
    def input_mismatch(self) -> str | None:
        """Why the graph does not accept what the manifest's preprocessing gives, as half a sentence; None: it does."""
        spec = self.manifest.inputs[0]
        array = next(self.data.batches(self.manifest.model)).inputs[spec.name]
        dtype = "float32" if spec.dtype == "float16" else spec.dtype
        if (array.shape[1:], array.dtype.name) == (spec.shape[1:], dtype):
            return None
        size, expected = ("×".join(map(str, shape[1:])) for shape in (array.shape, spec.shape))
        return f"it gives inputs of {size}, {array.dtype.name}, but the graph expects {expected}, {dtype}"

    def run_samples(self, runner: Runner, title: str, model: ModelSpec | None = None) -> Arrays:
        """Outputs for all samples, preprocessed by `model`, or else by the manifest."""
        outputs: list[Arrays] = []
        labels: list[int | None] = []
        with self.progress.step(f"{title} on {self.data.record.name}", self.data.length) as advance:
            for batch in self.data.batches(model or self.manifest.model, advance):
                arrays = runner.run(batch.inputs)
                outputs.append({spec.name: np.array(arrays[spec.name]) for spec in runner.outputs})
                labels += batch.labels
        self.labels = tuple(labels)
        return {name: np.concatenate([arrays[name] for arrays in outputs]) for name in outputs[0]}

    def run_engine(self, engine: Engine) -> tuple[Engine, Arrays]:
        """An engine of the bundle as it was loaded, and its outputs. BackendError where it cannot run here."""
        key = engine.backend, engine.file.path
        if key not in self._engine_outputs:
            loaded, runner = load_engine(self.folder, self.manifest, engine)
            self._engine_outputs[key] = loaded, self.run_samples(runner, f"running {loaded.backend}")
        return self._engine_outputs[key]

    @property
    def engine_outputs(self) -> Arrays:
        """Outputs of the primary engine, or of the next one that runs here."""
        first_error: BackendError | None = None
        for engine in self.manifest.engines:
            try:
                return self.run_engine(engine)[1]
            except BackendError as error:
                first_error = first_error or error
        assert first_error is not None, "a bundle has an engine"
        raise first_error

    @cached_property
    def _oracle(self) -> Runner:
        return self.network.oracle(self.manifest.inputs, self.manifest.outputs)

    @property
    def _oracle_title(self) -> str:
        return f"computing {stages.format_reference(self.network.model)}"
