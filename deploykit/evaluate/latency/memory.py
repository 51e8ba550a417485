"""Peak memory of this process."""

from __future__ import annotations

import re
from pathlib import Path


def peak_memory_bytes() -> int:
    """The peak resident set size. getrusage may return the parent's instead: Linux inherits a larger value."""
    match = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
