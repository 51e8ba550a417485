"""The sample set that all loaders return: a list of items, and the function that loads one item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deploykit.core.values import Sample, TensorSample


@dataclass(frozen=True)
class LazyDataset:
    """Samples that are decoded on access, so that memory does not grow with the set."""

    name: str
    split: str
    real: bool
    classes: tuple[str, ...]
    items: Sequence[Any]
    """The arguments of `load_sample`, one per sample: a path, a window, an index."""
    load_sample: Callable[[Any], Sample | TensorSample]
    """Called from several threads at once; returns equal samples for equal items."""
    seed: int = 0
    """The seed that selected these items, if they are a subset."""
    notes: tuple[str, ...] = ()
    """What the source has besides these samples, as sentences for the user."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample | TensorSample:
        return self.load_sample(self.items[index])

    def __iter__(self) -> Iterator[Sample | TensorSample]:
        return map(self.load_sample, self.items)
