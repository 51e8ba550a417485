"""Leaves out the autocast contexts of a network's forward().

`torch.autocast(…, dtype=torch.bfloat16)` inside of forward() would make parts of the FP32 reference, and of the graph,
BF16. The precision of an export is chosen afterwards, and its cost measured against FP32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.amp.autocast_mode import autocast


@contextmanager
def ignore_autocast() -> Iterator[set[str]]:
    """Run networks without their autocast contexts; yields the names of the types that they ask for."""
    requested: set[str] = set()
    enter, leave = autocast.__enter__, autocast.__exit__

    def skip_entry(self: Any) -> Any:
        if self._enabled and self.fast_dtype is not None:
            requested.add(str(self.fast_dtype).removeprefix("torch."))
        return self

    with torch.autocast("cpu", enabled=False):
        autocast.__enter__ = skip_entry  # type: ignore[method-assign]
        autocast.__exit__ = lambda *_: None  # type: ignore[method-assign]
        try:
            yield requested
        finally:
            autocast.__enter__, autocast.__exit__ = enter, leave  # type: ignore[method-assign]
