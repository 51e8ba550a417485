"""The export stage: a served module becomes an ONNX file that keeps the contract."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from deploykit import onnxfile
from deploykit.errors import InputError
from deploykit.export import contract
from deploykit.export.opset import OPSETS, convert
from deploykit.export.passes import PASSES
from deploykit.export.prepare import Served, fold_batchnorm
from deploykit.export.trace import Traced, trace
from deploykit.files import record
from deploykit.values import ExportedGraph, ExportOptions, FileRecord, ModelSpec, Rewrite, WeightsRecord

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"

LARGEST_SINGLE_FILE = 2**31 - 2**20
"""Protobuf stops at 2 GiB; the graph around the weights gets a mebibyte. Anything larger uses external data."""


def export(
    module: Served,
    spec: ModelSpec,
    options: ExportOptions,
    weights: WeightsRecord,
    training_only: tuple[str, ...],
    folder: Path,
) -> ExportedGraph:
    """Write `module` as ONNX into `folder`, in FP32.

    Input: `input`, N×3×H×W float32, or N×H×W×3 uint8 with preprocessing in the graph. Output: named after the head.
    Raises InputError where the network cannot be traced or the opset not be reached.
    """
    if options.opset not in OPSETS:
        raise InputError(
            f"Opset {options.opset} is outside what deploykit writes.",
            f"Choose --opset {OPSETS.start} to {OPSETS.stop - 1}.",
        )
    example = example_input(spec, options)
    folded = fold_batchnorm(module)
    try:
        traced = trace(folded, example, options.batch, spec.head, options.exporter)
    except InputError:
        _try(module, example, spec)
        raise
    model, rewrites = rewrite(traced.model, options.opset)
    promise = contract.Promise(options.opset, options.batch, training_only, eval_bytes(folded, training_only))
    contract.guarantee(model, promise)
    onnxfile.check(model)
    files = write(model, folder)
    return _record(model, traced, options, rewrites, files, weights)


def example_input(spec: ModelSpec, options: ExportOptions) -> torch.Tensor:
    """What the exporters trace with: batch 2 where the batch is dynamic, since they take a 1 for a constant, or the
    smallest that is allowed.
    """
    batch = options.batch.optimum if options.batch.static else max(2, options.batch.minimum)
    size = spec.preprocessing
    if spec.preprocess == "graph":
        return torch.zeros(batch, size.height, size.width, 3, dtype=torch.uint8)
    return torch.zeros(batch, 3, size.height, size.width)


def _try(module: Served, example: torch.Tensor, spec: ModelSpec) -> None:
    """Run the network that could not be traced: an input that it cannot take at all is another fault."""
    try:
        with torch.inference_mode():
            module(example)
    except (RuntimeError, ValueError, IndexError) as error:
        size = f"{spec.preprocessing.height}x{spec.preprocessing.width}"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{spec.name} cannot take images of {size}: {reason.rstrip('.')}.", "Choose another --input-size."
        ) from error


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


def eval_bytes(module: nn.Module, training_only: tuple[str, ...]) -> int:
    """Bytes of the parameters and buffers that eval mode can read, each counted once."""
    held = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        path = name.removeprefix("network.")
        counter = name.endswith("num_batches_tracked")
        if not counter and not any(path.startswith(part + ".") for part in training_only):
            held[id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(held.values())


def write(model: ir.Model, folder: Path) -> tuple[FileRecord, ...]:
    """Save as one file, or as a graph and its data where one file would pass Protobuf's 2 GiB."""
    folder.mkdir(parents=True, exist_ok=True)
    if contract.initializer_bytes(model) < LARGEST_SINGLE_FILE:
        onnxfile.save(model, folder / GRAPH_FILE)
        return (record(folder, GRAPH_FILE),)
    ir.save(model, folder / GRAPH_FILE, external_data=WEIGHTS_FILE)
    return (record(folder, GRAPH_FILE), record(folder, WEIGHTS_FILE))


def _record(
    model: ir.Model,
    traced: Traced,
    options: ExportOptions,
    rewrites: tuple[Rewrite, ...],
    files: tuple[FileRecord, ...],
    weights: WeightsRecord,
) -> ExportedGraph:
    inputs, outputs = contract.interface(model)
    return ExportedGraph(
        files=files,
        opset=options.opset,
        exporter=traced.exporter,
        fallback=traced.fallback,
        inputs=inputs,
        outputs=outputs,
        batch=options.batch,
        rewrites=rewrites,
        initializer_bytes=contract.initializer_bytes(model),
        weights=weights,
    )
