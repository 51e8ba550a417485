"""Repairs ONNX files in what does not change the values that they compute, so that ONNX Runtime loads them.

two nodes of one name        numbered
an output listed twice       once
bool, float64 outputs        a Cast to int32, float32: types that every engine returns
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from deploykit.export.networks.onnx_outputs import append_node, rename_tensor

if TYPE_CHECKING:
    import onnx

CASTS: Final = {9: (6, "bool", "int32"), 11: (1, "float64", "float32"), 5: (6, "int16", "int32"),
                4: (6, "uint16", "int32"), 12: (7, "uint32", "int64")}  # fmt: skip
"""Types of outputs that not every engine returns, by their number in TensorProto, and the types they are cast to."""


INPUT_CASTS: Final = {9: (6, "bool", "int32"), 11: (1, "float64", "float32")}
"""Types of inputs that not every engine takes, and the types that they are cast from."""


def needs_repair(graph: onnx.GraphProto) -> bool:
    """Whether `repair_model` would change the graph."""
    outputs = [value.name for value in graph.output]
    repeated = len(set(outputs)) < len(outputs) or bool(_repeated_names(graph))
    inputs = any(value.type.tensor_type.elem_type in INPUT_CASTS for value in graph.input)
    return repeated or inputs or any(value.type.tensor_type.elem_type in CASTS for value in graph.output)


def repair_model(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Repair the model in place; returns notes about changed outputs, as sentences."""
    _number_nodes(proto.graph)
    return (*_drop_repeated_outputs(proto.graph), *_cast_inputs(proto), *_cast_outputs(proto))


def _repeated_names(graph: onnx.GraphProto) -> set[str]:
    counts = Counter(node.name for node in graph.node if node.name)
    return {name for name, count in counts.items() if count > 1}


def _number_nodes(graph: onnx.GraphProto) -> None:
    repeated, taken = _repeated_names(graph), {node.name for node in graph.node}
    for node in graph.node:
        if node.name not in repeated:
            continue
        number, base = 0, node.name
        while node.name in taken:
            number += 1
            node.name = f"{base}_{number}"
        taken.add(node.name)


def _drop_repeated_outputs(graph: onnx.GraphProto) -> list[str]:
    first = {value.name: value for value in reversed(graph.output)}
    repeated = len(graph.output) - len(first)
    if not repeated:
        return []
    kept = list(dict.fromkeys(value.name for value in graph.output))
    names = [value.name for value in graph.output]
    outputs = [first[name] for name in kept]
    del graph.output[:]
    graph.output.extend(outputs)
    return [
        f"The output {name!r} is listed {names.count(name)} times in the file, and once in the graph."
        for name in kept
        if names.count(name) > 1
    ]


def _cast_inputs(proto: onnx.ModelProto) -> list[str]:
    from onnx import helper

    notes, weights = [], {initializer.name for initializer in proto.graph.initializer}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        if kind.elem_type not in INPUT_CASTS or value.name in weights:
            continue
        number, before, after = INPUT_CASTS[kind.elem_type]
        inside = rename_tensor(proto, value.name)
        cast = helper.make_node("Cast", [value.name], [inside], name=f"{value.name}/Cast", to=kind.elem_type)
        proto.graph.node.insert(0, cast)
        kind.elem_type = number
        notes.append(f"The input {value.name!r} is {before}; in the graph it is {after}.")
    return notes


def _cast_outputs(proto: onnx.ModelProto) -> list[str]:
    notes = []
    for value in proto.graph.output:
        kind = value.type.tensor_type
        if kind.elem_type not in CASTS:
            continue
        number, before, after = CASTS[kind.elem_type]
        append_node(proto, "Cast", [rename_tensor(proto, value.name)], value.name, to=number)
        kind.elem_type = number
        notes.append(f"The output {value.name!r} is {before}, and is cast to {after}.")
    return notes
