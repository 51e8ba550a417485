"""The export stage: a served module becomes an ONNX file that keeps the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, ExportedGraph, ExportOptions, InputSpec, ModelSpec, WeightsRecord
from deploykit.export import contract
from deploykit.export.opset import OPSETS
from deploykit.export.prepare import Served, ServedTensors, fold_batchnorm, outputs
from deploykit.export.rewrite import finish
from deploykit.export.trace import Names, trace


def export(
    module: Served | ServedTensors,
    spec: ModelSpec,
    options: ExportOptions,
    weights: WeightsRecord,
    training_only: tuple[str, ...],
    inputs: tuple[Tensor, ...],
    folder: Path,
) -> ExportedGraph:
    """Write `module` as ONNX into `folder`, in FP32, traced on `inputs`.

    Inputs: `input`, N×3×H×W float32, or N×H×W×3 uint8 with preprocessing in the graph; or tensors as `spec` names them.
    Output: named after the head, or as the network's forward() names what it gives.
    Raises InputError where the network cannot be traced or the opset not be reached.
    """
    if options.opset not in OPSETS:
        raise InputError(
            f"Opset {options.opset} is outside what deploykit writes.",
            f"Choose --opset {OPSETS.start} to {OPSETS.stop - 1}.",
        )
    names = Names(spec.inputs, _outputs(module, spec, inputs))
    folded = fold_batchnorm(module)
    try:
        traced = trace(folded, inputs, options.batch, names, options.exporter)
    except InputError:
        _try(module, inputs, spec)
        raise
    held = eval_bytes(folded, training_only)
    promise = contract.Promise(options.opset, options.batch, training_only, held)
    return finish(traced.model, promise, weights, traced.exporter, traced.fallback, folder)


def examples(spec: ModelSpec, batch: BatchRange, taken: Sequence[InputSpec]) -> tuple[Tensor, ...]:
    """What the exporters trace with: batch 2 where the batch is dynamic, since they take a 1 for a constant, or the
    smallest that is allowed. `taken` are the inputs of a network that takes no image.
    """
    rows, size = batch.optimum if batch.static else max(2, batch.minimum), spec.preprocessing
    if size is None:
        return tuple(torch.zeros(rows, *each.shape, dtype=getattr(torch, each.dtype)) for each in taken)
    if spec.preprocess == "graph":
        return (torch.zeros(rows, size.height, size.width, 3, dtype=torch.uint8),)
    if size.layout == "NHWC":
        return (torch.zeros(rows, size.height, size.width, 3),)
    return (torch.zeros(rows, 3, size.height, size.width),)


def _outputs(module: Served | ServedTensors, spec: ModelSpec, inputs: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Names of the outputs. Whether there are several shows when the network is asked."""
    if spec.head != "tensors":
        return (spec.head,)
    try:
        with torch.inference_mode():
            given = outputs(module.network(*inputs))
    except InputError:
        raise
    except Exception as error:  # a user's code raises whatever it likes
        raise InputError(_refusal(spec, inputs, error), "Compare --input with what its forward() takes.") from error
    for name, tensor in given.items():
        if any(tensor is each for each in inputs):
            raise InputError(
                f"The output {name!r} of {spec.name} is one of its inputs, unchanged.",
                "Leave it out: who runs the engine has it already.",
            )
    return tuple(given)


def _try(module: nn.Module, inputs: tuple[Tensor, ...], spec: ModelSpec) -> None:
    """Run the network that could not be traced: an input that it cannot take at all is another fault."""
    try:
        with torch.inference_mode():
            given = module(*inputs)
    except Exception as error:  # a user's code raises whatever it likes
        raise InputError(_refusal(spec, inputs, error), "Choose another --input-size.") from error
    if spec.head != "tensors" and not isinstance(given, Tensor):
        found = f"{len(outputs(given))} tensors" if isinstance(given, (tuple, list, dict)) else type(given).__name__
        raise InputError(
            f"{spec.name} gives {found}, and a head of {spec.head} is for a network that gives one tensor.",
            "Give --head tensors: then its outputs are taken as they are.",
        )


def _refusal(spec: ModelSpec, inputs: tuple[Tensor, ...], error: Exception) -> str:
    size = spec.preprocessing
    sizes = ", ".join("×".join(map(str, tensor.shape[1:])) or "1" for tensor in inputs)
    taken = f"images of {size.height}x{size.width}" if size is not None else f"inputs of {sizes}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{spec.name} cannot take {taken}: {reason.rstrip('.')}."


def eval_bytes(module: nn.Module, training_only: tuple[str, ...]) -> int:
    """Bytes of the parameters and buffers that eval mode can read, each counted once."""
    held = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):  # those that no checkpoint holds, too
        path = name.removeprefix("network.")
        counter = name.endswith("num_batches_tracked")
        if not counter and not any(path.startswith(part + ".") for part in training_only):
            held[id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(held.values())
