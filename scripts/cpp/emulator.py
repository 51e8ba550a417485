"""Runs programs for 64-bit ARM in qemu-user, with the /proc/cpuinfo of an ARM processor.

qemu-user shows this machine's own /proc/cpuinfo, which describes no ARM processor; ONNX Runtime's processor detection,
which runs while it is loaded, then dereferences a null pointer. Files in the folder given with -L replace the
machine's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LIBRARIES: Final = Path("/usr/aarch64-linux-gnu/lib")
"""The C and C++ libraries of Debian's cross compiler for ARM."""

PROCESSOR: Final = """processor\t: {number}
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd07
CPU revision\t: 0

"""
"""A Cortex-A57, the processor of the first 64-bit Jetson; every later one supports its instructions. It has no FP16
arithmetic, so that FP16 graphs are computed in FP32, as on x86-64. By default, qemu-user is a processor with every
extension that it knows, and emulates the widest of them so slowly that a second becomes minutes.
"""


def prepare_emulator(folder: Path) -> tuple[str, ...]:
    """The command that runs a program emulated. `folder` becomes the root of an ARM system."""
    (folder / "proc").mkdir(parents=True, exist_ok=True)
    processors = "".join(PROCESSOR.format(number=number) for number in range(os.cpu_count() or 1))
    (folder / "proc/cpuinfo").write_text(processors, encoding="utf-8")
    if not (folder / "lib").is_symlink():
        (folder / "lib").symlink_to(LIBRARIES)
    return "qemu-aarch64", "-cpu", "cortex-a57", "-L", str(folder)
