"""Which tensors of what forward() returns the graph has, under which names, and how they are changed.

    nested values     flattened; names are the keys of mappings, the fields of dataclasses and named tuples, or numbers
    None              left out
    an input, or a tensor that is returned twice      left out, or once: a graph names every tensor once
    bool, float64, …  cast to a type that engines return
    batch on axis k   moved to the front: N×T×C for a T×N×C

What is left out or changed is said in a note.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from deploykit.core.errors import InputError
from deploykit.core.shapes import format_shape
from deploykit.core.values import BatchRange

CASTS: Final = {
    torch.float64: torch.float32,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.bool: torch.int32,
    torch.int16: torch.int32,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
}
"""Types of outputs that not every engine returns, and the types that they are cast to."""

SUPPORTED: Final = (torch.float32, torch.uint8, torch.int8, torch.int32, torch.int64)


class PlannedOutput(NamedTuple):
    """One output of the graph."""

    name: str
    position: int
    """Index among the flattened values that forward() returns."""
    cast: torch.dtype | None = None
    axis: int | None = 0
    """Axis of the batch in the returned tensor, which is moved to the front; None: it has none, and one is added."""


class OutputPlan(NamedTuple):
    """The outputs of the graph, and notes about what was left out or changed, as sentences."""

    outputs: tuple[PlannedOutput, ...]
    notes: tuple[str, ...] = ()

    def select(self, value: object) -> tuple[Tensor, ...]:
        """The graph's outputs of what forward() returned."""
        returned = tuple(iterate_values(value))
        return tuple(_convert(returned[output.position].tensor, output) for output in self.outputs)


def _convert(tensor: Tensor | None, output: PlannedOutput) -> Tensor:
    assert tensor is not None
    if output.axis is None:
        tensor = tensor.unsqueeze(0)
    elif output.axis:
        tensor = tensor.movedim(output.axis, 0)
    return tensor if output.cast is None else tensor.to(output.cast)


class ReturnedValue(NamedTuple):
    """A tensor or None that forward() returned."""

    name: str
    path: tuple[str, ...]
    tensor: Tensor | None


def iterate_values(value: object, name: str = "output", path: tuple[str, ...] = ()) -> Iterator[ReturnedValue]:
    """The tensors in nested mappings, dataclasses, tuples and lists, and None.

    Raises InputError for anything else.
    """
    if value is None or isinstance(value, Tensor):
        yield ReturnedValue(name, path, value)
        return
    members = _members(value, name)
    if members is None:
        where = f"as its output {name!r}" if path else "as its output"
        raise InputError(
            f"The network returns a {type(value).__name__} {where}, where a tensor is needed.",
            "Let its forward() return tensors, or wrap it in a module that does.",
        )
    for key, inner, item in members:
        yield from iterate_values(item, inner, (*path, key))


