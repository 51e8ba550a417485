"""The second half of every export: a raw graph is rewritten, held to the contract and written."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from deploykit.core import onnx_io
from deploykit.core.files import record
from deploykit.core.values import ExportedGraph, FileRecord, Origin, Rewrite, WeightsRecord
from deploykit.export import contract
from deploykit.export.opset import convert
from deploykit.export.passes import PASSES

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"

LARGEST_SINGLE_FILE = 2**31 - 2**20
"""Protobuf stops at 2 GiB; the graph around the weights gets a mebibyte. Anything larger uses external data."""


def finish(
    model: ir.Model,
    promise: contract.Promise,
    weights: WeightsRecord,
    origin: Origin,
    fallback: str | None,
    folder: Path,
) -> ExportedGraph:
    """Write `model` into `folder` once it keeps the promise."""
    model, rewrites = rewrite(model, promise.opset)
    contract.guarantee(model, promise)
    onnx_io.check(model)
    inputs, outputs = contract.interface(model)
    return ExportedGraph(
        files=write(model, folder),
        opset=promise.opset,
        exporter=origin,
        fallback=fallback,
        inputs=inputs,
        outputs=outputs,
        batch=promise.batch,
        rewrites=rewrites,
        initializer_bytes=contract.initializer_bytes(model),
        weights=weights,
    )


def rewrite(model: ir.Model, opset: int) -> tuple[ir.Model, tuple[Rewrite, ...]]:
    """Run every pass, check the graph behind each, then convert to the opset asked for."""
    interface = contract.interface(model)
    rewrites = []
    for apply in PASSES:
        rewrites.append(apply(model))
        contract.unbroken(model, interface, rewrites[-1].name)
    converted = convert(model, opset)
    contract.unbroken(converted, interface, f"conversion to opset {opset}")
    converted.ir_version = IR_VERSIONS[opset]
    converted.producer_name, converted.producer_version = "deploykit", None
    return converted, tuple(rewrites)


IR_VERSIONS = {**dict.fromkeys(range(17, 19), 8), 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The oldest IR version that holds each opset: old runtimes refuse files whose IR they do not know."""


def write(model: ir.Model, folder: Path) -> tuple[FileRecord, ...]:
    """Save as one file, or as a graph and its data where one file would pass Protobuf's 2 GiB."""
    folder.mkdir(parents=True, exist_ok=True)
    if contract.initializer_bytes(model) < LARGEST_SINGLE_FILE:
        onnx_io.save(model, folder / GRAPH_FILE)
        return (record(folder, GRAPH_FILE),)
    ir.save(model, folder / GRAPH_FILE, external_data=WEIGHTS_FILE)
    return (record(folder, GRAPH_FILE), record(folder, WEIGHTS_FILE))
