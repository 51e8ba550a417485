"""Selection of samples that can be decoded, with its data record, in one pass over the pixels.

A damaged image is replaced by the next one in the seed's ranking, which is appended to the selection. Letting the count
shrink instead would cost a whole batch per damaged image where the graph's batch is fixed, and figures on "1000
samples" would be figures on 998. The ranking depends on the seed and the set's size alone, so every machine picks the
same replacements; the record counts the damaged images as `skipped`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from deploykit.core.calibration.image import UndecodableImage
from deploykit.core.calibration.lazy_dataset import LazyDataset
from deploykit.core.calibration.prefetch import prefetch_results
from deploykit.core.calibration.receipt import SampleTally, examine_sample
from deploykit.core.calibration.selection import check_count, select_indices
from deploykit.core.errors import InputError
from deploykit.core.values import DataRecord, Sample, SampleRecord, TensorSample

MAX_DAMAGED: Final = 0.01
"""Largest share of damaged samples among those requested. Large collections usually have a few broken downloads; more
than one in a hundred indicates another fault (a wrong folder, a full disk), so the rest may be the wrong data too."""

MAX_LISTED: Final = 3
"""Damaged images listed in an error message."""


class SampleSelection(NamedTuple):
    """The selected samples, their record, and one record per sample in the selection's order."""

    samples: LazyDataset
    record: DataRecord
    digests: tuple[SampleRecord, ...]


def select_samples(
    source: LazyDataset, count: int, seed: int = 0, multiple: int = 1, advance: Callable[[], None] = lambda: None
) -> SampleSelection:
    """Select `count` decodable samples of `source`, or as many as it has, in whole multiples of `multiple`.

    Every sample is decoded once, on several threads; `advance` is called after each valid one. InputError if more than
    `MAX_DAMAGED` of `count` are damaged, if no whole multiple is left, or if a sample is invalid in another way (a
    missing file, a NaN).
    """
    check_count(source, count)
    tally = SampleTally(multiple)
    valid_items: list[Any] = []
    damaged: list[str] = []
    tried: set[int] = set()
    indices = select_indices(range(len(source)), count, seed)
    while indices:
        tried.update(indices)
        items = [source.items[index] for index in indices]
        results = prefetch_results(partial(_decode_and_examine, source.load_sample), items)
        for item, result in zip(items, results, strict=True):
            if isinstance(result, str):
                damaged.append(result)
            else:
                tally.add_sample(*result)
                valid_items.append(item)
                advance()
        _check_damage(source, damaged, count)
        extended_count = min(len(tried) + count - len(valid_items), len(source))
        indices = [index for index in select_indices(range(len(source)), extended_count, seed) if index not in tried]
    usable = len(valid_items) // multiple * multiple
    if usable == 0:
        raise InputError(
            f"{source.name!r} has {len(valid_items)} valid samples, and {multiple} are needed.", "Give more images."
        )
    selection = replace(source, items=valid_items[:usable], seed=seed)
    return SampleSelection(selection, tally.create_record(selection, len(damaged)), tally.samples)


def _decode_and_examine(
    load_sample: Callable[[Any], Sample | TensorSample], item: Any
) -> tuple[Sample | TensorSample, SampleRecord] | str:
    """Load and examine one sample in a worker thread. A damaged image is returned as its error message, since it does
    not stop the work; any other error is raised. The exception itself would keep the file's content in memory.
    """
    try:
        sample = load_sample(item)
    except UndecodableImage as damage:
        return damage.what
    return sample, examine_sample(sample)


def _check_damage(source: LazyDataset, damaged: Sequence[str], count: int) -> None:
    if len(damaged) <= count * MAX_DAMAGED:
        return
    listed = " ".join(damaged[:MAX_LISTED])
    more = f" And {len(damaged) - MAX_LISTED} more." if len(damaged) > MAX_LISTED else ""
    raise InputError(
        f"{len(damaged)} of the {count} samples requested from {source.name!r} are damaged, more than "
        f"{MAX_DAMAGED:.0%}: {listed}{more}",
        "Replace or remove these files.",
    )
