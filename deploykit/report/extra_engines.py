"""An additional engine of a bundle as text for a terminal: what it is, and what was and was not checked."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from deploykit.core.values import BuildRecord, Engine, Manifest, Provenance, SecondaryEngine
from deploykit.report import precision as precisions
from deploykit.report import terminal
from deploykit.report.bundle_document import engine_bytes
from deploykit.report.formatting import fill_bundle_path, format_bytes, format_path


def render_engine(
    secondary: SecondaryEngine, manifest: Manifest, folder: Path, printed_caveats: tuple[str, ...] = ()
) -> Group:
    """An engine of the bundle in `folder` and where it was built, then its verdict or why it was not run. Caveats that
    were printed with the primary engine are not repeated.
    """
    precision = manifest.precision
    heading = engine_heading(secondary.engine, engine_bytes(manifest, secondary.engine))
    if secondary.provenance is not None:
        heading.append(f"\n  on {describe_machine(secondary.engine, secondary.provenance)}", style="none")
    parts: list[RenderableType] = [heading]
    if secondary.not_run_reason is not None:
        caveat = describe_not_run(secondary.engine, secondary.not_run_reason)
        return Group(heading, terminal.render_note(fill_bundle_path(caveat, format_path(folder))))
    assert secondary.parity is not None
    caveats = tuple(caveat for caveat in secondary.parity.caveats if caveat not in printed_caveats)
    parity = msgspec.structs.replace(secondary.parity, caveats=caveats)
    receipt_failures = secondary.receipt.failures if secondary.receipt is not None else ()
    parts.append(terminal.render_verdict(parity, precision, folder, secondary.receipt, receipt_failures))
    if secondary.receipt is not None:
        parts.append(precisions.render_executed(secondary.receipt))
    if secondary.latency is not None:
        parts.append(terminal.render_latency(secondary.latency))
    if secondary.fp32_latency is not None:
        parts.append(terminal.render_speedup(secondary.fp32_latency, precision, secondary.engine.backend))
    return Group(*parts)


def engine_heading(engine: Engine, size_bytes: int) -> Text:
    """Library, file and size, and how the engine was compiled. `size_bytes` includes external weights."""
    text = Text(f"{engine.backend} {engine.version}", "bold")
    text.append(f": {engine.file.path}, {format_bytes(size_bytes)}", style="none")
    if engine.build is not None:
        text.append(f"\n  {describe_build(engine.build)}", style="none")
    return text


def describe_machine(engine: Engine, provenance: Provenance) -> str:
    """`orin: Orin (nvgpu), driver 540.4.0, Linux 5.15.148-tegra aarch64, 6 cores`"""
    gpu, driver = (engine.build.gpu, engine.build.driver) if engine.build is not None else (None, None)
    parts = (gpu, driver and f"driver {driver}", provenance.system, provenance.processor, f"{provenance.cores} cores")
    return f"{provenance.host}: {', '.join(part for part in parts if part)}"


def describe_build(record: BuildRecord) -> str:
    """`built in 3.2 s for compute capability 8.0, 8.6, 8.9, 12.0 and later, batch 1 to 32`"""
    capabilities = ", ".join(f"{number // 10}.{number % 10}" for number in record.compute_capabilities)
    later = " and later" if record.open_ended else ""
    batch = record.options.batch
    sizes = f"{batch.minimum}" if batch.minimum == batch.maximum else f"{batch.minimum} to {batch.maximum}"
    return f"built in {record.seconds:.1f} s for compute capability {capabilities}{later}, batch {sizes}"


def describe_not_run(engine: Engine, reason: str) -> str:
    """Why an engine was built but not run, and the command that runs it."""
    return (
        "NVIDIA's compiler accepted the graph and built this engine; it was not run: "
        f"{reason.rstrip('.')}. Its outputs, executed precision and latency were not checked; on a machine that can "
        f"run it: deploykit compile BUNDLE --target {engine.backend}"
    )
