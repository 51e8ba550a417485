"""The graph at the precision asked for: typed FP16 or BF16, or quantized to INT8 within a budget.

What INT8 leaves open is answered by trying: biases are corrected where that brings the answers nearer to eager
PyTorch's, and layers stay out until the budget holds.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from deploykit.core import cache, calibration
from deploykit.core.calibration.batches import Data, open_data
from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import (
    Backend,
    Budget,
    Calibrated,
    CalibrationOptions,
    CalibrationReceipt,
    DataRecord,
    Disjointness,
    ExportRequest,
    InputSpec,
    Progress,
    Ranges,
    Recipe,
    Runner,
    SampleRecord,
    TypedGraph,
    Value,
)
from deploykit.export.networks.images import image_like
from deploykit.quantize import int8
from deploykit.quantize.calibrate import calibrate, expose, observe
from deploykit.quantize.cast import cast
from deploykit.workflows import cache_keys, stages
from deploykit.workflows.accuracy_budget import within
from deploykit.workflows.int8_candidates import Trial, judged, quantized, snr_db
from deploykit.workflows.stages import Answers, Graph, PrecisionGraph

RANGE_SAMPLES: Final = 16
"""Samples on which values are checked against FP16's range."""

FEW_SAMPLES: Final = 100
"""Fewer calibration samples are said to be few."""


class PrecisionResult(NamedTuple):
    """The graph to judge and pack, and how it was arrived at."""

    typed: PrecisionGraph
    calibration: CalibrationReceipt | None = None
    budget: Budget | None = None
    statements: tuple[str, ...] = ()
    """What a reader of the verdict on it must know of how it was chosen."""


def select_precision(
    request: ExportRequest,
    graph: Graph,
    answers: Answers,
    data: Data,
    reference: Backend,
    backend: Backend,
    progress: Progress,
) -> PrecisionResult:
    """The graph at the request's precision. `reference` runs the exported graph to see its values; `backend` runs what
    is made of it, on the samples of `data` that `answers` holds eager PyTorch's answers to.
    """
    if request.precision == "fp32":
        return PrecisionResult(stages.as_fp32(graph))
    if request.calibration is None:
        return cast_graph(request, graph, data, reference, progress)
    calibrated, receipt = calibrated_on(request, request.calibration, graph, data, reference, progress)
    if request.precision == "int8-fp16":
        few = open_data(request.calibration.data, "calibration", RANGE_SAMPLES, request.options.batch, graph.taken)
        calibrated = with_ranges(calibrated, collect_ranges(graph, few, reference, progress))
    trial = Trial(request, graph, calibrated, answers, data, backend)
    recipe = Recipe(rest="fp16" if request.precision == "int8-fp16" else "fp32", io=request.io)
    recipe = corrected(trial, recipe, progress)
    budget = None
    if request.budget is not None:
        recipe, budget = within(request.budget, trial, recipe, progress)
    return PrecisionResult(quantized(trial, recipe, progress), receipt, budget, _of_int8(receipt, budget))


def cast_graph(request: ExportRequest, graph: Graph, evaluation: Data, reference: Backend, progress: Progress) -> PrecisionResult:
    """The graph typed FP16 or BF16; its values are checked on the calibration split."""
    data = open_data(request.data, "calibration", RANGE_SAMPLES, request.options.batch, graph.taken)
    ranges = collect_ranges(graph, data, reference, progress)
    dtype: Literal["fp16", "bf16"] = "bf16" if request.precision == "bf16" else "fp16"

    def build(folder: Path) -> None:
        with progress.step(f"typing the graph {request.precision}"):
            made = cast(graph.folder / main.path, ranges, folder, dtype, request.io)
        stages.save(folder, made)

    main = graph.exported.files[0]
    key = {
        "graph": main.sha256,
        "ranges": ranges,
        "precision": request.precision,
        "io": request.io,
        **cache_keys.tools(),
    }
    folder = cache.fetch("typed", key, build)
    made = stages.load(folder, TypedGraph)
    file = made.files[0]
    shared = len(calibration.common(data.digests, evaluation.digests))
    same = f"values were checked on {shared} of the samples that parity is judged on"
    return PrecisionResult(
        PrecisionGraph(folder, file.path, file.sha256, request.precision, made, data.record),
        statements=(same,) if shared else (),
    )


def collect_ranges(graph: Graph, data: Data, reference: Backend, progress: Progress) -> Ranges:
    """The smallest and largest value of every tensor."""

    def build(folder: Path) -> None:
        runner = _exposed(graph, folder, None, reference)
        with progress.step(f"checking values on {data.record.name}", data.length) as advance:
            ranges = observe(runner, (batch.inputs for batch in data.batches(graph.model, advance)), data.record)
        stages.save(folder, ranges)

    key = {"graph": graph.exported.files[0].sha256, "data": data.record, "backend": reference.identity}
    return stages.load(cache.fetch("ranges", {**key, **cache_keys.tools()}, build), Ranges)


