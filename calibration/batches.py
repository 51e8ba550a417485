"""Samples as a network takes them: decoded, preprocessed, in whole batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from deploykit.core import calibration
from deploykit.core.calibration import preprocess
from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import (
    Arrays,
    Batch,
    BatchRange,
    DataRecord,
    ModelSpec,
    Pixels,
    SampleRecord,
    SampleSet,
    TensorSample,
    TensorSpec,
)

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

        def made(index: int) -> tuple[Arrays, int | None]:
            sample = self.samples[index]
            if isinstance(sample, TensorSample):
                return sample.tensors, sample.label
            return {model.inputs[0]: _input(sample.image, model)}, sample.label

        stream = calibration.ahead(made, range(self.record.count))
        while chunk := list(itertools.islice(stream, self.size)):
            arrays = {name: np.stack([one[name] for one, _ in chunk]) for name in model.inputs}
            yield Batch(arrays, tuple(label for _, label in chunk))
            advance()


def tensors(model: ModelSpec, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The graph's `inputs` where samples are given as they are; none where they are made of images."""
    return inputs if model.preprocessing is None else ()


def open_data(
    name: str | None,
    purpose: Literal["calibration", "evaluation"],
    count: int,
    batch: BatchRange,
    taken: tuple[TensorSpec, ...] = (),
    *,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Data:
    """`count` samples of the set's split for `purpose`, or all it has, in batches of a size that `batch` takes. Without
    a name: photographs, or noise for a network whose inputs are `taken` as they are.

    Where the graph takes no single sample, `count` is rounded up to whole batches, or down where the set ends; what is
    used stands in the record. Which samples are used follows from `seed`. All are decoded once for the record;
    `advance` is called behind each.

    InputError where the set cannot fill a batch, or where more than 1 % of the samples are damaged.
    """
    named = name or (calibration.NOISE if taken else "photos")
    found = (
        calibration.open_tensors(named, taken, calibration.split_for(named, purpose))
        if taken
        else calibration.open_set(named, calibration.split_for(named, purpose))
    )
    size = max(min(CHUNK, batch.maximum, len(found)), batch.minimum)
    multiple = 1 if batch.minimum == 1 else size
    wanted = min(math.ceil(count / multiple), len(found) // multiple) * multiple
    if wanted < 1:
        raise InputError(
            f"{named!r} has {len(found)} samples, and one batch of this graph takes {size}.",
            "Give more images, or a smaller --batch.",
        )
    chosen = calibration.take(found, wanted, seed, multiple=multiple, advance=advance)
    return Data(chosen.samples, chosen.record, size, chosen.digests)


def known(name: str | None) -> None:
    """InputError where neither a set has that name nor anything lies there: asked before long work begins."""
    if name is not None and name not in calibration.SETS and calibration.files(name) is None:
        calibration.open_set(name)


def as_input(images: Sequence[Pixels], model: ModelSpec) -> NDArray[Any]:
    """Images as the graph takes them: cropped pixels where it normalises by itself, else planes.

    H×W×3 uint8 of any sizes -> N×height×width×3 uint8, or float32 in the order of axes that the network wants. Float32
    planes are inputs already: they pass where they are 3×height×width and the graph takes such, and are refused where
    not.
    """
    return np.stack([_input(image, model) for image in images])


def _input(image: Pixels, model: ModelSpec) -> NDArray[Any]:
    if model.preprocessing is None:
        raise UsageError(
            f"how images become inputs of {model.name} was not said when it was exported.",
            "Export it with --mean and --std (and --scale, --channels), or give its inputs as they are.",
        )
    if image.dtype == np.float32:
        _check_planes(image, model)
        return image.transpose(1, 2, 0) if model.preprocessing.layout == "NHWC" else image
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
    assert model.preprocessing is not None
    expected = (3, model.preprocessing.height, model.preprocessing.width)
    if planes.shape != expected:
        raise InputError(
            f"the samples are preprocessed to {'×'.join(map(str, planes.shape))}, and {model.name} takes "
            f"{'×'.join(map(str, expected))}.",
            "Preprocess them to that size, or export with the --input-size that they have.",
        )
