"""Compare a candidate with the oracle on the same samples.

Inputs stream through the runners batch by batch; only outputs are kept, about 4 kB per sample and runner for a network
with 1000 classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import InputError, InternalError
from deploykit.core.values import (
    CLASSIFIER_HEADS,
    Accuracy,
    Arrays,
    Batch,
    DataRecord,
    Head,
    OutputParity,
    Parity,
    Runner,
    Tolerance,
    WeightsRecord,
)
from deploykit.evaluate.cost import measure_drop
from deploykit.evaluate.parity import metrics
from deploykit.evaluate.parity.negligible import LAST_STEP, is_negligible

Array = NDArray[Any]


ENOUGH_FOR_COSINE: Final = 8
"""Elements of a sample from which on a cosine is informative: of a single number it is only the sign."""


LARGEST_FINITE: Final = 1e300
"""A mean difference above this is that of an output with NaN or infinity."""


class PairedOutputs(NamedTuple):
    """Outputs of both runners for the same samples, by output name, sample axis first."""

    reference: Mapping[str, Array]
    candidate: Mapping[str, Array]
    labels: tuple[int | None, ...]


def compare_runners(
    oracle: Runner,
    candidate: Runner,
    batches: Iterable[Batch],
    tolerance: Tolerance,
    data: DataRecord,
    head: Head,
    caveats: tuple[str, ...] = (),
) -> Parity:
    """Run both on every batch and check each of the oracle's outputs against `tolerance`.

    `data` describes the samples in `batches`; `caveats` are limits of the verdict that the caller knows.
    """
    return compare_outputs(_run_both(oracle, candidate, batches, data), tolerance, data, head, caveats)


def compare_outputs(
    observed: PairedOutputs, tolerance: Tolerance, data: DataRecord, head: Head, caveats: tuple[str, ...] = ()
) -> Parity:
    """The parity verdict on outputs that were computed before; the reference's are finite."""
    measured = measure_outputs(observed, tolerance, data, head, caveats)
    judged = tuple(output for output in measured.outputs if not _is_negligible(output.name, observed, tolerance))
    samples = len(next(iter(observed.reference.values())))
    failures = check_bounds(msgspec.structs.replace(measured, outputs=judged), samples, tolerance)
    return msgspec.structs.replace(measured, passed=not failures, failures=failures)


def _is_negligible(name: str, observed: PairedOutputs, tolerance: Tolerance) -> bool:
    """Whether an output differs by less than a step of the precision that the tolerance is of, if it is of one."""
    precision = next((known for known in LAST_STEP if known == tolerance.name), None)
    return precision is not None and is_negligible(observed.reference[name], observed.candidate[name], precision)


def check_bounds(measured: Parity, samples: int, tolerance: Tolerance) -> tuple[str, ...]:
    """The failures of outputs that were measured, with those of the tolerance's bounds that they violate."""
    nonfinite = {output.name for output in measured.outputs if output.mean_abs > LARGEST_FINITE}
    bounds = (
        failure
        for output in measured.outputs
        if output.name not in nonfinite  # NaN or infinity is the only message: all figures follow from it
        for failure in _check_output(output, samples, tolerance)
    )
    return (*measured.failures, *bounds)


def measure_outputs(
    observed: PairedOutputs, tolerance: Tolerance, data: DataRecord, head: Head, caveats: tuple[str, ...] = ()
) -> Parity:
    """The same without applying the tolerance's bounds: what fails is an output that is missing, of another shape, or
    not finite.
    """
    outputs: list[OutputParity] = []
    failures = _interface_failures(observed)
    for name, reference in observed.reference.items():
        output = observed.candidate.get(name)
        if output is None or output.shape != reference.shape:
            continue  # reported by _interface_failures
        outputs.append(_measure_output(name, reference, output, head))
        if (bad := _nonfinite_samples(output)).size:
            where = _describe_samples(bad, output)
            failures.append(f"output {name!r}: the candidate computes NaN or infinity ({where})")
    return Parity(
        passed=not failures,
        failures=tuple(failures),
        outputs=tuple(outputs),
        accuracy=_labelled_accuracy(observed, head),
        tolerance=tolerance,
        data=data,
        caveats=(*caveats, *_find_caveats(observed, tolerance, data, head)),
    )


