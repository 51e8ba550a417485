"""Computes at export what does not depend on the input.

    (W − mean(W)) / std(W)     →  initializer of the shape of W, whatever its size: a weight that INT8 can quantize
    Expand(1, [C, C, H, W])    →  unchanged where it is large and no product reads it: the file would only grow
    Concat(Shape(x)[0], 512)   →  unchanged: it depends on the batch

onnxscript evaluates the nodes, and onnx-ir turns Constant nodes into initializers: then a graph has one kind of
constant. onnxscript leaves nodes that read more than 8,192 elements, and nodes with several outputs
(BatchNormalization over a weight, Split): which nodes are folded is decided here, and the latter are evaluated here.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.graph_edit import add_initializer, drop_unused_initializers, is_constant, read_constant
from deploykit.core.values import Rewrite
from deploykit.export.contract import initializer_bytes
from deploykit.export.passes import infer_shapes

SMALL: Final = 512 * 512
"""Elements up to which a result is stored even where it is larger than what it is computed from."""

WEIGHT_READERS: Final = frozenset(
    {"Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "BatchNormalization"}
)
"""Operators whose constants are weights: those are computed whatever their size."""

NEVER_FOLDED: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
    | {"RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Multinomial", "Bernoulli"}
)
"""Operators that carry a file's own quantization, or random numbers."""


def apply(model: ir.Model) -> Rewrite:
    """Fold constants, remove the nodes that become unused, and count the removed nodes. None is skipped."""
    before, bytes_before = len(model.graph), initializer_bytes(model)
    infer_shapes.apply(model)  # sizes decide what is folded
    while True:
        _fold_single_outputs(model)
        if not _fold_several_outputs(model):
            break
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    added = max(0, initializer_bytes(model) - bytes_before)
    return Rewrite("fold_constants", before - len(model.graph), added_bytes=added)


def _fold_single_outputs(model: ir.Model) -> None:
    from onnxscript.optimizer import fold_constants  # not needed to read or run graphs

    foldable, constant = find_foldable(model.graph)

    def decide(node: ir.Node) -> bool | None:
        """None lets onnxscript's own rules decide: about nodes of branches, and of shapes of the input."""
        return node in foldable and len(node.outputs) == 1 if node in constant else None

    fold_constants(model, output_size_limit=2**63, should_fold=decide)


def _fold_several_outputs(model: ir.Model) -> int:
    """Replace the foldable nodes with several outputs by initializers; returns how many."""
    graph, folded = model.graph, 0
    foldable, _ = find_foldable(graph)
    for node in [node for node in graph if node in foldable and len(node.outputs) > 1]:
        inputs = {f"x{i}": array for i, value in enumerate(node.inputs) if (array := read_constant(value)) is not None}
        unknown = len(inputs) < sum(value is not None for value in node.inputs)  # an input was not folded after all
        if unknown or any(output.is_graph_output() for output in node.outputs):
            continue
        try:
            arrays = _evaluate(node, inputs, model.opset_imports[""])
        except Exception:  # the evaluator raises whatever its operators raise; it lacks some, and then the node stays
            continue
        for output, array in zip(node.outputs, arrays, strict=True):
            output.replace_all_uses_with(add_initializer(graph, output.name or "", array))
        graph.remove(node, safe=True)
        folded += 1
    drop_unused_initializers(graph)
    return folded


def _evaluate(node: ir.Node, inputs: dict[str, np.ndarray], opset: int) -> list[np.ndarray]:
    """The node's outputs in onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator  # not needed to read or run graphs

    reads = [ir.Value(name=f"x{i}") if value is not None else None for i, value in enumerate(node.inputs)]
    copy = ir.node(node.op_type, reads, node.attributes, num_outputs=len(node.outputs))
    for i, output in enumerate(copy.outputs):
        output.name = f"y{i}"
    for value in reads:
        if value is not None:
            array = inputs[value.name or ""]
            value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
    graph = ir.Graph([value for value in reads if value is not None], copy.outputs, nodes=[copy], name="constant")
    graph.opset_imports[""] = opset
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    return [np.asarray(array) for array in ReferenceEvaluator(proto).run(None, inputs)]


def find_foldable(graph: ir.Graph) -> tuple[frozenset[ir.Node], frozenset[ir.Node]]:
    """The nodes to fold, and all nodes that do not depend on the input.

    A node is folded if its result leads to a weight, is no larger than the constants it is computed from, or is
    `SMALL`, or if the result of a node that reads it is folded. So an Expand is computed on the way to a weight, and
    remains where a tensor would merely be broadcast to it.
    """
    roots: dict[ir.Node, frozenset[ir.Value]] = {}
    for node in graph:
        if (sources := _constant_sources(node, roots)) is not None:
            roots[node] = sources
    foldable: set[ir.Node] = set()
    for node in reversed(list(roots)):
        readers = {use.node for output in node.outputs for use in output.uses()}
        needed = any(reader in foldable or reader.op_type in WEIGHT_READERS for reader in readers)
        if needed or _result_elements(node) <= max(SMALL, sum(map(_elements, roots[node]))):
            foldable.add(node)
    return frozenset(foldable), frozenset(roots)


def _constant_sources(node: ir.Node, roots: dict[ir.Node, frozenset[ir.Value]]) -> frozenset[ir.Value] | None:
    """The constants from which the node is computed; None where it depends on the input, or is never folded."""
    has_branches = any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    )
    if node.domain not in ("", "ai.onnx") or node.op_type in NEVER_FOLDED or has_branches or node.op_type == "Constant":
        return None
    sources: frozenset[ir.Value] = frozenset()
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None and producer in roots:
            sources |= roots[producer]
        elif value is not None and is_constant(value) and not value.is_graph_input():
            sources |= {value}
        elif value is not None:
            return None
    return sources


def _elements(value: ir.Value) -> int:
    tensor = ir.convenience.get_const_tensor(value)
    return 0 if tensor is None else tensor.size


def _result_elements(node: ir.Node) -> float:
    """The elements of the outputs; infinite where a size is unknown."""
    return sum(_value_elements(output) for output in node.outputs)


def _value_elements(value: ir.Value) -> float:
    if value.shape is None or not value.shape.is_static():
        return math.inf
    return math.prod(value.shape.numpy())