def calibrated_on(
    request: ExportRequest,
    asked: CalibrationOptions,
    graph: Graph,
    evaluation: Data,
    reference: Backend,
    progress: Progress,
) -> tuple[Calibrated, CalibrationReceipt]:
    """Ranges and thresholds from the calibration set, which must not share an image with `evaluation`."""
    refuse_guess(request, asked, graph)
    placement = int8.placed(graph.folder / graph.exported.files[0].path)
    with progress.step(f"reading the images of {asked.data}", asked.count) as advance:
        batch = request.options.batch
        data = open_data(asked.data, "calibration", asked.count, batch, graph.taken, advance=advance)
    check_images(data.record, progress)
    disjoint = proven_disjoint(data.record, data.digests, evaluation)

    def build(folder: Path) -> None:
        tensors = {edge.tensor for edge in placement.edges}
        inputs = {edge.tensor for edge in placement.edges if edge.node in placement.layers}
        runner = _exposed(graph, folder, tensors, reference)
        start = time.perf_counter()
        with progress.step(f"calibrating on {data.record.name}", data.length) as advance:
            stream = (batch.inputs for batch in data.batches(graph.model, advance))
            seen = calibrate(runner, stream, data.record, tensors, inputs, asked.observer)
        stages.save(folder, _Calibrated(seen, data.record.count / (time.perf_counter() - start)))

    key = {"graph": graph.exported.files[0].sha256, "data": data.record, "observer": asked.observer}
    folder = cache.fetch("calibrated", {**key, "backend": reference.identity, **cache_keys.tools()}, build)
    calibrated, speed = msgspec.structs.astuple(stages.load(folder, _Calibrated))
    receipt = CalibrationReceipt(
        data=data.record,
        samples=data.digests,
        observer=asked.observer,
        thresholds=int8.thresholds(calibrated),
        convergence=calibrated.convergence,
        disjoint=disjoint,
        images_per_s=speed,
    )
    return calibrated, receipt


def refuse_guess(request: ExportRequest, asked: CalibrationOptions, graph: Graph) -> None:
    """UsageError where images would be calibrated on without a word of how they become inputs."""
    inputs = tuple(InputSpec(each.name, tuple(map(int, each.shape[1:])), each.dtype) for each in graph.exported.inputs)
    if graph.model.preprocessing is None and image_like(inputs) and not asked.data.lower().endswith(".npz"):
        raise UsageError(
            f"{request.model} takes images, and how pixels become its inputs is not said: INT8 would be a guess.",
            "Say it by --scale, --mean, --std and --channels or --preprocessing FILE.toml, or give --calibration "
            "FILE.npz with inputs as they are.",
        )


def with_ranges(calibrated: Calibrated, ranges: Ranges) -> Calibrated:
    """With the ranges of all other tensors too, which FP16 asks for."""
    merged = msgspec.structs.replace(calibrated.ranges, tensors={**ranges.tensors, **calibrated.ranges.tensors})
    return msgspec.structs.replace(calibrated, ranges=merged)


def corrected(trial: Trial, recipe: Recipe, progress: Progress) -> Recipe:
    """The recipe with bias correction where that brings the answers nearer to eager PyTorch's."""
    other = msgspec.structs.replace(recipe, correct_bias=True)
    return other if snr_db(judged(trial, other, progress)) > snr_db(judged(trial, recipe, progress)) else recipe


def check_images(record: DataRecord, progress: Progress) -> None:
    """Refuse images that show nothing; say it where there are few."""
    if record.count == 1 or record.constant > record.count // 2:
        shown = "one image" if record.count == 1 else f"{record.count} images, {record.constant} of one colour all over"
        raise InputError(
            f"{record.name!r} has {shown}: no range can be learnt from that.",
            f"Calibrate on at least {FEW_SAMPLES} images of what the network will see.",
        )
    if record.skipped:
        progress.note(f"{record.skipped} damaged images of {record.name} were skipped.")
    if record.count < FEW_SAMPLES:
        progress.note(f"Calibrating on {record.count} samples, which is few: give at least {FEW_SAMPLES}.")


def proven_disjoint(record: DataRecord, samples: tuple[SampleRecord, ...], evaluation: Data) -> Disjointness:
    """Proof that nothing is judged on one of the samples that it was calibrated on; InputError where it would be."""
    if both := calibration.common(samples, evaluation.digests):
        first, second = both[0]
        same = first if first == second else f"{first} shows what {second} does"
        raise InputError(
            f"{len(both)} of {evaluation.record.count} samples that parity is judged on are calibrated on too "
            f"({same}).",
            "Give other images with --data: a network looks better than it is on what it was calibrated on.",
        )
    return Disjointness(record.sha256, evaluation.record.sha256, len(evaluation.digests), 0)


def _of_int8(receipt: CalibrationReceipt, budget: Budget | None) -> tuple[str, ...]:
    found = []
    if not receipt.data.real:
        found.append(f"ranges are from {receipt.data.name}, which are no real images")
    if receipt.data.count < FEW_SAMPLES:
        found.append(f"ranges are from {receipt.data.count} samples, which is few")
    if budget is not None and budget.steps:
        found.append("how many layers stay out of INT8 was decided on the samples that parity is judged on")
    return tuple(found)


def _exposed(graph: Graph, folder: Path, tensors: Collection[str] | None, reference: Backend) -> Runner:
    """The exported graph with tensors as outputs, ready to run; its file is gone when that is done."""
    file = folder / "exposed.onnx"
    expose(graph.folder / graph.exported.files[0].path, file, tensors)
    runner = reference.load(reference.compile(file, folder), folder)
    file.unlink()
    return runner


class _Calibrated(Value, frozen=True):
    calibrated: Calibrated
    images_per_s: float
