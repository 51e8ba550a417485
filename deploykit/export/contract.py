"""What every exported graph guarantees, checked on the graph itself.

`check_invariants` is cheap and runs after every pass; `check_contract` runs once, before the graph is saved. A
violation is a fault of deploykit: it raises InternalError, with the name of the pass, instead of saving a wrong graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import onnx_ir as ir

from deploykit.core.errors import InternalError
from deploykit.core.onnx_io import REMEDY
from deploykit.core.values import BatchRange, DType, TensorSpec, layout_of

FORBIDDEN_OPERATORS = frozenset(
    {"Dropout", "Identity", "Constant", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
)
"""Operators that an eval-mode graph must not contain: training, random numbers, and nodes that do nothing."""


class Contract(NamedTuple):
    """What the graph must satisfy besides the rules that hold for every graph."""

    opset: int
    batch: BatchRange
    training_only: tuple[str, ...]
    parameter_bytes: int
    """Bytes of the eval-mode parameters and buffers of the traced module: about what the initializers may hold."""


def graph_interface(model: ir.Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and the outputs of the graph, as an application sees them."""
    return tuple(map(_tensor_spec, model.graph.inputs)), tuple(map(_tensor_spec, model.graph.outputs))


def check_invariants(
    model: ir.Model, before: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]], after: str
) -> None:
    """Raise InternalError if the pass `after` changed the interface, or if a value is read before it is defined."""
    if graph_interface(model) != before:
        raise InternalError(f"The pass {after} changed the graph's interface from {before}.", REMEDY)
    defined = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value not in defined:
                raise InternalError(f"After {after}, {node.name} reads {value.name} before it is defined.", REMEDY)
        defined.update(node.outputs)
    for output in model.graph.outputs:
        if output not in defined:
            raise InternalError(f"After {after}, nothing defines the output {output.name}.", REMEDY)


def check_contract(model: ir.Model, contract: Contract) -> None:
    """Raise InternalError with all violations of the contract."""
    violations = [
        *_operator_violations(model),
        *_name_violations(model),
        *_unread_violations(model),
        *_parameter_violations(model, contract),
    ]
    violations += [*_opset_violations(model, contract), *_shape_violations(model, contract)]
    if violations:
        raise InternalError("The exported graph breaks its contract: " + "; ".join(violations) + ".", REMEDY)


def _operator_violations(model: ir.Model) -> Iterable[str]:
    for node in model.graph:
        if node.op_type in FORBIDDEN_OPERATORS:
            yield f"{node.name} is a {node.op_type}"
        if node.op_type == "BatchNormalization" and _is_training(node):
            yield f"{node.name} is in training mode"
        if node.domain not in {"", "ai.onnx"}:
            yield f"{node.name} is {node.domain}::{node.op_type}, outside the standard operators"


def _is_training(node: ir.Node) -> bool:
    mode = node.attributes.get("training_mode")
    return mode is not None and mode.as_int() == 1


def _name_violations(model: ir.Model) -> Iterable[str]:
    nodes = [node.name for node in model.graph]
    if len(set(nodes)) != len(nodes) or not all(nodes):
        yield "node names are not unique"


def _unread_violations(model: ir.Model) -> Iterable[str]:
    for node in model.graph:
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            yield f"nothing reads {node.name}"
    for name, value in model.graph.initializers.items():
        if not value.uses():
            yield f"nothing reads the weight {name}"


def _parameter_violations(model: ir.Model, contract: Contract) -> Iterable[str]:
    for name in model.graph.initializers:
        if any(name.startswith(path + ".") for path in contract.training_only):
            yield f"{name} belongs to a training-only part"
    held_bytes = initializer_bytes(model)
    if held_bytes - contract.parameter_bytes > max(SHAPE_BYTES, FOLDED_SHARE * contract.parameter_bytes):
        yield f"initializers hold {held_bytes} bytes, the module's eval-mode state {contract.parameter_bytes}"


SHAPE_BYTES = 2**16
"""Bytes that shapes, axes, indices and preprocessing constants may add to those of the parameters."""

FOLDED_SHARE = 0.05
"""Share of the parameter bytes that may be added instead, where that is more: a constant computed from parameters can
be larger than they are (a transformer's position table, written out for each pair). A large weight that is stored twice
still exceeds it.
"""


def initializer_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers of the graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _opset_violations(model: ir.Model, contract: Contract) -> Iterable[str]:
    if model.opset_imports.get("") != contract.opset:
        yield f"the opset is {dict(model.opset_imports)}, not {contract.opset}"


def _shape_violations(model: ir.Model, contract: Contract) -> Iterable[str]:
    expected = contract.batch.optimum if contract.batch.static else "batch"
    for spec in (*graph_interface(model)[0], *graph_interface(model)[1]):
        if spec.shape[0] != expected or not all(isinstance(size, int) for size in spec.shape[1:]):
            yield f"{spec.name} has shape {spec.shape}, not ({expected}, sizes)"


_DTYPES: dict[ir.DataType | None, DType] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.UINT8: "uint8",
    ir.DataType.INT8: "int8",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int64",
}


def _tensor_spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype not in _DTYPES:
        raise InternalError(f"The graph's {value.name} has type {value.dtype} and shape {value.shape}.", REMEDY)
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    dtype = _DTYPES[value.dtype]
    return TensorSpec(value.name or "", dtype, shape, layout_of(shape, dtype))
