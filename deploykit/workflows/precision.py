"""Select the graph at the requested precision: cast to FP16 or BF16, or quantized to INT8 within an accuracy budget.

INT8 is tuned by measuring on samples of the calibration split: the features of dense blocks become INT8 only where that
costs little, and bias correction is kept only where it brings the outputs nearer to the FP32 graph's. Then sensitive
layers are excluded until the budget is met.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from deploykit.core import cache
from deploykit.core.calibration.batches import SampleBatches, open_data
from deploykit.core.calibration.overlap import find_common_samples
from deploykit.core.errors import InputError, UsageError
from deploykit.core.onnx_io import remove_graph
from deploykit.core.values import (
    Budget,
    CalibrationOptions,
    CalibrationReceipt,
    CalibrationResult,
    DataRecord,
    Disjointness,
    FileRangesReceipt,
    InputSpec,
    PrecisionGraphRecord,
    Progress,
    Ranges,
    Recipe,
    Runner,
    SampleRecord,
    Value,
)
from deploykit.export.networks.images import is_image_input
from deploykit.quantize import int8
from deploykit.quantize.calibrate import add_graph_outputs, calibrate, observe_ranges
from deploykit.quantize.cast import write_cast_graph
from deploykit.workflows import cache_keys, stages
from deploykit.workflows.accuracy_budget import fit_budget
from deploykit.workflows.calibration_error import measure_calibration_snrs
from deploykit.workflows.file_ranges import TakenRanges, take_file_ranges
from deploykit.workflows.int8_candidates import Int8Candidates, quantize_graph
from deploykit.workflows.stages import PrecisionGraph, Session

RANGE_SAMPLES: Final = 16
"""Samples on which values are checked against FP16's range."""

FEW_SAMPLES: Final = 100
"""Fewer calibration samples than this are reported as few."""


DENSE_FEATURE_COST_DB: Final = 3.0
"""INT8 features of dense blocks may cost this much SNR at the output: at most twice the noise of the other rounding.
Measured on densenet121: 2.9 dB with random weights; 2.0 dB trained on digits, and one more of 445 right."""


FILE_RANGES_CAVEAT: Final = (
    "INT8 ranges are those of the file's Q/DQ pairs; the reference has the file's weights as their codes are, so that "
    "the cost of INT8 is that of the activations' rounding"
)

BUDGET_CAVEAT: Final = "the layers kept out of INT8 were selected on the samples that parity is evaluated on"


class PrecisionResult(NamedTuple):
    """The graph at the requested precision, and how it was selected."""

    graph: PrecisionGraph
    calibration: CalibrationReceipt | None = None
    file_ranges: FileRangesReceipt | None = None
    """The ranges of the ONNX file's own Q/DQ pairs, which a calibration would replace."""
    budget: Budget | None = None
    caveats: tuple[str, ...] = ()
    """What a reader of its verdict must know of how it was selected."""


def select_precision(session: Session) -> PrecisionResult:
    """The graph at the precision that the session's request names."""
    request = session.request
    if request.precision == "fp32":
        return PrecisionResult(stages.as_fp32(session.graph))
    if request.precision not in ("int8", "int8-fp16"):
        return cast_graph(session)
    if (taken := take_file_ranges(session)) is not None:
        return quantize_by_file_ranges(session, taken)
    assert request.calibration is not None, "INT8 has a calibration or the ranges of a file"
    calibrated, receipt = calibrate_graph(session, request.calibration)
    if request.precision == "int8-fp16":
        calibrated = merge_ranges(
            calibrated, collect_ranges(session, _open_range_data(session, request.calibration.data))
        )
    candidates = Int8Candidates(session, calibrated)
    recipe = Recipe(rest="fp16" if request.precision == "int8-fp16" else "fp32", io=request.io)
    recipe = try_bias_correction(candidates, try_dense_features(candidates, recipe))
    budget = None
    if request.budget is not None:
        recipe, budget = fit_budget(request.budget, candidates, recipe)
    return PrecisionResult(quantize_graph(candidates, recipe), receipt, None, budget, _int8_caveats(receipt, budget))


