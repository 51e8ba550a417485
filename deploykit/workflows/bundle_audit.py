"""Compare the graphs in a bundle with what they were made from: rounding may hide a damaged weight in the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from deploykit.backends import create_backend, is_installed
from deploykit.backends.form_audit import audit_form
from deploykit.bundle.manifest import Manifest
from deploykit.core.errors import BackendError, InputError
from deploykit.core.provenance import code_digest, list_libraries
from deploykit.core.values import Engine
from deploykit.quantize.conversion_audit import Int8Account, audit_conversion

EXPORTERS: Final = ("torch", "torchvision", "onnx", "onnx-ir", "onnxscript")
"""Libraries whose versions may change the names and the order of the exported nodes."""

NAMED_AT_MOST: Final = 3
"""Differences that are named; the others are counted."""


class Findings(NamedTuple):
    """What an audit found."""

    differences: tuple[str, ...] = ()
    """Failures, as sentences."""
    caveats: tuple[str, ...] = ()
    """Why differences, or their absence, prove nothing."""


def audit_precision_graph(folder: Path, manifest: Manifest, fp32_graph: Path) -> Findings:
    """Compare the graph of a bundle that is not FP32 with its FP32 graph, exported again.

    Where another deploykit or another exporter made the bundle, differences may be theirs: they are a caveat.
    """
    graph = manifest.graph
    account = None
    ranges = manifest.calibration or manifest.file_ranges
    if graph.placement is not None and graph.recipe is not None and ranges is not None:
        account = Int8Account(graph.placement, ranges.thresholds, graph.recipe)
    found = audit_conversion(fp32_graph, folder / graph.file, manifest.precision, account)
    differences = (*found.structure, *found.content)
    if not differences or (tool := _find_other_tool(manifest, structure=bool(found.structure))) is None:
        return Findings(_shorten(differences))
    return Findings(
        caveats=(
            f"the bundle was exported with {tool}, so that its graph was not compared with the FP32 graph that is "
            f"exported now: {differences[0]}",
        )
    )


def audit_engine_form(folder: Path, manifest: Manifest, engine: Engine) -> Findings:
    """Compare a backend's own form of the bundle's graph with the form that the backend derives from it now."""
    if not is_installed(engine.backend):
        return Findings(caveats=(f"{engine.backend}'s form was not compared with the graph: it is not installed",))
    backend = create_backend(engine.backend, manifest.request.build_options)
    other = f"{engine.backend} {engine.version}" if backend.version != engine.version else None
    if other is None and manifest.provenance.code_sha256 != code_digest():
        other = f"another deploykit ({manifest.provenance.deploykit})"
    try:
        differences = audit_form(backend, folder / manifest.graph.file, folder / engine.file.path)
    except (BackendError, InputError) as error:
        return Findings(caveats=(f"{engine.backend}'s form was not compared with the graph: {error.what}",))
    if not differences or other is None:
        return Findings(_shorten(differences))
    return Findings(
        caveats=(
            f"{engine.backend}'s form was written by {other}, so that it was not compared with the one that is written "
            f"now: {differences[0]}",
        )
    )


def _find_other_tool(manifest: Manifest, structure: bool) -> str | None:
    """What made the bundle and differs from what would make it now; None: nothing that could explain a difference.

    Another exporter may name nodes in another way, but a node of the same name has the same weights.
    """
    provenance = manifest.provenance
    if provenance.code_sha256 != code_digest():
        return f"another deploykit ({provenance.deploykit})"
    now = list_libraries()
    others = [name for name in EXPORTERS if provenance.libraries.get(name) != now.get(name)]
    return f"{others[0]} {provenance.libraries.get(others[0], '(none)')}" if structure and others else None


def _shorten(differences: tuple[str, ...]) -> tuple[str, ...]:
    more = len(differences) - NAMED_AT_MOST
    return differences if more <= 0 else (*differences[:NAMED_AT_MOST], f"and {more} more differences")
