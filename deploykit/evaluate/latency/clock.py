"""The clock of all measurements: monotonic, so that a change of the system time does not affect them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Nanoseconds since a fixed moment; never decreases. Tests pass a simulated one."""

MONOTONIC: Final[Clock] = time.perf_counter_ns