def quantize_by_file_ranges(session: Session, taken: TakenRanges) -> PrecisionResult:
    """The graph with Q/DQ pairs by our rules, and the ranges of the file's own pairs.

    Bias correction is left out: the weights are on the file's grid, and training was done with their rounding. A
    calibration set only serves an accuracy budget.
    """
    request, calibrated = session.request, taken.calibrated
    if request.calibration is not None and request.budget is None:
        session.progress.note(
            f"--calibration {request.calibration.data} is not used: the INT8 ranges are those of the file's Q/DQ pairs."
        )
    if request.budget is not None and request.calibration is None:
        raise UsageError(
            "An accuracy budget ranks layers on calibration samples.", "Give --calibration FOLDER besides."
        )
    if request.precision == "int8-fp16":
        calibrated = merge_ranges(calibrated, collect_ranges(session, _open_range_data(session, request.data)))
    candidates = Int8Candidates(session, calibrated)
    rest: Literal["fp32", "fp16"] = "fp16" if request.precision == "int8-fp16" else "fp32"
    recipe, budget = Recipe(rest=rest, excluded=taken.excluded, io=request.io), None
    if request.budget is not None:
        recipe, budget = fit_budget(request.budget, candidates, recipe)
    caveats = [FILE_RANGES_CAVEAT]
    if taken.excluded:
        listed = ", ".join(taken.excluded[:3]) + (f" and {len(taken.excluded) - 3} more" if taken.excluded[3:] else "")
        caveats.append(f"the file has no range for what these nodes read, so that they stay floating point: {listed}")
    if budget is not None and budget.steps:
        caveats.append(BUDGET_CAVEAT)
    graph = quantize_graph(candidates, recipe)
    return PrecisionResult(graph, None, taken.receipt, budget, tuple(caveats))


def cast_graph(session: Session) -> PrecisionResult:
    """Cast the graph to FP16 or BF16, checking its values on the calibration split."""
    request, graph = session.request, session.graph
    data = _open_range_data(session, request.data)
    ranges = collect_ranges(session, data)
    dtype: Literal["fp16", "bf16"] = "bf16" if request.precision == "bf16" else "fp16"

    def write_cast(folder: Path) -> None:
        with session.progress.step(f"converting the graph to {dtype.upper()}"):
            record = write_cast_graph(graph.path, ranges, folder, dtype, request.io)
        stages.save_entry(folder, record)

    key = {
        "graph": graph.sha256,
        "ranges": ranges,
        "precision": request.precision,
        "io": request.io,
        **cache_keys.tool_versions(),
    }
    folder = cache.fetch_or_build("cast", key, write_cast)
    record = stages.load_entry(folder, PrecisionGraphRecord)
    file = record.files[0]
    shared = len(find_common_samples(data.digests, session.data.digests))
    caveat = f"value ranges were checked on {shared} of the samples that parity is evaluated on"
    return PrecisionResult(
        PrecisionGraph(folder, file.path, record.sha256, request.precision, record, data.record),
        caveats=(caveat,) if shared else (),
    )


def collect_ranges(session: Session, data: SampleBatches) -> Ranges:
    """The smallest and the largest value of every tensor of the FP32 graph."""
    graph, reference = session.graph, session.reference

    def write_ranges(folder: Path) -> None:
        runner = _load_exposed(session, folder, None)
        dtype = "BF16" if session.request.precision == "bf16" else "FP16"
        with session.progress.step(f"checking {dtype} range on {data.record.name}", data.length) as advance:
            ranges = observe_ranges(runner, (batch.inputs for batch in data.batches(graph.model, advance)), data.record)
        stages.save_entry(folder, ranges)

    key = {"graph": graph.sha256, "data": data.record, "backend": reference.identity}
    return stages.load_entry(
        cache.fetch_or_build("ranges", {**key, **cache_keys.tool_versions()}, write_ranges), Ranges
    )


