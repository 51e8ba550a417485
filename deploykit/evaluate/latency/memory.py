"""The most memory that this process had at once."""

from __future__ import annotations

import re
from pathlib import Path


def peak_memory_bytes() -> int:
    """The largest resident set so far. getrusage would tell the parent's where that was larger: Linux hands it on."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
