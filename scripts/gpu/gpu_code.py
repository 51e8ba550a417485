"""Machine code for other GPUs, removed from a shared library so that it compresses well.

Headers and offsets stay as they are: the driver reads the entry of its own GPU only. Meant for ONNX Runtime's CUDA
provider (MIT license) on a test machine, not for anything that is distributed.
"""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

FATBIN_MAGIC: Final = 0xBA55ED50

MIB: Final = 2**20


class Entry(NamedTuple):
    """The code for one compute capability within a fat binary."""

    start: int
    length: int
    compute_capability: int


def blank_other_gpus(source: Path, destination: Path, compute_capability: int) -> str:
    """Copy a library with zeros in place of the code for every other GPU; returns what was removed and what stayed.

    A fat binary without code for `compute_capability` (90 for Hopper) stays whole. ValueError where no fat binary has
    any.
    """
    content = bytearray(source.read_bytes())
    blanked = remaining = 0
    for entries in read_fat_binaries(content, *find_fatbin_section(source)):
        if all(entry.compute_capability != compute_capability for entry in entries):
            continue
        for start, length, capability in entries:
            if capability == compute_capability:
                remaining += length
            else:
                content[start : start + length] = bytes(length)
                blanked += length
    if not remaining:
        raise ValueError(f"{source} has no machine code for compute capability {compute_capability}")
    destination.write_bytes(content)
    return f"{blanked / MIB:.1f} MiB of code for other GPUs blanked, {remaining / MIB:.1f} MiB left"


def find_fatbin_section(library: Path) -> tuple[int, int]:
    """Offset and size of the section .nv_fatbin, in bytes."""
    sections = subprocess.run(["readelf", "-SW", library], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\.nv_fatbin\s+PROGBITS\s+\S+\s+(\S+)\s+(\S+)", sections)
    if match is None:
        raise ValueError(f"{library} has no section .nv_fatbin")
    return int(match[1], 16), int(match[2], 16)


def read_fat_binaries(content: bytearray, offset: int, size: int) -> list[list[Entry]]:
    """The entries of every fat binary in the section."""
    binaries, position, end = [], offset, offset + size
    while position + 16 <= end:
        magic, _, header_size, length = struct.unpack_from("<IHHQ", content, position)
        if magic != FATBIN_MAGIC:
            position += 8
            continue
        binaries.append(read_entries(content, position + header_size, length))
        position += header_size + length
    return binaries


def read_entries(content: bytearray, offset: int, size: int) -> list[Entry]:
    entries, position = [], offset
    while position < offset + size:
        _kind, _version, header_size, length = struct.unpack_from("<HHIQ", content, position)
        (compute_capability,) = struct.unpack_from("<I", content, position + 28)
        entries.append(Entry(position + header_size, length, compute_capability))
        position += header_size + length
    return entries
