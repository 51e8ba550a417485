"""Where Q/DQ pairs go: the places that keep TensorRT's fusions intact, one rule per function.

    layers    Conv, ConvTranspose, Gemm and MatMul with constant weights: they will compute in INT8
    edges     node inputs that read a tensor through a Q/DQ pair; all edges of one tensor share its pair
    shared    tensors whose pairs get one scale, so that quantization commutes with the node between them

The rules depend on operators and connections, never on names, so they hold for any convolutional network. An excluded
layer stays in floating point; an excluded Concat keeps its branches' scales apart. Excluding nodes only removes edges,
so the ranges of the full placement's tensors serve any reduced one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from typing import Final

import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.core.graph_edit import has_single_use, is_constant
from deploykit.core.values import Edge, Placement

LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that INT8 kernels speed up: they do nearly all multiply-accumulates of a network."""

COMMUTING: Final = frozenset({"MaxPool", "Concat"})
"""Operators that select or arrange values: quantizing before or after them is the same with the same scale."""

ACTIVATIONS: Final = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"})
"""Operators that a runtime fuses into the layer before them."""

DENSE_FEATURE: Final = "dense feature"
"""The rule of a Concat's inputs in `find_dense_features`."""

DENSE_READER: Final = "dense feature's BatchNorm"
"""The rule of the BatchNorms that read one of them without a Concat."""

QUANTIZED_OPERATORS: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
    | {"MatMulInteger"}
)


def place_qdq_pairs(model: ir.Model, excluded: frozenset[str] = frozenset()) -> Placement:
    """Decide where the Q/DQ pairs of `model` go; `excluded` holds names of nodes.

    Raises InputError where there is nothing to quantize, and where the graph is quantized already.
    """
    nodes = list(model.graph)
    if any(node.op_type in QUANTIZED_OPERATORS for node in nodes):
        raise InputError("The graph is quantized already.", "Give the floating-point graph from which it was made.")
    all_layers = [node for node in nodes if is_layer(node)]
    layers = [node for node in all_layers if node.name not in excluded]
    if not layers:
        raise InputError(
            "The graph has no layer that INT8 could speed up: no Conv, ConvTranspose, Gemm or MatMul with constant "
            "FP32 weights" + (" besides the excluded ones." if excluded else "."),
            "Export it with --fp16.",
        )
    require_unique_names(nodes)
    edges = {*find_layer_inputs(layers)}
    quantized = frozenset(edge.tensor for edge in edges)
    edges |= {*find_dense_features(nodes, excluded)}
    for node in nodes:
        if node.op_type == "Add" and node.name not in excluded and not has_broadcast(node):
            edges |= {*find_residual_skip(node, frozenset(all_layers), frozenset(layers))}
            edges |= {*find_join_inputs(node, frozenset(all_layers), frozenset(layers), quantized)}
    shared = [frozenset(group) for group in group_dense_features(edges)]
    for node in reversed(nodes):
        if node.op_type in COMMUTING and node.name not in excluded and (inputs := find_commuting_inputs(node, edges)):
            edges |= inputs
            shared.append(frozenset({require_name(node.outputs[0]), *(edge.tensor for edge in inputs)}))
    return Placement(
        layers=tuple(require_name(node) for node in layers),
        edges=tuple(sorted(edges, key=lambda edge: (edge.node, edge.position))),
        shared=merge_groups(shared),
    )


def is_layer(node: ir.Node) -> bool:
    """Whether the node only multiplies one computed tensor by constant FP32 weights."""
    if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return False
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or is_constant(data):
        return False
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return False
    if node.op_type == "Gemm":  # runtimes fuse a scaled or transposed product differently
        scaled = node.attributes.get_float("alpha", 1.0) != 1 or node.attributes.get_float("beta", 1.0) != 1
        return not scaled and not node.attributes.get_int("transA", 0)
    if node.op_type == "ConvTranspose":  # weight: (in_channels, out_channels / groups, kH, kW)
        return node.attributes.get_int("group", 1) == 1  # with groups no axis counts the output channels
    return node.op_type != "MatMul" or len(tensor.shape) == 2


