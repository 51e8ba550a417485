"""PyTorch's two ONNX exporters behind one function: a module in, an untouched ONNX graph out."""

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

from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, Exporter

TRACE_OPSET = 20
"""Both exporters speak it, and so do TensorRT 10.0, ONNX Runtime and OpenVINO; other opsets are converted to."""


class Traced(NamedTuple):
    model: ir.Model
    exporter: Literal["dynamo", "torchscript"]
    fallback: str | None


class Names(NamedTuple):
    """What the graph's inputs and outputs are called, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def trace(
    module: nn.Module, examples: tuple[Tensor, ...], batch: BatchRange, names: Names, exporter: Exporter
) -> Traced:
    """Trace `module` on `examples` (leading axis: batch; two or more where the batch is dynamic).

    `auto` is the torch.export-based exporter, and the TorchScript one where that fails; `fallback` then says why.
    """
    match exporter:
        case "dynamo":
            return Traced(_explained(_dynamo, module, examples, batch, names), "dynamo", None)
        case "torchscript":
            return Traced(_explained(_torchscript, module, examples, batch, names), "torchscript", None)
        case "auto":
            try:
                return trace(module, examples, batch, names, "dynamo")
            except InputError as error:
                reason = error.what
            try:
                model = trace(module, examples, batch, names, "torchscript").model
            except InputError as error:
                raise InputError(f"{reason} {error.what}", "Make its forward() free of data-dependent code.") from error
            return Traced(model, "torchscript", reason)


def _explained(exporter, module, examples, batch, names) -> ir.Model:  # type: ignore[no-untyped-def]
    try:
        with torch.no_grad(), quiet():
            model: ir.Model = exporter(module, examples, batch, names)
        _name_batch(model)
    except Exception as error:  # exporters raise whatever the module's code and their own internals raise
        raise InputError(
            f"The {exporter.__name__.strip('_')} exporter cannot trace this network: {_reason(error).rstrip('.')}.",
            "Try the other one (--exporter torchscript, or dynamo), or make its forward() free of data-dependent code.",
        ) from error
    return model


def _reason(error: BaseException) -> str:
    """The first line of what set it off; the exporters wrap that into advice on how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _dynamo(module: nn.Module, examples: tuple[Tensor, ...], batch: BatchRange, names: Names) -> ir.Model:
    dynamic = None
    if not batch.static:
        axis = {0: torch.export.Dim("batch", min=batch.minimum, max=batch.maximum)}
        axes = tuple(axis for _ in examples)
        dynamic = (axes,) if _variadic(module) else axes
    program = torch.onnx.export(
        torch.export.export(module, examples, dynamic_shapes=dynamic),
        input_names=list(names.inputs),
        output_names=list(names.outputs),
        opset_version=TRACE_OPSET,
        optimize=False,  # our passes do that, each with its algebra and its refusals
        verbose=False,
    )
    assert program is not None
    return program.model


def _variadic(module: nn.Module) -> bool:
    """Whether forward() takes its inputs as `*inputs`, which torch.export counts as one argument."""
    taken = inspect.signature(module.forward).parameters.values()
    return any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in taken)


def _torchscript(module: nn.Module, examples: tuple[Tensor, ...], batch: BatchRange, names: Names) -> ir.Model:
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
        onnx.shape_inference.infer_shapes_path(path)  # this exporter types inputs and outputs only
        model = ir.load(path)
        for initializer in model.graph.initializers.values():  # read before the folder goes
            assert initializer.const_value is not None
            initializer.const_value = ir.tensor(initializer.const_value.numpy().copy(), name=initializer.name)
    return model


def _name_batch(model: ir.Model) -> None:
    """Call the free axis `batch` wherever it shows; the exporters invent names such as `s31`."""
    assert model.graph.inputs[0].shape is not None
    invented = model.graph.inputs[0].shape[0]
    values = [output for node in model.graph for output in node.outputs]
    for value in (*model.graph.inputs, *values):
        if isinstance(invented, ir.SymbolicDim) and value.shape is not None and not value.shape.frozen:
            value.shape = ir.Shape(ir.SymbolicDim("batch") if size == invented else size for size in value.shape)


@contextmanager
def quiet() -> Iterator[None]:
    """torch.export prints, logs and warns; what matters of it comes back as an exception."""
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
    """Where a TorchScript export fails, its C++ half prints whole graphs past sys.stdout, which carries our results."""
    library = ctypes.CDLL(None)
    library.fflush(None)
    own = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        library.fflush(None)
        os.dup2(own, 1)
        os.close(own)
