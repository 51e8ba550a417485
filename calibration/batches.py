"""Batches of network inputs: samples decoded, preprocessed and stacked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from deploykit.core import calibration
from deploykit.core.calibration import preprocess
from deploykit.core.errors import InputError, UsageError
from deploykit.core.shapes import format_shape
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
"""Samples per batch where the batch size is dynamic: enough to keep the cores busy, few enough for any memory."""


class SampleBatches(NamedTuple):
    """Samples of one split in batches, with the record of the data."""

    samples: SampleSet
    record: DataRecord
    size: int
    """Samples per batch; the last batch may be smaller where the graph accepts that."""
    digests: tuple[SampleRecord, ...] = ()
    """One record per sample: `calibration.find_common_samples` compares two sets by them."""

    @property
    def length(self) -> int:
        """Number of batches."""
        return math.ceil(self.record.count / self.size)

    def first(self, count: int) -> SampleBatches:
        """The first samples: `count`, or all there are, in whole batches where there are more."""
        if self.record.count <= count:
            return self
        whole = max(count // self.size, 1) * self.size
        return self._replace(record=msgspec.structs.replace(self.record, count=whole), digests=self.digests[:whole])

    def batches(self, model: ModelSpec, advance: Callable[[], None] = lambda: None) -> Iterator[Batch]:
        """Iterate over batches of network inputs, prefetched a few samples ahead; `advance` is called per batch."""

        def load_inputs(index: int) -> tuple[Arrays, int | None]:
            sample = self.samples[index]
            if isinstance(sample, TensorSample):
                return sample.tensors, sample.label
            return {model.inputs[0]: _make_input(sample.image, model)}, sample.label

        stream = calibration.prefetch_results(load_inputs, range(self.record.count))
        while chunk := list(itertools.islice(stream, self.size)):
            arrays = {name: np.stack([inputs[name] for inputs, _ in chunk]) for name in model.inputs}
            yield Batch(arrays, tuple(label for _, label in chunk))
            advance()


def tensor_inputs(model: ModelSpec, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The graph's `inputs` where the network has no image preprocessing, and samples are tensors; else none."""
    return inputs if model.preprocessing is None else ()


def open_data(
    name: str | None,
    purpose: Literal["calibration", "evaluation"],
    count: int,
    batch: BatchRange,
    tensors: tuple[TensorSpec, ...] = (),
    *,
    seed: int = 0,
    reading: Callable[[int], AbstractContextManager[Callable[[], None]]] = lambda _: nullcontext(lambda: None),
    note: Callable[[str], object] = lambda _: None,
) -> SampleBatches:
    """Open `count` samples (or all there are) of the set's split for `purpose`, in batches of a size within `batch`.
    Without a name: photographs, or noise for a network with the tensor inputs `tensors` (see `tensor_inputs`).

    Where the graph does not accept single samples, `count` is rounded up to whole batches, or down at the end of the
    set; the record states the samples used, and `note` is called where they are fewer than `count`. `seed` determines
    the selection. All samples are decoded once for the record, within `reading`, which is given how many they are and
    yields a function to call after each: a progress step.

    InputError if the set cannot fill a batch, or if more than 1 % of the samples are damaged.
    """
    source = name or (calibration.NOISE if tensors else "photos")
    split = calibration.split_for(source, purpose)
    dataset = calibration.open_tensors(source, tensors, split) if tensors else calibration.open_set(source, split)
    for text in dataset.notes:
        note(text)
    size = max(min(CHUNK, batch.maximum, len(dataset)), batch.minimum)
    multiple = 1 if batch.minimum == 1 else size
    wanted = min(math.ceil(count / multiple), len(dataset) // multiple) * multiple
    if wanted < 1:
        raise InputError(
            f"{source!r} has {len(dataset)} samples, and one batch of this graph needs {size}.",
            "Give more images, or a smaller --batch.",
        )
    with reading(wanted) as advance:
        selection = calibration.select_samples(dataset, wanted, seed, multiple=multiple, advance=advance)
    record = selection.record
    if record.count < count:
        batches = f" in whole batches of {multiple}" if multiple > 1 else ""
        samples = "1 sample" if record.count == 1 else f"{record.count} samples"
        note(f"{record.name} has {samples}{batches}, fewer than the {count} requested.")
    return SampleBatches(selection.samples, record, size, selection.digests)


def require_known_data(name: str | None) -> None:
    """Raise InputError for a name that is neither a set nor an existing path; a check before long work begins."""
    if name is not None and name not in calibration.SETS and calibration.list_files(name) is None:
        calibration.open_set(name)


def make_inputs(images: Sequence[Pixels], model: ModelSpec) -> NDArray[Any]:
    """Convert images to the graph's input: cropped pixels where the graph normalises by itself, else normalised planes.

    H×W×3 uint8 of any size -> N×height×width×3 uint8, or float32 in the network's axis order. Float32 planes are
    already preprocessed: they are passed through if they are channels×height×width and the graph takes planes, else
    refused.
    """
    return np.stack([_make_input(image, model) for image in images])


def _make_input(image: Pixels, model: ModelSpec) -> NDArray[Any]:
    if model.preprocessing is None:
        raise UsageError(
            f"{model.name} was exported without image preprocessing.",
            "Export it with --mean and --std (and --scale, --channels), or pass its input tensors directly.",
        )
    if image.dtype == np.float32:
        _check_planes(image, model)
        return image.transpose(1, 2, 0) if model.preprocessing.layout == "NHWC" else image
    pixels: Any = image
    if model.preprocess_in == "graph":
        return preprocess.crop_image(pixels, model.preprocessing)
    return preprocess.preprocess_image(pixels, model.preprocessing)


def _check_planes(planes: Pixels, model: ModelSpec) -> None:
    if model.preprocess_in == "graph":
        raise InputError(
            f"the samples are already preprocessed, and this graph of {model.name} normalises pixels by itself.",
            "Give uint8 images, or export with --preprocess-in host.",
        )
    assert model.preprocessing is not None
    expected = (model.preprocessing.channel_count, model.preprocessing.height, model.preprocessing.width)
    if planes.shape != expected:
        raise InputError(
            f"the samples are preprocessed to {format_shape(planes.shape)}, and {model.name} takes "
            f"{format_shape(expected)}.",
            "Preprocess them to that size, or export with --input-size set to theirs.",
        )
