"""A choice of samples that can all be decoded, with its receipt, in one pass over the pixels.

Where an image is damaged, the next in the seed's ranking is taken in its place and stands at the end of the choice.
The alternative, to let the count shrink, would cost a whole batch for one damaged image wherever the graph's batch is
fixed, and would make figures on "1000 samples" figures on 998. The ranking is a function of the seed and the set's size
alone, so every machine replaces alike; the damage stays visible in the receipt's `skipped`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from deploykit.core.calibration.image import Undecodable
from deploykit.core.calibration.lazy_dataset import LazySet
from deploykit.core.calibration.prefetch import ahead
from deploykit.core.calibration.receipt import Tally, examine
from deploykit.core.calibration.selection import check_count, draw
from deploykit.core.errors import InputError
from deploykit.core.values import DataRecord, Sample, SampleRecord, TensorSample

MAX_DAMAGED: Final = 0.01
"""Share of the samples asked for that may be damaged. A few broken downloads are usual in large collections; more than
one in a hundred is another fault (a wrong folder, a full disk), and what is left may not be what it is taken for."""

SHOWN: Final = 3
"""Damaged images that a refusal names."""


class Taken(NamedTuple):
    """The choice, its receipt, and the same sample by sample, in the choice's order."""

    samples: LazySet
    record: DataRecord
    digests: tuple[SampleRecord, ...]


def take(
    source: LazySet, count: int, seed: int = 0, multiple: int = 1, advance: Callable[[], None] = lambda: None
) -> Taken:
    """`count` samples of `source` that can be decoded, or as many as it has, in whole multiples of `multiple`.

    Every sample is decoded once, on several threads; `advance` is called behind each one that is good. InputError where
    more than `MAX_DAMAGED` of `count` are damaged, where no whole multiple is left, or where a sample is at fault in
    another way (a missing file, a NaN).
    """
    check_count(source, count)
    tally = Tally(multiple)
    kept: list[Any] = []
    damaged: list[str] = []
    tried: set[int] = set()
    due = draw(range(len(source)), count, seed)
    while due:
        tried.update(due)
        items = [source.items[index] for index in due]
        for item, found in zip(items, ahead(partial(_examined, source.make), items), strict=True):
            if isinstance(found, str):
                damaged.append(found)
            else:
                tally.add(*found)
                kept.append(item)
                advance()
        _check_damage(source, damaged, count)
        further = min(len(tried) + count - len(kept), len(source))
        due = [index for index in draw(range(len(source)), further, seed) if index not in tried]
    whole = len(kept) // multiple * multiple
    if whole == 0:
        raise InputError(f"{source.name!r} has {len(kept)} good samples, and {multiple} are needed.", "Give more.")
    chosen = replace(source, items=kept[:whole], seed=seed)
    return Taken(chosen, tally.record(chosen, len(damaged)), tally.samples)


def _examined(
    make: Callable[[Any], Sample | TensorSample], item: Any
) -> tuple[Sample | TensorSample, SampleRecord] | str:
    """What a thread does. Damage is a result, for it does not end the work; any other error does. Of damage the words
    are kept: the exception itself would hold on to the file's content.
    """
    try:
        sample = make(item)
    except Undecodable as damage:
        return damage.what
    return sample, examine(sample)


def _check_damage(source: LazySet, damaged: Sequence[str], count: int) -> None:
    if len(damaged) <= count * MAX_DAMAGED:
        return
    named = " ".join(damaged[:SHOWN])
    more = f" And {len(damaged) - SHOWN} more." if len(damaged) > SHOWN else ""
    raise InputError(
        f"{len(damaged)} of the {count} samples asked of {source.name!r} are damaged, more than {MAX_DAMAGED:.0%}: "
        f"{named}{more}",
        "Replace these files or take them out.",
    )
