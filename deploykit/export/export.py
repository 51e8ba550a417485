"""The export stage: traces a wrapped network and saves an ONNX file that satisfies the export contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, ExportedGraph, ExportOptions, InputSpec, ModelSpec, WeightsRecord
from deploykit.export import contract
from deploykit.export.opset import OPSETS
from deploykit.export.prepare import ExportModule, TensorExportModule, flatten_outputs, fold_batchnorm
from deploykit.export.rewrite import rewrite_and_save
from deploykit.export.trace import InterfaceNames, trace_module


def export_module(
    module: ExportModule | TensorExportModule,
    spec: ModelSpec,
    options: ExportOptions,
    weights: WeightsRecord,
    training_only: tuple[str, ...],
    inputs: tuple[Tensor, ...],
    folder: Path,
) -> ExportedGraph:
    """Trace `module` on `inputs` and save it as FP32 ONNX in `folder`.

    Inputs: `input`, N×C×H×W float32, or N×H×W×3 uint8 with preprocessing in the graph; or the tensors that `spec`
    names. Output: named after the head; without a head, after the keys of what forward() returns. Raises InputError
    where the network cannot be traced or the opset cannot be reached.
    """
    if options.opset not in OPSETS:
        raise InputError(
            f"Opset {options.opset} is not supported.",
            f"Choose --opset {OPSETS.start} to {OPSETS.stop - 1}.",
        )
    names = InterfaceNames(spec.inputs, _output_names(module, spec, inputs))
    folded = fold_batchnorm(module)
    try:
        traced = trace_module(folded, inputs, options.batch, names, options.exporter)
    except InputError:
        _check_forward(module, inputs, spec)
        raise
    # TorchScript's exporter folds a convolution that several BatchNorms share, once for each
    parameter_bytes = max(eval_state_bytes(folded, training_only), contract.initializer_bytes(traced.model))
    terms = contract.Contract(options.opset, options.batch, training_only, parameter_bytes)
    return rewrite_and_save(traced.model, terms, weights, traced.exporter, traced.fallback_reason, folder)


def example_inputs(spec: ModelSpec, batch: BatchRange, tensor_inputs: Sequence[InputSpec]) -> tuple[Tensor, ...]:
    """Zeros to trace the network with. Where the batch is dynamic it is 2 or the smallest allowed: the exporters treat
    a batch of 1 as a constant. `tensor_inputs` are the inputs of a network without image preprocessing.
    """
    rows, size = batch.optimum if batch.static else max(2, batch.minimum), spec.preprocessing
    if size is None:
        return tuple(torch.zeros(rows, *tensor.shape, dtype=getattr(torch, tensor.dtype)) for tensor in tensor_inputs)
    if spec.preprocess_in == "graph":
        return (torch.zeros(rows, size.height, size.width, 3, dtype=torch.uint8),)
    return (torch.zeros(rows, *size.input_shape),)


def _output_names(
    module: ExportModule | TensorExportModule, spec: ModelSpec, inputs: tuple[Tensor, ...]
) -> tuple[str, ...]:
    """Names of the outputs; without a head, one forward pass shows how many there are."""
    if spec.head != "tensors":
        return (spec.head,)
    try:
        with torch.inference_mode():
            outputs = flatten_outputs(module.network(*inputs))
    except InputError:
        raise
    except Exception as error:  # a user's code raises whatever it likes
        raise InputError(
            _describe_failure(spec, inputs, error), "Compare --input with the arguments of its forward()."
        ) from error
    for name, tensor in outputs.items():
        if any(tensor is source for source in inputs):
            raise InputError(
                f"The output {name!r} of {spec.name} is one of its inputs, unchanged.",
                "Remove it from what forward() returns: the caller has it already.",
            )
    return tuple(outputs)


def _check_forward(module: nn.Module, inputs: tuple[Tensor, ...], spec: ModelSpec) -> None:
    """Run the network that could not be traced, and raise InputError if its input or output is the reason."""
    try:
        with torch.inference_mode():
            output = module(*inputs)
    except Exception as error:  # a user's code raises whatever it likes
        raise InputError(_describe_failure(spec, inputs, error), "Choose another --input-size.") from error
    if spec.head != "tensors" and not isinstance(output, Tensor):
        nested = isinstance(output, (tuple, list, dict))
        described = f"{len(flatten_outputs(output))} tensors" if nested else f"a {type(output).__name__}"
        raise InputError(
            f"{spec.name} returns {described}; --head {spec.head} needs a network that returns one tensor.",
            "Give --head tensors to export its outputs as they are.",
        )


def _describe_failure(spec: ModelSpec, inputs: tuple[Tensor, ...], error: Exception) -> str:
    size = spec.preprocessing
    shapes = ", ".join("×".join(map(str, tensor.shape[1:])) or "1" for tensor in inputs)
    described = f"images of {size.height}x{size.width}" if size is not None else f"inputs of {shapes}"
    return f"{spec.name} cannot process {described}: {first_line(error)}."


def eval_state_bytes(module: nn.Module, training_only: tuple[str, ...]) -> int:
    """Return the bytes of the parameters and buffers that eval mode can read; shared tensors count once."""
    sizes = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):  # non-persistent buffers too
        path = name.removeprefix("network.")
        counter = name.endswith("num_batches_tracked")
        if not counter and not any(path.startswith(part + ".") for part in training_only):
            sizes[id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())
