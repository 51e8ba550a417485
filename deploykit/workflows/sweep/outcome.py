"""Result of a cell as a value, from its bundle or its error."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from deploykit.bundle import manifest as manifests
from deploykit.core.provenance import code_digest, list_libraries
from deploykit.core.values import Manifest, Provenance
from deploykit.core.values.sweeps import Attempt, Cell, CellFigures, CellResult


class Job(NamedTuple):
    """A cell to run."""

    cell: Cell
    key: str
    """Digest of the cell's inputs, see `compute_cell_key`."""

    def create_execution_id(self) -> str:
        """Create a unique name for an attempt."""
        return f"{self.key[:12]}-{secrets.token_hex(6)}"


def create_finished_result(job: Job, bundle: Path, attempts: tuple[Attempt, ...]) -> CellResult:
    """Create the result of a cell with a bundle."""
    manifest = manifests.read_manifest(bundle)
    return CellResult(
        job.cell,
        job.key,
        "marked" if manifest.failures else "passed",
        "; ".join(manifest.failures) or None,
        manifest.key,
        _extract_figures(manifest),
        attempts,
        tuple(_list_installation_differences(manifest.provenance)),
    )


def create_failed_result(job: Job, reason: str, attempts: tuple[Attempt, ...]) -> CellResult:
    """Create the result of a cell without a bundle."""
    return CellResult(job.cell, job.key, "failed", reason, attempts=attempts)


def _extract_figures(manifest: Manifest) -> CellFigures:
    outputs, latency = manifest.parity.outputs, manifest.latency
    agreements = [output.top1_agreement for output in outputs if output.top1_agreement is not None]
    return CellFigures(
        manifest.parity.worst_snr_db,
        min(agreements, default=None),
        latency.p50_ms if latency is not None else None,
        latency.batch if latency is not None else None,
    )


def _list_installation_differences(there: Provenance) -> Iterator[str]:
    """List the differences between the installation that made a bundle and this one, which would use another key."""
    if there.code_sha256 != code_digest():
        yield f"made on {there.host} by a deploykit {there.deploykit} whose code differs from this machine's"
    if differing := list(_format_difference(list_libraries(), there.libraries)):
        yield f"made on {there.host} with other libraries: {', '.join(differing)}"


def _format_difference(here: Mapping[str, str], there: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            yield f"{name} {there.get(name, 'missing')} (here {here.get(name, 'missing')})"
