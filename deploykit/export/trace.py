"""Runs PyTorch's two ONNX exporters: from a module to an unmodified ONNX graph."""

from __future__ import annotations

import ctypes
import inspect
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Literal, NamedTuple

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from deploykit.core.error_text import root_cause
from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, Exporter

TRACE_OPSET = 20
"""Supported by both exporters, TensorRT 10.0, ONNX Runtime and OpenVINO; other opsets are reached by conversion."""


class TraceResult(NamedTuple):
    """The graph, the exporter that wrote it, and why that was not the preferred one."""

    model: ir.Model
    exporter: Literal["dynamo", "torchscript"]
    fallback_reason: str | None


class InterfaceNames(NamedTuple):
    """Names of the graph's inputs and outputs, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def trace_module(
    module: nn.Module, examples: tuple[Tensor, ...], batch: BatchRange, names: InterfaceNames, exporter: Exporter
) -> TraceResult:
    """Trace `module` on `examples` (leading axis: batch; two or more where the batch is dynamic).

    `auto` uses the torch.export-based exporter and, where that fails, the TorchScript one; `fallback_reason` then says
    why. Raises InputError where the module cannot be traced.
    """
    match exporter:
        case "dynamo":
            return TraceResult(_run_exporter("dynamo", module, examples, batch, names), "dynamo", None)
        case "torchscript":
            return TraceResult(_run_exporter("torchscript", module, examples, batch, names), "torchscript", None)
        case "auto":
            try:
                return trace_module(module, examples, batch, names, "dynamo")
            except InputError as error:
                reason = error.what
            try:
                model = trace_module(module, examples, batch, names, "torchscript").model
            except InputError as error:
                raise InputError(
                    f"{reason} {error.what}", "Remove data-dependent control flow from its forward()."
                ) from error
            return TraceResult(model, "torchscript", reason)


def _run_exporter(
    exporter: Literal["dynamo", "torchscript"],
    module: nn.Module,
    examples: tuple[Tensor, ...],
    batch: BatchRange,
    names: InterfaceNames,
) -> ir.Model:
    run = _trace_dynamo if exporter == "dynamo" else _trace_torchscript
    try:
        with torch.no_grad(), silence_output():
            model = run(module, examples, batch, names)
        _name_batch_axis(model)
    except Exception as error:  # exporters raise whatever the module's code and their own internals raise
        other = "torchscript" if exporter == "dynamo" else "dynamo"
        raise InputError(
            f"The {exporter} exporter cannot trace this network: {root_cause(error)}.",
            f"Try --exporter {other}, or remove data-dependent control flow from its forward().",
        ) from error
    return model


def _trace_dynamo(
    module: nn.Module, examples: tuple[Tensor, ...], batch: BatchRange, names: InterfaceNames
) -> ir.Model:
    dynamic = None
    if not batch.static:
        axis = {0: torch.export.Dim("batch", min=batch.minimum, max=batch.maximum)}
        axes = tuple(axis for _ in examples)
        dynamic = (axes,) if _has_variadic_inputs(module) else axes
    program = torch.onnx.export(
        torch.export.export(module, examples, dynamic_shapes=dynamic),
        input_names=list(names.inputs),
        output_names=list(names.outputs),
        opset_version=TRACE_OPSET,
        optimize=False,  # the passes do that, and report what they skipped
        verbose=False,
    )
    assert program is not None
    return program.model


def _has_variadic_inputs(module: nn.Module) -> bool:
    """Whether forward() takes its inputs as `*inputs`, which torch.export counts as one argument."""
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)


def _trace_torchscript(
    module: nn.Module, examples: tuple[Tensor, ...], batch: BatchRange, names: InterfaceNames
) -> ir.Model:
    axes = None if batch.static else {name: {0: "batch"} for name in (*names.inputs, *names.outputs)}
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            module,
            examples,
            path,
            dynamo=False,
            input_names=list(names.inputs),
            output_names=list(names.outputs),
            dynamic_axes=axes,
            opset_version=TRACE_OPSET,
        )
        onnx.shape_inference.infer_shapes_path(path)  # this exporter writes shapes of inputs and outputs only
        model = ir.load(path)
        for initializer in model.graph.initializers.values():  # read before the folder is removed
            assert initializer.const_value is not None
            initializer.const_value = ir.tensor(initializer.const_value.numpy().copy(), name=initializer.name)
    return model


def _name_batch_axis(model: ir.Model) -> None:
    """Name the dynamic axis `batch` in every shape; the exporters generate names such as `s31`."""
    assert model.graph.inputs[0].shape is not None
    generated = model.graph.inputs[0].shape[0]
    values = [output for node in model.graph for output in node.outputs]
    for value in (*model.graph.inputs, *values):
        if isinstance(generated, ir.SymbolicDim) and value.shape is not None and not value.shape.frozen:
            value.shape = ir.Shape(ir.SymbolicDim("batch") if size == generated else size for size in value.shape)


@contextmanager
def silence_output() -> Iterator[None]:
    """Suppress what torch.export prints, logs and warns about; failures are raised as exceptions anyway."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):  # noqa: PTH123
            warnings.simplefilter("ignore")
            with _native_stdout_to(null.fileno()):
                yield
    finally:
        logging.disable(previous)


@contextmanager
def _native_stdout_to(descriptor: int) -> Iterator[None]:
    """Redirect file descriptor 1: a failed TorchScript export prints whole graphs from C++, past sys.stdout."""
    library = ctypes.CDLL(None)
    library.fflush(None)
    original = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        library.fflush(None)
        os.dup2(original, 1)
        os.close(original)
