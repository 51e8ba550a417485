"""The one clock of the house: monotonic, so that a clock set right in the middle of a run changes no figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Nanoseconds since some fixed moment; never goes back. Tests pass one that they turn by hand."""

MONOTONIC: Final[Clock] = time.perf_counter_ns
