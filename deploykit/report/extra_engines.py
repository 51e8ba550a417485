"""An engine beside the one that was judged, as text for a terminal: what it is, and what was and was not checked."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from deploykit.core.values import Beside, BuildRecord, Engine, Provenance
from deploykit.report import precision as precisions
from deploykit.report import terminal


def engine(found: Beside, precision: str) -> Group:
    """What was built and where, then its verdict, or why there is none."""
    parts = [head(found.engine)]
    if found.provenance is not None:
        parts[0].append(f"\n  on {machine(found.engine, found.provenance)}", style="none")
    if found.unchecked is not None:
        return Group(*parts, terminal.note(unchecked(found.engine, found.unchecked)))
    assert found.parity is not None
    parts.append(terminal.verdict(found.parity, precision))
    if found.receipt is not None:
        parts.append(precisions.executed(found.receipt))
    if found.latency is not None:
        parts.append(terminal.latency(found.latency))
    return Group(*parts)


def head(made: Engine) -> Text:
    """Library, file and size, and how it was compiled."""
    text = Text(f"{made.backend} {made.version}", "bold")
    text.append(f": {made.file.path}, {terminal.size(made.file.bytes)}", style="none")
    if made.build is not None:
        text.append(f"\n  {built(made.build)}", style="none")
    return text


def machine(made: Engine, at: Provenance) -> str:
    """`orin: Orin (nvgpu), driver 540.4.0, Linux 5.15.148-tegra aarch64, 6 cores`"""
    gpu, driver = (made.build.gpu, made.build.driver) if made.build is not None else (None, None)
    parts = (gpu, driver and f"driver {driver}", at.system, at.processor, f"{at.cores} cores")
    return f"{at.host}: {', '.join(part for part in parts if part)}"


def built(record: BuildRecord) -> str:
    """`built in 3.2 s for compute capability 8.0, 8.6, 8.9, 12.0 and later, batch 1 to 32`"""
    capabilities = ", ".join(f"{number // 10}.{number % 10}" for number in record.compute_capabilities)
    later = " and later" if record.open_ended else ""
    batch = record.options.batch
    sizes = f"{batch.minimum}" if batch.minimum == batch.maximum else f"{batch.minimum} to {batch.maximum}"
    return f"built in {record.seconds:.1f} s for compute capability {capabilities}{later}, batch {sizes}"


def unchecked(made: Engine, obstacle: str) -> str:
    """What no figure of a bundle says about an engine that was built and never run."""
    return (
        f"NVIDIA's compiler accepted the graph and built this engine; it was not run: {obstacle}. Its answers, its "
        f"arithmetic and its speed were not checked: on a machine that can run it, deploykit compile BUNDLE "
        f"--target {made.backend} does that"
    )
