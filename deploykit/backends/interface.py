"""A graph's inputs and outputs as values, said alike by every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from deploykit.core.errors import InputError
from deploykit.core.values import DType, TensorSpec, layout_of

if TYPE_CHECKING:
    import onnx_ir as ir

SERVED: Final[tuple[str, ...]] = get_args(DType)
"""What crosses the border."""


def tensor_spec(name: str, dtype: str, shape: tuple[int | str, ...]) -> TensorSpec:
    """One input or output; uint8 of four axes is decoded images, N×H×W×3. InputError for a type that is not served."""
    if dtype not in SERVED:
        raise InputError(f"The graph's {name} is a {dtype}.", f"Served are {', '.join(SERVED)}.")
    return TensorSpec(name, dtype, shape, layout_of(shape, dtype))  # type: ignore[arg-type]


def interface(graph: ir.Graph) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the file declares them, for libraries that forget the names of its free axes."""
    inputs = (value for value in graph.inputs if value.name not in graph.initializers)
    return tuple(map(_declared, inputs)), tuple(map(_declared, graph.outputs))


def _declared(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None or not value.name:
        raise InputError(f"The graph does not say the type or shape of its {value.name}.", "Export it with deploykit.")
    shape = tuple(size if isinstance(size, int) else str(size.value or "batch") for size in value.shape)
    dtype = {"FLOAT": "float32"}.get(value.dtype.name, value.dtype.name.lower())
    return tensor_spec(value.name, dtype, shape)


def types_inside(graph: ir.Graph) -> set[ir.DataType | None]:
    """The types that tensors of the graph have; where the file declares none behind a Cast, what that casts to."""
    import onnx_ir as ir

    values = (*graph.initializers.values(), *(output for node in graph for output in node.outputs))
    casts = (node.attributes.get_int("to") for node in graph if node.op_type == "Cast")
    return {*(value.dtype for value in values), *map(ir.DataType, casts)}
