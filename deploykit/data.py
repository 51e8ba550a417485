"""Samples as a network takes them: decoded, preprocessed, in whole batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

import calibration
from deploykit import preprocess
from deploykit.errors import InputError
from deploykit.values import Batch, BatchRange, DataRecord, ModelSpec, SampleSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK: Final = 4
"""Samples run at once where the batch is free: enough to keep the cores busy, little enough for any memory."""


class Data(NamedTuple):
    """Samples of one split, in whole batches, with the record of what they are."""

    samples: SampleSet
    record: DataRecord
    size: int
    """Samples in a batch."""

    @property
    def length(self) -> int:
        """How many batches there are."""
        return self.record.count // self.size

    def batches(self, model: ModelSpec, advance: Callable[[], None] = lambda: None) -> Iterator[Batch]:
        """Network inputs, made as they are asked for; `advance` is called behind each batch."""
        for start in range(0, self.record.count, self.size):
            chunk = [self.samples[index] for index in range(start, start + self.size)]
            array = as_input([sample.image for sample in chunk], model)
            yield Batch({"input": array}, tuple(sample.label for sample in chunk))
            advance()


def open_data(name: str, purpose: Literal["calibration", "evaluation"], count: int, batch: BatchRange) -> Data:
    """`count` samples of the set's split for `purpose`, or all it has, in whole batches of a size that `batch` takes.

    `count` is rounded up to whole batches, or down where the set ends; what is used stands in the record.
    """
    found = calibration.open_set(name, calibration.split_for(name, purpose))
    size = min(max(CHUNK, batch.minimum), batch.maximum)
    wanted = min(math.ceil(count / size), len(found) // size) * size
    if wanted < 1:
        raise InputError(
            f"{name!r} has {len(found)} samples, and one batch of this graph takes {size}.",
            "Give more images, or a smaller --batch.",
        )
    chosen = calibration.subset(found, wanted)
    return Data(chosen, calibration.record(chosen), size)


def as_input(images: Sequence[NDArray[np.uint8]], model: ModelSpec) -> NDArray[Any]:
    """Decoded images as the graph takes them: cropped pixels where it normalises by itself, else planes."""
    if model.preprocess == "graph":
        return np.stack([preprocess.crop(image, model.preprocessing) for image in images])
    return preprocess.batch(images, model.preprocessing)
