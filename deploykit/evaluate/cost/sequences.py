"""Sequences of tokens: does the candidate read the same text?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost.figures import Bound, has_integers, make_figure, make_share, sum_to_one
from deploykit.evaluate.cost.intervals import wilson_interval

Array = NDArray[Any]

READABLE: Final = 0.5
"""Mean probability of a sample's tokens below which its text is a guess, and is not compared: text recognizers read
something on every image, and applications drop it below that score."""

BOUNDS: Final = {
    "normalized edit distance": Bound(
        0.3,
        "an INT8 recognizer that is worth shipping changes 1 to 15 % of the tokens, and one with a fault more than "
        "half; it fails only where the whole interval is above",
    ),
    "token agreement": Bound(
        0.5,
        "most steps of a text are blank and agree by themselves: less than half, with the whole interval, is another "
        "text",
    ),
}


def measure_sequence(reference: Array, candidate: Array) -> list[CostFigure]:
    """Agreement of the best token per step, of N×T×V scores or N×T chosen tokens; and after CTC's collapse (repeats
    merged, blanks dropped), over the samples whose text the reference is sure of, the edit distance normalized as in
    OCR competitions, Σ distance / Σ length of the longer one, and the share of equal sequences.

    The blank is the reference's most frequent best token, which is named as a figure: decoders put it first or last.
    """
    r, c = _best_tokens(reference), _best_tokens(candidate)  # N×T
    tokens, counts = np.unique(r, return_counts=True)
    blank = int(tokens[counts.argmax()])
    figures = [make_share("token agreement", (r == c).sum(axis=1), np.full(len(r), r.shape[1]))]
    readable = _find_readable(reference, r != blank)
    texts = [(_collapse_steps(r[row], blank), _collapse_steps(c[row], blank)) for row in np.flatnonzero(readable)]
    if texts:
        distances = np.array([edit_distance(*pair) for pair in texts])
        lengths = np.array([max(map(len, pair)) for pair in texts])
        equal = float((distances == 0).mean())
        figures += [
            make_share("normalized edit distance", distances, lengths, lower_is_better=True),
            CostFigure("equal sequences", equal, *wilson_interval(equal, len(texts)), "share"),
        ]
    return [*figures, make_figure("samples with text", len(texts), ""), make_figure("blank token", blank, "")]


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and replacements that turn one into the other."""
    row = list(range(len(second) + 1))
    for i, token in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (token != other))
    return row[-1]


def _find_readable(reference: Array, written: Array) -> Array:
    """Which of N samples have text, `written` saying of N×T what is not blank, whose tokens have a mean probability of
    a half or more; chosen tokens are sure.
    """
    steps: Array = written.sum(axis=1)
    if has_integers(reference):
        return np.greater(steps, 0)
    largest = reference.max(axis=2)  # N×T
    if not sum_to_one(reference, 2):  # logits, or logarithms of probabilities, whose softmax they are
        largest = 1 / np.exp(reference - largest[..., None]).sum(axis=2)
    sure: Array = (largest * written).sum(axis=1) >= READABLE * steps
    return sure & (steps > 0)


def _best_tokens(array: Array) -> Array:
    """N×T tokens."""
    if has_integers(array):
        return array.reshape(len(array), -1)
    tokens: Array = array.argmax(axis=-1)
    return tokens


def _collapse_steps(tokens: Array, blank: int) -> list[int]:
    """The text of one sample's T best tokens: a token per run, without blanks (A. Graves et al., ICML 2006)."""
    starts = np.append(True, tokens[1:] != tokens[:-1])
    return [int(token) for token in tokens[starts] if token != blank]