def find_layer_inputs(layers: list[ir.Node]) -> Iterator[Edge]:
    """Quantize the input of each layer, never its output.

    A pair between a Conv and its activation, or between a Conv and its Add, would split the fused kernel. The pair of
    the next layer's input quantizes the fused kernel's output.
    """
    return (make_edge(layer, 0, "layer input") for layer in layers)


def find_residual_skip(add: ir.Node, all_layers: frozenset[ir.Node], layers: frozenset[ir.Node]) -> Iterator[Edge]:
    """Quantize the skip of Conv + Add (+ ReLU): one kernel, which reads INT8 where the skip, and only it, has a pair.

    Where both inputs come from convolutions (a projection on the skip), the Add fuses with the deeper one. Depth counts
    `all_layers`, so that excluding some does not change the choice. Where the deeper one is not among `layers`, the
    Add stays in floating point.
    """
    fusable = [
        i for i, value in enumerate(add.inputs) if value is not None and is_fusable_output(value, all_layers, {"Conv"})
    ]
    if not fusable:
        return
    fused = max(fusable, key=lambda i: (count_layers_before(add.inputs[i], all_layers), -i))
    kernel, skip = add.inputs[fused], add.inputs[1 - fused]
    if kernel is not None and kernel.producer() in layers and skip is not None and not is_constant(skip):
        yield make_edge(add, 1 - fused, "residual skip")


def find_join_inputs(
    add: ir.Node, all_layers: frozenset[ir.Node], layers: frozenset[ir.Node], quantized: frozenset[str]
) -> Iterator[Edge]:
    """Quantize the branches of an Add after activations (FractalNet's joins, Darknet's skips).

    Such an Add fuses with no convolution. Branches that come from layers get a pair, so that these write INT8, and so
    does a skip among the `quantized` tensors, which layers read through a pair anyway. Other branches stay as they are:
    the same kernel adds them.
    """
    if any(is_fusable_output(value, all_layers, {"Conv"}) for value in add.inputs):
        return
    branches = [position for position, value in enumerate(add.inputs) if is_activated_layer_output(value, layers)]
    for position, value in enumerate(add.inputs):
        if position in branches or (branches and value is not None and value.name in quantized):
            yield make_edge(add, position, "join")


def find_dense_features(nodes: list[ir.Node], excluded: frozenset[str]) -> Iterator[Edge]:
    """Quantize the features of a dense block (DenseNet), which one Concat after another copies for a BatchNorm.

    No layer reads such a Concat directly: the pair of each layer stands behind its own BatchNorm and activation. So
    features without pairs travel in floating point, and a block of n layers copies each up to n times. With pairs, of
    one scale per block, convolutions write INT8 and copies move a quarter of the bytes (a tenth of densenet121's
    latency in OpenVINO). A BatchNorm that reads a feature reads it through the same pair, or it would be stored twice.

    It rounds values that are rounded again behind the BatchNorm. So a Concat that shares no input with another one,
    where only one copy would be cheaper, gets no pairs.
    """
    concats = [node for node in nodes if is_dense_concat(node)]
    counts = Counter(value for node in concats for value in {*node.inputs})
    features: set[ir.Value] = set()
    for node in concats:
        if node.name not in excluded and any(counts[value] > 1 for value in node.inputs):
            yield from (make_edge(node, position, DENSE_FEATURE) for position in range(len(node.inputs)))
            features.update(value for value in node.inputs if value is not None)
    for node in nodes:
        if node.op_type == "BatchNormalization" and node.inputs[0] in features:
            yield make_edge(node, 0, DENSE_READER)


def list_dense_blocks(nodes: list[ir.Node], placement: Placement) -> tuple[tuple[str, ...], ...]:
    """The Concats of each dense block with quantized features, in the graph's order. Excluding them leaves the block's
    features in floating point.
    """
    blocks = {tensor: block for block, group in enumerate(placement.shared) for tensor in group}
    block_of = {edge.node: blocks[edge.tensor] for edge in placement.edges if edge.rule == DENSE_FEATURE}
    concats: dict[int, list[str]] = {}
    for node in nodes:
        if node.name in block_of:
            concats.setdefault(block_of[node.name], []).append(node.name)
    return tuple(map(tuple, concats.values()))


