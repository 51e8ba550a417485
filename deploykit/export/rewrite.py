"""The second half of every export: runs the passes on a graph, checks the contract, saves the file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.files import record_file
from deploykit.core.values import ExportedGraph, FileRecord, Origin, Rewrite, WeightsRecord
from deploykit.export import contract
from deploykit.export.opset import convert_opset
from deploykit.export.passes import PASSES

GRAPH_FILE = "model.onnx"


def rewrite_and_save(
    model: ir.Model,
    terms: contract.Contract,
    weights: WeightsRecord,
    origin: Origin,
    fallback_reason: str | None,
    folder: Path,
) -> ExportedGraph:
    """Rewrite `model`, check that it satisfies `terms`, and save it in `folder`."""
    model, rewrites = run_passes(model, terms.opset)
    added_bytes = sum(rewrite.added_bytes for rewrite in rewrites)
    contract.check_contract(model, terms._replace(parameter_bytes=terms.parameter_bytes + added_bytes))
    onnx_io.check_model(model)
    inputs, outputs = contract.graph_interface(model)
    return ExportedGraph(
        files=save_graph(model, folder),
        opset=terms.opset,
        exporter=origin,
        fallback_reason=fallback_reason,
        inputs=inputs,
        outputs=outputs,
        batch=terms.batch,
        rewrites=rewrites,
        initializer_bytes=contract.initializer_bytes(model),
        weights=weights,
    )


def run_passes(model: ir.Model, opset: int) -> tuple[ir.Model, tuple[Rewrite, ...]]:
    """Run every pass, check the graph after each, then convert it to `opset`."""
    interface = contract.graph_interface(model)
    rewrites = []
    for apply in PASSES:
        rewrites.append(apply(model))
        contract.check_invariants(model, interface, rewrites[-1].name)
    converted = convert_opset(model, opset)
    contract.check_invariants(converted, interface, f"conversion to opset {opset}")
    converted.ir_version = IR_VERSIONS[opset]
    converted.producer_name, converted.producer_version = "deploykit", None
    return converted, tuple(rewrites)


IR_VERSIONS = {**dict.fromkeys(range(17, 19), 8), 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The oldest IR version that allows each opset: old runtimes refuse files of a newer IR version."""


def save_graph(model: ir.Model, folder: Path) -> tuple[FileRecord, ...]:
    """Save as one file, or as graph and external data where one file would exceed Protobuf's 2 GiB."""
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(record_file(folder, name) for name in onnx_io.save_model(model, folder / GRAPH_FILE))
