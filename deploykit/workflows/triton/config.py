"""config.pbtxt: a model in the text format of Triton's `ModelConfig` message.

https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto is the message. Fields that
would hold its defaults are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from deploykit.core.values import DType
from deploykit.workflows.triton.served import Instances, Model, Port, Step, Warmup, WarmupInput, interface

CONFIG: Final = "config.pbtxt"

MARK: Final = "# interface: "
"""Begins the line that a further version of the model is held to. It is a comment: the rest is the user's to tune."""

TYPES: Final[dict[DType, str]] = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
}


def text(model: Model) -> str:
    """The whole file."""
    return "\n".join(_lines(model)) + "\n"


def stated_interface(config: str) -> str | None:
    """The interface that a config.pbtxt of ours states; None in one that is not ours."""
    found = (line.removeprefix(MARK) for line in config.splitlines() if line.startswith(MARK))
    return next(found, None)


def _lines(model: Model) -> Iterator[str]:
    yield "# Written by deploykit, and yours to tune: a later call adds versions and leaves this file as it is."
    yield MARK + interface(model)
    yield f"name: {quoted(model.name)}"
    yield f"platform: {quoted(model.platform)}"
    yield f"max_batch_size: {model.max_batch}"
    for port in model.inputs:
        yield from _block("input", _port(port))
    for port in model.outputs:
        yield from _block("output", _port(port))
    if model.instances is not None:
        yield from _block("instance_group", _instances(model.instances))
    if model.max_batch > 1 and not model.steps:
        yield from _block("dynamic_batching", _batching(model))
    for capability, file in model.plans.items():
        yield from _entry("cc_model_filenames", capability, [f"value: {quoted(file)}"])
    for warmup in model.warmups:
        yield from _block("model_warmup", _warmup(warmup))
    if model.steps:
        steps = (line for step in model.steps for line in _block("step", _step(step)))
        yield from _block("ensemble_scheduling", steps)


def _port(port: Port) -> Iterator[str]:
    yield f"name: {quoted(port.name)}"
    yield f"data_type: {TYPES[port.dtype]}"
    if port.layout is not None and len(port.dims) == 3:  # with the batch among them, Triton refuses the word
        yield f"format: FORMAT_{port.layout}"
    yield f"dims: {_numbers(port.dims or (1,))}"
    if not port.dims:  # Triton has no tensors without axes: one number is a list of one, reshaped
        yield "reshape { shape: [ ] }"
    if port.labels is not None:
        yield f"label_filename: {quoted(port.labels)}"


def _instances(instances: Instances) -> Iterator[str]:
    yield f"count: {instances.count}"
    yield f"kind: KIND_{instances.device.upper()}"
    if instances.dla_core is not None:
        yield from _block("secondary_devices", ["kind: KIND_NVDLA", f"device_id: {instances.dla_core}"])


def _batching(model: Model) -> Iterator[str]:
    if model.preferred:
        yield f"preferred_batch_size: {_numbers(model.preferred)}"
    yield f"max_queue_delay_microseconds: {model.queue_delay_us}"


def _warmup(warmup: Warmup) -> Iterator[str]:
    yield f"name: {quoted(warmup.name)}"
    yield f"batch_size: {warmup.batch}"
    for tensor in warmup.inputs:
        yield from _entry("inputs", tensor.name, _block("value", _warmup_input(tensor)))


def _warmup_input(tensor: WarmupInput) -> Iterator[str]:
    yield f"data_type: {TYPES[tensor.dtype]}"
    yield f"dims: {_numbers(tensor.dims or (1,))}"
    yield "zero_data: true" if tensor.file is None else f"input_data_file: {quoted(tensor.file)}"


def _step(step: Step) -> Iterator[str]:
    yield f"model_name: {quoted(step.model)}"
    yield "model_version: -1"
    for own, of_ensemble in step.inputs.items():
        yield from _entry("input_map", own, [f"value: {quoted(of_ensemble)}"])
    for own, of_ensemble in step.outputs.items():
        yield from _entry("output_map", own, [f"value: {quoted(of_ensemble)}"])


def _entry(name: str, key: str, value: Iterable[str]) -> Iterator[str]:
    """One entry of a map."""
    yield from _block(name, [f"key: {quoted(key)}", *value])


def _block(name: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"{name} {{"
    for line in lines:
        yield f"  {line}"
    yield "}"


def _numbers(numbers: Iterable[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def quoted(text: str) -> str:
    """A string literal of Protobuf's text format, in ASCII: whatever a tensor is called, it stays one string."""
    return '"' + "".join(_escaped(byte) for byte in text.encode("utf-8")) + '"'


def _escaped(byte: int) -> str:
    character = chr(byte)
    if character in '"\\':
        return f"\\{character}"
    return character if character.isascii() and character.isprintable() else f"\\{byte:03o}"
