"""Where Q/DQ pairs go: the places at which TensorRT's fusions survive, one rule per function.

    layers    Conv, ConvTranspose, Gemm and MatMul with constant weights: they will compute in INT8
    edges     the inputs of nodes that read a tensor through a Q/DQ pair; all edges of one tensor share its pair
    shared    tensors whose pairs get one scale, so that quantization commutes with the node between them

The rules look at operators and at who reads whom, never at names: they hold for any convolutional network. A node that
is excluded takes no part: a layer stays in floating point, a Concat keeps its branches' scales apart. Excluding only
ever takes edges away, so that the ranges of the whole placement's tensors serve every part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Final

import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.core.values import Edge, Placement

LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with an INT8 kernel worth having: nearly all multiply-accumulates of a network are theirs."""

COMMUTING: Final = frozenset({"MaxPool", "Concat"})
"""Operators that select or arrange values: quantizing before or behind them is the same, if the scale is."""

ACTIVATIONS: Final = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"})
"""What a runtime fuses into the layer before it."""

QUANTIZED: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
    | {"MatMulInteger"}
)


def place(model: ir.Model, excluded: frozenset[str] = frozenset()) -> Placement:
    """Decide for the graph of `model`; `excluded` are names of nodes.

    Raises InputError where there is nothing to quantize, and where the graph is quantized already.
    """
    nodes = list(model.graph)
    if any(node.op_type in QUANTIZED for node in nodes):
        raise InputError(
            "The graph holds quantized nodes already.", "Give the floating-point graph that it was made from."
        )
    every = [node for node in nodes if is_layer(node)]
    layers = [node for node in every if node.name not in excluded]
    if not layers:
        raise InputError(
            "The graph has no layer that INT8 could speed up: no Conv, ConvTranspose, Gemm or MatMul with constant "
            "FP32 weights" + (", but for those that were kept out." if excluded else "."),
            "Export it with --fp16.",
        )
    require_names(nodes)
    edges = {*layer_inputs(layers)}
    read = frozenset(each.tensor for each in edges)
    for node in nodes:
        if node.op_type == "Add" and node.name not in excluded and not broadcasts(node):
            edges |= {*residual_skip(node, frozenset(every), frozenset(layers))}
            edges |= {*join_inputs(node, frozenset(every), frozenset(layers), read)}
    shared = []
    for node in reversed(nodes):
        if node.op_type in COMMUTING and node.name not in excluded and (passed := commuting_inputs(node, edges)):
            edges |= passed
            shared.append(frozenset({named(node.outputs[0]), *(edge.tensor for edge in passed)}))
    return Placement(
        layers=tuple(named(node) for node in layers),
        edges=tuple(sorted(edges, key=lambda edge: (edge.node, edge.position))),
        shared=merged(shared),
    )


def is_layer(node: ir.Node) -> bool:
    """Whether the node multiplies one computed tensor by constant FP32 weights, and by nothing else."""
    if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return False
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or constant(data):
        return False
    held = ir.convenience.get_const_tensor(weight)
    if held is None or held.dtype != ir.DataType.FLOAT:
        return False
    if node.op_type == "Gemm":  # what a scaled or transposed product fuses into differs from runtime to runtime
        scaled = node.attributes.get_float("alpha", 1.0) != 1 or node.attributes.get_float("beta", 1.0) != 1
        return not scaled and not node.attributes.get_int("transA", 0)
    if node.op_type == "ConvTranspose":  # its weight has no axis that counts the output channels of several groups
        return node.attributes.get_int("group", 1) == 1
    return node.op_type != "MatMul" or len(held.shape) == 2


def layer_inputs(layers: list[ir.Node]) -> Iterator[Edge]:
    """Quantize what a layer reads, never what it writes: a pair between a Conv and its activation, or between a Conv
    and its Add, would cut the fused kernel in two. The reader's own pair quantizes the fused kernel's output.
    """
    return (edge(layer, 0, "layer input") for layer in layers)


def residual_skip(add: ir.Node, every: frozenset[ir.Node], layers: frozenset[ir.Node]) -> Iterator[Edge]:
    """Protects Conv + Add (+ ReLU), one kernel that reads the skip as INT8 where the skip has a pair, and only it.

    Where both inputs come from convolutions (a projection on the skip), the deeper one is fused with: of `every` layer,
    so that the choice stays when some are excluded. Where that one is not among `layers`, the Add stays in floating
    point.
    """
    fusable = [i for i, value in enumerate(add.inputs) if value is not None and ends_in(value, every, {"Conv"})]
    if not fusable:
        return
    fused = max(fusable, key=lambda i: (depth(add.inputs[i], every), -i))
    kernel, skip = add.inputs[fused], add.inputs[1 - fused]
    if kernel is not None and kernel.producer() in layers and skip is not None and not constant(skip):
        yield edge(add, 1 - fused, "residual skip")


