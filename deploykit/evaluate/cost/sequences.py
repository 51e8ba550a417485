"""Sequences of tokens: does the candidate read the same text?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.core.values import CostFigure
from deploykit.evaluate.cost.figures import Bound, has_integers, make_figure, make_share
from deploykit.evaluate.cost.intervals import wilson_interval

Array = NDArray[Any]

BOUNDS: Final = {
    "token error rate": Bound(
        0.5,
        "an INT8 recognizer that is worth shipping changes 1 to 10 % of the tokens; half of them is another text. It "
        "fails only where the whole interval is above",
    ),
    "token agreement": Bound(
        0.5,
        "most steps of a text are blank and agree by themselves: less than half, with the whole interval, is another "
        "text",
    ),
}


def measure_sequence(reference: Array, candidate: Array) -> list[CostFigure]:
    """Agreement of the best token per step, of N×T×V scores or N×T chosen tokens; and after CTC's collapse (repeats
    merged, blanks dropped) the token error rate, Σ edit distance / Σ length, and the share of equal sequences.

    The blank is the reference's most frequent best token, which is named as a figure: decoders put it first or last.
    The token error rate may exceed 1, where the candidate reads more than there is.
    """
    r, c = _best_tokens(reference), _best_tokens(candidate)  # N×T
    tokens, counts = np.unique(r, return_counts=True)
    blank = int(tokens[counts.argmax()])
    texts = [(_collapse_steps(one, blank), _collapse_steps(other, blank)) for one, other in zip(r, c, strict=True)]
    equal = np.array([one == other for one, other in texts])
    share = float(equal.mean())
    figures = [make_share("token agreement", (r == c).sum(axis=1), np.full(len(r), r.shape[1]))]
    lengths = np.array([len(one) for one, _ in texts])
    if lengths.any():
        distances = np.array([edit_distance(one, other) for one, other in texts])
        figures.append(_measure_error_rate(distances, lengths))
    return [
        *figures,
        CostFigure("equal sequences", share, *wilson_interval(share, len(equal)), "share"),
        make_figure("blank token", blank, ""),
    ]


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and replacements that turn one into the other."""
    row = list(range(len(second) + 1))
    for i, token in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (token != other))
    return row[-1]


def _measure_error_rate(distances: Array, lengths: Array) -> CostFigure:
    rate = float(distances.sum() / lengths.sum())
    if rate > 1:
        return make_figure("token error rate", rate, "share", lower_is_better=True)
    # A sample's distance may exceed its length; the interval takes shares of 1.
    interval = make_share("token error rate", np.minimum(distances, lengths), lengths, lower_is_better=True)
    assert interval.low is not None
    assert interval.high is not None
    return CostFigure(
        "token error rate", rate, min(rate, interval.low), max(rate, interval.high), "share", lower_is_better=True
    )


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
