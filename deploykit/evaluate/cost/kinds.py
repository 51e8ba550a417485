"""Which kind an output is: inferred from its shape and the reference's values, or as the user says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from deploykit.core.errors import InputError, UsageError, format_unknown
from deploykit.core.values import CLASSIFIER_HEADS, Head, OutputKind
from deploykit.evaluate.cost.box_geometry import find_box_format
from deploykit.evaluate.cost.detections import split_detections
from deploykit.evaluate.cost.embeddings import SMALLEST_EMBEDDING
from deploykit.evaluate.cost.figures import has_integers, sum_to_one

Array = NDArray[Any]

MANY_ANCHORS: Final = 4
"""A detector has at least so many anchors per part of one: 2100 anchors of 4 + 18, 8400 of 4 + 80."""

COHERENT: Final = 0.8
"""Share of neighbouring pixels that a segmentation gives the same class; the channels of features change more often."""

PEAKED: Final = 0.5
"""Median probability of the best token from which scores are logits over tokens: hidden states are not peaked."""

SHAPES: Final[Mapping[OutputKind, str]] = {
    "classes": "N×C or N×C×1×1 scores, or N chosen classes as integers",
    "map": "N×C×H×W or N×H×W with H and W above 1",
    "detections": "N×(4+C)×A or N×A×(4+C), boxes and scores of A anchors",
    "boxes": "N×A×4",
    "embedding": f"{SMALLEST_EMBEDDING} elements or more per sample",
    "scalar": "N or N×1",
    "sequence": "N×T×V scores over V tokens, or N×T chosen tokens as integers",
    "tensor": "any shape",
}
"""What each kind is made of."""


def resolve_kinds(reference: Mapping[str, Array], head: Head, said: Mapping[str, OutputKind]) -> dict[str, OutputKind]:
    """The kind of every output, by name: what the user says (`--output-kind NAME=KIND`), else what is inferred.

    InputError for a name that is not an output, and for a kind that the output's shape cannot be; UsageError for a kind
    that does not exist.
    """
    for name, kind in said.items():
        if kind not in get_args(OutputKind):
            raise UsageError(format_unknown("kind of output", kind, get_args(OutputKind)), "")
        if name not in reference:
            raise InputError(
                format_unknown("output", name, reference), f"The network's outputs are {', '.join(reference)}."
            )
        if not _fits_shape(kind, reference[name]):
            shape = "N" + "".join(f"×{size}" for size in reference[name].shape[1:])
            raise InputError(
                f"output {name!r} cannot be of the kind {kind}: its shape is {shape}, and {kind} needs {SHAPES[kind]}.",
                f"Give --output-kind {name}=tensor, or leave it out.",
            )
    return {name: said.get(name) or infer_kind(array, head) for name, array in reference.items()}


def infer_kind(reference: Array, head: Head) -> OutputKind:
    """The kind of an output from the network's head, its shape (sample axis first) and the reference's values.

    In this order; what the user knows better is said with `--output-kind NAME=KIND`:

        scalar       N or N×1. A single logit of a two-class network too: its error counts, not the side of zero.
        classes      N×C or N×C×1×1 of a classifier's head, or whose rows sum to 1. A second output of a classifier,
                     such as N×4 of one box, is taken for classes; logits of a network that takes no images are not.
        embedding    the embedding head, or rows of length 1, of 8 elements or more.
        map          N×C×H×W with one channel in [0, 1] or of both signs, with channels that sum to 1, or whose best
                     channel is mostly the same in neighbouring pixels. A depth map in [0, 1] is taken for a mask, a
                     residual of both signs too; several masks that do not sum to 1 for a tensor, since images look so.
        detections   N×(4+C)×A or N×A×(4+C) with many anchors, the first four parts boxes, the others in [0, 1]. Boxes
                     with class numbers (after suppression in the graph) and scores before their sigmoid are not.
        boxes        N×A×4 with positive widths and heights. Any four positive numbers per row look so.
        sequence     N×T×V whose rows sum to 1 (this comes before detections), or their logarithms or logits with a
                     clear best token. Attention weights sum to 1 as well; logits that are seldom sure are a tensor.
        tensor       anything else.

    Integers are chosen classes (N, N×1), tokens (N×T) or regions of classes (N×H×W, N×1×H×W); counts look the same.
    """
    if has_integers(reference):
        return _kind_of_integers(reference)
    elements = math.prod(reference.shape[1:])
    if elements == 1:
        return "scalar"
    if reference.ndim >= 2 and elements == reference.shape[1]:
        return _kind_of_vector(reference.reshape(len(reference), -1), head)
    if head == "embedding":
        return "embedding" if elements >= SMALLEST_EMBEDDING else "tensor"
    if reference.ndim == 4 and min(reference.shape[2:]) > 1:
        return "map" if _is_map(reference) else "tensor"
    if reference.ndim == 3:
        return _kind_of_rows(reference)
    return "tensor"


def _fits_shape(kind: OutputKind, array: Array) -> bool:
    """Whether an output of this shape can be measured as `kind`."""
    shape, elements, integers = array.shape, math.prod(array.shape[1:]), has_integers(array)
    if kind == "classes":
        return elements == 1 if integers else len(shape) >= 2 and elements == shape[1] > 1
    if kind == "map":
        return len(shape) in (3, 4) and min(shape[-2:]) > 1
    if kind == "detections":
        return len(shape) == 3 and min(shape[1:]) > 4
    if kind == "boxes":
        return len(shape) == 3 and shape[2] == 4
    if kind == "embedding":
        return elements >= SMALLEST_EMBEDDING
    if kind == "scalar":
        return elements == 1
    if kind == "sequence":
        return len(shape) == (2 if integers else 3)
    return True


def _kind_of_integers(reference: Array) -> OutputKind:
    if math.prod(reference.shape[1:]) == 1:
        return "classes"
    if reference.ndim == 2:
        return "sequence"
    one_channel = _fits_shape("map", reference) and math.prod(reference.shape[1:-2]) == 1
    return "map" if one_channel and _is_coherent(reference) else "tensor"


def _kind_of_vector(rows: Array, head: Head) -> OutputKind:
    """Of N×C, C above 1."""
    if head in CLASSIFIER_HEADS or sum_to_one(rows, 1):
        return "classes"
    if rows.shape[1] < SMALLEST_EMBEDDING:
        return "tensor"
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    return "embedding" if head == "embedding" or np.abs(lengths - 1).max() <= 1e-3 else "tensor"


def _is_map(reference: Array) -> bool:
    """Of N×C×H×W."""
    low, high = reference.min(), reference.max()
    if reference.shape[1] == 1:
        return bool(low < high and ((low >= 0 and high <= 1) or low < 0 < high))
    if sum_to_one(reference, 1):
        return True
    return bool(low < 0 < high and _is_coherent(reference.argmax(axis=1)))


def _is_coherent(classes: Array) -> bool:
    """Whether …×H×W are regions of classes: more than one, and mostly the same in neighbouring pixels."""
    same = (classes[..., 1:] == classes[..., :-1]).mean()
    return bool(same >= COHERENT and classes.min() != classes.max())


def _kind_of_rows(reference: Array) -> OutputKind:
    """Of N×A×B. Coordinates of pixels would look like logits with a clear best token, so that boxes come first."""
    if sum_to_one(reference, 2) and _varies_best(reference):
        return "sequence"
    if _are_detections(reference):
        return "detections"
    if reference.shape[2] == 4 and find_box_format(reference) is not None:
        return "boxes"
    return "sequence" if _are_token_logits(reference) else "tensor"


def _are_detections(reference: Array) -> bool:
    parts, anchors = sorted(reference.shape[1:])
    if parts <= 4 or anchors < MANY_ANCHORS * parts:
        return False
    split = split_detections(reference)
    in_range = split["scores"].min() >= 0 and split["scores"].max() <= 1
    return bool(in_range and find_box_format(split["boxes"]) is not None)


def _are_token_logits(reference: Array) -> bool:
    """Whether N×T×V holds logits over V tokens, or logarithms of probabilities: of both signs or negative, and mostly
    with a clear best token.
    """
    if reference.shape[2] < 2 or not _varies_best(reference):
        return False
    largest = reference.max(axis=2, keepdims=True)
    weights = np.exp(reference - largest).sum(axis=2)  # N×T: 1 / probability of the best token
    return bool(reference.min() < 0 and np.median(1 / weights) >= PEAKED)


def _varies_best(reference: Array) -> bool:
    """Whether not all rows of N×T×V have the same largest element, as hidden states with one huge dimension have."""
    best = reference.argmax(axis=2)
    return bool(best.min() != best.max())
