"""Samples: images as stages pass them on, and the record of which were used."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from deploykit.core.values.words import Arrays, Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Pixels: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""A decoded image, H×W×3, uint8, RGB; or a network input that was preprocessed elsewhere, 3×H×W, float32."""


class Sample(Value, frozen=True):
    """One image and its class."""

    name: str
    image: Pixels
    label: int | None = None


class TensorSample(Value, frozen=True):
    """Inputs of a network that takes no image, by name, without the batch axis."""

    name: str
    tensors: Arrays
    label: int | None = None


class Batch(NamedTuple):
    """Samples to run at once: inputs by name, each with a leading batch axis, and one label (or None) per sample."""

    inputs: Arrays
    labels: tuple[int | None, ...]


class DataRecord(Value, frozen=True):
    """Which samples were used. `real` is False for synthetic input, which proves less and says so."""

    name: str
    split: str
    count: int
    real: bool
    labelled: bool
    sha256: str
    """Digest of the decoded samples, in order."""
    seed: int = 0
    """What the choice among the split's samples was drawn with."""
    skipped: int = 0
    """Images that could not be decoded; others were drawn in their place, as far as the split had any."""
    constant: int = 0
    """How many of the samples are one colour all over: no range can be learnt from these."""


class SampleRecord(Value, frozen=True):
    """One sample of a receipt: equal digests are equal pixels, whatever the names and labels."""

    name: str
    sha256: str
    """Digest of its size and pixels."""
    constant: bool = False
    """Whether it is one colour all over."""
