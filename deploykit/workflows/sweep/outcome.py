"""What became of a cell, as a value: from the bundle that it left, or from what kept it from one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from deploykit.bundle import manifest as manifests
from deploykit.core.provenance import code_digest, libraries
from deploykit.core.values import Manifest, Provenance
from deploykit.core.values.sweeps import Attempt, Cell, CellFigures, CellResult
from deploykit.report.bundle_document import worst_snr


class Job(NamedTuple):
    """A cell that is to be made."""

    cell: Cell
    key: str
    """Digest of all that it says and names."""

    def execution(self) -> str:
        """A name for one more attempt."""
        return f"{self.key[:12]}-{secrets.token_hex(6)}"


def made(job: Job, bundle: Path, attempts: tuple[Attempt, ...]) -> CellResult:
    """Of a cell whose bundle lies there."""
    manifest = manifests.read(bundle)
    return CellResult(
        job.cell,
        job.key,
        "marked" if manifest.failures else "passed",
        "; ".join(manifest.failures) or None,
        manifest.key,
        _figures(manifest),
        attempts,
        tuple(_differences(manifest.provenance)),
    )


def failed(job: Job, why: str, attempts: tuple[Attempt, ...]) -> CellResult:
    """Of a cell that has no bundle."""
    return CellResult(job.cell, job.key, "failed", why, attempts=attempts)


def _figures(manifest: Manifest) -> CellFigures:
    outputs, latency = manifest.parity.outputs, manifest.latency
    agreements = [output.top1_agreement for output in outputs if output.top1_agreement is not None]
    return CellFigures(
        worst_snr(outputs),
        min(agreements, default=None),
        latency.p50_ms if latency is not None else None,
        latency.batch if latency is not None else None,
    )


def _differences(there: Provenance) -> Iterator[str]:
    """How the installation that made a bundle differs from this one: the same cell made here had another key."""
    if there.code_sha256 != code_digest():
        yield f"made on {there.host} by a deploykit {there.deploykit} whose code differs from this machine's"
    if differing := list(_differing(libraries(), there.libraries)):
        yield f"made on {there.host} with other libraries: {', '.join(differing)}"


def _differing(here: Mapping[str, str], there: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            yield f"{name} {there.get(name, 'missing')} (here {here.get(name, 'missing')})"