def _members(value: object, name: str) -> list[tuple[str, str, object]] | None:
    """(key, name, item) of the members of a nested value; None for a value that is not nested."""
    if isinstance(value, Mapping):
        return [(str(key), str(key), item) for key, item in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(field, field, item) for field, item in zip(value._fields, value, strict=True)]
    if isinstance(value, (tuple, list)):
        return [(str(index), f"{name}_{index}", item) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


RunNetwork = Callable[[int, int], Any]
"""Runs the network on so many rows, drawn with a seed, and returns what forward() returned and the inputs."""


def plan_outputs(model: str, inputs: Sequence[str], run: RunNetwork, batch: BatchRange) -> OutputPlan:
    """Plan the outputs of the network called `model`, whose inputs are called `inputs`.

    `run(rows, seed)` returns the input tensors and what forward() returned for them. Raises InputError, with the name
    of the output, where one is no tensor, or has no row for each sample.
    """
    few = batch.optimum if batch.static else max(2, batch.minimum)
    arguments, result = run(few, 0)
    returned = list(iterate_values(result))
    names = _unique_names(returned, inputs)
    notes = [f"The output {name!r} is None, and is left out." for name, one in names if one.tensor is None]
    outputs: list[PlannedOutput] = []
    tensors: dict[int, str] = {}
    sources = {id(tensor): name for tensor, name in zip(arguments, inputs, strict=False)}
    axes = _find_batch_axes(returned, few, run, batch)
    for position, (name, one) in enumerate(names):
        tensor = one.tensor
        if tensor is None:
            continue
        if id(tensor) in sources:
            notes.append(f"The output {name!r} is the input {sources[id(tensor)]!r}, unchanged, and is left out.")
        elif id(tensor) in tensors:
            notes.append(f"The output {name!r} is the same tensor as {tensors[id(tensor)]!r}, and is left out.")
        else:
            tensors[id(tensor)] = name
            outputs.append(PlannedOutput(name, position, _cast_of(model, name, tensor), axes[position]))
            _require_batch_axis(model, outputs[-1], tensor, few, run, batch)
            notes += _describe_changes(one.name, outputs[-1], tensor)
    if not outputs:
        raise InputError(
            f"{model} returns no tensor that it computes.", "Let its forward() return the tensors to export."
        )
    return OutputPlan(tuple(outputs), tuple(notes))


def _unique_names(returned: Sequence[ReturnedValue], inputs: Sequence[str]) -> list[tuple[str, ReturnedValue]]:
    """A name for each value: its own key, or all keys that lead to it where several have that."""
    counts = Counter(one.name for one in returned)
    taken: set[str] = set(inputs)
    named = []
    for one in returned:
        name = (one.name if counts[one.name] == 1 else "_".join(one.path)) or "output"
        while name in taken:
            name = f"{name}_output" if name in inputs else f"{name}_"
        taken.add(name)
        named.append((name, one))
    return named


def _cast_of(model: str, name: str, tensor: Tensor) -> torch.dtype | None:
    """The type that an output is cast to. Raises InputError for what is no dense tensor of numbers."""
    where = f"The output {name!r} of {model}"
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else "sparse"
        raise InputError(f"{where} is a {kind} tensor.", "Return it as a dense one, such as by .to_dense().")
    if tensor.is_quantized:
        raise InputError(
            f"{where} is a quantized tensor.", "Return .dequantize() of it, or export the network before quantization."
        )
    if not tensor.numel():
        raise InputError(
            f"{where} has no elements: it is {format_shape(tensor.shape)}.", "Leave it out of what forward() returns."
        )
    if tensor.dtype in SUPPORTED:
        return None
    if tensor.dtype not in CASTS:
        raise InputError(
            f"{where} is {_type_name(tensor.dtype)}, which no engine returns.",
            "Return its parts as floating-point tensors, such as torch.view_as_real(…).",
        )
    return CASTS[tensor.dtype]


def _describe_changes(key: str, output: PlannedOutput, tensor: Tensor) -> Iterator[str]:
    if output.name != key:
        yield f"The output {key!r} is called {output.name!r} in the graph."
    if output.cast is not None:
        yield f"The output {output.name!r} is {_type_name(tensor.dtype)}, and is cast to {_type_name(output.cast)}."
    if output.axis:
        before: list[int | str] = list(tensor.shape)
        before[output.axis] = "N"
        after = ["N", *(size for axis, size in enumerate(before) if axis != output.axis)]
        yield (
            f"The output {output.name!r} is {format_shape(before)}, with the batch on axis {output.axis}; "
            f"in the graph it is {format_shape(after)}."
        )
    if output.axis is None:
        yield (
            f"The output {output.name!r} has no batch axis; in the graph it is "
            f"{format_shape((1, *tensor.shape))}, an axis for the batch of 1 added."
        )


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _find_batch_axes(
    returned: Sequence[ReturnedValue], rows: int, run: RunNetwork, batch: BatchRange
) -> list[int | None]:
    """For each value the first axis whose size is that of the batch, at this batch and at another; None where there is
    none.
    """
    if all(one.tensor is None or _is_axis(one.tensor, 0, rows) for one in returned):
        others = returned
        more = rows
    else:
        more = rows + 1 if batch.static or rows < batch.maximum else batch.minimum
        try:
            others = list(iterate_values(run(more, 1)[1]))
        except Exception:  # a network that takes one batch size only
            others, more = returned, rows
        if len(others) != len(returned):
            others, more = returned, rows
    axes: list[int | None] = []
    for one, other in zip(returned, others, strict=True):
        sizes = range(one.tensor.ndim if one.tensor is not None and other.tensor is not None else 0)
        fitting = [axis for axis in sizes if _is_axis(one.tensor, axis, rows) and _is_axis(other.tensor, axis, more)]
        if not fitting and batch.static:  # it may treat its batch as a number
            fitting = [axis for axis in sizes if _is_axis(one.tensor, axis, rows)]
        axes.append(fitting[0] if fitting else None)
    return axes


def _is_axis(tensor: Tensor | None, axis: int, size: int) -> bool:
    return tensor is not None and tensor.ndim > axis and tensor.shape[axis] == size


def _require_batch_axis(
    model: str, output: PlannedOutput, tensor: Tensor, rows: int, run: RunNetwork, batch: BatchRange
) -> None:
    """Raise InputError for an output without a row for each sample, except where the batch is 1."""
    if output.axis is not None or (batch.static and batch.optimum == 1):
        return
    alone = _run_alone(output.position, run)
    remedy = "Return one row for each sample, or leave it out of what forward() returns"
    if alone is not None:
        remedy += "; --batch 1 exports it for single samples"
    raise InputError(
        f"The output {output.name!r} of {model} has no row for each sample: it is {format_shape(tensor.shape)} for "
        f"{rows} samples.",
        f"{remedy}.",
    )


def _run_alone(position: int, run: RunNetwork) -> Tensor | None:
    """The output for one sample; None where the network does not take one."""
    try:
        return list(iterate_values(run(1, 0)[1]))[position].tensor
    except Exception:  # a user's code raises whatever it likes
        return None
