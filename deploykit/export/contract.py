"""What every export guarantees, checked on the graph itself.

`unbroken` holds after every pass and is cheap; `guarantee` holds for what leaves the stage. A promise that is broken
is our fault and raises InternalError with the name of the pass, never a graph that is almost right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import onnx_ir as ir

from deploykit.core.errors import InternalError
from deploykit.core.onnx_io import REMEDY
from deploykit.core.values import BatchRange, DType, TensorSpec, layout_of

STRIPPED = frozenset(
    {"Dropout", "Identity", "Constant", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
)
"""Operators that an eval-mode export never holds: training, chance, and nodes that do nothing."""


class Promise(NamedTuple):
    """What the caller knows that the graph must show."""

    opset: int
    batch: BatchRange
    training_only: tuple[str, ...]
    parameter_bytes: int
    """Upper bound of the initializers: the eval-mode parameters and buffers of the module that was traced."""


def interface(model: ir.Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as an application sees them."""
    return tuple(map(_spec, model.graph.inputs)), tuple(map(_spec, model.graph.outputs))


def unbroken(model: ir.Model, before: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]], after: str) -> None:
    """The interface is what it was, and every value is defined before it is read."""
    if interface(model) != before:
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


def guarantee(model: ir.Model, promise: Promise) -> None:
    """Raise InternalError with every promise that the graph does not keep."""
    broken = [*_operators(model), *_names(model), *_liveness(model), *_parameters(model, promise)]
    broken += [*_versions(model, promise), *_shapes(model, promise)]
    if broken:
        raise InternalError("The exported graph breaks its contract: " + "; ".join(broken) + ".", REMEDY)


def _operators(model: ir.Model) -> Iterable[str]:
    for node in model.graph:
        if node.op_type in STRIPPED:
            yield f"{node.name} is a {node.op_type}"
        if node.op_type == "BatchNormalization" and _training(node):
            yield f"{node.name} is in training mode"
        if node.domain not in {"", "ai.onnx"}:
            yield f"{node.name} is {node.domain}::{node.op_type}, outside the standard operators"


def _training(node: ir.Node) -> bool:
    mode = node.attributes.get("training_mode")
    return mode is not None and mode.as_int() == 1


def _names(model: ir.Model) -> Iterable[str]:
    nodes = [node.name for node in model.graph]
    if len(set(nodes)) != len(nodes) or not all(nodes):
        yield "node names are not unique"


def _liveness(model: ir.Model) -> Iterable[str]:
    for node in model.graph:
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            yield f"nothing reads {node.name}"
    for name, value in model.graph.initializers.items():
        if not value.uses():
            yield f"nothing reads the weight {name}"


def _parameters(model: ir.Model, promise: Promise) -> Iterable[str]:
    for name in model.graph.initializers:
        if any(name.startswith(path + ".") for path in promise.training_only):
            yield f"{name} belongs to a training-only part"
    held = initializer_bytes(model)
    if held - promise.parameter_bytes > max(SHAPE_BYTES, FOLDED * promise.parameter_bytes):
        yield f"initializers hold {held} bytes, the module's eval-mode state {promise.parameter_bytes}"


SHAPE_BYTES = 2**16
"""What shapes, axes, indices and preprocessing constants may add to the parameters' own bytes."""

FOLDED = 0.05
"""Or so much of these, where that is more: what is computed from parameters once and for all may be larger than they
are. A transformer's table of positions is written out for each pair of them. A large weight that is held twice shows.
"""


def initializer_bytes(model: ir.Model) -> int:
    """Bytes of all constants in the graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _versions(model: ir.Model, promise: Promise) -> Iterable[str]:
    if model.opset_imports.get("") != promise.opset:
        yield f"the opset is {dict(model.opset_imports)}, not {promise.opset}"


def _shapes(model: ir.Model, promise: Promise) -> Iterable[str]:
    expected = promise.batch.optimum if promise.batch.static else "batch"
    for spec in (*interface(model)[0], *interface(model)[1]):
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


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype not in _DTYPES:
        raise InternalError(f"The graph's {value.name} has type {value.dtype} and shape {value.shape}.", REMEDY)
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    dtype = _DTYPES[value.dtype]
    return TensorSpec(value.name or "", dtype, shape, layout_of(shape, dtype))