def is_dense_concat(node: ir.Node) -> bool:
    """Whether the node is a Concat of computed tensors that only BatchNorms read."""
    if node.op_type != "Concat" or any(value is None or is_constant(value) for value in node.inputs):
        return False
    readers = [use.node.op_type for use in node.outputs[0].uses()]
    return not node.outputs[0].is_graph_output() and {*readers} == {"BatchNormalization"}


def group_dense_features(edges: Set[Edge]) -> list[set[str]]:
    """The features that each Concat joins."""
    groups: dict[str, set[str]] = {}
    for edge in edges:
        if edge.rule == DENSE_FEATURE:
            groups.setdefault(edge.node, set()).add(edge.tensor)
    return list(groups.values())


def find_commuting_inputs(node: ir.Node, edges: set[Edge]) -> set[Edge]:
    """Quantize the inputs of a MaxPool or Concat with the output's scale, where all readers of the output quantize it.

    The pair after the node then repeats the ones before it, and runtimes drop it. Unequal scales would leave a
    requantizing kernel at each branch.
    """
    output = node.outputs[0]
    readers = [(use.node, use.idx) for use in output.uses()]
    quantized = {(e.node, e.position) for e in edges if e.tensor == output.name}
    if output.is_graph_output() or not readers or any((n.name, i) not in quantized for n, i in readers):
        return set()
    if any(value is None or is_constant(value) for value in node.inputs):
        return set()
    rule = "concat branch" if node.op_type == "Concat" else "max pool"
    return {make_edge(node, position, rule) for position in range(len(node.inputs))}


def is_fusable_output(value: ir.Value | None, layers: frozenset[ir.Node], operators: Set[str] = LAYERS) -> bool:
    """Whether a layer writes the tensor for a single reader, which may then fuse with the layer."""
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer not in layers or producer.op_type not in operators:
        return False
    return has_single_use(value)


def is_activated_layer_output(value: ir.Value | None, layers: frozenset[ir.Node]) -> bool:
    """Whether the tensor is the output of a layer and its activation."""
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type in ACTIVATIONS and is_fusable_output(producer.inputs[0], layers)


def has_broadcast(add: ir.Node) -> bool:
    """Whether the graph shows that the inputs differ in shape: a bias, or one number per channel.

    No convolution kernel accepts those as a skip.
    """
    first, second = (None if value is None else value.shape for value in add.inputs)
    if first is None or second is None:
        return False
    return len(first) != len(second) or any((a == 1) != (b == 1) for a, b in zip(first, second, strict=True))


def count_layers_before(value: ir.Value | None, layers: frozenset[ir.Node]) -> int:
    """Number of layers on the longest path from the network's input to `value`."""
    depths: dict[ir.Value, int] = {}
    pending = [] if value is None else [value]
    while pending:
        producer = pending[-1].producer()
        sources = [] if producer is None else [source for source in producer.inputs if source is not None]
        if missing := [source for source in sources if source not in depths]:
            pending += missing
            continue
        depths[pending.pop()] = max((depths[source] for source in sources), default=0) + (producer in layers)
    return 0 if value is None else depths[value]


def merge_groups(groups: list[frozenset[str]]) -> tuple[tuple[str, ...], ...]:
    """Unite the groups that have a member in common."""
    merged: list[frozenset[str]] = []
    for group in groups:
        overlapping = [other for other in merged if other & group]
        merged = [other for other in merged if not other & group]
        merged.append(group.union(*overlapping))
    return tuple(sorted(tuple(sorted(group)) for group in merged))


def require_unique_names(nodes: list[ir.Node]) -> None:
    """Refuse a graph in which two nodes have one name: a placement refers to nodes by name."""
    names: set[str] = set()
    for name in (node.name for node in nodes if node.name):
        if name in names:
            raise InputError(f"The graph has two nodes with the name {name}.", "Export it with deploykit.")
        names.add(name)


def make_edge(node: ir.Node, position: int, rule: str) -> Edge:
    """The edge of a node's input, with the rule that selected it."""
    value = node.inputs[position]
    assert value is not None
    return Edge(require_name(value), require_name(node), position, rule)


def require_name(item: ir.Node | ir.Value) -> str:
    """The name of a node or tensor; InputError where it has none."""
    if not item.name:
        raise InputError("The graph has a node or tensor without a name.", "Export it with deploykit.")
    return item.name
