"""The one kind of sample set: a list of items, and how one item becomes a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deploykit.core.values import Sample, TensorSample


@dataclass(frozen=True)
class LazySet:
    """Samples that are decoded when they are asked for, so that memory does not grow with the set."""

    name: str
    split: str
    real: bool
    classes: tuple[str, ...]
    items: Sequence[Any]
    """Whatever `make` needs for one sample: a path, a window, an index."""
    make: Callable[[Any], Sample | TensorSample]
    """Is called from several threads at once, and gives equal samples for equal items."""
    seed: int = 0
    """What these items were drawn with, where they are a subset."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample | TensorSample:
        return self.make(self.items[index])

    def __iter__(self) -> Iterator[Sample | TensorSample]:
        return map(self.make, self.items)
