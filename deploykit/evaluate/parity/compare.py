"""Judge a candidate against the oracle on the same samples.

Inputs stream through both runners batch by batch; only outputs are kept, about 4 kB per sample and side for a
network of 1000 classes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import InputError, InternalError
from deploykit.core.values import (
    CLASSES,
    Accuracy,
    Batch,
    DataRecord,
    Head,
    OutputParity,
    Parity,
    Runner,
    Tolerance,
    WeightsRecord,
)
from deploykit.evaluate.parity import metrics

Array = NDArray[Any]


class Observed(NamedTuple):
    """What both sides gave for the samples of a comparison, in order; arrays by output name, sample axis first."""

    reference: Mapping[str, Array]
    candidate: Mapping[str, Array]
    labels: tuple[int | None, ...]


def compare(
    oracle: Runner,
    candidate: Runner,
    batches: Iterable[Batch],
    tolerance: Tolerance,
    data: DataRecord,
    head: Head,
    statements: tuple[str, ...] = (),
) -> Parity:
    """Run both on every batch and judge each of the oracle's outputs by `tolerance`.

    `data` describes the samples in `batches`; `statements` are what the caller knows that the verdict does not cover.
    """
    return judged(_observe(oracle, candidate, batches, data), tolerance, data, head, statements)


def judged(
    observed: Observed, tolerance: Tolerance, data: DataRecord, head: Head, statements: tuple[str, ...] = ()
) -> Parity:
    """The verdict on answers that are there already; those of the reference are finite."""
    outputs: list[OutputParity] = []
    failures = _interface_failures(observed)
    for name, reference in observed.reference.items():
        output = observed.candidate.get(name)
        if output is None or output.shape != reference.shape:
            continue  # already among the failures: there is nothing to measure
        measured = _measure(name, reference, output, head)
        outputs.append(measured)
        failures += _judge(measured, output, tolerance)
    return Parity(
        passed=not failures,
        failures=tuple(failures),
        outputs=tuple(outputs),
        accuracy=_accuracy(observed, head),
        tolerance=tolerance,
        data=data,
        statements=(*statements, *_uncovered(observed, tolerance, data, head)),
    )


def untrained(weights: WeightsRecord) -> tuple[str, ...]:
    """What must be said of a network that was never trained."""
    if weights.trained:
        return ()
    return (f"the weights are {weights.source}: the network is untrained and its answers mean nothing",)


def _observe(oracle: Runner, candidate: Runner, batches: Iterable[Batch], data: DataRecord) -> Observed:
    references: list[Mapping[str, Array]] = []
    candidates: list[Mapping[str, Array]] = []
    labels: list[int | None] = []
    for batch in batches:
        references.append(_run(oracle, batch, "the oracle"))
        candidates.append(_run(candidate, batch, "the candidate"))
        labels += batch.labels
    if not labels:
        raise InputError("there is no sample to compare on.", "Name a data set or folder that holds some.")
    if len(labels) != data.count:
        raise InternalError(f"{data.count} samples of {data.name} were announced and {len(labels)} came.", "")
    observed = Observed(_joined(references), _joined(candidates), tuple(labels))
    for name, reference in observed.reference.items():
        _require_finite(name, reference)
    return observed


def _run(runner: Runner, batch: Batch, side: str) -> dict[str, Array]:
    outputs = runner.run(batch.inputs)
    declared = [spec.name for spec in runner.outputs]
    if sorted(outputs) != sorted(declared):
        raise InternalError(f"{side} declares the outputs {declared} and gave {sorted(outputs)}.", "")
    for name, array in outputs.items():
        if array.ndim < 1 or len(array) != len(batch.labels):
            raise InternalError(f"{side} gave {name!r} the shape {array.shape} for {len(batch.labels)} samples.", "")
    # A runner may reuse its output buffers from call to call.
    return {name: np.array(outputs[name]) for name in declared}


def _joined(outputs: list[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([batch[name] for batch in outputs]) for name in outputs[0]}


def _require_finite(name: str, reference: Array) -> None:
    bad = _not_finite(reference)
    if bad.size:
        raise InputError(
            f"the network itself gives NaN or infinity in output {name!r} ({_which(bad, reference)}).",
            "Check its weights and the preprocessing; there is nothing that a candidate could be compared with.",
        )


def _interface_failures(observed: Observed) -> list[str]:
    """What differs before any number does: outputs that lack, that are too many, that have another shape."""
    failures = []
    for name, reference in observed.reference.items():
        output = observed.candidate.get(name)
        if output is None:
            failures.append(f"output {name!r} is missing; the candidate gives {', '.join(observed.candidate)}")
        elif output.shape != reference.shape:
            expected, found = ("N" + "".join(f"×{n}" for n in a.shape[1:]) for a in (reference, output))
            failures.append(f"output {name!r} has the shape {found} where the oracle gives {expected}")
    extra = [name for name in observed.candidate if name not in observed.reference]
    return failures + [f"output {name!r} is one that the oracle does not have" for name in extra]


def _measure(name: str, reference: Array, candidate: Array, head: Head) -> OutputParity:
    snr = metrics.snr_db(reference, candidate)
    classes = head in CLASSES and math.prod(reference.shape[2:]) == 1
    if classes:  # N×classes×1×1 is as good
        reference, candidate = (array.reshape(array.shape[:2]) for array in (reference, candidate))
    kl = metrics.kl_of_probabilities if head == "probabilities" else metrics.kl_of_logits
    return OutputParity(
        name=name,
        max_abs=_recordable(metrics.max_abs(reference, candidate)),
        mean_abs=_recordable(metrics.mean_abs(reference, candidate)),
        max_relative=_recordable(metrics.max_relative(reference, candidate)),
        cosine=metrics.cosine(reference, candidate),
        snr_db=None if snr is None else _recordable(snr),
        kl=_recordable(kl(reference, candidate)) if classes else None,
        top1_agreement=metrics.top1_agreement(reference, candidate) if classes else None,
        top5_overlap=metrics.top5_overlap(reference, candidate) if classes else None,
    )


def _judge(measured: OutputParity, output: Array, tolerance: Tolerance) -> list[str]:
    """One sentence per bound that does not hold."""
    where = f"output {measured.name!r}:"
    bad = _not_finite(output)
    if bad.size:  # every figure follows from this, so that this alone is said
        return [f"{where} the candidate gives NaN or infinity ({_which(bad, output)})"]
    failures = []
    if not measured.max_relative <= tolerance.max_relative:
        failures.append(
            f"{where} the largest difference is {measured.max_relative:.2e} of full scale, "
            f"above the {tolerance.name} bound of {tolerance.max_relative:.2e}"
        )
    if not measured.cosine >= tolerance.min_cosine:
        failures.append(
            f"{where} the worst sample's cosine is {measured.cosine:.6f}, "
            f"below the {tolerance.name} bound of {tolerance.min_cosine:.6f}"
        )
    if measured.snr_db is not None and not measured.snr_db >= tolerance.min_snr_db:
        failures.append(
            f"{where} the signal-to-noise ratio is {measured.snr_db:.1f} dB, "
            f"below the {tolerance.name} bound of {tolerance.min_snr_db:.1f} dB"
        )
    return failures + _judge_top1(measured, len(output), tolerance)


def _judge_top1(measured: OutputParity, samples: int, tolerance: Tolerance) -> list[str]:
    agreement, bound = measured.top1_agreement, tolerance.min_top1_agreement
    if agreement is None or bound is None:
        return []
    # Of few samples, one near tie is a large share: a single sample may always differ.
    different = round((1 - agreement) * samples)
    if different <= max(1, math.floor((1 - bound) * samples)):
        return []
    return [
        f"output {measured.name!r}: the best class is the same for {agreement:.2%} of {samples} samples, "
        f"below the {tolerance.name} bound of {bound:.2%}"
    ]


def _accuracy(observed: Observed, head: Head) -> Accuracy | None:
    """Top-1 of both on the labelled samples, by the first output; None without labels or classes."""
    name, reference = next(iter(observed.reference.items()))
    candidate = observed.candidate.get(name)
    labelled = [index for index, label in enumerate(observed.labels) if label is not None]
    if not labelled or head not in CLASSES or candidate is None or candidate.shape != reference.shape:
        return None
    labels = np.array([observed.labels[index] for index in labelled])
    if labels.min() < 0 or labels.max() >= reference.shape[1]:
        raise InputError(
            f"the data has labels from {labels.min()} to {labels.max()}, the network {reference.shape[1]} classes.",
            "Compare on data that has the classes the network was trained for.",
        )
    return Accuracy(
        reference=metrics.top1_accuracy(reference[labelled], labels),
        candidate=metrics.top1_accuracy(candidate[labelled], labels),
        count=len(labelled),
    )


def _uncovered(observed: Observed, tolerance: Tolerance, data: DataRecord, head: Head) -> list[str]:
    statements = []
    if not data.real:
        statements.append(f"the inputs are synthetic ({data.name}): nothing is said about accuracy")
    if tolerance.min_top1_agreement is None and head in CLASSES:
        statements.append(f"top-1 agreement is {tolerance.reasons['min_top1_agreement']}")
    for name, reference in observed.reference.items():
        # Badly scaled random weights let the signal die on its way: then bias alone reaches the output.
        if metrics.variation(reference) < 10 ** (-tolerance.min_snr_db / 20):
            statements.append(
                f"output {name!r} varies less between the {len(reference)} samples than the tolerance lets pass: "
                "a candidate that ignores its input would have passed too"
            )
    return statements


def _not_finite(array: Array) -> NDArray[np.intp]:
    """Indices of the samples that hold NaN or infinity."""
    return np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))


def _which(bad: NDArray[np.intp], array: Array) -> str:
    return f"{bad.size} of {len(array)} samples, the first is number {bad[0]} counted from 0"


def _recordable(figure: float) -> float:
    """Infinity as the largest float: JSON has no infinity, and a record of failure must be readable too."""
    return min(max(figure, -sys.float_info.max), sys.float_info.max)
