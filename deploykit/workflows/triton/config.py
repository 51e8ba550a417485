"""config.pbtxt: a model in the text format of Triton's `ModelConfig` message.

The message is defined in https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto.
Fields with default values are omitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from deploykit.core.values import DType
from deploykit.workflows.triton.model_config import (
    EnsembleStep,
    InstanceGroup,
    ModelConfig,
    TensorConfig,
    WarmupInput,
    WarmupRequest,
    format_interface,
)

CONFIG: Final = "config.pbtxt"

INTERFACE_MARK: Final = "# interface: "
"""Prefix of the comment that states the interface, which every version of the model must have. Users may tune the rest
of the file."""

TYPES: Final[dict[DType, str]] = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
}


def format_config(model: ModelConfig) -> str:
    """Format the whole file."""
    return "\n".join(_format_model(model)) + "\n"


def read_interface(config: str) -> str | None:
    """Read the interface from the comment in a config.pbtxt; None if deploykit did not write the file."""
    interfaces = (line.removeprefix(INTERFACE_MARK) for line in config.splitlines() if line.startswith(INTERFACE_MARK))
    return next(interfaces, None)


def _format_model(model: ModelConfig) -> Iterator[str]:
    yield "# Written by deploykit; may be edited: later calls add versions and do not change this file."
    yield INTERFACE_MARK + format_interface(model)
    yield f"name: {quote_string(model.name)}"
    yield f"platform: {quote_string(model.platform)}"
    yield f"max_batch_size: {model.max_batch}"
    for tensor in model.inputs:
        yield from _format_block("input", _format_tensor(tensor))
    for tensor in model.outputs:
        yield from _format_block("output", _format_tensor(tensor))
    if model.instances is not None:
        yield from _format_block("instance_group", _format_instances(model.instances))
    if model.max_batch > 1 and not model.steps:
        yield from _format_block("dynamic_batching", _format_batching(model))
    for capability, file in model.plans.items():
        yield from _format_entry("cc_model_filenames", capability, [f"value: {quote_string(file)}"])
    for warmup in model.warmups:
        yield from _format_block("model_warmup", _format_warmup(warmup))
    if model.steps:
        steps = (line for step in model.steps for line in _format_block("step", _format_step(step)))
        yield from _format_block("ensemble_scheduling", steps)


def _format_tensor(tensor: TensorConfig) -> Iterator[str]:
    yield f"name: {quote_string(tensor.name)}"
    yield f"data_type: {TYPES[tensor.dtype]}"
    if tensor.layout is not None and len(tensor.dims) == 3:  # Triton refuses `format` where dims include the batch
        yield f"format: FORMAT_{tensor.layout}"
    yield f"dims: {_format_numbers(tensor.dims or (1,))}"
    if not tensor.dims:  # Triton has no 0-d tensors: a scalar is one element, reshaped
        yield "reshape { shape: [ ] }"
    if tensor.labels is not None:
        yield f"label_filename: {quote_string(tensor.labels)}"


def _format_instances(instances: InstanceGroup) -> Iterator[str]:
    yield f"count: {instances.count}"
    yield f"kind: KIND_{instances.device.upper()}"
    if instances.dla_core is not None:
        yield from _format_block("secondary_devices", ["kind: KIND_NVDLA", f"device_id: {instances.dla_core}"])


def _format_batching(model: ModelConfig) -> Iterator[str]:
    if model.preferred:
        yield f"preferred_batch_size: {_format_numbers(model.preferred)}"
    yield f"max_queue_delay_microseconds: {model.queue_delay_us}"


def _format_warmup(warmup: WarmupRequest) -> Iterator[str]:
    yield f"name: {quote_string(warmup.name)}"
    yield f"batch_size: {warmup.batch}"
    for tensor in warmup.inputs:
        yield from _format_entry("inputs", tensor.name, _format_block("value", _format_warmup_input(tensor)))


def _format_warmup_input(tensor: WarmupInput) -> Iterator[str]:
    yield f"data_type: {TYPES[tensor.dtype]}"
    yield f"dims: {_format_numbers(tensor.dims or (1,))}"
    yield "zero_data: true" if tensor.file is None else f"input_data_file: {quote_string(tensor.file)}"


def _format_step(step: EnsembleStep) -> Iterator[str]:
    yield f"model_name: {quote_string(step.model)}"
    yield "model_version: -1"
    for own, of_ensemble in step.inputs.items():
        yield from _format_entry("input_map", own, [f"value: {quote_string(of_ensemble)}"])
    for own, of_ensemble in step.outputs.items():
        yield from _format_entry("output_map", own, [f"value: {quote_string(of_ensemble)}"])


def _format_entry(name: str, key: str, value: Iterable[str]) -> Iterator[str]:
    """Format one entry of a map."""
    yield from _format_block(name, [f"key: {quote_string(key)}", *value])


def _format_block(name: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"{name} {{"
    for line in lines:
        yield f"  {line}"
    yield "}"


def _format_numbers(numbers: Iterable[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def quote_string(text: str) -> str:
    """Quote a string for Protobuf's text format, in ASCII, with any characters that a tensor name may have."""
    return '"' + "".join(_escape_byte(byte) for byte in text.encode("utf-8")) + '"'


def _escape_byte(byte: int) -> str:
    character = chr(byte)
    if character in '"\\':
        return f"\\{character}"
    return character if character.isascii() and character.isprintable() else f"\\{byte:03o}"