def untrained_caveats(weights: WeightsRecord) -> tuple[str, ...]:
    """The caveat of a network with untrained weights; empty for trained ones."""
    if weights.trained:
        return ()
    return (f"the weights are {weights.source}: the network is untrained and its predictions are meaningless",)


def run_batches(runner: Runner, batches: Iterable[Batch], side: str) -> tuple[Arrays, tuple[int | None, ...]]:
    """Outputs by name for all batches, and the samples' labels; `side` names the runner in errors."""
    outputs: list[Mapping[str, Array]] = []
    labels: list[int | None] = []
    for batch in batches:
        outputs.append(_run_batch(runner, batch, side))
        labels += batch.labels
    _require_samples(labels)
    return _concatenate(outputs), tuple(labels)


def _run_both(oracle: Runner, candidate: Runner, batches: Iterable[Batch], data: DataRecord) -> PairedOutputs:
    references: list[Mapping[str, Array]] = []
    candidates: list[Mapping[str, Array]] = []
    labels: list[int | None] = []
    for batch in batches:
        references.append(_run_batch(oracle, batch, "the oracle"))
        candidates.append(_run_batch(candidate, batch, "the candidate"))
        labels += batch.labels
    _require_samples(labels)
    if len(labels) != data.count:
        raise InternalError(f"{data.name} has {len(labels)} samples, not {data.count} as recorded.", "")
    observed = PairedOutputs(_concatenate(references), _concatenate(candidates), tuple(labels))
    for name, reference in observed.reference.items():
        require_finite(name, reference)
    return observed


def _require_samples(labels: Sequence[int | None]) -> None:
    if not labels:
        raise InputError("there are no samples to compare on.", "Give a data set or folder with --data.")


