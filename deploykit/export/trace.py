"""Runs PyTorch's two ONNX exporters: from a module to an unmodified ONNX graph."""

from __future__ import annotations

import ctypes
import inspect
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final, Literal, NamedTuple

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from deploykit.core.error_text import root_cause
from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, Exporter
from deploykit.export.autocast import ignore_autocast
from deploykit.export.data_reads import find_data_reads
from deploykit.export.user_code import describe_line, line_of_error

TRACE_OPSET = 20
"""Supported by both exporters, TensorRT 10.0, ONNX Runtime and OpenVINO; other opsets are reached by conversion."""


class TraceResult(NamedTuple):
    """The graph, the exporter that wrote it, and why that was not the preferred one."""

    model: ir.Model
    exporter: Literal["dynamo", "torchscript"]
    fallback_reason: str | None
    decisions: tuple[str, ...] = ()
    """Lines at which the TorchScript exporter recorded a decision by sizes as it fell for the examples."""


class InterfaceNames(NamedTuple):
    """Names of the graph's inputs and outputs, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def trace_module(
    module: nn.Module, examples: tuple[Tensor, ...], batch: BatchRange, names: InterfaceNames, exporter: Exporter
) -> TraceResult:
    """Trace `module` on `examples` (leading axis: batch; two or more where the batch is dynamic).

    `auto` uses the torch.export-based exporter and, where that fails, the TorchScript one; `fallback_reason` then says
    why. Raises InputError where the module cannot be traced, and where only TorchScript can, and forward() decides by
    the values of tensors: TorchScript would record one decision for all inputs.
    """
    match exporter:
        case "dynamo":
            return _run_exporter("dynamo", module, examples, batch, names)
        case "torchscript":
            _refuse_data_reads(module, examples)
            return _run_exporter("torchscript", module, examples, batch, names)
        case "auto":
            try:
                return _run_exporter("dynamo", module, examples, batch, names)
            except InputError as error:
                reason = error.what
                _refuse_data_reads(module, examples, error)
            try:
                traced = _run_exporter("torchscript", module, examples, batch, names)
            except InputError as error:
                raise InputError(f"{reason} {error.what}", NO_EXPORTER) from error
            return traced._replace(fallback_reason=reason)


NO_EXPORTER: Final = "Export it by other means, and give the .onnx file; or rewrite what they name in its forward()."


def _refuse_data_reads(module: nn.Module, examples: tuple[Tensor, ...], refusal: InputError | None = None) -> None:
    """Raise InputError where forward() reads values that depend on its input.

    `refusal` is that of torch.export. Where that names an unknown size that no read explains, such as the rows of
    `y[y > 0]`, the refusal stands: TorchScript would record the size that the examples give.
    """
    try:
        random = tuple(_draw_like(example, seed) for seed, example in enumerate(examples))
        reads, sizes = find_data_reads(module, random)
    except Exception:  # a network that cannot be run is refused elsewhere
        return
    if reads:
        more = f" and at {len(reads) - 1} more places" if len(reads) > 1 else ""
        raise InputError(
            f"forward() reads the values of a tensor to decide or to compute something ({reads[0]}){more}: a graph "
            "would have the decision of one input, for all inputs.",
            "Choose by torch.where, compute with tensors instead of .item(), and remove checks of values.",
        ) from refusal
    if sizes and refusal is not None and _is_data_dependent(refusal):
        raise InputError(
            f"forward() makes a tensor whose size depends on the data ({sizes[0]}), and decides by that size: a "
            "graph would have the decision of one input, for all inputs.",
            "Keep a fixed number of rows, such as the best ones by torch.topk, and a mask beside them.",
        ) from refusal


def _draw_like(example: Tensor, seed: int) -> Tensor:
    """Values like those of normalized pixels, or integers 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    if example.dtype.is_floating_point:
        return torch.randn(example.shape, generator=generator).to(example.dtype)
    return torch.randint(0, 2, example.shape, generator=generator).to(example.dtype)


def _is_data_dependent(error: BaseException | None) -> bool:
    """Whether torch.export refused a network because a size or a decision depends on data."""
    while error is not None:
        if type(error).__name__ == "GuardOnDataDependentSymNode" or "data-dependent" in str(error):
            return True
        error = error.__cause__
    return False


def _run_exporter(
    exporter: Literal["dynamo", "torchscript"],
    module: nn.Module,
    examples: tuple[Tensor, ...],
    batch: BatchRange,
    names: InterfaceNames,
) -> TraceResult:
    run = _trace_dynamo if exporter == "dynamo" else _trace_torchscript
    try:
        with torch.no_grad(), ignore_autocast(), silence_output(), _collect_decisions() as decisions:
            model = run(module, examples, batch, names)
        _name_batch_axis(model)
    except Exception as error:  # exporters raise whatever the module's code and their own internals raise
        other = "torchscript" if exporter == "dynamo" else "dynamo"
        where = line_of_error(error)
        raise InputError(
            f"The {exporter} exporter cannot trace this network: {root_cause(error)}{f' ({where})' if where else ''}.",
            f"Try --exporter {other}, or remove data-dependent control flow from its forward().",
        ) from error
    return TraceResult(model, exporter, None, tuple(decisions))


@contextmanager
def _collect_decisions() -> Iterator[dict[str, None]]:
    """Collect the lines for which TorchScript warns that it records a Python value as a constant."""
    lines: dict[str, None] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", TracerWarning)
        yield lines
    for warning in caught:
        line = describe_line(warning.filename, warning.lineno)
        if line is not None and re.search(r"Converting a tensor to|Iterating over a tensor", str(warning.message)):
            lines[line] = None


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