def _open_range_data(session: Session, name: str | None) -> SampleBatches:
    """The samples of the calibration split on which values are checked against FP16's range."""
    batch, inputs = session.request.options.batch, session.graph.tensor_inputs
    return open_data(name, "calibration", RANGE_SAMPLES, batch, inputs)


def calibrate_graph(session: Session, options: CalibrationOptions) -> tuple[CalibrationResult, CalibrationReceipt]:
    """Ranges and clipping thresholds from the calibration set, which must share no image with the evaluation set."""
    require_preprocessing(session, options)
    graph, reference, progress = session.graph, session.reference, session.progress
    placement = int8.plan_placement(graph.path)
    data = open_data(
        options.data,
        "calibration",
        options.count,
        session.request.options.batch,
        graph.tensor_inputs,
        reading=partial(progress.step, f"reading the images of {options.data}"),
        note=progress.note,
    )
    check_calibration_data(data.record, progress)
    disjoint = require_disjoint(data.record, data.digests, session.data)

    def write_calibration(folder: Path) -> None:
        tensors = {edge.tensor for edge in placement.edges}
        inputs = {edge.tensor for edge in placement.edges if edge.node in placement.layers}
        runner = _load_exposed(session, folder, tensors)
        start = time.perf_counter()
        with progress.step(f"calibrating on {data.record.name}", data.length) as advance:
            stream = (batch.inputs for batch in data.batches(graph.model, advance))
            calibrated = calibrate(runner, stream, data.record, tensors, inputs, options.observer)
        stages.save_entry(folder, _CalibrationEntry(calibrated, data.record.count / (time.perf_counter() - start)))

    key = {"graph": graph.sha256, "data": data.record, "observer": options.observer, "backend": reference.identity}
    folder = cache.fetch_or_build("calibration", {**key, **cache_keys.tool_versions()}, write_calibration)
    calibrated, speed = msgspec.structs.astuple(stages.load_entry(folder, _CalibrationEntry))
    receipt = CalibrationReceipt(
        data=data.record,
        samples=data.digests,
        observer=options.observer,
        thresholds=int8.clip_thresholds(calibrated),
        convergence=calibrated.convergence,
        disjoint=disjoint,
        images_per_s=speed,
    )
    return calibrated, receipt


def require_preprocessing(session: Session, options: CalibrationOptions) -> None:
    """UsageError where calibration would need images and the preprocessing of the network is unknown."""
    graph = session.graph
    inputs = tuple(InputSpec(spec.name, tuple(map(int, spec.shape[1:])), spec.dtype) for spec in graph.exported.inputs)
    if graph.model.preprocessing is None and is_image_input(inputs) and not options.data.lower().endswith(".npz"):
        raise UsageError(
            f"{session.request.model} takes images, but its preprocessing is unknown: INT8 ranges would be a guess.",
            "Describe it with --scale, --mean, --std and --channels or with --preprocessing-file FILE.toml, or give "
            "ready inputs with --calibration FILE.npz.",
        )


def merge_ranges(calibrated: CalibrationResult, ranges: Ranges) -> CalibrationResult:
    """The calibration with the ranges of all other tensors added, which the FP16 part of the graph needs."""
    tensors, data = {**ranges.tensors, **calibrated.ranges.tensors}, calibrated.ranges.data or ranges.data
    merged = msgspec.structs.replace(calibrated.ranges, tensors=tensors, data=data)
    return msgspec.structs.replace(calibrated, ranges=merged)


