"""The logs of all steps in one file, since what may be brought back from a GPU machine is often few files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Final

NAME: Final = "logs.tar.gz"

LARGEST_LOG: Final = 2**20
"""Bytes of a log that are kept: its end."""


def archive_logs(logs: Path, output: Path) -> None:
    """Write the archive anew, as a whole."""
    partial = output / f"{NAME}.partial"
    with tarfile.open(partial, "w:gz") as archive:
        for log in sorted(logs.glob("*.log")):
            content = log.read_bytes()[-LARGEST_LOG:]  # it may grow meanwhile
            member = tarfile.TarInfo(f"logs/{log.name}")
            member.size, member.mtime = len(content), int(log.stat().st_mtime)
            archive.addfile(member, io.BytesIO(content))
    partial.replace(output / NAME)