def _concatenate(outputs: list[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([batch[name] for batch in outputs]) for name in outputs[0]}


def _run_batch(runner: Runner, batch: Batch, side: str) -> dict[str, Array]:
    outputs = runner.run(batch.inputs)
    declared = [spec.name for spec in runner.outputs]
    if sorted(outputs) != sorted(declared):
        raise InternalError(f"{side} declares the outputs {declared} and returned {sorted(outputs)}.", "")
    for name, array in outputs.items():
        if array.ndim < 1 or len(array) != len(batch.labels):
            raise InternalError(f"{side} returned {name!r} as {array.shape} for {len(batch.labels)} samples.", "")
    # A runner may reuse its output buffers from call to call.
    return {name: np.array(outputs[name]) for name in declared}


def require_finite(name: str, reference: Array) -> None:
    """InputError where the reference's output holds NaN or infinity."""
    bad = _nonfinite_samples(reference)
    if bad.size:
        raise InputError(
            f"the network itself computes NaN or infinity in output {name!r} ({_describe_samples(bad, reference)}).",
            "Check its weights and the preprocessing: no candidate can be compared with such outputs.",
        )


def _interface_failures(observed: PairedOutputs) -> list[str]:
    """Outputs that are missing, additional, or of another shape."""
    failures = []
    for name, reference in observed.reference.items():
        output = observed.candidate.get(name)
        if output is None:
            failures.append(f"output {name!r} is missing; the candidate has {', '.join(observed.candidate)}")
        elif output.shape != reference.shape:
            expected, actual = ("N" + "".join(f"×{n}" for n in a.shape[1:]) for a in (reference, output))
            failures.append(f"output {name!r} has the shape {actual}, the oracle's has {expected}")
    extra = [name for name in observed.candidate if name not in observed.reference]
    return failures + [f"the oracle has no output {name!r}" for name in extra]


def _measure_output(name: str, reference: Array, candidate: Array, head: Head) -> OutputParity:
    snr = metrics.snr_db(reference, candidate)
    classes = head in CLASSIFIER_HEADS and math.prod(reference.shape[2:]) == 1
    if classes:  # N×classes×1×1 → N×classes
        reference, candidate = (array.reshape(array.shape[:2]) for array in (reference, candidate))
    kl = metrics.kl_of_probabilities if head == "probabilities" else metrics.kl_of_logits
    return OutputParity(
        name=name,
        max_abs=metrics.clamp_to_float(metrics.max_abs(reference, candidate)),
        mean_abs=metrics.clamp_to_float(metrics.mean_abs(reference, candidate)),
        max_relative=metrics.clamp_to_float(metrics.max_relative(reference, candidate)),
        cosine=metrics.cosine(reference, candidate) if reference[0].size >= ENOUGH_FOR_COSINE else None,
        snr_db=None if snr is None else metrics.clamp_to_float(snr),
        kl=metrics.clamp_to_float(kl(reference, candidate)) if classes else None,
        top1_agreement=metrics.top1_agreement(reference, candidate) if classes else None,
        top5_overlap=metrics.top5_overlap(reference, candidate) if classes else None,
    )


def _check_output(parity: OutputParity, samples: int, tolerance: Tolerance) -> list[str]:
    """One message per violated bound."""
    where = f"output {parity.name!r}:"
    failures = []
    if tolerance.max_relative is not None and not parity.max_relative <= tolerance.max_relative:
        failures.append(
            f"{where} the largest difference is {parity.max_relative:.2e} of full scale, "
            f"above the {tolerance.name} bound of {tolerance.max_relative:.2e}"
        )
    cosine, least = parity.cosine, tolerance.min_cosine
    if cosine is not None and least is not None and not cosine >= least:
        failures.append(
            f"{where} the worst sample's cosine is {cosine:.6f}, below the {tolerance.name} bound of {least:.6f}"
        )
    if parity.snr_db is not None and not parity.snr_db >= tolerance.min_snr_db:
        failures.append(
            f"{where} the signal-to-noise ratio is {parity.snr_db:.1f} dB, "
            f"below the {tolerance.name} bound of {tolerance.min_snr_db:.1f} dB"
        )
    return failures + _check_top1(parity, samples, tolerance)


def _check_top1(parity: OutputParity, samples: int, tolerance: Tolerance) -> list[str]:
    agreement, bound = parity.top1_agreement, tolerance.min_top1_agreement
    if agreement is None or bound is None:
        return []
    # With few samples one near-tie is a large share: a single sample may always differ.
    different = round((1 - agreement) * samples)
    if different <= max(1, math.floor((1 - bound) * samples)):
        return []
    return [
        f"output {parity.name!r}: top-1 agreement is {agreement:.2%} of {samples} samples, "
        f"below the {tolerance.name} bound of {bound:.2%}"
    ]


def _labelled_accuracy(observed: PairedOutputs, head: Head) -> Accuracy | None:
    """Top-1 accuracy of both on the labelled samples, from the first output; None without labels or classes."""
    name, reference = next(iter(observed.reference.items()))
    candidate = observed.candidate.get(name)
    labelled = [index for index, label in enumerate(observed.labels) if label is not None]
    if not labelled or head not in CLASSIFIER_HEADS or candidate is None or candidate.shape != reference.shape:
        return None
    if math.prod(reference.shape[2:]) != 1:
        return None
    drop = measure_drop(
        reference[labelled], candidate[labelled], np.array([observed.labels[index] for index in labelled])
    )
    return Accuracy(drop.reference, drop.candidate, drop.count, drop.low, drop.high)


def _find_caveats(observed: PairedOutputs, tolerance: Tolerance, data: DataRecord, head: Head) -> list[str]:
    caveats = []
    if not data.real:
        caveats.append(f"the inputs are synthetic ({data.name}): accuracy was not evaluated")
    if tolerance.min_top1_agreement is None and head in CLASSIFIER_HEADS and "min_top1_agreement" in tolerance.reasons:
        caveats.append(f"top-1 agreement is {tolerance.reasons['min_top1_agreement']}")
    for name, reference in observed.reference.items():
        # With badly scaled random weights the signal vanishes on its way: only biases reach the output.
        if tolerance.min_snr_db > 0 and metrics.variation(reference) < 10 ** (-tolerance.min_snr_db / 20):
            caveats.append(
                f"output {name!r} varies less between the {len(reference)} samples than the tolerance allows: "
                "a candidate that ignores its input would also have passed"
            )
    return caveats


def _nonfinite_samples(array: Array) -> NDArray[np.intp]:
    """Indices of the samples with NaN or infinity."""
    return np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))


def _describe_samples(bad: NDArray[np.intp], array: Array) -> str:
    return f"{bad.size} of {len(array)} samples, the first at index {bad[0]}"
