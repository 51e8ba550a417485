"""Samples as a network takes them: decoded, preprocessed, in whole batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

import calibration
from deploykit import preprocess
from deploykit.errors import InputError
from deploykit.values import Batch, BatchRange, DataRecord, ModelSpec, Pixels, SampleRecord, SampleSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK: Final = 4
"""Samples run at once where the batch is free: enough to keep the cores busy, little enough for any memory."""


class Data(NamedTuple):
    """Samples of one split, in batches, with the record of what they are."""

    samples: SampleSet
    record: DataRecord
    size: int
    """Samples in a batch, but for the last one where the graph takes fewer."""
    digests: tuple[SampleRecord, ...] = ()
    """The record sample by sample: two of these show whether the sets share an image, see `calibration.common`."""

    @property
    def length(self) -> int:
        """How many batches there are."""
        return math.ceil(self.record.count / self.size)

    def batches(self, model: ModelSpec, advance: Callable[[], None] = lambda: None) -> Iterator[Batch]:
        """Network inputs, made as they are asked for and a few samples ahead; `advance` is called behind each batch."""

        def made(index: int) -> tuple[NDArray[Any], int | None]:
            sample = self.samples[index]
            return _input(sample.image, model), sample.label

        stream = calibration.ahead(made, range(self.record.count))
        while chunk := list(itertools.islice(stream, self.size)):
            array = np.stack([one for one, _ in chunk])
            yield Batch({"input": array}, tuple(label for _, label in chunk))
            advance()


def open_data(
    name: str,
    purpose: Literal["calibration", "evaluation"],
    count: int,
    batch: BatchRange,
    *,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Data:
    """`count` samples of the set's split for `purpose`, or all it has, in batches of a size that `batch` takes.

    Where the graph takes no single sample, `count` is rounded up to whole batches, or down where the set ends; what is
    used stands in the record. Which samples
    are used follows from `seed`. All are decoded once for the record; `advance` is called behind each.

    InputError where the set cannot fill a batch, or where more than 1 % of the samples are damaged.
    """
    found = calibration.open_set(name, calibration.split_for(name, purpose))
    size = max(min(CHUNK, batch.maximum, len(found)), batch.minimum)
    multiple = 1 if batch.minimum == 1 else size
    wanted = min(math.ceil(count / multiple), len(found) // multiple) * multiple
    if wanted < 1:
        raise InputError(
            f"{name!r} has {len(found)} samples, and one batch of this graph takes {size}.",
            "Give more images, or a smaller --batch.",
        )
    taken = calibration.take(found, wanted, seed, multiple=multiple, advance=advance)
    return Data(taken.samples, taken.record, size, taken.digests)


def as_input(images: Sequence[Pixels], model: ModelSpec) -> NDArray[Any]:
    """Images as the graph takes them: cropped pixels where it normalises by itself, else planes.

    H×W×3 uint8 of any sizes -> N×height×width×3 uint8 or N×3×height×width float32. Float32 planes are inputs already:
    they pass untouched where they are 3×height×width and the graph takes such, and are refused where not.
    """
    return np.stack([_input(image, model) for image in images])


def _input(image: Pixels, model: ModelSpec) -> NDArray[Any]:
    if image.dtype == np.float32:
        _check_planes(image, model)
        return image
    pixels: Any = image
    if model.preprocess == "graph":
        return preprocess.crop(pixels, model.preprocessing)
    return preprocess.preprocess(pixels, model.preprocessing)


def _check_planes(planes: Pixels, model: ModelSpec) -> None:
    if model.preprocess == "graph":
        raise InputError(
            f"the samples are preprocessed already, and this graph of {model.name} normalises pixels by itself.",
            "Give uint8 images, or export with --preprocess host.",
        )
    expected = (3, model.preprocessing.height, model.preprocessing.width)
    if planes.shape != expected:
        raise InputError(
            f"the samples are preprocessed to {'×'.join(map(str, planes.shape))}, and {model.name} takes "
            f"{'×'.join(map(str, expected))}.",
            "Preprocess them to that size, or export with the --input-size that they have.",
        )
