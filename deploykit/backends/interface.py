"""A graph's inputs and outputs as TensorSpec values, the same for every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from deploykit.core.errors import InputError
from deploykit.core.values import DType, TensorSpec, layout_of

if TYPE_CHECKING:
    import onnx_ir as ir

SUPPORTED_DTYPES: Final[tuple[str, ...]] = get_args(DType)
"""Types of inputs and outputs."""


def tensor_spec(name: str, dtype: str, shape: tuple[int | str, ...]) -> TensorSpec:
    """The spec of one input or output; four-axis uint8 is decoded images, N×H×W×3. InputError for other types."""
    if dtype not in SUPPORTED_DTYPES:
        raise InputError(
            f"The graph's tensor {name} has the unsupported type {dtype}.",
            f"Export it with one of {', '.join(SUPPORTED_DTYPES)}.",
        )
    return TensorSpec(name, dtype, shape, layout_of(shape, dtype))  # type: ignore[arg-type]


def read_interface(graph: ir.Graph) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the file declares them, for libraries that drop the names of dynamic axes."""
    inputs = (value for value in graph.inputs if value.name not in graph.initializers)
    return tuple(map(_declared_spec, inputs)), tuple(map(_declared_spec, graph.outputs))


def _declared_spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None or not value.name:
        raise InputError(f"The graph declares no type or shape for {value.name}.", "Export it with deploykit.")
    shape = tuple(size if isinstance(size, int) else str(size.value or "batch") for size in value.shape)
    dtype = {"FLOAT": "float32"}.get(value.dtype.name, value.dtype.name.lower())
    return tensor_spec(value.name, dtype, shape)


def tensor_types(graph: ir.Graph) -> set[ir.DataType | None]:
    """All tensor types in the graph, including the targets of Cast nodes whose outputs have no declared type."""
    import onnx_ir as ir

    values = (*graph.initializers.values(), *(output for node in graph for output in node.outputs))
    casts = (node.attributes.get_int("to") for node in graph if node.op_type == "Cast")
    return {*(value.dtype for value in values), *map(ir.DataType, casts)}
