"""The export stage: traces a wrapped network and saves an ONNX file that satisfies the export contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, ExportedGraph, ExportOptions, InputSpec, ModelSpec, WeightsRecord
from deploykit.export import contract
from deploykit.export.batch_rows import check_rows
from deploykit.export.eager_run import EagerRun
from deploykit.export.opset import OPSETS
from deploykit.export.output_plan import OutputPlan, plan_outputs
from deploykit.export.prepare import ExportModule, TensorExportModule, fold_batchnorm
from deploykit.export.rewrite import rewrite_and_save
from deploykit.export.trace import InterfaceNames, TraceResult, trace_module
from deploykit.export.traced_graph import drop_copied_outputs, refuse_operators, settle_output_shapes


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

    Inputs: `input`, N×3×H×W float32, or N×H×W×3 uint8 with preprocessing in the graph; or the tensors that `spec`
    names. Output: named after the head; without a head, as `plan_module` plans it. Raises InputError where the network
    cannot be run or traced, treats the samples of a batch together, or the opset cannot be reached.
    """
    if options.opset not in OPSETS:
        raise InputError(
            f"Opset {options.opset} is not supported.",
            f"Choose --opset {OPSETS.start} to {OPSETS.stop - 1}.",
        )
    names = InterfaceNames(spec.inputs, output_names(module, spec))
    eager = EagerRun(module, spec, inputs, options.batch)
    rows = check_rows(eager, names.outputs)
    folded = fold_batchnorm(module)
    traced = trace_module(folded, inputs, options.batch, names, options.exporter)
    settle_output_shapes(traced, rows.shapes, spec.name, options.batch)
    refuse_operators(traced.model, spec.name)
    copies = drop_copied_outputs(traced.model, spec.name)
    # TorchScript's exporter folds a convolution that several BatchNorms share, once for each
    parameter_bytes = max(eval_state_bytes(folded, training_only), contract.initializer_bytes(traced.model))
    terms = contract.Contract(options.opset, options.batch, training_only, parameter_bytes)
    graph = rewrite_and_save(traced.model, terms, weights, traced.exporter, traced.fallback_reason, folder)
    planned = module.plan.notes if isinstance(module, TensorExportModule) and module.plan is not None else ()
    notes = (*planned, *copies, *rows.notes, *_describe_autocast(eager), *_describe_decisions(traced, options.batch))
    return msgspec.structs.replace(graph, notes=notes)


def plan_module(module: nn.Module, spec: ModelSpec, inputs: tuple[Tensor, ...], batch: BatchRange) -> OutputPlan | None:
    """The outputs of a network with the head `tensors`, planned by running it on inputs like `inputs`; None for other
    heads, which have one output.
    """
    if spec.head != "tensors":
        return None
    eager = EagerRun(module.eval(), spec, inputs, batch)
    return plan_outputs(spec.name, spec.inputs, eager.run, batch)


def output_names(module: ExportModule | TensorExportModule, spec: ModelSpec) -> tuple[str, ...]:
    """Names of the module's outputs, in order."""
    if isinstance(module, TensorExportModule) and module.plan is not None:
        return tuple(output.name for output in module.plan.outputs)
    return (spec.head,)


def _describe_autocast(eager: EagerRun) -> list[str]:
    return [
        f"Its forward() asks for autocast to {name}, which is left out: the reference and the graph are FP32, and "
        "--fp16, --bf16 or --int8 choose a precision."
        for name in sorted(eager.autocast)
    ]


def _describe_decisions(traced: TraceResult, batch: BatchRange) -> list[str]:
    if not traced.decisions:
        return []
    count = "a decision" if len(traced.decisions) == 1 else f"{len(traced.decisions)} decisions"
    sizes = ", ".join(map(str, batch.checked_sizes))
    return [
        f"The TorchScript exporter recorded {count} in Python code as for the traced batch, such as "
        f"{traced.decisions[0]}; the graph was run at batch {sizes}."
    ]


def example_inputs(spec: ModelSpec, batch: BatchRange, tensor_inputs: Sequence[InputSpec]) -> tuple[Tensor, ...]:
    """Zeros to trace the network with. Where the batch is dynamic it is 2 or the smallest allowed: the exporters treat
    a batch of 1 as a constant. `tensor_inputs` are the inputs of a network without image preprocessing.
    """
    rows, size = batch.optimum if batch.static else max(2, batch.minimum), spec.preprocessing
    if size is None:
        return tuple(torch.zeros(rows, *tensor.shape, dtype=getattr(torch, tensor.dtype)) for tensor in tensor_inputs)
    if spec.preprocess_in == "graph":
        return (torch.zeros(rows, size.height, size.width, 3, dtype=torch.uint8),)
    if size.layout == "NHWC":
        return (torch.zeros(rows, size.height, size.width, 3),)
    return (torch.zeros(rows, 3, size.height, size.width),)


def eval_state_bytes(module: nn.Module, training_only: tuple[str, ...]) -> int:
    """Return the bytes of the parameters and buffers that eval mode can read; shared tensors count once."""
    sizes = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):  # non-persistent buffers too
        path = name.removeprefix("network.")
        counter = name.endswith("num_batches_tracked")
        if not counter and not any(path.startswith(part + ".") for part in training_only):
            sizes[id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())
