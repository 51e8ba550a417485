"""What an engine is worth in the terms of its network's task, measured without deploykit.

Nothing here imports deploykit: these figures judge its verdicts. Both sides are the outputs of one network on the same
pictures, `original` in FP32 and `candidate` from an engine. The thresholds are stated once, in `USABLE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

USABLE: Final[Mapping[str, Mapping[str, float]]] = {
    "top-1 agreement": {"fp16": 0.97, "int8": 0.7},
    "F1 of text masks": {"fp16": 0.98, "int8": 0.8},
    "characters": {"fp16": 0.98, "int8": 0.8},
    "orientation agreement": {"fp16": 0.98, "int8": 0.9},
    "F1 of detections": {"fp16": 0.97, "int8": 0.8},
}
"""The smallest value with which an application goes on working. FP16 is expected to change next to nothing; INT8
without training costs some answers, and chance is a half for two orientations. Written down before any verdict was
looked at."""


MIN_INT8_SHARE: Final = 0.95
"""Share of the multiplications in INT8 below which an INT8 engine may be marked FAILED however good its outputs are:
deploykit states that at most 5 % of the graph's INT8 may be executed in floating point."""


class Truth(NamedTuple):
    """An engine's agreement with the original network."""

    measure: str
    value: float
    """0 to 1."""
    text: str
    """With what it was counted over, for the table."""

    def is_usable(self, precision: str) -> bool:
        return bool(self.value >= USABLE[self.measure][precision])


Compare = Callable[[Array, Array], Truth]
"""(original, candidate) -> Truth."""


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def compare_classes(original: Array, candidate: Array) -> Truth:
    """Share of pictures with the same best class. Both: pictures × classes."""
    return count_agreement("top-1 agreement", original, candidate)


def compare_orientations(original: Array, candidate: Array) -> Truth:
    """Share of lines with the same orientation. Both: lines × 2."""
    return count_agreement("orientation agreement", original, candidate)


def count_agreement(measure: str, original: Array, candidate: Array) -> Truth:
    """Not-a-number counts as disagreement."""
    same = (original.argmax(axis=1) == candidate.argmax(axis=1)) & np.isfinite(candidate).all(axis=1)
    count, total = int(same.sum()), len(same)
    low, high = wilson_interval(count, total)
    return Truth(measure, count / total, f"{measure} {count / total:.1%} ({low:.0%} to {high:.0%}) of {total}")


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, share = 1.96, count / total
    middle, half = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


# ── Maps of text ──────────────────────────────────────────────────────────────────────────────────────────────────────

TEXT_THRESHOLD: Final = 0.3
"""RapidOCR's `thresh`: a pixel above it is text."""


def compare_text_masks(original: Array, candidate: Array) -> Truth:
    """F1 of the text pixels of all pages together. Both: pages × 1 × height × width, probabilities."""
    expected, found = original > TEXT_THRESHOLD, candidate > TEXT_THRESHOLD
    common = int((expected & found).sum())
    score = f1(common, int(found.sum()), int(expected.sum()))
    union = int((expected | found).sum())
    overlap = common / union if union else 1.0
    return Truth("F1 of text masks", score, f"F1 of text masks {score:.4f}, IoU {overlap:.4f}, {len(original)} pages")


def f1(common: int, found: int, expected: int) -> float:
    """2·common / (found + expected); 1 where there was nothing to find and nothing was found."""
    return 2 * common / (found + expected) if found + expected else 1.0


# ── Lines of text ─────────────────────────────────────────────────────────────────────────────────────────────────────

BLANK: Final = 0
"""Index of CTC's blank in PP-OCR's alphabet."""


def compare_lines(original: Array, candidate: Array) -> Truth:
    """1 − edit distance / length, of all lines together. Both: lines × steps × characters."""
    expected, found = decode_ctc(original), decode_ctc(candidate)
    edits = sum(edit_distance(left, right) for left, right in zip(expected, found, strict=True))
    total = sum(map(len, expected))
    share = max(0.0, 1 - edits / total) if total else float(edits == 0)
    equal = sum(left == right for left, right in zip(expected, found, strict=True))
    text = f"characters {share:.1%} of {total}, {equal} of {len(expected)} lines identical"
    return Truth("characters", share, text)


def decode_ctc(probabilities: Array) -> list[list[int]]:
    """The best character of every step, repetitions merged, blanks dropped."""
    lines = []
    for best in probabilities.argmax(axis=2):
        changed = np.concatenate([[True], best[1:] != best[:-1]])
        lines.append([int(character) for character in best[changed & (best != BLANK)]])
    return lines


def edit_distance(left: Sequence[int], right: Sequence[int]) -> int:
    """Levenshtein's: insertions, deletions and substitutions."""
    row = list(range(len(right) + 1))
    for index, character in enumerate(left, start=1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(right, start=1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (character != other)),
            )
    return row[-1]


# ── Boxes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

MIN_SCORE: Final = 0.25
MAX_OVERLAP: Final = 0.45
"""NudeNet's thresholds, of a score and of non-maximum suppression over all classes."""

SAME_BOX: Final = 0.5
"""IoU from which two boxes of a class are the same detection."""


class Detection(NamedTuple):
    kind: int
    score: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""


def compare_detections(original: Array, candidate: Array) -> Truth:
    """F1 of the detections of all pictures together. Both: pictures × (4 + classes) × anchors."""
    matched = found = expected = 0
    for left, right in zip(original, candidate, strict=True):
        reference, detections = decode_boxes(left), decode_boxes(right)
        matched += count_matches(reference, detections)
        found += len(detections)
        expected += len(reference)
    score = f1(matched, found, expected)
    text = f"F1 of detections {score:.3f}: {expected} expected, {found} found, {matched} matched"
    return Truth("F1 of detections", score, text)


def decode_boxes(output: Array) -> list[Detection]:
    """Detections above the score that survive suppression, the best first. `output`: (4 + classes) × anchors, where the
    first four rows are the center, width and height.
    """
    scores = output[4:].max(axis=0)
    kinds = output[4:].argmax(axis=0)
    kept: list[Detection] = []
    for anchor in np.argsort(-scores, kind="stable"):
        if not scores[anchor] >= MIN_SCORE:  # not-a-number ends here too
            break
        x, y, width, height = (float(number) for number in output[:4, anchor])
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if all(intersection_over_union(box, other.box) <= MAX_OVERLAP for other in kept):
            kept.append(Detection(int(kinds[anchor]), float(scores[anchor]), box))
    return kept


def count_matches(reference: Sequence[Detection], detections: Sequence[Detection]) -> int:
    """One to one, the best detection first, each to the expected box of its class that it overlaps most."""
    free = list(reference)
    for detection in detections:
        overlaps = [
            intersection_over_union(detection.box, other.box) if other.kind == detection.kind else 0.0 for other in free
        ]
        if overlaps and max(overlaps) >= SAME_BOX:
            free.pop(overlaps.index(max(overlaps)))
    return len(reference) - len(free)


def intersection_over_union(left: tuple[float, ...], right: tuple[float, ...]) -> float:
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    if not (width > 0 and height > 0):
        return 0.0
    common = width * height
    return common / (area(left) + area(right) - common)


def area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


# ── Noise, for networks without a task ────────────────────────────────────────────────────────────────────────────────


def signal_to_noise_db(original: Array, candidate: Array) -> float:
    """10·log₁₀ of the power of the original over the power of the difference; infinite where both are equal."""
    reference, difference = original.astype(np.float64), candidate.astype(np.float64) - original
    noise = float((difference**2).sum())
    return 10 * math.log10(float((reference**2).sum()) / noise) if noise else math.inf
