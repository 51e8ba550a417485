"""Samples: images or tensors with labels, and the records of which were used."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from deploykit.core.values.base import Arrays, Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Pixels: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""A decoded image, H×W×3, uint8, RGB; or an already preprocessed network input, channels×H×W, float32."""


class Sample(Value, frozen=True):
    """One image and its label."""

    name: str
    image: Pixels
    label: int | None = None


class TensorSample(Value, frozen=True):
    """Inputs of a network without image input, by name, without the batch axis."""

    name: str
    tensors: Arrays
    label: int | None = None


class Batch(NamedTuple):
    """One batch: inputs by name, each with a leading batch axis, and one label (or None) per sample."""

    inputs: Arrays
    labels: tuple[int | None, ...]


class DataRecord(Value, frozen=True):
    """The samples that were used. `real` is False for synthetic samples, which prove less; reports say so."""

    name: str
    split: str
    count: int
    real: bool
    labelled: bool
    sha256: str
    """Digest of the decoded samples, in order."""
    seed: int = 0
    """Seed of the random choice among the split's samples."""
    skipped: int = 0
    """Number of images that could not be decoded; other samples of the split replaced them, if there were any."""
    constant: int = 0
    """Number of images of a single colour, which give no useful ranges."""


class SampleRecord(Value, frozen=True):
    """One sample of a receipt. Equal digests mean equal pixels, whatever the names and labels."""

    name: str
    sha256: str
    """Digest of size and pixels."""
    constant: bool = False
    """Whether the image has a single colour."""