def join_inputs(
    add: ir.Node, every: frozenset[ir.Node], layers: frozenset[ir.Node], read: frozenset[str]
) -> Iterator[Edge]:
    """An Add behind activations (FractalNet's joins, Darknet's skips) fuses with no convolution. Branches that come
    from layers get a pair, so that these write INT8, and with them a skip that layers `read` through a pair anyway; the
    sum of other branches is formed in the same kernel and stays as it is.
    """
    if any(ends_in(value, every, {"Conv"}) for value in add.inputs):
        return
    branches = [position for position, value in enumerate(add.inputs) if activated(value, layers)]
    for position, value in enumerate(add.inputs):
        if position in branches or (branches and value is not None and value.name in read):
            yield edge(add, position, "join")


def commuting_inputs(node: ir.Node, edges: set[Edge]) -> set[Edge]:
    """Protects MaxPool and Concat in INT8: where all that read the output read it quantized, the inputs are quantized
    with the output's scale. Then the pair behind the node repeats what was done before it, and runtimes drop it; with
    unequal scales a kernel that requantizes would be left at each branch.
    """
    output = node.outputs[0]
    readers = [(use.node, use.idx) for use in output.uses()]
    quantized = {(e.node, e.position) for e in edges if e.tensor == output.name}
    if output.is_graph_output() or not readers or any((n.name, i) not in quantized for n, i in readers):
        return set()
    if any(value is None or constant(value) for value in node.inputs):
        return set()
    rule = "concat branch" if node.op_type == "Concat" else "max pool"
    return {edge(node, position, rule) for position in range(len(node.inputs))}


def ends_in(value: ir.Value | None, layers: frozenset[ir.Node], operators: Set[str] = LAYERS) -> bool:
    """Whether a layer writes the tensor, and for one reader only: else it is written in full, and nothing fuses."""
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer not in layers or producer.op_type not in operators:
        return False
    return len(value.uses()) == 1 and not value.is_graph_output()


def activated(value: ir.Value | None, layers: frozenset[ir.Node]) -> bool:
    """Whether the tensor is a layer's output behind its activation."""
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type in ACTIVATIONS and ends_in(producer.inputs[0], layers)


def broadcasts(add: ir.Node) -> bool:
    """Whether the inputs differ in shape, as far as the graph knows: a bias, or one number per channel. No kernel of a
    convolution takes those for a skip.
    """
    first, second = (None if value is None else value.shape for value in add.inputs)
    if first is None or second is None:
        return False
    return len(first) != len(second) or any((a == 1) != (b == 1) for a, b in zip(first, second, strict=True))


def depth(value: ir.Value | None, layers: frozenset[ir.Node]) -> int:
    """Layers on the longest way from the network's input."""
    depths: dict[ir.Value, int] = {}
    pending = [] if value is None else [value]
    while pending:
        at = pending[-1]
        producer = at.producer()
        before = [] if producer is None else [each for each in producer.inputs if each is not None]
        if missing := [each for each in before if each not in depths]:
            pending += missing
            continue
        depths[pending.pop()] = max((depths[each] for each in before), default=0) + (producer in layers)
    return 0 if value is None else depths[value]


def merged(groups: list[frozenset[str]]) -> tuple[tuple[str, ...], ...]:
    """Groups with a member in common become one."""
    whole: list[frozenset[str]] = []
    for group in groups:
        touching = [each for each in whole if each & group]
        whole = [each for each in whole if not each & group]
        whole.append(group.union(*touching))
    return tuple(sorted(tuple(sorted(group)) for group in whole))


def require_names(nodes: list[ir.Node]) -> None:
    """A placement is told in names: refuse a name that two nodes have."""
    seen: set[str] = set()
    for name in (node.name for node in nodes if node.name):
        if name in seen:
            raise InputError(f"The graph has two nodes with the name {name}.", "Export it with deploykit.")
        seen.add(name)


def edge(node: ir.Node, position: int, rule: str) -> Edge:
    """An input of a node, with the rule that chose it."""
    value = node.inputs[position]
    assert value is not None
    return Edge(named(value), named(node), position, rule)


def constant(value: ir.Value) -> bool:
    """Whether the value is known before the network runs."""
    return ir.convenience.get_const_tensor(value) is not None


def named(thing: ir.Node | ir.Value) -> str:
    """Its name, which every exported node and tensor has."""
    if not thing.name:
        raise InputError("The graph has a node or tensor without a name.", "Export it with deploykit.")
    return thing.name
