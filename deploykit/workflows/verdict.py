"""Reach the verdict on one engine: run the reference's samples through the engine and through its graphs as written.

An export and `deploykit parity` reach it here, so that both say the same of the same bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.backends.adapters import CastingRunner
from deploykit.backends.choice import reference_backend
from deploykit.core.calibration.batches import SampleBatches
from deploykit.core.values import (
    Arrays,
    Engine,
    ModelSpec,
    OutputKind,
    Parity,
    Precision,
    Progress,
    Runner,
    Stages,
    WeightsRecord,
)
from deploykit.evaluate.parity.compare import run_batches
from deploykit.evaluate.parity.graph_outputs import GraphOutputs
from deploykit.evaluate.parity.stages import attribute_at_export, graph_name
from deploykit.evaluate.parity.verdict import HALF_PRECISIONS, JudgedNetwork, JudgedOutputs, judge_engine
from deploykit.workflows.as_written import open_as_written, open_floor

AS_WRITTEN_SAMPLES: Final = 128
"""Samples on which graphs are computed as written, which takes several times as long as an engine."""


class JudgedBundle(NamedTuple):
    """What a bundle says of itself, and the samples to judge it on."""

    model: ModelSpec
    precision: Precision
    weights: WeightsRecord
    kinds: Mapping[str, OutputKind]
    golden: int
    """Number of golden vectors, which are the first samples."""
    data: SampleBatches
    fp32_graph: Path
    graph: Path
    """The portable graph at its precision."""


class LoadedEngine(NamedTuple):
    """An engine that runs here."""

    engine: Engine
    runner: Runner
    form: Path | None
    """The backend's own form of the graph; None: it computes the portable one."""

    @property
    def identity(self) -> str:
        """`openvino 2026.4.1`"""
        return f"{self.engine.backend} {self.engine.version}"


class Judgement(NamedTuple):
    """The verdict on an engine, and the same stage by stage."""

    parity: Parity
    stages: Stages


def judge(bundle: JudgedBundle, oracle: Arrays, loaded: LoadedEngine, progress: Progress) -> Judgement:
    """Run an engine, the graphs it comes from and the FP32 graph, and judge them against the reference's outputs."""
    network = JudgedNetwork(
        bundle.precision,
        bundle.weights,
        bundle.model.head,
        bundle.model.oracle,
        bundle.data.record,
        bundle.golden,
        bundle.kinds,
    )
    engine, labels = _run_samples(bundle.model, bundle.data, loaded.runner, f"running {loaded.identity}", progress)
    outputs = JudgedOutputs(
        oracle=oracle,
        engine=GraphOutputs(loaded.identity, engine),
        labels=labels,
        exported=_run_fp32_graph(bundle, progress),
    )
    if bundle.precision != "fp32":
        outputs = _run_as_written(bundle, loaded, outputs, progress)
    parity = judge_engine(network, outputs, loaded.engine.caveats)
    return Judgement(parity, attribute_at_export(network, outputs, parity))


def _run_as_written(
    bundle: JudgedBundle, loaded: LoadedEngine, outputs: JudgedOutputs, progress: Progress
) -> JudgedOutputs:
    """Add the outputs of the graphs at the bundle's precision."""
    name, precision = graph_name(bundle.precision), bundle.precision

    def run(runner: AbstractContextManager[Runner], subject: str) -> GraphOutputs:
        with runner as opened:
            data = bundle.data.first(AS_WRITTEN_SAMPLES)
            return GraphOutputs(subject, _run_samples(bundle.model, data, opened, f"running {subject}", progress)[0])

    outputs = outputs._replace(portable=run(open_as_written(bundle.graph, precision), f"{name}, as written"))
    if loaded.form is not None:
        subject = f"{loaded.engine.backend}'s form of {name}, as written"
        outputs = outputs._replace(form=run(open_as_written(loaded.form, precision), subject))
    if precision in HALF_PRECISIONS:
        assert precision in ("fp16", "bf16")
        floor = run(open_floor(bundle.fp32_graph, precision), f"the FP32 graph rounded to {precision.upper()}")
        outputs = outputs._replace(floor=floor.outputs)
    return outputs


def _run_fp32_graph(bundle: JudgedBundle, progress: Progress) -> GraphOutputs:
    """The exported graph, computed by the reference backend."""
    backend, folder = reference_backend(), bundle.fp32_graph.parent
    runner = CastingRunner(backend.load(backend.compile(bundle.fp32_graph, folder), folder))
    data = bundle.data.first(AS_WRITTEN_SAMPLES)
    subject = f"the FP32 graph in {backend.identity}"
    return GraphOutputs(subject, _run_samples(bundle.model, data, runner, f"running {subject}", progress)[0])


def _run_samples(
    model: ModelSpec, data: SampleBatches, runner: Runner, title: str, progress: Progress
) -> tuple[Arrays, tuple[int | None, ...]]:
    with progress.step(f"{title} on {data.record.name}", data.length) as advance:
        return run_batches(runner, data.batches(model, advance), title)