def try_dense_features(candidates: Int8Candidates, recipe: Recipe) -> Recipe:
    """The recipe with the features of as many dense blocks in INT8 as cost at most `DENSE_FEATURE_COST_DB` together on
    the calibration samples.

    The first block's are given up first: their noise passes through every layer behind it.
    """
    blocks = int8.plan_dense_blocks(candidates.source)
    if not blocks:
        return recipe
    recipes = [
        msgspec.structs.replace(
            recipe, excluded=(*recipe.excluded, *(name for block in blocks[:first] for name in block))
        )
        for first in range(len(blocks) + 1)
    ]
    plain = [msgspec.structs.replace(each, rest="fp32", io="fp32") for each in recipes]
    snrs_db = measure_calibration_snrs(candidates.session, [quantize_graph(candidates, each) for each in plain])
    least = snrs_db[-1] - DENSE_FEATURE_COST_DB
    return next(each for each, snr_db in zip(recipes, snrs_db, strict=True) if snr_db >= least)


def try_bias_correction(candidates: Int8Candidates, recipe: Recipe) -> Recipe:
    """The recipe with bias correction, where that brings the outputs on the calibration samples nearer to those of the
    FP32 graph; else unchanged.

    The rest of both graphs is FP32, whatever the recipe: a CPU emulates FP16 slowly, and what is corrected is the
    rounding of weights to INT8.
    """
    plain = msgspec.structs.replace(recipe, rest="fp32", io="fp32")
    graphs = [
        quantize_graph(candidates, msgspec.structs.replace(plain, correct_bias=correct)) for correct in (False, True)
    ]
    uncorrected_db, corrected_db = measure_calibration_snrs(candidates.session, graphs)
    return msgspec.structs.replace(recipe, correct_bias=True) if corrected_db > uncorrected_db else recipe


def check_calibration_data(record: DataRecord, progress: Progress) -> None:
    """Refuse a set without usable content; note a set that is small or has damaged images."""
    if record.count == 1 or record.constant > record.count // 2:
        content = "one image" if record.count == 1 else f"{record.count} images, {record.constant} of a single colour"
        raise InputError(
            f"{record.name!r} has {content}: that is not enough to calibrate on.",
            f"Calibrate on at least {FEW_SAMPLES} images like those that the network will see.",
        )
    if record.skipped:
        progress.note(f"{record.skipped} damaged images of {record.name} were skipped.")
    if record.count < FEW_SAMPLES:
        progress.note(f"Calibrating on {record.count} samples, which is few: give at least {FEW_SAMPLES}.")


def require_disjoint(record: DataRecord, samples: tuple[SampleRecord, ...], evaluation: SampleBatches) -> Disjointness:
    """Proof that the calibration and evaluation sets share no sample; InputError where they do."""
    if shared := find_common_samples(samples, evaluation.digests):
        first, second = shared[0]
        example = first if first == second else f"{first} is the same image as {second}"
        raise InputError(
            f"{len(shared)} of {evaluation.record.count} evaluation samples are also calibration samples ({example}).",
            "Give other images with --data: accuracy on the images that were calibrated on is too optimistic.",
        )
    return Disjointness(record.sha256, evaluation.record.sha256, len(evaluation.digests), 0)


def _int8_caveats(receipt: CalibrationReceipt, budget: Budget | None) -> tuple[str, ...]:
    caveats = []
    if not receipt.data.real:
        caveats.append(f"INT8 ranges come from {receipt.data.name}, which are not real images")
    if receipt.data.count < FEW_SAMPLES:
        caveats.append(f"INT8 ranges come from only {receipt.data.count} samples")
    if budget is not None and budget.steps:
        caveats.append(BUDGET_CAVEAT)
    return tuple(caveats)


def _load_exposed(session: Session, folder: Path, tensors: Collection[str] | None) -> Runner:
    """A runner of the FP32 graph with `tensors` as additional outputs (None: all); its file is removed again."""
    reference, file = session.reference, folder / "exposed.onnx"
    add_graph_outputs(session.graph.path, file, tensors)
    runner = reference.load(reference.compile(file, folder), folder)
    remove_graph(file)
    return runner


class _CalibrationEntry(Value, frozen=True):
    calibrated: CalibrationResult
    images_per_s: float
