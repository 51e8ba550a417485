"""FP16 as types in the graph: every node computes in float16 unless its values say otherwise.

    weights        rounded to float16 once, to nearest
    activations    float16 between float16 nodes; a Cast stands only where the precision changes
    inputs, outputs  float32, as in the graph that came in

A node stays float32, and is listed with the value that made it so, when a tensor it reads or writes left float16's
range (±65,504) on real samples, when a weight does not fit, or when its operator has no float16 form. Nothing is
clamped. What an operator allows is read from onnx's schema, so this holds for any graph, not for a list of operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from deploykit import onnxfile
from deploykit.errors import InputError
from deploykit.files import record
from deploykit.values import KeptNode, Ranges, TypedGraph

LARGEST = float(np.finfo(np.float16).max)
"""65504, the largest finite float16."""

ROUNDING = 2.0**-10
"""Relative error (Euclidean, per tensor) that rounding weights to float16 may cost. Rounding normal numbers costs at
most 2⁻¹¹; more means that the weights are so small that float16 only holds them as subnormals, or not at all."""

BRANCHES = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})

READS_ANY = frozenset({"Cast", "Shape", "Size"})
"""Operators that give the same answer whatever the type of their input, and so never need a Cast before them."""

Casts = dict[tuple[ir.Value, ir.DataType], ir.Value]
"""Values in another type, by what they were and what they are now."""

GRAPH_FILE = "model.onnx"


def cast(source: Path, ranges: Ranges, folder: Path) -> TypedGraph:
    """Write `source` typed FP16 into `folder`. `ranges` must know every float tensor that a node produces."""
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file beside the source stays there
    _absorb_statistics(model)
    kept = _kept(model, ranges)
    floating = [node for node in model.graph if _float_outputs(node)]
    if len(kept) == len(floating):
        raise InputError(
            f"No node of {source.name} can compute in FP16.",
            "Export it at FP32, or look at the values: deploykit inspect shows which tensors leave FP16's range.",
        )
    _retype(model, set(kept))
    folder.mkdir(parents=True, exist_ok=True)
    onnxfile.check(model)
    onnxfile.save(model, folder / GRAPH_FILE)
    casts = sum(1 for node in model.graph if node.op_type == "Cast")
    listed = tuple(kept.values())
    return TypedGraph(files=(record(folder, GRAPH_FILE),), precision="fp16", kept=listed, cast_nodes=casts)


def _absorb_statistics(model: ir.Model) -> None:
    """BatchNormalization that could not be folded: y = s·x + t with s and t from float64, so that float16 never holds
    a variance, whose small values it would round to nothing. Mean 0, variance 1 and ε 0 keep the operator.

    t is computed from s as float16 will hold it, so that the rounding of s turns around the channel's mean, where it
    does no harm, and not around 0.
    """
    for node in model.graph:
        weights = [ir.convenience.get_const_tensor(value) for value in node.inputs[1:5] if value is not None]
        if node.op_type != "BatchNormalization" or len(weights) != 4 or None in weights:
            continue
        gamma, beta, mean, variance = (tensor.numpy().astype(np.float64) for tensor in weights if tensor is not None)
        s = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        if _unfit(s) is None:
            s = s.astype(np.float16).astype(np.float64)
        settled = (s, beta - mean * s, np.zeros_like(mean), np.ones_like(variance))
        for position, array in enumerate(settled, start=1):
            name = f"{node.outputs[0].name}.{position}"
            node.replace_input_with(position, _initializer(node, array.astype(np.float32), name))
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
    _drop_unread(model)


def _kept(model: ir.Model, ranges: Ranges) -> dict[ir.Node, KeptNode]:
    """The nodes that must stay FP32, each with its reason."""
    kept = {}
    for node in model.graph:
        if _float_outputs(node) and (reason := _obstacle(node, ranges)) is not None:
            kept[node] = KeptNode(node.name or "", node.op_type, reason)
    return kept


def _obstacle(node: ir.Node, ranges: Ranges) -> str | None:
    if any(attribute.type in BRANCHES for attribute in node.attributes.values()):
        return "control flow keeps the types of its branches"
    if not any(_takes_half(node, position) for position in range(len(node.inputs))):
        return f"{node.op_type} has no float16 form here"
    for value in (*node.inputs, *_float_outputs(node)):
        if value is None or value.dtype != ir.DataType.FLOAT:
            continue
        if (tensor := ir.convenience.get_const_tensor(value)) is not None:
            if reason := _unfit(tensor.numpy()):
                return f"{value.name} {reason}"
        elif seen := ranges.tensors.get(value.name or ""):
            extreme = max(seen.low, seen.high, key=abs)
            if abs(extreme) > LARGEST:
                return f"{value.name} reached {extreme:.4g}, beyond ±{LARGEST:g}"
        elif not value.is_graph_input():
            return f"{value.name} was not observed on samples"
    return None


def _unfit(weight: np.ndarray) -> str | None:
    """Why a constant cannot be rounded to float16; None: it can."""
    largest = float(np.max(np.abs(weight), initial=0.0))
    if not largest <= LARGEST:
        return f"holds {largest:.4g}, beyond ±{LARGEST:g}"
    exact = weight.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    error = float(np.linalg.norm(exact - weight.astype(np.float16).astype(np.float64)))
    if error > ROUNDING * norm:
        return f"is too small for float16: rounding it would change it by {error / norm:.2%} (largest {largest:.3g})"
    return None


def _retype(model: ir.Model, kept: set[ir.Node]) -> None:
    """Give every node but the kept ones float16 inputs and outputs, with Casts at the borders."""
    casts: Casts = {}
    for node in list(model.graph):
        half = node not in kept and bool(_float_outputs(node))
        for reader in _readers(node):
            for position, value in enumerate(reader.inputs):
                if value is None or not _is_float(value):
                    continue
                wanted = ir.DataType.FLOAT16 if half and _takes_half(reader, position) else _declared(reader, value)
                if value.dtype != wanted:
                    reader.replace_input_with(position, _converted(node, value, wanted, casts))
        if half:
            for output in _half_outputs(node):
                output.type = ir.TensorType(ir.DataType.FLOAT16)
    for position, output in enumerate(list(model.graph.outputs)):
        if output.dtype == ir.DataType.FLOAT16:
            model.graph.outputs[position] = _restored(model, output, casts)
    _drop_unread(model)


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    """The node itself, and the nodes in its branches: they may read tensors from outside."""
    yield node
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from (inner for graph in attribute.as_graphs() for inner in graph.all_nodes())


def _declared(node: ir.Node, value: ir.Value) -> ir.DataType:
    """What a node that stays as it is reads: float32, except those that read anything."""
    return (value.dtype or ir.DataType.FLOAT) if node.op_type in READS_ANY else ir.DataType.FLOAT


def _converted(node: ir.Node, value: ir.Value, dtype: ir.DataType, casts: Casts) -> ir.Value:
    """`value` as `dtype`: a rounded copy of a weight, or the one Cast that all its readers share, before `node`."""
    if (value, dtype) not in casts:
        assert node.graph is not None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            casts[value, dtype] = _initializer(node, tensor.numpy().astype(dtype.numpy()), f"{value.name}")
        else:
            cast_node = _cast_node(value, dtype)
            node.graph.insert_before(node, cast_node)
            casts[value, dtype] = cast_node.outputs[0]
    return casts[value, dtype]


def _cast_node(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    name = f"{value.name}/{'half' if dtype == ir.DataType.FLOAT16 else 'float'}"
    node = ir.node("Cast", [value], {"to": dtype}, name=name)
    node.outputs[0].name = name
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), value.shape
    return node


def _restored(model: ir.Model, output: ir.Value, casts: Casts) -> ir.Value:
    """A float32 output under its old name, behind a Cast from the float16 tensor that now carries another one."""
    restored = casts.get((output, ir.DataType.FLOAT))
    if restored is None:  # no node reads it as float32
        node = _cast_node(output, ir.DataType.FLOAT)
        model.graph.append(node)
        restored = node.outputs[0]
    name, output.name = output.name, f"{output.name}/half"
    restored.name = name
    return restored


def _drop_unread(model: ir.Model) -> None:
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def _initializer(node: ir.Node, array: np.ndarray, name: str) -> ir.Value:
    """A weight of the graph that holds `node`, under `name` or, where that is taken, `name` with its type behind it."""
    assert node.graph is not None
    taken = node.graph.initializers
    free = name if name not in taken else f"{name}/{array.dtype.name}"
    tensor = ir.tensor(array, name=free)
    value = ir.Value(name=free, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    node.graph.register_initializer(value)
    return value


def _float_outputs(node: ir.Node) -> list[ir.Value]:
    return [output for output in node.outputs if _is_float(output) and output.dtype == ir.DataType.FLOAT]


def _is_float(value: ir.Value) -> bool:
    """Whether it is a tensor (no sequence of tensors) of float32 or float16."""
    return isinstance(value.type, ir.TensorType) and value.dtype in {ir.DataType.FLOAT, ir.DataType.FLOAT16}


def _half_outputs(node: ir.Node) -> list[ir.Value]:
    """The float outputs whose type follows an input that is now float16."""
    schema = _schema(node)
    halves = {_formal(schema.inputs, i).type_str for i in range(len(node.inputs)) if _takes_half(node, i)}
    outputs = enumerate(node.outputs)
    return [o for i, o in outputs if o.dtype == ir.DataType.FLOAT and _formal(schema.outputs, i).type_str in halves]


def _takes_half(node: ir.Node, position: int) -> bool:
    """Whether the operator's schema lets this float input be float16."""
    value = node.inputs[position]
    known = onnx.defs.has(node.op_type, node.domain)
    if value is None or not _is_float(value) or node.op_type == "Cast" or not known:
        return False
    schema = _schema(node)
    variable = _formal(schema.inputs, position).type_str
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return "tensor(float16)" in allowed.get(variable, ())


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], position: int) -> onnx.defs.OpSchema.FormalParameter:
    """The declaration of an actual input or output: the last one repeats for variadic operators such as Concat."""
    return formals[min(position, len(formals) - 1)]


def _schema(node: ir.Node) -> onnx.defs.OpSchema:
    assert node.graph is not None
    return onnx.defs.get_schema(node.op_type, node.graph.opset_imports[node.domain], node.domain)
